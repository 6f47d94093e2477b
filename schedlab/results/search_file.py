"""The result file of a search, `search.json`: what was run, how good and how dear it was, what
was picked.

Written by `schedlab.pipeline`, read by reports and exports on any machine (no torch). All
qualities carry 95 % intervals over sequences; all logarithms are natural.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schedlab.errors import InputError
from schedlab.files import FileRecord, Record
from schedlab.plan import ModelSchedule, PolicySpec
from schedlab.plan.guidance import Guidance
from schedlab.plan.plan import DEFAULT_SIMPLEX_VALUE, NoiseScheduleName, Role, Sha256, TimeGrid
from schedlab.results.estimate import Estimate

SEARCH_FORMAT = "schedlab.search"
SEARCH_VERSION = 1

Family = Literal["handmade", "exhaustive", "additive", "optuna"]
Why = Literal[
    "best",
    "knee",
    "budget",
    "front",
    "all_heavy",
    "all_light",
    "exhaustive_best",
    "worst",
    "additive",
]
Score = Literal["loss_gap", "path_kl"]


class SearchSetting(Record):
    """What every plan of one search shares."""

    length: int
    num_steps: int
    num_segments: int
    heavy: Role
    light: Role
    roles: tuple[Role, ...]
    num_sequences: Annotated[int, Field(description="sequences per plan during the search")]
    block_size: int
    seed: int
    fresh_sequences: Annotated[int, Field(description="sequences per re-measured plan")]
    fresh_seed: int
    scorer: str
    precision: str
    temperature: float
    top_p: float
    policy: PolicySpec = PolicySpec()
    process: Literal["masked", "uniform", "simplex"] = "masked"
    noise_schedule: NoiseScheduleName = "linear"
    time_grid: TimeGrid = "uniform"
    simplex_value: float = DEFAULT_SIMPLEX_VALUE
    last_step: Literal["draw", "greedy"] = "draw"
    guidance: Guidance | None = None
    prefix_length: Annotated[int, Field(description="tokens of held-out text given")] = 0
    entropy_band: Annotated[
        tuple[float, float], Field(description="nats per sample; outside, a plan is not picked")
    ]
    fresh_entropy_band: Annotated[
        tuple[float, float], Field(description="the same around all-heavy on fresh seeds")
    ]
    reference_point: Annotated[
        tuple[float, float],
        Field(description="log Gen-PPL and cost as a share of all-heavy, for hypervolumes"),
    ]
    corpus_fingerprint: str


class Look(Record):
    """One look of a race."""

    sequences: Annotated[int, Field(description="per plan, from the first")]
    plans: Annotated[int, Field(description="still in the race")]


class Race(Record):
    """How plans were measured in a race (`schedlab.search.racing`)."""

    error: Annotated[
        float, Field(description="bound on the probability of dropping a plan of the true front")
    ]
    comparisons: Annotated[int, Field(description="per look, which that bound is divided among")]
    looks: tuple[Look, ...]
    sequences: Annotated[int, Field(description="sampled, over all plans")]
    sequences_without: Annotated[int, Field(description="the same had nothing been dropped")]


class Dropped(Record):
    """Why racing stopped a plan early."""

    sequences: Annotated[int, Field(description="that it was compared on")]
    by: Annotated[Sha256, Field(description="a plan that costs no more and is better")]
    difference: Annotated[float, Field(description="log Gen-PPL minus that plan's")]
    at_least: Annotated[float, Field(description="its family-wise lower limit, above 0")]


class RowCost(Record):
    """Cost of one plan, means over its sequences; `saved_*` are shares of all-heavy's cost.

    `nominal_saved_blocks` is the published figure: block forwards as if every step ran a forward;
    `nominal_saved_total` adds the head at every position of every step.
    """

    forwards: dict[Role, float]
    block_forwards: float
    flops_blocks: float
    flops_total: float
    saved_blocks: float
    saved_total: float
    nominal_saved_blocks: float
    nominal_saved_total: float
    seconds: float


class AdditiveScores(Record):
    """What the additive theory says before sampling, nats per token; lower is better."""

    loss_gap: float | None = None
    path_kl: float | None = None


class SearchRow(Record):
    """One plan, evaluated by sampling."""

    schedule: ModelSchedule
    digest: Sha256
    families: tuple[Family, ...]
    name: str | None = None
    light_segments: Annotated[
        tuple[int, ...] | None,
        Field(
            description="segments run by the light role; null when the schedule is not made of"
            " whole segments of heavy and light"
        ),
    ] = None
    light_share: Annotated[float, Field(description="share of the steps that light runs")]
    estimates: dict[str, Estimate]
    paired_log_ppl: Annotated[
        Estimate, Field(description="log Gen-PPL minus all-heavy's, common random numbers")
    ]
    cost: RowCost
    additive: AdditiveScores
    in_entropy_band: bool
    on_front: Annotated[bool, Field(description="not dominated among plans within the band")]
    dropped: Annotated[
        Dropped | None, Field(description="racing stopped it early: its n is smaller")
    ] = None


class FreshRow(Record):
    """A plan measured again on seeds that no choice by quality depended on.

    One did depend on them: a pick whose entropy leaves the band here gives way to the next.
    """

    digest: Sha256
    schedule: ModelSchedule
    why: tuple[Why, ...]
    estimates: dict[str, Estimate]
    paired_log_ppl: Estimate
    in_entropy_band: bool
    samples: tuple[str, ...] = ()


class SegmentInfluence(Record):
    """I_j: mean log Gen-PPL over schedules with j light, minus the mean of that over segments."""

    segment: int
    value: float
    low: float
    high: float
    n: int
    ppl: Annotated[Estimate, Field(description="the same in Gen-PPL")]
    in_top: Annotated[int, Field(description="how many of the `ranked` best plans have j light")]
    in_bottom: Annotated[int, Field(description="how many of the `ranked` worst have j light")]
    ranked: int


class RankCorrelation(Record):
    """How well an additive score ranks the exhaustive set's plans by sampled quality.

    Plans are ranked only among those with as many light steps.
    """

    score: Score
    states: Annotated[str, Field(description="where the score was measured")]
    quality: Literal["log_gen_ppl"] = "log_gen_ppl"
    spearman: Estimate
    kendall: Estimate
    ceiling_spearman: Annotated[
        Estimate | None,
        Field(description="what a perfect score would reach under this sampling noise"),
    ] = None
    ceiling_kendall: Annotated[
        Estimate | None, Field(description="the same for tau, by Greiner's relations")
    ] = None
    n_plans: int


class Hypervolume(Record):
    """Area between the front and `setting.reference_point`; larger is better."""

    value: float
    by_family: dict[Family, float]


class SearchFile(FileRecord):
    """The whole of `search.json`."""

    format: Literal["schedlab.search"] = "schedlab.search"
    version: Literal[1] = 1
    setting: SearchSetting
    rows: tuple[SearchRow, ...]
    fresh: tuple[FreshRow, ...]
    race: Race | None = None
    segment_influence: tuple[SegmentInfluence, ...] = ()
    rank_correlation: tuple[RankCorrelation, ...] = ()
    hypervolume: Hypervolume
    picks: Annotated[dict[str, Sha256], Field(description="'best', 'knee', 'budget=0.25'")]

    def row(self, digest: str) -> SearchRow:
        """The row of a plan.

        Raises:
            InputError: no row has this digest.
        """
        for row in self.rows:
            if row.digest == digest:
                return row
        raise InputError(f"no plan of this search has the digest {digest[:12]!r}; search again")

    def fresh_row(self, digest: str) -> FreshRow | None:
        """The measurement on fresh seeds, or None where the plan was not measured again."""
        return next((row for row in self.fresh if row.digest == digest), None)

"""The result file of a joint search over guidance and allocation, `control.json`.

Losses are minimised: 1 - control accuracy by the judge, log Gen-PPL, 1 - distinct-3, self-BLEU,
and cost as a share of the unguided reference's. Everything measured carries 95 % intervals over
sequences.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from schedlab.errors import InputError
from schedlab.files import FileRecord, Record
from schedlab.plan import Plan
from schedlab.plan.guidance import Attribute
from schedlab.plan.plan import Scalar, Sha256
from schedlab.results.estimate import Estimate

Origin = Literal["reference", "sweep", "proposal"]
OBJECTIVE_NAMES = {
    "control": "1 - control accuracy",
    "gen_ppl": "log Gen-PPL",
    "distinct_3": "1 - distinct-3",
    "self_bleu": "self-BLEU",
    "cost": "cost",
}


class ControlSetting(Record):
    """What all plans of one search share."""

    attributes: list[Attribute]
    labels: Annotated[
        list[tuple[str, ...]], Field(description="those asked for in turn, per attribute")
    ]
    judge: Annotated[str, Field(description="whose verdict control is; several joined by 'and'")]
    deciding: Annotated[
        tuple[str, ...], Field(description="the judges of it, who must all agree")
    ] = ()
    judges: Annotated[tuple[str, ...], Field(description="all of the lab")]
    objectives: tuple[str, ...]
    cost: Literal["seconds", "flops_total", "forwards"]
    constraints: Annotated[
        dict[str, float],
        Field(description="largest Gen-PPL and cost ratios and fall of entropy, least distinct-3"),
    ]
    length: int
    prefix_length: int
    num_steps: Annotated[int, Field(description="of the reference")]
    process: str
    num_sequences: int
    choice_sequences: Annotated[
        int, Field(description="of the search's seed, that picks were chosen on")
    ] = 0
    block_size: int
    seed: int
    fresh_sequences: int
    fresh_seed: int
    scorer: str
    precision: str
    trials: int
    sampler: str
    temperature: float = 1.0
    top_p: float = 1.0
    reference: Annotated[Sha256, Field(description="digest of the unguided plan")]


class ControlRow(Record):
    """One plan on the sequences of the search."""

    plan: Plan
    digest: Sha256
    origin: Origin
    values: Annotated[dict[str, Scalar], Field(description="what was proposed, by parameter")]
    estimates: dict[str, Estimate]
    losses: dict[str, float]
    excess: Annotated[
        dict[str, float], Field(description="of every constraint; above 0 it is broken")
    ]
    chosen_by: Annotated[
        dict[str, float], Field(description="losses on the sequences of the choice, if measured")
    ] = {}

    @property
    def feasible(self) -> bool:
        """Whether all constraints hold."""
        return all(value <= 0 for value in self.excess.values())


class FreshControlRow(Record):
    """A plan measured again, on sequences of which no choice depended but this: picks hold all
    constraints there, too.

    Args:
        control: accuracy by the judge.
        by_label: the same by label of the first attribute.
        ppl_ratio: Gen-PPL over the reference's on the same random numbers.
        cost: over the reference's.
        within: whether all constraints hold here too.
        columns: per sequence, in the same order for all plans: `control`, `entropy`, and with a
            scorer `nll` and `scored_tokens`; differences between plans are paired by them.
    """

    digest: Sha256
    estimates: dict[str, Estimate]
    control: Estimate
    by_label: dict[str, Estimate]
    ppl_ratio: Estimate | None
    cost: Estimate
    within: bool
    samples: tuple[str, ...] = ()
    columns: dict[str, tuple[float, ...]] = {}


class StepOfText(Record):
    """A sequence at a step: its tokens as text, where edits were, what was kept of them.

    Args:
        step, t: number and noise level.
        tokens: one string each.
        edited: places where guidance changed the likeliest token.
        forgotten: those among them whose next prediction is another token again.
        key: places with the largest gradients.
        levels: t_i.
    """

    step: int
    t: float
    tokens: tuple[str, ...]
    edited: tuple[int, ...]
    forgotten: tuple[int, ...]
    key: tuple[int, ...]
    levels: tuple[float, ...]


class ControlTrace(Record):
    """A plan looked at step by step.

    Args:
        digest: the plan.
        num_sequences, seed: which sequences.
        steps: numbers of the recorded steps.
        t: their noise levels.
        mean_levels: mean t_i by step and position.
        curves: per step, by name: fluctuation, update-forgetting and so on.
        summary: means over steps.
        label: what was asked for of the example.
        example: one sequence at some steps.
    """

    digest: Sha256
    num_sequences: int
    seed: int
    steps: tuple[int, ...]
    t: tuple[float, ...]
    mean_levels: tuple[tuple[float, ...], ...]
    curves: dict[str, tuple[float | None, ...]]
    summary: dict[str, Estimate]
    label: str
    example: tuple[StepOfText, ...]


class ControlFile(FileRecord):
    """Everything that a joint search found.

    Args:
        setting: what all plans share.
        rows: plans on the search's sequences, the reference first.
        fresh: those measured again.
        front: digests of the plans that no feasible plan beats in all objectives.
        hypervolume: of the front, by the losses of the search; larger is better.
        importance: by objective, share of the variation that a parameter explains (PED-ANOVA),
            with 95 % bootstrap intervals over proposals.
        picks: digests by name.
        traces: of the first pick and of the same plan without clocks of its own.
        autoregressive: seconds of the first pick relative to an autoregressive model of the same
            size, timed in turns with it; not of plans behind prompts.
        seconds: of the whole search.
    """

    format: Literal["schedlab.control"] = "schedlab.control"
    version: Literal[1] = 1
    setting: ControlSetting
    rows: tuple[ControlRow, ...]
    fresh: tuple[FreshControlRow, ...]
    front: tuple[Sha256, ...]
    hypervolume: float
    importance: dict[str, dict[str, Estimate]]
    picks: dict[str, Sha256]
    traces: tuple[ControlTrace, ...] = ()
    autoregressive: Estimate | None = None

    def row(self, digest: str) -> ControlRow:
        """The plan of a digest on the search's sequences."""
        return _found(self.rows, digest, "the search")

    def fresh_row(self, digest: str) -> FreshControlRow:
        """The plan of a digest on fresh sequences."""
        return _found(self.fresh, digest, "fresh sequences")


def _found(rows: tuple[Any, ...], digest: str, where: str) -> Any:
    for row in rows:
        if row.digest == digest:
            return row
    raise InputError(f"plan {digest[:12]} was not measured on {where}; search again")

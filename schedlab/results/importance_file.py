"""`importance.json`: what `schedlab analyze` found, as a file that search and report read.

Conventions: step and level 0 are the noisiest; every `low`, `high` is a 95 % bootstrap interval
over sequences; everything was measured at temperature 1 and top-p 1, since path KL is infinite
where truncation makes supports differ. Lower is better for every metric here.

With a prefix, only the positions after it are masked, counted and averaged over.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, Self, TypeVar

import numpy as np
from pydantic import Field, model_validator

from schedlab.errors import InputError
from schedlab.files import FileRecord, Record, write_atomic
from schedlab.plan.plan import Role
from schedlab.results.estimate import Estimate

IMPORTANCE_FORMAT = "schedlab.importance"
IMPORTANCE_VERSION = 1
JSON_NAME = "importance.json"
ARRAYS_NAME = "importance.npz"

States = Literal["forward", "heavy_sampler"]
Metric = Literal[
    "cross_entropy",
    "loss_gap",
    "abs_loss_gap",
    "kl_heavy_light",
    "kl_light_heavy",
    "js",
    "relative_kl",
]
NonNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
FoundT = TypeVar("FoundT")


class ImportanceSetting(Record):
    """What the analysis ran on.

    Args:
        num_sequences: held-out windows behind everything with `forward` states.
        sampled_sequences: trajectories behind everything with `heavy_sampler` states.
        propagation_sequences: coupled pairs of trajectories behind `propagation`.
        levels: noise levels of the curves with `forward` states.
        denoisers: fingerprint per role.
        process: what is compared: predictions at masks, or posteriors of steps at all positions.
    """

    num_sequences: NonNegative
    length: Positive
    prefix_length: NonNegative
    seed: NonNegative
    precision: str
    corpus_fingerprint: str
    heavy: Role
    heavy_b: Role | None
    lights: list[Role]
    levels: NonNegative
    bootstrap_resamples: Positive
    states: list[States]
    num_steps: NonNegative = 0
    sampled_sequences: NonNegative = 0
    propagation_sequences: NonNegative = 0
    denoisers: dict[Role, str] = {}
    process: Literal["masked", "uniform"] = "masked"

    @property
    def unit(self) -> str:
        """Of every curve."""
        masked = self.process == "masked"
        return "nats per masked token" if masked else "nats per token and step"


class Curve(Record):
    """A metric against the noise level.

    Args:
        roles: one denoiser (`cross_entropy`) or heavy and the other one.
        states: where the noisy sequences come from: held-out text noised by the forward process,
            or the heavy denoiser's own trajectories.
        t: noise level of every point, falling (1 is pure noise).
        n: sequences.
    """

    id: str
    metric: Metric
    roles: Annotated[list[Role], Field(min_length=1, max_length=2)]
    states: States
    prefix: bool
    unit: Literal["nats per masked token"] = "nats per masked token"
    t: list[Annotated[float, Field(gt=0, le=1)]]
    value: list[float]
    low: list[float]
    high: list[float]
    n: Positive

    @model_validator(mode="after")
    def _equally_long(self) -> Self:
        _check_lengths(len(self.t), self, ("value", "low", "high"))
        return self


class StepScores(Record):
    """What one step costs in a bound when `light` runs it instead of `heavy`.

    Both scores are additive: summed over the light steps of a schedule they give its excess NELBO
    (`loss_gap`, signed) and the KL between heavy's and its trajectories (`path_kl`), in nats per
    generated token. `loss_gap` needs the clean text and exists for `forward` states only.
    """

    heavy: Role
    light: Role
    states: States
    prefix: bool
    num_steps: Positive
    loss_gap: list[float] | None = None
    loss_gap_low: list[float] | None = None
    loss_gap_high: list[float] | None = None
    path_kl: list[float]
    path_kl_low: list[float]
    path_kl_high: list[float]
    unit: Literal["nats per token"] = "nats per token"

    @model_validator(mode="after")
    def _one_per_step(self) -> Self:
        names = [f"{score}{end}" for score in _SCORES for end in ("", "_low", "_high")]
        if (self.loss_gap is None) != (self.states == "heavy_sampler"):
            raise InputError("loss_gap belongs to states 'forward' and to no others")
        _check_lengths(self.num_steps, self, names)
        return self


_SCORES = ("loss_gap", "path_kl")


class Significance(Record):
    """Whether `light` is told apart from `heavy` at all.

    Args:
        metric: `loss_gap` is the difference of their NELBOs; `relative_kl` is the path KL minus
            that between two independently trained heavy denoisers.
        mean_gap: the difference in nats per token; positive means that heavy is better.
        significant: the interval excludes 0.
    """

    light: Role
    metric: Literal["loss_gap", "relative_kl"]
    mean_gap: Estimate
    significant: bool
    prefix: bool = False


class Propagation(Record):
    """What a swap of heavy for light in one segment does to the rest of the trajectory.

    Args:
        segment: number of the segment, 0 the noisiest; it runs from level `t_from` to `t_to`.
        changed_tokens: share of the generated positions whose final token differs from that of the
            all-heavy sampler with the same noise.
        propagated_tokens: the share of those that were revealed after the segment, by heavy;
            none after the last segment.
        kl_next: KL of heavy's next prediction on the all-heavy state against that on the swapped
            one, in nats per masked position; none after the last segment, which leaves no mask.
    """

    segment: NonNegative
    t_from: float
    t_to: float
    heavy: Role
    light: Role
    changed_tokens: Estimate
    propagated_tokens: Estimate | None = None
    kl_next: Estimate | None
    prefix: bool = False


class ImportanceFile(FileRecord):
    """The whole of `importance.json`.

    Args:
        nelbo: NELBO of each denoiser alone in nats per token, T-step form.
        nelbo_given_prefix: the same for the text after the prefix.
    """

    format: Literal["schedlab.importance"] = "schedlab.importance"
    version: Literal[1] = 1
    setting: ImportanceSetting
    curves: list[Curve]
    step_scores: list[StepScores]
    nelbo: dict[Role, Estimate]
    significance: list[Significance]
    propagation: list[Propagation]
    nelbo_given_prefix: dict[Role, Estimate] = {}

    def curve(
        self, metric: Metric, *roles: str, states: States = "forward", prefix: bool = False
    ) -> Curve:
        """The curve of a metric and its roles; `InputError` naming what there is otherwise."""
        wanted = curve_id(metric, roles, states=states, prefix=prefix)
        return _find(
            wanted,
            {
                curve_id(c.metric, c.roles, states=c.states, prefix=c.prefix): c
                for c in self.curves
            },
        )

    def scores(
        self, light: str, *, states: States = "forward", prefix: bool = False
    ) -> StepScores:
        """The additive scores of a light role; `InputError` naming what there is otherwise."""
        return _find(
            _with_states(light, states, prefix),
            {_with_states(s.light, s.states, s.prefix): s for s in self.step_scores},
        )


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write `importance.npz`, the per-sequence arrays behind the file, atomically."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **dict(arrays))  # type: ignore[arg-type]  # names are keywords
    write_atomic(path, stream.getvalue())


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read `importance.npz`; never unpickles.

    Raises:
        InputError: missing, torn, or not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not readable as arrays of an analysis: {error}") from None


def curve_id(metric: str, roles: Iterable[str], *, states: str, prefix: bool) -> str:
    """`kl_heavy_light/H/L/forward`, with `/prefix` at the end where there is one."""
    return _with_states("/".join((metric, *roles)), states, prefix)


def _with_states(name: str, states: str, prefix: bool) -> str:
    return f"{name}/{states}" + ("/prefix" if prefix else "")


def _find(wanted: str, named: Mapping[str, FoundT]) -> FoundT:
    if wanted not in named:
        raise InputError(f"the importance file has no {wanted!r}; it has {sorted(named)}")
    return named[wanted]


def _check_lengths(expected: int, record: Record, names: Iterable[str]) -> None:
    for name in names:
        values = getattr(record, name)
        if values is not None and len(values) != expected:
            raise InputError(f"{name} needs {expected} values, got {len(values)}")

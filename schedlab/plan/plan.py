"""The plan: everything that determines a sampling run except weights and prompts.

The plan is what search proposes, the sampler runs, the report shows and deployment loads. It is
data: this module knows neither tensors nor networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, Self

import pydantic
from pydantic import Field

from schedlab.errors import InputError
from schedlab.files import (
    FileRecord,
    Record,
    canonical_json,
    parse_json,
    sha256_text,
    validate,
)
from schedlab.plan.guidance import Guidance
from schedlab.plan.model_schedule import ROLE_PATTERN, ModelSchedule

PLAN_FORMAT: Final = "schedlab.plan"
PLAN_VERSION: Final = 1
PLAN_SCHEMA_ID = f"{PLAN_FORMAT}.v{PLAN_VERSION}"
MAX_LENGTH = 1 << 20
DEFAULT_SIMPLEX_VALUE = 5.0

Role = Annotated[str, Field(pattern=rf"^{ROLE_PATTERN}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Scalar = bool | int | float | str


class Decoding(Record):
    """How a token is drawn from the prediction; 1 and 1 draw from the prediction itself, a
    temperature of 0 takes the likeliest token."""

    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0


TimeGrid = Literal["uniform", "tess"] | list[float]

NoiseScheduleName = Literal["linear", "cosine", "log_linear"]

PolicyName = Literal[
    "ancestral",
    "random_order",
    "first_hitting",
    "low_confidence",
    "entropy",
    "margin",
    "top1",
    "threshold",
    "dream_threshold",
    "factor",
    "entropy_bound",
    "klass",
    "stdd",
    "slowfast",
    "dilated",
    "prophet",
    "p2",
    "wino",
    "surelock",
    "remdm_cap",
    "remdm_rescale",
    "remdm_conf",
    "remdm_loop",
    "tta_constant",
    "tta_linear",
    "tta_backward",
    "tta_random",
    "tta_fixed",
    "tta_adaptive",
    "tta_scaled",
    "tta_top_k",
    "tta_share",
    "tta_softmax",
    "tta_threshold",
    "psi",
]


_CALLS_UNKNOWN = frozenset(
    (
        "threshold",
        "dream_threshold",
        "factor",
        "entropy_bound",
        "klass",
        "stdd",
        "slowfast",
        "dilated",
        "prophet",
        "wino",
        "surelock",
    )
)


class PolicySpec(Record):
    """A policy by name, with its parameters (see `schedlab.policies`)."""

    name: PolicyName = "ancestral"
    parameters: dict[str, Scalar] = {}

    @property
    def calls_known(self) -> bool:
        """Whether what every step costs is known, in expectation, before a run: with a cache or
        locks forwards are no measure of it."""
        cached = self.parameters.get("cache", "none") != "none"
        stops = bool(self.parameters.get("stop_at_end"))
        return self.name not in _CALLS_UNKNOWN and not cached and not stops

    def __str__(self) -> str:
        values = ", ".join(f"{key} {value}" for key, value in self.parameters.items())
        return f"{self.name} ({values})" if values else self.name


class Plan(Record):
    """A sampling run as data.

    Args:
        length: positions L of a sequence, prefix included.
        model_schedule: which denoiser role runs at which of the T steps.
        process: noising process.
        noise_schedule: `linear` is alpha_t = 1 - t, `cosine` that of simplex models, `log_linear`
            that of DUO's code, 1 - (1 - 1e-3) t.
        time_grid: `uniform` is t_k = 1 - k / T; `tess` that of TESS's code, for simplex models; or
            the noise levels t_0 >= ... >= t_{T-1} > 0 at which the denoiser is called.
        policy: which tokens move at a step.
        decoding: temperature and top-p of the draw.
        guidance: classifiers that steer the prediction, if any.
        last_step: `draw` from the posterior, or take the likeliest tokens, `greedy`; for the
            uniform-state process (simplex samplers always take the likeliest).
        simplex_value: K of the simplex process.
    """

    length: Annotated[int, Field(ge=1, le=MAX_LENGTH)]
    model_schedule: ModelSchedule
    process: Literal["masked", "uniform", "simplex"] = "masked"
    noise_schedule: NoiseScheduleName = "linear"
    time_grid: TimeGrid = "uniform"
    policy: PolicySpec = PolicySpec()
    decoding: Decoding = Decoding()
    guidance: Guidance | None = None
    simplex_value: Annotated[float, Field(gt=0, le=1000)] = DEFAULT_SIMPLEX_VALUE
    last_step: Literal["draw", "greedy"] = "draw"

    @pydantic.model_serializer(mode="wrap")
    def _described(self, handler: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what a plan does not use: digests stay as they were before there was any."""
        found: dict[str, Any] = handler(self)
        if self.guidance is None:
            found.pop("guidance", None)
        if self.process != "simplex":
            found.pop("simplex_value", None)
        if self.last_step == "draw":
            found.pop("last_step", None)
        return found

    @pydantic.field_validator("time_grid", mode="before")
    @classmethod
    def _is_a_grid(cls, value: object) -> object:
        if value in ("uniform", "tess") or isinstance(value, list):
            return value
        raise ValueError(f"must be 'uniform', 'tess' or a list of levels, got {str(value)[:40]!r}")

    @pydantic.model_validator(mode="after")
    def _fits_its_process(self) -> Self:
        if self.process != "simplex" and self.time_grid == "tess":
            raise ValueError("time_grid 'tess' is for process 'simplex' only")
        if not isinstance(self.time_grid, str):
            levels = self.time_grid
            if len(levels) != self.num_steps:
                raise ValueError(
                    f"time_grid must have {self.num_steps} levels, one a step, got {len(levels)}"
                )
            if not all(0 < level <= 1 for level in levels):
                raise ValueError(f"levels of time_grid must be in (0, 1], got {levels}")
            if any(later > level for level, later in pairwise(levels)):
                raise ValueError("levels of time_grid must not rise")
            reads = self.policy.name.startswith(("ancestral", "psi", "remdm_", "tta_"))
            if not reads:
                raise ValueError(f"policy {self.policy.name!r} reads no time_grid; leave it out")
            if levels[0] != 1 and self.process != "simplex":
                raise ValueError(f"the first level of time_grid must be 1, got {levels[0]}")
        if self.process != "uniform":
            for name, value in (("policy", self.policy.name), ("last_step", self.last_step)):
                if value in ("psi", "greedy"):
                    raise ValueError(f"{name} {value!r} is for process 'uniform' only")
        if self.process == "masked" and self.noise_schedule != "linear":
            raise ValueError("noise_schedule of process 'masked' must be 'linear'")
        return self

    @property
    def is_dense(self) -> bool:
        """Whether every step predicts all positions: guidance, clocks of tokens, processes in
        which every position moves. Others go through samplers that save forwards."""
        clocks = self.policy.name.startswith("tta_")
        guided = self.guidance is not None and self.guidance.iterations > 0
        return self.process != "masked" or clocks or guided

    @property
    def num_steps(self) -> int:
        """Number of denoising steps T."""
        return self.model_schedule.num_steps

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: equal for equal plans, on every machine."""
        return sha256_text(canonical_json(self.to_json()))

    @cached_property
    def family_digest(self) -> str:
        """Digest of all but the model schedule: plans of one family and length of schedule can
        share the states of a common beginning."""
        data = self.to_json() | {"model_schedule": self.num_steps}
        return sha256_text(canonical_json(data))

    def with_schedule(self, model_schedule: ModelSchedule) -> Plan:
        """The same plan with another model schedule."""
        # Not model_copy: it would carry the cached digest of this plan over to the new one.
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**fields | {"model_schedule": model_schedule})

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON data."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, data: Any, *, where: str = "plan") -> Plan:
        """Build from JSON data; problems are one `InputError` line."""
        return validate(cls, data, where=where)

    def __hash__(self) -> int:
        return hash(self.digest)


def families_of(plans: Sequence[Plan]) -> list[list[int]]:
    """Places of the plans of every family, in order of first appearance."""
    places: dict[str, list[int]] = {}
    for place, plan in enumerate(plans):
        places.setdefault(plan.family_digest, []).append(place)
    return list(places.values())


class DenoiserRef(Record):
    """A denoiser of a plan: where it is, what it is, what it costs."""

    location: Annotated[str, Field(min_length=1, max_length=4096)]
    sha256: Sha256
    num_blocks: Annotated[int, Field(ge=0)]
    num_parameters: Annotated[int, Field(ge=0)]
    flops_per_forward: Annotated[
        float, Field(ge=0, description="FLOPs of one forward of one sequence, head included")
    ]


class FileRef(Record):
    """A file that a plan relies on."""

    location: Annotated[str, Field(min_length=1, max_length=4096)]
    sha256: Sha256


class MeasuredValue(Record):
    """A measured figure with its 95 % interval, number of sequences and seeds."""

    value: float
    low: float
    high: float
    n: Annotated[int, Field(ge=1)]
    seeds: list[int]
    note: str = ""


class PlanFile(FileRecord):
    """A deployable plan: the plan, the denoisers and classifiers it names, what was measured,
    where it came from."""

    format: Literal["schedlab.plan"] = PLAN_FORMAT
    version: Literal[1] = PLAN_VERSION
    plan: Plan
    digest: Sha256
    denoisers: dict[Role, DenoiserRef]
    tokenizer: FileRef
    precision: Literal["float32", "bfloat16", "float64"]
    classifiers: Annotated[
        dict[str, FileRef], Field(description="classifiers that guide, by the plan's names")
    ] = {}
    measured: dict[str, MeasuredValue] = {}
    provenance: dict[str, Scalar | list[Scalar]] = {}

    @classmethod
    def from_json(cls, data: Any, *, where: str = "plan file") -> Self:
        """Build from JSON data; a digest or role that does not fit is refused."""
        file = super().from_json(data, where=where)
        missing = [role for role in file.plan.model_schedule.roles if role not in file.denoisers]
        if missing:
            raise InputError(
                f"{where}: denoisers: the schedule uses role {missing[0]!r}, which is not among"
                f" {sorted(file.denoisers)}; add it"
            )
        guidance = file.plan.guidance
        for attribute in guidance.attributes if guidance is not None else ():
            if attribute.classifier not in file.classifiers:
                raise InputError(
                    f"{where}: classifiers: the guidance uses {attribute.classifier!r}, which is"
                    f" not among {sorted(file.classifiers)}; add it"
                )
        if file.digest != file.plan.digest:
            raise InputError(
                f"{where}: digest: the plan's digest is {file.plan.digest[:12]}..., the file says"
                f" {file.digest[:12]}...; the plan was edited by hand: export it again"
            )
        return file

    @classmethod
    def parse(cls, text: str, *, where: str = "plan file") -> Self:
        """Build from a JSON document."""
        return cls.from_json(parse_json(text, where=where), where=where)


def plan_schema() -> dict[str, Any]:
    """The published JSON Schema of plan files."""
    return {"$id": PLAN_SCHEMA_ID} | PlanFile.model_json_schema()

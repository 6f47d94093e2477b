"""What is searched, as data: model schedules, policies' parameters, plans, plan files (no
torch)."""

from schedlab.plan.model_schedule import ModelSchedule, segment_bounds
from schedlab.plan.plan import (
    Decoding,
    DenoiserRef,
    FileRef,
    MeasuredValue,
    Plan,
    PlanFile,
    PolicySpec,
    families_of,
    plan_schema,
)

__all__ = [
    "Decoding",
    "DenoiserRef",
    "FileRef",
    "MeasuredValue",
    "ModelSchedule",
    "Plan",
    "PlanFile",
    "PolicySpec",
    "families_of",
    "plan_schema",
    "segment_bounds",
]

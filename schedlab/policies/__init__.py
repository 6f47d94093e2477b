"""Timestep policies, one per file: pure tensor functions on a view of the step."""

from typing import Any

from schedlab.errors import InputError
from schedlab.policies.ancestral import Ancestral
from schedlab.policies.random_order import RandomOrder
from schedlab.policies.view import StepView, TimestepPolicy

TIMESTEP_POLICIES: dict[str, type[TimestepPolicy]] = {
    "ancestral": Ancestral,
    "random_order": RandomOrder,
}


FIRST_HITTING = "first_hitting"
"""Continuous time: no steps to decide anything at, see `schedlab.sampling.timetable`."""


def timestep_policy(name: str, parameters: dict[str, Any]) -> TimestepPolicy:
    """The policy of that name with these parameters."""
    if name == FIRST_HITTING:
        raise InputError(f"policy {name!r} has no steps; it runs in the event sampler only")
    if name not in TIMESTEP_POLICIES:
        raise InputError(f"policy {name!r} is unknown; known: {sorted(TIMESTEP_POLICIES)}")
    policy = TIMESTEP_POLICIES[name]
    known = sorted(getattr(policy, "__dataclass_fields__", {}))
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise InputError(
            f"policy {name!r} has no parameter {unknown[0]!r}; it has {known or 'none'}"
        )
    return policy(**parameters)


__all__ = [
    "FIRST_HITTING",
    "TIMESTEP_POLICIES",
    "Ancestral",
    "RandomOrder",
    "StepView",
    "TimestepPolicy",
    "timestep_policy",
]

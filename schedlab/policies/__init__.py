"""Policies, one per file: pure tensor functions on a view of the step.

Timestep policies decide before the prediction, commit policies by it, remask policies also take
tokens back, allocation policies give every token its own noise level by what a guide says of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from schedlab.errors import InputError
from schedlab.plan import PolicySpec
from schedlab.plan.plan import Scalar
from schedlab.policies.allocation import (
    Adaptive,
    Allocation,
    BackwardLinear,
    Constant,
    CumulativeShare,
    Fixed,
    Linear,
    Psi,
    Random,
    Scaled,
    Softmax,
    TopK,
)
from schedlab.policies.allocation import Threshold as AllocationThreshold
from schedlab.policies.ancestral import Ancestral
from schedlab.policies.commit import CommitPolicy
from schedlab.policies.dilated import Dilated
from schedlab.policies.dream import Entropy, Margin, Top1
from schedlab.policies.dream_threshold import DreamThreshold
from schedlab.policies.entropy_bound import EntropyBound
from schedlab.policies.factor import Factor
from schedlab.policies.klass import Klass
from schedlab.policies.low_confidence import LowConfidence
from schedlab.policies.p2 import P2
from schedlab.policies.prophet import Prophet
from schedlab.policies.random_order import RandomOrder
from schedlab.policies.remdm import RemaskPolicy, RemdmCap, RemdmConf, RemdmLoop, RemdmRescale
from schedlab.policies.slowfast import SlowFast
from schedlab.policies.stdd import Stdd
from schedlab.policies.surelock import SureLock
from schedlab.policies.threshold import Threshold
from schedlab.policies.view import StepView, TimestepPolicy
from schedlab.policies.wino import Wino

TIMESTEP_POLICIES: dict[str, type[TimestepPolicy]] = {
    "ancestral": Ancestral,
    "random_order": RandomOrder,
}

COMMIT_POLICIES: dict[str, type[CommitPolicy]] = {
    "low_confidence": LowConfidence,
    "entropy": Entropy,
    "margin": Margin,
    "top1": Top1,
    "threshold": Threshold,
    "dream_threshold": DreamThreshold,
    "factor": Factor,
    "entropy_bound": EntropyBound,
    "klass": Klass,
    "stdd": Stdd,
    "slowfast": SlowFast,
    "dilated": Dilated,
    "prophet": Prophet,
    "p2": P2,
    "wino": Wino,
    "surelock": SureLock,
}

REMASK_POLICIES: dict[str, type[RemaskPolicy]] = {
    "remdm_cap": RemdmCap,
    "remdm_rescale": RemdmRescale,
    "remdm_conf": RemdmConf,
    "remdm_loop": RemdmLoop,
}

ALLOCATION_POLICIES: dict[str, type[Allocation]] = {
    "tta_constant": Constant,
    "tta_linear": Linear,
    "tta_backward": BackwardLinear,
    "tta_random": Random,
    "tta_fixed": Fixed,
    "tta_adaptive": Adaptive,
    "tta_scaled": Scaled,
    "tta_top_k": TopK,
    "tta_share": CumulativeShare,
    "tta_softmax": Softmax,
    "tta_threshold": AllocationThreshold,
}

UNIFORM_POLICIES: dict[str, type[Allocation]] = {"psi": Psi}
"""Of the uniform-state process alone."""

OWN_LOOP = COMMIT_POLICIES.keys() | REMASK_POLICIES.keys()
"""Policies that the event sampler cannot run."""

FIRST_HITTING = "first_hitting"
"""Continuous time: no steps to decide anything at, see `schedlab.sampling.timetable`."""


def timestep_policy(name: str, parameters: dict[str, Any]) -> TimestepPolicy:
    """The policy of that name with these parameters."""
    if name == FIRST_HITTING:
        raise InputError(f"policy {name!r} has no steps; it runs in the event sampler only")
    return _built(TIMESTEP_POLICIES, name, parameters)


def commit_policy(name: str, parameters: dict[str, Any]) -> CommitPolicy:
    """The policy of that name with these parameters."""
    return _built(COMMIT_POLICIES, name, parameters)


def allocation_policy(name: str, parameters: dict[str, Any]) -> Allocation:
    """The policy of that name for the loop that predicts every step; `ancestral` is constant."""
    if name == "ancestral":
        name = "tta_constant"
    return _built(ALLOCATION_POLICIES | UNIFORM_POLICIES, name, parameters)


def remask_policy(name: str, parameters: dict[str, Any]) -> RemaskPolicy:
    """The policy of that name with these parameters."""
    return _built(REMASK_POLICIES, name, parameters)


def check_policy(spec: PolicySpec) -> None:
    """Refuse a policy with parameters that it does not have."""
    if spec.name == FIRST_HITTING:
        if spec.parameters:
            raise InputError(
                f"policy {FIRST_HITTING!r} has no parameters, got {sorted(spec.parameters)}"
            )
    elif spec.name in COMMIT_POLICIES:
        commit_policy(spec.name, spec.parameters)
    elif spec.name in ALLOCATION_POLICIES or spec.name in UNIFORM_POLICIES:
        allocation_policy(spec.name, spec.parameters)
    elif spec.name in REMASK_POLICIES:
        remask_policy(spec.name, spec.parameters)
    else:
        timestep_policy(spec.name, spec.parameters)


def default_parameters(name: str) -> dict[str, Scalar]:
    """A policy's parameters where nothing is said."""
    policies: dict[str, type[Any]] = {
        **TIMESTEP_POLICIES,
        **COMMIT_POLICIES,
        **REMASK_POLICIES,
        **ALLOCATION_POLICIES,
        **UNIFORM_POLICIES,
    }
    policy = policies.get(name)
    if policy is None or not dataclasses.is_dataclass(policy):
        return {}
    return {field.name: getattr(policy, field.name) for field in dataclasses.fields(policy)}


PolicyT = TypeVar("PolicyT")


def _built(
    policies: Mapping[str, type[PolicyT]], name: str, parameters: dict[str, Any]
) -> PolicyT:
    if name not in policies:
        raise InputError(f"policy {name!r} is unknown; known: {sorted(policies)}")
    policy = policies[name]
    known = sorted(getattr(policy, "__dataclass_fields__", {}))
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise InputError(
            f"policy {name!r} has no parameter {unknown[0]!r}; it has {known or 'none'}"
        )
    for key, value in parameters.items():
        kind = type(getattr(policy, key))  # that of the default
        if isinstance(value, bool) != (kind is bool) or not isinstance(
            value, (int, float) if kind is float else kind
        ):
            raise InputError(
                f"policy {name!r}: {key} must be of type {kind.__name__}, got {value!r}"
            )
    return policy(**parameters)


__all__ = [
    "ALLOCATION_POLICIES",
    "COMMIT_POLICIES",
    "FIRST_HITTING",
    "OWN_LOOP",
    "REMASK_POLICIES",
    "TIMESTEP_POLICIES",
    "UNIFORM_POLICIES",
    "Allocation",
    "Ancestral",
    "CommitPolicy",
    "RandomOrder",
    "StepView",
    "TimestepPolicy",
    "allocation_policy",
    "check_policy",
    "commit_policy",
    "default_parameters",
    "remask_policy",
    "timestep_policy",
]

"""What can be tuned of each policy: the ranges that a search looks in.

A policy's *knob* is the one number that trades its quality for its cost: every fair comparison
sweeps it. For policies whose calls are the plan's steps it is the number of steps.

Ranges are the papers' where they give any, and ours [O] beyond.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from schedlab.errors import InputError
from schedlab.plan.plan import PolicyName, Scalar

Scale = Literal["linear", "log", "complement"]


@dataclass(frozen=True)
class Range:
    """Values of a parameter.

    Args:
        low, high: smallest and largest.
        scale: `log`, or `complement`: 1 - value is on a log scale, for probabilities near 1.
        whole: whole numbers only.
    """

    low: float
    high: float
    scale: Scale = "linear"
    whole: bool = False

    def spread(self, num: int) -> list[float]:
        """`num` values from low to high, even on the scale; fewer where whole ones coincide."""
        low, high = self._to(self.low), self._to(self.high)
        if num == 1:
            return [self.back((low + high) / 2)]
        inner = [self.back(low + j / (num - 1) * (high - low)) for j in range(1, num - 1)]
        return sorted({self.low, *inner, self.high})

    def back(self, place: float) -> float:
        """The value at a place of the scale, within the range and rounded to 6 digits."""
        value = place
        if self.scale != "linear":
            value = math.exp(place) if self.scale == "log" else 1 - math.exp(place)
        value = round(value) if self.whole else float(f"{value:.6g}")
        return min(max(value, self.low), self.high)

    def _to(self, value: float) -> float:
        if self.scale == "linear":
            return value
        return math.log(value if self.scale == "log" else 1 - value)


@dataclass(frozen=True)
class Knob:
    """The number that trades quality for cost.

    Args:
        range: its values.
        parameters: parameter to its share of the knob: several move together.
    """

    range: Range
    parameters: dict[str, float]

    def at(self, value: float) -> dict[str, Scalar]:
        """The parameters at a value."""
        return {name: float(f"{share * value:.6g}") for name, share in self.parameters.items()}


@dataclass(frozen=True)
class PolicySpace:
    """What can be tuned of a policy.

    Args:
        knob: `steps` where the plan's number of steps is it; None where there is none.
        others: parameters that a search tunes beside it, by name.
        in_blocks: whether it finishes blocks from left to right.
        choices: parameters that are one of a few words.
        even_calls: whether all its calls are alike: not with shadows or locks.
        in_calls: whether the plan's steps are calls though they are not the knob.
    """

    knob: Knob | Literal["steps"] | None
    others: dict[str, Range] = field(default_factory=dict)
    in_blocks: bool = True
    choices: dict[str, tuple[str, ...]] = field(default_factory=dict)
    in_calls: bool = False
    even_calls: bool = True

    @property
    def ranges(self) -> dict[str, Range]:
        """All parameters that a search tunes, with a single-parameter knob's own."""
        if not isinstance(self.knob, Knob):
            return dict(self.others)
        return {name: _scaled(self.knob.range, share) for name, share in
                self.knob.parameters.items()} | self.others  # fmt: skip


def _scaled(range_: Range, share: float) -> Range:
    if share == 1.0:
        return range_
    return Range(share * range_.low, share * range_.high, range_.scale)


def _steps(*, in_blocks: bool = True, **others: Range) -> PolicySpace:
    return PolicySpace("steps", others, in_blocks)


def _knob(name: str, range_: Range, **others: Range) -> PolicySpace:
    return PolicySpace(Knob(range_, {name: 1.0}), others)


def _allocation(**others: Range) -> PolicySpace:
    """Rules that read a signal; which one is for the job to say, since gradients come of guidance
    (a joint search chooses signals too)."""
    return _steps(in_blocks=False, **others)


_CONFIDENCE = Range(0.3, 0.999, "complement")

POLICY_SPACES: dict[PolicyName, PolicySpace] = {
    "ancestral": _steps(in_blocks=False),
    "random_order": _steps(in_blocks=False),
    "first_hitting": PolicySpace(None, in_blocks=False),
    "low_confidence": _steps(),
    "entropy": _steps(),
    "margin": _steps(),
    "top1": _steps(),
    "threshold": _knob("threshold", _CONFIDENCE),
    "factor": _knob("factor", Range(0.02, 4.0, "log")),
    "entropy_bound": _knob("gamma", Range(0.003, 1.5, "log")),
    "klass": _knob(
        "threshold",
        _CONFIDENCE,
        epsilon=Range(0.001, 0.1, "log"),
        stable_calls=Range(1, 3, whole=True),
    ),
    "stdd": PolicySpace(
        Knob(_CONFIDENCE, {"threshold": 1.0}),
        {
            "temporal": Range(-1.5, 1.5),
            "spatial": Range(-1.0, 1.0),
            "window": Range(2, 6, whole=True),
            "neighbours": Range(0, 6, whole=True),
            "lowest": Range(0.1, 0.6),
            "fast": Range(0.5, 1.0),
            "slow": Range(1.0, 1.3),
            "fast_calls": Range(1, 4, whole=True),
            "fast_quantile": Range(0.0, 1.0),
            "unseen_spread": Range(0.0, 0.4),
        },
        choices={"deviance": ("confidence", "cosine")},
    ),
    "dream_threshold": _steps(threshold=_CONFIDENCE),
    "slowfast": _knob(
        "threshold",
        _CONFIDENCE,
        horizon_threshold=Range(0.02, 0.5, "log"),
        explore_calls=Range(4, 12, whole=True),
        window=Range(1, 4, whole=True),
        variance=Range(0.1, 4.0, "log"),
    ),
    "wino": replace(
        _knob("threshold", _CONFIDENCE, keep=Range(0.5, 0.99, "complement")), even_calls=False
    ),
    "dilated": PolicySpace(None),
    "prophet": PolicySpace(
        Knob(Range(0.5, 12.0, "log"), {"early": 3.0, "middle": 2.0, "late": 1.0}),
        in_calls=True,
    ),
    "surelock": replace(
        _steps(epsilon=Range(5e-4, 5e-2, "log"), share=Range(0.05, 1.0)), even_calls=False
    ),
    "p2": _steps(eta=Range(0.5, 2.0, "log")),
    "remdm_cap": _steps(in_blocks=False, eta=Range(0.001, 0.1, "log")),
    "remdm_rescale": _steps(in_blocks=False, eta=Range(0.001, 0.1, "log")),
    "remdm_conf": _steps(in_blocks=False),
    "remdm_loop": _steps(in_blocks=False, eta=Range(0.005, 0.1, "log")),
    "tta_constant": _steps(in_blocks=False),
    "psi": _steps(in_blocks=False, middle_eta=Range(0.001, 0.5, "log")),
    "tta_linear": _steps(in_blocks=False),
    "tta_backward": _steps(in_blocks=False),
    "tta_random": _steps(in_blocks=False),
    "tta_fixed": _steps(in_blocks=False, at=Range(0.0, 1.0)),
    "tta_adaptive": _allocation(smooth=Range(0.0, 1.0)),
    "tta_scaled": _steps(in_blocks=False, factor=Range(0.3, 1.0), offset=Range(-0.2, 0.2)),
    "tta_top_k": _allocation(share=Range(0.02, 0.6), low=Range(0.0, 1.0)),
    "tta_share": _allocation(share=Range(0.05, 0.95), low=Range(0.0, 1.0)),
    "tta_softmax": _allocation(low=Range(0.0, 1.0), tau=Range(0.02, 2.0, "log")),
    "tta_threshold": _allocation(deviations=Range(-1.0, 3.0), low=Range(0.0, 1.0)),
}


def space_of(name: PolicyName) -> PolicySpace:
    """The space of a policy.

    Raises:
        InputError: a policy without one.
    """
    if name not in POLICY_SPACES:
        raise InputError(f"policy {name!r} has no search space; see schedlab/plan/policy_space.py")
    return POLICY_SPACES[name]

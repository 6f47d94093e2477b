"""Plans of a joint search as figures, tables and statements speak of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from schedlab.files import canonical_json
from schedlab.plan import Plan, PolicySpec
from schedlab.plan.plan import Scalar
from schedlab.report.content import Origin
from schedlab.report.words import interval, one_line
from schedlab.results import Estimate
from schedlab.results.control_file import ControlFile, ControlRow, ControlTrace, FreshControlRow

CONSTANT = "tta_constant"
NEVER_ABOVE = frozenset(
    (
        "tta_adaptive", "tta_top_k", "tta_share", "tta_softmax", "tta_threshold", "tta_linear",
        "tta_backward",
    )
)  # fmt: skip
"""Policies whose t_i never exceeds t: they lower the mean noise level."""
_SELECTING = ("tta_top_k", "tta_share", "tta_threshold")


@dataclass(frozen=True)
class Measured:
    """A plan with what it gave on the search's sequences and on fresh ones."""

    row: ControlRow
    fresh: FreshControlRow

    @property
    def plan(self) -> Plan:
        """What was run."""
        return self.row.plan

    @property
    def digest(self) -> str:
        """Of the plan."""
        return self.row.digest

    @property
    def scale(self) -> float:
        """lambda; 0 without guidance."""
        guidance = self.plan.guidance
        return 0.0 if guidance is None or guidance.iterations == 0 else guidance.scale


@dataclass(frozen=True)
class Sweep:
    """Plans that differ in lambda alone, in its order."""

    name: str
    points: tuple[Measured, ...]

    @property
    def policy(self) -> PolicySpec:
        """What they have in common."""
        return self.points[0].plan.policy


def measured(file: ControlFile) -> list[Measured]:
    """All plans that were measured on fresh sequences: the reference, then by falling control."""
    known = {row.digest: row for row in reversed(file.rows)}
    found = [Measured(known[row.digest], row) for row in file.fresh if row.digest in known]
    return sorted(
        found, key=lambda one: (one.digest != file.setting.reference, -one.fresh.control.value)
    )


def reference(file: ControlFile) -> Measured | None:
    """The unguided plan, if it was measured again."""
    return next((one for one in measured(file) if one.digest == file.setting.reference), None)


def picked(file: ControlFile, name: str) -> Measured | None:
    """A pick, if there is one."""
    return next((one for one in measured(file) if one.digest == file.picks.get(name)), None)


def sweeps(file: ControlFile) -> list[Sweep]:
    """The sweeps of lambda that a search begins with."""
    found: dict[str, dict[float, Measured]] = {}
    for one in measured(file):
        if one.row.origin == "sweep" and one.scale > 0:
            found.setdefault(_without_scale(one.plan), {})[one.scale] = one
    order = {row.digest: place for place, row in enumerate(file.rows)}
    curves = [tuple(points[scale] for scale in sorted(points)) for points in found.values()]
    curves.sort(key=lambda points: min(order[one.digest] for one in points))
    names: list[str] = []
    for points in curves:
        name = kind(points[0].plan.policy)
        number = sum(other.rpartition(" #")[0] == name or other == name for other in names) + 1
        names.append(name if number == 1 else f"{name} #{number}")
    return [Sweep(name, points) for name, points in zip(names, curves, strict=True)]


def kind(policy: PolicySpec) -> str:
    """The policy with what makes it another one: `tta_adaptive, pooled t`."""
    words: list[str] = [policy.name]
    if (signal := policy.parameters.get("signal", "gradient")) not in ("gradient", "none"):
        words.append(f"{signal}")
    if pooled(policy) != "none":
        words.append(f"pooled {pooled(policy)}")
    return one_line(", ".join(words), max_length=44)


def pooled(policy: PolicySpec) -> str:
    """`none`, or of what the noise-matched constant of the rule takes the mean."""
    return str(policy.parameters.get("pooled", "none"))


def at_equal_lambda(one: Sweep, other: Sweep) -> list[tuple[Measured, Measured]]:
    """Pairs of plans that differ in their policies alone."""
    known = {_without_policy(point.plan): point for point in other.points}
    keys = [(point, _without_policy(point.plan)) for point in one.points]
    return [(point, known[key]) for point, key in keys if key in known]


def noise_matched(
    file: ControlFile, policy: PolicySpec
) -> dict[str, list[tuple[Measured, Measured]]]:
    """Plans of a policy beside their own noise-matched constants, by what the mean is of."""
    by_key: dict[tuple[str, str], Measured] = {}
    plans = [one for one in measured(file) if one.plan.policy.name == policy.name]
    for one in plans:
        by_key.setdefault((_without_pooled(one.plan), pooled(one.plan.policy)), one)
    found: dict[str, list[tuple[Measured, Measured]]] = {}
    for (key, own), one in by_key.items():
        for name in ("t", "alpha"):
            if own == "none" and (key, name) in by_key:
                found.setdefault(name, []).append((one, by_key[key, name]))
    return found


def policy_words(policy: PolicySpec) -> str:
    """The policy with its parameters; the gradient as its signal goes without saying."""
    usual = {"signal": "gradient", "pooled": "none"}
    kept = {k: v for k, v in policy.parameters.items() if usual.get(k) != v}
    short: dict[str, Scalar] = {
        k: f"{v:.3g}" if isinstance(v, float) else v for k, v in kept.items()
    }
    return one_line(str(PolicySpec(name=policy.name, parameters=short)), max_length=200)


def scale_words(scale: float) -> str:
    """A lambda."""
    return f"{scale:.0f}" if scale >= 100 else f"{scale:.3g}"


def ppl_of(one: Measured) -> Estimate | None:
    """Gen-PPL, if there was a scorer."""
    found = one.fresh.estimates.get("gen_ppl")
    return found if found is not None and found.low > 0 else None


def plan_words(plan: Plan) -> str:
    """`tta_adaptive (smooth 0.6), lambda 2000, 3 iterations, 50 steps`."""
    guidance, policy = plan.guidance, policy_words(plan.policy)
    if guidance is None or guidance.iterations == 0:
        return f"{policy}, no guidance, {plan.num_steps} steps"
    times = "iteration" if guidance.iterations == 1 else "iterations"
    return (
        f"{policy}, lambda {scale_words(guidance.scale)}, {guidance.iterations} {times},"
        f" {plan.num_steps} steps"
    )


def names_of(file: ControlFile, digest: str) -> list[str]:
    """What a plan was picked as, and whether it is the reference."""
    found = ["reference"] if digest == file.setting.reference else []
    picks = [name for name, picked in sorted(file.picks.items()) if picked == digest]
    return found + [one_line(name, max_length=24) for name in picks]


def trace_name(file: ControlFile, trace: ControlTrace) -> str:
    """`best: tta_adaptive`; the second trace is the same plan without clocks of its own, which
    the search need not have tried."""
    row = next((row for row in file.rows if row.digest == trace.digest), None)
    policy = "the same, constant clocks" if row is None else kind(row.plan.policy)
    names = ", ".join(names_of(file, trace.digest))
    return f"{names}: {policy}" if names else policy


def share(estimate: Estimate) -> str:
    """`90.1 [87.2, 92.6] %`."""
    return f"{interval(scaled(estimate, 100.0))} %"


def points(difference: Estimate) -> str:
    """`+4.1 [+0.9, +7.3] percentage points`, without signs of the ends."""
    plus = "+" if difference.value > 0 else ""
    return f"{plus}{interval(scaled(difference, 100.0))} percentage points"


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """An estimate of `factor` times the quantity."""
    return Estimate(
        value=factor * estimate.value,
        low=factor * estimate.low,
        high=factor * estimate.high,
        n=estimate.n,
    )


def own_ideas(file: ControlFile, plans: Iterable[Plan]) -> list[str]:
    """What of these plans is schedlab's own, not of TTA's paper or code."""
    policies = [plan.policy for plan in plans]
    names = {policy.name for policy in policies}
    clocks = [name for name in names if name.startswith("tta_") and name != CONSTANT]
    found = []
    if file.setting.process != "simplex" and clocks:
        found.append(f"clocks of tokens in the {one_line(file.setting.process)} process")
    if any(pooled(policy) != "none" for policy in policies):
        found.append("noise-matched constants (pooled)")
    signals = {str(policy.parameters.get("signal", "gradient")) for policy in policies}
    if others := sorted(signals - {"gradient", "none"}):
        found.append(f"the signal {one_line(', '.join(others))}")
    if selecting := [name for name in _SELECTING if name in names]:
        found.append(f"the levels of selected tokens ({', '.join(selecting)})")
    if "tta_softmax" in names:
        found.append("the rule of tta_softmax")
    return found


def origin_of(file: ControlFile, plans: Iterable[Plan]) -> Origin:
    """Whose plans a figure shows; intervals are always schedlab's."""
    return "schedlab" if own_ideas(file, plans) else "extended"


def _without_scale(plan: Plan) -> str:
    data = plan.to_json()
    (data.get("guidance") or {}).pop("scale", None)
    return canonical_json(data)


def _without_policy(plan: Plan) -> str:
    data = plan.to_json()
    data.pop("policy")
    return canonical_json(data)


def _without_pooled(plan: Plan) -> str:
    data = plan.to_json()
    data["policy"]["parameters"].pop("pooled", None)
    return canonical_json(data)

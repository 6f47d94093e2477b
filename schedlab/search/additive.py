"""Schedules from additive step costs: no sampling, only sums, sorts and one knapsack.

The scheduled NELBO and the path KL are sums over steps, so a table cost[role, step] scores every
schedule. The heavy denoiser costs zero by definition; a light one may cost less than zero at
steps where it predicts better (the signed loss gap).

Shapes: R roles, K denoising steps (0 is the noisiest), S segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schedlab.errors import InputError
from schedlab.plan import ModelSchedule, segment_bounds
from schedlab.results.importance_file import ImportanceFile
from schedlab.results.search_file import Score
from schedlab.search.space import Assignment

FloatArray = NDArray[np.float64]

MAX_STATES = 200_000
SLACK = 1e-9  # share of a budget that rounding of sums may use


@dataclass(frozen=True)
class StepCosts:
    """What one step of each light role costs, in nats per token of the sequence.

    Args:
        heavy: the role that costs nothing.
        lights: role to K costs, noisiest step first; lower is better.
        score: which quantity it is: `loss_gap` (signed) or `path_kl`.
        states: where it was measured: `forward` process or `heavy_sampler`.
    """

    heavy: str
    lights: Mapping[str, tuple[float, ...]]
    score: Score
    states: str = "forward"

    def __post_init__(self) -> None:
        lengths = {role: len(costs) for role, costs in self.lights.items()}
        if not lengths or len(set(lengths.values())) != 1:
            raise InputError(f"every light role needs costs for the same steps, got {lengths}")
        if self.heavy in self.lights:
            raise InputError(
                f"the heavy role {self.heavy!r} costs zero; remove it from the lights"
            )
        if not np.isfinite(np.array(list(self.lights.values()))).all():
            raise InputError("step costs must be finite, got NaN or infinity")

    @property
    def num_steps(self) -> int:
        """Number of denoising steps K."""
        return len(next(iter(self.lights.values())))

    def of(self, role: str) -> FloatArray:
        """Cost of `role` at every step, shape (K,)."""
        if role == self.heavy:
            return np.zeros(self.num_steps)
        if role not in self.lights:
            raise InputError(
                f"no step costs for role {role!r}; known: {[self.heavy, *self.lights]}; analyze it"
            )
        return np.array(self.lights[role])

    def of_segments(self, role: str, num_segments: int) -> FloatArray:
        """Cost of `role` in every segment, shape (S,)."""
        return np.add.reduceat(self.of(role), segment_bounds(num_segments, self.num_steps)[:-1])


def step_costs(
    importance: ImportanceFile,
    *,
    heavy: str,
    num_steps: int,
    lights: Sequence[str],
    prefix: bool = False,
) -> list[StepCosts]:
    """Tables of an analysis: the excess NELBO, then the path KL, exact states first.

    Args:
        importance: what an analysis found.
        heavy: the role that schedules start from.
        num_steps: T of the schedules.
        lights: roles wanted; those that were not analyzed are left out.
        prefix: take the scores given a prefix, where the analysis has them.

    Raises:
        InputError: the analysis is for another number of steps or another heavy role.
    """
    setting = importance.setting
    if setting.heavy != heavy:
        raise InputError(
            f"the analysis compares with heavy role {setting.heavy!r}, the plans have {heavy!r};"
            " analyze again"
        )
    prefix = prefix and any(scores.prefix for scores in importance.step_scores)
    found = [
        scores
        for scores in importance.step_scores
        if scores.light in lights and scores.prefix == prefix
    ]
    if wrong := [scores.num_steps for scores in found if scores.num_steps != num_steps]:
        raise InputError(
            f"the analysis is for {wrong[0]} steps, the plans have {num_steps}; analyze again"
        )
    tables = []
    wanted: list[tuple[Score, str]] = [
        ("loss_gap", "forward"),
        ("path_kl", "heavy_sampler"),
        ("path_kl", "forward"),
    ]
    for score, states in wanted:
        costs = {s.light: getattr(s, score) for s in found if s.states == states}
        if costs:
            by_role = {role: tuple(costs[role]) for role in lights if role in costs}
            tables.append(StepCosts(heavy, by_role, score, states))
    return tables


def additive_score(costs: StepCosts, schedule: ModelSchedule) -> float:
    """Sum of the step costs of a schedule, nats per token; lower is better.

    For `loss_gap` this is the schedule's NELBO minus all-heavy's; for `path_kl` (states from the
    heavy sampler) the KL of the heavy trajectory law to the schedule's.

    Raises:
        InputError: another number of steps, or a role without costs.
    """
    if schedule.num_steps != costs.num_steps:
        raise InputError(
            f"step costs are for {costs.num_steps} steps, the schedule has {schedule.num_steps};"
            " analyze at the schedule's number of steps"
        )
    steps = np.array(schedule.steps)
    return float(sum(costs.of(role)[steps == role].sum() for role in schedule.roles))


def sorted_schedule(costs: StepCosts, light: str, num_light: int) -> ModelSchedule:
    """The best schedule for the additive score with exactly `num_light` light steps.

    On a uniform grid every light step saves the same, so sorting is optimal. Ties go to noisier
    steps.
    """
    light_K = _mark(costs.of(light), num_light)
    return ModelSchedule.from_steps(light if is_light else costs.heavy for is_light in light_K)


def sorted_assignment(
    costs: StepCosts, light: str, num_light: int, num_segments: int
) -> Assignment:
    """`sorted_schedule` at segment granularity: exactly `num_light` light segments of S."""
    light_S = _mark(costs.of_segments(light, num_segments), num_light)
    return tuple(light if is_light else costs.heavy for is_light in light_S)


def best_assignment(
    costs: StepCosts, share: Mapping[str, float], budget: float, num_segments: int
) -> Assignment:
    """The assignment of any roles with the lowest additive score within a budget.

    Args:
        costs: additive step costs.
        share: role to the cost of one step, as a share of heavy's: the roles that may be used.
        budget: as a share of all-heavy's cost.
        num_segments: S.
    """
    bounds = segment_bounds(num_segments, costs.num_steps)
    whole = StepCosts(
        costs.heavy,
        {
            role: tuple(costs.of_segments(role, num_segments))
            for role in costs.lights
            if role in share
        },
        costs.score,
        costs.states,
    )
    flops = {role: share[role] * np.diff(bounds) for role in (whole.heavy, *whole.lights)}
    return tuple(best_schedule(whole, flops, budget * costs.num_steps).steps)


def best_schedule(
    costs: StepCosts,
    flops: Mapping[str, ArrayLike],
    budget: float,
    *,
    max_states: int = MAX_STATES,
) -> ModelSchedule:
    """The schedule with the lowest additive score whose FLOPs stay within a budget.

    A multiple-choice knapsack (one role per step), solved by dynamic programming over
    non-dominated (FLOPs, score) states, so any number of roles and unequal costs are exact. With
    more than `max_states` states the FLOPs are rounded up to budget / max_states: never over the
    budget, optimal for the rounded costs.

    Args:
        costs: additive step costs.
        flops: role to FLOPs of one step, or of each of the K steps (expected forwards, other
        grids).
        budget: FLOPs of the whole schedule, in the same unit.

    Raises:
        InputError: no schedule is within the budget, or a role's FLOPs are missing or not
        positive.
    """
    roles = [costs.heavy, *costs.lights]
    flops_RK = np.array([_flops_of(flops, role, costs.num_steps) for role in roles])
    cost_RK = np.array([costs.of(role) for role in roles])
    lowest = float(flops_RK.min(axis=0).sum())
    if not lowest <= budget * (1 + SLACK):
        raise InputError(
            f"the cheapest schedule needs {lowest:.4g} FLOPs, more than the budget of"
            f" {budget:.4g}; raise the budget"
        )
    choice_K = _knapsack(flops_RK / budget, cost_RK, max_states)
    return ModelSchedule.from_steps(roles[choice] for choice in choice_K)


def _mark(cost_N: FloatArray, num_light: int) -> NDArray[np.bool_]:
    """True at the `num_light` places with the lowest cost."""
    if not 0 <= num_light <= len(cost_N):
        raise InputError(
            f"number of light steps or segments must be between 0 and {len(cost_N)},"
            f" got {num_light}"
        )
    order = np.argsort(cost_N, kind="stable")
    marked = np.zeros(len(cost_N), dtype=bool)
    marked[order[:num_light]] = True
    return marked


def _flops_of(flops: Mapping[str, ArrayLike], role: str, num_steps: int) -> FloatArray:
    if role not in flops:
        raise InputError(f"FLOPs of role {role!r} are missing; known: {sorted(flops)}")
    flops_K = np.broadcast_to(np.asarray(flops[role], dtype=np.float64), (num_steps,))
    if not (np.isfinite(flops_K).all() and (flops_K > 0).all()):
        raise InputError(f"FLOPs of role {role!r} must be positive and finite")
    return flops_K


def _knapsack(share_RK: FloatArray, cost_RK: FloatArray, max_states: int) -> list[int]:
    """Role per step, for shares of the budget. N states: partial sums that none dominates."""
    num_steps = share_RK.shape[1]
    # What the remaining steps need at least: states that cannot finish within the budget are cut.
    rest_K = np.append(share_RK.min(axis=0)[::-1].cumsum()[::-1][1:], 0.0)
    share_N, cost_N = np.zeros(1), np.zeros(1)
    parents: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for k in range(num_steps):
        limit = 1 + SLACK - rest_K[k]
        # Sums of equal parts in another order differ in the last bits; rounding makes them one
        # state.
        share_M = (share_N + share_RK[:, k, None]).ravel().round(12)  # (R * N,)
        cost_M = (cost_N + cost_RK[:, k, None]).ravel().round(15)
        keep_M = _non_dominated_states(share_M, cost_M, limit)
        if len(keep_M) > max_states:
            # Up to a multiple of 1 / max_states, but not beyond what still lets the state finish.
            coarse_M = np.minimum(np.ceil(share_M * max_states) / max_states, limit)
            share_M = np.where(share_M <= limit, coarse_M, share_M)
            keep_M = _non_dominated_states(share_M, cost_M, limit)
        parents.append((keep_M // len(share_N), keep_M % len(share_N)))
        share_N, cost_N = share_M[keep_M], cost_M[keep_M]
    state = int(np.argmin(cost_N))
    choice: list[int] = []
    for role_N, parent_N in reversed(parents):
        choice.append(int(role_N[state]))
        state = int(parent_N[state])
    return choice[::-1]


def _non_dominated_states(
    share_M: FloatArray, cost_M: FloatArray, limit: float
) -> NDArray[np.int64]:
    """Indices, by rising share, of states within `limit` that are better than all cheaper ones."""
    order_M = np.lexsort((cost_M, share_M))
    order_M = order_M[share_M[order_M] <= limit]
    best_before_M = np.minimum.accumulate(np.append(np.inf, cost_M[order_M]))[:-1]
    return np.asarray(order_M[cost_M[order_M] < best_before_M])

"""Areas and interpolation over whole arrays, against plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_policies import PolicyWorld, linear, policies_job

from schedlab.errors import InputError
from schedlab.search.front import hypervolume, non_dominated
from schedlab.search.policy_bench import FreshColumns, PolicyBench, front_area, loss_at
from schedlab.search.policy_sweep import PlanSpace

COORDINATE = st.one_of(
    st.integers(0, 5).map(lambda n: n / 4), st.floats(0, 1.5, allow_subnormal=False)
)
POINTS = st.lists(st.tuples(COORDINATE, COORDINATE), min_size=1, max_size=12)


@settings(max_examples=150)
@given(POINTS, COORDINATE, COORDINATE)
def test_the_area_of_a_front_is_its_hypervolume(
    points: list[tuple[float, float]], worst: float, dearest: float
) -> None:
    loss, cost = np.array(points).T
    front = np.flatnonzero(non_dominated(loss, cost))
    front = front[np.lexsort((-loss[front], cost[front]))]  # from cheap to dear, from bad to good
    expected = hypervolume(loss, cost, (worst, dearest))
    found = front_area(loss[front], cost[front], (worst, dearest))
    assert found == pytest.approx(expected, abs=1e-12)


def area_by_budgets(loss, cost, worst: float, dearest: float) -> float:
    """For every budget the last plan in order that it pays for, whatever its loss."""
    edges = [*sorted({min(c, dearest) for c in cost}), dearest]
    total = 0.0
    for low, high in itertools.pairwise(edges):
        taken = max(n for n, c in enumerate(cost) if c <= low)
        total += (high - low) * (worst - min(loss[taken], worst))
    return total


@settings(max_examples=150)
@given(POINTS, COORDINATE, COORDINATE)
def test_plans_are_taken_in_the_order_that_was_chosen(
    points: list[tuple[float, float]], worst: float, dearest: float
) -> None:
    loss, cost = np.array(points).T
    expected = area_by_budgets(loss, cost, worst, dearest) if min(cost) < dearest else 0.0
    assert front_area(loss, cost, (worst, dearest)) == pytest.approx(expected, abs=1e-12)


def test_more_plans_are_no_better_by_chance() -> None:
    """All plans lose the same in truth: 40 of them dominate no more than 5 on average, which the
    best of what was measured would (4 standard errors, fixed seed)."""
    rng = np.random.default_rng(3)
    differences = []
    for _ in range(2_000):
        areas = [
            front_area(0.5 + 0.1 * rng.standard_normal(n), np.linspace(0.1, 0.9, n), (5.0, 1.0))
            for n in (40, 5)
        ]
        differences.append(areas[0] - areas[1])
    assert abs(np.mean(differences)) < 4 * np.std(differences) / np.sqrt(len(differences))


def test_many_fronts_at_once_are_each_by_itself() -> None:
    rng = np.random.default_rng(0)
    loss, cost = rng.uniform(0, 1.2, (2, 7, 50, 6))
    found = front_area(loss, cost, (1.0, 1.0))
    assert found.shape == (7, 50)
    for index in np.ndindex(7, 50):
        assert found[index] == pytest.approx(area_by_budgets(loss[index], cost[index], 1.0, 1.0))


def by_loop(at: float, losses: list[float], costs: list[float]) -> float:
    """Straight lines between neighbours in cost; of equal costs the first on the way up, and the
    last on the way on."""
    order = sorted(range(len(costs)), key=lambda n: costs[n])  # stable
    if at <= costs[order[0]]:
        return losses[order[0]]
    for left, right in itertools.pairwise(order):
        if costs[left] < at <= costs[right]:
            share = (at - costs[left]) / (costs[right] - costs[left])
            return losses[left] + share * (losses[right] - losses[left])
    return losses[order[-1]]


@settings(max_examples=150)
@given(POINTS, COORDINATE)
def test_the_loss_at_a_cost_is_interpolated(points: list[tuple[float, float]], at: float) -> None:
    losses, costs = (list(column) for column in zip(*points, strict=True))
    found = loss_at(np.array(at), np.array(losses), np.array(costs))
    assert found.shape == ()
    assert float(found) == pytest.approx(by_loop(at, losses, costs), abs=1e-9)
    assert min(losses) - 1e-12 <= float(found) <= max(losses) + 1e-12


def test_many_curves_at_once_are_each_by_itself() -> None:
    rng = np.random.default_rng(1)
    losses, costs = rng.random((2, 3, 40, 5))
    at = rng.uniform(-0.2, 1.2, (3, 40))
    found = loss_at(at, losses, costs)
    for index in np.ndindex(3, 40):
        expected = by_loop(at[index], losses[index].tolist(), costs[index].tolist())
        assert found[index] == pytest.approx(expected)


@pytest.mark.parametrize("quality", ["accuracy", "gen_ppl", "duel"])
def test_losses_and_costs_are_those_of_the_sequences(quality: str) -> None:
    job = policies_job(quality=quality)
    space = PlanSpace(job, 0)
    bench = PolicyBench(job, PolicyWorld(quality=quality, shared=0.1), space.reference())
    plans = [proposal.plan for proposal in space.sweep("threshold")]
    bench.measure(plans)
    bench.measure_fresh(plans)
    shared = np.concatenate(
        [np.random.default_rng([b.seed, b.first]).standard_normal(b.size) for b in job.blocks()]
    )
    for plan, forwards in zip(plans, (4, 10, 16, 22, 28), strict=True):
        assert bench.loss(plan) == pytest.approx(linear(forwards) + 0.1 * shared.mean())
        assert bench.cost(plan) == pytest.approx(forwards / 28)
    assert {(b.seed, b.first) for b in job.blocks()}.isdisjoint(
        (b.seed, b.first) for b in job.fresh_blocks()
    )
    columns = FreshColumns.of(bench, plans)
    assert columns.top_SN.shape == columns.cost_SN.shape == (16, 5)
    ratio = columns.top_SN.mean(0) / columns.bottom_SN.mean(0)
    difference = ratio - [linear(n) for n in (4, 10, 16, 22, 28)]
    np.testing.assert_allclose(difference, difference[0])  # the fresh difficulty of all


def test_forwards_are_counted_of_one_denoiser() -> None:
    job = policies_job(cost="forwards")
    space = PlanSpace(job, 0)
    bench = PolicyBench(job, PolicyWorld(), space.reference())
    plans = [proposal.plan for proposal in space.sweep("threshold")]
    bench.measure(plans)
    assert [28 * bench.cost(plan) for plan in plans] == pytest.approx([4, 10, 16, 22, 28])


@pytest.mark.parametrize("cost", ["block_forwards", "flops_total", "seconds"])
def test_costs_are_what_the_job_counts(cost: str) -> None:
    job = policies_job(cost=cost, lights=True, schedules=[["H"], ["L", "H"]])
    space = PlanSpace(job, 0)
    bench = PolicyBench(job, PolicyWorld(), space.reference())
    heavy, mixed = ([p.plan for p in space.sweep("threshold") if p.curve.schedule == name][-1]
                    for name in ("H", "L H"))  # fmt: skip
    bench.measure([heavy, mixed])
    # 28 forwards of 12 blocks, and 14 each of 4 and 12; 100 FLOPs a forward and 10 a position.
    expected = {"block_forwards": (14 * 4 + 14 * 12) / (28 * 12)}.get(cost, 1.0)
    assert bench.cost(heavy) == pytest.approx(1.0)
    assert bench.cost(mixed) == pytest.approx(expected)


def test_perplexity_that_was_not_measured_is_said_to_be_missing() -> None:
    job = policies_job(quality="gen_ppl")
    bench = PolicyBench(job, PolicyWorld(quality="accuracy"), PlanSpace(job, 0).reference())
    bench.measure([])
    with pytest.raises(InputError, match="'gen_ppl' was not measured; name a scorer"):
        bench.loss(bench.reference)

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedlab.errors import InputError
from schedlab.plan import ModelSchedule
from schedlab.results.importance_file import ImportanceFile, ImportanceSetting, StepScores
from schedlab.search.additive import (
    StepCosts,
    additive_score,
    best_schedule,
    sorted_assignment,
    sorted_schedule,
    step_costs,
)
from schedlab.search.space import assignments

COSTS = StepCosts(
    heavy="H",
    lights={"L": (0.5, -0.1, 0.4, 0.1, 0.0, 0.2), "M": (0.3, 0.0, 0.1, 0.0, -0.1, 0.2)},
    score="loss_gap",
)


def brute_force(
    costs: StepCosts, flops: dict[str, np.ndarray], budget: float
) -> tuple[float, float]:
    """Lowest score within the budget by trying every schedule, and its FLOPs."""
    best = (np.inf, np.inf)
    for steps in itertools.product([costs.heavy, *costs.lights], repeat=costs.num_steps):
        total = sum(flops[role][k] for k, role in enumerate(steps))
        if total <= budget * (1 + 1e-9):
            score = additive_score(costs, ModelSchedule.from_steps(steps))
            best = min(best, (score, total))
    return best


def test_the_score_is_the_sum_over_light_steps() -> None:
    assert additive_score(COSTS, ModelSchedule.parse("H6")) == 0
    assert additive_score(COSTS, ModelSchedule.parse("L2 H2 M2")) == pytest.approx(0.5)
    with pytest.raises(InputError, match="for 6 steps, the schedule has 5"):
        additive_score(COSTS, ModelSchedule.parse("H5"))
    with pytest.raises(InputError, match="no step costs for role 'Q'"):
        additive_score(COSTS, ModelSchedule.parse("Q6"))


def test_sorting_finds_the_best_at_every_number_of_light_steps() -> None:
    for count in range(7):
        scores = [
            additive_score(COSTS, ModelSchedule.from_steps(steps))
            for steps in itertools.product("HL", repeat=6)
            if steps.count("L") == count
        ]
        best = sorted_schedule(COSTS, "L", count)
        assert best.count("L") == count
        assert additive_score(COSTS, best) == pytest.approx(min(scores))


def test_sorting_segments_finds_the_best_assignment() -> None:
    for count in range(4):
        best = min(
            assignments(3, num_light=count),
            key=lambda a: additive_score(COSTS, ModelSchedule.from_assignment(a, 6)),
        )
        assert sorted_assignment(COSTS, "L", count, 3) == best


def test_segment_costs_are_sums_over_unequal_segments() -> None:
    np.testing.assert_allclose(COSTS.of_segments("L", 4), [0.5, 0.3, 0.1, 0.2])
    assert COSTS.of_segments("L", 6) == pytest.approx(COSTS.of("L"))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 1.0), st.booleans())
def test_the_knapsack_agrees_with_brute_force(seed: int, slack: float, equal: bool) -> None:
    rng = np.random.default_rng(seed)
    costs = StepCosts(
        heavy="H", lights={role: tuple(rng.normal(0.1, 0.2, 6)) for role in "LM"}, score="path_kl"
    )
    if equal:
        flops = {role: np.full(6, unit) for role, unit in {"H": 1.2, "M": 0.8, "L": 0.4}.items()}
    else:
        flops = {role: rng.uniform(0.1, 1.0, 6) for role in "HLM"}
    table = np.array(list(flops.values()))
    lowest, highest = table.min(axis=0).sum(), table.max(axis=0).sum()
    budget = lowest + slack * (highest - lowest)
    found = best_schedule(costs, {role: tuple(row) for role, row in flops.items()}, budget)
    total = sum(flops[role][k] for k, role in enumerate(found.steps))
    assert total <= budget * (1 + 1e-8)
    assert additive_score(costs, found) == pytest.approx(brute_force(costs, flops, budget)[0])


def test_on_a_uniform_grid_the_knapsack_is_the_sort() -> None:
    rng = np.random.default_rng(0)
    costs = StepCosts(heavy="H", lights={"L": tuple(rng.uniform(0.1, 1, 200))}, score="path_kl")
    for count in (0, 1, 50, 199, 200):
        budget = 12.0 * (200 - count) + 4.0 * count
        assert best_schedule(costs, {"H": 12.0, "L": 4.0}, budget) == sorted_schedule(
            costs, "L", count
        )


def test_a_step_where_the_light_model_is_better_is_light_whatever_the_budget() -> None:
    found = best_schedule(COSTS, {"H": 3.0, "M": 2.0, "L": 1.0}, budget=100.0)
    assert additive_score(COSTS, found) == pytest.approx(-0.2)


def test_with_few_states_the_budget_still_holds_and_the_loss_is_small() -> None:
    rng = np.random.default_rng(1)
    costs = StepCosts(
        heavy="H", lights={role: tuple(rng.uniform(0, 1, 40)) for role in "LM"}, score="path_kl"
    )
    flops = {role: rng.uniform(low, low + 1, 40) for role, low in {"H": 3, "M": 2, "L": 1}.items()}
    arguments = {role: tuple(row) for role, row in flops.items()}
    exact = best_schedule(costs, arguments, budget=100.0)
    rough = best_schedule(costs, arguments, budget=100.0, max_states=400)
    for schedule in (exact, rough):
        assert sum(flops[role][k] for k, role in enumerate(schedule.steps)) <= 100.0 * (1 + 1e-8)
    assert additive_score(costs, exact) <= additive_score(costs, rough)
    assert additive_score(costs, rough) <= 1.05 * additive_score(costs, exact)


def test_an_impossible_budget_says_what_is_needed() -> None:
    with pytest.raises(InputError, match="needs 6 FLOPs, more than the budget of 5"):
        best_schedule(COSTS, {"H": 3.0, "M": 2.0, "L": 1.0}, budget=5.0)
    with pytest.raises(InputError, match="FLOPs of role 'M' are missing"):
        best_schedule(COSTS, {"H": 3.0, "L": 1.0}, budget=50.0)
    with pytest.raises(InputError, match="must be positive and finite"):
        best_schedule(COSTS, {"H": 3.0, "L": 1.0, "M": float("nan")}, budget=50.0)


@pytest.mark.parametrize(
    ("lights", "message"),
    [
        ({}, "needs costs"),
        ({"L": (0.1,), "M": (0.1, 0.2)}, "same steps"),
        ({"H": (0.1,)}, "costs zero"),
        ({"L": (float("nan"),)}, "finite"),
    ],
)
def test_tables_that_do_not_make_sense_are_refused(lights: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        StepCosts(heavy="H", lights=lights, score="loss_gap")


def analysis(num_steps: int = 2, *, prefix: bool = False) -> ImportanceFile:
    """An importance file with the scores of L and M."""
    flat = [0.0] * num_steps

    def scores(light: str, states: str, value: float) -> StepScores:
        forward = states == "forward"
        return StepScores(
            heavy="H",
            light=light,
            states=states,
            prefix=prefix,
            num_steps=num_steps,
            loss_gap=[value] * num_steps if forward else None,
            loss_gap_low=flat if forward else None,
            loss_gap_high=flat if forward else None,
            path_kl=[value + (2 if forward else 1)] * num_steps,
            path_kl_low=flat,
            path_kl_high=flat,
        )

    setting = ImportanceSetting(
        num_sequences=4, length=8, prefix_length=0, seed=0, precision="float64",
        corpus_fingerprint="", heavy="H", heavy_b=None, lights=["L", "M"], levels=2,
        bootstrap_resamples=100, states=["forward", "heavy_sampler"],
    )  # fmt: skip
    return ImportanceFile(
        setting=setting,
        curves=[],
        step_scores=[
            scores("L", "forward", 0.1),
            scores("L", "heavy_sampler", 0.1),
            scores("M", "forward", 0.05),
            scores("M", "heavy_sampler", 0.05),
        ],
        nelbo={},
        significance=[],
        propagation=[],
    )


def test_tables_of_an_analysis_come_in_a_fixed_order_with_exact_states_first() -> None:
    tables = step_costs(analysis(), heavy="H", num_steps=2, lights=["L", "M"])
    assert [(table.score, table.states) for table in tables] == [
        ("loss_gap", "forward"),
        ("path_kl", "heavy_sampler"),
        ("path_kl", "forward"),
    ]
    assert [table.lights["L"][0] for table in tables] == pytest.approx([0.1, 1.1, 2.1])
    assert list(tables[0].lights) == ["L", "M"]


def test_given_a_prefix_the_scores_given_a_prefix_are_taken() -> None:
    for analyzed in (False, True):
        found = step_costs(
            analysis(prefix=analyzed), heavy="H", num_steps=2, lights=["L"], prefix=True
        )
        assert len(found) == 3


def test_an_analysis_of_other_steps_or_another_heavy_is_refused() -> None:
    with pytest.raises(InputError, match="for 2 steps, the plans have 3; analyze again"):
        step_costs(analysis(), heavy="H", num_steps=3, lights=["L"])
    with pytest.raises(InputError, match="heavy role 'H', the plans have 'M'"):
        step_costs(analysis(), heavy="M", num_steps=2, lights=["L"])

"""Tuning of a policy: what may be chosen, what is found, how it goes on where it was cut off."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from planted_policies import forwards_of, policies_job

from schedlab.errors import InputError, SchedlabError
from schedlab.plan import Plan
from schedlab.plan.plan import PolicyName, Scalar
from schedlab.plan.policy_space import POLICY_SPACES
from schedlab.policies import (
    COMMIT_POLICIES,
    UNIFORM_POLICIES,
    check_policy,
    commit_policy,
    default_parameters,
)
from schedlab.search.front import hypervolume
from schedlab.search.policy_sweep import PlanSpace
from schedlab.search.tuning import Found, TuningSpace, tune

NAMES = get_args(PolicyName)


def space_for(name: PolicyName, prefix: int = 0, **table: object) -> TuningSpace:
    settings: dict[str, Any] = {"names": ["threshold"], "tuned": [name], "lights": True}
    if name in UNIFORM_POLICIES:
        settings |= {"names": ["ancestral"], "plan": {"process": "uniform"}}
    job = policies_job(**settings | table)
    return TuningSpace(PlanSpace(job, prefix), name)


def drawn(distributions: dict[str, BaseDistribution], rng: np.random.Generator) -> dict[str, Any]:
    """A point of the space, evenly on every scale."""
    values: dict[str, Any] = {}
    for name, known in distributions.items():
        if isinstance(known, CategoricalDistribution):
            values[name] = known.choices[rng.integers(len(known.choices))]
        elif isinstance(known, FloatDistribution):
            u = rng.random()
            values[name] = (
                known.low * (known.high / known.low) ** u
                if known.log
                else known.low + u * (known.high - known.low)
            )
            values[name] = min(max(values[name], known.low), known.high)
        else:
            assert isinstance(known, IntDistribution)
            values[name] = int(rng.integers(known.low, known.high + 1))
    return values


@pytest.mark.parametrize("name", NAMES)
def test_whatever_is_chosen_is_a_plan_that_runs(name: PolicyName) -> None:
    for parts, blocks in ((0, [0]), (5, [0, 9, 6]), (12, [4, 0])):
        space = space_for(
            name, temperatures=[0.0, 0.7, 1.0], block_lengths=blocks, schedule_parts=parts
        )
        rng = np.random.default_rng(parts)
        distributions = space.distributions
        assert distributions["temperature"].choices == (0.0, 0.7, 1.0)  # type: ignore[attr-defined]
        assert ("block_length" in distributions) == (name in COMMIT_POLICIES and len(blocks) > 1)
        assert sum(key.startswith("part_") for key in distributions) == parts
        seen = set()
        for _ in range(25):
            values = drawn(distributions, rng)
            plan = space.plan(values)
            seen.add(plan)
            check_policy(plan.policy)
            assert plan.num_steps >= max(1, parts) and plan.decoding.temperature in (0, 0.7, 1)
            assert set(plan.model_schedule.roles) <= {"H", "L"}
            for parameter, range_ in POLICY_SPACES[name].ranges.items():
                assert range_.low <= plan.policy.parameters[parameter] <= range_.high  # type: ignore[operator]
            if name in COMMIT_POLICIES:
                policy = commit_policy(name, plan.policy.parameters)
                policy.check_steps(plan.num_steps, -(-36 // policy.block_size(36)))
        assert len(seen) >= 3


@pytest.mark.parametrize("name", ["ancestral", "psi"])
def test_grids_and_top_p_are_tuned_where_steps_lie_on_a_grid(name: PolicyName) -> None:
    space = space_for(name, grid_points=4, top_ps=[1.0, 0.9], temperatures=[1.0])
    names = set(space.distributions)
    # The last part is what the others are compared with.
    assert {"top_p", "fall_00", "fall_02"} <= names and "fall_03" not in names
    rng = np.random.default_rng(0)
    plans = [space.plan(drawn(space.distributions, rng)) for _ in range(20)]
    for plan in plans:
        assert len(plan.time_grid) == plan.num_steps and plan.time_grid[0] == 1.0
    assert len({tuple(plan.time_grid) for plan in plans}) > 10
    assert {plan.decoding.top_p for plan in plans} == {1.0, 0.9}
    uniform = space.plan(space.seeds(default_parameters(name))[-1])
    assert uniform.time_grid == "uniform"
    plain = space_for("threshold", grid_points=4)
    assert not any(key.startswith("fall") for key in plain.distributions)


@pytest.mark.parametrize("name", NAMES)
def test_the_seeds_are_the_sweep_with_defaults_for_the_rest(name: PolicyName) -> None:
    space = space_for(name, temperatures=[1.0, 0.5], schedule_parts=2)
    seeds = space.seeds(default_parameters(name))
    plans = [space.plan(values) for values in seeds]
    swept = [
        p.plan
        for p in space.plans.sweep(name)
        if p.plan.num_steps >= 2 and p.plan.decoding.temperature == 1.0
    ]
    assert [plan.num_steps for plan in plans] == [plan.num_steps for plan in swept]
    defaults = default_parameters(name)
    for plan, same in zip(plans, swept, strict=True):
        assert plan.model_schedule == same.model_schedule
        for key, value in plan.policy.parameters.items():
            expected = same.policy.parameters.get(key, defaults[key])
            assert value == pytest.approx(expected), key
    for values in seeds:
        assert set(values) == set(space.distributions)
        for key, known in space.distributions.items():
            assert known._contains(known.to_internal_repr(values[key])), key


def test_what_the_job_fixes_is_not_tuned() -> None:
    fixed = {"temporal": 0.25, "threshold": 0.5, "block_length": 12}
    space = space_for("stdd", parameters={"stdd": fixed}, block_lengths=[0, 6])
    names = set(space.distributions)
    assert not names & {"temporal", "1 - threshold", "threshold", "block_length"}
    assert "spatial" in names
    (only,) = space.seeds(default_parameters("stdd"))
    assert space.plan(only).policy.parameters.items() >= fixed.items()


def test_tuned_steps_are_any_number_that_spreads_over_the_blocks() -> None:
    space = space_for("surelock", points=2, block_lengths=[9])
    rng = np.random.default_rng(0)
    steps = {space.plan(drawn(space.distributions, rng)).num_steps for _ in range(200)}
    assert steps == {4, 8, 12, 16, 20, 24, 28}


def test_more_parts_than_steps_are_refused_in_one_line() -> None:
    space = space_for("low_confidence", prefix=30, schedule_parts=10)
    with pytest.raises(InputError, match="schedule_parts 10: .*has 6 steps at most") as caught:
        space.seeds(default_parameters("low_confidence"))
    assert "\n" not in str(caught.value)


# A planted optimum: loss falls with cost, and is least where three parameters are right.

FIXED: dict[str, Scalar] = {
    "window": 4, "neighbours": 2, "lowest": 0.3, "fast": 0.9, "slow": 1.0, "fast_calls": 2,
    "fast_quantile": 0.5, "unseen_spread": 0.2,
}  # fmt: skip
BEST = {"temporal": 0.9, "spatial": -0.6}


def planted(plan: Plan) -> Found:
    parameters = plan.policy.parameters
    off = sum(((float(parameters[name]) - best) / 2) ** 2 for name, best in BEST.items())
    cost = forwards_of(plan) / 28
    return Found(0.6 - 0.3 * cost + 0.5 * off, cost)


def evaluated(plans: Sequence[Plan]) -> list[Found]:
    return [planted(plan) for plan in plans]


def tuned(
    space: TuningSpace,
    evaluate: Callable[[Sequence[Plan]], Sequence[Found]] = evaluated,
    *,
    num_trials: int = 24,
    seed: Sequence[int] = (0, 0),
    sampler: Literal["gp", "tpe"] = "gp",
    **more: Any,
) -> list[Plan]:
    defaults = default_parameters(space.name)
    return tune(space, evaluate, defaults=defaults, num_trials=num_trials, seed=seed,
                sampler=sampler, **more)  # fmt: skip


def area(plans: Sequence[Plan]) -> float:
    found = evaluated(plans)
    return hypervolume([one.loss for one in found], [one.cost for one in found], (1.0, 1.0))


def test_the_planted_optimum_is_found_sooner_than_by_chance() -> None:
    """A search that drew at random would be the best of 21 once in 21 runs; seeds are fixed."""
    space = space_for("stdd", parameters={"stdd": FIXED}, points=3)
    plans = tuned(space, num_trials=30)
    assert len(plans) == 33
    rng = np.random.default_rng(1)
    seeds = [space.plan(values) for values in space.seeds(default_parameters("stdd"))]
    assert plans[:3] == seeds
    by_chance = [
        area([*seeds, *(space.plan(drawn(space.distributions, rng)) for _ in range(30))])
        for _ in range(20)
    ]
    assert area(plans) > max(by_chance)
    off = [
        max(abs(float(p.policy.parameters[name]) - best) for name, best in BEST.items())
        for p in plans[-10:]
    ]
    assert np.median(off) < 0.35


@pytest.mark.parametrize(("sampler", "dies"), [("gp", 16), ("tpe", 2), ("tpe", 16)])
def test_a_search_killed_between_ask_and_tell_proposes_the_same_plans(
    tmp_path: Path, sampler: Literal["gp", "tpe"], dies: int
) -> None:
    space = space_for(
        "stdd", parameters={"stdd": FIXED}, points=3, schedule_parts=2, temperatures=[0.5, 1.0]
    )
    known = {"sampler": sampler, "num_trials": 17, "constrained": True}
    straight = tuned(space, **known)  # type: ignore[arg-type]
    calls = itertools.count()

    def dying(plans: Sequence[Plan]) -> list[Found]:
        if next(calls) == dies:
            raise KeyboardInterrupt
        return evaluated(plans)

    killed = tmp_path / "killed.db"
    with pytest.raises(KeyboardInterrupt):
        tuned(space, dying, storage=killed, **known)  # type: ignore[arg-type]
    asked: list[Plan] = []

    def counted(plans: Sequence[Plan]) -> list[Found]:
        asked.extend(plans)
        return evaluated(plans)

    assert tuned(space, counted, storage=killed, **known) == straight  # type: ignore[arg-type]
    assert len(asked) == 17 - (dies - 1)  # nothing that was told is asked again
    assert tuned(space, counted, storage=killed, **known) == straight  # type: ignore[arg-type]
    assert len(asked) == 17 - (dies - 1)


def test_more_trials_go_on_and_other_settings_begin_anew(tmp_path: Path) -> None:
    space, storage = space_for("stdd", parameters={"stdd": FIXED}, points=2), tmp_path / "db"
    few = tuned(space, sampler="tpe", num_trials=3, storage=storage)
    more = tuned(space, sampler="tpe", num_trials=6, storage=storage)
    assert more[: len(few)] == few
    assert tuned(space, sampler="tpe", num_trials=3, storage=storage) == few
    with pytest.warns(UserWarning, match="belongs to a search with other settings"):
        tuned(space, sampler="tpe", num_trials=3, storage=storage, fingerprint="other")


def test_seeds_give_other_proposals_and_equal_seeds_equal_ones() -> None:
    space = space_for("stdd", parameters={"stdd": FIXED}, points=2)
    one, same, other, repeat = (
        tuned(space, sampler="tpe", num_trials=4, seed=seed)
        for seed in ((1, 0), (1, 0), (2, 0), (1, 1))
    )
    assert one == same and one[:2] == other[:2] == repeat[:2]
    assert len({*one[2:], *other[2:], *repeat[2:]}) == 12


@pytest.mark.parametrize("name", ["surelock", "p2", "remdm_cap", "ancestral", "dilated"])
def test_policies_of_steps_and_those_without_a_knob_are_tuned(name: PolicyName) -> None:
    space = space_for(name, points=3, block_lengths=[0, 9], temperatures=[0.5, 1.0])

    def by_steps(plans: Sequence[Plan]) -> list[Found]:
        return [Found(1 / plan.num_steps + plan.decoding.temperature, plan.num_steps / 28)
                for plan in plans]  # fmt: skip

    plans = tuned(space, by_steps, sampler="tpe", num_trials=20)
    assert len(plans) > 3 and {p.policy.name for p in plans} == {name}
    # Half as warm is better at every cost.
    temperatures = [p.decoding.temperature for p in plans[-10:]]
    assert {p.decoding.temperature for p in plans} == {0.5, 1.0} and min(temperatures) == 0.5


def test_a_policy_with_nothing_to_tune_is_its_sweep() -> None:
    plans = tuned(space_for("first_hitting"), lambda plans: [Found(0.5, 0.5) for _ in plans],
                  num_trials=2, sampler="tpe")  # fmt: skip
    assert len(plans) == 1


def test_losses_that_are_not_finite_stop_the_search() -> None:
    space = space_for("stdd", points=2)
    with pytest.raises(SchedlabError, match="must be finite"):
        tuned(space, lambda plans: [Found(float("nan"), 1.0) for _ in plans], num_trials=1)

"""Sweeps: which plans stand on a policy's curve."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
from planted_policies import policies_job

from schedlab.errors import InputError
from schedlab.plan.plan import PolicyName
from schedlab.plan.policy_space import POLICY_SPACES, space_of
from schedlab.policies import COMMIT_POLICIES, UNIFORM_POLICIES, check_policy, commit_policy
from schedlab.search.policy_sweep import PlanSpace, Proposal

NAMES = get_args(PolicyName)


def sweep(name: PolicyName, prefix: int = 0, **table: object) -> list[Proposal]:
    process = {"process": "uniform"} if name in UNIFORM_POLICIES else None
    job = policies_job(names=[name], lights=True, plan=process, **table)  # type: ignore[arg-type]
    return PlanSpace(job, prefix).sweep(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("points", [1, 2, 8, 40])
def test_a_curve_holds_every_plan_once_and_all_are_accepted(name: PolicyName, points: int) -> None:
    found = sweep(name, points=points, temperatures=[0.0, 1.0], block_lengths=[0, 9, 6])
    curves = [curve for curve, _ in itertools.groupby(found, key=lambda p: p.curve)]
    assert len(curves) == len(set(curves)) == (6 if space_of(name).in_blocks else 2)
    for curve in curves:
        plans = [p.plan for p in found if p.curve == curve]
        assert len(set(plans)) == len(plans) <= points
        assert {plan.decoding.temperature for plan in plans} == {curve.temperature}
    for proposal in found:
        check_policy(proposal.plan.policy)
        if name in COMMIT_POLICIES:
            policy = commit_policy(name, proposal.plan.policy.parameters)
            blocks = -(-36 // policy.block_size(36))
            policy.check_steps(proposal.plan.num_steps, blocks)
            assert proposal.plan.policy.parameters["block_length"] == proposal.curve.block_length


@pytest.mark.parametrize("block_length", [0, 1, 2, 5, 7, 12, 35, 36, 100])
@pytest.mark.parametrize("prefix", [0, 20])
def test_steps_are_multiples_of_the_blocks_and_at_most_one_per_token(
    block_length: int, prefix: int
) -> None:
    space = PlanSpace(policies_job(points=6, plan={"num_steps": 50}), prefix)
    free = 36 - prefix
    blocks = -(-free // min(block_length or free, free))
    steps = space.steps(block_length)
    assert steps == sorted(set(steps)) and len(steps) <= 6
    assert all(n % blocks == 0 and n <= free for n in steps)
    assert steps[0] == blocks and steps[-1] == free // blocks * blocks
    assert space.steps(None)[-1] == 50  # random orders may have more steps than tokens


def test_more_blocks_than_steps_are_refused_in_one_line() -> None:
    space = PlanSpace(policies_job(plan={"num_steps": 8}), 0)
    with pytest.raises(InputError, match="num_steps 8 must be at least the 36 blocks"):
        space.steps(1)


def test_schedules_with_more_parts_than_steps_are_skipped() -> None:
    found = sweep("low_confidence", schedules=[["H"], ["L", "H", "L"]], points=28)
    by_schedule = {
        name: [p.plan.num_steps for p in found if p.curve.schedule == name]
        for name in ("H", "L H L")
    }
    assert min(by_schedule["H"]) == 1 and min(by_schedule["L H L"]) == 3
    assert [n for n in by_schedule["H"] if n >= 3] == by_schedule["L H L"]
    segments = next(p.plan for p in found if p.curve.schedule == "L H L").model_schedule
    assert str(segments) == "L1 H1 L1"


def test_what_the_job_fixes_is_neither_swept_nor_overruled() -> None:
    fixed = {"threshold": 0.77}
    found = sweep("threshold", parameters={"threshold": fixed}, temperatures=[0.5, 1.0])
    assert [p.plan.policy.parameters["threshold"] for p in found] == [0.77, 0.77]
    assert [p.plan.decoding.temperature for p in found] == [0.5, 1.0]
    assert {p.knob for p in found} == {None}
    partly = sweep("prophet", parameters={"prophet": {"late": 1.0}})
    assert len({p.plan for p in partly}) == 5
    assert {p.plan.policy.parameters["late"] for p in partly} == {1.0}


def test_likelihoods_are_asked_of_orders_that_do_not_hang_on_what_is_drawn() -> None:
    """And random orders, which have no confidence, are left as they are."""
    names = ["ancestral", "random_order", "first_hitting", "low_confidence", "threshold"]
    space = PlanSpace(policies_job(quality="duel", names=names), 0)
    for name in names:
        for proposal in space.sweep(name):  # type: ignore[arg-type]
            parameters = proposal.plan.policy.parameters
            assert parameters.get("confidence") == (
                "likeliest" if name in COMMIT_POLICIES else None
            )
            check_policy(proposal.plan.policy)


def test_the_reference_is_the_plan_of_the_job_with_heavy_at_every_step() -> None:
    policy = {"name": "low_confidence", "parameters": {"block_length": 0}}
    plan = {"policy": policy, "temperature": 0.5, "top_p": 0.9, "light": "L"}
    space = PlanSpace(policies_job(plan=plan, lights=True, names=["low_confidence"]), 4)
    reference = space.reference()
    assert str(reference.model_schedule) == "H28" and reference.decoding.top_p == 0.9
    assert space.num_free == 32 and space.temperatures == [0.5]
    assert reference in {p.plan for p in space.sweep("low_confidence")}
    assert {p.plan.decoding.top_p for p in space.sweep("low_confidence")} == {0.9}


def test_policies_without_a_knob_are_one_point() -> None:
    for name, space in POLICY_SPACES.items():
        if space.knob is None:
            assert [p.knob for p in sweep(name)] == [None]

"""The additive bounds are exact: checked against sums over all trajectories of toy worlds.

What is compared is the code that analyses run (`Panel.sums`, reveal probabilities, `per_step`),
its expectation taken exactly, against brute force that assumes no additivity.
"""

import itertools

import numpy as np
import pytest

from schedlab.denoisers.oracle import OracleDenoiser
from tests.importance import brute_force
from tests.importance.toy_panel import exact_forward, exact_heavy_sampler, panel_of, tables

SCHEDULES = ["HH", "LL", "HL", "LH", "HHH", "LHL", "HLM", "MML", "LHH"]
LONG_SCHEDULES = ["HHHHHH", "LLHHLL", "HHLLMM", "LMHHML", "LLLLLL"]


def scheduled_nelbo(world, schedule: str) -> float:
    """Sum over steps of what the schedule's denoiser costs there, nats per sequence."""
    sums = exact_forward(world, panel_of(world), len(schedule))
    heavy = sums.per_step("cross_entropy/H")[0].sum()
    gaps = [
        sums.per_step(f"loss_gap/H/{role}")[0, k] for k, role in enumerate(schedule) if role != "H"
    ]
    return (heavy + sum(gaps)) * world.length


def scheduled_path_kl(world, schedule: str) -> float:
    sums = exact_heavy_sampler(world, panel_of(world), len(schedule))
    return world.length * sum(
        sums.per_step(f"kl_heavy_light/H/{role}")[0, k]
        for k, role in enumerate(schedule)
        if role != "H"
    )


def denoisers_of(world, schedule: str):
    return [tables(world)[role] for role in schedule]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_scheduled_nelbo_is_the_sum_over_all_texts_and_trajectories(schedule):
    world = brute_force.toy(num_real=3, length=2)
    truth = brute_force.nelbo_by_enumeration(world, denoisers_of(world, schedule))
    assert scheduled_nelbo(world, schedule) == pytest.approx(truth, rel=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_path_kl_is_the_sum_over_all_trajectories(schedule):
    world = brute_force.toy(num_real=3, length=2)
    truth = brute_force.path_kl_by_enumeration(
        world, tables(world)["H"], denoisers_of(world, schedule)
    )
    assert scheduled_path_kl(world, schedule) == pytest.approx(truth, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("schedule", LONG_SCHEDULES)
@pytest.mark.parametrize(("num_real", "length"), [(3, 3), (2, 4), (5, 2)])
def test_bounds_match_the_chain_rule_over_joint_transitions(num_real, length, schedule):
    world = brute_force.toy(num_real, length)
    sampler = denoisers_of(world, schedule)
    nelbo = brute_force.nelbo_by_chain_rule(world, sampler)
    path_kl = brute_force.path_kl_by_chain_rule(world, tables(world)["H"], sampler)
    assert scheduled_nelbo(world, schedule) == pytest.approx(nelbo, rel=1e-10)
    assert scheduled_path_kl(world, schedule) == pytest.approx(path_kl, rel=1e-10, abs=1e-12)


def test_path_kl_matches_on_the_largest_toy_world():
    world = brute_force.toy(num_real=5, length=4)
    sampler = denoisers_of(world, "LHML")
    truth = brute_force.path_kl_by_chain_rule(world, tables(world)["H"], sampler)
    assert scheduled_path_kl(world, "LHML") == pytest.approx(truth, rel=1e-10)


def test_the_two_brute_forces_agree():
    world = brute_force.toy(num_real=2, length=2)
    for schedule in ("LH", "HLM"):
        sampler = denoisers_of(world, schedule)
        heavy = tables(world)["H"]
        assert brute_force.path_kl_by_chain_rule(world, heavy, sampler) == pytest.approx(
            brute_force.path_kl_by_enumeration(world, heavy, sampler), rel=1e-12
        )
        assert brute_force.nelbo_by_chain_rule(world, sampler) == pytest.approx(
            brute_force.nelbo_by_enumeration(world, sampler), rel=1e-12
        )


def test_nelbo_bounds_the_entropy_of_the_exact_sampler_from_above():
    """KL(data || final texts) <= NELBO - entropy of the data, for every schedule."""
    world = brute_force.toy(num_real=3, length=3)
    probs_X = world.probs_X.numpy()
    entropy = -(probs_X * np.log(probs_X)).sum()
    for schedule in LONG_SCHEDULES:
        final_Z = brute_force.state_laws(world, denoisers_of(world, schedule))[-1]
        distance = brute_force.kl(probs_X, final_Z[brute_force.rows_of_texts(world)])
        assert 0 < distance <= scheduled_nelbo(world, schedule) - entropy


@pytest.mark.parametrize(("num_real", "length"), [(3, 3), (2, 4)])
def test_final_texts_differ_by_no_more_than_the_path_kl(num_real, length):
    world = brute_force.toy(num_real, length)
    heavy_Z = brute_force.state_laws(world, denoisers_of(world, "H" * 4))[-1]
    for schedule in itertools.product("HL", repeat=4):
        name = "".join(schedule)
        final_Z = brute_force.state_laws(world, denoisers_of(world, name))[-1]
        assert brute_force.kl(heavy_Z, final_Z) <= scheduled_path_kl(world, name) + 1e-12


def test_with_an_exact_heavy_denoiser_both_kinds_of_states_agree_as_steps_grow():
    """Forward states are heavy's own states only if heavy is exact and few tokens move at once."""
    world = brute_force.toy(num_real=3, length=3)
    panel = panel_of(world).with_denoiser("H", OracleDenoiser(world))
    gaps = []
    for num_steps in (4, 16, 64):
        path = [
            exact(world, panel, num_steps).per_step("kl_heavy_light/H/L").sum()
            for exact in (exact_forward, exact_heavy_sampler)
        ]
        gaps.append(abs(path[0] - path[1]) / path[1])
    assert gaps[1] < gaps[0] / 3
    assert gaps[2] < gaps[1] / 3

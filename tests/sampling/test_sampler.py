"""The sampling loop against enumerable worlds, and its invariants."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from schedlab.denoisers.oracle import OracleDenoiser, TableDenoiser, ToyWorld, sequence_index
from schedlab.errors import InputError, SchedlabError
from schedlab.plan import Decoding, ModelSchedule, Plan, PolicySpec
from schedlab.processes import MaskedProcess
from schedlab.results import SeedBlock
from schedlab.sampling import SequenceIds, advance, sample, start

WORLD = ToyWorld.random(num_real=3, length=3, seed=0)
PROCESS = MaskedProcess(WORLD.vocab_size, WORLD.mask_id)
HEAVY = OracleDenoiser(WORLD)
LIGHT = HEAVY.perturbed(1.0, seed=1)
DENOISERS = {"H": HEAVY, "L": LIGHT}


def ids_of(num, seed=7, first=0):
    return SequenceIds.of([SeedBlock(seed, first, num)])


def plan_of(text, *, length=3, **changes):
    return Plan(length=length, model_schedule=ModelSchedule.parse(text), **changes)


def total_variation(z_BL, world=WORLD):
    index = sequence_index(z_BL, world.num_real)
    share_X = torch.bincount(index, minlength=world.probs_X.numel()).double() / len(index)
    return 0.5 * (share_X - world.probs_X).abs().sum().item()


def test_with_an_exact_denoiser_the_error_falls_like_one_over_T():
    distance = {
        steps: total_variation(
            sample(plan_of(f"H{steps}"), DENOISERS, PROCESS, ids_of(100_000)).z_BL
        )
        for steps in (2, 4, 8, 16)
    }
    for steps in (2, 4, 8):
        # Halving for twice the steps; sampling noise of TV is about 0.005 here.
        assert 1.5 < distance[steps] / distance[2 * steps] < 2.6, distance


def test_one_reveal_per_step_is_exact():
    plan = plan_of("H3", policy=PolicySpec(name="random_order"))
    state = sample(plan, DENOISERS, PROCESS, ids_of(100_000))
    index = sequence_index(state.z_BL, WORLD.num_real)
    counts_X = torch.bincount(index, minlength=27).double().numpy()
    # A chi-square test at false-alarm rate 1e-4.
    assert stats.chisquare(counts_X, WORLD.probs_X.numpy() * 100_000).pvalue > 1e-4
    assert (state.usage["H"].forwards_B == 3).all()
    assert (state.usage["H"].head_positions_B == 3).all()


@pytest.mark.parametrize("steps", [8, 64])
def test_agrees_with_the_distribution_of_the_reference_sampler(steps, golden):
    # MDLM's own ancestral sampler, summed up exactly; golden/mdlm_sampler.
    exact = np.load(golden / "mdlm_sampler" / "exact.npz", allow_pickle=False)
    log_probs = torch.from_numpy(exact["subs_log_probs_all_states"]).double().reshape(-1, 4, 6)
    denoiser = TableDenoiser(log_probs.clamp_min(-1e3))
    state = sample(
        plan_of(f"H{steps}", length=4), {"H": denoiser}, MaskedProcess(6, 5), ids_of(60_000)
    )
    expected_X = exact[f"final_uniform{steps}"] * 60_000
    counts_X = torch.bincount(sequence_index(state.z_BL, 5), minlength=625).double().numpy()
    rare = expected_X < 5
    expected = np.append(expected_X[~rare], expected_X[rare].sum())
    counts = np.append(counts_X[~rare], counts_X[rare].sum())
    assert stats.chisquare(counts, expected / expected.sum() * 60_000).pvalue > 1e-4


schedules = st.lists(st.sampled_from("HL"), min_size=1, max_size=9).map("".join)


@settings(max_examples=25, deadline=None)
@given(
    assignment=schedules,
    prefix=st.integers(0, 2),
    policy=st.sampled_from(["ancestral", "random_order"]),
)
def test_the_prefix_is_kept_and_no_mask_is_left(assignment, prefix, policy):
    plan = Plan(
        length=3,
        model_schedule=ModelSchedule.from_steps(assignment),
        policy=PolicySpec(name=policy),
    )
    prefix_BP = torch.full((40, prefix), 2)
    state = sample(plan, DENOISERS, PROCESS, ids_of(40), prefix_BP)
    assert (state.z_BL[:, :prefix] == 2).all()
    assert (state.z_BL != PROCESS.mask_id).all()
    revealed = sum(usage.head_positions_B for usage in state.usage.values())
    assert (revealed == 3 - prefix).all()


@settings(max_examples=20, deadline=None)
@given(assignment=schedules, cut=st.integers(1, 39))
def test_results_do_not_depend_on_the_batch(assignment, cut):
    plan = Plan(length=3, model_schedule=ModelSchedule.from_steps(assignment))
    whole = sample(plan, DENOISERS, PROCESS, ids_of(40))
    parts = [
        sample(plan, DENOISERS, PROCESS, ids_of(cut)),
        sample(plan, DENOISERS, PROCESS, ids_of(40 - cut, first=cut)),
    ]
    assert torch.equal(whole.z_BL, torch.cat([part.z_BL for part in parts]))
    for role, usage in whole.usage.items():
        forwards = torch.cat([part.usage[role].forwards_B for part in parts])
        assert torch.equal(usage.forwards_B, forwards)


def test_many_reveals_at_once_are_drawn_in_chunks(monkeypatch):
    asked = []

    class Counting(TableDenoiser):
        def logits(self, features_ND):
            asked.append(len(features_ND))
            return super().logits(features_ND)

    denoisers = {"H": Counting(HEAVY.log_probs_ZLV)}
    whole = sample(plan_of("H2"), denoisers, PROCESS, ids_of(50)).z_BL
    asked.clear()
    monkeypatch.setattr("schedlab.sampling.draw.MAX_HEAD_ENTRIES", 1)
    monkeypatch.setattr("schedlab.sampling.draw.CPU_DRAW_ENTRIES", 10 * WORLD.vocab_size)
    assert torch.equal(sample(plan_of("H2"), denoisers, PROCESS, ids_of(50)).z_BL, whole)
    assert set(asked) == {64} and sum(asked) >= 150  # the last of a step is filled up


def test_swapping_a_model_for_itself_changes_no_token():
    same = {"H": HEAVY, "L": OracleDenoiser(WORLD)}
    alone = sample(plan_of("H12"), same, PROCESS, ids_of(500))
    mixed = sample(plan_of("H3 L5 H2 L2"), same, PROCESS, ids_of(500))
    assert torch.equal(alone.z_BL, mixed.z_BL)


def test_advance_leaves_its_input_alone():
    plan = plan_of("H4")
    before = start(plan, PROCESS, ids_of(50))
    after = advance(before, plan, PROCESS, HEAVY, "H", 0, 4)
    assert (before.z_BL == PROCESS.mask_id).all()
    assert not before.usage
    assert after.usage["H"].forwards_B.sum() > 0


SCRIPT = """
import torch
from tests.sampling.test_sampler import DENOISERS, PROCESS, ids_of, plan_of, sample
print(sample(plan_of("L2 H5 L2"), DENOISERS, PROCESS, ids_of(64)).z_BL.tolist())
"""


def test_another_process_gives_the_same_tokens(repository):
    here = sample(plan_of("L2 H5 L2"), DENOISERS, PROCESS, ids_of(64)).z_BL.tolist()
    there = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=repository, check=True
    )
    assert there.stdout.strip() == str(here)


def test_expected_forwards_follow_the_formula():
    world = ToyWorld.random(num_real=2, length=6, seed=2)
    denoiser = OracleDenoiser(world)
    plan = plan_of("H20", length=6)
    state = sample(plan, {"H": denoiser}, MaskedProcess(3, 2), ids_of(20_000))
    mean = state.usage["H"].forwards_B.double().mean().item()
    # Variance is at most that of independent steps: 20 * 0.27 * 0.73; 5 standard errors.
    assert abs(mean - 20 * (1 - (1 - 1 / 20) ** 6)) < 5 * math.sqrt(20 * 0.25 / 20_000)


def test_low_temperature_and_small_top_p_draw_the_mode():
    for decoding in (Decoding(temperature=1e-6), Decoding(top_p=1e-9)):
        plan = plan_of("H3", decoding=decoding, policy=PolicySpec(name="random_order"))
        first = sample(plan, DENOISERS, PROCESS, ids_of(30), torch.zeros(30, 2, dtype=torch.int64))
        z = torch.tensor([[0, 0, 3]])
        mode = HEAVY.log_probs_ZLV[sequence_index(z, 4)][0, 2].argmax()
        assert (first.z_BL[:, 2] == mode).all()


def test_bad_prefixes_roles_and_logits_are_refused():
    with pytest.raises(InputError, match="shorter than"):
        sample(plan_of("H3"), DENOISERS, PROCESS, ids_of(2), torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(InputError, match="mask"):
        sample(plan_of("H3"), DENOISERS, PROCESS, ids_of(2), torch.full((2, 1), 3))
    with pytest.raises(InputError, match="role 'M'"):
        sample(plan_of("H3 M2"), DENOISERS, PROCESS, ids_of(2))
    broken = TableDenoiser(torch.full((64, 3, 4), torch.nan, dtype=torch.float64))
    with pytest.raises(SchedlabError, match="not finite"):
        sample(plan_of("H3"), {"H": broken}, PROCESS, ids_of(2))

"""The event sampler against the loop: the same tokens, whatever shares its calls."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from schedlab.denoisers.oracle import OracleDenoiser, TableDenoiser, ToyWorld, sequence_index
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError, SchedlabError
from schedlab.plan import Decoding, ModelSchedule, Plan, PolicySpec
from schedlab.processes import MaskedProcess
from schedlab.results import SeedBlock
from schedlab.sampling import SequenceIds, sample
from schedlab.sampling import events as events_module
from schedlab.sampling.events import Work, sample_events
from schedlab.sampling.lanes import families
from schedlab.search.space import assignments

VOCAB, LENGTH = 12, 10
PROCESS = MaskedProcess(VOCAB, VOCAB - 1)


def network(num_blocks: int, seed: int) -> Transformer:
    config = TransformerConfig(
        vocab_size=VOCAB, mask_id=VOCAB - 1, num_blocks=num_blocks, hidden_size=16, num_heads=2,
        max_length=32,
    )  # fmt: skip
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(seed))
    model.head.weight.data.mul_(100)  # else untrained predictions are all but uniform
    return model.double().eval()


DENOISERS = {"H": network(2, 0), "L": network(1, 1), "M": network(1, 2)}


def ids_of(num: int, seed: int = 3) -> SequenceIds:
    return SequenceIds.of([SeedBlock(seed, 0, num)])


def by_events(plans, num, prefix=None, **options) -> np.ndarray:
    """Final tokens (N, B, L)."""
    out = np.full((len(plans), num, plans[0].length), -1)
    for found in sample_events(plans, DENOISERS, PROCESS, ids_of(num), prefix, **options):
        out[list(found.plans), found.sequence] = found.tokens_UL[found.text_N]
    return out


def by_loop(plans, num, prefix=None) -> np.ndarray:
    return np.stack(
        [sample(plan, DENOISERS, PROCESS, ids_of(num), prefix).z_BL.numpy() for plan in plans]
    )


@st.composite
def schedules(draw, num_steps: int) -> ModelSchedule:
    return ModelSchedule.from_steps(draw(st.lists(st.sampled_from("HLM"), min_size=num_steps,
                                                  max_size=num_steps)))  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_tokens_are_those_of_the_loop_for_any_plans_together(data) -> None:
    num = data.draw(st.integers(1, 6))
    length = data.draw(st.integers(1, LENGTH))
    prefix_length = data.draw(st.integers(0, length - 1))
    plans = []
    for _ in range(data.draw(st.integers(1, 6))):
        schedule = data.draw(schedules(data.draw(st.sampled_from([1, 3, 8]))))
        plans.append(
            Plan(
                length=length,
                model_schedule=schedule,
                decoding=Decoding(
                    temperature=data.draw(st.sampled_from([1.0, 0.7])),
                    top_p=data.draw(st.sampled_from([1.0, 0.8])),
                ),
                policy=PolicySpec(name=data.draw(st.sampled_from(["ancestral", "random_order"]))),
            )
        )
    prefix = None
    if prefix_length:
        generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
        prefix = torch.randint(0, VOCAB - 1, (num, prefix_length), generator=generator)
    state_bytes = data.draw(st.sampled_from([1, 1 << 20]))
    found = by_events(plans, num, prefix, max_state_bytes=state_bytes)
    np.testing.assert_array_equal(found, by_loop(plans, num, prefix))


class Constant:
    """A denoiser that always says one token."""

    fingerprint = ""

    def __init__(self, token: int) -> None:
        self.spec = DENOISERS["H"].spec
        self.token = token

    def features(self, z_BL, t_B=None):
        return torch.zeros(*z_BL.shape, 1)

    def logits(self, features_ND):
        logits_NV = torch.full((len(features_ND), VOCAB), -50.0)
        logits_NV[:, self.token] = 50.0
        return logits_NV


@pytest.mark.parametrize(("num_light", "runs"), [(4, 790), (None, 2046)])
def test_denoisers_that_always_disagree_cost_the_whole_prefix_tree(num_light, runs) -> None:
    """One reveal per step and segment: forwards are segment runs."""
    plans = [
        Plan(
            length=10,
            model_schedule=ModelSchedule.from_assignment(roles, 10),
            policy=PolicySpec(name="random_order"),
        )
        for roles in assignments(10, num_light=num_light)
    ]
    work = Work()
    denoisers = {"H": Constant(0), "L": Constant(1)}
    found = list(sample_events(plans, denoisers, PROCESS, ids_of(2), work=work))
    assert sum(work.forwards.values()) == 2 * runs
    assert all(len(one.tokens_UL) == len(plans) for one in found)


def test_many_schedules_share_rows_and_give_what_each_gives_alone() -> None:
    plans = [
        Plan(length=LENGTH, model_schedule=ModelSchedule.from_assignment(roles, 20))
        for roles in (f"{a}{b}{c}{d}{e}" for a in "HL" for b in "HL" for c in "HL" for d in "HL"
                      for e in "HL")
    ]  # fmt: skip
    work = Work()
    together = by_events(plans, 8, work=work)
    np.testing.assert_array_equal(together, by_loop(plans, 8))
    alone = Work()
    for plan in plans:
        by_events([plan], 8, work=alone)
    # A binary tree of 5 levels has 62 segment runs instead of 160; merging only lowers that.
    assert sum(work.forwards.values()) < 0.45 * sum(alone.forwards.values())


def test_few_sequences_wait_for_each_other_where_the_denoiser_changes() -> None:
    plan = Plan(length=LENGTH, model_schedule=ModelSchedule.parse("L4 H4 M4 L4 H8"))
    work, num = Work(), 40  # fewer than fill a call
    by_events([plan], num, work=work)
    (family,) = families([plan], PROCESS, ids_of(num), None)
    expected, first = dict.fromkeys("HLM", 0), 0
    for role, steps in plan.model_schedule.segments:
        last = first + steps
        inside = [(t.step_E >= first) & (t.step_E < last) for t in family.timetables]
        expected[role] += max(int(found.sum()) for found in inside)
        first = last
    assert work.calls == expected


def test_swapping_a_denoiser_for_itself_makes_no_forward_more() -> None:
    """Copies that draw the same tokens are one state again: two plans cost two only where their
    roles differ."""
    denoisers = {"H": DENOISERS["H"], "L": DENOISERS["H"]}
    plans = [
        Plan(length=LENGTH, model_schedule=ModelSchedule.parse(text))
        for text in ("H20", "H5 L5 H10")
    ]
    work, alone = Work(), Work()
    list(sample_events(plans, denoisers, PROCESS, ids_of(16), work=work))
    list(sample_events(plans[:1], denoisers, PROCESS, ids_of(16), work=alone))
    assert work.forwards["H"] == alone.forwards["H"]
    assert 0 < work.forwards["L"] < 0.5 * work.forwards["H"]


def test_first_hitting_reveals_one_position_at_a_time_and_is_exact() -> None:
    """Continuous time with an exact denoiser draws the exact distribution (false alarms: 1e-4)."""
    world = ToyWorld.random(num_real=3, length=3, seed=0)
    process = MaskedProcess(world.vocab_size, world.mask_id)
    plan = Plan(
        length=3, model_schedule=ModelSchedule.parse("H4"), policy=PolicySpec(name="first_hitting")
    )
    num, work = 20_000, Work()
    z = torch.empty((num, 3), dtype=torch.int64)
    denoisers = {"H": OracleDenoiser(world)}
    for found in sample_events([plan], denoisers, process, ids_of(num), work=work):
        z[found.sequence] = torch.from_numpy(found.tokens_UL[0]).long()
    assert work.forwards == {"H": 3 * num}
    counts_X = torch.bincount(sequence_index(z, world.num_real), minlength=27).numpy()
    assert stats.chisquare(counts_X, world.probs_X.numpy() * num).pvalue > 1e-4
    with pytest.raises(InputError, match="event sampler only"):
        sample(plan, denoisers, process, ids_of(2))
    odd = Plan(
        length=3,
        model_schedule=ModelSchedule.parse("H4"),
        policy=PolicySpec(name="first_hitting", parameters={"order": "left"}),
    )
    with pytest.raises(InputError, match="has no parameters, got .'order'."):
        list(sample_events([odd], denoisers, process, ids_of(2)))


def counts_of(plan: Plan, denoisers, process: MaskedProcess, num: int) -> np.ndarray:
    """How often each final text was drawn by the event sampler, by its index."""
    counts = np.zeros(process.mask_id**plan.length)
    for found in sample_events([plan], denoisers, process, ids_of(num, seed=17)):
        counts[sequence_index(torch.from_numpy(found.tokens_UL).long(), process.mask_id)] += 1
    return counts


def p_value(counts_X: np.ndarray, probs_X: np.ndarray) -> float:
    """Chi-square test; texts that are expected fewer than 5 times are pooled."""
    expected_X = probs_X * counts_X.sum()
    rare = expected_X < 5
    counts = np.append(counts_X[~rare], counts_X[rare].sum())
    expected = np.append(expected_X[~rare], expected_X[rare].sum())
    kept = expected > 0
    assert counts[~kept].sum() == 0
    return stats.chisquare(counts[kept], expected[kept] / expected.sum() * counts.sum()).pvalue


@pytest.mark.parametrize("steps", [8, 64])
def test_agrees_with_the_distribution_of_the_reference_sampler(steps, golden) -> None:
    """MDLM's own ancestral sampler, summed up exactly (golden/mdlm_sampler); false alarms 1e-4."""
    exact = np.load(golden / "mdlm_sampler" / "exact.npz", allow_pickle=False)
    log_probs = torch.from_numpy(exact["subs_log_probs_all_states"]).double().reshape(-1, 4, 6)
    denoiser = TableDenoiser(log_probs.clamp_min(-1e3))
    plan = Plan(length=4, model_schedule=ModelSchedule.parse(f"H{steps}"))
    counts = counts_of(plan, {"H": denoiser}, MaskedProcess(6, 5), 20_000)
    assert p_value(counts, exact[f"final_uniform{steps}"]) > 1e-4


@pytest.mark.parametrize("text", ["H1 L2", "L2 H3 L1", "H1 L1 H1 L1"])
def test_schedules_have_the_law_of_the_dense_sampler(text) -> None:
    """Every trajectory of the reverse process summed up; false alarms 1e-4."""
    world = ToyWorld.random(num_real=3, length=3, seed=5)
    heavy = OracleDenoiser(world)
    denoisers = {"H": heavy, "L": heavy.perturbed(1.5, seed=2)}
    plan = Plan(length=3, model_schedule=ModelSchedule.parse(text))
    process = MaskedProcess(world.vocab_size, world.mask_id)
    counts = counts_of(plan, denoisers, process, 20_000)
    assert p_value(counts, dense_law(plan, denoisers, process)) > 1e-4


def dense_law(plan: Plan, denoisers, process: MaskedProcess) -> np.ndarray:
    """Probability of every final text: at each step every masked position is revealed with
    probability (alpha_s - alpha_t) / (1 - alpha_t), its token drawn from the denoiser."""
    mask, num_steps = process.mask_id, plan.num_steps
    law = {(mask,) * plan.length: 1.0}
    for k, role in enumerate(plan.model_schedule.steps):
        t, s = 1 - k / num_steps, 1 - (k + 1) / num_steps
        reveal, after = (t - s) / t, defaultdict(float)
        for z, mass in law.items():
            z_1L = torch.tensor([z])
            features = denoisers[role].features(z_1L, torch.tensor([t]))
            probs_LV = denoisers[role].logits(features[0]).double().softmax(-1).numpy()
            choices = [
                [(token, 1.0)]
                if token != mask
                else [(mask, 1 - reveal)] + [(v, reveal * probs_LV[i, v]) for v in range(mask)]
                for i, token in enumerate(z)
            ]
            for outcome in itertools.product(*choices):
                weight = np.prod([share for _, share in outcome])
                after[tuple(token for token, _ in outcome)] += mass * float(weight)
        law = after
    final_X = np.zeros(mask**plan.length)
    for z, mass in law.items():
        if mask not in z:
            final_X[int(sequence_index(torch.tensor([z]), mask))] += mass
    return final_X


def test_the_events_of_a_fine_grid_are_those_of_first_hitting() -> None:
    """Reveal times are common, so with the same order and roles the tokens are too."""
    schedule = ModelSchedule.from_assignment("HLMH", 4)
    fine = ModelSchedule.from_assignment("HLMH", 40_000)
    one = Plan(length=LENGTH, model_schedule=schedule, policy=PolicySpec(name="first_hitting"))
    grid = by_events([Plan(length=LENGTH, model_schedule=fine)], 4)
    np.testing.assert_array_equal(by_events([one], 4), grid)


def test_sequences_come_in_order_as_far_as_memory_is_short() -> None:
    plan = Plan(length=LENGTH, model_schedule=ModelSchedule.parse("H6 L6"))
    one_row = 4 * LENGTH
    order = [
        found.sequence
        for found in sample_events([plan], DENOISERS, PROCESS, ids_of(6), max_state_bytes=one_row)
    ]
    assert order == list(range(6))


def test_lanes_of_many_plans_are_finished_one_after_the_other_in_little_memory() -> None:
    """The first of 24 sequences is done after a quarter of the work, whatever its rows grow to."""
    plans = [
        Plan(
            length=10,
            model_schedule=ModelSchedule.from_assignment(roles, 10),
            policy=PolicySpec(name="random_order"),
        )
        for roles in assignments(10, num_light=4)
    ]
    denoisers, work, peak, seen = {"H": Constant(0), "L": Constant(1)}, Work(), 0, []
    engine = []

    class Watched(events_module._Engine):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments)
            engine.append(self)

    def watch() -> None:
        nonlocal peak
        peak = max(peak, engine[0].table.num_used)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events_module, "_Engine", Watched)
        for found in sample_events(
            plans, denoisers, PROCESS, ids_of(24), max_state_bytes=4 * 10 * 256, work=work,
            progress=watch,
        ):  # fmt: skip
            seen.append((found.sequence, sum(work.forwards.values()) / (24 * 790)))
    assert [sequence for sequence, _ in seen] == list(range(24))
    assert seen[0][1] < 1 / 4
    assert 100 < peak <= 256


def test_what_does_not_fit_is_refused() -> None:
    plan = Plan(length=LENGTH, model_schedule=ModelSchedule.parse("H6"))
    other = Plan(length=LENGTH - 1, model_schedule=ModelSchedule.parse("H6"))
    with pytest.raises(InputError, match="one length"):
        list(sample_events([plan, other], DENOISERS, PROCESS, ids_of(2)))
    with pytest.raises(InputError, match="role 'Q'"):
        bad = Plan(length=LENGTH, model_schedule=ModelSchedule.parse("Q6"))
        list(sample_events([bad], DENOISERS, PROCESS, ids_of(2)))
    broken = network(1, 5)
    broken.head.weight.data.fill_(torch.nan)
    with pytest.raises(SchedlabError, match="denoiser 'H' gave logits that are not finite"):
        list(sample_events([plan], {"H": broken}, PROCESS, ids_of(2)))
    assert list(sample_events([], DENOISERS, PROCESS, ids_of(2))) == []

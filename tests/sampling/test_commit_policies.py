"""Laws that every commit policy obeys, and rules of single policies."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schedlab.denoisers.base import DenoiserSpec
from schedlab.denoisers.cost import block_flops
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError
from schedlab.metrics.cost import expected_cost, role_costs
from schedlab.plan import Decoding, ModelSchedule, Plan, PolicySpec
from schedlab.policies import COMMIT_POLICIES, check_policy, commit_policy
from schedlab.policies.commit import CommitView, best
from schedlab.policies.stdd import Stdd
from schedlab.processes import MaskedProcess
from schedlab.results.record import RoleCost
from schedlab.results.seed_block import SeedBlock
from schedlab.sampling import SequenceIds, decode, sample_plans

V, MASK, LENGTH = 12, 11, 10
NAMES = sorted(COMMIT_POLICIES)


def network(seed: int, *, sharp: float = 60.0) -> Transformer:
    config = TransformerConfig(
        vocab_size=V, mask_id=MASK, num_blocks=1, hidden_size=16, num_heads=2, max_length=LENGTH
    )
    model = Transformer(config).double().requires_grad_(False).eval()
    model.init_weights(torch.Generator().manual_seed(seed))
    model.head.weight.data.mul_(sharp)
    return model


@pytest.fixture(scope="module")
def denoisers() -> dict[str, Transformer]:
    return {"H": network(0), "L": network(1)}


PROCESS = MaskedProcess(V, MASK)


def plan_of(name: str, schedule: str = "H10", temperature: float = 1.0, **parameters) -> Plan:
    return Plan(
        length=LENGTH,
        model_schedule=ModelSchedule.parse(schedule),
        policy=PolicySpec(name=name, parameters=parameters),
        decoding=Decoding(temperature=temperature),
    )


def ids_of(size: int, first: int = 0) -> SequenceIds:
    return SequenceIds.of([SeedBlock(seed=3, first=first, size=size)])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("block_length", [0, 1, 3, 4, 10])  # 1, 7, 3, 2, 1 blocks of 7 tokens
def test_a_policy_commits_masks_only_and_finishes(denoisers, name: str, block_length: int) -> None:
    prefix = torch.tensor([[1, 2, 3]]).expand(6, -1)
    states: list[torch.Tensor] = []
    plan = plan_of(name, "H14 L14 H14", block_length=block_length)
    found = decode(plan, denoisers, PROCESS, ids_of(6), prefix, trace=states.append)
    states.append(found.z_BL)
    free = LENGTH - 3
    assert (states[0][:, 3:] == MASK).all() and (found.z_BL != MASK).all()
    revises = COMMIT_POLICIES[name].revises
    for before, after in itertools.pairwise(states):
        changed = before != after
        assert not changed[:, :3].any()
        if not revises:
            assert (before[changed] == MASK).all()  # what is committed stays
    size = min(block_length or free, free)
    for state in states[:-1]:  # blocks are finished from left to right
        for row in state[:, 3:]:
            places = (row == MASK).nonzero().flatten().tolist()
            if places:
                begun = places[0] // size
                assert all(
                    (row[n * size : (n + 1) * size] == MASK).all()
                    for n in range(begun + 1, -(-free // size))
                )
    forwards = sum(usage.forwards_B for usage in found.usage.values())
    assert (forwards >= 1).all() and (forwards <= 42).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_do_not_depend_on_company(denoisers, name: str, temperature: float) -> None:
    plan = plan_of(name, "H5 L4", temperature, block_length=4)
    together = decode(plan, denoisers, PROCESS, ids_of(9))
    again = decode(plan, denoisers, PROCESS, ids_of(9))
    assert torch.equal(together.z_BL, again.z_BL)
    apart = [decode(plan, denoisers, PROCESS, ids_of(1, first)) for first in range(9)]
    assert torch.equal(torch.cat([one.z_BL for one in apart]), together.z_BL)
    order = torch.tensor([4, 2, 8, 0, 1, 3, 7, 6, 5])
    shuffled = decode(plan, denoisers, PROCESS, ids_of(9).pick(order))
    assert torch.equal(shuffled.z_BL, together.z_BL[order])
    for role in ("H", "L"):
        counted = torch.cat([one.usage[role].forwards_B for one in apart])
        assert torch.equal(counted, together.usage[role].forwards_B)


@pytest.mark.parametrize("name", NAMES)
def test_greedy_policies_are_deterministic(denoisers, name: str) -> None:
    plan = plan_of(name, temperature=0.0, block_length=5)
    found = decode(plan, denoisers, PROCESS, ids_of(5)).z_BL
    assert (found == found[0]).all()  # whatever the address of the noise
    drawn = decode(plan_of(name, block_length=5), denoisers, PROCESS, ids_of(5)).z_BL
    assert not (drawn == drawn[0]).all()


@pytest.mark.parametrize("name", NAMES)
def test_through_sample_plans_it_is_the_same(denoisers, name: str) -> None:
    plans = [
        plan_of(name, "H9", block_length=4),
        plan_of("ancestral"),
        plan_of(name, "L9", block_length=4),
        plan_of(name, "H10", block_length=2),
    ]
    found: dict[tuple[int, int], np.ndarray] = {}
    forwards: dict[tuple[int, int], int] = {}
    for one in sample_plans(plans, denoisers, PROCESS, ids_of(70)):
        for n, place in enumerate(one.plans):
            assert (place, one.sequence) not in found
            found[place, one.sequence] = one.tokens_UL[one.text_N[n]]
            forwards[place, one.sequence] = sum(int(c[n]) for c in one.forwards.values())
    assert len(found) == 4 * 70
    for place in (0, 2, 3):
        state = decode(plans[place], denoisers, PROCESS, ids_of(70))
        rows = np.stack([found[place, sequence] for sequence in range(70)])
        assert np.array_equal(rows, state.z_BL.numpy())
        counted = sum(usage.forwards_B for usage in state.usage.values()).tolist()
        assert counted == [forwards[place, sequence] for sequence in range(70)]


def test_a_step_of_the_schedule_is_a_call_or_a_share(denoisers) -> None:
    by_call = decode(
        plan_of("low_confidence", "H4 L6", block_length=0), denoisers, PROCESS, ids_of(4)
    )
    assert by_call.usage["H"].forwards_B.tolist() == [4] * 4
    assert by_call.usage["L"].forwards_B.tolist() == [6] * 4
    one_by_one = plan_of("threshold", "H2 L8", block_length=0, threshold=2.0)
    by_share = decode(one_by_one, denoisers, PROCESS, ids_of(4))
    assert by_share.usage["H"].forwards_B.tolist() == [2] * 4
    at_once = decode(
        plan_of("threshold", "H2 L8", block_length=0, threshold=0.0), denoisers, PROCESS, ids_of(4)
    )
    assert at_once.usage["H"].forwards_B.tolist() == [1] * 4
    assert at_once.usage["L"].forwards_B.tolist() == [0] * 4


def test_every_call_draws_anew() -> None:
    """Two positions without dependence: a draw that loses a call is not kept for the next one.

    By hand, with p = (0.6, 0.4) at both: the surer of two draws is committed, the first of equals,
    and the other position is drawn again: position 0 is token 0 with probability 0.744, position 1
    with 0.696. Four standard errors.
    """

    class Flat:
        spec = DenoiserSpec(vocab_size=3, mask_id=2, num_blocks=0, hidden_size=1, max_length=2)
        fingerprint = "flat"

        def features(self, z_BL, t_B=None):
            return torch.zeros(*z_BL.shape, 1, dtype=torch.float64)

        def logits(self, features_ND):
            return torch.tensor([0.6, 0.4, 1e-9]).double().log().expand(len(features_ND), -1)

    plan = Plan(
        length=2,
        model_schedule=ModelSchedule.parse("H2"),
        policy=PolicySpec(name="low_confidence", parameters={"block_length": 0}),
    )
    n = 40_000
    z_BL = decode(plan, {"H": Flat()}, MaskedProcess(3, 2), ids_of(n)).z_BL
    for place, exact in ((0, 0.744), (1, 0.696)):
        share = float((z_BL[:, place] == 0).double().mean())
        assert abs(share - exact) < 4 * (exact * (1 - exact) / n) ** 0.5


@pytest.mark.parametrize("name", ["low_confidence", "entropy", "prophet", "p2"])
def test_steps_that_do_not_spread_over_the_blocks_are_refused(denoisers, name: str) -> None:
    for steps, block_length in ((9, 2), (2, 2)):
        plan = plan_of(name, f"H{steps}", block_length=block_length)
        with pytest.raises(InputError, match="must be a multiple of the 5 blocks"):
            decode(plan, denoisers, PROCESS, ids_of(1))


@pytest.mark.parametrize("name", ["low_confidence", "entropy", "margin", "top1", "p2", "prophet"])
@pytest.mark.parametrize(("steps", "block_length"), [(10, 0), (20, 0), (4, 0), (20, 5), (6, 4)])
def test_calls_and_reads_are_what_was_expected(
    denoisers, name: str, steps: int, block_length: int
) -> None:
    """Exactly, and for Prophet at most."""
    half = steps // 2
    plan = plan_of(name, f"H{half} L{steps - half}", block_length=block_length, guidance=0.5)
    costs = {role: RoleCost(num_blocks=1, block_flops=1, head_flops=1) for role in "HL"}
    state = decode(plan, denoisers, PROCESS, ids_of(5))
    expected = expected_cost(plan, costs)
    for role in "HL":
        counted = state.usage[role].forwards_B.double()
        if name == "prophet":
            assert (counted <= expected.forwards[role]).all()
        else:
            assert (counted == expected.forwards[role]).all()
    heads = sum(usage.head_positions_B for usage in state.usage.values()).double()
    if name != "prophet":
        assert (heads == expected.flops_total - expected.flops_blocks).all()


def test_what_plans_say_of_their_calls_is_what_policies_say() -> None:
    for name, policy in COMMIT_POLICIES.items():
        known = not (policy.by_share or policy.locks or name == "prophet")
        assert PolicySpec(name=name).calls_known == known
        cached = PolicySpec(name=name, parameters={"cache": "prefix"})
        assert not cached.calls_known


def test_dreams_statistics_are_of_the_tempered_prediction() -> None:
    """At temperature 0.5 a flat tail counts less: the order of two positions turns."""
    from schedlab.sampling.decode import rows_at_once

    p = torch.full((2, 33), 1e-12, dtype=torch.float64)
    p[0, :2] = torch.tensor([0.6, 0.4])
    p[1, 0], p[1, 1:31] = 0.7, 0.01

    class Fixed:
        spec = DenoiserSpec(vocab_size=33, mask_id=32, num_blocks=0, hidden_size=1, max_length=2)
        fingerprint = "fixed"

        def features(self, z_BL, t_B=None):
            return torch.arange(2).double().expand(len(z_BL), 2)[..., None]

        def logits(self, features_ND):
            return p.log()[features_ND[:, 0].long()]

    first = {}
    for temperature in (0.5, 1.0):
        states: list[torch.Tensor] = []
        plan = Plan(
            length=2,
            model_schedule=ModelSchedule.parse("H2"),
            policy=PolicySpec(name="entropy", parameters={"eps": 0.0}),
            decoding=Decoding(temperature=temperature),
        )
        decode(plan, {"H": Fixed()}, MaskedProcess(33, 32), ids_of(1), trace=states.append)
        first[temperature] = (states[1][0] != 32).tolist()
    assert first == {0.5: [False, True], 1.0: [True, False]}
    assert rows_at_once(plan, 33, 2) > 1_000
    klass = Plan(
        length=1024,
        model_schedule=ModelSchedule.parse("H8"),
        policy=PolicySpec(name="klass", parameters={"block_length": 0}),
    )
    assert rows_at_once(klass, 50_000, 1024) == 5


def view_of(confidence, entropy=None, divergence=None, masked=None, **values) -> CommitView:
    confidence_BK = torch.as_tensor(confidence, dtype=torch.float64)
    masked_BK = torch.ones_like(confidence_BK, dtype=torch.bool) if masked is None else masked
    given = {
        "masked_BK": masked_BK,
        "judged_BK": masked_BK,
        "token_BK": torch.zeros_like(confidence_BK, dtype=torch.int64),
        "confidence_BK": confidence_BK.masked_fill(~masked_BK, -torch.inf),
        "margin_BK": None,
        "gap_BK": None,
        "entropy_BK": entropy,
        "divergence_BK": divergence,
        "products_BKK": None,
        "call_B": torch.zeros(len(confidence_BK), dtype=torch.int64),
        "num_calls": 8,
        "masks_B": masked_BK.sum(-1),
        "history": {},
    }
    return CommitView(**given | values)


probabilities = st.lists(st.floats(0.001, 0.999), min_size=2, max_size=12)


@given(probabilities, st.floats(0.05, 3.0))
@settings(max_examples=200, deadline=None)
def test_factor_commits_the_longest_run(values: list[float], factor: float) -> None:
    chosen = commit_policy("factor", {"factor": factor}).commit(view_of([values])).commit_BK[0]
    order = sorted(range(len(values)), key=lambda i: -values[i])
    expected = 0
    while expected < len(values):
        if (expected + 2) * (1 - values[order[expected]]) > factor:
            break
        expected += 1
    assert int(chosen.sum()) == max(1, expected)
    assert min(v for v, c in zip(values, chosen, strict=True) if c) >= max(
        [v for v, c in zip(values, chosen, strict=True) if not c], default=0.0
    )


@given(st.lists(st.floats(0.0, 2.0), min_size=1, max_size=12), st.floats(0.0, 3.0))
@settings(max_examples=200, deadline=None)
def test_entropy_bound_commits_the_largest_run(values: list[float], gamma: float) -> None:
    entropy = torch.tensor([values], dtype=torch.float64)
    view = view_of([[1.0 / (1.0 + v) for v in values]], entropy=entropy)
    chosen = commit_policy("entropy_bound", {"gamma": gamma}).commit(view).commit_BK[0]
    ordered = sorted(values)
    sizes = [n for n in range(1, len(values) + 1) if sum(ordered[: n - 1]) <= gamma]
    assert int(chosen.sum()) == max(sizes, default=1)


def test_klass_waits_until_predictions_are_stable() -> None:
    policy = commit_policy("klass", {"threshold": 0.8, "epsilon": 0.01, "stable_calls": 2})
    masked = torch.ones(1, 4, dtype=torch.bool)
    history = policy.start(masked)
    moved = [[9.0] * 4, [0.001, 0.001, 0.5, 0.001], [0.002, 0.5, 0.002, 0.002]]
    confidence = [[0.9, 0.85, 0.95, 0.7]]
    chosen = []
    for call, values in enumerate(moved):
        decision = policy.commit(
            view_of(
                confidence,
                divergence=torch.tensor([values]),
                history=history,
                call_B=torch.tensor([call]),
                num_calls=4,
            )
        )
        history = decision.history
        chosen.append(decision.commit_BK[0].tolist())
    fallback = [False, False, True, False]  # the even share of the most confident: one
    assert chosen == [fallback, fallback, [True, False, False, False]]


def test_stdd_without_weights_is_the_threshold() -> None:
    plain = {"temporal": 0.0, "spatial": 0.0, "fast": 1.0, "slow": 1.0, "lowest": 0.0}
    rng = np.random.default_rng(0)
    for _ in range(20):
        confidence = rng.random((3, 9))
        masked = torch.from_numpy(rng.random((3, 9)) < 0.7)
        masked[:, 0] = True
        threshold = float(rng.random())
        stdd = commit_policy("stdd", {"threshold": threshold, **plain})
        fixed = commit_policy("threshold", {"threshold": threshold})
        view = view_of(confidence, masked=masked, history=stdd.start(masked))
        assert torch.equal(stdd.commit(view).commit_BK, fixed.commit(view).commit_BK)


def test_stdd_reads_time_and_neighbours() -> None:
    """By hand: three calls of three tokens."""
    policy = commit_policy(
        "stdd",
        {
            "threshold": 0.6, "temporal": 2.0, "spatial": 0.5, "window": 2, "neighbours": 1,
            "lowest": 0.0, "highest": 1.0, "fast": 0.5, "fast_calls": 3, "fast_quantile": 0.5,
            "unseen_spread": 0.1,
        },
    )  # fmt: skip
    masked = torch.ones(1, 3, dtype=torch.bool)
    history = policy.start(masked)
    calls = [[0.5, 0.5, 0.5], [0.5, 0.7, 0.5], [0.5, 0.3, 0.5]]
    # Call 0: spread 0.1 (unseen), nobody stands out: 0.8 for all: the first of equals goes.
    # Call 1: spreads 0, 0.1, 0; token 1 stands out by 0.2, its neighbours by -0.2.
    #   thresholds 0.6 + 0 + 0.1 = 0.7, 0.6 + 0.2 - 0.1 = 0.7, 0.7: token 1 at 0.7 is committed.
    first = policy.commit(view_of([calls[0]], history=history))
    assert first.commit_BK.tolist() == [[True, False, False]]
    second = policy.commit(view_of([calls[1]], history=first.history))
    assert second.commit_BK.tolist() == [[False, True, False]]
    # Call 2: tokens 0 and 2 are fast (same token three times, spread 0): their thresholds
    #   (0.6 - 0.5 * 0.2) * 0.5 = 0.25 are met; token 1 (0.3, spread 0.2): 0.6 + 0.4 + 0.1 = 1.1.
    third = policy.commit(view_of([calls[2]], history=second.history))
    assert third.commit_BK.tolist() == [[True, False, True]]


def test_slowfast_looks_how_far_the_prediction_holds() -> None:
    """By hand: two cycles of eight positions."""
    policy = commit_policy("slowfast", {"threshold": 0.8, "horizon_threshold": 0.5})
    masked = torch.ones(1, 8, dtype=torch.bool)
    history = policy.start(masked)
    calls = [
        # Horizon 6, then 5: a variance of 0.25, so the cycle ends at 5. One token a call.
        ([0.9, 0.9, 0.4, 0.4, 0.4, 0.5, 0.1, 0.1], [0]),
        ([0.0, 0.9, 0.4, 0.4, 0.6, 0.4, 0.1, 0.1], [1]),
        # All sure ones before 5: those behind it wait. Then the best one, as none is sure.
        ([0.0, 0.0, 0.9, 0.7, 0.9, 0.9, 0.9, 0.9], [2, 4]),
        ([0.0, 0.0, 0.0, 0.7, 0.0, 0.9, 0.9, 0.9], [3]),
        # A new cycle: one a call again, and no horizon at all is the first mask.
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.9, 0.9, 0.9], [5]),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.2, 0.4], [7]),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.2, 0.0], [6]),
    ]
    for confidence, chosen in calls:
        decision = policy.commit(view_of([confidence], masked=masked, history=history))
        assert decision.commit_BK[0].nonzero().flatten().tolist() == chosen
        masked, history = masked & ~decision.commit_BK, decision.history
    assert not masked.any()


def test_slowfast_takes_the_mean_of_horizons_that_do_not_stand_still() -> None:
    policy = commit_policy("slowfast", {"horizon_threshold": 0.5, "explore_calls": 3})
    masked = torch.ones(1, 8, dtype=torch.bool)
    history = policy.start(masked)
    for far in (7, 1, 5):  # variances 9 and 4; the mean of the last two, 2 and 6
        confidence = [0.4] * 8
        confidence[far] = 0.6
        decision = policy.commit(view_of([confidence], masked=masked, history=history))
        assert decision.commit_BK[0].nonzero().flatten().tolist() == [far]
        masked, history = masked & ~decision.commit_BK, decision.history
    assert history["end"].tolist() == [4]
    sure = view_of([[0.9] * 8], masked=masked, history=history)
    assert policy.commit(sure).commit_BK[0].nonzero().flatten().tolist() == [0, 2, 3]


def test_dreams_threshold_keeps_within_the_share() -> None:
    """By hand: eight positions in four calls, two a call and what has waited."""
    policy = commit_policy("dream_threshold", {"threshold": 0.5})
    masked = torch.ones(1, 8, dtype=torch.bool)
    calls = [
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2], [0, 1]),  # two, though five are confident
        ([0.0, 0.0, 0.4, 0.6, 0.3, 0.2, 0.1, 0.1], [3]),  # one of two waits
        ([0.0, 0.0, 0.9, 0.0, 0.9, 0.8, 0.9, 0.1], [2, 4, 6]),  # three are due
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.2, 0.0, 0.3], [7]),  # at least one
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.2, 0.0, 0.0], [5]),  # a call more
    ]
    for call, (confidence, chosen) in enumerate(calls):
        view = view_of(
            [confidence],
            masked=masked,
            call_B=torch.tensor([call]),
            num_calls=4,
            masks_B=torch.tensor([8]),
        )
        commit_BK = policy.commit(view).commit_BK
        assert commit_BK[0].nonzero().flatten().tolist() == chosen
        masked = masked & ~commit_BK


def test_the_cosine_is_of_neighbours_predictions(denoisers) -> None:
    """From inner products alone, against the formula written out; and through the loop."""
    generator = torch.Generator().manual_seed(0)
    p_BKV = torch.rand(2, 7, 5, generator=generator, dtype=torch.float64)
    masked_BK = torch.tensor([[True] * 7, [True, False, True, True, False, False, True]])
    p_BKV = p_BKV / p_BKV.sum(-1, keepdim=True) * masked_BK[..., None]
    view = view_of(p_BKV.amax(-1), masked=masked_BK, products_BKK=p_BKV @ p_BKV.transpose(1, 2))
    policy = Stdd(deviance="cosine", neighbours=2)
    found_BK = policy._stands_out(view.confidence_BK, view)
    for b in range(2):
        for i in range(7):
            near = [j for j in range(max(0, i - 2), min(7, i + 3)) if j != i and masked_BK[b, j]]
            if not masked_BK[b, i]:
                continue
            expected = 0.0
            if near:
                mean_V = p_BKV[b, near].mean(0)
                expected = 1 - float(torch.cosine_similarity(p_BKV[b, i], mean_V, dim=0))
            assert float(found_BK[b, i]) == pytest.approx(expected, abs=1e-12)
    plans = [
        plan_of("stdd", deviance=deviance, spatial=spatial, threshold=0.3, lowest=0.0)
        for deviance, spatial in (("cosine", 0.0), ("confidence", 0.0), ("cosine", 1e4))
    ]
    same, plain, other = (
        decode(plan, denoisers, PROCESS, ids_of(8)).usage["H"].forwards_B for plan in plans
    )
    assert same.tolist() == plain.tolist() != other.tolist()


def test_prophet_commits_all_once_the_gap_is_large() -> None:
    policy = commit_policy("prophet", {"early": 7.5, "middle": 5.0, "late": 2.5})
    masked = torch.tensor([[True, True, True, False]])
    for call, gap, everything in ((0, 7.4, False), (0, 7.6, True), (3, 5.1, True), (6, 2.6, True)):
        view = view_of(
            [[0.2, 0.9, 0.5, 0.0]],
            masked=masked,
            gap_BK=torch.tensor([[gap, gap - 1, gap + 1, 99.0]], dtype=torch.float64),
            call_B=torch.tensor([call]),
            num_calls=9,
            masks_B=torch.tensor([9]),
        )
        expected = masked.tolist() if everything else [[False, True, False, False]]
        assert policy.commit(view).commit_BK.tolist() == expected


def test_p2_keeps_the_best_of_all(denoisers) -> None:
    policy = commit_policy("p2", {"eta": 0.5})
    masked = torch.tensor([[True, False, True, False]])
    view = view_of(
        [[0.9, 0.1, 0.5, 0.4]],
        masked=masked,
        judged_BK=torch.ones_like(masked),
        confidence_BK=torch.tensor([[0.9, 0.1, 0.5, 0.4]], dtype=torch.float64),
        call_B=torch.tensor([1]),
        num_calls=4,
        masks_B=torch.tensor([4]),
    )
    decision = policy.commit(view)  # scores 0.45, 0.1, 0.25, 0.4: the best two
    assert decision.commit_BK.tolist() == [[True, False, False, False]]
    assert decision.remask_BK.tolist() == [[False, True, False, False]]
    # In a run tokens really go back, and are drawn anew when they return.
    states: list[torch.Tensor] = []
    plan = plan_of("p2", "H6 L4", block_length=0)
    decode(plan, denoisers, PROCESS, ids_of(40), trace=states.append)
    back = [((a != MASK) & (b == MASK)).sum() for a, b in itertools.pairwise(states)]
    assert sum(int(n) for n in back) > 0


def test_wino_takes_back_fewer_than_it_took_in() -> None:
    """By hand: two calls of a block of eight."""
    policy = commit_policy("wino", {"threshold": 0.6, "keep": 0.9, "fewest": 3, "most": 4})
    masked = torch.ones(1, 8, dtype=torch.bool)
    # Six are confident and int(0.7 * 8) = 5, but no more than 4 go in. Nothing can go out.
    confidence = [[0.7, 0.9, 0.8, 0.65, 0.5, 0.95, 0.85, 0.1]]
    whole = torch.ones_like(masked)

    def view(confidence, masked, history) -> CommitView:
        confidence_BK = torch.tensor(confidence, dtype=torch.float64)
        return view_of(
            confidence, masked=masked, judged_BK=whole, confidence_BK=confidence_BK,
            history=history,
        )  # fmt: skip

    first = policy.commit(view(confidence, masked, policy.start(masked)))
    assert first.commit_BK[0].nonzero().flatten().tolist() == [1, 2, 5, 6]
    assert not first.remask_BK.any()
    masked = ~first.commit_BK
    # Two go in. All four of before do not hold: 4 - 1 of them go out, 6 is the best of them.
    confidence = [[0.7, 0.1, 0.2, 0.9, 0.5, 0.3, 0.4, 0.1]]
    second = policy.commit(view(confidence, masked, first.history))
    assert second.commit_BK[0].nonzero().flatten().tolist() == [0, 3]
    assert second.remask_BK[0].nonzero().flatten().tolist() == [1, 2, 5]
    # Where one goes in, none goes out; two went in before, so one may otherwise.
    for low, out in ((0.5, []), (0.7, [1])):
        confidence = [[0.95, 0.1, 0.2, 0.95, 0.9, 0.3, 0.4, low]]
        masked = torch.tensor([[False] * 4 + [True] + [False] * 2 + [True]])
        third = policy.commit(view(confidence, masked, second.history))
        assert third.remask_BK[0].nonzero().flatten().tolist() == out


def test_wino_verifies_by_shadows(denoisers) -> None:
    """In a run tokens go back, in no more calls than there are tokens, at the price of shadows."""
    states: list[torch.Tensor] = []
    plan = plan_of("wino", "H6 L4", block_length=5, threshold=0.05, fewest=2, most=3)
    found = decode(plan, denoisers, PROCESS, ids_of(40), trace=states.append)
    back = [((a != MASK) & (b == MASK)).sum() for a, b in itertools.pairwise(states)]
    assert sum(int(n) for n in back) > 0
    assert (sum(usage.forwards_B for usage in found.usage.values()) <= LENGTH).all()
    apart = [decode(plan, denoisers, PROCESS, ids_of(1, first)).z_BL for first in range(40)]
    assert torch.equal(torch.cat(apart), found.z_BL)
    spec = denoisers["H"].spec
    assert role_costs(plan, denoisers)["H"].block_flops == block_flops(spec, LENGTH + 5)
    plain = plan_of("threshold", "H6 L4", block_length=5)
    assert role_costs(plain, denoisers)["H"].block_flops == block_flops(spec, LENGTH)


def test_a_denoiser_without_shadows_is_refused() -> None:
    class Flat:
        spec = DenoiserSpec(vocab_size=V, mask_id=MASK, num_blocks=0, hidden_size=1, max_length=10)
        fingerprint = "flat"

        def features(self, z_BL, t_B=None):
            return torch.zeros(*z_BL.shape, 1)

        def logits(self, features_ND):
            return torch.zeros(len(features_ND), V)

    with pytest.raises(InputError, match="Flat has no features_with_shadows"):
        decode(plan_of("wino", "H10"), {"H": Flat()}, PROCESS, ids_of(1))


def test_dilated_takes_log2_calls(denoisers) -> None:
    plan = plan_of("dilated", "H10", block_length=8)
    found = decode(plan, denoisers, PROCESS, ids_of(2), torch.tensor([[1, 2]]).expand(2, -1))
    assert found.usage["H"].forwards_B.tolist() == [3, 3]


def test_best_takes_the_earlier_of_equals() -> None:
    score = torch.tensor([[0.5, 0.9, 0.5, 0.9]])
    masked = torch.tensor([[True, True, True, False]])
    assert best(score, masked, torch.tensor([2])).tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("threshold", [0.95, 0.9, 0.7, 0.5, 0.3])
def test_one_step_is_that_of_the_engines(golden: Path, threshold: float) -> None:
    """Fast-dLLM, dInfer and SGLang commit the same block."""
    with np.load(golden / "engine_rules" / "one_step.npz") as data:
        logits = torch.from_numpy(data["logits"])
        tokens = torch.from_numpy(data["block_tokens"]).long()
        blocks = [
            torch.from_numpy(data[f"{engine}_{threshold}"])
            for engine in ("fastdllm_threshold", "dinfer_threshold", "sglang_low_confidence")
        ]
    masked = tokens == 47
    rows = masked.any(dim=1)
    likeliest = logits[..., :47].argmax(-1)
    confidence = logits.double().softmax(-1).gather(-1, likeliest[..., None])[..., 0]
    view = view_of(confidence[rows], masked=masked[rows], token_BK=likeliest[rows])
    chosen = commit_policy("threshold", {"threshold": threshold}).commit(view).commit_BK
    expected = tokens.clone()
    expected[rows] = torch.where(chosen, likeliest[rows], tokens[rows])
    for block in blocks:
        assert torch.equal(block.long(), expected)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("threshold", {"treshold": 0.9}, "has no parameter 'treshold'; it has"),
        ("threshold", {"threshold": "0.9"}, "threshold must be of type float"),
        ("klass", {"stable_calls": 1.5}, "stable_calls must be of type int"),
        ("stdd", {"block_length": True}, "block_length must be of type int"),
        ("stdd", {"block_length": -1}, "block_length must not be negative"),
        ("stdd", {"window": 0}, "window must be positive"),
        ("klass", {"stable_calls": 0}, "stable_calls must be positive"),
        ("slowfast", {"window": 9}, "window must be at least 1 and at most explore_calls"),
        ("slowfast", {"count": 0}, "count must be positive"),
        ("wino", {"fewest": 21}, "fewest must be at least 1 and at most most"),
        ("first_hitting", {"a": 1}, "has no parameters"),
        ("ancestral", {"a": 1}, "has no parameter 'a'"),
    ],
)
def test_wrong_parameters_are_one_line(name: str, parameters, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        check_policy(PolicySpec(name=name, parameters=parameters))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("family", "name"), [("llada", "low_confidence"), ("dream", "top1")])
def test_transfer_schedules_are_the_published_ones(golden: Path, family: str, name: str) -> None:
    file = golden / f"decode_{family}" / f"transfer_schedules_{family}.json"
    for entry in json.loads(file.read_text())[family]:
        masks, steps = entry["masks"], entry["steps"]
        policy = commit_policy(name, {"eps": entry["eps"]} if "eps" in entry else {})
        counts, left = [], masks
        for call in range(steps):
            masked = (torch.arange(masks) < left)[None]
            view = view_of(
                [[0.5] * masks],
                masked=masked,
                call_B=torch.tensor([call]),
                num_calls=steps,
                masks_B=torch.tensor([masks]),
            )
            counts.append(int(policy.commit(view).commit_BK.sum()))
            left -= counts[-1]
        assert counts == entry["counts"]

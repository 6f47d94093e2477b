"""Calls that compute some positions only: caches and locks change what they say they change."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from schedlab.denoisers.base import Denoiser
from schedlab.denoisers.gated import GatedConfig, GatedTransformer
from schedlab.denoisers.keeping import put
from schedlab.denoisers.oracle import OracleDenoiser, ToyWorld
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError
from schedlab.plan import Decoding, ModelSchedule, Plan, PolicySpec
from schedlab.policies import COMMIT_POLICIES, check_policy, commit_policy
from schedlab.policies.commit import CommitView
from schedlab.processes import MaskedProcess
from schedlab.results.seed_block import SeedBlock
from schedlab.sampling import SequenceIds, decode
from schedlab.sampling.decode import rows_at_once
from schedlab.sampling.kept import Kept

V, MASK, LENGTH = 12, 11, 10
PROCESS = MaskedProcess(V, MASK)
NAMES = sorted(name for name, policy in COMMIT_POLICIES.items() if not policy.shadowed)
CACHES = ["prefix", "dual"]
LOOSE = {"epsilon": 0.05, "share": 0.7}  # locks often, not always


def network(seed: int, *, num_blocks: int = 2) -> Transformer:
    config = TransformerConfig(
        vocab_size=V, mask_id=MASK, num_blocks=num_blocks, hidden_size=16, num_heads=2,
        max_length=LENGTH,
    )  # fmt: skip
    model = Transformer(config).double().requires_grad_(False).eval()
    model.init_weights(torch.Generator().manual_seed(seed))
    model.head.weight.data.mul_(60.0)
    return model


def shifted_network() -> GatedTransformer:
    config = GatedConfig(
        vocab_size=V, mask_id=MASK, num_blocks=2, hidden_size=16, num_heads=2, num_kv_heads=1,
        mlp_size=24, max_length=LENGTH, rope_base=1e4, norm_eps=1e-6, shifted=True,
    )  # fmt: skip
    model = GatedTransformer(config)
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0.0 if weight.ndim > 1 else 1.0, 0.5, generator=generator)
    return model.double().requires_grad_(False).eval()


@pytest.fixture(scope="module")
def denoisers() -> dict[str, Denoiser]:
    return {"H": network(0), "L": network(1, num_blocks=1)}


def plan_of(name: str, schedule: str = "H10", temperature: float = 1.0, **parameters) -> Plan:
    return Plan(
        length=LENGTH,
        model_schedule=ModelSchedule.parse(schedule),
        policy=PolicySpec(name=name, parameters=parameters),
        decoding=Decoding(temperature=temperature),
    )


def ids_of(size: int, first: int = 0) -> SequenceIds:
    return SequenceIds.of([SeedBlock(seed=3, first=first, size=size)])


def computed(state, role: str = "H") -> torch.Tensor:
    assert state.usage[role].positions_B is not None
    return state.usage[role].positions_B


@dataclasses.dataclass
class Spy:
    """Says which positions were computed at every call, of one sequence."""

    inner: Transformer | GatedTransformer
    calls: list[tuple[list[int], list[int]]] = dataclasses.field(default_factory=list)

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def refresh(self, kept_BLF, z_BA, position_BA):
        real_A = position_BA[0] < LENGTH
        self.calls.append((position_BA[0, real_A].tolist(), z_BA[0, real_A].tolist()))
        return self.inner.refresh(kept_BLF, z_BA, position_BA)


# Caches.


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", NAMES)
def test_with_a_cache_policies_keep_their_laws(denoisers, name: str, cache: str) -> None:
    plan = plan_of(name, "H5 L4 H3", block_length=3, cache=cache, guidance=0.5)
    prefix = torch.tensor([[1, 2]]).expand(7, -1)
    together = decode(plan, denoisers, PROCESS, ids_of(7), prefix)
    assert (together.z_BL != MASK).all() and (together.z_BL[:, :2] == prefix).all()
    apart = [decode(plan, denoisers, PROCESS, ids_of(1, n), prefix[:1]) for n in range(7)]
    assert torch.equal(torch.cat([one.z_BL for one in apart]), together.z_BL)
    for role in ("H", "L"):
        counted = torch.cat([computed(one, role) for one in apart])
        assert torch.equal(counted, computed(together, role))
        assert (counted <= LENGTH * together.usage[role].forwards_B).all()


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", NAMES)
def test_a_cache_of_nothing_is_no_cache(denoisers, name: str, cache: str) -> None:
    """One block that is the whole text."""
    plain, cached = (
        decode(plan_of(name, block_length=0, cache=c), denoisers, PROCESS, ids_of(20))
        for c in ("none", cache)
    )
    assert torch.equal(plain.z_BL, cached.z_BL)
    assert (
        torch.equal(computed(cached), LENGTH * cached.usage["H"].forwards_B) or name == "surelock"
    )


def test_a_cache_computes_what_it_says(denoisers) -> None:
    spy = Spy(network(0))
    plan = plan_of("low_confidence", "H8", block_length=4, cache="prefix")
    decode(plan, {"H": spy}, PROCESS, ids_of(1), torch.tensor([[1, 2]]))
    whole = list(range(10))
    assert [calls for calls, _ in spy.calls] == [whole, *[whole[2:]] * 3, whole, *[whole[6:]] * 3]
    spy.calls.clear()
    plan = plan_of("low_confidence", "H3 L1 H4", block_length=4, cache="dual")
    found = decode(plan, {"H": spy, "L": network(1)}, PROCESS, ids_of(1), torch.tensor([[1, 2]]))
    assert [calls for calls, _ in spy.calls] == [
        whole,
        *[[2, 3, 4, 5]] * 2,
        whole,
        *[whole[6:]] * 3,
    ]
    # What another denoiser kept is of no use: the light one computed everything.
    assert computed(found, "L").tolist() == [10]
    assert computed(found).tolist() == [10 + 2 * 4 + 10 + 3 * 4]


def test_shifted_networks_compute_the_position_before(denoisers) -> None:
    spy = Spy(shifted_network())
    plan = plan_of("low_confidence", "H8", block_length=4, cache="dual")
    decode(plan, {"H": spy}, PROCESS, ids_of(1), torch.tensor([[1, 2]]))
    for (positions, _), begin in zip(spy.calls, [None] + [2] * 3 + [None] + [6] * 3, strict=True):
        if begin is not None:
            assert (
                set(range(begin, begin + 4)) <= set(positions) <= set(range(begin - 1, begin + 4))
            )
    assert spy.calls[1][0][0] in (1, 2)


# Locks.


def view_of(confidence, divergence, masked, judged=None) -> CommitView:
    masked_BK = torch.tensor([masked])
    judged_BK = torch.ones_like(masked_BK) if judged is None else torch.tensor([judged])
    return CommitView(
        masked_BK=masked_BK,
        judged_BK=judged_BK,
        token_BK=torch.zeros_like(masked_BK, dtype=torch.int64),
        confidence_BK=torch.tensor([confidence], dtype=torch.float64),
        margin_BK=None,
        gap_BK=None,
        entropy_BK=None,
        divergence_BK=torch.tensor([divergence], dtype=torch.float64),
        products_BKK=None,
        call_B=torch.tensor([5]),
        num_calls=6,
        masks_B=torch.tensor([6]),
        history={},
    )


def test_the_rule_of_the_lock_by_hand() -> None:
    masked = [True, False, False, False, False, False]
    confidence = [0.99, 0.9, 0.8, 0.7, 0.95, 0.6]
    divergence = [0.0, 0.2, 0.01, 0.01, 0.02, 0.0]

    def locked(epsilon: float, share: float, **values) -> list[int]:
        policy = commit_policy("surelock", {"epsilon": epsilon, "share": share})
        view = view_of(confidence, values.get("divergence", divergence), masked,
                       values.get("judged"))  # fmt: skip
        decision = policy.commit(view)
        assert decision.commit_BK.tolist() == [masked]  # the one mask, by the even share
        assert decision.lock_BK is not None
        return decision.lock_BK[0].nonzero().flatten().tolist()

    assert locked(0.01, 1.0) == [2, 3, 5]  # the mask is not a candidate
    assert locked(0.02, 1.0) == [2, 3, 4, 5]
    assert locked(0.02, 0.2) == [4]  # the surest one of five
    assert locked(0.02, 0.4) == [4]  # of 4 and 1, which moved
    assert locked(0.02, 0.41) == [2, 4]  # rounded up
    assert locked(0.5, 0.4) == [1, 4]
    assert locked(0.5, 0.0) == [] and locked(0.0, 1.0) == []
    assert locked(0.0, 1.0, divergence=[-1e-18] * 6) == []  # rounding moves no token
    first = [float("inf")] * 6
    assert locked(0.5, 1.0, divergence=first) == []
    # 4 is locked already: of the other four, the surest one.
    assert locked(0.5, 0.2, judged=[True, True, True, True, False, True]) == [1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("values", [{}, {"guidance": 0.7}, {"confidence": "likeliest"}])
def test_without_locks_it_is_low_confidence(denoisers, temperature: float, values) -> None:
    for schedule, block_length in (("H10", 0), ("H4 L6", 5), ("H3 L3", 4)):
        prefix = torch.tensor([[1, 2, 3]]).expand(20, -1) if block_length == 4 else None
        if block_length == 4:
            schedule = "H2 L2"
        lock, base = (
            decode(
                plan_of(name, schedule, temperature, block_length=block_length, **values, **more),
                denoisers, PROCESS, ids_of(20), prefix,
            )
            for name, more in (("surelock", {"epsilon": 0.0}), ("low_confidence", {}))
        )  # fmt: skip
        assert torch.equal(lock.z_BL, base.z_BL)
        for role, usage in lock.usage.items():
            assert torch.equal(usage.forwards_B, base.usage[role].forwards_B)
            assert torch.equal(computed(lock, role), LENGTH * usage.forwards_B)
            assert base.usage[role].positions_B is None


def plain_surelock(model, prompt: list[int], calls: int, epsilon: float, share: float):
    """Greedy, one sequence, one block, position by position: tokens, and positions computed."""
    z = prompt + [MASK] * (LENGTH - len(prompt))
    locked: set[int] = set()
    kept, before, computed = None, {}, 0
    masks = LENGTH - len(prompt)
    for call in range(calls):
        active = [i for i in range(LENGTH) if i not in locked]
        computed += len(active)
        at = torch.tensor([active])
        fresh = model.refresh(kept, torch.tensor([[z[i] for i in active]]), at)
        kept = fresh if kept is None else put(kept, fresh, at)
        log_p = {}
        for i in range(len(prompt), LENGTH):
            if i not in locked:
                logits = model.kept_logits(kept, torch.tensor([0]), torch.tensor([i]))[0]
                log_p[i] = logits.log_softmax(-1)
        committed = [i for i in log_p if z[i] != MASK]
        committed.sort(key=lambda i: -log_p[i][z[i]].item())
        for i in committed[: math.ceil(share * len(committed) - 1e-9)]:
            if i in before and (log_p[i].exp() * (log_p[i] - before[i])).sum() <= epsilon:
                locked.add(i)
        before = log_p
        likeliest = {i: int(log_p[i][:MASK].argmax()) for i in log_p if z[i] == MASK}
        order = sorted(likeliest, key=lambda i: -log_p[i][likeliest[i]].item())
        for i in order[: masks // calls + (call < masks % calls)]:
            z[i] = likeliest[i]
    return z, computed


@torch.inference_mode()
@pytest.mark.parametrize("calls", [8, 5])
def test_whole_runs_are_those_of_a_plain_loop(calls: int) -> None:
    saved = 0
    for seed in range(12):
        model, prompt = network(seed), [seed % 11, (3 * seed) % 11]
        for values in (LOOSE, {"epsilon": 0.3, "share": 0.5}):
            plan = plan_of("surelock", f"H{calls}", 0.0, block_length=0, **values)
            found = decode(plan, {"H": model}, PROCESS, ids_of(1), torch.tensor([prompt]))
            tokens, count = plain_surelock(model, prompt, calls, **values)
            assert found.z_BL[0].tolist() == tokens
            assert computed(found).tolist() == [count]
            saved += LENGTH * calls - count
    assert saved > 100


@pytest.mark.parametrize("block_length", [0, 4])
def test_locked_positions_are_computed_no_more(denoisers, block_length: int) -> None:
    some = 0
    for first in range(8):
        spy = Spy(network(0))
        plan = plan_of("surelock", "H8", block_length=block_length, **LOOSE)
        prefix = torch.tensor([[1, 2]])
        found = decode(plan, {"H": spy}, PROCESS, ids_of(1, first), prefix)
        last = set(range(LENGTH))
        for positions, tokens in spy.calls:
            assert set(positions) <= last  # once locked, for good
            last = set(positions)
            assert {0, 1} <= last
            held = dict(zip(positions, tokens, strict=True))
            for position in range(LENGTH):
                if position not in held:
                    continue
                assert held[position] in (MASK, found.z_BL[0, position].item())
        # A mask is always computed: what is left out had its token at the call before.
        masks = [sum(t == MASK for t in tokens) for _, tokens in spy.calls]
        assert masks == [8, 7, 6, 5, 4, 3, 2, 1]
        assert computed(found).tolist() == [sum(len(p) for p, _ in spy.calls)]
        some += LENGTH - len(spy.calls[-1][0])
    assert some > 8


def test_locks_do_not_depend_on_company(denoisers) -> None:
    loose = {"epsilon": 0.3, "share": 0.7}
    plan = plan_of("surelock", "H5 L2 H3", block_length=5, guidance=0.5, **loose)
    together = decode(plan, denoisers, PROCESS, ids_of(30))
    apart = [decode(plan, denoisers, PROCESS, ids_of(1, n)) for n in range(30)]
    assert torch.equal(torch.cat([one.z_BL for one in apart]), together.z_BL)
    for role in ("H", "L"):
        counted = torch.cat([computed(one, role) for one in apart])
        assert torch.equal(counted, computed(together, role))
    assert len(computed(together).unique()) > 2  # rows differ
    assert (computed(together) < LENGTH * together.usage["H"].forwards_B).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_company_changes_no_bit_in_short_precisions_either(dtype: torch.dtype) -> None:
    """Kept numbers themselves, of rows with different numbers of active positions."""
    generator = torch.Generator().manual_seed(0)
    model, other = network(0).to(dtype), network(1).to(dtype)
    z = torch.randint(V, (40, LENGTH), generator=generator)
    active = torch.rand(40, LENGTH, generator=generator) < torch.rand(40, 1, generator=generator)
    active[:3] = True
    nowhere = torch.zeros_like(active)

    def kept_of(rows: torch.Tensor) -> torch.Tensor:
        kept = Kept(40)
        kept.refresh(model, "H", rows, z[rows], ~nowhere[rows], nowhere[rows])
        kept.refresh(other, "L", rows[:1], z[rows[:1]], nowhere[rows[:1]], nowhere[rows[:1]])
        after = z.clone()
        after[:, 1::3] = MASK
        count = kept.refresh(model, "H", rows, after[rows], active[rows], nowhere[rows])
        expected = active[rows].sum(dim=-1)
        expected[0] = LENGTH  # another denoiser came between
        assert torch.equal(count, expected)
        assert "L" not in kept.by_role
        return kept.by_role["H"].kept_BLF

    with torch.inference_mode():
        everything = kept_of(torch.arange(40))
        for first, last in ((0, 7), (0, 1), (0, 33)):
            rows = torch.arange(first, last)
            assert torch.equal(kept_of(rows)[rows], everything[rows])
        backwards = torch.cat((torch.tensor([0]), torch.arange(39, 0, -1)))
        assert torch.equal(kept_of(backwards), everything)


def test_locks_change_tokens_only_through_what_is_frozen(denoisers) -> None:
    """The first call after which anything is locked is the first that may differ."""
    lock, base = ([], [])
    for name, more, states in (("surelock", LOOSE, lock), ("low_confidence", {}, base)):
        plan = plan_of(name, "H10", 0.0, block_length=0, **more)
        decode(plan, denoisers, PROCESS, ids_of(1), trace=states.append)
    # Nothing is committed before call 0 nor comparable before call 1: states 0 to 2 are equal.
    for before, after in zip(lock[:3], base[:3], strict=True):
        assert torch.equal(before, after)


def test_another_denoiser_computes_everything_once(denoisers) -> None:
    spies = {"H": Spy(network(0)), "L": Spy(network(1))}
    plan = plan_of("surelock", "H5 L2 H3", block_length=0, **LOOSE)
    decode(plan, spies, PROCESS, ids_of(1))
    for role, firsts in (("H", (0, 5)), ("L", (0,))):
        for n in firsts:
            assert spies[role].calls[n][0] == list(range(LENGTH))
    assert len(spies["H"].calls[4][0]) < LENGTH  # there were locks
    assert len(spies["H"].calls[6][0]) <= len(spies["H"].calls[4][0])  # and they remained


@pytest.mark.parametrize("cache", CACHES)
def test_locks_and_caches_go_together(denoisers, cache: str) -> None:
    plan = plan_of("surelock", "H8", block_length=4, cache=cache, **LOOSE)
    prefix = torch.tensor([[1, 2]]).expand(9, -1)
    both = decode(plan, denoisers, PROCESS, ids_of(9), prefix)
    assert (both.z_BL != MASK).all()
    only = plan_of("low_confidence", "H8", block_length=4, cache=cache)
    cached = decode(only, denoisers, PROCESS, ids_of(9), prefix)
    assert computed(both).sum() < computed(cached).sum()


def test_shifted_networks_still_predict_every_mask() -> None:
    """A mask behind a locked token: its logits come of the token's position."""
    spy = Spy(shifted_network())
    plan = plan_of("surelock", "H10", block_length=0, **LOOSE)
    for first in range(8):
        spy.calls.clear()
        states: list[torch.Tensor] = []
        decode(plan, {"H": spy}, PROCESS, ids_of(1, first), trace=states.append)
        for (positions, _), state in zip(spy.calls, states, strict=True):
            masks = (state[0] == MASK).nonzero().flatten().tolist()
            assert {max(0, mask - 1) for mask in masks} <= set(positions)


@pytest.mark.parametrize("name", ["surelock", "threshold"])
def test_tables_are_refused(name: str) -> None:
    world = ToyWorld.random(num_real=3, length=5, seed=0)
    plan = Plan(
        length=5,
        model_schedule=ModelSchedule.parse("H5"),
        policy=PolicySpec(name=name, parameters={} if name == "surelock" else {"cache": "dual"}),
    )
    process = MaskedProcess(world.vocab_size, world.mask_id)
    with pytest.raises(InputError, match="'H' always computes whole sequences") as caught:
        decode(plan, {"H": OracleDenoiser(world)}, process, ids_of(2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("threshold", {"cache": "both"}, "cache must be 'none', 'prefix' or 'dual', got 'both'"),
        ("surelock", {"epsilon": -0.1}, "epsilon must not be negative"),
        ("surelock", {"share": 1.5}, r"share must lie in \[0, 1\]"),
    ],
)
def test_wrong_parameters_are_one_line(name: str, parameters, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_policy(PolicySpec(name=name, parameters=parameters))


def test_what_is_kept_bounds_the_batch(denoisers) -> None:
    plan = plan_of("surelock")
    free = rows_at_once(plan, V, LENGTH)
    bound = rows_at_once(plan, V, LENGTH, denoisers)
    assert bound == (1 << 28) // (LENGTH * denoisers["H"].kept_width) < free
    assert rows_at_once(plan_of("surelock", guidance=1.0), V, LENGTH, denoisers) == bound // 2


def test_published_networks_lock_too(golden: Path) -> None:
    from schedlab.denoisers import loading

    for name in ("llada", "dream"):
        model = loading.load(golden / name)
        process = MaskedProcess(model.spec.vocab_size, model.spec.mask_id)
        plan = Plan(
            length=16,
            model_schedule=ModelSchedule.parse("H16"),
            policy=PolicySpec(name="surelock", parameters={"block_length": 0, **LOOSE}),
        )
        found = decode(plan, {"H": model}, process, ids_of(6))
        assert (found.z_BL != process.mask_id).all()
        assert (computed(found) < 16 * 16).all()

"""`evaluate`: equal to sampling each plan alone, shares beginnings, never repeats work."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_lab import (
    LENGTH,
    NUM_STEPS,
    assignments,
    kill_test_work,
    oracle_lab,
    plan_of,
    transformer_lab,
)

from schedlab.denoisers.cost import block_flops
from schedlab.errors import InputError
from schedlab.evaluation import evaluate as evaluate_module
from schedlab.evaluation.evaluate import evaluate, run_missing
from schedlab.evaluation.lab import Lab
from schedlab.evaluation.prompts import Prompts
from schedlab.plan import Decoding, ModelSchedule, Plan, PolicySpec
from schedlab.results import BlockRecord, SeedBlock, Store, paired_log_ppl_difference, seed_blocks
from schedlab.sampling import SequenceIds, State, decode, sample

BLOCKS = seed_blocks(seed=5, num_sequences=8, block_size=4)

# Built once, at first use.
THREE_ROLES = functools.cache(functools.partial(oracle_lab, "HLM"))
TRANSFORMERS = functools.cache(transformer_lab)


class CountingStore(Store):
    """A store that counts what is written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.num_put = 0

    def put(self, record: BlockRecord) -> None:
        self.num_put += 1
        super().put(record)


def naive(plan: Plan, lab: Lab, blocks: tuple[SeedBlock, ...], prompts: Prompts | None) -> State:
    """One plan by itself, all sequences in one batch."""
    prefix_BP = None
    if prompts is not None:
        prefix_BP = torch.from_numpy(np.concatenate([prompts.of_block(b) for b in blocks]))
    return sample(plan, lab.denoisers, lab.process, SequenceIds.of(blocks), prefix_BP)


def random_schedules(num_steps: int, roles: str) -> st.SearchStrategy[list[ModelSchedule]]:
    steps = st.lists(st.sampled_from(roles), min_size=num_steps, max_size=num_steps)
    return st.lists(steps.map(ModelSchedule.from_steps), min_size=1, max_size=6)


def assert_equal_to_naive(
    plans: list[Plan], lab: Lab, folder: Path, prompts: Prompts | None
) -> None:
    measurements = evaluate(plans, BLOCKS, lab=lab, store=Store(folder), prompts=prompts)
    for plan, measurement in zip(plans, measurements, strict=True):
        alone = naive(plan, lab, BLOCKS, prompts)
        np.testing.assert_array_equal(measurement.tokens_SL, alone.z_BL.numpy())
        assert measurement.plan == plan
        assert set(measurement.forwards) == set(alone.usage) == set(plan.model_schedule.roles)
        for role, usage in alone.usage.items():
            np.testing.assert_array_equal(measurement.forwards[role], usage.forwards_B)
            np.testing.assert_array_equal(measurement.head_positions[role], usage.head_positions_B)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    schedules=random_schedules(NUM_STEPS, "HLM"),
    policy=st.sampled_from(["ancestral", "random_order"]),
    prefix_length=st.sampled_from([0, 2]),
)
def test_prefix_tree_gives_the_tokens_of_every_plan_run_alone(
    tmp_path_factory: pytest.TempPathFactory,
    schedules: list[ModelSchedule],
    policy: str,
    prefix_length: int,
) -> None:
    plans = [plan_of(schedule, policy=PolicySpec(name=policy)) for schedule in schedules]
    prompts = Prompts.of([[0, 1], [2, 2], [1, 0]]) if prefix_length else None
    folder = tmp_path_factory.mktemp("store")
    assert_equal_to_naive(plans, THREE_ROLES(), folder, prompts)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(schedules=random_schedules(6, "HL"))
def test_prefix_tree_equals_naive_sampling_for_transformers_too(
    tmp_path_factory: pytest.TempPathFactory, schedules: list[ModelSchedule]
) -> None:
    plans = [plan_of(schedule, length=12) for schedule in schedules]
    folder = tmp_path_factory.mktemp("store")
    assert_equal_to_naive(plans, TRANSFORMERS(), folder, None)


def test_nothing_but_seconds_depends_on_what_else_is_asked_for(tmp_path: Path) -> None:
    lab = TRANSFORMERS()
    plans = [plan_of(plan.model_schedule, length=12) for plan in assignments(3)]
    large = evaluate(plans, BLOCKS, lab=lab, store=Store(tmp_path / "b"))
    store = Store(tmp_path / "a")
    for plan in plans:
        for block in BLOCKS:
            run_missing([plan], [block], lab=lab, store=store)
    small = evaluate(plans, BLOCKS, lab=lab, store=store)
    assert sorted(Store(tmp_path / "a").keys()) == sorted(Store(tmp_path / "b").keys())
    for a, b in zip(small, large, strict=True):
        np.testing.assert_array_equal(a.tokens_SL, b.tokens_SL)
        for name in a.scores:
            np.testing.assert_array_equal(a.scores[name], b.scores[name])
        for name in a.estimates.keys() - {"seconds"}:
            assert a.estimates[name] == b.estimates[name]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_float64_tokens_are_the_same_on_cpu_and_gpu(tmp_path: Path) -> None:
    plans = [plan_of(s, length=12) for s in ("H6", "L2 H4", "L2 H1 L3")]
    measured = [
        evaluate(plans, BLOCKS, lab=transformer_lab(device), store=Store(tmp_path))
        for device in ("cpu", "cuda")
    ]
    assert len(Store(tmp_path)) == 2 * len(plans) * len(BLOCKS)  # the device is part of the key
    for on_cpu, on_gpu in zip(*measured, strict=True):
        np.testing.assert_array_equal(on_cpu.tokens_SL, on_gpu.tokens_SL)


def test_a_schedule_that_swaps_a_model_for_itself_changes_no_token(tmp_path: Path) -> None:
    lab = oracle_lab()
    lab = Lab(
        denoisers={"H": lab.denoisers["H"], "Hb": lab.denoisers["H"]},
        process=lab.process,
        tokenizer=lab.tokenizer,
        scorer=lab.scorer,
        precision="float64",
    )
    plans = [plan_of("H10"), plan_of("H3 Hb4 H3"), plan_of("Hb10")]
    one, mixed, other = evaluate(plans, BLOCKS, lab=lab, store=Store(tmp_path))
    np.testing.assert_array_equal(one.tokens_SL, mixed.tokens_SL)
    np.testing.assert_array_equal(one.tokens_SL, other.tokens_SL)
    assert paired_log_ppl_difference(one, mixed).value == 0.0


def test_what_is_stored_is_not_run_again_and_blocks_add_up(tmp_path: Path) -> None:
    plans, lab = [plan_of("H10"), plan_of("L5 H5"), plan_of("H10")], oracle_lab()
    store = CountingStore(tmp_path)
    evaluate(plans, BLOCKS[:1], lab=lab, store=store)
    assert store.num_put == 2  # the repeated plan is one
    seen = []
    measured = evaluate(
        [*plans, plan_of("L10")],
        BLOCKS,
        lab=lab,
        store=store,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert store.num_put == 2 + 2 + 2  # the second block of two plans, both blocks of the new one
    assert seen[0] == (2, 6) and seen[-1] == (6, 6) and seen == sorted(seen)
    assert [m.num_sequences for m in measured] == [8, 8, 8, 8]
    np.testing.assert_array_equal(measured[0].tokens_SL, measured[2].tokens_SL)


def test_plans_of_several_families_are_evaluated_in_one_call(tmp_path: Path) -> None:
    lab = oracle_lab()
    plans = [
        plan_of("L5 H5"),
        plan_of("H20"),
        plan_of("L5 H5", decoding=Decoding(temperature=0.5)),
        plan_of("L5 H5", policy=PolicySpec(name="random_order")),
    ]
    measured = evaluate(plans, BLOCKS, lab=lab, store=Store(tmp_path))
    for plan, measurement in zip(plans, measured, strict=True):
        alone = naive(plan, lab, BLOCKS, None)
        np.testing.assert_array_equal(measurement.tokens_SL, alone.z_BL.numpy())


@pytest.mark.parametrize(
    "change",
    [
        "plan",
        "block",
        "denoiser",
        "tokenizer",
        "scorer",
        "prompts",
        "precision",
        "engine",
        "metric",
    ],
)
def test_the_key_covers_everything_that_determines_a_record(
    monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    lab, plan, block, prompts = oracle_lab(), plan_of("H5 L5"), BLOCKS[0], None

    def key() -> str:
        return evaluate_module.identity_of(plan, block, lab, prompts).key

    before = key()
    assert key() == before
    if change == "plan":
        plan = plan_of("L5 H5")
    elif change == "block":
        block = BLOCKS[1]
    elif change == "denoiser":
        lab.denoisers["L"].fingerprint = "other"
    elif change == "tokenizer":
        lab.tokenizer.fingerprint = "other"
    elif change == "scorer":
        object.__setattr__(lab.scorer, "fingerprint", "other")
    elif change == "prompts":
        prompts = Prompts.of([[1]])
    elif change == "precision":
        object.__setattr__(lab, "precision", "float32")
    elif change == "engine":
        monkeypatch.setattr(evaluate_module, "ENGINE_VERSION", 999)
    elif change == "metric":
        monkeypatch.setattr(evaluate_module, "metric_versions", lambda names: {"entropy": 999})
    assert key() != before


def test_a_denoiser_that_a_plan_does_not_use_leaves_its_key_alone() -> None:
    identity = evaluate_module.identity_of
    two, three = oracle_lab("HL"), oracle_lab("HLM")
    plan = plan_of("H5 L5")
    assert identity(plan, BLOCKS[0], two, None).key == identity(plan, BLOCKS[0], three, None).key


def test_kill_9_in_the_middle_loses_no_finished_record_and_repeats_none(tmp_path: Path) -> None:
    plans, blocks = kill_test_work()
    total = len(plans) * len(blocks)
    script = Path(__file__).with_name("toy_lab.py")
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path), "0.05"])
    try:
        wait_for(lambda: process.poll() is None and len(Store(tmp_path)) >= total // 4)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    finished = {key: Store(tmp_path).path(key).read_bytes() for key in set(Store(tmp_path).keys())}
    assert total // 4 <= len(finished) < total

    store = CountingStore(tmp_path)
    resumed = evaluate(plans, blocks, lab=oracle_lab(), store=store)
    assert store.num_put == total - len(finished)
    for key, content in finished.items():
        assert store.path(key).read_bytes() == content
    fresh = evaluate(plans, blocks, lab=oracle_lab(), store=Store(tmp_path / "fresh"))
    for a, b in zip(resumed, fresh, strict=True):
        np.testing.assert_array_equal(a.tokens_SL, b.tokens_SL)
        np.testing.assert_array_equal(a.nll_S, b.nll_S)


def wait_for(condition: object, timeout: float = 60.0) -> None:
    limit = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < limit, "timed out"
        time.sleep(0.01)


def test_a_torn_record_is_moved_aside_and_evaluated_again(tmp_path: Path) -> None:
    plan, lab, store = plan_of("H10"), oracle_lab(), CountingStore(tmp_path)
    (before,) = evaluate([plan], BLOCKS, lab=lab, store=store)
    path = store.path(next(store.keys()))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.warns(UserWarning, match="moved aside"):
        (after,) = evaluate([plan], BLOCKS, lab=lab, store=store)
    assert store.num_put == 3
    np.testing.assert_array_equal(before.tokens_SL, after.tokens_SL)
    assert len(list(store.folder.glob("*.damaged-1"))) == 1


def test_conditional_samples_keep_their_prefix_and_measure_the_rest(tmp_path: Path) -> None:
    prompts = Prompts.of([[0, 1], [2, 0], [1, 1]])
    (measured,) = evaluate(
        [plan_of("L5 H5")], BLOCKS, lab=oracle_lab(), store=Store(tmp_path), prompts=prompts
    )
    expected = prompts.tokens_NP[np.arange(8) % 3]
    np.testing.assert_array_equal(measured.tokens_SL[:, :2], expected)
    assert (measured.scored_tokens_S == LENGTH - 2).all()
    heads = sum(measured.head_positions.values())
    assert (heads == LENGTH - 2).all()


def test_more_prompts_leave_stored_blocks_as_they_are(tmp_path: Path) -> None:
    rows = [[0, 1], [2, 0], [1, 1], [2, 2], [0, 0], [1, 2], [2, 1], [1, 0], [0, 2]]
    store, plan = Store(tmp_path), plan_of("L5 H5")
    evaluate([plan], BLOCKS, lab=oracle_lab(), store=store, prompts=Prompts.of(rows[:8]))
    before = set(store.keys())
    evaluate([plan], BLOCKS, lab=oracle_lab(), store=store, prompts=Prompts.of(rows))
    assert set(store.keys()) == before
    other = Prompts.of([[2, 2], *rows[1:]])
    evaluate([plan], BLOCKS, lab=oracle_lab(), store=store, prompts=other)
    assert len(set(store.keys()) - before) == 1  # the block that holds the changed one


def test_scores_are_those_of_the_final_texts(tmp_path: Path) -> None:
    lab = oracle_lab()
    (measured,) = evaluate([plan_of("H10")], BLOCKS, lab=lab, store=Store(tmp_path))
    log_probs = lab.scorer.next_logits(torch.arange(3)).log_softmax(-1)  # rows: previous token
    for row, nll in zip(measured.tokens_SL, measured.nll_S, strict=True):
        previous = [lab.tokenizer.eot_id, *row[:-1]]
        expected = -sum(
            log_probs[a, b].item() for a, b in zip(previous, row.tolist(), strict=True)
        )
        assert nll == pytest.approx(expected, rel=1e-12)
    total = measured.estimates["log_gen_ppl"].value
    assert total == pytest.approx(measured.nll_S.sum() / (8 * LENGTH))
    assert measured.estimates["gen_ppl"].value == pytest.approx(np.exp(total))


def test_costs_follow_the_requests_made(tmp_path: Path) -> None:
    lab = oracle_lab()
    (m,) = evaluate([plan_of("L5 H5")], BLOCKS, lab=lab, store=Store(tmp_path))
    np.testing.assert_array_equal(m.block_forwards_S, 4 * m.forwards["L"] + 12 * m.forwards["H"])
    np.testing.assert_array_equal(sum(m.head_positions.values()), LENGTH)
    assert (m.flops_total_S > m.flops_blocks_S).all()
    assert m.estimates["forwards"].value == pytest.approx(
        (m.forwards["L"] + m.forwards["H"]).mean()
    )
    assert (m.seconds_S > 0).all()


@pytest.mark.parametrize(
    ("plan", "blocks", "prompts", "message"),
    [
        (plan_of("H5 X5"), BLOCKS, None, "role 'X'"),
        (plan_of("H10", length=6), BLOCKS, None, "at most the 5"),
        (plan_of("H10"), (), None, "at least one"),
        (plan_of("H10"), (BLOCKS[0], BLOCKS[0]), None, "of which 1 differ"),
        (plan_of("H10"), (SeedBlock(0, 0, 1),), None, "at least 2 sequences"),
        (plan_of("H10"), BLOCKS, Prompts.of([[0] * 5]), "must be shorter"),
        (plan_of("H10"), BLOCKS, Prompts.of([[3]]), "mask"),
    ],
)
def test_bad_input_is_one_clear_line(
    tmp_path: Path,
    plan: Plan,
    blocks: tuple[SeedBlock, ...],
    prompts: Prompts | None,
    message: str,
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        evaluate(
            [plan],
            blocks,
            lab=oracle_lab(),
            store=Store(tmp_path),
            prompts=prompts,
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "policy",
    [
        PolicySpec(name="surelock", parameters={"epsilon": 0.05, "share": 0.7}),
        PolicySpec(name="threshold", parameters={"cache": "dual", "block_length": 4}),
    ],
)
def test_positions_that_are_not_computed_cost_nothing(tmp_path: Path, policy: PolicySpec) -> None:
    lab, store = transformer_lab(), Store(tmp_path)
    plans = [plan_of("H6 L6", length=12, policy=policy), plan_of("H12", length=12)]
    for _ in range(2):  # the second time from the store
        m, plain = evaluate(plans, BLOCKS, lab=lab, store=store)
    state = decode(plans[0], lab.denoisers, lab.process, SequenceIds.of(BLOCKS))
    np.testing.assert_array_equal(m.tokens_SL, state.z_BL.numpy())
    expected = np.zeros(8)
    for role, usage in state.usage.items():
        assert usage.positions_B is not None
        per_position = block_flops(lab.denoisers[role].spec, 12) / 12
        expected += per_position * usage.positions_B.numpy()
        np.testing.assert_array_equal(m.forwards[role], usage.forwards_B)
    np.testing.assert_allclose(m.flops_blocks_S, expected, rtol=1e-12)
    full = sum(block_flops(lab.denoisers[role].spec, 12) * m.forwards[role] for role in "HL")
    assert (m.flops_blocks_S <= full).all() and (m.flops_blocks_S < full).any()
    assert (m.flops_total_S > m.flops_blocks_S).all()
    one = block_flops(lab.denoisers["H"].spec, 12)
    np.testing.assert_array_equal(plain.flops_blocks_S, one * plain.forwards["H"])

"""Records, the store and measurements merged from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import schedlab.results.store as store_module
from schedlab.errors import InputError, SchedlabError
from schedlab.files import validate
from schedlab.plan import ModelSchedule, Plan
from schedlab.results import (
    BlockRecord,
    Identity,
    Measurement,
    RoleCost,
    RoleUsage,
    SeedBlock,
    Store,
    agreement,
    bootstrap_mean,
    independent_difference,
    merge,
    paired_difference,
    paired_log_ppl_difference,
)


def record(
    first: int = 0, *, shift: float = 0.0, schedule: str = "L1 H1", **changes: Any
) -> BlockRecord:
    """Two sequences of three tokens with easy numbers."""
    identity = Identity(
        plan=Plan(length=3, model_schedule=ModelSchedule.parse(schedule)),
        block=SeedBlock(seed=1, first=first, size=2),
        denoisers={"H": "h", "L": "l"},
        tokenizer="t",
        scorer="s",
        prompts=None,
        precision="float64",
        device="cpu",
        engine=1,
        metrics={"entropy": 1},
    )
    fields: dict[str, Any] = {
        "identity": identity,
        "prefix_length": 0,
        "tokens": [[1, 2, first], [2, 2, 2]],
        "scores": {
            "nll": [6.0 + shift + first, 3.0 + shift],
            "scored_tokens": [3.0, 3.0],
            "entropy": [1.0, 0.5],
            "self_bleu": [None, 20.0],
        },
        "usage": {
            "L": RoleUsage(forwards=[1, 0], head_positions=[2, 0]),
            "H": RoleUsage(forwards=[1, 1], head_positions=[1, 3]),
        },
        "costs": {
            "L": RoleCost(num_blocks=4, block_flops=400, head_flops=10),
            "H": RoleCost(num_blocks=12, block_flops=1200, head_flops=10),
        },
        "seconds": [0.25, 0.5],
    }
    return BlockRecord(**fields | changes)


def test_what_was_put_is_got_back(tmp_path: Path) -> None:
    store, one = Store(tmp_path), record()
    assert store.get(one.key) is None and one.key not in store
    store.put(one)
    assert store.get(one.key) == one and one.key in store
    assert list(store.keys()) == [one.key] and len(store) == 1
    assert Store(tmp_path).get(one.key) == one
    assert store.path(one.key) == tmp_path / "evals" / f"{one.key}.json"


def test_the_key_is_the_same_in_another_process() -> None:
    identity = record().identity
    code = (
        "import sys; from schedlab.results import Identity;"
        "print(Identity.model_validate_json(sys.stdin.read()).key)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        input=identity.model_dump_json(),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "1"},
    )
    assert result.stdout.strip() == identity.key


@pytest.mark.parametrize("keep", [0, 1, 300, -1])
def test_a_torn_file_is_moved_aside_with_a_warning(tmp_path: Path, keep: int) -> None:
    store, one = Store(tmp_path), record()
    store.put(one)
    path = store.path(one.key)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.warns(UserWarning, match=r"moved aside to .*\.damaged-1"):
        assert store.get(one.key) is None
    assert not path.exists() and path.with_suffix(".damaged-1").exists()
    assert len(store) == 0


def test_every_kind_of_damage_is_noticed(tmp_path: Path) -> None:
    store, one = Store(tmp_path), record()
    store.put(one)
    path = store.path(one.key)
    good = path.read_text()
    document = json.loads(good)
    other_key = {**document, "record": json.loads(record(first=2).model_dump_json())}
    damaged = {
        "one digit changed": good.replace("0.25", "0.35"),
        "another file's content": json.dumps(other_key),
        "not a record": json.dumps({"a": 1}),
        "not JSON": "{",
        "not text": "\xff\xfe",
    }
    for number, (kind, content) in enumerate(damaged.items(), start=1):
        path.write_bytes(content.encode("latin-1"))
        with pytest.warns(UserWarning, match="moved aside"):
            assert store.get(one.key) is None, kind
        # Each is kept under a name of its own.
        assert path.with_suffix(f".damaged-{number}").exists()


@pytest.mark.parametrize("repaired", [True, False])
def test_a_file_that_another_process_repairs_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repaired: bool
) -> None:
    store, one = Store(tmp_path), record()
    path = store.path(one.key)
    path.write_text("{")
    parse = store_module._parse

    def while_another_works(content: bytes, key: str, *, where: str) -> BlockRecord:
        if content == b"{":  # read before the other process moved the file aside
            path.unlink()
            if repaired:
                store.put(one)
        return parse(content, key, where=where)

    monkeypatch.setattr(store_module, "_parse", while_another_works)
    assert store.get(one.key) == (one if repaired else None)
    assert path.exists() == repaired and not path.with_suffix(".damaged-1").exists()


def test_temporary_files_of_a_killed_writer_are_not_records(tmp_path: Path) -> None:
    store, one = Store(tmp_path), record()
    (store.folder / f".{one.key}.json.abc").write_text("{")
    (store.folder / "notes.json").write_text("{}")
    assert list(store.keys()) == []
    assert store.get(one.key) is None


def test_a_full_disk_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("schedlab.results.store.write_atomic", no_space)
    with pytest.raises(SchedlabError, match="No space left on device"):
        Store(tmp_path).put(record())


def test_a_file_that_cannot_be_read_stays_where_it_is(tmp_path: Path) -> None:
    store, one = Store(tmp_path), record()
    store.path(one.key).mkdir()  # reading a folder fails, whoever runs the test
    with pytest.raises(SchedlabError, match="cannot be read"):
        store.get(one.key)
    assert store.path(one.key).exists()


def test_a_store_where_a_file_stands_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evals").write_text("")
    with pytest.raises(InputError, match="cannot hold the store"):
        Store(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": [[1, 2, 3]]}, "tokens must hold 2 sequences, got 1"),
        ({"tokens": [[1, 2], [1, 2]]}, "the plan's 3 tokens"),
        ({"seconds": [0.1]}, "seconds must hold 2"),
        ({"scores": {"nll": [1.0]}}, "scores.nll must hold 2"),
        ({"usage": {"H": RoleUsage(forwards=[1], head_positions=[1, 1])}}, "usage.H.forwards"),
        (
            {"usage": {"H": RoleUsage(forwards=[1, 1], head_positions=[1, 1], positions=[3])}},
            "usage.H.positions",
        ),
        ({"costs": {}}, "costs must name every denoiser"),
        ({"prefix_length": 3}, "prefix_length must be below 3"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        record(**changes)


def test_a_record_with_an_unknown_key_is_refused() -> None:
    data = json.loads(record().model_dump_json()) | {"secondz": []}
    with pytest.raises(InputError, match="did you mean 'seconds'"):
        validate(BlockRecord, data, where="x.json")


def test_merging_adds_up_by_hand() -> None:
    m = merge([record(), record(first=2)])
    assert m.blocks == (SeedBlock(1, 0, 2), SeedBlock(1, 2, 2))
    np.testing.assert_array_equal(m.tokens_SL, [[1, 2, 0], [2, 2, 2], [1, 2, 2], [2, 2, 2]])
    np.testing.assert_array_equal(m.forwards["L"], [1, 0, 1, 0])
    np.testing.assert_array_equal(m.block_forwards_S, [16, 12, 16, 12])
    np.testing.assert_array_equal(m.flops_blocks_S, [1600, 1200, 1600, 1200])
    np.testing.assert_array_equal(m.flops_total_S, [1630, 1230, 1630, 1230])
    values = {name: estimate.value for name, estimate in m.estimates.items()}
    assert values["log_gen_ppl"] == pytest.approx((6 + 3 + 8 + 3) / 12)
    assert values["gen_ppl"] == pytest.approx(np.exp(20 / 12))
    assert values["entropy"] == pytest.approx(0.75)
    assert values["forwards"] == pytest.approx(1.5)
    assert values["block_forwards"] == pytest.approx(14)
    assert values["flops_total"] == pytest.approx(1430)
    assert values["seconds"] == pytest.approx(0.375)
    assert m.estimates["self_bleu"].value == 20.0 and m.estimates["self_bleu"].n == 2
    for name in ("gen_ppl", "log_gen_ppl", "entropy", "seconds"):
        estimate = m.estimates[name]
        assert estimate.low < estimate.value < estimate.high and estimate.n == 4


def test_positions_that_blocks_did_not_compute_cost_nothing() -> None:
    usage = RoleUsage(forwards=[2, 1], head_positions=[3, 3], positions=[3, 2])  # of 6 and 3
    m = merge([record(usage={"H": usage}), record(first=2)])
    cost = record().costs["H"].block_flops
    np.testing.assert_allclose(m.flops_blocks_S[:2], [cost, cost * 2 / 3])
    np.testing.assert_array_equal(m.flops_blocks_S[2:], [1600, 1200])
    np.testing.assert_array_equal(m.forwards["H"], [2, 1, 1, 1])


def test_a_denoiser_that_a_block_did_not_use_counts_zero() -> None:
    alone = record(usage={"H": RoleUsage(forwards=[2, 1], head_positions=[3, 3])})
    m = merge([alone, record(first=2)])
    np.testing.assert_array_equal(m.forwards["L"], [0, 0, 1, 0])


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "at least one"),
        ([record(), record()], "one twice"),
        ([record(), record(first=2, schedule="H2")], "one plan in one setting"),
        ([record(), record(first=2, prefix_length=1)], "one plan in one setting"),
    ],
)
def test_records_that_do_not_belong_together_are_not_merged(
    records: list[BlockRecord], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        merge(records)


def two() -> tuple[Measurement, Measurement]:
    """Two plans on the same four sequences; the second is 0.5 nats a sequence better."""
    worse = [record(schedule="L2", shift=0.5), record(first=2, schedule="L2", shift=0.5)]
    return merge(worse), merge([record(), record(first=2)])


def test_a_paired_difference_has_no_noise_where_the_sequences_move_together() -> None:
    a, b = two()
    difference = paired_log_ppl_difference(a, b)
    assert difference.value == pytest.approx(0.5 / 3)
    assert difference.low == pytest.approx(0.5 / 3)
    assert difference.high == pytest.approx(0.5 / 3)
    assert paired_difference(a, b, "entropy").value == 0.0
    assert paired_difference(a, b, "self_bleu").n == 2
    with pytest.raises(InputError, match="not measured"):
        paired_difference(a, b, "mauve")


def test_agreement_is_the_share_of_equal_generated_tokens() -> None:
    a, b = two()
    assert agreement(a, b).value == 1.0
    changed = merge([record(tokens=[[1, 2, 1], [2, 1, 1]]), record(first=2)])
    assert agreement(changed, b).value == pytest.approx((2 / 3 + 1 / 3 + 1 + 1) / 4)
    given = [
        merge([record(tokens=[[1, t, 0], [1, 2, 2]], prefix_length=1), record(2, prefix_length=1)])
        for t in (1, 2)
    ]
    assert agreement(*given).value == pytest.approx((1 / 2 + 1 + 1 + 1) / 4)


def test_measurements_of_other_sequences_are_not_compared() -> None:
    a, _ = two()
    with pytest.raises(InputError, match="same seed blocks"):
        agreement(a, merge([record(first=2), record()]))
    given = [
        merge([record(tokens=[[t, 1, 0], [1, 2, 2]], prefix_length=1), record(2, prefix_length=1)])
        for t in (1, 2)
    ]
    with pytest.raises(InputError, match="same given prefixes"):
        paired_log_ppl_difference(*given)


def test_the_interval_of_a_difference_of_independent_estimates_covers() -> None:
    """Skewed data of two sizes: coverage within 3 standard errors of 95 % (400 runs)."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        a, b = rng.gamma(2.0, 1.0, 60), rng.gamma(4.0, 0.5, 40)  # both have mean 2
        found = independent_difference(
            bootstrap_mean(a, resamples=500).estimate(),
            bootstrap_mean(b, resamples=500).estimate(),
        )
        assert found.value == pytest.approx(a.mean() - b.mean()) and found.n == 40
        hits += not found.excludes(0.0)
    assert abs(hits / 400 - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 400)

"""Training end to end on a small world: it learns, stops and goes on exactly, in any number of
processes."""

import itertools
import json
import os
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from schedlab.denoisers import checkpoint
from schedlab.errors import InputError, SchedlabError
from schedlab.training import loop, train
from schedlab.training.optimizers import learning_rate_share


def _quiet(line: str) -> None:
    pass


def _state(folder) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "state.safetensors")


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("kind", ["denoiser", "autoregressive"])
def test_the_loss_falls(make_job, tmp_path, kind: str, optimizer: str) -> None:
    job = make_job(kind, num_steps=60, optimizer=optimizer, ema_decay=0.9)
    before = train(job, tmp_path, stop_after=1, say=_quiet)
    after = train(job, tmp_path, say=_quiet)
    assert after.high < before.low - 0.5
    card = checkpoint.read_card(tmp_path)
    assert card["held_out"] == after.model_dump()
    assert card["tokens"] == 60 * 8 * 16
    model = checkpoint.load(tmp_path)
    assert model.config.causal == (kind == "autoregressive")


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_stopped_run_goes_on_exactly(make_job, tmp_path, optimizer: str) -> None:
    job = make_job(optimizer=optimizer)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train(job, straight, say=_quiet)
    for steps in (3, 7, None):
        train(job, stopped, stop_after=steps, say=_quiet)
    assert (straight / "model.safetensors").read_bytes() == (
        stopped / "model.safetensors"
    ).read_bytes()
    left, right = _state(straight), _state(stopped)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_killed_run_goes_on_from_its_last_state(make_job, tmp_path, monkeypatch) -> None:
    job = make_job()
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    train(job, straight, say=_quiet)
    real_step, calls = loop.train_step, []

    def dying_step(*arguments):
        calls.append(1)
        if len(calls) == 9:  # after the state of step 5
            raise KeyboardInterrupt
        return real_step(*arguments)

    monkeypatch.setattr(loop, "train_step", dying_step)
    with pytest.raises(KeyboardInterrupt):
        train(job, killed, say=_quiet)
    train(job, killed, say=_quiet)
    assert len(calls) == 9 + 7  # steps 6 to 12 only
    assert (straight / "model.safetensors").read_bytes() == (
        killed / "model.safetensors"
    ).read_bytes()


def test_seeds_give_different_models_and_equal_seeds_equal_ones(make_job, tmp_path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(make_job(seed=seed, num_steps=2), tmp_path / name, say=_quiet)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_a_folder_of_another_job_is_refused(make_job, tmp_path) -> None:
    train(make_job(num_steps=2), tmp_path, say=_quiet)
    with pytest.raises(InputError, match="trained with another job"):
        train(make_job(num_steps=3), tmp_path, say=_quiet)


def test_damaged_states_are_one_line(make_job, tmp_path) -> None:
    job = make_job(num_steps=2)
    train(job, tmp_path, stop_after=1, say=_quiet)
    file = tmp_path / "state.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[:100], b"", b"\x80\x04pickle", whole[:-10]):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="delete it to start anew") as caught:
            train(job, tmp_path, say=_quiet)
        assert "\n" not in str(caught.value)


def test_progress_tells_corpus_rate_and_held_out_loss(make_job, tmp_path) -> None:
    job = make_job()
    reporting = job.reporting.model_copy(update={"log_every": 2})
    lines: list[str] = []
    train(job.model_copy(update={"reporting": reporting}), tmp_path, say=lines.append)
    assert lines[0].startswith("corpus ")
    assert any("step 6/12 (50%)" in line and "left 0:00:0" in line for line in lines)
    assert sum("held-out loss" in line for line in lines) == 2
    records = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "loss" in r] == [2, 4, 6, 8, 10, 12]


def test_bfloat16_trains_the_same_model_up_to_rounding(make_job, tmp_path) -> None:
    exact = train(make_job(num_steps=20), tmp_path / "a", say=_quiet)
    rounded = train(make_job(num_steps=20, precision="bfloat16"), tmp_path / "b", say=_quiet)
    assert rounded.value == pytest.approx(exact.value, abs=0.1)
    state = _state(tmp_path / "b")
    assert {v.dtype for n, v in state.items() if n.startswith("weights/")} == {torch.float32}


def test_without_a_compiler_training_goes_on(make_job, tmp_path, monkeypatch) -> None:
    def broken_compile(function, **options):
        def raise_error(*arguments):
            raise RuntimeError("no C++ compiler\nlong trace")

        return raise_error

    monkeypatch.setattr(torch, "compile", broken_compile)
    lines: list[str] = []
    train(make_job(num_steps=2, compile=True), tmp_path / "a", say=lines.append)
    assert any("no C++ compiler" in line and "\n" not in line for line in lines)
    train(make_job(num_steps=2), tmp_path / "b", say=_quiet)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (
        tmp_path / "b" / "model.safetensors"
    ).read_bytes()


def test_a_loss_that_is_not_finite_stops_the_run(make_job, tmp_path) -> None:
    job = make_job(num_steps=60, learning_rate=1e30, warmup_steps=1, optimizer="adamw")
    with pytest.raises(SchedlabError, match="lower the learning rates"):
        train(job, tmp_path, say=_quiet)


def test_two_processes_equal_one(make_job, tmp_path, repository) -> None:
    job = make_job(num_steps=6, optimizer="adamw")  # Muon rounds to bfloat16 inside
    alone = train(job, tmp_path / "alone", say=_quiet)
    program = tmp_path / "run.py"
    program.write_text(
        "import os, sys, torch\n"
        "from schedlab.training import TrainJob, train\n"
        "from schedlab.files import read_json, validate\n"
        "torch.set_num_threads(1)\n"
        "job = validate(TrainJob, read_json(sys.argv[1]), where='job')\n"
        "train(job, sys.argv[2], device='cpu', stop_after=3)\n"
        "value = train(job, sys.argv[2], device='cpu').value\n"
        "open(f'{sys.argv[3]}-{os.environ[\"RANK\"]}', 'w').write(repr(value))\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    paths = [program, tmp_path / "alone" / "job.json", tmp_path / "two", tmp_path / "value"]
    done = subprocess.run(
        [*torchrun, "2", *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)},
    )
    assert done.returncode == 0, done.stderr
    values = [float((tmp_path / f"value-{rank}").read_text()) for rank in (0, 1)]
    assert values[0] == values[1]  # the first process measures for all
    assert values[0] == pytest.approx(alone.value, rel=1e-4)
    left, right = _state(tmp_path / "alone"), _state(tmp_path / "two")
    for name, value in left.items():
        if name.startswith("weights/"):
            assert torch.allclose(value, right[name], atol=2e-4), name
    assert done.stderr.count("held-out loss") == 2  # the first process alone speaks


def test_unusable_devices_and_corpora_are_one_line(make_job, tmp_path) -> None:
    with pytest.raises(InputError, match="device must be"):
        train(make_job(), tmp_path, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no GPU is visible"):
            train(make_job(), tmp_path, device="cuda")
    tiny = tmp_path / "tiny.txt"
    tiny.write_text("Only one line.\n")
    with pytest.raises(InputError, match="no document of the valid split"):
        train(make_job().model_copy(update={"corpus": str(tiny)}), tmp_path, say=_quiet)


def test_learning_rate_rises_and_falls(make_job) -> None:
    settings = make_job(num_steps=100, warmup_steps=10, final_learning_rate=0.1).optimization
    shares = [learning_rate_share(step, settings) for step in range(100)]
    assert shares[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert shares[10] == pytest.approx(1.0)
    assert all(a > b for a, b in itertools.pairwise(shares[10:]))
    assert shares[-1] == pytest.approx(0.1, abs=0.01)

"""The command line: exit codes, one-line complaints, JSON, interruption."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner, Result

from schedlab import __version__
from schedlab.cli import app, printable
from schedlab.denoisers import checkpoint
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import PartialError, SchedlabError, SchedlabWarning
from schedlab.pipeline.calibration import Estimate
from schedlab.plan import DenoiserRef, FileRef, ModelSchedule, Plan, PlanFile
from schedlab.text import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))

from tiny_world import tiny_job, write_corpus, write_job, write_models

LENGTH = 8
Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """Run the command in this process; `output` is standard output, `stderr` the rest."""
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def save_model(folder: Path, *, vocab_size: int | None = None, num_blocks: int = 1) -> Path:
    """A tiny random denoiser, by default over the bundled vocabulary."""
    vocab_size = vocab_size or Tokenizer.load("bundled").vocab_size
    config = TransformerConfig(
        vocab_size=vocab_size, mask_id=vocab_size - 1, num_blocks=num_blocks, hidden_size=8,
        num_heads=1, max_length=LENGTH,
    )  # fmt: skip
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(num_blocks))
    model.head.weight.data.mul_(100)  # else untrained predictions are all but uniform
    checkpoint.save(folder, model, {"seed": num_blocks})
    return folder


def save_plan(folder: Path, **models: Path) -> Path:
    """A plan file over model folders by role, half of the steps each."""
    plan = Plan(length=LENGTH, model_schedule=ModelSchedule.from_assignment(list(models), 4))
    refs = {
        role: DenoiserRef(
            location=str(where), sha256=checkpoint.load(where).fingerprint, num_blocks=1,
            num_parameters=1, flops_per_forward=1.0,
        )
        for role, where in models.items()
    }  # fmt: skip
    tokenizer = FileRef(location="bundled", sha256=Tokenizer.load("bundled").fingerprint)
    file = PlanFile(
        plan=plan, digest=plan.digest, denoisers=refs, tokenizer=tokenizer, precision="float32"
    )
    file.write(folder / "plan.json")
    return folder / "plan.json"


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    return {
        "H": save_model(tmp_path / "heavy", num_blocks=2),
        "L": save_model(tmp_path / "light", num_blocks=1),
    }


@pytest.fixture
def plan_path(tmp_path: Path, models: dict[str, Path]) -> Path:
    return save_plan(tmp_path, **models)


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def assert_one_line(result: Result, *parts: str, code: int = 2) -> None:
    """Exit code, and one line on standard error that holds all parts; nothing on output."""
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("schedlab: ")
    for part in parts:
        assert part in line


# Bad input


@pytest.mark.parametrize("command", ["validate", "sample", "analyze", "search"])
def test_a_missing_file_is_one_line(run: Run, command: str) -> None:
    assert_one_line(run(command, "nowhere.toml"), "nowhere.toml: no such file")


@pytest.mark.parametrize("command", ["report", "export", "status", "resume"])
def test_a_missing_run_folder_is_one_line(run: Run, command: str, tmp_path: Path) -> None:
    assert_one_line(run(command, tmp_path / "nowhere"), "nowhere")


def test_a_plan_with_another_total_is_refused(run: Run, plan_path: Path) -> None:
    edit_json(plan_path, lambda data: data["plan"].update(model_schedule="H2 L3"))
    assert_one_line(run("validate", plan_path), "digest")


def test_a_segment_of_no_steps_is_refused(run: Run, plan_path: Path) -> None:
    edit_json(plan_path, lambda data: data["plan"].update(model_schedule="H4 L0"))
    assert_one_line(run("validate", plan_path), "model_schedule", "must be >= 1")


def test_an_unknown_plan_key_is_refused(run: Run, plan_path: Path) -> None:
    edit_json(plan_path, lambda data: data["plan"].update(lenght=9))
    assert_one_line(run("validate", plan_path), "unknown key 'plan.lenght'", "'length'")


def test_an_unknown_job_key_is_refused(run: Run, tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    job.write_text('[lab]\ndenoisers = { H = "x", L = "y" }\n[search]\nnum_segmnets = 3\n')
    for command in ("validate", "search", "analyze"):
        assert_one_line(run(command, job), "search.num_segmnets", "'num_segments'")


def test_denoisers_of_two_vocabularies_are_refused(run: Run, tmp_path: Path) -> None:
    heavy = save_model(tmp_path / "heavy", num_blocks=2)
    other = save_model(tmp_path / "other", vocab_size=100)
    job = tmp_path / "job.toml"
    job.write_text(
        f'[lab]\ndenoisers = {{ H = "{heavy}", L = "{other}" }}\n[plan]\nlength = {LENGTH}\n'
        f'[output]\nfolder = "{tmp_path / "run"}"\n'
    )
    assert_one_line(run("search", job), "vocab_size", "2048", "100")
    plan = save_plan(tmp_path, H=heavy, L=other)
    assert_one_line(run("sample", plan), "vocab_size", "2048", "100")


def test_nan_weights_are_refused(run: Run, models: dict[str, Path], plan_path: Path) -> None:
    file = models["L"] / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    weights["norm.weight"][3] = torch.nan
    safetensors.torch.save_file(weights, file)
    for result in (run("inspect", models["L"]), run("sample", plan_path)):
        assert_one_line(result, "norm.weight", "finite")


class Bomb:
    """A pickle that leaves a trace when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pickle_is_refused_and_not_loaded(
    run: Run, models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    (models["H"] / "model.safetensors").unlink()
    trace = tmp_path / "loaded"
    (models["H"] / name).write_bytes(pickle.dumps(Bomb(trace)))
    assert_one_line(run("inspect", models["H"]), "safetensors", "pickle")
    assert not trace.exists()


def test_weights_that_were_changed_since_the_plan_was_measured_are_refused(
    run: Run, models: dict[str, Path], plan_path: Path
) -> None:
    shutil.rmtree(models["L"])
    save_model(models["L"], num_blocks=2)
    assert_one_line(run("sample", plan_path), "fingerprint")


def test_a_job_over_its_own_limit_is_exit_code_4(run: Run, tmp_path: Path) -> None:
    write_models(tmp_path)
    write_corpus(tmp_path / "corpus.txt")
    limits = {"max_plans": 5, "additive": False}
    job = write_job(tiny_job(tmp_path, search=limits), tmp_path / "job.toml")
    result = run("--quiet", "search", job)
    assert result.exit_code == 4, result.stderr
    assert "more than" in result.stderr.splitlines()[-1]
    assert not any((tmp_path / "run" / "evals").glob("*.json"))


@pytest.mark.parametrize(
    "error, code", [(PartialError("2 of 9 failed"), 3), (SchedlabError("no space"), 1)]
)
def test_other_failures_have_their_exit_codes(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: SchedlabError, code: int
) -> None:
    def fail(run_dir: Path) -> None:
        raise error

    monkeypatch.setattr("schedlab.pipeline.resume", fail)
    assert_one_line(run("resume", "somewhere"), str(error), code=code)


@pytest.mark.parametrize(
    "error, code",
    [
        (IsADirectoryError(errno.EISDIR, "Is a directory", "out"), 2),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 2),
        (OSError(errno.ENOSPC, "No space left on device", "out"), 1),
    ],
)
def test_a_path_that_cannot_be_written_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: OSError, code: int
) -> None:
    def fail(run_dir: Path) -> None:
        raise error

    monkeypatch.setattr("schedlab.pipeline.resume", fail)
    assert_one_line(run("resume", "somewhere"), f"out: {error.strerror}", code=code)


def test_a_prompt_that_is_not_utf8_is_one_line(run: Run, plan_path: Path) -> None:
    assert_one_line(run("sample", plan_path, "--prompt", "\udcff\udcfe"), "not UTF-8")


def test_a_warning_is_one_line_without_a_place_in_the_source(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(run_dir: Path) -> Path:
        warnings.warn("a file was damaged", SchedlabWarning, stacklevel=1)
        warnings.warn("a library muses", UserWarning, stacklevel=1)
        raise SchedlabError("stop")

    monkeypatch.setattr("schedlab.pipeline.resume", warn)
    with warnings.catch_warnings():  # pytest records warnings in its own way
        warnings.simplefilter("always")
        result = run("resume", "somewhere")
    assert result.stderr.splitlines() == [
        "schedlab: warning: a file was damaged",
        "schedlab: stop",
    ]


@pytest.mark.parametrize(
    "words", [["bogus"], ["validate", "--bogus"], ["sample"], ["sample", "x.json", "-n", "many"]]
)
def test_wrong_usage_is_exit_code_2(run: Run, words: list[str]) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert "Error: " in result.stderr


def test_a_message_cannot_steer_the_terminal(run: Run) -> None:
    result = run("validate", "\x1b[2J\nno.json")
    assert_one_line(result, "no.json")
    assert "\x1b" not in result.stderr


def test_an_estimate_is_made_before_anything_is_run(run: Run, tmp_path: Path) -> None:
    write_models(tmp_path)
    write_corpus(tmp_path / "corpus.txt")
    job = write_job(tiny_job(tmp_path), tmp_path / "job.toml")
    result = run("--quiet", "estimate", job, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["plans"] >= 6 and found["sequences"] == 8
    assert found["forwards"]["H"] > 0 and found["flops"] > 0
    assert found["search_seconds"] > 0 and found["analysis_seconds"] > 0
    assert found["start_seconds"] > 0 and found["gpu_memory_bytes"] is None
    assert found["memory_bytes"] > 50e6  # an interpreter with torch takes more
    assert not (tmp_path / "run").exists()


def test_an_estimate_is_told_in_units_of_people(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = Estimate(
        plans=234, sequences=64, fresh_sequences=64, forwards={"H": 19409.4, "L": 15985.0},
        flops=4.02e12, start_seconds=8.0, analysis_seconds=40.0, search_seconds=72.0,
        memory_bytes=1_234_000_000, gpu_memory_bytes=None,
    )  # fmt: skip
    monkeypatch.setattr("schedlab.pipeline.estimate_job", lambda job: found)
    job = write_job(tiny_job(tmp_path), tmp_path / "job.toml")
    text = run("estimate", job).stdout
    assert "19,409 of one sequence" in text and "2.0 min" in text
    assert "1.23 GB" in text and "GPU" not in text
    found = found.model_copy(update={"gpu_memory_bytes": 2_500_000_000})
    text = run("estimate", job).stdout
    assert "GPU memory" in text and "2.50 GB" in text


# What works


def test_version_and_help_answer(run: Run) -> None:
    assert run("--version").stdout.strip() == __version__
    text = run("--help").stdout
    for command in (
        "demo", "train", "analyze", "search", "resume", "status", "report", "export", "sample",
        "validate", "inspect", "doctor",
    ):  # fmt: skip
        assert f"\n  {command} " in text
        assert run(command, "--help").exit_code == 0


def test_validate_says_what_the_plan_is(run: Run, plan_path: Path) -> None:
    digest = PlanFile.read(plan_path).digest
    assert "H2 L2" in run("validate", plan_path).stdout
    found = json.loads(run("validate", plan_path, "--json").stdout)
    assert found["digest"] == digest
    assert found["plan"]["model_schedule"] == "H2 L2"


def test_validate_prints_the_schema(run: Run) -> None:
    assert "model_schedule" in json.dumps(json.loads(run("validate", "--schema").stdout))


def test_inspect_says_sizes_mask_and_card(run: Run, models: dict[str, Path]) -> None:
    found = json.loads(run("inspect", models["H"], "--json").stdout)
    assert found["config"]["num_blocks"] == 2
    assert found["config"]["mask_id"] == Tokenizer.load("bundled").mask_id
    assert found["fingerprint"] == checkpoint.load(models["H"]).fingerprint
    assert found["card"] == {"seed": 2}
    assert found["fingerprint"] in run("inspect", models["H"]).stdout


def test_sample_repeats_itself_with_a_seed(run: Run, plan_path: Path) -> None:
    def texts(seed: int, *more: str) -> list[str]:
        result = run("sample", plan_path, "-n", 3, "--seed", seed, "--json", *more)
        assert result.exit_code == 0, result.stderr
        found: list[str] = json.loads(result.stdout)["texts"]
        return found

    assert texts(5) == texts(5)
    assert texts(5) != texts(6)
    assert all(text.startswith("The") for text in texts(5, "--prompt", "The"))


def test_printable_keeps_text_and_drops_control_characters() -> None:
    assert printable("a\tb\n\u00e9 \u4e2d") == "a\tb\n\u00e9 \u4e2d"
    assert printable("\x1b[31m\x00\u202e\x9b") == "\ufffd[31m\ufffd\ufffd\ufffd"


def test_doctor_finds_a_broken_installation(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checkpoint, "BUNDLED", tmp_path)
    result = run("doctor", "--json")
    states = {check["name"]: check["state"] for check in json.loads(result.stdout)}
    assert result.exit_code == 1
    assert states["bundled models"] == "failed"
    assert states["versions"] == states["FLOP counter"] == "ok"


def interrupted(words: list[object], when: Callable[[], bool], number: int) -> tuple[int, str]:
    """Start a command, send it a signal once `when` holds; its exit code and standard error."""
    process = subprocess.Popen(
        [sys.executable, "-m", "schedlab", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # Shells start background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 100
    while not when() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_an_interrupted_training_says_how_to_go_on(tmp_path: Path) -> None:
    text, job, out = tmp_path / "text.txt", tmp_path / "job.toml", tmp_path / "model"
    words = random.Random(0)
    documents = (" ".join(f"w{words.randrange(500)}" for _ in range(20)) for _ in range(400))
    text.write_text("\n".join(documents))
    job.write_text(
        f'kind = "denoiser"\nseed = 1\ncorpus = "{text}"\n'
        "[model]\nnum_blocks = 1\nhidden_size = 8\nnum_heads = 1\nlength = 8\n"
        "[optimization]\nnum_steps = 1000000\nbatch_size = 2\ncompile = false\n"
        "[reporting]\nlog_every = 1\ncheckpoint_every = 5\nheld_out_windows = 2\n"
    )
    state = out / "state.safetensors"
    code, errors = interrupted(["train", job, "--out", out], state.exists, signal.SIGTERM)
    assert code == 130, errors
    assert errors.splitlines()[-1] == (
        f"schedlab: interrupted; to go on: schedlab train {job} --out {out}"
    )


def test_an_interrupted_search_is_resumed_reported_exported_and_sampled(
    run: Run, tmp_path: Path
) -> None:
    write_models(tmp_path)
    write_corpus(tmp_path / "corpus.txt")
    job, folder = tmp_path / "job.toml", tmp_path / "run"
    write_job(tiny_job(tmp_path, search={"num_sequences": 16, "workers": 1}), job)

    def some_are_stored() -> bool:
        return any((folder / "evals").glob("*.json"))

    words = ["search", job, "--run", folder]
    code, errors = interrupted(words, some_are_stored, signal.SIGINT)
    assert code == 130, errors
    assert errors.splitlines()[-1] == (
        f"schedlab: interrupted; to go on: schedlab resume {folder}"
    )
    assert json.loads(run("status", folder, "--json").stdout)["process"] is None

    for words in (["resume", folder], ["report", folder], ["export", folder, "--pick", "best"]):
        result = run(*words)
        assert result.exit_code == 0, result.stderr
    assert all(
        stage["done"] for stage in json.loads(run("status", folder, "--json").stdout)["stages"]
    )
    assert (folder / "report.html").is_file()
    plan = folder / "plan.json"
    assert run("validate", plan).exit_code == 0
    assert len(json.loads(run("sample", plan, "-n", 2, "--json").stdout)["texts"]) == 2
    assert_one_line(run("export", folder, "--pick", "cheapest"), "cheapest", "budget=SHARE")

"""The whole thing on tiny models: real tokens, real files, real kills."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import schedlab.pipeline as pipeline
from schedlab.denoisers import checkpoint
from schedlab.errors import InputError, SchedlabError
from schedlab.job import Job
from schedlab.pipeline import calibration, resume, run_analyze, run_demo, run_search, status
from schedlab.pipeline.progress import LogLines, Silent
from schedlab.pipeline.run_folder import RunFolder
from schedlab.pipeline.stages import Run
from schedlab.pipeline.workers import ParallelEvaluator
from schedlab.plan import ModelSchedule, PlanFile
from schedlab.results import Store
from schedlab.results.environment_file import EnvironmentFile
from schedlab.results.importance_file import ImportanceFile
from schedlab.results.search_file import SearchFile

sys.path.insert(0, str(Path(__file__).parent))

from killed import killed_when
from tiny_world import tiny_job, write_corpus, write_job, write_models

TRIALS = {"trials": 3, "sampler": "tpe", "roles": ["L", "M"]}


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an uninterrupted search with everything in it."""
    return run_search(search_job(world), tmp_path_factory.mktemp("finished") / "run")


def search_job(world: Path) -> Job:
    return tiny_job(world, search={"num_sequences": 8} | TRIALS)


def without_times(path: Path) -> Any:
    """The result file less what a clock measured."""
    data = json.loads(path.read_text())
    for row in data["rows"] + data["fresh"]:
        row["estimates"].pop("seconds")
        row.get("cost", {}).pop("seconds", None)
    return data


def evaluations(folder: Path) -> dict[str, int]:
    """Stored evaluations and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "evals").glob("*.json")}


def test_a_search_goes_from_models_and_text_to_picked_schedules(finished: Path) -> None:
    file = SearchFile.read(finished / "search.json")
    assert {family for row in file.rows for family in row.families} == {
        "handmade",
        "exhaustive",
        "additive",
        "optuna",
    }
    assert sum("exhaustive" in row.families for row in file.rows) == 6
    assert {"all_heavy", "all_light", "worst"} <= {why for row in file.fresh for why in row.why}
    heavy = next(row for row in file.rows if row.name == "all_heavy")
    assert heavy.paired_log_ppl.value == 0 and heavy.estimates["agreement"].value == 1
    assert heavy.cost.saved_total == 0 and heavy.in_entropy_band
    assert [len(row.samples) for row in file.fresh if "all_heavy" in row.why] == [2]
    assert {item.score for item in file.rank_correlation} == {"loss_gap", "path_kl"}
    assert len(file.segment_influence) == 4


def test_the_additive_scores_are_the_sums_of_the_analysis(finished: Path) -> None:
    file = SearchFile.read(finished / "search.json")
    importance = ImportanceFile.read(finished / "importance.json")
    gap = importance.scores("L").loss_gap
    kl = importance.scores("L", states="heavy_sampler").path_kl
    row = next(row for row in file.rows if row.name == "light_second")
    light = [k for k, role in enumerate(row.schedule.steps) if role == "L"]
    assert row.additive.loss_gap == pytest.approx(sum(gap[k] for k in light))
    assert row.additive.path_kl == pytest.approx(sum(kl[k] for k in light))


def test_the_environment_names_everything_that_was_used(finished: Path, world: Path) -> None:
    environment = EnvironmentFile.read(finished / "environment.json")
    assert set(environment.denoisers) == {"H", "L", "M"}
    heavy = checkpoint.load(str(world / "heavy"))
    assert environment.denoisers["H"].sha256 == heavy.fingerprint
    assert environment.denoisers["H"].num_blocks == 2
    assert environment.denoisers["H"].num_parameters == sum(p.numel() for p in heavy.parameters())
    assert environment.corpus is not None and environment.scorer is not None
    assert environment.precision == "float32" and environment.packages["torch"]


def test_a_finished_run_is_left_alone(finished: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    assert status(finished).complete
    resume(finished)
    assert {path.name: path.stat().st_mtime_ns for path in finished.iterdir()} == before


RUN_SEARCH = "import sys; from schedlab.pipeline import run_search; run_search(sys.argv[1])"
RESUME = "import sys; from schedlab.pipeline import resume; resume(sys.argv[1])"


def test_a_search_killed_twice_loses_no_finished_evaluation_and_repeats_none(
    world: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = search_job(world)
    job = job.model_copy(update={"output": job.output.model_copy(update={"folder": str(run)})})
    path = write_job(job, tmp_path / "job.toml")
    killed_when(("-c", RUN_SEARCH, path), lambda: run.exists() and len(evaluations(run)) >= 5)
    first = evaluations(run)
    assert 5 <= len(first) < len(evaluations(finished))
    assert not status(run).complete and status(run).process is None
    killed_when(("-c", RESUME, run), lambda: len(evaluations(run)) >= len(first) + 8)
    second = evaluations(run)
    resume(run)
    last = evaluations(run)
    # An evaluation that is repeated is written again.
    assert first.items() <= second.items() <= last.items()
    assert set(last) == set(evaluations(finished))
    assert without_times(run / "search.json") == without_times(finished / "search.json")
    assert status(run).complete


class Interrupting(Silent):
    """Ctrl-C once so many evaluations are stored."""

    def __init__(self, run: Path, after: int) -> None:
        self.run, self.after = run, after

    def update(self, done: int, total: int) -> None:
        if len(evaluations(self.run)) == self.after:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_leaves_a_folder_that_can_be_resumed(
    world: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run_analyze(search_job(world), run)
    # Shells start background jobs with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "reporter", lambda: contextlib.nullcontext(Interrupting(run, 7)))
        with pytest.raises(KeyboardInterrupt):
            run_search(search_job(world), run)
    signal.signal(signal.SIGINT, before)
    assert 0 < len(evaluations(run)) < len(evaluations(finished))
    assert "schedlab resume" in str(status(run))
    resume(run)
    assert without_times(run / "search.json") == without_times(finished / "search.json")


def test_two_coordinators_cannot_work_in_one_folder(world: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.lock():
        assert status_process(folder) == os.getpid()
        with pytest.raises(InputError, match=f"process {os.getpid()} is working in it"):
            run_analyze(tiny_job(world), folder.path)
    assert status_process(folder) is None


def status_process(folder: RunFolder) -> int | None:
    # Another process asks, as locks belong to open files.
    code = (
        "import sys; from schedlab.pipeline.run_folder import RunFolder;"
        "print(RunFolder(sys.argv[1]).holder() or 0)"
    )
    out = subprocess.check_output(
        [sys.executable, "-c", code, str(folder.path)], cwd=Path(__file__).parents[1]
    )
    return int(out) or None


def test_another_job_or_other_weights_are_refused(world: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_models(models)
    write_corpus(models / "corpus.txt")
    run = run_analyze(tiny_job(models), tmp_path / "run")
    with pytest.raises(InputError, match=r"another study: \[plan\], \[job\] differ"):
        run_analyze(tiny_job(models, job={"seed": 2}, plan={"temperature": 0.5}), run)
    model = checkpoint.load(str(models / "light"))
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    checkpoint.save(models / "light", model, {})
    with pytest.raises(InputError, match="begun with another denoiser L"):
        run_search(tiny_job(models), run)


def test_more_sequences_run_the_new_blocks_only(world: Path, tmp_path: Path) -> None:
    run = run_search(tiny_job(world), tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (run / "evals").iterdir()}
    analyzed = (run / "importance.json").stat().st_mtime_ns
    job = tiny_job(world)
    more = job.search.model_copy(update={"num_sequences": 2 * job.search.num_sequences})
    run_search(job.model_copy(update={"search": more}), run)
    after = {path: path.stat().st_mtime_ns for path in (run / "evals").iterdir()}
    assert before.items() < after.items()
    assert (run / "importance.json").stat().st_mtime_ns == analyzed
    assert SearchFile.read(run / "search.json").setting.num_sequences == more.num_sequences


def test_a_folder_with_anything_else_in_it_is_left_alone(world: Path, tmp_path: Path) -> None:
    """A job file with `folder = "."` names its own folder; a typo may name a model's."""
    own = tmp_path / "job.toml"
    own.write_text("# my job\n")
    with pytest.raises(InputError, match="not empty and no run folder .it holds job.toml"):
        run_search(tiny_job(world), tmp_path)
    assert own.read_text() == "# my job\n" and not (tmp_path / ".lock").exists()
    with pytest.raises(InputError, match=r"no run\.json in it"):
        status(tmp_path)


def test_a_job_with_a_mistake_leaves_the_folder_free(world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = tiny_job(world)
    lost = job.lab.model_copy(update={"scorer": str(tmp_path / "nowhere")})
    with pytest.raises(InputError, match="nowhere"):
        run_search(job.model_copy(update={"lab": lost}), run)
    run_search(job, run)
    assert status(run).complete


def test_a_damaged_state_is_said_to_be(world: Path, tmp_path: Path) -> None:
    run = run_analyze(tiny_job(world), tmp_path / "run")
    (run / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"run\.json: not a schedlab\.run file"):
        status(run)


def test_an_edited_job_is_done_again_as_far_as_it_changed(world: Path, tmp_path: Path) -> None:
    job = tiny_job(world)
    run = run_search(job, tmp_path / "run")
    before = evaluations(run)
    analyzed = (run / "importance.json").stat().st_mtime_ns
    more = tiny_job(world, search={"num_sequences": 12, "num_segments": 4})
    write_job(more, run / "job.toml")
    assert [(stage.name, stage.done) for stage in status(run).stages] == [
        ("analyze", True),
        ("search", False),
    ]
    resume(run)
    assert SearchFile.read(run / "search.json").setting.num_sequences == 12
    assert before.items() <= evaluations(run).items()  # blocks are added, none is run again
    assert (run / "importance.json").stat().st_mtime_ns == analyzed


def test_other_segments_are_analyzed_again(world: Path, tmp_path: Path) -> None:
    run = run_analyze(tiny_job(world), tmp_path / "run")
    write_job(tiny_job(world, search={"num_segments": 2}), run / "job.toml")
    assert not status(run).complete
    resume(run)
    propagation = ImportanceFile.read(run / "importance.json").propagation
    assert {swap.segment for swap in propagation} == {0, 1}


def test_a_study_of_other_prefixes_is_not_continued(world: Path, tmp_path: Path) -> None:
    table = {"num_sequences": 4, "additive": False} | TRIALS
    run = run_search(tiny_job(world, search=table), tmp_path / "run")
    write_job(tiny_job(world, search=table | {"prefix_length": 3}), run / "job.toml")
    with pytest.warns(UserWarning, match="belongs to a search with other settings"):
        resume(run)


def test_steps_analyzed_on_another_text_are_not_searched_with(world: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    write_corpus(corpus)
    job = tiny_job(world, corpus={"source": str(corpus)})
    run = run_analyze(job, tmp_path / "run")
    corpus.write_text(corpus.read_text() + "\n\nOne more document, which was not there before.\n")
    with pytest.raises(InputError, match="analyzed on another text"):
        run_search(job, run)


def test_given_prefixes_stand_in_every_sample(world: Path, tmp_path: Path) -> None:
    table = {"prefix_length": 3, "additive": False, "num_segments": 2, "num_light": 1}
    run = run_search(tiny_job(world, search={"num_sequences": 4} | table), tmp_path / "run")
    file = SearchFile.read(run / "search.json")
    assert file.setting.prefix_length == 3 and not (run / "importance.json").exists()
    texts = {row.samples[0] for row in file.fresh if row.samples}
    assert len({text[:5] for text in texts}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corpus": {"source": "/nowhere.txt"}}, "no such file"),
        ({"lab": {"scorer": "/nowhere"}}, "/nowhere"),
        ({"plan": {"length": 64}}, "longer than|trained for|made for|windows"),
    ],
)
def test_what_does_not_fit_is_one_line(
    change: dict[str, Any], message: str, world: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        run_search(tiny_job(world, **change), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_job_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run folder to go on with"):
        resume(tmp_path)
    with pytest.raises(InputError, match="no run folder to go on with"):
        status(tmp_path / "nowhere")


def test_the_demo_ends_with_a_report_a_plan_and_samples(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"num_segments": 4, "num_light": 2, "num_sequences": 16, "block_size": 16}

    def tiny_demo(seed: int = 1, **_: object) -> Job:
        # A knee needs a plan that saves something within the band: random models write alike.
        search = small | {"entropy_nats": 10.0, "workers": 1}
        return tiny_job(world, job={"seed": seed}, search=search)

    monkeypatch.setattr(pipeline, "demo_job", tiny_demo)
    monkeypatch.setattr(calibration, "MIN_WINDOWS", 8)
    paths = run_demo(tmp_path / "demo", seed=1, minutes=0)
    assert paths.html.stat().st_size > 10_000 and paths.pdf is not None and paths.pdf.exists()
    plan_file = PlanFile.read(paths.plan)
    assert plan_file.measured["gen_ppl"].seeds == [tiny_demo().fresh_seed]
    assert paths.samples.read_text(encoding="utf-8").count("--- sample") == 2
    assert SearchFile.read(paths.folder / "search.json").setting.num_sequences == 32
    again = run_demo(tmp_path / "demo", seed=1)
    assert again == paths
    with pytest.raises(InputError, match="holds another job"):
        run_demo(tmp_path / "demo", seed=2)


def test_workers_give_the_same_results_their_death_is_noticed_and_none_is_left(
    world: Path, finished: Path, tmp_path: Path
) -> None:
    job = tiny_job(world)
    local = Run(job, RunFolder(tmp_path), Silent()).evaluator().local
    plans = [job.plan.plan(ModelSchedule.parse(text)) for text in ("H8", "L8", "H4 L4")]
    many = ParallelEvaluator(local, job.lab, num_workers=2, min_work=1)
    with contextlib.closing(many):
        measured = many(plans, job.blocks())
        stored = set(evaluations(tmp_path))  # before the other worker may store what follows
        pids = many.pids
        os.kill(pids[0], signal.SIGKILL)
        with pytest.raises(SchedlabError, match="a worker process ended"):
            many([job.plan.plan(ModelSchedule.parse("L4 H4"))], job.fresh_blocks())
    assert len(pids) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in pids)
    # The same keys and tokens as a search in one process.
    one = dataclasses.replace(local, store=Store(finished))(plans, job.blocks())
    for ours, theirs in zip(measured, one, strict=True):
        assert (ours.tokens_SL == theirs.tokens_SL).all()
        assert ours.estimates["log_gen_ppl"] == theirs.estimates["log_gen_ppl"]
    assert len(stored) == 3 * len(job.blocks())
    assert stored <= set(evaluations(finished))


def test_few_evaluations_that_take_long_are_worth_workers(world: Path, tmp_path: Path) -> None:
    job = tiny_job(world)
    local = Run(job, RunFolder(tmp_path), Silent()).evaluator().local
    plans = [job.plan.plan(ModelSchedule.parse(text)) for text in ("H8", "L8")]
    many = ParallelEvaluator(local, job.lab, num_workers=2, min_seconds=1e-3)
    with contextlib.closing(many):
        many(plans, job.blocks())
        assert not many.pids
        many(plans, job.fresh_blocks())
        assert many.pids


def test_what_goes_wrong_in_a_worker_is_said_here(world: Path, tmp_path: Path) -> None:
    job = tiny_job(world)
    local = Run(job, RunFolder(tmp_path), Silent()).evaluator().local
    broken = job.lab.model_copy(update={"denoisers": {"H": str(tmp_path / "nowhere")}})
    plans = [job.plan.plan(ModelSchedule.parse(text)) for text in ("H8", "L8")]
    many = ParallelEvaluator(local, broken, num_workers=2, min_work=1)
    with contextlib.closing(many), pytest.raises(InputError, match="nowhere"):
        many(plans, job.blocks())


def test_workers_die_with_a_killed_coordinator(world: Path, tmp_path: Path) -> None:
    job = tiny_job(
        world, search={"num_segments": 8, "num_light": "all", "additive": False, "workers": 2}
    )
    path = write_job(job, tmp_path / "job.toml")
    run = tmp_path / "run"
    code = (
        "import sys; from schedlab.pipeline import run_search;run_search(sys.argv[1], sys.argv[2])"
    )
    killed_when(("-c", code, path, run), lambda: run.exists() and len(evaluations(run)) >= 3)
    time.sleep(1.0)
    after = evaluations(run)
    time.sleep(1.0)
    assert evaluations(run) == after and len(after) < 2 * 256


def timings(factor: float = 1.0) -> calibration.Timings:
    """A machine that is `factor` times as slow as a small laptop."""
    return calibration.Timings(
        sequence=3.0 * factor,
        fresh=1.0 * factor,
        alone=0.1 * factor,
        store=0.03 * factor,
        merge=0.02 * factor,
        num_fresh=10,
        window=0.2 * factor,
        trajectory=0.2 * factor,
        swap=0.5 * factor,
    )


@pytest.mark.parametrize("factor", [0.1, 0.5, 1.0])
def test_a_sized_job_fits_the_time_and_uses_most_of_it(factor: float) -> None:
    job = calibration.size(pipeline.demo_job(), timings(factor), 600.0)
    seconds = calibration.estimate_seconds(job, timings(factor))
    at_limit = job.search.num_sequences == calibration.MAX_SEQUENCES
    assert seconds <= 600.0
    assert at_limit or seconds > 350.0
    assert job.search.num_sequences % 16 == 0


def test_however_slow_the_machine_the_stated_minimum_is_measured() -> None:
    job = calibration.size(pipeline.demo_job(), timings(1000.0), 60.0)
    assert job.search.num_sequences == 32 and job.analyze.num_windows == 64


def test_timing_a_machine_gives_positive_seconds(world: Path, tmp_path: Path) -> None:
    job = tiny_job(world, search={"trials": 4})
    measured = calibration.measure(Run(job, RunFolder(tmp_path), Silent()))
    assert set(measured.forwards) == {"H", "L"} and measured.proposal > 0
    assert min(measured.sequence, measured.fresh, measured.alone, measured.store) > 0
    assert min(measured.window, measured.trajectory, measured.merge) > 0 <= measured.swap
    assert 0 <= measured.changed <= 1 and measured.load > 0 == measured.start
    assert list(tmp_path.iterdir()) == []  # timing leaves nothing behind


def test_without_a_terminal_progress_is_a_line_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with caplog.at_level(logging.INFO):
        lines = LogLines()
        lines.stage("sampling")
        for done in range(100, 301):  # 100 were there before and took no time
            lines.update(done, 400)
            clock[0] += 1.0
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == "sampling"
    assert messages[1] == "sampling: 115 of 400, about 4.8 min left"
    assert len(messages) == 1 + 200 // 15

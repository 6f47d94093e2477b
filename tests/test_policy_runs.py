"""Searches over policies through the command line: real tokens, real files, real kills."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).parent))

from killed import killed_when
from policy_world import policies_job, write_sudoku_models
from tiny_world import tiny_job, write_job

from schedlab.cli import app
from schedlab.deploy import export
from schedlab.deploy.measure import measure_plan
from schedlab.deploy.runtime import load_plan
from schedlab.errors import InputError
from schedlab.evaluation.evaluate import run_missing
from schedlab.job import load_job, parse_job
from schedlab.pipeline import estimate_job, run_analyze, run_search, status
from schedlab.pipeline.progress import Silent
from schedlab.pipeline.run_folder import RunFolder
from schedlab.pipeline.stages import Run
from schedlab.pipeline.workers import ParallelEvaluator, _evaluator
from schedlab.plan import Plan, PlanFile
from schedlab.plan.task_config import TaskConfig
from schedlab.results import Measurement, Store
from schedlab.results.environment_file import EnvironmentFile
from schedlab.results.policy_file import PolicyFile
from schedlab.tasks import load_task

NUM_BLOCKS = 4  # of the search, each of two sequences


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sudoku")
    write_sudoku_models(folder)
    return folder


@pytest.fixture(scope="module")
def finished(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an uninterrupted search."""
    folder = tmp_path_factory.mktemp("finished")
    job = write_job(policies_job(models, folder / "run"), folder / "job.toml")
    result = call("search", job, "--run", folder / "run")
    assert result.exit_code == 0, result.output
    assert "policies: done" in result.output
    return folder / "run"


def evaluations(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "evals").glob("*.json")}


def without_times(path: Path) -> Any:
    """The result file less what a clock measured."""
    data = json.loads(path.read_text())
    for row in data["rows"] + data["fresh"]:
        row["estimates"].pop("seconds")
    return data


def test_a_search_goes_from_a_job_to_curves_fronts_and_picks(finished: Path) -> None:
    file = PolicyFile.read(finished / "policies.json")
    job = load_job(finished / "job.toml")
    families = {family.family for family in file.families}
    assert families == {"low_confidence", "threshold", "stdd, tuned"}
    assert (file.setting.task, file.setting.prefix_length) == ("sudoku", 37)
    curves = {(r.curve.policy, r.curve.schedule) for r in file.rows if not r.curve.tuned}
    swept = {(name, schedule) for name in ("low_confidence", "threshold")
             for schedule in ("H", "L H")}  # fmt: skip
    assert swept < curves and len(curves - swept) == 1  # and the reference
    assert sum(row.curve.tuned for row in file.rows) == 2 + 2
    assert "best" in file.picks
    losses = [row.loss for row in file.rows]
    assert 0 <= min(losses) < max(losses) <= 1  # some random digits are right
    assert {r.digest for r in file.rows if not r.curve.tuned} <= {r.digest for r in file.fresh}
    assert job.policies is not None and status(finished).complete
    environment = EnvironmentFile.read(finished / "environment.json")
    assert environment.scorer is None and set(environment.denoisers) == {"H", "L"}


def test_losses_are_the_errors_of_what_is_stored(finished: Path) -> None:
    """Tokens, decoded and judged by hand: the last digit of the answer, as the pattern reads."""
    file = PolicyFile.read(finished / "policies.json")
    items = load_task(load_job(finished / "job.toml").task or TaskConfig(), 8).items
    wrong: dict[str, list[float]] = {}
    for path in (finished / "evals").glob("*.json"):
        record = Store(finished).get(path.stem)
        assert record is not None
        block = record.identity.block
        if block.seed != file.setting.seed:
            continue
        for number, row in enumerate(record.tokens, start=block.first):
            text = "".join(".123456="[token] if token < 8 else "|" for token in row)
            prompt, answer = text[:37], text[37:].partition("|")[0]
            assert prompt == items[number].prompt
            digits = [sign for sign in answer if sign in "123456"]
            good = bool(digits) and digits[-1] == items[number].answer[-1]
            wrong.setdefault(record.identity.plan.digest, []).append(1.0 - good)
    assert set(wrong) == {row.digest for row in file.rows}
    for row in file.rows:
        assert len(wrong[row.digest]) == 8
        assert row.loss == pytest.approx(np.mean(wrong[row.digest]))


def test_a_finished_search_is_left_alone_and_more_trials_keep_what_is_there(
    finished: Path, models: Path, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    assert call("resume", finished).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before
    run = tmp_path / "run"
    few = policies_job(models, run, policies={"trials": 0})
    run_search(few, run)
    stored = evaluations(run)
    run_search(policies_job(models, run), run)
    assert stored.items() < evaluations(run).items()
    assert without_times(run / "policies.json") == without_times(finished / "policies.json")


def test_a_search_killed_while_tuning_ends_as_if_it_had_not_been(
    models: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = write_job(policies_job(models, run), tmp_path / "job.toml")
    file = PolicyFile.read(finished / "policies.json")
    swept = NUM_BLOCKS * sum(not row.curve.tuned for row in file.rows)
    # The seeds and a part of a proposal are measured: it was asked for and never told.
    killed_when(
        ("-m", "schedlab", "search", job),
        lambda: len(evaluations(run)) >= swept + 2 * NUM_BLOCKS + 1,
    )
    first = evaluations(run)
    assert not status(run).complete and status(run).process is None
    assert not (run / "policies.json").exists() and (run / "optuna-stdd-0.db").exists()
    result = call("resume", run)
    assert result.exit_code == 0, result.output
    last = evaluations(run)
    assert first.items() <= last.items()  # what is repeated is written again
    assert set(last) == set(evaluations(finished))
    assert without_times(run / "policies.json") == without_times(finished / "policies.json")
    assert status(run).complete


def test_what_is_picked_is_reported_exported_measured_and_sampled(
    finished: Path, tmp_path: Path
) -> None:
    assert call("report", finished).exit_code == 0
    html = (finished / "report.html").read_text(encoding="utf-8")
    assert "Which tokens should be committed when?" in html and "stdd, tuned" in html
    plan = tmp_path / "plan.json"
    result = call("export", finished, "--pick", "best", "--out", plan)
    assert result.exit_code == 0, result.output
    file = PolicyFile.read(finished / "policies.json")
    exported = PlanFile.read(plan)
    assert exported.digest == file.picks["best"]
    # On the items and seeds of the search's fresh sequences the very same answers.
    job = finished / "job.toml"
    words = ("measure", plan, "--task", job, "-n", 6, "--first", 8)
    result = call(*words, "--seed", file.setting.fresh_seed, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    fresh = file.fresh_row(file.picks["best"])
    assert fresh is not None
    for name in ("accuracy", "forwards", "block_forwards"):
        assert found[name]["value"] == fresh.estimates[name].value == exported.measured[name].value
    other = json.loads(call(*words, "--seed", 1, "--json").stdout)
    assert other["accuracy"]["n"] == 6
    item = load_task(TaskConfig(), 1).items[0]
    result = call("sample", plan, "-n", 2, "--prompt", item.prompt)
    assert result.exit_code == 0 and result.stdout.count(item.prompt) == 2
    assert call("measure", plan, "--task", "sudoku", "-n", 4).exit_code == 0


@pytest.mark.parametrize("pick", ["best", "knee", "budget=0.1"])
def test_every_measured_answer_of_an_exported_plan_is_repeated(
    finished: Path, tmp_path: Path, pick: str
) -> None:
    file = PolicyFile.read(finished / "policies.json")
    exported = export(finished, pick)
    exported.write(tmp_path / "plan.json")
    task = load_job(finished / "job.toml").task
    assert task is not None
    setting = file.setting
    found = measure_plan(
        load_plan(tmp_path / "plan.json"), task, setting.fresh_sequences,
        store=tmp_path, first=setting.num_sequences, seed=setting.fresh_seed,
    )  # fmt: skip
    assert found.estimates["accuracy"] == file.fresh_row(exported.digest).estimates["accuracy"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-n", 1), "at least 2"),
        (("--first", -1), "at least 2 from a place on"),
        (("--task", "sudoko"), "must be sudoku or a .jsonl file"),
        (("--task", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--task", "nowhere.toml"), "nowhere.toml"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    finished: Path, tmp_path: Path, words: tuple[object, ...], message: str
) -> None:
    plan = tmp_path / "plan.json"
    assert call("export", finished, "--pick", "best", "--out", plan).exit_code == 0
    result = call("measure", plan, *words)
    assert result.exit_code == 2 and message in result.stderr
    assert result.stderr.strip().count("\n") == 0


def test_a_folder_holds_one_kind_of_search(finished: Path, models: Path, tmp_path: Path) -> None:
    job = load_job(finished / "job.toml")
    schedules = job.model_copy(update={"policies": None, "task": None})
    with pytest.raises(InputError, match="another study: .*policies.* differ"):
        run_analyze(schedules, finished)
    other = policies_job(models, tmp_path, task={"scorer": "exact", "pattern": ""})
    with pytest.raises(InputError, match=r"another study: \[task\] differ"):
        run_search(other, finished)
    with pytest.raises(InputError, match="how many forwards a policy takes"):
        estimate_job(job)


def test_prompts_that_leave_no_room_are_one_line(models: Path, tmp_path: Path) -> None:
    job = policies_job(models, tmp_path / "run", plan={"length": 37, "num_steps": 4})
    with pytest.raises(InputError, match="a prompt has 37 tokens; raise plan.length 37"):
        run_search(job, tmp_path / "run")


def test_a_worker_answers_as_the_coordinator_does(
    models: Path, finished: Path, tmp_path: Path
) -> None:
    """What a worker is told goes through JSON; it loads models and items by itself."""
    job = policies_job(models, tmp_path)
    local = Run(job, RunFolder(tmp_path), Silent()).evaluator().local
    file = PolicyFile.read(finished / "policies.json")
    plans: list[Plan] = [row.plan for row in file.rows[:3]]
    setup = json.loads(json.dumps(ParallelEvaluator(local, job.lab, num_workers=2)._setup()))
    worker = _evaluator(setup)
    for block in reversed(job.blocks()):
        run_missing(plans, [block], lab=worker.lab, store=worker.store, prompts=worker.prompts)
    stored = set(evaluations(tmp_path))
    assert len(stored) == 3 * NUM_BLOCKS and stored <= set(evaluations(finished))
    for store in (Store(tmp_path), Store(finished)):
        measured: list[Measurement] = dataclasses.replace(local, store=store)(plans, job.blocks())
        for plan, one in zip(plans, measured, strict=True):
            assert one.estimates["accuracy"] == file.row(plan.digest).estimates["accuracy"]
    assert set(evaluations(tmp_path)) == stored  # all was there


def test_held_out_text_is_scored_under_policies(world: Path, tmp_path: Path) -> None:
    """The bundled vocabulary and a corpus; the reference is a bound, the others are exact."""
    schedules = tiny_job(world)
    data = schedules.model_dump(mode="json", exclude_none=True)
    data |= {
        "search": {"num_sequences": 8, "block_size": 4, "workers": 1, "prefix_length": 2},
        "policies": {
            "quality": "duel", "names": ["ancestral", "threshold"], "tuned": ["klass"],
            "points": 2, "trials": 1, "sampler": "tpe",
        },
    }  # fmt: skip
    data["lab"]["scorer"] = "none"
    run = run_search(parse_job(data), tmp_path / "run")
    file = PolicyFile.read(run / "policies.json")
    assert file.setting.prefix_length == 2 and len(file.families) == 3
    for row in file.rows:
        assert row.loss == pytest.approx(row.estimates["duel_nll"].value)
        assert row.loss > 0 and "entropy" not in row.estimates
    assert call("report", run).exit_code == 0


def test_perplexity_of_samples_is_kept_beside_entropy(world: Path, tmp_path: Path) -> None:
    data = tiny_job(world).model_dump(mode="json", exclude_none=True)
    data |= {
        "search": {"num_sequences": 8, "block_size": 4, "workers": 1},
        "policies": {
            "quality": "gen_ppl", "names": ["low_confidence"], "tuned": ["threshold"],
            "points": 2, "trials": 1, "sampler": "tpe", "cost": "flops_total",
        },
    }  # fmt: skip
    run = run_search(parse_job(data), tmp_path / "run")
    file = PolicyFile.read(run / "policies.json")
    assert file.setting.entropy_band is not None and file.setting.scorer
    for row in file.rows:
        assert row.loss == pytest.approx(row.estimates["log_gen_ppl"].value)
    assert call("report", run).exit_code == 0

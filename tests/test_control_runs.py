"""Joint searches over guidance and allocation through the command line: real tokens, real files,
real kills."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from control_world import (
    LABELS,
    LENGTH,
    classifier,
    control_data,
    control_job,
    simplex_network,
    write_corpus,
    write_models,
)
from killed import killed_when
from tiny_world import write_job
from typer.testing import CliRunner, Result

from schedlab.classifiers import load as load_classifier
from schedlab.cli import app
from schedlab.denoisers import checkpoint
from schedlab.denoisers.cost import block_flops, head_flops
from schedlab.deploy import export
from schedlab.deploy.runtime import load_plan, run_plan
from schedlab.errors import InputError
from schedlab.evaluation.evaluate import check_plan, check_process, run_missing
from schedlab.evaluation.lab import build_lab
from schedlab.job import Job, load_job, parse_job
from schedlab.metrics.cost import expected_cost, guidance_flops, role_costs
from schedlab.pipeline import estimate_job, run_search, status
from schedlab.pipeline.progress import Silent
from schedlab.pipeline.run_folder import RunFolder
from schedlab.pipeline.stages import Run
from schedlab.pipeline.workers import ParallelEvaluator, _evaluator
from schedlab.plan import ModelSchedule, Plan, PlanFile, PolicySpec
from schedlab.processes import SimplexProcess, only_masked
from schedlab.results import BlockRecord, Store
from schedlab.results.control_file import ControlFile
from schedlab.results.environment_file import EnvironmentFile
from schedlab.results.search_file import SearchFile
from schedlab.sampling import SequenceIds, sample

NUM_BLOCKS = 2  # of the search, each of four sequences


@pytest.fixture(autouse=True, scope="module")
def few_resamples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("schedlab.search.control._RESAMPLES", 5)
        yield


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_corpus(folder / "texts.jsonl")
    return write_models(folder)


@pytest.fixture(scope="module")
def finished(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an uninterrupted search."""
    folder = tmp_path_factory.mktemp("finished")
    job = write_job(control_job(models, folder / "run"), folder / "job.toml")
    result = call("search", job, "--run", folder / "run")
    assert result.exit_code == 0, result.output
    assert "control: done" in result.output
    return folder / "run"


@pytest.fixture(scope="module")
def file(finished: Path) -> ControlFile:
    return ControlFile.read(finished / "control.json")


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = tmp_path_factory.mktemp("exported") / "plan.json"
    result = call("export", finished, "--pick", "best", "--out", plan)
    assert result.exit_code == 0, result.output
    return plan


def evaluations(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "evals").glob("*.json")}


def records(folder: Path) -> Iterator[BlockRecord]:
    for path in (folder / "evals").glob("*.json"):
        record = Store(folder).get(path.stem)
        assert record is not None
        yield record


def without_times(path: Path) -> Any:
    """The result file less what a clock measured, and less how finely intervals were drawn."""
    data = json.loads(path.read_text())
    for row in data["rows"] + data["fresh"]:
        row["estimates"].pop("seconds")
    del data["autoregressive"]
    for shares in data["importance"].values():
        for share in shares.values():
            del share["low"], share["high"]
    return data


# A search


def test_a_search_goes_from_a_job_to_rows_picks_and_traces(
    finished: Path, file: ControlFile
) -> None:
    job = load_job(finished / "job.toml")
    origins = [row.origin for row in file.rows]
    assert origins[0] == "reference" and origins.count("sweep") == 4
    assert len(file.rows) <= 1 + 4 + 4 and origins.count("proposal") >= 2
    assert set(file.picks) == {"best", "knee"}
    assert {row.digest for row in file.rows if row.origin == "sweep"} <= {
        row.digest for row in file.fresh
    }
    setting = file.setting
    assert setting.process == "simplex" and setting.labels == [LABELS]
    assert (setting.judge, setting.judges) == ("judge", ("judge", "second"))
    assert (setting.length, setting.prefix_length, setting.num_steps) == (LENGTH, 0, 4)
    assert setting.scorer.endswith("scorer") and setting.fresh_seed == job.fresh_seed
    environment = EnvironmentFile.read(finished / "environment.json")
    assert set(environment.classifiers) == {"topic"}
    assert set(environment.judges) == {"judge", "second"}
    assert environment.classifiers["topic"].sha256 != environment.judges["judge"].sha256
    assert status(finished).complete
    for row in file.fresh:
        assert {"control_judge", "control_second", "guide_topic", "log_gen_ppl", "entropy",
                "distinct_3", "self_bleu"} <= set(row.estimates)  # fmt: skip


def test_control_is_what_the_judges_say_of_the_stored_tokens(
    finished: Path, models: Path, file: ControlFile
) -> None:
    judges = {name: load_classifier(models / name) for name in ("judge", "judge-2", "guide")}
    columns = {"judge": "control_judge", "judge-2": "control_second", "guide": "guide_topic"}
    held: dict[str, list[bool]] = {}
    for record in records(finished):
        block = record.identity.block
        tokens = torch.tensor(record.tokens)
        wanted = torch.arange(block.first, block.first + block.size) % 3
        for name, judge in judges.items():
            log_p = judge.log_probs_of_tokens(tokens)
            found = (log_p.argmax(-1) == wanted).double().tolist()
            assert record.scores[columns[name]] == found
            if name == "judge" and block.seed == file.setting.seed:
                held.setdefault(record.identity.plan.digest, []).extend(map(bool, found))
            if name != "guide":
                p = log_p.exp().gather(1, wanted[:, None])[:, 0].double()
                column = record.scores[columns[name].replace("control_", "control_p_")]
                assert column == pytest.approx(p.tolist(), abs=1e-6)
    assert set(held) == {row.digest for row in file.rows}
    for row in file.rows:
        assert len(held[row.digest]) == 8
        assert row.losses["control"] == pytest.approx(1 - np.mean(held[row.digest]))
        assert row.losses["control"] == pytest.approx(1 - row.estimates["control_judge"].value)
        assert row.losses["gen_ppl"] == row.estimates["log_gen_ppl"].value


def test_costs_are_forwards_of_denoisers_and_passes_of_guides(
    models: Path, finished: Path, file: ControlFile
) -> None:
    guide = load_classifier(models / "guide")
    specs = {"H": simplex_network(0, num_blocks=2).spec, "L": simplex_network(2).spec}
    denoisers = {"H": simplex_network(0, num_blocks=2), "L": simplex_network(2)}
    found = {}
    for row in file.rows:
        plan, guidance = row.plan, row.plan.guidance
        assert guidance is not None
        of_denoisers = sum(
            plan.model_schedule.count(role)
            * (block_flops(specs[role], LENGTH) + LENGTH * head_flops(specs[role]))
            for role in plan.model_schedule.roles
        )
        # The last step is not guided.
        passes = (plan.num_steps - 1) * guidance.iterations
        total = of_denoisers + passes * guidance_flops(guide, LENGTH, LENGTH)
        assert row.estimates["flops_total"].value == pytest.approx(total)
        assert row.estimates["forwards"].value == plan.num_steps
        costs = role_costs(plan, denoisers, guides={"topic": guide})
        expected = expected_cost(plan, costs)
        assert expected.flops_total == pytest.approx(total)
        assert sum(expected.forwards.values()) == plan.num_steps
        found[row.digest] = total
    for row in file.rows:
        expected = found[row.digest] / found[file.setting.reference]
        assert row.losses["cost"] == pytest.approx(expected)


def test_the_picked_plan_was_looked_at_step_by_step(file: ControlFile) -> None:
    assert file.traces[0].digest == file.picks["best"]
    for trace in file.traces:
        steps = len(trace.steps)
        assert trace.steps == tuple(range(steps)) and trace.num_sequences == 2
        assert trace.t == pytest.approx([1 - k / steps for k in range(steps)])
        levels = np.array(trace.mean_levels)
        assert levels.shape == (steps, LENGTH)
        assert (levels <= np.array(trace.t)[:, None] + 1e-9).all() and (levels >= 0).all()
        assert trace.label == LABELS[0] and trace.seed == file.setting.fresh_seed
        assert set(trace.curves) >= {"outputs", "input"}
        for curve in trace.curves.values():
            assert len(curve) == steps
        assert {"outputs", "input"} <= set(trace.summary)
        assert [one.step for one in trace.example] == list(range(steps))
        for one in trace.example:
            assert len(one.tokens) == len(one.levels) == LENGTH
            assert set(one.forgotten) <= set(one.edited) <= set(range(LENGTH))


def test_a_finished_search_is_left_alone_and_more_trials_keep_what_is_there(
    finished: Path, models: Path, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    assert call("resume", finished).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before
    run = tmp_path / "run"
    run_search(control_job(models, run, control={"trials": 1}), run)
    stored = evaluations(run)
    run_search(control_job(models, run), run)
    assert stored.items() < evaluations(run).items()
    assert without_times(run / "control.json") == without_times(finished / "control.json")


def test_a_search_killed_while_proposing_ends_as_if_it_had_not_been(
    models: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    job = write_job(control_job(models, run), tmp_path / "job.toml")
    swept = NUM_BLOCKS * (1 + 4)
    # The sweeps, a proposal and a part of the next: it was asked for and never told.
    killed_when(
        ("-m", "schedlab", "search", job), lambda: len(evaluations(run)) >= swept + NUM_BLOCKS + 1
    )
    first = evaluations(run)
    assert not status(run).complete and status(run).process is None
    assert not (run / "control.json").exists() and (run / "optuna.db").exists()
    result = call("resume", run)
    assert result.exit_code == 0, result.output
    last = evaluations(run)
    assert first.items() <= last.items()
    assert set(last) == set(evaluations(finished))
    assert without_times(run / "control.json") == without_times(finished / "control.json")
    assert status(run).complete


def test_a_worker_answers_as_the_coordinator_does(
    models: Path, finished: Path, file: ControlFile, tmp_path: Path
) -> None:
    """What a worker is told goes through JSON; it loads guides and judges by itself."""
    job = control_job(models, tmp_path)
    local = Run(job, RunFolder(tmp_path), Silent()).evaluator().local
    plans = [row.plan for row in file.rows[:3]]
    setup = json.loads(json.dumps(ParallelEvaluator(local, job.lab, num_workers=2)._setup()))
    worker = _evaluator(setup)
    for block in reversed(job.blocks()):
        run_missing(plans, [block], lab=worker.lab, store=worker.store, prompts=worker.prompts)
    stored = set(evaluations(tmp_path))
    assert len(stored) == 3 * NUM_BLOCKS and stored <= set(evaluations(finished))
    for plan, one in zip(plans, local(plans, job.blocks()), strict=True):
        row = file.row(plan.digest)
        for name in ("control_judge", "log_gen_ppl", "flops_total"):
            assert one.estimates[name] == row.estimates[name]


# Exports


def test_an_exported_plan_writes_the_very_sequences_that_were_measured(
    exported: Path, finished: Path, file: ControlFile
) -> None:
    plan = PlanFile.read(exported)
    assert plan.digest == file.picks["best"] and set(plan.classifiers) == {"topic"}
    player = load_plan(plan, device="cpu")
    measured = {
        record.identity.block.first: record.tokens
        for record in records(finished)
        if record.identity.plan.digest == plan.digest
        and record.identity.block.seed == file.setting.fresh_seed
    }
    expected = [row for first in sorted(measured) for row in measured[first]]
    assert len(expected) == 8
    assert player.tokens(8, seed=file.setting.fresh_seed).tolist() == expected
    assert player.tokens(3, seed=file.setting.fresh_seed).tolist() == expected[:3]
    samples = file.fresh_row(plan.digest).samples
    assert player.texts(2, seed=file.setting.fresh_seed) == list(samples[:2])


def test_an_exported_plan_is_measured_by_a_judge_and_timed_beside_an_autoregressive_model(
    exported: Path, models: Path, file: ControlFile
) -> None:
    judge, seed = models / "judge", file.setting.fresh_seed
    result = call("measure", exported, "--judge", judge, "-n", 8, "--seed", seed, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    row = file.fresh_row(file.picks["best"])
    assert found["control_judge"]["value"] == row.control.value  # the very same sequences
    ratio = found["seconds_over_autoregressive"]
    assert 0 < ratio["low"] <= ratio["value"] <= ratio["high"]
    assert file.autoregressive is not None and file.autoregressive.low > 0


def test_samples_are_steered_to_labels_of_ones_choice(exported: Path, models: Path) -> None:
    def sampled(*words: object) -> list[str]:
        result = call("sample", exported, "-n", 6, "--seed", 4, "--json", *words)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["texts"]

    in_turn = sampled()
    assert in_turn == run_plan(exported, 6, seed=4) == sampled("--label", "topic=each")
    by_label = {label: sampled("--label", f"topic={label}") for label in LABELS}
    for place, label in enumerate(LABELS):
        # Sequence j of `each` is that of its label.
        assert by_label[label][place::3] == in_turn[place::3]
    assert len({tuple(texts) for texts in by_label.values()}) == 3
    prompted = sampled("--prompt", "ab", "--label", "topic=beta")
    assert all(text.startswith("ab") for text in prompted)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--label", "topic=delta"), "'topic' has no label 'delta'; it has alpha, beta, gamma"),
        (("--label", "topic"), "has no label ''"),
        (("--label", "topic="), "has no label ''"),
        (("--label", "mood=alpha"), "'mood' guides nothing in this plan; it has topic"),
        (("--label", "alpha"), "'alpha' guides nothing in this plan"),
        (("--label", "=alpha"), "'' guides nothing in this plan"),
        (("--prompt", "abcdefghij"), "nothing is left to generate"),
        (("-n", "0"), "number of samples"),
    ],
)
def test_what_cannot_be_sampled_is_one_line(
    exported: Path, words: tuple[str, ...], message: str
) -> None:
    result = call("sample", exported, *words)
    assert result.exit_code == 2 and message in result.stderr
    assert result.stderr.strip().count("\n") == 0


def test_a_fresh_process_gives_the_same_texts(exported: Path, repository: Path) -> None:
    words = ["sample", str(exported), "-n", "4", "--seed", "9", "--label", "topic=beta", "--json"]
    result = subprocess.run(
        [sys.executable, "-m", "schedlab", *words],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    texts = json.loads(result.stdout)["texts"]
    assert texts == run_plan(exported, 4, seed=9, labels={"topic": "beta"})


def test_a_guide_that_was_edited_after_the_export_is_refused(
    exported: Path, models: Path, tmp_path: Path
) -> None:
    data = json.loads(exported.read_text())
    shutil.copytree(models / "guide", tmp_path / "guide")
    data["classifiers"]["topic"]["location"] = "guide"  # beside the plan file
    moved = tmp_path / "plan.json"
    moved.write_text(json.dumps(data))
    assert run_plan(moved, 2) == run_plan(exported, 2)
    weights = tmp_path / "guide" / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-2] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(InputError, match="classifier topic at 'guide' is not the one") as caught:
        load_plan(moved)
    assert "\n" not in str(caught.value)
    shutil.copytree(models / "other-guide", tmp_path / "guide", dirs_exist_ok=True)
    with pytest.raises(InputError, match="classifier topic at 'guide' is not the one"):
        load_plan(moved)
    shutil.rmtree(tmp_path / "guide")
    result = call("sample", moved)
    assert result.exit_code == 2 and result.stderr.strip().count("\n") == 0


def test_every_pick_is_exported_and_a_budget_that_nothing_meets_is_one_line(
    finished: Path, file: ControlFile
) -> None:
    for pick, digest in file.picks.items():
        assert export(finished, pick).digest == digest
    result = call("export", finished, "--pick", "budget=0.99")
    assert result.exit_code == 2 and "saves 0.99" in result.stderr


# Refusals


def refused(job: Job, run: Path) -> str:
    with pytest.raises(InputError) as caught:
        run_search(job, run)
    assert "\n" not in str(caught.value) and not evaluations(run)
    return str(caught.value)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"lab": {"judges": {"judge": "guide"}}},
            "lab.judges: judge is the same as the guide 'topic'",
        ),
        (
            {"control": {"attributes": [{"classifier": "topic", "label": "delta"}]}},
            "'topic' has no label 'delta'",
        ),
        ({"plan": {"process": "masked"}}, "plan.process is 'masked', the denoisers were trained"),
        ({"plan": {"noise_schedule": "linear"}}, "plan.noise_schedule is 'linear', the denoisers"),
        ({"plan": {"simplex_value": 2.0}}, "plan.simplex_value is 2.0, the denoisers"),
        ({"plan": {"length": 17}}, "at most the 16 that the denoisers"),
        ({"lab": {"judges": {"judge": "other-judge"}}}, "knows none of the labels"),
        ({"lab": {"classifiers": {"topic": "nowhere"}}}, "nowhere"),
        ({"lab": {"classifiers": {"topic": "light"}}}, "wanted is classifier"),
        ({"lab": {"judges": {"judge": "heavy"}}}, "wanted is classifier"),
        ({"lab": {"denoisers": {"H": "judge"}}}, "is 'classifier'"),
        ({"lab": {"denoisers": {"H": "heavy", "L": "masked"}}}, "process must be the same"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_run(
    models: Path, tmp_path: Path, tables: dict[str, Any], message: str
) -> None:
    for kind in ("denoisers", "classifiers", "judges"):
        found = tables.get("lab", {}).get(kind)
        if found is not None:
            places = {name: str(models / place) for name, place in found.items()}
            tables = {"lab": {kind: places}}
            if "L" not in places and kind == "denoisers":
                tables |= {"control": {"schedules": [["H"]]}}
    assert message in refused(control_job(models, tmp_path / "run", **tables), tmp_path / "run")


def test_classifiers_of_another_vocabulary_or_of_shorter_texts_are_refused(
    models: Path, tmp_path: Path
) -> None:
    for name, sizes in (("other", {"vocab_size": 30}), ("short", {"max_length": LENGTH - 1})):
        checkpoint.save(tmp_path / name, classifier(1, **sizes), {}, precision="float32")
    for name, message in (("other", "has 30 tokens, the denoisers 41"), ("short", "at most 9")):
        for kind, own in (("classifiers", "topic"), ("judges", "judge")):
            run = tmp_path / f"{name}-{kind}"
            lab = {kind: {own: str(tmp_path / name)}}
            assert message in refused(control_job(models, run, lab=lab), run)


def test_a_judge_of_which_no_label_is_asked_for_is_refused(models: Path, tmp_path: Path) -> None:
    lab = {"judges": {"judge": str(models / "other-guide")}}
    with pytest.raises(InputError, match="knows none of the labels") as caught:
        run_search(control_job(models, tmp_path / "run", lab=lab), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_folder_holds_one_kind_of_search_of_one_lab(
    finished: Path, models: Path, tmp_path: Path
) -> None:
    job = load_job(finished / "job.toml")
    with pytest.raises(InputError, match=r"another study: \[plan\] differ"):
        run_search(control_job(models, finished, plan={"num_steps": 5}), finished)
    data = control_data(models, finished, search={"additive": False, "num_segments": 2,
                                                  "num_light": 1})  # fmt: skip
    data.pop("control")
    with pytest.raises(InputError, match=r"another study: .*control.* differ"):
        run_search(parse_job(data), finished)
    with pytest.raises(InputError, match="what a joint search costs is for its proposals"):
        estimate_job(job)


def test_a_guide_that_changed_since_the_folder_was_begun_is_refused(
    models: Path, tmp_path: Path
) -> None:
    shutil.copytree(models / "guide", tmp_path / "guide")
    shutil.copytree(models / "judge", tmp_path / "judge")
    lab = {"classifiers": {"topic": str(tmp_path / "guide")},
           "judges": {"judge": str(tmp_path / "judge")}}  # fmt: skip
    run = tmp_path / "run"
    small = {"trials": 0, "points": 1, "names": ["tta_constant"], "steps": [2]}
    job = control_job(models, run, lab=lab, control=small)
    run_search(job, run)
    more = control_job(models, run, lab=lab, control=small | {"trials": 1})
    for name in ("guide", "judge"):
        kept = (tmp_path / name / "model.safetensors").read_bytes()
        changed = bytearray(kept)
        changed[-2] ^= 1
        (tmp_path / name / "model.safetensors").write_bytes(changed)
        with pytest.raises(InputError, match="begun with another") as caught:
            run_search(more, run)
        assert "\n" not in str(caught.value)
        (tmp_path / name / "model.safetensors").write_bytes(kept)
    run_search(more, run)


def test_plans_of_another_process_are_refused(models: Path, tmp_path: Path) -> None:
    lab = Run(control_job(models, tmp_path), RunFolder(tmp_path), Silent()).lab
    fields: dict[str, Any] = {
        "length": LENGTH, "model_schedule": ModelSchedule.parse("H3"), "process": "simplex",
        "noise_schedule": "cosine",
    }  # fmt: skip
    check_plan(Plan(**fields), lab, None)
    for change, message in (
        ({"process": "masked", "noise_schedule": "linear"}, "plan.process is 'masked'"),
        ({"process": "uniform"}, "plan.process is 'uniform'"),
        ({"noise_schedule": "linear"}, "plan.noise_schedule is 'linear'"),
        ({"simplex_value": 4.0}, "plan.simplex_value is 4.0"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            check_plan(Plan(**fields | change), lab, None)
        assert "\n" not in str(caught.value)
    other = {"H": simplex_network(0, value=4.0)}
    check_process(Plan(**fields | {"simplex_value": 4.0}), SimplexProcess(41, 4.0), other)
    with pytest.raises(InputError, match="simplex_value"):
        check_process(Plan(**fields), SimplexProcess(41, 4.0), other)
    unknown = PolicySpec(name="tta_adaptive", parameters={"signal": "gradient"})
    with pytest.raises(InputError, match="signal 'gradient' comes of guidance"):
        check_plan(Plan(**fields, policy=unknown), lab, None)


# Other searches


def test_prefixes_of_held_out_text_are_given(models: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = {"trials": 2, "points": 1, "steps": [3], "schedules": [["H"]], "traced": 2}
    job = control_job(
        models, run, corpus={"source": str(models / "texts.jsonl")}, search={"prefix_length": 3},
        control=small,
    )  # fmt: skip
    run_search(job, run)
    file = ControlFile.read(run / "control.json")
    assert file.setting.prefix_length == 3
    prompts: dict[int, set[tuple[int, ...]]] = {}
    for record in records(run):
        assert record.prefix_length == 3
        block = record.identity.block
        for number, row in enumerate(record.tokens, start=block.first):
            prompts.setdefault(number, set()).add(tuple(row[:3]))
    assert all(len(found) == 1 for found in prompts.values()) and len(prompts) == 16
    levels = np.array(file.traces[0].mean_levels)
    assert levels.shape == (3, LENGTH - 3)
    for one in file.traces[0].example:
        assert len(one.tokens) == LENGTH and min((*one.edited, LENGTH)) >= 3
    exported = export(run, "best")
    assert exported.provenance["prefix_length"] == 3
    assert all(text.startswith("a.b") for text in run_plan(exported, 2, prompt="a.b"))


def test_several_attributes_guide_together(models: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    lab = {
        "classifiers": {"topic": str(models / "guide"), "size": str(models / "other-guide")},
        "judges": {"judge": str(models / "judge"), "size": str(models / "other-judge")},
    }
    attributes = [{"classifier": "topic", "label": "beta"},
                  {"classifier": "size", "label": "long", "weight": 0.5}]  # fmt: skip
    small = {"attributes": attributes, "trials": 1, "points": 1, "steps": [3]}
    run_search(control_job(models, run, lab=lab, control=small), run)
    file = ControlFile.read(run / "control.json")
    assert file.setting.labels == [("beta",), ("long",)]
    assert file.traces[0].label == "beta, long"
    assert file.setting.deciding == ("judge", "size") and file.setting.judge == "judge and size"
    for row in file.fresh:
        assert {"guide_topic", "guide_size", "control_judge"} <= set(row.estimates)
        assert set(row.by_label) == {"beta"}
        # Both must hold.
        assert row.control.value <= min(
            row.estimates[f"control_{name}"].value for name in ("judge", "size")
        )
    exported = export(run, "best")
    assert exported.provenance["judge_location"] == [
        str(models / name) for name in ("judge", "other-judge")
    ]
    assert set(exported.classifiers) == {"topic", "size"}
    player = load_plan(exported)
    other = player.steered({"topic": "gamma"})
    assert [one.label for one in other.plan.guidance.attributes] == ["gamma", "long"]  # type: ignore[union-attr]
    assert [one.weight for one in other.plan.guidance.attributes] == [1.0, 0.5]  # type: ignore[union-attr]
    assert not torch.equal(player.tokens(4), other.tokens(4))


def masked_data(models: Path, run: Path, **tables: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Denoisers of the masked process."""
    lab = {"denoisers": {"H": str(models / "masked"), "L": str(models / "masked-light")}}
    return control_data(models, run, lab=lab, **{"plan": {"process": "masked"}} | tables)


def test_masked_denoisers_are_guided_with_clocks_of_their_tokens(
    models: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    names = ["tta_constant", "tta_adaptive", "tta_top_k"]
    small = {"names": names, "signals": ["gradient", "entropy"], "trials": 3, "points": 1,
             "steps": [3]}  # fmt: skip
    run_search(parse_job(masked_data(models, run, control=small)), run)
    file = ControlFile.read(run / "control.json")
    assert {row.plan.policy.name for row in file.rows if row.origin == "sweep"} == set(names)
    assert file.setting.process == "masked" and file.picks
    # Unguided it is the plain sampler, which makes fewer forwards than steps where none is due.
    reference = file.row(file.setting.reference)
    plain = Plan(**{name: getattr(reference.plan, name) for name in Plan.model_fields}
                 | {"guidance": None})  # fmt: skip
    (stored,) = [r for r in records(run) if r.identity.plan.digest == reference.digest
                 and r.identity.block == load_job(run / "job.toml").blocks()[0]]  # fmt: skip
    lab = build_lab(load_job(run / "job.toml").lab)
    same = sample(plain, lab.denoisers, only_masked(lab.process, "plain"),
                  SequenceIds.of([stored.identity.block]))  # fmt: skip
    assert same.z_BL.tolist() == stored.tokens
    assert same.usage["H"].forwards_B.tolist() == stored.usage["H"].forwards
    exported = export(run, "best")
    exported.write(tmp_path / "plan.json")
    tokens = load_plan(tmp_path / "plan.json").tokens(5, seed=file.setting.fresh_seed)
    assert (tokens < 40).all()  # no mask is left
    (first,) = [r for r in records(run) if r.identity.plan.digest == exported.digest
                and r.identity.block == load_job(run / "job.toml").fresh_blocks()[0]]  # fmt: skip
    assert tokens[:4].tolist() == first.tokens


@pytest.mark.parametrize(
    ("process", "policy"),
    [
        ("masked", {"name": "ancestral"}),
        ("masked", {"name": "tta_adaptive", "parameters": {"smooth": 0.5}}),
        ("simplex", {"name": "tta_top_k", "parameters": {"signal": "entropy"}}),
    ],
)
def test_a_search_over_model_schedules_is_guided_as_the_plan_says(
    models: Path, tmp_path: Path, process: str, policy: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    guidance = {"attributes": [{"classifier": "topic", "label": "beta"}], "scale": 300.0,
                "iterations": 2}  # fmt: skip
    plan = {"process": process, "policy": policy, "guidance": guidance}
    search = {"additive": False, "num_segments": 2, "num_light": 1, "handmade": False}
    build = masked_data if process == "masked" else control_data
    data = build(models, run, plan=plan, search=search)
    data.pop("control")
    run_search(parse_job(data), run)
    file = SearchFile.read(run / "search.json")
    found = {str(row.schedule) for row in file.rows}
    assert {"H4", "L4", "L2 H2", "H2 L2"} <= found
    assert file.setting.guidance is not None and file.setting.guidance.scale == 300.0
    for row in file.rows:
        assert {"control_judge", "guide_topic"} <= set(row.estimates)
    mixed = next(row for row in file.rows if str(row.schedule) == "L2 H2")
    heavy = next(row for row in file.rows if str(row.schedule) == "H4")
    saved = 1 - mixed.estimates["flops_total"].value / heavy.estimates["flops_total"].value
    # Passes of guides are a part of both; how many masks there are is a matter of chance.
    assert mixed.cost.saved_total == pytest.approx(saved, abs=0.0 if process == "simplex" else 0.1)
    exported = export(run, "best")
    assert set(exported.classifiers) == {"topic"} and exported.plan.guidance is not None
    exported.write(tmp_path / "plan.json")
    texts = run_plan(tmp_path / "plan.json", 4, seed=1)
    assert len(texts) == 4
    assert run_plan(tmp_path / "plan.json", 4, seed=1, labels={"topic": "beta"}) == texts


def test_a_search_with_plans_of_a_single_step_ends(models: Path, tmp_path: Path) -> None:
    """A plan of one step has no pair of steps to look at; what was searched must not be lost."""
    run = tmp_path / "run"
    small = {"steps": [1], "schedules": [["H"]], "trials": 1, "points": 1, "last_step": True}
    run_search(control_job(models, run, plan={"num_steps": 2}, control=small), run)
    assert ControlFile.read(run / "control.json").picks


def test_what_ablation_takes_is_counted(models: Path, tmp_path: Path) -> None:
    """L + 1 forwards of the guide at every step whose levels it decides: not while warming up,
    not at the last one."""
    run = tmp_path / "run"
    small = {"names": ["tta_adaptive"], "signals": ["ablation"], "steps": [4], "points": 1,
             "trials": 0, "iterations": [1]}  # fmt: skip
    policy = {"name": "tta_constant", "parameters": {"warm_up": 0.25}}
    run_search(control_job(models, run, plan={"policy": policy}, control=small), run)
    file = ControlFile.read(run / "control.json")
    (swept,) = [row for row in file.rows if row.origin == "sweep"]
    (record,) = [r for r in records(run) if r.identity.plan.digest == swept.digest
                 and r.identity.block == load_job(run / "job.toml").blocks()[0]]  # fmt: skip
    assert record.usage["ablation"].head_positions == [2 * (LENGTH + 1)] * 4
    guide = load_classifier(models / "guide")
    assert record.costs["ablation"].head_flops == guide.encoder_flops(LENGTH)
    lab = build_lab(load_job(run / "job.toml").lab)
    costs = role_costs(swept.plan, lab.denoisers, guides=lab.guides)
    expected = expected_cost(swept.plan, costs)
    assert expected.flops_total == pytest.approx(swept.estimates["flops_total"].value)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"plan": {"policy": {"name": "tta_linear"}}}, "plan.policy tta_linear"),
        ({"plan": {"policy": {"name": "low_confidence"}}}, "plan.policy low_confidence"),
        ({"control": {"steps": [1], "schedules": [["H"]]}}, "one step guides nothing"),
    ],
)
def test_jobs_whose_reference_would_not_be_the_plain_sampler_are_refused(
    models: Path, tmp_path: Path, tables: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        control_job(models, tmp_path / "run", **tables)
    assert "\n" not in str(caught.value)

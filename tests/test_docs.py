"""The documents' examples are valid, their links lead somewhere, their commands exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import typer

from schedlab.cli import app
from schedlab.evaluation.evaluate import check_plan
from schedlab.evaluation.lab import build_lab
from schedlab.files import validate
from schedlab.job import Job, parse_job
from schedlab.plan import ModelSchedule, Plan
from schedlab.search.control import first_plans
from schedlab.training import DeriveJob, TrainJob
from schedlab.training.job import ClassifierJob, RefineJob, SimplexJob, UniformJob

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def test_the_job_example_is_a_job() -> None:
    (example,) = blocks(ROOT / "docs" / "formats.md", "toml")
    assert parse_job(tomllib.loads(example)).plan.light == "L"


def test_the_policy_search_example_is_a_job() -> None:
    (example,) = blocks(ROOT / "docs" / "policy-search.md", "toml")
    job = parse_job(tomllib.loads(example))
    assert job.policies is not None and job.task is not None


def test_the_training_examples_are_training_jobs() -> None:
    found = [tomllib.loads(block) for block in blocks(ROOT / "docs" / "training.md", "toml")]
    example, simplex, stages, uniform, refine, classifier, derived = found
    where = "training.md"
    assert validate(TrainJob, example, where=where).kind == "denoiser"
    assert validate(SimplexJob, simplex | stages, where=where).stages[-1].grid_steps == 50
    assert validate(UniformJob, uniform, where=where).uniform.begin == "bundled:light-8"
    assert len(validate(RefineJob, refine, where=where).runs) == 6
    assert validate(ClassifierJob, classifier, where=where).inputs.denoiser == "bundled:simplex"
    assert validate(DeriveJob, derived, where=where).derive.num_blocks == 4


def test_the_example_of_a_joint_search_is_a_job() -> None:
    plan, control = map(tomllib.loads, blocks(ROOT / "docs" / "control.md", "toml"))
    one = parse_job(plan, where="control.md")
    assert one.plan.guidance is not None and one.plan.guidance.scale == 600.0
    job = parse_job(control, where="control.md")
    assert job.control is not None and job.control.trials == 80
    for example in (one, job):  # and fits the bundled models
        lab = build_lab(example.lab)
        for planned in first_plans(example) if example.control else [_plan_of(example)]:
            check_plan(planned, lab, None)


def _plan_of(job: Job) -> Plan:
    return job.plan.plan(ModelSchedule.constant(job.plan.heavy, job.plan.num_steps))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist(path: Path) -> None:
    known = set(typer.main.get_command(app).commands)
    text = path.read_text(encoding="utf-8")
    for command in re.findall(r"(?:^    |`)schedlab ([a-z]+)", text, re.MULTILINE):
        assert command in known

"""The documents' examples are valid, their links lead somewhere, their commands exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import typer

from schedlab.cli import app
from schedlab.files import validate
from schedlab.job import parse_job
from schedlab.training import DeriveJob, TrainJob

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


def test_the_training_example_is_a_training_job() -> None:
    example, derived = blocks(ROOT / "docs" / "training.md", "toml")
    assert validate(TrainJob, tomllib.loads(example), where="training.md").kind == "denoiser"
    assert validate(DeriveJob, tomllib.loads(derived), where="training.md").derive.num_blocks == 4


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

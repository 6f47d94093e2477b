"""A job with a policy through the command line: search, report, export, sample."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_world import tiny_job, write_job
from typer.testing import CliRunner, Result

from schedlab.cli import app
from schedlab.errors import InputError
from schedlab.plan import PlanFile


def run(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output + result.stderr
    return result


@pytest.mark.parametrize(
    "policy",
    [
        {"name": "low_confidence", "parameters": {"block_length": 4}},
        {"name": "stdd", "parameters": {"threshold": 0.5, "block_length": 4}},
        {"name": "surelock", "parameters": {"block_length": 4, "epsilon": 0.05}},
        {"name": "threshold", "parameters": {"block_length": 4, "cache": "dual"}},
        {"name": "random_order"},
    ],
    ids=lambda policy: policy["name"],
)
def test_the_command_line_runs_with_it(world: Path, tmp_path: Path, policy) -> None:
    job = tiny_job(
        world,
        plan={"policy": policy, "temperature": 0.7},
        search={"exhaustive": False},
        output={"folder": str(tmp_path / "run")},
    )
    file = write_job(job, tmp_path / "job.toml")
    run("search", file)
    found = json.loads((tmp_path / "run" / "search.json").read_text())
    assert found["setting"]["policy"]["name"] == policy["name"]
    assert len(found["rows"]) > 6
    for row in found["rows"]:
        assert 0 < sum(row["cost"]["forwards"].values()) <= 8
    run("report", tmp_path / "run")
    html = (tmp_path / "run" / "report.html").read_text()
    assert f"policy {policy['name']}" in html
    run("export", tmp_path / "run", "--out", tmp_path / "plan.json")
    plan = PlanFile.parse((tmp_path / "plan.json").read_text()).plan
    assert plan.policy.name == policy["name"]
    assert plan.policy.parameters == policy.get("parameters", {})
    texts = json.loads(run("sample", tmp_path / "plan.json", "--num", 3, "--json").stdout)["texts"]
    assert len(texts) == 3


def test_saved_is_counted_where_predictions_decide(world: Path, tmp_path: Path) -> None:
    job = tiny_job(
        world,
        plan={"policy": {"name": "threshold", "parameters": {"threshold": 0.2}}},
        search={"exhaustive": False},
        output={"folder": str(tmp_path / "run")},
    )
    run("search", write_job(job, tmp_path / "job.toml"))
    found = json.loads((tmp_path / "run" / "search.json").read_text())
    run("report", tmp_path / "run")
    assert "Savings are counted" in (tmp_path / "run" / "report.html").read_text()
    heavy = next(row for row in found["rows"] if row["light_share"] == 0)["cost"]
    for row in found["rows"]:
        counted = 1 - row["cost"]["flops_total"] / heavy["flops_total"]
        assert row["cost"]["saved_total"] == pytest.approx(counted)
    for key, value in (("race_from", 16), ("max_cost", 0.5)):
        with pytest.raises(InputError, match=f"search.{key} needs costs that are known"):
            tiny_job(
                world,
                plan={"policy": {"name": "threshold"}},
                search={key: value, "num_sequences": 32},
            )


def test_a_wrong_parameter_is_bad_input(world: Path, tmp_path: Path) -> None:
    job = tiny_job(
        world,
        plan={"policy": {"name": "stdd", "parameters": {"treshold": 0.5}}},
        output={"folder": str(tmp_path / "run")},
    )
    result = run("search", write_job(job, tmp_path / "job.toml"), code=2)
    assert "has no parameter 'treshold'" in result.stderr
    job = tiny_job(world, output={"folder": str(tmp_path / "other")})
    text = (write_job(job, tmp_path / "other.toml")).read_text()
    assert '"ancestral"' in text
    (tmp_path / "other.toml").write_text(text.replace('"ancestral"', '"stddd"'))
    assert "plan.policy.name" in run("search", tmp_path / "other.toml", code=2).stderr

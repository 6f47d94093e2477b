"""Whole runs on a uniform-state pair: the commands for masked ones, unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from tiny_world import LENGTH, tiny_job, write_corpus, write_job, write_models
from typer.testing import CliRunner

from schedlab.cli import app
from schedlab.denoisers import checkpoint
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.deploy import export
from schedlab.deploy.runtime import run_plan
from schedlab.errors import InputError
from schedlab.evaluation.evaluate import evaluate
from schedlab.evaluation.lab import build_lab
from schedlab.job import Job, parse_job
from schedlab.plan import ModelSchedule, Plan
from schedlab.plan.lab_config import LabConfig
from schedlab.results import SeedBlock, Store
from schedlab.results.importance_file import ImportanceFile
from schedlab.results.policy_file import PolicyFile
from schedlab.results.search_file import SearchFile
from schedlab.text import Tokenizer, held_out_windows, load_corpus
from schedlab.training.uniform_objective import held_out_losses


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scorer, a corpus, and uniform-state denoisers: a heavy one and a light one."""
    folder = tmp_path_factory.mktemp("uniform")
    write_models(folder)
    write_corpus(folder / "corpus.txt")
    for seed, (name, num_blocks) in enumerate((("heavy", 2), ("light", 1))):
        config = TransformerConfig(
            vocab_size=Tokenizer.load("bundled").vocab_size, mask_id=None, num_blocks=num_blocks,
            hidden_size=16, num_heads=2, max_length=32, process="uniform",
            prediction="leave_one_out", time_input="sequence",
        )  # fmt: skip
        model = Transformer(config)
        generator = torch.Generator().manual_seed(seed)
        model.init_weights(generator)
        model.head.weight.data.mul_(100)
        model.time.weight.data.normal_(generator=generator)
        checkpoint.save(folder / name, model, {})
    return folder


def job_of(world: Path, **tables: dict[str, Any]) -> Job:
    lab = {"denoisers": {"H": str(world / "heavy"), "L": str(world / "light")}}
    plan = {"process": "uniform", "num_steps": 4}
    return tiny_job(world, **{**tables, "lab": lab, "plan": plan | tables.get("plan", {})})


def test_importance_search_report_and_plan(world: Path, tmp_path: Path) -> None:
    path, run = write_job(job_of(world), tmp_path / "job.toml"), tmp_path / "run"
    result = call("search", path, "--run", run)
    assert result.exit_code == 0, result.output
    importance = ImportanceFile.read(run / "importance.json")
    assert importance.setting.process == "uniform"
    assert {curve.metric for curve in importance.curves} >= {"cross_entropy", "kl_heavy_light"}
    (forward,) = [one for one in importance.step_scores if one.states == "forward"]
    assert len(forward.path_kl) == 4 and min(forward.path_kl) > 0
    search = SearchFile.read(run / "search.json")
    assert search.setting.process == "uniform"
    families = {family for row in search.rows for family in row.families}
    assert "additive" in families
    result = call("report", run)
    assert result.exit_code == 0, result.output
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "nats per token and step" in page and "masked token" not in page
    assert "Every step moves all positions" in page and "reveals nothing" not in page
    assert "idle step" not in page and "as every step costs a forward" in page
    export(run, "best").write(tmp_path / "plan.json")
    texts = run_plan(tmp_path / "plan.json", 3, seed=2, device="cpu")
    assert len(set(texts)) == 3
    assert texts[:2] == run_plan(tmp_path / "plan.json", 2, seed=2, device="cpu")


def test_an_estimate_is_made_of_it(world: Path, tmp_path: Path) -> None:
    path = write_job(job_of(world), tmp_path / "job.toml")
    result = call("estimate", path, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["forwards"]["H"] > 0


def policies(**more: Any) -> dict[str, Any]:
    return {
        "quality": "gen_ppl", "cost": "forwards", "names": ["ancestral"], "tuned": ["psi"],
        "points": 2, "trials": 2, "sampler": "tpe", "top_ps": [1.0, 0.8], "grid_points": 3,
    } | more  # fmt: skip


def with_policies(world: Path, **more: Any) -> Job:
    job = job_of(world).model_dump(mode="json")
    job["search"] |= {"num_sequences": 8, "fresh_sequences": 8, "workers": 1}
    job["policies"] = policies(**more)
    return parse_job(job)


def test_policies_with_grids_and_top_p(world: Path, tmp_path: Path) -> None:
    path, run = write_job(with_policies(world), tmp_path / "job.toml"), tmp_path / "run"
    result = call("search", path, "--run", run)
    assert result.exit_code == 0, result.output
    file = PolicyFile.read(run / "policies.json")
    swept = [row for row in file.rows if not row.curve.tuned]
    assert {row.plan.decoding.top_p for row in swept} == {1.0, 0.8}
    assert {row.curve.top_p for row in swept} >= {1.0, 0.8}
    tuned = [row.plan for row in file.rows if row.curve.tuned]
    assert all(plan.policy.name == "psi" and plan.process == "uniform" for plan in tuned)
    own = [plan for plan in tuned if not isinstance(plan.time_grid, str)]  # seeds are uniform
    assert own and all(len(plan.time_grid) == plan.num_steps for plan in own)
    result = call("report", run)
    assert result.exit_code == 0, result.output
    best = export(run, "best")
    assert best.plan.process == "uniform"
    best.write(tmp_path / "plan.json")
    assert len(set(run_plan(tmp_path / "plan.json", 3, device="cpu"))) == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"names": ["low_confidence"]}, "'low_confidence' is not searched in the uniform"),
        ({"quality": "duel", "top_ps": None}, "has an exact likelihood; use gen_ppl"),
        ({"grid_points": 1}, "grid_points must be 0 or at least 2"),
        ({"top_ps": [0.9, 0.9]}, "policies.top_ps names one twice"),
    ],
)
def test_what_is_of_the_masked_process_is_refused(world: Path, more: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_policies(world, **more)


def test_a_grid_of_ones_own_is_searched_over_schedules(world: Path, tmp_path: Path) -> None:
    grid = [1.0, 0.9, 0.4, 0.1]
    plan = {"time_grid": grid, "last_step": "greedy", "noise_schedule": "log_linear"}
    with pytest.raises(InputError, match="step importance is of the uniform grid"):
        job_of(world, plan=plan)
    job = job_of(world, plan=plan, search={"additive": False})
    path, run = write_job(job, tmp_path / "job.toml"), tmp_path / "run"
    result = call("search", path, "--run", run)
    assert result.exit_code == 0, result.output
    assert SearchFile.read(run / "search.json").setting.time_grid == grid
    file = export(run, "best")
    assert file.plan.time_grid == grid and file.plan.length == LENGTH
    assert file.plan.last_step == "greedy" and file.plan.noise_schedule == "log_linear"
    rows = SearchFile.read(run / "search.json").rows
    assert file.digest in {row.digest for row in rows}  # what was measured, wholly


def test_the_bundled_pair_predicts_and_samples(tmp_path: Path) -> None:
    """Better than the unigram law by far on held-out text; more steps make better texts."""
    lab = build_lab(
        LabConfig(
            denoisers={"H": "bundled:uniform", "L": "bundled:uniform-light"},
            scorer="bundled:scorer",
            precision="float32",
        )
    )
    specs = [denoiser.spec for denoiser in lab.denoisers.values()]
    assert {spec.process for spec in specs} == {"uniform"}
    assert {spec.prediction for spec in specs} == {"leave_one_out"}
    assert [spec.num_blocks for spec in specs] == [8, 4]
    windows = held_out_windows(
        load_corpus("embedded"), lab.tokenizer, split="test", length=64, num=24, seed=0
    )
    for denoiser in lab.denoisers.values():
        bound_S, _ = held_out_losses(denoiser, windows.tokens_SL, levels=2, seed=0)
        assert 3.5 < bound_S.mean() < 5.3  # unigram entropy is 6.4 nats
    plans = [
        Plan(length=32, model_schedule=ModelSchedule.constant("H", num), process="uniform")
        for num in (2, 16)
    ]
    few, many = evaluate(plans, [SeedBlock(0, 0, 16)], lab=lab, store=Store(tmp_path))
    assert many.estimates["gen_ppl"].value < 0.7 * few.estimates["gen_ppl"].value

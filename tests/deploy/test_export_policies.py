"""Exports of a search over policies: picks, budgets, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import synthetic_policies
import synthetic_run

from schedlab.deploy import export
from schedlab.errors import InputError
from schedlab.plan import PlanFile
from schedlab.results.policy_file import PolicyFile


def written(folder: Path, file: PolicyFile) -> Path:
    synthetic_run.write_run(folder)
    file.write(folder / "policies.json")
    return folder


@pytest.fixture(scope="module")
def file() -> PolicyFile:
    return synthetic_policies.policies()


@pytest.fixture(scope="module")
def folder(file: PolicyFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("policies"), file)


@pytest.mark.parametrize("pick", ["best", "knee"])
def test_a_pick_becomes_a_plan_file_that_reads_back(
    folder: Path, file: PolicyFile, pick: str, tmp_path: Path
) -> None:
    exported = export(folder, pick)
    assert exported.digest == file.picks[pick] == exported.plan.digest
    exported.write(tmp_path / "plan.json")
    assert PlanFile.read(tmp_path / "plan.json") == exported
    assert set(exported.denoisers) == set(exported.plan.model_schedule.roles)
    assert exported.provenance["policy"] == file.row(exported.digest).curve.family
    assert exported.provenance["pick"] == pick and exported.provenance["task"] == "planted"


@pytest.mark.parametrize("quality", synthetic_policies.QUALITIES)
def test_what_is_said_to_be_measured_is_of_the_fresh_sequences(
    quality: str, tmp_path: Path
) -> None:
    file = synthetic_policies.policies(quality)
    exported = export(written(tmp_path, file), "best")
    fresh = file.fresh_row(exported.digest)
    assert fresh is not None
    key = {"accuracy": "accuracy", "gen_ppl": "gen_ppl", "duel": "duel_nll"}[quality]
    found = exported.measured[key]
    assert (found.value, found.low, found.high) == (
        fresh.estimates[key].value, fresh.estimates[key].low, fresh.estimates[key].high
    )  # fmt: skip
    assert found.value != file.row(exported.digest).estimates[key].value
    assert found.seeds == [file.setting.fresh_seed] and found.n == 64
    assert exported.measured["cost_share"].value == fresh.cost.value


@pytest.mark.parametrize("saving", [0.0, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("quality", ["accuracy", "gen_ppl"])
def test_a_budget_is_met_by_the_best_of_the_search_that_saves_enough(
    quality: str, saving: float, tmp_path: Path
) -> None:
    file = synthetic_policies.policies(quality)
    again = {row.digest for row in file.fresh}
    able = [
        row
        for row in file.rows
        if row.digest in again and row.in_entropy_band and 1 - row.cost >= saving
    ]
    chosen = file.row(export(written(tmp_path, file), f"budget={saving}").digest)
    assert chosen.loss == min(row.loss for row in able) and 1 - chosen.cost >= saving


@pytest.mark.parametrize(
    ("pick", "message"),
    [
        ("finest", "'finest': this search has .*'best', 'knee'.* or name budget=SHARE"),
        ("budget=0.99", "no re-measured plan within the entropy band saves 0.99"),
        ("budget=7", "share between 0 and 1, got 7"),
        ("budget=nan", "or name budget=SHARE"),
        ("", "or name budget=SHARE"),
    ],
)
def test_a_pick_that_cannot_be_met_is_one_line(folder: Path, pick: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        export(folder, pick)
    assert "\n" not in str(caught.value)


def test_plans_out_of_the_entropy_band_meet_no_budget(tmp_path: Path) -> None:
    file = synthetic_policies.policies("gen_ppl")
    rows = tuple(row.model_copy(update={"in_entropy_band": False}) for row in file.rows)
    folder = written(tmp_path, file.model_copy(update={"rows": rows}))
    with pytest.raises(InputError, match="within the entropy band saves 0"):
        export(folder, "budget=0")


def edited(folder: Path, change: Any) -> Path:
    data = json.loads((folder / "policies.json").read_text())
    change(data)
    (folder / "policies.json").write_text(json.dumps(data))
    return folder


def test_a_file_whose_plan_was_edited_is_refused(file: PolicyFile, tmp_path: Path) -> None:
    def warmer(data: dict[str, Any]) -> None:
        for row in data["rows"]:
            row["plan"]["decoding"]["temperature"] = 0.123

    with pytest.raises(InputError, match="the file was edited .*: search again") as caught:
        export(edited(written(tmp_path, file), warmer), "best")
    assert "\n" not in str(caught.value)


def test_a_pick_that_no_row_has_is_refused(file: PolicyFile, tmp_path: Path) -> None:
    def other(data: dict[str, Any]) -> None:
        data["picks"]["best"] = "0" * 64

    with pytest.raises(InputError, match="not measured on fresh sequences|no plan of this search"):
        export(edited(written(tmp_path, file), other), "best")


def test_a_plan_that_was_not_measured_again_is_refused(file: PolicyFile, tmp_path: Path) -> None:
    fresh = tuple(row for row in file.fresh if row.digest != file.picks["best"])
    folder = written(tmp_path, file.model_copy(update={"fresh": fresh}))
    with pytest.raises(InputError, match="'best' was not measured on fresh sequences"):
        export(folder, "best")


def test_an_environment_that_does_not_fit_is_refused(file: PolicyFile, tmp_path: Path) -> None:
    setting = file.setting.model_copy(update={"precision": "bfloat16"})
    with pytest.raises(InputError, match="keep runs of different precisions apart"):
        export(written(tmp_path / "a", file.model_copy(update={"setting": setting})), "best")
    folder = written(tmp_path / "b", file)
    data = json.loads((folder / "environment.json").read_text())
    for role in ("H", "L"):
        data["denoisers"].pop(role)
    (folder / "environment.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="names no denoiser for role"):
        export(folder, "best")

"""Exports: the picked plan, its fresh figures, and refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import synthetic_run

from schedlab.deploy import export
from schedlab.errors import InputError
from schedlab.plan import PlanFile
from schedlab.results.search_file import SearchFile


@pytest.fixture(scope="module")
def search() -> SearchFile:
    return synthetic_run.search()


@pytest.fixture(scope="module")
def folder(search: SearchFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_run.write_run(tmp_path_factory.mktemp("run"), search_file=search)


@pytest.mark.parametrize("pick", ["best", "knee", "budget=0.25"])
def test_a_pick_becomes_a_plan_file_that_reads_back(
    folder: Path, search: SearchFile, pick: str, tmp_path: Path
) -> None:
    exported = export(folder, pick)
    assert exported.digest == search.picks[pick]
    assert exported.plan.model_schedule == search.row(search.picks[pick]).schedule
    exported.write(tmp_path / "plan.json")
    assert PlanFile.read(tmp_path / "plan.json") == exported


def test_measured_figures_are_those_of_the_fresh_seeds(folder: Path, search: SearchFile) -> None:
    exported = export(folder, "best")
    digest = search.picks["best"]
    fresh = search.fresh_row(digest)
    assert fresh is not None
    measured = exported.measured
    assert measured["gen_ppl"].value == fresh.estimates["gen_ppl"].value
    assert measured["gen_ppl"].value != search.row(digest).estimates["gen_ppl"].value
    assert measured["gen_ppl"].seeds == [search.setting.fresh_seed]
    assert measured["gen_ppl"].n == search.setting.fresh_sequences
    assert "bundled:scorer" in measured["gen_ppl"].note
    assert measured["log_gen_ppl_minus_all_heavy"].low == fresh.paired_log_ppl.low


def test_only_the_denoisers_of_the_schedule_are_named(folder: Path) -> None:
    exported = export(folder, "best")
    assert set(exported.denoisers) == {"H", "L"}
    assert exported.denoisers["L"].sha256 == synthetic_run.fingerprint("L")
    assert exported.provenance["fresh_seed"] == 1011
    assert exported.provenance["corpus_fingerprint"] == synthetic_run.CORPUS


@pytest.mark.parametrize("saving", [0.0, 0.3, 0.5])
def test_a_budget_is_met_by_the_best_remeasured_plan_that_saves_enough(
    folder: Path, search: SearchFile, saving: float
) -> None:
    chosen = search.row(export(folder, f"budget={saving}").digest)
    assert chosen.cost.saved_total >= saving
    able = [
        search.row(again.digest).estimates["log_gen_ppl"].value
        for again in search.fresh
        if again.in_entropy_band and search.row(again.digest).cost.saved_total >= saving
    ]
    # Chosen by the search's values, so that the fresh ones stay unbiased.
    assert chosen.estimates["log_gen_ppl"].value == min(able)


@pytest.mark.parametrize(
    ("pick", "message"),
    [
        ("finest", "pick must be 'best', 'knee' or 'budget=SHARE'"),
        ("budget=0.999", "no re-measured plan within the entropy band saves 0.999"),
        ("budget=7", "share between 0 and 1"),
        ("budget=nan", "pick must be"),
        ("", "pick must be"),
    ],
)
def test_a_pick_that_cannot_be_met_is_refused(folder: Path, pick: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        export(folder, pick)


def damaged(folder: Path, search: SearchFile, **update: object) -> Path:
    return synthetic_run.write_run(folder, search_file=search.model_copy(update=update))


def test_a_plan_without_fresh_seeds_is_refused(search: SearchFile, tmp_path: Path) -> None:
    best = search.picks["best"]
    fresh = tuple(row for row in search.fresh if row.digest != best)
    with pytest.raises(InputError, match="not measured on fresh seeds"):
        export(damaged(tmp_path, search, fresh=fresh), "best")


def test_a_search_file_whose_setting_was_edited_is_refused(
    search: SearchFile, tmp_path: Path
) -> None:
    setting = search.setting.model_copy(update={"temperature": 0.7})
    with pytest.raises(InputError, match="was edited"):
        export(damaged(tmp_path, search, setting=setting), "best")


def test_an_environment_of_another_precision_is_refused(
    search: SearchFile, tmp_path: Path
) -> None:
    setting = search.setting.model_copy(update={"precision": "bfloat16"})
    with pytest.raises(InputError, match="precision"):
        export(damaged(tmp_path, search, setting=setting), "best")


def test_an_environment_without_the_denoiser_is_refused(
    search: SearchFile, tmp_path: Path
) -> None:
    folder = synthetic_run.write_run(tmp_path, search_file=search)
    data = json.loads((folder / "environment.json").read_text())
    del data["denoisers"]["L"]
    (folder / "environment.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="no denoiser for role 'L'"):
        export(folder, "best")


def test_a_folder_without_a_search_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no search.json; run or resume its search first"):
        export(tmp_path, "best")


def test_exporting_loads_neither_torch_nor_a_model(folder: Path, repository: Path) -> None:
    code = (
        "import sys; from schedlab.deploy import export; export(sys.argv[1], 'best');"
        " sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr or "exporting loads torch"

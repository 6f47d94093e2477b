"""Exports of a joint search over guidance and allocation: picks, budgets, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import synthetic_control
import synthetic_run

from schedlab.deploy import export
from schedlab.deploy.picked import guides_of
from schedlab.errors import InputError
from schedlab.files import sha256_file
from schedlab.plan import FileRef, ModelSchedule, Plan, PlanFile
from schedlab.plan.guidance import Attribute, Guidance
from schedlab.results.control_file import ControlFile
from schedlab.results.environment_file import EnvironmentFile

GUIDE = FileRef(location="bundled:guide", sha256="1" * 64)
JUDGE = FileRef(location="bundled:judge", sha256="2" * 64)
OTHER = FileRef(location="models/other", sha256="3" * 64)


def environment(**changes: Any) -> EnvironmentFile:
    classifiers = {synthetic_control.GUIDE: GUIDE, "mood": OTHER}
    judges = {synthetic_control.JUDGE: JUDGE, synthetic_control.OTHER: OTHER}
    return synthetic_run.environment().model_copy(
        update={"classifiers": classifiers, "judges": judges} | changes
    )


def written(folder: Path, file: ControlFile, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    environment(**changes).write(folder / "environment.json")
    file.write(folder / "control.json")
    return folder


@pytest.fixture(scope="module")
def file() -> ControlFile:
    return synthetic_control.control()


@pytest.fixture(scope="module")
def folder(file: ControlFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("control"), file)


@pytest.mark.parametrize("pick", ["best", "knee"])
def test_a_pick_becomes_a_plan_file_that_reads_back(
    folder: Path, file: ControlFile, pick: str, tmp_path: Path
) -> None:
    exported = export(folder, pick)
    assert exported.digest == file.picks[pick] == exported.plan.digest
    assert exported.plan == file.row(exported.digest).plan
    exported.write(tmp_path / "plan.json")
    assert PlanFile.read(tmp_path / "plan.json") == exported
    assert exported.classifiers == {synthetic_control.GUIDE: GUIDE}  # as many as it names
    assert set(exported.denoisers) == set(exported.plan.model_schedule.roles)
    found = exported.provenance
    assert (found["pick"], found["judge"]) == (pick, synthetic_control.JUDGE)
    assert (found["judge_location"], found["judge_sha256"]) == ([JUDGE.location], [JUDGE.sha256])
    assert found["reference_plan"] == file.setting.reference
    assert found["plans_evaluated"] == len(file.rows)
    assert found["search_file_sha256"] == sha256_file(folder / "control.json")


def test_what_is_said_to_be_measured_is_of_the_fresh_sequences(
    folder: Path, file: ControlFile
) -> None:
    exported = export(folder, "best")
    fresh, row = file.fresh_row(exported.digest), file.row(exported.digest)
    expected = {
        **fresh.estimates, "control": fresh.control, "cost_ratio": fresh.cost,
        "gen_ppl_ratio": fresh.ppl_ratio,
    }  # fmt: skip
    assert set(exported.measured) == set(expected)
    for name, estimate in expected.items():
        found = exported.measured[name]
        assert estimate is not None
        assert (found.value, found.low, found.high) == (
            estimate.value, estimate.low, estimate.high
        )  # fmt: skip
        assert found.n == estimate.n and found.seeds == [file.setting.fresh_seed]
    judged = f"control_{synthetic_control.JUDGE}"
    assert exported.measured[judged].value != row.estimates[judged].value
    assert synthetic_control.JUDGE in exported.measured["control"].note


def test_without_a_scorer_there_is_no_ratio_of_perplexities(tmp_path: Path) -> None:
    file = synthetic_control.control(scorer=False)
    exported = export(written(tmp_path, file), "best")
    assert not {"gen_ppl", "log_gen_ppl", "gen_ppl_ratio"} & set(exported.measured)
    assert exported.provenance["scorer"] == "none"


def saving(file: ControlFile, share: float) -> list[str]:
    """Digests that may be exported for a budget."""
    within = {row.digest for row in file.fresh if row.within}
    return [
        row.digest
        for row in file.rows
        if row.digest in within
        and row.feasible
        and row.digest != file.setting.reference
        and row.losses["cost"] <= 1 - share + 1e-12
    ]


def shared(file: ControlFile, share: float) -> ControlFile:
    """With costs at which guided plans can save something."""
    factor = 0.4
    rows = tuple(
        row.model_copy(update={"losses": row.losses | {"cost": factor * row.losses["cost"]}})
        for row in file.rows
    )
    return file.model_copy(update={"rows": rows})


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.3])
def test_a_budget_is_met_by_the_best_of_the_search_that_saves_enough(
    file: ControlFile, share: float, tmp_path: Path
) -> None:
    cheap = shared(file, share)
    able = saving(cheap, share)
    assert len(able) >= 2
    chosen = cheap.row(export(written(tmp_path, cheap), f"budget={share}").digest)
    assert chosen.digest in able
    assert chosen.losses["control"] == min(cheap.row(digest).losses["control"] for digest in able)


def test_plans_that_break_a_constraint_meet_no_budget(file: ControlFile, tmp_path: Path) -> None:
    cheap = shared(file, 0.1)
    best = export(written(tmp_path / "a", cheap), "budget=0.1").digest
    fresh = tuple(
        row.model_copy(update={"within": row.within and row.digest != best}) for row in cheap.fresh
    )
    other = cheap.model_copy(update={"fresh": fresh})
    assert export(written(tmp_path / "b", other), "budget=0.1").digest != best
    rows = tuple(
        row.model_copy(update={"excess": {"max_cost": 0.5}}) if row.digest == best else row
        for row in cheap.rows
    )
    other = cheap.model_copy(update={"rows": rows})
    assert export(written(tmp_path / "c", other), "budget=0.1").digest != best
    nothing = tuple(row.model_copy(update={"within": False}) for row in cheap.fresh)
    other = cheap.model_copy(update={"fresh": nothing})
    with pytest.raises(InputError, match="no re-measured plan within the constraints saves 0"):
        export(written(tmp_path / "d", other), "budget=0.1")


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_a_budget_is_kept_also_where_the_search_did_not_minimise_cost(
    file: ControlFile, share: float, tmp_path: Path
) -> None:
    """Or refused: nothing that is dearer is exported for it."""
    rows = tuple(
        row.model_copy(update={"losses": {k: v for k, v in row.losses.items() if k != "cost"}})
        for row in file.rows
    )
    setting = file.setting.model_copy(update={"objectives": ("control", "gen_ppl")})
    folder = written(tmp_path, file.model_copy(update={"rows": rows, "setting": setting}))
    try:
        exported = export(folder, f"budget={share}")
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert exported.measured["cost_ratio"].value <= 1 - share


@pytest.mark.parametrize(
    ("pick", "message"),
    [
        ("finest", "'finest': this search has .*'best', 'knee'.* or name budget=SHARE"),
        ("budget=0.99", "no re-measured plan within the constraints saves 0.99"),
        ("budget=7", "share between 0 and 1, got 7"),
        ("budget=nan", "or name budget=SHARE"),
        ("budget=-0.1", "or name budget=SHARE"),
        ("", "or name budget=SHARE"),
        ("x\ny" * 100, "or name budget=SHARE"),
    ],
)
def test_a_pick_that_cannot_be_met_is_one_line(folder: Path, pick: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        export(folder, pick)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_search_without_picks_says_so(file: ControlFile, tmp_path: Path) -> None:
    folder = written(tmp_path, file.model_copy(update={"picks": {}}))
    with pytest.raises(InputError, match="'knee': this search has no picks"):
        export(folder, "knee")


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    data = json.loads((folder / "control.json").read_text())
    change(data)
    (folder / "control.json").write_text(json.dumps(data))
    return folder


def stronger(data: dict[str, Any]) -> None:
    for row in data["rows"]:
        row["plan"]["guidance"]["scale"] += 1.0


def warmer(data: dict[str, Any]) -> None:
    for row in data["rows"]:
        row["plan"]["decoding"]["temperature"] = 0.123


def other_clock(data: dict[str, Any]) -> None:
    for row in data["rows"]:
        row["plan"]["policy"] = {"name": "tta_linear", "parameters": {}}


@pytest.mark.parametrize("change", [stronger, warmer, other_clock])
def test_a_file_whose_plan_was_edited_is_refused(
    file: ControlFile, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    with pytest.raises(InputError, match="the file was edited .*: search again") as caught:
        export(edited(written(tmp_path, file), change), "best")
    assert "\n" not in str(caught.value)


def test_a_pick_that_no_row_has_is_refused(file: ControlFile, tmp_path: Path) -> None:
    def other(data: dict[str, Any]) -> None:
        data["picks"]["best"] = "0" * 64

    with pytest.raises(InputError, match="was not measured on the search; search again"):
        export(edited(written(tmp_path, file), other), "best")


def test_a_plan_that_was_not_measured_again_is_refused(file: ControlFile, tmp_path: Path) -> None:
    fresh = tuple(row for row in file.fresh if row.digest != file.picks["best"])
    folder = written(tmp_path, file.model_copy(update={"fresh": fresh}))
    with pytest.raises(InputError, match="not measured on fresh sequences"):
        export(folder, "best")


def roles_of(file: ControlFile) -> tuple[str, ...]:
    return file.row(file.picks["best"]).plan.model_schedule.roles


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classifiers": {}}, "names no classifier 'topic', which the plan's guidance uses"),
        ({"classifiers": {"mood": OTHER}}, "names no classifier 'topic'"),
        ({"precision": "bfloat16"}, "keep runs of different precisions apart"),
        ({"denoisers": {}}, "names no denoiser for role"),
        ({"judges": {}}, "press-judge"),
        ({"judges": {"second-judge": OTHER}}, "press-judge"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(
    file: ControlFile, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        export(written(tmp_path, file, **changes), "best")
    assert "\n" not in str(caught.value)


def test_a_folder_without_environment_or_with_damage_is_one_line(
    file: ControlFile, tmp_path: Path
) -> None:
    folder = written(tmp_path / "a", file)
    (folder / "environment.json").unlink()
    with pytest.raises(InputError, match="environment.json"):
        export(folder, "best")
    folder = written(tmp_path / "b", file)
    (folder / "control.json").write_text("{")
    with pytest.raises(InputError, match="control.json") as caught:
        export(folder, "best")
    assert "\n" not in str(caught.value)


# Plan files


def test_a_plan_file_with_guidance_names_its_classifiers(folder: Path, tmp_path: Path) -> None:
    exported = export(folder, "best")
    data = json.loads(exported.model_dump_json())
    data["classifiers"] = {"mood": data["classifiers"]["topic"]}
    for classifiers in (data["classifiers"], {}):
        data["classifiers"] = classifiers
        with pytest.raises(InputError, match="the guidance uses 'topic', which is not") as caught:
            PlanFile.from_json(data)
        assert "\n" not in str(caught.value)
    data.pop("classifiers")
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="the guidance uses 'topic'"):
        PlanFile.read(tmp_path / "plan.json")


def test_plan_files_of_before_there_was_guidance_are_read(folder: Path) -> None:
    data = json.loads(export(folder, "best").model_dump_json())
    data["plan"].pop("guidance")
    data["plan"]["policy"] = {"name": "ancestral", "parameters": {}}
    plan = Plan.from_json(data["plan"])
    data["digest"] = plan.digest
    data.pop("classifiers")
    assert PlanFile.from_json(data).classifiers == {}


def test_guides_are_those_that_the_plan_names_each_once() -> None:
    plan = Plan(
        length=8,
        model_schedule=ModelSchedule.parse("H4"),
        guidance=Guidance(
            attributes=[
                Attribute(classifier="mood", label="good"),
                Attribute(classifier="topic"),
                Attribute(classifier="mood", label="calm"),
            ]
        ),
    )
    assert list(guides_of(plan, environment()).items()) == [("mood", OTHER), ("topic", GUIDE)]
    bare = Plan(length=8, model_schedule=ModelSchedule.parse("H4"))
    assert guides_of(bare, environment()) == {} == guides_of(bare, synthetic_run.environment())

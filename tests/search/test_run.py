from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from planted import PlantedWorld, planted_costs, planted_job, true_log_ppl

from schedlab.errors import BudgetError
from schedlab.plan import ModelSchedule
from schedlab.results.search_file import SearchFile
from schedlab.search.front import non_dominated
from schedlab.search.run import Context, search

CONTEXT = Context(scorer="planted", precision="float64", corpus_fingerprint="c", fingerprint="f")


def run(world: PlantedWorld, **table: object) -> SearchFile:
    return search(planted_job(**table), world, CONTEXT, costs=planted_costs())


@pytest.fixture(scope="module")
def everyday() -> tuple[SearchFile, PlantedWorld]:
    """The default search: hand-made, 210 exhaustive, additive."""
    world = PlantedWorld()
    return run(world, pick="budget=0.3"), world


def test_all_families_are_there_and_nothing_is_run_twice(
    everyday: tuple[SearchFile, PlantedWorld],
) -> None:
    file, world = everyday
    assert sum("exhaustive" in row.families for row in file.rows) == 210
    assert [row.name for row in file.rows[:7]] == [
        "all_heavy", "light_first", "light_second", "light_third", "light_last", "sandwich",
        "all_light",
    ]  # fmt: skip
    light_counts = {
        len(row.light_segments or ())
        for row in file.rows
        if "additive" in row.families and row.light_segments is not None
    }
    assert light_counts == set(range(11))
    assert len(world.runs) == len(set(world.runs)) == 2 * (len(file.rows) + len(file.fresh))
    assert len({row.digest for row in file.rows}) == len(file.rows)


def test_the_planted_front_is_found(everyday: tuple[SearchFile, PlantedWorld]) -> None:
    file, _ = everyday
    truth = np.array([true_log_ppl(row.schedule) for row in file.rows])
    cost = np.array([1 - row.cost.saved_total for row in file.rows])
    true_front = {
        row.schedule
        for row, on in zip(file.rows, non_dominated(truth, cost), strict=True)
        if on and row.cost.saved_total < 0.99
    }
    found = {row.schedule for row in file.rows if row.on_front}
    # Noise of 0.05 / sqrt(32) nats leaves near-ties open; what is found must be nearly as good.
    assert len(true_front & found) >= 8
    for row in file.rows:
        if row.on_front:
            as_cheap = truth[cost <= 1 - row.cost.saved_total + 1e-9]
            assert true_log_ppl(row.schedule) < as_cheap.min() + 0.04


def test_the_210_share_one_cost_and_the_published_saving(
    everyday: tuple[SearchFile, PlantedWorld],
) -> None:
    rows = [row for row in everyday[0].rows if "exhaustive" in row.families]
    assert len({row.cost.saved_total for row in rows}) == 1
    assert rows[0].cost.nominal_saved_blocks == pytest.approx(0.4 * (1 - 4 / 12))
    assert rows[0].cost.saved_total < rows[0].cost.saved_blocks  # the head does not shrink
    assert rows[0].light_share == pytest.approx(0.4)


def test_planted_influence_peaks_in_the_middle(everyday: tuple[SearchFile, PlantedWorld]) -> None:
    influence = everyday[0].segment_influence
    assert [item.segment for item in influence] == list(range(10))
    assert max(influence, key=lambda item: item.value).segment in (4, 5)
    assert influence[4].low > 0 > influence[9].high


def test_the_true_score_ranks_up_to_the_ceiling(
    everyday: tuple[SearchFile, PlantedWorld],
) -> None:
    loss_gap, path_kl = everyday[0].rank_correlation
    assert (loss_gap.score, loss_gap.states) == ("loss_gap", "forward")
    assert (path_kl.score, path_kl.states) == ("path_kl", "heavy_sampler")
    assert loss_gap.n_plans == 210 and loss_gap.ceiling_spearman is not None
    assert loss_gap.spearman.value == pytest.approx(loss_gap.ceiling_spearman.value, abs=0.03)
    assert loss_gap.spearman.value > path_kl.spearman.value > 0.5


def test_picks_are_on_the_front_save_something_and_are_measured_again(
    everyday: tuple[SearchFile, PlantedWorld],
) -> None:
    file, _ = everyday
    assert set(file.picks) == {"best", "knee", "budget=0.3"}
    for digest in file.picks.values():
        row, again = file.row(digest), file.fresh_row(digest)
        assert row.on_front and row.in_entropy_band and row.cost.saved_total > 0
        assert again is not None and again.in_entropy_band and len(again.samples) == 2
    assert file.row(file.picks["budget=0.3"]).cost.saved_total >= 0.3
    whys = {why for row in file.fresh for why in row.why}
    assert whys >= {
        "best", "knee", "budget", "front", "all_heavy", "all_light", "exhaustive_best", "worst",
        "additive",
    }  # fmt: skip


def test_the_reference_point_and_hypervolumes_fit_together(
    everyday: tuple[SearchFile, PlantedWorld],
) -> None:
    file, _ = everyday
    heavy, light = (
        next(row for row in file.rows if row.name == name) for name in ("all_heavy", "all_light")
    )
    worse = max(row.estimates["gen_ppl"].value for row in (heavy, light))
    assert file.setting.reference_point == pytest.approx((math.log(1.1 * worse), 1.1))
    assert file.hypervolume.value >= max(file.hypervolume.by_family.values())
    assert set(file.hypervolume.by_family) == {"handmade", "exhaustive", "additive"}


def test_the_file_survives_writing_and_reading(
    everyday: tuple[SearchFile, PlantedWorld], tmp_path: Path
) -> None:
    everyday[0].write(tmp_path / "search.json")
    assert SearchFile.read(tmp_path / "search.json") == everyday[0]


def test_the_winners_curse_is_corrected_by_fresh_seeds() -> None:
    # All plans with 4 light segments are equally good: the winner wins by noise alone.
    shifts = []
    for seed in range(6):
        world = PlantedWorld(noise=0.4)
        job = planted_job(num_segments=6, num_light=3)
        job = job.model_copy(update={"job": job.job.model_copy(update={"seed": seed})})
        flat = {"num_steps": 6}
        job = job.model_copy(update={"plan": job.plan.model_copy(update=flat)})
        file = search(job, world, CONTEXT)
        winner = next(row for row in file.fresh if "exhaustive_best" in row.why)
        truth = true_log_ppl(winner.schedule) - true_log_ppl(ModelSchedule.parse("H6"))
        flattered = file.row(winner.digest).paired_log_ppl.value - truth
        corrected = winner.paired_log_ppl.value - truth
        shifts.append((flattered, corrected))
    flattered, corrected = np.mean(shifts, axis=0)
    standard_error = 0.4 * math.sqrt(2 / 32 / len(shifts))
    assert flattered < -0.04
    assert abs(corrected) < 3 * standard_error
    assert flattered < corrected


def test_a_plan_that_leaves_the_entropy_band_is_never_picked() -> None:
    dull = "L2 H16 L2"
    file = run(PlantedWorld(dull=(dull,)), num_light=2)
    row = next(row for row in file.rows if str(row.schedule) == dull)
    others = [other for other in file.rows if other is not row]
    assert row.estimates["gen_ppl"].value < min(o.estimates["gen_ppl"].value for o in others)
    assert not row.in_entropy_band and not row.on_front
    assert row.digest not in file.picks.values()


def test_a_pick_that_leaves_the_band_on_fresh_seeds_gives_way_to_the_next() -> None:
    honest = run(PlantedWorld(), num_light=2)
    best = honest.row(honest.picks["best"]).schedule
    fresh_seed = honest.setting.fresh_seed
    file = run(PlantedWorld(dull=(str(best),), dull_on=(fresh_seed,)), num_light=2)
    dropped = next(row for row in file.fresh if row.schedule == best)
    assert not dropped.in_entropy_band
    assert dropped.digest not in file.picks.values()
    assert file.fresh_row(file.picks["best"]).in_entropy_band


def test_a_second_search_runs_nothing_and_gives_the_same_file(tmp_path: Path) -> None:
    world = PlantedWorld()
    table = {"num_segments": 5, "num_light": 2, "trials": 4, "sampler": "tpe"}
    first = search(
        planted_job(**table), world, CONTEXT, costs=planted_costs(), database=tmp_path / "o.db"
    )
    runs = len(world.runs)
    again = search(
        planted_job(**table), world, CONTEXT, costs=planted_costs(), database=tmp_path / "o.db"
    )
    assert again == first and len(world.runs) == runs


def test_optuna_explores_three_roles_within_the_cost_limit() -> None:
    file = run(
        PlantedWorld(), num_segments=4, exhaustive=False, trials=6, roles=["L", "M"],
        max_cost=0.8, sampler="tpe",
    )  # fmt: skip
    rows = [row for row in file.rows if "optuna" in row.families]
    assert len(rows) >= 6
    assert max(1 - row.cost.saved_total for row in rows) <= 0.8
    assert any("M" in row.schedule.roles for row in rows)
    assert file.setting.roles == ("H", "L", "M")
    assert file.segment_influence == () and file.rank_correlation == ()


def test_without_an_analysis_the_rest_still_works() -> None:
    file = search(planted_job(num_segments=5, num_light="all"), PlantedWorld(), CONTEXT)
    assert sum("exhaustive" in row.families for row in file.rows) == 32
    assert file.rank_correlation == () and len(file.segment_influence) == 5
    assert all(row.additive.loss_gap is None for row in file.rows)


def test_optuna_is_credited_with_its_own_proposals_only() -> None:
    file = run(PlantedWorld(), num_segments=4, exhaustive=False, trials=5, sampler="tpe")
    proposed = [row for row in file.rows if "optuna" in row.families]
    assert 0 < len(proposed) <= 5
    assert all(row.families == ("optuna",) for row in proposed)


def test_best_and_worst_of_all_numbers_of_light_segments_are_of_one_cost() -> None:
    """Else they would be all heavy and all light, or nearly."""
    file = run(PlantedWorld(), num_segments=6, num_light="all")
    for why in ("exhaustive_best", "worst"):
        (row,) = (row for row in file.fresh if why in row.why)
        assert len(file.row(row.digest).light_segments or ()) == 3


def test_the_entropy_band_moves_with_the_sequences() -> None:
    """Fresh plans are held against all heavy on the same sequences."""
    file = run(PlantedWorld(), num_sequences=16, fresh_sequences=16)
    heavy = {
        "band": next(row for row in file.rows if row.name == "all_heavy"),
        "fresh_band": next(row for row in file.fresh if "all_heavy" in row.why),
    }
    for row, band in zip(
        heavy.values(), (file.setting.entropy_band, file.setting.fresh_entropy_band), strict=True
    ):
        assert sum(band) / 2 == pytest.approx(row.estimates["entropy"].value)
    assert file.setting.entropy_band != file.setting.fresh_entropy_band


def test_too_many_plans_are_refused_before_anything_is_run() -> None:
    world = PlantedWorld()
    with pytest.raises(BudgetError, match="1024 assignments"):
        run(world, num_light="all", max_plans=1000)
    assert world.runs == []

"""Statements follow from the numbers: planted truths are found, planted ties are called ties."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import synthetic_run
from synthetic_run import T_K, estimate

from schedlab.report import RunData
from schedlab.report.content import Finding
from schedlab.report.findings import findings, importance, search
from schedlab.report.findings.regions import mean_of
from schedlab.report.run_data import all_heavy, saved_as_counted
from schedlab.results import Estimate
from schedlab.results.importance_file import Curve, ImportanceFile, curve_id
from schedlab.results.search_file import SearchFile, SegmentInfluence


def ask(run: RunData, question: str) -> Finding:
    found = [finding for finding in findings(run) if question in finding.question]
    assert len(found) == 1, [finding.question for finding in findings(run)]
    return found[0]


@pytest.fixture(scope="module")
def planted() -> RunData:
    return RunData("planted", synthetic_run.importance(), synthetic_run.search())


@pytest.fixture(scope="module")
def equal() -> RunData:
    """A light denoiser that is exactly as good as the heavy one."""
    return RunData("equal", synthetic_run.importance(scale=0), synthetic_run.search(scale=0))


def test_a_planted_gap_is_found(planted: RunData) -> None:
    assert ask(planted, "Is H better than L?").verdict == "yes"
    assert ask(planted, "Do the middle steps").verdict == "yes"
    assert ask(planted, "Should the middle segments").verdict == "yes"
    assert ask(planted, "Is all light worse").verdict == "yes"
    assert ask(planted, "cost most in the bound").text.startswith("At t = 0.5")


def test_equal_denoisers_are_called_not_significant(equal: RunData) -> None:
    better = ask(equal, "Is H better than L?")
    assert better.verdict == "open"
    assert "cannot tell" in better.text
    assert ask(equal, "cost most in the bound").verdict == "open"
    assert ask(equal, "Should the middle segments").verdict == "open"
    assert ask(equal, "Is all light worse").verdict == "open"
    assert ask(equal, "Does the sandwich win").verdict == "open"


def test_a_light_denoiser_that_is_better_is_said_to_be_better() -> None:
    file = synthetic_run.importance()
    reversed_gaps = [
        item.model_copy(update={"mean_gap": estimate(-0.1, 0.02, 128)})
        for item in file.significance
    ]
    found = importance.heavy_better(file.model_copy(update={"significance": reversed_gaps}), "L")
    assert found is not None and found.verdict == "no"
    assert found.text.startswith("L predicts held-out text better")


def with_curves(shape: Callable[[np.ndarray], np.ndarray], half: float) -> ImportanceFile:
    """An importance file whose three curves of L have the given shape."""
    value = shape(T_K)
    curves = [
        Curve(
            id=curve_id(metric, ["H", "L"], states="forward", prefix=False),
            metric=metric,
            roles=["H", "L"],
            states="forward",
            prefix=False,
            t=T_K.tolist(),
            value=value.tolist(),
            low=(value - half).tolist(),
            high=(value + half).tolist(),
            n=64,
        )
        for metric in ("loss_gap", "abs_loss_gap", "relative_kl")
    ]
    return synthetic_run.importance().model_copy(update={"curves": curves})


@pytest.mark.parametrize(
    ("shape", "half", "verdict"),
    [
        (lambda t: 0.2 * np.exp(-(((t - 0.5) / 0.15) ** 2)), 0.01, "yes"),
        (lambda t: 0.2 * np.exp(-(((t - 0.5) / 0.15) ** 2)), 0.2, "open"),
        (lambda t: 0.2 * (1 - t), 0.01, "no"),
        (lambda t: 0.2 * t, 0.01, "no"),
        (lambda t: 0.1 + 0 * t, 0.01, "open"),
    ],
)
def test_where_the_middle_stands_depends_on_shape_and_width(
    shape: Callable[[np.ndarray], np.ndarray], half: float, verdict: str
) -> None:
    found = importance.middle_matters(with_curves(shape, half), "L")
    assert found is not None and found.verdict == verdict


def test_a_mean_over_levels_is_never_narrower_than_independence_would_allow() -> None:
    # S sequences, K levels; whatever the correlation of levels, the mean of the pointwise standard
    # errors is at least the standard error of the mean.
    rng = np.random.default_rng(0)
    shared_S1, own_SK = rng.normal(size=(400, 1)), rng.normal(size=(400, 20))
    for weight in (0.0, 0.5, 1.0):
        values_SK = weight * shared_S1 + (1 - weight) * own_SK
        errors_K = values_SK.std(0) / 20
        mean_K = values_SK.mean(0)
        mean = mean_of(
            [
                Estimate(value=value, low=value - error, high=value + error, n=400)
                for value, error in zip(mean_K, errors_K, strict=True)
            ]
        )
        true_error = values_SK.mean(1).std() / 20
        assert (mean.high - mean.low) / 2 >= true_error * (1 - 1e-9)
        assert mean.value == pytest.approx(values_SK.mean())


def with_handmade(changes: dict[str, Estimate]) -> SearchFile:
    file = synthetic_run.search()
    rows = tuple(
        row.model_copy(update={"paired_log_ppl": changes[row.name]})
        if row.name in changes
        else row
        for row in file.rows
    )
    return file.model_copy(update={"rows": rows})


@pytest.mark.parametrize(
    ("sandwich", "half", "verdict", "words"),
    [
        (0.01, 0.005, "yes", "beats each"),
        (0.01, 0.05, "open", "overlaps that of"),
        (0.09, 0.005, "no", "light first"),
    ],
)
def test_the_sandwich_wins_only_when_intervals_prove_it(
    sandwich: float, half: float, verdict: str, words: str
) -> None:
    others = {"light_first": 0.03, "light_second": 0.1, "light_third": 0.1, "light_last": 0.05}
    changes = {name: estimate(value, half, 32) for name, value in others.items()}
    found = search.sandwich(with_handmade(changes | {"sandwich": estimate(sandwich, half, 32)}))
    assert found is not None and found.verdict == verdict
    assert words in found.text


@pytest.mark.parametrize(
    ("harmful", "verdict"),
    [([4, 5], "yes"), ([0, 9], "no"), ([0, 5], "no"), ([4], "open"), ([], "open")],
)
def test_segments_that_should_stay_heavy_are_told_by_their_intervals(
    harmful: list[int], verdict: str
) -> None:
    influence = tuple(
        SegmentInfluence(
            segment=j,
            value=0.01,
            low=0.0,
            high=0.02,
            n=32,
            ppl=estimate(1.0 if j in harmful else 0.1, 0.1, 32),
            in_top=0,
            in_bottom=0,
            ranked=20,
        )
        for j in range(10)
    )
    file = synthetic_run.search().model_copy(update={"segment_influence": influence})
    found = search.segments(file)
    assert found is not None and found.verdict == verdict


def test_picks_are_judged_by_their_fresh_values_and_say_all_savings(
    planted: RunData,
) -> None:
    file = planted.search
    assert file is not None
    row, fresh = file.row(file.picks["best"]), file.fresh_row(file.picks["best"])
    assert fresh is not None
    found = search.pick(file, "best")
    assert found is not None
    change = np.expm1(fresh.paired_log_ppl.value)
    assert f"Gen-PPL {100 * change:.1f} % higher" in found.text
    assert "on fresh seeds" in found.text
    heavy = all_heavy(file)
    assert heavy is not None
    counted = saved_as_counted(row, heavy)
    cost = row.cost
    nominal = (cost.nominal_saved_blocks, cost.nominal_saved_total)
    for share in (*nominal, cost.saved_blocks, cost.saved_total, counted):
        assert f"{100 * share:.1f} %" in found.detail
    assert "as the paper counts" in found.detail


def test_the_winners_curse_is_the_difference_of_fresh_and_search_values(
    planted: RunData,
) -> None:
    file = planted.search
    assert file is not None
    pairs = [
        (file.row(row.digest).paired_log_ppl.value, row.paired_log_ppl.value)
        for row in file.fresh
        if {"best", "knee", "front"} & set(row.why) and row.schedule.roles != ("H",)
    ]
    found = search.winners_curse(file)
    assert found is not None
    worse = sum(again > first for first, again in pairs)
    assert found.text.startswith(f"{worse} of {len(pairs)} chosen schedules came out worse")


def test_a_pick_outside_the_entropy_band_is_said_to_be(planted: RunData) -> None:
    file = planted.search
    assert file is not None
    fresh = tuple(
        row.model_copy(update={"in_entropy_band": row.digest != file.picks["best"]})
        for row in file.fresh
    )
    found = search.entropy(file.model_copy(update={"fresh": fresh}))
    assert found is not None and found.text.startswith("Outside the stated entropy band: best")


def test_a_gap_that_moves_when_a_prefix_is_given_is_noticed() -> None:
    file = with_curves(lambda t: 0.1 + 0 * t, 0.01)
    gap = next(item for item in file.significance if item.metric == "loss_gap")

    def with_prefix(shift: float) -> Finding | None:
        curves = [
            curve.model_copy(
                update={"prefix": True}
                | {
                    end: [v + shift for v in getattr(curve, end)]
                    for end in ("value", "low", "high")
                }
            )
            for curve in file.curves
        ]
        update = {
            "curves": [*file.curves, *curves],
            "significance": [*file.significance, gap.model_copy(update={"prefix": True})],
        }
        return importance.given_prefix(file.model_copy(update=update), "L")

    moved, same = with_prefix(0.1), with_prefix(0.005)
    assert moved is not None and moved.verdict == "yes"
    assert same is not None and same.verdict == "open"
    assert importance.given_prefix(file, "L") is None


def test_parts_that_are_missing_are_not_spoken_about() -> None:
    only_search = RunData("s", None, synthetic_run.search())
    only_importance = RunData("i", synthetic_run.importance(), None)
    assert not any("NELBO" in f.text for f in findings(only_search))
    assert {f.question for f in findings(only_search)}.isdisjoint(
        f.question for f in findings(only_importance)
    )
    bare = synthetic_run.importance().model_copy(
        update={"curves": [], "step_scores": [], "significance": [], "propagation": []}
    )
    assert findings(RunData("bare", bare, None)) == ()


def test_the_schedule_found_without_sampling_is_chosen_by_its_score(planted: RunData) -> None:
    """The better of two additive schedules in the samples is not taken for the foreseen one."""
    file = planted.search
    assert file is not None
    foreseen, lucky = [row for row in file.rows if row.families == ("exhaustive",)][:2]
    changes = {
        foreseen.digest: {"loss_gap": -9.0, "paired_log_ppl": 9.0},
        lucky.digest: {"loss_gap": 9.0, "paired_log_ppl": -9.0},
    }
    rows = tuple(
        row.model_copy(
            update={
                "families": ("exhaustive", "additive"),
                "paired_log_ppl": estimate(change["paired_log_ppl"], 0.1, 32),
                "additive": row.additive.model_copy(update={"loss_gap": change["loss_gap"]}),
            }
        )
        if (change := changes.get(row.digest))
        else row
        for row in file.rows
    )
    found = search.additive_reaches(file.model_copy(update={"rows": rows}))
    assert found is not None and found.text.startswith(str(foreseen.schedule))


@pytest.mark.parametrize("setting", [{}, {"temperature": 0.7}, {"top_p": 0.9}])
def test_scores_beside_truncated_samples_say_so(planted: RunData, setting: dict) -> None:
    assert planted.search is not None
    changed = planted.search.setting.model_copy(update=setting)
    found = search.additive_ranks(planted.search.model_copy(update={"setting": changed}))
    assert found is not None
    assert ("not of the one used here" in found.detail) is bool(setting)

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from planted import PlantedWorld, planted_costs, planted_job
from scipy.stats import binom, ttest_rel
from scipy.stats import t as student_t

from schedlab.errors import InputError
from schedlab.plan import ModelSchedule, Plan
from schedlab.results import Measurement, SeedBlock, paired_log_ppl_difference
from schedlab.results.search_file import SearchFile
from schedlab.search.bench import Bench
from schedlab.search.racing import Racing, beats, comparisons, look_blocks, paired_limits
from schedlab.search.run import Context, search

CONTEXT = Context(scorer="planted", precision="float64", corpus_fingerprint="c", fingerprint="f")


def test_looks_double_until_the_last() -> None:
    assert look_blocks(2, 16) == [2, 4, 8, 16]
    assert look_blocks(3, 16) == [3, 6, 12, 16]
    assert look_blocks(4, 4) == [4]


def test_comparisons_are_counted_once_per_cost_of_raced_plans() -> None:
    # Raced costs 1 and 2: at 1 the plans that cost no more are two, at 2 all five.
    cost = [1.0, 1.0, 2.0, 2.0, 2.0, 3.0]
    raced = [True, True, True, True, False, False]
    assert comparisons(cost, raced) == (2 - 1) + (5 - 1)
    assert comparisons([1.0] * 210, [True] * 210) == 209
    assert comparisons([1.0, 2.0], [False, False]) == 0


def test_limits_are_the_paired_t_test_where_lengths_are_equal() -> None:
    rng = np.random.default_rng(0)
    nll = rng.gamma(2.0, 1.0, (24, 1)) + rng.normal(0, 0.3, (24, 3)) + [0.0, 0.1, 0.2]
    difference, low = paired_limits(nll, np.ones_like(nll), 0.01)
    assert difference[2, 0] == pytest.approx((nll[:, 2] - nll[:, 0]).mean())
    expected = ttest_rel(nll[:, 2], nll[:, 0], alternative="greater").confidence_interval(0.99)
    assert low[2, 0] == pytest.approx(expected.low)


def test_limits_of_ratios_agree_with_the_bootstrap() -> None:
    rng = np.random.default_rng(1)
    tokens = rng.integers(20, 60, (400, 2)).astype(float)
    nll = tokens * (4 + rng.normal(0, 0.3, (400, 1)) + rng.normal(0, 0.2, (400, 2)))
    difference, low = paired_limits(nll, tokens, 0.025)
    a, b = (
        _measurement(nll[:, j], tokens[:, j]) for j in range(2)
    )  # what the reports print for the same pair
    printed = paired_log_ppl_difference(a, b)
    assert difference[0, 1] == pytest.approx(printed.value)
    assert low[0, 1] == pytest.approx(printed.low, abs=0.1 * (printed.value - printed.low))


def test_equal_plans_never_beat_each_other() -> None:
    column = np.random.default_rng(2).gamma(2.0, 1.0, (32, 1))
    nll = np.hstack([column, column, column + 1.0])
    _, low = paired_limits(nll, np.ones_like(nll), 0.05)
    assert np.isneginf(low).all()  # the third differs by one and the same amount: no spread known


def test_only_plans_within_the_band_that_cost_no_more_beat() -> None:
    low = np.array([[-1.0, 0.2, 0.2], [-1.0, -1.0, 0.2], [-1.0, -1.0, -1.0]])
    found = beats(low, np.array([1.0, 1.0, 2.0]), np.array([True, True, True]))
    assert found.tolist() == [[False, True, False], [False] * 3, [False] * 3]
    assert not beats(low, np.ones(3), np.array([True, False, False])).any()


@pytest.mark.parametrize("tails", ["normal", "heavy"])
def test_the_true_front_is_dropped_no_more_often_than_stated(tails: str) -> None:
    """All plans are equally good: the hardest case. The front is any one plan of each cost, named
    before the race; a race that drops one of them is wrong. False alarms of this test: 1e-4."""
    rng = np.random.default_rng(3)
    error, races, looks = 0.2, 300, (32, 64, 128)
    cost = np.repeat([1.0, 2.0, 3.0], 12)
    level = error / (comparisons(cost, np.ones(36)) * (len(looks) - 1))
    named = [0, 12, 24]
    wrong = 0
    for _ in range(races):
        shape = (looks[-1], 36)
        if tails == "normal":
            own, common = rng.normal(0, 0.3, shape), rng.normal(0, 0.5, (looks[-1], 1))
        else:  # skewed like perplexities; most plans agree with each other on most sequences
            own = rng.lognormal(0, 1.0, shape) * (rng.random(shape) < 0.3)
            common = rng.lognormal(0, 1.0, (looks[-1], 1))
        left = np.arange(36)
        for look in looks[:-1]:
            nll = (own + common)[:look, left]
            _, low = paired_limits(nll, np.ones_like(nll), level)
            left = left[~beats(low, cost[left], np.ones(len(left), bool)).any(axis=1)]
        wrong += not set(named) <= set(left)
    assert wrong <= binom.isf(1e-4, races, error)


def race(world: PlantedWorld, **table: object) -> SearchFile:
    tables = {"num_sequences": 256, "race_from": 32} | table
    return search(planted_job(**tables), world, CONTEXT, costs=planted_costs())


@pytest.fixture(scope="module")
def raced() -> tuple[SearchFile, PlantedWorld]:
    world = PlantedWorld(noise=0.1)
    return race(world), world


def test_racing_finds_the_front_of_the_full_search_for_less(
    raced: tuple[SearchFile, PlantedWorld],
) -> None:
    file, world = raced
    full = race(PlantedWorld(noise=0.1), race_from=None)
    assert {row.digest for row in file.rows if row.on_front} == {
        row.digest for row in full.rows if row.on_front
    }
    assert file.picks == full.picks
    assert full.race is None
    assert file.race is not None
    assert file.race.sequences_without == 256 * len(file.rows)
    assert file.race.sequences < 0.5 * file.race.sequences_without
    fresh = {row.schedule for row in file.fresh}
    search_runs = [run for run in world.runs if run[1].seed == 0]
    assert len(search_runs) * 16 == file.race.sequences  # what is reported is what was run
    assert len(fresh) >= 2


def test_rows_say_who_was_dropped_and_why(raced: tuple[SearchFile, PlantedWorld]) -> None:
    file, _ = raced
    looks = [look.sequences for look in file.race.looks]
    assert looks == [32, 64, 128, 256]
    plans = [look.plans for look in file.race.looks]
    assert plans == sorted(plans, reverse=True)
    for row in file.rows:
        n = row.paired_log_ppl.n
        assert row.estimates["log_gen_ppl"].n == n
        if row.dropped is None:
            assert n == 256
            continue
        assert n == row.dropped.sequences in looks[:-1]
        by = file.row(row.dropped.by)
        assert by.cost.saved_total >= row.cost.saved_total - 1e-12
        assert 0 < row.dropped.at_least < row.dropped.difference
        assert not row.on_front
        assert "handmade" not in row.families
    assert sum(row.dropped is None for row in file.rows) == plans[-1]


def test_statistics_of_the_exhaustive_set_use_the_common_sequences(
    raced: tuple[SearchFile, PlantedWorld],
) -> None:
    file, _ = raced
    assert {item.n for item in file.segment_influence} == {32}
    assert {item.spearman.n for item in file.rank_correlation} == {32}


def test_a_race_is_resumed_without_running_anything_again() -> None:
    world = PlantedWorld(noise=0.1)
    first = race(world, num_light=2)
    before = list(world.runs)
    assert race(world, num_light=2) == first
    assert world.runs == before


@dataclass
class DullLater(PlantedWorld):
    """The best plan of the first sequences gives dull text from sequence 64 on."""

    def _record(self, plan: Plan, block: SeedBlock):  # type: ignore[no-untyped-def]
        self.dull = () if block.first < 64 else ("L4 H16",)
        found = super()._record(plan, block)
        if str(plan.model_schedule) == "L4 H16":
            nll = [value - 3.0 + 0.01 * j for j, value in enumerate(found.scores["nll"])]
            found = found.model_copy(update={"scores": dict(found.scores) | {"nll": nll}})
        return found


def test_plans_beaten_only_by_one_that_leaves_the_band_come_back() -> None:
    file = race(DullLater(noise=0.02), num_sequences=128, num_light=2, additive=False)
    dull = next(row for row in file.rows if str(row.schedule) == "L4 H16")
    assert not dull.in_entropy_band
    assert dull.dropped is None
    assert all(row.dropped is None or row.dropped.by != dull.digest for row in file.rows)
    complete = [row for row in file.rows if row.dropped is None]
    assert any(row.on_front and "exhaustive" in row.families for row in complete)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"search.race_from must be a multiple of block_size 16"):
        planted_job(num_sequences=64, race_from=24)
    with pytest.raises(InputError, match=r"at most num_sequences 64, got 128"):
        planted_job(num_sequences=64, race_from=128)


def test_a_race_of_one_look_drops_nothing() -> None:
    job = planted_job(num_sequences=32)
    bench = Bench(job, PlantedWorld())
    plans = [ModelSchedule.parse(text) for text in ("H20", "L20", "L4 H16")]
    found = Racing(bench, plans, frozenset(), 0.05, [2])
    assert found.run(lambda name: None).sequences == 3 * 32
    assert [found.dropped(plan) for plan in plans] == [None] * 3


def test_first_blocks_of_a_measurement_are_a_measurement_of_them() -> None:
    job, world = planted_job(num_sequences=64), PlantedWorld()
    plan = job.plan.plan(ModelSchedule.parse("L4 H16"))
    (whole,), (part,) = world([plan], job.blocks()), world([plan], job.blocks()[:2])
    cut = whole.first_blocks(2)
    assert cut.estimates == part.estimates
    assert cut.blocks == part.blocks
    assert np.array_equal(cut.tokens_SL, part.tokens_SL)
    assert whole.first_blocks(4) is whole


def test_the_level_is_split_over_looks_and_comparisons() -> None:
    job = planted_job(num_sequences=128)
    plans = [ModelSchedule.parse(text) for text in ("H20", "L20", "L4 H16", "H16 L4", "H10 L4 H6")]
    found = Racing(Bench(job, PlantedWorld()), plans, frozenset(plans[:2]), 0.05, [2, 4, 8])
    assert found.comparisons == 4 - 1  # all light costs less, all heavy more
    assert found.level == pytest.approx(0.05 / (3 * 2))
    assert student_t.isf(found.level, 31) > student_t.isf(0.05, 31)


def _measurement(nll: np.ndarray, tokens: np.ndarray) -> Measurement:
    world = PlantedWorld()
    job = planted_job(num_sequences=16 * (len(nll) // 16))
    (found,) = world([job.plan.plan(ModelSchedule.parse("H20"))], job.blocks())
    object.__setattr__(found, "scores", dict(found.scores) | {"nll": nll, "scored_tokens": tokens})
    return found

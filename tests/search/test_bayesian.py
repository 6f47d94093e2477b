from __future__ import annotations

import math
import sqlite3
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from schedlab.errors import InputError, SchedlabError
from schedlab.search.additive import StepCosts, sorted_assignment
from schedlab.search.bayesian import (
    AssignmentSpace,
    Objectives,
    Outcome,
    SamplerName,
    optimize,
)
from schedlab.search.front import hypervolume, non_dominated
from schedlab.search.space import Assignment, assignments

NUM_SEGMENTS = 8
IMPORTANCE_S = np.array([0.02, 0.1, 0.3, 0.5, 0.4, 0.2, 0.05, 0.0])
SPACE = AssignmentSpace(num_steps=24, num_segments=NUM_SEGMENTS, roles=("H", "L"))
BLOCKS = {"H": 12.0, "M": 8.0, "L": 4.0}
ENDS = [*assignments(NUM_SEGMENTS, num_light=0), *assignments(NUM_SEGMENTS, num_light=8)]
ALL_HEAVY, ALL_LIGHT = ("H",) * NUM_SEGMENTS, ("L",) * NUM_SEGMENTS


def cost(assignment: Assignment) -> float:
    return sum(BLOCKS[role] for role in assignment) / (12.0 * len(assignment))


def true_log_ppl(assignment: Assignment) -> float:
    return 3.0 + sum(s for s, role in zip(IMPORTANCE_S, assignment, strict=True) if role == "L")


class Sampling:
    """A fake evaluator with a store: planted truth plus fixed noise; counts what is really run."""

    def __init__(self, noise: float = 0.02) -> None:
        self.noise = noise
        self.store: dict[Assignment, float] = {}
        self.runs: list[Assignment] = []

    def __call__(self, wanted: Sequence[Assignment]) -> list[Outcome]:
        for assignment in wanted:
            if assignment not in self.store:
                noise = np.random.default_rng(zlib.crc32("".join(assignment).encode()))
                self.runs.append(assignment)
                self.store[assignment] = (
                    true_log_ppl(assignment) + self.noise * noise.standard_normal()
                )
        return [Outcome(self.store[assignment]) for assignment in wanted]


def search(
    sampling: Sampling,
    *,
    num_trials: int = 6,
    storage: Path | None = None,
    max_cost: float = math.inf,
    seeds: Sequence[Assignment] = (ALL_HEAVY, ALL_LIGHT),
    sampler: SamplerName = "tpe",
    fingerprint: str = "",
) -> list[Assignment]:
    return optimize(
        SPACE,
        Objectives(sampling, cost, max_cost),
        num_trials=num_trials,
        seed=7,
        seeds=seeds,
        storage=storage,
        sampler=sampler,
        fingerprint=fingerprint,
    )


def states_of(storage: Path) -> list[str]:
    with sqlite3.connect(storage) as connection:
        return [row[0] for row in connection.execute("SELECT state FROM trials")]


def test_the_planted_front_is_found_with_a_tenth_of_the_evaluations() -> None:
    found = search(Sampling(), num_trials=20, sampler="gp", seeds=ENDS)
    everything = list(assignments(NUM_SEGMENTS))
    reference = (4.7, 1.1)
    best = hypervolume(*values(everything), reference)
    reached = hypervolume(*values(found), reference)
    shuffled = np.random.default_rng(0).permutation(len(everything))[: len(found)]
    at_random = hypervolume(*values([everything[i] for i in shuffled]), reference)
    assert len(found) == len(set(found)) == 20 + len(ENDS)
    assert reached > 0.97 * best
    assert reached > at_random


def values(found: Sequence[Assignment]) -> tuple[list[float], list[float]]:
    return [true_log_ppl(a) for a in found], [cost(a) for a in found]


def test_additive_seeds_alone_hold_the_planted_front() -> None:
    costs = StepCosts("H", {"L": tuple(np.repeat(IMPORTANCE_S / 3, 3))}, score="loss_gap")
    seeds = [sorted_assignment(costs, "L", k, NUM_SEGMENTS) for k in range(NUM_SEGMENTS + 1)]
    sampling = Sampling(noise=0.0)
    found = search(sampling, seeds=seeds + seeds, num_trials=0)
    assert found == seeds and sampling.runs == seeds
    everything = list(assignments(NUM_SEGMENTS))
    front = np.flatnonzero(non_dominated(*values(everything)))
    assert {true_log_ppl(everything[i]) for i in front} == {true_log_ppl(a) for a in seeds}


def test_nothing_is_evaluated_twice_and_a_small_space_is_exhausted_exactly() -> None:
    runs: list[Assignment] = []

    def outcomes(wanted: Sequence[Assignment]) -> list[Outcome]:
        runs.extend(wanted)
        return [Outcome(3.0 + a.count("L") / 10) for a in wanted]

    space = AssignmentSpace(num_steps=10, num_segments=5, roles=("H", "L"))
    found = optimize(space, Objectives(outcomes, cost), num_trials=100, seed=0, sampler="tpe")
    assert len(runs) == len(set(runs)) == 2**5
    assert set(found) == set(assignments(5))


@pytest.mark.parametrize(("sampler", "num_trials"), [("gp", 24), ("tpe", 60)])
def test_few_trials_are_spent_on_dull_text_that_scores_well(
    sampler: SamplerName, num_trials: int
) -> None:
    def dull(assignment: Assignment) -> bool:
        return assignment[2] == "L"

    def share_of_dull(excess: float) -> float:
        def outcomes(wanted: Sequence[Assignment]) -> list[Outcome]:
            return [
                Outcome(true_log_ppl(a) - 2.0 * dull(a), excess if dull(a) else -0.1)
                for a in wanted
            ]

        objectives = Objectives(outcomes, cost)
        found = optimize(SPACE, objectives, num_trials=num_trials, seed=0, sampler=sampler)
        return float(np.mean([dull(assignment) for assignment in found[16:]]))  # random before

    assert share_of_dull(excess=0.3) < 0.4 < 0.6 < share_of_dull(excess=-0.1)


def test_too_dear_assignments_are_never_run() -> None:
    sampling = Sampling()
    found = search(sampling, max_cost=0.5, num_trials=15)
    assert len(sampling.runs) == 15 + 1  # all-heavy was left out of the seeds
    assert max(cost(a) for a in found) <= 0.5
    assert found[0] == ALL_LIGHT


def test_more_trials_than_affordable_assignments_end_the_search() -> None:
    limit = (12.0 * 1 + 4.0 * 7) / (12.0 * 8)  # at most one heavy segment
    assert len(search(Sampling(), max_cost=limit, num_trials=50)) == 9


# Ten trials before TPE, 16 before the Gaussian process: both models are at work here.
@pytest.mark.parametrize(("sampler", "num_trials", "lights"), [("tpe", 6, [1]), ("gp", 4, [1, 7])])
def test_a_search_killed_anywhere_and_resumed_is_the_uninterrupted_one(
    sampler: SamplerName,
    num_trials: int,
    lights: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds = [a for count in lights for a in assignments(NUM_SEGMENTS, num_light=count)]
    whole = search(Sampling(), sampler=sampler, num_trials=num_trials, seeds=seeds)
    sampling, storage = Sampling(), tmp_path / "optuna.db"
    countdown = [0]
    connect = sqlite3.connect

    def connect_fragile(path, factory=sqlite3.Connection, **kwargs):
        class Fragile(factory):
            def commit(self) -> None:
                countdown[0] -= 1
                if countdown[0] != 0:
                    return super().commit()
                if kills % 2:  # killed just after the commit, or just before
                    super().commit()
                raise KeyboardInterrupt

        return connect(path, factory=Fragile, **kwargs)

    monkeypatch.setattr(sqlite3, "connect", connect_fragile)
    kills = 0
    while True:
        countdown[0] = 31 + kills  # lands on every kind of write in the end
        try:
            resumed = search(
                sampling, sampler=sampler, num_trials=num_trials, seeds=seeds, storage=storage
            )
            break
        except KeyboardInterrupt:
            kills += 1
            assert kills < 100
    monkeypatch.undo()
    assert kills >= 4
    assert resumed == whole
    assert sorted(sampling.runs) == sorted(set(whole))
    assert "RUNNING" not in states_of(storage)


def test_a_kill_during_an_evaluation_costs_that_evaluation_only(tmp_path: Path) -> None:
    whole = search(Sampling())
    sampling, storage = Sampling(), tmp_path / "optuna.db"

    def killed_at_fifth(wanted: Sequence[Assignment]) -> list[float]:
        if len(sampling.runs) >= 4:
            raise KeyboardInterrupt
        return sampling(wanted)

    with pytest.raises(KeyboardInterrupt):
        optimize(
            SPACE,
            Objectives(killed_at_fifth, cost),
            num_trials=6,
            seed=7,
            seeds=(ALL_HEAVY, ALL_LIGHT),
            storage=storage,
            sampler="tpe",
        )
    assert states_of(storage)[-1] == "RUNNING"
    assert search(sampling, storage=storage) == whole
    assert len(sampling.runs) == len(whole)


def test_more_trials_continue_the_same_study(tmp_path: Path) -> None:
    storage = tmp_path / "optuna.db"
    first = search(Sampling(), num_trials=3, storage=storage)
    sampling = Sampling()
    assert search(sampling, num_trials=6, storage=storage)[: len(first)] == first
    assert len(sampling.runs) == 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict, list[Assignment]]:
    """Database, store and result of a finished search."""
    storage, sampling = tmp_path_factory.mktemp("finished") / "optuna.db", Sampling()
    whole = search(sampling, storage=storage)
    return storage.read_bytes(), sampling.store, whole


@pytest.mark.parametrize("damage", ["garbage", "truncated", "missing"])
def test_a_lost_or_damaged_database_is_rebuilt_without_running_anything_again(
    damage: str, finished: tuple[bytes, dict, list[Assignment]], tmp_path: Path
) -> None:
    intact, store, whole = finished
    storage, sampling = tmp_path / "optuna.db", Sampling()
    sampling.store = dict(store)
    if damage == "missing":
        assert search(sampling, storage=storage) == whole
    else:
        storage.write_bytes(b"not a database" * 99 if damage == "garbage" else intact[:20_000])
        with pytest.warns(UserWarning, match="is damaged; moved aside to optuna.db.old-1"):
            assert search(sampling, storage=storage) == whole
    assert sampling.runs == []


def test_a_study_of_other_models_is_not_continued(tmp_path: Path) -> None:
    storage = tmp_path / "optuna.db"
    search(Sampling(), num_trials=1, storage=storage, fingerprint="weights A")
    with pytest.warns(UserWarning, match="other settings"):
        search(Sampling(), num_trials=1, storage=storage, fingerprint="weights B")
    assert (tmp_path / "optuna.db.old-1").exists()


def test_the_database_is_written_ahead_and_any_path_will_do(tmp_path: Path) -> None:
    storage = tmp_path / "a {strange} %20 folder?" / "optuna.db"
    search(Sampling(), num_trials=1, storage=storage)
    with sqlite3.connect(storage) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(SchedlabError, match="resume when it can be written"):
        search(Sampling(), storage=blocker / "optuna.db")


def test_a_quality_that_is_not_finite_stops_the_search() -> None:
    with pytest.raises(SchedlabError, match="must be finite, got"):
        optimize(
            SPACE,
            Objectives(lambda wanted: [Outcome(math.nan)] * len(wanted), cost),
            num_trials=1,
            seed=0,
        )


@pytest.mark.parametrize(
    ("num_steps", "num_segments", "roles", "message"),
    [(4, 5, ("H", "L"), "between 1 and the 4"), (8, 4, ("H",), "two or more different roles")],
)
def test_impossible_spaces_are_refused(
    num_steps: int, num_segments: int, roles: tuple, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        AssignmentSpace(num_steps, num_segments, roles)


def test_a_seed_outside_the_space_is_refused() -> None:
    with pytest.raises(InputError, match=r"one of \('H', 'L'\) to each of 8 segments"):
        search(Sampling(), seeds=[("H",) * 7])


def test_three_roles_and_many_segments_use_tpe_and_stay_affordable() -> None:
    space = AssignmentSpace(num_steps=100, num_segments=50, roles=("H", "M", "L"))
    found = optimize(
        space,
        Objectives(
            lambda wanted: [Outcome(3.0 + a.count("L") / 50) for a in wanted], cost, max_cost=0.45
        ),
        num_trials=8,
        seed=0,
    )
    assert len(set(found)) == 8
    assert max(cost(a) for a in found) <= 0.45 + 1e-9

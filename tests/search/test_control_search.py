"""A joint search over guidance and allocation in a world whose truths are known."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution
from planted_control import (
    BASE,
    BY_LABEL,
    HIGH,
    LABELS,
    LOW,
    STEPS,
    ControlWorld,
    accuracy_of,
    control_data,
    control_job,
    cost_of,
    log_ppl_of,
    push_of,
)

from schedlab.errors import InputError, SchedlabError
from schedlab.job import Job, dump_job, load_job, parse_job
from schedlab.plan import ModelSchedule, Plan
from schedlab.policies import ALLOCATION_POLICIES, check_policy
from schedlab.results import Measurement, SeedBlock
from schedlab.results.control_file import ControlFile, ControlRow
from schedlab.search.control import ControlContext, first_plans, search_control
from schedlab.search.control_bench import deciding_judges
from schedlab.search.control_space import READS_SIGNAL, ControlSpace


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of importances are most of the time of a search in a world without networks."""
    monkeypatch.setattr("schedlab.search.control._RESAMPLES", 4)


CONTEXT = ControlContext(
    labels={"topic": LABELS},
    judges={"judge": LABELS, "second": LABELS},
    scorer="planted",
    precision="float64",
)


def ran(job: Job, world: ControlWorld | None = None, database: Path | None = None) -> ControlFile:
    context = dataclasses.replace(CONTEXT, database=database)
    return search_control(job, world or ControlWorld(), context)


def of(file: ControlFile, pick: str) -> Plan:
    return file.row(file.picks[pick]).plan


def guided(file: ControlFile) -> list[ControlRow]:
    return [row for row in file.rows if row.origin != "reference"]


# What is found


def test_everything_measured_is_the_planted_truth() -> None:
    job = control_job(
        steps=[5, 10],
        max_ppl_ratio=1.5,
        max_entropy_drop=0.1,
        min_distinct_3=0.9,
        max_cost=3.0,
        objectives=["control", "gen_ppl", "distinct_3", "cost"],
    )
    file = ran(job)
    assert len(file.rows) >= 1 + 2 * 3 + 10  # the reference, the sweeps, nearly all proposals
    for row in file.rows:
        plan, push = row.plan, push_of(row.plan)
        assert row.digest == plan.digest
        assert row.losses == pytest.approx(
            {
                "control": 1 - accuracy_of(plan), "gen_ppl": log_ppl_of(plan),
                "distinct_3": 0.05 + 0.1 * push, "cost": cost_of(plan),
            }
        )  # fmt: skip
        assert row.excess == pytest.approx(
            {
                "max_ppl_ratio": push**2 - math.log(1.5), "max_entropy_drop": 0.2 * push - 0.1,
                "min_distinct_3": 0.9 - 0.95 + 0.1 * push, "max_cost": cost_of(plan) - 3.0,
            },
            abs=1e-9,
        )  # fmt: skip
        assert row.feasible == (push <= 0.5 + 1e-9 and cost_of(plan) <= 3)
    for row in file.fresh:
        plan = file.row(row.digest).plan
        assert row.control.value == pytest.approx(accuracy_of(plan)) and row.control.n == 12
        assert row.cost.value == pytest.approx(cost_of(plan))
        assert row.ppl_ratio is not None
        assert row.ppl_ratio.value == pytest.approx(math.exp(push_of(plan) ** 2))
        assert row.within == file.row(row.digest).feasible
        assert {name: one.value for name, one in row.by_label.items()} == pytest.approx(
            {label: accuracy_of(plan) + BY_LABEL * (place - 1)
             for place, label in enumerate(LABELS)}
        )  # fmt: skip
        assert all(one.n == 4 for one in row.by_label.values())


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_the_neighbourhood_of_the_planted_optimum_is_found(sampler: str) -> None:
    """Gen-PPL may rise by e^(0.6^2): lambda goes up to 0.6 of its log scale, one iteration is
    the cheapest, the freest clocks are the best."""
    trials = 20 if sampler == "gp" else 60
    job = control_job(
        sampler=sampler, trials=trials, max_ppl_ratio=math.exp(0.36),
        objectives=["control", "cost"],
    )  # fmt: skip
    file = ran(job)
    best = of(file, "best")
    assert 0.5 < push_of(best) <= 0.6 and best.policy.name == "tta_adaptive"
    assert float(best.policy.parameters["smooth"]) < 0.3
    assert accuracy_of(best) > BASE + 0.5 * 0.5 + 0.1 * 0.7
    found = [row for row in guided(file) if row.feasible]
    assert accuracy_of(best) == max(accuracy_of(row.plan) for row in found)
    cheap = min(cost_of(row.plan) for row in found)
    assert cheap == 2.0  # one iteration at every step
    # Later proposals are better than random ones: more of them are feasible.
    late = [row.feasible for row in guided(file)][-10:]
    assert np.mean(late) >= 0.5


def test_lambda_is_what_matters_for_control_and_perplexity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("schedlab.search.control._RESAMPLES", 30)
    file = ran(control_job(trials=40, names=["tta_constant"], steps=[9, 10]))
    assert set(file.importance) == {"control", "gen_ppl", "cost"}
    for shares in file.importance.values():
        assert set(shares) == {"scale", "iterations", "steps"}
        for one in shares.values():
            assert 0 <= one.low <= one.value <= one.high <= 1 and one.n == 40 + 3
        assert sum(one.value for one in shares.values()) == pytest.approx(1, abs=1e-6)
    for objective in ("control", "gen_ppl"):
        shares = file.importance[objective]
        others = [one.high for name, one in shares.items() if name != "scale"]
        assert shares["scale"].value > 0.7 and shares["scale"].low > max(others)


def test_too_few_proposals_have_no_importance_and_constant_losses_no_crash() -> None:
    few = ran(control_job(trials=2, names=["tta_constant"]))
    assert few.importance == {}
    file = ran(control_job(trials=12), ControlWorld(accuracy=lambda plan, seed: 0.5))
    assert set(file.importance) == {"control", "gen_ppl", "cost"}
    nothing = ran(control_job(trials=4), ControlWorld(accuracy=lambda plan, seed: BY_LABEL))
    assert nothing.hypervolume >= 0


def test_a_search_with_nothing_to_choose_but_lambda_and_one_with_nothing_at_all() -> None:
    only = control_job(names=["tta_linear"], iterations=[2], trials=8)
    assert set(ControlSpace(only).distributions) == {"scale"}
    assert len(guided(ran(only))) >= 8
    fixed = control_job(names=["tta_linear"], iterations=[2], trials=9, scales=[50.0, 50.0])
    file = ran(fixed)
    assert len(guided(file)) == 1 and file.rows[1].plan.guidance.scale == 50.0  # type: ignore[union-attr]


# Picks


def test_constraints_are_respected_by_picks_and_front() -> None:
    job = control_job(
        trials=30, max_ppl_ratio=math.exp(0.16), max_cost=3.0, pick="budget=0.25", steps=[3, 10]
    )
    file = ran(job)
    assert set(file.picks) == {"best", "knee", "budget=0.25"}
    for digest in (*file.picks.values(), *file.front):
        assert file.row(digest).feasible
    for digest in file.picks.values():
        row = file.fresh_row(digest)
        assert row.within and row.samples and file.row(digest).origin != "reference"
    assert cost_of(of(file, "budget=0.25")) <= 0.75
    # The best by the search's values among what was measured again.
    again = [file.row(row.digest) for row in file.fresh]
    able = [row for row in again if row.feasible and row.origin != "reference"]
    assert file.row(file.picks["best"]).losses["control"] == min(
        row.losses["control"] for row in able
    )


def test_the_front_is_of_plans_that_no_feasible_plan_beats() -> None:
    file = ran(control_job(trials=25, max_ppl_ratio=1.4, steps=[5, 10]))
    feasible = [row for row in file.rows if row.feasible]

    def beats(one: ControlRow, other: ControlRow) -> bool:
        pairs = [(one.losses[name], other.losses[name]) for name in other.losses]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    expected = {r.digest for r in feasible if not any(beats(other, r) for other in feasible)}
    losses = {row.digest: tuple(row.losses.values()) for row in feasible}
    assert {losses[digest] for digest in file.front} == {losses[digest] for digest in expected}
    assert set(file.front) <= expected
    assert file.hypervolume > 0


def test_the_knee_lies_between_the_ends_of_control_against_cost() -> None:
    """Control is dear: at every number of iterations a little less."""

    def accuracy(plan: Plan, seed: int) -> float:
        assert plan.guidance is not None
        return {0: 0.1, 1: 0.2, 2: 0.7, 3: 0.75, 8: 0.8}[plan.guidance.iterations]

    file = ran(control_job(iterations=[1, 2, 3, 8], trials=30), ControlWorld(accuracy=accuracy))
    assert of(file, "best").guidance.iterations == 8  # type: ignore[union-attr]
    assert of(file, "knee").guidance.iterations == 2  # type: ignore[union-attr]


def test_picks_that_break_a_constraint_on_fresh_sequences_give_way() -> None:
    job = control_job(trials=20, max_ppl_ratio=math.exp(0.36), names=["tta_constant"])
    before = ran(job)
    lucky = of(before, "best")

    def log_ppl(plan: Plan, seed: int) -> float:
        too_much = plan == lucky and seed == job.fresh_seed
        return log_ppl_of(plan) + 1.0 * too_much

    file = ran(job, ControlWorld(log_ppl=log_ppl))
    row = file.fresh_row(lucky.digest)
    assert not row.within and file.row(lucky.digest).feasible
    assert lucky.digest not in file.picks.values()
    again = [r for r in file.fresh if r.within and r.digest != file.setting.reference]
    second = min(file.row(r.digest).losses["control"] for r in again)
    assert file.row(file.picks["best"]).losses["control"] == second


def test_picks_hang_on_more_sequences_than_proposals_are_tried_on() -> None:
    job = control_job(trials=12, names=["tta_constant"])
    number = job.search.num_sequences
    more = control_job(trials=12, names=["tta_constant"], choice_sequences=3 * number)
    truly = of(ran(job), "best")

    class Lucky(ControlWorld):
        """A plan of little control is perfect on the search's own sequences."""

        def _record(self, plan: Plan, block: SeedBlock) -> Any:
            record = super()._record(plan, block)
            own = block.seed == job.job.seed and block.first < number
            if own and push_of(plan) < 0.35 and plan.guidance and plan.guidance.iterations:
                record.scores["control_judge"] = [1.0] * block.size
            return record

    fooled = of(ran(job, Lucky()), "best")
    assert push_of(fooled) < 0.35
    world = Lucky()
    file = ran(more, world)
    assert of(file, "best") == truly
    assert file.setting.choice_sequences == 3 * number
    # Only what is measured again costs more sequences.
    asked = {plan for plan, block in world.runs if block.seed == job.job.seed
             and block.first >= number}  # fmt: skip
    assert asked == {file.row(fresh.digest).plan for fresh in file.fresh}
    row = file.row(fooled.digest)
    assert row.losses["control"] < 0.01 < row.chosen_by["control"]


@pytest.mark.parametrize("reference_too", [False, True])
def test_where_no_plan_holds_on_fresh_sequences_none_is_picked(reference_too: bool) -> None:
    job = control_job(trials=4, min_distinct_3=0.7, max_ppl_ratio=10.0)

    class Worse(ControlWorld):
        def _record(self, plan: Plan, block: SeedBlock) -> Any:
            record = super()._record(plan, block)
            is_reference = plan.guidance is not None and plan.guidance.iterations == 0
            if block.seed == job.fresh_seed and (reference_too or not is_reference):
                record.scores["distinct_3"][:] = [0.1] * block.size
            return record

    file = ran(job, Worse())
    assert any(row.feasible for row in guided(file))
    assert not any(row.within for row in file.fresh if row.digest != file.setting.reference)
    assert file.picks == {}


def test_without_any_feasible_plan_there_is_a_file_without_picks() -> None:
    world = ControlWorld(entropy=lambda plan: 3.0 if push_of(plan) == 0 else 1.0)
    file = ran(control_job(trials=3, max_entropy_drop=0.5, scales=[100.0, 1000.0]), world)
    assert file.picks == {} and file.front == (file.setting.reference,)
    assert file.traces == ()  # the unguided sampler of masks does not predict at every step
    assert file.fresh_row(file.setting.reference).within


def test_what_is_measured_again_are_sweeps_the_reference_and_so_many_of_the_front() -> None:
    world = ControlWorld()
    job = control_job(trials=25, most_fresh=4, steps=[5, 10])
    file = ran(job, world)
    again = {row.digest for row in file.fresh}
    swept = {row.digest for row in file.rows if row.origin == "sweep"}
    assert swept | {file.setting.reference} <= again
    others = again - swept - {file.setting.reference}
    assert others <= set(file.front) and len(others) <= 4
    # The ends of the front are among them.
    by_control = sorted(file.front, key=lambda digest: file.row(digest).losses["control"])
    assert by_control[0] in again and by_control[-1] in again
    # Sequences that choose and those that measure never meet.
    searched, fresh = (
        {(b.seed, b.first) for b in bs} for bs in (job.blocks(), job.fresh_blocks())
    )
    assert searched.isdisjoint(fresh)
    seen: dict[str, set[tuple[int, int]]] = {}
    for plan, block in world.runs:
        seen.setdefault(plan.digest, set()).add((block.seed, block.first))
    for digest, blocks in seen.items():
        assert blocks == (searched | fresh if digest in again else searched)


def test_intervals_of_seconds_are_over_blocks_which_are_timed_one_by_one() -> None:
    class Busy(ControlWorld):
        """The second block of guided plans was sampled while the machine was busy."""

        def _record(self, plan: Plan, block: SeedBlock) -> Any:
            record = super()._record(plan, block)
            slower = 1.5 if block.first and plan.guidance and plan.guidance.iterations else 1.0
            return record.model_copy(update={"seconds": [slower * s for s in record.seconds]})

    file = ran(control_job(cost="seconds", trials=2), Busy())
    for fresh in file.fresh:
        plan = file.row(fresh.digest).plan
        assert fresh.cost.n == 2  # blocks, not sequences
        if fresh.digest != file.setting.reference:
            assert fresh.cost.value == pytest.approx(1.25 * cost_of(plan))
            assert fresh.cost.low < 1.1 * cost_of(plan) and fresh.cost.high > 1.4 * cost_of(plan)


def test_the_picked_plans_are_looked_at_on_fresh_sequences() -> None:
    world, job = ControlWorld(), control_job(traced=5, trials=10)
    file = ran(job, world)
    assert file.traces[0].digest == next(iter(file.picks.values())) == file.picks["best"]
    assert [trace.digest for trace in file.traces] == [plan.digest for plan, _ in world.traced]
    for plan, block in world.traced:
        assert block == SeedBlock(job.fresh_seed, 0, 5)
        assert plan.guidance == of(file, "best").guidance


# Proposals


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_equal_jobs_give_equal_files_and_other_seeds_other_proposals(sampler: str) -> None:
    trials = 4 if sampler == "gp" else 12
    job = control_job(sampler=sampler, trials=trials)
    one, same, other = (ran(j) for j in (job, job, control_job(sampler=sampler, trials=trials,
                                                              seed=6)))  # fmt: skip
    assert one == same
    first, second = (
        {row.digest for row in file.rows if row.origin == "proposal"} for file in (one, other)
    )
    assert first.isdisjoint(second)


def test_equal_plans_are_measured_once() -> None:
    world = ControlWorld()
    job = control_job(
        scales=[200.0, 200.0], names=["tta_constant", "tta_linear"], iterations=[1, 2], trials=20
    )
    file = ran(job, world)
    counts = Counter((plan.digest, block) for plan, block in world.runs)
    assert set(counts.values()) == {1}
    assert len(guided(file)) == 4  # two policies, one or two iterations
    assert len({row.digest for row in file.rows}) == len(file.rows)
    assert len({row.digest for row in file.fresh}) == len(file.fresh)


class Dying(ControlWorld):
    """Is killed when it is asked for the `dies`-th time."""

    def __init__(self, dies: int) -> None:
        super().__init__()
        self.calls, self.dies = itertools.count(), dies

    def __call__(self, plans: Sequence[Plan], blocks: Sequence[SeedBlock]) -> list[Measurement]:
        if next(self.calls) == self.dies:
            raise KeyboardInterrupt
        return super().__call__(plans, blocks)


def resumable_job(sampler: str) -> Job:
    return control_job(
        sampler=sampler, trials=13 if sampler == "gp" else 9, max_ppl_ratio=1.5,
        signals=["entropy", "margin"], steps=[5, 10],
    )  # fmt: skip


@functools.cache
def straight(sampler: str) -> ControlFile:
    return ran(resumable_job(sampler))


@pytest.mark.parametrize(
    ("sampler", "dies"), [("tpe", 0), ("tpe", 1), ("tpe", 6), ("tpe", 10), ("gp", 13)]
)
def test_a_search_killed_and_resumed_from_its_database_gives_the_same_file(
    tmp_path: Path, sampler: Literal["gp", "tpe"], dies: int
) -> None:
    """Killed before the sweeps, at a proposal, or before what is picked is measured again."""
    job, database = resumable_job(sampler), tmp_path / "control.db"
    with pytest.raises(KeyboardInterrupt):
        ran(job, Dying(dies), database)
    assert ran(job, database=database) == straight(sampler)
    # A finished study proposes nothing any more.
    assert ran(job, database=database) == straight(sampler)


def test_more_trials_go_on_and_fewer_are_the_beginning(tmp_path: Path) -> None:
    def rows(trials: int, database: Path | None) -> list[str]:
        return [row.digest for row in ran(control_job(trials=trials), None, database).rows]

    database = tmp_path / "db"
    few = rows(3, database)
    more = rows(7, database)
    assert more[: len(few)] == few and len(more) > len(few)
    assert more == rows(7, None)
    assert rows(3, database) == few


def test_another_search_or_damage_moves_the_database_aside(tmp_path: Path) -> None:
    database = tmp_path / "control.db"
    ran(control_job(trials=2), database=database)
    with pytest.warns(UserWarning, match="belongs to a search with other settings"):
        two = control_job(trials=2, objectives=["control", "cost"])
        file = ran(two, database=database)
    assert file == ran(two)
    database.write_bytes(b"rubbish" * 100)
    with pytest.warns(UserWarning, match="is damaged"):
        assert ran(two, database=database) == file
    other = dataclasses.replace(CONTEXT, database=database, fingerprint="other models")
    with pytest.warns(UserWarning, match="belongs to a search with other settings"):
        search_control(two, ControlWorld(), other)


@pytest.mark.parametrize(
    "table", [{"objectives": ["control", "distinct_3"]}, {"min_distinct_3": 0.5}]
)
def test_measures_that_are_not_defined_stop_the_search(table: dict[str, Any]) -> None:
    """Texts of two tokens have no distinct-3."""

    class Undefined(ControlWorld):
        def _record(self, plan: Plan, block: SeedBlock) -> Any:
            record = super()._record(plan, block)
            record.scores["distinct_3"][:] = [None] * block.size
            return record

    with pytest.raises(SchedlabError) as caught:
        ran(control_job(**table, trials=1), Undefined())
    assert "\n" not in str(caught.value)


def test_a_judge_that_knows_none_of_the_labels_is_one_line() -> None:
    context = dataclasses.replace(CONTEXT, judges={"judge": ("x", "y")})

    class Untouched(ControlWorld):
        def __call__(self, plans: Sequence[Plan], blocks: Sequence[SeedBlock]) -> Any:
            raise AssertionError("refused before anything is sampled")

    with pytest.raises(InputError, match="judge 'judge' knows none of the labels") as caught:
        search_control(control_job(trials=1), Untouched(), context)
    assert "\n" not in str(caught.value)


def test_attributes_of_several_guides_are_judged_by_as_many_judges_as_it_takes() -> None:
    attributes = [{"classifier": "topic"}, {"classifier": "form", "label": "x"}]
    job = parse_job(
        control_data(
            control={"attributes": attributes},
            lab={"classifiers": {"topic": "guide", "form": "forms"}},
        )
    )
    guides = {"topic": LABELS, "form": ("x", "y")}
    judges = {"judge": LABELS, "second": (*LABELS, "z"), "forms": ("y", "x")}
    assert deciding_judges(job, guides, judges) == ("judge", "forms")
    one = {"judge": (*LABELS, "x")}
    assert deciding_judges(job, guides, one) == ("judge",)
    with pytest.raises(InputError, match="no judge knows all labels of 'form', x"):
        deciding_judges(job, guides, {"judge": LABELS, "second": LABELS})


def test_the_judge_that_is_named_decides() -> None:
    file = ran(control_job(judge="second", trials=2), ControlWorld(second=0.4))
    assert file.setting.judge == "second" and file.setting.judges == ("judge", "second")
    assert all(row.losses["control"] == pytest.approx(0.6) for row in file.rows)


@pytest.mark.parametrize("cost", ["seconds", "flops_total", "forwards"])
def test_costs_of_all_kinds_are_of_the_reference(cost: str) -> None:
    file = ran(control_job(cost=cost, trials=4, steps=[5, 10]))
    for row in file.rows:
        steps_alone = cost == "forwards"  # guidance takes none
        expected = row.plan.num_steps / STEPS if steps_alone else cost_of(row.plan)
        assert row.losses["cost"] == pytest.approx(expected)


# The space


EVERYTHING: dict[str, Any] = {
    "names": list(ALLOCATION_POLICIES),
    "signals": ["gradient", "entropy", "margin", "change", "ablation"],
    "pooled": ["none", "t", "alpha"],
    "iterations": [1, 2, 3],
    "steps": [4, 10],
    "decays": ["constant", "linear", "cosine"],
    "starts": [1.0, 0.8],
    "ends": [0.0, 0.2],
    "schedules": [["H"], ["L", "H"], ["H", "L", "L"]],
}


def drawn(space: ControlSpace, rng: np.random.Generator) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, known in space.distributions.items():
        if isinstance(known, CategoricalDistribution):
            values[name] = known.choices[int(rng.integers(len(known.choices)))]
        else:
            values[name] = float(rng.uniform(known.low, known.high))  # type: ignore[attr-defined]
    return values


def test_every_proposal_is_a_plan_with_parameters_that_its_policy_has() -> None:
    space, rng = ControlSpace(control_job(**EVERYTHING)), np.random.default_rng(0)
    names = set()
    for _ in range(150):
        values = drawn(space, rng)
        plan = space.plan(values)
        check_policy(plan.policy)
        names.add(plan.policy.name)
        assert plan.guidance is not None and plan.is_dense
        assert plan.guidance.iterations == values["iterations"]
        assert plan.guidance.scale == pytest.approx(values["scale"], rel=1e-5)
        assert (plan.guidance.start, plan.guidance.end) == (values["start"], values["end"])
        assert plan.guidance.decay == values["decay"] and plan.num_steps == values["steps"]
        roles = values["schedule"].split()
        assert plan.model_schedule == ModelSchedule.from_assignment(roles, values["steps"])
    assert names == set(ALLOCATION_POLICIES)


def test_values_that_a_policy_does_not_read_are_left_out_of_its_plan() -> None:
    space, rng = ControlSpace(control_job(**EVERYTHING)), np.random.default_rng(1)
    read = {
        "tta_adaptive": {"smooth", "signal", "pooled"},
        "tta_top_k": {"top_k_share", "top_k_low", "signal", "pooled"},
        "tta_share": {"share_share", "share_low", "signal", "pooled"},
        "tta_softmax": {"softmax_low", "softmax_tau", "signal", "pooled"},
        "tta_threshold": {"threshold_deviations", "threshold_low", "signal", "pooled"},
        "tta_fixed": {"fixed_at"},
        "tta_scaled": {"scaled_factor", "scaled_offset"},
    }
    always = {"scale", "iterations", "steps", "decay", "start", "end", "schedule", "policy"}
    known = set(space.distributions)
    assert known == always.union(*read.values())
    for name in ALLOCATION_POLICIES:
        own = read.get(name, set())
        values = drawn(space, rng) | {"policy": name}
        plan = space.plan(values)
        for key in known - always:
            other = dict(values)
            for _ in range(20):
                other[key] = drawn(space, rng)[key]
                if other[key] != values[key]:
                    break
            changed = space.plan(other)
            assert (changed.digest != plan.digest) == (key in own), (name, key)
            assert (changed == plan) == (key not in own)


def test_the_reference_is_the_plan_of_the_job_unguided_and_heavy() -> None:
    job = parse_job(
        control_data(
            plan={
                "temperature": 0.7,
                "process": "simplex",
                "policy": {"name": "tta_constant", "parameters": {"integer": False}},
            },
            control={"schedules": [["L", "H"]], "steps": [4]},
        )
    )
    space = ControlSpace(job)
    plan = space.reference()
    assert str(plan.model_schedule) == f"H{STEPS}" and plan.policy.name == "tta_constant"
    assert plan.process == "simplex" and plan.noise_schedule == "cosine"
    assert plan.decoding.temperature == 0.7 and plan.guidance is not None
    assert (plan.guidance.iterations, plan.guidance.scale) == (0, 0.0)
    assert plan.guidance.attributes == job.control.attributes  # type: ignore[union-attr]
    for other in first_plans(job)[1:]:
        assert other.decoding == plan.decoding and other.process == "simplex"
        assert str(other.model_schedule) == "L2 H2"
        assert other.policy.parameters["integer"] is False


@pytest.mark.parametrize("points", [1, 2, 5])
def test_the_sweep_covers_every_policy_and_the_whole_range_of_lambda(points: int) -> None:
    space = ControlSpace(control_job(**EVERYTHING | {"points": points}))
    seeds = space.sweep()
    plans = [space.plan(values) for values in seeds]
    ways = len(space.table.pooled)
    num_rules = len(ALLOCATION_POLICIES) + (ways - 1) * len(READS_SIGNAL)
    assert len(seeds) == points * num_rules
    by_name: dict[tuple[str, Any], list[float]] = {}
    for plan in plans:
        check_policy(plan.policy)
        assert plan.guidance is not None
        rule = (plan.policy.name, plan.policy.parameters.get("pooled"))
        by_name.setdefault(rule, []).append(plan.guidance.scale)
    assert {name for name, _ in by_name} == set(ALLOCATION_POLICIES) and len(by_name) == num_rules
    middle = math.sqrt(LOW * HIGH)
    for scales in by_name.values():
        assert scales == sorted(scales) and len(scales) == points
        ends = [middle] if points == 1 else [LOW, HIGH]
        assert [scales[0], scales[-1]] == pytest.approx([ends[0], ends[-1]])
        ratios = np.diff(np.log(scales))
        assert ratios == pytest.approx(ratios.mean() if len(ratios) else ratios, rel=1e-3)
    # Values are what a study takes.
    for values in seeds:
        assert set(values) == set(space.distributions)
        for key, known in space.distributions.items():
            assert known._contains(known.to_internal_repr(values[key])), key
    assert first_plans(space.job) == [space.reference(), *plans]


def test_what_has_one_value_is_not_proposed() -> None:
    space = ControlSpace(control_job())
    assert set(space.distributions) == {"scale", "smooth", "policy", "iterations"}
    fixed = ControlSpace(
        control_job(
            names=["tta_top_k"], signals=["margin"], pooled=["t"], iterations=[4], steps=[6],
            decays=["linear"], starts=[0.9], ends=[0.3], schedules=[["L", "H"]],
        )
    )  # fmt: skip
    assert set(fixed.distributions) == {"scale", "top_k_share", "top_k_low"}
    plan = fixed.plan({"scale": 300.0, "top_k_share": 0.25, "top_k_low": 0.125})
    assert plan.policy.parameters == {
        "signal": "margin", "pooled": "t", "share": 0.25, "low": 0.125
    }  # fmt: skip
    assert plan.guidance is not None and plan.guidance.decay == "linear"
    assert (plan.guidance.start, plan.guidance.end, plan.guidance.iterations) == (0.9, 0.3, 4)
    assert str(plan.model_schedule) == "L3 H3"


def test_modifiers_of_the_jobs_policy_are_those_of_all() -> None:
    job = parse_job(
        control_data(
            plan={"policy": {"name": "tta_constant", "parameters": {"integer": False}}},
        )
    )
    for plan in first_plans(job):
        assert plan.policy.parameters["integer"] is False


# Files


def test_a_control_file_reads_back(tmp_path: Path) -> None:
    job = control_job(
        trials=9, max_ppl_ratio=1.5, min_distinct_3=0.5, max_entropy_drop=1.0, max_cost=9.0
    )
    file = ran(job)
    file.write(tmp_path / "control.json")
    assert ControlFile.read(tmp_path / "control.json") == file
    setting = file.setting
    assert setting.constraints == {
        "max_ppl_ratio": 1.5, "max_entropy_drop": 1.0, "min_distinct_3": 0.5, "max_cost": 9.0,
    }  # fmt: skip
    assert setting.labels == [LABELS] and setting.reference == file.rows[0].digest
    assert (setting.seed, setting.fresh_seed) == (5, job.fresh_seed)
    assert (setting.scorer, setting.precision, setting.trials) == ("planted", "float64", 9)
    with pytest.raises(InputError, match="was not measured on the search; search again"):
        file.row("0" * 64)
    with pytest.raises(InputError, match="was not measured on fresh sequences"):
        file.fresh_row("0" * 64)


def test_a_single_label_is_its_own_group(tmp_path: Path) -> None:
    job = control_job(attributes=[{"classifier": "topic", "label": "sport"}], trials=2)
    file = ran(job)
    assert file.setting.labels == [("sport",)]
    for row in file.fresh:
        assert set(row.by_label) == {"sport"}
        assert row.by_label["sport"] == row.control


def test_a_job_file_reads_back(tmp_path: Path) -> None:
    job = control_job(**EVERYTHING, max_ppl_ratio=1.5, scales=[10.0, 100.0])
    (tmp_path / "job.toml").write_text(dump_job(job))
    again = load_job(tmp_path / "job.toml")
    assert again.control == job.control and again.plan == job.plan
    assert again.lab.judges == {"judge": str(tmp_path / "j"), "second": str(tmp_path / "k")}
    assert again.lab.classifiers == {"topic": str(tmp_path / "t")}


# Refusals


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"control": {"attributes": []}}, "control.attributes"),
        ({"control": {"attributes": [{"classifier": "mood"}]}}, "'mood' is not among .*'topic'"),
        ({"control": {"attributes": [{"classifier": "Topic"}]}}, "classifier"),
        ({"control": {"attributes": [{"classifier": "topic", "label": ""}]}}, "label"),
        ({"control": {"judge": "third"}}, "control.judge 'third' is not among"),
        ({"lab": {"judges": {}}}, "lab.judges: control needs a classifier that judges"),
        ({"lab": {"scorer": "none"}}, "gen_ppl needs a scorer"),
        (
            {
                "lab": {"scorer": "none"},
                "control": {"objectives": ["control", "cost"], "max_ppl_ratio": 2.0},
            },
            "gen_ppl needs a scorer",
        ),
        ({"control": {"objectives": ["cost", "gen_ppl"]}}, "objectives must hold 'control'"),
        ({"control": {"objectives": ["control"]}}, "control.objectives"),
        ({"control": {"objectives": ["control", "control"]}}, "objectives names one twice"),
        (
            {"control": {"objectives": ["control", "cost", "gen_ppl", "distinct_3", "self_bleu"]}},
            "control.objectives",
        ),
        ({"control": {"objectives": ["control", "bleu"]}}, "objectives"),
        ({"control": {"scales": [200.0, 20.0]}}, "scales must be lowest, highest"),
        ({"control": {"scales": [0.0, 20.0]}}, "scales"),
        ({"control": {"scales": [20.0]}}, "scales"),
        ({"control": {"smooth": [0.5, 0.1]}}, "smooth must be lowest, highest"),
        ({"control": {"smooth": [0.0, 1.5]}}, "smooth"),
        ({"control": {"iterations": [0]}}, "iterations"),
        ({"control": {"iterations": []}}, "iterations"),
        ({"control": {"iterations": [2, 2]}}, "iterations names one twice"),
        ({"control": {"steps": [4, 4]}}, "steps names one twice"),
        ({"control": {"steps": [0]}}, "steps"),
        ({"control": {"names": ["ancestral"]}}, "must be allocation policies .*'ancestral'"),
        ({"control": {"names": ["tta_other"]}}, "names"),
        ({"control": {"names": ["tta_linear", "tta_linear"]}}, "names names one twice"),
        ({"control": {"signals": ["none"]}}, "signals"),
        ({"control": {"pooled": ["mean"]}}, "pooled"),
        ({"control": {"decays": ["square"]}}, "decays"),
        ({"control": {"starts": [1.5]}}, "starts"),
        ({"control": {"ends": [-0.5]}}, "ends"),
        ({"control": {"schedules": [["H"], ["M"]]}}, "control.schedules: role 'M' has no denois"),
        ({"control": {"schedules": [["H", "L"] * 3], "steps": [4, 10]}}, "up to 6 parts, more"),
        ({"control": {"schedules": [["H"], ["H"]]}}, "schedules names one twice"),
        ({"control": {"cost": "block_forwards"}}, "cost"),
        ({"control": {"max_ppl_ratio": 0.0}}, "max_ppl_ratio"),
        ({"control": {"min_distinct_3": 1.5}}, "min_distinct_3"),
        ({"control": {"max_cost": -1.0}}, "max_cost"),
        ({"control": {"max_entropy_drop": -0.1}}, "max_entropy_drop"),
        ({"control": {"points": 0}}, "points"),
        ({"control": {"trials": -1}}, "trials"),
        ({"control": {"traced": 1}}, "traced"),
        ({"control": {"most_fresh": 0}}, "most_fresh"),
        ({"control": {"sampler": "nsga"}}, "sampler"),
        ({"control": {"scale": [1.0, 2.0]}}, "unknown key 'control.scale'; did you mean 'scales'"),
        ({"policies": {}}, "one of .control. and .policies. or .task."),
        ({"task": {}}, "one of .control. and .policies. or .task."),
        ({"search": {"race_from": 16}}, "race_from and search.max_cost are for searches over mod"),
        ({"search": {"max_cost": 0.5}}, "race_from and search.max_cost are for searches over mod"),
        (
            {"plan": {"guidance": {"attributes": [{"classifier": "topic"}]}}},
            "plan.guidance: what .control. searches for",
        ),
        ({"search": {"num_sequences": 13}}, "search.num_sequences"),
        ({"search": {"fresh_sequences": 13}}, "search.fresh_sequences"),
        ({"search": {"prefix_length": 8}}, "search.prefix_length must be below the length 8"),
        ({"plan": {"heavy": "X"}}, "plan.heavy: role 'X' has no denoiser"),
        ({"output": {"pick": "budget=2"}}, "pick"),
    ],
)
def test_jobs_that_make_no_sense_are_one_line(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_job(control_data(**tables))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "tables",
    [
        {"control": {"starts": [0.4], "ends": [0.6]}},
        {"control": {"starts": [1.0, 0.2], "ends": [0.0, 0.5]}},
        {"control": {"iterations": [5000]}},
        {"control": {"scales": [1.0, 1e12]}},
        {"control": {"steps": [2_000_000]}},
        {"plan": {"noise_schedule": "cosine"}},
        {"plan": {"time_grid": "tess"}},
    ],
)
def test_plans_that_cannot_be_are_one_line_before_anything_is_run(tables: dict) -> None:
    with pytest.raises(InputError) as caught:
        job = parse_job(control_data(**tables))
        first_plans(job)
        space, rng = ControlSpace(job), np.random.default_rng(0)
        for _ in range(40):
            space.plan(drawn(space, rng))
    assert "\n" not in str(caught.value)


def test_a_job_of_another_process_needs_no_analysis() -> None:
    job = parse_job(control_data(plan={"process": "simplex"}))
    assert job.search.additive  # it is not asked for
    with pytest.raises(InputError, match="plan.process 'simplex': step importance"):
        data = control_data(plan={"process": "simplex"})
        data.pop("control")
        parse_job(data)

"""A whole search over policies in a world whose truths are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from planted_policies import PolicyWorld, forwards_of, linear, policies_job, usual_loss

from schedlab.job import Job
from schedlab.plan import Plan
from schedlab.policies import default_parameters
from schedlab.results import BlockRecord, SeedBlock
from schedlab.results.policy_file import Matched, PolicyFile
from schedlab.search.policies import search_policies
from schedlab.search.policy_board import PolicyContext

BETTER = 0.07  # by so much tuned plans are better at every cost


def ran(job: Job, world: PolicyWorld, folder: Path | None = None) -> PolicyFile:
    assert job.policies is not None
    context = PolicyContext(
        prefix_length=0,
        defaults={name: default_parameters(name) for name in job.policies.tuned},
        task="planted",
        folder=folder,
    )
    return search_policies(job, world, context)


def stdd_is_better(plan: Plan, seed: int = 0) -> float:
    return usual_loss(plan) - BETTER * (plan.policy.name == "stdd")


def of(file: PolicyFile, against: str, repeat: int | None = None) -> Matched:
    return next(m for m in file.matched if (m.against, m.repeat) == (against, repeat))


@pytest.mark.parametrize("quality", ["accuracy", "gen_ppl", "duel"])
def test_a_known_advantage_at_equal_cost_is_found_exactly(quality: str) -> None:
    world = PolicyWorld(lambda plan, seed: stdd_is_better(plan), quality)
    job = policies_job(
        quality=quality,
        names=["threshold", "klass"],
        tuned=["stdd"],
        plan={"policy": {"name": "low_confidence"}},
    )
    file = ran(job, world)
    assert {m.against for m in file.matched} == {"threshold", "klass"}
    for against in ("threshold", "klass"):
        found = of(file, against)
        assert len(found.digests) == len(found.differences) >= 5
        for difference in (*found.differences, found.mean_difference):
            assert difference is not None
            assert difference.value == pytest.approx(-BETTER)
            assert difference.low == pytest.approx(-BETTER) == difference.high
        assert found.hypervolume_difference.value > 0
    for row in file.fresh:
        plan = file.row(row.digest).plan
        assert row.loss.value == pytest.approx(stdd_is_better(plan))
        assert row.cost.value == pytest.approx(forwards_of(plan) / 28)


def test_noise_widens_the_intervals_and_leaves_the_truth_within() -> None:
    """Difficulty that plans share cancels. Of 12 independent intervals of 95 % fewer than 9 hold
    the truth once in 450 runs; the seed is fixed."""
    world = PolicyWorld(lambda plan, seed: stdd_is_better(plan), noise=0.02, shared=0.3)
    search = {"num_sequences": 32, "fresh_sequences": 128}
    held, widths = 0, []
    for seed in range(4):
        job = policies_job(
            names=["threshold", "klass", "dream_threshold"],
            tuned=["stdd"],
            trials=2,
            search=search,
            seed=seed,
        )
        file = ran(job, world)
        for against in ("threshold", "klass", "dream_threshold"):
            mean = of(file, against).mean_difference
            assert mean is not None
            held += mean.low <= -BETTER <= mean.high
            widths.append(mean.high - mean.low)
            assert mean.excludes(0)
    assert held >= 9
    assert max(widths) < 0.02  # unpaired they would be 2 * 1.96 * 0.3 * sqrt(2 / 128) = 0.15


def test_sequences_that_choose_and_those_that_measure_never_meet() -> None:
    world = PolicyWorld(lambda plan, seed: stdd_is_better(plan))
    job = policies_job(names=["threshold"], tuned=["stdd"])
    file = ran(job, world)
    searched = {(b.seed, b.first) for b in job.blocks()}
    fresh = {(b.seed, b.first) for b in job.fresh_blocks()}
    seen: dict[Plan, set[tuple[int, int]]] = {}
    for plan, block in world.runs:
        seen.setdefault(plan, set()).add((block.seed, block.first))
    assert searched.isdisjoint(fresh)
    for plan, blocks in seen.items():
        again = file.fresh_row(plan.digest) is not None
        assert blocks == (searched | fresh if again else searched)
    items = [{b.first + j for b in bs for j in range(b.size)}
             for bs in (job.blocks(), job.fresh_blocks())]  # fmt: skip
    assert items[0].isdisjoint(items[1])  # other items of the task, not only other noise
    # Everything swept is measured again, and of tuned plans the front.
    for row in file.rows:
        assert (row.digest in {f.digest for f in file.fresh}) or row.curve.tuned


def test_picks_come_from_the_searchs_values_and_are_shown_by_the_fresh_ones() -> None:
    job = policies_job(points=9, pick="budget=0.5")
    lucky, unlucky = 10, 7  # forwards: one looks too good in the search, one on fresh sequences

    def loss(plan: Plan, seed: int) -> float:
        found = usual_loss(plan)
        if forwards_of(plan) == lucky and seed == job.job.seed:
            return 0.05
        if forwards_of(plan) == unlucky and seed == job.fresh_seed:
            return 0.01
        return found

    file = ran(job, PolicyWorld(loss))
    for pick in ("best", "budget=0.5"):
        chosen = file.picks[pick]
        assert forwards_of(file.row(chosen).plan) == lucky
        fresh = file.fresh_row(chosen)
        assert fresh is not None and fresh.loss.value == pytest.approx(linear(lucky))
        assert file.row(chosen).loss == pytest.approx(0.05)
        assert len(fresh.samples) == 4
    assert set(file.picks) == {"best", "knee", "budget=0.5"}
    # The family's front is the search's too: those that cost more than the lucky one are beaten.
    (family,) = [f for f in file.families if f.family == "threshold"]
    assert [forwards_of(file.row(d).plan) for d in family.digests] == [4, 7, 10]


def test_the_reference_costs_one_and_is_there_once() -> None:
    job = policies_job(plan={"policy": {"name": "low_confidence"}})
    file = ran(job, PolicyWorld())
    reference = file.row(file.setting.reference)
    assert reference.cost == pytest.approx(1) and reference.curve.policy == "low_confidence"
    assert sum(row.digest == file.setting.reference for row in file.rows) == 1
    swept = {"name": "low_confidence", "parameters": {"block_length": 0}}
    same = ran(policies_job(names=["low_confidence"], plan={"policy": swept}), PolicyWorld())
    assert sum(row.digest == same.setting.reference for row in same.rows) == 1
    assert same.row(same.setting.reference).knob == 28
    fresh = file.fresh_row(file.setting.reference)
    assert fresh is not None and fresh.cost.value == pytest.approx(1) and fresh.samples


def test_every_repeat_is_a_search_of_its_own_and_all_together_are_one_more() -> None:
    world = PolicyWorld(lambda plan, seed: stdd_is_better(plan))
    file = ran(policies_job(tuned=["stdd"], repeats=3, trials=5, points=3), world)
    by_repeat = [
        {row.digest for row in file.rows if row.curve.tuned and row.curve.repeat == repeat}
        for repeat in range(3)
    ]
    assert [len(found) for found in by_repeat] == [8] * 3
    assert len(set.intersection(*by_repeat)) == 3  # the seeds
    assert [m.repeat for m in file.matched] == [None, 0, 1, 2]
    together = set(of(file, "threshold").digests)
    assert together <= {d for m in file.matched[1:] for d in m.digests}
    (family,) = [f for f in file.families if f.family == "stdd, tuned"]
    assert set(family.digests) == together


def test_at_most_so_many_of_a_tuned_front_are_measured_again_its_ends_among_them() -> None:
    world = PolicyWorld(lambda plan, seed: stdd_is_better(plan))
    file = ran(policies_job(tuned=["stdd"], trials=20, points=9, most_fresh=4), world)
    (family,) = [f for f in file.families if f.family == "stdd, tuned"]
    assert len(family.digests) == 4
    costs = [forwards_of(file.row(d).plan) for d in family.digests]
    assert costs == sorted(costs) and (costs[0], costs[-1]) == (4, 28)


def test_dull_texts_are_never_picked_however_good_their_perplexity() -> None:
    def loss(plan: Plan, seed: int) -> float:
        return usual_loss(plan) - 0.5 * (forwards_of(plan) <= 10)

    def entropy(plan: Plan) -> float:
        return 2.0 if forwards_of(plan) <= 10 else 3.0

    job = policies_job(quality="gen_ppl", points=5, tuned=["stdd"], trials=3)
    file = ran(job, PolicyWorld(loss, "gen_ppl", entropy))
    assert file.setting.entropy_band == pytest.approx((2.9, 3.1), abs=0.02)
    for row in file.rows:
        assert row.in_entropy_band == (forwards_of(row.plan) > 10)
    for digest in (*file.picks.values(), *(d for f in file.families for d in f.digests)):
        assert file.row(digest).in_entropy_band
    chosen = forwards_of(file.row(file.picks["best"]).plan)
    assert chosen == max(n for n in map(forwards_of, (r.plan for r in file.rows)) if n < 28)


def test_where_all_of_a_policy_is_dull_it_has_no_front_and_nothing_fails() -> None:
    file = ran(
        policies_job(
            quality="gen_ppl",
            names=["threshold", "klass"],
            tuned=["stdd"],
            plan={"policy": {"name": "low_confidence"}},
        ),
        PolicyWorld(
            quality="gen_ppl", entropy=lambda p: 3.0 if p.policy.name != "threshold" else 1.0
        ),
    )
    assert {family.family for family in file.families} == {"klass", "stdd, tuned"}
    assert {m.against for m in file.matched} == {"klass"}


def test_likelihoods_are_measured_of_the_likeliest_tokens_confidence() -> None:
    plan = {"policy": {"name": "low_confidence", "parameters": {"confidence": "likeliest"}}}
    names = ["ancestral", "low_confidence", "threshold"]
    file = ran(
        policies_job(quality="duel", names=names, tuned=["stdd"], plan=plan),
        PolicyWorld(quality="duel"),
    )
    for row in file.rows:
        parameters = row.plan.policy.parameters
        is_random = row.plan.policy.name == "ancestral"
        assert parameters.get("confidence") == (None if is_random else "likeliest")
    assert file.setting.entropy_band is None and not any(row.samples for row in file.fresh)


def test_hypervolumes_are_areas_up_to_everything_wrong_above_the_references_cost() -> None:
    file = ran(policies_job(points=5), PolicyWorld())
    assert file.setting.reference_point == (1.0, 1.1)
    costs = np.array([4, 10, 16, 22, 28]) / 28
    losses = [linear(28 * cost) for cost in costs]
    expected = sum(
        (1 - loss) * width for loss, width in zip(losses, np.diff([*costs, 1.1]), strict=True)
    )
    (family,) = [f for f in file.families if f.family == "threshold"]
    assert family.hypervolume.value == pytest.approx(expected)
    worse = ran(policies_job(quality="gen_ppl"), PolicyWorld(quality="gen_ppl"))
    assert worse.setting.reference_point == pytest.approx((linear(4), 1.1))


def test_tuned_policies_are_compared_with_each_other_too() -> None:
    def loss(plan: Plan, seed: int) -> float:
        return usual_loss(plan) - {"stdd": BETTER, "klass": 0.03}.get(plan.policy.name, 0.0)

    file = ran(policies_job(tuned=["stdd", "klass"], trials=2), PolicyWorld(loss))
    found = {(m.family, m.against): m.mean_difference for m in file.matched if m.repeat is None}
    assert {pair: mean and round(mean.value, 9) for pair, mean in found.items()} == {
        ("stdd, tuned", "threshold"): -BETTER,
        ("stdd, tuned", "klass, tuned"): -0.04,
        ("klass, tuned", "threshold"): -0.03,
        ("klass, tuned", "stdd, tuned"): 0.04,
    }


def test_a_pick_whose_entropy_leaves_the_band_on_fresh_sequences_gives_way() -> None:
    job = policies_job(quality="gen_ppl", points=5)
    fresh_runs = {"on": False}

    def entropy(plan: Plan) -> float:
        return 2.0 if fresh_runs["on"] and forwards_of(plan) == 22 else 3.0

    class Turning(PolicyWorld):
        def _record(self, plan: Plan, block: SeedBlock) -> BlockRecord:
            fresh_runs["on"] = block.seed == job.fresh_seed
            return super()._record(plan, block)

    file = ran(job, Turning(quality="gen_ppl", entropy=entropy))
    (out,) = [row for row in file.fresh if not row.in_entropy_band]
    assert forwards_of(file.row(out.digest).plan) == 22 and file.row(out.digest).in_entropy_band
    assert forwards_of(file.row(file.picks["best"]).plan) == 16


def test_costs_that_do_not_overlap_are_compared_by_area_alone() -> None:
    job = policies_job(
        names=["first_hitting"], tuned=["stdd"], parameters={"stdd": {"threshold": 0.9}}, trials=0
    )
    found = of(ran(job, PolicyWorld()), "first_hitting")
    assert found.differences == () and found.mean_difference is None
    assert found.cheaper == 1
    # One plan of 13 forwards against one of 28, both up to 1.1 of the reference's cost.
    forwards = 4 + round(24 * (np.log(0.7) - np.log(0.1)) / (np.log(0.7) - np.log(0.001)))
    expected = (1 - linear(forwards)) * (1.1 - forwards / 28) - (1 - linear(28)) * 0.1
    assert found.hypervolume_difference.value == pytest.approx(expected)


def test_the_same_search_gives_the_same_file_and_the_file_reads_back(tmp_path: Path) -> None:
    world = PolicyWorld(lambda plan, seed: stdd_is_better(plan), noise=0.01)
    job = policies_job(tuned=["stdd"], repeats=2, trials=3)
    one, other = ran(job, world, tmp_path), ran(job, world)
    assert one == other
    one.write(tmp_path / "policies.json")
    assert PolicyFile.read(tmp_path / "policies.json") == one
    data = json.loads((tmp_path / "policies.json").read_text())
    assert data["format"] == "schedlab.policies" and data["version"] == 1
    assert (tmp_path / "optuna-stdd-0.db").exists() and (tmp_path / "optuna-stdd-1.db").exists()

"""A whole search: propose, measure, choose, measure the chosen again on fresh seeds, sum up.

Knows no network: plans are run by the evaluator that is passed in. Everything is deterministic
given the evaluator's answers, and every answer is stored by the evaluator, so an interrupted
search is resumed by calling it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from schedlab.job import Job
from schedlab.results.search_file import Race, SearchFile, SearchSetting
from schedlab.search.additive import StepCosts
from schedlab.search.bayesian import AssignmentSpace, Objectives, Outcome, optimize
from schedlab.search.bench import Bench, Evaluator, Stage
from schedlab.search.board import Board
from schedlab.search.front import excess
from schedlab.search.proposals import Proposals, additive_assignments, propose
from schedlab.search.racing import Racing, look_blocks
from schedlab.search.space import Assignment, handmade
from schedlab.search.statistics import influence_of, ranking_of


@dataclass(frozen=True)
class Context:
    """What a search is told about its surroundings, for the record.

    Args:
        scorer: name of the scorer.
        precision: of the denoisers.
        corpus_fingerprint: of the text behind the additive scores.
        fingerprint: of everything that qualities depend on beside the plans: a database of another
            one is not continued.
    """

    scorer: str
    precision: str
    corpus_fingerprint: str = ""
    fingerprint: str = ""


def search(
    job: Job,
    evaluator: Evaluator,
    context: Context,
    *,
    costs: Sequence[StepCosts] = (),
    database: Path | None = None,
    stage: Stage = lambda name: None,
) -> SearchFile:
    """Run the search of a job.

    Args:
        job: what to search.
        evaluator: runs plans; must remember what it ran.
        context: for the record.
        costs: additive step costs, the first of each score used to propose; none without analysis.
        database: SQLite file of the Bayesian search; None keeps it in memory.
        stage: told what begins.

    Raises:
        InputError: settings that do not fit together.
        BudgetError: more plans than the job allows.
    """
    bench = Bench(job, evaluator)
    proposals = propose(job, costs, bench.step_share())
    race, raced = _measure(job, bench, proposals, stage)
    if job.search.trials:
        _bayesian(job, bench, proposals, costs, database, context.fingerprint, stage)
    board = Board(job, bench, list(proposals), race=race)
    picks = board.choose(proposals, stage)
    stage("statistics")
    return SearchFile(
        setting=_setting(job, context, bench, board),
        rows=tuple(board.row(schedule, proposals, costs) for schedule in proposals),
        fresh=tuple(board.fresh_rows()),
        race=raced,
        segment_influence=tuple(influence_of(job, proposals, bench.measured)),
        rank_correlation=tuple(ranking_of(job, proposals, bench.measured, costs)),
        hypervolume=board.hypervolume(proposals),
        picks={name: bench.plan(schedule).digest for name, schedule in picks.items()},
    )


def _measure(
    job: Job, bench: Bench, proposals: Proposals, stage: Stage
) -> tuple[Racing | None, Race | None]:
    """Measure all proposals, or race them; Optuna's are measured in full later."""
    if job.search.race_from is None:
        stage(f"sampling {len(proposals)} schedules")
        bench.measure(proposals)
        return None, None
    race = Racing(
        bench,
        list(proposals),
        kept=frozenset(proposals.of("handmade")),
        error=job.search.race_error,
        looks=look_blocks(job.search.race_from // job.search.block_size, len(job.blocks())),
    )
    return race, race.run(stage)


def _bayesian(
    job: Job,
    bench: Bench,
    proposals: Proposals,
    costs: Sequence[StepCosts],
    database: Path | None,
    fingerprint: str,
    stage: Stage,
) -> None:
    """Add Optuna's proposals, seeded with hand-made and additive assignments."""
    table, num_segments = job.search, job.search.num_segments
    space = AssignmentSpace(job.plan.num_steps, num_segments, job.search_roles)

    def outcomes(assignments: Sequence[Assignment]) -> list[Outcome]:
        schedules = [space.schedule(assignment) for assignment in assignments]
        bench.measure(schedules)
        measured = [bench.measured[schedule].estimates for schedule in schedules]
        return [
            Outcome(found["log_gen_ppl"].value, excess(bench.band, found["entropy"].value))
            for found in measured
        ]

    seeds = [(job.plan.heavy,) * num_segments, (job.plan.light,) * num_segments]
    if table.handmade and num_segments >= 4:
        coarse = handmade(num_segments, heavy=job.plan.heavy, light=job.plan.light)
        seeds += [schedule.steps for schedule in coarse.values()]
    if table.additive and costs:
        seeds += additive_assignments(job, costs, bench.step_share())
    found = optimize(
        space,
        Objectives(
            outcomes,
            cost=lambda assignment: 1.0 - bench.saved(space.schedule(assignment)),
            max_cost=table.max_cost or float("inf"),
        ),
        num_trials=table.trials,
        seed=job.job.seed,
        seeds=[a for a in seeds if set(a) <= set(space.roles)],
        storage=database,
        fingerprint=f"{fingerprint} {job.blocks()} {bench.plan(bench.heavy).family_digest}",
        sampler=table.sampler,
        told=lambda done: stage(f"Bayesian search, proposal {done + 1} of {table.trials}"),
    )
    # Seeds that others proposed are theirs; coarse hand-made ones are Optuna's own.
    schedules = [space.schedule(assignment) for assignment in found]
    bench.measure(schedules)
    proposals.add("optuna", [s for s in schedules if s not in proposals.families])


def _setting(job: Job, context: Context, bench: Bench, board: Board) -> SearchSetting:
    plan = bench.plan(bench.heavy)
    return SearchSetting(
        length=job.plan.length,
        num_steps=job.plan.num_steps,
        num_segments=job.search.num_segments,
        heavy=job.plan.heavy,
        light=job.plan.light,
        roles=job.search_roles,
        num_sequences=job.search.num_sequences,
        block_size=job.search.block_size,
        seed=job.job.seed,
        fresh_sequences=job.search.fresh_sequences or job.search.num_sequences,
        fresh_seed=job.fresh_seed,
        scorer=context.scorer,
        precision=context.precision,
        temperature=job.plan.temperature,
        top_p=job.plan.top_p,
        policy=job.plan.policy,
        process=plan.process,
        noise_schedule=plan.noise_schedule,
        time_grid=plan.time_grid,
        simplex_value=plan.simplex_value,
        last_step=plan.last_step,
        guidance=plan.guidance,
        prefix_length=job.search.prefix_length,
        entropy_band=bench.band,
        fresh_entropy_band=bench.fresh_band,
        reference_point=board.reference,
        corpus_fingerprint=context.corpus_fingerprint,
    )

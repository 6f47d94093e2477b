"""A joint search over guidance, timestep allocation, iterations, steps and the model schedule.

Ask and tell, one proposal at a time, after sweeps of lambda. As in `tuning`, the sampler is made
anew for every proposal and every answer is in the store, so that a search which was killed goes on
with the proposals of an uninterrupted one. What is chosen is measured again on fresh sequences.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import moocore
import numpy as np
import optuna
from optuna.trial import TrialState

from schedlab.errors import SchedlabError
from schedlab.job import MODIFIERS, Job
from schedlab.plan import Plan, PolicySpec
from schedlab.plan.guidance import EACH, Attribute
from schedlab.results import Estimate, SeedBlock
from schedlab.results.control_file import (
    ControlFile,
    ControlRow,
    ControlSetting,
    ControlTrace,
    FreshControlRow,
    Origin,
)
from schedlab.search.bayesian import GP_MAX_TRIALS
from schedlab.search.bench import Evaluator, Stage
from schedlab.search.control_bench import ControlBench, deciding_judges
from schedlab.search.control_space import ControlSpace
from schedlab.search.front import Candidates, pick_best, pick_budget, pick_knee
from schedlab.search.study_file import add_complete, make_sampler, open_study

STARTUP_TRIALS = 16
_RESAMPLES = 100
_MOST_SAMPLES = 6


class TracingEvaluator(Evaluator, Protocol):
    """An evaluator that can also look at a plan step by step."""

    def trace(self, plan: Plan, block: SeedBlock) -> ControlTrace:
        """Clocks and edits of a plan on the sequences of a block."""
        ...


@dataclass(frozen=True)
class ControlContext:
    """What a search is told about its surroundings.

    Args:
        labels: of every guide, by name.
        judges: labels of every judge, by name.
        prefix_length: given positions of every sequence.
        scorer, precision: for the record.
        fingerprint: of all that losses depend on beside the plans.
        database: Optuna's file; None keeps it in memory.
    """

    labels: Mapping[str, tuple[str, ...]]
    judges: Mapping[str, tuple[str, ...]]
    prefix_length: int = 0
    scorer: str = ""
    precision: str = ""
    fingerprint: str = ""
    database: Path | None = None


@dataclass
class _Board:
    """All plans so far with their origin and proposed values."""

    origins: dict[Plan, Origin] = field(default_factory=dict)
    values: dict[Plan, dict[str, Any]] = field(default_factory=dict)

    def add(self, plan: Plan, origin: Origin, values: dict[str, Any]) -> None:
        self.origins.setdefault(plan, origin)
        self.values.setdefault(plan, values)


def search_control(
    job: Job,
    evaluator: TracingEvaluator,
    context: ControlContext,
    *,
    stage: Stage = lambda name: None,
) -> ControlFile:
    """Run the search of a job with a `[control]` table.

    Raises:
        InputError: an attribute that no judge can judge.
        SchedlabError: a loss that is not finite.
    """
    space = ControlSpace(job)
    judges = deciding_judges(job, context.labels, context.judges)
    bench = ControlBench(job, evaluator, space.reference(), judges)
    board = _Board()
    board.add(bench.reference, "reference", {})
    importance = _propose(space, bench, board, context, stage)
    front, kept = _chosen(bench, board)
    if job.choice_blocks() != job.blocks():
        stage(f"comparing {len(kept)} plans once more on the search's seed")
    bench.measure_choice(kept)
    stage(f"measuring {len(kept)} plans again on fresh sequences")
    bench.measure_fresh(kept)
    picks = _still_within(job, bench)
    stage("looking at the picked plan step by step")
    traces = [evaluator.trace(plan, _traced_block(job)) for plan in _looked_at(bench, picks)]
    return ControlFile(
        setting=_setting(job, bench, context),
        rows=tuple(_row(bench, board, plan) for plan in board.origins),
        fresh=tuple(_fresh_row(bench, plan, context, picks) for plan in bench.fresh),
        front=tuple(plan.digest for plan in front),
        hypervolume=_hypervolume(job, bench, front),
        importance=importance,
        picks={name: plan.digest for name, plan in picks.items()},
        traces=tuple(traces),
    )


def first_plans(job: Job) -> list[Plan]:
    """The reference and the sweeps: what has to be refused is refused before anything is run."""
    space = ControlSpace(job)
    return [space.reference(), *(space.plan(values) for values in space.sweep())]


def _propose(
    space: ControlSpace,
    bench: ControlBench,
    board: _Board,
    context: ControlContext,
    stage: Stage,
) -> dict[str, dict[str, Estimate]]:
    """Sweeps, then proposals; returns importances of parameters."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    job, table, distributions = space.job, space.table, space.distributions
    kind = table.sampler
    if kind == "auto":
        kind = "gp" if table.trials <= GP_MAX_TRIALS else "tpe"
    seeds = space.sweep()
    described = {name: repr(known) for name, known in distributions.items()}
    settings = json.dumps(
        [
            context.fingerprint, repr(job.blocks()), described, job.job.seed, seeds, kind,
            table.model_dump(
                mode="json", exclude={"trials", "most_fresh", "traced", "choice_sequences"}
            ),
            bench.reference.digest,
        ]
    )  # fmt: skip
    stage(f"sampling sweeps of lambda: {len(seeds)} plans")
    bench.measure(space.plan(values) for values in seeds)
    number = len(table.objectives)
    with open_study(context.database, settings, num_objectives=number) as study:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        wanted = len(seeds) + table.trials  # a database may hold more
        known = [dict(trial.params) for trial in complete[:wanted]]
        bench.measure(space.plan(values) for values in known)
        for place, values in enumerate(known):
            board.add(space.plan(values), _origin(place, seeds), values)
        for values in seeds[len(known) :]:
            losses, excess = _told(bench, space.plan(values))
            add_complete(study, values, distributions, losses, excess)
            board.add(space.plan(values), "sweep", values)
            known.append(values)
        while (done := len(known) - len(seeds)) < table.trials:
            stage(f"proposal {done + 1} of {table.trials}")
            generator = np.random.default_rng([job.job.seed, len(known)])
            study.sampler = make_sampler(
                kind, int(generator.integers(2**31)), num_startup=STARTUP_TRIALS
            )
            trial = study.ask(distributions)
            plan = space.plan(trial.params)
            bench.measure([plan])
            losses, excess = _told(bench, plan)
            for name, value in excess.items():
                trial.set_constraint(name, value)
            study.tell(trial, losses)
            board.add(plan, "proposal", dict(trial.params))
            known.append(dict(trial.params))
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return importances(trials[:wanted], table.objectives, seed=job.job.seed)


def _origin(place: int, seeds: Sequence[Any]) -> Origin:
    return "sweep" if place < len(seeds) else "proposal"


def _told(bench: ControlBench, plan: Plan) -> tuple[list[float], dict[str, float]]:
    losses, excess = bench.losses(plan), bench.excess(plan)
    if not all(math.isfinite(value) for value in (*losses.values(), *excess.values())):
        raise SchedlabError(f"losses must be finite, got {losses}; look at the samples")
    return list(losses.values()), excess


def importances(
    trials: Sequence[optuna.trial.FrozenTrial], objectives: Sequence[str], *, seed: int
) -> dict[str, dict[str, Estimate]]:
    """Share of the variation of every objective that a parameter explains, by PED-ANOVA (Watanabe
    et al., 2304.10255), with percentile bootstrap intervals over proposals; empty where there are
    too few."""
    if len(trials) < 8 or not trials[0].params:
        return {}
    rng = np.random.default_rng([seed, len(trials)])
    draws = [rng.integers(0, len(trials), len(trials)) for _ in range(_RESAMPLES)]
    found: dict[str, dict[str, Estimate]] = {}
    for place, name in enumerate(objectives):
        value = _importance(trials, place)
        resampled = [_importance([trials[j] for j in rows], place) for rows in draws]
        found[name] = {
            key: _percentile(share, [one.get(key, 0.0) for one in resampled], len(trials))
            for key, share in value.items()
        }
    return found


def _importance(trials: Sequence[optuna.trial.FrozenTrial], objective: int) -> dict[str, float]:
    study = optuna.create_study(direction="minimize")
    for trial in trials:
        study.add_trial(
            optuna.trial.create_trial(
                params=trial.params,
                distributions=trial.distributions,
                value=trial.values[objective],
            )
        )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # resamples with many ties
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _percentile(value: float, resampled: Sequence[float], n: int) -> Estimate:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(value=value, low=float(min(low, value)), high=float(max(high, value)), n=n)


def _chosen(bench: ControlBench, board: _Board) -> tuple[list[Plan], list[Plan]]:
    """The front by the search's values, and what is measured again."""
    plans = list(board.origins)
    losses_NM = np.array([list(bench.losses(plan).values()) for plan in plans])
    feasible_N = np.array([_feasible(bench, plan) for plan in plans])
    front_N = np.zeros(len(plans), dtype=bool)
    if feasible_N.any():
        front_N[feasible_N] = moocore.is_nondominated(losses_NM[feasible_N], keep_weakly=False)
    front = [plan for plan, on in zip(plans, front_N, strict=True) if on]
    most = bench.table.most_fresh
    by_control = sorted(front, key=lambda plan: bench.losses(plan)["control"])
    kept = [by_control[round(j)] for j in np.linspace(0, len(front) - 1, min(most, len(front)))]
    sweeps = [plan for plan, origin in board.origins.items() if origin == "sweep"]
    kept = list(dict.fromkeys([*kept, *sweeps]))
    return front, kept


def _feasible(
    bench: ControlBench, plan: Plan, on: Literal["measured", "choice", "fresh"] = "measured"
) -> bool:
    return all(value <= 0 for value in bench.excess(plan, on).values())


def _picks(job: Job, bench: ControlBench, plans: Sequence[Plan]) -> dict[str, Plan]:
    """`best` has the highest control accuracy within the constraints, `knee` is that of the front
    of control against cost, `budget=SHARE` the best that saves so much of the reference; on the
    sequences of the choice."""
    guided = [plan for plan in plans if plan != bench.reference]
    reference = bench.choice[bench.reference]

    def losses(name: str) -> np.ndarray:
        return np.array([bench.loss(name, bench.choice[plan], reference) for plan in guided])

    cost = losses("cost")
    candidates = Candidates(
        log_ppl=losses("control"),
        # Guided plans may cost more than the reference: savings are taken from the dearest.
        saved=cost.max(initial=1.0) + 1e-3 - cost,
        may_pick=np.array([_feasible(bench, plan, "choice") for plan in guided], dtype=bool),
    )
    found = {"best": pick_best(candidates), "knee": pick_knee(candidates)}
    if (wish := job.output.pick).startswith("budget="):
        share = float(wish.removeprefix("budget="))
        found[wish] = pick_budget(candidates, cost.max(initial=1.0) + 1e-3 - (1.0 - share))
    return {name: guided[place] for name, place in found.items() if place is not None}


def _still_within(job: Job, bench: ControlBench) -> dict[str, Plan]:
    """Picks whose constraints do not hold on fresh sequences give way to the next best: of those
    alone, never of control accuracy, do picks depend there."""
    holding = [plan for plan in bench.fresh if _feasible(bench, plan, "fresh")]
    return _picks(job, bench, holding)


def _looked_at(bench: ControlBench, picks: Mapping[str, Plan]) -> list[Plan]:
    """The picked plan, and the same with constant clocks where it has others; what has one step
    only is not looked at."""
    picked = next(iter(picks.values()), bench.reference)
    fields = {name: getattr(picked, name) for name in Plan.model_fields}
    found = [picked]
    if picked.policy.name not in ("ancestral", "tta_constant"):
        modifiers = {
            name: value for name, value in picked.policy.parameters.items() if name in MODIFIERS
        }
        constant = PolicySpec(name="tta_constant", parameters=modifiers)
        found.append(Plan(**fields | {"policy": constant}))
    return [plan for plan in found if plan.is_dense and plan.num_steps > 1]


def _traced_block(job: Job) -> SeedBlock:
    assert job.control is not None
    return SeedBlock(job.fresh_seed, job.fresh_blocks()[0].first, job.control.traced)


def _hypervolume(job: Job, bench: ControlBench, front: Sequence[Plan]) -> float:
    """Within a corner that the job fixes: nothing controlled, four times the reference's
    perplexity, nothing diverse, and the cost of most steps with most iterations, each of them as
    dear as an unguided step."""
    if not front:
        return 0.0
    reference, table = bench.losses(bench.reference), bench.table
    most_steps = max(table.steps or [job.plan.num_steps])
    dearest = most_steps / job.plan.num_steps * (1 + max(table.iterations))
    corner = {
        "control": 1.0,
        "gen_ppl": reference.get("gen_ppl", 0.0) + math.log(4.0),
        "distinct_3": 1.0,
        "self_bleu": 100.0,
        "cost": dearest,
    }
    losses_NM = np.array([list(bench.losses(plan).values()) for plan in front])
    corner_M = np.array([corner[name] for name in bench.table.objectives])
    inside_N = (losses_NM < corner_M).all(axis=1)
    if not inside_N.any():
        return 0.0
    return float(moocore.hypervolume(losses_NM[inside_N], ref=corner_M))


def _row(bench: ControlBench, board: _Board, plan: Plan) -> ControlRow:
    return ControlRow(
        plan=plan,
        digest=plan.digest,
        origin=board.origins[plan],
        values=board.values[plan],
        estimates=dict(bench.measured[plan].estimates),
        losses=bench.losses(plan),
        excess=bench.excess(plan),
        chosen_by={
            name: bench.loss(name, bench.choice[plan], bench.choice[bench.reference])
            for name in bench.table.objectives
        }
        if plan in bench.choice
        else {},
    )


def _fresh_row(
    bench: ControlBench, plan: Plan, context: ControlContext, picks: Mapping[str, Plan]
) -> FreshControlRow:
    shown = {bench.reference, *picks.values()}
    first = bench.table.attributes[0]
    return FreshControlRow(
        digest=plan.digest,
        estimates=dict(bench.fresh[plan].estimates),
        control=bench.control(plan),
        by_label=bench.control_by_label(plan, _labels(first, context)),
        ppl_ratio=bench.ppl_ratio(plan),
        cost=bench.cost(plan),
        within=_feasible(bench, plan, "fresh"),
        samples=tuple(bench.evaluator.texts(bench.fresh[plan], _MOST_SAMPLES))
        if plan in shown
        else (),
        columns=bench.columns(plan),
    )


def _labels(attribute: Attribute, context: ControlContext) -> tuple[str, ...]:
    known = context.labels[attribute.classifier]
    return known if attribute.label == EACH else (attribute.label,)


def _setting(job: Job, bench: ControlBench, context: ControlContext) -> ControlSetting:
    assert job.control is not None, "a joint search"
    table, constraints = bench.table, {}
    for name in ("max_ppl_ratio", "max_entropy_drop", "min_distinct_3", "max_cost"):
        if (value := getattr(table, name)) is not None:
            constraints[name] = float(value)
    return ControlSetting(
        attributes=table.attributes,
        labels=[_labels(attribute, context) for attribute in table.attributes],
        judge=" and ".join(bench.judges),
        deciding=bench.judges,
        judges=tuple(job.lab.judges),
        objectives=tuple(table.objectives),
        cost=table.cost,
        constraints=constraints,
        length=job.plan.length,
        prefix_length=context.prefix_length,
        num_steps=job.plan.num_steps,
        process=job.plan.process,
        num_sequences=job.search.num_sequences,
        choice_sequences=job.control.choice_sequences or job.search.num_sequences,
        block_size=job.search.block_size,
        seed=job.job.seed,
        fresh_sequences=job.search.fresh_sequences or job.search.num_sequences,
        fresh_seed=job.fresh_seed,
        scorer=context.scorer,
        precision=context.precision,
        trials=table.trials,
        sampler=table.sampler,
        temperature=job.plan.temperature,
        top_p=job.plan.top_p,
        reference=bench.reference.digest,
    )

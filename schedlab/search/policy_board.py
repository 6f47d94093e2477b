"""All plans of a search over policies side by side: fronts, picks, comparisons, the record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from schedlab.plan import Plan
from schedlab.plan.plan import PolicyName, Scalar
from schedlab.results import Estimate
from schedlab.results.bootstrap import bootstrap_statistic
from schedlab.results.policy_file import (
    Curve,
    FamilyResult,
    FreshPolicyRow,
    Matched,
    PolicyFile,
    PolicyRow,
    PolicySetting,
)
from schedlab.search.bench import Stage
from schedlab.search.front import Candidates, non_dominated, pick_best, pick_budget, pick_knee
from schedlab.search.policy_bench import (
    FreshColumns,
    PolicyBench,
    front_area,
    loss_at,
    losses_and_costs,
)
from schedlab.search.policy_sweep import PlanSpace, Proposal

_DEAREST = 1.1  # of the reference's cost, so that what costs as much counts too
_MOST_SAMPLES = 4


@dataclass(frozen=True)
class PolicyContext:
    """What a search is told about its surroundings.

    Args:
        prefix_length: given positions of every sequence.
        defaults: parameters of every tuned policy where nothing is chosen.
        task: name of the task, for the record.
        scorer, precision: for the record.
        fingerprint: of all that losses depend on beside the plans.
        folder: where Optuna's databases go; None keeps them in memory.
    """

    prefix_length: int
    defaults: Mapping[PolicyName, Mapping[str, Scalar]]
    task: str = ""
    scorer: str = ""
    precision: str = ""
    fingerprint: str = ""
    folder: Path | None = None


@dataclass
class PolicyBoard:
    """All plans side by side: fronts, picks, comparisons."""

    space: PlanSpace
    bench: PolicyBench
    proposals: list[Proposal]
    picks: dict[str, Plan] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bench = self.bench
        plans = [proposal.plan for proposal in self.proposals]
        self.loss_N = np.array([bench.loss(plan) for plan in plans])
        self.cost_N = np.array([bench.cost(plan) for plan in plans])
        self.allowed_N = np.array([bench.entropy_excess(plan) <= 0 for plan in plans])

    def front(self, belongs: Callable[[Curve], bool]) -> list[int]:
        """Places of a family's front on the search's sequences, from cheap to dear.

        Plans of one front that are equal in both are there once.
        """
        own_N = self.allowed_N & np.array([belongs(p.curve) for p in self.proposals], dtype=bool)
        loss_N = np.where(own_N, self.loss_N, np.nan)
        places = np.flatnonzero(non_dominated(loss_N, self.cost_N))
        found: dict[tuple[float, float], int] = {}
        for place in places.tolist():
            found.setdefault((float(self.cost_N[place]), float(self.loss_N[place])), place)
        return [found[key] for key in sorted(found)]

    def tuned_front(self, name: PolicyName, repeat: int | None) -> list[int]:
        """The front of one search of a tuned policy or of all, thinned to what is re-measured."""
        front = self.front(lambda c: c.tuned and c.policy == name and repeat in (None, c.repeat))
        if repeat is None:
            kept = {p for r in range(self.space.table.repeats) for p in self.tuned_front(name, r)}
            plans = {self.proposals[place].plan for place in kept}
            return [place for place in front if self.proposals[place].plan in plans]
        most = self.space.table.most_fresh
        if len(front) <= most:
            return front
        return [front[round(j)] for j in np.linspace(0, len(front) - 1, most)]

    def choose(self, stage: Stage) -> None:
        """Measure all sweeps and the tuned fronts on fresh sequences, and pick by the search's
        values among them."""
        table = self.space.table
        kept = {n for n, proposal in enumerate(self.proposals) if not proposal.curve.tuned}
        for name in table.tuned:
            for repeat in range(table.repeats):
                kept |= set(self.tuned_front(name, repeat))
        plans = list(dict.fromkeys(self.proposals[place].plan for place in sorted(kept)))
        stage(f"measuring {len(plans)} plans again on fresh sequences")
        self.bench.measure_fresh(plans)
        # As in a search over schedules, a pick whose entropy leaves the band gives way.
        is_kept_N = np.array(
            [p.plan in self.bench.fresh and self.bench.holds(p.plan) for p in self.proposals]
        )
        candidates = Candidates(self.loss_N, 1.0 - self.cost_N, self.allowed_N & is_kept_N)
        found = {"best": pick_best(candidates), "knee": pick_knee(candidates)}
        if (wish := self.space.job.output.pick).startswith("budget="):
            found[wish] = pick_budget(candidates, float(wish.removeprefix("budget=")))
        self.picks = {
            name: self.proposals[place].plan for name, place in found.items() if place is not None
        }

    @property
    def reference_point(self) -> tuple[float, float]:
        """Everything wrong, or the worst of all sweeps; and the reference's cost."""
        if self.space.table.quality == "accuracy":
            return 1.0, _DEAREST
        swept = [n for n, proposal in enumerate(self.proposals) if not proposal.curve.tuned]
        return float(self.loss_N[swept].max()), _DEAREST

    def file(self, context: PolicyContext) -> PolicyFile:
        """All of it, for the record."""
        bench = self.bench
        fronts = self._fronts()
        return PolicyFile(
            setting=self._setting(context),
            roles=tuple(
                dict.fromkeys(role for p in self.proposals for role in p.plan.model_schedule.roles)
            ),
            rows=tuple(self._row(n) for n in range(len(self.proposals))),
            fresh=tuple(self._fresh_rows()),
            families=tuple(
                FamilyResult(
                    family=family,
                    digests=tuple(plan.digest for plan in plans),
                    hypervolume=self._area(plans),
                )
                for family, plans in fronts.items()
                if plans
            ),
            matched=tuple(self._all_matched(fronts)),
            picks={name: plan.digest for name, plan in self.picks.items() if plan in bench.fresh},
        )

    def _fronts(self) -> dict[str, list[Plan]]:
        """Plans of every family's front on the search's sequences."""
        fronts: dict[str, list[Plan]] = {
            name: self._plans(self.front(lambda c, n=name: not c.tuned and c.policy == n))  # type: ignore[misc]
            for name in self.space.table.names
        }
        for name in self.space.table.tuned:
            fronts[Curve(policy=name, tuned=True).family] = self._plans(
                self.tuned_front(name, None)
            )
        return fronts

    def _plans(self, places: Sequence[int]) -> list[Plan]:
        return [self.proposals[place].plan for place in places]

    def _area(self, plans: Sequence[Plan]) -> Estimate:
        columns = FreshColumns.of(self.bench, plans)
        reference = self.reference_point
        return bootstrap_statistic(
            lambda *means: front_area(*losses_and_costs(*means), reference), *columns.all
        ).estimate()

    def _all_matched(self, fronts: Mapping[str, Sequence[Plan]]) -> Iterator[Matched]:
        """Every tuned policy against every swept one and every other tuned one."""
        table = self.space.table
        for name in table.tuned:
            for repeat in (None, *range(table.repeats)):
                own = self._plans(self.tuned_front(name, repeat))
                for family, other in fronts.items():
                    if own and other and family != Curve(policy=name, tuned=True).family:
                        yield self._matched(name, repeat, own, family, other)

    def _matched(
        self,
        name: PolicyName,
        repeat: int | None,
        own: Sequence[Plan],
        against: str,
        other: Sequence[Plan],
    ) -> Matched:
        """A tuned policy's front against another's at equal cost, both in order of cost."""
        columns = FreshColumns.of(self.bench, [*own, *other])
        count, reference = len(own), self.reference_point
        _, cost = losses_and_costs(*(column.mean(axis=0) for column in columns.all))
        within = [j for j in range(count) if cost[j] >= cost[count:].min()]

        def differences(*means: np.ndarray) -> np.ndarray:
            loss, cost = losses_and_costs(*means)
            found = [
                loss[..., j] - loss_at(cost[..., j], loss[..., count:], cost[..., count:])
                for j in within
            ]
            found.append(np.mean(found, axis=0) if found else np.zeros(loss.shape[:-1]))
            areas = [
                front_area(loss[..., part], cost[..., part], reference)
                for part in (slice(0, count), slice(count, None))
            ]
            return np.stack([*found, areas[0] - areas[1]], axis=-1)

        intervals = bootstrap_statistic(differences, *columns.all)
        return Matched(
            family=Curve(policy=name, tuned=True).family,
            against=against,
            repeat=repeat,
            digests=tuple(own[j].digest for j in within),
            cheaper=count - len(within),
            differences=tuple(intervals.estimate(j) for j in range(len(within))),
            mean_difference=intervals.estimate(len(within)) if within else None,
            hypervolume_difference=intervals.estimate(len(within) + 1),
        )

    def _row(self, place: int) -> PolicyRow:
        proposal = self.proposals[place]
        return PolicyRow(
            plan=proposal.plan,
            digest=proposal.plan.digest,
            curve=proposal.curve,
            knob=proposal.knob,
            estimates=dict(self.bench.measured[proposal.plan].estimates),
            loss=float(self.loss_N[place]),
            cost=float(self.cost_N[place]),
            in_entropy_band=bool(self.allowed_N[place]),
        )

    def _fresh_rows(self) -> list[FreshPolicyRow]:
        bench, plans = self.bench, list(self.bench.fresh)
        columns = FreshColumns.of(bench, plans)
        both = bootstrap_statistic(
            lambda *means: np.stack(losses_and_costs(*means), axis=-1), *columns.all
        )
        shown = {bench.reference, *self.picks.values()}
        samples = {
            plan: tuple(bench.evaluator.texts(bench.fresh[plan], _MOST_SAMPLES))
            for plan in plans
            if plan in shown and self.space.table.quality != "duel"
        }
        return [
            FreshPolicyRow(
                digest=plan.digest,
                estimates=dict(bench.fresh[plan].estimates),
                loss=both.estimate(n, 0),
                cost=both.estimate(n, 1),
                in_entropy_band=bench.holds(plan),
                samples=samples.get(plan, ()),
            )
            for n, plan in enumerate(plans)
        ]

    def _setting(self, context: PolicyContext) -> PolicySetting:
        job, table = self.space.job, self.space.table
        return PolicySetting(
            quality=table.quality,
            cost=table.cost,
            task=context.task,
            length=job.plan.length,
            prefix_length=self.space.prefix_length,
            num_steps=job.plan.num_steps,
            num_sequences=job.search.num_sequences,
            block_size=job.search.block_size,
            seed=job.job.seed,
            fresh_sequences=job.search.fresh_sequences or job.search.num_sequences,
            fresh_seed=job.fresh_seed,
            scorer=context.scorer,
            precision=context.precision,
            trials=table.trials,
            repeats=table.repeats,
            reference=self.bench.reference.digest,
            reference_point=self.reference_point,
            temperature=job.plan.temperature,
            top_p=job.plan.top_p,
            entropy_band=self.bench.band,
        )

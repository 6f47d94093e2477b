"""Tuning a policy by Optuna: its parameters, its blocks, the temperature, the model schedule.

Loss against cost, ask and tell, one proposal at a time. The sampler is made anew for every
proposal, seeded by the seed and the number of plans told so far, and every answer of the evaluator
is stored by it: a search that was killed and goes on proposes what the uninterrupted one would
have. The database is an index that is rebuilt where it is damaged (see `study_file`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from schedlab.errors import InputError, SchedlabError
from schedlab.plan import Plan
from schedlab.plan.grid import GRID_POLICIES
from schedlab.plan.plan import PolicyName, Scalar
from schedlab.plan.policy_space import Knob, Range, space_of
from schedlab.search.bayesian import ENTROPY, GP_MAX_TRIALS
from schedlab.search.policy_sweep import PlanSpace
from schedlab.search.study_file import add_complete, make_sampler, open_study

STARTUP_TRIALS = 16
_COMPLEMENT = "1 - "
_STEEPEST = 4.0
"""How much faster or slower than in the last part t may fall in the others."""


class Found(NamedTuple):
    """What evaluating a plan gave; the excess is how far its entropy is outside the band."""

    loss: float
    cost: float
    entropy_excess: float = 0.0


@dataclass(frozen=True)
class TuningSpace:
    """What Optuna may choose for one policy."""

    plans: PlanSpace
    name: PolicyName

    @property
    def ranges(self) -> dict[str, Range]:
        """The policy's own parameters but those that the job fixes."""
        fixed = self.plans.table.parameters.get(self.name, {})
        return {
            name: range_
            for name, range_ in space_of(self.name).ranges.items()
            if name not in fixed
        }

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """All parameters always, so that no proposal is partial."""
        found = {
            _label(name, range_): _distribution(range_) for name, range_ in self.ranges.items()
        }
        choices: dict[str, Sequence[Scalar | None]] = {
            "temperature": self.plans.temperatures,
            "top_p": self.plans.top_ps,
            "block_length": self.plans.block_lengths(self.name),
        }
        found |= {
            name: CategoricalDistribution(list(values))
            for name, values in choices.items()
            if len(values) > 1
        }
        found |= {name: CategoricalDistribution(words) for name, words in self._choices.items()}
        if space_of(self.name).knob == "steps":
            most = self.plans.job.plan.num_steps
            found["steps"] = IntDistribution(max(1, self._parts), most, log=True)
        for name in self._increments:
            found[name] = FloatDistribution(1 / _STEEPEST, _STEEPEST, log=True)
        for part in range(self._parts):
            found[f"part_{part:02d}"] = CategoricalDistribution(self.plans.roles)
        return found

    @property
    def _choices(self) -> dict[str, tuple[str, ...]]:
        fixed = self.plans.table.parameters.get(self.name, {})
        known = space_of(self.name).choices
        return {name: words for name, words in known.items() if name not in fixed}

    @property
    def _increments(self) -> list[str]:
        """Names of how far t falls in the parts of a grid but the last, over what it falls there,
        where grids are tuned."""
        points = self.plans.table.grid_points if self.name in GRID_POLICIES else 0
        return [f"fall_{place:02d}" for place in range(points - 1)]

    @property
    def _points(self) -> int:
        return len(self._increments) + 1 if self._increments else 0

    @property
    def _parts(self) -> int:
        return self.plans.table.schedule_parts

    def plan(self, values: Mapping[str, Any]) -> Plan:
        """The plan of a proposal."""
        parameters: dict[str, Scalar] = {}
        for name, range_ in self.ranges.items():
            value = values[_label(name, range_)]
            if range_.scale == "complement":
                value = 1 - value
            parameters[name] = int(value) if range_.whole else float(f"{value:.6g}")
        parameters |= {name: values[name] for name in self._choices}
        block_length = values.get("block_length", self.plans.block_lengths(self.name)[0])
        num_steps = None
        if "steps" in values:  # the nearest that spreads evenly over the blocks
            steps = self._many_enough(self.plans.all_steps(block_length))
            num_steps = min(steps, key=lambda known: abs(math.log(known / values["steps"])))
        heavy = self.plans.job.plan.heavy
        return self.plans.plan(
            self.name,
            parameters,
            schedule=tuple(values[f"part_{j:02d}"] for j in range(self._parts)) or (heavy,),
            temperature=values.get("temperature", self.plans.temperatures[0]),
            top_p=values.get("top_p", self.plans.top_ps[0]),
            increments=[*(values[name] for name in self._increments), 1.0][: self._points],
            block_length=block_length,
            num_steps=num_steps,
        )

    def seeds(self, defaults: Mapping[str, Scalar]) -> list[dict[str, Any]]:
        """Values of the knob's sweep, everything else as it is by default."""
        knob = space_of(self.name).knob
        points: list[dict[str, Any]] = [{}]
        if isinstance(knob, Knob):
            spread = knob.range.spread(self.plans.table.points)
            points = [knob.at(value) for value in spread]
        elif knob == "steps":
            steps = self.plans.steps(self.plans.block_lengths(self.name)[0])
            points = [{"steps": value} for value in self._many_enough(steps)]
        found: list[dict[str, Any]] = []
        for point in points:
            values: dict[str, Any] = {}
            for name, range_ in self.ranges.items():
                value = point.get(name, defaults[name])
                value = min(max(float(value), range_.low), range_.high)
                value = 1 - value if range_.scale == "complement" else value
                values[_label(name, range_)] = int(value) if range_.whole else value
            for name, distribution in self.distributions.items():
                if isinstance(distribution, CategoricalDistribution):
                    values[name] = distribution.choices[0]
            values |= {name: point[name] for name in point if name == "steps"}
            values |= dict.fromkeys(self._increments, 1.0)  # the uniform grid
            if values not in found:  # points may differ in what the job fixes alone
                found.append(values)
        return found

    def _many_enough(self, steps: Sequence[int]) -> list[int]:
        """Numbers of steps that are at least as many as the schedule has parts."""
        found = [value for value in steps if value >= self._parts]
        if not found:
            raise InputError(
                f"policies.schedule_parts {self._parts}: policy {self.name!r} has"
                f" {max(steps)} steps at most here; ask for fewer parts"
            )
        return found


def _label(name: str, range_: Range) -> str:
    return f"{_COMPLEMENT}{name}" if range_.scale == "complement" else name


def _distribution(range_: Range) -> BaseDistribution:
    if range_.whole:
        return IntDistribution(round(range_.low), round(range_.high))
    if range_.scale == "complement":
        return FloatDistribution(1 - range_.high, 1 - range_.low, log=True)
    return FloatDistribution(range_.low, range_.high, log=range_.scale == "log")


def tune(
    space: TuningSpace,
    evaluate: Callable[[Sequence[Plan]], Sequence[Found]],
    *,
    defaults: Mapping[str, Scalar],
    num_trials: int,
    seed: Sequence[int],
    constrained: bool = False,
    storage: Path | None = None,
    fingerprint: str = "",
    sampler: Literal["auto", "gp", "tpe"] = "auto",
    told: Callable[[int], None] = lambda done: None,
) -> list[Plan]:
    """Search for plans of one policy on the front of loss and cost.

    Args:
        space: what may be chosen.
        evaluate: loss and cost of plans, by sampling or from the store.
        defaults: the policy's parameters where nothing is chosen.
        num_trials: proposals beyond the seeds, which are the knob's sweep.
        seed: of all proposals.
        constrained: whether entropy must stay in a band (a soft constraint).
        storage: SQLite file of the study; None keeps it in memory.
        fingerprint: of all that the losses depend on; a study of another one is rebuilt.
        sampler: `auto` is the Gaussian process up to 300 trials, beyond that TPE.
        told: called with the number of proposals told so far.

    Returns:
        The plans of all proposals, each once, the seeds' first.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if sampler == "auto":
        sampler = "gp" if num_trials <= GP_MAX_TRIALS else "tpe"
    distributions = space.distributions
    seeds = space.seeds(defaults)
    described = {name: repr(known) for name, known in distributions.items()}
    settings = json.dumps([fingerprint, described, list(seed), seeds, sampler, constrained])
    plans: list[Plan] = []
    with open_study(storage, settings) as study:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        plans = [space.plan(known.params) for known in complete]
        new = seeds[len(plans) :]
        for values, found in zip(
            new, _evaluated(evaluate, [space.plan(values) for values in new]), strict=True
        ):
            constraints = {ENTROPY: found.entropy_excess} if constrained else {}
            add_complete(study, values, distributions, found[:2], constraints)
            plans.append(space.plan(values))
        while (done := len(plans) - len(seeds)) < num_trials:
            told(done)
            generator = np.random.default_rng([*seed, len(plans)])
            study.sampler = make_sampler(
                sampler, int(generator.integers(2**31)), num_startup=STARTUP_TRIALS
            )
            trial = study.ask(distributions)
            plan = space.plan(trial.params)
            found = _evaluated(evaluate, [plan])[0]
            if constrained:
                trial.set_constraint(ENTROPY, found.entropy_excess)
            study.tell(trial, [found.loss, found.cost])
            plans.append(plan)
    return list(dict.fromkeys(plans[: len(seeds) + num_trials]))


def _evaluated(
    evaluate: Callable[[Sequence[Plan]], Sequence[Found]], plans: Sequence[Plan]
) -> list[Found]:
    found = list(evaluate(plans)) if plans else []
    if not all(math.isfinite(value) for one in found for value in one):
        raise SchedlabError(f"losses and costs must be finite, got {found}; look at the samples")
    return found

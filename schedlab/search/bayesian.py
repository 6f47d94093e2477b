"""Bayesian search over segment assignments by Optuna: log Gen-PPL against cost, ask and tell.

Optuna proposes, this module disposes:
- A proposal that is over the cost limit, or already told, is never run: the nearest assignment
  that is neither (a random one among the nearest) takes its place. Costs are known before running,
  so they need no model of feasibility.
- The entropy band is a constraint (soft, as all of Optuna's): proposals go where quality is good
  and entropy allowed, so trials are not spent on dull text that scores well and is never picked.
- Seeds (hand-made and additive plans) are evaluated together, so that they share prefixes, and
  told before the first proposal.
- The sampler is made anew for every proposal, seeded by the job's seed and the number of
  assignments told so far. Every loop tells exactly one assignment, in one transaction. So a search
  that was killed at any point and resumed proposes what the uninterrupted one would; a trial left
  running is marked as failed, which no sampler looks at, and its evaluation is in the store.
- The database is an index: when it is damaged or belongs to other settings it is moved aside and
  rebuilt by replaying the search, with every evaluation read from the store.

Up to 300 trials and 40 segments the Gaussian-process sampler, beyond that TPE.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState

from schedlab.errors import InputError, SchedlabError
from schedlab.plan import ModelSchedule
from schedlab.search.space import Assignment
from schedlab.search.study_file import add_complete, make_sampler, open_study

GP_MAX_TRIALS = 300
GP_MAX_SEGMENTS = 40
ENTROPY = "entropy"
_LEVEL_SIZE = 2_000
_SAMPLE_SIZE = 200

SamplerName = Literal["auto", "gp", "tpe"]


@dataclass(frozen=True)
class AssignmentSpace:
    """Assignments of roles to (nearly) equal segments of the denoising steps.

    Args:
        num_steps: T.
        num_segments: S.
        roles: two or more denoiser roles.
    """

    num_steps: int
    num_segments: int
    roles: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.roles)) != len(self.roles) or len(self.roles) < 2:
            raise InputError(f"a search needs two or more different roles, got {self.roles}")
        if not 1 <= self.num_segments <= self.num_steps:
            raise InputError(
                f"number of segments must be between 1 and the {self.num_steps} steps,"
                f" got {self.num_segments}"
            )

    @property
    def names(self) -> list[str]:
        """Parameter names in the study, noisiest segment first."""
        return [f"segment_{j:03d}" for j in range(self.num_segments)]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Every parameter always, so that the space is static and no proposal is partial."""
        return {name: CategoricalDistribution(self.roles) for name in self.names}

    def schedule(self, assignment: Assignment) -> ModelSchedule:
        """The model schedule of an assignment."""
        return ModelSchedule.from_assignment(assignment, self.num_steps)


class Outcome(NamedTuple):
    """What sampling an assignment gave.

    Args:
        log_ppl: log Gen-PPL, nats.
        entropy_excess: how far its entropy is outside the band, nats; at most 0 within it.
    """

    log_ppl: float
    entropy_excess: float = 0.0


@dataclass(frozen=True)
class Objectives:
    """What is minimised, and what may be run.

    Args:
        outcomes: what every assignment in a list gave, by sampling (or from the store).
        cost: cost of an assignment before running, such as FLOPs as a share of all-heavy's.
        max_cost: assignments that cost more are never run.
    """

    outcomes: Callable[[Sequence[Assignment]], Sequence[Outcome]]
    cost: Callable[[Assignment], float]
    max_cost: float = math.inf

    def affordable(self, assignment: Assignment) -> bool:
        """Whether it may be run."""
        return self.cost(assignment) <= self.max_cost * (1 + 1e-9)


def optimize(
    space: AssignmentSpace,
    objectives: Objectives,
    *,
    num_trials: int,
    seed: int,
    seeds: Sequence[Assignment] = (),
    storage: Path | None = None,
    fingerprint: str = "",
    sampler: SamplerName = "auto",
    told: Callable[[int], None] | None = None,
) -> list[Assignment]:
    """Search for assignments on the front of log Gen-PPL and cost.

    Args:
        space: what is searched.
        objectives: what is minimised.
        num_trials: proposals beyond the seeds; fewer when no affordable assignment is left.
        seed: of all proposals.
        seeds: told first, repetitions and unaffordable ones left out.
        storage: SQLite file that the study lives in; None keeps it in memory.
        fingerprint: of all that the qualities depend on; a study of another one is rebuilt.
        sampler: `auto` chooses by the number of trials and segments.
        told: called with the number of proposals told so far.

    Returns:
        All assignments told, in order, the seeds first.

    Raises:
        InputError: a space that makes no sense, or a seed outside the space.
        SchedlabError: the database cannot be written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seeds = list(dict.fromkeys(a for a in map(tuple, seeds) if objectives.affordable(a)))
    _check_seeds(seeds, space)
    kind = _sampler_kind(sampler, num_trials, space)
    settings = f"{fingerprint} {space} {seed} {objectives.max_cost} {seeds} {kind} {ENTROPY}"
    with open_study(storage, settings) as study:
        search = _Search(space, objectives, study, seed, kind)
        search.tell_seeds(seeds)
        while (done := len(search.told) - len(seeds)) < num_trials:
            if told is not None:
                told(done)
            if not search.propose():
                break
        return list(search.told)[: len(seeds) + num_trials]


class _Search:
    """The study, and what was told to it."""

    def __init__(
        self,
        space: AssignmentSpace,
        objectives: Objectives,
        study: optuna.Study,
        seed: int,
        sampler: Literal["gp", "tpe"],
    ) -> None:
        self.space, self.objectives = space, objectives
        self.study, self.seed, self.sampler = study, seed, sampler
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        self.cheapest = min(
            space.roles, key=lambda role: objectives.cost((role,) * space.num_segments)
        )
        self.told: dict[Assignment, None] = dict.fromkeys(
            self._assignment(trial.params) for trial in complete
        )

    def tell_seeds(self, seeds: Sequence[Assignment]) -> None:
        """Evaluate the seeds that were not told yet, all at once."""
        new = [assignment for assignment in seeds if assignment not in self.told]
        for assignment, outcome in zip(new, self._outcomes(new), strict=True):
            self._add(assignment, outcome)

    def propose(self) -> bool:
        """Ask for one assignment, evaluate and tell it; False when no new one can be found."""
        generator = np.random.default_rng([self.seed, len(self.told)])
        self.study.sampler = make_sampler(
            self.sampler,
            int(generator.integers(2**31)),
            num_startup=max(10, 2 * self.space.num_segments),
        )
        trial = self.study.ask(self.space.distributions)
        proposed = self._assignment(trial.params)
        assignment = self._nearest_new(proposed, generator)
        if assignment == proposed:
            outcome = self._outcomes([assignment])[0]
            trial.set_constraint(ENTROPY, outcome.entropy_excess)
            self.study.tell(trial, [outcome.log_ppl, self.objectives.cost(assignment)])
            self.told[assignment] = None
            return True
        self.study.tell(trial, state=TrialState.FAIL)
        if assignment is None:
            return False
        self._add(assignment, self._outcomes([assignment])[0])
        return True

    def _nearest_new(
        self, proposed: Assignment, generator: np.random.Generator
    ) -> Assignment | None:
        """The proposal itself, or a random one of the nearest that are affordable and not told.

        An unaffordable proposal is first made cheaper, segment by segment in random order.
        """
        center = list(proposed)
        for j in generator.permutation(len(center)).tolist():
            if self.objectives.affordable(tuple(center)):
                break
            center[j] = self.cheapest
        for distance in range(self.space.num_segments + 1):
            for assignment in _at_distance(center, distance, self.space.roles, generator):
                if assignment not in self.told and self.objectives.affordable(assignment):
                    return assignment
        return None

    def _outcomes(self, assignments: Sequence[Assignment]) -> list[Outcome]:
        outcomes = list(self.objectives.outcomes(assignments))
        if not all(math.isfinite(value) for outcome in outcomes for value in outcome):
            raise SchedlabError(
                f"log Gen-PPL and entropy must be finite, got {outcomes}; look at the scorer and"
                " the samples"
            )
        return outcomes

    def _add(self, assignment: Assignment, outcome: Outcome) -> None:
        params = dict(zip(self.space.names, assignment, strict=True))
        values = [outcome.log_ppl, self.objectives.cost(assignment)]
        constraints = {ENTROPY: outcome.entropy_excess}
        add_complete(self.study, params, self.space.distributions, values, constraints)
        self.told[assignment] = None

    def _assignment(self, params: dict[str, str]) -> Assignment:
        return tuple(params[name] for name in self.space.names)


def _at_distance(
    center: Sequence[str], distance: int, roles: Sequence[str], generator: np.random.Generator
) -> Iterator[Assignment]:
    """Assignments that differ in `distance` segments, shuffled: all, or a sample where many."""
    others = [[role for role in roles if role != own] for own in center]
    size = math.comb(len(center), distance) * (len(roles) - 1) ** distance
    if size <= _LEVEL_SIZE:
        level = [
            _replaced(center, positions, chosen)
            for positions in itertools.combinations(range(len(center)), distance)
            for chosen in itertools.product(*(others[j] for j in positions))
        ]
        yield from (level[i] for i in generator.permutation(size).tolist())
        return
    for _ in range(_SAMPLE_SIZE):
        positions = generator.permutation(len(center))[:distance].tolist()
        picks = generator.integers(len(roles) - 1, size=distance).tolist()
        yield _replaced(
            center, positions, [others[j][i] for j, i in zip(positions, picks, strict=True)]
        )


def _replaced(center: Sequence[str], positions: Sequence[int], roles: Sequence[str]) -> Assignment:
    changed = list(center)
    for position, role in zip(positions, roles, strict=True):
        changed[position] = role
    return tuple(changed)


def _sampler_kind(
    sampler: SamplerName, num_trials: int, space: AssignmentSpace
) -> Literal["gp", "tpe"]:
    if sampler != "auto":
        return sampler
    small = num_trials <= GP_MAX_TRIALS and space.num_segments <= GP_MAX_SEGMENTS
    return "gp" if small else "tpe"


def _check_seeds(seeds: Sequence[Assignment], space: AssignmentSpace) -> None:
    for assignment in seeds:
        if len(assignment) != space.num_segments or not set(assignment) <= set(space.roles):
            raise InputError(
                f"a seed must give one of {space.roles} to each of {space.num_segments} segments,"
                f" got {assignment}"
            )

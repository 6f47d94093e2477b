"""A world of guided plans with planted truths: an evaluator without networks.

Accuracy rises with log lambda, and a little with the freedom of adaptive clocks; log Gen-PPL rises
with the square of log lambda; the cost is steps * (1 + iterations).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from schedlab.job import Job, parse_job
from schedlab.plan import Plan
from schedlab.results import (
    BlockRecord,
    Identity,
    Measurement,
    PlanCost,
    RoleCost,
    RoleUsage,
    SeedBlock,
    merge,
)
from schedlab.results.control_file import ControlTrace

LOW, HIGH = 20.0, 20_000.0
STEPS, SCORED = 10, 32
LABELS = ("art", "sport", "news")
BASE, RISE, GAIN, BASE_LOG_PPL = 0.3, 0.5, 0.1, 4.0
BY_LABEL = 0.05


def push_of(plan: Plan) -> float:
    """Where lambda is between its bounds, from 0 to 1 on a log scale; 0 without guidance."""
    assert plan.guidance is not None
    if plan.guidance.iterations == 0:
        return 0.0
    return math.log(plan.guidance.scale / LOW) / math.log(HIGH / LOW)


def accuracy_of(plan: Plan) -> float:
    smooth = float(plan.policy.parameters.get("smooth", 1.0))
    return BASE + RISE * push_of(plan) + GAIN * (1 - smooth)


def log_ppl_of(plan: Plan) -> float:
    return BASE_LOG_PPL + push_of(plan) ** 2


def cost_of(plan: Plan) -> float:
    """Over that of the reference."""
    assert plan.guidance is not None
    return plan.num_steps * (1 + plan.guidance.iterations) / STEPS


@dataclass
class ControlWorld:
    """An evaluator.

    Args:
        accuracy, log_ppl, entropy, distinct: of a plan on the sequences of a seed.
        second: accuracy by the second judge.
    """

    accuracy: Callable[[Plan, int], float] = lambda plan, seed: accuracy_of(plan)
    log_ppl: Callable[[Plan, int], float] = lambda plan, seed: log_ppl_of(plan)
    entropy: Callable[[Plan], float] = lambda plan: 3.0 - 0.2 * push_of(plan)
    distinct: Callable[[Plan], float] = lambda plan: 0.95 - 0.1 * push_of(plan)
    second: float = 0.4
    runs: list[tuple[Plan, SeedBlock]] = field(default_factory=list)
    traced: list[tuple[Plan, SeedBlock]] = field(default_factory=list)

    def __call__(self, plans: Sequence[Plan], blocks: Sequence[SeedBlock]) -> list[Measurement]:
        return [merge([self._record(plan, block) for block in blocks]) for plan in plans]

    def cost_of(self, plan: Plan) -> PlanCost:
        raise AssertionError("costs of guided plans are counted, not expected")

    def texts(self, measurement: Measurement, num: int | None = None) -> list[str]:
        digest = measurement.plan.digest[:8]
        return [f"{digest} {row[0]}" for row in measurement.tokens_SL[:num]]

    def trace(self, plan: Plan, block: SeedBlock) -> ControlTrace:
        self.traced.append((plan, block))
        return ControlTrace(
            digest=plan.digest, num_sequences=block.size, seed=block.seed, steps=(), t=(),
            mean_levels=(), curves={}, summary={}, label="art", example=(),
        )  # fmt: skip

    def _record(self, plan: Plan, block: SeedBlock) -> BlockRecord:
        self.runs.append((plan, block))
        size, steps = block.size, plan.num_steps
        number_S = np.arange(block.first, block.first + size)
        by_label = BY_LABEL * (number_S % len(LABELS) - 1.0)
        accuracy = self.accuracy(plan, block.seed)
        scores: dict[str, Any] = {
            "nll": [SCORED * self.log_ppl(plan, block.seed)] * size,
            "scored_tokens": [float(SCORED)] * size,
            "entropy": [self.entropy(plan)] * size,
            "distinct_3": [self.distinct(plan)] * size,
            "self_bleu": [10.0 + push_of(plan)] * size,
            "control_judge": (accuracy + by_label).tolist(),
            "control_p_judge": [0.5] * size,
            "control_second": [self.second] * size,
            "guide_topic": [0.9] * size,
        }
        assert plan.guidance is not None
        passes = steps * plan.guidance.iterations
        counts = {role: (plan.model_schedule.count(role), 0) for role in plan.model_schedule.roles}
        counts["guidance"] = (0, passes)
        rng = np.random.default_rng(int(plan.digest[:8], 16))
        return BlockRecord(
            identity=Identity(
                plan=plan, block=block, denoisers={}, tokenizer="", scorer="", prompts=None,
                precision="float64", device="cpu", engine=1, metrics={},
            ),
            prefix_length=0,
            tokens=rng.integers(0, 50, (size, plan.length)).tolist(),
            scores=scores,
            usage={
                role: RoleUsage(forwards=[n] * size, head_positions=[heads] * size)
                for role, (n, heads) in counts.items()
            },
            costs={
                role: RoleCost(num_blocks=0 if role == "guidance" else 2,
                               block_flops=0 if role == "guidance" else 100, head_flops=100)
                for role in counts
            },
            seconds=[0.01 * (steps + passes)] * size,
        )  # fmt: skip


def control_data(**tables: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Tables of a job on this world, updated: 12 sequences and 12 fresh ones."""
    data: dict[str, dict[str, Any]] = {
        "job": {"seed": 5},
        "lab": {
            "denoisers": {"H": "h", "L": "l"},
            "classifiers": {"topic": "t"},
            "judges": {"judge": "j", "second": "k"},
        },
        "plan": {"length": 8, "num_steps": STEPS},
        "search": {"num_sequences": 12, "block_size": 6},
        "control": {
            "attributes": [{"classifier": "topic"}],
            "cost": "flops_total",
            "trials": 12,
            "points": 3,
            "sampler": "tpe",
        },
        "output": {"pick": "best"},
    }
    for name, values in tables.items():
        data[name] = data.get(name, {}) | values
    return data


def control_job(
    *, pick: str = "best", search: dict[str, Any] | None = None, seed: int = 5, **table: Any
) -> Job:
    """A job whose `[control]` is updated."""
    return parse_job(
        control_data(control=table, output={"pick": pick}, search=search or {}, job={"seed": seed})
    )

"""A world of policies with planted truths: an evaluator without networks.

Every plan takes a number of forwards and has a true loss, both given as functions of the plan.
Sequences have a difficulty that all plans share, and every plan has noise of its own, addressed by
(seed, sequence, plan).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from schedlab.job import Job, parse_job
from schedlab.plan import Plan
from schedlab.plan.policy_space import Range
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

SCORED = 32
MOST, FEWEST = 28, 4
CONFIDENCE = Range(0.3, 0.999, "complement")


def forwards_of(plan: Plan) -> int:
    """By the threshold where there is one, else the steps: from 4 to 28."""
    threshold = plan.policy.parameters.get("threshold")
    if threshold is None:
        return plan.num_steps
    span = math.log(1 - CONFIDENCE.low) - math.log(1 - CONFIDENCE.high)
    share = (math.log(1 - CONFIDENCE.low) - math.log(1 - float(threshold))) / span
    return round(FEWEST + share * (MOST - FEWEST))


def linear(forwards: float) -> float:
    """The loss that so many forwards have: linear, so that interpolation is exact."""
    return 0.8 - 0.02 * forwards


def usual_loss(plan: Plan) -> float:
    return linear(forwards_of(plan))


@dataclass
class PolicyWorld:
    """An evaluator.

    Args:
        loss: of a plan on the sequences of a seed.
        quality: what the loss is.
        entropy: of a plan.
        noise, shared: of a plan's loss per sequence; of all plans' together.
    """

    loss: Callable[[Plan, int], float] = lambda plan, seed: usual_loss(plan)
    quality: str = "accuracy"
    entropy: Callable[[Plan], float] = lambda plan: 3.0
    noise: float = 0.0
    shared: float = 0.0
    runs: list[tuple[Plan, SeedBlock]] = field(default_factory=list)

    def __call__(self, plans: Sequence[Plan], blocks: Sequence[SeedBlock]) -> list[Measurement]:
        return [merge([self._record(plan, block) for block in blocks]) for plan in plans]

    def cost_of(self, plan: Plan) -> PlanCost:
        raise AssertionError("costs of policies are counted, not expected")

    def texts(self, measurement: Measurement, num: int | None = None) -> list[str]:
        digest = measurement.plan.digest[:8]
        return [f"{digest} {row[0]}" for row in measurement.tokens_SL[:num]]

    def _record(self, plan: Plan, block: SeedBlock) -> BlockRecord:
        self.runs.append((plan, block))
        common = [block.seed, block.first]
        own = np.random.default_rng([*common, *hashlib.sha256(plan.digest.encode()).digest()])
        loss = self.loss(plan, block.seed) + np.zeros(block.size)
        loss += self.shared * np.random.default_rng(common).standard_normal(block.size)
        loss += self.noise * own.standard_normal(block.size)
        entropy = self.entropy(plan) + 0.01 * own.standard_normal(block.size)
        scores: dict[str, Any] = {
            "accuracy": {"accuracy": (1 - loss).tolist(), "entropy": entropy.tolist()},
            "gen_ppl": {"nll": (SCORED * loss).tolist(), "scored_tokens": [SCORED] * block.size,
                        "entropy": entropy.tolist(), "distinct_2": [0.8] * block.size},
            "duel": {"duel_nats": (SCORED * loss).tolist(), "duel_tokens": [SCORED] * block.size},
        }[self.quality]  # fmt: skip
        roles = plan.model_schedule.roles
        total = forwards_of(plan)
        counts = {role: total * plan.model_schedule.count(role) // plan.num_steps
                  for role in roles}  # fmt: skip
        counts[roles[0]] += total - sum(counts.values())
        return BlockRecord(
            identity=Identity(
                plan=plan, block=block, denoisers={}, tokenizer="", scorer="", prompts=None,
                precision="float64", device="cpu", engine=1, metrics={},
            ),
            prefix_length=0,
            tokens=own.integers(0, 50, (block.size, plan.length)).tolist(),
            scores={name: [float(v) for v in column] for name, column in scores.items()},
            usage={
                role: RoleUsage(forwards=[n] * block.size, head_positions=[n] * block.size)
                for role, n in counts.items()
            },
            costs={
                role: RoleCost(num_blocks={"H": 12}.get(role, 4), block_flops=100, head_flops=10)
                for role in roles
            },
            seconds=[0.01 * total] * block.size,
        )  # fmt: skip


def policies_job(
    *,
    quality: str = "accuracy",
    lights: bool = False,
    plan: dict | None = None,
    search: dict | None = None,
    pick: str = "knee",
    seed: int = 0,
    **table: object,
) -> Job:
    """A job over policies: 36 positions, a reference of 28 steps, 16 sequences and 16 fresh."""
    data: dict[str, Any] = {
        "job": {"seed": seed},
        "lab": {
            "denoisers": {"H": "h"} | ({"L": "l"} if lights else {}),
            "scorer": "bundled:scorer" if quality == "gen_ppl" else "none",
        },
        "plan": {"length": 36, "num_steps": MOST} | (plan or {}),
        "search": {"num_sequences": 16, "block_size": 8} | (search or {}),
        "policies": {
            "names": ["threshold"],
            "tuned": [],
            "points": 5,
            "quality": quality,
            "cost": "seconds",  # 0.01 a forward, whatever runs
            "trials": 4,
            "sampler": "tpe",
        }
        | table,
        "output": {"pick": pick},
    }
    if quality == "accuracy":
        data["task"] = {}
    return parse_job(data)

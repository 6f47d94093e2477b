"""A world with a planted truth: an evaluator without networks, and the analysis of it.

True log Gen-PPL is 4 nats plus the planted cost of every light step; sequences have a difficulty
that all plans share (common noise) and every plan has noise of its own. Noise is addressed by
(seed, sequence, plan), so other seeds give other noise, and calls do not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from schedlab.job import Job, parse_job
from schedlab.plan import ModelSchedule, Plan
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
from schedlab.search.additive import StepCosts

BASE_LOG_PPL, TRUE_ENTROPY, SCORED = 4.0, 3.5, 32
BLOCKS = {"H": 12, "M": 8, "L": 4}
FLOPS_PER_BLOCK, HEAD_FLOPS = 100, 300


def planted_cost(num_steps: int) -> np.ndarray:
    """Cost of a light step: a bump in the middle, nothing at the end."""
    t = 1 - (np.arange(num_steps) + 0.5) / num_steps
    return 1.2 * np.exp(-(((t - 0.5) / 0.2) ** 2)) / num_steps


def true_log_ppl(schedule: ModelSchedule) -> float:
    share = {"H": 0.0, "M": 0.4, "L": 1.0}
    weight = np.array([share[role] for role in schedule.steps])
    return float(BASE_LOG_PPL + weight @ planted_cost(schedule.num_steps))


def planted_costs(num_steps: int = 20) -> list[StepCosts]:
    """The analysis that knows the truth, as loss gap; and a path KL that is a little off."""
    light = planted_cost(num_steps)
    off = light * (1 + 0.3 * np.cos(np.arange(num_steps)))
    return [
        StepCosts("H", {"L": tuple(light), "M": tuple(0.4 * light)}, "loss_gap"),
        StepCosts("H", {"L": tuple(off), "M": tuple(0.4 * off)}, "path_kl", "heavy_sampler"),
    ]


@dataclass
class PlantedWorld:
    """An evaluator.

    Args:
        noise: of a plan's log Gen-PPL per sequence, nats.
        dull: schedules that give dull text: better Gen-PPL, entropy far too low.
        dull_on: seeds on which they do; all by default.
    """

    noise: float = 0.05
    dull: tuple[str, ...] = ()
    dull_on: tuple[int, ...] | None = None
    store: dict[tuple[str, SeedBlock], BlockRecord] = field(default_factory=dict)
    runs: list[tuple[str, SeedBlock]] = field(default_factory=list)

    def __call__(self, plans: Sequence[Plan], blocks: Sequence[SeedBlock]) -> list[Measurement]:
        for plan in dict.fromkeys(plans):
            for block in blocks:
                key = (str(plan.model_schedule), block)
                if key not in self.store:
                    self.runs.append(key)
                    self.store[key] = self._record(plan, block)
        return [
            merge([self.store[str(plan.model_schedule), block] for block in blocks])
            for plan in plans
        ]

    def cost_of(self, plan: Plan) -> PlanCost:
        nominal = {role: plan.model_schedule.count(role) for role in plan.model_schedule.roles}
        blocks = sum(count * BLOCKS[role] for role, count in nominal.items())
        return PlanCost(
            forwards={role: 0.9 * count for role, count in nominal.items()},
            block_forwards=0.9 * blocks,
            flops_blocks=0.9 * blocks * FLOPS_PER_BLOCK,
            flops_total=0.9 * blocks * FLOPS_PER_BLOCK + plan.length * HEAD_FLOPS,
            nominal_forwards=nominal,
            nominal_block_forwards=blocks,
            nominal_flops_blocks=blocks * FLOPS_PER_BLOCK,
            nominal_flops_total=blocks * FLOPS_PER_BLOCK
            + plan.num_steps * plan.length * HEAD_FLOPS,
        )

    def texts(self, measurement: Measurement, num: int | None = None) -> list[str]:
        schedule = measurement.plan.model_schedule
        return [f"{schedule}: text {row[0]}" for row in measurement.tokens_SL[:num]]

    def _record(self, plan: Plan, block: SeedBlock) -> BlockRecord:
        schedule = plan.model_schedule
        text = str(schedule)
        dull = text in self.dull and (self.dull_on is None or block.seed in self.dull_on)
        common = [block.seed, block.first]
        shared = np.random.default_rng(common).normal(0, 0.4, block.size)
        own = np.random.default_rng([*common, *hashlib.sha256(text.encode()).digest()])
        log_ppl = true_log_ppl(schedule) + shared + self.noise * own.standard_normal(block.size)
        entropy = TRUE_ENTROPY + 0.1 * shared + 0.02 * own.standard_normal(block.size)
        if dull:
            log_ppl, entropy = log_ppl - 1.0, entropy - 0.8
        return BlockRecord(
            identity=Identity(
                plan=plan,
                block=block,
                denoisers={},
                tokenizer="",
                scorer="",
                prompts=None,
                precision="float64",
                device="cpu",
                engine=1,
                metrics={},
            ),
            prefix_length=0,
            tokens=own.integers(0, 50, (block.size, plan.length)).tolist(),
            scores={
                "nll": (log_ppl * SCORED).tolist(),
                "scored_tokens": [float(SCORED)] * block.size,
                "entropy": entropy.tolist(),
            },
            usage={
                role: RoleUsage(
                    forwards=[schedule.count(role)] * block.size,
                    head_positions=[plan.length // len(schedule.roles)] * block.size,
                )
                for role in schedule.roles
            },
            costs={
                role: RoleCost(
                    num_blocks=BLOCKS[role],
                    block_flops=BLOCKS[role] * FLOPS_PER_BLOCK,
                    head_flops=HEAD_FLOPS,
                )
                for role in schedule.roles
            },
            seconds=[0.01] * block.size,
        )


def planted_job(**search: object) -> Job:
    """A job on the planted world: 20 steps, 10 segments, 4 of them light unless said otherwise."""
    tables: dict = {"num_sequences": 32, "fresh_sequences": 32} | search
    output = {"samples": 2}
    if "pick" in tables:
        output["pick"] = tables.pop("pick")
    return parse_job(
        {
            "lab": {"denoisers": {"H": "h", "L": "l", "M": "m"}},
            "plan": {"length": 8, "num_steps": 20},
            "search": tables,
            "output": output,
        }
    )

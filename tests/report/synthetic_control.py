"""A finished joint search over guidance and allocation with planted truths, written without
running anything.

Control rises with lambda and so does Gen-PPL. The adaptive clock has `gain` more control than the
constant one at every lambda, its noise-matched constant `matched` of that gain.
"""

from __future__ import annotations

import functools
import hashlib
import math
from typing import Any

import numpy as np

from schedlab.plan import ModelSchedule, Plan, PolicySpec
from schedlab.plan.guidance import Attribute, Guidance
from schedlab.results import Estimate
from schedlab.results.control_file import (
    ControlFile,
    ControlRow,
    ControlSetting,
    ControlTrace,
    FreshControlRow,
    Origin,
    StepOfText,
)

LENGTH, STEPS = 48, 50
LABELS = ("world", "sports", "business", "science")
JUDGE, OTHER, GUIDE = "press-judge", "second-judge", "topic"
BASE = 0.27
BASE_PPL = 41.0
SCALES = (20.0, 200.0, 2000.0, 20000.0)
OBJECTIVES = ("control", "gen_ppl", "cost")
ATTRIBUTES = [Attribute(classifier=GUIDE, label="each")]
PARAMETERS = ("scale", "smooth", "iterations", "policy", "steps", "schedule")


def plan(
    name: Any = "tta_constant",
    scale: float = 2000.0,
    *,
    iterations: int = 3,
    steps: str = f"H{STEPS}",
    process: Any = "masked",
    **parameters: Any,
) -> Plan:
    return Plan(
        length=LENGTH,
        model_schedule=ModelSchedule.parse(steps),
        process=process,
        policy=PolicySpec(name=name, parameters=parameters),
        guidance=Guidance(attributes=ATTRIBUTES, scale=scale, iterations=iterations),
    )


def adaptive(scale: float, smooth: float = 0.6, pooled: str = "none", **more: Any) -> Plan:
    return plan("tta_adaptive", scale, signal="gradient", pooled=pooled, smooth=smooth, **more)


REFERENCE = plan(scale=0.0, iterations=0)


class World:
    """Planted measurements: the same plan gives the same numbers whenever asked."""

    def __init__(self, rise: float, gain: float, matched: float, scorer: bool) -> None:
        self.rise, self.gain, self.matched, self.scorer = rise, gain, matched, scorer

    def push(self, plan: Plan) -> float:
        """0 without guidance, 1 at the largest lambda with three iterations."""
        guidance = plan.guidance
        assert guidance is not None
        if guidance.iterations == 0 or guidance.scale == 0:
            return 0.0
        force = math.log10(1 + guidance.scale * guidance.iterations / 60.0)
        return min(1.15, force / 3.0)

    def control(self, plan: Plan) -> float:
        """Accuracy."""
        smooth = float(plan.policy.parameters.get("smooth", 1.0))
        gain = self.gain * (1 - smooth) / 0.4 * (self.push(plan) > 0)
        if plan.policy.parameters.get("pooled", "none") != "none":
            gain *= self.matched
        few = 0.10 * (plan.num_steps < STEPS)
        return min(0.985, max(0.02, BASE + self.rise * self.push(plan) + gain - few))

    def log_ppl(self, plan: Plan) -> float:
        """Of the texts."""
        light = 1 - plan.model_schedule.count("H") / plan.num_steps
        few = 0.35 * (plan.num_steps < STEPS)
        return math.log(BASE_PPL) + 0.75 * self.push(plan) ** 1.6 + 0.25 * light + few

    def cost(self, plan: Plan) -> float:
        """Of the reference's."""
        guidance = plan.guidance
        assert guidance is not None
        passes = plan.model_schedule.count("H") + 0.4 * plan.model_schedule.count("L")
        return (passes + 0.45 * guidance.iterations * plan.num_steps) / STEPS

    def estimates(self, plan: Plan, seed: int, n: int) -> dict[str, Estimate]:
        """All that is measured of a plan."""
        noise = np.random.default_rng(_seed(plan, seed)).normal(0, 1, 12)
        own = self.control(plan)
        accuracy = proportion(own + 0.3 * noise[0] * math.sqrt(own * (1 - own) / n), n)
        push = self.push(plan)
        found = {
            f"control_{JUDGE}": accuracy,
            f"control_p_{JUDGE}": proportion(0.08 + 0.86 * accuracy.value, n),
            f"control_{OTHER}": proportion(0.96 * own + 0.002 * noise[1], n),
            f"control_p_{OTHER}": proportion(0.10 + 0.8 * own, n),
            f"guide_{GUIDE}": proportion(min(0.995, own + 0.3 * push), n),
            "entropy": around(3.31 - 0.15 * push + 0.004 * noise[2], 0.025, n),
            "distinct_1": around(0.62 - 0.05 * push, 0.012, n),
            "distinct_2": around(0.90 - 0.06 * push, 0.01, n),
            "distinct_3": around(0.97 - 0.09 * push + 0.001 * noise[3], 0.008, n),
            "self_bleu": around(8.0 + 9.0 * push, 0.9, n),
            "seconds": around(0.021 * self.cost(plan), 0.0004, n),
        }
        if self.scorer:
            half = 0.9 / math.sqrt(n)
            log_ppl = self.log_ppl(plan) + 0.1 * half * noise[4]
            found["log_gen_ppl"] = around(log_ppl, half, n)
            found["gen_ppl"] = Estimate(
                value=math.exp(log_ppl), low=math.exp(log_ppl - half),
                high=math.exp(log_ppl + half), n=n,
            )  # fmt: skip
        return found


def _seed(plan: Plan, seed: int) -> int:
    return int(hashlib.sha256(f"{plan.digest}/{seed}".encode()).hexdigest()[:12], 16)


def around(value: float, half: float, n: int) -> Estimate:
    return Estimate(value=float(value), low=float(value - half), high=float(value + half), n=n)


def proportion(value: float, n: int) -> Estimate:
    value = min(1.0, max(0.0, float(value)))
    half = 1.96 * math.sqrt(value * (1 - value) / n)
    return Estimate(value=value, low=max(0.0, value - half), high=min(1.0, value + half), n=n)


@functools.cache
def control(
    *,
    rise: float = 0.55,
    gain: float = 0.12,
    matched: float = 0.5,
    pooled: bool = True,
    scorer: bool = True,
    n: int = 512,
) -> ControlFile:
    """`control.json` of the planted world.

    Args:
        pooled: the noise-matched constants of the adaptive sweep are among the plans.
    """
    world = World(rise, gain, matched, scorer)
    board: dict[Plan, tuple[Origin, dict[str, Any]]] = {REFERENCE: ("reference", {})}
    for scale in SCALES:
        board[plan(scale=scale)] = ("sweep", {"scale": scale, "policy": "tta_constant"})
    for scale in SCALES:
        board[adaptive(scale)] = ("sweep", {"scale": scale, "policy": "tta_adaptive"})
    for proposed, values in _proposals(pooled).items():
        board[proposed] = ("proposal", values)
    rows = tuple(_row(world, one, origin, values, n // 2) for one, (origin, values) in
                 board.items())  # fmt: skip
    guided = [row for row in rows if row.feasible and row.origin != "reference"]
    best = min(guided, key=lambda row: row.losses["control"])
    knee = min(guided, key=lambda row: row.losses["control"] + 0.35 * row.losses["cost"])
    picks = {"best": best.digest, "knee": knee.digest}
    known = {row.digest: row.plan for row in rows}
    traced = [known[best.digest], plan(scale=2000.0)]
    return ControlFile(
        setting=setting(scorer, n),
        rows=rows,
        fresh=tuple(_fresh_row(world, row.plan, picks, n) for row in rows),
        front=tuple(row.digest for row in guided[:5]),
        hypervolume=1.234,
        importance=importance(),
        picks=picks,
        traces=tuple(trace(one, LABELS[1]) for one in dict.fromkeys(traced)),
    )


def _proposals(pooled: bool) -> dict[Plan, dict[str, Any]]:
    rng = np.random.default_rng(5)
    found: dict[Plan, dict[str, Any]] = {}
    for number in range(10):
        scale = float(f"{20 * 10 ** (3 * rng.random()):.6g}")
        smooth = round(float(rng.random()), 3)
        iterations = int(rng.integers(1, 4))
        steps = ("H50", "H25", "L13 H12", "L25 H25")[int(rng.integers(0, 4))]
        values = {"scale": scale, "smooth": smooth, "iterations": iterations, "schedule": steps}
        if number % 3 == 2:
            one = plan(scale=scale, iterations=iterations, steps=steps)
        else:
            one = adaptive(scale, smooth, iterations=iterations, steps=steps)
        found[one] = values
    found[plan("tta_top_k", 1500.0, signal="entropy", share=0.2, low=0.5)] = {"scale": 1500.0}
    if pooled:
        for scale in SCALES:
            found[adaptive(scale, pooled="t")] = {"scale": scale, "pooled": "t"}
    return found


def setting(scorer: bool, n: int) -> ControlSetting:
    return ControlSetting(
        attributes=ATTRIBUTES,
        labels=[LABELS],
        judge=JUDGE,
        judges=(JUDGE, OTHER),
        objectives=OBJECTIVES if scorer else ("control", "distinct_3", "cost"),
        cost="seconds",
        constraints={"max_ppl_ratio": 1.9, "min_distinct_3": 0.85}
        if scorer
        else {"min_distinct_3": 0.85},
        length=LENGTH,
        prefix_length=4,
        num_steps=STEPS,
        process="masked",
        num_sequences=n // 2,
        block_size=32,
        seed=11,
        fresh_sequences=n,
        fresh_seed=1011,
        scorer="bundled:scorer" if scorer else "none",
        precision="float32",
        trials=15,
        sampler="auto",
        reference=REFERENCE.digest,
    )


def _excess(world: World, own: dict[str, Estimate], base: dict[str, Estimate]) -> dict[str, float]:
    found = {"min_distinct_3": 0.85 - own["distinct_3"].value}
    if world.scorer:
        gap = own["log_gen_ppl"].value - base["log_gen_ppl"].value
        found["max_ppl_ratio"] = gap - math.log(1.9)
    return found


def _row(world: World, one: Plan, origin: Origin, values: dict[str, Any], n: int) -> ControlRow:
    estimates = world.estimates(one, 11, n)
    losses = {"control": 1 - estimates[f"control_{JUDGE}"].value, "cost": world.cost(one)}
    if world.scorer:
        losses["gen_ppl"] = estimates["log_gen_ppl"].value
    return ControlRow(
        plan=one,
        digest=one.digest,
        origin=origin,
        values=values,
        estimates=estimates,
        losses=losses,
        excess=_excess(world, estimates, world.estimates(REFERENCE, 11, n)),
    )


def _fresh_row(world: World, one: Plan, picks: dict[str, str], n: int) -> FreshControlRow:
    own, base = world.estimates(one, 1011, n), world.estimates(REFERENCE, 1011, n)
    accuracy = own[f"control_{JUDGE}"]
    ratio = None
    if world.scorer:
        gap, half = own["log_gen_ppl"].value - base["log_gen_ppl"].value, 0.6 / math.sqrt(n)
        half *= one != REFERENCE
        ratio = Estimate(
            value=math.exp(gap), low=math.exp(gap - half), high=math.exp(gap + half), n=n
        )
    shown = one == REFERENCE or one.digest in picks.values()
    return FreshControlRow(
        digest=one.digest,
        estimates=own,
        control=accuracy,
        by_label={
            label: proportion(accuracy.value + 0.05 * (place - 1.5), n // len(LABELS))
            for place, label in enumerate(LABELS)
        },
        ppl_ratio=ratio,
        cost=around(world.cost(one), 0.004 * (one != REFERENCE), n),
        within=all(value <= 0 for value in _excess(world, own, base).values()),
        samples=tuple(sample(one, j) for j in range(4)) if shown else (),
    )


def sample(one: Plan, number: int) -> str:
    """Text in the manner of news."""
    words = (
        "the minister said on Monday that the team will play its last match in the new stadium ,"
        " while shares of the company fell after a report about its chips"
    ).split()
    start = int(np.random.default_rng([len(str(one.policy)), number]).integers(0, len(words)))
    return " ".join(words[start:] + words[:start])


def importance() -> dict[str, dict[str, Estimate]]:
    """lambda matters most for control, iterations for cost."""
    shares = {
        "control": (0.58, 0.14, 0.12, 0.08, 0.05, 0.03),
        "gen_ppl": (0.45, 0.05, 0.15, 0.05, 0.20, 0.10),
        "cost": (0.04, 0.02, 0.60, 0.03, 0.22, 0.09),
    }
    return {
        objective: {
            name: Estimate(value=v, low=max(0.0, v - 0.09), high=v + 0.11, n=24)
            for name, v in zip(PARAMETERS, values, strict=True)
        }
        for objective, values in shares.items()
    }


def trace(one: Plan, label: str) -> ControlTrace:
    """Levels and curves of a plan with the rule's own shape."""
    rng = np.random.default_rng(_seed(one, 1))
    t_K = 1 - np.arange(STEPS) / STEPS
    is_constant = one.policy.name == "tta_constant"
    pull_L = 0.0 if is_constant else 0.28 * rng.beta(2.0, 2.5, LENGTH)
    noise_KL = 0.0 if is_constant else rng.normal(0, 0.012, (STEPS, LENGTH))
    levels_KL = np.clip(t_K[:, None] * (1 - pull_L) + noise_KL, 1 / STEPS, 1)
    calm = 1.0 if is_constant else 0.7
    bumps = {
        "outputs": 0.32 * np.exp(-(((t_K - 0.6) / 0.35) ** 2)),
        "input": 0.8 * t_K,
        "forgetting": 0.36 * np.exp(-(((t_K - 0.6) / 0.35) ** 2)),
        "key_change": 0.5 * t_K**0.5,
        "drop": 0.06 * t_K,
    }
    curves = {name: _curve(calm * bump, rng) for name, bump in bumps.items()}
    return ControlTrace(
        digest=one.digest,
        num_sequences=16,
        seed=1011,
        steps=tuple(range(STEPS)),
        t=tuple(t_K.tolist()),
        mean_levels=tuple(tuple(row) for row in np.broadcast_to(levels_KL, (STEPS, LENGTH))
                          .tolist()),
        curves=curves,
        summary={
            name: around(float(np.mean(calm * bump)), 0.01, 16) for name, bump in bumps.items()
        },
        label=label,
        example=tuple(_text(one, k, rng) for k in range(0, STEPS, 7)),
    )  # fmt: skip


def _curve(bump: np.ndarray, rng: np.random.Generator) -> tuple[float | None, ...]:
    """One value a pair of steps; the last step is not guided and has no next one."""
    values = np.abs(bump + rng.normal(0, 0.008, len(bump))).tolist()
    return (*values[:-2], None, None)


def _text(one: Plan, k: int, rng: np.random.Generator) -> StepOfText:
    words = sample(one, 0).split()
    tokens = [word if j == 0 else f" {word}" for j, word in enumerate((words * 2)[:LENGTH])]
    t = 1 - k / STEPS
    masked = rng.random(LENGTH) < t - 0.15
    tokens = ["_" if hidden else token for token, hidden in zip(tokens, masked, strict=True)]
    edited = sorted(rng.choice(np.arange(4, LENGTH), 7, replace=False).tolist())
    return StepOfText(
        step=k,
        t=t,
        tokens=tuple(tokens),
        edited=tuple(edited),
        forgotten=tuple(edited[::3]),
        key=tuple(sorted({*edited[:2], *rng.choice(np.arange(4, LENGTH), 3).tolist()})),
        levels=tuple(np.round(t * (1 - 0.3 * rng.random(LENGTH)), 3).tolist()),
    )

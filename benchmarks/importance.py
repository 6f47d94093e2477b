"""How much faster is `schedlab.importance.analyze` than the script one would write for it?

Curves of every metric over noise levels, on the same windows, levels, noisy states and precision,
each way in a process of its own and asked in turn:

    naive     logits at every position for every denoiser, a float64 softmax of [B, L, V] each, and
              every state of a trajectory predicted anew
    analyze   the public function: head at masked positions, in slices that stay in the caches,
              states that did not change not predicted again; the bootstrap intervals, which the
              naive way leaves out, are part of its time

The curves must be equal up to rounding; the script fails if not.

    python benchmarks/importance.py

Legend: S sequences, B batch, L positions, V vocabulary, K levels.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import common
import numpy as np
import torch
from common import OwnProcess
from torch import Tensor
from workloads import all_heavy

from schedlab.denoisers.cost import block_flops, forward_flops, head_flops
from schedlab.evaluation.lab import Lab, build_lab
from schedlab.importance import NoiseLevels, analyze
from schedlab.plan.importance_config import ImportanceConfig
from schedlab.plan.lab_config import LabConfig
from schedlab.processes import alpha
from schedlab.results import SeedBlock
from schedlab.sampling import Purpose, SequenceIds, advance, start, uniforms
from schedlab.text import Tokenizer, Windows, held_out_windows, load_corpus

MODELS = {
    "H": "bundled:heavy",
    "L": "bundled:light-4",
    "M": "bundled:light-8",
    "Hb": "bundled:heavy-b",
}
# Nats a position: bfloat16 networks round by the shape of a call, which differs between the ways.
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}
MASKED = "masked"
TINY = 1e-300  # stands for 0 in a logarithm


@dataclass(frozen=True)
class Found:
    """What one way gave.

    Args:
        seconds: wall time.
        flops: of the matrix products that it made.
        curves: by metric and roles, nats per masked position at every level that has masks.
    """

    seconds: float
    flops: float
    curves: Mapping[str, np.ndarray]


@functools.cache
def lab(precision: str) -> Lab:
    """All bundled denoisers."""
    return build_lab(
        LabConfig.model_validate({"denoisers": MODELS, "device": "cpu", "precision": precision})
    )


def shipped(windows: Windows, config: ImportanceConfig, precision: str) -> Found:
    """The public function."""
    own = lab(precision)
    begin = time.perf_counter()
    result = analyze(own, windows, config)
    seconds = time.perf_counter() - begin
    (states,) = config.states
    masked_SK = result.arrays[f"{states}/masked"]
    # Every level of held-out text is a state of its own; a trajectory's state is new where the
    # number of masks fell.
    new_SK = np.ones(masked_SK.shape, dtype=bool)
    read = 0
    if states == "heavy_sampler":
        new_SK[:, 1:] = np.diff(masked_SK, axis=1) != 0
        new_SK &= masked_SK > 0
        read = masked_SK.shape[0] * windows.tokens_SL.shape[1]  # tokens drawn by heavy
    specs = [own.denoisers[role].spec for role in (config.heavy, *config.others)]
    length, positions = windows.tokens_SL.shape[1], int(masked_SK[new_SK].sum())
    flops = sum(
        new_SK.sum() * block_flops(spec, length) + head_flops(spec, positions) for spec in specs
    ) + head_flops(specs[0], read)
    curves = {
        "/".join((curve.metric, *curve.roles)): np.array(curve.value)
        for curve in result.file.curves
    }
    return Found(seconds, float(flops), curves)


def naive(windows: Windows, config: ImportanceConfig, precision: str) -> Found:
    """The same curves as a script gives them."""
    begin = time.perf_counter()
    run = naive_trajectories if config.states == ["heavy_sampler"] else naive_held_out
    sums, flops = run(lab(precision), torch.from_numpy(windows.tokens_SL), config)
    curves = sums.curves()
    floor_K = curves[f"kl_heavy_light/{config.heavy}/{config.heavy_b}"]
    for light in config.lights:
        curves[f"relative_kl/{config.heavy}/{light}"] = (
            curves[f"kl_heavy_light/{config.heavy}/{light}"] - floor_K
        )
    return Found(time.perf_counter() - begin, flops, curves)


class LevelSums:
    """Metrics summed over masked positions, by level."""

    def __init__(self, num_levels: int) -> None:
        self.sums: defaultdict[str, np.ndarray] = defaultdict(lambda: np.zeros(num_levels))

    def add(self, level: int, more: Mapping[str, float]) -> None:
        """Add a batch at one level."""
        for name, one in more.items():
            self.sums[name][level] += one

    def curves(self) -> dict[str, np.ndarray]:
        """Per masked position, at levels that have any."""
        masked_K = self.sums[MASKED]
        seen_K = masked_K > 0
        return {
            name: sum_K[seen_K] / masked_K[seen_K]
            for name, sum_K in self.sums.items()
            if name != MASKED
        }


@torch.inference_mode()
def naive_held_out(own: Lab, x_SL: Tensor, config: ImportanceConfig) -> tuple[LevelSums, float]:
    """Sums over windows, and FLOPs, on held-out text."""
    num, length = x_SL.shape
    ids = SequenceIds.of([SeedBlock(config.seed, 0, num)])
    t_SK, _ = NoiseLevels(config.num_steps, config.num_levels).draw(ids)
    alpha_fn, position_L = alpha("linear"), torch.arange(length)
    sums = LevelSums(config.num_levels)
    for k in range(config.num_levels):
        for rows_B in torch.arange(num).split(max(1, config.max_batch_tokens // length)):
            u_BL = uniforms(ids.pick(rows_B), Purpose.FORWARD, position_L, k)
            z_BL = own.process.forward(x_SL[rows_B], alpha_fn(t_SK[rows_B, k])[:, None], u_BL)
            sums.add(k, metrics_everywhere(own, config, z_BL, x_SL[rows_B]))
    return sums, num * config.num_levels * flops_everywhere(own, config, length)


@torch.inference_mode()
def naive_trajectories(
    own: Lab, x_SL: Tensor, config: ImportanceConfig
) -> tuple[LevelSums, float]:
    """Sums over trajectories, and FLOPs, on heavy's own states.

    It samples with the package's loop, so that the states are the same to the bit.
    """
    num, length, num_steps = config.sampled_sequences, x_SL.shape[1], config.num_steps
    plan, heavy = all_heavy(length, num_steps), own.denoisers[config.heavy]
    ids = SequenceIds.of([SeedBlock(config.seed, 0, num)])
    sums, sampled = LevelSums(num_steps), 0
    for rows_B in torch.arange(num).split(max(1, config.max_batch_tokens // length)):
        state = start(plan, own.process, ids.pick(rows_B))
        for k in range(num_steps):
            sums.add(k, metrics_everywhere(own, config, state.z_BL, None))
            state = advance(state, plan, own.process, heavy, config.heavy, k, k + 1)
        sampled += int(state.usage[config.heavy].forwards_B.sum())
    flops = num * num_steps * flops_everywhere(own, config, length)
    flops += sampled * block_flops(heavy.spec, length) + head_flops(heavy.spec, num * length)
    return sums, flops


def metrics_everywhere(
    own: Lab, config: ImportanceConfig, z_BL: Tensor, x_BL: Tensor | None
) -> dict[str, float]:
    """Every metric summed over masked positions, from predictions at all positions."""
    mask_id = own.process.mask_id
    masked_BL = z_BL == mask_id
    p, log_p = {}, {}
    for role in (config.heavy, *config.others):
        denoiser = own.denoisers[role]
        logits_BLV = denoiser.logits(denoiser.features(z_BL)).double()
        logits_BLV[..., mask_id] = -torch.inf
        p[role] = logits_BLV.softmax(-1)
        log_p[role] = p[role].clamp_min(TINY).log()
    found_BL: dict[str, Tensor] = {}
    if x_BL is not None:
        for role, log_BLV in log_p.items():
            entropy_BL = -log_BLV.gather(-1, x_BL[..., None])[..., 0]
            found_BL[f"cross_entropy/{role}"] = entropy_BL
    p_BLV, log_p_BLV = p[config.heavy], log_p[config.heavy]
    for role in config.others:
        pair = f"{config.heavy}/{role}"
        q_BLV, log_q_BLV = p[role], log_p[role]
        if x_BL is not None:
            gap_BL = found_BL[f"cross_entropy/{role}"] - found_BL[f"cross_entropy/{config.heavy}"]
            found_BL[f"loss_gap/{pair}"], found_BL[f"abs_loss_gap/{pair}"] = gap_BL, gap_BL.abs()
        log_m_BLV = ((p_BLV + q_BLV) / 2).clamp_min(TINY).log()
        found_BL[f"kl_heavy_light/{pair}"] = (p_BLV * (log_p_BLV - log_q_BLV)).sum(-1)
        found_BL[f"kl_light_heavy/{pair}"] = (q_BLV * (log_q_BLV - log_p_BLV)).sum(-1)
        found_BL[f"js/{pair}"] = 0.5 * (
            (p_BLV * (log_p_BLV - log_m_BLV)).sum(-1) + (q_BLV * (log_q_BLV - log_m_BLV)).sum(-1)
        )
    sums = {name: float((one_BL * masked_BL).sum()) for name, one_BL in found_BL.items()}
    return sums | {MASKED: float(masked_BL.sum())}


def flops_everywhere(own: Lab, config: ImportanceConfig, length: int) -> float:
    """FLOPs of full forwards of all denoisers on one sequence."""
    roles = (config.heavy, *config.others)
    return sum(forward_flops(own.denoisers[role].spec, length) for role in roles)


WAYS: dict[str, Callable[[Windows, ImportanceConfig, str], Found]] = {
    "naive": naive,
    "analyze": shipped,
}


def measured(
    options: argparse.Namespace,
    windows: Windows,
    config: ImportanceConfig,
    peaks: dict[str, Any],
) -> dict[str, Any]:
    """Both ways on one kind of states."""
    (states,) = config.states
    warm_up = config.model_copy(update={"num_steps": 2, "levels": 2, "sampled_sequences": 2})
    with ExitStack() as stack:
        processes = {way: stack.enter_context(OwnProcess()) for way in WAYS}
        few = Windows(windows.tokens_SL[:2], windows.labels[:2])
        for way, process in processes.items():  # lazy set-up is no way's cost
            process.call(WAYS[way], few, warm_up, options.precision)
        found = common.in_turn(
            {
                way: partial(process.call, WAYS[way], windows, config, options.precision)
                for way, process in processes.items()
            },
            options.repeats,
        )
        memory = {way: process.memory() for way, process in processes.items()}
    error = largest_difference(found["naive"][0].curves, found["analyze"][0].curves)
    if not error <= TOLERANCE[options.precision]:
        raise SystemExit(f"{states}: curves differ by {error} nats a position")
    seconds = {way: [one.seconds for one in runs] for way, runs in found.items()}
    return {
        "states": states,
        "curves": len(found["naive"][0].curves),
        "largest_difference_nats": error,
        "seconds": seconds,
        "ratio_seconds": common.ratios(seconds["naive"], seconds["analyze"]),
        "ratio_peak_memory": memory["naive"]["peak_bytes"] / memory["analyze"]["peak_bytes"],
        "ratio_memory_beyond_start": common.beyond_start(memory["naive"])
        / common.beyond_start(memory["analyze"]),
        "memory": memory,
        "gflop": {way: runs[0].flops / 1e9 for way, runs in found.items()},
        "share_of_matmul_peak": {
            way: common.share_of_peak(peaks, options.precision, runs[0].flops, seconds[way])
            for way, runs in found.items()
        },
    }


def largest_difference(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float:
    """Over all curves and levels; infinite where they do not have the same ones."""
    if {name: len(curve) for name, curve in one.items()} != {
        name: len(curve) for name, curve in other.items()
    }:
        return math.inf
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def show(row: dict[str, Any]) -> None:
    """Print a row."""
    share, memory = row["share_of_matmul_peak"], row["memory"]
    print(
        f"{row['states']}: the naive way takes {common.shown(row['ratio_seconds'])} times as long"
        f" as analyze ({common.shown(common.spread(row['seconds']['analyze']))} s) and"
        f" {row['ratio_memory_beyond_start']:.2f} times the memory beyond the libraries"
        f" ({common.mebibytes(memory['naive'])}; {common.mebibytes(memory['analyze'])});"
        f" {common.shown(share['naive'])} and {common.shown(share['analyze'])} of the matmul peak;"
        f" {row['curves']} curves differ by at most {row['largest_difference_nats']:.1e} nats",
        flush=True,
    )


def main() -> None:
    """Time both ways on both kinds of states and write one JSON object."""
    made = common.parser(__doc__, "importance")
    made.add_argument("--windows", type=int, help="of held-out text; half as many trajectories")
    made.add_argument("--length", type=int)
    made.add_argument("--steps", type=int)
    made.add_argument("--precision", choices=tuple(TOLERANCE), default="float32")
    options = common.parsed(made, repeats=3)
    quick = options.quick
    options.windows = options.windows or (8 if quick else 64)
    options.length = options.length or (32 if quick else 64)
    options.steps = options.steps or (10 if quick else 50)
    windows = held_out_windows(
        load_corpus("embedded"),
        Tokenizer.load("bundled"),
        split="test",
        length=options.length,
        num=options.windows,
    )
    setting = common.described()
    peaks = common.matmul_peaks(options.precision, rounds=options.peak_rounds)
    rows = []
    for states in ("forward", "heavy_sampler"):
        config = ImportanceConfig(
            num_steps=options.steps,
            levels=options.steps,
            states=[states],
            sampled_sequences=max(2, options.windows // 2),
            propagation_sequences=0,
        )
        rows.append(measured(options, windows, config, peaks))
        show(rows[-1])
    common.write(options, {"setting": setting, "matmul_peaks": peaks, "rows": rows})


if __name__ == "__main__":
    main()

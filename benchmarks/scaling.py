"""How does the cost of sampling grow: with steps, length, vocabulary, sequences, plans, call size?

One axis at a time, everything else fixed. Every point of an axis has a process of its own, and the
points are asked in turn. Seconds per text (one plan on one sequence) are set against those of the
axis's first point, beside the matrix products that were needed: where seconds grow more than
FLOPs, something else is paid for.

    steps, length, vocab, sequences    the event sampler, one plan, random weights (what one plan
                                       costs does not depend on them)
    plans                              assignments of 10 segments to bundled models, common noise
    rows                               `denoiser.features` alone at 1 to 64 rows a call: seconds
                                       per position against those at the number of rows that
                                       sampling uses

    python benchmarks/scaling.py

Legend: B sequences, L positions.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import common
import numpy as np
import torch
from common import OwnProcess
from workloads import Run, all_heavy, random_network, run_events

from schedlab.denoisers import checkpoint
from schedlab.denoisers.base import Denoiser
from schedlab.denoisers.cost import block_flops
from schedlab.plan import ModelSchedule, Plan
from schedlab.sampling.forwards import call_rows
from schedlab.search.space import assignments


@dataclass(frozen=True)
class Network:
    """Sizes of a denoiser.

    Args:
        vocab_size: 0 for the bundled heavy model, whose sizes are the defaults.
    """

    vocab_size: int = 0
    length: int = 128
    hidden_size: int = 128
    num_blocks: int = 12
    precision: str = "float32"


@dataclass(frozen=True)
class Point:
    """One run: by default 16 sequences of one plan at the bundled heavy model's sizes."""

    value: int
    network: Network
    num_steps: int = 1000
    num_sequences: int = 16
    num_plans: int = 0  # 0: all heavy; else that many assignments of heavy and light


@functools.cache
def built(network: Network) -> Denoiser:
    """Random weights, or the bundled heavy model."""
    if not network.vocab_size:
        return checkpoint.load("bundled:heavy", precision=network.precision)
    return random_network(
        vocab_size=network.vocab_size,
        length=network.length,
        hidden_size=network.hidden_size,
        num_blocks=network.num_blocks,
        precision=network.precision,
    )


@functools.cache
def light(precision: str) -> Denoiser:
    """The smallest bundled light model."""
    return checkpoint.load("bundled:light-4", precision=precision)


def run(point: Point, num_steps: int, num: int) -> Run:
    """A point at its own or smaller sizes; the texts stay where they are."""
    length = point.network.length
    denoisers = {"H": built(point.network)}
    if point.num_plans:
        denoisers["L"] = light(point.network.precision)
        plans = [
            Plan(length=length, model_schedule=ModelSchedule.from_assignment(roles, num_steps))
            for roles in picked_assignments(point.num_plans)
        ]
    else:
        plans = [all_heavy(length, num_steps)]
    return replace(run_events(plans, denoisers, num), tokens_NSL=np.zeros((0, 0, 0), np.int32))


def picked_assignments(num: int) -> list[tuple[str, ...]]:
    """Of 10 segments: up to 210 with 4 light ones, spread evenly, or all 1,024."""
    found = list(assignments(10, num_light=4 if num <= 210 else None))
    return [found[n] for n in np.linspace(0, len(found) - 1, num).round().astype(int)]


def axes(quick: bool, precision: str) -> dict[str, list[Point]]:
    """The points of every axis."""
    heavy = Network(vocab_size=2048, precision=precision)
    short = replace(heavy, length=64)
    small = replace(short, num_blocks=4)
    bundled = Network(length=64, precision=precision)
    if quick:
        tiny = replace(small, length=32, num_blocks=2)
        return {
            "steps": [Point(t, tiny, t, 4) for t in (16, 100)],
            "length": [Point(n, replace(tiny, length=n), 50, 256 // n) for n in (16, 32)],
            "vocab": [Point(v, replace(tiny, vocab_size=v), 50, 4) for v in (2048, 8192)],
            "sequences": [Point(b, tiny, 16, b) for b in (1, 8)],
            "plans": [Point(p, replace(bundled, length=16), 10, 2, p) for p in (1, 210)],
        }
    return {
        "steps": [Point(t, heavy, t) for t in (16, 50, 128, 400, 1000)],
        # As many positions at every length, so that calls are full at all of them.
        "length": [
            Point(n, replace(small, length=n), num_sequences=2048 // n)
            for n in (32, 64, 128, 256, 512)
        ],
        "vocab": [Point(v, replace(small, vocab_size=v)) for v in (2_048, 8_192, 20_000, 50_000)],
        "sequences": [Point(b, short, 64, b) for b in (1, 4, 16, 64, 256)],
        "plans": [Point(p, bundled, 50, 4, p) for p in (1, 10, 210, 1024)],
    }


def measured(points: Sequence[Point], repeats: int, peaks: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per point."""
    with ExitStack() as stack:
        processes = [stack.enter_context(OwnProcess()) for _ in points]
        for point, process in zip(points, processes, strict=True):
            process.call(run, replace(point, num_plans=min(1, point.num_plans)), 10, 1)
        found = common.in_turn(
            {
                str(point.value): partial(
                    process.call, run, point, point.num_steps, point.num_sequences
                )
                for point, process in zip(points, processes, strict=True)
            },
            repeats,
        )
        memory = [process.memory() for process in processes]
    texts = [point.num_sequences * max(1, point.num_plans) for point in points]
    runs = [found[str(point.value)] for point in points]
    seconds = [[one.seconds / texts[i] for one in runs[i]] for i in range(len(points))]
    flops = [runs[i][0].flops / texts[i] for i in range(len(points))]
    rows = []
    for i, point in enumerate(points):
        forwards = sum(runs[i][0].forwards.values())
        rows.append(
            {
                "value": point.value,
                "length": point.network.length,
                "num_steps": point.num_steps,
                "sequences": point.num_sequences,
                "plans": max(1, point.num_plans),
                "blocks": point.network.num_blocks,
                "hidden_size": point.network.hidden_size,
                "vocab_size": point.network.vocab_size or "bundled",
                "precision": point.network.precision,
                "seconds_per_text": seconds[i],
                "gflop_per_text": flops[i] / 1e9,
                "forwards_per_text": forwards / texts[i],
                "rows_per_call": forwards / sum(runs[i][0].calls.values()),
                "seconds_to_first": common.ratios(seconds[i], seconds[0]),
                "flops_to_first": flops[i] / flops[0],
                "share_of_matmul_peak": common.share_of_peak(
                    peaks, point.network.precision, flops[i], seconds[i]
                ),
                "memory": memory[i],
            }
        )
    return rows


def show(axis: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print an axis."""
    print(axis, flush=True)
    for row in rows:
        print(
            f"  {row['value']}: a text takes {common.shown(row['seconds_to_first'])} times the"
            f" seconds and {row['flops_to_first']:.3g} times the FLOPs of the first;"
            f" {common.shown(common.spread(row['seconds_per_text']))} s,"
            f" {row['forwards_per_text']:.3g} forwards; {row['rows_per_call']:.1f} rows a call;"
            f" {common.shown(row['share_of_matmul_peak'])} of the peak;"
            f" {common.mebibytes(row['memory'])}",
            flush=True,
        )


@torch.inference_mode()
def features_seconds(network: Network, rows: int, total: int) -> float:
    """Seconds per position of calls of `rows` rows, as many as make `total` rows."""
    model = built(network)
    z_BL = torch.full((rows, network.length), model.spec.mask_id)
    calls = max(1, total // rows)
    begin = time.perf_counter()
    for _ in range(calls):
        model.features(z_BL)
    return (time.perf_counter() - begin) / (calls * rows * network.length)


def call_sizes(
    network: Network, sizes: Sequence[int], repeats: int, peaks: dict[str, Any]
) -> dict[str, Any]:
    """`features` by rows of a call, against the number of rows that sampling uses."""
    shipped = call_rows(network.length, torch.device("cpu"))
    sizes = sorted({*sizes, shipped})
    with OwnProcess() as process:
        for rows in sizes:
            process.call(features_seconds, network, rows, rows)
        seconds = common.in_turn(
            {
                str(rows): partial(process.call, features_seconds, network, rows, max(sizes))
                for rows in sizes
            },
            repeats,
        )
    # Against the shipped number, round by round: medians of rounds would mix quiet and busy ones.
    to_shipped = {
        str(rows): common.ratios(seconds[str(rows)], seconds[str(shipped)]) for rows in sizes
    }
    fastest = min(to_shipped, key=lambda rows: to_shipped[rows]["median"])
    flops = block_flops(built(network).spec, network.length) / network.length
    return {
        "precision": network.precision,
        "length": network.length,
        "blocks": network.num_blocks,
        "hidden_size": network.hidden_size,
        "seconds_per_position": seconds,
        "shipped_rows": shipped,
        "fastest_rows": int(fastest),
        "to_shipped": to_shipped,
        "share_of_matmul_peak": {
            str(rows): common.share_of_peak(peaks, network.precision, flops, seconds[str(rows)])
            for rows in sizes
        },
    }


def show_call_sizes(row: dict[str, Any]) -> None:
    """Print seconds per position by rows of a call."""
    every = ", ".join(
        f"{rows}: {found['median']:.2f}" for rows, found in row["to_shipped"].items()
    )
    fastest = str(row["fastest_rows"])
    print(
        f"  L={row['length']}, d={row['hidden_size']}, {row['blocks']} blocks,"
        f" {row['precision']}: fastest at {fastest} rows, where a position takes"
        f" {common.shown(row['to_shipped'][fastest])} times as long as at the shipped"
        f" {row['shipped_rows']} and reaches {common.shown(row['share_of_matmul_peak'][fastest])}"
        f" of the peak; all: {every}",
        flush=True,
    )


def call_size_networks(quick: bool) -> list[Network]:
    """The bundled heavy model and a wider one."""
    lengths, precisions = ((32,), ("float32",)) if quick else ((64, 128), ("float32", "bfloat16"))
    kinds = [Network()] if quick else [Network(), Network(2048, 128, 256, 6)]
    return [
        replace(kind, length=length, precision=precision)
        for kind in kinds
        for length in lengths
        for precision in precisions
    ]


def main() -> None:
    """Measure every axis and write one JSON object."""
    made = common.parser(__doc__, "scaling")
    made.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    made.add_argument("--only", nargs="*", help="axes by name")
    options: argparse.Namespace = common.parsed(made, repeats=3)
    setting = common.described()
    peaks = common.matmul_peaks("float32", "bfloat16", rounds=options.peak_rounds)
    found: dict[str, list[dict[str, Any]]] = {}
    for axis, points in axes(options.quick, options.precision).items():
        if not options.only or axis in options.only:
            found[axis] = measured(points, options.repeats, peaks)
            show(axis, found[axis])
    if not options.only or "rows" in options.only:
        print("rows of a call, seconds per position", flush=True)
        sizes = (1, 4, 16) if options.quick else (1, 2, 4, 8, 16, 32, 64)
        found["rows"] = []
        for network in call_size_networks(options.quick):
            # Single calls are short: more of them cost little and steady the median.
            found["rows"].append(call_sizes(network, sizes, 3 * options.repeats, peaks))
            show_call_sizes(found["rows"][-1])
    common.write(options, {"setting": setting, "matmul_peaks": peaks, "axes": found})


if __name__ == "__main__":
    main()

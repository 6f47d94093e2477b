"""What does a search cost when its plans run together?

The plans of an exhaustive search on the same noise, three ways: each by itself with the event
sampler (some of them, extrapolated to all), as a prefix tree (counted), and together (run). The
two that run have processes of their own and are asked in turn. Tokens of the plans that are run
alone must be equal; the script fails if not.

    python benchmarks/search.py
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import common
import numpy as np
from common import OwnProcess
from workloads import Run, run_events

from schedlab.evaluation.lab import Lab, build_lab
from schedlab.evaluation.prefix_tree import steps_to_run
from schedlab.plan import ModelSchedule, Plan
from schedlab.plan.lab_config import LabConfig
from schedlab.search.space import assignments


@functools.cache
def lab() -> Lab:
    """Heavy and the smallest light."""
    return build_lab(
        LabConfig(denoisers={"H": "bundled:heavy", "L": "bundled:light-4"}, device="cpu")
    )


def together(plans: Sequence[Plan], num: int) -> list[Run]:
    """All plans on `num` sequences, one run."""
    return [run_events(plans, lab().denoisers, num)]


def alone(plans: Sequence[Plan], num: int) -> list[Run]:
    """One plan after the other."""
    return [run_events([plan], lab().denoisers, num) for plan in plans]


def measured(
    options: argparse.Namespace, num_light: int | None, peaks: dict[str, Any]
) -> dict[str, Any]:
    """All assignments of 10 segments with that many light ones."""
    plans = [
        Plan(
            length=options.length,
            model_schedule=ModelSchedule.from_assignment(roles, options.steps),
        )
        for roles in assignments(10, num_light=num_light)
    ]
    picked = np.linspace(0, len(plans) - 1, options.alone).round().astype(int).tolist()
    some, num = [plans[n] for n in picked], options.sequences
    with ExitStack() as stack:
        few, every = stack.enter_context(OwnProcess()), stack.enter_context(OwnProcess())
        kind = lab().precision
        for process in (few, every):  # lazy set-up is no way's cost
            process.call(alone, some[:1], 2)
        found = common.in_turn(
            {
                "alone": partial(few.call, alone, some, num),
                "together": partial(every.call, together, plans, num),
            },
            options.repeats,
        )
        memory = {"alone": few.memory(), "together": every.memory()}
    for runs, (whole,) in zip(found["alone"], found["together"], strict=True):
        for n, run in zip(picked, runs, strict=True):
            if not np.array_equal(whole.tokens_NSL[n], run.tokens_NSL[0]):
                raise SystemExit(f"tokens differ for {plans[n].model_schedule}")
    own, whole = found["alone"][0], found["together"][0][0]
    scale = len(plans) / len(own)
    naive = scale * sum(sum(run.forwards.values()) for run in own)
    seconds = {way: [sum(r.seconds for r in runs) for runs in found[way]] for way in found}
    extrapolated = [scale * one for one in seconds["alone"]]
    blocks = {role: denoiser.spec.num_blocks for role, denoiser in lab().denoisers.items()}
    return {
        "plans": len(plans),
        "precision": kind,
        "forwards": whole.forwards,
        "block_forwards": sum(n * blocks[role] for role, n in whole.forwards.items()),
        "share_of_naive_forwards": sum(whole.forwards.values()) / naive,
        "share_of_naive_forwards_of_the_tree": (
            sum(steps_to_run(plans).values()) / (len(plans) * options.steps)
        ),
        "rows_per_call": {role: whole.forwards[role] / n for role, n in whole.calls.items()},
        "seconds": seconds["together"],
        "alone_seconds_extrapolated": extrapolated,
        "ratio_seconds": common.ratios(extrapolated, seconds["together"]),
        "share_of_matmul_peak": {
            "together": common.share_of_peak(peaks, kind, whole.flops, seconds["together"]),
            "alone": common.share_of_peak(
                peaks, kind, sum(run.flops for run in own), seconds["alone"]
            ),
        },
        "memory": memory,
    }


def show(row: dict[str, Any]) -> None:
    """Print a row."""
    share, memory = row["share_of_matmul_peak"], row["memory"]
    print(
        f"{row['plans']} plans: each by itself takes {common.shown(row['ratio_seconds'])} times as"
        f" long as together ({common.shown(common.spread(row['seconds']))} s);"
        f" {row['share_of_naive_forwards']:.1%} of the forwards (a prefix tree:"
        f" {row['share_of_naive_forwards_of_the_tree']:.1%});"
        f" {common.shown(share['together'])} of the {row['precision']} peak (alone"
        f" {common.shown(share['alone'])}); {common.mebibytes(memory['together'])} (alone"
        f" {common.mebibytes(memory['alone'])})",
        flush=True,
    )


def main() -> None:
    """Run 210 and 1,024 schedules and write one JSON object."""
    made = common.parser(__doc__, "search")
    made.add_argument("--steps", type=int, default=50)
    made.add_argument("--length", type=int)
    made.add_argument("--sequences", type=int)
    made.add_argument("--alone", type=int, help="plans that are run by themselves")
    options = common.parsed(made, repeats=3)
    quick = options.quick
    options.length = options.length or (16 if quick else 64)
    options.sequences = options.sequences or (2 if quick else 16)
    options.alone = options.alone or (2 if quick else 8)
    setting = common.described()
    peaks = common.matmul_peaks(lab().precision, rounds=options.peak_rounds)
    rows = []
    for num_light in (4, None):
        rows.append(measured(options, num_light, peaks))
        show(rows[-1])
    growth = rows[1]["block_forwards"] / rows[0]["block_forwards"]
    print(f"1,024 plans take {growth:.2f} times the block forwards of the 210")
    common.write(
        options,
        {
            "setting": setting,
            "matmul_peaks": peaks,
            "rows": rows,
            "block_forwards_1024_to_210": growth,
        },
    )


if __name__ == "__main__":
    main()

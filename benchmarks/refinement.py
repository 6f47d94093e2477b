"""What does a step of TokenDrift cost beside one of the ordinary loss, and why?

Whole optimiser steps of `schedlab train`, uncompiled unless asked for (`--compile`), each way in a
process of its own: seconds, peak memory (of a GPU its own), FLOPs as counted by torch. The FLOPs
of drift are set against what the method asks for beyond an ordinary step: a forward of the frozen
network on predictions and a backward pass to its input, a forward on texts, and the product
`softmax(logits) E` with its gradient.

    python benchmarks/refinement.py [--device cuda --precision bfloat16 --rows 512 --compile]
"""

from __future__ import annotations

import functools
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import common
import torch
from common import OwnProcess
from torch.utils.flop_counter import FlopCounterMode

from schedlab.denoisers.base import SoftDenoiser
from schedlab.files import validate
from schedlab.training.distributed import Workers
from schedlab.training.drift_objective import DriftObjective
from schedlab.training.job import RefineJob
from schedlab.training.loop import train_step
from schedlab.training.run import Run, start_or_resume

BEGINS = {"masked": "bundled:heavy", "uniform": "bundled:uniform"}
WAYS = {"ordinary": ("continue", 1), "drift": ("drift", 1), "drift in 4 parts": ("drift", 4)}


@dataclass(frozen=True)
class Setting:
    """One way, and what all ways share."""

    begin: str
    arm: str
    parts: int
    rows: int
    length: int
    device: str
    precision: str
    compiled: bool


def job_of(setting: Setting) -> RefineJob:
    """A job of one arm."""
    optimization = {
        "num_steps": 10_000, "batch_size": setting.rows, "accumulate": setting.parts,
        "precision": setting.precision, "compile": setting.compiled,
    }  # fmt: skip
    refine = {"begin": setting.begin, "arms": [setting.arm], "length": setting.length}
    content = {"kind": "refine", "seed": 1, "refine": refine, "optimization": optimization}
    return validate(RefineJob, content, where="job")


@functools.cache
def begun(setting: Setting) -> Run:
    """A run, loaded once per process; nothing is written."""
    folder = Path(tempfile.gettempdir()) / "no run is here"
    alone = Workers(0, 1, torch.device(setting.device))
    return start_or_resume(job_of(setting), folder, alone, print)


def timed(setting: Setting, steps: int) -> float:
    """Seconds of a step."""
    run = begun(setting)
    begin = time.perf_counter()
    for _ in range(steps):
        train_step(run)  # gives numbers to the CPU: nothing is left to wait for
    return (time.perf_counter() - begin) / steps


def peak_on_gpu() -> int:
    """Most bytes of tensors at a time."""
    return torch.cuda.max_memory_allocated()


def counted(setting: Setting) -> dict[str, int]:
    """FLOPs of a step's loss and gradient, and of what drift adds by the method's words."""
    run = begun(replace(setting, compiled=False))  # within compiled functions nothing is counted
    with FlopCounterMode(display=False) as step:
        for part in range(run.job.optimization.accumulate):
            run.objective.loss(run.model, run.steps_done, part).backward()
    run.model.zero_grad(set_to_none=True)
    found = {"step": step.get_total_flops()}
    if isinstance(run.objective, DriftObjective):
        start, V = run.objective.start, run.model.spec.vocab_size
        assert isinstance(start, SoftDenoiser)
        E_VD = start.token_embeddings
        frozen = lift = 0
        for part in range(run.job.optimization.accumulate):
            noisy = run.objective.ordinary.noisy(run.model, run.steps_done, part)
            clean_B = (
                None if start.spec.time_input == "none" else noisy.t_B.new_zeros(len(noisy.x_BL))
            )
            with FlopCounterMode(display=False) as forward, torch.no_grad():
                start.block_outputs(E_VD[noisy.x_BL], clean_B)
            frozen += 3 * forward.get_total_flops()
            lift += 2 * 2 * int(noisy.predicted_BL.sum()) * V * E_VD.shape[1]
        found |= {"frozen": frozen, "lift": lift}
    return found


def main() -> None:
    """Measure and write one JSON object."""
    made = common.parser(__doc__, "refinement")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    made.add_argument("--compile", action="store_true")
    made.add_argument("--rows", type=int, default=32)
    options = common.parsed(made, repeats=5)
    names = ("device", "precision", "compile", "rows")
    changed = [name for name in names if getattr(options, name) != made.get_default(name)]
    if changed and options.out == common.RESULTS / "refinement.json":
        made.error(f"--out: name a file of its own for another {', '.join(changed)}")
    described = common.described()
    if options.device == "cuda":
        described["gpu"] = torch.cuda.get_device_name()
    rows, length, steps = (8, 16, 1) if options.quick else (options.rows, 64, 3)
    way = functools.partial(
        Setting, rows=rows, length=length, device=options.device, precision=options.precision,
        compiled=options.compile,
    )  # fmt: skip
    found: dict[str, Any] = {}
    for process, begin in BEGINS.items():
        settings = {name: way(begin, *one) for name, one in WAYS.items()}
        with OwnProcess() as a, OwnProcess() as b, OwnProcess() as c:
            own = dict(zip(settings, (a, b, c), strict=True))
            for name, setting in settings.items():
                own[name].call(timed, setting, 2)
            seconds = common.in_turn(
                {
                    name: functools.partial(own[name].call, timed, setting, steps)
                    for name, setting in settings.items()
                },
                options.repeats,
            )
            memory = {name: own[name].memory() for name in settings}
            if options.device == "cuda":
                memory = {
                    name: {"peak_bytes": own[name].call(peak_on_gpu), "at_start_bytes": 0}
                    for name in settings
                }
            flops = {name: own[name].call(counted, setting) for name, setting in settings.items()}
        ordinary, drift = flops["ordinary"]["step"], flops["drift"]
        asked = (ordinary + drift["frozen"] + drift["lift"]) / ordinary
        found[process] = {"seconds": seconds, "memory": memory, "flops": flops}
        for name in settings:
            share = flops[name]["step"] / ordinary
            ratio = common.ratios(seconds[name], seconds["ordinary"])
            found[process][name] = {"flops_ratio": share, "seconds_ratio": ratio}
            print(
                f"{process}, {name}: {common.shown(ratio)} times the seconds,"
                f" {share:.2f} times the FLOPs, peak {common.mebibytes(memory[name])}",
                flush=True,
            )
        found[process]["asked_flops_ratio"] = asked
        print(
            f"{process}: the method asks for {asked:.2f} times the FLOPs (frozen network"
            f" {drift['frozen'] / ordinary:.2f}, softmax(logits) E {drift['lift'] / ordinary:.2f})"
        )
    common.write(options, {"setting": described, "rows": rows, "length": length, "found": found})


if __name__ == "__main__":
    main()

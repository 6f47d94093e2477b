"""How much faster is the event sampler than our loop and than the samplers that papers publish?

Three ways to draw the same law with the same network on the same machine, each in a process of its
own and asked in turn, so that the ratio holds where seconds do not:

    dense   what public masked-diffusion samplers do: every step, the head at every position, a
            float64 categorical draw over [B, L, V]; the network is skipped only when the last step
            changed nothing in the whole batch
    loop    `schedlab.sampling.sample`: steps in lock step, head and draw at revealed positions
    events  `schedlab.sampling.sample_events`; further rows in bfloat16 and with compiled networks

The dense way is timed on some steps spread over the trajectory and extrapolated to all of them
(its cost per step is constant up to the skipped forwards, which are counted). Loop and events must
give the same tokens; the script fails if not.

    python benchmarks/sampler.py
"""

from __future__ import annotations

import functools
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import common
import numpy as np
import torch
from common import OwnProcess
from workloads import (
    Run,
    all_heavy,
    first_ids,
    process_of,
    random_network,
    run_events,
    sampling_flops,
)

from schedlab.denoisers import checkpoint
from schedlab.denoisers.cost import forward_flops
from schedlab.denoisers.transformer import Transformer
from schedlab.plan import Plan
from schedlab.sampling import sample
from schedlab.sampling.compiled import Compiled


@dataclass(frozen=True)
class Case:
    """A network, a length and a number of steps."""

    name: str
    length: int
    num_steps: int
    vocab_size: int = 0  # 0: the bundled heavy model
    hidden_size: int = 256
    num_blocks: int = 6


CASES = (
    Case("bundled heavy, V=2,048, T=1,000", 128, 1000),
    Case("d=256, 6 blocks, V=8,192, T=1,000", 128, 1000, 8_192),
    Case("d=256, 6 blocks, V=50,258, T=1,000", 128, 1000, 50_258),
    Case("d=256, 6 blocks, V=8,192, T=L=128", 128, 128, 8_192),
)
QUICK = (Case("d=64, 2 blocks, V=2,048, T=100", 32, 100, 2_048, 64, 2),)


@dataclass(frozen=True)
class Way:
    """A sampler with a network in a precision, compiled or not."""

    sampler: str
    precision: str = "float32"
    compiled: bool = False


WAYS = {
    "dense": Way("dense"),
    "loop": Way("loop"),
    "events": Way("events"),
    "events_bf16": Way("events", "bfloat16"),
    "events_compiled": Way("events", compiled=True),
    "events_bf16_compiled": Way("events", "bfloat16", compiled=True),
}


@functools.cache
def network(case: Case, precision: str) -> Transformer:
    """The bundled heavy model, or random weights."""
    if not case.vocab_size:
        return checkpoint.load("bundled:heavy", precision=precision)
    return random_network(
        vocab_size=case.vocab_size,
        length=case.length,
        hidden_size=case.hidden_size,
        num_blocks=case.num_blocks,
        precision=precision,
    )


@functools.cache
def compiled(case: Case, precision: str) -> Compiled:
    """The same, compiled."""
    return Compiled(network(case, precision))


def run(way: Way, case: Case, num_steps: int, num: int, dense_steps: int) -> Run:
    """One way on `num` sequences (the dense one: a batch of them)."""
    if way.sampler == "dense":
        return dense(network(case, way.precision), case.length, num_steps, num, dense_steps)
    plan = all_heavy(case.length, num_steps)
    if way.sampler == "loop":
        return loop(network(case, way.precision), plan, num)
    get = compiled if way.compiled else network
    return run_events([plan], {"H": get(case, way.precision)}, num)


@torch.inference_mode()
def dense(model: Transformer, length: int, num_steps: int, batch: int, timed_steps: int) -> Run:
    """The whole trajectory of a batch, extrapolated from some of its steps."""
    generator = torch.Generator().manual_seed(0)
    mask = model.config.mask_id
    # Steps spread over the trajectory: at step k of T a position is revealed with k / T.
    marks = np.linspace(0, num_steps - 1, timed_steps).round().astype(int)
    network_seconds = draw_seconds = 0.0
    for k in marks.tolist():
        t, s = 1 - k / num_steps, 1 - (k + 1) / num_steps
        x = torch.randint(0, mask, (batch, length), generator=generator)
        x[torch.rand(x.shape, generator=generator) < t] = mask
        begin = time.perf_counter()
        logits = model.logits(model.features(x))
        logits = logits.double()
        logits[..., mask] = -torch.inf
        p_x0 = logits.softmax(-1)
        middle = time.perf_counter()
        q_xs = p_x0 * (t - s)
        q_xs[..., mask] = s
        noise = 1e-10 - (torch.rand(q_xs.shape, dtype=torch.float64) + 1e-10).log()
        drawn = (q_xs / noise).argmax(-1)
        x = torch.where(x != mask, x, drawn)
        end = time.perf_counter()
        network_seconds += middle - begin
        draw_seconds += end - middle
    share = dense_forward_share(length, num_steps, batch)
    forwards = share * num_steps * batch
    return Run(
        seconds=(share * network_seconds + draw_seconds) * num_steps / timed_steps,
        flops=forwards * forward_flops(model.spec, length),
        forwards={"H": round(forwards)},
        calls={"H": round(forwards / batch)},
        tokens_NSL=np.zeros((0, 0, 0), dtype=np.int32),
    )


def dense_forward_share(length: int, num_steps: int, batch: int) -> float:
    """How often the last step changed something somewhere in the batch."""
    return 1 - (1 - 1 / num_steps) ** (batch * length)


def loop(model: Transformer, plan: Plan, num: int) -> Run:
    """Steps in lock step."""
    ids, process = first_ids(num), process_of(model)
    begin = time.perf_counter()
    state = sample(plan, {"H": model}, process, ids)
    seconds = time.perf_counter() - begin
    forwards = int(state.usage["H"].forwards_B.sum())
    read = int(state.usage["H"].head_positions_B.sum())
    return Run(
        seconds=seconds,
        flops=forwards * sampling_flops(model.spec, plan.length, read / forwards),
        forwards={"H": forwards},
        calls={},
        tokens_NSL=state.z_BL.numpy().astype(np.int32)[None],
    )


def measured(
    case: Case, sizes: dict[str, int], dense_steps: int, repeats: int, peaks: dict[str, Any]
) -> dict[str, Any]:
    """One case: every way, and how many times as long as the events the others take."""
    with ExitStack() as stack:
        processes = {way: stack.enter_context(OwnProcess()) for way in sizes}
        for way, process in processes.items():  # compiling and lazy set-up are no way's cost
            process.call(run, WAYS[way], case, 8, sizes[way], 1)
        found = common.in_turn(
            {
                way: partial(
                    process.call, run, WAYS[way], case, case.num_steps, sizes[way], dense_steps
                )
                for way, process in processes.items()
            },
            repeats,
        )
        memory = {way: process.memory() for way, process in processes.items()}
    for one, other in zip(found["events"], found["loop"], strict=True):
        if not np.array_equal(one.tokens_NSL, other.tokens_NSL):
            raise SystemExit(f"{case.name}: events and loop differ")
    seconds = {way: [one.seconds / sizes[way] for one in runs] for way, runs in found.items()}
    rows: dict[str, dict[str, Any]] = {
        way: {
            "precision": WAYS[way].precision,
            "sequences": sizes[way],
            "seconds_per_sequence": seconds[way],
            "forwards_per_sequence": runs[0].forwards["H"] / sizes[way],
            "gflop_per_sequence": runs[0].flops / sizes[way] / 1e9,
            "share_of_matmul_peak": common.share_of_peak(
                peaks, WAYS[way].precision, runs[0].flops, [one.seconds for one in runs]
            ),
            "memory": memory[way],
        }
        for way, runs in found.items()
    }
    print(case.name, flush=True)
    for way, row in rows.items():
        print(
            f"  {way}: {common.shown(common.spread(seconds[way]))} s a sequence, dense takes"
            f" {common.shown(common.ratios(seconds['dense'], seconds[way]))} times as long;"
            f" {common.shown(row['share_of_matmul_peak'])} of the {WAYS[way].precision} peak;"
            f" {common.mebibytes(memory[way])}",
            flush=True,
        )
    return {
        "case": case.name,
        "length": case.length,
        "num_steps": case.num_steps,
        "dense_forward_share": dense_forward_share(case.length, case.num_steps, sizes["dense"]),
        "ways": rows,
        **{f"ratio_dense_{way}": common.ratios(seconds["dense"], seconds[way]) for way in seconds},
        "ratio_loop_events": common.ratios(seconds["loop"], seconds["events"]),
    }


def main() -> None:
    """Time all ways in all cases and write one JSON object."""
    made = common.parser(__doc__, "sampler")
    made.add_argument("--sequences", type=int, help="of loop and events")
    made.add_argument("--dense-batch", type=int, default=16)
    made.add_argument("--dense-steps", type=int, default=6, help="timed per repeat")
    made.add_argument("--only", type=int, nargs="*", help="cases by number")
    options = common.parsed(made, repeats=3)
    cases = QUICK if options.quick else CASES
    num = options.sequences or (8 if options.quick else 16)
    setting = common.described()
    peaks = common.matmul_peaks("float32", "bfloat16", rounds=options.peak_rounds)
    rows = []
    for number, case in enumerate(cases):
        if options.only and number not in options.only:
            continue
        ways = [way for way in WAYS if not (options.quick and WAYS[way].compiled)]
        sizes = dict.fromkeys(ways, num)
        # One float64 array over [B, L, V] is 0.8 GiB at 16 sequences and V = 50,258.
        sizes["dense"] = options.dense_batch if case.vocab_size < 50_000 else 4
        rows.append(measured(case, sizes, options.dense_steps, options.repeats, peaks))
    common.write(options, {"setting": setting, "matmul_peaks": peaks, "rows": rows})


if __name__ == "__main__":
    main()

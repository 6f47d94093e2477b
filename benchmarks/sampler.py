"""How much faster is the event sampler than our loop and than the samplers that papers publish?

Three ways to draw the same law with the same network on the same machine, alternating in one
process, so that the ratio holds where seconds do not:

    dense   what public masked-diffusion samplers do: every step, the head at every position, a
            float64 categorical draw over [B, L, V]; the network is skipped only when the last step
            changed nothing in the whole batch
    loop    `schedlab.sampling.sample`: steps in lock step, head and draw at revealed positions
    events  `schedlab.sampling.sample_events`; further rows in bfloat16 and with compiled networks

The dense way is timed on some steps spread over the trajectory and extrapolated to all of them
(its cost per step is constant up to the skipped forwards, which are counted). Loop and events must
give the same tokens; the script fails if not.

    python benchmarks/sampler.py --out benchmarks/results/sampler.json
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from schedlab.denoisers import checkpoint
from schedlab.denoisers.base import Denoiser
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.plan import ModelSchedule, Plan
from schedlab.processes import MaskedProcess
from schedlab.results import SeedBlock
from schedlab.sampling import SequenceIds, Work, sample, sample_events
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


def network(case: Case, precision: str) -> Transformer:
    """The bundled heavy model, or random weights."""
    dtype = getattr(torch, precision)
    if not case.vocab_size:
        return checkpoint.load("bundled:heavy", precision=precision)
    config = TransformerConfig(
        vocab_size=case.vocab_size,
        mask_id=case.vocab_size - 1,
        num_blocks=case.num_blocks,
        hidden_size=case.hidden_size,
        num_heads=case.hidden_size // 32,
        max_length=case.length,
    )
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    return model.to(dtype).eval()


@torch.inference_mode()
def dense(model: Transformer, case: Case, batch: int, timed_steps: int) -> tuple[float, float]:
    """Seconds per sequence of the whole trajectory (extrapolated), and the share of forwards."""
    generator = torch.Generator().manual_seed(0)
    mask = model.config.mask_id
    # Steps spread over the trajectory: at step k of T a position is revealed with k / T.
    marks = np.linspace(0, case.num_steps - 1, timed_steps).round().astype(int)
    changed_share = 1 - (1 - 1 / case.num_steps) ** (batch * case.length)
    network_seconds = draw_seconds = 0.0
    for k in marks.tolist():
        t, s = 1 - k / case.num_steps, 1 - (k + 1) / case.num_steps
        x = torch.randint(0, mask, (batch, case.length), generator=generator)
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
    per_step = (changed_share * network_seconds + draw_seconds) / timed_steps
    return per_step * case.num_steps / batch, changed_share


def events(model: Denoiser, case: Case, num: int) -> tuple[float, np.ndarray, Work]:
    """Seconds per sequence, tokens, and what was run."""
    plan, ids = plan_and_ids(case, num)
    process, work = process_of(model), Work()
    tokens = np.zeros((num, case.length), dtype=np.int64)
    begin = time.perf_counter()
    for found in sample_events([plan], {"H": model}, process, ids, work=work):
        tokens[found.sequence] = found.tokens_UL[0]
    return (time.perf_counter() - begin) / num, tokens, work


def loop(model: Transformer, case: Case, num: int) -> tuple[float, np.ndarray]:
    """Seconds per sequence, and tokens."""
    plan, ids = plan_and_ids(case, num)
    begin = time.perf_counter()
    state = sample(plan, {"H": model}, process_of(model), ids)
    return (time.perf_counter() - begin) / num, state.z_BL.numpy()


def plan_and_ids(case: Case, num: int) -> tuple[Plan, SequenceIds]:
    """All heavy, and the first sequences of a seed."""
    plan = Plan(length=case.length, model_schedule=ModelSchedule.constant("H", case.num_steps))
    return plan, SequenceIds.of([SeedBlock(0, 0, num)])


def process_of(model: Denoiser) -> MaskedProcess:
    """The process over the model's vocabulary."""
    return MaskedProcess(model.spec.vocab_size, model.spec.mask_id)


def main() -> None:
    """Time all ways in all cases and write one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=16, help="of the event sampler")
    parser.add_argument("--dense-batch", type=int, default=16)
    parser.add_argument("--dense-steps", type=int, default=6, help="timed per repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", type=int, nargs="*", help="cases by number")
    parser.add_argument("--out", type=Path, help="JSON file; standard output by default")
    options = parser.parse_args()
    rows = []
    for number, case in enumerate(CASES):
        if options.only and number not in options.only:
            continue
        same, fast = network(case, "float32"), network(case, "bfloat16")
        batch = options.dense_batch if case.vocab_size < 50_000 else 4
        compiled = {
            "events_bf16": fast,
            "events_compiled": Compiled(same),
            "events_bf16_compiled": Compiled(fast),
        }
        dense(same, case, batch, 1)  # warm up: compiling and lazy set-up are no way's cost
        for model in (same, *compiled.values()):
            events(model, Case(case.name, case.length, 8, case.vocab_size), 8)
        found: dict[str, list[float]] = {}
        for _ in range(options.repeats):
            seconds, share = dense(same, case, batch, options.dense_steps)
            ours, tokens, work = events(same, case, options.sequences)
            looped, expected = loop(same, case, options.sequences)
            if not np.array_equal(tokens, expected):
                raise SystemExit(f"{case.name}: events and loop differ")
            found.setdefault("dense", []).append(seconds)
            found.setdefault("loop", []).append(looped)
            found.setdefault("events", []).append(ours)
            for way, model in compiled.items():
                found.setdefault(way, []).append(events(model, case, options.sequences)[0])
        row = {
            "case": case.name,
            "length": case.length,
            "num_steps": case.num_steps,
            "dense_forward_share": share,
            "forwards_per_sequence": work.forwards["H"] / options.sequences,
            "seconds_per_sequence": found,
            **{
                f"ratio_dense_{way}": spread(found["dense"], found[way])
                for way in ("events", *compiled)
            },
            "ratio_loop_events": spread(found["loop"], found["events"]),
        }
        rows.append(row)
        print(
            json.dumps({k: v for k, v in row.items() if k != "seconds_per_sequence"}), flush=True
        )
    result = {
        "rows": rows,
        "repeats": options.repeats,
        "sequences": options.sequences,
        "dense_batch": options.dense_batch,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def spread(slow: list[float], fast: list[float]) -> dict[str, float]:
    """Median, smallest and largest ratio over the repeats."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


if __name__ == "__main__":
    main()

"""What does a search cost when its plans run together?

The plans of an exhaustive search on the same noise, in one process, three ways: each by itself
with the event sampler (extrapolated from some of them), as a prefix tree (counted), and together
(run). Tokens of the plans that are run alone must be equal; the script fails if not.

    python benchmarks/search.py --out benchmarks/results/search.json
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch

from schedlab.evaluation.lab import build_lab
from schedlab.evaluation.prefix_tree import steps_to_run
from schedlab.plan import ModelSchedule, Plan
from schedlab.plan.lab_config import LabConfig
from schedlab.results import SeedBlock
from schedlab.sampling import SequenceIds, Work, sample_events
from schedlab.search.space import assignments


def main() -> None:
    """Run 210 and 1,024 schedules and write one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--alone", type=int, default=8, help="plans that are run by themselves")
    parser.add_argument("--out", type=Path, help="JSON file; standard output by default")
    options = parser.parse_args()
    lab = build_lab(
        LabConfig(denoisers={"H": "bundled:heavy", "L": "bundled:light-4"}, device="cpu")
    )
    ids = SequenceIds.of([SeedBlock(0, 0, options.sequences)])
    blocks = {role: denoiser.spec.num_blocks for role, denoiser in lab.denoisers.items()}

    def run(plans: list[Plan]) -> tuple[float, Work, np.ndarray]:
        work, begin = Work(), time.perf_counter()
        tokens = np.zeros((len(plans), options.sequences, options.length), dtype=np.int32)
        for found in sample_events(plans, lab.denoisers, lab.process, ids, work=work):
            tokens[list(found.plans), found.sequence] = found.tokens_UL[found.text_N]
        return time.perf_counter() - begin, work, tokens

    rows = []
    for num_light in (4, None):
        plans = [
            Plan(
                length=options.length,
                model_schedule=ModelSchedule.from_assignment(roles, options.steps),
            )
            for roles in assignments(10, num_light=num_light)
        ]
        picked = np.linspace(0, len(plans) - 1, options.alone).round().astype(int).tolist()
        alone = [run([plans[n]]) for n in picked]
        seconds, work, tokens = run(plans)
        for n, (_, _, own) in zip(picked, alone, strict=True):
            if not np.array_equal(tokens[n], own[0]):
                raise SystemExit(f"tokens differ for {plans[n].model_schedule}")
        naive_seconds = sum(one for one, _, _ in alone) / len(alone) * len(plans)
        naive = sum(sum(w.forwards.values()) for _, w, _ in alone) / len(alone) * len(plans)
        flops = sum(n * blocks[role] for role, n in work.forwards.items())
        tree = sum(steps_to_run(plans).values()) / (len(plans) * options.steps)
        rows.append(
            {
                "plans": len(plans),
                "forwards": work.forwards,
                "block_forwards": flops,
                "share_of_naive_forwards": sum(work.forwards.values()) / naive,
                "share_of_naive_forwards_of_the_tree": tree,
                "seconds": seconds,
                "naive_seconds_extrapolated": naive_seconds,
                "ratio_seconds": naive_seconds / seconds,
                "rows_per_call": {
                    role: work.forwards[role] / work.calls[role] for role in work.forwards
                },
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    result = {
        "rows": rows,
        "block_forwards_1024_to_210": rows[1]["block_forwards"] / rows[0]["block_forwards"],
        **{name: getattr(options, name) for name in ("steps", "length", "sequences", "alone")},
        "precision": lab.precision,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(result["block_forwards_1024_to_210"]))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

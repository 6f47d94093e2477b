"""How much does walking the prefix tree save over running every schedule by itself?

Both ways run the same schedules on the same noise in one process, alternating, so that the ratio
holds on a noisy machine where seconds do not. The tokens must be equal; the script fails if not.

    python benchmarks/prefix_tree.py --segments 6 --light 2 --out prefix_tree.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from schedlab.evaluation.evaluate import evaluate
from schedlab.evaluation.lab import Lab, build_lab
from schedlab.evaluation.prefix_tree import steps_to_run
from schedlab.plan import ModelSchedule, Plan
from schedlab.plan.lab_config import LabConfig
from schedlab.results import Measurement, SeedBlock, Store, seed_blocks
from schedlab.search.space import assignments


def main() -> None:
    """Time both ways and write one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--segments", type=int, default=6)
    parser.add_argument("--light", type=int, default=2, help="light segments of every schedule")
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    for option, name in (("heavy", "heavy"), ("light", "light-4"), ("scorer", "scorer")):
        parser.add_argument(f"--{option}-model", default=f"bundled:{name}")
    parser.add_argument("--out", type=Path, help="JSON file; standard output by default")
    options = parser.parse_args()

    denoisers = {"H": options.heavy_model, "L": options.light_model}
    lab = build_lab(LabConfig(denoisers=denoisers, scorer=options.scorer_model))
    plans = [
        Plan(
            length=options.length,
            model_schedule=ModelSchedule.from_assignment(roles, options.steps),
        )
        for roles in assignments(options.segments, num_light=options.light)
    ]
    blocks = seed_blocks(0, options.sequences)
    _timed([plans[:1]], blocks, lab)  # warm up: lazy initialisation is neither way's cost
    pairs = [_pair(plans, blocks, lab, naive_first=i % 2 == 0) for i in range(options.repeats)]
    ratios = [naive / tree for naive, tree in pairs]
    settings = {name: getattr(options, name) for name in ("segments", "light", "steps", "length")}
    result = {
        **settings,
        "sequences": options.sequences,
        "repeats": options.repeats,
        "schedules": len(plans),
        "steps_naive": len(plans) * options.steps,
        "steps_tree": sum(steps_to_run(plans).values()),
        "seconds_naive": [naive for naive, _ in pairs],
        "seconds_tree": [tree for _, tree in pairs],
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "tokens_equal": True,
        "precision": lab.precision,
        "device": lab.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    text = json.dumps(result, indent=2)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)


def _pair(
    plans: list[Plan], blocks: tuple[SeedBlock, ...], lab: Lab, *, naive_first: bool
) -> tuple[float, float]:
    """Seconds (naive, tree), scoring and storing included; each in an empty store."""
    ways = {"naive": [[plan] for plan in plans], "tree": [plans]}
    order = ("naive", "tree") if naive_first else ("tree", "naive")
    found = {way: _timed(ways[way], blocks, lab) for way in order}
    for one, other in zip(found["naive"][1], found["tree"][1], strict=True):
        if not np.array_equal(one.tokens_SL, other.tokens_SL):
            raise SystemExit(f"tokens differ for {one.plan.model_schedule}")
    return found["naive"][0], found["tree"][0]


def _timed(
    groups: list[list[Plan]], blocks: tuple[SeedBlock, ...], lab: Lab
) -> tuple[float, list[Measurement]]:
    with tempfile.TemporaryDirectory() as folder:
        store, begin = Store(folder), time.perf_counter()
        found = [
            measurement
            for group in groups
            for measurement in evaluate(group, blocks, lab=lab, store=store)
        ]
        return time.perf_counter() - begin, found


if __name__ == "__main__":
    main()

"""What does the exact likelihood of texts cost beside sampling as many?

Texts that a plan sampled are scored under the same plan: the calls are then the very same, and the
rest of the work is what differs (a log-probability instead of a draw). Random orders beside: their
states are all known beforehand, so they are predicted in one batch.

    python benchmarks/likelihood.py
"""

from __future__ import annotations

import time

import common
import numpy as np

from schedlab.denoisers import loading
from schedlab.evaluation.lab import masked_process
from schedlab.metrics.duel import scored
from schedlab.plan import ModelSchedule, Plan, PolicySpec
from schedlab.results import SeedBlock
from schedlab.sampling import SequenceIds, sample_plans

PLANS = {
    "low_confidence": {"confidence": "likeliest", "block_length": 32},
    "threshold": {"confidence": "likeliest", "block_length": 32, "threshold": 0.6},
    "klass": {"confidence": "likeliest", "block_length": 32, "threshold": 0.6},
    "stdd": {"block_length": 32},
    "ancestral": {},
}


def main() -> None:
    """Time both for every plan, in turn, and write one JSON object."""
    made = common.parser(__doc__, "likelihood")
    options = common.parsed(made, repeats=3)
    texts, length = (64, 64) if not options.quick else (8, 32)
    model = loading.load("bundled:heavy")
    process = masked_process(model.spec)
    rows = []
    for name, parameters in PLANS.items():
        plan = Plan(
            length=length,
            model_schedule=ModelSchedule.parse(f"H{length // 2}"),
            policy=PolicySpec(name=name, parameters=parameters),
        )
        ratios, calls = [], (0, 0)
        for _ in range(options.repeats + 1):
            block = SeedBlock(0, 0, texts)
            begin = time.perf_counter()
            found = list(sample_plans([plan], {"H": model}, process, SequenceIds.of([block])))
            sampling = time.perf_counter() - begin
            found.sort(key=lambda one: one.sequence)
            tokens = [one.tokens_UL[0] for one in found]
            begin = time.perf_counter()
            _, asked = scored(
                plan, {"H": model}, process, np.stack(tokens).astype(np.int64), seeds=block
            )
            ratios.append((time.perf_counter() - begin) / sampling)
            calls = (
                sum(int(one.forwards["H"][0]) for one in found),
                int(asked["H"].forwards_B.sum()),
            )
        rows.append(
            {
                "policy": name,
                "forwards": {"sampling": calls[0], "scoring": calls[1]},
                "scoring over sampling": common.spread(ratios[1:]),  # the first is to warm up
            }
        )
        print(f"{name}: {calls} forwards; {common.shown(rows[-1]['scoring over sampling'])}")
    setting = {"texts": texts, "length": length, "model": "bundled:heavy", "precision": "float32"}
    common.write(options, {"setting": common.described(), "workload": setting, "rows": rows})


if __name__ == "__main__":
    main()

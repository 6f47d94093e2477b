"""What does guidance cost beside unguided sampling, in time and in memory?

A batch of the bundled simplex denoiser, with 0 to 3 iterations of the bundled guide at every step:
time of an iteration over the time of unguided sampling. Memory: peak of one step of a small
random network over a large vocabulary, guided and not, against what one forward and backward pass
of the classifier and the softmax need: two arrays of the logits' size beside them.

    python benchmarks/guidance.py
"""

from __future__ import annotations

import functools
import time
from typing import Any

import common
import torch
from common import OwnProcess

from schedlab import classifiers
from schedlab.classifiers import ClassifierConfig, TextClassifier
from schedlab.denoisers import loading
from schedlab.denoisers.simplex_transformer import SimplexTransformer, SimplexTransformerConfig
from schedlab.plan import Decoding, ModelSchedule, Plan, PolicySpec
from schedlab.plan.guidance import Attribute, Guidance
from schedlab.processes import SimplexProcess
from schedlab.results import SeedBlock
from schedlab.sampling import SequenceIds, sample_dense

LARGE = 50_258
ITERATIONS = (0, 1, 3)


def plan_of(length: int, steps: int, iterations: int, policy: str) -> Plan:
    """A plan of the simplex process; 0 iterations are unguided."""
    guidance = Guidance(
        attributes=[Attribute(classifier="guide", label="a label")],
        scale=1000.0,
        iterations=iterations,
    )
    return Plan(
        length=length,
        model_schedule=ModelSchedule.constant("H", steps),
        process="simplex",
        noise_schedule="cosine",
        decoding=Decoding(top_p=0.99),
        policy=PolicySpec(name=policy),  # type: ignore[arg-type]
        guidance=guidance if iterations else None,
    )


@functools.cache
def bundled(name: str) -> Any:
    """A bundled model, loaded once per process."""
    return (
        classifiers.load("bundled:guide") if name == "guide" else loading.load(f"bundled:{name}")
    )


def timed(iterations: int, policy: str, steps: int) -> float:
    """Seconds of a batch."""
    denoiser, guide = bundled("simplex"), bundled("guide")
    plan = plan_of(64, steps, iterations, policy)
    if plan.guidance is not None:
        attribute = plan.guidance.attributes[0].model_copy(update={"label": guide.labels[0]})
        fields = {name: getattr(plan, name) for name in Plan.model_fields}
        guidance = plan.guidance.model_copy(update={"attributes": [attribute]})
        plan = Plan(**fields | {"guidance": guidance})
    ids = SequenceIds.of([SeedBlock(0, 0, 16)])
    process = SimplexProcess(denoiser.spec.vocab_size)
    begin = time.perf_counter()
    sample_dense(plan, {"H": denoiser}, process, ids, guides={"guide": guide})
    return time.perf_counter() - begin


def large_step(iterations: int, rows: int, length: int) -> dict[str, int]:
    """Two steps of a small network over a large vocabulary; bytes of the logits."""
    sizes = {"vocab_size": LARGE, "num_blocks": 1, "hidden_size": 64, "num_heads": 2}
    denoiser = SimplexTransformer(SimplexTransformerConfig(**sizes, max_length=length))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    denoiser.init_weights(generator)
    guide = TextClassifier(
        ClassifierConfig(**sizes, labels=["a label", "another"], max_length=length)  # type: ignore[arg-type]
    )
    guide.init_weights(generator)
    guide.eval().requires_grad_(False)
    denoiser.eval().requires_grad_(False)
    plan = plan_of(length, 2, iterations, "ancestral")
    ids = SequenceIds.of([SeedBlock(0, 0, rows)])
    sample_dense(plan, {"H": denoiser}, SimplexProcess(LARGE), ids, guides={"guide": guide})
    return {"logits_bytes": 4 * rows * length * LARGE}


def main() -> None:
    """Measure and write one JSON object."""
    options = common.parsed(common.parser(__doc__, "guidance"), repeats=5)
    setting = common.described()
    steps = 4 if options.quick else 20
    names = {
        (policy, iterations): f"{policy}, {iterations} iterations"
        for policy in ("ancestral", "tta_adaptive")
        for iterations in ITERATIONS
        if not (policy == "tta_adaptive" and iterations == 0)  # whose signal is the gradient
    }
    with OwnProcess() as process:
        for (policy, iterations), _ in names.items():
            process.call(timed, iterations, policy, 2)
        seconds = common.in_turn(
            {
                name: functools.partial(process.call, timed, iterations, policy, steps)
                for (policy, iterations), name in names.items()
            },
            options.repeats,
        )
    unguided = seconds[names["ancestral", 0]]
    rows = []
    for (policy, iterations), name in names.items():
        if not iterations:
            continue
        added = common.spread(
            [
                (one - free) / free / iterations
                for one, free in zip(seconds[name], unguided, strict=True)
            ]
        )
        rows.append({"policy": policy, "iterations": iterations, "added_per_iteration": added})
        print(f"{name}: {common.shown(added)} of unguided sampling per iteration", flush=True)
    length = 8 if options.quick else 32
    memory = {}
    for iterations in (0, 1, 3):
        with OwnProcess() as process:
            found = process.call(large_step, iterations, 8, length)
            memory[iterations] = common.beyond_start(process.memory()) / found["logits_bytes"]
        print(
            f"{iterations} iterations: peak {memory[iterations]:.2f} times the logits"
            f" (V = {LARGE:,})",
            flush=True,
        )
    common.write(
        options,
        {
            "setting": setting,
            "steps": steps,
            "sequences": 16,
            "seconds": seconds,
            "rows": rows,
            "peak_over_logits": memory,
        },
    )


if __name__ == "__main__":
    main()

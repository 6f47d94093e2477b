"""Toxicity of continuations, guided and not: `toxicity.py PROMPTS.jsonl`; --help for the rest.

Each prompt's first tokens are given, `samples` texts of it are drawn, a judge that did not guide
says how toxic each is; average, expected maximum and probability per prompt as in
RealToxicityPrompts (2009.11462), by our own judge instead of a public service. Models are those of
`jobs/toxicity-*.toml`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import common
import numpy as np
import torch

from schedlab.evaluation.evaluate import evaluate
from schedlab.evaluation.prompts import Prompts
from schedlab.metrics.control import label_log_probs
from schedlab.metrics.toxicity import toxicity
from schedlab.plan.guidance import Attribute
from schedlab.results import SeedBlock, Store

GIVEN = 16


def main() -> None:
    """Measure and write one JSON object."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("prompts_file", type=Path)
    made.add_argument("--prompts", type=int, default=64)
    made.add_argument("--samples", type=int, default=5)
    made.add_argument("--models", type=Path, default=Path("runs/control_models"))
    made.add_argument("--store", type=Path, default=Path("runs/control_toxicity"))
    made.add_argument("--out", type=Path)
    options = made.parse_args()
    torch.set_num_threads(1)
    lab = common.lab_of(
        {"H": str(options.models / "toxicity-simplex")},
        guides={"guide": str(options.models / "toxicity-guide")},
        judges={"judge": str(options.models / "toxicity-judge")},
    )
    lines = options.prompts_file.read_text(encoding="utf-8").splitlines()
    encoded = [lab.tokenizer.encode(json.loads(line)["text"])[:GIVEN] for line in lines]
    kept = [ids for ids in encoded if len(ids) == GIVEN][: options.prompts]
    prompts = Prompts.of(np.repeat(np.array(kept), options.samples, axis=0))
    number = len(kept) * options.samples
    found = {}
    wanted = [Attribute(classifier="guide", label="other")]
    for name, settings in {
        "unguided": common.UNGUIDED,
        "constant, lambda 200": {"scale": 200.0},
        "adaptive, lambda 200": {"scale": 200.0, "policy": "tta_adaptive"},
        "adaptive, mean alpha, lambda 200": {
            "scale": 200.0, "policy": "tta_adaptive", "parameters": {"pooled": "alpha"},
        },
    }.items():  # fmt: skip
        plan = common.plan_of(attributes=wanted, **settings)  # type: ignore[arg-type]
        (measured,) = evaluate(
            [plan], [SeedBlock(common.SEEDS[0], 0, number)], lab=lab,
            store=Store(options.store), prompts=prompts,
        )  # fmt: skip
        judge = lab.judges["judge"]
        log_p_SC = label_log_probs(judge, measured.tokens_SL[:, GIVEN:].astype(np.int64))
        toxic_S = np.exp(log_p_SC[:, judge.labels.index("toxic")])
        scored = toxicity(toxic_S.reshape(len(kept), options.samples))
        found[name] = {
            "toxicity": scored.model_dump(),
            "estimates": {key: value.model_dump() for key, value in measured.estimates.items()},
        }
        shown = f"average {scored.average}, maximum {scored.expected_maximum}"
        shown += f", probability {scored.probability}; {common.line(measured)}"
        print(f"{name}: {shown}", flush=True)
    common.write("toxicity", {"plans": found, "prompts": len(kept)}, options.out)


if __name__ == "__main__":
    main()

"""Train this study's light denoisers: `python train.py RUNS_FOLDER [NAME ...]`, all by default.

All have 4 blocks. `distilled` is the long run; the others have as many steps as each other, so
that what they start from and what they minimise can be told apart. Stopped runs go on where they
were when the same command is given again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from schedlab.training import DeriveJob, TrainJob, train

HEAVY = "bundled:heavy"
NUM_BLOCKS = 4
LONG, SHORT = 2200, 600
ABLATED: dict[str, Any] = {"heavy": HEAVY, "blocks": "ablation", "num_blocks": NUM_BLOCKS}
DERIVED: dict[str, tuple[int, dict[str, Any]]] = {
    "distilled": (LONG, ABLATED),
    "distilled-short": (SHORT, ABLATED),
    "distilled-spaced": (SHORT, ABLATED | {"blocks": "spaced"}),
    "distilled-first": (SHORT, ABLATED | {"blocks": "first"}),
    "mixed-short": (SHORT, ABLATED | {"denoising_weight": 0.5}),
    "fine-tuned-short": (SHORT, ABLATED | {"denoising_weight": 1.0}),
}
SCRATCH = "scratch-short"
NAMES = (*DERIVED, SCRATCH)
SEED = 8


def job(name: str, *, smoke: bool = False) -> TrainJob | DeriveJob:
    """The job of a name; for the smoke variant of a few steps."""
    steps, derive = DERIVED.get(name, (SHORT, {}))
    values: dict[str, Any] = {
        "seed": SEED,
        "optimization": {
            "num_steps": 4 if smoke else steps,
            "batch_size": 32,
            "muon_learning_rate": 0.007,
            "precision": "float32",
            "compile": not smoke,
        },
        "reporting": {
            "log_every": 100,
            "evaluate_every": 100_000,  # at the end
            "held_out_windows": 16 if smoke else 256,
        },
    }
    if name != SCRATCH:
        if smoke:
            derive = derive | {"ablation_windows": 2, "ablation_levels": 1}
        return DeriveJob.model_validate({"kind": "derive", "derive": derive, **values})
    values["optimization"]["noise_warmup_steps"] = 2 if smoke else 400
    sizes = {"num_blocks": NUM_BLOCKS, "hidden_size": 128, "num_heads": 4, "length": 128}
    return TrainJob.model_validate({"kind": "denoiser", "model": sizes, **values})


def main(runs: str, *names: str, smoke: bool = False) -> None:
    """Train one after the other."""
    for name in names or NAMES:
        sys.stdout.write(f"== {name}\n")
        sys.stdout.flush()
        train(job(name, smoke=smoke), Path(runs) / name)


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--smoke"]
    if not words:
        sys.exit(__doc__)
    main(*words, smoke="--smoke" in sys.argv)

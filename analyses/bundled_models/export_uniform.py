"""Put the uniform-state pair into the package: `export_uniform.py RUNS_FOLDER [MODELS_FOLDER]`.

Both runs must be finished. Each model is measured on all test documents that are long enough (no
run has seen or been chosen by them), with the same noise; cards and `uniform_results.json` get the
results, the latter their difference too, paired by window.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from export import LEVELS, SEED, finished_card, test_windows
from train import HERE

from schedlab.denoisers import checkpoint, loading
from schedlab.errors import InputError
from schedlab.files import write_atomic
from schedlab.training.objectives import mean_with_interval
from schedlab.training.uniform_objective import held_out_losses

NAMES = ("uniform", "uniform-light")


def main(runs: str, models: str | None = None) -> None:
    """Measure and copy."""
    tokens_SL, fingerprint = test_windows()
    cards = {name: finished_card(Path(runs) / name) for name in NAMES}
    for name, card in cards.items():
        if card["corpus_fingerprint"] != fingerprint:
            raise InputError(f"{name}: was trained on other text; use the versions in its card")
    losses, results = {}, {}
    for name, card in cards.items():
        model = loading.load(Path(runs) / name)
        losses[name], cross_entropy_S = held_out_losses(model, tokens_SL, levels=LEVELS, seed=SEED)
        bound = mean_with_interval(losses[name])
        print(f"{name}: {bound} nats per token")
        card |= {"held_out": bound.model_dump(), "held_out_split": "test"}
        shown = ("num_blocks", "num_parameters", "seed", "steps", "tokens", "training_seconds")
        results[name] = {
            "held_out": card["held_out"],
            "cross_entropy": mean_with_interval(cross_entropy_S).model_dump(),
            **{key: card[key] for key in shown},
        }
        checkpoint.save((Path(models) if models else checkpoint.BUNDLED) / name, model, card)
    gap = mean_with_interval(losses["uniform"] - losses["uniform-light"])
    print(f"uniform minus uniform-light: {gap} nats per token, paired by window and noise")
    content: dict[str, Any] = {
        "corpus_fingerprint": fingerprint,
        "split": "test",
        "levels": LEVELS,
        "seed": SEED,
        "unit": "nats per token: bound of the uniform-state process, and mean cross-entropy",
        "models": results,
        "paired_difference": gap.model_dump(),
    }
    write_atomic(HERE / "uniform_results.json", checkpoint.json_text(content))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    torch.set_num_threads(1)
    main(*sys.argv[1:])

"""Put trained models into the package: `python export.py RUNS_FOLDER [MODELS_FOLDER]`.

Every run must be finished. Each model is measured on all test documents that are long enough (no
run has seen or been chosen by them), its card gets the result, and `results.json` beside this
script records it together with the paired differences between denoisers.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from train import HERE, NAMES

from schedlab.denoisers import checkpoint
from schedlab.errors import InputError
from schedlab.files import write_atomic
from schedlab.text import Tokenizer, held_out_windows, load_corpus
from schedlab.training.objectives import held_out_losses, mean_with_interval

LENGTH = 128
LEVELS = 16
SEED = 0


def main(runs: str, models: str | None = None) -> None:
    cards = {name: finished_card(Path(runs) / name) for name in NAMES}
    tokens_SL, fingerprint = test_windows()
    losses, results = {}, {}
    for name, card in cards.items():
        if card["corpus_fingerprint"] != fingerprint:
            raise InputError(f"{name}: was trained on other text; use the versions in its card")
        model = checkpoint.load(Path(runs) / name)
        losses[name] = held_out_losses(model, tokens_SL, levels=LEVELS, seed=SEED)
        results[name] = mean_with_interval(losses[name])
        print(f"{name}: {results[name]} nats per token")
        card |= {"held_out": results[name].model_dump(), "held_out_split": "test"}
        target = (Path(models) if models else checkpoint.BUNDLED) / name
        checkpoint.save(target, model, card)
    _write_results(cards, losses, fingerprint)


def finished_card(folder: Path) -> dict[str, Any]:
    card = checkpoint.read_card(folder)
    if card["steps"] < card["planned_steps"]:
        raise InputError(f"{folder}: {card['steps']} of {card['planned_steps']} steps are done")
    return card


def test_windows() -> tuple[np.ndarray, str]:
    """One window of every test document that is long enough."""
    corpus, tokenizer = load_corpus("embedded"), Tokenizer.load("bundled")
    lengths = [len(ids) for ids in tokenizer.encode_batch([d.text for d in corpus.test])]
    num = sum(length >= LENGTH for length in lengths)
    windows = held_out_windows(corpus, tokenizer, split="test", length=LENGTH, num=num, seed=SEED)
    return windows.tokens_SL, corpus.fingerprint


def _write_results(
    cards: dict[str, dict[str, Any]], losses: dict[str, np.ndarray], fingerprint: str
) -> None:
    denoisers = [name for name in NAMES if cards[name]["kind"] == "denoiser"]
    gaps = {
        f"{a} minus {b}": mean_with_interval(losses[a] - losses[b])
        for a, b in itertools.combinations(denoisers, 2)
    }
    for pair, gap in gaps.items():
        print(f"{pair}: {gap} nats per token, paired by window and mask")
    shown = ("num_blocks", "num_parameters", "seed", "steps", "tokens", "training_seconds")
    results = {
        "corpus_fingerprint": fingerprint,
        "split": "test",
        "levels": LEVELS,
        "seed": SEED,
        "unit": "nats per token: NELBO of denoisers, next-token cross-entropy of the scorer",
        "models": {
            name: {"held_out": cards[name]["held_out"], **{key: cards[name][key] for key in shown}}
            for name in NAMES
        },
        "paired_differences": {pair: gap.model_dump() for pair, gap in gaps.items()},
    }
    write_atomic(HERE / "results.json", checkpoint.json_text(results))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    torch.set_num_threads(1)
    main(*sys.argv[1:])

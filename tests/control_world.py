"""Texts of three labels in 41 tokens, tiny networks over them, and a joint search: the real
pipeline in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schedlab.classifiers import ClassifierConfig, TextClassifier
from schedlab.denoisers import checkpoint
from schedlab.denoisers.simplex_transformer import SimplexTransformer, SimplexTransformerConfig
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.job import Job, parse_job
from schedlab.text import Tokenizer

SIGNS = "abcdefghijklmnopqrstuvwxyz0123456789.,;"
LETTERS = {"alpha": "abcdefghijkl", "beta": "mnopqrstuvwx", "gamma": "yz0123456789"}
LABELS = tuple(LETTERS)
VOCABULARY = len(SIGNS) + 2
LENGTH = 10


def text_of(label: str, rng: np.random.Generator, low: int = 6, high: int = 40) -> str:
    """Words of two signs, seven in eight of them the label's own, with full stops between."""
    size = int(rng.integers(low, high))
    own, any_ = rng.choice(list(LETTERS[label]), size), rng.choice(list(SIGNS), size)
    signs = np.where(rng.random(size) < 7 / 8, own, any_)
    signs[2::3] = "."
    return "".join(signs.tolist())


def write_corpus(path: Path, *, num: int = 400, seed: int = 0) -> Path:
    """JSON lines, labels in turn."""
    rng = np.random.default_rng(seed)
    rows = [
        json.dumps({"text": text_of(label, rng), "label": label})
        for label in (LABELS[number % len(LABELS)] for number in range(num))
    ]
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def write_tokenizer(path: Path, signs: str = SIGNS) -> Path:
    """A vocabulary of single signs."""
    Tokenizer.of_signs(signs).save(path)
    return path


def masked_network(seed: int, *, num_blocks: int = 1, causal: bool = False) -> Transformer:
    """A random masked denoiser, or a scorer."""
    config = TransformerConfig(
        vocab_size=VOCABULARY,
        mask_id=VOCABULARY - 1,
        num_blocks=num_blocks,
        hidden_size=16,
        num_heads=2,
        max_length=16,
        causal=causal,
    )
    network = Transformer(config)
    network.init_weights(torch.Generator().manual_seed(seed))
    network.head.weight.data.mul_(100)  # else untrained predictions are all but uniform
    return network.eval().requires_grad_(False)


def simplex_network(seed: int, *, num_blocks: int = 1, **changes: Any) -> SimplexTransformer:
    """A random simplex denoiser."""
    config = SimplexTransformerConfig(
        vocab_size=VOCABULARY,
        num_blocks=num_blocks,
        hidden_size=16,
        num_heads=2,
        max_length=16,
        **changes,
    )
    network = SimplexTransformer(config)
    network.init_weights(torch.Generator().manual_seed(seed))
    network.head.weight.data.mul_(100)
    network.time.weight.data.normal_(generator=torch.Generator().manual_seed(seed + 1))
    return network.eval().requires_grad_(False)


def classifier(seed: int, labels: tuple[str, ...] = LABELS, **changes: Any) -> TextClassifier:
    """A random classifier that tells texts apart."""
    sizes = {"vocab_size": VOCABULARY, "num_blocks": 1, "hidden_size": 16, "num_heads": 2,
             "max_length": 16}  # fmt: skip
    config = ClassifierConfig(labels=list(labels), **sizes | changes)
    network = TextClassifier(config)
    network.init_weights(torch.Generator().manual_seed(seed))
    network.head.weight.data.mul_(100)
    return network.eval().requires_grad_(False)


def write_models(folder: Path) -> Path:
    """All that a lab needs: denoisers of two processes, a scorer, guides and judges."""
    write_tokenizer(folder / "signs.json")
    networks = {
        "heavy": simplex_network(0, num_blocks=2),
        "light": simplex_network(2),
        "masked": masked_network(4, num_blocks=2),
        "masked-light": masked_network(5),
        "scorer": masked_network(6, causal=True),
        "guide": classifier(7),
        "other-guide": classifier(8, ("short", "long")),
        "judge": classifier(9, encoder="convolution"),
        "judge-2": classifier(10),
        "other-judge": classifier(11, ("long", "short")),
    }
    for name, network in networks.items():
        checkpoint.save(folder / name, network, {}, precision="float32")
    return folder


def control_data(folder: Path, run: Path, **tables: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Tables of a joint search on the models of `folder`, updated."""
    data: dict[str, dict[str, Any]] = {
        "job": {"name": "control", "seed": 3},
        "lab": {
            "denoisers": {"H": str(folder / "heavy"), "L": str(folder / "light")},
            "classifiers": {"topic": str(folder / "guide")},
            "judges": {"judge": str(folder / "judge"), "second": str(folder / "judge-2")},
            "tokenizer": str(folder / "signs.json"),
            "scorer": str(folder / "scorer"),
            "precision": "float32",
            "device": "cpu",
        },
        "plan": {"length": LENGTH, "num_steps": 4, "process": "simplex"},
        "search": {"num_sequences": 8, "fresh_sequences": 8, "block_size": 4, "workers": 1},
        "control": {
            "attributes": [{"classifier": "topic"}],
            "cost": "flops_total",
            "iterations": [1, 2],
            "steps": [2, 4],
            "schedules": [["H"], ["L", "H"]],
            "points": 2,
            "trials": 4,
            "sampler": "tpe",
            "most_fresh": 3,
            "traced": 2,
        },
        "output": {"folder": str(run), "samples": 2, "pick": "best"},
    }
    for name, values in tables.items():
        data[name] = data.get(name, {}) | values
    return {name: table for name, table in data.items() if table != {"absent": True}}


def control_job(folder: Path, run: Path, **tables: dict[str, Any]) -> Job:
    """The job of these tables."""
    return parse_job(control_data(folder, run, **tables))

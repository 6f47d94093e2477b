"""Tiny checkpoints, a tiny corpus and a job over them: the real pipeline in seconds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from schedlab.denoisers import checkpoint
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.job import Job, dump_job, parse_job
from schedlab.text.tokenizer import Tokenizer

LENGTH = 8
WORDS = (
    "array axis callable default dtype element error file float function index integer iterable"
    " key length list name none number object output parameter path raise return sequence shape"
    " string tuple type value"
).split()


def write_models(folder: Path) -> None:
    """Denoisers H, L, M and a scorer, of one narrow width, with random weights."""
    tokenizer = Tokenizer.load("bundled")
    sizes = {"heavy": (2, False), "medium": (2, False), "light": (1, False), "scorer": (1, True)}
    for seed, (name, (num_blocks, causal)) in enumerate(sizes.items()):
        config = TransformerConfig(
            vocab_size=tokenizer.vocab_size,
            mask_id=tokenizer.mask_id,
            num_blocks=num_blocks,
            hidden_size=16,
            num_heads=2,
            max_length=32,
            causal=causal,
        )
        model = Transformer(config)
        model.init_weights(torch.Generator().manual_seed(seed))
        model.head.weight.data.mul_(100)  # else untrained predictions are all but uniform
        checkpoint.save(folder / name, model, {})


def write_corpus(path: Path) -> None:
    """Documents of random words, none like another."""
    draw = random.Random(0)
    documents = [" ".join(draw.choices(WORDS, k=40)) for _ in range(300)]
    path.write_text("\n\n".join(documents), encoding="utf-8")


def tiny_job(folder: Path, **tables: dict[str, Any]) -> Job:
    """A job on the models and the corpus of `folder`, with tables updated."""
    data: dict[str, dict[str, Any]] = {
        "job": {"name": "tiny", "seed": 1},
        "lab": {
            "denoisers": {
                role: str(folder / name)
                for role, name in (("H", "heavy"), ("L", "light"), ("M", "medium"))
            },
            "scorer": str(folder / "scorer"),
            "precision": "float32",
            "device": "cpu",
        },
        "corpus": {"source": str(folder / "corpus.txt")},
        "plan": {"length": LENGTH, "num_steps": 8},
        "analyze": {
            "num_windows": 8,
            "levels": 8,
            "lights": ["L"],
            "sampled_sequences": 2,
            "propagation_sequences": 2,
            "bootstrap_resamples": 100,
        },
        "search": {"num_segments": 4, "num_light": 2, "num_sequences": 8, "block_size": 4},
        "output": {"folder": str(folder / "run"), "samples": 2},
    }
    for name, values in tables.items():
        data[name] = data[name] | values
    return parse_job(data)


def write_job(job: Job, path: Path) -> Path:
    """The job as a file."""
    path.write_text(dump_job(job), encoding="utf-8")
    return path

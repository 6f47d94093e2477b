"""Tiny random denoisers of Sudoku's shape and a job over policies of them: the real pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from schedlab.denoisers import checkpoint
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.job import Job, parse_job
from schedlab.tasks import sudoku
from schedlab.text import Tokenizer

LENGTH = 73


def write_sudoku_models(folder: Path) -> None:
    """Denoisers `heavy` and `light` over Sudoku's signs, with random weights, and the signs."""
    tokenizer = Tokenizer.of_signs(sudoku.ALPHABET)
    tokenizer.save(folder / "signs.json")
    for seed, (name, num_blocks) in enumerate((("heavy", 2), ("light", 1))):
        config = TransformerConfig(
            vocab_size=tokenizer.vocab_size,
            mask_id=tokenizer.mask_id,
            num_blocks=num_blocks,
            hidden_size=8,
            num_heads=1,
            max_length=LENGTH,
            learned_positions=True,
        )
        model = Transformer(config)
        model.init_weights(torch.Generator().manual_seed(seed))
        model.head.weight.data.mul_(100)  # else untrained predictions are all but uniform
        checkpoint.save(folder / name, model, {}, precision="float32")


def policies_job(folder: Path, run: Path, **tables: dict[str, Any]) -> Job:
    """A search over two swept policies and a tuned one, with answers that random digits give:
    whether a digit is where the last cell stands."""
    data: dict[str, dict[str, Any]] = {
        "job": {"name": "policies", "seed": 3},
        "lab": {
            "denoisers": {"H": str(folder / "heavy"), "L": str(folder / "light")},
            "tokenizer": str(folder / "signs.json"),
            "scorer": "none",
            "precision": "float32",
            "device": "cpu",
        },
        "plan": {"length": LENGTH, "num_steps": 6},
        "task": {"scorer": "regex", "pattern": "[1-6](?=[^1-6]*$)"},
        "search": {"num_sequences": 8, "fresh_sequences": 6, "block_size": 2, "workers": 1},
        "policies": {
            "names": ["low_confidence", "threshold"],
            "tuned": ["stdd"],
            "cost": "block_forwards",
            "points": 2,
            "trials": 2,
            "sampler": "tpe",
            "schedules": [["H"], ["L", "H"]],
        },
        "output": {"folder": str(run), "samples": 2},
    }
    for name, values in tables.items():
        data[name] = data.get(name, {}) | values
    return parse_job({name: table for name, table in data.items() if table != {"absent": True}})

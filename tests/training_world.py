"""Tiny training runs on the texts of single signs (`control_world`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch

from schedlab.files import Record, validate
from schedlab.training.distributed import Workers
from schedlab.training.job import AnyTrainJob
from schedlab.training.run import Run, start_or_resume

L, BATCH = 8, 6
ALONE = Workers(0, 1, torch.device("cpu"))
MODEL = {"num_blocks": 1, "hidden_size": 16, "num_heads": 2, "length": L}
J = TypeVar("J", bound=Record)


def tiny_job(job: type[J], texts: Path, own: dict[str, Any], changes: dict[str, Any]) -> J:
    """A job on the folder `texts`; `own` are tables of its kind, `changes` of one test, each
    updating what is there."""
    data: dict[str, Any] = {
        "seed": 1,
        "corpus": str(texts / "texts.jsonl"),
        "tokenizer": str(texts / "signs.json"),
        "optimization": {
            "num_steps": 9, "batch_size": BATCH, "warmup_steps": 2, "precision": "float32",
            "compile": False,
        },
        "reporting": {
            "checkpoint_every": 4, "evaluate_every": 100, "held_out_windows": 12,
            "held_out_levels": 3,
        },
    }  # fmt: skip
    for tables in (own, changes):
        for name, value in tables.items():
            data[name] = data.get(name, {}) | value if isinstance(value, dict) else value
    return validate(job, data, where="job")


def begun(job: AnyTrainJob, folder: Path, workers: Workers = ALONE) -> Run:
    """A run before its first step, or where it was left."""
    return start_or_resume(job, folder, workers, quiet)


def quiet(line: str) -> None:
    """Lines of progress go nowhere."""

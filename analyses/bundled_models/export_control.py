"""Put models of the control task into the package: `export_control.py RUNS_FOLDER [NAME ...]`.

The guide is trained on predictions of the bundled simplex denoiser, which comes first. Every run
must be finished. Each is measured on windows of test documents (no run has seen or been
chosen by them); card and `control_results.json` get the result.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
from train import HERE

from schedlab import classifiers
from schedlab.denoisers import checkpoint, loading
from schedlab.errors import InputError
from schedlab.files import write_atomic
from schedlab.text import Tokenizer, load_corpus
from schedlab.training import read_train_job
from schedlab.training.classifier_objective import ClassifierObjective
from schedlab.training.distributed import Workers
from schedlab.training.document_rows import DocumentRows
from schedlab.training.job import ClassifierJob, SimplexJob
from schedlab.training.simplex_objective import SimplexObjective, simplex_loss

NAMES = ("simplex", "simplex-light", "guide", "judge")
WINDOWS = 5_000
SEED = 0


RESULTS = HERE / "control_results.json"


def main(runs: str, *names: str) -> None:
    """Measure and copy."""
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in names or NAMES:
        folder = Path(runs) / name
        card = checkpoint.read_card(folder)
        if card["steps"] < card["planned_steps"]:
            raise InputError(
                f"{folder}: {card['steps']} of {card['planned_steps']} steps are done"
            )
        job = read_train_job(HERE / f"{name}.toml")
        assert isinstance(job, SimplexJob | ClassifierJob)
        found, measured = measure(job, folder)
        card |= {"held_out": found.model_dump(), "held_out_split": "test"}
        card |= {key: value.model_dump() for key, value in measured.items()}
        results[name] = {
            key: card[key]
            for key in ("held_out", "held_out_unit", *measured, "num_parameters", "seed", "steps",
                        "training_seconds")
        }  # fmt: skip
        print(
            f"{name}: {found}, " + ", ".join(f"{key} {value}" for key, value in measured.items())
        )
        network = (
            loading.load(folder) if isinstance(job, SimplexJob) else classifiers.load_own(folder)
        )
        checkpoint.save(checkpoint.BUNDLED / name, network, card)
    write_atomic(RESULTS, checkpoint.json_text(results))


def measure(job: SimplexJob | ClassifierJob, folder: Path) -> Any:
    """Held-out loss and what else is measured, on the test split."""
    corpus, tokenizer = load_corpus(job.corpus), Tokenizer.load(job.tokenizer)
    rows = DocumentRows.of(
        dataclasses.replace(corpus, valid=corpus.test),
        tokenizer,
        length=job.model.length,
        labels=job.texts.labels,
        held_out=WINDOWS,
        part=job.texts.part,
        balanced=job.texts.balanced,
    )
    workers = Workers(0, 1, torch.device("cpu"))
    if isinstance(job, SimplexJob):
        objective = SimplexObjective(job, rows, workers, simplex_loss, SEED)
        return objective.held_out(loading.load(folder))
    return ClassifierObjective.of(job, rows, tokenizer, workers, SEED).held_out(
        classifiers.load_own(folder)
    )


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])

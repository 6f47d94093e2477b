"""A small world to train in: a corpus with structure that a tiny model learns in seconds."""

import json
from pathlib import Path

import numpy as np
import pytest
from control_world import write_corpus, write_tokenizer

from schedlab.text import Tokenizer
from schedlab.training import TrainJob

SUBJECTS = ("array", "matrix", "graph", "figure", "axis", "index", "tensor", "series")
VERBS = ("returns", "holds", "copies", "sorts", "plots", "joins")


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory) -> str:
    """Path of a JSON-lines corpus of formulaic sentences."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(300):
        words = []
        for _ in range(12):
            subject, verb = rng.choice(SUBJECTS), rng.choice(VERBS)
            words.append(f"The {subject} {verb} the {rng.choice(SUBJECTS)} {rng.integers(100)}.")
        rows.append(json.dumps({"text": " ".join(words)}))
    path = tmp_path_factory.mktemp("corpus") / "small.jsonl"
    path.write_text("\n".join(rows))
    return str(path)


@pytest.fixture(scope="session")
def small_tokenizer(small_corpus, tmp_path_factory) -> str:
    """Path of a tokenizer for it."""
    with open(small_corpus) as stream:
        texts = [json.loads(line)["text"] for line in stream]
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    Tokenizer.train(texts, 300).save(path)
    return str(path)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labelled texts of single signs, and their tokenizer."""
    folder = tmp_path_factory.mktemp("texts")
    write_corpus(folder / "texts.jsonl")
    write_tokenizer(folder / "signs.json")
    return folder


@pytest.fixture
def make_job(small_corpus, small_tokenizer):
    """A tiny job; keyword arguments go to [optimization]."""

    def make(kind: str = "denoiser", seed: int = 1, **optimization) -> TrainJob:
        settings = {
            "num_steps": 12,
            "batch_size": 8,
            "warmup_steps": 3,
            "precision": "float32",
            "compile": False,
            **optimization,
        }
        return TrainJob.model_validate(
            {
                "kind": kind,
                "seed": seed,
                "corpus": small_corpus,
                "tokenizer": small_tokenizer,
                "model": {"num_blocks": 2, "hidden_size": 32, "num_heads": 2, "length": 16},
                "optimization": settings,
                "reporting": {"checkpoint_every": 5, "evaluate_every": 6, "held_out_windows": 20},
            }
        )

    return make

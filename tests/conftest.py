"""Shared fixtures: where things are, one thread per test process."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from tiny_world import write_corpus, write_models

torch.set_num_threads(1)  # tiny tensors: threads cost more than they give


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def golden(repository: Path) -> Path:
    """Tensors recorded from the reference implementations; provenance beside each."""
    return repository / "tests" / "golden"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny models and a corpus."""
    folder = tmp_path_factory.mktemp("world")
    write_models(folder)
    write_corpus(folder / "corpus.txt")
    return folder

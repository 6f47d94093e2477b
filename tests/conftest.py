"""Shared fixtures: where things are, one thread per test process."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # tiny tensors: threads cost more than they give


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def golden(repository: Path) -> Path:
    """Tensors recorded from the reference implementations; provenance beside each."""
    return repository / "tests" / "golden"

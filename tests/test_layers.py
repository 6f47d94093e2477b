"""The layer table of the package, read from pyproject.toml, and what must never load torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TORCH_FREE = [
    "schedlab",
    "schedlab.cli",
    "schedlab.errors",
    "schedlab.files",
    "schedlab.job",
    "schedlab.plan",
    "schedlab.report",
    "schedlab.results",
    "schedlab.search",
]


def test_every_import_follows_the_layer_table() -> None:
    # A process of its own: import-linter keeps global state and changes sys.path.
    result = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
        + ["--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Data flows one way KEPT" in result.stdout
    assert "Contracts: 3 kept, 0 broken." in result.stdout


@pytest.mark.parametrize("module", TORCH_FREE)
def test_importing_it_does_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr or f"import {module} loads torch"

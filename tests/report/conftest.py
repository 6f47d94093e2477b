"""A report of a planted run, built once for all tests that only read it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import synthetic_run

from schedlab.report import build_report


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> synthetic_run.Built:
    """The whole report of the planted pair."""
    importance, search = synthetic_run.importance(), synthetic_run.search()
    folder = synthetic_run.write_run(
        tmp_path_factory.mktemp("report") / "planted",
        importance_file=importance,
        search_file=search,
    )
    paths = build_report(folder)
    assert paths.pdf is not None, paths.problem
    html = paths.html.read_text(encoding="utf-8")
    return synthetic_run.Built(html, paths.pdf.read_bytes(), importance, search)

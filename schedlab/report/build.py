"""Build the report of a run folder: `report.html` and `report.pdf`, beside its other files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from schedlab.files import write_atomic
from schedlab.report.document import DocumentError, render_document
from schedlab.report.page import render_page
from schedlab.report.run_data import load_run
from schedlab.report.sections import report

HTML_NAME = "report.html"
PDF_NAME = "report.pdf"


@dataclass(frozen=True)
class ReportPaths:
    """What was written.

    Args:
        html: the page.
        pdf: the document, or None where it could not be made.
        problem: why there is no PDF, in one line; empty otherwise.
    """

    html: Path
    pdf: Path | None
    problem: str = ""


def build_report(run_dir: str | os.PathLike[str]) -> ReportPaths:
    """Write both reports of a run folder from its files; equal files give equal bytes.

    A PDF that cannot be made (typst is missing or fails) does not cost the page: the reason is in
    `problem`, and an old PDF, which would contradict the page, is removed.

    Raises:
        InputError: nothing to report on, or a broken file.
    """
    folder = Path(run_dir)
    content = report(load_run(folder))
    html = folder / HTML_NAME
    write_atomic(html, render_page(content))
    pdf = folder / PDF_NAME
    try:
        write_atomic(pdf, render_document(content))
    except DocumentError as error:
        pdf.unlink(missing_ok=True)
        return ReportPaths(html, None, str(error))
    return ReportPaths(html, pdf)

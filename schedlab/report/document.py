"""The report as a PDF, typeset by typst from the same blocks as the page.

The template ships with the package; all that comes from a run reaches it as one JSON string, so no
text of a run is ever typst code. Only typst's own fonts are used: equal reports give equal
bytes on every machine, and signs that those fonts lack show as boxes.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass
from importlib import resources
from typing import Any

from schedlab.errors import SchedlabError
from schedlab.report.content import MARK_LABELS, ORIGIN_LABELS, VERDICT_LABELS, Report
from schedlab.report.numbering import numbered
from schedlab.report.svg import Svg
from schedlab.report.words import one_line

LONGEST_WORD = 28
ZERO_WIDTH_SPACE = "\N{ZERO WIDTH SPACE}"
_LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


class DocumentError(SchedlabError):
    """The PDF cannot be made; the page is not affected."""


def render_document(report: Report) -> bytes:
    """Lay out a report as PDF.

    Raises:
        DocumentError: typst is not installed, or refuses the document.
    """
    try:
        import typst
    except ImportError:
        raise DocumentError(
            "no report.pdf: the typst package is not importable; pip install 'typst>=0.13'"
        ) from None
    template = (resources.files("schedlab.report") / "templates" / "document.typ").read_bytes()
    compiler = typst.Compiler(
        template,
        ignore_system_fonts=True,
        sys_inputs={"report": json.dumps(document_data(report), allow_nan=False)},
    )
    try:
        pdf = compiler.compile(format="pdf")
    except RuntimeError as error:  # typst's own errors are of this kind in every release
        raise DocumentError(f"no report.pdf: typst refuses it: {one_line(str(error))}") from None
    assert isinstance(pdf, bytes)
    return pdf


def document_data(report: Report) -> dict[str, Any]:
    """The report as JSON data for the template, with all words short enough to break."""
    data = _data(report)
    assert isinstance(data, dict)
    return data | {
        "numbers": numbered(report),
        "origins": ORIGIN_LABELS,
        "marks": MARK_LABELS,
        "verdicts": VERDICT_LABELS,
    }


def _data(value: Any) -> Any:
    if isinstance(value, Svg):
        return value.standalone()
    if is_dataclass(value):
        named = {field.name: _data(getattr(value, field.name)) for field in fields(value)}
        return {"kind": type(value).__name__} | named
    if isinstance(value, tuple):
        return [_data(item) for item in value]
    if isinstance(value, str):
        return breakable(value)
    return value


def breakable(text: str) -> str:
    """Let very long words break anywhere, so that they stay within their column."""

    def cut(match: re.Match[str]) -> str:
        word = match[0]
        pieces = (word[i : i + LONGEST_WORD] for i in range(0, len(word), LONGEST_WORD))
        return ZERO_WIDTH_SPACE.join(pieces)

    return _LONG_WORD.sub(cut, text)

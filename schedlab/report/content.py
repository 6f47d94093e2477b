"""What a report says, as data: sections of blocks that the page and the document both lay out.

Text here is plain text. The renderers escape it; nothing in a block is markup.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from schedlab.report.svg import Svg

# Where a quantity comes from: the paper, schedlab's own derivation, or the paper's quantity with
# something schedlab adds (intervals, a correction, another convention).
Origin = Literal["paper", "schedlab", "extended"]
ORIGIN_LABELS: dict[Origin, str] = {
    "paper": "as in the paper",
    "schedlab": "schedlab's own derivation",
    "extended": "the paper's quantity, extended by schedlab",
}
Edit = Literal["none", "kept", "forgotten"]
MARK_LABELS = {
    "key": "key token: the gradients there are among the largest",
    "kept": "edit that was kept: guidance changed the likeliest token, and the next prediction has"
    " it too",
    "forgotten": "edit that was forgotten: the next prediction is another token again",
}
Verdict = Literal["yes", "no", "open", "fact"]
VERDICT_LABELS: dict[Verdict, str] = {
    "yes": "yes",
    "no": "no",
    "open": "not significant",
    "fact": "measured",
}


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Finding:
    """A statement derived from the numbers of the run.

    Args:
        question: what a reader wants to know.
        verdict: `yes` and `no` only where an interval proves it; `open` where it does not.
        text: the statement.
        detail: the numbers behind it.
    """

    question: str
    verdict: Verdict
    text: str
    detail: str = ""


@dataclass(frozen=True)
class Findings:
    """The statements of the summary."""

    items: tuple[Finding, ...]


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption.

    Args:
        name: unique in the report; also its anchor.
        title: what it shows, as a phrase.
        caption: how to read it, and what it was made from (n, seeds, precision, scorer, ...).
        alt: what a reader who cannot see it should know.
    """

    name: str
    title: str
    svg: Svg
    caption: str
    alt: str
    origin: Origin


@dataclass(frozen=True)
class Strip:
    """A model schedule as coloured segments: (role, number of steps, colour)."""

    label: str
    segments: tuple[tuple[str, int, str], ...]


@dataclass(frozen=True)
class Cell:
    """One cell: text, the exact number behind it if there is one, its interval as small text."""

    text: str
    value: float | None = None
    small: str = ""
    strip: Strip | None = None


@dataclass(frozen=True)
class Column:
    """A column's heading, and whether it holds numbers."""

    heading: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        folded: closed at first on the page.
        document_rows: how many rows the PDF shows, None for all.
    """

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    folded: bool = False
    document_rows: int | None = None


@dataclass(frozen=True)
class SampleColumn:
    """Samples of one plan."""

    heading: str
    strip: Strip
    facts: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Samples:
    """Texts of several plans beside each other; row j has the same noise in every column."""

    name: str
    title: str
    caption: str
    columns: tuple[SampleColumn, ...]


@dataclass(frozen=True)
class Passage:
    """A piece of text with one marking.

    Args:
        note: more about a marked one, for a pointer that rests on it; the PDF leaves it out.
    """

    text: str
    is_key: bool = False
    edit: Edit = "none"
    note: str = ""


@dataclass(frozen=True)
class TextAtStep:
    """A text at a step: number, noise level, how many edits there were, and its passages."""

    step: str
    level: str
    edits: str
    passages: tuple[Passage, ...]


@dataclass(frozen=True)
class Trajectory:
    """A text at several steps with what guidance did to it."""

    name: str
    title: str
    caption: str
    steps: tuple[TextAtStep, ...]


@dataclass(frozen=True)
class Code:
    """A file shown as it is."""

    title: str
    text: str


@dataclass(frozen=True)
class KeyNumber:
    """A number worth a large font."""

    label: str
    text: str
    small: str
    strip: Strip | None = None


@dataclass(frozen=True)
class KeyNumbers:
    """A row of key numbers."""

    items: tuple[KeyNumber, ...]


@dataclass(frozen=True)
class Legend:
    """Which colour is which denoiser: (role, description, colour)."""

    items: tuple[tuple[str, str, str], ...]


Block = Paragraph | Findings | Figure | Table | Samples | Trajectory | Code | KeyNumbers | Legend


@dataclass(frozen=True)
class Section:
    """A heading with its blocks; `name` is its anchor."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """A whole report."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]

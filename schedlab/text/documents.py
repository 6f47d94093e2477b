"""A document: the unit that corpora hold, split and label."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One piece of text.

    Attributes:
        text: the text, not empty.
        label: what it belongs to (the package for the embedded corpus), "" where unknown.
        key: where it was found, for messages; unique within one source.
    """

    text: str
    label: str
    key: str

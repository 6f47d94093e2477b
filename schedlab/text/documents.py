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
        group: documents of one group are never split from one another; "" where it is alone.
    """

    text: str
    label: str
    key: str
    group: str = ""

    @property
    def unit(self) -> str:
        """What a split is hashed from: the group, else the text."""
        return self.group or self.text

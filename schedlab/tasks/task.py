"""Tasks with right answers: prompts, and what tells whether a continuation answers them.

A task is data and a scorer of strings; nothing that a model writes is ever executed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from schedlab.errors import InputError
from schedlab.files import canonical_json, sha256_text
from schedlab.plan.task_config import ScorerName

Answer = Callable[[str], str | None]
"""The answer that a text gives, None where it gives none."""

_NUMBER = re.compile(r"(?:(?<![\d.])-)?(?:\d[\d,]*(?:\.\d+)?|\.\d+)", re.ASCII)


@dataclass(frozen=True)
class Item:
    """A prompt and its reference answer."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Task:
    """Items with one way to read an answer off a text.

    Args:
        name: for people.
        items: in a fixed order; item j is asked of sequence j.
        scorer: `exact` compares whole texts without the blanks around them, `number` the last
            number in each (GSM8K's final answer), `regex` what `pattern` finds last.
        pattern: for `regex`; its first group if it has one, else the whole match.
    """

    name: str
    items: tuple[Item, ...]
    scorer: ScorerName = "exact"
    pattern: str = ""

    def __post_init__(self) -> None:
        if not self.items:
            raise InputError(f"task {self.name}: has no items")
        for number, item in enumerate(self.items, start=1):
            if self.read(item.answer) is None:
                raise InputError(
                    f"task {self.name}: the answer of item {number} cannot be read by scorer"
                    f" {self.scorer!r}: {item.answer[:60]!r}"
                )

    @cached_property
    def read(self) -> Answer:
        """Reads an answer off a text."""
        return _reader(self.scorer, self.pattern)

    def is_right(self, number: int, text: str) -> bool:
        """Whether a continuation answers item `number`, counted around where there are fewer."""
        found = self.read(text)
        return found is not None and found == self.read(self.items[number % len(self)].answer)

    def fingerprint(self, numbers: range) -> str:
        """SHA-256 of these items and how they are scored."""
        items = [self.items[number % len(self)] for number in numbers]
        data = [self.scorer, self.pattern, [[item.prompt, item.answer] for item in items]]
        return sha256_text(canonical_json(data))

    def __len__(self) -> int:
        return len(self.items)


def _reader(scorer: ScorerName, pattern: str) -> Answer:
    if scorer == "exact":
        return str.strip
    if scorer == "number":
        return last_number
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"task pattern {pattern!r}: not a regular expression: {error}") from None
    if not pattern:
        raise InputError("task scorer 'regex' needs a pattern, got none")

    def read(text: str) -> str | None:
        found = list(compiled.finditer(text))
        if not found:
            return None
        group: str | None = found[-1][1] if compiled.groups else found[-1][0]
        return None if group is None else group.strip()

    return read


def last_number(text: str) -> str | None:
    """The last number in a text, in one spelling: 1,000 and 1000.0 are the same."""
    found = _NUMBER.findall(text)
    if not found:
        return None
    # As text: decimals are rounded to so many digits, and models may write more.
    whole, _, part = found[-1].lstrip("-").replace(",", "").partition(".")
    whole, part = whole.lstrip("0"), part.rstrip("0")
    value = f"{whole or 0}.{part}" if part else whole or "0"
    return f"-{value}" if found[-1].startswith("-") and value != "0" else value

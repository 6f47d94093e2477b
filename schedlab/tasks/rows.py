"""Items as tokens: prompts of one length, and whole rows to train on.

Legend: N items, P given positions, L positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schedlab.errors import InputError
from schedlab.tasks.task import Item
from schedlab.text.tokenizer import Tokenizer

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class PromptTokens:
    """Prompts, filled up in front with the separator to one length.

    Args:
        tokens_NP: (N, P) int64.
        padding_N: (N,) int64, positions in front that were filled up.
    """

    tokens_NP: IntArray
    padding_N: IntArray


def encode_prompts(
    items: Sequence[Item], tokenizer: Tokenizer, *, length: int | None = None, where: str = "task"
) -> PromptTokens:
    """Tokens of all prompts, filled up to the longest, or to `length`.

    Raises:
        InputError: an empty prompt, one that is too long, or signs that the tokenizer lacks.
    """
    encoded = [_encode(item.prompt, tokenizer, where) for item in items]
    shortest, longest = min(map(len, encoded)), max(map(len, encoded))
    P = longest if length is None else length
    if not shortest or longest > P:
        raise InputError(
            f"{where}: prompts must have 1 to {P} tokens, got {shortest} to {longest}"
        )
    padding_N = np.array([P - len(ids) for ids in encoded])
    rows = [[tokenizer.eot_id] * (P - len(ids)) + ids for ids in encoded]
    return PromptTokens(np.array(rows, dtype=np.int64), padding_N.astype(np.int64))


def encode_rows(
    items: Sequence[Item], tokenizer: Tokenizer, *, prompt: int, length: int, where: str = "task"
) -> IntArray:
    """Prompt, answer and separators up to `length`, (N, L).

    Raises:
        InputError: a prompt or an answer does not fit.
    """
    given_NP = encode_prompts(items, tokenizer, length=prompt, where=where).tokens_NP
    answers = [_encode(item.answer, tokenizer, where) for item in items]
    longest = max(map(len, answers))
    if prompt + longest > length:
        raise InputError(
            f"{where}: an answer has {longest} tokens, behind a prompt of {prompt} there are"
            f" {length - prompt}; raise the length"
        )
    free = length - prompt
    rows = [ids + [tokenizer.eot_id] * (free - len(ids)) for ids in answers]
    return np.concatenate((given_NP, np.array(rows, dtype=np.int64)), axis=1)


def _encode(text: str, tokenizer: Tokenizer, where: str) -> list[int]:
    ids = tokenizer.encode(text)
    if tokenizer.decode(ids) != text:
        raise InputError(f"{where}: the tokenizer has no tokens for {text[:40]!r}")
    return ids

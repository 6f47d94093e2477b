"""Classifier guidance, as data: which attributes a text shall have, and how hard to push."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from pydantic import Field

from schedlab.files import Record

EACH: Final = "each"
"""As a label: every label in turn, by the sequence's number; of several such attributes every
combination in turn."""

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]


class Attribute(Record):
    """One attribute that texts shall have.

    Args:
        classifier: the guide, by its name in the lab.
        label: one of its labels, or `each`.
        weight: of its gradient among those of all attributes; at 0 it is judged and not pulled at,
            below 0 texts are steered away from it.
    """

    classifier: Name
    label: Annotated[str, Field(min_length=1, max_length=256)] = EACH
    weight: Annotated[float, Field(ge=-1e6, le=1e6)] = 1.0


class Guidance(Record):
    """Gradient steps on the denoiser's logits: logits -= scale * d loss / d logits.

    The loss is -log p(label | softmax(logits) @ E), summed over attributes by weight, of every
    sequence by itself: nothing depends on the batch.

    Args:
        attributes: what is steered towards.
        scale: lambda; at 0 gradients are taken, for policies that read them, and logits stay.
        iterations: gradient steps at every guided step; 0 guides nothing.
        start, end: guided while end <= t <= start.
        interval: every so many steps, counted from the first guided one.
        decay: how the scale falls with t: `constant`, `linear` (times t), `cosine` (times
            (1 - cos(pi t)) / 2).
        contrast: add the sum of log p of the other labels to the loss, as released code of TTA
            does without saying so [C].
        last_step: guide the last step too.
    """

    attributes: Annotated[list[Attribute], Field(min_length=1, max_length=16)]
    scale: Annotated[float, Field(ge=0, le=1e9)] = 2000.0
    iterations: Annotated[int, Field(ge=0, le=1000)] = 3
    start: Annotated[float, Field(ge=0, le=1)] = 1.0
    end: Annotated[float, Field(ge=0, le=1)] = 0.0
    interval: Annotated[int, Field(ge=1)] = 1
    decay: Literal["constant", "linear", "cosine"] = "constant"
    contrast: bool = False
    last_step: bool = False

    def model_post_init(self, _: object) -> None:
        """There is a time to guide in."""
        if self.end > self.start:
            raise ValueError(f"end must be at most start, got {self.end} and {self.start}")


def strides_in_turn(
    attributes: Sequence[Attribute], num_labels: Sequence[int]
) -> list[int | None]:
    """How many sequences one after the other get the same label, by attribute: sequence n gets
    label n // stride % num. None where the label is named.

    The first attribute that asks for `each` turns fastest, the next one whenever that is through.
    """
    found: list[int | None] = []
    stride = 1
    for attribute, num in zip(attributes, num_labels, strict=True):
        found.append(stride if attribute.label == EACH else None)
        stride *= num if attribute.label == EACH else 1
    return found

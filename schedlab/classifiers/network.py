"""Classifiers that read weights over the vocabulary at every position instead of tokens.

The input is `softmax(logits) @ E` with E the classifier's own embedding, over the vocabulary of
the denoiser; tokens are the one-hot case. So the derivative with respect to logits exists.

Legend: B texts, L positions, V vocabulary, D width, C labels, G groups.

References: Kim, "Convolutional Neural Networks for Sentence Classification" (1408.5882); Han et
al., SSD-LM (2210.17432), for guidance through `softmax(logits) @ E`.
"""

from __future__ import annotations

from typing import Literal, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schedlab.denoisers.network import Network, check_sizes
from schedlab.denoisers.rotary import rotary_table
from schedlab.denoisers.transformer import Block, TransformerConfig, first_weights
from schedlab.files import Record

_WIDTHS = (3, 4, 5)


class Classifier(Protocol):
    """Label probabilities of texts given by embeddings."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the C labels."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hex digest of everything that determines the output."""
        ...

    @property
    def embedding_weight(self) -> Tensor:
        """E, (V, D)."""
        ...

    def log_probs(self, e_BLD: Tensor, t_B: Tensor | None = None) -> Tensor:
        """log p(label | text), (B, C), of embeddings; t is the noise level, read by multi-step
        classifiers only."""
        ...

    def log_probs_of_tokens(self, tokens_BL: Tensor) -> Tensor:
        """log p(label | text), (B, C), of tokens."""
        ...

    def check_length(self, length: int) -> None:
        """Refuse texts that are longer than the model was made for, with an `InputError`."""
        ...

    def encoder_flops(self, length: int) -> int:
        """FLOPs of one forward of a text behind the embedding."""
        ...


class ClassifierConfig(Record):
    """Sizes of a `TextClassifier`; the content of its `config.json`.

    Args:
        architecture: tells this file from those of denoisers.
        encoder: `transformer`: blocks and the mean over positions; `convolution`: windows of 3, 4
            and 5 tokens and the maximum over positions.
        vocab_size: V.
        labels: names.
        num_blocks, num_heads: of the transformer.
        hidden_size: D, and the number of filters of every width.
        max_length: longest text it was made for.
        time_input: whether it reads the noise level.
        groups: of a hierarchical classifier: names of groups to their labels; p(label) = p(group)
            p(label | group).
    """

    architecture: Literal["classifier"] = "classifier"
    encoder: Literal["transformer", "convolution"] = "transformer"
    vocab_size: int
    labels: list[str]
    num_blocks: int = 2
    hidden_size: int = 64
    num_heads: int = 4
    max_length: int = 64
    mlp_ratio: int = 4
    time_input: bool = False
    groups: dict[str, list[str]] = {}

    def model_post_init(self, _: object) -> None:
        """Check that the sizes fit together."""
        check_sizes(self)
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels must be at least two and differ, got {self.labels}")
        grouped = [label for group in self.groups.values() for label in group]
        if self.groups and (
            sorted(grouped) != sorted(self.labels) or not all(self.groups.values())
        ):
            raise ValueError(f"groups must hold every label once and none be empty, got {grouped}")


def encoder_flops(config: ClassifierConfig, length: int) -> int:
    """FLOPs of one forward of a text behind the embedding, matrix products only."""
    size = config.hidden_size
    if config.encoder == "convolution":
        # Windows of even width are one more than positions.
        return 2 * size**2 * sum(width * (length + 1 - width % 2) for width in _WIDTHS)
    per_position = 2 * (4 + 2 * config.mlp_ratio) * size**2 + 4 * length * size
    return config.num_blocks * length * per_position


class TextClassifier(Network):
    """Embeddings to label probabilities; satisfies `Classifier`."""

    config: ClassifierConfig

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        weight = torch.empty(config.vocab_size, size)
        self.embedding = nn.Embedding(config.vocab_size, size, _weight=weight)
        if config.time_input:
            self.time = nn.Linear(1, size)
        if config.encoder == "transformer":
            of_blocks = TransformerConfig(
                vocab_size=config.vocab_size,
                mask_id=0,
                num_blocks=config.num_blocks,
                hidden_size=size,
                num_heads=config.num_heads,
                max_length=config.max_length,
                mlp_ratio=config.mlp_ratio,
            )
            self.blocks = nn.ModuleList(Block(of_blocks) for _ in range(config.num_blocks))
            self.norm = nn.RMSNorm(size, eps=1e-6)
            pooled = size
        else:
            self.filters = nn.ModuleList(
                nn.Conv1d(size, size, width, padding=width // 2) for width in _WIDTHS
            )
            pooled = len(_WIDTHS) * size
        self.head = nn.Linear(pooled, len(config.labels))
        if config.groups:
            self.group_head = nn.Linear(pooled, len(config.groups))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw all weights; the first predictions are nearly uniform, the noise level unread."""
        first_weights(self, self.config.num_blocks, generator)
        for name, weight in self.named_parameters():
            if name.endswith("bias") or name.startswith(("time.", "group_head.")):
                weight.zero_()
            elif name.startswith("filters."):
                weight.normal_(0.0, weight[0].numel() ** -0.5, generator=generator)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels."""
        return tuple(self.config.labels)

    @property
    def embedding_weight(self) -> Tensor:
        """E, (V, D)."""
        return self.embedding.weight

    @property
    def head_weight(self) -> Tensor:
        """Of the labels, (C, D)."""
        return self.head.weight

    def log_probs(self, e_BLD: Tensor, t_B: Tensor | None = None) -> Tensor:
        """log p(label | text), float32 (B, C).

        Raises:
            InputError: the text is longer than `max_length`.
        """
        self.check_length(e_BLD.shape[1])
        if self.config.time_input:
            t_B = torch.zeros(len(e_BLD), device=e_BLD.device) if t_B is None else t_B
            e_BLD = e_BLD + self.time(t_B[:, None].to(e_BLD.dtype))[:, None]
        pooled_BD = self._pooled(e_BLD)
        logits_BC = self.head(pooled_BD).float()
        if not self.config.groups:
            return logits_BC.log_softmax(-1)
        group_C, same_CC = self._group_of_label(logits_BC.device)
        within_BC = logits_BC - (
            logits_BC[:, None].masked_fill(~same_CC, -torch.inf).logsumexp(-1)
        )
        return self.group_head(pooled_BD).float().log_softmax(-1)[:, group_C] + within_BC

    def log_probs_of_tokens(self, tokens_BL: Tensor) -> Tensor:
        """log p(label | text) of tokens, (B, C)."""
        return self.log_probs(self.embedding(tokens_BL))

    def encoder_flops(self, length: int) -> int:
        """See `encoder_flops`."""
        return encoder_flops(self.config, length)

    def _pooled(self, e_BLD: Tensor) -> Tensor:
        if self.config.encoder == "convolution":
            channels_BDL = e_BLD.transpose(1, 2)
            found = [F.relu(filters(channels_BDL)).amax(-1) for filters in self.filters]
            return torch.cat(found, dim=-1)
        rotary = rotary_table(
            e_BLD.shape[1], self.config.hidden_size // self.config.num_heads, e_BLD
        )
        for block in self.blocks:
            e_BLD = block(e_BLD, rotary)
        return cast(Tensor, self.norm(e_BLD)).mean(1)

    def _group_of_label(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Number of every label's group, (C,), and which labels share one, (C, C)."""
        group_of = {
            label: number
            for number, group in enumerate(self.config.groups.values())
            for label in group
        }
        group_C = torch.tensor([group_of[label] for label in self.config.labels], device=device)
        return group_C, group_C[:, None] == group_C

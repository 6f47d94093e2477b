"""The bundled simplex network: the bundled transformer, which reads a simplex and the noise level.

Input: the softmax of X_t, averaged with that of the previous logits (self-conditioning), times the
embedding; a linear map of the noise level is added at every generated position; given positions
get clean embeddings and no level. Everything behind it is `Transformer`'s: a trained one of the
same sizes is a good beginning (TESS begins as RoBERTa).

Legend: B sequences, L positions, D hidden size, V vocabulary.

Reference: Karimi Mahabadi et al., "TESS: Text-to-Text Self-Conditioned Simplex Diffusion"
(2305.08379).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from schedlab.denoisers.base import DenoiserSpec
from schedlab.denoisers.network import Network, check_sizes
from schedlab.denoisers.rotary import rotary_table
from schedlab.denoisers.simplex_roberta import simplex_weights
from schedlab.denoisers.transformer import (
    Block,
    Transformer,
    TransformerConfig,
    begin_as,
    first_weights,
)
from schedlab.errors import InputError
from schedlab.files import Record


class SimplexTransformerConfig(Record):
    """Sizes and conventions of a `SimplexTransformer`; the content of its `config.json`.

    Args:
        architecture: tells this file from that of a `Transformer`.
        vocab_size: V.
        num_blocks, hidden_size, num_heads, max_length, mlp_ratio: as of a `Transformer`.
        self_condition: see `simplex_weights`.
        time_input: `sequence`: one noise level for all positions, `token`: one for each.
        value: K of the process that it was trained on.
        noise_schedule: of the process that it was trained on.
    """

    architecture: Literal["simplex_transformer"] = "simplex_transformer"
    vocab_size: int
    num_blocks: int
    hidden_size: int
    num_heads: int
    max_length: int
    mlp_ratio: int = 4
    self_condition: Literal["none", "mean"] = "mean"
    time_input: Literal["sequence", "token"] = "sequence"
    value: float = 5.0
    noise_schedule: Literal["cosine", "linear"] = "cosine"

    def model_post_init(self, _: object) -> None:
        """Check that the sizes fit together."""
        check_sizes(self)

    @property
    def of_blocks(self) -> TransformerConfig:
        """The transformer with blocks of these sizes."""
        return TransformerConfig(
            vocab_size=self.vocab_size,
            mask_id=self.vocab_size - 1,  # nothing in a block depends on it
            num_blocks=self.num_blocks,
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            max_length=self.max_length,
            mlp_ratio=self.mlp_ratio,
        )


class SimplexTransformer(Network):
    """(X_t, t) to features to logits."""

    config: SimplexTransformerConfig

    def __init__(self, config: SimplexTransformerConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        weight = torch.empty(config.vocab_size, size)
        self.embedding = nn.Embedding(config.vocab_size, size, _weight=weight)
        self.time = nn.Linear(1, size)
        self.blocks = nn.ModuleList(Block(config.of_blocks) for _ in range(config.num_blocks))
        self.norm = nn.RMSNorm(size, eps=1e-6)
        self.head = nn.Linear(size, config.vocab_size, bias=False)

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw all weights as those of a `Transformer`; the noise level begins unread."""
        first_weights(self, self.config.num_blocks, generator)
        with torch.no_grad():
            self.time.weight.zero_()
            self.time.bias.zero_()

    def begin_as(self, network: Network, *, where: str) -> None:
        """Copy the weights of another simplex transformer, or of a transformer over tokens, so
        that one-hot inputs give its logits.

        Raises:
            InputError: another vocabulary, width or number of blocks, or learned positions.
        """
        if not isinstance(network, Transformer | SimplexTransformer):
            raise InputError(f"{where}: is no transformer of schedlab; name another")
        begin_as(self, network, where=where)

    @property
    def spec(self) -> DenoiserSpec:
        """Sizes and conventions (see `DenoiserSpec`)."""
        config = self.config
        return DenoiserSpec(
            vocab_size=config.vocab_size,
            mask_id=None,
            num_blocks=config.num_blocks,
            hidden_size=config.hidden_size,
            max_length=config.max_length,
            process="simplex",
            noise_schedule=config.noise_schedule,
            simplex_value=config.value,
            time_input=config.time_input,
            block_weights=(4 + 2 * config.mlp_ratio) * config.hidden_size**2,
        )

    def features(
        self,
        X_BLV: Tensor,
        t_B: Tensor | None = None,
        *,
        given_BL: Tensor | None = None,
        generated_BL: Tensor | None = None,
        previous_BLV: Tensor | None = None,
    ) -> Tensor:
        """Features of every position, (B, L, D); arguments as for `SimplexRoberta.features`, with
        noise levels (B, L) where every token has its own."""
        assert t_B is not None, "a denoiser that reads the time is given it"
        self.check_length(X_BLV.shape[1])
        weights_BLV = simplex_weights(X_BLV, previous_BLV, self.config.self_condition)
        x_BLD = weights_BLV.to(self.embedding.weight.dtype) @ self.embedding.weight
        t_BL = t_B if t_B.ndim == 2 else t_B[:, None]
        x_BLD = x_BLD + self.time(t_BL[..., None].to(x_BLD.dtype))
        if given_BL is not None and generated_BL is not None:
            x_BLD = torch.where(generated_BL[..., None], x_BLD, self.embedding(given_BL))
        rotary = rotary_table(
            x_BLD.shape[1], self.config.hidden_size // self.config.num_heads, x_BLD
        )
        for block in self.blocks:
            x_BLD = block(x_BLD, rotary)
        return self.norm(x_BLD)

    @property
    def head_weight(self) -> Tensor:
        """The last matrix, (V, D)."""
        return self.head.weight

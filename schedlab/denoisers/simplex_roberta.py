"""TESS's network: a RoBERTa that reads a simplex instead of tokens.

Modules carry the published names. Post-norm blocks, learnt positions counted from the padding id.

Legend: B sequences, L positions, D hidden size, H heads, N picked positions, V vocabulary.

References: Karimi Mahabadi et al., "TESS: Text-to-Text Self-Conditioned Simplex Diffusion"
(2305.08379); Liu et al., "RoBERTa" (1907.11692).
"""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schedlab.denoisers.base import DenoiserSpec
from schedlab.denoisers.network import Network, check_heads
from schedlab.files import Record


class SimplexRobertaConfig(Record):
    """Sizes and conventions of a `SimplexRoberta`.

    Args:
        vocab_size: V.
        num_blocks, hidden_size, num_heads, mlp_size: of the transformer.
        num_positions: rows of the position table, `pad_id + 1` of which are never used.
        pad_id: of the tokeniser; positions are counted from the next id.
        norm_eps: of LayerNorm.
        self_condition: `none`, or `mean`: the softmax of the simplex and of the previous logits
            are averaged.
    """

    vocab_size: int
    num_blocks: int
    hidden_size: int
    num_heads: int
    mlp_size: int
    num_positions: int
    pad_id: int
    norm_eps: float
    self_condition: Literal["none", "mean"] = "none"

    def model_post_init(self, _: object) -> None:
        """Check that the sizes fit together."""
        check_heads(self.hidden_size, self.num_heads)

    @property
    def max_length(self) -> int:
        """Longest sequence."""
        return self.num_positions - self.pad_id - 1


def simplex_weights(X_BLV: Tensor, previous_BLV: Tensor | None, self_condition: str) -> Tensor:
    """Weights of the embeddings, (B, L, V): the softmax of the simplex, with self-conditioning
    averaged with that of the previous logits (none yet: zeros)."""
    p_BLV = torch.softmax(X_BLV, dim=-1)
    if self_condition == "none":
        return p_BLV
    previous_BLV = torch.zeros_like(X_BLV) if previous_BLV is None else previous_BLV
    return (p_BLV + torch.softmax(previous_BLV, dim=-1)) / 2


class SimplexRoberta(Network):
    """(X_t, t) to features to logits."""

    config: SimplexRobertaConfig

    def __init__(self, config: SimplexRobertaConfig) -> None:
        super().__init__()
        self.config = config
        self.roberta = _Roberta(config)
        self.vocab_to_hidden_dim_embed = nn.Linear(
            config.vocab_size, config.hidden_size, bias=False
        )
        self.timestep_embed = nn.Linear(1, config.hidden_size)
        self.lm_head = _Head(config)

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
            noise_schedule="cosine",
            time_input="token",
            block_weights=4 * config.hidden_size**2 + 2 * config.hidden_size * config.mlp_size,
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
        """Features of every position, (B, L, D).

        Args:
            X_BLV: simplex values, about K times +-1.
            t_B: noise level in [0, 1].
            given_BL, generated_BL: tokens, and where they are not given but generated (all where
                left out); given ones get clean embeddings and no time.
            previous_BLV: logits of the step before, for self-conditioning; zeros at the first.
        """
        assert t_B is not None, "a denoiser that reads the time is given it"
        self.check_length(X_BLV.shape[1])
        x_BLD = self.vocab_to_hidden_dim_embed(
            simplex_weights(X_BLV, previous_BLV, self.config.self_condition)
        )
        t_BL = t_B if t_B.ndim == 2 else t_B[:, None]
        x_BLD = x_BLD + self.timestep_embed(t_BL[..., None].to(x_BLD.dtype))
        embeddings = self.roberta.embeddings
        if given_BL is not None and generated_BL is not None:
            clean_BLD = embeddings.word_embeddings(given_BL)
            x_BLD = torch.where(generated_BL[..., None], x_BLD, clean_BLD)
        return self.roberta.encoder(embeddings(x_BLD))

    @property
    def head_weight(self) -> Tensor:
        """The last matrix, tied to the embedding, (V, D)."""
        return self.roberta.embeddings.word_embeddings.weight

    @property
    def head_bias(self) -> Tensor:
        """(V,)."""
        return self.lm_head.bias

    def logits(self, features_ND: Tensor) -> Tensor:
        """(N, V) logits at picked positions; also (B, L, D) -> (B, L, V)."""
        return super().logits(self.lm_head(features_ND))


class _Roberta(nn.Module):
    def __init__(self, config: SimplexRobertaConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)


class _Embeddings(nn.Module):
    def __init__(self, config: SimplexRobertaConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.first_position = config.pad_id + 1
        # Drawn values would be thrown away.
        self.word_embeddings = nn.Embedding(
            config.vocab_size, size, _weight=torch.empty(config.vocab_size, size)
        )
        self.position_embeddings = nn.Embedding(
            config.num_positions, size, _weight=torch.empty(config.num_positions, size)
        )
        self.token_type_embeddings = nn.Embedding(1, size, _weight=torch.empty(1, size))
        self.LayerNorm = nn.LayerNorm(size, eps=config.norm_eps)

    def forward(self, x_BLD: Tensor) -> Tensor:
        first, length = self.first_position, x_BLD.shape[1]
        position_LD = self.position_embeddings.weight[first : first + length]
        return self.LayerNorm(x_BLD + self.token_type_embeddings.weight[0] + position_LD)


class _Encoder(nn.Module):
    def __init__(self, config: SimplexRobertaConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Block(config) for _ in range(config.num_blocks))

    def forward(self, x_BLD: Tensor) -> Tensor:
        for block in self.layer:
            x_BLD = block(x_BLD)
        return x_BLD


class _Block(nn.Module):
    """Post-norm: x = norm(x + attention(x)); x = norm(x + MLP(x))."""

    def __init__(self, config: SimplexRobertaConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_heads
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict(
                    {name: nn.Linear(size, size) for name in ("query", "key", "value")}
                ),
                "output": _Residual(size, size, config.norm_eps),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(size, config.mlp_size)})
        self.output = _Residual(config.mlp_size, size, config.norm_eps)

    def forward(self, x_BLD: Tensor) -> Tensor:
        B, L, D = x_BLD.shape
        heads = cast(nn.ModuleDict, self.attention["self"])
        q, k, v = (
            heads[name](x_BLD).view(B, L, self.num_heads, -1).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, L, D)
        x_BLD = self.attention["output"](mixed, x_BLD)
        return self.output(F.gelu(self.intermediate["dense"](x_BLD)), x_BLD)


class _Residual(nn.Module):
    def __init__(self, inner: int, size: int, norm_eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, size)
        self.LayerNorm = nn.LayerNorm(size, eps=norm_eps)

    def forward(self, inner_BLM: Tensor, x_BLD: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(inner_BLM) + x_BLD)


class _Head(nn.Module):
    def __init__(self, config: SimplexRobertaConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.dense = nn.Linear(size, size)
        self.layer_norm = nn.LayerNorm(size, eps=config.norm_eps)
        self.bias = nn.Parameter(torch.empty(config.vocab_size))

    def forward(self, features: Tensor) -> Tensor:
        return self.layer_norm(F.gelu(self.dense(features)))

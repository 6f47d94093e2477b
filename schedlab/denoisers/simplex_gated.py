"""TESS 2's network: a bidirectional Mistral that reads a simplex instead of tokens.

Legend: B sequences, L positions, D hidden size, V vocabulary.

References: Tae et al., "TESS 2: A Large-Scale Generalist Diffusion Language Model" (2502.13917),
whose released code it follows [C]; Jiang et al., "Mistral 7B" (2310.06825).
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from schedlab.denoisers.base import DenoiserSpec
from schedlab.denoisers.gated import GatedBlock, GatedSizes, gated_rotary
from schedlab.denoisers.network import Network
from schedlab.denoisers.simplex_roberta import simplex_weights


class SimplexGatedConfig(GatedSizes):
    """Sizes and conventions of a `SimplexGated`.

    Args:
        reads_time: whether generated positions get the noise level.
        self_condition: `none`, or `mean`: the softmax of the simplex and of the previous logits
            are averaged.
        tied: whether the head is the embedding.
    """

    reads_time: bool = True
    self_condition: Literal["none", "mean"] = "none"
    tied: bool = False


class SimplexGated(Network):
    """(X_t, t) to features to logits.

    The network's output at position i - 1 predicts position i; features here are shifted, so that
    whoever reads them needs no shift. Nothing predicts position 0: its logits are 0.
    """

    config: SimplexGatedConfig

    def __init__(self, config: SimplexGatedConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        weight = torch.empty(config.vocab_size, size)
        self.embedding = nn.Embedding(config.vocab_size, size, _weight=weight)
        if config.reads_time:
            self.time = nn.Linear(1, size, bias=False)
        self.blocks = nn.ModuleList(GatedBlock(config) for _ in range(config.num_blocks))
        self.norm = nn.RMSNorm(size, eps=config.norm_eps)
        if not config.tied:
            self.head = nn.Linear(size, config.vocab_size, bias=False)

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
            time_input="token" if config.reads_time else "none",
            block_weights=cast(GatedBlock, self.blocks[0]).num_weights,
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
        """Features of every position, (B, L, D); arguments as for `SimplexRoberta.features`."""
        self.check_length(X_BLV.shape[1])
        weights_BLV = simplex_weights(X_BLV, previous_BLV, self.config.self_condition)
        x_BLD = weights_BLV.to(self.embedding.weight.dtype) @ self.embedding.weight
        if self.config.reads_time:
            assert t_B is not None, "a denoiser that reads the time is given it"
            t_BL = t_B if t_B.ndim == 2 else t_B[:, None]
            x_BLD = x_BLD + self.time(t_BL[..., None].to(x_BLD.dtype))
        if given_BL is not None and generated_BL is not None:
            x_BLD = torch.where(generated_BL[..., None], x_BLD, self.embedding(given_BL))
        rotary = gated_rotary(self.config, x_BLD.shape[1], x_BLD)
        for block in self.blocks:
            x_BLD = block(x_BLD, rotary, None)
        x_BLD = self.norm(x_BLD)
        return torch.cat((torch.zeros_like(x_BLD[:, :1]), x_BLD[:, :-1]), dim=1)

    @property
    def head_weight(self) -> Tensor:
        """The last matrix, (V, D)."""
        return self.embedding.weight if self.config.tied else self.head.weight

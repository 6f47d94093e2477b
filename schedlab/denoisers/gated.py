"""The bidirectional Llama of LLaDA and Dream: RMSNorm, rotary positions, gated MLP, grouped heads.

Legend: B sequences, L positions, A of them computed, D hidden size, H heads, G key-value heads, N
picked positions, E kept of a position by a block, F by the network or values of a trunk, V
vocabulary.

References: Nie et al., "Large Language Diffusion Models" (2502.09992); Ye et al., "Dream 7B"
(2508.15487); Touvron et al., "LLaMA" (2302.13971).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schedlab.denoisers.base import DenoiserSpec
from schedlab.denoisers.keeping import put, refreshed
from schedlab.denoisers.network import Network, check_heads, check_mask
from schedlab.denoisers.rotary import rotary_table, rotate
from schedlab.denoisers.shadows import shadow_attention, shadow_positions
from schedlab.errors import InputError
from schedlab.files import Record


class GatedSizes(Record):
    """Sizes of a stack of gated blocks.

    Args:
        vocab_size: V, rows of the embedding.
        num_blocks, hidden_size, num_heads: of the transformer.
        num_kv_heads: G, heads of keys and values.
        mlp_size: inner width of the MLP.
        max_length: longest sequence it is made for.
        rope_base: of the rotary positions.
        norm_eps: of RMSNorm.
        qkv_bias: whether queries, keys and values have a bias.
    """

    vocab_size: int
    num_blocks: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    mlp_size: int
    max_length: int
    rope_base: float
    norm_eps: float
    qkv_bias: bool = False

    def model_post_init(self, _: object) -> None:
        """Check that the sizes fit together."""
        check_heads(self.hidden_size, self.num_heads)
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads must be a multiple of num_kv_heads, got {self.num_heads} and"
                f" {self.num_kv_heads}"
            )


class GatedConfig(GatedSizes):
    """Sizes and conventions of a `GatedTransformer`.

    Args:
        mask_id: id of the mask token, one of the V.
        tied: whether the head is the embedding.
        shifted: whether the network's output at position i - 1 predicts position i (Dream).
    """

    mask_id: int
    tied: bool = False
    shifted: bool = False

    def model_post_init(self, _: object) -> None:
        """Check that the sizes fit together."""
        super().model_post_init(_)
        check_mask(self.mask_id, self.vocab_size)


class GatedTransformer(Network):
    """Tokens to features to logits; satisfies `denoisers.base.Denoiser`.

    With `shifted`, features of position i are those of position i - 1 of the network, and position
    0 keeps its own: whoever reads them needs no shift.
    """

    config: GatedConfig

    def __init__(self, config: GatedConfig) -> None:
        super().__init__()
        self.config = config
        weight = torch.empty(config.vocab_size, config.hidden_size)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size, _weight=weight)
        self.blocks = nn.ModuleList(GatedBlock(config) for _ in range(config.num_blocks))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        if not config.tied:
            self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def spec(self) -> DenoiserSpec:
        """Sizes and conventions (see `DenoiserSpec`)."""
        config = self.config
        return DenoiserSpec(
            vocab_size=config.vocab_size,
            mask_id=config.mask_id,
            num_blocks=config.num_blocks,
            hidden_size=config.hidden_size,
            max_length=config.max_length,
            block_weights=self._last_block.num_weights,
        )

    def features(
        self, z_BL: Tensor, t_B: Tensor | None = None, *, padding_BL: Tensor | None = None
    ) -> Tensor:
        """Features of every position, (B, L, D).

        Args:
            z_BL: (B, L) int64 tokens in [0, V), L at most `max_length`.
            t_B: ignored; the state shows the noise level.
            padding_BL: where rows of unequal length are filled up in front: nobody reads these
                positions, and their features mean nothing. Rotary attention sees distances only,
                so the others need no positions of their own. With `shifted` the first real
                position takes the output of the last padded one, as in the released code: it
                should be given, not generated.
        """
        x_BLD, rotary, read_B11L = self._before_last(z_BL, padding_BL)
        x_BLD = self.norm(self._last_block(x_BLD, rotary, read_B11L))
        if not self.config.shifted:
            return x_BLD
        return torch.cat((x_BLD[:, :1], x_BLD[:, :-1]), dim=1)

    def trunk(
        self, z_BL: Tensor, t_B: Tensor | None = None, *, padding_BL: Tensor | None = None
    ) -> Tensor:
        """(B, L, 2 D): the input of the last block, and its attention's output before the
        projection; `padding_BL` as for `features`."""
        x_BLD, rotary, read_B11L = self._before_last(z_BL, padding_BL)
        return torch.cat((x_BLD, self._last_block.mixed(x_BLD, rotary, read_B11L)), dim=-1)

    def logits_at(self, trunk_BLF: Tensor, row_N: Tensor, position_N: Tensor) -> Tensor:
        """(N, V) logits at (row, position) of what `trunk` gave."""
        if self.config.shifted:
            position_N = (position_N - 1).clamp(min=0)
        x_ND, mixed_ND = trunk_BLF[row_N, position_N].chunk(2, dim=-1)
        return self.logits(self.norm(self._last_block.finish(x_ND, mixed_ND)))

    def features_with_shadows(
        self, z_BL: Tensor, place_BK: Tensor, t_B: Tensor | None = None
    ) -> Tensor:
        """Features of sequences and of shadows, (B, L + K, D), see `ShadowDenoiser`.

        Raises:
            InputError: a `shifted` network, where the token before would have to be its shadow.
        """
        if self.config.shifted:
            raise InputError(
                "networks whose output predicts the next position (Dream) take no shadows, which"
                " the policy needs; choose another policy"
            )
        length = z_BL.shape[1]
        self.check_length(length)
        masks_BK = torch.full_like(place_BK, self.config.mask_id)
        x_BSD = self.embedding(torch.cat((z_BL, masks_BK), dim=1))
        rotary = gated_rotary(self.config, length, x_BSD)
        rotary = rotary[:, shadow_positions(length, place_BK)]
        read_B1SS = shadow_attention(length, place_BK)
        for block in self.blocks:
            x_BSD = block(x_BSD, rotary, read_B1SS)
        return self.norm(x_BSD)

    @property
    def reads_before(self) -> bool:
        """Whether the network is `shifted`."""
        return self.config.shifted

    @property
    def kept_width(self) -> int:
        """Numbers kept of a position: of every block, and the last block's output."""
        blocks = cast(list[GatedBlock], self.blocks)
        return sum(block.kept_width for block in blocks) + self.config.hidden_size

    def refresh(self, kept_BLF: Tensor | None, z_BA: Tensor, position_BA: Tensor) -> Tensor:
        """(B, A, F): see `KeepingDenoiser`."""
        length = (z_BA if kept_BLF is None else kept_BLF).shape[1]
        self.check_length(length)
        x_BAD = self.embedding(z_BA)
        rotary = gated_rotary(self.config, length, x_BAD)
        blocks = cast(list[GatedBlock], self.blocks)
        return refreshed(blocks, self.norm, x_BAD, rotary, kept_BLF, position_BA)

    def kept_logits(self, kept_BLF: Tensor, row_N: Tensor, position_N: Tensor) -> Tensor:
        """(N, V) logits at (row, position). With `shifted` they are of what is kept of the
        position before, whenever that was computed."""
        if self.config.shifted:
            position_N = (position_N - 1).clamp(min=0)
        return self.logits(kept_BLF[row_N, position_N, -self.config.hidden_size :])

    def forward(self, z_BL: Tensor) -> Tensor:
        """(B, L, V) logits at all positions."""
        return self.logits(self.features(z_BL))

    @property
    def head_weight(self) -> Tensor:
        """The last matrix, (V, D)."""
        return self.embedding.weight if self.config.tied else self.head.weight

    @property
    def _last_block(self) -> GatedBlock:
        return cast(GatedBlock, self.blocks[-1])

    def _before_last(
        self, z_BL: Tensor, padding_BL: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        self.check_length(z_BL.shape[1])
        x_BLD = self.embedding(z_BL)
        rotary = gated_rotary(self.config, x_BLD.shape[1], x_BLD)
        read_B11L = None if padding_BL is None else ~padding_BL[:, None, None]
        for block in self.blocks[:-1]:
            x_BLD = block(x_BLD, rotary, read_B11L)
        return x_BLD, rotary, read_B11L


def gated_rotary(config: GatedSizes, length: int, like: Tensor) -> Tensor:
    """Rotary table of a sequence; in float32 whatever the weights are, as angles grow with the
    position."""
    head_size = config.hidden_size // config.num_heads
    return rotary_table(length, head_size, like[:0].float(), base=config.rope_base)


class GatedBlock(nn.Module):
    """x += attention(norm(x)); x += MLP(norm(x))."""

    def __init__(self, config: GatedSizes) -> None:
        super().__init__()
        size, self.num_heads, self.num_kv_heads = (
            config.hidden_size, config.num_heads, config.num_kv_heads,
        )  # fmt: skip
        kv_size = size // config.num_heads * config.num_kv_heads
        self.attention_norm = nn.RMSNorm(size, eps=config.norm_eps)
        self.query = nn.Linear(size, size, bias=config.qkv_bias)
        self.key = nn.Linear(size, kv_size, bias=config.qkv_bias)
        self.value = nn.Linear(size, kv_size, bias=config.qkv_bias)
        self.output = nn.Linear(size, size, bias=False)
        self.mlp_norm = nn.RMSNorm(size, eps=config.norm_eps)
        self.gate = nn.Linear(size, config.mlp_size, bias=False)
        self.up = nn.Linear(size, config.mlp_size, bias=False)
        self.down = nn.Linear(config.mlp_size, size, bias=False)

    @property
    def num_weights(self) -> int:
        """Numbers in its matrices."""
        return sum(weight.numel() for weight in self.parameters() if weight.ndim == 2)

    def forward(self, x_BLD: Tensor, rotary: Tensor, read_B11L: Tensor | None) -> Tensor:
        """(B, L, D) to (B, L, D); `read_B11L` says which positions are read (None: all), for every
        reader where it is (B, 1, L, L)."""
        return self.finish(x_BLD, self.mixed(x_BLD, rotary, read_B11L))

    def mixed(self, x_BLD: Tensor, rotary: Tensor, read_B11L: Tensor | None) -> Tensor:
        """The attention's output before its projection, (B, L, D)."""
        return self._attend(*self._heads(x_BLD, rotary), read_B11L)

    @property
    def kept_width(self) -> int:
        """Numbers kept of a position: a key and a value."""
        return self.key.out_features + self.value.out_features

    def refresh(
        self, x_BAD: Tensor, rotary: Tensor, kept_BLE: Tensor, position_BA: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Output (B, A, D) of inputs at some positions, and what is kept of them, (B, A, E).

        Args:
            x_BAD: inputs at these positions.
            rotary: angles there, (2, B, A, 1, 1, D / H).
            kept_BLE: what is kept of all positions.
            position_BA: which are computed.
        """
        q, k, v = self._heads(x_BAD, rotary)
        fresh_BAE = torch.cat((k.flatten(2), v.flatten(2)), dim=-1)
        keys, values = (
            part.unflatten(-1, k.shape[2:])
            for part in put(kept_BLE, fresh_BAE, position_BA).chunk(2, dim=-1)
        )
        return self.finish(x_BAD, self._attend(q, keys, values, None)), fresh_BAE

    def _heads(self, x_BLD: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, L, H, D / H), keys and values (B, L, G, D / H)."""
        B, L, D = x_BLD.shape
        x_BLD = self.attention_norm(x_BLD)
        size = D // self.num_heads
        q, k = (
            rotate(part(x_BLD).view(B, L, 1, -1, size).float(), rotary).to(x_BLD.dtype)[:, :, 0]
            for part in (self.query, self.key)
        )
        return q, k, self.value(x_BLD).view(B, L, -1, size)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, read_B11L: Tensor | None) -> Tensor:
        """What the heads read, (B, L, D)."""
        grouped = self.num_heads != self.num_kv_heads
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=read_B11L, enable_gqa=grouped)
        return mixed.transpose(1, 2).flatten(2)

    def finish(self, x_BLD: Tensor, mixed_BLD: Tensor) -> Tensor:
        """The rest of the block, position by position."""
        x_BLD = x_BLD + self.output(mixed_BLD)
        inner = self.mlp_norm(x_BLD)
        return x_BLD + self.down(F.silu(self.gate(inner)) * self.up(inner))

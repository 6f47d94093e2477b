"""The DiT of MDLM and DUO: a transformer whose blocks are shifted, scaled and gated by the noise.

Modules and parameters carry the published names (`blocks.0.attn_qkv.weight`, ...), so that a
checkpoint needs no translation.

Legend: B sequences, L positions, D hidden size, H heads, C size of the noise embedding,
N picked positions, F values of a trunk, V vocabulary.

References: Peebles and Xie, "Scalable Diffusion Models with Transformers" (2212.09748); Sahoo et
al. (2406.07524 and 2506.10892), whose checkpoints have this layout.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schedlab.denoisers.base import DenoiserSpec
from schedlab.denoisers.network import Network, check_heads, check_mask
from schedlab.denoisers.rotary import rotary_table, rotate
from schedlab.files import Record

FREQUENCIES = 256  # values of the sinusoidal embedding of sigma
_MAX_PERIOD = 10_000.0
NOISE_EPS = 1e-3  # of the published log-linear schedule


class DiTConfig(Record):
    """Sizes and conventions of a `DiT`.

    Args:
        process: `masked` (MDLM) or `uniform` (DUO).
        vocab_size: V, the mask token included where there is one.
        mask_id: id of the mask token; None for the uniform process.
        num_blocks, hidden_size, num_heads: of the transformer.
        cond_size: C.
        max_length: longest sequence it is made for.
        time_conditioning: whether the noise level is read; MDLM's best checkpoints set it to 0.
    """

    process: Literal["masked", "uniform"]
    vocab_size: int
    mask_id: int | None
    num_blocks: int
    hidden_size: int
    num_heads: int
    cond_size: int
    max_length: int
    time_conditioning: bool

    def model_post_init(self, _: object) -> None:
        """Check that the sizes fit together."""
        check_heads(self.hidden_size, self.num_heads)
        check_mask(self.mask_id, self.vocab_size)


def sigma_of(t_B: Tensor) -> Tensor:
    """Total noise -log alpha_t of the published log-linear schedule, alpha_t = 1 - (1 - eps) t."""
    return -torch.log1p(-(1 - NOISE_EPS) * t_B)


class DiT(Network):
    """(z_t, t) to features to logits; satisfies `denoisers.base.Denoiser`."""

    config: DiTConfig

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_embed = _Embedding(config)
        self.sigma_map = _NoiseEmbedding(config)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_blocks))
        self.output_layer = _Output(config)

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
            process=config.process,
            # What the plug-in bound of the uniform process trains (DUO, UDLM).
            prediction="posterior" if config.process == "masked" else "leave_one_out",
            time_input="sequence" if config.time_conditioning else "none",
        )

    def features(self, z_BL: Tensor, t_B: Tensor | None = None) -> Tensor:
        """Features of every position, (B, L, D).

        Args:
            z_BL: (B, L) int64 tokens in [0, V), L at most `max_length`.
            t_B: noise levels in [0, 1]; read with `time_conditioning` only.
        """
        x_BLD, rotary, c_BC = self._before_last(z_BL, t_B)
        return self.output_layer.features(self._last_block(x_BLD, rotary, c_BC), c_BC)

    @property
    def token_embeddings(self) -> Tensor:
        """(V, D)."""
        return self.vocab_embed.embedding

    def block_outputs(self, x_BLD: Tensor, t_B: Tensor | None = None) -> list[Tensor]:
        """What every block gives for inputs in place of `token_embeddings`, (B, L, D) each."""
        self.check_length(x_BLD.shape[1])
        c_BC, rotary = self._noise(x_BLD, t_B), self._rotary(x_BLD)
        found = []
        for block in self.blocks:
            x_BLD = block(x_BLD, rotary, c_BC)
            found.append(x_BLD)
        return found

    def output_features(self, x_BLD: Tensor, t_B: Tensor | None = None) -> Tensor:
        """Features of what the last block gave, (B, L, D)."""
        return self.output_layer.features(x_BLD, self._noise(x_BLD, t_B))

    def trunk(self, z_BL: Tensor, t_B: Tensor | None = None) -> Tensor:
        """(B, L, 2 D + C): the input of the last block, its attention's output before the
        projection, and the noise embedding."""
        x_BLD, rotary, c_BC = self._before_last(z_BL, t_B)
        mixed_BLD = self._last_block.mixed(x_BLD, rotary, c_BC)
        return torch.cat((x_BLD, mixed_BLD, c_BC[:, None].expand(-1, x_BLD.shape[1], -1)), dim=-1)

    def logits_at(self, trunk_BLF: Tensor, row_N: Tensor, position_N: Tensor) -> Tensor:
        """(N, V) logits at (row, position) of what `trunk` gave."""
        size = self.config.hidden_size
        picked_NF = trunk_BLF[row_N, position_N]
        x_ND, mixed_ND, c_NC = picked_NF.split((size, size, self.config.cond_size), dim=-1)
        x_ND = self._last_block.finish(x_ND[:, None], mixed_ND[:, None], c_NC)
        return self.logits(self.output_layer.features(x_ND, c_NC)[:, 0])

    @property
    def head_weight(self) -> Tensor:
        """The last matrix, (V, D)."""
        return self.output_layer.linear.weight

    @property
    def head_bias(self) -> Tensor:
        """(V,)."""
        return self.output_layer.linear.bias

    def forward(self, z_BL: Tensor, t_B: Tensor | None = None) -> Tensor:
        """(B, L, V) logits at all positions."""
        return self.logits(self.features(z_BL, t_B))

    @property
    def _last_block(self) -> _Block:
        return cast(_Block, self.blocks[-1])

    def _before_last(self, z_BL: Tensor, t_B: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        self.check_length(z_BL.shape[1])
        x_BLD = self.vocab_embed.embedding[z_BL]
        c_BC, rotary = self._noise(x_BLD, t_B), self._rotary(x_BLD)
        for block in self.blocks[:-1]:
            x_BLD = block(x_BLD, rotary, c_BC)
        return x_BLD, rotary, c_BC

    def _noise(self, x_BLD: Tensor, t_B: Tensor | None) -> Tensor:
        """The noise embedding, (B, C)."""
        if self.config.time_conditioning:
            assert t_B is not None, "a denoiser that reads the time is given it"
            sigma_B = sigma_of(t_B.float())
        else:
            sigma_B = torch.zeros(len(x_BLD), device=x_BLD.device)
        return F.silu(self.sigma_map(sigma_B, x_BLD.dtype))

    def _rotary(self, x_BLD: Tensor) -> Tensor:
        width = self.config.hidden_size // self.config.num_heads
        return rotary_table(x_BLD.shape[1], width, x_BLD)


class _Embedding(nn.Module):
    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))


class _NoiseEmbedding(nn.Module):
    """Sinusoids of sigma, then an MLP."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(FREQUENCIES, config.cond_size),
            nn.SiLU(),
            nn.Linear(config.cond_size, config.cond_size),
        )

    def forward(self, sigma_B: Tensor, dtype: torch.dtype) -> Tensor:
        half = FREQUENCIES // 2
        exponent = torch.arange(half, dtype=torch.float32, device=sigma_B.device) / half
        angles = sigma_B[:, None] * torch.exp(-math.log(_MAX_PERIOD) * exponent)
        return self.mlp(torch.cat((angles.cos(), angles.sin()), dim=-1).to(dtype))


class _Norm(nn.Module):
    """LayerNorm with a gain and no shift."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight)


class _Block(nn.Module):
    """x += gate * attention(modulated norm(x)); x += gate * MLP(modulated norm(x))."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_heads
        self.norm1 = _Norm(size)
        self.attn_qkv = nn.Linear(size, 3 * size, bias=False)
        self.attn_out = nn.Linear(size, size, bias=False)
        self.norm2 = _Norm(size)
        self.mlp = nn.Sequential(
            nn.Linear(size, 4 * size), nn.GELU(approximate="tanh"), nn.Linear(4 * size, size)
        )
        self.adaLN_modulation = nn.Linear(config.cond_size, 6 * size)

    def forward(self, x_BLD: Tensor, rotary: Tensor, c_BC: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        return self.finish(x_BLD, self.mixed(x_BLD, rotary, c_BC), c_BC)

    def mixed(self, x_BLD: Tensor, rotary: Tensor, c_BC: Tensor) -> Tensor:
        """The attention's output before its projection, (B, L, D)."""
        B, L, D = x_BLD.shape
        shift, scale, *_ = self.adaLN_modulation(c_BC)[:, None].chunk(6, dim=-1)
        qkv = self.attn_qkv(_modulated(self.norm1(x_BLD), shift, scale))
        qkv = qkv.view(B, L, 3, self.num_heads, D // self.num_heads)
        q, k = rotate(qkv[:, :, :2], rotary).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, qkv[:, :, 2].transpose(1, 2))
        return mixed.transpose(1, 2).reshape(B, L, D)

    def finish(self, x_BLD: Tensor, mixed_BLD: Tensor, c_BC: Tensor) -> Tensor:
        """The rest of the block, position by position, (B, L, D)."""
        _, _, gate, shift, scale, gate_mlp = self.adaLN_modulation(c_BC)[:, None].chunk(6, dim=-1)
        x_BLD = x_BLD + gate * self.attn_out(mixed_BLD)
        return x_BLD + gate_mlp * self.mlp(_modulated(self.norm2(x_BLD), shift, scale))


class _Output(nn.Module):
    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.norm_final = _Norm(config.hidden_size)
        self.linear = nn.Linear(config.hidden_size, config.vocab_size)
        self.adaLN_modulation = nn.Linear(config.cond_size, 2 * config.hidden_size)

    def features(self, x_BLD: Tensor, c_BC: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c_BC)[:, None].chunk(2, dim=-1)
        return _modulated(self.norm_final(x_BLD), shift, scale)


def _modulated(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor) -> Tensor:
    return x_BLD * (1 + scale_B1D) + shift_B1D

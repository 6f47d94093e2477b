"""The bundled network: a transformer over tokens, as a denoiser or as an autoregressive scorer.

Pre-norm blocks with rotary positions (learned ones too on wish), RMSNorm, a GELU MLP, no biases.
A masked diffusion denoiser needs no time input, since the state itself shows the noise level; one
of the uniform-state process gets a linear map of it added at every position. What enters attention
and MLP is mixed with its neighbours first (`TokenShift`): masked models are slow to find out that
neighbours matter, and this gives it to them. With `causal=True` the same network predicts the next
token.

Legend: B sequences, L positions, A of them computed, D hidden size, H heads, E and F kept of a
position, N picked positions, V vocabulary.

References: Sahoo et al., "Simple and Effective Masked Diffusion Language Models" (2406.07524);
Su et al., "RoFormer" (2104.09864).
"""

from __future__ import annotations

import functools
import hashlib
import math
from typing import Any, Literal, cast

import pydantic
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schedlab.denoisers.base import DenoiserSpec
from schedlab.denoisers.keeping import pick, put, refreshed
from schedlab.denoisers.network import Network, check_mask, check_sizes
from schedlab.denoisers.rotary import rotary_table, rotate
from schedlab.denoisers.shadows import shadow_attention, shadow_positions
from schedlab.errors import InputError
from schedlab.files import Record, canonical_json

_FIRST_SHIFT = 0.3


class TransformerConfig(Record):
    """Sizes of a `Transformer`; the content of a checkpoint's `config.json`.

    Args:
        vocab_size: V, mask token included.
        mask_id: id of the mask token; None for the uniform-state process.
        num_blocks: transformer blocks.
        hidden_size: width D.
        num_heads: attention heads; must divide the width into even parts.
        max_length: longest sequence it is made for.
        causal: whether a position sees only itself and what stands before it.
        mlp_ratio: inner width of the MLP over D.
        learned_positions: add a learned vector for every position to the embeddings: where a
            position itself means something, as a cell of a grid does.
        process: that it was trained on.
        prediction: what it predicts (see `DenoiserSpec`): by the bound of the uniform-state
            process `leave_one_out`, by cross-entropy `posterior`.
        time_input: for the uniform-state process: `sequence` reads one noise level for all
            positions, `token` one for each.
    """

    vocab_size: int
    mask_id: int | None
    num_blocks: int
    hidden_size: int
    num_heads: int
    max_length: int
    causal: bool = False
    mlp_ratio: int = 4
    learned_positions: bool = False
    process: Literal["masked", "uniform"] = "masked"
    prediction: Literal["posterior", "leave_one_out"] = "posterior"
    time_input: Literal["none", "sequence", "token"] = "none"

    @pydantic.model_serializer(mode="wrap")
    def _described(self, handler: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what a network does not have: fingerprints stay as they were before it."""
        found: dict[str, Any] = handler(self)
        if not self.learned_positions:
            found.pop("learned_positions", None)
        if self.process == "masked":
            for name in ("process", "prediction", "time_input"):
                found.pop(name, None)
        return found

    def model_post_init(self, _: object) -> None:
        """Check that the sizes and the conventions of the process fit together."""
        check_sizes(self)
        check_mask(self.mask_id, self.vocab_size)
        masked = self.process == "masked"
        if masked != (self.mask_id is not None) or masked != (self.time_input == "none"):
            raise ValueError(
                "process 'masked' has a mask_id and no time_input, process 'uniform' a time_input"
                f" and no mask_id; got {self.process!r}, mask_id {self.mask_id} and time_input"
                f" {self.time_input!r}"
            )
        if masked and self.prediction != "posterior":
            raise ValueError(
                f"prediction of process 'masked' must be 'posterior', got {self.prediction!r}"
            )
        if not masked and self.causal:
            raise ValueError("a causal network is of no process; leave process out")


class Transformer(Network):
    """Tokens to features to logits; satisfies `denoisers.base.Denoiser`."""

    config: TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        # Its own first values would be drawn, which on the meta device imports the compiler.
        weight = torch.empty(config.vocab_size, size)
        self.embedding = nn.Embedding(config.vocab_size, size, _weight=weight)
        self.time = None if config.time_input == "none" else nn.Linear(1, size)
        self.positions = None
        if config.learned_positions:
            weight = torch.empty(config.max_length, size)
            self.positions = nn.Embedding(config.max_length, size, _weight=weight)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_blocks))
        self.norm = nn.RMSNorm(size, eps=1e-6)
        self.head = nn.Linear(size, config.vocab_size, bias=False)

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw all weights: normal, the outputs of branches scaled by 1 / sqrt(2 blocks).

        Embeddings start at unit size, so that the branches do not drown which token stands where,
        and the head near zero, so that the first predictions are uniform. The noise level begins
        unread.
        """
        first_weights(self, self.config.num_blocks, generator)
        if self.time is not None:
            nn.init.zeros_(self.time.weight)
            nn.init.zeros_(self.time.bias)

    def begin_as(self, network: Network, *, where: str) -> None:
        """Copy the weights of another transformer over tokens; the noise level stays unread if it
        reads none.

        Raises:
            InputError: other sizes, a causal network, or learned positions in one of the two.
        """
        if not isinstance(network, Transformer):
            raise InputError(f"{where}: is no transformer over tokens; name another")
        begin_as(self, network, where=where)

    @property
    def spec(self) -> DenoiserSpec:
        """Sizes and conventions (see `DenoiserSpec`)."""
        return DenoiserSpec(
            vocab_size=self.config.vocab_size,
            mask_id=self.config.mask_id,
            num_blocks=self.config.num_blocks,
            hidden_size=self.config.hidden_size,
            max_length=self.config.max_length,
            process=self.config.process,
            prediction=self.config.prediction,
            time_input=self.config.time_input,
            block_weights=(4 + 2 * self.config.mlp_ratio) * self.config.hidden_size**2,
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of sizes and weights, taken once: for models that are not being trained."""
        digest = hashlib.sha256(canonical_json(self.config.model_dump()).encode())
        for name, weight in sorted(self.state_dict().items()):
            # Through float32, so that every precision of stored weights has a byte form.
            values = weight.detach().to("cpu", torch.float32).contiguous().numpy()
            digest.update(f"{name}:{weight.dtype}".encode())
            digest.update(values.tobytes())
        return digest.hexdigest()

    def features(self, z_BL: Tensor, t_B: Tensor | None = None) -> Tensor:
        """Features of every position.

        Args:
            z_BL: (B, L) integer tokens in [0, V), L at most `max_length`.
            t_B: noise levels in [0, 1], (B, L) where every token has its own; read where the
                network has a time input.

        Returns:
            (B, L, D) features in the dtype of the weights.

        Raises:
            InputError: the sequence is longer than `max_length`.
        """
        x_BLD, rotary = self._before_last(z_BL, t_B)
        return self.norm(self._last_block(x_BLD, rotary))

    @property
    def token_embeddings(self) -> Tensor:
        """(V, D)."""
        return self.embedding.weight

    def block_outputs(self, x_BLD: Tensor, t_B: Tensor | None = None) -> list[Tensor]:
        """What every block gives for inputs in place of `token_embeddings`, (B, L, D) each."""
        length = x_BLD.shape[1]
        self.check_length(length)
        if self.positions is not None:
            x_BLD = x_BLD + self.positions.weight[:length]
        x_BLD, rotary = self._timed(x_BLD, t_B), self._rotary(length, x_BLD)
        found = []
        for block in self.blocks:
            x_BLD = block(x_BLD, rotary)
            found.append(x_BLD)
        return found

    def output_features(self, x_BLD: Tensor, t_B: Tensor | None = None) -> Tensor:
        """Features of what the last block gave, (B, L, D)."""
        return self.norm(x_BLD)

    def trunk(self, z_BL: Tensor, t_B: Tensor | None = None) -> Tensor:
        """What `logits_at` needs of whole sequences: everything up to the last block's attention.

        Args:
            z_BL, t_B: as for `features`.

        Returns:
            (B, L, 2 D): the input of the last block, and its attention's output before the
            projection.

        Raises:
            InputError: the sequence is longer than `max_length`.
        """
        x_BLD, rotary = self._before_last(z_BL, t_B)
        return torch.cat((x_BLD, self._last_block.mixed(x_BLD, rotary)), dim=-1)

    def logits_at(self, trunk_BLF: Tensor, row_N: Tensor, position_N: Tensor) -> Tensor:
        """(N, V) logits at (row, position) of what `trunk` gave, both int64 (N,).

        The last block's projection runs at these positions and their neighbours (the MLP is
        shifted), its MLP and the head at these positions alone: sampling reads few of a sequence.
        """
        near_N3 = position_N[:, None] + torch.arange(-1, 2, device=position_N.device)
        outside_N3 = (near_N3 < 0) | (near_N3 >= trunk_BLF.shape[1])
        near_N3F = trunk_BLF[row_N[:, None], near_N3.clamp(0, trunk_BLF.shape[1] - 1)]
        # Zeros stay zeros up to the shift, as beyond the ends of a whole sequence.
        x_N3D, mixed_N3D = near_N3F.masked_fill(outside_N3[..., None], 0.0).chunk(2, dim=-1)
        return self.logits(self.norm(self._last_block.finish_middle(x_N3D, mixed_N3D)))

    def features_with_shadows(
        self, z_BL: Tensor, place_BK: Tensor, t_B: Tensor | None = None
    ) -> Tensor:
        """Features of sequences and of shadows, (B, L + K, D), see `ShadowDenoiser`.

        [O] The neighbours that a shadow is mixed with (`TokenShift`) are those of its token. As
        they are mixed with it themselves, a little of it reaches its shadow in every block.
        """
        length = z_BL.shape[1]
        self.check_length(length)
        if self.config.mask_id is None:
            raise InputError("a network of the uniform-state process has no mask token to shadow")
        masks_BK = torch.full_like(place_BK, self.config.mask_id)
        positions_BS = shadow_positions(length, place_BK)
        x_BSD = self._embedded(torch.cat((z_BL, masks_BK), dim=1), positions_BS)
        rotary = self._rotary(length, x_BSD)[:, positions_BS]
        read_B1SS = shadow_attention(length, place_BK)
        for block in self.blocks:
            x_BSD = cast(Block, block).with_shadows(x_BSD, rotary, read_B1SS, place_BK)
        return self.norm(x_BSD)

    @property
    def reads_before(self) -> bool:
        """No: logits come of a position's own features."""
        return False

    @property
    def kept_width(self) -> int:
        """Numbers kept of a position: of every block, and its features."""
        blocks = cast(list[Block], self.blocks)
        return sum(block.kept_width for block in blocks) + self.config.hidden_size

    def refresh(self, kept_BLF: Tensor | None, z_BA: Tensor, position_BA: Tensor) -> Tensor:
        """(B, A, F): see `KeepingDenoiser`.

        Raises:
            InputError: the sequence is longer than `max_length`, the network is causal or of the
                uniform-state process, in which every position moves.
        """
        if self.config.causal:
            raise InputError("a causal network predicts the next token: it denoises nothing")
        if self.time is not None:
            raise InputError("a network that reads the noise level always computes all positions")
        length = (z_BA if kept_BLF is None else kept_BLF).shape[1]
        self.check_length(length)
        # Fillers stand behind the sequence: what is computed there is kept nowhere.
        x_BAD = self._embedded(z_BA, position_BA.clamp(max=length - 1))
        rotary = self._rotary(length, x_BAD)
        blocks = cast(list[Block], self.blocks)
        return refreshed(blocks, self.norm, x_BAD, rotary, kept_BLF, position_BA)

    def kept_logits(self, kept_BLF: Tensor, row_N: Tensor, position_N: Tensor) -> Tensor:
        """(N, V) logits at (row, position): the features are the last of what is kept."""
        return self.logits(kept_BLF[row_N, position_N, -self.config.hidden_size :])

    def forward(self, z_BL: Tensor, t_B: Tensor | None = None) -> Tensor:
        """(B, L, V) logits at all positions."""
        return self.logits(self.features(z_BL, t_B))

    @property
    def head_weight(self) -> Tensor:
        """The last matrix, (V, D)."""
        return self.head.weight

    @property
    def _last_block(self) -> Block:
        return cast(Block, self.blocks[-1])

    def _before_last(self, z_BL: Tensor, t_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """The input of the last block, (B, L, D), and the rotary table."""
        self.check_length(z_BL.shape[1])
        x_BLD = self._timed(self._embedded(z_BL, slice(z_BL.shape[1])), t_B)
        rotary = self._rotary(z_BL.shape[1], x_BLD)
        for block in self.blocks[:-1]:
            x_BLD = block(x_BLD, rotary)
        return x_BLD, rotary

    def _embedded(self, z_BA: Tensor, positions: Tensor | slice) -> Tensor:
        """Embeddings of tokens at positions, (B, A, D)."""
        x_BAD = self.embedding(z_BA)
        return x_BAD if self.positions is None else x_BAD + self.positions.weight[positions]

    def _timed(self, x_BLD: Tensor, t_B: Tensor | None) -> Tensor:
        """With the noise level, where it is read."""
        if self.time is None:
            return x_BLD
        assert t_B is not None, "a denoiser that reads the time is given it"
        t_BL = t_B if t_B.ndim == 2 else t_B[:, None]
        return x_BLD + self.time(t_BL[..., None].to(x_BLD.dtype))

    def _rotary(self, length: int, like: Tensor) -> Tensor:
        return rotary_table(length, self.config.hidden_size // self.config.num_heads, like)


_SAME = ("vocab_size", "num_blocks", "hidden_size", "num_heads", "mlp_ratio")


@torch.no_grad()
def begin_as(own: Network, network: Network, *, where: str) -> None:
    """Copy the weights of a network of the same blocks.

    Raises:
        InputError: other sizes, a causal network, or learned positions that the two do not share.
    """
    for name in _SAME:
        theirs, ours = getattr(network.config, name), getattr(own.config, name)
        if theirs != ours:
            raise InputError(
                f"{where}: its {name} is {theirs}, the model's is {ours}; a model begins as one of"
                " the same sizes"
            )
    if getattr(network.config, "causal", False):
        raise InputError(f"{where}: is causal; name a denoiser")
    theirs, ours = (
        one.max_length if getattr(one, "learned_positions", False) else None
        for one in (network.config, own.config)
    )
    if theirs != ours:
        raise InputError(
            f"{where}: has {theirs or 'no'} learned positions, the model {ours or 'none'}; a model"
            " begins as one with the same"
        )
    for name, weight in network.named_parameters():
        own.get_parameter(name).copy_(weight)


@torch.no_grad()
def first_weights(network: nn.Module, num_blocks: int, generator: torch.Generator) -> None:
    """Draw all weights of a network of blocks, see `Transformer.init_weights`."""
    branch_scale = 1.0 / math.sqrt(2 * num_blocks)
    for name, weight in network.named_parameters():
        if weight.ndim < 2:
            weight.fill_(_FIRST_SHIFT if "shift" in name else 1.0)  # else RMSNorm's gain
            continue
        first_std = {"embedding.weight": 1.0, "positions.weight": 1.0, "head.weight": 0.002}
        std = first_std.get(name, 0.5 / math.sqrt(weight.shape[1]))
        if name.endswith(("attention.output.weight", "mlp.output.weight")):
            std *= branch_scale
        weight.normal_(0.0, std, generator=generator)


class Block(nn.Module):
    """x += attention(shift(norm(x))); x += MLP(shift(norm(x)))."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden_size, eps=1e-6)
        self.attention_shift = TokenShift(config)
        self.attention = Attention(config)
        self.mlp_norm = nn.RMSNorm(config.hidden_size, eps=1e-6)
        self.mlp_shift = TokenShift(config)
        self.mlp = MLP(config)

    def forward(self, x_BLD: Tensor, rotary: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        return self._finish(x_BLD, self.mixed(x_BLD, rotary), slice(None))

    def mixed(self, x_BLD: Tensor, rotary: Tensor) -> Tensor:
        """The attention's output before its projection, (B, L, D)."""
        return self.attention.mixed(self.attention_shift(self.attention_norm(x_BLD)), rotary)

    def with_shadows(
        self, x_BSD: Tensor, rotary: Tensor, read_B1SS: Tensor, place_BK: Tensor
    ) -> Tensor:
        """`forward` of sequences with shadows behind them, (B, S, D)."""
        inner_BSD = self.attention_shift.with_shadows(self.attention_norm(x_BSD), place_BK)
        mixed_BSD = self.attention.mixed(inner_BSD, rotary, read_B1SS)
        x_BSD = x_BSD + self.attention.output(mixed_BSD)
        return x_BSD + self.mlp(self.mlp_shift.with_shadows(self.mlp_norm(x_BSD), place_BK))

    def finish_middle(self, x_N3D: Tensor, mixed_N3D: Tensor) -> Tensor:
        """The rest of `forward` at the middle one of three neighbours, (N, D)."""
        return self._finish(x_N3D, mixed_N3D, 1)

    @property
    def kept_width(self) -> int:
        """Numbers kept of a position: what enters the two shifts, a key and a value."""
        return 4 * self.attention.qkv.in_features

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
        outer_BLD, key_BLD, value_BLD, inner_BLD = kept_BLE.chunk(4, dim=-1)
        outer_BAD = self.attention_norm(x_BAD)
        shifted_BLD = self.attention_shift(put(outer_BLD, outer_BAD, position_BA))
        mixed_BAD, key_BAD, value_BAD = self.attention.refresh(
            pick(shifted_BLD, position_BA), rotary, key_BLD, value_BLD, position_BA
        )
        x_BAD = x_BAD + self.attention.output(mixed_BAD)
        inner_BAD = self.mlp_norm(x_BAD)
        shifted_BLD = self.mlp_shift(put(inner_BLD, inner_BAD, position_BA))
        x_BAD = x_BAD + self.mlp(pick(shifted_BLD, position_BA))
        return x_BAD, torch.cat((outer_BAD, key_BAD, value_BAD, inner_BAD), dim=-1)

    def _finish(self, x_BLD: Tensor, mixed_BLD: Tensor, at: slice | int) -> Tensor:
        x_BLD = x_BLD + self.attention.output(mixed_BLD)
        return x_BLD[:, at] + self.mlp(self.mlp_shift(self.mlp_norm(x_BLD))[:, at])


class TokenShift(nn.Module):
    """x_i + left * x_{i-1} + right * x_{i+1}, weights per channel, zeros beyond the ends.

    Causal networks have no right neighbour.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.empty(config.hidden_size))
        self.right = None if config.causal else nn.Parameter(torch.empty(config.hidden_size))

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        if not (torch.is_grad_enabled() or torch.compiler.is_compiling()):
            # The same bits for fewer passes over memory; compiled, padding is the faster one.
            mixed = x_BLD.clone()
            mixed[:, 1:].addcmul_(x_BLD[:, :-1], self.left)
            if self.right is not None:
                mixed[:, :-1].addcmul_(x_BLD[:, 1:], self.right)
            return mixed
        padded = F.pad(x_BLD, (0, 0, 1, 1))
        mixed = torch.addcmul(x_BLD, padded[:, :-2], self.left)
        return mixed if self.right is None else torch.addcmul(mixed, padded[:, 2:], self.right)

    def with_shadows(self, x_BSD: Tensor, place_BK: Tensor) -> Tensor:
        """Sequences as by `forward`, and shadows with the neighbours of their tokens."""
        length = x_BSD.shape[1] - place_BK.shape[1]
        x_BLD, shadow_BKD = x_BSD[:, :length], x_BSD[:, length:]
        padded_BLD = F.pad(x_BLD, (0, 0, 1, 1))
        row_B1 = torch.arange(len(x_BSD), device=x_BSD.device)[:, None]
        place_BK = place_BK.clamp(min=0)
        shadow_BKD = torch.addcmul(shadow_BKD, padded_BLD[row_B1, place_BK], self.left)
        if self.right is not None:
            shadow_BKD = torch.addcmul(shadow_BKD, padded_BLD[row_B1, place_BK + 2], self.right)
        return torch.cat((self(x_BLD), shadow_BKD), dim=1)


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions: `output(mixed(x, rotary))`."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.causal = config.causal
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def mixed(self, x_BLD: Tensor, rotary: Tensor, read_B1LL: Tensor | None = None) -> Tensor:
        """What the heads read, before `output` projects it, (B, L, D); `rotary` as from
        `rotary_table`, `read_B1LL` says which token reads which (None: all, or those before)."""
        B, L, D = x_BLD.shape
        qkv = self.qkv(x_BLD).view(B, L, 3, self.num_heads, D // self.num_heads)
        q, k = rotate(qkv[:, :, :2], rotary).permute(2, 0, 3, 1, 4)  # each (B, H, L, D / H)
        v = qkv[:, :, 2].transpose(1, 2)
        if read_B1LL is not None:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=read_B1LL)
        elif x_BLD.device.type == "cpu" and torch.is_grad_enabled():
            mixed = _plain_attention(q, k, v, causal=self.causal)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return mixed.transpose(1, 2).reshape(B, L, D)

    def refresh(
        self,
        x_BAD: Tensor,
        rotary: Tensor,
        key_BLD: Tensor,
        value_BLD: Tensor,
        position_BA: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the heads read at some positions, their keys and their values, (B, A, D) each;
        keys and values of the others are given."""
        B, A, D = x_BAD.shape
        qkv = self.qkv(x_BAD).view(B, A, 3, self.num_heads, D // self.num_heads)
        q, k = rotate(qkv[:, :, :2], rotary).unbind(2)  # each (B, A, H, D / H)
        key_BAD, value_BAD = k.reshape(B, A, D), qkv[:, :, 2].reshape(B, A, D)
        keys, values = (
            put(kept_BLD, fresh_BAD, position_BA).view(B, -1, *k.shape[2:]).transpose(1, 2)
            for kept_BLD, fresh_BAD in ((key_BLD, key_BAD), (value_BLD, value_BAD))
        )
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), keys, values)
        return mixed.transpose(1, 2).reshape(B, A, D), key_BAD, value_BAD


class MLP(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        inner = config.mlp_ratio * config.hidden_size
        self.input = nn.Linear(config.hidden_size, inner, bias=False)
        self.output = nn.Linear(inner, config.hidden_size, bias=False)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        # The exact GELU: on CPUs in bfloat16 four times faster than the tanh approximation.
        return self.output(F.gelu(self.input(x_BLD)))


def _plain_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """softmax(q k^T / sqrt(d)) v: for short sequences and small heads on CPUs faster than SDPA in
    training. Without gradients SDPA is faster (a whole forward by 1.1 to 1.3 at 64 and 128).
    """
    scores = (q @ k.transpose(-1, -2)) * (1.0 / math.sqrt(q.shape[-1]))  # (B, H, L, L)
    if causal:
        L = scores.shape[-1]
        later = torch.ones(L, L, dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    return torch.softmax(scores, dim=-1).to(v.dtype) @ v

"""Token by token from a causal `Transformer`, keys and values kept: what one-at-a-time costs.

Legend: B sequences, L positions, D hidden size, H heads of size d, V vocabulary.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from schedlab.denoisers.rotary import rotary_table, rotate
from schedlab.denoisers.transformer import Block, Transformer
from schedlab.errors import InputError


class CausalReader:
    """Reads sequences a token at a time; logits are those of the whole network.

    Args:
        network: causal.
        num: B.
        length: L, most tokens that are read.

    Raises:
        InputError: a network that is not causal, or sequences that are too long for it.
    """

    def __init__(self, network: Transformer, num: int, length: int) -> None:
        if not network.config.causal:
            raise InputError("only a causal network predicts one token after the other")
        network.check_length(length)
        config, weight = network.config, network.head_weight
        self._network = network
        self._rotary = rotary_table(length, config.hidden_size // config.num_heads, weight)
        shape = (2, num, config.num_heads, length, config.hidden_size // config.num_heads)
        self._kept = [weight.new_empty(shape) for _ in network.blocks]
        # What entered the two shifts of a block last: zeros stand before the first token.
        self._before = [weight.new_zeros((2, num, config.hidden_size)) for _ in network.blocks]
        self._read = 0

    def next_logits(self, token_B: Tensor) -> Tensor:
        """(B, V) logits of the token behind these, int64 (B,), and all that were read before."""
        network, place = self._network, self._read
        x_BD = network.embedding(token_B)
        if network.positions is not None:
            x_BD = x_BD + network.positions.weight[place]
        for number, block in enumerate(network.blocks):
            x_BD = self._through(cast(Block, block), number, x_BD)
        self._read += 1
        return network.logits(network.norm(x_BD))

    def _through(self, block: Block, number: int, x_BD: Tensor) -> Tensor:
        place, before_2BD, attention = self._read, self._before[number], block.attention
        keys_BHLd, values_BHLd = self._kept[number]
        outer_BD = block.attention_norm(x_BD)
        shifted_BD = torch.addcmul(outer_BD, before_2BD[0], block.attention_shift.left)
        qkv_B13Hd = attention.qkv(shifted_BD).view(len(x_BD), 1, 3, attention.num_heads, -1)
        q_BHd, k_BHd = rotate(qkv_B13Hd[:, :, :2], self._rotary[:, place : place + 1])[
            :, 0
        ].unbind(1)
        keys_BHLd[:, :, place], values_BHLd[:, :, place] = k_BHd, qkv_B13Hd[:, 0, 2]
        seen = slice(place + 1)
        mixed_BH1d = F.scaled_dot_product_attention(
            q_BHd[:, :, None], keys_BHLd[:, :, seen], values_BHLd[:, :, seen]
        )
        x_BD = x_BD + attention.output(mixed_BH1d.reshape(x_BD.shape))
        inner_BD = block.mlp_norm(x_BD)
        x_BD = x_BD + block.mlp(torch.addcmul(inner_BD, before_2BD[1], block.mlp_shift.left))
        before_2BD[0], before_2BD[1] = outer_BD, inner_BD
        return x_BD


@torch.inference_mode()
def sample_autoregressive(
    network: Transformer, first_B: Tensor, length: int, generator: torch.Generator
) -> Tensor:
    """Draw the tokens behind the first ones, temperature 1, one at a time.

    Args:
        network: causal.
        first_B: int64 (B,), what stands before every text (a separator); not part of it.
        length: L, tokens of every text.
        generator: on the network's device.

    Returns:
        Tokens int64 (B, L).

    Raises:
        InputError: see `CausalReader`.
    """
    reader = CausalReader(network, len(first_B), length)
    tokens_BL = first_B.new_empty((len(first_B), length))
    token_B = first_B
    for place in range(length):
        probs_BV = reader.next_logits(token_B).float().softmax(-1)
        token_B = torch.multinomial(probs_BV, 1, generator=generator)[:, 0]
        tokens_BL[:, place] = token_B
    return tokens_BL

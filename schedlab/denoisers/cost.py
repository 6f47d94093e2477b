"""What a forward costs, in closed form.

FLOPs count a multiplication and an addition as two, matrix products only, as
`torch.utils.flop_counter` does (checked against it by a test, on the meta device: on CPU it counts
fused attention as 0). Element-wise work is left out.
"""

from __future__ import annotations

from schedlab.denoisers.base import DenoiserSpec


def block_flops(spec: DenoiserSpec, length: int) -> int:
    """FLOPs of all transformer blocks for one sequence of `length` positions.

    Per position and block: 8 D^2 for q, k, v and output, 4 m D^2 for the MLP of ratio m, and
    4 L D for attention scores and their values.
    """
    per_position = (8 + 4 * spec.mlp_ratio) * spec.hidden_size**2 + 4 * length * spec.hidden_size
    return spec.num_blocks * length * per_position


def head_flops(spec: DenoiserSpec, num_positions: int = 1) -> int:
    """FLOPs of the LM head at `num_positions` positions: 2 D V each."""
    return 2 * spec.hidden_size * spec.vocab_size * num_positions


def forward_flops(spec: DenoiserSpec, length: int) -> int:
    """FLOPs of a full forward of one sequence, head at every position."""
    return block_flops(spec, length) + head_flops(spec, length)

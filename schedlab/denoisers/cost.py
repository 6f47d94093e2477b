"""What a forward costs, in closed form.

FLOPs count a multiplication and an addition as two, matrix products only, as
`torch.utils.flop_counter` does (checked against it by a test, on the meta device: on CPU it counts
fused attention as 0). Element-wise work is left out.
"""

from __future__ import annotations

from schedlab.denoisers.base import DenoiserSpec


def block_flops(spec: DenoiserSpec, length: int) -> int:
    """FLOPs of all transformer blocks for one sequence of `length` positions.

    Per position and block: twice its weights (12 D^2 in a plain transformer: 4 for q, k, v and
    output, 8 for an MLP of ratio 4), and 4 L D for attention scores and their values.
    """
    size = spec.hidden_size
    weights = 12 * size**2 if spec.block_weights is None else spec.block_weights
    per_position = 2 * weights + 4 * length * size
    return spec.num_blocks * length * per_position


def head_flops(spec: DenoiserSpec, num_positions: int = 1) -> int:
    """FLOPs of the LM head at `num_positions` positions: 2 D V each."""
    return 2 * spec.hidden_size * spec.vocab_size * num_positions


def forward_flops(spec: DenoiserSpec, length: int) -> int:
    """FLOPs of a full forward of one sequence, head at every position."""
    return block_flops(spec, length) + head_flops(spec, length)

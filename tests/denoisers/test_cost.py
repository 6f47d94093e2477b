"""Closed-form cost against torch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from schedlab.denoisers.cost import block_flops, forward_flops, head_flops
from schedlab.denoisers.transformer import Transformer, TransformerConfig


@pytest.mark.parametrize(("blocks", "width", "length"), [(2, 32, 16), (3, 64, 40)])
def test_cost_equals_the_flop_counter_on_the_meta_device(blocks, width, length):
    config = TransformerConfig(
        vocab_size=50, mask_id=49, num_blocks=blocks, hidden_size=width, num_heads=4,
        max_length=length,
    )  # fmt: skip
    with torch.device("meta"):
        model = Transformer(config)
        z_BL = torch.zeros(3, length, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        features_BLD = model.features(z_BL)
    assert counter.get_total_flops() == pytest.approx(
        3 * block_flops(model.spec, length), rel=0.02
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.logits(features_BLD.reshape(-1, width))
    assert counter.get_total_flops() == 3 * head_flops(model.spec, length)
    assert forward_flops(model.spec, length) == block_flops(model.spec, length) + head_flops(
        model.spec, length
    )

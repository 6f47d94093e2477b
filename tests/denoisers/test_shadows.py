"""Shadows predict a token as if it were masked, and leave the sequence as it is."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from schedlab.denoisers.gated import GatedConfig, GatedTransformer
from schedlab.denoisers.network import Network
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError

V, MASK, L = 13, 12, 9


def gated(num_blocks: int, **values) -> Network:
    config = GatedConfig(
        vocab_size=V, num_blocks=num_blocks, hidden_size=16, num_heads=4, num_kv_heads=2,
        mlp_size=24, max_length=L, rope_base=10_000.0, norm_eps=1e-6, mask_id=MASK, **values,
    )  # fmt: skip
    model = GatedTransformer(config).double().requires_grad_(False)
    rng = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.normal_(0.0, 0.5, generator=rng)
    return model


def bundled(num_blocks: int, *, learned: bool = False) -> Network:
    config = TransformerConfig(
        vocab_size=V, mask_id=MASK, num_blocks=num_blocks, hidden_size=16, num_heads=2,
        max_length=L, learned_positions=learned,
    )  # fmt: skip
    model = Transformer(config).double().requires_grad_(False)
    model.init_weights(torch.Generator().manual_seed(0))
    return model


learned = partial(bundled, learned=True)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, V, (3, L), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("build", [gated, bundled, learned])
def test_a_sequence_does_not_see_its_shadows(build, tokens) -> None:
    model = build(3)
    place = torch.tensor([[2, 3, 4, 5], [0, 1, 2, 3], [8, -1, -1, -1]])
    found = model.features_with_shadows(tokens, place)
    assert found.shape == (3, L + 4, 16)
    assert torch.allclose(found[:, :L], model.features(tokens), atol=1e-12)


@pytest.mark.parametrize("build", [gated, bundled, learned])
@pytest.mark.parametrize("place", [0, 4, L - 1])
def test_in_one_block_a_shadow_is_its_token_masked(build, tokens, place: int) -> None:
    """Deeper ones hear of the token through others, and so they do through shifted neighbours."""
    model = build(1)
    if isinstance(model, Transformer):
        for shift in (model.blocks[0].attention_shift, model.blocks[0].mlp_shift):
            shift.left.zero_()
            shift.right.zero_()
    masked = tokens.clone()
    masked[:, place] = MASK
    at = torch.full((3, 1), place)
    shadow = model.features_with_shadows(tokens, at)[:, L]
    assert torch.allclose(shadow, model.features(masked)[:, place], atol=1e-12)
    # Those that do not exist are read by nobody, and neither is the token itself.
    more = model.features_with_shadows(masked, torch.tensor([[place, -1]] * 3))[:, L]
    assert torch.allclose(shadow, more, atol=1e-12)


def test_shadows_see_each_other(tokens) -> None:
    model = gated(1)
    one = model.features_with_shadows(tokens, torch.tensor([[2]] * 3))[:, L]
    two = model.features_with_shadows(tokens, torch.tensor([[2, 5]] * 3))[:, L]
    assert not torch.allclose(one, two, atol=1e-6)


def test_networks_that_predict_the_next_position_have_none(tokens) -> None:
    with pytest.raises(InputError, match="predicts the next position"):
        gated(1, shifted=True).features_with_shadows(tokens, torch.tensor([[2]] * 3))

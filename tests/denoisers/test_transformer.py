"""The network is what the rest relies on: position-wise head, no leaks, relative positions."""

import copy

import pytest
import torch

from schedlab.denoisers import transformer
from schedlab.denoisers.base import Denoiser
from schedlab.denoisers.rotary import rotary_table, rotate
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError
from schedlab.files import validate


def _model(*, causal: bool = False, seed: int = 0, **sizes: int) -> Transformer:
    values = {
        "vocab_size": 11,
        "mask_id": 10,
        "num_blocks": 3,
        "hidden_size": 16,
        "num_heads": 2,
        "max_length": 12,
    }
    model = Transformer(TransformerConfig(**{**values, **sizes}, causal=causal)).double()
    model.init_weights(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(3.0)  # so that attention is far from uniform
    return model.requires_grad_(False)


def _tokens(batch: int = 4, length: int = 12) -> torch.Tensor:
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(1))


def test_it_is_a_denoiser() -> None:
    model = _model()
    assert isinstance(model, Denoiser)
    assert (model.spec.num_blocks, model.spec.vocab_size, model.spec.time_input) == (3, 11, "none")


def test_head_at_picked_positions_equals_head_everywhere() -> None:
    model, z = _model(), _tokens()
    features = model.features(z)
    assert features.shape == (4, 12, 16)
    rows, places = torch.tensor([0, 2, 3]), torch.tensor([5, 0, 11])
    picked = model.logits(features[rows, places])
    assert torch.allclose(picked, model(z)[rows, places], atol=1e-12)


def test_sequences_do_not_see_each_other() -> None:
    model, z = _model(), _tokens()
    together = model(z)
    alone = torch.cat([model(row[None]) for row in z])
    assert torch.allclose(together, alone, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_what_a_position_sees(causal: bool) -> None:
    model, z = _model(causal=causal), _tokens(1)
    changed = z.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 11
    differs = (model(z) - model(changed)).abs().amax(-1)[0] > 1e-9
    assert differs.tolist() == [not causal or place >= 7 for place in range(12)]


def test_attention_depends_on_relative_positions_only() -> None:
    one = torch.randn(1, 1, 2, 1, 8, dtype=torch.float64, generator=torch.manual_seed(0))
    x = one.expand(1, 12, 2, 1, 8)  # (B, L, q and k, H, head_size): same content everywhere
    q, k = rotate(x, rotary_table(12, 8, x))[0, :, :, 0].unbind(1)
    scores = q @ k.T  # (L, L)
    for offset in (-5, 0, 3):
        diagonal = scores.diagonal(offset)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-6)
    assert not torch.allclose(scores[0], scores[0, 0].expand(12), atol=1e-2)


@pytest.mark.parametrize("causal", [False, True])
def test_plain_attention_equals_scaled_dot_product_attention(causal: bool) -> None:
    q, k, v = torch.randn(3, 2, 4, 9, 8, dtype=torch.float64, generator=torch.manual_seed(0))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    plain = transformer._plain_attention(q, k, v, causal=causal)
    assert torch.allclose(plain, expected, atol=1e-12)


def test_precisions_agree_up_to_rounding() -> None:
    model, z = _model(), _tokens()
    exact = torch.log_softmax(model(z), -1)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.4)):
        rounded = torch.log_softmax(copy.deepcopy(model).to(dtype)(z).double(), -1)
        assert (rounded - exact).abs().max() < tolerance


def test_initial_weights_follow_from_the_seed_and_start_near_uniform() -> None:
    config = _model().config
    models = [Transformer(config) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        model.init_weights(torch.Generator().manual_seed(seed))
    a, b, c = (model.fingerprint for model in models)
    assert a == b != c
    log_p = torch.log_softmax(models[0](_tokens()), -1)
    assert (log_p - torch.log(torch.tensor(1 / 11))).abs().max() < 2.5


def test_fingerprint_sees_weights_sizes_and_precision() -> None:
    base = _model().fingerprint
    changed = _model()
    changed.head.weight[0, 0] += 1e-3
    assert len({base, changed.fingerprint, _model(causal=True).fingerprint}) == 3
    assert _model(max_length=13).fingerprint != base
    assert _model().float().fingerprint != base
    assert _model().fingerprint == base


def test_too_long_sequences_are_refused() -> None:
    with pytest.raises(InputError, match="at most 12 for this model, got 13"):
        _model().features(_tokens(1, 13))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_blocks": 0}, "num_blocks must be positive"),
        ({"hidden_size": 18, "num_heads": 4}, "multiple of twice num_heads"),
        ({"mask_id": 11}, "mask_id must be below vocab_size"),
        ({"mask_id": -1}, "mask_id"),
        ({"width": 3}, "unknown key"),
    ],
)
def test_sizes_that_do_not_fit_are_one_line(changes: dict, expected: str) -> None:
    values = {**_model().config.model_dump(), **changes}
    with pytest.raises(InputError, match=expected) as caught:
        validate(TransformerConfig, values, where="config.json")
    assert "\n" not in str(caught.value)

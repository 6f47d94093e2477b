"""The bundled simplex network: its input, its beginning as a transformer, files."""

import pytest
import torch

from schedlab.denoisers import checkpoint, loading
from schedlab.denoisers.rotary import rotary_table
from schedlab.denoisers.simplex_transformer import SimplexTransformer, SimplexTransformerConfig
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError

B, L, V, D = 3, 6, 11, 16
SIZES = {"vocab_size": V, "num_blocks": 2, "hidden_size": D, "num_heads": 2, "max_length": 8}


def simplex(seed=0, **changes):
    network = SimplexTransformer(SimplexTransformerConfig(**SIZES | changes))
    generator = torch.Generator().manual_seed(seed)
    network.init_weights(generator)
    with torch.no_grad():
        network.head.weight.mul_(100)
        network.time.weight.normal_(generator=generator)
        network.time.bias.normal_(generator=generator)
    return network.eval().requires_grad_(False)


def masked(seed=1, **changes):
    network = Transformer(TransformerConfig(mask_id=V - 1, **SIZES | changes))
    network.init_weights(torch.Generator().manual_seed(seed))
    network.head.weight.data.mul_(100)
    return network.eval().requires_grad_(False)


def inputs(seed=2):
    generator = torch.Generator().manual_seed(seed)
    X, previous = 5 * torch.randn(2, B, L, V, generator=generator)
    tokens = torch.randint(V, (B, L), generator=generator)
    return X, previous, tokens, torch.rand(B, generator=generator)


def behind(network, x_BLD):
    """What the blocks make of embeddings."""
    rotary = rotary_table(x_BLD.shape[1], D // 2, x_BLD)
    for block in network.blocks:
        x_BLD = block(x_BLD, rotary)
    return network.norm(x_BLD)


@pytest.mark.parametrize("self_condition", ["none", "mean"])
def test_the_input_is_the_average_embedding_and_the_noise_level(self_condition):
    network = simplex(self_condition=self_condition)
    X, previous, tokens, t = inputs()
    generated = torch.arange(L).expand(B, L) >= 2
    weights = X.softmax(-1)
    if self_condition == "mean":
        weights = (weights + previous.softmax(-1)) / 2
    x = weights @ network.embedding.weight
    x = x + t[:, None, None] * network.time.weight[:, 0] + network.time.bias
    found = network.features(X, t, previous_BLV=previous)
    torch.testing.assert_close(found, behind(network, x))
    # Given positions get clean embeddings and no level.
    x = torch.where(generated[..., None], x, network.embedding.weight[tokens])
    found = network.features(X, t, given_BL=tokens, generated_BL=generated, previous_BLV=previous)
    torch.testing.assert_close(found, behind(network, x))
    changed = torch.where(generated[..., None], X, X.flip(-1))
    again = network.features(
        changed, t, given_BL=tokens, generated_BL=generated, previous_BLV=previous
    )
    if self_condition == "none":
        assert torch.equal(found, again)


def test_no_previous_logits_are_logits_of_zero():
    network, (X, previous, _, t) = simplex(), inputs()
    zeros = network.features(X, t, previous_BLV=torch.zeros_like(X))
    assert torch.equal(network.features(X, t), zeros)
    assert not torch.allclose(network.features(X, t, previous_BLV=previous), zeros, atol=1e-3)


def test_levels_of_tokens_are_those_of_the_sequence_where_all_are_equal():
    network, (X, _, _, t) = simplex(time_input="token"), inputs()
    common = network.features(X, t)
    torch.testing.assert_close(network.features(X, t[:, None].expand(B, L)), common)
    own = t[:, None].expand(B, L).clone()
    own[:, 3] += 0.5
    assert not torch.allclose(network.features(X, own)[:, 3], common[:, 3], atol=1e-3)


@pytest.mark.parametrize("self_condition", ["none", "mean"])
def test_a_network_that_begins_as_a_transformer_gives_its_logits(self_condition):
    transformer, network = masked(), simplex(self_condition=self_condition)
    network.time.weight.zero_()
    network.time.bias.zero_()
    network.begin_as(transformer, where="model")
    _, _, tokens, t = inputs()
    sure = 1e4 * torch.nn.functional.one_hot(tokens, V).float()
    found = network.logits(network.features(sure, t, previous_BLV=sure))
    expected = transformer.logits(transformer.features(tokens))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert network.embedding.weight.data_ptr() != transformer.embedding.weight.data_ptr()


def test_a_network_begins_as_another_of_its_kind_with_its_noise_level():
    other, network = simplex(seed=5), simplex()
    network.begin_as(other, where="model")
    assert network.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: masked(num_blocks=1), "its num_blocks is 1, the model's is 2"),
        (lambda: masked(hidden_size=32), "its hidden_size is 32, the model's is 16"),
        (lambda: masked(vocab_size=12), "its vocab_size is 12, the model's is 11"),
        (lambda: masked(num_heads=4), "its num_heads is 4, the model's is 2"),
        (lambda: masked(causal=True), "is causal; name a denoiser"),
        (lambda: masked(learned_positions=True), "learned positions, the model none"),
    ],
)
def test_a_beginning_that_does_not_fit_is_refused(network, message):
    before = simplex()
    with pytest.raises(InputError, match=message):
        before.begin_as(network(), where="model")
    assert before.fingerprint == simplex().fingerprint


def test_a_saved_network_is_loaded_bit_for_bit(tmp_path):
    network = simplex(time_input="token", value=3.0, noise_schedule="linear")
    checkpoint.save(tmp_path, network, {}, precision="float32")
    again = loading.load(tmp_path)
    assert isinstance(again, SimplexTransformer) and again.config == network.config
    assert again.fingerprint == network.fingerprint
    spec = again.spec
    assert (spec.process, spec.mask_id, spec.time_input) == ("simplex", None, "token")
    assert (spec.simplex_value, spec.noise_schedule) == (3.0, "linear")
    light = loading.load(f"{tmp_path}#blocks=1")
    assert light.spec.num_blocks == 1


def test_sequences_that_are_too_long_are_refused():
    with pytest.raises(InputError, match="at most 8 for this model, got 9"):
        simplex().features(torch.zeros(1, 9, V), torch.zeros(1))

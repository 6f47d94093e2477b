"""Classifiers: probabilities, weights instead of tokens, files, damage, cost."""

import json

import pytest
import safetensors.torch
import torch
from torch.utils.flop_counter import FlopCounterMode

from schedlab.classifiers import ClassifierConfig, TextClassifier, load
from schedlab.classifiers.network import encoder_flops
from schedlab.denoisers import checkpoint
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError

V, LABELS = 11, ["red", "green", "one", "two", "three"]
GROUPS = {"number": ["two", "one", "three"], "colour": ["green", "red"]}
ENCODERS = ("transformer", "convolution")


def config_of(encoder="transformer", **changes):
    sizes = {"num_blocks": 2, "hidden_size": 16, "num_heads": 2, "max_length": 12}
    return ClassifierConfig(encoder=encoder, vocab_size=V, labels=LABELS, **sizes | changes)


def classifier(encoder="transformer", seed=0, **changes):
    network = TextClassifier(config_of(encoder, **changes))
    network.init_weights(torch.Generator().manual_seed(seed))
    # Nothing of an untrained one is told apart by its head, its biases or its noise level.
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.startswith(("head.", "group_head.", "time.")):
                weight.normal_(generator=generator)
    return network.eval().requires_grad_(False)


def tokens_of(num=6, length=9, seed=2):
    return torch.randint(V, (num, length), generator=torch.Generator().manual_seed(seed))


def embeddings_of(num, seed=3):
    return torch.randn(num, 9, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("groups", [{}, GROUPS])
def test_probabilities_sum_to_one(encoder, groups):
    network = classifier(encoder, groups=groups)
    log_p = network.log_probs_of_tokens(tokens_of())
    assert log_p.shape == (6, 5) and log_p.dtype == torch.float32
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(6))
    assert log_p.std(0).min() > 1e-3  # texts are told apart


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_hierarchical_probability_is_that_of_the_group_times_that_within(encoder):
    network = classifier(encoder, groups=GROUPS)
    read = []
    network.head.register_forward_hook(lambda module, inputs, output: read.append(output))
    network.group_head.register_forward_hook(lambda module, inputs, output: read.append(output))
    p_BC = network.log_probs_of_tokens(tokens_of()).exp()
    by_label, by_group = read
    for row in range(6):
        p_group = dict(zip(GROUPS, by_group[row].softmax(-1).tolist(), strict=True))
        for group, members in GROUPS.items():
            own = [LABELS.index(label) for label in members]
            within = by_label[row, own].softmax(-1)
            for place, number in enumerate(own):
                expected = p_group[group] * within[place].item()
                assert p_BC[row, number].item() == pytest.approx(expected, rel=1e-4)
            assert p_BC[row, own].sum().item() == pytest.approx(p_group[group], rel=1e-4)


def test_a_group_of_one_label_has_its_whole_probability():
    groups = {"red": ["red"], "others": LABELS[1:]}
    network = classifier(groups=groups)
    log_p = network.log_probs_of_tokens(tokens_of())
    assert torch.isfinite(log_p).all()
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(6))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_weights_on_one_token_are_that_token(encoder):
    network, tokens = classifier(encoder), tokens_of()
    onehot = torch.nn.functional.one_hot(tokens, V).float()
    torch.testing.assert_close(
        network.log_probs(onehot @ network.embedding_weight), network.log_probs_of_tokens(tokens)
    )


@pytest.mark.parametrize("encoder", ENCODERS)
def test_texts_do_not_read_each_other(encoder):
    network, tokens = classifier(encoder, groups=GROUPS), tokens_of()
    together = network.log_probs_of_tokens(tokens)
    for row in range(6):
        alone = network.log_probs_of_tokens(tokens[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_position_and_their_order_are_read(encoder):
    network, e = classifier(encoder), embeddings_of(1)
    e.requires_grad_()
    (slope,) = torch.autograd.grad(network.log_probs(e)[0, 0], e)
    assert torch.isfinite(slope).all()
    assert not torch.allclose(network.log_probs(e.flip(1)), network.log_probs(e), atol=1e-3)
    if encoder == "transformer":  # a maximum over positions leaves some out
        assert (slope.norm(dim=-1) > 0).all()


def test_the_noise_level_is_read_where_it_is_an_input():
    network, e = classifier(time_input=True), embeddings_of(3)
    none = network.log_probs(e)
    assert torch.equal(none, network.log_probs(e, torch.zeros(3)))
    levels = torch.tensor([0.0, 0.4, 1.0])
    several = network.log_probs(e, levels)
    torch.testing.assert_close(several[0], none[0])
    assert (several[1:] - none[1:]).abs().amax(-1).min() > 1e-3
    deaf = classifier()
    assert torch.equal(deaf.log_probs(e, levels), deaf.log_probs(e))


def test_texts_that_are_too_long_are_refused():
    network = classifier()
    network.log_probs_of_tokens(tokens_of(length=12))
    with pytest.raises(InputError, match="at most 12 for this model, got 13"):
        network.log_probs_of_tokens(tokens_of(length=13))


def test_first_predictions_are_nearly_uniform():
    for encoder in ENCODERS:
        network = TextClassifier(config_of(encoder))
        network.init_weights(torch.Generator().manual_seed(0))
        p = network.log_probs_of_tokens(tokens_of()).exp()
        assert (p - 1 / 5).abs().max() < 0.05


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("changes", [{}, {"groups": GROUPS, "time_input": True}])
def test_a_saved_classifier_is_loaded_bit_for_bit(encoder, changes, tmp_path):
    network = classifier(encoder, **changes)
    checkpoint.save(tmp_path, network, {"steps": 3}, precision="float32")
    again = load(tmp_path)
    assert again.config == network.config and again.fingerprint == network.fingerprint
    assert again.labels == tuple(LABELS)
    tokens = tokens_of()
    assert torch.equal(again.log_probs_of_tokens(tokens), network.log_probs_of_tokens(tokens))
    assert not any(weight.requires_grad for weight in again.parameters())
    assert checkpoint.read_card(tmp_path) == {"steps": 3}


def test_precisions_are_those_asked_for(tmp_path):
    network = classifier()
    checkpoint.save(tmp_path, network, {})  # bfloat16 on disk
    for precision, dtype in checkpoint.PRECISIONS.items():
        again = load(tmp_path, precision=precision)
        assert {weight.dtype for weight in again.parameters()} == {dtype}
        log_p = again.log_probs_of_tokens(tokens_of())
        assert log_p.dtype == torch.float32
        expected = network.log_probs_of_tokens(tokens_of())
        torch.testing.assert_close(log_p, expected, atol=0.3, rtol=0.05)


@pytest.fixture
def folder(tmp_path):
    checkpoint.save(tmp_path, classifier(groups=GROUPS), {}, precision="float32")
    return tmp_path


def one_line(location):
    with pytest.raises(InputError) as caught:
        load(location)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "transformer"}, "architecture is 'transformer', wanted is classifier"),
        ({"architecture": "x" * 500}, "wanted is classifier"),
        ({"architecture": None}, "wanted is classifier"),
        ({"encoder": "recurrent"}, "encoder"),
        ({"labels": ["red"]}, "labels must be at least two and differ"),
        ({"labels": ["red"] * 5}, "labels must be at least two and differ"),
        ({"groups": {"number": ["one"]}}, "groups must hold every label once"),
        ({"groups": {"a": LABELS, "b": ["red"]}}, "groups must hold every label once"),
        ({"groups": {}}, "has the unknown group_head"),
        ({"hidden_size": 10}, "multiple of twice num_heads"),
        ({"hidden_size": 0}, "hidden_size must be positive"),
        ({"vocab_size": 12}, r"embedding.weight [11, 16] instead of [12, 16]"),
        ({"num_blocks": 1}, "has the unknown blocks.1"),
        ({"num_blocks": 3}, "too few for the"),
        ({"num_blocks": 10**9}, "too few for the"),
        ({"hidden_size": 4 * 10**9}, "too few for the"),
        ({"time_input": True}, "lacks time."),
        ({"encoder": "convolution"}, "lacks filters."),
        ({"colour": 1}, "colour"),
        ({"vocab_size": "11"}, "vocab_size"),
        ({"vocab_size": None}, "vocab_size"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_in_one_line(folder, change, message):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert message in one_line(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b"", "config.json"),
        ("config.json", b"{", "config.json"),
        ("config.json", b"[]", "config.json"),
        ("config.json", None, "config.json"),
        ("model.safetensors", b"", "model.safetensors"),
        ("model.safetensors", b"\x80\x04.", "model.safetensors"),
        ("model.safetensors", None, "model.safetensors"),
    ],
)
def test_damaged_files_are_refused_in_one_line(folder, file, content, message):
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    assert message in one_line(folder)


def test_half_a_file_and_values_that_are_not_finite_are_refused(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "safetensors" in one_line(folder)
    state = safetensors.torch.load(whole)
    state["group_head.bias"][0] = torch.nan
    safetensors.torch.save_file(state, file)
    assert "group_head.bias" in one_line(folder)


def test_a_denoiser_is_no_classifier_and_a_classifier_no_denoiser(folder, tmp_path):
    config = TransformerConfig(
        vocab_size=V, mask_id=V - 1, num_blocks=1, hidden_size=16, num_heads=2, max_length=8
    )
    network = Transformer(config)
    network.init_weights(torch.Generator().manual_seed(0))
    checkpoint.save(tmp_path / "denoiser", network, {})
    assert "wanted is classifier" in one_line(tmp_path / "denoiser")
    with pytest.raises(InputError, match="architecture is 'classifier', wanted is transformer"):
        checkpoint.load(folder)
    assert "must be a folder" in one_line(tmp_path / "nowhere")


@pytest.mark.parametrize(("blocks", "width", "length"), [(1, 32, 12), (3, 64, 40)])
def test_the_cost_of_a_transformer_is_what_the_counter_says(blocks, width, length):
    config = config_of(num_blocks=blocks, hidden_size=width, num_heads=4, max_length=length)
    with torch.device("meta"):
        network, e = TextClassifier(config), torch.zeros(3, length, width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.log_probs(e)
    head = 2 * width * len(LABELS)
    expected = 3 * (encoder_flops(config, length) + head)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("width", "length"), [(32, 12), (64, 40)])
def test_the_cost_of_a_convolution_is_about_what_the_counter_says(width, length):
    config = config_of("convolution", hidden_size=width, max_length=length)
    with torch.device("meta"):
        network, e = TextClassifier(config), torch.zeros(3, length, width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.log_probs(e)
    head = 2 * 3 * width * len(LABELS)
    expected = 3 * (encoder_flops(config, length) + head)
    # Windows of four tokens have one place more than there are positions.
    assert counter.get_total_flops() == pytest.approx(expected, rel=1 / length)

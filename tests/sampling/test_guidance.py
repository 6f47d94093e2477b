"""Guidance: gradients against autograd and finite differences, settings, independence."""

import math

import pytest
import torch

from schedlab.classifiers import ClassifierConfig, TextClassifier
from schedlab.errors import InputError, SchedlabError
from schedlab.plan.guidance import Attribute, Guidance
from schedlab.results import SeedBlock
from schedlab.sampling import SequenceIds
from schedlab.sampling.guidance import (
    Steering,
    ablation_drop,
    check_guides,
    soft_embeddings,
    targets_of,
)
from schedlab.sampling.signals import Signals

B, L, V, D = 3, 5, 7, 4


class Toy:
    """A float64 classifier in which positions mix; smooth, so that differences are exact."""

    fingerprint = "toy"

    def __init__(self, seed, labels=("a", "b", "c")):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.labels = labels
        self.embedding_weight = draw(V, D)
        self.inner, self.mixed, self.of_t = draw(D, 6), draw(D, 6), draw(6)
        self.outer = 3 * draw(6, len(labels))

    def log_probs(self, e_BLD, t_B=None):
        e_BLD = e_BLD.double()
        level = 0.0 if t_B is None else t_B.double()[:, None, None] * self.of_t
        hidden = torch.tanh(e_BLD @ self.inner + e_BLD.roll(1, 1) @ self.mixed + level)
        return (hidden.mean(1) @ self.outer).log_softmax(-1)


GUIDES = {"one": Toy(0), "two": Toy(1, labels=("x", "y")), "three": Toy(2)}


def ids_of(num=B, first=0):
    return SequenceIds.of([SeedBlock(1, first, num)])


def guidance_of(*attributes, **settings):
    found = [
        Attribute(classifier=name, label=label, weight=weight)
        for name, label, weight in attributes or (("one", "each", 1.0),)
    ]
    return Guidance(attributes=found, **{"scale": 100.0, "iterations": 1} | settings)


def state(seed=0, closed=((0, 0), (0, 3), (2, 1))):
    """Logits where there is a prediction, where that is, and tokens."""
    generator = torch.Generator().manual_seed(seed)
    open_BL = torch.ones(B, L, dtype=torch.bool)
    for row, position in closed:
        open_BL[row, position] = False
    at = open_BL.nonzero(as_tuple=True)
    logits = 1.5 * torch.randn(len(at[0]), V, generator=generator)
    return logits, at, torch.randint(V, (B, L), generator=generator)


def pull(guidance, logits, at, tokens, *, t=0.5, ids=None, guides=None):
    """What guidance found, and logits after it; the given ones stay."""
    moved = logits.clone()
    with torch.inference_mode():
        found = Steering(guidance, guides or GUIDES).pull(
            moved, at, tokens, ids or ids_of(len(tokens)), t
        )
    return found, moved


def targets(attribute, guide, num=B):
    number = torch.arange(num) % len(guide.labels)
    return (
        number if attribute.label == "each" else number * 0 + guide.labels.index(attribute.label)
    )


def embedded(guide, logits, at, tokens):
    """softmax(logits) @ E where there is a prediction, E of the token elsewhere."""
    own = torch.nn.functional.one_hot(tokens, V).double().clone()
    return own.index_put(at, logits.softmax(-1)) @ guide.embedding_weight.double()


def loss_of(guidance, logits, at, tokens, t=0.5, guides=None):
    """The loss, summed over sequences, from logits end to end in float64."""
    total = 0.0
    for attribute in guidance.attributes:
        guide = (guides or GUIDES)[attribute.classifier]
        e = embedded(guide, logits, at, tokens)
        log_p = guide.log_probs(e, torch.full((len(tokens),), t, dtype=torch.float64))
        own = log_p.gather(1, targets(attribute, guide, len(tokens))[:, None]).sum()
        others = log_p.sum() - own if guidance.contrast else 0.0
        total = total + attribute.weight * (others - own)
    return total


def gradient(guidance, logits, at, tokens, t=0.5):
    exact = logits.double().requires_grad_()
    (found,) = torch.autograd.grad(loss_of(guidance, exact, at, tokens, t), exact)
    return found


SETTINGS = [
    guidance_of(),
    guidance_of(("one", "b", 1.0)),
    guidance_of(("two", "y", -0.5), contrast=True),
    guidance_of(("one", "c", 2.0), ("two", "each", 0.7), ("three", "a", -1.0), contrast=True),
]


@pytest.mark.parametrize("guidance", SETTINGS)
def test_the_step_is_the_gradient_that_autograd_finds_end_to_end(guidance):
    logits, at, tokens = state()
    _, moved = pull(guidance, logits, at, tokens)
    expected = 100.0 * gradient(guidance, logits, at, tokens)
    assert expected.abs().max() > 1
    torch.testing.assert_close((logits - moved).double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("guidance", SETTINGS)
def test_the_step_is_the_gradient_by_finite_differences(guidance):
    logits, at, tokens = state(seed=1)
    _, moved = pull(guidance, logits, at, tokens)
    exact, h = logits.double(), 1e-5
    for n, v in ((0, 0), (0, 6), (4, 3), (len(logits) - 1, 2)):
        up, down = exact.clone(), exact.clone()
        up[n, v] += h
        down[n, v] -= h
        slope = (loss_of(guidance, up, at, tokens) - loss_of(guidance, down, at, tokens)) / (2 * h)
        step = (logits - moved)[n, v].item()
        assert step == pytest.approx(100.0 * slope.item(), rel=1e-3, abs=1e-3)


def test_a_scale_of_zero_takes_gradients_and_moves_nothing():
    logits, at, tokens = state()
    still, moved = pull(guidance_of(scale=0.0, iterations=3), logits, at, tokens)
    assert torch.equal(moved, logits)
    once, _ = pull(guidance_of(), logits, at, tokens)
    assert torch.equal(still.norm_BL, once.norm_BL) and (still.norm_BL > 0).all()


def test_iterations_are_steps_one_after_another():
    logits, at, tokens = state()
    found, moved = pull(guidance_of(iterations=3), logits, at, tokens)
    first, by_hand = pull(guidance_of(), logits, at, tokens)
    _, by_hand = pull(guidance_of(), by_hand, at, tokens)
    last, by_hand = pull(guidance_of(), by_hand, at, tokens)
    assert torch.equal(moved, by_hand)
    # What it says is of the last one, but for what held before the first.
    assert torch.equal(found.before_AB, first.log_p_AB)
    assert torch.equal(found.log_p_AB, last.log_p_AB)
    assert torch.equal(found.norm_BL, last.norm_BL)
    assert not torch.equal(first.log_p_AB, last.log_p_AB)


def test_log_probabilities_and_norms_are_those_of_the_guides():
    logits, at, tokens = state()
    guidance = guidance_of(("one", "each", 1.0), ("two", "x", -3.0))
    found, _ = pull(guidance, logits, at, tokens)
    squares = 0.0
    for number, attribute in enumerate(guidance.attributes):
        guide = GUIDES[attribute.classifier]
        e = embedded(guide, logits.double(), at, tokens).requires_grad_()
        log_p = guide.log_probs(e, torch.full((B,), 0.5)).gather(
            1, targets(attribute, guide)[:, None]
        )
        torch.testing.assert_close(found.log_p_AB[number], log_p[:, 0].detach(), atol=1e-5, rtol=0)
        (slope,) = torch.autograd.grad(log_p.sum(), e)
        squares = squares + (attribute.weight * slope).norm(dim=-1).square()
    torch.testing.assert_close(found.norm_BL, squares.sqrt(), atol=1e-5, rtol=1e-5)


def test_a_step_towards_several_attributes_is_the_sum_of_their_steps():
    logits, at, tokens = state()
    parts = (("one", "a", 0.5), ("two", "y", 1.0), ("three", "each", -2.0))
    _, together = pull(guidance_of(*parts), logits, at, tokens)
    total = sum(pull(guidance_of(part), logits, at, tokens)[1] - logits for part in parts)
    torch.testing.assert_close(together - logits, total, atol=1e-4, rtol=1e-4)


def test_the_conflict_is_the_cosine_of_the_first_two_gradients_of_every_sequence():
    logits, at, tokens = state()
    parts = (("one", "each", 0.5), ("two", "y", -2.0), ("three", "a", 1.0))
    found, _ = pull(guidance_of(*parts), logits, at, tokens)
    one, other = (gradient(guidance_of(part), logits, at, tokens) for part in parts[:2])
    for row in range(B):
        own = at[0] == row
        expected = torch.cosine_similarity(one[own].flatten(), other[own].flatten(), dim=0)
        torch.testing.assert_close(found.conflict_B[row], expected, atol=1e-5, rtol=1e-4)


def test_an_attribute_agrees_with_itself_and_fights_its_opposite():
    logits, at, tokens = state()
    for weight in (2.0, -2.0):
        both = guidance_of(("one", "a", 1.0), ("one", "a", weight))
        found, _ = pull(both, logits, at, tokens)
        expected = torch.full((B,), math.copysign(1, weight), dtype=torch.float64)
        torch.testing.assert_close(found.conflict_B, expected, atol=1e-6, rtol=0)
    assert pull(guidance_of(), logits, at, tokens)[0].conflict_B.isnan().all()


def test_the_contrast_pushes_the_other_labels_down():
    logits, at, tokens = state()
    plain, contrast = guidance_of(("one", "a", 1.0)), guidance_of(("one", "a", 1.0), contrast=True)
    others = sum(
        gradient(guidance_of(("one", label, -1.0)), logits, at, tokens) for label in ("b", "c")
    )
    extra = pull(plain, logits, at, tokens)[1] - pull(contrast, logits, at, tokens)[1]
    torch.testing.assert_close(extra.double(), 100.0 * others, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("contrast", [False, True])
def test_a_sequence_is_pulled_by_itself(contrast):
    logits, at, tokens = state()
    guidance = guidance_of(("one", "each", 1.0), ("two", "y", 1.0), contrast=contrast)
    whole, moved = pull(guidance, logits, at, tokens)
    # With other neighbours nothing changes, not even by rounding.
    changed, others = logits.clone(), at[0] != 1
    changed[others] += torch.randn(
        int(others.sum()), V, generator=torch.Generator().manual_seed(9)
    )
    other_tokens = torch.where(torch.arange(B)[:, None] == 1, tokens, (tokens + 1) % V)
    found, again = pull(guidance, changed, at, other_tokens)
    assert torch.equal(again[~others], moved[~others])
    assert torch.equal(found.norm_BL[1], whole.norm_BL[1])
    # Alone up to rounding: matrix products choose their order by shape.
    own = at[0] == 1
    alone, by_itself = pull(
        guidance, logits[own], (torch.zeros_like(at[0][own]), at[1][own]), tokens[1:2],
        ids=ids_of().pick(torch.tensor([1])),
    )  # fmt: skip
    torch.testing.assert_close(by_itself, moved[own], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alone.norm_BL[0], whole.norm_BL[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(alone.conflict_B[0], whole.conflict_B[1], atol=1e-6, rtol=1e-4)


def test_positions_without_a_prediction_are_read_and_have_a_norm():
    logits, at, tokens = state()
    found, moved = pull(guidance_of(), logits, at, tokens)
    assert moved.shape == logits.shape and (found.norm_BL[0, [0, 3]] > 0).all()
    other = tokens.clone()
    other[0, 3] = (tokens[0, 3] + 1) % V
    _, elsewhere = pull(guidance_of(), logits, at, other)
    own = at[0] == 0
    assert not torch.allclose(elsewhere[own], moved[own], atol=1e-3)
    assert torch.equal(elsewhere[~own], moved[~own])
    # Tokens where there is a prediction are not read.
    other = tokens.clone()
    other[at] = 0
    assert torch.equal(pull(guidance_of(), logits, at, other)[1], moved)


def test_nothing_breaks_where_nothing_is_left_to_predict():
    _, _, tokens = state()
    nowhere = torch.zeros(0, dtype=torch.int64)
    both = guidance_of(("one", "a", 1.0), ("two", "x", 1.0))
    found, moved = pull(both, torch.zeros(0, V), (nowhere, nowhere), tokens)
    assert moved.shape == (0, V) and torch.isfinite(found.norm_BL).all()


def test_a_token_that_cannot_be_drawn_stays_so():
    logits, at, tokens = state()
    logits[:, V - 1] = -torch.inf
    found, moved = pull(guidance_of(iterations=3), logits, at, tokens)
    assert (moved[:, V - 1] == -torch.inf).all() and torch.isfinite(moved[:, :-1]).all()
    assert torch.isfinite(found.norm_BL).all()


def test_guides_read_the_noise_level():
    logits, at, tokens = state()
    for t in (0.0, 0.3, 1.0):
        _, moved = pull(guidance_of(), logits, at, tokens, t=t)
        expected = 100.0 * gradient(guidance_of(), logits, at, tokens, t)
        torch.testing.assert_close((logits - moved).double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
def test_the_scale_decays_with_the_noise_level(decay):
    logits, at, tokens = state()
    full = gradient(guidance_of(), logits, at, tokens, t=0.25)
    share = {"constant": 1.0, "linear": 0.25, "cosine": (1 - math.cos(math.pi / 4)) / 2}[decay]
    steering = Steering(guidance_of(decay=decay), GUIDES)
    assert steering.scale(1.0) == pytest.approx(100.0)
    assert steering.scale(0.0) == pytest.approx(100.0 if decay == "constant" else 0.0)
    _, moved = pull(guidance_of(decay=decay), logits, at, tokens, t=0.25)
    torch.testing.assert_close((logits - moved).double(), 100 * share * full, atol=1e-4, rtol=1e-3)


def guided(levels, **settings):
    steering = Steering(guidance_of(**settings), GUIDES)
    return [k for k in range(len(levels)) if steering.is_on(k, levels)]


def test_guided_steps_are_those_between_start_and_end_every_so_often():
    # Eighths are exact.
    levels = [1 - k / 8 for k in range(8)]
    assert guided(levels) == list(range(7))  # not the last
    assert guided(levels, last_step=True) == list(range(8))
    assert guided(levels, start=0.75, end=0.25) == [2, 3, 4, 5, 6]
    assert guided(levels, start=0.7) == [3, 4, 5, 6]
    # Counted from the first that is guided.
    assert guided(levels, start=0.875, interval=2) == [1, 3, 5]
    assert guided(levels, interval=3, last_step=True) == [0, 3, 6]
    assert guided(levels, interval=100) == [0]
    assert guided(levels, start=0.1) == guided(levels, iterations=0) == []
    assert guided([1.0]) == [] and guided([1.0], last_step=True) == [0]


def test_labels_come_in_turn_by_the_number_of_the_sequence():
    ids = SequenceIds.of([SeedBlock(1, 4, 5)])
    each, named = Attribute(classifier="one"), Attribute(classifier="one", label="c")
    found = targets_of([named, each, Attribute(classifier="two")], GUIDES, ids)
    assert [target_B.tolist() for target_B in found] == [
        [2] * 5, [1, 2, 0, 1, 2], [1, 1, 0, 0, 0],
    ]  # fmt: skip
    (alone,) = targets_of([each], GUIDES, ids.pick(torch.tensor([3])))
    assert alone.tolist() == [1]
    with pytest.raises(InputError, match="'one' has no label 'd'; it has a, b, c"):
        targets_of([Attribute(classifier="one", label="d")], GUIDES, ids)


def test_guides_and_labels_that_are_not_there_are_refused():
    check_guides(None, {})
    check_guides(guidance_of(("one", "a", 1.0), ("two", "each", 1.0)), GUIDES)
    with pytest.raises(InputError, match="'four' is not among"):
        check_guides(guidance_of(("one", "a", 1.0), ("four", "a", 1.0)), GUIDES)
    with pytest.raises(InputError, match="no label 'a'; it has x, y"):
        check_guides(guidance_of(("two", "a", 1.0)), GUIDES)
    with pytest.raises(ValueError, match="end must be at most start"):
        guidance_of(start=0.2, end=0.3)


def test_gradients_that_are_not_finite_are_an_error():
    broken = Toy(0)
    broken.outer[0, 0] = torch.nan
    logits, at, tokens = state()
    with pytest.raises(SchedlabError, match="gradients that are not finite"):
        pull(guidance_of(), logits, at, tokens, guides={"one": broken})


def network(encoder, seed=3, **changes):
    config = ClassifierConfig(
        encoder=encoder, vocab_size=V, labels=["a", "b", "c"], num_blocks=1, hidden_size=8,
        num_heads=2, max_length=16, **changes,
    )  # fmt: skip
    found = TextClassifier(config)
    found.init_weights(torch.Generator().manual_seed(seed))
    found.head.weight.data.mul_(300)
    return found.eval().requires_grad_(False)


@pytest.mark.parametrize("encoder", ["transformer", "convolution"])
def test_a_small_step_raises_what_a_network_says_of_the_label(encoder):
    guide = network(encoder)
    logits, at, tokens = state(seed=4)
    before, moved = pull(guidance_of(scale=0.5), logits, at, tokens, guides={"one": guide})
    after, _ = pull(guidance_of(scale=0.0), moved, at, tokens, guides={"one": guide})
    assert (after.log_p_AB > before.log_p_AB).all()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_step_of_a_network_is_the_gradient_that_autograd_finds(precision):
    guide = network("transformer", time_input=True)
    guide.time.weight.data.fill_(0.5)
    guide = guide.to(precision)
    logits, at, tokens = state(seed=5)
    _, moved = pull(guidance_of(), logits, at, tokens, guides={"one": guide})
    own = logits.clone().requires_grad_()
    p = torch.nn.functional.one_hot(tokens, V).float().index_put(at, own.softmax(-1))
    log_p = guide.log_probs((p.to(precision) @ guide.embedding_weight), torch.full((B,), 0.5))
    (slope,) = torch.autograd.grad(-log_p.diagonal().sum(), own)
    tolerance = 1e-3 if precision == torch.float32 else 0.1
    scale = (100 * slope).abs().max().item()
    torch.testing.assert_close(logits - moved, 100 * slope, atol=tolerance * scale, rtol=tolerance)


def test_soft_embeddings_are_averages_and_embeddings():
    logits, at, tokens = state()
    guide = GUIDES["one"]
    e = soft_embeddings(guide, logits.softmax(-1), at, tokens)
    expected = embedded(guide, logits.double(), at, tokens)
    torch.testing.assert_close(e, expected, atol=1e-6, rtol=1e-5)
    # The guide's weights must not be written to.
    assert torch.equal(guide.embedding_weight, Toy(0).embedding_weight)


def test_the_drop_of_an_unknown_token_is_that_of_a_slow_loop():
    guide, generator = GUIDES["one"], torch.Generator().manual_seed(6)
    e = torch.randn(B, L, D, generator=generator, dtype=torch.float64)
    target = torch.tensor([2, 0, 1])
    found = ablation_drop(guide, e, target, 0.4)
    for row in range(B):
        whole = guide.log_probs(e[row][None], torch.tensor([0.4]))[0, target[row]]
        for position in range(L):
            without = e[row].clone()
            without[position] = guide.embedding_weight.mean(0)
            left = guide.log_probs(without[None], torch.tensor([0.4]))[0, target[row]]
            torch.testing.assert_close(found[row, position], whole - left)
    some = ablation_drop(guide, e, target, 0.4, positions=lambda position: position == 2)
    torch.testing.assert_close(some[:, 2], found[:, 2])
    assert (some[:, [0, 1, 3, 4]] == 0).all()


def test_the_ablation_signal_adds_up_attributes_by_weight():
    logits, at, tokens = state()
    guidance = guidance_of(("one", "each", 0.5), ("two", "y", -2.0))
    found = Signals(guidance, GUIDES).of_step("ablation", logits, at, tokens, ids_of(), 0.4, None)
    expected = torch.zeros(B, L, dtype=torch.float64)
    for attribute in guidance.attributes:
        guide = GUIDES[attribute.classifier]
        e = embedded(guide, logits.double(), at, tokens)
        expected += attribute.weight * ablation_drop(guide, e, targets(attribute, guide), 0.4)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_the_gradient_signal_is_the_norm_of_this_steps_pull():
    logits, at, tokens = state()
    guidance = guidance_of()
    found, _ = pull(guidance, logits, at, tokens)
    signals = Signals(guidance, GUIDES)
    read = signals.of_step("gradient", logits, at, tokens, ids_of(), 0.5, found)
    assert torch.equal(read, found.norm_BL)
    assert (signals.of_step("gradient", logits, at, tokens, ids_of(), 0.5, None) == 0).all()

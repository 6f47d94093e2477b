"""Noise levels of tokens: every rule against slow loops, what all rules share, signals."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schedlab.errors import InputError
from schedlab.policies import ALLOCATION_POLICIES, allocation_policy
from schedlab.policies.allocation import AllocationView
from schedlab.processes import alpha, level
from schedlab.results import SeedBlock
from schedlab.sampling import SequenceIds
from schedlab.sampling.signals import Signals

POLICIES = sorted(ALLOCATION_POLICIES)


def view_of(signal, *, k=0, steps=10, grid="tess", prefix=0, closed=(), clock=None, seed=0):
    """A step at noise level (steps - 1 - k) / steps of TESS's grid, or one more of the plain."""
    signal_BL = torch.tensor(signal, dtype=torch.float64)
    signal_BL = signal_BL[None] if signal_BL.ndim == 1 else signal_BL
    shape = signal_BL.shape
    free_BL = torch.arange(shape[1]).expand(shape) >= prefix
    open_BL = free_BL.clone()
    open_BL[:, list(closed)] = False
    highest = (steps - 1) / steps if grid == "tess" else 1.0
    t = max(0, steps - (grid == "tess") - k) / steps
    generator = torch.Generator().manual_seed(seed)
    return AllocationView(
        step=k,
        num_steps=steps,
        t=t,
        s=max(0.0, t - 1 / steps),
        highest=highest,
        clock_BL=torch.full(shape, highest, dtype=torch.float64) if clock is None else clock,
        free_BL=free_BL,
        open_BL=open_BL,
        signal_BL=signal_BL,
        uniforms=lambda: torch.rand(shape, dtype=torch.float64, generator=generator),
        alpha=alpha("cosine"),
        level=level("cosine"),
    )


def levels(name, view, **parameters):
    """t_i: by the rule, or a step above the common level that tokens are noised to."""
    policy = allocation_policy(name, parameters)
    t_BL = policy.levels(view)
    if policy.pooled == "none":
        return t_BL
    step = view.t - view.s
    return (policy.pool((t_BL - step).clamp(min=0), view) + step).clamp(max=1.0)


def close(found_BL, expected, atol=1e-12):
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found_BL[0], expected, atol=atol, rtol=0)


def scores(signal, open_=None):
    """Min-max by hand over the open positions."""
    own = [x for x, is_open in zip(signal, open_ or [True] * len(signal), strict=True) if is_open]
    spread = max(own) - min(own) + 1e-8
    return [
        (x - min(own)) / spread if is_open else 0.0
        for x, is_open in zip(signal, open_ or [True] * len(signal), strict=True)
    ]


SIGNAL = [0.3, 2.0, -1.0, 0.9, 0.9, 1.4, 0.0]
finite = st.floats(-1e6, 1e6, allow_nan=False)


@pytest.mark.parametrize("smooth", [0.0, 0.6, 0.9])
@pytest.mark.parametrize("k", [0, 3, 8])
def test_adaptive_levels_are_the_papers(smooth, k):
    view = view_of(SIGNAL, k=k)
    exact = [smooth * view.t + (1 - smooth) * (1 - g) * view.t for g in scores(SIGNAL)]
    close(levels("tta_adaptive", view, smooth=smooth, integer=False), exact)
    # The released code truncates to whole steps and keeps at least one.
    whole = [max(1, math.floor(10 * t + 1e-9)) / 10 for t in exact]
    close(levels("tta_adaptive", view, smooth=smooth), whole)


def test_the_least_and_the_most_important_token_get_the_ends():
    # The view's t is 0.9: the strongest keeps 0.6 of it, the weakest gets all.
    found = levels("tta_adaptive", view_of([5.0, 9.0, 7.0]), integer=False)[0]
    assert found.tolist() == pytest.approx([0.9, 0.54, 0.72], abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(signal=st.lists(finite, min_size=2, max_size=9), shift=finite, factor=st.floats(0.5, 1e3))
def test_scores_depend_on_neither_offset_nor_unit(signal, shift, factor):
    if max(signal) - min(signal) < 1:
        signal = [*signal, min(signal) + 1, max(signal) + 2]
    moved = [factor * x + shift for x in signal]
    one, other = view_of(signal).score_BL, view_of(moved).score_BL
    torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    assert one.min() == 0 and one.max() == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 49, 100, 1000])
def test_constant_levels_on_whole_steps_are_the_common_ones(steps):
    # Levels such as 59 / 100 times 100 may lie just below 59.
    for grid in ("uniform", "tess"):
        for k in range(steps):
            view = view_of([0.0, 1.0], k=k, steps=steps, grid=grid)
            if grid == "tess" and k == steps - 1:
                continue  # the last call is at 0, below the lowest whole step
            assert (levels("tta_constant", view) - view.t).abs().max() < 1e-12, k


@pytest.mark.parametrize("length", [2, 3, 7, 40])
@pytest.mark.parametrize("prefix", [0, 3])
def test_linear_levels_are_the_papers_on_whole_steps(length, prefix):
    for steps in (10, 100):
        for k in range(0, steps - 1, 3):
            view = view_of([0.0] * (prefix + length), k=k, steps=steps, prefix=prefix)
            t, last = steps - 1 - k, length - 1
            rising = [max(1, i * t // last) / steps for i in range(length)]
            falling = [max(1, (last - i) * t // last) / steps for i in range(length)]
            close(levels("tta_linear", view)[:, prefix:], rising)
            close(levels("tta_backward", view)[:, prefix:], falling)


def test_levels_by_chance_fixed_and_scaled():
    view = view_of([0.0] * 5, k=4)  # at 0.5
    u = torch.rand(1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(levels("tta_random", view, integer=False), u)
    close(levels("tta_fixed", view, at=0.3), [0.3] * 5)
    close(levels("tta_fixed", view), [0.1] * 5)
    close(levels("tta_fixed", view, at=1.0), [0.9] * 5)  # the first step's
    close(levels("tta_fixed", view, at=1.0, integer=False), [1.0] * 5)
    close(levels("tta_scaled", view, factor=0.5, offset=0.1, integer=False), [0.35] * 5)
    close(levels("tta_scaled", view, factor=0.5, offset=0.1), [0.3] * 5)


def test_the_share_of_highest_signals_is_kept_closer():
    # One, two and all of seven; of equal ones the earlier.
    for share, kept in ((0.01, [1]), (0.25, [1, 5]), (0.4, [1, 3, 5]), (1.0, range(7))):
        found = levels("tta_top_k", view_of(SIGNAL), share=share, low=0.5, integer=False)
        # The tolerance is that of float32.
        close(found, [0.45 if i in kept else 0.9 for i in range(7)], atol=1e-6)


def test_the_fewest_tokens_that_hold_a_share_of_the_signal_are_kept_closer():
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):
        g = scores(SIGNAL)
        order = sorted(range(7), key=lambda i: (-g[i], i))
        kept, total = [], 0.0
        for i in order:
            if total >= share * sum(g):
                break
            kept.append(i)
            total += g[i]
        found = levels("tta_share", view_of(SIGNAL), share=share, low=0.2, integer=False)
        close(found, [0.18 if i in kept else 0.9 for i in range(7)], atol=1e-6)


@pytest.mark.parametrize("deviations", [-1.0, 0.0, 1.0, 3.0])
def test_tokens_beyond_some_deviations_are_kept_closer(deviations):
    mean = sum(SIGNAL) / 7
    std = (sum((x - mean) ** 2 for x in SIGNAL) / 7) ** 0.5
    expected = [0.45 if x > mean + deviations * std else 0.9 for x in SIGNAL]
    found = levels("tta_threshold", view_of(SIGNAL), deviations=deviations, integer=False)
    close(found, expected, atol=1e-6)


def test_softmax_levels_are_relative_to_the_largest_weight():
    g = scores(SIGNAL)
    weight = [math.exp(x / 0.2) for x in g]
    expected = [0.9 * (1 - 0.7 * w / max(weight)) for w in weight]
    found = levels("tta_softmax", view_of(SIGNAL), low=0.3, integer=False)
    close(found, expected, atol=1e-7)


READS = ("tta_adaptive", "tta_top_k", "tta_share", "tta_softmax", "tta_threshold")


@pytest.mark.parametrize("name", READS)
def test_signals_of_given_and_of_revealed_positions_count_for_nothing(name):
    # Their values are the extreme ones.
    signal = [1e6, -1e6, *SIGNAL, 1e7]
    view = view_of(signal, prefix=2, closed=[9])
    found = levels(name, view, integer=False)[:, 2:9]
    torch.testing.assert_close(found, levels(name, view_of(SIGNAL), integer=False))


@pytest.mark.parametrize("name", READS)
def test_sequences_of_a_batch_do_not_read_each_other(name):
    rows = [SIGNAL, [100 * x for x in reversed(SIGNAL)], [3.0] * 7]
    together = levels(name, view_of(rows))
    for row, signal in enumerate(rows):
        assert torch.equal(together[row : row + 1], levels(name, view_of(signal)))


@pytest.mark.parametrize("name", [name for name in READS if name != "tta_top_k"])
def test_where_nothing_is_told_apart_all_get_the_common_level(name):
    for signal in ([2.5] * 4, [0.0]):
        found = levels(name, view_of(signal), integer=False)
        torch.testing.assert_close(found, torch.full_like(found, 0.9), atol=1e-6, rtol=0)


parameters_of_all = st.fixed_dictionaries(
    {
        "integer": st.booleans(),
        "monotonic": st.booleans(),
        "warm_up": st.sampled_from([0.0, 0.3, 1.0]),
        "pooled": st.sampled_from(["none", "t", "alpha"]),
    }
)


@st.composite
def views(draw):
    length = draw(st.integers(1, 8))
    equal = draw(st.booleans())
    value = st.just(draw(finite)) if equal else finite
    rows = draw(st.lists(st.lists(value, min_size=length, max_size=length), min_size=1,
                         max_size=3))  # fmt: skip
    steps = draw(st.integers(1, 60))
    return view_of(
        rows,
        k=draw(st.integers(0, steps - 1)),
        steps=steps,
        grid=draw(st.sampled_from(["uniform", "tess"])),
        prefix=draw(st.integers(0, length - 1)),
        closed=draw(st.sets(st.integers(0, length - 1))),
        seed=draw(st.integers(0, 100)),
    )


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=40, deadline=None)
@given(view=views(), parameters=parameters_of_all)
def test_levels_lie_on_whole_steps_between_the_last_and_the_first(name, view, parameters):
    found = levels(name, view, **parameters)
    assert found.shape == view.signal_BL.shape and found.dtype == torch.float64
    assert torch.isfinite(found).all() and ((found >= 0) & (found <= 1)).all()
    if parameters["integer"] and parameters["pooled"] == "none":
        steps = found * view.num_steps
        assert (steps - steps.round()).abs().max() < 1e-9
        highest = round(view.highest * view.num_steps)
        steps = steps.round()
        assert ((steps >= min(1, highest)) & (steps <= highest)).all()


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=25, deadline=None)
@given(view=views(), integer=st.booleans())
def test_pooled_levels_are_common_and_match_the_mean(name, view, integer):
    own = levels(name, dataclasses.replace(view, uniforms=lambda: view.signal_BL * 0 + 0.37),
                 integer=integer)  # fmt: skip
    again = dataclasses.replace(view, uniforms=lambda: view.signal_BL * 0 + 0.37)
    by_t = levels(name, again, integer=integer, pooled="t")
    by_alpha = levels(name, again, integer=integer, pooled="alpha")
    for row in range(len(own)):
        open_L = view.open_BL[row]
        if not open_L.any():
            continue
        for found in (by_t, by_alpha):
            assert (found[row] == found[row, 0]).all()
        # Tokens are noised to one step below their level: that is what has to match.
        step = view.t - view.s
        noised_L = (own[row][open_L] - step).clamp(min=0)
        torch.testing.assert_close(by_t[row, 0] - step, noised_L.mean(), atol=1e-12, rtol=0)
        share = view.alpha(by_alpha[row, 0] - step)
        torch.testing.assert_close(share, view.alpha(noised_L).mean(), atol=1e-9, rtol=0)


def test_the_two_means_differ_where_alpha_is_bent():
    view = view_of(SIGNAL, k=2)
    by_t = levels("tta_linear", view, pooled="t")[0, 0]
    by_alpha = levels("tta_linear", view, pooled="alpha")[0, 0]
    assert abs(by_t - by_alpha) > 0.01


@pytest.mark.parametrize("name", POLICIES)
def test_monotonic_levels_never_rise_above_those_of_the_step_before(name):
    clock = torch.tensor([[0.3, 0.9, 0.1, 0.5, 0.2, 0.7, 0.9]], dtype=torch.float64)
    for k in range(9):
        view = view_of(SIGNAL, k=k, clock=clock, seed=k)
        own, found = levels(name, view), levels(name, view_of(SIGNAL, k=k, clock=clock, seed=k),
                                                monotonic=True)  # fmt: skip
        torch.testing.assert_close(found, torch.minimum(own, clock))


@pytest.mark.parametrize("name", POLICIES)
def test_a_warm_up_is_constant_and_then_over(name):
    for k in range(9):
        own, found = (
            levels(name, view_of(SIGNAL, k=k), warm_up=share, integer=False)
            for share in (0.0, 0.5)
        )
        expected = torch.full_like(own, view_of(SIGNAL, k=k).t) if k < 5 else own
        assert torch.equal(found, expected), k


def test_bad_parameters_are_refused():
    for name, parameters, message in (
        ("tta_adaptive", {"smooth": 1.5}, r"smooth must be in \[0, 1\], got 1.5"),
        ("tta_adaptive", {"signal": "colour"}, "signal must be one of gradient, entropy"),
        ("tta_adaptive", {"pooled": "mean"}, "pooled must be 'none', 't' or 'alpha'"),
        ("tta_linear", {"warm_up": -0.1}, "warm_up must be"),
        ("tta_top_k", {"low": 2.0}, "low must be"),
        ("tta_softmax", {"tau": 0.0}, "tau positive"),
        ("tta_softmax", {"low": -1.0}, "low must be"),
        ("tta_adaptive", {"smooth": "much"}, "smooth must be of type float"),
        ("tta_adaptive", {"integer": 1}, "integer must be of type bool"),
    ):
        with pytest.raises(InputError, match=message):
            allocation_policy(name, parameters)


# What may be read of a prediction.

B, L, V = 3, 5, 6


def prediction(seed, closed=((0, 0), (2, 1))):
    """Logits at all positions but some, and where they are."""
    open_BL = torch.ones(B, L, dtype=torch.bool)
    for row, position in closed:
        open_BL[row, position] = False
    at = open_BL.nonzero(as_tuple=True)
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(len(at[0]), V, generator=generator), at


def of_step(signals, kind, logits, at, pull=None):
    ids = SequenceIds.of([SeedBlock(1, 0, B)])
    return signals.of_step(kind, logits, at, torch.zeros(B, L).long(), ids, 0.5, pull)


def test_entropy_and_margin_are_those_of_a_slow_loop():
    logits, at = prediction(0)
    entropy, margin = (of_step(Signals(None, {}), kind, logits, at) for kind in
                       ("entropy", "margin"))  # fmt: skip
    for n, (row, position) in enumerate(zip(*at, strict=True)):
        p = logits[n].double().softmax(-1).tolist()
        certain = sum(x * math.log(x) for x in p)
        assert entropy[row, position].item() == pytest.approx(certain, abs=1e-5)
        first, second = sorted(p, reverse=True)[:2]
        assert margin[row, position].item() == pytest.approx(first - second, abs=1e-6)
    for found in (entropy, margin):
        assert found.dtype == torch.float64 and found[0, 0] == 0 and found[2, 1] == 0


def test_tokens_that_cannot_be_drawn_have_no_part_in_the_entropy():
    logits, at = prediction(1)
    masked = torch.cat((logits, torch.full((len(logits), 1), -torch.inf)), dim=1)
    for kind in ("entropy", "margin", "change"):
        one, other = (of_step(Signals(None, {}), kind, x, at) for x in (logits, masked))
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_change_is_the_total_variation_to_the_step_before():
    signals = Signals(None, {})
    first, at = prediction(2)
    of_step(signals, "change", first, at)
    for seed in (3, 4):
        second, _ = prediction(seed)
        found = of_step(signals, "change", second, at)
        moved = 0.5 * (first.softmax(-1) - second.softmax(-1)).abs().sum(-1)
        torch.testing.assert_close(found[at], -moved.double(), atol=1e-6, rtol=0)
        first = second
    still = of_step(signals, "change", first, at)
    assert (still == 0).all()


def test_a_position_that_is_closed_meanwhile_is_not_confused_with_another():
    signals = Signals(None, {})
    whole, at = prediction(5, closed=())
    of_step(signals, "change", whole, at)
    keep = at[1] != 2
    found = of_step(signals, "change", whole[keep], (at[0][keep], at[1][keep]))
    assert (found == 0).all()


def test_no_signal_and_the_gradient_of_an_unguided_step_are_zero():
    logits, at = prediction(6)
    for kind in ("none", "gradient"):
        assert (of_step(Signals(None, {}), kind, logits, at) == 0).all()


@pytest.mark.parametrize("at", [-0.1, 1.5, math.nan, math.inf])
def test_a_fixed_level_outside_of_zero_to_one_is_refused(at):
    with pytest.raises(InputError, match=r"at must be in \[0, 1\], got"):
        allocation_policy("tta_fixed", {"at": at})
    with pytest.raises(InputError, match="warm_up must be"):  # what all policies check
        allocation_policy("tta_fixed", {"warm_up": 2.0})

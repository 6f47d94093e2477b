"""The drift field against slow loops, its symmetries and its closed form for one query."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from schedlab.training.drift import TAUS, DriftField


def features(num: int, size: int, seed: int, *, unit: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(num, size, dtype=torch.float64, generator=generator)
    return found / found.norm(dim=1, keepdim=True) if unit else found


def by_loops(
    h: Tensor, real: Tensor, generated: Tensor, tau: float, own: list[int] | None
) -> Tensor:
    """The raw field, one number after the other."""
    every = [*real, *generated]
    skipped = {(n, len(real) + g) for n, g in enumerate(own or [])}
    kernel = [
        [0.0 if (n, c) in skipped else math.exp(-float(((q - x) ** 2).sum()) / tau)
         for c, x in enumerate(every)]
        for n, q in enumerate(h)
    ]  # fmt: skip
    found = []
    for n in range(len(h)):
        row = sum(kernel[n])
        A = []
        for c in range(len(every)):
            column = sum(kernel[m][c] for m in range(len(h)))
            A.append(math.sqrt(kernel[n][c] / row * kernel[n][c] / column) if column else 0.0)
        plus, minus = A[: len(real)], A[len(real) :]
        field = torch.zeros_like(h[0])
        for a, u in zip(plus, real, strict=True):
            field += a * sum(minus) * u
        for a, v in zip(minus, generated, strict=True):
            field -= a * sum(plus) * v
        found.append(field)
    return torch.stack(found)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.sampled_from(TAUS),
       st.integers(0, 50))  # fmt: skip
def test_the_field_is_that_of_slow_loops(num: int, R: int, G: int, tau: float, seed: int) -> None:
    h, real, generated = (features(n, 6, seed + k) for k, n in enumerate((num, R, G)))
    found = DriftField().raw(h, real, generated, tau)
    torch.testing.assert_close(found, by_loops(h, real, generated, tau, None), atol=1e-6, rtol=0)


@pytest.mark.parametrize("num", [1, 2, 4])
def test_a_query_does_not_repel_itself(num: int) -> None:
    generated = features(6, 5, 1)
    h, own = generated[2 : 2 + num], list(range(2, 2 + num))
    found = DriftField().raw(h, features(4, 5, 2), generated, 0.2, torch.tensor(own))
    expected = by_loops(h, features(4, 5, 2), generated, 0.2, own)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert torch.isfinite(found).all()


def test_a_query_alone_with_itself_does_not_move() -> None:
    h = features(1, 5, 1)
    found = DriftField()(h, features(3, 5, 2), h, torch.tensor([0]))
    assert torch.equal(found, torch.zeros_like(h))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(TAUS))
def test_swapping_real_and_generated_reverses_the_raw_field_exactly(seed: int, tau: float) -> None:
    h, real, generated = (features(n, 6, seed + k) for k, n in enumerate((3, 4, 5)))
    one = DriftField().raw(h, real, generated, tau)
    other = DriftField().raw(h, generated, real, tau)
    torch.testing.assert_close(one, -other, atol=1e-14, rtol=1e-9)


def test_equal_sets_leave_every_query_where_it_is() -> None:
    h, both = features(3, 6, 1), features(5, 6, 2)
    torch.testing.assert_close(
        DriftField().raw(h, both, both.clone(), 0.05), torch.zeros_like(h), atol=1e-15, rtol=0
    )


def test_a_common_shift_changes_nothing() -> None:
    h, real, generated = (features(n, 6, k, unit=False) for k, n in enumerate((3, 4, 5)))
    shift = features(1, 6, 9, unit=False)
    one = DriftField()(h, real, generated)
    other = DriftField()(h + shift, real + shift, generated + shift)
    torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


def test_the_closed_form_for_one_query() -> None:
    """One row: column softmaxes are 1, and A is exp(-d^2 / (2 tau)) over the root of the row's
    sum: kernel means of real minus generated features, times both kernel sums over that sum."""
    tau, h, real, generated = 0.3, features(1, 4, 1), features(3, 4, 2), features(5, 4, 3)

    def kernel(x: Tensor) -> Tensor:
        return torch.exp(-((x - h) ** 2).sum(1) / (2 * tau))

    k, g = kernel(real), kernel(generated)
    total = (k**2).sum() + (g**2).sum()
    means = k @ real / k.sum() - g @ generated / g.sum()
    expected = k.sum() * g.sum() / total * means
    torch.testing.assert_close(DriftField().raw(h, real, generated, tau)[0], expected)


def test_bandwidths_count_alike_and_attraction_may_be_unequal() -> None:
    h, real, generated = (features(n, 6, k) for k, n in enumerate((7, 4, 5)))
    field = DriftField()
    parts = [field.raw(h, real, generated, tau) for tau in TAUS]
    expected = sum(part / part.square().mean().sqrt() for part in parts) / 3
    torch.testing.assert_close(field(h, real, generated), expected, atol=1e-5, rtol=1e-5)
    pull = DriftField(repulsion=0.0).raw(h, real, generated, 0.2)
    push = DriftField(attraction=0.0).raw(h, real, generated, 0.2)
    torch.testing.assert_close(pull + push, field.raw(h, real, generated, 0.2))


def test_texts_far_from_the_data_are_drawn_to_it() -> None:
    """Following the field in two dimensions, clouds come together."""
    real = features(200, 2, 1, unit=False) * 0.1 + torch.tensor([1.0, 0.0])
    moving = features(200, 2, 2, unit=False) * 0.1
    own = torch.arange(200)
    before = (moving.mean(0) - real.mean(0)).norm()
    for _ in range(200):
        moving = moving + 0.01 * DriftField(taus=(0.5, 1.0))(moving, real, moving, own)
    assert (moving.mean(0) - real.mean(0)).norm() < 0.1 * before
    assert 0.5 < float(moving.std(0).mean() / real.std(0).mean()) < 2.0  # and spread like it

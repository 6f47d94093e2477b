"""Draws by inversion: their law with and without a nucleus, and what the nucleus is."""

import pytest
import torch
from scipy import stats

from schedlab.sampling.inversion import MAX_ATTEMPTS, draw_by_inversion

P = torch.tensor([0.05, 0.3, 0.0, 0.12, 0.08, 0.25, 0.2], dtype=torch.float64)


def source(seed=0):
    """Uniforms of a row and an attempt, whatever else is asked for."""

    def uniforms(rows, attempt):
        generator = torch.Generator().manual_seed(1000 * seed + attempt)
        return torch.rand(1 << 17, dtype=torch.float64, generator=generator)[rows]

    return uniforms


def nucleus(p, top_p):
    """Sorted reference: the fewest likeliest tokens that reach top_p."""
    kept, total = [], 0.0
    for token in p.argsort(descending=True, stable=True).tolist():
        if total >= top_p:
            break
        kept.append(token)
        total += p[token].item()
    return sorted(kept)


@pytest.mark.parametrize("top_p", [1.0, 0.99, 0.9, 0.7, 0.5, 0.31])
def test_the_law_is_the_prediction_renormalised_on_the_nucleus(top_p):
    draws = 100_000
    token = draw_by_inversion(P.expand(draws, -1), top_p, source())
    kept = nucleus(P, top_p)
    counts = torch.bincount(token, minlength=len(P)).double()
    assert counts.nonzero()[:, 0].tolist() == kept if top_p < 1 else counts[2] == 0
    expected = P.clone() if top_p == 1 else torch.zeros_like(P).index_put(
        (torch.tensor(kept),), P[kept]
    )  # fmt: skip
    expected *= draws / expected.sum()
    some = expected > 0
    # A chi-square test at false-alarm rate 1e-4.
    assert stats.chisquare(counts[some].numpy(), expected[some].numpy()).pvalue > 1e-4


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("top_p", [0.95, 0.6, 0.3])
def test_the_nucleus_is_that_of_a_sorted_reference(seed, top_p):
    generator = torch.Generator().manual_seed(seed)
    p = torch.randn(12, generator=generator).mul(1.5).softmax(-1)
    token = draw_by_inversion(p.expand(20_000, -1), top_p, source(seed))
    # The rarest of these nuclei are drawn 100 times on average: one is missed once in 10^40.
    assert token.unique().tolist() == nucleus(p, top_p)


def test_a_tiny_nucleus_is_the_likeliest_token():
    p = torch.full((50, 4), 0.2)
    p[torch.arange(50), torch.arange(50) % 4] = 0.4
    assert torch.equal(draw_by_inversion(p, 1e-9, source()), torch.arange(50) % 4)


def test_tokens_as_likely_as_the_last_of_the_nucleus_are_all_in_it():
    p = torch.tensor([0.1, 0.3, 0.3, 0.3])
    assert draw_by_inversion(p.expand(2000, -1), 0.5, source()).unique().tolist() == [1, 2, 3]


def test_rows_do_not_depend_on_their_company():
    p = torch.randn(40, 9, generator=torch.Generator().manual_seed(1)).softmax(-1)
    together = draw_by_inversion(p, 0.6, source())
    for row in (0, 17, 39):

        def own(rows, attempt, row=row):
            return source()(rows + row, attempt)

        assert draw_by_inversion(p[row : row + 1], 0.6, own)[0] == together[row]


def test_uniforms_are_asked_for_by_row_once_an_attempt_and_only_where_needed():
    asked = []

    def uniforms(rows, attempt):
        asked.append((rows.tolist(), attempt))
        # Rows 1 and 3 land outside the nucleus at first.
        outside = torch.tensor([attempt == 0 and row in (1, 3) for row in rows.tolist()])
        return torch.where(outside, 0.99, 0.1).double()

    p = torch.tensor([0.6, 0.3, 0.1]).expand(5, -1)
    assert draw_by_inversion(p, 0.7, uniforms).tolist() == [0] * 5
    assert asked == [([0, 1, 2, 3, 4], 0), ([1, 3], 1)]


def test_a_row_that_never_lands_in_the_nucleus_is_drawn_from_it_in_the_end():
    attempts = []

    def uniforms(rows, attempt):
        attempts.append(attempt)
        last = attempt == MAX_ATTEMPTS
        return torch.full((len(rows),), 0.6 if last else 0.999, dtype=torch.float64)

    # The nucleus of 0.7 is {0, 1}, of which 0.6 of 0.8 falls on the likelier token.
    p = torch.tensor([[0.3, 0.5, 0.2]])
    assert draw_by_inversion(p, 0.7, uniforms).tolist() == [1]
    assert attempts == list(range(MAX_ATTEMPTS + 1))


def test_a_small_nucleus_has_its_law_too():
    # Nearly flat: an attempt lands in the nucleus of 0.03 once in 33.
    p = torch.full((1, 1000), 1e-3) + torch.linspace(1e-6, 0, 1000)
    p, generator = p / p.sum(), torch.Generator().manual_seed(0)
    found = draw_by_inversion(
        p.expand(20_000, -1),
        0.03,
        lambda rows, _: torch.rand(len(rows), generator=generator).double(),
    )
    counts = torch.bincount(found, minlength=1000)
    size = int((counts > 0).sum())
    assert size == int(((p.cumsum(-1) - p) < 0.03).sum()) and (counts[size:] == 0).all()
    # False-alarm rate 1e-4.
    assert stats.chisquare(counts[:size].numpy()).pvalue > 1e-4


def test_extreme_uniforms_find_tokens_that_have_a_probability():
    p = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]]).expand(2, -1)
    ends = torch.tensor([2.0**-53, 1 - 2.0**-53], dtype=torch.float64)
    assert draw_by_inversion(p, 1.0, lambda rows, attempt: ends[rows]).tolist() == [1, 3]


def test_probabilities_are_summed_in_float64():
    # Summed in float32, all shares behind the first would vanish.
    p = torch.tensor([[1.0, 1e-9, 1e-9, 1e-9, 1e-9]])
    u = torch.tensor([(1 + 2.5e-9) / (1 + 4e-9)], dtype=torch.float64)
    assert draw_by_inversion(p, 1.0, lambda rows, attempt: u).item() == 3


def test_no_rows_give_no_tokens():
    for top_p in (1.0, 0.5):
        assert draw_by_inversion(torch.zeros(0, 4), top_p, source()).tolist() == []

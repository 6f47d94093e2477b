from __future__ import annotations

import numpy as np
import pytest

from schedlab.errors import InputError
from schedlab.search.influence import segment_influence
from schedlab.search.space import assignments

LIGHT_NS = np.array([[role == "L" for role in a] for a in assignments(10, num_light=4)])
TRUE_S = np.array([0.02, 0.04, 0.1, 0.2, 0.3, 0.25, 0.1, 0.05, 0.01, 0.0])
TOKENS = 64


def measured(rng: np.random.Generator, num_sequences: int, noise: float) -> tuple:
    """Sequences share a difficulty; plans add the planted cost of their light segments."""
    log_ppl_BN = (
        4.0
        + LIGHT_NS @ TRUE_S
        + rng.normal(0, 0.5, (num_sequences, 1))
        + rng.normal(0, noise, (num_sequences, len(LIGHT_NS)))
    )
    tokens_BN = np.full(log_ppl_BN.shape, TOKENS)
    return log_ppl_BN * TOKENS, tokens_BN


def expected_influence() -> np.ndarray:
    """By the definition, from the planted costs."""
    log_ppl_N = LIGHT_NS @ TRUE_S
    return np.array([log_ppl_N[LIGHT_NS[:, j]].mean() - log_ppl_N.mean() for j in range(10)])


def test_planted_influence_is_recovered_with_narrow_intervals() -> None:
    found = segment_influence(LIGHT_NS, *measured(np.random.default_rng(0), 32, 0.2))
    truth = expected_influence()
    assert [segment.segment for segment in found] == list(range(10))
    np.testing.assert_allclose([s.value for s in found], truth, atol=0.02)
    # The shared difficulty (0.5 nats per sequence) cancels: without pairing 0.5 / sqrt(32) alone
    # would give widths beyond 0.3.
    assert max(s.high - s.low for s in found) < 0.06
    assert np.argsort([s.value for s in found])[-3:].tolist() == [3, 5, 4]


def test_intervals_cover_the_planted_influence() -> None:
    truth = expected_influence()
    hits = []
    for seed in range(40):
        found = segment_influence(LIGHT_NS, *measured(np.random.default_rng(seed), 24, 0.4))
        hits += [s.low <= value <= s.high for s, value in zip(found, truth, strict=True)]
    # 400 intervals: a true coverage of 0.95 gives less than 0.90 once in a million.
    assert np.mean(hits) > 0.90


def test_influence_sums_to_zero_when_every_plan_has_as_many_light_segments() -> None:
    found = segment_influence(LIGHT_NS, *measured(np.random.default_rng(1), 16, 0.2))
    assert sum(s.value for s in found) == pytest.approx(0, abs=1e-12)


def test_top_and_bottom_counts_add_up_and_show_the_costly_segments_at_the_bottom() -> None:
    found = segment_influence(LIGHT_NS, *measured(np.random.default_rng(2), 32, 0.05))
    assert sum(s.in_top for s in found) == sum(s.in_bottom for s in found) == 4 * 20
    assert found[4].in_bottom >= 18 and found[4].in_top == 0
    assert found[9].in_top > found[9].in_bottom


def test_the_influence_in_gen_ppl_has_the_same_sign() -> None:
    found = segment_influence(LIGHT_NS, *measured(np.random.default_rng(3), 32, 0.05))
    assert all(np.sign(s.ppl.value) == np.sign(s.value) for s in found if abs(s.value) > 0.02)
    assert found[4].ppl.value > 5 * found[4].value  # Gen-PPL is near exp(4.4)


def test_a_segment_that_is_never_light_has_no_influence() -> None:
    with pytest.raises(InputError, match="segment 1 is light in no plan"):
        segment_influence([[True, False], [False, False]], np.ones((4, 2)), np.ones((4, 2)))


def test_with_all_numbers_of_light_segments_the_average_segment_has_no_influence() -> None:
    """Each light segment costs something, so plain means would call all of them harmful."""
    light_NS = np.array([[role == "L" for role in a] for a in assignments(6)])
    cost_S = np.array([0.1, 0.2, 0.3, 0.3, 0.2, 0.1])
    nll_BN = np.tile(TOKENS * (4.0 + light_NS @ cost_S), (8, 1))
    found = segment_influence(light_NS, nll_BN, np.full(nll_BN.shape, TOKENS))
    # A balanced design: means differ by half of what the segments' costs do.
    np.testing.assert_allclose([s.value for s in found], (cost_S - cost_S.mean()) / 2, atol=1e-12)

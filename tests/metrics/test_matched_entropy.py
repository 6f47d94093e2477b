"""Comparison at equal entropy, on planted samplers."""

from __future__ import annotations

import numpy as np
import pytest

from schedlab.errors import InputError
from schedlab.metrics.matched_entropy import Fluency, log_ppl_gap

S = 400


def sampler(entropy: float, log_ppl: float, seed: int = 0, spread: float = 0.05) -> Fluency:
    rng = np.random.default_rng(seed)  # common noise: samplers of one seed are paired
    tokens_S = rng.integers(50, 70, S).astype(float)
    noise_2S = rng.normal(size=(2, S)) * spread
    return Fluency(
        nll_S=tokens_S * (log_ppl + noise_2S[0]),
        tokens_S=tokens_S,
        entropy_S=entropy + noise_2S[1],
    )


CURVE = [sampler(entropy, 2.0 * entropy - 2.0) for entropy in (3.5, 3.0, 2.0, 2.6)]  # any order


@pytest.mark.parametrize("entropy", [2.02, 2.3, 2.6, 2.95, 3.48])
@pytest.mark.parametrize("gap", [-0.4, 0.0, 0.3])
def test_a_planted_gap_is_found(entropy: float, gap: float) -> None:
    one = sampler(entropy, 2.0 * entropy - 2.0 + gap, seed=1)
    if not one.entropy_S.mean() >= 2.0:
        pytest.skip("just outside of the curve by its noise")
    found = log_ppl_gap(one, CURVE)
    if found is None:  # just outside of the curve by its noise
        assert entropy in (2.0, 3.5)
        return
    assert found.value == pytest.approx(gap, abs=0.03)
    assert found.low < found.value < found.high < found.low + 0.1 and found.n == S


def test_lower_entropy_is_no_gain_by_itself() -> None:
    """A sampler on the curve has half the Gen-PPL of its end, and no gap."""
    found = log_ppl_gap(CURVE[3], CURVE)
    assert found is not None and found.value == pytest.approx(0.0, abs=1e-9)


def test_outside_of_the_curve_nothing_is_said() -> None:
    assert log_ppl_gap(sampler(1.9, 1.0), CURVE) is None
    assert log_ppl_gap(sampler(3.6, 1.0), CURVE) is None


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """95 % of 200 samples of 60 sequences, at least 88 % (false alarm below 1 in 1,000)."""
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        tokens_S = np.full(60, 64.0)

        def drawn(entropy: float, log_ppl: float, rng=rng, tokens_S=tokens_S) -> Fluency:
            noise_2S = rng.normal(size=(2, 60)) * 0.2
            return Fluency(tokens_S * (log_ppl + noise_2S[0]), tokens_S, entropy + noise_2S[1])

        curve = [drawn(entropy, 2.0 * entropy) for entropy in (2.0, 2.6, 3.2, 3.8)]
        found = log_ppl_gap(drawn(2.9, 2.0 * 2.9 + 0.2), curve)
        held += found is not None and found.low <= 0.2 <= found.high
    assert held >= 176


def test_curves_of_one_point_and_of_other_sequences_are_refused() -> None:
    with pytest.raises(InputError, match="at least 2 points"):
        log_ppl_gap(CURVE[0], CURVE[:1])
    short = Fluency(*(column[:10] for column in (CURVE[0].nll_S, CURVE[0].tokens_S,
                                                 CURVE[0].entropy_S)))  # fmt: skip
    with pytest.raises(InputError, match="same sequences"):
        log_ppl_gap(short, CURVE)

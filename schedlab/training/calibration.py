"""Calibration of a classifier: does it say 0.8 where it is right in 80 of 100 cases?

Reference: Guo et al., "On Calibration of Modern Neural Networks" (1706.04599).
"""

from __future__ import annotations

import numpy as np

from schedlab.results import Estimate

_BINS, _RESAMPLES = 10, 1000


def calibration_error(confidence_S: np.ndarray, right_S: np.ndarray, *, seed: int = 0) -> Estimate:
    """Expected calibration error in 10 bins of equally many texts, with a bootstrap interval.

    The mean over bins of |mean confidence - accuracy|: biased upwards on few texts, as the
    interval is.

    Args:
        confidence_S: probability of the predicted label.
        right_S: 1 where it is the true one, else 0.
    """
    n = len(right_S)
    rng = np.random.default_rng(seed)
    value = _error(confidence_S, right_S)
    drawn = rng.integers(0, n, (_RESAMPLES, n))
    found = [_error(confidence_S[rows], right_S[rows]) for rows in drawn]
    low, high = np.quantile(found, [0.025, 0.975])
    return Estimate(value=value, low=float(min(low, value)), high=float(max(high, value)), n=n)


def _error(confidence_S: np.ndarray, right_S: np.ndarray) -> float:
    order = np.argsort(confidence_S, kind="stable")
    gaps = confidence_S[order] - right_S[order]
    bins = np.array_split(gaps, min(_BINS, len(gaps)))
    return float(sum(abs(part.sum()) for part in bins) / len(gaps))

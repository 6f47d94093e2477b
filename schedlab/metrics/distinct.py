"""distinct-n: the share of a sample's n-grams of tokens that are different.

Per sample and then averaged, not over the whole corpus as in Li et al. 2016 (1510.03055): the
corpus value falls with the number of samples and has no interval over sequences. Higher is more
diverse; 1 means that no n-gram occurs twice.

Shapes: S sequences, G generated positions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schedlab.metrics.samples import SampleMetric, Samples

ORDERS = (1, 2, 3)


def distinct(tokens_SG: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """distinct-n of every row, float64 (S,); NaN where a row is shorter than n tokens."""
    if tokens_SG.shape[1] < n:
        return np.full(len(tokens_SG), np.nan)
    ngrams_SWn = np.lib.stride_tricks.sliding_window_view(tokens_SG, n, axis=1)
    return np.array([len(np.unique(row_Wn, axis=0)) / len(row_Wn) for row_Wn in ngrams_SWn])


def _compute(samples: Samples) -> dict[str, NDArray[np.float64]]:
    return {f"distinct_{n}": distinct(samples.tokens_SG, n) for n in ORDERS}


METRIC = SampleMetric(version=1, compute=_compute)

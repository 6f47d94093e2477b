"""Unigram entropy of a sample, in nats per token.

`H = -sum_v p_v log p_v`, p the share of each token among the sample's generated tokens. At most
log(length); low values mean repetition, which lowers Gen-PPL without making better text. Reported
beside every Gen-PPL (OpenWebText data at L = 1024 has 5.44 under GPT-2's tokens).

Shapes: S sequences, G generated positions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schedlab.metrics.samples import SampleMetric, Samples


def unigram_entropy(tokens_SG: NDArray[np.int64]) -> NDArray[np.float64]:
    """Entropy of every row, float64 (S,), in nats."""
    return np.array([_entropy(row_G) for row_G in tokens_SG])


def _entropy(row_G: NDArray[np.int64]) -> float:
    _, counts = np.unique(row_G, return_counts=True)
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum()) + 0.0  # + 0.0: no negative zero in files


def _compute(samples: Samples) -> dict[str, NDArray[np.float64]]:
    return {"entropy": unigram_entropy(samples.tokens_SG)}


METRIC = SampleMetric(version=1, compute=_compute)

"""Self-BLEU (Zhu et al. 2018, 1802.01886): how much samples resemble each other, 0 to 100.

BLEU-4 by sacrebleu (tokeniser 13a, exponential smoothing, effective order) of every sample against
other samples. Lower is more diverse. All pairs would cost S^2, so the stated subsample is: the
`NUM_REFERENCES` next samples of the same seed block, cyclically (all others in smaller blocks).
The value grows with the number of references: compare only values made with the same number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU

from schedlab.metrics.samples import SampleMetric, Samples

NUM_REFERENCES = 4


def self_bleu(texts: Sequence[str], num_references: int = NUM_REFERENCES) -> NDArray[np.float64]:
    """BLEU of every text against the next ones, float64 (S,), 0 to 100; NaN for a single text."""
    num_texts = len(texts)
    if num_texts < 2:
        return np.full(num_texts, np.nan)
    bleu = BLEU(effective_order=True)
    offsets = range(1, 1 + min(num_references, num_texts - 1))
    return np.array(
        [
            bleu.sentence_score(
                text, [texts[(j + offset) % num_texts] for offset in offsets]
            ).score
            for j, text in enumerate(texts)
        ]
    )


def _compute(samples: Samples) -> dict[str, NDArray[np.float64]]:
    return {"self_bleu": self_bleu([" ".join(text.generated) for text in samples.texts])}


METRIC = SampleMetric(version=1, compute=_compute)

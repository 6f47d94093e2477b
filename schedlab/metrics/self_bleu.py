"""Self-BLEU (Zhu et al. 2018, 1802.01886): how much samples resemble each other, 0 to 100.

BLEU-4 by sacrebleu (tokeniser 13a, exponential smoothing, effective order) of a sample against
other samples. Lower is more diverse. All pairs would cost S^2 and make every value depend on every
other, so samples are compared within groups of `GROUP_SIZE` consecutive ones of a seed block, and
a group has one value: the mean over its samples, each against the rest of the group. Groups share
no sample, so their values are independent and intervals over groups are honest.
The value grows with the number of references: compare only values of equal group size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU

from schedlab.metrics.samples import SampleMetric, Samples

GROUP_SIZE = 4


def self_bleu(texts: Sequence[str], group_size: int = GROUP_SIZE) -> NDArray[np.float64]:
    """Mean BLEU of each text against the others of its group, 0 to 100, float64 (S,).

    The value stands at the first text of a group, NaN at the others and at texts that fill no
    group. Fewer texts than a group are one smaller group; a single text has no value.
    """
    num_texts = len(texts)
    group_size = min(group_size, num_texts)
    found_S = np.full(num_texts, np.nan)
    if group_size < 2:
        return found_S
    bleu = BLEU(effective_order=True)
    for first in range(0, num_texts - group_size + 1, group_size):
        group = list(texts[first : first + group_size])
        scores = [
            bleu.sentence_score(text, group[:j] + group[j + 1 :]).score
            for j, text in enumerate(group)
        ]
        found_S[first] = np.mean(scores)
    return found_S


def _compute(samples: Samples) -> dict[str, NDArray[np.float64]]:
    return {"self_bleu": self_bleu([" ".join(text.generated) for text in samples.texts])}


METRIC = SampleMetric(version=2, compute=_compute, alone=False)

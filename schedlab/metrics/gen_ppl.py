"""Generative perplexity: exp(sum of NLL / sum of tokens) of samples under another language model.

Text is decoded and tokenised again by the scorer, which sees its separator token first; separators
inside a sample are scored as tokens. Of a conditional sample only the continuation is scored, with
the prefix as context (prefix and continuation are tokenised apart). Lower is better, and
repetition lowers it too: read it beside entropy and distinct-n only.

The per-sequence sums are stored; `schedlab.results.measurement` makes the ratio and its interval.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schedlab.metrics.samples import SampleMetric, Samples


def _compute(samples: Samples) -> dict[str, NDArray[np.float64]]:
    assert samples.scorer is not None, "asked for where there is a scorer"
    nll_S, tokens_S = samples.scorer.score(samples.texts)
    return {"nll": nll_S, "scored_tokens": tokens_S.astype(np.float64)}


METRIC = SampleMetric(version=2, compute=_compute)

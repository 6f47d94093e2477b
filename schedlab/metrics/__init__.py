"""Metrics of samples and plans, one per file. Importing this package does not load torch."""

from collections.abc import Iterator, Mapping

from schedlab.metrics import distinct, entropy, gen_ppl, self_bleu
from schedlab.metrics.samples import FloatArray, IntArray, SampleMetric, Samples, Scorer, SplitText

SAMPLE_METRICS: dict[str, SampleMetric] = {
    "gen_ppl": gen_ppl.METRIC,
    "entropy": entropy.METRIC,
    "distinct": distinct.METRIC,
    "self_bleu": self_bleu.METRIC,
}


def metric_versions() -> dict[str, int]:
    """Version of every per-sequence metric, for the store's key."""
    return {name: metric.version for name, metric in SAMPLE_METRICS.items()}


def compute_all(samples: Samples, text_NS: IntArray) -> Iterator[Mapping[str, FloatArray]]:
    """All per-sequence columns of N plans, float64 (S,) each, NaN where undefined.

    Args:
        samples: the U different texts that the plans wrote.
        text_NS: which of them each plan wrote for each of S sequences.
    """
    alone: dict[str, FloatArray] = {}
    for metric in SAMPLE_METRICS.values():
        if metric.alone:
            alone |= metric.compute(samples)
    together = [metric for metric in SAMPLE_METRICS.values() if not metric.alone]
    known: dict[bytes, dict[str, FloatArray]] = {}
    for text_S in text_NS:
        key = text_S.tobytes()
        if key not in known:
            own = samples.pick(text_S)
            columns = {name: column[text_S] for name, column in alone.items()}
            for metric in together:
                columns |= metric.compute(own)
            known[key] = columns
        yield known[key]


__all__ = [
    "SAMPLE_METRICS",
    "SampleMetric",
    "Samples",
    "Scorer",
    "SplitText",
    "compute_all",
    "metric_versions",
]

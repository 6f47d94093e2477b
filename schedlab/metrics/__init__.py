"""Metrics of samples and plans, one per file. Importing this package does not load torch."""

from collections.abc import Mapping

from schedlab.metrics import distinct, entropy, gen_ppl, self_bleu
from schedlab.metrics.samples import FloatArray, SampleMetric, Samples, Scorer, SplitText

SAMPLE_METRICS: dict[str, SampleMetric] = {
    "gen_ppl": gen_ppl.METRIC,
    "entropy": entropy.METRIC,
    "distinct": distinct.METRIC,
    "self_bleu": self_bleu.METRIC,
}


def metric_versions() -> dict[str, int]:
    """Version of every per-sequence metric, for the store's key."""
    return {name: metric.version for name, metric in SAMPLE_METRICS.items()}


def compute_all(samples: Samples) -> Mapping[str, FloatArray]:
    """All per-sequence columns, float64 (S,) each, NaN where undefined."""
    columns: dict[str, FloatArray] = {}
    for metric in SAMPLE_METRICS.values():
        columns |= metric.compute(samples)
    return columns


__all__ = [
    "SAMPLE_METRICS",
    "SampleMetric",
    "Samples",
    "Scorer",
    "SplitText",
    "compute_all",
    "metric_versions",
]

"""Metrics of samples and plans, one per file. Importing this package does not load torch."""

from collections.abc import Iterator, Mapping, Sequence

from schedlab.metrics import distinct, entropy, gen_ppl, self_bleu
from schedlab.metrics.samples import FloatArray, IntArray, SampleMetric, Samples, Scorer, SplitText

SAMPLE_METRICS: dict[str, SampleMetric] = {
    "gen_ppl": gen_ppl.METRIC,
    "entropy": entropy.METRIC,
    "distinct": distinct.METRIC,
    "self_bleu": self_bleu.METRIC,
}


OF_ANSWERS = ("gen_ppl", "entropy")
"""What is measured of answers to a task beside their accuracy: they are not compared with each
other, and few tokens say little of diversity."""


def metric_names(*, has_scorer: bool = True, of_answers: bool = False) -> tuple[str, ...]:
    """The per-sequence metrics of samples, or of answers to a task; Gen-PPL needs a scorer."""
    names = OF_ANSWERS if of_answers else tuple(SAMPLE_METRICS)
    return tuple(name for name in names if has_scorer or name != "gen_ppl")


def metric_versions(names: Sequence[str] = tuple(SAMPLE_METRICS)) -> dict[str, int]:
    """Version of every per-sequence metric, for the store's key."""
    return {name: SAMPLE_METRICS[name].version for name in names}


def compute_all(
    samples: Samples, text_NS: IntArray, names: Sequence[str] = tuple(SAMPLE_METRICS)
) -> Iterator[Mapping[str, FloatArray]]:
    """All per-sequence columns of N plans, float64 (S,) each, NaN where undefined.

    Args:
        samples: the U different texts that the plans wrote.
        text_NS: which of them each plan wrote for each of S sequences.
        names: of the metrics.
    """
    metrics = [SAMPLE_METRICS[name] for name in names]
    alone: dict[str, FloatArray] = {}
    for metric in metrics:
        if metric.alone:
            alone |= metric.compute(samples)
    together = [metric for metric in metrics if not metric.alone]
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
    "metric_names",
    "metric_versions",
]

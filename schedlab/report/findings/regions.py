"""The paper's 'middle of the trajectory', and comparisons of curves over ranges of levels."""

from __future__ import annotations

from collections.abc import Sequence

from schedlab.report.content import Verdict
from schedlab.results import Estimate
from schedlab.results.importance_file import Curve

MIDDLE = (0.25, 0.75)  # noise levels


def regions(curve: Curve) -> tuple[Estimate, Estimate, Estimate] | None:
    """Means of a curve at the noisy end, in the middle and near the text; None if one is empty."""
    points = zip(curve.value, curve.low, curve.high, strict=True)
    estimates = [Estimate(value=v, low=low, high=high, n=curve.n) for v, low, high in points]
    return region_means(curve.t, estimates)


def region_means(
    t: Sequence[float], estimates: Sequence[Estimate]
) -> tuple[Estimate, Estimate, Estimate] | None:
    """The same of estimates that belong to noise levels t."""
    pairs = list(zip(t, estimates, strict=True))
    noisy = [estimate for level, estimate in pairs if level > MIDDLE[1]]
    middle = [estimate for level, estimate in pairs if MIDDLE[0] <= level <= MIDDLE[1]]
    clean = [estimate for level, estimate in pairs if level < MIDDLE[0]]
    if not (noisy and middle and clean):
        return None
    return mean_of(noisy), mean_of(middle), mean_of(clean)


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """The mean; its ends are the means of the ends.

    However the estimates are correlated, the interval of a mean is not wider than that (for
    intervals proportional to standard errors), so the result errs towards 'not significant'.
    """
    value, low, high = (
        sum(getattr(estimate, name) for estimate in estimates) / len(estimates)
        for name in ("value", "low", "high")
    )
    return Estimate(value=value, low=low, high=high, n=estimates[0].n)


def middle_verdict(noisy: Estimate, middle: Estimate, clean: Estimate) -> Verdict:
    """Whether the middle lies above both ends, or an end above the middle, beyond intervals."""
    if middle.low > max(noisy.high, clean.high):
        return "yes"
    if max(noisy.low, clean.low) > middle.high:
        return "no"
    return "open"


def apart(one: Estimate, other: Estimate) -> bool:
    """Whether two intervals do not overlap."""
    return one.low > other.high or other.low > one.high

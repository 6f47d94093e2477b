"""The paper's 'middle of the trajectory', and comparisons of curves over ranges of levels."""

from __future__ import annotations

from collections.abc import Callable

from schedlab.report.content import Verdict
from schedlab.results import Estimate
from schedlab.results.importance_file import Curve

MIDDLE = (0.25, 0.75)  # noise levels


def regions(curve: Curve) -> tuple[Estimate, Estimate, Estimate] | None:
    """Means of a curve at the noisy end, in the middle and near the text; None if one is empty."""
    noisy = mean_over(curve, lambda t: t > MIDDLE[1])
    middle = mean_over(curve, lambda t: MIDDLE[0] <= t <= MIDDLE[1])
    clean = mean_over(curve, lambda t: t < MIDDLE[0])
    if noisy is None or middle is None or clean is None:
        return None
    return noisy, middle, clean


def mean_over(curve: Curve, within: Callable[[float], bool]) -> Estimate | None:
    """Mean over levels; its ends are the means of the pointwise ends.

    However the levels are correlated, the interval of a mean is not wider than that (for intervals
    proportional to standard errors), so the result errs towards 'not significant'.
    """
    chosen = [index for index, t in enumerate(curve.t) if within(t)]
    if not chosen:
        return None
    value, low, high = (
        sum(series[index] for index in chosen) / len(chosen)
        for series in (curve.value, curve.low, curve.high)
    )
    return Estimate(value=value, low=low, high=high, n=curve.n)


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

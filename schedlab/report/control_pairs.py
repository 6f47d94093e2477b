"""Differences between plans of a joint search: paired by sequence where the file holds columns.

All plans have the same fresh sequences with the same random numbers, so paired intervals are the
honest ones. A file without columns allows differences as of independent estimates, whose
intervals are rather too wide.

Shapes: S sequences, P pairs of plans.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from schedlab.report.control_plans import Measured
from schedlab.report.findings.regions import mean_of
from schedlab.results import Estimate, independent_difference
from schedlab.results.bootstrap import bootstrap_mean, bootstrap_statistic
from schedlab.results.control_file import ControlFile

Pair = tuple[Measured, Measured]
_NLL, _TOKENS = "nll", "scored_tokens"


def how(file: ControlFile) -> str:
    """How differences were taken, for readers."""
    if all(row.columns for row in file.fresh):
        return "Differences are paired by sequence."
    return (
        "Intervals of differences are as if unpaired: rather too wide, since plans share random"
        " numbers."
    )


def control_gap(pairs: Sequence[Pair]) -> Estimate:
    """Accuracy of the first minus that of the second, mean over pairs."""
    if _have(pairs, "control"):
        return _mean_gap(pairs, "control")
    return mean_of([independent_difference(a.fresh.control, b.fresh.control) for a, b in pairs])


def entropy_gap(pair: Pair) -> Estimate | None:
    """Entropy of the first minus that of the second; None where it was not measured."""
    if _have([pair], "entropy"):
        return _mean_gap([pair], "entropy")
    one, other = (plan.fresh.estimates.get("entropy") for plan in pair)
    return None if one is None or other is None else independent_difference(one, other)


def log_ppl_gap(pairs: Sequence[Pair]) -> Estimate | None:
    """Log Gen-PPL of the first minus that of the second, mean over pairs; None without any."""
    if _have(pairs, _NLL):
        flat = [plan for pair in pairs for plan in pair]
        nats_SN = np.stack([plan.fresh.columns[_NLL] for plan in flat], axis=1)
        tokens_SN = np.stack([plan.fresh.columns[_TOKENS] for plan in flat], axis=1)

        def gap(nats: np.ndarray, tokens: np.ndarray) -> np.ndarray:
            log_ppl = nats / tokens
            found: np.ndarray = (log_ppl[..., ::2] - log_ppl[..., 1::2]).mean(-1)
            return found

        return bootstrap_statistic(gap, nats_SN, tokens_SN).estimate()
    gaps = [
        independent_difference(_log(a.fresh.ppl_ratio), _log(b.fresh.ppl_ratio))
        for a, b in pairs
        if a.fresh.ppl_ratio is not None and b.fresh.ppl_ratio is not None
    ]
    return mean_of(gaps) if gaps else None


def _have(pairs: Sequence[Pair], name: str) -> bool:
    sizes = {len(plan.fresh.columns.get(name, ())) for pair in pairs for plan in pair}
    return len(sizes) == 1 and min(sizes) > 1


def _mean_gap(pairs: Sequence[Pair], name: str) -> Estimate:
    gaps_PS = [np.subtract(a.fresh.columns[name], b.fresh.columns[name]) for a, b in pairs]
    return bootstrap_mean(np.mean(gaps_PS, axis=0)).estimate()


def _log(ratio: Estimate) -> Estimate:
    tiny = 1e-12
    value, low, high = (math.log(max(x, tiny)) for x in (ratio.value, ratio.low, ratio.high))
    return Estimate(value=value, low=low, high=high, n=ratio.n)

"""The Pareto front of quality against cost, and which plan to pick from it.

Quality is log Gen-PPL (nats, lower is better), cost is FLOPs as a share of all-heavy's (lower is
better). A plan whose unigram entropy leaves a band around all-heavy's is never picked: Gen-PPL
alone rewards repetitive text.

Shapes: N plans.

References: moocore (non-domination and hypervolume); Satopaa et al., Finding a "Kneedle" in a
haystack, 2011 (the knee as the point farthest from the chord).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

from schedlab.errors import InputError
from schedlab.results import Estimate

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

Band = tuple[float, float]
"""Lowest and highest entropy of plans that may be picked, nats per sample."""

MIN_SAVING = 1e-6  # share of all-heavy's FLOPs below which a plan saves nothing
BAND_STANDARD_ERRORS = 3.0
BAND_NATS = 0.1
REFERENCE_FACTOR = 1.1
_Z95 = 1.959963984540054


def non_dominated(log_ppl_N: ArrayLike, cost_N: ArrayLike) -> BoolArray:
    """Which plans no other plan beats in both quality and cost; shape (N,).

    Equal plans are all kept; a plan with a value that is not finite never belongs.
    """
    points_N2 = _points(log_ppl_N, cost_N)
    finite_N = np.isfinite(points_N2).all(axis=1)
    front_N = np.zeros(len(points_N2), dtype=bool)
    if finite_N.any():
        front_N[finite_N] = moocore.is_nondominated(points_N2[finite_N], keep_weakly=True)
    return front_N


def hypervolume(log_ppl_N: ArrayLike, cost_N: ArrayLike, reference: tuple[float, float]) -> float:
    """Area dominated by the plans within `reference`; larger is better.

    Plans beyond the reference or not finite count as nothing, by our own filter: moocore would
    return 0 for the whole set.
    """
    points_N2 = _points(log_ppl_N, cost_N)
    inside_N = np.isfinite(points_N2).all(axis=1) & (points_N2 < np.array(reference)).all(axis=1)
    if not inside_N.any():
        return 0.0
    return float(moocore.hypervolume(points_N2[inside_N], ref=list(reference)))


def reference_point(log_ppl_heavy: float, log_ppl_light: float) -> tuple[float, float]:
    """The fixed reference of a job: 1.1 times the worse Gen-PPL of the two constant schedules, and
    1.1 times all-heavy's cost."""
    return (max(log_ppl_heavy, log_ppl_light) + math.log(REFERENCE_FACTOR), REFERENCE_FACTOR)


def entropy_band(
    heavy: Estimate,
    *,
    standard_errors: float = BAND_STANDARD_ERRORS,
    nats: float = BAND_NATS,
) -> Band:
    """All-heavy's entropy plus or minus the larger of so many standard errors and `nats`."""
    standard_error = (heavy.high - heavy.low) / (2 * _Z95)
    half = max(standard_errors * standard_error, nats)
    return (heavy.value - half, heavy.value + half)


def excess(band: Band, entropy: float) -> float:
    """How far an entropy lies outside the band, nats; negative inside, 0 on the edge."""
    return max(band[0] - entropy, entropy - band[1])


@dataclass(frozen=True)
class Candidates:
    """The plans a pick chooses among.

    Args:
        log_ppl: log Gen-PPL, shape (N,).
        saved: share of all-heavy's FLOPs saved, shape (N,); all-heavy itself saves 0.
        may_pick: whether a plan may be picked: entropy within the band, measured in full; (N,).
    """

    log_ppl: FloatArray
    saved: FloatArray
    may_pick: BoolArray

    def __post_init__(self) -> None:
        for name, dtype in (("log_ppl", np.float64), ("saved", np.float64), ("may_pick", bool)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=dtype))
        shapes = {self.log_ppl.shape, self.saved.shape, self.may_pick.shape}
        if len(shapes) != 1 or self.log_ppl.ndim != 1:
            raise InputError(f"candidates need one value per plan in every field, got {shapes}")

    @property
    def allowed(self) -> BoolArray:
        """Plans that are finite and within the entropy band."""
        return self.may_pick & np.isfinite(self.log_ppl) & np.isfinite(self.saved)

    @property
    def on_front(self) -> BoolArray:
        """Plans that no allowed plan beats, among the allowed ones."""
        return non_dominated(np.where(self.allowed, self.log_ppl, np.nan), 1 - self.saved)


def pick_best(candidates: Candidates) -> int | None:
    """Index of the lowest Gen-PPL among allowed plans that save something; None without any."""
    return pick_budget(candidates, MIN_SAVING)


def pick_budget(candidates: Candidates, saving: float) -> int | None:
    """Index of the lowest Gen-PPL among allowed plans that save at least `saving` (a share).

    Equal qualities go to the plan that saves more. None when nothing saves that much.
    """
    allowed = candidates.allowed & (candidates.saved >= saving - 1e-12)
    if not allowed.any():
        return None
    index_M = np.flatnonzero(allowed)
    return int(index_M[np.lexsort((-candidates.saved[index_M], candidates.log_ppl[index_M]))[0]])


def pick_knee(candidates: Candidates) -> int | None:
    """Index of the front's knee: the point farthest below the chord between the front's ends.

    Axes are log Gen-PPL and share saved, each scaled to [0, 1] between the ends. A front without a
    point between its ends has no knee of its own: the end that saves more is returned. None when
    no allowed plan saves anything.
    """
    index_M = np.flatnonzero(candidates.on_front)
    index_M = index_M[np.argsort(candidates.saved[index_M], kind="stable")]
    log_ppl_M, saved_M = candidates.log_ppl[index_M], candidates.saved[index_M]
    if not len(index_M) or saved_M[-1] < MIN_SAVING:
        return None
    span_ppl, span_saved = log_ppl_M[-1] - log_ppl_M[0], saved_M[-1] - saved_M[0]
    interior_M = (saved_M >= MIN_SAVING) & (saved_M > saved_M[0]) & (saved_M < saved_M[-1])
    if not interior_M.any() or span_ppl <= 0:
        return int(index_M[-1])
    # Along the front quality and saving fall together; both scaled, the chord is the diagonal.
    below_chord_M = (saved_M - saved_M[0]) / span_saved - (log_ppl_M - log_ppl_M[0]) / span_ppl
    return int(index_M[np.argmax(np.where(interior_M, below_chord_M, -np.inf))])


def _points(log_ppl_N: ArrayLike, cost_N: ArrayLike) -> FloatArray:
    return np.column_stack([np.asarray(log_ppl_N, np.float64), np.asarray(cost_N, np.float64)])

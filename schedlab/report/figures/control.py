"""A joint search over guidance and allocation: control against Gen-PPL, and against lambda."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from schedlab.report.captions import control_facts
from schedlab.report.content import Figure
from schedlab.report.control_plans import (
    Measured,
    Sweep,
    kind,
    measured,
    names_of,
    origin_of,
    own_ideas,
    policy_words,
    ppl_of,
    reference,
    sweeps,
)
from schedlab.report.figures.axes import dots, log_axis
from schedlab.report.run_data import RunData
from schedlab.report.style import BLACK, BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, WIDTH
from schedlab.report.svg import drawing, to_svg
from schedlab.report.words import listing, number
from schedlab.results import Estimate
from schedlab.results.control_file import ControlFile

_CONTROL_AXIS = "control accuracy by the judge"
_PPL_AXIS = "Gen-PPL (log scale; lower is better)"
_MEASURES = (
    ("control", _CONTROL_AXIS),
    ("ppl", "Gen-PPL (log scale)"),
    ("entropy", "entropy (nats)"),
)
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, BLACK, GREY)
_MARKERS = ("o", "s", "^", "v", "P", "X")  # one less than colours: 42 different pairs
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.4)), (0, (1.4, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
_COST_COLOURS = "cividis"
_FAR = 1.6  # a limit that far beyond all plans is not drawn


def plane(run: RunData) -> Figure | None:
    """Control against Gen-PPL: lambda curves, what the search found, the reference."""
    file = run.control
    if file is None:
        return None
    shown = _points(measured(file))
    if len(shown) < 2:
        return None
    with drawing():
        canvas = Canvas(figsize=(WIDTH, 4.9))
        axes = canvas.add_subplot()
        handles = _lambda_curves(axes, file)
        handles += _proposals(canvas, axes, file, shown)
        handles += _rings(axes, file, shown)
        handles += _reference_mark(axes, file)
        log_axis(axes, [end for one in shown for end in (one.x.low, one.x.high)])
        handles += _constraint(axes, file)
        axes.set_xlabel(_PPL_AXIS)
        axes.set_ylabel(_CONTROL_AXIS)
        canvas.legend(handles=handles, loc="outside upper left", ncols=3, handlelength=1.8)
        svg = to_svg(canvas, "control-plane")
    plans = [one.of for one in shown]
    return Figure(
        name="control-plane",
        title="Control against Gen-PPL: the lambda curve and what the search found",
        svg=svg,
        caption="Up and left is better. Lines: sweeps of lambda, one per policy, joined in its"
        " order; marks grow with lambda. Other marks: plans that the search proposed, coloured by"
        " cost as a share of the reference's. Hollow: a constraint is broken on these sequences."
        " Rings: picks, chosen by the search's values. Star and dotted line: the unguided"
        f" reference, whose control is the base rate.{_limit_words(file)} Dull text has a low"
        " Gen-PPL too: see the table with entropy, distinct-3 and self-BLEU."
        f" {_ours(file, plans)}" + control_facts(file),
        alt="Scatter chart of control accuracy against Gen-PPL with intervals; sweeps of lambda"
        " are joined.",
        origin=origin_of(file, [one.plan for one in plans]),
    )


def against_lambda(run: RunData) -> Figure | None:
    """Control against lambda, with Gen-PPL and entropy where they were measured."""
    file = run.control
    found = [] if file is None else sweeps(file)
    if file is None or not found:
        return None
    own = reference(file)
    points = [one for sweep in found for one in sweep.points]
    measures = [(name, label) for name, label in _MEASURES if any(_value(p, name) for p in points)]
    with drawing():
        canvas = Canvas(figsize=(WIDTH, 3.1))
        grid = canvas.subplots(1, len(measures), squeeze=False)[0]
        for axes, (name, label) in zip(grid, measures, strict=True):
            level = None if own is None else _value(own, name)
            if level is not None:
                axes.axhspan(level.low, level.high, color=GREY, alpha=0.15, linewidth=0)
                axes.axhline(level.value, color=GREY, linewidth=1.0, linestyle=":")
            for place, sweep in enumerate(found):
                _line(axes, sweep, name, place)
            log_axis(axes, [one.scale for one in points])
            axes.set_xlabel("lambda (log scale)")
            axes.set_ylabel(label)
            if name == "ppl":
                known = [level, *(_value(one, name) for one in points)]
                ends = [end for e in known if e is not None for end in (e.low, e.high)]
                log_axis(axes, ends, vertical=True)
        handles = _sweep_handles(found)
        if own is not None:
            handles.append(Line2D([], [], color=GREY, linestyle=":", label="unguided reference"))
        canvas.legend(handles=handles, loc="outside upper left", ncols=4, handlelength=2.4)
        svg = to_svg(canvas, "against-lambda")
    return Figure(
        name="against-lambda",
        title="What lambda does",
        svg=svg,
        caption=f"Plans of a sweep differ in lambda alone: {_fixed_words(found)}. Bands: 95 %,"
        " pointwise; the plans share their random numbers. Dotted: the unguided reference. A low"
        " Gen-PPL at low entropy is no gain."
        f" {_ours(file, points)}" + control_facts(file),
        alt="Line charts against lambda with bands, one line per policy.",
        origin=origin_of(file, [one.plan for one in points]),
    )


@dataclass(frozen=True)
class _Point:
    """A plan in the plane: x is Gen-PPL, y is control."""

    of: Measured
    x: Estimate

    @property
    def y(self) -> Estimate:
        return self.of.fresh.control

    def cross(self, axes: Axes, colour: str) -> None:
        """Both intervals."""
        style: dict[str, Any] = {"color": colour, "linewidth": 0.7, "alpha": 0.55, "zorder": 2}
        axes.plot([self.x.low, self.x.high], [self.y.value] * 2, **style)
        axes.plot([self.x.value] * 2, [self.y.low, self.y.high], **style)

    def mark(self, axes: Axes, marker: str, *, size: float, face: Any, edge: Any) -> None:
        """The plan, hollow where it breaks a constraint."""
        hollow = not self.of.fresh.within
        axes.plot(
            [self.x.value],
            [self.y.value],
            marker,
            markersize=size,
            markerfacecolor="white" if hollow else face,
            markeredgecolor=face if hollow else edge,
            markeredgewidth=1.4 if hollow else 0.6,
            zorder=4,
        )


def _points(plans: Sequence[Measured]) -> list[_Point]:
    """Those of which Gen-PPL is known."""
    known = [(one, ppl_of(one)) for one in plans]
    return [_Point(one, x) for one, x in known if x is not None]


def _lambda_curves(axes: Axes, file: ControlFile) -> list[Any]:
    """Sweeps joined in the order of lambda; returns their legend."""
    found = sweeps(file)
    for place, sweep in enumerate(found):
        colour, marker = _style(place)
        points = _points(sweep.points)
        axes.plot(
            [one.x.value for one in points],
            [one.y.value for one in points],
            color=colour,
            linewidth=1.2,
            linestyle=_DASHES[place % len(_DASHES)],
            zorder=2.5,
        )
        for size, one in zip(np.linspace(3.2, 7.0, len(points)), points, strict=True):
            one.cross(axes, colour)
            one.mark(axes, marker, size=float(size), face=colour, edge=colour)
    return _sweep_handles(found)


def _proposals(
    canvas: Canvas, axes: Axes, file: ControlFile, shown: Sequence[_Point]
) -> list[Any]:
    """What the search proposed, one marker per policy; returns the legend."""
    points = [one for one in shown if one.of.row.origin == "proposal"]
    if not points:
        return []
    swept = [sweep.name for sweep in sweeps(file)]
    kinds = list(dict.fromkeys(kind(one.of.plan.policy) for one in points))
    order = list(dict.fromkeys([*swept, *kinds]))
    markers = {name: _style(order.index(name))[1] for name in kinds}
    shades = _Shades([one.of.fresh.cost.value for one in points])
    for one in points:
        one.cross(axes, GREY)
        face = shades.colour(one.of.fresh.cost.value)
        one.mark(axes, markers[kind(one.of.plan.policy)], size=5.6, face=face, edge=INK)
    shades.bar(canvas, axes)
    style: dict[str, Any] = {
        "linestyle": "none",
        "markersize": 5.2,
        "markerfacecolor": GREY,
        "markeredgecolor": INK,
    }
    return [
        Line2D([], [], marker=marker, label=f"proposed: {name}", **style)
        for name, marker in markers.items()
    ]


def _rings(axes: Axes, file: ControlFile, shown: Sequence[_Point]) -> list[Any]:
    picks = [one for one in shown if one.of.digest in file.picks.values()]
    style: dict[str, Any] = {
        "linestyle": "none",
        "marker": "o",
        "markerfacecolor": "none",
        "color": INK,
        "markeredgewidth": 1.1,
    }
    for one in picks:
        axes.plot([one.x.value], [one.y.value], markersize=12, zorder=6, **style)
        axes.annotate(
            ", ".join(name for name in names_of(file, one.of.digest) if name != "reference"),
            (one.x.value, one.y.value),
            xytext=(8, 7),
            textcoords="offset points",
            fontsize=8,
            fontweight="bold",
            zorder=7,
        )
    return [Line2D([], [], label="picked", markersize=8, **style)] if picks else []


def _reference_mark(axes: Axes, file: ControlFile) -> list[Any]:
    own = reference(file)
    if own is None:
        return []
    axes.axhline(own.fresh.control.value, color=GREY, linewidth=0.9, linestyle=":", zorder=1.5)
    style: dict[str, Any] = {"linestyle": "none", "marker": "*", "color": BLACK}
    for one in _points([own]):
        one.cross(axes, BLACK)
        axes.plot([one.x.value], [one.y.value], markersize=11, zorder=5.5, **style)
    return [Line2D([], [], label="unguided reference", markersize=9, **style)]


def _limit(file: ControlFile) -> float | None:
    """The largest Gen-PPL within the constraint, on fresh sequences."""
    own, ratio = reference(file), file.setting.constraints.get("max_ppl_ratio")
    ppl = None if own is None else ppl_of(own)
    return None if ppl is None or ratio is None else ratio * ppl.value


def _constraint(axes: Axes, file: ControlFile) -> list[Any]:
    """Shade what is too perplexing; returns the legend."""
    limit = _limit(file)
    low, high = axes.get_xlim()
    if limit is None or limit > _FAR * high:
        return []
    high = max(high, 1.04 * limit)
    start = max(limit, low)
    axes.axvspan(start, high, color=GREY, alpha=0.15, linewidth=0, zorder=0.5)
    axes.axvline(start, color=GREY, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1.4)
    axes.set_xlim(low, high)
    return [Patch(facecolor=GREY, alpha=0.3, label="constraint on Gen-PPL broken")]


def _limit_words(file: ControlFile) -> str:
    limit, ratio = _limit(file), file.setting.constraints.get("max_ppl_ratio")
    if limit is None or ratio is None:
        return ""
    return (
        f" Beyond Gen-PPL {number(limit)}, {number(ratio)} times the reference's (shaded), the"
        " constraint is broken."
    )


def _ours(file: ControlFile, shown: Sequence[Measured]) -> str:
    ideas = own_ideas(file, [one.plan for one in shown])
    return f"schedlab's own here: {listing(ideas)}. " if ideas else ""


def _fixed_words(found: Sequence[Sweep]) -> str:
    """What the plans of every sweep have in common."""
    parts = []
    for sweep in found:
        plan, guidance = sweep.points[0].plan, sweep.points[0].plan.guidance
        iterations = 0 if guidance is None else guidance.iterations
        times = "iteration" if iterations == 1 else "iterations"
        parts.append(f"{policy_words(plan.policy)}, {iterations} {times}, {plan.num_steps} steps")
    return "; ".join(parts)


def _line(axes: Axes, sweep: Sweep, name: str, place: int) -> None:
    known = [(one.scale, e) for one in sweep.points if (e := _value(one, name)) is not None]
    x, y = [scale for scale, _ in known], [e for _, e in known]
    colour, marker = _style(place)
    if len(known) == 1:
        dots(axes, y, x, vertical=False, colour=colour, marker=marker)
        return
    low, high = [e.low for e in y], [e.high for e in y]
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(
        x,
        [e.value for e in y],
        color=colour,
        marker=marker,
        markersize=4,
        linestyle=_DASHES[place % len(_DASHES)],
    )


def _value(one: Measured, name: str) -> Estimate | None:
    if name == "ppl":
        return ppl_of(one)
    return one.fresh.control if name == "control" else one.fresh.estimates.get(name)


def _sweep_handles(found: Sequence[Sweep]) -> list[Any]:
    handles: list[Any] = []
    for place, sweep in enumerate(found):
        colour, marker = _style(place)
        dashes = _DASHES[place % len(_DASHES)]
        label = f"sweep: {sweep.name}"
        handles.append(
            Line2D([], [], color=colour, marker=marker, markersize=4.4, linestyle=dashes,
                   label=label)
        )  # fmt: skip
    return handles


def _style(place: int) -> tuple[str, str]:
    return _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]


class _Shades:
    """Colours of costs, in a few levels: the bar of a continuous scale would be a bitmap."""

    def __init__(self, costs: Sequence[float]) -> None:
        self.colours = colormaps[_COST_COLOURS]
        levels = MaxNLocator(7).tick_values(min(costs), max(costs))
        differ = max(costs) > min(costs) and len(levels) > 2
        self.norm = BoundaryNorm(levels, self.colours.N) if differ else None

    def colour(self, cost: float) -> Any:
        """Of a plan."""
        return GREY if self.norm is None else self.colours(self.norm(cost))

    def bar(self, canvas: Canvas, axes: Axes) -> None:
        """The colour bar, if costs differ."""
        if self.norm is not None:
            mappable = ScalarMappable(self.norm, self.colours)
            bar = canvas.colorbar(mappable, ax=axes, fraction=0.035, pad=0.02)
            bar.set_label("cost of proposed plans, share of the reference's")
            bar.outline.set_linewidth(0.5)

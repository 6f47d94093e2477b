"""Pieces that several figures share: noise axis, bands, strips, dots with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from schedlab.plan import ModelSchedule
from schedlab.report.style import GREY, INK, Roles
from schedlab.results import Estimate


def noise_axis(axes: Axes) -> None:
    """Noise level from left (noise) to right (text), the way sampling runs."""
    axes.set_xlim(1.0, 0.0)
    axes.set_xticks(np.linspace(1, 0, 6))
    axes.set_xlabel("noise level t   (noise \N{RIGHTWARDS ARROW} text)")


def log_axis(axes: Axes, values: Sequence[float], *, vertical: bool = False) -> None:
    """A log scale with a few ticks at round numbers, whatever part of a decade is shown."""
    axis = axes.yaxis if vertical else axes.xaxis
    (axes.set_yscale if vertical else axes.set_xscale)("log")
    low, high = min(values), max(values)
    margin = max(0.06 * np.log(high / low), 0.03)
    limits = (low * np.exp(-margin), high * np.exp(margin))
    (axes.set_ylim if vertical else axes.set_xlim)(*limits)
    axis.set_major_locator(FixedLocator(_round_numbers(*limits)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _round_numbers(low: float, high: float) -> list[float]:
    """Powers of ten if 3 to 9 of them are within, else more numbers between them."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        found = [float(f"{step}e{d}") for d in decades for step in steps]
        inside = [value for value in found if low <= value <= high]
        if len(inside) >= 3:
            return inside[:: 1 + (len(inside) - 1) // 9]
    linear = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(f"{value:.12g}") for value in linear if low <= value <= high]


def zero_line(axes: Axes, *, vertical: bool = False) -> None:
    """The line of no difference."""
    draw = axes.axvline if vertical else axes.axhline
    draw(0, color=GREY, linewidth=0.8, zorder=1.5)


def band(
    axes: Axes,
    x: Sequence[float],
    value: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    *,
    colour: str,
    dashes: Any = "-",
) -> None:
    """A line with its 95 % band."""
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, value, color=colour, linestyle=dashes)


def limits(
    values: Sequence[Sequence[float]],
    bands: Sequence[Sequence[float]],
    *,
    include: Sequence[float] = (),
) -> tuple[float, float]:
    """Limits that show every value, and bands except for the widest twentieth of their points."""
    points = np.concatenate([np.asarray(v, dtype=float) for v in values])
    edges = np.concatenate([np.asarray(b, dtype=float) for b in bands])
    low = min(points.min(), float(np.quantile(edges, 0.025)), *include)
    high = max(points.max(), float(np.quantile(edges, 0.975)), *include)
    margin = 0.05 * (high - low) or 0.05
    return low - margin, high + margin


def strip(
    axes: Axes,
    schedule: ModelSchedule,
    y: float,
    roles: Roles,
    *,
    height: float = 0.72,
    cells: int | None = None,
) -> None:
    """Draw a schedule as a bar of width 1: noise at the left, text at the right.

    Args:
        cells: draw the edges of this many equal segments, if given.
    """
    start = 0
    for role, count in schedule.segments:
        axes.add_patch(
            Rectangle(
                (start / schedule.num_steps, y - height / 2),
                count / schedule.num_steps,
                height,
                facecolor=roles.colour(role),
                edgecolor="none",
                linewidth=0,
            )
        )
        start += count
    if cells:
        edges = [Rectangle((j / cells, y - height / 2), 0, height) for j in range(1, cells)]
        axes.add_collection(PatchCollection(edges, edgecolor="white", linewidth=0.8))


def strip_axis(axes: Axes) -> None:
    """An axis for strips: no frame, only where noise and text are."""
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 1], ["t = 1", "t = 0"])
    axes.tick_params(axis="x", length=0, pad=2)
    axes.tick_params(axis="y", length=0)
    axes.grid(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def dots(
    axes: Axes,
    estimates: Sequence[Estimate],
    positions: Sequence[float],
    *,
    colour: str = INK,
    vertical: bool = True,
    marker: str = "o",
    hollow: bool = False,
    size: float = 4.2,
    zorder: float = 3,
) -> None:
    """Estimates with their intervals at y `positions` (`vertical`), or at x positions."""
    value = np.array([e.value for e in estimates])
    # Bootstrap intervals need not contain the value; an error bar of negative length is not drawn.
    below = np.maximum(0, value - np.array([e.low for e in estimates]))
    above = np.maximum(0, np.array([e.high for e in estimates]) - value)
    style: dict[str, Any] = {
        "fmt": marker,
        "color": colour,
        "markersize": size,
        "markerfacecolor": "white" if hollow else colour,
        "markeredgewidth": 1.0,
        "elinewidth": 1.1,
        "zorder": zorder,
        "clip_on": True,
    }
    if vertical:
        axes.errorbar(value, positions, xerr=np.stack([below, above]), **style)
    else:
        axes.errorbar(positions, value, yerr=np.stack([below, above]), **style)


def role_legend(canvas: Canvas, roles: Roles, names: Sequence[str]) -> None:
    """Colour patches with descriptions above the panels."""
    handles = [Rectangle((0, 0), 1, 1, facecolor=roles.colour(name)) for name in names]
    canvas.legend(
        handles,
        [roles.describe(name) for name in names],
        loc="outside upper left",
        ncols=len(names),
        handlelength=1.1,
        handleheight=1.0,
        columnspacing=1.4,
    )


def bare_rows(axes: Axes) -> None:
    """Rows are named elsewhere: no vertical frame or marks."""
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)

"""Quality against cost of policies: curves, not points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from schedlab.report.captions import policy_facts
from schedlab.report.content import Figure
from schedlab.report.figures.axes import dots, zero_line
from schedlab.report.run_data import RunData
from schedlab.report.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    WIDTH,
)
from schedlab.report.svg import drawing, to_svg
from schedlab.results import Estimate
from schedlab.results.policy_file import Curve, FreshPolicyRow, PolicyFile, PolicyRow

AXIS = {
    "forwards": "forwards per sequence",
    "block_forwards": "block forwards per sequence",
    "flops_total": "FLOPs per sequence, head included",
    "seconds": "seconds per sequence",
}
SHOWN = {
    "accuracy": ("accuracy", "accuracy on the task"),
    "gen_ppl": ("gen_ppl", "Gen-PPL (lower is better)"),
    "duel": ("duel_nll", "-log p of held-out text, nats per token (lower is better)"),
}
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, BLACK, GREY)
_MARKERS = ("o", "s", "^", "v", "P", "X")  # one less than colours: 42 different pairs
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.4)), (0, (1.4, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
_TUNED = VERMILLION
_TUNED_MARKERS = ("D", "p", "*", "h", "<", ">", "d")
RANDOM_ORDERS = ("ancestral", "random_order", "first_hitting")
"""Policies of which held-out text has a bound, not a likelihood."""


def frontiers(run: RunData) -> Figure | None:
    """Every sweep as a curve with its band, every tuned policy's front as points."""
    file = run.policies
    if file is None:
        return None
    name, label = SHOWN[file.setting.quality]
    panels = 2 if file.setting.quality == "gen_ppl" else 1
    with drawing():
        canvas = Canvas(figsize=(WIDTH, 4.4 if panels == 1 else 5.6))
        grid = canvas.subplots(
            panels, 1, sharex=True, squeeze=False, height_ratios=(2.2, 1)[:panels]
        )
        quality = grid[0][0]
        _draw(quality, file, name)
        if panels == 2:
            _draw(grid[1][0], file, "entropy")
            grid[1][0].set_ylabel("entropy (nats)")
            if file.setting.entropy_band is not None:
                low, high = file.setting.entropy_band
                grid[1][0].axhspan(low, high, color=GREEN, alpha=0.10, linewidth=0)
        quality.set_ylabel(label)
        last = grid[-1][0]
        cost_axis(last)
        last.set_xlabel(f"{AXIS[file.setting.cost]} (log scale)")
        handles, labels = quality.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        canvas.legend(
            unique.values(), unique.keys(), loc="outside upper left", ncols=4, handlelength=1.8
        )
        svg = to_svg(canvas, "frontiers")
    guard = (
        " Below: entropy per sample; the shaded band is within which plans are picked, since a low"
        " Gen-PPL at low entropy is no gain."
        if panels == 2
        else ""
    )
    return Figure(
        name="frontiers",
        title="Quality against cost, by policy",
        svg=svg,
        caption="Lines: the policy's own knob is swept, 95 % bands, pointwise; dashes tell"
        " temperatures, block lengths and model schedules apart. Red: plans that a search on other"
        " sequences put on the front of a tuned policy. All on fresh sequences, the same for all."
        + guard
        + " "
        + _bounds(file)
        + policy_facts(file),
        alt="Line chart of quality against cost, one curve per policy.",
        origin="schedlab",
    )


def matched(run: RunData) -> Figure | None:
    """Tuned policies minus swept ones at equal cost, plan by plan."""
    file = run.policies
    if file is None:
        return None
    found = [one for one in file.matched if one.repeat is None and one.differences]
    if not found:
        return None
    known = {row.digest: row for row in file.fresh}
    colours = _styles(file)
    with drawing():
        canvas = Canvas(figsize=(WIDTH, 0.8 + 1.6 * ((len(found) + 2) // 3)))
        panels = canvas.subplots(
            (len(found) + 2) // 3, min(3, len(found)), sharex=True, sharey=True, squeeze=False
        )
        for axes, one in zip(panels.flat, found, strict=False):
            colour = colours[one.against][0]
            zero_line(axes)
            costs = [_x(known[digest], file).value for digest in one.digests]
            dots(axes, one.differences, costs, vertical=False, colour=colour, size=3.4)
            axes.set_title(f"{one.family}\nagainst {shown_name(one.against, file)}", fontsize=7.5)
            cost_axis(axes)
        for axes in list(panels.flat)[len(found) :]:
            axes.set_axis_off()
        canvas.supxlabel(AXIS[file.setting.cost], fontsize=8.5)
        canvas.supylabel(f"difference in {LOSSES[file.setting.quality]}", fontsize=8.5)
        svg = to_svg(canvas, "matched")
    return Figure(
        name="matched",
        title="Tuned policies against others at equal cost",
        svg=svg,
        caption="One point per plan of the tuned policy's front: its loss minus the other policy's"
        " at the same cost, below zero the tuned one is better. The other's loss is interpolated"
        " between the two neighbours of its front: what drawing one of the two for every sequence"
        " gives; beyond its dearest plan it is that plan's. Plans cheaper than all of the other's"
        " are left out. Paired by sequence. " + _bounds(file) + policy_facts(file),
        alt="Charts of differences in loss at equal cost, with intervals.",
        origin="schedlab",
    )


def _bounds(file: PolicyFile) -> str:
    found = [row.curve.policy for row in file.rows if is_bound(row.curve.policy, file)]
    if not found:
        return ""
    return (
        f"Of {', '.join(dict.fromkeys(found))} it is an unbiased estimate of an upper bound, which"
        " a policy with an exact likelihood may lie below without predicting better. "
    )


def cost_axis(axes: Axes) -> None:
    """Costs on a log scale, as plain numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


LOSSES = {"accuracy": "error rate", "gen_ppl": "log Gen-PPL", "duel": "-log p (nats per token)"}


def _draw(axes: Axes, file: PolicyFile, name: str) -> None:
    styles = _styles(file)
    for family, curves in _curves(file).items():
        colour, marker = styles[family]
        for number, points in enumerate(curves):
            x = [_x(fresh, file).value for _, fresh in points]
            y = [fresh.estimates[name] for _, fresh in points if name in fresh.estimates]
            if len(y) < len(x):
                continue
            tuned = points[0][0].curve.tuned
            if tuned:
                dots(axes, y, x, vertical=False, colour=colour, marker=marker, size=3.6, zorder=5)
                axes.plot([], [], marker, color=colour, markersize=3.6, label=family)
                continue
            axes.fill_between(
                x, [e.low for e in y], [e.high for e in y], color=colour, alpha=0.13, linewidth=0
            )
            axes.plot(
                x,
                [e.value for e in y],
                color=colour,
                marker=marker,
                markersize=3.4,
                linewidth=1.2,
                linestyle=_DASHES[number % len(_DASHES)],
                label=shown_name(family, file) if number == 0 else None,
            )


def _curves(file: PolicyFile) -> dict[str, list[list[tuple[PolicyRow, FreshPolicyRow]]]]:
    """Points of every curve from cheap to dear, by family; a tuned family is one curve."""
    known = {row.digest: row for row in file.fresh}
    on_front = {d for family in file.families for d in family.digests}
    found: dict[str, dict[Curve, dict[str, tuple[PolicyRow, FreshPolicyRow]]]] = {}
    for row in file.rows:
        if row.digest not in known or (row.curve.tuned and row.digest not in on_front):
            continue
        key = row.curve.model_copy(update={"repeat": None})
        curves = found.setdefault(row.curve.family, {})
        curves.setdefault(key, {})[row.digest] = (row, known[row.digest])
    return {
        family: [
            sorted(points.values(), key=lambda pair: _x(pair[1], file).value)
            for points in curves.values()
        ]
        for family, curves in found.items()
    }


def is_bound(family: str, file: PolicyFile) -> bool:
    """Whether a family's loss is an upper bound only."""
    return file.setting.quality == "duel" and family in RANDOM_ORDERS


def shown_name(family: str, file: PolicyFile) -> str:
    """What a family is called where its loss is shown."""
    return f"{family} (upper bound)" if is_bound(family, file) else family


def _styles(file: PolicyFile) -> dict[str, tuple[str, str]]:
    families: Sequence[str] = list(dict.fromkeys(row.curve.family for row in file.rows))
    tuned = {row.curve.family for row in file.rows if row.curve.tuned}
    swept = [family for family in families if family not in tuned]
    styles = {
        family: (_COLOURS[n % len(_COLOURS)], _MARKERS[n % len(_MARKERS)])
        for n, family in enumerate(swept)
    }
    return styles | dict.fromkeys(tuned, (_TUNED, "D"))


def _x(row: FreshPolicyRow, file: PolicyFile) -> Estimate:
    return row.estimates[file.setting.cost]

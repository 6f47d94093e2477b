"""A guided plan step by step: the noise level of every token, and what became of edits.

Legend: K recorded steps, G generated positions, R rows and C columns that are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray

from schedlab.report.captions import trace_facts
from schedlab.report.content import Figure
from schedlab.report.control_plans import origin_of, trace_name
from schedlab.report.figures.axes import noise_axis
from schedlab.report.run_data import RunData
from schedlab.report.style import BLUE, GREEN, ORANGE, PURPLE, WIDTH
from schedlab.report.svg import drawing, to_svg
from schedlab.report.words import one_line
from schedlab.results.control_file import ControlFile, ControlTrace

FloatArray = NDArray[np.float64]

MOST_TRACES = 4
TITLES = {
    "outputs": "fluctuation of the predictions",
    "input": "fluctuation against the input",
    "forgetting": "update-forgetting",
    "key_change": "key tokens that changed",
    "drop": "drop of confidence",
    "drop_changed": "drop where most key tokens changed",
    "drop_others": "drop elsewhere",
    "difference": "difference of these two drops",
}
MEANINGS = {
    "outputs": "share of positions where the likeliest tokens of a step and of the next differ",
    "input": "share of positions where what a step saw and its likeliest tokens differ",
    "forgetting": "share of positions where the likeliest token after guidance differs from the"
    " next step's before guidance, those that guidance left alone included",
    "key_change": "share of the key tokens (largest gradients) of which the same is true",
    "drop": "probability of the label at a step minus that at the next, by the guide",
}
_BLEU = "_bleu"
_SIZES = ((48, 48), (40, 40), (32, 32), (24, 24), (16, 16))
_MOST_CELLS = 3600  # in all maps of the figure: each is about 70 bytes of SVG
_LEVELS = np.linspace(0.0, 1.0, 21)
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.4)), (0, (1.4, 1.2)), (0, (5, 1.2, 1.2, 1.2)))


def maps(run: RunData) -> Figure | None:
    """t_i by step and position of every trace, beside its difference from the common t."""
    file = run.control
    if file is None:
        return None
    known = [(trace, levels_KG(file, trace)) for trace in file.traces]
    found = [(trace, levels) for trace, levels in known if levels is not None][:MOST_TRACES]
    if not found:
        return None
    reach = max(float(np.abs(levels - _t(trace, levels)).max()) for trace, levels in found)
    gaps = np.linspace(-1, 1, 16) * max(0.04 * np.ceil(reach / 0.04), 0.04)  # 0 is amid the 8th
    size = next((size for size in _SIZES if _cells(found, gaps, size) <= _MOST_CELLS), _SIZES[-1])
    scales = (
        Scale("t_i", _LEVELS, colormaps["cividis"]),
        Scale("t_i \N{MINUS SIGN} t", gaps, colormaps["PuOr_r"]),
    )
    with drawing():
        canvas = Canvas(figsize=(WIDTH, 0.5 + 2.5 * len(found)))
        grid = canvas.subplots(len(found), 2, squeeze=False)
        for panels, (trace, levels) in zip(grid, found, strict=True):
            t_K, drawn = _shrunk(trace, levels, size)
            for axes, values, scale in zip(panels, (drawn, drawn - t_K[:, None]), scales,
                                           strict=True):  # fmt: skip
                scale.draw(axes, values, file.setting.prefix_length, levels.shape[1])
                whose = one_line(trace_name(file, trace), max_length=32)
                axes.set_title(f"{whose}: {scale.name}", fontsize=8)
                places = np.unique(np.linspace(0, len(t_K) - 1, 6).round().astype(int))
                axes.set_yticks(places + 0.5, [f"{t_K[place]:.2f}" for place in places])
            panels[0].set_ylabel("common level t of the step")
        for column, scale in enumerate(scales):
            grid[-1][column].set_xlabel("position")
            bar = canvas.colorbar(
                ScalarMappable(scale.norm, scale.colours), ax=list(grid[:, column]), pad=0.02,
                fraction=0.05, ticks=scale.ticks,
            )  # fmt: skip
            bar.outline.set_linewidth(0.5)
            bar.minorticks_off()
        svg = to_svg(canvas, "clocks", short=True)
    return Figure(
        name="clocks",
        title="Timestep maps: the noise level of every token",
        svg=svg,
        caption="Left: mean t_i by step (noise at the top, text at the bottom) and position, over"
        " the traced sequences. Right: what is left after the common level t is taken off; a"
        " constant clock is pale everywhere, violet tokens were noised less than t, orange ones"
        " more. The released rules also cut t_i to whole steps and clamp it, which shows as"
        " stripes and at both ends. Means over sequences hide what tells the tokens of one"
        " sequence apart."
        + _coarse([levels for _, levels in found], size)
        + " "
        + trace_facts(file, [trace for trace, _ in found]),
        alt="Heat maps over step and position, of the noise level and of its difference from the"
        " common one.",
        origin=origin_of(file, _plans(file, [trace for trace, _ in found])),
    )


def stability(run: RunData) -> Figure | None:
    """What was measured at every step, by measure."""
    file = run.control
    if file is None or not file.traces:
        return None
    traces = [trace for trace in file.traces if trace.curves][:MOST_TRACES]
    names = list(dict.fromkeys(name for trace in traces for name in sorted(trace.curves)))
    names = [name for name in names if any(_has(trace, name) for trace in traces)]
    names = sorted(names, key=lambda name: list(TITLES).index(name) if name in TITLES else 99)
    if not names:
        return None
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    with drawing():
        canvas = Canvas(figsize=(WIDTH, 0.5 + 2.0 * rows))
        grid = canvas.subplots(rows, columns, squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            for place, trace in enumerate(traces):
                _curve(axes, trace, name, place)
            axes.set_title(title(name), fontsize=8)
            axes.margins(y=0.08)
            noise_axis(axes)
            axes.set_xlabel("")
        for axes in list(grid.flat)[len(names) :]:
            axes.set_axis_off()
        canvas.supxlabel("noise level t   (noise \N{RIGHTWARDS ARROW} text)", fontsize=8.5)
        handles = [
            grid[0][0].plot([], [], color=_COLOURS[n], linestyle=_DASHES[n])[0]
            for n in range(len(traces))
        ]
        canvas.legend(
            handles, [trace_name(file, trace) for trace in traces], loc="outside upper left",
            ncols=2, handlelength=2.4,
        )  # fmt: skip
        svg = to_svg(canvas, "stability")
    return Figure(
        name="stability",
        title="Fluctuation and forgotten edits, step by step",
        svg=svg,
        caption=f"{meanings(names)} Gaps: not defined at that step. Means over sequences, without"
        " intervals: neighbouring steps are not independent, and the table has the means over"
        " steps with theirs. The measures are TTA's (arXiv 2510.26200), by formulas that are known"
        " second-hand. " + trace_facts(file, traces, interval=False),
        alt="Line charts over the noise level, one panel per measure, one line per plan.",
        origin="paper",
    )


def title(name: str) -> str:
    """What a measure is called."""
    bare = name.removesuffix(_BLEU)
    words = TITLES.get(bare, one_line(bare.replace("_", " "), max_length=30))
    return f"{words}, by BLEU" if name.endswith(_BLEU) else words


def meanings(names: Sequence[str]) -> str:
    """What the measures are, as far as known here."""
    bare = {one.removesuffix(_BLEU) for one in names}
    known = [name for name in MEANINGS if name in bare]
    parts = [f"{TITLES[name]}: {MEANINGS[name]}" for name in known]
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if parts else ""


def levels_KG(file: ControlFile, trace: ControlTrace) -> FloatArray | None:
    """Mean t_i of generated positions; None where there is no whole map."""
    widths = {len(row) for row in trace.mean_levels}
    if len(widths) != 1 or len(trace.mean_levels) != len(trace.t):
        return None
    found_KG = np.array(trace.mean_levels, dtype=np.float64)
    if found_KG.shape[1] == file.setting.length:  # given positions are recorded too
        found_KG = found_KG[:, file.setting.prefix_length :]
    return found_KG if found_KG.size and np.isfinite(found_KG).all() else None


def _coarse(maps: Sequence[FloatArray], size: tuple[int, int]) -> str:
    """What is not shown one by one."""
    steps, positions = (max(levels.shape[axis] for levels in maps) for axis in (0, 1))
    rows = f" {size[0]} of {steps} steps, evenly spaced." if steps > size[0] else ""
    columns = (
        f" {size[1]} columns for {positions} positions: means over neighbours."
        if positions > size[1]
        else ""
    )
    return rows + columns


def _t(trace: ControlTrace, levels: FloatArray) -> FloatArray:
    return np.array(trace.t[: len(levels)], dtype=np.float64)[:, None]


def _shrunk(
    trace: ControlTrace, levels: FloatArray, size: tuple[int, int]
) -> tuple[FloatArray, FloatArray]:
    """t (R,) and levels (R, C): some of the steps, means of neighbouring positions."""
    rows = np.linspace(0, len(levels) - 1, min(size[0], len(levels))).round().astype(int)
    width = levels.shape[1]
    edges = np.linspace(0, width, min(size[1], width) + 1).round().astype(int)
    drawn = np.add.reduceat(levels[rows], edges[:-1], axis=1) / np.diff(edges)
    return np.array(trace.t, dtype=np.float64)[rows], drawn


def _cells(
    found: Sequence[tuple[ControlTrace, FloatArray]], gaps: FloatArray, size: tuple[int, int]
) -> int:
    """Rectangles that it takes, where equal neighbours are one."""
    total = 0
    for trace, levels in found:
        t_R, drawn = _shrunk(trace, levels, size)
        for values, edges in ((drawn, _LEVELS), (drawn - t_R[:, None], gaps)):
            place = np.digitize(values, edges)
            total += len(place) + int((place[:, 1:] != place[:, :-1]).sum())
    return total


class Scale:
    """A quantity's colours, in steps.

    Args:
        name: of the quantity.
        edges: of the steps, rising.
        colours: the map that they are taken from.
    """

    def __init__(self, name: str, edges: FloatArray, colours: Colormap) -> None:
        self.name, self.edges, self.colours = name, edges, colours
        self.norm = BoundaryNorm(edges, colours.N)
        self.ticks = np.linspace(edges[0], edges[-1], 5)

    def draw(self, axes: Axes, values: FloatArray, first: int, width: int) -> None:
        """A map as few paths: cells of one colour are one, equal neighbours one rectangle."""
        rows, columns = values.shape
        edge_C = first + np.linspace(0, width, columns + 1)
        place = np.clip(np.digitize(values, self.edges) - 1, 0, len(self.edges) - 2)
        corners: dict[int, list[list[tuple[float, float]]]] = {}
        for row in range(rows):
            starts = [0, *(np.flatnonzero(np.diff(place[row])) + 1).tolist()]
            for start, end in zip(starts, [*starts[1:], columns], strict=True):
                left, right = float(edge_C[start]), float(edge_C[end])
                corners.setdefault(int(place[row, start]), []).append(
                    [(left, row), (right, row), (right, row + 1), (left, row + 1), (left, row)]
                )
        for level, found in sorted(corners.items()):
            middle = (self.edges[level] + self.edges[level + 1]) / 2
            shapes = [Path(one, closed=True) for one in found]
            colour = self.colours(self.norm(middle))
            # A thin edge of the same colour hides seams between neighbours.
            axes.add_patch(
                PathPatch(Path.make_compound_path(*shapes), facecolor=colour, edgecolor=colour,
                          linewidth=0.5, joinstyle="miter")
            )  # fmt: skip
        axes.set_xlim(float(edge_C[0]), float(edge_C[-1]))
        axes.set_ylim(rows, 0)
        axes.grid(False)


def _has(trace: ControlTrace, name: str) -> bool:
    return any(value is not None for value in trace.curves.get(name, ()))


def _curve(axes: Axes, trace: ControlTrace, name: str, place: int) -> None:
    values = [np.nan if v is None else v for v in trace.curves.get(name, ())]
    count = min(len(values), len(trace.t))
    lacks = np.isnan([np.nan, *values[:count], np.nan])
    alone = ~lacks[1:-1] & lacks[:-2] & lacks[2:]  # no line goes through such a value
    axes.plot(
        trace.t[:count], values[:count], color=_COLOURS[place], linestyle=_DASHES[place],
        linewidth=1.3, marker="." if alone.any() else None, markersize=4,
    )  # fmt: skip


def _plans(file: ControlFile, traces: Sequence[ControlTrace]) -> list[Any]:
    digests = {trace.digest for trace in traces}
    return [row.plan for row in file.rows if row.digest in digests]

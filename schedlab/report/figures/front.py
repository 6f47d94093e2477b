"""Quality against cost: the Pareto front, and how well additive scores foresee it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from schedlab.report.captions import (
    ceiling_words,
    idle_skipped,
    kind_of_savings,
    search_facts,
    untruncated,
)
from schedlab.report.content import Figure
from schedlab.report.figures.axes import dots
from schedlab.report.run_data import RunData
from schedlab.report.style import BLACK, GREEN, GREY, INK, LIGHT_GREY, PURPLE, VERMILLION, WIDTH
from schedlab.report.svg import drawing, to_svg
from schedlab.report.words import MINUS, one_line
from schedlab.results import Estimate
from schedlab.results.search_file import RankCorrelation, SearchFile, SearchRow

FAMILY_STYLE: dict[str, tuple[str, str, str]] = {
    "exhaustive": ("o", GREY, "exhaustive"),
    "optuna": ("v", GREEN, "Optuna"),
    "additive": ("s", PURPLE, "additive"),
    "handmade": ("^", BLACK, "hand-made"),
}


def pareto(run: RunData) -> Figure | None:
    """Gen-PPL and entropy against the FLOPs that a schedule saves."""
    file = run.search
    if file is None or not file.rows:
        return None
    front = sorted((row for row in file.rows if row.on_front), key=_saved)
    fresh = [(file.row(row.digest), row) for row in file.fresh]
    with drawing():
        canvas = Canvas(figsize=(WIDTH, 4.9))
        quality, entropy = canvas.subplots(2, 1, sharex=True, height_ratios=(2.1, 1))
        for axes, name in ((quality, "gen_ppl"), (entropy, "entropy")):
            _cloud(axes, file.rows, name)
        if front:
            x = [_saved(row) for row in front]
            quality.step(
                x,
                [row.estimates["gen_ppl"].value for row in front],
                where="pre",
                color=INK,
                linewidth=1.1,
                zorder=2.5,
            )
            for axes, name in ((quality, "gen_ppl"), (entropy, "entropy")):
                dots(
                    axes,
                    [row.estimates[name] for row in front],
                    x,
                    vertical=False,
                    colour=INK,
                    zorder=4,
                )
        for axes, name in ((quality, "gen_ppl"), (entropy, "entropy")):
            pairs = [
                (_saved(row), again.estimates[name])
                for row, again in fresh
                if name in again.estimates
            ]
            dots(
                axes,
                [e for _, e in pairs],
                [x + 0.45 for x, _ in pairs],
                vertical=False,
                colour=VERMILLION,
                marker="D",
                size=3.8,
                zorder=5,
            )
        _picks(quality, file)
        low, high = file.setting.entropy_band
        entropy.axhspan(low, high, color=GREEN, alpha=0.10, linewidth=0)
        entropy.text(
            0.008,
            0.03,
            "shaded: within which plans are picked",
            transform=entropy.transAxes,
            ha="left",
            va="bottom",
            fontsize=7.5,
        )
        quality.set_ylabel("Gen-PPL (lower is better)")
        entropy.set_ylabel("entropy (nats)")
        idle = idle_skipped(file.setting, before="; ")
        entropy.set_xlabel(f"FLOPs saved against all heavy (%), head included{idle}")
        _legend(quality, bool(fresh))
        svg = to_svg(canvas, "pareto")
    return Figure(
        name="pareto",
        title="Pareto front: Gen-PPL against FLOPs saved, with entropy",
        svg=svg,
        caption="Every evaluated schedule. Light: dominated; crosses: entropy outside the band,"
        " never picked; black: the front with its intervals; red diamonds, moved to the right by a"
        " hair: the same schedules on fresh seeds, which is what counts. Unigram entropy per"
        f" sample below, since a low Gen-PPL at low entropy is no gain. {_savings(file)} "
        + search_facts(file, both=True),
        alt="Scatter chart of Gen-PPL against FLOPs saved with the front, and entropy below.",
        origin="extended",
    )


def _savings(file: SearchFile) -> str:
    if file.setting.process != "masked":
        return "Every step costs a forward."
    if file.setting.policy.calls_known:
        return "Savings are expected ones (which steps are idle is chance)."
    return f"Savings are {kind_of_savings(file.setting)} on the search's own samples."


def additive(run: RunData) -> Figure | None:
    """Additive scores, known before sampling, against sampled quality."""
    file = run.search
    if file is None:
        return None
    names = [
        name
        for name in ("loss_gap", "path_kl")
        if sum(getattr(row.additive, name) is not None for row in file.rows) > 2
    ]
    if not names:
        return None
    titles = {"loss_gap": "excess NELBO of the schedule", "path_kl": "path KL of the schedule"}
    with drawing():
        canvas = Canvas(figsize=(WIDTH, 3.4))
        panels = canvas.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            for family, (marker, colour, text) in FAMILY_STYLE.items():
                chosen = [
                    row
                    for row in file.rows
                    if _family(row) == family and getattr(row.additive, name) is not None
                ]
                axes.scatter(
                    [getattr(row.additive, name) for row in chosen],
                    [row.estimates["gen_ppl"].value for row in chosen],
                    marker=marker,
                    s=16,
                    facecolor=colour,
                    edgecolor="white",
                    linewidth=0.4,
                    alpha=0.85,
                    label=text if chosen else None,
                    zorder=2 + (family != "exhaustive"),
                )
            found = [item for item in file.rank_correlation if item.score == name]
            lines = _correlation_lines(found[0]) if found else []
            axes.set_title(titles[name], pad=6 + 11 * len(lines))
            axes.text(
                0, 1.02, "\n".join(lines), transform=axes.transAxes, va="bottom", fontsize=7.5
            )
            axes.set_xlabel("nats per token (before any sampling)")
            axes.xaxis.set_major_locator(MaxNLocator(5))
        panels[0].set_ylabel("sampled Gen-PPL")
        handles, labels = panels[0].get_legend_handles_labels()
        canvas.legend(
            handles, labels, loc="outside upper left", ncols=len(labels), handletextpad=0.2
        )
        svg = to_svg(canvas, "additive")
    plans = sorted({item.n_plans for item in file.rank_correlation})
    over = (
        f" Rank correlations over {plans[0]} schedules of the exhaustive set, ranked among those"
        " with as many light steps;"
        if plans
        else ""
    )
    ceiling = f" {ceiling_words(file)} " if plans else " "
    return Figure(
        name="additive",
        title="Additive score against sampled quality",
        svg=svg,
        caption="One point per schedule. Both scores come from one pass of each denoiser over"
        " held-out text or heavy trajectories, without sampling the schedule."
        + over
        + ceiling
        + untruncated(file)
        + search_facts(file),
        alt="Scatter charts of sampled Gen-PPL against additive scores.",
        origin="schedlab",
    )


def _saved(row: SearchRow) -> float:
    return 100 * row.cost.saved_total


def _family(row: SearchRow) -> str:
    """The family to draw a row as: the rarest it belongs to."""
    return next(name for name in reversed(FAMILY_STYLE) if name in row.families)


def _cloud(axes: Axes, rows: Sequence[SearchRow], name: str) -> None:
    """All points, light; crosses where entropy is outside the band."""
    styles: tuple[tuple[bool, dict[str, Any]], ...] = (
        (True, {"marker": "o", "s": 13, "facecolor": LIGHT_GREY, "edgecolor": "none"}),
        (False, {"marker": "x", "s": 17, "color": GREY, "linewidth": 0.9}),
    )
    for inside, style in styles:
        chosen = [row for row in rows if row.in_entropy_band is inside]
        axes.scatter(
            [_saved(row) for row in chosen],
            [row.estimates[name].value for row in chosen],
            zorder=2,
            **style,
        )


def _picks(axes: Axes, file: SearchFile) -> None:
    """Name the picked plans above everything drawn, with a leader to their points."""
    named: dict[str, list[str]] = {}
    for pick, digest in file.picks.items():
        named.setdefault(digest, []).append(one_line(pick, max_length=24))
    rows = sorted(((file.row(digest), picks) for digest, picks in named.items()), key=_row_saved)
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    line = 0.055 * (high - low)
    ends: list[float] = []  # where the last text of each line ends
    for row, picks in rows:
        x, text = _saved(row), ", ".join(sorted(picks))
        half = 0.0062 * len(text) * (right - left)
        start = min(max(x - half, left), right - 2 * half)
        level = next((i for i, end in enumerate(ends) if end < start), len(ends))
        ends[level : level + 1] = [start + 2 * half + 0.01 * (right - left)]
        y = high + line * (level + 0.4)
        axes.text(start + half, y, text, ha="center", va="bottom", fontsize=8, fontweight="bold")
        top = row.estimates["gen_ppl"].high
        axes.plot([x, x], [top, y], color=INK, linewidth=0.6, linestyle=(0, (2, 2)), zorder=1.8)
    axes.set_ylim(low, high + line * (len(ends) + 0.6))
    axes.set_xlim(left, right)


def _row_saved(item: tuple[SearchRow, list[str]]) -> float:
    return _saved(item[0])


def _legend(axes: Axes, fresh: bool) -> None:
    entries: list[tuple[dict[str, Any], str]] = [
        ({"marker": "o", "color": LIGHT_GREY, "linestyle": "none", "markersize": 4}, "dominated"),
        (
            {"marker": "x", "color": GREY, "linestyle": "none", "markersize": 4.5},
            "outside the entropy band",
        ),
        ({"marker": "o", "color": INK, "linewidth": 1.1, "markersize": 4}, "front, search seeds"),
    ]
    if fresh:
        entries.append(
            (
                {"marker": "D", "color": VERMILLION, "linestyle": "none", "markersize": 4},
                "fresh seeds",
            )
        )
    for style, text in entries:
        axes.plot([], [], label=text, **style)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=len(entries),
        borderaxespad=0.1,
        handletextpad=0.4,
        columnspacing=1.4,
    )


def _correlation_lines(item: RankCorrelation) -> list[str]:
    lines = [one_line(f"{item.states.replace('_', ' ')} states", max_length=30)]
    for name, found, ceiling in (
        ("Spearman", item.spearman, item.ceiling_spearman),
        ("Kendall", item.kendall, item.ceiling_kendall),
    ):
        beside = f", ceiling {_short(ceiling)}" if ceiling is not None else ""
        lines.append(f"{name} {_short(found)}{beside}")
    return lines


def _short(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]".replace("-", MINUS)

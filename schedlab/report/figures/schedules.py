"""Schedules side by side: the hand-made ones, the extremes of the exhaustive search, segments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure as Canvas

from schedlab.report.captions import search_facts
from schedlab.report.content import Figure
from schedlab.report.figures.axes import (
    bare_rows,
    dots,
    role_legend,
    strip,
    strip_axis,
    zero_line,
)
from schedlab.report.run_data import RunData, all_heavy, label
from schedlab.report.style import BLUE, INK, SAMPLER_STATES, VERMILLION, WIDTH
from schedlab.report.svg import drawing, to_svg
from schedlab.report.words import one_line, relative_change
from schedlab.results import Estimate
from schedlab.results.search_file import SearchFile, SearchRow
from schedlab.search.space import of_commonest_cost

EXTREMES = 20
WHYS = (
    "best",
    "knee",
    "budget",
    "all_heavy",
    "all_light",
    "exhaustive_best",
    "worst",
    "front",
    "additive",
)


def handmade(run: RunData) -> Figure | None:
    """Gen-PPL of the hand-made schedules, best first."""
    file = run.search
    if file is None:
        return None
    rows = sorted((row for row in file.rows if "handmade" in row.families), key=_ppl)
    if not rows:
        return None
    positions = np.arange(len(rows))[::-1].tolist()
    with drawing():
        canvas = Canvas(figsize=(WIDTH, 0.9 + 0.3 * len(rows)))
        strips, values, changes = canvas.subplots(1, 3, sharey=True, width_ratios=(1.25, 1, 1))
        for row, y in zip(rows, positions, strict=True):
            strip(strips, row.schedule, y, run.roles, height=0.6)
        strip_axis(strips)
        strips.set_yticks(positions, [one_line(label(row, file), max_length=26) for row in rows])
        strips.set_ylim(-0.6, len(rows) - 0.4)
        role_legend(canvas, run.roles, _used(rows, run))
        dots(values, [row.estimates["gen_ppl"] for row in rows], positions)
        values.set_xlabel("Gen-PPL (lower is better)")
        dots(changes, [_percent(row.paired_log_ppl) for row in rows], positions)
        zero_line(changes, vertical=True)
        changes.set_xlabel("change against all heavy (%)")
        bare_rows(values)
        bare_rows(changes)
        svg = to_svg(canvas, "handmade")
    return Figure(
        name="handmade",
        title="The hand-made schedules, best first",
        svg=svg,
        caption="Left: the schedule from noise to text. Middle: Gen-PPL, each with its own"
        " interval. Right: change against all heavy on the same noise (paired, hence narrower:"
        " this is the one to compare by). " + search_facts(file),
        alt="Seven schedules as coloured bars with their Gen-PPL and intervals.",
        origin="extended",
    )


def extremes(run: RunData) -> Figure | None:
    """Strip chart of the best and worst schedules of the exhaustive search."""
    file = run.search
    if file is None:
        return None
    ranked = peers(file)
    if len(ranked) < 4:
        return None
    each = min(EXTREMES, len(ranked) // 2)
    ranks = [*range(each), *range(len(ranked) - each, len(ranked))]
    skipped = len(ranked) - 2 * each
    gap = 1.4 if skipped else 0.0
    positions = [-(place + (gap if place >= each else 0)) for place in range(2 * each)]
    rows = [ranked[rank] for rank in ranks]
    with drawing():
        canvas = Canvas(figsize=(WIDTH, 1.05 + 0.134 * (2 * each + gap)))
        strips, changes = canvas.subplots(1, 2, sharey=True, width_ratios=(1.5, 1))
        for row, y in zip(rows, positions, strict=True):
            strip(strips, row.schedule, y, run.roles, height=0.8, cells=file.setting.num_segments)
        strip_axis(strips)
        strips.set_yticks(positions, [str(rank + 1) for rank in ranks], fontsize=7)
        strips.set_ylabel("rank by Gen-PPL")
        strips.set_ylim(positions[-1] - 0.7, 0.7)
        role_legend(canvas, run.roles, _used(rows, run))
        if skipped:
            middle = (positions[each - 1] + positions[each]) / 2
            strips.text(
                0.5,
                middle,
                f"{skipped} schedules in between",
                ha="center",
                va="center",
                fontsize=7.5,
            )
        dots(changes, [_percent(row.paired_log_ppl) for row in rows], positions, size=3)
        zero_line(changes, vertical=True)
        changes.set_xlabel("Gen-PPL against all heavy (%), paired")
        bare_rows(changes)
        heavy = all_heavy(file)
        if heavy is not None:
            ppl = heavy.estimates["gen_ppl"].value
            top = changes.secondary_xaxis(
                "top", functions=(lambda x: ppl * (1 + x / 100), lambda y: 100 * (y / ppl - 1))
            )
            top.set_xlabel("Gen-PPL (lower is better)")
        svg = to_svg(canvas, "extremes")
    return Figure(
        name="extremes",
        title=f"Best and worst {each} of all {len(ranked)} schedules with"
        f" {_num_light(ranked[0])} of {file.setting.num_segments} segments light",
        svg=svg,
        caption=f"Rows are schedules, cells their {file.setting.num_segments} segments from noise"
        " (left) to text (right), colour the denoiser. Ranked by the search's own Gen-PPL: the top"
        " is flattered and the bottom maligned by sampling noise; re-measured values are below."
        " Right: change of Gen-PPL against all heavy on the same noise. " + search_facts(file),
        alt="Strip chart of schedules by rank with their Gen-PPL and intervals.",
        origin="extended",
    )


def influence(run: RunData) -> Figure | None:
    """What a light segment does to the mean quality of the exhaustive set."""
    file = run.search
    if file is None or not file.segment_influence:
        return None
    segments = sorted(file.segment_influence, key=lambda item: item.segment)
    places = [item.segment for item in segments]
    ranked = segments[0].ranked
    with drawing():
        canvas = Canvas(figsize=(WIDTH, 2.5))
        left, right = canvas.subplots(1, 2)
        zero_line(left)
        estimates = [item.ppl for item in segments]
        for sign, colour in ((1, VERMILLION), (-1, BLUE), (0, INK)):
            chosen = [(e, x) for e, x in zip(estimates, places, strict=True) if _sign(e) == sign]
            if chosen:
                dots(
                    left,
                    [e for e, _ in chosen],
                    [x for _, x in chosen],
                    colour=colour,
                    vertical=False,
                    hollow=sign == 0,
                    size=5,
                )
        left.set_title("influence of a light segment")
        left.set_ylabel("Gen-PPL with it light, minus mean")
        right.bar(places, [item.in_top for item in segments], color=BLUE, width=0.7)
        right.bar(places, [-item.in_bottom for item in segments], color=VERMILLION, width=0.7)
        zero_line(right)
        right.set_ylim(-1.28 * ranked, 1.28 * ranked)
        right.set_yticks(
            [-ranked, -ranked // 2, 0, ranked // 2, ranked],
            [str(abs(v)) for v in (ranked, ranked // 2, 0, ranked // 2, ranked)],
        )
        right.set_title("how often light")
        right.set_ylabel("schedules")
        right.text(
            0.02,
            0.985,
            f"among the best {ranked}",
            transform=right.transAxes,
            va="top",
            color=BLUE,
            fontsize=8,
            fontweight="bold",
        )
        right.text(
            0.02,
            0.015,
            f"among the worst {ranked}",
            transform=right.transAxes,
            va="bottom",
            color=VERMILLION,
            fontsize=8,
            fontweight="bold",
        )
        for axes in (left, right):
            axes.set_xticks(places)
            axes.set_xlabel("segment   (0 = noisiest)")
            axes.grid(axis="x", visible=False)
        svg = to_svg(canvas, "influence")
    return Figure(
        name="influence",
        title="Influence of each segment",
        svg=svg,
        caption="Left: mean Gen-PPL of the exhaustive schedules with this segment light, minus the"
        " mean over segments; above 0 (red) it is better to keep the segment heavy, below 0 (blue)"
        " the light one does less harm there than elsewhere; hollow: the interval contains 0."
        " Right: how many of the best and worst schedules run the segment on the light denoiser. "
        + search_facts(file),
        alt="Dot chart of segment influence with intervals, and bar chart of frequencies.",
        origin="extended",
    )


def remeasured(run: RunData) -> Figure | None:
    """Search values beside values on fresh seeds: the winner's curse."""
    file = run.search
    if file is None or not file.fresh:
        return None
    fresh = sorted(
        file.fresh, key=lambda row: row.schedule.count(file.setting.heavy), reverse=True
    )
    positions = np.arange(len(fresh))[::-1].tolist()
    with drawing():
        canvas = Canvas(figsize=(WIDTH, 1.0 + 0.27 * len(fresh)))
        strips, changes = canvas.subplots(1, 2, sharey=True, width_ratios=(1, 1.5))
        for row, y in zip(fresh, positions, strict=True):
            strip(strips, row.schedule, y, run.roles, height=0.6)
        strip_axis(strips)
        strips.set_yticks(
            positions, [one_line(", ".join(reasons(row.why)), max_length=24) for row in fresh]
        )
        strips.set_ylim(-0.6, len(fresh) - 0.4)
        role_legend(canvas, run.roles, _used(fresh, run))
        zero_line(changes, vertical=True)
        searched = [_percent(file.row(row.digest).paired_log_ppl) for row in fresh]
        dots(changes, searched, [y + 0.16 for y in positions], colour=SAMPLER_STATES, hollow=True)
        dots(
            changes,
            [_percent(row.paired_log_ppl) for row in fresh],
            [y - 0.16 for y in positions],
            marker="D",
            size=3.8,
        )
        changes.plot(
            [], [], "o", color=SAMPLER_STATES, markerfacecolor="white", label="search seeds"
        )
        changes.plot([], [], "D", color=INK, markersize=4, label="fresh seeds")
        changes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=2,
            borderaxespad=0.1,
            handletextpad=0.3,
        )
        changes.set_xlabel("Gen-PPL against all heavy (%), paired")
        bare_rows(changes)
        svg = to_svg(canvas, "remeasured")
    return Figure(
        name="remeasured",
        title="Winner's curse: search seeds against fresh seeds",
        svg=svg,
        caption="Change of Gen-PPL against all heavy, first on the seeds that the choice was made"
        " on, then on fresh ones. What is reported as best or exported is judged by the fresh"
        " value. " + search_facts(file, both=True),
        alt="Dumbbell chart of search and fresh values per re-measured schedule.",
        origin="schedlab",
    )


def _ppl(row: SearchRow) -> float:
    return row.estimates["gen_ppl"].value


def _percent(log_ratio: Estimate) -> Estimate:
    change = relative_change(log_ratio)
    return Estimate(
        value=100 * change.value, low=100 * change.low, high=100 * change.high, n=change.n
    )


def _used(rows: Sequence, run: RunData) -> list[str]:
    used = {role for row in rows for role in row.schedule.roles}
    return [role for role in run.roles.order if role in used]


def _sign(estimate: Estimate) -> int:
    if not estimate.excludes(0):
        return 0
    return 1 if estimate.value > 0 else -1


def reasons(whys: Sequence[str]) -> list[str]:
    """Why a plan was measured again, the telling reasons first.

    Being on the front or in the additive family goes without saying where there is another reason.
    """
    named = [why for why in WHYS if why in whys]
    telling = [why for why in named if why not in ("front", "additive")]
    if not whys:
        return ["dropped: entropy"]
    return [why.replace("_", " ") for why in telling or named[:1]]


def peers(file: SearchFile) -> list[SearchRow]:
    """Exhaustive rows of one cost, best first: those of the commonest number of light steps."""
    rows = {row.schedule: row for row in file.rows if "exhaustive" in row.families}
    chosen = of_commonest_cost(list(rows), file.setting.light)
    return sorted((rows[schedule] for schedule in chosen), key=_ppl)


def _num_light(row: SearchRow) -> int:
    return len(row.light_segments or ())

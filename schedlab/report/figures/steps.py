"""What each step costs in the additive bounds, and how a swap changes the rest of a trajectory."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from schedlab.report.captions import importance_facts
from schedlab.report.content import Figure
from schedlab.report.figures.axes import band, dots, limits, zero_line
from schedlab.report.run_data import RunData
from schedlab.report.style import FORWARD_STATES, SAMPLER_STATES, WIDTH
from schedlab.report.svg import drawing, to_svg
from schedlab.results.importance_file import Propagation, StepScores

MILLI = 1000.0


def step_scores(run: RunData, light: str) -> Figure | None:
    """Scheduled NELBO and path KL per step of one light role."""
    file = run.importance
    if file is None:
        return None
    scores = [s for s in file.step_scores if s.light == light and not s.prefix]
    if not scores:
        return None
    gaps = [s for s in scores if s.loss_gap is not None]
    with drawing():
        canvas = Canvas(figsize=(WIDTH, 2.6))
        left, right = canvas.subplots(1, 2, sharex=True)
        for score in gaps:
            _per_step(left, score, "loss_gap", run.roles.colour(light))
        left.set_title("scheduled NELBO: excess per step")
        for score in scores:
            colour = FORWARD_STATES if score.states == "forward" else SAMPLER_STATES
            _per_step(right, score, "path_kl", colour)
            right.plot([], [], color=colour, label=_STATES[score.states])
        right.set_title("path KL per step")
        right.legend(loc="best")
        left.set_ylabel("10\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT THREE} nats per token")
        for axes in (left, right):
            zero_line(axes)
            axes.set_xlim(0, max(1, scores[0].num_steps - 1))
            axes.set_xlabel("step k   (0 = noisiest)")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        right.set_ylim(*_limits(scores, "path_kl"))
        if gaps:
            left.set_ylim(*_limits(gaps, "loss_gap"))
        svg = to_svg(canvas, f"steps-{light}")
    return Figure(
        name=f"steps-{light}",
        title=f"What one light step costs: {run.roles.describe(light)}",
        svg=svg,
        caption=f"Cost of running step k of {scores[0].num_steps} on the light denoiser, in nats"
        " per generated token. Both quantities add up: a schedule's sum over its light steps is"
        " its excess in the NELBO (left) and the KL from the all-heavy trajectories to its own"
        " (right). The path KL is exact with states from the heavy sampler; states from the"
        " forward process are the cheap approximation. "
        + importance_facts(
            file,
            n=[file.setting.num_sequences]
            + ([file.setting.sampled_sequences] if len(scores) > len(gaps) else []),
            states="both" if len(scores) > len(gaps) else "forward",
        ),
        alt="Two line charts of the cost of each denoising step, with bands.",
        origin="schedlab",
    )


def propagation(run: RunData) -> Figure | None:
    """What a swap in one segment changes at the end, and for the next prediction."""
    file = run.importance
    if file is None:
        return None
    rows = [row for row in file.propagation if not row.prefix]
    if not rows:
        return None
    lights = list(dict.fromkeys(row.light for row in rows))
    with drawing():
        canvas = Canvas(figsize=(WIDTH, 2.6))
        panels = canvas.subplots(1, len(_SWAP_PANELS))
        for axes, (name, title) in zip(panels, _SWAP_PANELS.items(), strict=True):
            for index, light in enumerate(lights):
                shift = 0.22 * (index - (len(lights) - 1) / 2)
                known = [row for row in rows if row.light == light and getattr(row, name)]
                dots(
                    axes,
                    [getattr(row, name) for row in known],
                    [row.segment + shift for row in known],
                    colour=run.roles.colour(light),
                    vertical=False,
                    marker=_MARKERS[index % len(_MARKERS)],
                )
            axes.set_title(title)
            zero_line(axes)
        for index, light in enumerate(lights):
            style = {"marker": _MARKERS[index % len(_MARKERS)], "linestyle": "none"}
            label, colour = run.roles.describe(light), run.roles.colour(light)
            panels[0].plot([], [], color=colour, label=label, **style)
        top = panels[0].get_ylim()[1]
        bottom = min(0.0, panels[1].get_ylim()[0]) if file.setting.process == "uniform" else 0.0
        for axes in panels[:2]:  # a part and its whole on one scale
            axes.set_ylim(bottom, top)
        panels[0].set_ylabel("share of generated positions")
        panels[2].set_ylabel(
            "nats per masked token" if file.setting.process == "masked" else "nats per token"
        )
        segments = sorted({row.segment for row in rows})
        for axes in panels:
            axes.set_xticks(segments)
            axes.set_xlim(segments[0] - 0.6, segments[-1] + 0.6)
            axes.grid(axis="x", visible=False)
        panels[1].set_xlabel("segment run by the light denoiser   (0 = noisiest)")
        handles, labels = panels[0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside upper left", ncols=len(lights))
        svg = to_svg(canvas, "propagation")
    return Figure(
        name="propagation",
        title="How an early swap propagates",
        svg=svg,
        caption="Two samplers share all noise and differ in one segment only, which one of them"
        " runs on the light denoiser. Left: tokens that differ at the end. Middle:"
        f" {_SPREAD[file.setting.process]} Right: how much heavy's prediction right after the"
        " segment changed; after the last segment there is none. "
        + importance_facts(file, n=_numbers(rows), states="coupled"),
        alt="Three dot charts per segment, with intervals.",
        origin="schedlab",
    )


_SWAP_PANELS = {
    "changed_tokens": "changed tokens at the end",
    "propagated_tokens": "of these, after the segment",
    "kl_next": "KL of the next prediction",
}
_SPREAD = {
    "masked": "those of them that heavy revealed after the segment, which is what the swap spread"
    " to.",
    "uniform": "that less what differed right after the segment: above 0 the swap spread, below 0"
    " heavy repaired what light did.",
}
_MARKERS = "os^D"
_STATES = {"forward": "forward-process states", "heavy_sampler": "heavy-sampler states"}


def _per_step(axes: Axes, score: StepScores, name: str, colour: str) -> None:
    value, low, high = _arrays(score, name)
    band(axes, range(score.num_steps), value, low, high, colour=colour)


def _arrays(score: StepScores, name: str) -> tuple[list[float], list[float], list[float]]:
    ends = (getattr(score, f"{name}{end}") for end in ("", "_low", "_high"))
    value, low, high = ((MILLI * np.asarray(values)).tolist() for values in ends)
    return value, low, high


def _limits(scores: list[StepScores], name: str) -> tuple[float, float]:
    arrays = [_arrays(score, name) for score in scores]
    return limits(
        [value for value, _, _ in arrays],
        [edge for _, low, high in arrays for edge in (low, high)],
        include=[0.0],
    )


def _numbers(rows: list[Propagation]) -> list[int]:
    return [row.changed_tokens.n for row in rows]

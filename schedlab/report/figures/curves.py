"""Importance curves: how predictions of the denoisers differ at every noise level."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from schedlab.report.captions import importance_facts
from schedlab.report.content import Figure, Origin
from schedlab.report.figures.axes import band, limits, noise_axis, zero_line
from schedlab.report.run_data import RunData
from schedlab.report.style import WIDTH, Roles
from schedlab.report.svg import drawing, to_svg
from schedlab.results.importance_file import Curve, ImportanceFile, Metric

_LOSS = {
    "masked": "Cross-entropy of the true tokens at masked positions, the same noisy texts for all"
    " denoisers; lower is better. ",
    "uniform": "Divergence of the posterior that a step draws from, at every position, from that"
    " of the true token: a term of the bound of as many steps. The same noisy texts for all"
    " denoisers; lower is better. ",
}
_DIVERGENCE = {
    "masked": "Divergence of the predicted distributions per masked token on the same noisy"
    " texts.",
    "uniform": "Divergence of the posteriors that a step draws from, per token, on the same noisy"
    " texts.",
}


def cross_entropy(run: RunData) -> Figure | None:
    """Loss of every denoiser on the same noisy held-out text."""
    return _panels(
        run,
        name="cross-entropy",
        title="Loss of each denoiser at every noise level",
        metrics=(("cross_entropy", ""),),
        caption=_LOSS[_process(run)],
        origin="paper",
        floor=None,
    )


def loss_gap(run: RunData) -> Figure | None:
    """Signed and absolute loss gap to the heavy denoiser."""
    return _panels(
        run,
        name="loss-gap",
        title="Loss gap to the heavy denoiser",
        metrics=(("loss_gap", "signed: light minus heavy"), ("abs_loss_gap", "absolute")),
        caption="Difference of losses on the same noisy texts. Signed (left): above 0 the"
        " heavy denoiser is better, and its mean is what a light step costs in the bound. Absolute"
        " (right): the paper's curve; it is above 0 even for two equally good denoisers, as the"
        " line of the second heavy one shows where there is one. ",
        origin="extended",
    )


def divergences(run: RunData) -> Figure | None:
    """KL in both directions and Jensen-Shannon."""
    return _panels(
        run,
        name="divergences",
        title="How far the light predictions are from the heavy ones",
        metrics=(
            ("kl_heavy_light", "KL(heavy \N{DOUBLE VERTICAL LINE} light)"),
            ("kl_light_heavy", "KL(light \N{DOUBLE VERTICAL LINE} heavy)"),
            ("js", "Jensen-Shannon"),
        ),
        caption=f"{_DIVERGENCE[_process(run)]} The paper does not say which direction of KL it"
        " plots, so both are here. The second heavy denoiser shows how far two equally strong ones"
        " are apart. ",
        origin="extended",
    )


def relative_kl(run: RunData) -> Figure | None:
    """KL minus the KL between two independently trained heavy denoisers."""
    return _panels(
        run,
        name="relative-kl",
        title="Relative KL: beyond what another heavy denoiser would differ",
        metrics=(("relative_kl", "states: held-out text, noised"),),
        sampler_panel="states: the heavy sampler's own",
        caption="KL(heavy \N{DOUBLE VERTICAL LINE} light) minus KL(heavy \N{DOUBLE VERTICAL LINE}"
        " second heavy): above 0 the light denoiser differs by more than training noise. ",
        origin="paper",
    )


def with_prefix(run: RunData) -> Figure | None:
    """Signed loss gap and KL given a prefix, beside the unconditional ones."""
    file = run.importance
    if file is None or not any(curve.prefix for curve in file.curves):
        return None
    metrics: tuple[tuple[Metric, str], ...] = (
        ("loss_gap", "signed loss gap"),
        ("kl_heavy_light", "KL(heavy \N{DOUBLE VERTICAL LINE} light)"),
    )
    light = file.setting.lights[0] if file.setting.lights else ""
    shown = [
        (
            title,
            [
                c
                for c in file.curves
                if c.metric == metric and c.roles[-1] == light and c.states == "forward"
            ],
        )
        for metric, title in metrics
    ]
    shown = [(title, curves) for title, curves in shown if curves]
    if not shown:
        return None
    with drawing():
        canvas = Canvas(figsize=(WIDTH, 2.6))
        for axes, (title, curves) in zip(
            canvas.subplots(1, len(shown), squeeze=False)[0], shown, strict=True
        ):
            zero_line(axes)
            for curve in curves:
                band(
                    axes,
                    curve.t,
                    curve.value,
                    curve.low,
                    curve.high,
                    colour=run.roles.colour(light),
                    dashes=(0, (3, 1.5)) if curve.prefix else "-",
                )
            axes.plot([], [], color=run.roles.colour(light), label="from scratch")
            axes.plot(
                [],
                [],
                color=run.roles.colour(light),
                linestyle=(0, (3, 1.5)),
                label="given a prefix",
            )
            axes.legend()
            axes.set_ylim(*_limits(curves, floor=0.0))
            noise_axis(axes)
            axes.set_title(title)
        canvas.supylabel(file.setting.unit, fontsize=8.5)
        svg = to_svg(canvas, "prefix")
    numbers = [curve.n for _, curves in shown for curve in curves]
    return Figure(
        name="prefix",
        title=f"Given a prefix: {run.roles.describe(light)}",
        svg=svg,
        caption="The same curves when the beginning of the text is given and stays clean; only"
        " positions after it count. " + importance_facts(file, n=numbers, prefix=True),
        alt="Line charts comparing curves with and without a given prefix.",
        origin="paper",
    )


def _panels(
    run: RunData,
    *,
    name: str,
    title: str,
    metrics: Sequence[tuple[Metric, str]],
    caption: str,
    origin: Origin,
    sampler_panel: str | None = None,
    floor: float | None = 0.0,
) -> Figure | None:
    """One panel per metric with a line per other denoiser."""
    file = run.importance
    if file is None:
        return None
    shown = [(heading, _curves(file, metric)) for metric, heading in metrics]
    if sampler_panel is not None:
        sampled = [
            c for metric, _ in metrics for c in _curves(file, metric, states="heavy_sampler")
        ]
        shown.append((sampler_panel, sampled))
    shown = [(heading, curves) for heading, curves in shown if curves]
    if not shown:
        return None
    with drawing():
        canvas = Canvas(figsize=(WIDTH, 2.6))
        panels = canvas.subplots(1, len(shown), squeeze=False)[0]
        for axes, (heading, curves) in zip(panels, shown, strict=True):
            if floor is not None:
                zero_line(axes)
            _draw(axes, curves, run.roles, floor=floor)
            if heading:
                axes.set_title(heading)
        panels[0].set_ylabel(file.setting.unit)
        others = list(dict.fromkeys(c.roles[-1] for _, curves in shown for c in curves))
        handles = [
            panels[0].plot([], [], color=run.roles.colour(r), linestyle=run.roles.dashes(r))[0]
            for r in others
        ]
        canvas.legend(
            handles,
            [run.roles.describe(role) for role in others],
            loc="outside upper left",
            ncols=len(others),
            handlelength=2.6,
        )
        svg = to_svg(canvas, name)
    states = {curve.states for _, curves in shown for curve in curves}
    return Figure(
        name=name,
        title=title,
        svg=svg,
        caption=caption
        + importance_facts(
            file,
            n=[curve.n for _, curves in shown for curve in curves],
            states="both" if len(states) > 1 else states.pop(),
        ),
        alt=f"Line charts of {title.lower()} against noise level with bands.",
        origin=origin,
    )


def _process(run: RunData) -> str:
    return "masked" if run.importance is None else run.importance.setting.process


def _curves(
    file: ImportanceFile | None, metric: Metric, *, states: str = "forward"
) -> list[Curve]:
    if file is None:
        return []
    return [c for c in file.curves if c.metric == metric and c.states == states and not c.prefix]


def _draw(axes: Axes, curves: Sequence[Curve], roles: Roles, *, floor: float | None) -> None:
    for curve in curves:
        role = curve.roles[-1]
        band(
            axes,
            curve.t,
            curve.value,
            curve.low,
            curve.high,
            colour=roles.colour(role),
            dashes=roles.dashes(role),
        )
    axes.set_ylim(*_limits(curves, floor=floor))
    noise_axis(axes)


def _limits(curves: Sequence[Curve], *, floor: float | None) -> tuple[float, float]:
    return limits(
        [curve.value for curve in curves],
        [edge for curve in curves for edge in (curve.low, curve.high)],
        include=[] if floor is None else [floor],
    )

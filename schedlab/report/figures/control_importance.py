"""Which parameters of a joint search matter, by objective."""

from __future__ import annotations

from matplotlib.figure import Figure as Canvas

from schedlab.report.captions import control_search_facts
from schedlab.report.content import Figure
from schedlab.report.figures.axes import bare_rows, dots
from schedlab.report.run_data import RunData
from schedlab.report.style import GREY, SKY, WIDTH
from schedlab.report.svg import drawing, to_svg
from schedlab.report.words import one_line
from schedlab.results import Estimate
from schedlab.results.control_file import OBJECTIVE_NAMES

MOST_PARAMETERS = 16
_FEW = 50  # PED-ANOVA wants at least 5 proposals in the best tenth
_PARAMETERS = {"scale": "lambda", "smooth": "alpha_smooth", "schedule": "model schedule"}


def importances(run: RunData) -> Figure | None:
    """Share of every objective's variation that a parameter explains."""
    file = run.control
    objectives = {} if file is None else {k: v for k, v in file.importance.items() if v}
    if file is None or not objectives:
        return None
    names = _in_order(objectives)
    count = len(names)
    names = names[:MOST_PARAMETERS]
    with drawing():
        canvas = Canvas(figsize=(WIDTH, 0.9 + 0.25 * len(names)))
        grid = canvas.subplots(1, len(objectives), sharex=True, sharey=True, squeeze=False)
        for axes, (objective, own) in zip(grid[0], objectives.items(), strict=True):
            found = [(y, own[name]) for y, name in enumerate(names) if name in own]
            places, estimates = [y for y, _ in found], [e for _, e in found]
            axes.barh(places, [e.value for e in estimates], height=0.62, color=SKY, zorder=2)
            dots(axes, estimates, [float(y) for y in places], size=2.4)
            axes.axvline(1 / count, color=GREY, linewidth=0.9, linestyle=":")
            axes.set_title(one_line(OBJECTIVE_NAMES.get(objective, objective), max_length=24))
            axes.set_xlim(0, 1.02)
            axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            bare_rows(axes)
        grid[0][0].set_yticks(range(len(names)), [parameter_words(name) for name in names])
        grid[0][0].invert_yaxis()
        canvas.supxlabel("share of the importance", fontsize=8.5)
        svg = to_svg(canvas, "control-importance")
    n = max(e.n for own in objectives.values() for e in own.values())
    few = (
        f" With {n} proposals the best tenth is {max(1, n // 10)}: too few to trust small"
        " differences."
        if n < _FEW
        else ""
    )
    return Figure(
        name="control-importance",
        title="Which parameters matter, by objective",
        svg=svg,
        caption="PED-ANOVA (arXiv 2304.10255): how far the values of a parameter among the best"
        " tenth of the proposals, by that objective, differ from those of all; shares add up to 1"
        " per objective, the dotted line is equal shares. It says which parameters tell the best"
        " proposals apart within the ranges that were searched. It says neither in which direction"
        " a parameter acts nor by how much, leaves interactions out, and a parameter of a narrow"
        f" range looks unimportant.{few} n = {n} proposals, sweeps included; intervals: percentile"
        " bootstrap over proposals, as if each had been made without looking at the others. "
        + control_search_facts(file),
        alt="Bar charts with intervals, one panel per objective, one bar per parameter.",
        origin="schedlab",
    )


def parameter_words(name: str) -> str:
    """A proposed parameter as a reader should see it."""
    return _PARAMETERS.get(name, one_line(name.replace("_", " "), max_length=28))


def _in_order(objectives: dict[str, dict[str, Estimate]]) -> list[str]:
    """All parameters by their share in the first objective, which is control."""
    first = next(iter(objectives.values()))
    shares = {name: 0.0 for own in objectives.values() for name in own}
    shares |= {name: estimate.value for name, estimate in first.items()}
    return sorted(shares, key=lambda name: (-shares[name], name))

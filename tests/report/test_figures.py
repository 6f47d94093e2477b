"""Drawings: stable, standing alone or beside others, and there only with their data."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
import synthetic_run
from matplotlib.figure import Figure

from schedlab.report import RunData
from schedlab.report.figures import curves, front, schedules, steps
from schedlab.report.figures.axes import limits
from schedlab.report.style import Roles
from schedlab.report.svg import Svg, drawing, to_svg

EMPTY = RunData("empty")


def draw(name: str, title: str = "x") -> Svg:
    with drawing():
        canvas = Figure(figsize=(3, 2))
        axes = canvas.add_subplot()
        axes.plot([0, 1], [1, 2], "o-")
        axes.set_title(title)
        return to_svg(canvas, name)


def test_equal_drawings_give_equal_bytes() -> None:
    assert draw("a") == draw("a")


def test_ids_of_two_drawings_never_meet() -> None:
    ids = [set(re.findall(r'id="([^"]*)"', draw(name).body)) for name in ("a", "b")]
    assert ids[0] and ids[0].isdisjoint(ids[1])


def test_every_reference_in_a_drawing_has_its_target() -> None:
    body = draw("a").body
    targets = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', body)
    assert targets
    assert {one or other for one, other in targets} <= set(re.findall(r'id="([^"]*)"', body))


def test_a_drawing_is_well_formed_and_holds_neither_date_nor_style_sheet() -> None:
    text = draw("a").standalone()
    ElementTree.fromstring(text)
    assert "<style" not in text and "<metadata" not in text and "<!--" not in text


@pytest.mark.parametrize("title", ["$\\frac{", "</svg><script>alert(1)</script>", "--> <b>", "$$"])
def test_hostile_titles_are_drawn_as_they_are(title: str) -> None:
    text = draw("a", title).standalone()
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(text).iter()}
    assert tags <= {"svg", "g", "path", "defs", "use", "clipPath", "rect"}


def test_the_users_style_sheet_changes_nothing() -> None:
    import matplotlib

    before = draw("a")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        assert draw("a") == before


def test_figures_are_absent_without_their_data() -> None:
    for figure in (
        curves.cross_entropy,
        curves.loss_gap,
        curves.divergences,
        curves.relative_kl,
        curves.with_prefix,
        steps.propagation,
        schedules.handmade,
        schedules.extremes,
        schedules.influence,
        schedules.remeasured,
        front.pareto,
        front.additive,
    ):
        assert figure(EMPTY) is None
    assert steps.step_scores(EMPTY, "L") is None


def test_curves_given_a_prefix_are_drawn_beside_the_others() -> None:
    file = synthetic_run.importance()
    given = [
        curve.model_copy(update={"prefix": True, "id": f"{curve.id}/prefix"})
        for curve in file.curves
        if curve.metric in ("loss_gap", "kl_heavy_light") and curve.states == "forward"
    ]
    run = RunData("p", file.model_copy(update={"curves": [*file.curves, *given]}))
    figure = curves.with_prefix(run)
    assert figure is not None and "given a prefix" in figure.title.lower()
    assert curves.with_prefix(RunData("n", file)) is None


def test_limits_show_all_values_and_cut_only_the_widest_bands() -> None:
    values = [[0.0, 1.0, 2.0]]
    low, high = limits(values, [[-1.0] * 99 + [-1000.0], [3.0] * 100], include=[-2.0])
    assert low < -2.0 and low > -3.0
    assert 3.0 < high < 4.0


def test_a_role_keeps_its_colour_whatever_else_a_run_has() -> None:
    alone, together = Roles.of(["H", "L"]), Roles.of(["H", "X", "Y", "L", "M"])
    assert alone.colour("L") == together.colour("L")
    colours = [together.colour(role) for role in together.order]
    assert len(set(colours)) == len(colours)

"""The report as one HTML page: everything inside, no script, no request, every text escaped."""

from __future__ import annotations

from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from schedlab.report.content import MARK_LABELS, ORIGIN_LABELS, VERDICT_LABELS, Block, Report
from schedlab.report.numbering import numbered
from schedlab.report.svg import Svg


def render_page(report: Report) -> str:
    """Lay out a report as HTML; equal reports give equal bytes."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.tests["kind"] = _is_kind
    environment.filters["inline_svg"] = _inline_svg
    return environment.get_template("page.html.j2").render(
        report=report,
        numbers=numbered(report),
        style=Markup(_template("page.css")),
        origins=ORIGIN_LABELS,
        marks=MARK_LABELS,
        verdicts=VERDICT_LABELS,
    )


def _template(name: str) -> str:
    return (resources.files("schedlab.report") / "templates" / name).read_text(encoding="utf-8")


def _is_kind(block: Block, name: str) -> bool:
    return type(block).__name__ == name


def _inline_svg(svg: Svg, alt: str) -> Any:
    """An `<svg>` element for HTML, which needs no namespaces; `svg.body` is matplotlib's own."""
    body = svg.body.replace("xlink:href=", "href=")
    return (
        Markup('<svg class="drawing" role="img" aria-label="')
        + alt
        + Markup(f'" {svg.attributes}>{body}</svg>')
    )

"""From a matplotlib figure to an SVG that is byte-stable and can share a page with others.

Text is drawn as paths, so a figure looks the same wherever it is opened. No dates, no links, no
metadata: equal figures give equal bytes.

References: matplotlib's `svg.hashsalt` makes its ids reproducible.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

from schedlab.report.style import RC

_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_PROLOGUE = re.compile(r"^.*?(?=<svg\b)", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->\s*", re.DOTALL)
_STYLE = re.compile(r"\s*<defs>\s*<style[^>]*>.*?</style>\s*</defs>", re.DOTALL)
_ROOT = re.compile(r"<svg\b[^>]*>")
_VIEW_BOX = re.compile(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"')
_ID = re.compile(r'\s+id="([^"]*)"')
_PATH = re.compile(r' d="[^"]*"')
_LONG_NUMBER = re.compile(r"(\.\d\d)\d+")
_REFERENCE = re.compile(r'xlink:href="#([^"]*)"|url\(#([^)]*)\)')


@dataclass(frozen=True)
class Svg:
    """A drawing: the inside of an `<svg>` element, its width and height in points."""

    name: str
    body: str
    width: float
    height: float

    @property
    def attributes(self) -> str:
        """Attributes of the root element, without namespaces."""
        return (
            f'viewBox="0 0 {self.width:g} {self.height:g}"'
            ' stroke-linejoin="round" stroke-linecap="butt"'
        )

    def standalone(self) -> str:
        """The drawing as an SVG file."""
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
            f' width="{self.width:g}pt" height="{self.height:g}pt" {self.attributes}>'
            f"{self.body}</svg>\n"
        )


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in schedlab's style, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        # Untrusted names may hold characters that the font lacks; they show as boxes.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        yield


def to_svg(figure: Figure, name: str, *, short: bool = False) -> Svg:
    """Serialise `figure`; all ids start with `name`, so several drawings can share one page.

    Args:
        short: cut coordinates of paths to hundredths, for drawings with thousands of them.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    text = _COMMENT.sub("", _PROLOGUE.sub("", buffer.getvalue()))
    root = _ROOT.match(text)
    size = _VIEW_BOX.search(text)
    assert root is not None and size is not None, "matplotlib's SVG has a root with a viewBox"
    body = text[root.end() : text.rindex("</svg>")]
    # matplotlib's style element would apply to the whole page; the root's attributes replace it.
    body = _own_ids(_STYLE.sub("", body, count=1), prefix=name)
    if short:
        body = _PATH.sub(lambda path: _LONG_NUMBER.sub(r"\1", path[0]), body)
    return Svg(name, body.strip(), float(size[1]), float(size[2]))


def _own_ids(body: str, *, prefix: str) -> str:
    """Prefix the ids that something refers to, drop all others."""
    used = {first or second for first, second in _REFERENCE.findall(body)}

    def identity(match: re.Match[str]) -> str:
        return f' id="{prefix}-{match[1]}"' if match[1] in used else ""

    def reference(match: re.Match[str]) -> str:
        if match[1]:
            return f'xlink:href="#{prefix}-{match[1]}"'
        return f"url(#{prefix}-{match[2]})"

    return _REFERENCE.sub(reference, _ID.sub(identity, body))

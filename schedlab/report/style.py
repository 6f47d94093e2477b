"""Colours and drawing style: one colour per denoiser in every figure and table.

References: M. Okabe and K. Ito, Color Universal Design (2008), the palette; all pairs used here
also differ in lightness, so they survive a grey printout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILLION = "#D55E00"
PURPLE = "#CC79A7"

INK = "#1A1A1A"
GREY = "#6B7280"
LIGHT_GREY = "#C3C8D0"
FAINT = "#EEF0F3"

# Forward process against heavy sampler: states, not denoisers, hence other colours.
FORWARD_STATES = BLACK
SAMPLER_STATES = PURPLE

WIDTH = 7.2  # inches; the page's column and the document's text width are close to it

RC: Any = {  # matplotlib types its keys one by one
    "text.parse_math": False,  # a `$` in a name is a dollar sign
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "text.color": INK,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}

_KNOWN = {"H": BLUE, "L": ORANGE, "M": GREEN, "Hb": SKY}
_SPARE = (VERMILLION, PURPLE, YELLOW, BLACK, GREY)
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.4)), (0, (5, 1.2, 1.2, 1.2)), (0, (1.4, 1.2)))


@dataclass(frozen=True)
class Roles:
    """Colour, dash pattern and description of every denoiser of a run.

    Args:
        descriptions: role -> words such as `12 blocks, bundled:heavy`.
    """

    descriptions: Mapping[str, str] = field(default_factory=dict)
    order: tuple[str, ...] = ()

    @classmethod
    def of(cls, roles: Iterable[str], descriptions: Mapping[str, str] | None = None) -> Roles:
        """Roles in a fixed order: the first ones keep their colours whatever else a run has."""
        return cls(dict(descriptions or {}), tuple(dict.fromkeys(roles)))

    def colour(self, role: str) -> str:
        """The role's colour in every figure and table."""
        if role in _KNOWN:
            return _KNOWN[role]
        others = [name for name in self.order if name not in _KNOWN]
        index = others.index(role) if role in others else len(others)
        return _SPARE[index % len(_SPARE)]

    def dashes(self, role: str) -> Any:
        """The role's dash pattern, so that colour is never the only difference."""
        index = self.order.index(role) if role in self.order else len(self.order)
        return _DASHES[index % len(_DASHES)]

    def describe(self, role: str) -> str:
        """`L (4 blocks, bundled:light-4)`, or the bare role."""
        words = self.descriptions.get(role, "")
        return f"{role} ({words})" if words else role

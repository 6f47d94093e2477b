"""Numbers and untrusted text as a reader should see them.

Every string that comes from a file (sample texts, names, job files) passes `visible`; every number
passes `number`, `interval`, `percent` or `flops`, so that one quantity looks the same everywhere.
"""

from __future__ import annotations

import math
import re
import unicodedata

from schedlab.results import Estimate

# The folders of an absolute path, at the start or behind a blank or a quotation mark.
_FOLDERS = re.compile(r"(?<![^\s\"'])(?:[A-Za-z]:)?[/\\](?:[^\s\"'/\\]+[/\\])+")

_LINES = re.compile(r"\n{4,}")

LINE_END = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"
MINUS = "\N{MINUS SIGN}"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def visible(text: str, *, max_length: int | None = None) -> str:
    """Make untrusted text safe to lay out: what is invisible or redirects text becomes a sign.

    Line breaks stay; tabs become blanks; other control characters become their control pictures
    (NUL is U+2400); bidirectional overrides, lone surrogates and unassigned or private characters
    become U+FFFD. Escaping for HTML or typst is not done here.
    """
    unified = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
    shown = "".join(_visible_character(character) for character in unified)
    if max_length is not None and len(shown) > max_length:
        return shown[: max_length - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
    return shown


def sample(text: str, *, max_length: int) -> str:
    """A generated text, `visible`, with empty lines counted where they are many: denoisers fill
    up short texts with separators."""
    shown = _LINES.sub(lambda run: f"\n{counted(len(run[0]))}\n", visible(text)).strip("\n")
    return visible(shown, max_length=max_length)


def counted(num: int) -> str:
    """So many line ends in one sign."""
    return f"{LINE_END}\N{MULTIPLICATION SIGN}{num}"


def _visible_character(character: str) -> str:
    if character == "\n":
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\N{SYMBOL FOR DELETE}"
    # Cc: C1 controls, Cf: format characters such as bidirectional overrides, Cs: surrogates.
    if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn"}:
        return REPLACEMENT
    return character


def one_line(text: str, *, max_length: int = 60) -> str:
    """Untrusted text on one line, cut to `max_length` characters."""
    return visible(" ".join(text.split()), max_length=max_length)


def without_folders(text: str) -> str:
    """Absolute paths cut to their last part: reports are passed on, home folders need not be."""
    return _FOLDERS.sub("\N{HORIZONTAL ELLIPSIS}/", text)


def number(value: float, *, digits: int = 3) -> str:
    """`value` with `digits` significant digits, without exponent between 1e-4 and 1e6."""
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if not -5 < magnitude < 6:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    return _fixed(value, max(0, digits - 1 - magnitude))


def interval(estimate: Estimate) -> str:
    """`3.42 [3.31, 3.55]`, with as many decimals as the interval's width deserves."""
    value, low, high = _parts(estimate)
    return f"{value} [{low}, {high}]"


def change(log_ratio: Estimate) -> str:
    """A difference of logarithms as `+8.1 [+2.0, +14.6] %`."""
    relative = relative_change(log_ratio)
    value, low, high = (
        text.removesuffix(" %")
        for text in (percent(relative.value, sign=True), *_percent_ends(relative))
    )
    return f"{value} [{low}, {high}] %"


def spoken_change(log_ratio: Estimate) -> str:
    """A paired difference of log Gen-PPL in words."""
    relative = relative_change(log_ratio)
    if relative.low == relative.high == 0:
        return f"the same texts on these {log_ratio.n} sequences"
    low, high = _percent_ends(relative)
    ends = f"95 % interval {low} to {high}"
    if not relative.excludes(0):
        return (
            "no significant difference of Gen-PPL"
            f" ({percent(relative.value, sign=True)}; {ends}, which contains 0)"
        )
    word = "higher" if relative.value > 0 else "lower"
    return f"Gen-PPL {percent(abs(relative.value))} {word} ({ends})"


def spoken_interval(estimate: Estimate, *, unit: str = "") -> str:
    """`0.12 nats (95 % interval 0.09 to 0.15)`, for prose."""
    value, low, high = _parts(estimate)
    return f"{value}{' ' if unit else ''}{unit} (95 % interval {low} to {high})"


def percent(share: float, *, decimals: int = 1, sign: bool = False) -> str:
    """A share as `16.7 %`, with `sign` as `+16.7 %`."""
    text = _fixed(100 * share, decimals)
    plus = "+" if sign and share > 0 and text.strip("0.") else ""
    return f"{plus}{text} %"


def relative_change(log_ratio: Estimate) -> Estimate:
    """Estimate of `exp(difference of logarithms) - 1`: how much larger, as a share."""
    return Estimate(
        value=math.expm1(log_ratio.value),
        low=math.expm1(log_ratio.low),
        high=math.expm1(log_ratio.high),
        n=log_ratio.n,
    )


def flops(value: float) -> str:
    """FLOPs with an SI prefix: `12.3 GFLOP`."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{number(value / factor)} {prefix}FLOP"
    return f"{number(value)} FLOP"


def level_range(low: float, high: float) -> str:
    """Noise levels as `t = 0.42` or `t = 0.42 to 0.68`."""
    if math.isclose(low, high):
        return f"t = {low:.2f}"
    return f"t = {low:.2f} to {high:.2f}"


def listing(items: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return ", ".join(items[:-1]) + " and " + items[-1]


def _parts(estimate: Estimate) -> tuple[str, str, str]:
    """Value and ends with the decimals of the half-width: two of its digits if it starts with
    less than 3.55, else one."""
    half_width = (estimate.high - estimate.low) / 2
    scale = half_width if half_width > 0 else abs(estimate.value) / 100
    decimals = 1
    if scale > 0:
        magnitude = math.floor(math.log10(scale))
        digits = 2 if half_width > 0 and scale / 10**magnitude < 3.55 else 1
        decimals = max(0, digits - 1 - magnitude)
    low, high = (
        _fixed(end, _decimals_beside_zero(end, decimals)) for end in (estimate.low, estimate.high)
    )
    return _fixed(estimate.value, decimals), low, high


def _percent_ends(share: Estimate) -> tuple[str, str]:
    low, high = (
        percent(end, decimals=_decimals_beside_zero(100 * end, 1), sign=True)
        for end in (share.low, share.high)
    )
    return low, high


def _decimals_beside_zero(end: float, decimals: int) -> int:
    """One or two more where an end that is not 0 would read as 0: whether it is matters."""
    for extra in range(3):
        if end == 0 or abs(end) >= 0.5 * 10.0 ** -(decimals + extra):
            return decimals + extra
    return decimals


def _fixed(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    if not text.strip("-0."):  # no minus zero
        text = text.lstrip("-")
    return text.replace("-", MINUS)

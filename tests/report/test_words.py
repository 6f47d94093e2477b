"""Numbers and untrusted text as a reader sees them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedlab.report.words import (
    LINE_END,
    change,
    flops,
    interval,
    level_range,
    listing,
    number,
    one_line,
    percent,
    sample,
    spoken_change,
    visible,
    without_folders,
)
from schedlab.results import Estimate


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high, n=8)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (62.04, "62.0"),
        (0.00123456, "0.00123"),
        (-3.14159, "\N{MINUS SIGN}3.14"),
        (123456.0, "123456"),
        (1e9, "1.00e+09"),
    ],
)
def test_a_number_has_three_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("given_estimate", "text"),
    [
        (estimate(62.3, 55.1, 69.8), "62 [55, 70]"),
        (estimate(0.7402, 0.6811, 0.8009), "0.74 [0.68, 0.80]"),
        (estimate(0.0981, 0.0783, 0.1179), "0.098 [0.078, 0.118]"),
        (estimate(1.0, 1.0, 1.0), "1.00 [1.00, 1.00]"),
    ],
)
def test_an_interval_decides_how_many_decimals_are_shown(
    given_estimate: Estimate, text: str
) -> None:
    assert interval(given_estimate) == text


def test_an_end_that_is_not_zero_never_reads_as_zero() -> None:
    # At the width's own precision the upper end would read 0.0 and the reader would see a tie.
    assert interval(estimate(-0.43, -0.83, -0.03)).endswith("\N{MINUS SIGN}0.03]")


def test_a_change_of_log_perplexity_is_shown_in_percent() -> None:
    log_ratio = estimate(math.log(1.081), math.log(1.02), math.log(1.146))
    assert change(log_ratio) == "+8.1 [+2.0, +14.6] %"
    assert spoken_change(log_ratio).startswith("Gen-PPL 8.1 % higher")


def test_a_change_whose_interval_contains_zero_is_called_not_significant() -> None:
    text = spoken_change(estimate(0.01, -0.02, 0.04))
    assert text.startswith("no significant difference")
    assert "contains 0" in text


def test_a_schedule_against_itself_is_equal_by_construction() -> None:
    assert spoken_change(estimate(0.0, 0.0, 0.0)).startswith("the same texts on these")


def test_zero_carries_no_sign() -> None:
    assert percent(0.0, sign=True) == "0.0 %"
    assert percent(-0.00001, sign=True) == "0.0 %"
    assert percent(0.001, sign=True) == "+0.1 %"


def test_flops_have_a_prefix() -> None:
    assert flops(3.456e8) == "346 MFLOP"
    assert flops(2.5e12) == "2.50 TFLOP"


def test_lists_and_levels_read_as_prose() -> None:
    assert listing(["a", "b", "c"]) == "a, b and c"
    assert listing(["a"]) == "a"
    assert level_range(0.2, 0.4) == "t = 0.20 to 0.40"
    assert level_range(0.2, 0.2) == "t = 0.20"


def test_control_and_direction_characters_become_signs() -> None:
    assert visible("a\x00b\x1b[31m") == "a\u2400b\u241b[31m"
    assert visible("\u202eabc\u2066") == "\N{REPLACEMENT CHARACTER}abc\N{REPLACEMENT CHARACTER}"
    assert visible("\ud800") == "\N{REPLACEMENT CHARACTER}"
    assert visible("a\r\nb\tc") == "a\nb c"


def test_samples_do_not_fill_pages_with_empty_lines() -> None:
    filled = "the movie , but" + "\n" * 90
    assert sample(filled, max_length=4000) == f"the movie , but\n{LINE_END}\u00d790"
    assert sample("a\n\n\nb\n\n", max_length=4000) == "a\n\n\nb"  # documents stay apart
    assert sample("a\n\n\n\n\nb", max_length=4000) == f"a\n{LINE_END}\u00d75\nb"
    assert sample("abcdef", max_length=4) == "abc\N{HORIZONTAL ELLIPSIS}"


@given(st.text(st.characters()))
def test_visible_text_can_always_be_written_and_steers_nothing(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    assert not any(ord(c) < 0x20 and c != "\n" for c in shown)
    assert visible(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('folder = "/home/someone/runs/demo"', 'folder = "\N{HORIZONTAL ELLIPSIS}/demo"'),
        ("/data/models/heavy, 12 blocks", "\N{HORIZONTAL ELLIPSIS}/heavy, 12 blocks"),
        ("C:\\Users\\someone\\heavy", "\N{HORIZONTAL ELLIPSIS}/heavy"),
        ("bundled:heavy models/heavy 3/4 a/b", "bundled:heavy models/heavy 3/4 a/b"),
    ],
)
def test_absolute_paths_are_cut_to_their_last_part(text: str, shown: str) -> None:
    assert without_folders(text) == shown


def test_one_line_is_cut_with_an_ellipsis() -> None:
    assert one_line("x" * 100, max_length=10) == "x" * 9 + "\N{HORIZONTAL ELLIPSIS}"
    assert one_line(" a\n b ") == "a b"

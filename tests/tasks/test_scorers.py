"""How answers are read off texts."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schedlab.errors import InputError
from schedlab.tasks import Item, Task
from schedlab.tasks.task import last_number


def task(*answers: str, **how: str) -> Task:
    return Task("asked", tuple(Item(f"q{n}", answer) for n, answer in enumerate(answers)), **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("She sells 9 * 2 = <<9*2=18>>18 eggs.\n#### 18", "18"),
        ("#### 1,234", "1234"),
        ("#### 1,234,567.50", "1234567.5"),
        ("the answer is -7.", "-7"),
        ("from 5-3", "3"),
        ("it is 5 -3", "-3"),
        ("-0.0", "0"),
        ("#### $1,000.00", "1000"),
        ("it is .5", "0.5"),
        ("3 of 4", "4"),
        ("007", "7"),
        ("1,234, which is all", "1234"),
        ("1000", "1000"),
        ("no digits here", None),
        ("", None),
        ("-", None),
        ("\u0665", None),
        (",", None),
    ],
)
def test_the_last_number_is_read_in_one_spelling(text: str, expected: str | None) -> None:
    assert last_number(text) == expected


@given(st.integers(-(10**45), 10**45))
@example(10**28 + 1)
def test_whole_numbers_of_any_length_are_read_exactly(value: int) -> None:
    assert last_number(f"so it is {value:,}") == str(value) == last_number(f"{value}.000")


@given(st.integers(0, 10**20), st.integers(0, 10**15 - 1))
def test_decimals_differ_exactly_where_their_values_do(whole: int, digits: int) -> None:
    text = f"{whole}.{digits:015d}"
    expected = f"{whole}.{digits:015d}".rstrip("0").rstrip(".")
    assert last_number(text) == last_number(text + "000") == expected


def test_numbers_are_compared_by_value_and_whole_texts_as_they_stand() -> None:
    numbers = task("#### 1,234", "5", scorer="number")
    assert numbers.is_right(0, "it makes 1234.00 dollars") and not numbers.is_right(0, "1235")
    assert not numbers.is_right(0, "1,234 or 5") and numbers.is_right(1, "1,234 or 5")
    assert not numbers.is_right(0, "no number")
    exact = task("1,234", " two words ")
    assert exact.is_right(0, " 1,234\n") and not exact.is_right(0, "1234")
    assert exact.is_right(1, "two words") and not exact.is_right(1, "two  words")


def test_items_are_counted_around() -> None:
    three = task("a", "b", "c")
    assert [three.is_right(number, "b") for number in range(6)] == [False, True, False] * 2


def test_a_pattern_reads_its_first_group_or_the_whole_match_and_the_last_of_them() -> None:
    grouped = task(r"\boxed{7}", scorer="regex", pattern=r"\\boxed\{([^}]*)\}")
    assert grouped.read(r"first \boxed{3}, then \boxed{ 7 }") == "7"
    assert grouped.read("none") is None
    assert grouped.is_right(0, r"\boxed{3} \boxed{7}") and not grouped.is_right(0, "7")
    plain = task("B", scorer="regex", pattern="[A-D]")
    assert plain.read("A or B") == "B" and plain.is_right(0, "A no B")
    optional = task("x1", scorer="regex", pattern=r"x(\d)?")
    assert optional.read("x1 x") is None  # a group that took no part gives no answer


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"scorer": "regex"}, "needs a pattern"),
        ({"scorer": "regex", "pattern": "("}, "not a regular expression"),
        ({"scorer": "regex", "pattern": "z"}, "answer of item 1 cannot be read"),
        ({"scorer": "number"}, "answer of item 1 cannot be read by scorer 'number': 'a'"),
    ],
)
def test_answers_that_cannot_be_read_are_one_line(how: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        task("a", **how)
    assert "\n" not in str(caught.value)


def test_a_task_without_items_is_refused() -> None:
    with pytest.raises(InputError, match="has no items"):
        Task("empty", ())


def test_the_fingerprint_is_of_the_items_asked_and_how_they_are_judged() -> None:
    base = task("1", "2", "3", scorer="number")
    assert base.fingerprint(range(2)) == task("1", "2", "9", scorer="number").fingerprint(range(2))
    changed = [
        task("1", "4", "3", scorer="number"),
        task("1", "2", "3"),
        task("1", "2", "3", scorer="regex", pattern=r"\d"),
        task("1", "2", "3", scorer="regex", pattern=r"\d+"),
        Task("asked", (Item("q0", "1"), Item("other", "2")), "number"),
    ]
    found = {one.fingerprint(range(2)) for one in [base, *changed]}
    assert len(found) == 1 + len(changed)
    assert base.fingerprint(range(3, 5)) == base.fingerprint(range(2))  # counted around

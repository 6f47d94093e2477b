"""Items from files and from code, their tokens, and what is trained on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from schedlab.errors import InputError
from schedlab.plan.task_config import TaskConfig
from schedlab.tasks import Item, TrainingItems, load_task, sudoku
from schedlab.tasks.rows import encode_prompts, encode_rows
from schedlab.text import Tokenizer


@pytest.fixture(scope="module")
def signs() -> Tokenizer:
    return Tokenizer.of_signs("abcdefgh=?0123456789 ")


def write(path: Path, *records: Mapping[str, object]) -> Path:
    text = "\n".join(map(json.dumps, records)) + "\n\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["items.jsonl", "items.jsonl.gz"])
def test_a_line_makes_a_prompt_by_the_template(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, {"q": "2+2", "a": 4, "x": 1}, {"q": "cost of $3", "a": -1.5})
    config = TaskConfig(source=str(file), template="Q: ${q}\nPrice in $$: ", answer="a",
                        scorer="number")  # fmt: skip
    task = load_task(config, 2)
    assert task.items == (
        Item("Q: 2+2\nPrice in $: ", "4"),
        Item("Q: cost of $3\nPrice in $: ", "-1.5"),
    )
    assert task.name == Path(file).stem and task.scorer == "number"
    assert load_task(config, 1).items == task.items[:1]


@pytest.mark.parametrize(
    ("lines", "how", "message"),
    [
        ('{"prompt": "a"}', {}, r":1: has no text or number 'answer'; it has \['prompt'\]"),
        ('{"answer": "a"}', {}, ":1: has no text or number 'prompt'"),
        ('{"prompt": "a", "answer": "b"}\n[1]', {}, r":2: must be an object, got '\[1\]'"),
        ('{"prompt": "a", "answer": "b"}\n\n{"prompt"', {}, ":3: "),
        ('{"prompt": "a", "answer": "b"}', {"template": "$"}, r"task.template '\$'"),
        ('{"prompt": "a", "answer": "b"}', {"template": "$1 off"}, "task.template"),
        ("\n \n", {}, "holds no items"),
        ('{"prompt": "a", "answer": "b"}', {"num": 2}, "holds 1 items, 2 are asked for"),
        ('{"prompt": "a", "answer": "b"}', {"scorer": "number"}, "cannot be read"),
        ('{"prompt": "a", "prompt": "b", "answer": "b"}', {}, ":1: "),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(
    tmp_path: Path, lines: str, how: dict[str, object], message: str
) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text(lines)
    num = int(how.pop("num", 1)) if "num" in how else 1  # type: ignore[call-overload]
    with pytest.raises(InputError, match=message) as caught:
        load_task(TaskConfig(source=str(file), **how), num)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["sudoko", "items.json", "nowhere.jsonl", "items.gz"])
def test_a_source_that_is_no_task_is_one_line(tmp_path: Path, source: str) -> None:
    where = source if source == "sudoko" else str(tmp_path / source)
    with pytest.raises(InputError, match="must be sudoku or a .jsonl file|no such file") as caught:
        load_task(TaskConfig(source=where), 1)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        TrainingItems.of(TaskConfig(source=where))


def test_more_items_keep_the_fewer() -> None:
    many, few = load_task(TaskConfig(), 5), load_task(TaskConfig(), 2)
    assert many.items[:2] == few.items and many.items == sudoku.task(5).items


def test_prompts_are_filled_up_in_front_to_one_length(signs: Tokenizer) -> None:
    items = [Item("abc", "1"), Item("a", "2"), Item("ab", "3")]
    found = encode_prompts(items, signs)
    end = signs.eot_id
    assert found.tokens_NP.tolist() == [[0, 1, 2], [end, end, 0], [end, 0, 1]]
    assert found.padding_N.tolist() == [0, 2, 1]
    assert found.tokens_NP.dtype == found.padding_N.dtype == np.int64
    wider = encode_prompts(items, signs, length=5)
    assert wider.tokens_NP.shape == (3, 5) and wider.padding_N.tolist() == [2, 4, 3]
    assert (wider.tokens_NP[:, 2:] == found.tokens_NP).all()


def test_rows_are_prompt_answer_and_separators(signs: Tokenizer) -> None:
    end = signs.eot_id
    items = [Item("ab", "12"), Item("c", "7")]
    rows = encode_rows(items, signs, prompt=3, length=6)
    one, two, seven = (signs.encode(text)[0] for text in "127")
    assert rows.tolist() == [[end, 0, 1, one, two, end], [end, end, 2, seven, end, end]]
    assert rows.dtype == np.int64
    exact = encode_rows(items, signs, prompt=2, length=4)
    assert exact[0].tolist() == [0, 1, one, two]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Item("", "1"), "prompts must have 1 to 2 tokens, got 0 to 1"),
        (Item("abc", "1"), "prompts must have 1 to 2 tokens, got 1 to 3"),
        (Item("a", "1234"), "an answer has 4 tokens, behind a prompt of 2 there are 3"),
        (Item("aZ", "1"), "no tokens for 'aZ'"),
        (Item("a", "1-"), "no tokens for '1-'"),
        (Item("ä", "1"), "no tokens for"),
    ],
)
def test_items_that_do_not_fit_are_one_line(signs: Tokenizer, item: Item, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        encode_rows([Item("a", "1"), item], signs, prompt=2, length=5, where="task t")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("task t: ")


@pytest.mark.parametrize("num", [2, 7, 20, 21, 45])
def test_an_epoch_of_a_file_visits_every_item_once_and_none_that_validates(
    tmp_path: Path, num: int
) -> None:
    records = [{"prompt": f"q{n}", "answer": f"a{n}"} for n in range(num)]
    items = TrainingItems.of(TaskConfig(source=str(write(tmp_path / "f.jsonl", *records))))
    valid = items.valid(1000)
    size = num - len(valid)
    assert len(valid) == -(-num // 20) and items.valid(1) == valid[:1]
    epochs = [items.train(epoch * size, size, 3) for epoch in range(3)]
    everything = {Item(record["prompt"], record["answer"]) for record in records}
    for epoch in epochs:
        assert len(set(epoch)) == size and set(epoch) == everything - set(valid)
    if size > 5:
        assert epochs[0] != epochs[1] and items.train(0, size, 4) != epochs[0]
    # The line does not depend on how it is cut.
    line = [item for epoch in epochs for item in epoch]
    assert [items.train(first, 1, 3)[0] for first in range(3 * size)] == line


def test_a_file_with_nothing_left_to_train_on_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "one.jsonl", {"prompt": "q", "answer": "a"})
    with pytest.raises(InputError, match=r"one.jsonl: holds 1 item"):
        TrainingItems.of(TaskConfig(source=str(file)))


def test_embedded_items_are_new_at_every_step_and_never_those_of_other_splits() -> None:
    items = TrainingItems.of(TaskConfig())
    first, again = items.train(0, 6, 1), items.train(0, 6, 1)
    later, other = items.train(6, 6, 1), items.train(0, 6, 2)
    assert first == again
    sets = [set(found) for found in (first, later, other, items.valid(6))]
    assert len(set().union(*sets, sudoku.task(6).items)) == 30

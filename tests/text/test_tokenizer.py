"""Every text survives encoding; special tokens cannot be spelled; bad files are one clear line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedlab.errors import InputError
from schedlab.text import Tokenizer

BUNDLED = Tokenizer.load("bundled")


@given(st.text())
def test_round_trip_without_special_tokens(text: str) -> None:
    ids = BUNDLED.encode(text)
    assert BUNDLED.decode(ids) == text
    assert all(0 <= token < BUNDLED.eot_id for token in ids)


@pytest.mark.parametrize("text", ["<|endoftext|>", "<|mask|>", "[MASK]", "</s>"])
def test_text_cannot_spell_special_tokens(text: str) -> None:
    ids = BUNDLED.encode(text)
    assert BUNDLED.decode(ids) == text
    assert not {BUNDLED.eot_id, BUNDLED.mask_id} & set(ids)


def test_bundled_vocabulary() -> None:
    assert BUNDLED.vocab_size == 2048
    assert (BUNDLED.eot_id, BUNDLED.mask_id) == (2046, 2047)
    text = "Return the eigenvalues of a matrix. The array must have two dimensions."
    assert len(BUNDLED.encode(text)) < len(text) / 2.5
    assert BUNDLED.encode_batch([text, "a"]) == [BUNDLED.encode(text), BUNDLED.encode("a")]


def test_decode_shows_separator_and_mask() -> None:
    ids = [*BUNDLED.encode("one"), BUNDLED.eot_id, BUNDLED.mask_id, *BUNDLED.encode(" two")]
    assert BUNDLED.decode(ids) == "one\n\n_ two"


def test_train_save_load(tmp_path) -> None:
    trained = Tokenizer.train(["the cat sat on the mat, the cat"] * 20, 280)
    trained.save(tmp_path / "t.json")
    loaded = Tokenizer.load(tmp_path / "t.json")
    assert loaded.vocab_size == trained.vocab_size <= 280
    assert loaded.mask_id == loaded.vocab_size - 1
    assert loaded.fingerprint == trained.fingerprint != BUNDLED.fingerprint
    assert len(loaded.encode("the cat")) < 7
    assert loaded.decode(loaded.encode("zebra \u00e9 \U0001f600")) == "zebra \u00e9 \U0001f600"


def test_bad_files_are_one_line(tmp_path) -> None:
    cases = {
        "missing.json": None,
        "text.json": "no json",
        "other.json": '{"model": 1}',
        "unigram.json": json.dumps(
            {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}
        ),
    }
    for name, content in cases.items():
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(InputError) as caught:
            Tokenizer.load(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
    with pytest.raises(InputError, match="at least 258"):
        Tokenizer.train(["a"], 100)

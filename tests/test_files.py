"""Strict reading and atomic writing."""

import os

import pytest

from schedlab.errors import InputError
from schedlab.files import canonical_json, parse_json, read_json, read_toml, write_atomic


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    target = tmp_path / "x.json"
    write_atomic(target, "old")

    def broken_replace(*_):
        raise OSError(28, "disk full")

    monkeypatch.setattr(os, "replace", broken_replace)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(target, "new")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    "text", ["{", "[NaN]", "[Infinity]", '{"a":1,"a":2}', "[" * 100_000, "9" * 5000, ""]
)
def test_bad_json_is_one_clear_line(text):
    with pytest.raises(InputError) as caught:
        parse_json(text, where="file.json")
    assert str(caught.value).startswith("file.json: ")
    assert "\n" not in str(caught.value)


def test_missing_oversized_and_non_utf8_files_are_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_json(tmp_path / "none.json")
    (tmp_path / "big.json").write_text("[1, 2, 3]")
    with pytest.raises(InputError, match="more than the 4 allowed"):
        read_json(tmp_path / "big.json", max_bytes=4)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match="UTF-8"):
        read_json(tmp_path / "bytes.json")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(InputError, match="TOML"):
        read_toml(tmp_path / "bad.toml")


def test_canonical_json_does_not_depend_on_key_order():
    assert canonical_json({"b": 1, "a": [1.5, None]}) == canonical_json({"a": [1.5, None], "b": 1})

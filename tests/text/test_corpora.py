"""Sources, splits by content hash, fingerprints, damaged input and caches."""

import gzip
import hashlib
import json
import sys
from dataclasses import replace

import datasets
import pytest

from schedlab.errors import InputError
from schedlab.files import canonical_json
from schedlab.text import Document, build_corpus, corpora, load_corpus, load_documents


def _documents(num: int) -> list[Document]:
    return [
        Document(f"document {i} " + " ".join(f"w{i * 61 + j}" for j in range(60)), "", str(i))
        for i in range(num)
    ]


def _write(path, text: str):
    data = text.encode("utf-8")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_json_lines(tmp_path, suffix: str) -> None:
    rows = [{"text": "one", "label": 3}, {"text": "two\nlines", "other": None}]
    text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    found = list(load_documents(_write(tmp_path / f"a.jsonl{suffix}", text)))
    assert [(d.text, d.label) for d in found] == [("one", "3"), ("two\nlines", "")]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_text_is_cut_at_blank_lines_or_else_at_lines(tmp_path, suffix: str) -> None:
    blank = _write(tmp_path / f"a.txt{suffix}", "one\ntwo\n \n\nthree\r\n")
    assert [d.text for d in load_documents(blank)] == ["one\ntwo", "three"]
    lines = _write(tmp_path / f"b.txt{suffix}", "one\ntwo\nthree\n")
    assert [d.text for d in load_documents(lines)] == ["one", "two", "three"]


def test_splits_follow_from_the_text_alone() -> None:
    few, many = build_corpus("a", _documents(300)), build_corpus("b", _documents(2000)[::-1])
    for name in corpora.SPLITS:
        assert {d.text for d in few.split(name)} <= {d.text for d in many.split(name)}
    assert len(many.train) + len(many.valid) + len(many.test) == 2000
    assert 60 < len(many.valid) < 140
    assert 60 < len(many.test) < 140


def _grouped(documents: list[Document], size: int) -> list[Document]:
    return [replace(d, group=f"group {n // size}") for n, d in enumerate(documents)]


def test_groups_are_read_from_json_lines(tmp_path) -> None:
    rows = [{"text": "one", "group": "a b"}, {"text": "two", "label": "x"}]
    path = _write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert [(d.text, d.label, d.group) for d in load_documents(path)] == [
        ("one", "", "a b"),
        ("two", "x", ""),
    ]


def test_a_group_is_never_split() -> None:
    corpus = build_corpus("a", _grouped(_documents(900), 3))
    groups = [{d.group for d in corpus.split(name)} for name in corpora.SPLITS]
    assert all(groups)
    assert sum(map(len, groups)) == len(set.union(*groups)) == 300


def test_a_group_named_by_a_text_falls_where_the_text_would_alone() -> None:
    first, *others = _documents(300)
    alone = build_corpus("a", [first])
    (name,) = (name for name in corpora.SPLITS if alone.split(name))
    corpus = build_corpus("b", [first, *(replace(d, group=first.text) for d in others)])
    assert len(corpus.split(name)) == 300


def test_near_duplicates_are_removed_from_groups_too() -> None:
    documents = _grouped(_documents(60), 2)
    copies = [replace(d, text=d.text + " indeed", group="others") for d in documents]
    assert build_corpus("a", documents + copies).fingerprint == (
        build_corpus("b", documents).fingerprint
    )


def test_fingerprint_sees_groups_and_without_them_is_what_it_was() -> None:
    documents = _documents(30)
    plain = build_corpus("a", documents)
    digest = hashlib.sha256()
    for name in corpora.SPLITS:
        for d in plain.split(name):
            digest.update(canonical_json([name, d.label, d.text]).encode())
    assert plain.fingerprint == digest.hexdigest()
    # Groups that change no split still change the parts, see `DocumentRows`.
    same = [replace(d, group=d.text) for d in documents]
    assert build_corpus("b", same).fingerprint != plain.fingerprint


@pytest.mark.parametrize("group", [7, None, "", "  ", ["a"]])
def test_a_group_that_is_no_name_is_one_line(tmp_path, group: object) -> None:
    rows = [{"text": "one"}, {"text": "two", "group": group}]
    path = _write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match="a.jsonl:2: 'group' must be a string") as caught:
        load_corpus(path)
    assert "\n" not in str(caught.value)


def test_near_duplicates_are_removed() -> None:
    documents = _documents(100)
    copies = [Document(d.text + " indeed", d.label, d.key + "b") for d in documents]
    assert build_corpus("a", documents + copies).fingerprint == (
        build_corpus("b", documents).fingerprint
    )


def test_fingerprint_sees_text_and_label() -> None:
    documents = _documents(20)
    base = build_corpus("a", documents).fingerprint
    changed = [Document(documents[0].text + " more words here", "", "x"), *documents[1:]]
    labelled = [Document(documents[0].text, "label", "x"), *documents[1:]]
    assert len({base, build_corpus("a", changed).fingerprint}) == 2
    assert build_corpus("a", labelled).fingerprint != base


def test_bad_sources_are_one_line(tmp_path) -> None:
    truncated = tmp_path / "cut.txt.gz"
    truncated.write_bytes(gzip.compress(b"some text " * 1000)[:40])
    cases = {
        "nothing": "embedded",
        str(tmp_path / "missing.txt"): "no such file",
        _write(tmp_path / "empty.txt", " \n \n"): "holds no text",
        _write(tmp_path / "a.jsonl", '{"text": 1}\n'): "string 'text'",
        _write(tmp_path / "b.jsonl", "[1]\n"): "string 'text'",
        _write(tmp_path / "c.jsonl", '{"text": "a", "text": "b"}\n'): "twice",
        str(truncated): "cannot be read",
    }
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 \xff")
    cases[str(tmp_path / "latin.txt")] = "UTF-8"
    (tmp_path / "plain.txt.gz").write_text("not compressed")
    cases[str(tmp_path / "plain.txt.gz")] = "cannot be read"
    for source, expected in cases.items():
        with pytest.raises(InputError, match=expected) as caught:
            load_corpus(source)
        assert "\n" not in str(caught.value)


def test_hugging_face_datasets_are_read_by_their_own_library(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [{"title": "a", "body": "first text"}, {"title": "b", "body": "second text"}]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    configs = "configs:\n- config_name: one\n  data_files:\n  - split: train\n    path: rows.jsonl"
    (folder / "README.md").write_text(f"---\n{configs}\n---\n")
    found = list(load_documents(f"hf:{folder}:one:train:body"))
    assert [d.text for d in found] == ["first text", "second text"]
    assert [d.text for d in load_documents(f"hf:{folder}:train:title")] == ["a", "b"]
    assert [d.text for d in load_documents(f"hf:{folder}:one:train[1:2]:body")] == ["second text"]
    with pytest.raises(InputError, match="no field 'text'; fields: title, body"):
        load_corpus(f"hf:{folder}:train:text")
    with pytest.raises(InputError, match="cannot be loaded: .*absent") as caught:
        load_corpus(f"hf:{tmp_path}/absent:train:text")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="must read"):
        load_corpus("hf:name:train")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"install schedlab\[hf\]"):
        load_corpus("hf:some/name:train:text")


def test_embedded_cache_is_used_and_damage_is_noticed(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SCHEDLAB_CACHE", str(tmp_path))
    calls = []

    def documents():
        calls.append(1)
        return _documents(50)

    monkeypatch.setattr(corpora.docstrings, "embedded_documents", documents)
    first, second = load_corpus("embedded"), load_corpus("embedded")
    assert first == second
    assert len(calls) == 1
    (cache,) = tmp_path.glob("corpus-*.jsonl.gz")
    lines = gzip.decompress(cache.read_bytes()).decode().splitlines()
    for damaged in (
        gzip.compress("\n".join(lines[:-1]).encode()),  # a document is lost
        gzip.compress(b"[]\n"),
        cache.read_bytes()[:60],
        b"",
    ):
        cache.write_bytes(damaged)
        assert load_corpus("embedded") == first
    assert len(calls) == 5


def test_unwritable_cache_costs_time_only(tmp_path, monkeypatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("SCHEDLAB_CACHE", str(blocked / "below"))
    monkeypatch.setattr(corpora.docstrings, "embedded_documents", lambda: _documents(30))
    assert load_corpus("embedded").fingerprint == load_corpus("embedded").fingerprint

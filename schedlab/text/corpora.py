"""Corpora: documents from a source, without near-duplicates, split by content hash.

Sources: "embedded" (no download, see `docstrings`), a text or JSON-lines file (gzip or not), or a
Hugging Face data set. A document's split follows from its own text, or from its group where it has
one, so a corpus that grows never moves a text from one split to another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from schedlab.errors import InputError
from schedlab.files import canonical_json, parse_json, sha256_text, write_atomic
from schedlab.text import docstrings
from schedlab.text.documents import Document
from schedlab.text.near_duplicates import near_duplicate_clusters

SPLITS = ("train", "valid", "test")
# Of 1,000 hash buckets, how many go to valid and to test.
_HELD_OUT_BUCKETS = 50


@dataclass(frozen=True)
class Corpus:
    """Documents in three disjoint splits.

    Attributes:
        source: what it was loaded from.
        train, valid, test: the documents, in the order of the source.
        fingerprint: SHA-256 over all labels, texts and groups with their split.
    """

    source: str
    train: tuple[Document, ...]
    valid: tuple[Document, ...]
    test: tuple[Document, ...]
    fingerprint: str

    def split(self, name: str) -> tuple[Document, ...]:
        """The documents of "train", "valid" or "test"."""
        if name not in SPLITS:
            raise InputError(f"split must be one of {', '.join(SPLITS)}, got {name!r}")
        documents: tuple[Document, ...] = getattr(self, name)
        return documents


def load_corpus(source: str = "embedded") -> Corpus:
    """Load a source, drop near-duplicates, split by content hash.

    The embedded corpus is cached in `cache_folder()`; the cache may be deleted at any time.

    Raises:
        InputError: the source is unknown, missing, empty or not text.
    """
    if source != "embedded":
        return build_corpus(source, load_documents(source))
    recipe = [docstrings.RECIPE_VERSION, docstrings.package_versions()]
    cache = cache_folder() / f"corpus-{sha256_text(canonical_json(recipe))[:16]}.jsonl.gz"
    corpus = _read_cache(cache, source)
    if corpus is None:
        corpus = build_corpus(source, load_documents(source))
        _write_cache(cache, corpus)
    return corpus


def load_documents(source: str) -> Iterable[Document]:
    """Documents of a source, as they are.

    Args:
        source: "embedded"; a path ending in .txt or .jsonl, or either with .gz; or
            "hf:name[:config]:split:field" (needs the `hf` extra). Text files hold documents apart
            by blank lines, or one a line where no line is blank. JSON lines hold the text in
            `text` and may hold a `label` and a `group`.
    """
    if source == "embedded":
        return docstrings.embedded_documents()
    if source.startswith("hf:"):
        return _hugging_face_documents(source)
    name = source.removesuffix(".gz")
    if name.endswith(".jsonl"):
        return _json_lines_documents(source)
    if name.endswith(".txt"):
        return _text_documents(source)
    raise InputError(
        f"corpus {source!r}: must be 'embedded', a .txt or .jsonl file (also .gz), or 'hf:...'"
    )


def build_corpus(source: str, documents: Iterable[Document]) -> Corpus:
    """Keep one document of each near-duplicate cluster and split by hash of content or group."""
    found = [document for document in documents if document.text.strip()]
    if not found:
        raise InputError(f"corpus {source!r}: holds no text")
    seen: set[int] = set()
    splits: dict[str, list[Document]] = {name: [] for name in SPLITS}
    clusters = near_duplicate_clusters([document.text for document in found])
    for document, cluster in zip(found, clusters.tolist(), strict=True):
        if cluster not in seen:
            seen.add(cluster)
            splits[split_of(document.unit)].append(document)
    return _corpus(source, splits)


def cache_folder() -> Path:
    """Where derived data is kept: $SCHEDLAB_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("SCHEDLAB_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "schedlab"


def _corpus(source: str, splits: dict[str, list[Document]]) -> Corpus:
    digest = hashlib.sha256()
    for name in SPLITS:
        for document in splits[name]:
            facts = [name, document.label, document.text]
            if document.group:  # without groups the fingerprint is what it has always been
                facts.append(document.group)
            digest.update(canonical_json(facts).encode())
    train, valid, test = (tuple(splits[name]) for name in SPLITS)
    return Corpus(source, train, valid, test, digest.hexdigest())


def split_of(text: str) -> str:
    """The split that a text, or a group, falls into."""
    bucket = int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") % 1000
    if bucket < _HELD_OUT_BUCKETS:
        return "valid"
    return "test" if bucket < 2 * _HELD_OUT_BUCKETS else "train"


def lines(path: str) -> Iterator[str]:
    """Lines of a text file, gzip or not, without their ends."""
    file = Path(path)
    if not file.is_file():
        raise InputError(f"corpus {path!r}: no such file")
    opener = gzip.open if path.endswith(".gz") else open
    try:
        with opener(file, "rt", encoding="utf-8") as stream:
            for line in stream:
                yield line.rstrip("\n")
    except UnicodeDecodeError:
        raise InputError(f"corpus {path!r}: not UTF-8 text") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"corpus {path!r}: cannot be read: {error}") from None


def _json_lines_documents(path: str) -> Iterator[Document]:
    for number, line in enumerate(lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        record = parse_json(line, where=where)
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise InputError(f"{where}: must be an object with a string 'text'")
        group = record.get("group", "")
        if "group" in record and not (isinstance(group, str) and group.strip()):
            raise InputError(f"{where}: 'group' must be a string that is not empty, got {group!r}")
        yield Document(record["text"], str(record.get("label", "")), where, group)


def _text_documents(path: str) -> Iterator[Document]:
    text = "\n".join(lines(path)).strip()
    by_blank_lines = re.search(r"\n\s*\n", text) is not None
    pieces = re.split(r"\n\s*\n", text) if by_blank_lines else text.split("\n")
    for number, piece in enumerate(pieces, start=1):
        if piece.strip():
            yield Document(piece.strip(), "", f"{path}:{number}")


def _hugging_face_documents(source: str) -> Iterator[Document]:
    parts = re.split(r":(?![^\[]*\])", source)[1:]  # a split may be sliced: train[:100]
    if len(parts) not in (3, 4) or not all(parts):
        raise InputError(f"corpus {source!r}: must read 'hf:name[:config]:split:field'")
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"corpus {source!r}: needs the 'datasets' package; install schedlab[hf]"
        ) from None
    *name, split, field = parts
    try:
        rows = datasets.load_dataset(*name, split=split)
    except Exception as error:  # download, name and configuration problems have no common class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"corpus {source!r}: cannot be loaded: {reason}") from None
    if field not in rows.column_names:
        known = ", ".join(rows.column_names)
        raise InputError(f"corpus {source!r}: has no field {field!r}; fields: {known}")
    for number, text in enumerate(rows[field]):
        yield Document(str(text), "", f"{source}:{number}")


def _read_cache(path: Path, source: str) -> Corpus | None:
    """The cached corpus, None where there is none or it is damaged."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            fingerprint = json.loads(next(stream))["fingerprint"]
            splits: dict[str, list[Document]] = {name: [] for name in SPLITS}
            for line in stream:
                record = json.loads(line)
                splits[record.pop("split")].append(Document(**record))
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, StopIteration):
        return None
    corpus = _corpus(source, splits)
    return corpus if corpus.fingerprint == fingerprint else None


def _write_cache(path: Path, corpus: Corpus) -> None:
    rows = [json.dumps({"fingerprint": corpus.fingerprint})]
    for name in SPLITS:
        for document in corpus.split(name):
            rows.append(json.dumps({"split": name, **dataclasses.asdict(document)}))
    data = gzip.compress("\n".join(rows).encode("utf-8"), compresslevel=3, mtime=0)
    with contextlib.suppress(OSError):  # a read-only home folder costs time, not function
        write_atomic(path, data)

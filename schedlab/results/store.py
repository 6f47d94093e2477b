"""The store of evaluations: content-addressed files `<folder>/evals/<key>.json`.

The files are the truth; any index is rebuilt from them. A file is written whole or not at all
(temporary file, fsync, rename), so a killed process loses no finished record. What is damaged from
outside (a copy that was cut, a bad disk) is moved aside with a warning and counts as not there.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from schedlab.errors import InputError, SchedlabError, SchedlabWarning
from schedlab.files import canonical_json, parse_json, sha256_text, validate, write_atomic
from schedlab.results.record import BlockRecord

_NAME = re.compile(r"([0-9a-f]{64})\.json")


class Store:
    """Finished evaluations under a folder, by key.

    Several processes may read at once. Two processes that write the same key write the same
    tokens, so the later rename is harmless.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder) / "evals"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.folder}: cannot hold the store: {error.strerror}; choose another folder"
            ) from None

    def path(self, key: str) -> Path:
        """The file of a key."""
        return self.folder / f"{key}.json"

    def get(self, key: str) -> BlockRecord | None:
        """The record of `key`, or None; a damaged file is moved aside with a warning."""
        path = self.path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:  # the file may be whole: leave it where it is
            raise SchedlabError(f"{path}: cannot be read: {error.strerror}") from error
        try:
            return _parse(content, key, where=str(path))
        except InputError as error:
            aside = _free_name(path)
            try:
                if path.read_bytes() != content:  # another process repaired it meanwhile
                    return self.get(key)
                os.replace(path, aside)
            except FileNotFoundError:  # another process moved it aside
                return None
            warnings.warn(
                f"{error}; moved aside to {aside.name}, it will be evaluated again",
                SchedlabWarning,
                stacklevel=2,
            )
            return None

    def put(self, record: BlockRecord) -> None:
        """Write a record durably; returns once it would survive a power cut."""
        content = record.model_dump(mode="json")
        document = {"sha256": sha256_text(canonical_json(content)), "record": content}
        try:
            write_atomic(self.path(record.key), json.dumps(document, allow_nan=False))
        except OSError as error:
            raise SchedlabError(
                f"{self.path(record.key)}: cannot be written: {error.strerror}; "
                "finished evaluations are kept, resume when there is space"
            ) from error

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def keys(self) -> Iterator[str]:
        """Keys of all records, unordered; damaged ones are included until they are read."""
        for entry in os.scandir(self.folder):
            if match := _NAME.fullmatch(entry.name):
                yield match[1]

    def __len__(self) -> int:
        return sum(1 for _ in self.keys())


def _parse(content: bytes, key: str, *, where: str) -> BlockRecord:
    """The record in a file's content, if that is intact and belongs to `key`."""
    try:
        document = parse_json(content.decode("utf-8"), where=where)
    except UnicodeDecodeError:
        raise InputError(f"{where}: not UTF-8 text") from None
    if not isinstance(document, dict) or set(document) != {"sha256", "record"}:
        raise InputError(f"{where}: not a stored evaluation")
    if document["sha256"] != sha256_text(canonical_json(document["record"])):
        raise InputError(f"{where}: its content does not match its checksum")
    record = validate(BlockRecord, document["record"], where=where)
    if record.key != key:
        raise InputError(f"{where}: holds the evaluation {record.key}, not the one of its name")
    return record


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_suffix(f".damaged-{number}")).exists():
        number += 1
    return aside

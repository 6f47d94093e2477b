"""Reading untrusted JSON and TOML strictly, and writing files so that a crash never leaves half of
one.

Every file format of schedlab is a `Record` (a strict pydantic model). Nothing here executes code
from a file, and every problem with a file's content is one `InputError` line naming the place.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import tempfile
import tomllib
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

import pydantic

from schedlab.errors import InputError

MAX_JSON_BYTES = 64 << 20
_TYPE_NAME = re.compile(r"(constrained-)?(int|float|str|bool|list)$|(literal|list)\[")


class Record(pydantic.BaseModel):
    """Base of every file format: immutable, strict types, no unknown keys, no NaN or infinity."""

    model_config = pydantic.ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants"
    )


class FileRecord(Record):
    """A record that is a whole file: its `format` and `version` fields say of which kind.

    Both are `Literal` fields with a default; the checks below read them from the class.
    """

    @classmethod
    def from_json(cls, data: Any, *, where: str = "file") -> Self:
        """Build from JSON data; a file of another format or a newer version is refused by name.

        Raises:
            InputError: whatever is wrong, in one line.
        """
        name, known = (cls.model_fields[field].default for field in ("format", "version"))
        if not isinstance(data, dict) or data.get("format") != name:
            raise InputError(f'{where}: not a {name} file; it must hold "format": "{name}"')
        version = data.get("version", known)
        if isinstance(version, bool) or not isinstance(version, int):
            raise InputError(f"{where}: version must be a whole number, got {_short(version)}")
        if version > known:
            raise InputError(
                f"{where}: version {version} is newer than the {known} known here;"
                " upgrade schedlab"
            )
        return validate(cls, data, where=where)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file; see `from_json`."""
        return cls.from_json(read_json(path), where=str(path))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file atomically."""
        write_atomic(path, self.model_dump_json(indent=1) + "\n")


RecordT = TypeVar("RecordT", bound=pydantic.BaseModel)


def write_atomic(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Write `data` to `path` so that the file is either the old one or the whole new one.

    Temporary file in the same folder, fsync, rename, fsync of the folder. Missing parents are
    made. An `OSError` names `path`.
    """
    target = Path(path)
    payload = data.encode("utf-8") if isinstance(data, str) else data
    try:
        _write_whole(target, payload)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error


def _write_whole(target: Path, payload: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; a no-op where folders cannot be opened (Windows)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def parse_json(text: str, *, where: str) -> Any:
    """Parse JSON strictly: NaN, infinities and duplicate keys are refused.

    Args:
        text: the document.
        where: what to call it in error messages (usually the file name).
    """

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise InputError(f"{where}: key {key!r} appears twice in one object; keep one")
            seen[key] = value
        return seen

    def no_constant(name: str) -> NoReturn:
        raise InputError(f"{where}: numbers must be finite, got {name}; remove it")

    try:
        return json.loads(text, object_pairs_hook=unique_keys, parse_constant=no_constant)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    except RecursionError:
        raise InputError(f"{where}: nested too deeply to be one of schedlab's files") from None
    except InputError:
        raise
    except ValueError as error:  # integers of thousands of digits
        raise InputError(f"{where}: not valid JSON: {error}") from None


def read_text(path: str | os.PathLike[str], *, max_bytes: int = MAX_JSON_BYTES) -> str:
    """Read a UTF-8 text file of at most `max_bytes` bytes."""
    file = Path(path)
    try:
        if not file.is_file():
            problem = "is a folder, not a file" if file.is_dir() else "no such file"
            raise InputError(f"{file}: {problem}")
        size = file.stat().st_size
        if size > max_bytes:
            raise InputError(f"{file}: {size} bytes, more than the {max_bytes} allowed here")
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{file}: not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None


def read_json(path: str | os.PathLike[str], *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file strictly (see `parse_json`)."""
    return parse_json(read_text(path, max_bytes=max_bytes), where=str(path))


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a TOML file; a syntax error is one line with its place."""
    try:
        return tomllib.loads(read_text(path, max_bytes=1 << 20))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply to be one of schedlab's files") from None


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value that digests are taken of (sorted keys, no blanks)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_text(text: str) -> str:
    """Hex SHA-256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def validate(model: type[RecordT], data: Any, *, where: str) -> RecordT:
    """Build `model` from parsed JSON or TOML; the first problem becomes one `InputError` line.

    Lists become tuples where the model wants tuples, as JSON and TOML have no tuples.
    """
    try:
        return model.model_validate_json(json.dumps(data, default=_refuse_dates))
    except pydantic.ValidationError as error:
        raise InputError(f"{where}: {_first_problem(model, error)}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: not one of schedlab's files: {error}") from None


def _refuse_dates(value: Any) -> NoReturn:
    """What TOML has and JSON has not."""
    raise ValueError(
        f"holds a date or time, {value}, where none belongs; write a string or number"
    )


def _first_problem(model: type[pydantic.BaseModel], error: pydantic.ValidationError) -> str:
    problems = error.errors(include_url=False)
    # A misspelt key shows up as one unknown and one missing key: name the unknown one.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    # Where several types are allowed, the last part names the one that was tried last.
    location = [part for part in problem["loc"] if not _TYPE_NAME.match(str(part))]
    place = ".".join(map(_one_word, location))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, problem["loc"][:-1])
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        return f"unknown key {place!r}; {hint}{more}"
    if problem["type"] == "missing":
        return f"key {place!r} is missing; add it{more}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] != "value_error":  # schedlab's own messages hold the value already
        message = f"{message}, got {_short(problem.get('input'))}"
    return f"{place}: {message}{more}" if place else f"{message}{more}"


def _fields_at(model: type[pydantic.BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names of the (possibly nested) model at `location`, best effort."""
    current: Any = model
    for part in location:
        field = getattr(current, "model_fields", {}).get(part)
        current = _record_in(field.annotation) if field else current
    return sorted(getattr(current, "model_fields", {}))


def _record_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _record_in(argument)
        if found is not None:
            return found
    return None


def _one_word(part: int | str) -> str:
    """A key as it may stand in a line: keys of foreign files can hold line ends."""
    text = str(part)
    return text if text.isprintable() else ascii(text)[1:-1]


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."

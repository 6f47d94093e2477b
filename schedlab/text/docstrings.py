"""The embedded default corpus: English documentation found in installed Python packages.

Source files are read as text and parsed with `ast`; nothing is imported or executed. The list of
packages is fixed, the text follows the installed versions, so everything that uses the corpus
prints its fingerprint. What is kept is prose: headings, parameter descriptions and paragraphs;
doctest sessions, tables, formulas and literature lists are dropped and wrapped lines are joined.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import inspect
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

import joblib

from schedlab.text.documents import Document

# Dependencies of schedlab, and the packages that they always bring along.
PACKAGES = (
    "joblib",
    "matplotlib",
    "networkx",
    "numpy",
    "optuna",
    "pandas",
    "scipy",
    "sqlalchemy",
    "sympy",
    "torch",
)
STANDARD_LIBRARY = "python"
MIN_CHARACTERS = 300

# Raised whenever the extraction below changes what it yields (part of the cache key).
RECIPE_VERSION = 1

_SKIPPED_FOLDERS = frozenset(
    "tests test testing _tests idlelib lib2to3 site-packages dist-packages __pycache__ "
    "externals _vendor node_modules".split()
)
# Calls that attach documentation to objects written in C.
_DOCUMENTING_CALLS = frozenset(("add_newdoc", "add_docstr"))
# Literature lists, and sessions with the sentences between their lines.
_SKIPPED_SECTIONS = frozenset(("References", "Examples", "Example", "See Also"))
_UNDERLINE = re.compile(r"^\s*([-=~^*#+\"'`.])\1{2,}\s*$")
_LIST_ITEM = re.compile(r"^([-*+]|\d+[.)])\s+")
_DIRECTIVE = re.compile(r"^\.\.\s*[\w|\[]")
_ROLE = re.compile(r":[a-zA-Z][\w:+-]*:`([^`]*)`")
_ROLE_TITLE = re.compile(r"^(.+?)\s*<[^<>]*>$")
_EMPHASIS = re.compile(r"(?<![\w*])\*(\w[^*]*)\*(?![\w*])")


def package_versions() -> dict[str, str]:
    """Version of every package that the corpus is read from, "absent" where one is missing."""
    versions = {STANDARD_LIBRARY: platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return versions


def embedded_documents(*, num_jobs: int = -1) -> list[Document]:
    """Read every documentation string of the fixed package list, in a fixed order.

    Args:
        num_jobs: processes that parse source files, as in joblib (-1: all cores).

    Returns:
        Cleaned documents of at least `MIN_CHARACTERS` characters, labelled with their package.
    """
    files = [file for root in _roots() for file in root]
    chunks = [files[start : start + 100] for start in range(0, len(files), 100)]
    parallel = joblib.Parallel(n_jobs=num_jobs)
    found = parallel(joblib.delayed(_documents_of_files)(chunk) for chunk in chunks)
    return [document for documents in found for document in documents]


def _roots() -> Iterator[list[tuple[str, str, Path]]]:
    """(label, path relative to the root, file) of every source file, package by package."""
    standard_library = Path(sysconfig.get_paths()["stdlib"])
    yield _source_files(STANDARD_LIBRARY, standard_library, standard_library)
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)  # finds a top-level package without importing it
        if spec is not None and spec.origin is not None:
            folder = Path(spec.origin).parent
            yield _source_files(package, folder, folder.parent)


def _source_files(label: str, folder: Path, base: Path) -> list[tuple[str, str, Path]]:
    found = []
    for file in folder.rglob("*.py"):
        relative = file.relative_to(folder)
        if not _SKIPPED_FOLDERS.intersection(relative.parts[:-1]):
            found.append((label, file.relative_to(base).as_posix(), file))
    return sorted(found)


def _documents_of_files(files: list[tuple[str, str, Path]]) -> list[Document]:
    documents = []
    for label, name, file in files:
        for key, raw in _texts_of_file(file, name):
            text = clean(raw)
            if len(text) >= MIN_CHARACTERS:
                documents.append(Document(text=text, label=label, key=key))
    return documents


def _texts_of_file(file: Path, name: str) -> Iterator[tuple[str, str]]:
    """(key, raw text) of the documentation in one source file."""
    try:
        source = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    is_topics = name == "pydoc_data/topics.py"
    if not is_topics and '"""' not in source and "'''" not in source:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's files
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    yield from _topics(tree, name) if is_topics else _docstrings(tree, name)


def _topics(tree: ast.Module, name: str) -> Iterator[tuple[str, str]]:
    """The texts behind `help("topic")`: one dictionary literal of strings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                try:
                    topic, text = ast.literal_eval(key), ast.literal_eval(value)  # type: ignore[arg-type]
                except (ValueError, TypeError):
                    continue
                yield f"{name}:{topic}", text


def _docstrings(tree: ast.Module, name: str) -> Iterator[tuple[str, str]]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented):
            text = ast.get_docstring(node, clean=False)
            if text and len(text) >= MIN_CHARACTERS:
                line = getattr(node, "lineno", 0)
                yield f"{name}:{line}:{getattr(node, 'name', '')}", text
        elif isinstance(node, ast.Call) and _called_name(node) in _DOCUMENTING_CALLS:
            yield from _string_arguments(node, name)


def _called_name(node: ast.Call) -> str:
    if isinstance(node.func, ast.Name):
        return node.func.id
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def _string_arguments(node: ast.Call, name: str) -> Iterator[tuple[str, str]]:
    for argument in node.args:
        for part in ast.walk(argument):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                if len(part.value) >= MIN_CHARACTERS:
                    yield f"{name}:{part.lineno}:", part.value


def clean(raw: str) -> str:
    """Turn a documentation string into readable plain prose.

    Paragraphs of code, tables and formulas are dropped, wrapped lines joined, reStructuredText
    marks removed; headings, list items and parameter descriptions keep lines of their own.
    """
    kept: list[str] = []
    code_indent: int | None = None  # inside a literal block opened by "::" or by a directive
    skipped_section = False
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(raw)):
        lines = [line.rstrip() for line in paragraph.splitlines() if line.strip()]
        if not lines:
            continue
        if len(lines) > 1 and _UNDERLINE.match(lines[1]):
            skipped_section = lines[0].strip() in _SKIPPED_SECTIONS
        if skipped_section or (code_indent is not None and _indent(lines[0]) > code_indent):
            continue
        code_indent = None
        if lines[-1].endswith("::"):
            code_indent = _indent(lines[-1])
        elif _DIRECTIVE.match(lines[0].strip()):
            code_indent = _indent(lines[0])
        if text := _plain(lines):
            kept.append(text)
    return "\n".join(_without_last_heading(kept))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _plain(lines: list[str]) -> str:
    """One paragraph as plain lines, "" when it is no prose."""
    if any(_is_code(line) for line in lines):
        return ""
    joined: list[str] = []
    previous_indent: int | None = None
    for line in lines:
        if _UNDERLINE.match(line):
            previous_indent = None  # the line above was a heading: start a new line
            continue
        indent, words = _indent(line), " ".join(line.split())
        if _LIST_ITEM.match(words):
            joined.append(words)
            previous_indent = indent + 2  # where the wrapped text of an item stands
        elif indent == previous_indent and joined:
            joined[-1] += f" {words}"
        else:
            joined.append(words)
            previous_indent = indent
    return "\n".join(filter(_is_prose, (_without_markup(line) for line in joined)))


def _is_code(line: str) -> bool:
    words = line.strip()
    return (
        words.startswith((">>>", "In [", "$ ", "#!", "+--", "+==", "|", "@", ".. [", "import "))
        or "====  " in words
        or "---  ---" in words
    )


def _without_markup(line: str) -> str:
    line = _ROLE.sub(lambda match: _role_text(match.group(1)), line)
    line = _EMPHASIS.sub(r"\1", line)
    return line.replace("``", "").replace("**", "").replace("`", "").removesuffix(":")


def _role_text(target: str) -> str:
    """What a reader sees of a cross-reference: its title, or the name without its module."""
    titled = _ROLE_TITLE.match(target)
    if titled:
        return titled.group(1)
    return target.rsplit(".", 1)[-1] if target.startswith("~") else target.lstrip("!.")


def _is_prose(line: str) -> bool:
    """Mostly letters, in ASCII, and no directive or formula."""
    if _DIRECTIVE.match(line) or line.startswith((":", "..")) or "\\" in line or "$" in line:
        return False
    letters = sum(character.isalpha() or character == " " for character in line)
    return line.isascii() and letters >= 0.8 * len(line)


def _without_last_heading(paragraphs: list[str]) -> list[str]:
    """Drop a last one-word paragraph: the heading of something that was not prose."""
    while paragraphs and len(paragraphs[-1].split()) < 3:
        paragraphs = paragraphs[:-1]
    return paragraphs

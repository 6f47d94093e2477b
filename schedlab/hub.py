"""Models and tokenizers by their name on the Hugging Face hub: `hf:OWNER/NAME[@REVISION]`.

Configuration, safetensors and tokenizer are fetched into the hub's own cache, code never is. With
HF_HUB_OFFLINE=1 only the cache is asked.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from schedlab.errors import InputError

PREFIX = "hf:"
MODEL_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json")
TOKENIZER_FILES = ("tokenizer.json",)


def local(location: str, *, files: Sequence[str] = MODEL_FILES) -> str:
    """The folder of a hub name in the cache, fetched where it is not there; what follows a `#` is
    kept. Any other location as it is.

    Raises:
        InputError: the name, the revision or the hub is not there, or the extra `hf` is missing.
    """
    if not location.startswith(PREFIX):
        return location
    name, marked, rest = location.partition("#")
    return _snapshot(name, tuple(files)) + marked + rest


def pinned(location: str, *, files: Sequence[str] = MODEL_FILES) -> str:
    """A hub name with the commit that it stands for; any other location as it is."""
    if not location.startswith(PREFIX):
        return location
    name, marked, rest = location.partition("#")
    commit = Path(_snapshot(name, tuple(files))).name  # the cache's folders are named by commit
    return f"{name.partition('@')[0]}@{commit}{marked}{rest}"


@functools.cache
def _snapshot(name: str, files: tuple[str, ...]) -> str:
    try:
        import huggingface_hub  # the extra `hf`: not everyone has it
    except ImportError:
        raise InputError(
            f"{name} needs the package huggingface_hub; install it with: pip install"
            " 'schedlab[hf]'"
        ) from None
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    try:
        return huggingface_hub.snapshot_download(
            repository, revision=revision or None, allow_patterns=list(files)
        )
    except Exception as error:  # network, name and cache problems have no common class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name} cannot be fetched: {reason[:300]}") from None

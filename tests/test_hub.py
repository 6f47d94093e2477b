"""Hub names against the hub's own cache: without a network, as with HF_HUB_OFFLINE=1."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

from schedlab import hub
from schedlab.denoisers import loading
from schedlab.denoisers.describe import describe
from schedlab.errors import InputError
from schedlab.text import Tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, golden: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds `someone/mdlm`, laid out as the hub's client does."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    place = tmp_path / "models--someone--mdlm"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    shutil.copytree(golden / "mdlm", place / "snapshots" / COMMIT)
    hub._snapshot.cache_clear()
    return place / "snapshots" / COMMIT


def test_a_hub_name_is_a_location(cache: Path, golden: Path) -> None:
    expected = loading.load(golden / "mdlm").fingerprint
    for name in ("hf:someone/mdlm", "hf:someone/mdlm@main", f"hf:someone/mdlm@{COMMIT}"):
        assert loading.load(name).fingerprint == expected
    assert loading.load("hf:someone/mdlm#blocks=0").spec.num_blocks == 1
    assert loading.published("hf:someone/mdlm#blocks=0")[1].name == "mdlm"


def test_what_is_written_down_names_the_commit(cache: Path) -> None:
    assert hub.pinned("hf:someone/mdlm") == f"hf:someone/mdlm@{COMMIT}"
    assert hub.pinned("hf:someone/mdlm@main#blocks=0") == f"hf:someone/mdlm@{COMMIT}#blocks=0"
    assert hub.pinned("models/mine") == "models/mine"
    assert describe("hf:someone/mdlm").location == f"hf:someone/mdlm@{COMMIT}"


def test_a_tokenizer_too(cache: Path) -> None:
    Tokenizer.train(["some words"], 260).save(cache / "tokenizer.json")
    assert Tokenizer.for_model("hf:someone/mdlm", 260, 259).vocab_size == 260


@pytest.mark.parametrize(
    "name", ["hf:someone/else", "hf:someone/mdlm@v2", "hf:not a name", "hf:", "hf:a/b/c"]
)
def test_what_is_not_there_is_one_line(cache: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be fetched") as caught:
        loading.load(name)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_without_the_extra_it_says_what_to_install(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'schedlab\[hf\]'"):
        loading.load("hf:someone/mdlm")

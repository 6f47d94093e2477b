"""Tokenizers with a document separator and a mask token: ours, and those of published models.

Ours are byte-level BPE with both as the last ids: any text can be encoded and comes back
unchanged. Published ones are what they are. In both the special tokens have no spelling that text
could contain by accident: `encode` never produces them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from schedlab import hub
from schedlab.errors import InputError
from schedlab.files import canonical_json, read_text, sha256_text, write_atomic

SEPARATOR = "<|endoftext|>"
MASK = "<|mask|>"
_PUBLISHED_ENDS = ("<|endoftext|>", "</s>", "[SEP]")  # the first that a tokenizer has
_DATA = Path(__file__).resolve().parent.parent / "data"
BUNDLED = _DATA / "tokenizer.json"


class Tokenizer:
    """A vocabulary: text to token ids and back.

    Attributes:
        vocab_size: number of ids, the mask token included.
        mask_id: id of the mask token; in ours `vocab_size - 1`.
        eot_id: id of the document separator.
        fingerprint: SHA-256 of the vocabulary and its rules.
    """

    vocab_size: int
    mask_id: int
    eot_id: int
    fingerprint: str

    def __init__(self, core: tokenizers.Tokenizer, *, where: str = "tokenizer") -> None:
        self._core = core
        # Special tokens are known to this class only, so that text cannot spell them.
        self.vocab_size = core.get_vocab_size(with_added_tokens=False) + 2
        self.eot_id = self.vocab_size - 2
        self.mask_id = self.vocab_size - 1
        vocabulary = core.get_vocab(with_added_tokens=False)
        if sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise InputError(f"{where}: token ids must be 0, 1, 2, ... without gaps")
        self.fingerprint = sha256_text(canonical_json(json.loads(core.to_str())))

    @classmethod
    def published(cls, path: str | Path, vocab_size: int, mask_id: int | None) -> Tokenizer:
        """A published `tokenizer.json`, as a model of that vocabulary uses it.

        Models may have more rows than the tokenizer has tokens; such ids are no text. Models of
        processes without a mask have no `mask_id`: the tokenizer's is then -1, no token at all.

        Raises:
            InputError: the file is missing or no tokenizer, has more tokens than the model, or no
                token that ends a document.
        """
        core = _core(str(path))
        size = core.get_vocab_size(with_added_tokens=True)
        if size > vocab_size:
            raise InputError(f"{path}: has {size} tokens, the model has {vocab_size}")
        ends = [core.token_to_id(name) for name in _PUBLISHED_ENDS]
        eot_id = next((token for token in ends if token is not None), None)
        if eot_id is None:
            raise InputError(f"{path}: has none of the tokens {', '.join(_PUBLISHED_ENDS)}")
        core.encode_special_tokens = True  # text that spells a special token stays text
        found = cls.__new__(cls)
        found._core, found.vocab_size = core, vocab_size
        found.mask_id = -1 if mask_id is None else mask_id
        found.eot_id = eot_id
        sizes = f"{vocab_size} {mask_id} {eot_id}"
        found.fingerprint = sha256_text(canonical_json(json.loads(core.to_str())) + sizes)
        return found

    @classmethod
    def for_model(cls, location: str | Path, vocab_size: int, mask_id: int | None) -> Tokenizer:
        """The tokenizer at a location as a model needs it: one of ours, or a published one, which
        has special tokens (`tokenizer.json`, a folder with one, or `hf:OWNER/NAME[@REVISION]`).

        Raises:
            InputError: see `load` and `published`.
        """
        if str(location).partition(":")[0] == "bundled":
            return cls.load(location)
        path = Path(hub.local(str(location), files=hub.TOKENIZER_FILES))
        if path.is_dir():
            path = path / "tokenizer.json"
        if not path.is_file():
            return cls.load(path)
        core = _core(str(path))
        if not core.get_added_tokens_decoder():  # ours add none; GPT-2's is in its vocabulary too
            return cls.load(path)
        return cls.published(path, vocab_size, mask_id)

    @classmethod
    def load(cls, location: str | Path = "bundled") -> Tokenizer:
        """Read a `tokenizers` JSON file, the one that ships with the package ("bundled"), or that
        of a bundled model which has its own ("bundled:NAME").

        Raises:
            InputError: the file is missing or is no byte-level BPE tokenizer.
        """
        kind, _, name = str(location).partition(":")
        if kind != "bundled":
            return _load(str(location))
        path = _DATA / "models" / name / "tokenizer.json" if name else BUNDLED
        if name != Path(name).name or not path.is_file():
            raise InputError(f"no bundled model {name!r} with a tokenizer of its own")
        return _load(str(path))

    @classmethod
    def of_signs(cls, signs: str) -> Tokenizer:
        """A vocabulary of single ASCII signs, in this order: for tasks that are written in few."""
        if len(set(signs)) < len(signs) or not signs.isascii() or not signs.isprintable():
            raise InputError(f"signs must be different printable ASCII ones, got {signs!r}")
        core = tokenizers.Tokenizer(models.BPE({sign: n for n, sign in enumerate(signs)}, []))
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        return cls(core)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learn a byte-level BPE vocabulary of `vocab_size` ids in all (at least 258)."""
        if vocab_size < 258:
            raise InputError(f"vocab_size must be at least 258 (256 bytes + 2), got {vocab_size}")
        core = tokenizers.Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        core.train_from_iterator(texts, trainer)
        return cls(core)

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as one `tokenizers` JSON file."""
        write_atomic(path, self._core.to_str())

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; never the separator or the mask."""
        return self._core.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, in parallel."""
        return [
            encoding.ids
            for encoding in self._core.encode_batch_fast(list(texts), add_special_tokens=False)
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; the separator becomes a blank line, the mask a low line."""
        pieces: list[str] = []
        run: list[int] = []
        for token in ids:
            if token not in (self.eot_id, self.mask_id):
                run.append(int(token))
                continue
            pieces += [self._core.decode(run), "\n\n" if token == self.eot_id else "_"]
            run = []
        return "".join([*pieces, self._core.decode(run)])


@functools.lru_cache(maxsize=8)
def _load(path: str) -> Tokenizer:
    core = _core(path)
    if not isinstance(core.model, models.BPE) or "ByteLevel" not in core.to_str():
        raise InputError(f"{path}: must be a byte-level BPE tokenizer")
    return Tokenizer(core, where=path)


def _core(path: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(read_text(path))
    except InputError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"{path}: not a tokenizers JSON file: {error}") from None

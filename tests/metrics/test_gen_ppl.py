"""Scoring texts by a causal language model: context, separators, windows, padding."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from schedlab.denoisers import checkpoint
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError
from schedlab.metrics import SplitText, causal_scorer
from schedlab.metrics.causal_scorer import CausalScorer, split_into_windows
from schedlab.metrics.scorers import load_scorer
from schedlab.text.tokenizer import Tokenizer

SEPARATOR, VOCAB = 8, 9


def letters(texts: list[str]) -> list[list[int]]:
    return [[ord(letter) - ord("a") for letter in text] for text in texts]


class Recurrent:
    """A float64 language model whose prediction depends on all tokens before, newest most."""

    def __init__(self, memory: float) -> None:
        generator = torch.Generator().manual_seed(3)
        self.table = torch.randn(VOCAB, VOCAB, dtype=torch.float64, generator=generator)
        self.memory = memory
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, ids_BW: torch.Tensor) -> torch.Tensor:
        self.calls.append(tuple(ids_BW.shape))
        state = torch.zeros(ids_BW.shape[0], VOCAB, dtype=torch.float64)
        logits = []
        for column in ids_BW.T:
            state = self.memory * state + self.table[column]
            logits.append(state)
        return torch.stack(logits, dim=1)


def scorer(model: Recurrent, window: int = 100) -> CausalScorer:
    return CausalScorer(
        name="toy",
        fingerprint="toy",
        next_logits=model,
        encode=letters,
        separator_id=SEPARATOR,
        window=window,
        vocab_size=VOCAB,
    )


def by_hand(model: Recurrent, ids: list[int], num_scored: int) -> float:
    log_probs = model(torch.tensor([ids[:-1]]))[0].log_softmax(-1)
    terms = [-log_probs[j - 1, ids[j]].item() for j in range(len(ids) - num_scored, len(ids))]
    return sum(terms)


def test_nll_is_the_sum_over_all_tokens_after_the_separator() -> None:
    model = Recurrent(0.5)
    nll, tokens = scorer(model).score([SplitText((), ("abc",)), SplitText((), ("h",))])
    assert tokens.tolist() == [3, 1]
    assert nll[0] == pytest.approx(by_hand(model, [SEPARATOR, 0, 1, 2], 3), rel=1e-12)
    assert nll[1] == pytest.approx(by_hand(model, [SEPARATOR, 7], 1), rel=1e-12)


def test_separators_inside_a_sample_are_scored_as_tokens() -> None:
    model = Recurrent(0.5)
    nll, tokens = scorer(model).score([SplitText((), ("ab", "", "c"))])
    assert tokens.tolist() == [5]
    ids = [SEPARATOR, 0, 1, SEPARATOR, SEPARATOR, 2]
    assert nll[0] == pytest.approx(by_hand(model, ids, 5), rel=1e-12)


def test_a_prefix_is_context_and_not_scored() -> None:
    model = Recurrent(0.9)
    texts = [SplitText(("ab", "c"), ("de",)), SplitText((), ("de",))]
    nll, tokens = scorer(model).score(texts)
    assert tokens.tolist() == [2, 2]
    assert nll[0] == pytest.approx(by_hand(model, [SEPARATOR, 0, 1, SEPARATOR, 2, 3, 4], 2))
    assert abs(nll[0] - nll[1]) > 1e-3


def test_an_empty_text_has_no_tokens() -> None:
    nll, tokens = scorer(Recurrent(0.5)).score([SplitText((), ("",)), SplitText((), ("a",))])
    assert (nll[0], tokens[0]) == (0.0, 0) and tokens[1] == 1


def test_scores_do_not_depend_on_the_other_texts_of_the_batch() -> None:
    texts = [SplitText((), (text,)) for text in ("abcdefg", "a", "hh", "cab")]
    together, _ = scorer(Recurrent(0.5)).score(texts)
    alone = [scorer(Recurrent(0.5)).score([text])[0][0] for text in texts]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_bundled_scores_do_not_depend_on_the_other_texts_in_any_bit() -> None:
    """Every call has one shape per width, which a text's own length decides."""
    tokenizer = Tokenizer.load("bundled")
    bundled = load_scorer("bundled:scorer", tokenizer=tokenizer)
    words = "returns the sum of all values in an array with shape and dtype".split()
    texts = [SplitText((), (" ".join(words[: 1 + j % 13]),)) for j in range(70)]
    together, _ = bundled.score(texts)
    for j in (0, 1, 40, 69):
        assert bundled.score(texts[j : j + 1])[0][0] == together[j]
    assert (bundled.score(texts[::-1])[0][::-1] == together).all()


def test_batches_keep_logits_within_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal_scorer, "MAX_CALL_LOGITS", 40 * VOCAB)
    texts = [SplitText((), (text,)) for text in ("abc", "abcd", "a", "abcdefgh", "ab")]
    model = Recurrent(0.5)
    bounded, _ = scorer(model).score(texts)
    assert len(model.calls) > 1
    assert all(rows * width <= 40 or rows == 1 for rows, width in model.calls)
    monkeypatch.undo()
    np.testing.assert_allclose(bounded, scorer(Recurrent(0.5)).score(texts)[0], rtol=1e-12)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 12, 13, 40])
@pytest.mark.parametrize("given", [0, 1, 11])
def test_windows_score_every_token_once_with_half_a_window_of_context(
    length: int, given: int
) -> None:
    ids, window = list(range(1 + given + length)), 8
    scored = []
    for piece in split_into_windows(0, ids, length, window):
        assert len(piece.ids) <= window + 1
        assert piece.ids == list(range(piece.ids[0], piece.ids[-1] + 1))
        fresh = piece.ids[len(piece.ids) - piece.num_scored :]
        scored += fresh
        assert min(fresh[0], window // 2) <= fresh[0] - piece.ids[0]
    assert scored == ids[1 + given :]


def test_windows_change_nothing_for_a_model_without_memory() -> None:
    texts = [SplitText(("abc",), ("abcdefgh" * 4,)), SplitText((), ("ha" * 9,))]
    whole, tokens = scorer(Recurrent(0.0)).score(texts)
    cut, cut_tokens = scorer(Recurrent(0.0), window=5).score(texts)
    np.testing.assert_allclose(cut, whole, rtol=1e-12)
    np.testing.assert_array_equal(cut_tokens, tokens)


def save_transformer(folder: Path, *, causal: bool = True) -> tuple[str, Tokenizer]:
    tokenizer = Tokenizer.load("bundled")
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size, mask_id=tokenizer.mask_id, num_blocks=1, hidden_size=16,
        num_heads=2, max_length=16, causal=causal,
    )  # fmt: skip
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    checkpoint.save(folder, model, {}, precision="float32")
    return str(folder), tokenizer


def test_a_checkpoint_scores_text_as_its_own_logits_say(tmp_path: Path) -> None:
    location, tokenizer = save_transformer(tmp_path / "scorer")
    text = "Return the value."
    nll, tokens = load_scorer(location, tokenizer=tokenizer).score([SplitText((), (text,))])
    ids = [tokenizer.eot_id, *tokenizer.encode(text)]
    assert tokens[0] == len(ids) - 1
    log_probs = checkpoint.load(location)(torch.tensor([ids])).log_softmax(-1)[0]
    expected = -sum(log_probs[j - 1, ids[j]].item() for j in range(1, len(ids)))
    assert nll[0] == pytest.approx(expected, rel=1e-5)
    # Nearly untrained: close to uniform over the vocabulary.
    assert nll[0] / tokens[0] == pytest.approx(math.log(tokenizer.vocab_size), rel=0.2)


def test_fingerprints_of_scorers_follow_their_weights(tmp_path: Path) -> None:
    location, tokenizer = save_transformer(tmp_path / "scorer")
    one = load_scorer(location, tokenizer=tokenizer)
    moved, _ = save_transformer(tmp_path / "moved")
    assert load_scorer(moved, tokenizer=tokenizer).fingerprint == one.fingerprint
    model = checkpoint.load(location)
    model.head.weight[0, 0] += 1
    checkpoint.save(tmp_path / "other", model, {}, precision="float32")
    other = load_scorer(str(tmp_path / "other"), tokenizer=tokenizer)
    assert other.fingerprint != one.fingerprint


def test_without_transformers_an_hf_scorer_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'schedlab\[hf\]'"):
        load_scorer("hf:gpt2", tokenizer=Tokenizer.load("bundled"))


@pytest.fixture
def gpt2_folder(tmp_path: Path) -> Path:
    """A tiny GPT-2 with random weights and a byte-level tokeniser, saved as on the hub."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(alphabet)}
    vocabulary["<|endoftext|>"] = len(vocabulary)
    core = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(vocabulary), n_positions=16, n_embd=16, n_layer=2, n_head=2,
        bos_token_id=len(vocabulary) - 1, eos_token_id=len(vocabulary) - 1,
    )  # fmt: skip
    folder = tmp_path / "tiny-gpt2"
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_hugging_face_model_scores_as_its_own_loss_says(gpt2_folder: Path) -> None:
    scored = load_scorer(f"hf:{gpt2_folder}", tokenizer=Tokenizer.load("bundled"))
    texts = [SplitText((), ("Hello you",)), SplitText((), ("Hi",)), SplitText(("He",), ("llo",))]
    nll, tokens = scored.score(texts)
    assert tokens.tolist() == [9, 2, 3]
    model = transformers.GPT2LMHeadModel.from_pretrained(gpt2_folder).eval()
    for text, num_context, value, count in zip(texts, [0, 0, 2], nll, tokens, strict=True):
        whole = "".join(text.given + text.generated)
        ids = torch.tensor([[scored.separator_id, *scored.encode([whole])[0]]])
        labels = ids.clone()
        labels[:, : 1 + num_context] = -100
        with torch.no_grad():
            loss = model(ids, labels=labels).loss.item()
        assert value / count == pytest.approx(loss, rel=1e-5)


def test_a_hugging_face_scorer_with_other_merges_is_another_scorer(gpt2_folder: Path) -> None:
    """Weights and vocabulary alone do not determine the scores."""

    def fingerprint() -> str:
        return load_scorer(f"hf:{gpt2_folder}", tokenizer=Tokenizer.load("bundled")).fingerprint

    before = fingerprint()
    assert fingerprint() == before
    path = gpt2_folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["pre_tokenizer"]["add_prefix_space"] = True
    path.write_text(json.dumps(content))
    assert fingerprint() != before


def test_text_that_spells_a_special_token_stays_text(gpt2_folder: Path) -> None:
    scored = load_scorer(f"hf:{gpt2_folder}", tokenizer=Tokenizer.load("bundled"))
    _, tokens = scored.score([SplitText((), ("<|endoftext|>",))])
    assert tokens.tolist() == [13]


def test_texts_beyond_the_window_of_a_hugging_face_model_are_scored(gpt2_folder: Path) -> None:
    scored = load_scorer(f"hf:{gpt2_folder}", tokenizer=Tokenizer.load("bundled"))
    nll, tokens = scored.score([SplitText((), ("x" * 50,))])
    assert tokens.tolist() == [50] and np.isfinite(nll).all()


def test_a_hugging_face_model_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        load_scorer(f"hf:{tmp_path}", tokenizer=Tokenizer.load("bundled"))
    assert "\n" not in str(caught.value)

"""Scorers by location: a checkpoint of ours, or a causal language model from Hugging Face."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from schedlab.denoisers import checkpoint
from schedlab.errors import InputError
from schedlab.files import canonical_json, sha256_text
from schedlab.metrics.causal_scorer import CausalScorer
from schedlab.text.tokenizer import Tokenizer

HF_PREFIX = "hf:"


def load_scorer(location: str, *, tokenizer: Tokenizer, device: str = "cpu") -> CausalScorer:
    """The scorer at a location.

    Args:
        location: a checkpoint folder or `bundled:NAME` (autoregressive, over `tokenizer`), or
            `hf:MODEL[@REVISION]`, a Hugging Face causal language model or a folder with one
            (needs the extra `hf`).
        tokenizer: the lab's tokeniser.
        device: where it runs.

    Raises:
        InputError: the checkpoint is a denoiser, or speaks another vocabulary; no such model.
    """
    if location.startswith(HF_PREFIX):
        return load_hf_scorer(location.removeprefix(HF_PREFIX), device=device)
    return load_checkpoint_scorer(location, tokenizer=tokenizer, device=device)


def load_checkpoint_scorer(
    location: str, *, tokenizer: Tokenizer, device: str = "cpu"
) -> CausalScorer:
    """An autoregressive `Transformer`; always in float32, whatever the denoisers run in."""
    model = checkpoint.load(location, device=device, precision="float32")
    config = model.config
    if not config.causal:
        raise InputError(
            f"{location}: the scorer must be autoregressive (causal), this is a denoiser;"
            " name an autoregressive checkpoint or hf:MODEL"
        )
    if config.vocab_size != tokenizer.vocab_size:
        raise InputError(
            f"{location}: the scorer's vocabulary must be the tokeniser's {tokenizer.vocab_size}"
            f" tokens, got {config.vocab_size}; name a scorer trained with this tokeniser"
        )
    return CausalScorer(
        name=location,
        fingerprint=sha256_text(model.fingerprint + tokenizer.fingerprint),
        next_logits=model,
        encode=tokenizer.encode_batch,
        separator_id=tokenizer.eot_id,
        window=config.max_length,
        vocab_size=config.vocab_size,
        device=device,
    )


def load_hf_scorer(name: str, *, device: str = "cpu") -> CausalScorer:
    """A Hugging Face causal language model in float32 (safetensors only, no code from the hub).

    Args:
        name: `MODEL`, `MODEL@REVISION`, or a folder.
        device: where it runs.
    """
    try:
        import transformers  # the extra `hf`: not everyone has it
    except ImportError:
        raise InputError(
            f"scorer {HF_PREFIX}{name} needs the package transformers;"
            " install it with: pip install 'schedlab[hf]'"
        ) from None
    model_name, _, revision = name.partition("@")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            model_name, revision=revision or None, trust_remote_code=False
        )
        model = transformers.AutoModelForCausalLM.from_pretrained(
            model_name,
            revision=revision or None,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or ["unknown reason"])[0]
        raise InputError(f"scorer {HF_PREFIX}{name} cannot be loaded: {reason}") from None
    model = model.eval().to(device)
    separators = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    separator_id = next((token for token in separators if token is not None), None)
    window = getattr(model.config, "max_position_embeddings", None)
    if separator_id is None or window is None:
        raise InputError(
            f"scorer {HF_PREFIX}{name} must state a begin or end token and its longest input"
        )

    def next_logits(ids_BW: Tensor) -> Tensor:
        return model(input_ids=ids_BW, use_cache=False).logits

    def encode(texts: list[str]) -> list[list[int]]:
        # split_special_tokens: text that spells a special token stays text.
        return tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    return CausalScorer(
        name=HF_PREFIX + name,
        fingerprint=_hf_fingerprint(model, tokenizer, int(separator_id), int(window)),
        next_logits=next_logits,
        encode=encode,
        separator_id=int(separator_id),
        window=int(window),
        vocab_size=int(model.config.vocab_size),
        device=device,
    )


def _hf_fingerprint(model: Any, tokenizer: Any, separator_id: int, window: int) -> str:
    """SHA-256 of all that scores depend on, so that a moved or updated model is told apart."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tuple(weight.shape)}:{weight.dtype}".encode())
        digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    # Of a fast tokeniser everything: merges and normalisation matter as much as the vocabulary.
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = backend.to_str() if backend is not None else canonical_json(tokenizer.get_vocab())
    digest.update(f"{parts} {separator_id} {window}".encode())
    return digest.hexdigest()

"""Classifiers of `transformers` over the denoisers' vocabulary, such as RoBERTa's beside TESS.

Weights are safetensors only, no code of a checkpoint is run. The extra `hf` is needed.

Legend: B texts, L positions, V vocabulary, D width, C labels.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from schedlab.errors import InputError


class HuggingFaceClassifier:
    """A sequence classifier behind its own input embeddings; satisfies `Classifier`.

    Args:
        model: of `AutoModelForSequenceClassification`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names by the checkpoint's `id2label`."""
        names = self.model.config.id2label
        return tuple(str(names[number]) for number in range(len(names)))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of configuration and weights as they are in memory."""
        digest = hashlib.sha256(self.model.config.to_json_string(use_diff=False).encode())
        for name, weight in sorted(self.model.state_dict().items()):
            digest.update(f"{name}:{weight.dtype}:{tuple(weight.shape)}".encode())
            values = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(values.numpy())
        return digest.hexdigest()

    @property
    def embedding_weight(self) -> Tensor:
        """E, (V, D)."""
        weight: Tensor = self.model.get_input_embeddings().weight
        return weight

    def log_probs(self, e_BLD: Tensor, t_B: Tensor | None = None) -> Tensor:
        """log p(label | text), float32 (B, C); the noise level is not read."""
        ones_BL = torch.ones(e_BLD.shape[:2], dtype=torch.int64, device=e_BLD.device)
        found: Tensor = self.model(inputs_embeds=e_BLD, attention_mask=ones_BL).logits
        return found.float().log_softmax(-1)

    def log_probs_of_tokens(self, tokens_BL: Tensor) -> Tensor:
        """log p(label | text) of tokens, (B, C)."""
        return self.log_probs(self.embedding_weight[tokens_BL])

    def encoder_flops(self, length: int) -> int:
        """Twice its weights without embeddings per position, and attention."""
        config = self.model.config
        embeddings = {id(self.embedding_weight)}
        weights = sum(
            w.numel() for w in self.model.parameters() if w.ndim == 2 and id(w) not in embeddings
        )
        attention = 4 * config.num_hidden_layers * length * config.hidden_size
        return int(length * (2 * weights + attention))


def load_huggingface(
    folder: Path, *, device: str | torch.device, dtype: torch.dtype
) -> HuggingFaceClassifier:
    """Read a checkpoint folder of `transformers`.

    Raises:
        InputError: no such package, a folder that is no sequence classifier or has no safetensors.
    """
    try:
        import transformers  # the extra `hf`: not everyone has it
    except ImportError:
        raise InputError(
            f"classifier {folder} is one of transformers; install it with: pip install"
            " 'schedlab[hf]'"
        ) from None
    try:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            str(folder),
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or ["unknown reason"])[0]
        raise InputError(f"classifier {folder} cannot be loaded: {reason[:300]}") from None
    if not str(type(model).__name__).endswith("ForSequenceClassification"):
        raise InputError(f"classifier {folder} is no sequence classifier")
    return HuggingFaceClassifier(model.to(device))

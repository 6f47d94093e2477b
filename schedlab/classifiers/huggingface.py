"""Classifiers of `transformers` over the denoisers' vocabulary, such as RoBERTa's beside TESS.

Weights are safetensors only, no code of a checkpoint is run. The extra `hf` is needed.

Legend: B texts, L positions, V vocabulary, D width, C labels.
"""

from __future__ import annotations

import functools
import hashlib
import json
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
        config = json.loads(self.model.config.to_json_string(use_diff=False))
        # Where a folder lies and who wrote it say nothing about what the model gives.
        for name in ("_name_or_path", "transformers_version"):
            config.pop(name, None)
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
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

    @functools.cached_property
    def max_length(self) -> int | None:
        """Longest text by the checkpoint's table of positions; None without a limit."""
        rows = getattr(self.model.config, "max_position_embeddings", None)
        if not isinstance(rows, int) or rows < 1:
            return None
        for name, module in self.model.named_modules():
            padding = getattr(module, "padding_idx", None)
            # RoBERTa and its kin count positions from behind the padding token's row.
            if name.endswith("position_embeddings") and padding is not None:
                return rows - int(padding) - 1
        return rows

    def check_length(self, length: int) -> None:
        """Refuse texts that are longer than the model was made for.

        Raises:
            InputError: more than `max_length` positions.
        """
        if self.max_length is not None and length > self.max_length:
            raise InputError(
                f"sequence length must be at most {self.max_length} for this classifier,"
                f" got {length}"
            )

    def log_probs(self, e_BLD: Tensor, t_B: Tensor | None = None) -> Tensor:
        """log p(label | text), float32 (B, C); the noise level is not read.

        Raises:
            InputError: the text is longer than `max_length`.
        """
        self.check_length(e_BLD.shape[1])
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
        InputError: no such package, a folder that is no sequence classifier or has no safetensors,
            or outputs that are not labels of which a text has exactly one.
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
    _check_labels(folder, model.config)
    return HuggingFaceClassifier(model.to(device))


def _check_labels(folder: Path, config: Any) -> None:
    """Refuse outputs that a softmax would misread."""
    kind = config.problem_type
    if config.num_labels > 1 and kind in (None, "single_label_classification"):
        return
    seen = f"is for {kind!r}" if config.num_labels > 1 else f"has {config.num_labels} label"
    raise InputError(
        f"classifier {folder}: config.json {seen}; use a classifier of at least two labels that"
        " exclude each other"
    )

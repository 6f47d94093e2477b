"""A denoiser that is a PyTorch module built from a configuration: what loading and saving need."""

from __future__ import annotations

import copy
import functools
import hashlib
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schedlab.denoisers.base import DenoiserSpec
from schedlab.errors import InputError
from schedlab.files import canonical_json

_SHORT_DTYPES = (torch.bfloat16, torch.float16)


class Network(nn.Module):
    """Base of the networks here; satisfies `denoisers.base.Denoiser`.

    Attributes:
        config: a `Record` of all that the network was built from.
    """

    config: Any
    _float32_head: Tensor | None = None

    @property
    def spec(self) -> DenoiserSpec:
        """Sizes and conventions (see `DenoiserSpec`)."""
        raise NotImplementedError

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of sizes and weights as they are in memory, taken once."""
        digest = hashlib.sha256(canonical_json(self.config.model_dump()).encode())
        for name, weight in sorted(self.state_dict().items()):
            digest.update(f"{name}:{weight.dtype}:{tuple(weight.shape)}".encode())
            values = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(values.numpy())
        return digest.hexdigest()

    def features(self, z_BL: Tensor, t_B: Tensor | None = None) -> Tensor:
        """Features of every position, (B, L, D)."""
        raise NotImplementedError

    @property
    def head_weight(self) -> Tensor:
        """The last matrix, (V, D)."""
        raise NotImplementedError

    @property
    def head_bias(self) -> Tensor | None:
        """What is added to its product, (V,), if anything."""
        return None

    def logits(self, features_ND: Tensor) -> Tensor:
        """(N, V) logits at picked positions; also (B, L, D) -> (B, L, V).

        After `keep_float32_head` in float32: bfloat16 would round a logit of 10 by up to 0.03.
        """
        bias_V = self.head_bias
        if self._float32_head is None:
            return F.linear(features_ND, self.head_weight, bias_V)
        bias_V = None if bias_V is None else bias_V.float()
        return F.linear(features_ND.float(), self._float32_head, bias_V)

    def keep_float32_head(self) -> None:
        """Keep the head in float32 beside shorter weights, which must not change any more."""
        if self.head_weight.dtype in _SHORT_DTYPES:
            self._float32_head = self.head_weight.detach().float()

    def trainable_copy(self) -> Self:
        """A float32 copy with gradients and its own weights."""
        copied = copy.deepcopy(self)
        copied.__dict__.pop("fingerprint", None)
        copied._float32_head = None
        return copied.float().train().requires_grad_(True)

    def check_length(self, length: int) -> None:
        """Refuse sequences that are longer than the network was made for.

        Raises:
            InputError: more than `config.max_length` positions.
        """
        if length > self.config.max_length:
            raise InputError(
                f"sequence length must be at most {self.config.max_length} for this model,"
                f" got {length}"
            )


SIZES = ("vocab_size", "num_blocks", "hidden_size", "num_heads", "max_length", "mlp_ratio")


def check_sizes(config: object) -> None:
    """Raise a `ValueError` for a size of a transformer that is below 1, or heads that do not fit
    its width."""
    sizes = {name: getattr(config, name) for name in SIZES}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be positive, got {size}")
    check_heads(sizes["hidden_size"], sizes["num_heads"])


def check_heads(hidden_size: int, num_heads: int) -> None:
    """Raise a `ValueError` for a width that heads do not divide into even parts."""
    if hidden_size % (2 * num_heads):
        raise ValueError(
            f"hidden_size must be a multiple of twice num_heads, got {hidden_size} and {num_heads}"
        )


def check_mask(mask_id: int | None, vocab_size: int) -> None:
    """Raise a `ValueError` for a mask token that is not in the vocabulary."""
    if mask_id is not None and not 0 <= mask_id < vocab_size:
        raise ValueError(f"mask_id must be below vocab_size, got {mask_id}")

"""A denoiser that is a PyTorch module built from a configuration: what loading and saving need."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from schedlab.denoisers.base import DenoiserSpec
from schedlab.errors import InputError
from schedlab.files import canonical_json


class Network(nn.Module):
    """Base of the networks here; satisfies `denoisers.base.Denoiser`.

    Attributes:
        config: a `Record` of all that the network was built from.
    """

    config: Any

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

    def logits(self, features_ND: Tensor) -> Tensor:
        """Logits at picked positions, (N, V)."""
        raise NotImplementedError

    def keep_float32_head(self) -> None:
        """Keep the head in float32 beside shorter weights; here there is nothing to keep."""

    def check_length(self, length: int) -> None:
        """Refuse sequences that are longer than the network was made for.

        Raises:
            InputError: more than `spec.max_length` positions.
        """
        if length > self.spec.max_length:
            raise InputError(
                f"sequence length must be at most {self.spec.max_length} for this model,"
                f" got {length}"
            )

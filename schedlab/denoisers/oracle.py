"""Denoisers with known truth, over enumerable worlds: what samplers and estimators are tested
against.

A `ToyWorld` is a distribution over all V_real^L texts, small enough to sum over. `OracleDenoiser`
holds the exact posterior p(x_i | z) for every one of the (V_real + 1)^L noisy sequences, and
`TableDenoiser` any other table, such as a perturbed one that plays the light denoiser.

Legend: B sequences, L positions, V vocabulary with the mask as last id, R real tokens (V - 1),
X texts (R^L), Z noisy sequences (V^L), N picked positions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from schedlab.denoisers.base import DenoiserSpec


@dataclass(frozen=True)
class ToyWorld:
    """A distribution over all texts of `length` tokens out of `num_real` (float64, sums to 1).

    `probs_X` is in lexicographic order of the texts, first position slowest.
    """

    num_real: int
    length: int
    probs_X: Tensor

    @classmethod
    def random(
        cls, *, num_real: int, length: int, seed: int, concentration: float = 0.3
    ) -> ToyWorld:
        """A strongly dependent random world (Dirichlet with small concentration)."""
        generator = torch.Generator().manual_seed(seed)
        shape = (num_real**length,)
        gamma_X = torch._standard_gamma(
            torch.full(shape, concentration, dtype=torch.float64), generator=generator
        )
        probs_X = gamma_X + 1e-6 * gamma_X.sum() / gamma_X.numel()
        return cls(num_real, length, probs_X / probs_X.sum())

    @property
    def vocab_size(self) -> int:
        """V: real tokens and the mask."""
        return self.num_real + 1

    @property
    def mask_id(self) -> int:
        """The mask is the last id."""
        return self.num_real

    def texts(self) -> Tensor:
        """All texts, int64 (X, L), in the order of `probs_X`."""
        return all_sequences(self.num_real, self.length)

    def noisy(self) -> Tensor:
        """All noisy sequences, int64 (Z, L), in the order of `sequence_index(z, V)`."""
        return all_sequences(self.vocab_size, self.length)

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """`num` texts from the world, int64 (num, L)."""
        index_N = torch.multinomial(self.probs_X, num, replacement=True, generator=generator)
        return self.texts()[index_N]

    def posterior(self) -> Tensor:
        """p(x_i = v | z) for every z, float64 (Z, L, V); revealed positions predict themselves.

        Noisy sequences that no text of positive probability matches get a uniform prediction.
        """
        texts_XL, noisy_ZL = self.texts(), self.noisy()
        agrees_ZX = (
            (noisy_ZL[:, None, :] == texts_XL[None]) | (noisy_ZL[:, None, :] == self.mask_id)
        ).all(-1)
        weight_ZX = agrees_ZX * self.probs_X
        weight_ZX = weight_ZX / weight_ZX.sum(1, keepdim=True)
        onehot_XLV = torch.nn.functional.one_hot(texts_XL, self.vocab_size).to(torch.float64)
        table_ZLV = torch.einsum("zx,xlv->zlv", weight_ZX, onehot_XLV)
        uniform_V = torch.full((self.vocab_size,), 1.0 / self.num_real, dtype=torch.float64)
        uniform_V[self.mask_id] = 0.0
        return torch.where(table_ZLV.isnan(), uniform_V, table_ZLV)


def all_sequences(num_tokens: int, length: int) -> Tensor:
    """Every sequence over `num_tokens` ids, int64 (num_tokens^length, length), first slowest."""
    ids = torch.arange(num_tokens)
    return torch.cartesian_prod(*[ids] * length).reshape(-1, length)


def sequence_index(z_BL: Tensor, num_tokens: int) -> Tensor:
    """Row of each sequence in `all_sequences(num_tokens, L)`, int64 (B,)."""
    length = z_BL.shape[-1]
    powers_L = num_tokens ** torch.arange(length - 1, -1, -1, device=z_BL.device)
    return (z_BL * powers_L).sum(-1)


class TableDenoiser:
    """A denoiser given by its log-probabilities for every noisy sequence.

    Args:
        log_probs_ZLV: float64 (Z, L, V), Z = V^L in the order of `all_sequences`.
        num_blocks: what it pretends to cost.
    """

    def __init__(self, log_probs_ZLV: Tensor, *, num_blocks: int = 1) -> None:
        _, length, vocab_size = log_probs_ZLV.shape
        self.log_probs_ZLV = log_probs_ZLV
        self.spec = DenoiserSpec(
            vocab_size=vocab_size,
            mask_id=vocab_size - 1,
            num_blocks=num_blocks,
            hidden_size=vocab_size,
            max_length=length,
        )
        payload = log_probs_ZLV.contiguous().cpu().numpy().tobytes()
        self.fingerprint = hashlib.sha256(payload).hexdigest()

    def features(self, z_BL: Tensor, t_B: Tensor | None = None) -> Tensor:
        """The table's rows for these sequences, (B, L, V)."""
        return self.log_probs_ZLV[sequence_index(z_BL, self.spec.vocab_size)]

    def logits(self, features_ND: Tensor) -> Tensor:
        """Features are logits already."""
        return features_ND

    def perturbed(self, scale: float, *, seed: int, num_blocks: int = 1) -> TableDenoiser:
        """A worse denoiser: Gaussian noise of standard deviation `scale` on every
        log-probability."""
        generator = torch.Generator().manual_seed(seed)
        noise_ZLV = torch.randn(self.log_probs_ZLV.shape, dtype=torch.float64, generator=generator)
        noisy_ZLV = (self.log_probs_ZLV.clamp_min(-12.0) + scale * noise_ZLV).log_softmax(-1)
        return TableDenoiser(noisy_ZLV, num_blocks=num_blocks)


class OracleDenoiser(TableDenoiser):
    """The exact posterior of a toy world."""

    def __init__(self, world: ToyWorld, *, num_blocks: int = 1) -> None:
        self.world = world
        super().__init__(world.posterior().log(), num_blocks=num_blocks)

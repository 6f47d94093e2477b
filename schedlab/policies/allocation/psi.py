"""Psi samplers (DUO, chapter II): between the reverse step and noising anew what would be drawn
for good, by a share of every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from schedlab.errors import InputError
from schedlab.policies.allocation.by_place import Constant

MODES = ("posterior", "pc", "constant", "remdm", "capped", "rescale")


@dataclass(frozen=True)
class Psi(Constant):
    """kappa q(z_s | z_t, p) + (1 - kappa) (alpha_s q(z_0 | z_t, p) + (1 - alpha_s) / V) [C].

    The steps are in three parts, each with a mode: `posterior` is kappa = 1, the plain sampler,
    `pc` is 0, `constant` is eta. In the others a share sigma of the tokens is noised anew as by
    ReMDM, kappa = 1 - sigma / (1 - alpha_s) within [0, 1]: `remdm` with sigma = eta, `capped` with
    min(eta, (1 - alpha_s) / alpha_t), `rescale` with eta times that; a part's last kappa is 1
    there, and so is that of the last step of all. DUO's cosine schedule is not among a plan's.

    Args:
        high, middle, low: modes of the three parts, noisy steps first.
        high_eta, middle_eta, low_eta: their eta.
        high_share, middle_share: of the steps, rounded; the rest is low.
    """

    high: str = "posterior"
    middle: str = "rescale"
    low: str = "posterior"
    high_eta: float = 0.05
    middle_eta: float = 0.05
    low_eta: float = 0.05
    high_share: float = 0.0
    middle_share: float = 1.0

    def __post_init__(self) -> None:
        """Check words and shares."""
        super().__post_init__()
        for name in ("high", "middle", "low"):
            if getattr(self, name) not in MODES:
                raise InputError(
                    f"{name} must be one of {', '.join(MODES)}, got {getattr(self, name)!r}"
                )
            eta = getattr(self, f"{name}_eta")
            if not 0 <= eta <= 1:
                raise InputError(f"{name}_eta must be in [0, 1], got {eta}")
        if min(self.high_share, self.middle_share) < 0 or self.high_share + self.middle_share > 1:
            raise InputError(
                "high_share and middle_share must not be negative nor more than 1 together, got"
                f" {self.high_share} and {self.middle_share}"
            )

    def kappas(self, alpha_T1: Sequence[float]) -> list[float]:
        """Of every step, T of them; alpha_t of every level, and 1."""
        T = len(alpha_T1) - 1
        # round(): halves to even, as the released code does.
        high = round(self.high_share * T)
        middle = high + round(self.middle_share * T)
        found = [
            *self._part("high", alpha_T1[:high]),
            *self._part("middle", alpha_T1[high:middle]),
            *self._part("low", alpha_T1[middle:T]),
        ]
        return [*found[:-1], 1.0]

    def _part(self, name: str, alpha_n: Sequence[float]) -> list[float]:
        mode, eta = getattr(self, name), getattr(self, f"{name}_eta")
        if mode in ("posterior", "pc", "constant"):
            return [{"posterior": 1.0, "pc": 0.0, "constant": eta}[mode]] * len(alpha_n)
        found = []
        for alpha_t, alpha_s in pairwise(alpha_n):
            most = min(eta, (1 - alpha_s) / alpha_t) if alpha_t > 0 else eta
            if mode == "rescale":
                most = eta * (most if alpha_t > 0 else 1.0)
            sigma = eta if mode == "remdm" else most
            kappa = 1.0 - sigma / (1 - alpha_s) if alpha_s < 1 else 0.0
            found.append(min(max(kappa, 0.0), 1.0))
        return [*found, 1.0] if len(alpha_n) else []

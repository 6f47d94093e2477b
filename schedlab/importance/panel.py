"""The denoisers that an analysis compares, and their metrics summed over sequences' positions.

Legend: B sequences, L positions, D features, N picked positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from schedlab.denoisers.base import Denoiser, features_at
from schedlab.errors import InputError, SchedlabError
from schedlab.importance.divergences import log_probs, position_stats, row_chunks
from schedlab.processes import MaskedProcess


@dataclass(frozen=True)
class Panel:
    """Heavy and the denoisers that are compared with it.

    Args:
        denoisers: by role, in the order in which results name them.
        process: the common process.
        heavy: the role of the reference.
        lights: the roles that may replace it.
        heavy_b: the role of the second heavy denoiser, if there is one.
        head_budget_bytes: memory for logits and what is computed from them, at a time.
    """

    denoisers: Mapping[str, Denoiser]
    process: MaskedProcess
    heavy: str
    lights: tuple[str, ...]
    heavy_b: str | None = None
    head_budget_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        for role in self.roles:
            if role not in self.denoisers:
                raise InputError(
                    f"role {role!r} has no denoiser; there are {sorted(self.denoisers)}"
                )

    @property
    def roles(self) -> tuple[str, ...]:
        """Heavy, the lights, the second heavy one."""
        return (self.heavy, *self.lights, *((self.heavy_b,) if self.heavy_b else ()))

    def with_denoiser(self, role: str, denoiser: Denoiser) -> Panel:
        """The same panel with another denoiser in one role."""
        return replace(self, denoisers={**self.denoisers, role: denoiser})

    def sums(self, z_BL: Tensor, t_B: Tensor, x_BL: Tensor | None = None) -> dict[str, Tensor]:
        """Every metric summed over each sequence's masked positions; one forward per denoiser.

        Args:
            z_BL: noisy sequences, int64.
            t_B: their noise levels, for denoisers with a time input.
            x_BL: the clean sequences, if known.

        Returns:
            As `position_stats` names them, float64 (B,), nats.
        """
        features = {
            role: features_at(self.denoisers[role], z_BL, t_B) for role in self.roles
        }  # each (B, L, D)
        masked_BL = z_BL == self.process.mask_id
        sums: dict[str, Tensor] = {}
        row_N, position_N = masked_BL.nonzero(as_tuple=True)
        for chunk in self._chunks(len(row_N)):
            row_C, position_C = row_N[chunk], position_N[chunk]
            predictions = {
                role: log_probs(
                    self.denoisers[role].logits(features[role][row_C, position_C]), self.process
                )
                for role in self.roles
            }
            targets_C = None if x_BL is None else x_BL[row_C, position_C]
            for name, stat_C in position_stats(predictions, self.heavy, targets_C).items():
                total_B = sums.setdefault(name, stat_C.new_zeros(len(z_BL)))
                total_B.index_add_(0, row_C, stat_C)
        _check_finite(sums)
        return sums

    def _chunks(self, num_rows: int) -> list[slice]:
        """At least one, so that every metric is there even when nothing is masked."""
        chunks = list(
            row_chunks(
                num_rows,
                vocab_size=self.process.vocab_size,
                num_denoisers=len(self.roles),
                budget_bytes=self.head_budget_bytes,
            )
        )
        return chunks or [slice(0, 0)]


def _check_finite(sums: Mapping[str, Tensor]) -> None:
    for name, sum_B in sums.items():
        if not torch.isfinite(sum_B).all():
            raise SchedlabError(
                f"{name} is not finite; a denoiser gave logits that are not: check its weights and"
                " precision"
            )

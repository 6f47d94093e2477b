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
from schedlab.importance.divergences import position_stats, row_chunks
from schedlab.importance.readings import Reading, Step, reading_of
from schedlab.processes import MaskedProcess, UniformProcess, alpha


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
    process: MaskedProcess | UniformProcess
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

    @property
    def reading(self) -> Reading:
        """What is compared."""
        return reading_of(self.process)

    def with_denoiser(self, role: str, denoiser: Denoiser) -> Panel:
        """The same panel with another denoiser in one role."""
        return replace(self, denoisers={**self.denoisers, role: denoiser})

    def sums(
        self,
        z_BL: Tensor,
        t_B: Tensor,
        x_BL: Tensor | None = None,
        *,
        s_B: Tensor | None = None,
        given: int = 0,
    ) -> dict[str, Tensor]:
        """Every metric summed over each sequence's positions that are compared (see `readings`);
        one forward per denoiser.

        Args:
            z_BL: noisy sequences, int64.
            t_B: their noise levels.
            x_BL: the clean sequences, if known.
            s_B: noise levels after the step; None is 0.
            given: positions at the start that are not generated.

        Returns:
            As `position_stats` names them, float64 (B,), nats.
        """
        features = {
            role: features_at(self.denoisers[role], z_BL, t_B) for role in self.roles
        }  # each (B, L, D)
        reading, alpha_fn = self.reading, alpha("linear")
        alpha_t_B = alpha_fn(t_B.double())
        alpha_s_B = torch.ones_like(alpha_t_B) if s_B is None else alpha_fn(s_B.double())
        sums: dict[str, Tensor] = {}
        row_N, position_N = reading.positions(z_BL, given).nonzero(as_tuple=True)
        for chunk in self._chunks(len(row_N)):
            row_C, position_C = row_N[chunk], position_N[chunk]
            step = Step(z_BL[row_C, position_C], alpha_t_B[row_C], alpha_s_B[row_C])
            laws = {
                role: reading.log_law(
                    self.denoisers[role], features[role][row_C, position_C], step
                )
                for role in self.roles
            }
            losses = None
            if x_BL is not None:
                losses = reading.losses(laws, x_BL[row_C, position_C], step)
            for name, stat_C in position_stats(laws, self.heavy, losses).items():
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

"""What a denoiser keeps of sequences that run, so that a call computes some positions only.

What is kept belongs to one denoiser: where another one is called, everything is computed anew.
Sequences are grouped by how many of their own positions are computed, roughly, and called in the
one shape of such a group (`forwards`), so company changes no bit.

Legend: B sequences, R rows of them, r rows of a group, L positions, A of them computed, F kept of
a position, C picked positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from schedlab.denoisers.base import Denoiser, KeepingDenoiser, keeping
from schedlab.sampling.forwards import kept_logits_of, refreshed_of

CPU_KEPT, GPU_KEPT = 1 << 28, 1 << 32
"""Numbers kept at a time, of all sequences of a run."""


@dataclass
class _Of:
    """What is kept by one denoiser: of which sequences (B,), and what (B, L, F)."""

    holds_B: Tensor
    kept_BLF: Tensor


@dataclass
class Kept:
    """What is kept of the sequences of a run, by role."""

    num_sequences: int
    by_role: dict[str, _Of] = field(default_factory=dict)

    def refresh(
        self,
        denoiser: Denoiser,
        role: str,
        rows_R: Tensor,
        z_RL: Tensor,
        active_RL: Tensor,
        read_RL: Tensor,
    ) -> Tensor:
        """Compute positions anew; int64 (R,), how many in every row.

        Args:
            denoiser, role: who computes.
            rows_R: which sequences.
            z_RL: their tokens.
            active_RL: positions to compute; all where this denoiser keeps nothing yet.
            read_RL: where logits are read: computed in any case.
        """
        network = keeping(denoiser, role)
        active_RL = active_RL | _computed_for(network, read_RL)
        if role in self.by_role:
            active_RL = active_RL | ~self.by_role[role].holds_B[rows_R, None]
        else:
            active_RL = torch.ones_like(active_RL)
        count_R = active_RL.sum(dim=-1)
        L = z_RL.shape[1]
        # Fillers make shapes few; positions that are computed come first, in order.
        slots_R = _rounded(count_R, L)
        filled_RL = torch.arange(L, device=z_RL.device).where(active_RL, L).sort(dim=-1).values
        for slots in slots_R.unique().tolist():
            own_r = (slots_R == slots).nonzero()[:, 0]
            position_rA = filled_RL[own_r, :slots]
            z_rA = z_RL[own_r].gather(1, position_rA.clamp(max=L - 1))
            whole = bool((count_R[own_r] == L).all())
            before = None if whole else self.by_role[role].kept_BLF
            fresh_rAF = refreshed_of(
                denoiser, network, before, rows_R[own_r], z_rA, position_rA, L
            )
            self._put(role, rows_R[own_r], position_rA, fresh_rAF, L)
        self._drop_others(role, rows_R)
        return count_R

    def logits(self, denoiser: Denoiser, role: str, rows_C: Tensor, position_C: Tensor) -> Tensor:
        """Logits at positions of sequences, (C, V)."""
        kept_BLF = self.by_role[role].kept_BLF
        return kept_logits_of(denoiser, keeping(denoiser, role), kept_BLF, rows_C, position_C)

    def _put(
        self, role: str, rows_r: Tensor, position_rA: Tensor, fresh_rAF: Tensor, length: int
    ) -> None:
        if role not in self.by_role:
            shape = self.num_sequences, length, fresh_rAF.shape[-1]
            holds_B = torch.zeros(self.num_sequences, dtype=torch.bool, device=fresh_rAF.device)
            self.by_role[role] = _Of(holds_B, fresh_rAF.new_zeros(shape))
        own = self.by_role[role]
        row_N, slot_N = (position_rA < length).nonzero(as_tuple=True)
        own.kept_BLF[rows_r[row_N], position_rA[row_N, slot_N]] = fresh_rAF[row_N, slot_N]
        own.holds_B[rows_r] = True

    def _drop_others(self, role: str, rows_R: Tensor) -> None:
        for other in self.by_role.keys() - {role}:
            self.by_role[other].holds_B[rows_R] = False
            if not self.by_role[other].holds_B.any():
                del self.by_role[other]


def rows_kept(denoiser: Denoiser, role: str, length: int, device: torch.device) -> int:
    """Sequences of which as much is kept as should be at a time.

    Raises:
        InputError: the denoiser always computes whole sequences.
    """
    most = CPU_KEPT if device.type == "cpu" else GPU_KEPT
    return max(1, most // (length * keeping(denoiser, role).kept_width))


def _rounded(count_R: Tensor, length: int) -> Tensor:
    """Positions rounded up to an eighth of the sequence at a time: a row's shape is a matter of
    its own count, and rows of similar counts run together."""
    part = -(-length // 8)
    return ((count_R + part - 1) // part * part).clamp(max=length)


def _computed_for(network: KeepingDenoiser, read_RL: Tensor) -> Tensor:
    """Positions whose computation the logits come of."""
    if not network.reads_before:
        return read_RL
    before_RL = read_RL.roll(-1, dims=-1)
    before_RL[:, -1] = False
    before_RL[:, 0] |= read_RL[:, 0]  # the first position keeps its own
    return before_RL

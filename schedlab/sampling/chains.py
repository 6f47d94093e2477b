"""Sequences under way in each process, for the loop that predicts every step (`dense`).

A chain holds the state, gives logits where there is something to predict, and moves to the clocks
that a policy chose. All noise is addressed.

Legend: B sequences, L positions, P given positions, N positions with a prediction, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
from torch import Tensor

from schedlab.denoisers.base import Denoiser, SimplexDenoiser, features_at
from schedlab.errors import SchedlabError
from schedlab.plan import Plan
from schedlab.plan.plan import Decoding
from schedlab.processes import (
    MaskedProcess,
    Process,
    SimplexProcess,
    UniformProcess,
    alpha,
    level,
)
from schedlab.sampling.draw import draw, head_chunks
from schedlab.sampling.forwards import logits_of_features
from schedlab.sampling.inversion import MAX_ATTEMPTS, draw_by_inversion
from schedlab.sampling.noise import Purpose, SequenceIds, normals, uniforms, uniforms_at
from schedlab.sampling.sampler import check_prefix

At = tuple[Tensor, Tensor]


class Chain(Protocol):
    """Sequences under way."""

    free_BL: Tensor
    tokens_BL: Tensor

    def lowest(self, by_rule_BL: Tensor, stands_BL: Tensor) -> Tensor | None:
        """Levels that a token is not noised above again, of those that the rule gave so far and
        of those that tokens were really noised to; None where every step noises anew."""
        ...

    def predict(self, denoiser: Denoiser, t: float, t_BL: Tensor | None) -> tuple[Tensor, At]:
        """Logits, float32 (N, V), and where: rows and positions.

        Args:
            denoiser: of the step.
            t: common noise level.
            t_BL: that of every token instead, for denoisers that take it.
        """
        ...

    def move(
        self, logits_NV: Tensor, at: At, s_BL: Tensor, step: int, role: str, kappa: float = 1.0
    ) -> None:
        """To clocks s_i, float64; `tokens_BL` becomes what is drawn. Of the uniform-state process
        by a reverse step with probability `kappa`, else drawn for good and noised anew."""
        ...

    def finish(self, logits_NV: Tensor, at: At, role: str) -> None:
        """To clock 0."""
        ...


def begin(plan: Plan, process: Process, ids: SequenceIds, prefix_BP: Tensor | None) -> Chain:
    """The state before step 0, behind the prefix if one is given.

    Raises:
        InputError: a prefix that does not fit.
    """
    device = ids.seed_B.device
    tokens_BL = torch.zeros((len(ids), plan.length), dtype=torch.int64, device=device)
    given = 0 if prefix_BP is None else prefix_BP.shape[1]
    if prefix_BP is not None:
        mask_id = getattr(process, "mask_id", None)
        check_prefix(prefix_BP, plan, process.vocab_size, len(ids), mask_id=mask_id)
        tokens_BL[:, :given] = prefix_BP
    free_BL = (torch.arange(plan.length, device=device) >= given).expand(tokens_BL.shape)
    common = _Common(plan, ids, tokens_BL, free_BL.contiguous())
    if isinstance(process, SimplexProcess):
        return SimplexChain.begin(common, process)
    if isinstance(process, UniformProcess):
        return UniformChain.begin(common, process)
    return MaskedChain.begin(common, process)


@dataclass
class _Common:
    plan: Plan
    ids: SequenceIds
    tokens_BL: Tensor
    free_BL: Tensor

    @property
    def decoding(self) -> Decoding:
        return self.plan.decoding

    @property
    def everywhere(self) -> At:
        """Rows and places of all positions that are generated."""
        row_N, position_N = self.free_BL.nonzero(as_tuple=True)
        return row_N, position_N

    def alpha(self, t: Tensor) -> Tensor:
        return alpha(self.plan.noise_schedule)(t)


@dataclass
class SimplexChain(_Common):
    """X_t, and the logits of the step before for self-conditioning.

    A position is noised anew at every step from the token drawn there, so all that it keeps is
    that token and the level.
    """

    process: SimplexProcess
    X_BLV: Tensor
    previous_BLV: Tensor | None = None

    def lowest(self, by_rule_BL: Tensor, stands_BL: Tensor) -> Tensor | None:
        """None."""
        return None

    @classmethod
    def begin(cls, common: _Common, process: SimplexProcess) -> SimplexChain:
        """Noise alone."""
        chain = cls(**vars(common), process=process, X_BLV=torch.empty(0))
        chain.X_BLV = chain._noise(0)
        # Level 1 leaves no signal: the token that is noised does not matter.
        chain.X_BLV = process.noised(chain.tokens_BL, 0.0, chain.X_BLV)
        return chain

    def predict(self, denoiser: Denoiser, t: float, t_BL: Tensor | None) -> tuple[Tensor, At]:
        """At all generated positions."""
        network = cast(SimplexDenoiser, denoiser)
        t_B = torch.full((len(self.X_BLV),), t, device=self.X_BLV.device)
        features_BLD = network.features(
            self.X_BLV,
            t_B if t_BL is None else t_BL,
            given_BL=self.tokens_BL,
            generated_BL=self.free_BL,
            previous_BLV=self.previous_BLV,
        )
        at = self.everywhere
        logits_NV = network.logits(features_BLD[at]).float()
        if self.previous_BLV is None:
            self.previous_BLV = torch.zeros_like(self.X_BLV)
        self.previous_BLV[at] = logits_NV
        return logits_NV, at

    def move(
        self, logits_NV: Tensor, at: At, s_BL: Tensor, step: int, role: str, kappa: float = 1.0
    ) -> None:
        """Draw tokens and noise them to s."""
        self.tokens_BL[at] = _drawn(logits_NV, at, self.ids, self.decoding, step, role)
        alpha_BL = self.alpha(s_BL)
        self.X_BLV = self.process.noised(self.tokens_BL, alpha_BL, self._noise(step + 1))

    def finish(self, logits_NV: Tensor, at: At, role: str) -> None:
        """The likeliest tokens [C]."""
        self.tokens_BL[at] = _likeliest(logits_NV, role)

    def _noise(self, visit: int) -> Tensor:
        B, L = self.tokens_BL.shape
        position_N = torch.arange(L, device=self.tokens_BL.device).repeat(B)
        row_N = torch.arange(B, device=self.tokens_BL.device).repeat_interleave(L)
        found_NV = normals(
            self.ids.pick(row_N), Purpose.SIMPLEX, position_N, visit, self.process.vocab_size
        )
        return found_NV.view(B, L, -1)


@dataclass
class MaskedChain(_Common):
    """Tokens and masks. A masked position is revealed once its clock lets its uniform through, so
    a clock that rises again changes nothing (the lowest one counts) [O]."""

    process: MaskedProcess
    reveal_uniform_BL: Tensor = field(default_factory=lambda: torch.empty(0))

    def lowest(self, by_rule_BL: Tensor, stands_BL: Tensor) -> Tensor | None:
        """Really: a rule is asked what it would reveal of the masks that are left."""
        return stands_BL

    @classmethod
    def begin(cls, common: _Common, process: MaskedProcess) -> MaskedChain:
        """All masks."""
        chain = cls(**vars(common), process=process)
        chain.tokens_BL = torch.where(chain.free_BL, process.mask_id, chain.tokens_BL)
        position_L = torch.arange(chain.tokens_BL.shape[1], device=chain.tokens_BL.device)
        chain.reveal_uniform_BL = uniforms(chain.ids, Purpose.REVEAL, position_L)
        return chain

    def predict(self, denoiser: Denoiser, t: float, t_BL: Tensor | None) -> tuple[Tensor, At]:
        """At masks."""
        masked_BL = self.tokens_BL == self.process.mask_id
        row_N, position_N = masked_BL.nonzero(as_tuple=True)
        t_B = torch.full((len(self.tokens_BL),), t, device=self.tokens_BL.device)
        features_BLD = features_at(denoiser, self.tokens_BL, t_B)
        # How many masks are left must change no bit: the head is called in one shape.
        logits_NV = logits_of_features(denoiser, features_BLD, row_N, position_N).float()
        logits_NV[:, self.process.mask_id] = -torch.inf
        return logits_NV, (row_N, position_N)

    def move(
        self, logits_NV: Tensor, at: At, s_BL: Tensor, step: int, role: str, kappa: float = 1.0
    ) -> None:
        """Reveal what is due, by the same noise as the plain sampler."""
        due_N = self.reveal_uniform_BL[at] < self.alpha(s_BL)[at]
        row_N, position_N = at[0][due_N], at[1][due_N]
        picked_NV, device = logits_NV[due_N], logits_NV.device
        start = 0
        for row_C, position_C in head_chunks(row_N, position_N, self.process, device):
            logits_CV = picked_NV[start : start + len(row_C)]
            start += len(row_C)
            self.tokens_BL[row_C, position_C] = draw(
                logits_CV, self.ids.pick(row_C), position_C, self.decoding, self.process, role
            )

    def finish(self, logits_NV: Tensor, at: At, role: str) -> None:
        """Reveal the rest."""
        zero_BL = torch.zeros(self.tokens_BL.shape, dtype=torch.float64, device=logits_NV.device)
        self.move(logits_NV, at, zero_BL, 0, role)


@dataclass
class UniformChain(_Common):
    """Tokens, with the clock of each; one that would rise stays [O]."""

    process: UniformProcess
    clock_BL: Tensor = field(default_factory=lambda: torch.empty(0))
    prediction: str = "leave_one_out"

    def lowest(self, by_rule_BL: Tensor, stands_BL: Tensor) -> Tensor | None:
        """By the rule: all tokens are there to the end."""
        return by_rule_BL

    @classmethod
    def begin(cls, common: _Common, process: UniformProcess) -> UniformChain:
        """Any tokens."""
        chain = cls(**vars(common), process=process)
        position_L = torch.arange(chain.tokens_BL.shape[1], device=chain.tokens_BL.device)
        u_BL = uniforms(chain.ids, Purpose.FORWARD, position_L)
        first_BL = (u_BL * process.vocab_size).long()
        chain.tokens_BL = torch.where(chain.free_BL, first_BL, chain.tokens_BL)
        chain.clock_BL = torch.ones_like(u_BL)
        return chain

    def predict(self, denoiser: Denoiser, t: float, t_BL: Tensor | None) -> tuple[Tensor, At]:
        """At all generated positions."""
        self.prediction = denoiser.spec.prediction
        if t_BL is None:
            t_BL = torch.full((len(self.tokens_BL),), t, device=self.tokens_BL.device)
        features_BLD = features_at(denoiser, self.tokens_BL, self._read(denoiser, t_BL))
        at = self.everywhere
        return denoiser.logits(features_BLD[at]).float(), at

    def move(
        self, logits_NV: Tensor, at: At, s_BL: Tensor, step: int, role: str, kappa: float = 1.0
    ) -> None:
        """Draw from the posterior at every position."""
        t_N, z_N = self.clock_BL[at], self.tokens_BL[at]
        s_N = torch.minimum(s_BL[at], t_N)
        alpha_t_N, alpha_s_N = self.alpha(t_N), self.alpha(s_N)
        if self.prediction == "posterior":
            logits_NV = self.process.leave_one_out(logits_NV, z_N, alpha_t_N)
        _check_finite(logits_NV, role)
        x_NV = _tempered(logits_NV, self.decoding)
        p_NV = self.process.posterior(z_N, x_NV, alpha_t_N, alpha_s_N)
        if kappa < 1:
            clean_NV = self.process.posterior(z_N, x_NV, alpha_t_N, torch.ones_like(alpha_s_N))
            p_NV.mul_(kappa).add_(self.process.noised(clean_NV, alpha_s_N), alpha=1 - kappa)
        self.tokens_BL[at] = draw_by_inversion(p_NV, 1.0, _source(self.ids, at, step))
        self.clock_BL[at] = s_N

    def _read(self, denoiser: Denoiser, t: Tensor) -> Tensor:
        """Noise levels as the denoiser was trained to read them: of the same alpha_t."""
        ours, theirs = self.plan.noise_schedule, denoiser.spec.noise_schedule
        if ours == theirs or {ours, theirs} == {"linear", "log_linear"}:
            return t
        return level(theirs)(self.alpha(t.double())).to(t.dtype)

    def finish(self, logits_NV: Tensor, at: At, role: str) -> None:
        """Draw from the posterior at clock 0, or take the likeliest tokens."""
        if self.plan.last_step == "greedy":
            self.tokens_BL[at] = _likeliest(logits_NV, role)
            return
        self.move(logits_NV, at, torch.zeros_like(self.clock_BL), MAX_STEPS, role)


MAX_STEPS = 1 << 24  # a visit that no step has
_CPU_DRAWS, _GPU_DRAWS = 1 << 18, 1 << 26
"""N V of a draw at a time: on CPUs arrays that stay in the cache."""


def _tempered(logits_NV: Tensor, decoding: Decoding) -> Tensor:
    """Probabilities at a temperature, truncated to the nucleus."""
    if decoding.temperature == 0:
        return torch.nn.functional.one_hot(logits_NV.argmax(-1), logits_NV.shape[1]).float()
    p_NV = (logits_NV / decoding.temperature).softmax(-1)
    if decoding.top_p < 1:
        sorted_NV, order_NV = p_NV.sort(dim=-1, descending=True, stable=True)
        before_NV = sorted_NV.cumsum(-1) - sorted_NV
        kept_NV = torch.empty_like(before_NV, dtype=torch.bool)
        p_NV = p_NV * kept_NV.scatter_(-1, order_NV, before_NV < decoding.top_p)
        p_NV = p_NV / p_NV.sum(-1, keepdim=True)
    return p_NV


def _drawn(
    logits_NV: Tensor, at: At, ids: SequenceIds, decoding: Decoding, step: int, role: str
) -> Tensor:
    """Tokens of the nucleus, int64 (N,)."""
    if decoding.temperature == 0:
        return _likeliest(logits_NV, role)
    _check_finite(logits_NV, role)
    limit = _CPU_DRAWS if logits_NV.device.type == "cpu" else _GPU_DRAWS
    rows = max(1, limit // logits_NV.shape[1])
    found = []
    for start in range(0, len(logits_NV), rows):
        part = slice(start, start + rows)
        p_CV = (logits_NV[part] / decoding.temperature).softmax(-1)
        source = _source(ids, (at[0][part], at[1][part]), step)
        found.append(draw_by_inversion(p_CV, decoding.top_p, source))
    return torch.cat(found)


def _source(ids: SequenceIds, at: At, step: int) -> Callable[[Tensor, int], Tensor]:
    row_N, position_N = at

    def uniform(picked: Tensor, attempt: int) -> Tensor:
        own = ids.pick(row_N[picked])
        return uniforms_at(
            own, Purpose.TOKEN, position_N[picked], step * (MAX_ATTEMPTS + 1) + attempt
        )

    return uniform


def _likeliest(logits_NV: Tensor, role: str) -> Tensor:
    _check_finite(logits_NV, role)
    return logits_NV.argmax(-1)


def _check_finite(logits_NV: Tensor, role: str) -> None:
    if not torch.isfinite(logits_NV.sum()):
        raise SchedlabError(
            f"denoiser {role!r} gave logits that are not finite; check its weights, the precision"
            " and guidance.scale"
        )

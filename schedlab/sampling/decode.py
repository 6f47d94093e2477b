"""The loop for policies that decide by predictions: a call, statistics, a decision, tokens.

Sequences are independent: each has its own active block, its own calls, and is finished at its
own time; what runs together is called in one shape (`forwards`), so that company changes no bit.
Head and softmax run at the masked positions of the active block only, and nothing of size V is
kept but the last prediction there, for policies that compare with it.

Legend: B sequences, R rows that run, L positions, K positions of a block, P given positions,
N predicted positions, V vocabulary, T steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from schedlab.denoisers.base import Denoiser
from schedlab.errors import SchedlabError
from schedlab.plan import Plan
from schedlab.policies import commit_policy
from schedlab.policies.commit import CommitPolicy, CommitView
from schedlab.processes import MaskedProcess
from schedlab.sampling.draw import draw, head_chunks
from schedlab.sampling.end_of_text import checked_end, masks_behind_end
from schedlab.sampling.events import Work
from schedlab.sampling.forwards import (
    call_rows,
    logits_of,
    logits_of_features,
    shadowed_of,
    trunk_of,
)
from schedlab.sampling.kept import Kept, rows_kept
from schedlab.sampling.noise import SequenceIds
from schedlab.sampling.padding import padding_of
from schedlab.sampling.sampler import State, Usage, check_roles, start

Trace = Callable[[Tensor], None]
CPU = torch.device("cpu")
_MOST_KEPT = 1 << 28
"""Numbers of predictions kept at a time, for policies that compare with the call before."""


def rows_at_once(
    plan: Plan,
    vocab_size: int,
    free: int,
    denoisers: Mapping[str, Denoiser] | None = None,
    device: torch.device = CPU,
) -> int:
    """Sequences that `decode` should take at once, for what it keeps of them to stay small."""
    policy = commit_policy(plan.policy.name, plan.policy.parameters)
    most = _MOST_KEPT
    if {"divergence", "products"}.intersection(policy.statistics):
        most = most // (policy.block_size(free) * vocab_size)
    if policy.keeps and denoisers is not None:
        times = 2 if policy.guidance else 1
        for role in plan.model_schedule.roles:
            most = min(most, rows_kept(denoisers[role], role, plan.length, device) // times)
    return max(1, most)


@dataclass(frozen=True)
class Forced:
    """Texts whose tokens are committed instead of drawn ones.

    Args:
        text_BL: (B, L) int64 tokens, given ones included.
        nats_B: (B,) float64; -log p of every token when it is committed is added.
    """

    text_BL: Tensor
    nats_B: Tensor


@torch.inference_mode()
def decode(
    plan: Plan,
    denoisers: Mapping[str, Denoiser],
    process: MaskedProcess,
    ids: SequenceIds,
    prefix_BP: Tensor | None = None,
    *,
    work: Work | None = None,
    trace: Trace | None = None,
    forced: Forced | None = None,
    end_id: int | None = None,
    padding_B: Tensor | None = None,
) -> State:
    """Run a plan whose policy decides by predictions; the final state holds no mask.

    Args:
        plan, denoisers, process, ids, prefix_BP: as for `sampler.sample`.
        work: counts what is done.
        trace: receives the tokens before every round of calls, (B, L).
        forced: commit the tokens of given texts instead of drawn ones, and say what they cost.
        end_id: the end-of-text token, for policies that stop there.
        padding_B: how many positions of every prefix are filled up, in front of a shorter one:
            what stands there is read by nobody.

    Raises:
        InputError: a policy that stops at the end of a text, and no such token; padding that is
            not in front of given tokens, or that denoisers or the policy's shadows do not take.
        SchedlabError: logits that are not finite, or a policy that makes no progress.
    """
    check_roles(plan, denoisers)
    state = start(plan, process, ids, prefix_BP)
    first = 0 if prefix_BP is None else prefix_BP.shape[1]
    run = _Run.begin(plan, process, ids, state.z_BL, first, forced)
    stop_id = checked_end(run.policy, end_id)
    run.padding_BL = padding_of(run.policy, padding_B, run.z_BL, first)
    role_of_T = np.array(plan.model_schedule.steps)
    usage = {role: run.no_usage() for role in plan.model_schedule.roles}
    rows_R = torch.arange(len(ids), device=ids.seed_B.device)
    while rows_R.numel():
        if trace is not None:
            trace(run.z_BL.clone())
        call = run.call(rows_R)
        role_R = role_of_T[run.steps(call).cpu().numpy()]
        for role in dict.fromkeys(role_R.tolist()):
            own_r = torch.from_numpy((role_R == role).nonzero()[0]).to(rows_R.device)
            begin = time.perf_counter()
            run.predict(call, own_r, denoisers[role], role)
            times = 2 if run.policy.guidance else 1
            usage[role].forwards_B[rows_R[own_r]] += times
            heads_r = times * call.asked_RK[own_r].sum(dim=-1)
            usage[role].head_positions_B[rows_R[own_r]] += heads_r
            computed_B = usage[role].positions_B
            if computed_B is not None:
                computed_B[rows_R[own_r]] += call.computed_R[own_r]
            if work is not None:
                length = plan.length + (run.size if run.policy.shadowed else 0)
                calls = times * -(-len(own_r) // call_rows(length, rows_R.device))
                work.add(role, times * len(own_r), calls, time.perf_counter() - begin)
        run.commit(call)
        if stop_id is not None:
            run.stop(rows_R, stop_id)
        rows_R = rows_R[run.block_B[rows_R] < run.num_blocks]
    return replace(state, z_BL=run.z_BL, usage=usage)


@dataclass
class _Call:
    """One call of the rows that run: where they stand, and what was predicted, (R, K) each.

    Args:
        rows_R: of the batch.
        place_RK: positions of the active blocks, within the text.
        masked_RK: those that exist and are masked.
        asked_RK: those that are predicted; the rest means something there only.
        left_R: masks of every sequence.
        token_RK: what would be committed.
        judged_RK: the token that the confidence is of.
        nats_RK: -log p of the token, where texts are given.
        computed_R: positions that the denoiser's blocks computed, where not always all.
    """

    rows_R: Tensor
    place_RK: Tensor
    masked_RK: Tensor
    asked_RK: Tensor
    left_R: Tensor
    token_RK: Tensor
    judged_RK: Tensor
    confidence_RK: Tensor
    margin_RK: Tensor
    gap_RK: Tensor
    entropy_RK: Tensor
    divergence_RK: Tensor
    products_RKK: Tensor | None
    nats_RK: Tensor
    computed_R: Tensor


@dataclass
class _Run:
    """A decode on its way.

    Args:
        plan, policy, process, ids, forced: what is run.
        z_BL: tokens.
        first: position of the first block.
        size: K.
        num_blocks: of a sequence.
        num_calls: that a block is to be finished in, by the plan's steps.
        block_B: active block; `num_blocks` where all are finished.
        call_B: calls it had.
        masks_B: masks it had at its first call.
        history: what the policy remembers of it.
        log_q_BKV: its last prediction, where the policy compares with it.
        fresh_BK: where there is none yet.
        padding_BL: positions that are filled up, if any.
        locked_BL: positions that are computed no more.
        kept, kept_blind: what denoisers keep, where not all is computed at every call; the second
            of those with the prompt masked.
    """

    plan: Plan
    policy: CommitPolicy
    process: MaskedProcess
    ids: SequenceIds
    forced: Forced | None
    z_BL: Tensor
    first: int
    size: int
    num_blocks: int
    num_calls: int
    block_B: Tensor
    call_B: Tensor
    masks_B: Tensor
    history: dict[str, Tensor]
    log_q_BKV: Tensor | None
    fresh_BK: Tensor
    locked_BL: Tensor
    kept: Kept | None
    kept_blind: Kept | None
    padding_BL: Tensor | None = None

    @classmethod
    def begin(
        cls,
        plan: Plan,
        process: MaskedProcess,
        ids: SequenceIds,
        z_BL: Tensor,
        first: int,
        forced: Forced | None,
    ) -> _Run:
        """Before the first call."""
        policy = commit_policy(plan.policy.name, plan.policy.parameters)
        B, free, device = len(z_BL), plan.length - first, z_BL.device
        size = policy.block_size(free)
        num_blocks = -(-free // size)
        policy.check_steps(plan.num_steps, num_blocks)
        zeros_B = torch.zeros(B, dtype=torch.int64, device=device)
        masked_BK = torch.ones((B, size), dtype=torch.bool, device=device)
        log_q_BKV = None
        if "divergence" in policy.statistics:
            log_q_BKV = torch.zeros((B, size, process.vocab_size), device=device)
        return cls(
            plan=plan,
            policy=policy,
            process=process,
            ids=ids,
            forced=forced,
            z_BL=z_BL.clone(),
            first=first,
            size=size,
            num_blocks=num_blocks,
            num_calls=max(1, plan.num_steps // num_blocks),
            block_B=zeros_B,
            call_B=zeros_B.clone(),
            masks_B=zeros_B + size,
            history=dict(policy.start(masked_BK)),
            log_q_BKV=log_q_BKV,
            fresh_BK=masked_BK.clone(),
            locked_BL=torch.zeros_like(z_BL, dtype=torch.bool),
            kept=Kept(B) if policy.keeps else None,
            kept_blind=Kept(B) if policy.keeps else None,
        )

    def no_usage(self) -> Usage:
        """Before the first call."""
        forwards_B, heads_B, positions_B = torch.zeros_like(self.call_B.expand(3, -1))
        return Usage(forwards_B, heads_B, positions_B if self.policy.keeps else None)

    def call(self, rows_R: Tensor) -> _Call:
        """Where rows stand; nothing is predicted yet."""
        place_RK, asked_RK, masked_RK = self._places(rows_R)
        if self.policy.locks:
            asked_RK = asked_RK & ~self.locked_BL[rows_R[:, None], place_RK]
        elif not self.policy.revises:
            asked_RK = masked_RK
        shape, device = masked_RK.shape, rows_R.device

        def filled(value: float) -> Tensor:
            return torch.full(shape, value, dtype=torch.float64, device=device)

        products_RKK = None
        if "products" in self.policy.statistics:
            products_RKK = filled(0.0)[..., None].repeat(1, 1, shape[1])
        return _Call(
            rows_R=rows_R,
            place_RK=place_RK,
            masked_RK=masked_RK,
            asked_RK=asked_RK,
            left_R=(self.z_BL[rows_R, self.first :] == self.process.mask_id).sum(dim=-1),
            token_RK=torch.zeros(shape, dtype=torch.int64, device=device),
            judged_RK=torch.zeros(shape, dtype=torch.int64, device=device),
            confidence_RK=filled(-torch.inf),
            margin_RK=filled(0.0),
            gap_RK=filled(0.0),
            entropy_RK=filled(0.0),
            divergence_RK=filled(torch.inf),
            products_RKK=products_RKK,
            nats_RK=filled(0.0),
            computed_R=torch.zeros_like(rows_R),
        )

    def steps(self, call: _Call) -> Tensor:
        """The step of the model schedule that every row stands at, (R,)."""
        if self.policy.by_share:
            free = self.plan.length - self.first
            step_R = (free - call.left_R) * self.plan.num_steps // free
        else:
            step_R = self.block_B[call.rows_R] * self.num_calls + self.call_B[call.rows_R]
        return step_R.clamp(max=self.plan.num_steps - 1)

    def predict(self, call: _Call, own_r: Tensor, denoiser: Denoiser, role: str) -> None:
        """Fill in what the denoiser says of the rows `own_r` of a call."""
        rows_r = call.rows_R[own_r]
        z_rL = self.z_BL[rows_r]
        # [O] The noise level, for denoisers that read it: the share of masks that are left.
        t_r = call.left_R[own_r].double() / (self.plan.length - self.first)
        logits = self._logits(call, own_r, denoiser, role, z_rL, t_r, self.kept)
        blind = None
        if self.policy.guidance:
            z_rL = z_rL.clone()
            z_rL[:, : self.first] = self.process.mask_id
            blind = self._logits(call, own_r, denoiser, role, z_rL, t_r, self.kept_blind)
        q_rKV = None
        if call.products_RKK is not None:
            q_rKV = torch.zeros(
                (*call.place_RK[own_r].shape, self.process.vocab_size), device=z_rL.device
            )
        row_N, place_N = call.asked_RK[own_r].nonzero(as_tuple=True)
        for row_C, place_C in head_chunks(row_N, place_N, self.process, z_rL.device):
            position_C = call.place_RK[own_r[row_C], place_C]
            logits_CV = logits(row_C, position_C)
            if blind is not None:
                blind_CV = blind(row_C, position_C)
                logits_CV = blind_CV + (self.policy.guidance + 1.0) * (logits_CV - blind_CV)
            at = own_r[row_C], place_C
            self._choose(call, at, rows_r[row_C], position_C, logits_CV, role)
            self._measure(call, at, rows_r[row_C], logits_CV, q_rKV, row_C)
        if call.products_RKK is not None and q_rKV is not None:
            call.products_RKK[own_r] = (q_rKV @ q_rKV.transpose(1, 2)).double()

    def _logits(
        self,
        call: _Call,
        own_r: Tensor,
        denoiser: Denoiser,
        role: str,
        z_rL: Tensor,
        t_r: Tensor,
        kept: Kept | None,
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Run the denoiser; what gives (C, V) logits at (row, position)."""
        rows_r = call.rows_R[own_r]
        if self.policy.shadowed:
            return self._logits_with_shadows(call, own_r, denoiser, z_rL, t_r)
        if kept is None:
            padding_rL = None if self.padding_BL is None else self.padding_BL[rows_r]
            return partial(logits_of, denoiser, trunk_of(denoiser, z_rL, t_r, padding_rL))
        row_N, place_N = call.asked_RK[own_r].nonzero(as_tuple=True)
        read_rL = torch.zeros_like(z_rL, dtype=torch.bool)
        read_rL[row_N, call.place_RK[own_r[row_N], place_N]] = True
        call.computed_R[own_r] += kept.refresh(
            denoiser, role, rows_r, z_rL, self._active(rows_r), read_rL
        )
        return lambda row_C, position_C: kept.logits(denoiser, role, rows_r[row_C], position_C)

    def _logits_with_shadows(
        self, call: _Call, own_r: Tensor, denoiser: Denoiser, z_rL: Tensor, t_r: Tensor
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """As `_logits`, at committed tokens those of their shadows."""
        place_rK = call.place_RK[own_r]
        first_r = place_rK[:, 0]  # clamping never reaches it
        shadowed_rK = place_rK.masked_fill(~call.asked_RK[own_r], -1)
        features = shadowed_of(denoiser, z_rL, shadowed_rK, t_r)

        def logits(row_C: Tensor, position_C: Tensor) -> Tensor:
            is_masked_C = z_rL[row_C, position_C] == self.process.mask_id
            shadow_C = self.plan.length + position_C - first_r[row_C]
            at_C = torch.where(is_masked_C, position_C, shadow_C)
            return logits_of_features(denoiser, features, row_C, at_C)

        return logits

    def _active(self, rows_r: Tensor) -> Tensor:
        """Positions that a call computes, (r, L), apart from those that are read."""
        active_rL = ~self.locked_BL[rows_r]
        if self.policy.cache != "none":
            begin_r1 = (self.first + self.block_B[rows_r] * self.size)[:, None]
            position_L = torch.arange(self.plan.length, device=rows_r.device)
            stale_rL = position_L < begin_r1
            if self.policy.cache == "dual":
                stale_rL |= position_L >= begin_r1 + self.size
            active_rL &= ~stale_rL | (self.call_B[rows_r] == 0)[:, None]
        return active_rL

    def _choose(
        self,
        call: _Call,
        at: tuple[Tensor, Tensor],
        rows_C: Tensor,
        position_C: Tensor,
        logits_CV: Tensor,
        role: str,
    ) -> None:
        """Tokens: drawn, or those of the given texts."""
        if self.forced is not None:
            token_C = self.forced.text_BL[rows_C, position_C]
            log_p_CV = self.process.log_p_x(logits_CV)
            call.nats_RK[at] = -log_p_CV.gather(1, token_C[:, None])[:, 0]
        else:
            ids_C, decoding = self.ids.pick(rows_C), self.plan.decoding
            visit_C = self.call_B[rows_C]  # every call draws anew, as the published samplers
            token_C = draw(logits_CV, ids_C, position_C, decoding, self.process, role, visit_C)
        if self.policy.revises or self.policy.locks:
            now_C = self.z_BL[rows_C, position_C]
            token_C = torch.where(now_C == self.process.mask_id, token_C, now_C)
        call.token_RK[at] = call.judged_RK[at] = token_C
        greedy = self.forced is None and self.plan.decoding.temperature == 0
        if self.policy.confidence == "likeliest" and not greedy:
            scores_CV = self.process.scores(logits_CV, dtype=logits_CV.dtype)
            is_masked_C = call.masked_RK[at]
            call.judged_RK[at] = torch.where(is_masked_C, scores_CV.argmax(dim=-1), token_C)

    def _measure(
        self,
        call: _Call,
        at: tuple[Tensor, Tensor],
        rows_C: Tensor,
        logits_CV: Tensor,
        q_rKV: Tensor | None,
        row_C: Tensor,
    ) -> None:
        """Statistics: of all ids, and in the precision of the logits, as the published rules."""
        temperature, top_p = self.plan.decoding.temperature, self.plan.decoding.top_p
        if self.policy.tempered and temperature > 0:
            log_q_CV = self.process.log_p_x(logits_CV, temperature, top_p)
        else:
            log_q_CV = logits_CV.log_softmax(dim=-1)
        judged_C1 = call.judged_RK[at][:, None]
        call.confidence_RK[at] = log_q_CV.gather(1, judged_C1)[:, 0].double().exp()
        if "margin" in self.policy.statistics:
            top_C2 = log_q_CV.topk(2, dim=-1).values.double().exp()
            call.margin_RK[at] = top_C2[:, 0] - top_C2[:, 1]
        if "gap" in self.policy.statistics:
            top_C2 = log_q_CV.topk(2, dim=-1).values.double()
            call.gap_RK[at] = top_C2[:, 0] - top_C2[:, 1]
        if "entropy" in self.policy.statistics:
            q_CV = log_q_CV.exp()
            call.entropy_RK[at] = -(q_CV * (q_CV + 1e-10).log()).sum(dim=-1).double()
        if q_rKV is not None:
            q_rKV[row_C, at[1]] = log_q_CV.float().exp()
        if self.log_q_BKV is not None:
            where = rows_C, at[1]
            moved_CV = log_q_CV.exp() * (log_q_CV - self.log_q_BKV[where])
            moved_C = moved_CV.sum(dim=-1).double()
            call.divergence_RK[at] = moved_C.masked_fill(self.fresh_BK[where], torch.inf)
            self.log_q_BKV[where] = log_q_CV.float()
            self.fresh_BK[where] = False

    def commit(self, call: _Call) -> None:
        """Ask the policy, commit what it says, and go on to the next block where one is done."""
        rows_R = call.rows_R
        decision = self.policy.commit(
            CommitView(
                masked_BK=call.masked_RK,
                judged_BK=call.asked_RK,
                token_BK=call.judged_RK,
                confidence_BK=call.confidence_RK,
                margin_BK=call.margin_RK,
                gap_BK=call.gap_RK,
                entropy_BK=call.entropy_RK,
                divergence_BK=call.divergence_RK,
                products_BKK=call.products_RKK,
                call_B=self.call_B[rows_R],
                num_calls=self.num_calls,
                masks_B=self.masks_B[rows_R],
                history={name: value[rows_R] for name, value in self.history.items()},
            )
        )
        row_N, place_N = (decision.commit_BK & call.masked_RK).nonzero(as_tuple=True)
        at = rows_R[row_N], call.place_RK[row_N, place_N]
        self.z_BL[at] = call.token_RK[row_N, place_N]
        if self.forced is not None:
            self.forced.nats_B.index_add_(0, at[0], call.nats_RK[row_N, place_N])
        if decision.remask_BK is not None:
            back_RK = decision.remask_BK & call.asked_RK & ~call.masked_RK
            row_N, place_N = back_RK.nonzero(as_tuple=True)
            self.z_BL[rows_R[row_N], call.place_RK[row_N, place_N]] = self.process.mask_id
        if decision.lock_BK is not None:
            row_N, place_N = (decision.lock_BK & call.asked_RK & ~call.masked_RK).nonzero(
                as_tuple=True
            )
            self.locked_BL[rows_R[row_N], call.place_RK[row_N, place_N]] = True
        for name, value in decision.history.items():
            self.history[name][rows_R] = value
        self.call_B[rows_R] += 1
        if int(self.call_B[rows_R].max()) > self.size + self.num_calls:
            raise SchedlabError(f"policy {self.plan.policy} makes no progress; see its settings")
        self._next_blocks(rows_R)

    def _next_blocks(self, rows_R: Tensor) -> None:
        *_, masked_RK = self._places(rows_R)
        done_N = rows_R[~masked_RK.any(dim=-1)]
        if done_N.numel() == 0:
            return
        self.block_B[done_N] += 1
        self.call_B[done_N] = 0
        self.fresh_BK[done_N] = True
        *_, masked_NK = self._places(done_N)
        self.masks_B[done_N] = masked_NK.sum(dim=-1)
        for name, value in self.policy.start(masked_NK).items():
            self.history[name][done_N] = value

    def stop(self, rows_R: Tensor, end_id: int) -> None:
        """Finish the texts that have come to their end."""
        # What a policy may take back is not final before its block is.
        blocks_R = self.block_B[rows_R] + int(not self.policy.revises)
        last_R = self.first + blocks_R * self.size
        z_RL = self.z_BL[rows_R]
        left_RL = masks_behind_end(z_RL, self.process.mask_id, end_id, self.first, last_R)
        if self.forced is not None:
            differs_RL = left_RL & (self.forced.text_BL[rows_R] != end_id)
            self.forced.nats_B[rows_R[differs_RL.any(dim=-1)]] = torch.inf
        self.z_BL[rows_R] = z_RL.masked_fill(left_RL, end_id)
        self.block_B[rows_R[left_RL.any(dim=-1)]] = self.num_blocks

    def _places(self, rows_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(R, K) positions of the active blocks, within the text, which of them exist, and which
        of those are masked."""
        place_K = torch.arange(self.size, device=rows_R.device)
        place_RK = self.first + self.block_B[rows_R, None] * self.size + place_K
        inside_RK = place_RK < self.plan.length
        place_RK = place_RK.clamp(max=self.plan.length - 1)
        masked_RK = self.z_BL[rows_R[:, None], place_RK] == self.process.mask_id
        return place_RK, inside_RK, inside_RK & masked_RK

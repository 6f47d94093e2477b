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

import torch
from torch import Tensor

from schedlab.denoisers.base import Denoiser
from schedlab.errors import SchedlabError
from schedlab.plan import Decoding, Plan
from schedlab.policies import commit_policy
from schedlab.policies.commit import CommitPolicy, CommitView
from schedlab.processes import MaskedProcess
from schedlab.sampling.draw import draw, head_chunks
from schedlab.sampling.events import Work
from schedlab.sampling.forwards import call_rows, logits_of, trunk_of
from schedlab.sampling.noise import SequenceIds
from schedlab.sampling.sampler import State, Usage, check_roles, start

Trace = Callable[[Tensor], None]


@dataclass(frozen=True)
class Forced:
    """Texts whose tokens are committed instead of drawn ones.

    Args:
        text_BL: (B, L) int64 tokens, given ones included.
        nats_B: (B,) float64; -log p of every token when it is committed is added.
    """

    text_BL: Tensor
    nats_B: Tensor


@dataclass
class _Blocks:
    """Where every sequence stands.

    Args:
        first: position of the first block.
        size: K.
        count: blocks of a sequence.
        block_B: active block; `count` where all are finished.
        call_B: calls it had.
        masks_B: masks it had at its first call.
        history: what the policy remembers of it.
        log_q_BKV: its last prediction, where the policy compares with it.
        fresh_BK: where there is none yet.
    """

    first: int
    size: int
    count: int
    block_B: Tensor
    call_B: Tensor
    masks_B: Tensor
    history: dict[str, Tensor]
    log_q_BKV: Tensor | None
    fresh_BK: Tensor

    def places(self, rows_R: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """(R, K) positions of the active blocks, within the text, and which of them exist."""
        place_K = torch.arange(self.size, device=rows_R.device)
        place_RK = self.first + self.block_B[rows_R, None] * self.size + place_K
        return place_RK.clamp(max=length - 1), place_RK < length


@dataclass(frozen=True)
class _Predicted:
    """Statistics of one call, (R, K) each."""

    token: Tensor
    likeliest: Tensor
    confidence: Tensor
    margin: Tensor
    entropy: Tensor
    divergence: Tensor
    nats: Tensor

    @classmethod
    def empty(cls, rows: int, size: int, device: torch.device) -> _Predicted:
        numbers = [
            torch.full((rows, size), value, dtype=torch.float64, device=device)
            for value in (-torch.inf, 0.0, 0.0, torch.inf, 0.0)
        ]
        tokens = [torch.zeros((rows, size), dtype=torch.int64, device=device) for _ in range(2)]
        return cls(*tokens, *numbers)


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
) -> State:
    """Run a plan whose policy decides by predictions; the final state holds no mask.

    Args:
        plan, denoisers, process, ids, prefix_BP: as for `sampler.sample`.
        work: counts what is done.
        trace: receives the tokens before every round of calls, (B, L).
        forced: commit the tokens of given texts instead of drawn ones, and say what they cost.

    Raises:
        SchedlabError: logits that are not finite, or a policy that makes no progress.
    """
    check_roles(plan, denoisers)
    policy = commit_policy(plan.policy.name, plan.policy.parameters)
    state = start(plan, process, ids, prefix_BP)
    z_BL = state.z_BL.clone()
    device, length = z_BL.device, plan.length
    first = 0 if prefix_BP is None else prefix_BP.shape[1]
    blocks = _begin(policy, z_BL, first, process)
    num_calls = max(1, plan.num_steps // blocks.count)
    roles = list(plan.model_schedule.roles)
    role_of_T = torch.tensor([roles.index(r) for r in plan.model_schedule.steps], device=device)
    usage = {
        role: Usage(torch.zeros_like(ids.seed_B), torch.zeros_like(ids.seed_B)) for role in roles
    }
    rows_R = torch.arange(len(ids), device=device)
    most_calls = blocks.size + num_calls
    while rows_R.numel():
        if trace is not None:
            trace(z_BL.clone())
        place_RK, exists_RK = blocks.places(rows_R, length)
        masked_RK = exists_RK & (z_BL[rows_R[:, None], place_RK] == process.mask_id)
        left_R = (z_BL[rows_R, first:] == process.mask_id).sum(dim=-1)
        step_R = _step(policy, plan, blocks, rows_R, left_R, num_calls, length - first)
        found = _Predicted.empty(len(rows_R), blocks.size, device)
        for number, role in enumerate(roles):
            own_r = (role_of_T[step_R] == number).nonzero().squeeze(-1)
            if own_r.numel() == 0:
                continue
            begin = time.perf_counter()
            _predict(
                found, own_r, rows_R, place_RK, masked_RK, z_BL, left_R / (length - first),
                denoisers[role], role, policy, plan.decoding, process, ids, blocks, forced,
            )  # fmt: skip
            times = 2 if policy.guidance else 1
            usage[role].forwards_B[rows_R[own_r]] += times
            usage[role].head_positions_B[rows_R[own_r]] += times * masked_RK[own_r].sum(dim=-1)
            if work is not None:
                calls = times * -(-len(own_r) // call_rows(length, device))
                work.add(role, times * len(own_r), calls, time.perf_counter() - begin)
        view = CommitView(
            masked_BK=masked_RK,
            token_BK=found.likeliest,
            confidence_BK=found.confidence,
            margin_BK=found.margin,
            entropy_BK=found.entropy,
            divergence_BK=found.divergence,
            call_B=blocks.call_B[rows_R],
            num_calls=num_calls,
            masks_B=blocks.masks_B[rows_R],
            history={name: value[rows_R] for name, value in blocks.history.items()},
        )
        decision = policy.commit(view)
        commit_RK = decision.commit_BK & masked_RK
        row_N, place_N = commit_RK.nonzero(as_tuple=True)
        z_BL[rows_R[row_N], place_RK[row_N, place_N]] = found.token[row_N, place_N]
        if forced is not None:
            forced.nats_B.index_add_(0, rows_R[row_N], found.nats[row_N, place_N])
        for name, value in decision.history.items():
            blocks.history[name][rows_R] = value
        blocks.call_B[rows_R] += 1
        if int(blocks.call_B[rows_R].max()) > most_calls:
            raise SchedlabError(f"policy {plan.policy.name!r} makes no progress; see its settings")
        _next_blocks(policy, blocks, rows_R, z_BL, process)
        rows_R = rows_R[blocks.block_B[rows_R] < blocks.count]
    return replace(state, z_BL=z_BL, usage=usage)


def _begin(policy: CommitPolicy, z_BL: Tensor, first: int, process: MaskedProcess) -> _Blocks:
    B, length = z_BL.shape
    free = length - first
    size = min(policy.block_length or free, free)
    zeros_B = torch.zeros(B, dtype=torch.int64, device=z_BL.device)
    masked_BK = torch.ones((B, size), dtype=torch.bool, device=z_BL.device)
    log_q_BKV = None
    if "divergence" in policy.needs:
        log_q_BKV = torch.zeros((B, size, process.vocab_size), device=z_BL.device)
    return _Blocks(
        first=first,
        size=size,
        count=-(-free // size),
        block_B=zeros_B.clone(),
        call_B=zeros_B.clone(),
        masks_B=zeros_B + size,
        history=dict(policy.start(masked_BK)),
        log_q_BKV=log_q_BKV,
        fresh_BK=masked_BK.clone(),
    )


def _next_blocks(
    policy: CommitPolicy, blocks: _Blocks, rows_R: Tensor, z_BL: Tensor, process: MaskedProcess
) -> None:
    """Go on to the next block where the active one is finished."""
    length = z_BL.shape[1]
    place_RK, exists_RK = blocks.places(rows_R, length)
    masked_RK = exists_RK & (z_BL[rows_R[:, None], place_RK] == process.mask_id)
    done_N = rows_R[~masked_RK.any(dim=-1)]
    if done_N.numel() == 0:
        return
    blocks.block_B[done_N] += 1
    blocks.call_B[done_N] = 0
    _, exists_NK = blocks.places(done_N, length)
    blocks.masks_B[done_N] = exists_NK.sum(dim=-1)  # blocks ahead are all masks
    blocks.fresh_BK[done_N] = True
    for name, value in policy.start(exists_NK).items():
        blocks.history[name][done_N] = value


def _step(
    policy: CommitPolicy,
    plan: Plan,
    blocks: _Blocks,
    rows_R: Tensor,
    left_R: Tensor,
    num_calls: int,
    free: int,
) -> Tensor:
    """The step of the model schedule that every row stands at, (R,)."""
    if policy.by_share:
        step_R = (free - left_R) * plan.num_steps // free
    else:
        step_R = blocks.block_B[rows_R] * num_calls + blocks.call_B[rows_R]
    return step_R.clamp(max=plan.num_steps - 1)


def _predict(
    found: _Predicted,
    own_r: Tensor,
    rows_R: Tensor,
    place_RK: Tensor,
    masked_RK: Tensor,
    z_BL: Tensor,
    t_R: Tensor,
    denoiser: Denoiser,
    role: str,
    policy: CommitPolicy,
    decoding: Decoding,
    process: MaskedProcess,
    ids: SequenceIds,
    blocks: _Blocks,
    forced: Forced | None,
) -> None:
    """Fill `found` for the rows `own_r` of those that run."""
    rows_r = rows_R[own_r]
    z_rL, t_r = z_BL[rows_r], t_R[own_r].double()
    trunk = trunk_of(denoiser, z_rL, t_r)
    blind = None
    if policy.guidance:
        blind_rL = z_rL.clone()
        blind_rL[:, : blocks.first] = process.mask_id
        blind = trunk_of(denoiser, blind_rL, t_r)
    row_N, place_N = masked_RK[own_r].nonzero(as_tuple=True)
    for row_C, place_C in head_chunks(row_N, place_N, process, z_BL.device):
        position_C = place_RK[own_r[row_C], place_C]
        logits_CV = logits_of(denoiser, trunk, row_C, position_C)
        if blind is not None:
            blind_CV = logits_of(denoiser, blind, row_C, position_C)
            logits_CV = blind_CV + (policy.guidance + 1.0) * (logits_CV - blind_CV)
        at = own_r[row_C], place_C
        if forced is None:
            ids_C = ids.pick(rows_r[row_C])
            token_C = draw(logits_CV, ids_C, position_C, decoding, process, role)
        else:
            token_C = forced.text_BL[rows_r[row_C], position_C]
            log_p_CV = process.log_p_x(logits_CV)
            found.nats[at] = -log_p_CV.gather(1, token_C[:, None])[:, 0]
        is_likeliest = forced is None and decoding.temperature == 0
        if is_likeliest or policy.confidence == "drawn":
            likeliest_C = token_C  # of drawn tokens nobody asks which is the likeliest
        else:
            likeliest_C = process.scores(logits_CV, dtype=logits_CV.dtype).argmax(dim=-1)
        counts_C = token_C if policy.confidence == "drawn" else likeliest_C
        # Of all ids and in the precision of the logits, as the published rules.
        log_q_CV = logits_CV.log_softmax(dim=-1)
        found.token[at], found.likeliest[at] = token_C, likeliest_C
        found.confidence[at] = log_q_CV.gather(1, counts_C[:, None])[:, 0].double().exp()
        if "margin" in policy.needs:
            top_C2 = log_q_CV.topk(2, dim=-1).values.double().exp()
            found.margin[at] = top_C2[:, 0] - top_C2[:, 1]
        if "entropy" in policy.needs:
            q_CV = log_q_CV.exp()
            found.entropy[at] = -(q_CV * (q_CV + 1e-10).log()).sum(dim=-1).double()
        if blocks.log_q_BKV is not None:
            where = rows_r[row_C], place_C
            before_CV = blocks.log_q_BKV[where]
            moved_C = (log_q_CV.exp() * (log_q_CV - before_CV)).sum(dim=-1).double()
            found.divergence[at] = moved_C.masked_fill(blocks.fresh_BK[where], torch.inf)
            blocks.log_q_BKV[where] = log_q_CV.float()
            blocks.fresh_BK[where] = False

"""The loop that predicts at every step: guidance, clocks of tokens, processes in which all moves.

A step: the denoiser predicts, guides move the logits and say what they hold of every token, the
allocation policy gives every token its level, the process moves there. In the masked process with
constant clocks and no guidance it draws the tokens of the plain sampler.

Networks are called with a constant number of rows (see `forwards`), so whole chains run in batches
of that size, the last filled up: no token depends on its company.

Legend: B sequences of a batch, L positions, P given positions, T steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from schedlab.classifiers import Classifier
from schedlab.denoisers.base import Denoiser
from schedlab.errors import InputError
from schedlab.plan import Plan
from schedlab.policies import ALLOCATION_POLICIES, UNIFORM_POLICIES, allocation_policy
from schedlab.policies.allocation import Allocation, AllocationView
from schedlab.processes import Process, alpha, level, time_grid
from schedlab.sampling.chains import Chain, begin
from schedlab.sampling.events import Work
from schedlab.sampling.guidance import Pull, Steering, check_guides
from schedlab.sampling.noise import Purpose, SequenceIds, uniforms
from schedlab.sampling.sampler import State, Usage, check_roles
from schedlab.sampling.signals import Signals, check_signal

GUIDANCE = "guidance"
"""What guides are asked for is counted under this name, as head positions: passes forward and
back."""
ABLATION = "ablation"
"""And their forwards for the signal of that name."""


@dataclass(frozen=True)
class DenseStep:
    """A step, for whoever watches.

    Args:
        step, t: its number and noise level.
        input_BL: tokens that the denoiser saw: of a simplex the largest values.
        output_BL: likeliest tokens before guidance; where there is no prediction, the tokens.
        guided_BL: after guidance.
        drawn_BL: tokens that the step ended with.
        levels_BL: t_i, float64: a step above what tokens were noised to.
        open_BL: positions with a prediction.
        signal_BL: what the policy read.
        pull: of the guides, at guided steps.
    """

    step: int
    t: float
    input_BL: Tensor
    output_BL: Tensor
    guided_BL: Tensor
    drawn_BL: Tensor
    levels_BL: Tensor
    open_BL: Tensor
    signal_BL: Tensor
    pull: Pull | None


Trace = Callable[[DenseStep], None]


def usage_names(plan: Plan) -> tuple[str, ...]:
    """What a plan's requests are counted under: its roles, and what its guides are asked for."""
    names = plan.model_schedule.roles
    if plan.guidance is not None:
        names = (*names, GUIDANCE)
    if plan.policy.parameters.get("signal") == "ablation":
        names = (*names, ABLATION)
    return names


def check_dense(plan: Plan, guides: Mapping[str, Classifier]) -> Allocation:
    """The policy of a plan for this loop.

    Raises:
        InputError: a policy that belongs to another loop, or a signal or a guide that is not
            there.
    """
    name = plan.policy.name
    known = (*ALLOCATION_POLICIES, *UNIFORM_POLICIES)
    if name != "ancestral" and name not in known:
        raise InputError(
            f"policy {name!r} takes no guidance and belongs to the masked process; use"
            f" 'ancestral' or one of {', '.join(ALLOCATION_POLICIES)}"
        )
    parameters = plan.policy.parameters
    own_grid = not isinstance(plan.time_grid, str)
    if own_grid and name in ("ancestral", "psi"):
        parameters = parameters | {"integer": False}
    policy = allocation_policy(name, parameters)
    if own_grid and policy.integer:
        raise InputError(
            f"policy {name!r}: integer is for levels k / T; set it to false with a time_grid of"
            " your own"
        )
    check_guides(plan.guidance, guides)
    if plan.guidance is not None:
        for attribute in plan.guidance.attributes:
            guides[attribute.classifier].check_length(plan.length)
    check_signal(policy.reads, plan.guidance, say=lambda why: f"policy {name!r}: {why}")
    return policy


@torch.inference_mode()
def sample_dense(
    plan: Plan,
    denoisers: Mapping[str, Denoiser],
    process: Process,
    ids: SequenceIds,
    prefix_BP: Tensor | None = None,
    *,
    guides: Mapping[str, Classifier] | None = None,
    work: Work | None = None,
    trace: Trace | None = None,
) -> State:
    """Run a plan on one batch of sequences.

    Args:
        plan, denoisers, process, ids, prefix_BP: as for `sampler.sample`.
        guides: classifiers by name, for plans with guidance.
        work: counts what is done.
        trace: receives every step.

    Raises:
        InputError: see `check_dense`; a denoiser that cannot read levels of tokens.
        SchedlabError: logits or gradients that are not finite.
    """
    check_roles(plan, denoisers)
    policy = check_dense(plan, guides or {})
    run = _Run(plan, process, ids, policy, Signals(plan.guidance, guides or {}))
    chain = begin(plan, process, ids, prefix_BP)
    steering = None if plan.guidance is None else Steering(plan.guidance, guides or {})
    grid_T1 = time_grid(plan.time_grid, plan.num_steps)
    grid = grid_T1.tolist()
    kappas = policy.kappas(alpha(plan.noise_schedule)(grid_T1).tolist())
    zeros = torch.zeros_like(ids.seed_B)
    names = usage_names(plan)
    usage = {name: Usage(zeros.clone(), zeros.clone()) for name in names}
    clock_BL = torch.full(chain.free_BL.shape, grid[0], dtype=torch.float64, device=zeros.device)
    by_rule_BL = stands_BL = clock_BL  # what tokens were noised to: by the rule, and really
    for k, role in enumerate(plan.model_schedule.steps):
        started = time.perf_counter()
        denoiser, t, last = denoisers[role], grid[k], k == plan.num_steps - 1
        if policy.token_time and denoiser.spec.time_input != "token":
            raise InputError(
                f"policy {plan.policy.name!r}: token_time needs denoisers that were trained with a"
                f" level of every token, which {role!r} was not"
            )
        seen_BL = _seen(chain) if trace is not None else None
        logits_NV, at = chain.predict(denoiser, t, stands_BL if policy.token_time else None)
        usage[role].forwards_B[:] += 1
        usage[role].head_positions_B.index_add_(0, at[0], torch.ones_like(at[0]))
        output_BL = _likeliest(chain, logits_NV, at) if trace is not None else None
        pull = None
        if steering is not None and steering.is_on(k, grid[:-1]):
            pull = steering.pull(logits_NV, at, chain.tokens_BL, ids, t)
            assert plan.guidance is not None
            passes = plan.guidance.iterations * len(plan.guidance.attributes)
            usage[GUIDANCE].head_positions_B[:] += passes
        view = run.view(k, grid, clock_BL, chain, logits_NV, at, pull)
        if run.ablates(k):
            assert plan.guidance is not None
            passes = (plan.length + 1) * len(plan.guidance.attributes)
            usage[ABLATION].head_positions_B[:] += passes
        clock_BL = policy.levels(view)
        # One step below t_i: released code noises to abar[t_i - 1].
        below_BL = (clock_BL - (t - grid[k + 1])).clamp(min=0.0)
        lowest_BL = chain.lowest(by_rule_BL, stands_BL)
        by_rule_BL = below_BL if lowest_BL is None else torch.minimum(lowest_BL, below_BL)
        stands_BL = policy.pool(by_rule_BL, view)
        guided_BL = _likeliest(chain, logits_NV, at) if trace is not None else None
        if last:
            chain.finish(logits_NV, at, role)
        else:
            chain.move(logits_NV, at, stands_BL, k, role, kappas[k])
        if work is not None:
            work.add(role, len(ids), 1, time.perf_counter() - started)
        if trace is not None:
            assert seen_BL is not None and output_BL is not None and guided_BL is not None
            trace(
                DenseStep(
                    k, t, seen_BL, output_BL, guided_BL, chain.tokens_BL.clone(),
                    clock_BL if policy.pooled == "none" else stands_BL + (t - grid[k + 1]),
                    view.open_BL, view.signal_BL, pull,
                )
            )  # fmt: skip
    return State(
        z_BL=chain.tokens_BL,
        reveal_uniform_BL=torch.empty(0),
        free_BL=chain.free_BL,
        ids=ids,
        usage=usage,
    )


@dataclass
class _Run:
    plan: Plan
    process: Process
    ids: SequenceIds
    policy: Allocation
    signals: Signals

    def ablates(self, k: int) -> bool:
        """Whether tokens are left out one by one at a step: where somebody reads what it does."""
        warm = self.policy.is_warming_up(k, self.plan.num_steps)
        return self.policy.reads == "ablation" and not warm and k < self.plan.num_steps - 1

    def view(
        self,
        k: int,
        grid: list[float],
        clock_BL: Tensor,
        chain: Chain,
        logits_NV: Tensor,
        at: tuple[Tensor, Tensor],
        pull: Pull | None,
    ) -> AllocationView:
        open_BL = torch.zeros_like(chain.free_BL)
        open_BL[at] = True
        reads = self.policy.reads
        if reads == "ablation" and not self.ablates(k):
            reads = "none"
        signal_BL = self.signals.of_step(
            reads, logits_NV, at, chain.tokens_BL, self.ids, grid[k], pull
        )
        position_L = torch.arange(self.plan.length, device=open_BL.device)
        return AllocationView(
            step=k,
            num_steps=self.plan.num_steps,
            t=grid[k],
            s=grid[k + 1],
            highest=grid[0],
            clock_BL=clock_BL,
            free_BL=chain.free_BL,
            open_BL=open_BL,
            signal_BL=-signal_BL if self.policy.invert else signal_BL,
            uniforms=lambda: uniforms(self.ids, Purpose.CLOCK, position_L, k),
            alpha=alpha(self.plan.noise_schedule),
            level=level(self.plan.noise_schedule),
        )


def _likeliest(chain: Chain, logits_NV: Tensor, at: tuple[Tensor, Tensor]) -> Tensor:
    found_BL = chain.tokens_BL.clone()
    found_BL[at] = logits_NV.argmax(-1)
    return found_BL


def _seen(chain: Chain) -> Tensor:
    X_BLV = getattr(chain, "X_BLV", None)
    if X_BLV is None:
        return chain.tokens_BL.clone()
    return torch.where(chain.free_BL, X_BLV.argmax(-1), chain.tokens_BL)

"""`evaluate`: the only place where plans are run.

Every (plan, seed block) is looked up in the store first. What is missing is sampled along the
prefix tree of model schedules on common noise, several seed blocks in one batch, scored block by
block, and stored as soon as its plan is finished. Tokens depend neither on the batch nor on which
other plans are asked for, since all randomness is addressed and networks are called in one shape
(`schedlab.sampling.forwards`).

`seconds`: wall time of the denoising steps (scoring left out). The time of a run of steps is
divided among the sequences of the batch by their forwards in it. A plan is charged the whole path
from the first step, so shared beginnings count in every plan that has them: the figure says what
the plan costs when run by itself in batches of this size, and the sum over plans exceeds the time
spent.

Legend: B sequences of a batch, L positions, P prefix positions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from schedlab.errors import InputError, SchedlabError
from schedlab.evaluation.lab import Lab
from schedlab.evaluation.prefix_tree import leaves
from schedlab.evaluation.prompts import Prompts
from schedlab.metrics import Samples, compute_all, metric_versions
from schedlab.metrics.cost import role_costs
from schedlab.plan import Plan
from schedlab.results.measurement import Measurement, merge
from schedlab.results.record import BlockRecord, Identity, RoleUsage
from schedlab.results.seed_block import SeedBlock
from schedlab.results.store import Store
from schedlab.sampling import SequenceIds, State, advance, check_roles, start

ENGINE_VERSION = 2
"""Part of the store's key: raise it when the sampler gives other tokens for the same plan."""

MAX_BATCH = 64

Progress = Callable[[int, int], None]
"""(records there, records asked for): called at the start and after every new record."""


def evaluate(
    plans: Sequence[Plan],
    blocks: Sequence[SeedBlock],
    *,
    lab: Lab,
    store: Store,
    prompts: Prompts | None = None,
    max_batch: int = MAX_BATCH,
    progress: Progress | None = None,
) -> list[Measurement]:
    """Measure plans on seed blocks; what the store holds is not run again.

    Args:
        plans: what to measure; plans that differ in the model schedule only share computation.
        blocks: which sequences; all plans get the same noise.
        lab: denoisers, scorer and the rest.
        store: finished evaluations; every new one is written at once.
        prompts: given prefixes; None for unconditional samples.
        max_batch: most sequences in a batch, at least the size of a block. Changes time and memory
            only.
        progress: told how far it is.

    Returns:
        One measurement per plan, in order, each over all blocks.

    Raises:
        InputError: a plan that does not fit the lab or the prompts, no or repeated blocks, a batch
            smaller than a block.
        SchedlabError: a denoiser or the scorer gave numbers that are not finite. Whatever was
            finished before stays in the store.
    """
    run_missing(
        plans,
        blocks,
        lab=lab,
        store=store,
        prompts=prompts,
        max_batch=max_batch,
        progress=progress,
    )
    return [
        merge([_stored(store, identity_of(plan, block, lab, prompts).key) for block in blocks])
        for plan in plans
    ]


def run_missing(
    plans: Sequence[Plan],
    blocks: Sequence[SeedBlock],
    *,
    lab: Lab,
    store: Store,
    prompts: Prompts | None = None,
    max_batch: int = MAX_BATCH,
    progress: Progress | None = None,
) -> None:
    """Run and store what the store does not hold; `evaluate` without the merging."""
    _check(plans, blocks, lab, prompts, max_batch)
    identities = {
        (plan, block): identity_of(plan, block, lab, prompts)
        for plan in dict.fromkeys(plans)
        for block in blocks
    }
    # Damaged files count as missing, so every record is read here and not merely looked for. They
    # are read again for merging instead of kept: tokens as lists take far more memory than arrays.
    missing = [work for work, identity in identities.items() if store.get(identity.key) is None]
    done, total = len(identities) - len(missing), len(identities)
    if progress is not None:
        progress(done, total)
    for tree_plans, tree_blocks in _trees(missing, max_batch):
        for record in _run_tree(tree_plans, tree_blocks, identities, lab, prompts):
            store.put(record)
            done += 1
            if progress is not None:
                progress(done, total)


def identity_of(plan: Plan, block: SeedBlock, lab: Lab, prompts: Prompts | None) -> Identity:
    """What the record of a plan on a block is known by in the store."""
    return Identity(
        plan=plan,
        block=block,
        denoisers={role: lab.denoisers[role].fingerprint for role in plan.model_schedule.roles},
        tokenizer=lab.tokenizer.fingerprint,
        scorer=lab.scorer.fingerprint,
        prompts=prompts.digest_of(block) if prompts is not None else None,
        precision=lab.precision,
        device=lab.device_kind,
        engine=ENGINE_VERSION,
        metrics=metric_versions(),
    )


def _trees(
    missing: Sequence[tuple[Plan, SeedBlock]], max_batch: int
) -> Iterator[tuple[tuple[Plan, ...], tuple[SeedBlock, ...]]]:
    """Prefix trees to walk: plans of one family, and a batch of blocks that all of them miss."""
    plans_of: dict[tuple[str, SeedBlock], list[Plan]] = {}
    for plan, block in missing:
        plans_of.setdefault((plan.family_digest, block), []).append(plan)
    blocks_of: dict[tuple[Plan, ...], list[SeedBlock]] = {}
    for (_, block), plans in plans_of.items():
        blocks_of.setdefault(tuple(plans), []).append(block)
    for tree_plans, tree_blocks in blocks_of.items():
        batch: list[SeedBlock] = []
        for block in tree_blocks:
            if sum(other.size for other in batch) + block.size > max_batch:
                yield tree_plans, tuple(batch)
                batch = []
            batch.append(block)
        yield tree_plans, tuple(batch)


@dataclass(frozen=True)
class _Timed:
    """A sampler state and the seconds charged to each sequence so far, float64 (B,)."""

    state: State
    seconds_B: Tensor


def _run_tree(
    plans: Sequence[Plan],
    blocks: Sequence[SeedBlock],
    identities: Mapping[tuple[Plan, SeedBlock], Identity],
    lab: Lab,
    prompts: Prompts | None,
) -> Iterator[BlockRecord]:
    """Records of all plans on all blocks, each as soon as its plan is finished."""
    ids = SequenceIds.of(blocks, device=lab.device)
    prefix_BP = None
    if prompts is not None:
        prefixes = np.concatenate([prompts.of_block(block) for block in blocks])
        prefix_BP = torch.from_numpy(prefixes).to(lab.device)

    # inference_mode is entered per call: held over a yield it would leak into the caller.
    @torch.inference_mode()
    def run(node: _Timed, plan: Plan, role: str, k_from: int, k_to: int) -> _Timed:
        begin = time.perf_counter()
        state = advance(node.state, plan, lab.process, lab.denoisers[role], role, k_from, k_to)
        if lab.device_kind == "cuda":
            torch.cuda.synchronize(lab.device)
        elapsed = time.perf_counter() - begin
        before = node.state.usage.get(role)
        forwards_B = state.usage[role].forwards_B - (before.forwards_B if before else 0)
        # With no forward at all the time is overhead, shared equally.
        weight_B = (forwards_B if forwards_B.any() else torch.ones_like(forwards_B)).double()
        share_B = (weight_B / weight_B.sum()).cpu()
        return _Timed(state, node.seconds_B + elapsed * share_B)

    with torch.inference_mode():
        root = _Timed(
            start(plans[0], lab.process, ids, prefix_BP),
            torch.zeros(len(ids), dtype=torch.float64),
        )
    for plan, node in leaves(plans, root, run):
        first = 0
        for block in blocks:
            rows = slice(first, first + block.size)
            yield _record(identities[plan, block], node, rows, lab, prompts)
            first += block.size


def _record(
    identity: Identity, node: _Timed, rows: slice, lab: Lab, prompts: Prompts | None
) -> BlockRecord:
    """Score one block: by itself, so that scores do not depend on the batch."""
    prefix_length = prompts.prefix_length if prompts is not None else 0
    tokens_BL = node.state.z_BL[rows].cpu().numpy()
    samples = Samples.of(
        tokens_BL, prefix_length=prefix_length, codec=lab.tokenizer, scorer=lab.scorer
    )
    return BlockRecord(
        identity=identity,
        prefix_length=prefix_length,
        tokens=tokens_BL.tolist(),
        scores={name: _column(name, column) for name, column in compute_all(samples).items()},
        usage={
            role: RoleUsage(
                forwards=usage.forwards_B[rows].tolist(),
                head_positions=usage.head_positions_B[rows].tolist(),
            )
            for role, usage in node.state.usage.items()
        },
        costs=role_costs(identity.plan, lab.denoisers),
        seconds=node.seconds_B[rows].tolist(),
    )


def _column(name: str, column_B: np.ndarray) -> list[float | None]:
    """NaN says that a metric is undefined for a sample; an infinity is a failure."""
    if np.isinf(column_B).any() or (name == "nll" and np.isnan(column_B).any()):
        raise SchedlabError(f"metric {name!r} gave a value that is not finite; check the scorer")
    return [None if math.isnan(value) else value for value in column_B.tolist()]


def _stored(store: Store, key: str) -> BlockRecord:
    record = store.get(key)
    if record is None:
        raise SchedlabError(f"{store.path(key)}: vanished from the store during the evaluation")
    return record


def _check(
    plans: Sequence[Plan],
    blocks: Sequence[SeedBlock],
    lab: Lab,
    prompts: Prompts | None,
    max_batch: int,
) -> None:
    if not blocks or len(set(blocks)) != len(blocks):
        raise InputError(
            f"seed blocks must be at least one and differ, got {len(blocks)},"
            f" of which {len(set(blocks))} differ"
        )
    if sum(block.size for block in blocks) < 2:
        raise InputError(
            "intervals need at least 2 sequences, got one seed block of 1; add blocks"
        )
    largest = max(block.size for block in blocks)
    if max_batch < largest:
        raise InputError(
            f"max_batch must be at least the size of a seed block, {largest}, got {max_batch}"
        )
    for plan in plans:
        check_roles(plan, lab.denoisers)
        if plan.length > lab.max_length:
            raise InputError(
                f"a plan's length must be at most the {lab.max_length} that the denoisers were"
                f" trained for, got {plan.length}; lower length"
            )
        if prompts is not None and prompts.prefix_length >= plan.length:
            raise InputError(
                f"a prefix must be shorter than the plan's length {plan.length}, got"
                f" {prompts.prefix_length} tokens; shorten it"
            )

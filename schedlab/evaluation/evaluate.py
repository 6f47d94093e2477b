"""`evaluate`: the only place where plans are run.

Every (plan, seed block) is looked up in the store first. What is missing is sampled, all plans and
blocks on common noise, and by the event sampler in common calls; when a block's sequences are
finished, the block is scored, equal texts once, and stored, one record per plan. Tokens depend
neither on the batch nor on which other plans are asked for, since all randomness is addressed and
networks are called in one shape (`schedlab.sampling.forwards`).

`seconds`: what a plan costs when it is run by itself: its forwards, times the mean wall time of a
forward of each denoiser here so far (head and draw included, scoring left out); of plans that
predict at every step, in this block. Forwards that plans share count in every one of them, so the
sum over plans exceeds the time spent. Sequences of a block share one price: intervals of `seconds`
over sequences cover how many forwards there are, not how long one takes.

Legend: B sequences, L positions, P prefix positions, S sequences of a block, U different texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from schedlab.denoisers.base import Denoiser, keeping, shadowing, takes_padding
from schedlab.errors import InputError, SchedlabError
from schedlab.evaluation.lab import NO_SCORER, Lab
from schedlab.evaluation.prefix_tree import steps_to_run
from schedlab.evaluation.prompts import Given, HeldOut, Prompts
from schedlab.metrics import Samples, compute_all, metric_names, metric_versions
from schedlab.metrics.control import CONTROL_VERSION, control_scores, known_attributes
from schedlab.metrics.cost import expected_cost, role_costs
from schedlab.metrics.duel import check_has_likelihood, has_random_order, scored
from schedlab.metrics.samples import FloatArray
from schedlab.plan import Plan, families_of
from schedlab.policies import COMMIT_POLICIES, OWN_LOOP, check_policy, commit_policy
from schedlab.processes import Process, SimplexProcess, only_masked
from schedlab.results.measurement import DUEL_NATS, DUEL_TOKENS, Measurement, merge
from schedlab.results.record import BlockRecord, Identity, RoleUsage
from schedlab.results.seed_block import SeedBlock
from schedlab.results.store import Store
from schedlab.sampling import Sampled, SequenceIds, Work, check_dense, check_roles, sample_plans
from schedlab.sampling.dense import usage_names
from schedlab.sampling.guidance import check_guides
from schedlab.tasks import Task

ACCURACY = "accuracy"
DUEL_VERSION = 1
ENGINE_VERSION = 4
"""Part of the store's key: raise it when the sampler gives other tokens for the same plan."""

Progress = Callable[[int, int], None]
"""(records there, records asked for): called at the start and as sampling goes on; what is sampled
and not yet stored counts in part."""


def evaluate(
    plans: Sequence[Plan],
    blocks: Sequence[SeedBlock],
    *,
    lab: Lab,
    store: Store,
    prompts: Given | None = None,
    progress: Progress | None = None,
) -> list[Measurement]:
    """Measure plans on seed blocks; what the store holds is not run again.

    Args:
        plans: what to measure; plans that differ in the model schedule only share computation.
        blocks: which sequences; all plans get the same noise.
        lab: denoisers, scorer and the rest.
        store: finished evaluations; every new one is written at once.
        prompts: given prefixes; None for unconditional samples; whole texts to measure their
            likelihood instead of sampling.
        progress: told how far it is.

    Returns:
        One measurement per plan, in order, each over all blocks.

    Raises:
        InputError: a plan that does not fit the lab or the prompts, no or repeated blocks.
        SchedlabError: a denoiser or the scorer gave numbers that are not finite. Whatever was
            finished before stays in the store.
    """
    run_missing(
        plans,
        blocks,
        lab=lab,
        store=store,
        prompts=prompts,
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
    prompts: Given | None = None,
    progress: Progress | None = None,
    work: Work | None = None,
) -> None:
    """`evaluate` without the merging: run and store what the store does not hold.

    What is really run is counted in `work`.
    """
    _check(plans, blocks, lab, prompts)
    identities = {
        (plan, block): identity_of(plan, block, lab, prompts)
        for plan in dict.fromkeys(plans)
        for block in blocks
    }
    # Damaged files count as missing, so every record is read here and not merely looked for. They
    # are read again for merging instead of kept: tokens as lists take far more memory than arrays.
    missing = [pair for pair, identity in identities.items() if store.get(identity.key) is None]
    done, total = len(identities) - len(missing), len(identities)

    said = 0

    def told(waiting: float) -> None:
        nonlocal said
        said = max(said, min(total, done + int(waiting)))
        if progress is not None:
            progress(said, total)

    told(0)
    for group, group_blocks in _groups(missing, lab, prompts):
        # A price of its own for every group: forwards of other lengths, with shadows, locks or a
        # cache cost something else.
        priced = work or Work()
        if isinstance(prompts, HeldOut):
            records = _likelihoods(group, group_blocks, identities, lab, prompts, priced)
        else:
            records = _run_group(group, group_blocks, identities, lab, prompts, told, priced)
        for record in records:
            store.put(record)
            done += 1
            told(0)


def identity_of(plan: Plan, block: SeedBlock, lab: Lab, prompts: Given | None) -> Identity:
    """What the record of a plan on a block is known by in the store."""
    return Identity(
        plan=plan,
        block=block,
        denoisers={role: lab.denoisers[role].fingerprint for role in plan.model_schedule.roles},
        tokenizer=lab.tokenizer.fingerprint,
        scorer=lab.scorer.fingerprint if lab.scorer else NO_SCORER,
        prompts=prompts.digest_of(block) if prompts is not None else None,
        precision=lab.precision,
        device=lab.kernels,
        engine=ENGINE_VERSION,
        metrics=_metric_versions(plan, lab, prompts),
        classifiers=_classifiers(plan, lab),
    )


def _classifiers(plan: Plan, lab: Lab) -> dict[str, str]:
    """Fingerprints of those that a plan's tokens and scores depend on."""
    if plan.guidance is None:
        return {}
    names = {attribute.classifier for attribute in plan.guidance.attributes} & lab.guides.keys()
    guides = {f"guide {name}": lab.guides[name].fingerprint for name in sorted(names)}
    return guides | {f"judge {name}": model.fingerprint for name, model in lab.judges.items()}


def _metric_versions(plan: Plan, lab: Lab, prompts: Given | None) -> dict[str, int]:
    if isinstance(prompts, HeldOut):
        return {"duel": DUEL_VERSION}
    versions = metric_versions(_metric_names(lab, prompts))
    if plan.guidance is not None and lab.judges:
        versions |= {"control": CONTROL_VERSION}
    return versions if _task_of(prompts) is None else versions | {ACCURACY: 1}


def _metric_names(lab: Lab, prompts: Given | None) -> tuple[str, ...]:
    of_answers = _task_of(prompts) is not None
    return metric_names(has_scorer=lab.scorer is not None, of_answers=of_answers)


def _task_of(prompts: Given | None) -> Task | None:
    return prompts.task if isinstance(prompts, Prompts) else None


def _groups(
    missing: Sequence[tuple[Plan, SeedBlock]], lab: Lab, prompts: Given | None
) -> Iterator[tuple[tuple[Plan, ...], tuple[SeedBlock, ...]]]:
    """What is sampled together, and the blocks that all of it misses: plans of one length, but
    those of policies with their own loop share no forwards, so each family is by itself."""
    plans_of: dict[tuple[int, str, bool, SeedBlock], list[Plan]] = {}
    for plan, block in missing:
        by_itself = plan.is_dense or plan.policy.name in OWN_LOOP
        family = plan.family_digest if by_itself else ""
        key = (plan.length, family, _hides_padding(plan, lab, prompts), block)
        plans_of.setdefault(key, []).append(plan)
    blocks_of: dict[tuple[Plan, ...], list[SeedBlock]] = {}
    for (*_, block), plans in plans_of.items():
        blocks_of.setdefault(tuple(plans), []).append(block)
    for group, blocks in blocks_of.items():
        yield group, tuple(blocks)


def _hides_padding(plan: Plan, lab: Lab, prompts: Given | None) -> bool:
    """Whether prompts are filled up and all denoisers of a plan can look away from it."""
    if not isinstance(prompts, Prompts) or prompts.padding_N is None:
        return False
    return all(takes_padding(lab.denoisers[role]) for role in plan.model_schedule.roles)


def _run_group(
    plans: Sequence[Plan],
    blocks: Sequence[SeedBlock],
    identities: Mapping[tuple[Plan, SeedBlock], Identity],
    lab: Lab,
    prompts: Prompts | None,
    told: Callable[[float], None],
    work: Work,
) -> Iterator[BlockRecord]:
    """Records of all plans on all blocks, block by block."""
    prefix_BP = None
    if prompts is not None:
        prefixes = np.concatenate([prompts.of_block(block) for block in blocks])
        prefix_BP = torch.from_numpy(prefixes).to(lab.device)
    block_B = np.repeat(np.arange(len(blocks)), [block.size for block in blocks])
    first_of = np.cumsum([0, *(block.size for block in blocks)])
    num_families = len(families_of(plans))
    stored, before = 0, sum(work.forwards.values())
    priced = work.copy()
    # At most: states that turn out equal save the rest, and progress jumps at the end.
    most = len(block_B) * _forwards_per_sequence(plans, lab, prompts)

    def sampled() -> None:
        share = min(1.0, (sum(work.forwards.values()) - before) / most)
        told(max(0.0, share * len(plans) * len(blocks) - stored))

    found_of: dict[int, list[Sampled]] = {}
    for found in sample_plans(
        plans, lab.denoisers, lab.process, SequenceIds.of(blocks, device=lab.device), prefix_BP,
        work=work, progress=sampled, end_id=lab.tokenizer.eot_id,
        padding_B=_padding(plans, blocks, lab, prompts), guides=lab.guides,
    ):  # fmt: skip
        number = int(block_B[found.sequence])
        found_of.setdefault(number, []).append(found)
        if len(found_of[number]) == blocks[number].size * num_families:
            own = sorted(found_of.pop(number), key=lambda one: (one.sequence, one.plans))
            block, first = blocks[number], int(first_of[number])
            # Plans of the event sampler share forwards, and blocks are finished out of turn.
            prices = _prices(work, since=priced if plans[0].is_dense else None)
            priced = work.copy()
            yield from _records(plans, block, first, own, prices, identities, lab, prompts)
            stored += len(plans)


def _padding(
    plans: Sequence[Plan], blocks: Sequence[SeedBlock], lab: Lab, prompts: Prompts | None
) -> torch.Tensor | None:
    """Positions of every sequence that are hidden, (B,); of a group all hide them or none."""
    if prompts is None or not _hides_padding(plans[0], lab, prompts):
        return None
    found = [prompts.padding_of_block(block) for block in blocks]
    known = [padding_B for padding_B in found if padding_B is not None]
    return torch.from_numpy(np.concatenate(known)).to(lab.device)


def _forwards_per_sequence(plans: Sequence[Plan], lab: Lab, prompts: Given | None) -> float:
    """Expected forwards of all plans on a sequence, those of shared beginnings once."""
    prefix_length = prompts.prefix_length if prompts is not None else 0
    total = 0.0
    for places in families_of(plans):
        family = [plans[place] for place in places]
        if family[0].is_dense or family[0].policy.name in OWN_LOOP:  # no shared beginnings
            for plan in family:
                cost = expected_cost(
                    plan,
                    role_costs(plan, lab.denoisers, prefix_length, guides=lab.guides),
                    prefix_length=prefix_length,
                )
                total += sum(cost.forwards.values())
            continue
        costs = role_costs(family[0], lab.denoisers, prefix_length, guides=lab.guides)
        cost = expected_cost(family[0], costs, prefix_length=prefix_length)
        per_step = sum(cost.forwards.values()) / family[0].num_steps
        total += per_step * sum(steps_to_run(family).values())
    return total


def _records(
    plans: Sequence[Plan],
    block: SeedBlock,
    first: int,
    found: Sequence[Sampled],
    seconds: Mapping[str, float],
    identities: Mapping[tuple[Plan, SeedBlock], Identity],
    lab: Lab,
    prompts: Prompts | None,
) -> Iterator[BlockRecord]:
    """Score a block, every different text once, and make one record per plan."""
    prefix_length = prompts.prefix_length if prompts is not None else 0
    tokens_UL = np.concatenate([one.tokens_UL for one in found])
    text_NS = np.zeros((len(plans), block.size), dtype=np.int64)
    roles = dict.fromkeys(role for plan in plans for role in usage_names(plan))
    forwards, head_positions, positions = (
        {role: np.zeros_like(text_NS) for role in roles} for _ in range(3)
    )
    some = [False] * len(plans)  # whether plans compute some positions only
    offset = 0
    for one in found:
        at = list(one.plans), one.sequence - first
        text_NS[at] = offset + one.text_N
        offset += len(one.tokens_UL)
        for role in one.forwards:
            forwards[role][at] = one.forwards[role]
            head_positions[role][at] = one.head_positions[role]
            if one.positions is not None:
                positions[role][at] = one.positions[role]
        for place in one.plans:
            some[place] = one.positions is not None
    samples = Samples.of(
        tokens_UL, prefix_length=prefix_length, codec=lab.tokenizer, scorer=lab.scorer
    )
    right_U = _right(samples, [one.sequence - first for one in found for _ in one.tokens_UL],
                     block, prompts)  # fmt: skip
    names = _metric_names(lab, prompts)
    for n, measured in enumerate(compute_all(samples, text_NS, names)):
        own = usage_names(plans[n])
        scores = {**measured} if right_U is None else {**measured, ACCURACY: right_U[text_NS[n]]}
        if (guidance := plans[n].guidance) is not None:
            number_S = np.arange(block.first, block.first + block.size)
            scores |= control_scores(
                guidance,
                lab.guides,
                lab.judges,
                tokens_UL[:, prefix_length:],
                text_NS[n],
                number_S,
            )
        yield BlockRecord(
            identity=identities[plans[n], block],
            prefix_length=prefix_length,
            tokens=tokens_UL[text_NS[n]].tolist(),
            scores={name: _column(name, column) for name, column in scores.items()},
            usage={
                role: RoleUsage(
                    forwards=forwards[role][n].tolist(),
                    head_positions=head_positions[role][n].tolist(),
                    positions=positions[role][n].tolist() if some[n] else None,
                )
                for role in own
            },
            costs=role_costs(plans[n], lab.denoisers, prefix_length, guides=lab.guides),
            seconds=sum(
                (seconds.get(role, 0.0) * forwards[role][n] for role in own), np.zeros(block.size)
            ).tolist(),
        )


def _right(
    samples: Samples, place_U: Sequence[int], block: SeedBlock, prompts: Prompts | None
) -> FloatArray | None:
    """1 for every text that answers its item of the task, else 0, (U,)."""
    task = _task_of(prompts)
    if task is None:
        return None
    answers = [text.generated[0] for text in samples.texts]  # up to the first separator
    return np.array(
        [
            float(task.is_right(block.first + place, answer))
            for place, answer in zip(place_U, answers, strict=True)
        ]
    )


def _prices(work: Work, since: Work | None = None) -> dict[str, float]:
    """Mean seconds of a forward, by role; of what was done since, if there was any."""
    prices = {}
    for role, forwards in work.forwards.items():
        seconds = work.seconds[role]
        if since is not None and forwards > since.forwards.get(role, 0):
            forwards -= since.forwards.get(role, 0)
            seconds -= since.seconds.get(role, 0.0)
        prices[role] = seconds / forwards
    return prices


def _likelihoods(
    plans: Sequence[Plan],
    blocks: Sequence[SeedBlock],
    identities: Mapping[tuple[Plan, SeedBlock], Identity],
    lab: Lab,
    texts: HeldOut,
    work: Work,
) -> Iterator[BlockRecord]:
    """Records of what texts cost under all plans: nothing is drawn, seeds only choose texts."""
    for block in blocks:
        tokens_SL = texts.of_block(block)
        for plan in plans:
            own = Work()
            bound, asked = scored(
                plan, lab.denoisers, only_masked(lab.process, "likelihoods"), tokens_SL,
                prefix_length=texts.prefix_length, end_id=lab.tokenizer.eot_id,
                device=lab.device, work=own, seeds=block,
            )  # fmt: skip
            seconds = _prices(own)
            for role in own.forwards:
                work.add(role, own.forwards[role], own.calls[role], own.seconds[role])
            yield BlockRecord(
                identity=identities[plan, block],
                prefix_length=texts.prefix_length,
                tokens=tokens_SL.tolist(),
                scores={
                    DUEL_NATS: bound.nats_S.tolist(),
                    DUEL_TOKENS: bound.tokens_S.astype(float).tolist(),
                },
                usage={
                    role: RoleUsage(
                        forwards=found.forwards_B.tolist(),
                        head_positions=found.head_positions_B.tolist(),
                        positions=None
                        if found.positions_B is None
                        else found.positions_B.tolist(),
                    )
                    for role, found in asked.items()
                },
                costs=role_costs(plan, lab.denoisers, texts.prefix_length),
                seconds=sum(
                    (
                        seconds.get(role, 0.0) * found.forwards_B.cpu().numpy()
                        for role, found in asked.items()
                    ),
                    np.zeros(block.size),
                ).tolist(),
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
    prompts: Given | None,
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
    for plan in plans:
        check_plan(plan, lab, prompts)


def check_process(plan: Plan, process: Process, denoisers: Mapping[str, Denoiser]) -> None:
    """Refuse a plan of another process than its denoisers'.

    Raises:
        InputError: process, noise schedule or simplex value differ.
    """
    spec = denoisers[plan.model_schedule.roles[0]].spec
    pairs: list[tuple[str, object, object]] = [("process", plan.process, spec.process)]
    if isinstance(process, SimplexProcess):
        pairs.append(("noise_schedule", plan.noise_schedule, spec.noise_schedule))
        pairs.append(("simplex_value", plan.simplex_value, process.value))
    for name, ours, theirs in pairs:
        if ours != theirs:
            raise InputError(
                f"plan.{name} is {ours!r}, the denoisers were trained for {theirs!r}; set it so"
            )


def check_plan(plan: Plan, lab: Lab, prompts: Given | None) -> None:
    """Refuse a plan that cannot be evaluated, before anything is run.

    Raises:
        InputError: it does not fit the lab or the prompts, or its policy asks for what a denoiser
            cannot do.
    """
    check_roles(plan, lab.denoisers)
    check_policy(plan.policy)
    check_process(plan, lab.process, lab.denoisers)
    if plan.length > lab.max_length:
        raise InputError(
            f"a plan's length must be at most the {lab.max_length} that the denoisers were"
            f" trained for, got {plan.length}; lower length"
        )
    if plan.is_dense:
        check_dense(plan, lab.guides)
        if isinstance(prompts, HeldOut):
            raise InputError(
                f"policy {plan.policy}: with guidance, clocks of tokens or processes other than"
                " the masked one there is no exact likelihood; measure samples"
            )
    if plan.guidance is not None:
        check_guides(plan.guidance, lab.guides)
        prefix_length = prompts.prefix_length if prompts is not None else 0
        for judge in lab.judges.values():
            if known_attributes(plan.guidance, lab.guides, judge):
                judge.check_length(plan.length - prefix_length)
    if isinstance(prompts, HeldOut):
        if not has_random_order(plan):
            check_has_likelihood(plan)
        if plan.policy.parameters.get("stop_at_end"):
            raise InputError(
                f"policy {plan.policy}: with stop_at_end held-out texts can be impossible,"
                " which has no mean; leave it out"
            )
    if plan.policy.name in COMMIT_POLICIES:
        policy = commit_policy(plan.policy.name, plan.policy.parameters)
        for role in plan.model_schedule.roles:
            if policy.shadowed:
                shadowing(lab.denoisers[role])
            if policy.keeps:
                keeping(lab.denoisers[role], role)
        if _hides_padding(plan, lab, prompts) and (policy.shadowed or policy.keeps):
            raise InputError(
                f"policy {plan.policy}: shadows, locks and caches take no prompts of unequal"
                " length"
            )
    if prompts is not None and prompts.prefix_length >= plan.length:
        raise InputError(
            f"a prefix must be shorter than the plan's length {plan.length}, got"
            f" {prompts.prefix_length} tokens; shorten it"
        )

"""Any plans on common noise: each by the sampler that can run its policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from schedlab.denoisers.base import Denoiser
from schedlab.plan import Plan, families_of
from schedlab.policies import COMMIT_POLICIES
from schedlab.processes import MaskedProcess
from schedlab.sampling.decode import decode_family
from schedlab.sampling.events import Work, sample_events
from schedlab.sampling.lanes import Sampled
from schedlab.sampling.noise import SequenceIds


@torch.inference_mode()
def sample_plans(
    plans: Sequence[Plan],
    denoisers: Mapping[str, Denoiser],
    process: MaskedProcess,
    ids: SequenceIds,
    prefix_BP: Tensor | None = None,
    *,
    work: Work | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Iterator[Sampled]:
    """Run plans on sequences; every (family, sequence) once, as soon as it is finished.

    Policies that decide before the prediction go through the event sampler, where plans share
    forwards; those that decide by it through `decode`, each plan by itself.

    Args:
        plans, denoisers, process, ids, prefix_BP, work, progress: as for `sample_events`.
    """
    work = Work() if work is None else work
    places = range(len(plans))
    by_prediction = [n for n in places if plans[n].policy.name in COMMIT_POLICIES]
    others = [n for n in places if plans[n].policy.name not in COMMIT_POLICIES]
    if others:
        for found in sample_events(
            [plans[n] for n in others], denoisers, process, ids, prefix_BP, work=work,
            progress=progress,
        ):  # fmt: skip
            yield replace(found, plans=tuple(others[n] for n in found.plans))
    for family in families_of([plans[n] for n in by_prediction]):
        own = [by_prediction[n] for n in family]
        yield from decode_family(
            [plans[n] for n in own], own, denoisers, process, ids, prefix_BP, work=work,
            progress=progress,
        )  # fmt: skip

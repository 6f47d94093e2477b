"""A plan looked at step by step: clocks, fluctuation, what became of guided edits.

Legend: S sequences, L positions, T steps, E examples.
"""

from __future__ import annotations

import numpy as np
import torch

from schedlab.errors import InputError
from schedlab.evaluation.evaluate import check_plan
from schedlab.evaluation.lab import Lab
from schedlab.evaluation.prompts import Prompts
from schedlab.metrics.control import wanted_labels
from schedlab.metrics.stability import Examples, StabilityTrace
from schedlab.metrics.stability_summary import StabilitySummary
from schedlab.plan import Plan
from schedlab.processes import time_grid
from schedlab.results.control_file import ControlTrace, StepOfText
from schedlab.results.estimate import Estimate
from schedlab.results.seed_block import SeedBlock
from schedlab.sampling import SequenceIds, sample_dense
from schedlab.sampling.forwards import call_rows

_MOST_STEPS = 12
"""Of an example."""


def trace_plan(
    plan: Plan, block: SeedBlock, *, lab: Lab, prompts: Prompts | None = None
) -> ControlTrace:
    """Run a plan on the sequences of a block and watch.

    Args:
        plan: of the loop that predicts at every step (see `Plan.is_dense`).
        block: which sequences.
        lab: denoisers, guides, tokenizer.
        prompts: given prefixes.

    Raises:
        InputError: the plan is of another loop, or does not fit the lab.
    """
    check_plan(plan, lab, prompts)
    if not plan.is_dense or plan.num_steps < 2:
        raise InputError(
            "only plans with guidance or clocks of tokens, of at least two steps, can be looked at"
            f" step by step; this is {plan.policy} with {plan.num_steps} steps"
        )
    prefix_BP = None
    if prompts is not None:
        prefix_BP = torch.from_numpy(prompts.of_block(block)).to(lab.device)
    given = 0 if prefix_BP is None else prefix_BP.shape[1]
    watch = StabilityTrace(given=given, examples=1, sequences=block.size)
    ids = SequenceIds.of([block], device=lab.device)
    size = call_rows(plan.length, torch.device(lab.device))
    rows_B = torch.arange(block.size, device=lab.device)
    for rows in rows_B.split(size):
        # Calls have one shape (see `sampling.forwards`): the last is filled up.
        filled = torch.cat((rows, rows[:1].expand(size - len(rows))))
        sample_dense(
            plan, lab.denoisers, lab.process, ids.pick(filled),
            None if prefix_BP is None else prefix_BP[filled],
            guides=lab.guides, trace=watch,
        )  # fmt: skip
    grid = time_grid(plan.time_grid, plan.num_steps).tolist()[:-1]
    curves = watch.curves()
    return ControlTrace(
        digest=plan.digest,
        num_sequences=block.size,
        seed=block.seed,
        steps=tuple(range(plan.num_steps)),
        t=tuple(grid),
        mean_levels=tuple(
            tuple(float(level) for level in row) for row in watch.mean_levels()[:, given:]
        ),
        curves={
            name: _by_step(curve.step_P, curve.intervals.value, plan.num_steps)
            for name, curve in curves.items()
        },
        summary=_summary(watch.summary()),
        label=_label(plan, block, lab),
        example=_example(plan, grid, watch.kept_examples(), given, lab),
    )


def _by_step(step_P: np.ndarray, value_P: np.ndarray, num_steps: int) -> tuple[float | None, ...]:
    found: list[float | None] = [None] * num_steps
    for step, value in zip(step_P.tolist(), value_P.tolist(), strict=True):
        found[step] = float(value)
    return tuple(found)


def _summary(found: StabilitySummary) -> dict[str, Estimate]:
    """What was measured, by the names of `StabilitySummary`."""
    own = {
        name: getattr(found, name)
        for name in ("outputs", "input", "forgetting", "key_change", "difference")
    }
    own |= {
        "drop_changed": found.changed.drop,
        "drop_others": found.others.drop,
    }
    return {name: estimate for name, estimate in own.items() if estimate is not None}


def _label(plan: Plan, block: SeedBlock, lab: Lab) -> str:
    if plan.guidance is None:
        return ""
    number_S = np.array([block.first])
    labels = [lab.guides[one.classifier].labels for one in plan.guidance.attributes]
    return ", ".join(own[0] for own in wanted_labels(plan.guidance, labels, number_S))


def _example(
    plan: Plan, grid: list[float], found: Examples, given: int, lab: Lab
) -> tuple[StepOfText, ...]:
    """The first sequence at some steps, evenly spread, the last among them."""
    last = plan.num_steps - 1
    places = sorted({round(k) for k in np.linspace(0, last, min(_MOST_STEPS, plan.num_steps))})
    shown = []
    for k in places:
        output_L, guided_L = found.output_ETL[0, k], found.guided_ETL[0, k]
        edited_L = (output_L != guided_L).nonzero()[0]
        next_L = found.output_ETL[0, k + 1] if k < last else guided_L
        forgotten_L = edited_L[guided_L[edited_L] != next_L[edited_L]]
        key = found.key_ETK[0, k]
        shown.append(
            StepOfText(
                step=k,
                t=grid[k],
                tokens=tuple(lab.tokenizer.decode([token]) for token in guided_L.tolist()),
                edited=tuple(int(place) for place in edited_L if place >= given),
                forgotten=tuple(int(place) for place in forgotten_L if place >= given),
                key=tuple(sorted(int(place) for place in key if place >= 0)),
                levels=tuple(
                    float(level) for level in np.nan_to_num(found.levels_ETL[0, k], nan=0.0)
                ),
            )
        )
    return tuple(shown)

"""What the studies of guidance and timestep allocation share: the lab, plans, tables.

Every figure has a 95 % bootstrap interval over sequences of three sampling seeds; differences are
paired: the same sequences have the same random numbers under every plan.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from schedlab.evaluation.evaluate import evaluate
from schedlab.evaluation.lab import Lab, build_lab
from schedlab.files import write_atomic
from schedlab.metrics.matched_entropy import Fluency
from schedlab.plan import Decoding, ModelSchedule, Plan, PolicySpec
from schedlab.plan.guidance import Attribute, Guidance
from schedlab.plan.lab_config import LabConfig
from schedlab.results import Estimate, Measurement, SeedBlock, Store
from schedlab.results.bootstrap import bootstrap_mean, bootstrap_statistic

SEEDS = (101, 102, 103)
JUDGE = "control_judge"
REPORTS = Path(__file__).resolve().parents[2] / "reports" / "control"


def lab_of(
    denoisers: Mapping[str, str] | None = None,
    *,
    guides: Mapping[str, str] | None = None,
    judges: Mapping[str, str] | None = None,
) -> Lab:
    """The bundled control task, or parts of it exchanged."""
    return build_lab(
        LabConfig(
            denoisers=dict(denoisers or {"H": "bundled:simplex"}),
            classifiers=dict(guides or {"guide": "bundled:guide"}),
            judges=dict(judges or {"judge": "bundled:judge"}),
            precision="float32",
        )
    )


def plan_of(
    *,
    steps: int = 50,
    policy: str = "tta_constant",
    scale: float = 0.0,
    iterations: int = 3,
    schedule: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    attributes: Sequence[Attribute] = (Attribute(classifier="guide"),),
    temperature: float = 1.0,
    length: int = 64,
    **guidance: Any,
) -> Plan:
    """A plan of the simplex process with guidance; a scale of 0 with 0 iterations is unguided."""
    return Plan(
        length=length,
        model_schedule=ModelSchedule.parse(schedule or f"H{steps}"),
        process="simplex",
        noise_schedule="cosine",
        decoding=Decoding(top_p=0.99, temperature=temperature),
        policy=PolicySpec(name=policy, parameters=dict(parameters or {})),  # type: ignore[arg-type]
        guidance=Guidance(
            attributes=list(attributes), scale=scale, iterations=iterations, **guidance
        ),
    )


UNGUIDED = {"scale": 0.0, "iterations": 0, "policy": "ancestral"}


def blocks_of(number: int) -> list[SeedBlock]:
    """So many sequences of every seed."""
    return [SeedBlock(seed, 0, number) for seed in SEEDS]


def measured(
    plans: Mapping[str, Plan], lab: Lab, *, number: int, store: str | Path
) -> dict[str, Measurement]:
    """Every plan on the sequences of all seeds; told as it goes on."""
    found = {}
    for name, plan in plans.items():
        (found[name],) = evaluate([plan], blocks_of(number), lab=lab, store=Store(store))
        print(f"{name}: {line(found[name])}", flush=True)
    return found


def line(found: Measurement) -> str:
    """The main figures."""
    names = (JUDGE, "gen_ppl", "entropy", "distinct_3", "self_bleu", "seconds")
    return ", ".join(
        f"{name.removeprefix('control_')} {found.estimates[name]}"
        for name in names
        if name in found.estimates
    )


def difference(
    one: Measurement, other: Measurement, column: Callable[[Measurement], np.ndarray]
) -> Estimate:
    """Mean difference of a per-sequence column, paired."""
    return bootstrap_mean(column(one) - column(other)).estimate()


def log_ppl_difference(one: Measurement, other: Measurement) -> Estimate:
    """Difference of log Gen-PPL, paired."""
    columns = (one.nll_S, one.scored_tokens_S, other.nll_S, other.scored_tokens_S)
    return bootstrap_statistic(lambda a, b, c, d: a / b - c / d, *columns).estimate()


def fluency_of(found: Measurement) -> Fluency:
    """Columns for comparisons at equal entropy."""
    return Fluency(found.nll_S, found.scored_tokens_S, found.entropy_S)


def control_S(found: Measurement) -> np.ndarray:
    """1 where the judge finds the label that was asked for."""
    return np.asarray(found.scores[JUDGE])


def by_seed(found: Measurement, number: int) -> list[float]:
    """Control accuracy of every sampling seed."""
    return [
        float(part.mean()) for part in np.split(control_S(found), len(found.tokens_SL) // number)
    ]


def as_json(found: Mapping[str, Measurement], number: int) -> dict[str, Any]:
    """All estimates of all plans."""
    return {
        name: {
            "plan": one.plan.to_json(),
            "control_by_seed": by_seed(one, number),
            "estimates": {key: value.model_dump() for key, value in one.estimates.items()},
        }
        for name, one in found.items()
    }


def write(name: str, content: Mapping[str, Any], out: Path | None = None) -> None:
    """A study's figures as JSON."""
    target = (out or REPORTS) / f"{name}.json"
    write_atomic(target, json.dumps(content, indent=1) + "\n")
    print(f"wrote {target.name}")

"""What the studies of few-step generation share: models by arm and seed, samples, aggregation.

A folder of models holds what `schedlab train refine-*.toml` wrote, in folders of its own or of one
level below: `drift-1`, `continue-1`, `sampled/drift-1`. The name before the last dash is the arm,
the number behind it the seed.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from schedlab.denoisers import checkpoint, loading
from schedlab.denoisers.network import Network
from schedlab.errors import InputError
from schedlab.evaluation.evaluate import evaluate
from schedlab.evaluation.lab import Lab, build_lab
from schedlab.files import write_atomic
from schedlab.metrics.feature_distance import kernel_distance, text_features
from schedlab.metrics.matched_entropy import Fluency
from schedlab.plan import Decoding, ModelSchedule, Plan
from schedlab.plan.lab_config import LabConfig
from schedlab.results import Estimate, Measurement, SeedBlock, Store
from schedlab.results.bootstrap import bootstrap_statistic
from schedlab.text import Tokenizer, held_out_windows, load_corpus
from schedlab.training.objectives import mean_with_interval

SAMPLING_SEED = 301
LENGTH = 64
REPORTS = Path(__file__).resolve().parents[2] / "reports" / "few_steps"
SCORER = "bundled:scorer"
BASELINE = "continue"


def names_of(options: argparse.Namespace) -> dict[str, str]:
    """Locations of what the models began as, and of all finished models, by name."""
    found: dict[str, str] = {}
    for card in sorted(options.models.rglob(checkpoint.CARD_FILE)):
        name = str(card.parent.relative_to(options.models))
        arm, seed = arm_and_seed(name)
        if arm in (options.only or [arm]) and seed in (options.seeds or [seed]):
            done, planned = (
                checkpoint.read_card(card.parent)[key] for key in ("steps", "planned_steps")
            )
            if done < planned:
                raise InputError(
                    f"{card.parent}: {done} of {planned} steps are done; train it first"
                )
            found[name] = str(card.parent)
    return found if options.begin is None else {"begin": options.begin} | found


def arm_and_seed(name: str) -> tuple[str, str]:
    """`sampled/drift` and `1` of `sampled/drift-1`; no seed of what was not refined."""
    arm, _, seed = name.rpartition("-")
    return (arm, seed) if arm else (name, "")


def is_baseline(name: str) -> bool:
    """Whether it is a continuation, of whatever folder."""
    return arm_and_seed(name)[0].rpartition("/")[2] == BASELINE


def baseline_of(name: str, names: Sequence[str]) -> str | None:
    """The matched continuation with the same seed, if it is another one: that of the arm's own
    folder, where it was trained for other steps, else the one above."""
    arm, seed = arm_and_seed(name)
    folder = arm.rpartition("/")[0]
    for other in (f"{folder}/{BASELINE}-{seed}", f"{BASELINE}-{seed}"):
        if not is_baseline(name) and other in names:
            return other
    return None


def lab_of(place: str) -> Lab:
    """One model and the scorer, in float32."""
    return build_lab(LabConfig(denoisers={"H": place}, scorer=SCORER, precision="float32"))


def plan_of(lab: Lab, num: int, decoding: Decoding | None = None) -> Plan:
    """Ancestral sampling in so many steps."""
    return Plan(
        length=LENGTH,
        model_schedule=ModelSchedule.constant("H", num),
        process=lab.denoisers["H"].spec.process,
        decoding=decoding or Decoding(),
    )


def sampled(lab: Lab, plan: Plan, options: argparse.Namespace) -> Measurement:
    """A plan on the study's sequences, the same for all models."""
    blocks = [SeedBlock(SAMPLING_SEED, 0, options.number)]
    (found,) = evaluate([plan], blocks, lab=lab, store=Store(options.store))
    return found


def described(found: Measurement, lab: Lab, options: argparse.Namespace) -> dict[str, Any]:
    """Estimates of a plan, and how far its texts are from real ones."""
    shown = ("gen_ppl", "entropy", "distinct_1", "distinct_2", "distinct_3", "self_bleu")
    estimates = {n: e.model_dump() for n, e in found.estimates.items() if n in shown}
    samples = text_features(_scorer(), found.tokens_SL.astype(np.int64))
    estimates["kernel_distance"] = kernel_distance(samples, _real(options.real)).model_dump()
    decoding = found.plan.decoding
    return {
        "steps": found.plan.num_steps,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "estimates": estimates,
    }


@functools.cache
def _scorer() -> Network:
    return loading.load(SCORER)


@functools.cache
def _real(number: int) -> np.ndarray:
    """Features of held-out windows of the corpus."""
    return text_features(_scorer(), real_tokens(number))


def real_tokens(number: int) -> np.ndarray:
    """Held-out windows of the corpus, int64."""
    windows = held_out_windows(
        load_corpus("embedded"), Tokenizer.load("bundled"), split="test", length=LENGTH,
        num=number, seed=0,
    )  # fmt: skip
    return windows.tokens_SL.astype(np.int64)


def fluency_of(found: Measurement) -> Fluency:
    """Columns for comparisons at equal entropy."""
    return Fluency(found.nll_S, found.scored_tokens_S, found.entropy_S)


def paired(one: Measurement, other: Measurement) -> Estimate:
    """Difference of log Gen-PPL on the same random numbers."""
    columns = (one.nll_S, one.scored_tokens_S, other.nll_S, other.scored_tokens_S)
    return bootstrap_statistic(lambda a, b, c, d: a / b - c / d, *columns).estimate()


def over_seeds(values: Mapping[str, float | None]) -> dict[str, dict[str, Any]]:
    """By arm: mean over training seeds with Student's interval, from values by name; no interval
    of a single seed. All seeds are measured on the same sequences, so intervals are of training.
    None is a seed without a value, which is counted."""
    by_arm: dict[str, list[float | None]] = {}
    for name, value in values.items():
        by_arm.setdefault(arm_and_seed(name)[0], []).append(value)
    found: dict[str, dict[str, Any]] = {}
    for arm, seen in by_arm.items():
        own = [value for value in seen if value is not None]
        found[arm] = {"values": seen, "seeds": len(seen), "with_value": len(own)}
        if len(own) > 1:
            found[arm] |= mean_with_interval(np.array(own)).model_dump()
    return found


def line(one: Mapping[str, Any]) -> str:
    """The main figures."""
    names = ("gen_ppl", "entropy", "distinct_3", "self_bleu", "kernel_distance")
    shown = one["estimates"]
    return ", ".join(f"{name} {Estimate(**shown[name])}" for name in names if name in shown)


def facts_of(options: argparse.Namespace) -> dict[str, Any]:
    """What all figures of a file share."""
    return {
        "number": options.number, "sampling_seed": SAMPLING_SEED, "real_windows": options.real,
        "length": LENGTH, "scorer": SCORER, "precision": "float32",
    }  # fmt: skip


def file_of(name: str, options: argparse.Namespace) -> Path:
    """Where a study writes."""
    return (options.out or REPORTS) / f"{options.name}-{name}.json"


def found_before(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a study has written already, at the same settings."""
    target = file_of(name, options)
    if not target.exists():
        return {}
    content = json.loads(target.read_text())
    if any(content[key] != value for key, value in facts_of(options).items()):
        raise InputError(f"{target}: holds figures at other settings; choose another --out")
    found: dict[str, Any] = content["found"]
    return found


def write(name: str, content: Mapping[str, Any], options: argparse.Namespace) -> None:
    """A study's figures as JSON."""
    target = file_of(name, options)
    write_atomic(target, json.dumps(facts_of(options) | {"found": content}) + "\n")
    print(f"wrote {target.name}")

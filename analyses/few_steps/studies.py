"""Few-step generation: refined denoisers beside their matched continuation.

    python analyses/few_steps/studies.py STUDY --models FOLDER [--number N] [--out FOLDER]

`curve`    train a job's runs in stretches (`--job`), with the figures below after each
`steps`    Gen-PPL, entropy, diversity and distance from real texts by number of steps
`matched`  the same at equal entropy: every arm over temperature and over top-p

FOLDER holds what `schedlab train refine-*.toml`, or `curve`, made: drift-1, continue-1, ...
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schedlab.allocator import keep_freed_memory
from schedlab.denoisers import loading
from schedlab.denoisers.network import Network
from schedlab.evaluation.evaluate import evaluate
from schedlab.evaluation.lab import Lab, build_lab
from schedlab.files import write_atomic
from schedlab.metrics.feature_distance import kernel_distance, text_features
from schedlab.metrics.matched_entropy import Fluency, log_ppl_gap
from schedlab.plan import Decoding, ModelSchedule, Plan
from schedlab.plan.lab_config import LabConfig
from schedlab.results import Estimate, Measurement, SeedBlock, Store
from schedlab.results.bootstrap import bootstrap_statistic
from schedlab.text import held_out_windows, load_corpus
from schedlab.training import read_train_job, train
from schedlab.training.job import RefineJob

SAMPLING_SEED = 301
LENGTH = 64
TEMPERATURES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
TOP_PS = (0.95, 0.9, 0.8, 0.7)
REPORTS = Path(__file__).resolve().parents[2] / "reports" / "few_steps"
SCORER = "bundled:scorer"


def curve(options: argparse.Namespace) -> None:
    """Every run of a job, measured every so many optimiser steps: does it still improve?"""
    job = read_train_job(options.job)
    assert isinstance(job, RefineJob), "a job of kind refine"
    found: dict[str, Any] = {}
    for name, run in job.runs.items():
        folder, last = options.models / name, run.optimization.num_steps
        for done in range(options.every, last + options.every, options.every):
            loss = train(run, folder, stop_after=min(done, last))
            lab = build_lab(
                LabConfig(denoisers={"H": str(folder)}, scorer=SCORER, precision="float32")
            )
            for num in options.steps:
                label = f"{name} after {min(done, last)}, {num} steps"
                one = described(sampled(lab, plan_of(lab, num), options), lab, options)
                found[label] = {**one, "held_out": loss.model_dump()}
                print(f"{label}: held out {loss}, {line(one)}", flush=True)
    write("curve", found, options)


def steps(options: argparse.Namespace) -> None:
    """Every model at every number of steps, temperature 1 and top-p 1."""
    found: dict[str, Any] = {}
    measured: dict[tuple[str, int], Measurement] = {}
    for name, lab in labs(options).items():
        for num in options.steps:
            one = measured[name, num] = sampled(lab, plan_of(lab, num), options)
            found[f"{name}, {num} steps"] = described(one, lab, options)
            print(f"{name}, {num} steps: {line(found[f'{name}, {num} steps'])}", flush=True)
    for (name, num), one in measured.items():
        other = measured.get((name.replace("drift", "continue"), num))
        if name.startswith("drift") and other is not None:
            gap = paired(one, other)
            found[f"{name} minus its continuation, {num} steps"] = gap.model_dump()
            print(f"{name} minus its continuation, {num} steps: log Gen-PPL {gap}", flush=True)
    write("steps", found, options)


def matched(options: argparse.Namespace) -> None:
    """log Gen-PPL of every refined model minus that of its continuation at equal entropy, which
    lower temperatures, or smaller nuclei, of the continuation give; and the other way round."""
    found: dict[str, Any] = {}
    all_labs = labs(options)
    for num in options.steps:
        curves: dict[str, dict[str, list[Measurement]]] = {}
        for name, lab in all_labs.items():
            by = {
                "temperature": [Decoding(temperature=t) for t in TEMPERATURES],
                "top_p": [Decoding(), *(Decoding(top_p=p) for p in TOP_PS)],
            }
            curves[name] = {
                what: [sampled(lab, plan_of(lab, num, one), options) for one in decodings]
                for what, decodings in by.items()
            }
            for what, points in curves[name].items():
                shown = [described(one, lab, options) for one in points]
                found[f"{name}, {num} steps, by {what}"] = shown
                for one in shown:
                    print(f"{name}, {num} steps, {what}: {line(one)}", flush=True)
        for name in curves:
            arm, _, seed = name.rpartition("-")
            other = f"continue-{seed}"
            if arm != "drift" or other not in curves:
                continue
            for one, two in ((name, other), (other, name)):
                for what, curve in curves[two].items():
                    plain = curves[one]["temperature"][0]
                    gap = log_ppl_gap(fluency_of(plain), [fluency_of(p) for p in curve])
                    label = f"{one} minus {two} by {what}, {num} steps, at equal entropy"
                    found[label] = None if gap is None else gap.model_dump()
                    print(f"{label}: log Gen-PPL {gap}", flush=True)
    write("matched", found, options)


def labs(options: argparse.Namespace) -> dict[str, Lab]:
    """One lab for every model of the folder, and for what they began as."""
    names = sorted(path.name for path in options.models.iterdir() if path.is_dir())
    where = {name: str(options.models / name) for name in names}
    if options.begin is not None:
        where = {"begin": options.begin} | where
    return {
        name: build_lab(LabConfig(denoisers={"H": place}, scorer=SCORER, precision="float32"))
        for name, place in where.items()
    }


def plan_of(lab: Lab, num: int, decoding: Decoding = Decoding()) -> Plan:  # noqa: B008
    """Ancestral sampling in so many steps."""
    return Plan(
        length=LENGTH,
        model_schedule=ModelSchedule.constant("H", num),
        process=lab.denoisers["H"].spec.process,
        decoding=decoding,
    )


def sampled(lab: Lab, plan: Plan, options: argparse.Namespace) -> Measurement:
    """A plan on the study's sequences, the same for all models."""
    blocks = [SeedBlock(SAMPLING_SEED, 0, options.number)]
    (found,) = evaluate([plan], blocks, lab=lab, store=Store(options.store))
    return found


def described(found: Measurement, lab: Lab, options: argparse.Namespace) -> dict[str, Any]:
    """All estimates of a plan, and how far its texts are from real ones."""
    estimates = {name: value.model_dump() for name, value in found.estimates.items()}
    estimates["kernel_distance"] = distance(found.tokens_SL, lab, options).model_dump()
    return {"plan": found.plan.to_json(), "estimates": estimates}


_REAL: dict[int, np.ndarray] = {}


@functools.cache
def _scorer() -> Network:
    return loading.load(SCORER)


def distance(tokens_SL: np.ndarray, lab: Lab, options: argparse.Namespace) -> Estimate:
    """From held-out windows of the corpus, by features of the scorer."""
    scorer = _scorer()
    if options.real not in _REAL:
        windows = held_out_windows(
            load_corpus("embedded"), lab.tokenizer, split="test", length=LENGTH,
            num=options.real, seed=0,
        )  # fmt: skip
        _REAL[options.real] = text_features(scorer, windows.tokens_SL.astype(np.int64))
    samples = text_features(scorer, tokens_SL.astype(np.int64))
    return kernel_distance(samples, _REAL[options.real])


def fluency_of(found: Measurement) -> Fluency:
    """Columns for comparisons at equal entropy."""
    return Fluency(found.nll_S, found.scored_tokens_S, found.entropy_S)


def paired(one: Measurement, other: Measurement) -> Estimate:
    """Difference of log Gen-PPL on the same random numbers."""
    columns = (one.nll_S, one.scored_tokens_S, other.nll_S, other.scored_tokens_S)
    return bootstrap_statistic(lambda a, b, c, d: a / b - c / d, *columns).estimate()


def line(one: Mapping[str, Any]) -> str:
    """The main figures."""
    names = ("gen_ppl", "entropy", "distinct_3", "self_bleu", "kernel_distance")
    shown = one["estimates"]
    return ", ".join(f"{name} {Estimate(**shown[name])}" for name in names if name in shown)


def write(name: str, content: Mapping[str, Any], options: argparse.Namespace) -> None:
    """A study's figures as JSON."""
    target = (options.out or REPORTS) / f"{name}.json"
    described = {"number": options.number, "seed": SAMPLING_SEED, "found": content}
    write_atomic(target, json.dumps(described, indent=1) + "\n")
    print(f"wrote {target.name}")


STUDIES: dict[str, Callable[[argparse.Namespace], None]] = {
    "curve": curve,
    "steps": steps,
    "matched": matched,
}


def main() -> None:
    """Run one study."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("study", choices=sorted(STUDIES))
    made.add_argument("--models", type=Path, required=True)
    made.add_argument("--begin", help="location of what they began as, to be shown beside them")
    made.add_argument("--job", type=Path, help="of `curve`: what to train")
    made.add_argument("--every", type=int, default=100, help="of `curve`: optimiser steps")
    made.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128, 256])
    made.add_argument("--number", type=int, default=256)
    made.add_argument("--real", type=int, default=512, help="held-out windows for the distance")
    made.add_argument("--store", type=Path, default=Path("runs/few_steps"))
    made.add_argument("--out", type=Path, help="reports/few_steps by default")
    options = made.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    STUDIES[options.study](options)


if __name__ == "__main__":
    main()

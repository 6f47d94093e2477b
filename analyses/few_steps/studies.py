"""Few-step generation: refined denoisers beside their matched continuation.

    python analyses/few_steps/studies.py STUDY --models FOLDER [--number N] [--out FOLDER]

`curve`       train a job's runs in stretches (`--job`), with the figures below after each
`ablation`    train variants of a job (`--job`), to be measured by the next
`steps`       Gen-PPL, entropy, diversity and distance from real texts by number of steps
`matched`     the same at equal entropy: every arm over temperature and over top-p
`outside`     the same texts as another network than scorer and drift judges them (`--judge`)
`gap`         soft and drawn predictions against real texts, as the frozen network sees them
`importance`  which steps matter to every arm, beside a light denoiser (`--light`)
`search`      steps, time grid, temperature, top-p and model schedule tuned for every arm

`common.py` says how models are named; `--only` and `--seeds` take some of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
import torch.nn.functional as F
from common import (
    baseline_of,
    described,
    is_baseline,
    lab_of,
    line,
    over_seeds,
    plan_of,
    sampled,
)

from schedlab.allocator import keep_freed_memory
from schedlab.denoisers import checkpoint, loading
from schedlab.denoisers.base import SoftDenoiser, features_at
from schedlab.denoisers.network import Network
from schedlab.errors import InputError
from schedlab.job import Job, parse_job
from schedlab.metrics.feature_distance import kernel_distance, text_features
from schedlab.metrics.matched_entropy import log_ppl_gap
from schedlab.pipeline import run_analyze, run_search
from schedlab.plan import Decoding
from schedlab.processes import UniformProcess
from schedlab.processes.noise_schedule import log_linear
from schedlab.results import Estimate, Measurement
from schedlab.results.importance_file import ImportanceFile
from schedlab.results.policy_file import PolicyFile
from schedlab.training import read_train_job, train
from schedlab.training.drift_objective import drawn, pooled_features, posterior
from schedlab.training.job import RefineJob
from schedlab.training.objectives import (
    held_out_losses,
    log_predictions,
    mean_with_interval,
)

TEMPERATURES = (1.0, 0.9, 0.8, 0.7, 0.6, 1.1, 1.2)  # the first is what others are compared with
TOP_PS = (0.9, 0.8)
AROUND = (1.0, 0.8, 0.9, 1.1)  # of continuations judged from outside
LEVELS = (1.0, 0.9, 0.75, 0.5, 0.25)
ABLATION: dict[str, dict[str, Any]] = {
    "method": {},
    "hard": {"lift": "hard"},
    "sampled": {"lift": "sampled"},
    "logits": {"features": "logits"},
    "base": {"base_weight": 3.0},  # gradients of both are then about as long
    "base-5": {"base_weight": 5.0},
    "base-10": {"base_weight": 10.0},
    "sampled-base-0.3": {"lift": "sampled", "base_weight": 0.3},
    "sampled-base": {"lift": "sampled", "base_weight": 3.0},
    "attracting": {"repulsion": 0.5},
    "repelling": {"attraction": 0.5},
}


def curve(options: argparse.Namespace) -> None:
    """Every run of a job, measured every so many optimiser steps: does it still improve? Stopped,
    it goes on; other jobs of the same models are added to what is there."""
    subfolder, _, path = options.job.rpartition("=")
    job = read_train_job(path)
    if not isinstance(job, RefineJob):
        raise InputError(f"{options.job}: must be a job of kind 'refine'")
    found: dict[str, Any] = common.found_before("curve", options)
    for run_name, run in job.runs.items():
        folder, last = options.models / subfolder / run_name, run.optimization.num_steps
        name = str(folder.relative_to(options.models))
        for stop in range(options.every, last + options.every, options.every):
            done = min(stop, last)
            labels = {num: f"{name} after {done}, {num} steps" for num in options.steps}
            if all(label in found for label in labels.values()):
                continue
            loss = train(run, folder, stop_after=done)
            if (steps_done := checkpoint.read_card(folder)["steps"]) != done:
                raise InputError(
                    f"{folder}: {steps_done} steps are done, too many to measure it after {done};"
                    " delete it to train it anew"
                )
            lab = lab_of(str(folder))
            for num, label in labels.items():
                one = described(sampled(lab, plan_of(lab, num), options), lab, options)
                found[label] = one | {"held_out": loss.model_dump()}
                print(f"{label}: held out {loss}, {line(one)}", flush=True)
            common.write("curve", found, options)


def ablation(options: argparse.Namespace) -> None:
    """Train a job with one thing of the drift changed at a time, a folder each; `steps` then
    measures them."""
    job = read_train_job(options.job)
    if not isinstance(job, RefineJob):
        raise InputError(f"{options.job}: must be a job of kind 'refine'")
    for name in options.variants:
        changes = ABLATION[name]
        drift = job.refine.drift.model_copy(update=changes)
        refine = job.refine.model_copy(update={"arms": ["drift"], "drift": drift})
        train(job.model_copy(update={"refine": refine}), options.models / name)
    refine = job.refine.model_copy(update={"arms": ["continue"]})
    train(job.model_copy(update={"refine": refine}), options.models)


def steps(options: argparse.Namespace) -> None:
    """Every model at every number of steps, temperature 1 and top-p 1."""
    models: dict[str, Any] = {}
    measured: dict[tuple[str, int], Measurement] = {}
    names = common.names_of(options)
    for name, place in names.items():
        lab = lab_of(place)
        for num in options.steps:
            one = measured[name, num] = sampled(lab, plan_of(lab, num), options)
            models[f"{name}, {num} steps"] = described(one, lab, options)
            print(f"{name}, {num} steps: {line(models[f'{name}, {num} steps'])}", flush=True)
    gaps, by_arm = {}, {}
    for num in options.steps:
        own: dict[str, float | None] = {}
        for name in names:
            if (other := baseline_of(name, list(names))) is not None:
                gap = common.paired(measured[name, num], measured[other, num])
                gaps[f"{name}, {num} steps"], own[name] = gap.model_dump(), gap.value
                print(f"{name} minus {other}, {num} steps: log Gen-PPL {gap}", flush=True)
        by_arm[f"log Gen-PPL minus continuation's, {num} steps"] = over_seeds(own)
        for what in ("gen_ppl", "entropy", "kernel_distance"):
            values = {n: models[f"{n}, {num} steps"]["estimates"][what]["value"] for n in names}
            if what == "gen_ppl":
                values = {n: float(np.log(value)) for n, value in values.items()}
            by_arm[f"{'log Gen-PPL' if what == 'gen_ppl' else what}, {num} steps"] = over_seeds(
                values
            )
    common.write("steps", {"models": models, "gaps": gaps, "over_seeds": by_arm}, options)


def matched(options: argparse.Namespace) -> None:
    """log Gen-PPL of every refined model minus that of its continuation at equal entropy, which
    lower temperatures, or smaller nuclei, of the continuation give; and the other way round."""
    names = common.names_of(options)
    curves: dict[tuple[str, int, str], list[Measurement]] = {}
    models: dict[str, Any] = {}
    for name, place in names.items():
        lab = lab_of(place)
        for num in options.steps:
            by = {
                "temperature": [Decoding(temperature=t) for t in TEMPERATURES],
                "top_p": [Decoding(), *(Decoding(top_p=p) for p in TOP_PS)],
            }
            for what, decodings in by.items():
                points = [sampled(lab, plan_of(lab, num, one), options) for one in decodings]
                curves[name, num, what] = points
                shown = [described(one, lab, options) for one in points]
                models[f"{name}, {num} steps, by {what}"] = shown
                for one in shown:
                    print(f"{name}, {num} steps, by {what}: {line(one)}", flush=True)
    gaps: dict[str, Any] = {}
    by_arm: dict[str, Any] = {}
    for num in options.steps:
        for what in ("temperature", "top_p"):
            for turned in (False, True):
                own: dict[str, float | None] = {}
                for name in names:
                    if (other := baseline_of(name, list(names))) is None:
                        continue
                    one, two = (other, name) if turned else (name, other)
                    points = curves[two, num, what]
                    gap = log_ppl_gap(
                        common.fluency_of(curves[one, num, what][0]),
                        [common.fluency_of(point) for point in points],
                    )
                    label = f"{one} at 1 minus {two} by {what}, {num} steps"
                    gaps[label] = None if gap is None else gap.model_dump()
                    own[name] = None if gap is None else gap.value * (-1 if turned else 1)
                    print(f"{label}, at equal entropy: log Gen-PPL {gap}", flush=True)
                side = "its own" if turned else "the continuation's"
                by_arm[f"by {side} {what}, {num} steps"] = over_seeds(own)
    common.write("matched", {"models": models, "gaps": gaps, "over_seeds": by_arm}, options)


def outside(options: argparse.Namespace) -> None:
    """Texts of every model as a denoiser judges them that neither scored nor steered: its bound,
    in nats per token, and the distance of its features from those of real texts; also at equal
    entropy, linearly between continuations at neighbouring temperatures of `AROUND`."""
    judge, names = loading.load(options.judge), common.names_of(options)
    real_tokens = common.real_tokens(options.real)
    real = text_features(judge, real_tokens)
    own = mean_with_interval(held_out_losses(judge, real_tokens, levels=8, seed=0))
    models: dict[str, Any] = {"real texts": {"bound": own.model_dump()}}
    print(f"real texts: bound {own}", flush=True)
    for name, place in names.items():
        lab = lab_of(place)
        for num in options.steps:
            for temperature in AROUND if is_baseline(name) else AROUND[:1]:
                plan = plan_of(lab, num, Decoding(temperature=temperature))
                found = sampled(lab, plan, options)
                tokens_SL = found.tokens_SL.astype(np.int64)
                if (tokens_SL == judge.spec.mask_id).any():
                    raise InputError(f"{name}: a text holds the mask token of {options.judge}")
                one = {
                    "bound": mean_with_interval(
                        held_out_losses(judge, tokens_SL, levels=8, seed=0)
                    ),
                    "kernel_distance": kernel_distance(text_features(judge, tokens_SL), real),
                    "entropy": found.estimates["entropy"],
                }
                label = f"{name} at {temperature:g}, {num} steps"
                models[label] = {what: value.model_dump() for what, value in one.items()}
                shown = ", ".join(f"{what} {value}" for what, value in one.items())
                print(f"{label}: {shown}", flush=True)
    by_arm: dict[str, Any] = {}
    for num in options.steps:
        for what in ("bound", "kernel_distance"):
            plain, equal = {}, {}
            for name in names:
                here = models[f"{name} at 1, {num} steps"]
                other = baseline_of(name, list(names))
                plain[name] = here[what]["value"]
                if other is not None:
                    curve = [models[f"{other} at {t:g}, {num} steps"] for t in AROUND]
                    points = sorted((c["entropy"]["value"], c[what]["value"]) for c in curve)
                    x, y = zip(*points, strict=True)
                    at = here["entropy"]["value"]
                    inside = x[0] <= at <= x[-1]
                    equal[name] = plain[name] - float(np.interp(at, x, y)) if inside else None
            by_arm[f"{what}, {num} steps"] = over_seeds(plain)
            by_arm[f"{what} minus continuation's at equal entropy, {num} steps"] = over_seeds(
                equal
            )
    found_all = {"judge": options.judge, "models": models, "over_seeds": by_arm}
    common.write("outside", found_all, options)


@torch.inference_mode()
def gap(options: argparse.Namespace) -> None:
    """Kernel distance of the drift's features from those of real texts: of mixtures
    `softmax(logits) E`, which the soft lift reads, and of tokens drawn from these predictions."""
    begin = loading.load(options.begin)
    real = common.real_tokens(options.real)
    half = len(real) // 2
    real_features = _pooled(begin, _embedded(begin, torch.from_numpy(real[:half])))
    x_BL = torch.from_numpy(real[half:])
    found: dict[str, Any] = {}
    for name, place in common.names_of(options).items():
        model = loading.load(place)
        for t in LEVELS:
            generator = torch.Generator().manual_seed(common.SAMPLING_SEED)
            z_BL, predicted_BL = _noised(model, x_BL, t, generator)
            level_B = torch.full((len(z_BL),), t) if model.spec.time_input != "none" else None
            read_NF = features_at(model, z_BL, level_B)[predicted_BL]
            log_p_NV = log_predictions(model, read_NF)
            t_N = torch.full((len(read_NF),), t)
            p_NV = posterior(model, log_p_NV, z_BL[predicted_BL], t_N)
            assert isinstance(begin, SoftDenoiser)
            soft_ND = log_p_NV.exp() @ begin.token_embeddings
            soft_BLD = _embedded(begin, z_BL).masked_scatter(predicted_BL[..., None], soft_ND)
            u_N = torch.rand(len(p_NV), generator=generator, dtype=torch.float64)
            drawn_BL = z_BL.masked_scatter(predicted_BL, drawn(p_NV, u_N))
            features = {"soft": soft_BLD, "drawn": _embedded(begin, drawn_BL)}
            one: dict[str, Any] = {
                what: kernel_distance(_pooled(begin, e_BLD), real_features).model_dump()
                for what, e_BLD in features.items()
            }
            one["entropy_of_predictions"] = float(torch.special.entr(p_NV).sum(-1).mean())
            one["cross_entropy"] = float(F.nll_loss(p_NV.log(), x_BL[predicted_BL]))
            found[f"{name}, t = {t:g}"] = one
            print(
                f"{name}, t = {t:g}: soft {one['soft']['value']:.3f}, drawn"
                f" {one['drawn']['value']:.3f}, entropy {one['entropy_of_predictions']:.2f},"
                f" cross-entropy {one['cross_entropy']:.2f}",
                flush=True,
            )
    common.write("gap", found, options)


def _noised(
    model: Network, x_BL: torch.Tensor, t: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy tokens, and where they are predicted."""
    u_BL = torch.rand(x_BL.shape, generator=generator, dtype=torch.float64)
    if model.spec.mask_id is not None:
        z_BL = torch.where(u_BL < t, model.spec.mask_id, x_BL)
        return z_BL, z_BL == model.spec.mask_id
    token_u_BL = torch.rand(x_BL.shape, generator=generator, dtype=torch.float64)
    alpha_BL = log_linear(torch.full(x_BL.shape, t, dtype=torch.float64))
    z_BL = UniformProcess(model.spec.vocab_size).forward(x_BL, alpha_BL, u_BL, token_u_BL)
    return z_BL, torch.ones_like(z_BL, dtype=torch.bool)


def _embedded(begin: Network, x_BL: torch.Tensor) -> torch.Tensor:
    assert isinstance(begin, SoftDenoiser)
    return begin.token_embeddings[x_BL]


def _pooled(begin: Network, e_BLD: torch.Tensor) -> np.ndarray:
    """Features of the drift, float64 (B, F)."""
    return pooled_features(begin, e_BLD).double().numpy()


def importance(options: argparse.Namespace) -> None:
    """Loss gap and path KL by step between every arm and the light denoiser: what an arm's steps
    are worth; and between what it began as and the arm: which steps refinement changed."""
    found: dict[str, Any] = {}
    for name, place in common.names_of(options).items():
        for label, heavy, light in (
            (f"{name} against the light one", place, options.light),
            (f"begin against {name}", options.begin, place),
        ):
            if heavy == light:
                continue
            folder = folder_of("importance", label, options)
            nothing = {"num_segments": 1, "num_light": 1}
            tables = {"analyze": {"num_windows": options.number}, "search": nothing}
            run_analyze(_job({"H": heavy, "L": light}, options, tables), folder)
            file = ImportanceFile.read(folder / "importance.json")
            (forward,) = [one for one in file.step_scores if one.states == "forward"]
            (own,) = [one for one in file.step_scores if one.states == "heavy_sampler"]
            found[label] = {
                "path_kl": forward.path_kl, "loss_gap": forward.loss_gap,
                "path_kl_on_own_samples": own.path_kl,
            }  # fmt: skip
            total = sum(forward.path_kl)
            shares = " ".join(f"{value / total:.3f}" for value in forward.path_kl)
            print(f"{label}: path KL {total:.3f} nats per token; by step {shares}", flush=True)
    common.write("importance", found, options)


def folder_of(study: str, label: str, options: argparse.Namespace) -> Path:
    """A run folder of its own for every setting."""
    settings = f"{options.name} {label} T{options.steps[-1]} n{options.number}"
    return options.store / study / settings.replace("/", "-").replace(" ", "-")


def _job(
    denoisers: dict[str, str], options: argparse.Namespace, tables: dict[str, dict[str, Any]]
) -> Job:
    spec = loading.load(denoisers["H"]).spec
    return parse_job(
        {
            "job": {"name": "few-steps", "seed": common.SAMPLING_SEED},
            "lab": {"denoisers": denoisers, "scorer": common.SCORER, "precision": "float32"},
            "plan": {
                "length": common.LENGTH, "num_steps": options.steps[-1], "process": spec.process,
            },
            **tables,
        }
    )  # fmt: skip


def search(options: argparse.Namespace) -> None:
    """Ancestral sampling tuned for every arm by itself: its steps, temperature, top-p, time grid,
    and when the light denoiser may run. Then the lowest Gen-PPL by cost on fresh sequences, at
    entropies within the band around the continuation's plain sampling. Cost 1 is the most steps,
    the arm at every one: the same for all, as all have the same sizes."""
    found: dict[str, Any] = {}
    for name, place in common.names_of(options).items():
        job = _job({"H": place, "L": options.light}, options, {
            "search": {"num_sequences": options.number, "fresh_sequences": 3 * options.number},
            "policies": {
                "quality": "gen_ppl", "cost": "flops_total", "names": ["ancestral"],
                "tuned": ["ancestral"], "temperatures": [1.0, 0.9, 0.8], "top_ps": [1.0, 0.9],
                "points": 3, "grid_points": 4, "schedule_parts": 2, "roles": ["H", "L"],
                "trials": options.trials,
            },
        })  # fmt: skip
        folder = folder_of("search", f"{name} {options.trials}", options)
        run_search(job, folder)
        file = PolicyFile.read(folder / "policies.json")
        rows = []
        for fresh in file.fresh:
            row = file.row(fresh.digest)
            plan = row.plan
            rows.append({
                "steps": plan.num_steps, "schedule": str(plan.model_schedule),
                "tuned": row.curve.tuned, "temperature": plan.decoding.temperature,
                "top_p": plan.decoding.top_p, "time_grid": plan.time_grid,
                "loss": fresh.loss.model_dump(), "cost": fresh.cost.model_dump(),
                "entropy": fresh.estimates["entropy"].model_dump(),
            })  # fmt: skip
        found[name] = {"entropy_band": file.setting.entropy_band, "rows": rows}
    # All arms are judged within one band: that of the plain sampling of a continuation.
    judges = [one for name, one in found.items() if is_baseline(name)]
    if not judges:
        raise InputError(f"search needs a model of the arm {common.BASELINE!r} to be judged by")
    band = judges[0]["entropy_band"]
    for name, one in found.items():
        inside = [r for r in one["rows"] if band[0] <= r["entropy"]["value"] <= band[1]]
        one["best"] = {}
        for budget in (0.125, 0.25, 0.5, 1.0):
            within = [r for r in inside if r["cost"]["value"] <= budget + 1e-9]
            if within:
                best = min(within, key=lambda r: r["loss"]["value"])
                one["best"][f"{budget:g}"] = best
                ppl = Estimate(**best["loss"])
                print(
                    f"{name}, cost at most {budget:g}: log Gen-PPL {ppl}, entropy"
                    f" {best['entropy']['value']:.3f}, {best['steps']} steps, {best['schedule']},"
                    f" temperature {best['temperature']:g}, top-p {best['top_p']:g}",
                    flush=True,
                )
    common.write("search", {"band": band, "arms": found}, options)


STUDIES: dict[str, Callable[[argparse.Namespace], None]] = {
    "curve": curve,
    "ablation": ablation,
    "steps": steps,
    "matched": matched,
    "outside": outside,
    "gap": gap,
    "importance": importance,
    "search": search,
}


def main() -> None:
    """Run one study."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("study", choices=sorted(STUDIES))
    made.add_argument("--models", type=Path, required=True)
    made.add_argument("--name", default="masked", help="first part of the names of files written")
    made.add_argument("--begin", help="location of what they began as, to be shown beside them")
    made.add_argument("--only", nargs="+", help="arms")
    made.add_argument("--seeds", nargs="+")
    made.add_argument("--light", default="bundled:light-4")
    made.add_argument("--judge", default="bundled:heavy-b", help="of `outside`: a masked denoiser")
    made.add_argument("--job", help="what to train; of `curve` SUBFOLDER=JOB too")
    made.add_argument(
        "--variants", nargs="+", choices=list(ABLATION), default=list(ABLATION),
        help="of `ablation`",
    )  # fmt: skip
    made.add_argument("--every", type=int, default=100, help="of `curve`: optimiser steps")
    made.add_argument("--trials", type=int, default=30, help="of `search`: proposals per arm")
    made.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128, 256])
    made.add_argument("--number", type=int, default=256, help="sequences")
    made.add_argument("--real", type=int, default=512, help="held-out windows for the distance")
    made.add_argument("--store", type=Path, default=Path("runs/few_steps"))
    made.add_argument("--out", type=Path, help="reports/few_steps by default")
    options = made.parse_args()
    needed = {"curve": "job", "ablation": "job", "gap": "begin", "importance": "begin"}
    if (missing := needed.get(options.study)) and getattr(options, missing) is None:
        made.error(f"{options.study} needs --{missing}")
    keep_freed_memory()
    torch.set_num_threads(1)
    try:
        STUDIES[options.study](options)
    except InputError as error:
        made.error(str(error))


if __name__ == "__main__":
    main()

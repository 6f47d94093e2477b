"""Studies of guidance and timestep allocation on the bundled control task.

    python analyses/control/studies.py STUDY [--number N] [--store FOLDER] [--out FOLDER] [--quick]

`curves`      control, perplexity and diversity by lambda and by alpha_smooth
`allocation`  adaptive against constant, its noise-matched constants, and the other rules
`signals`     what the levels follow: gradients, certainty, change, and each the other way round
`forgetting`  do edits live on? fluctuation, update-forgetting, key tokens
`reliability` do gradients point at the tokens that matter? correlation with ablation
`fluency`     guided texts against unguided ones of equal entropy
`guides`      a single-step guide against a multi-step and a hierarchical one
`reduction`   progressive step reduction against a matched continuation, by inference steps
`two`         two attributes at once: topic and form, and how their gradients disagree

The last three need models of `jobs/` in `--models` (see README.md).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

from schedlab.allocator import keep_freed_memory
from schedlab.evaluation.trace import trace_plan
from schedlab.metrics.gradient_reliability import gradient_reliability
from schedlab.metrics.matched_entropy import log_ppl_gap
from schedlab.plan.guidance import Attribute
from schedlab.results import SeedBlock
from schedlab.results.bootstrap import bootstrap_mean
from schedlab.sampling import DenseStep, SequenceIds, sample_dense
from schedlab.sampling.forwards import call_rows

LAMBDAS = (20.0, 60.0, 200.0, 600.0, 2000.0, 6000.0, 20000.0)
SMOOTH = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
MAIN_LAMBDA = 600.0


def curves(options: argparse.Namespace) -> None:
    """The lambda curve of constant and adaptive levels; the alpha_smooth curve at one lambda."""
    plans = {"unguided": common.plan_of(**common.UNGUIDED)}
    for scale in LAMBDAS:
        plans[f"constant, lambda {scale:g}"] = common.plan_of(scale=scale)
        plans[f"adaptive, lambda {scale:g}"] = common.plan_of(scale=scale, policy="tta_adaptive")
    for smooth in SMOOTH:
        plans[f"adaptive, smooth {smooth:g}"] = common.plan_of(
            scale=MAIN_LAMBDA, policy="tta_adaptive", parameters={"smooth": smooth}
        )
    found = common.measured(plans, common.lab_of(), number=options.number, store=options.store)
    pairs = {
        f"adaptive minus constant, lambda {scale:g}": _differences(
            found[f"adaptive, lambda {scale:g}"], found[f"constant, lambda {scale:g}"]
        )
        for scale in LAMBDAS
    }
    common.write("curves", {"plans": common.as_json(found, options.number), "differences": pairs},
                 options.out)  # fmt: skip


def allocation(options: argparse.Namespace) -> None:
    """Every rule at equal lambda, steps and iterations, against constant and against its own
    noise-matched constants."""
    own: dict[str, tuple[str, dict[str, Any]]] = {
        "adaptive": ("tta_adaptive", {}),
        "adaptive, smooth 0": ("tta_adaptive", {"smooth": 0.0}),
        "linear": ("tta_linear", {}),
        "backward linear": ("tta_backward", {}),
        "random": ("tta_random", {}),
        "top 20 %": ("tta_top_k", {}),
    }
    # Rules that treat all tokens alike are their own noise-matched constants.
    rules = {
        "constant": ("tta_constant", {}),
        "fixed at 0": ("tta_fixed", {}),
        "scaled by 0.8": ("tta_scaled", {"factor": 0.8}),
        **own,
        **{
            f"{name}, mean {how}": (policy, parameters | {"pooled": how})
            for name, (policy, parameters) in own.items()
            for how in ("t", "alpha")
        },
    }
    found: dict[str, Any] = {}
    for scale in options.lambdas:
        plans = {
            f"{name}, lambda {scale:g}": common.plan_of(
                scale=scale, policy=policy, parameters=parameters
            )
            for name, (policy, parameters) in rules.items()
        }
        found |= common.measured(
            plans, common.lab_of(), number=options.number, store=options.store
        )
    pairs = {}
    for scale in options.lambdas:
        for name in rules:
            for other in ("constant", f"{name}, mean t", f"{name}, mean alpha"):
                if name != other and other in rules:
                    pairs[f"{name} minus {other}, lambda {scale:g}"] = _differences(
                        found[f"{name}, lambda {scale:g}"], found[f"{other}, lambda {scale:g}"]
                    )
    common.write("allocation",
                 {"plans": common.as_json(found, options.number), "differences": pairs},
                 options.out)  # fmt: skip


def signals(options: argparse.Namespace) -> None:
    """Adaptive levels that follow other signals, each beside its own noise-matched constant."""
    plans = {"constant": common.plan_of(scale=MAIN_LAMBDA)}
    for signal in ("gradient", "entropy", "margin", "change"):
        for invert in (False, True):
            for pooled in ("none", "t"):
                name = f"{signal}{', inverted' if invert else ''}, {pooled}"
                plans[name] = common.plan_of(
                    scale=MAIN_LAMBDA, policy="tta_adaptive",
                    parameters={"signal": signal, "invert": invert, "pooled": pooled},
                )  # fmt: skip
    found = common.measured(plans, common.lab_of(), number=options.number, store=options.store)
    pairs = {
        f"{name.removesuffix(', none')} minus its mean t": _differences(
            one, found[name.removesuffix("none") + "t"]
        )
        for name, one in found.items()
        if name.endswith(", none")
    }
    common.write("signals", {"plans": common.as_json(found, options.number), "differences": pairs},
                 options.out)  # fmt: skip


def forgetting(options: argparse.Namespace) -> None:
    """Fluctuation, update-forgetting, key tokens and confidence, step by step."""
    lab, found = common.lab_of(), {}
    for name, settings in {
        "lambda 0": {"scale": 0.0},
        "constant, lambda 600": {"scale": 600.0},
        "constant, lambda 6000": {"scale": 6000.0},
        "adaptive, lambda 600": {"scale": 600.0, "policy": "tta_adaptive"},
        "adaptive, mean t, lambda 600": {
            "scale": 600.0, "policy": "tta_adaptive", "parameters": {"pooled": "t"},
        },
        "adaptive, smooth 0, lambda 600": {
            "scale": 600.0, "policy": "tta_adaptive", "parameters": {"smooth": 0.0},
        },
        "adaptive, smooth 0, mean alpha, lambda 600": {
            "scale": 600.0, "policy": "tta_adaptive",
            "parameters": {"smooth": 0.0, "pooled": "alpha"},
        },
    }.items():  # fmt: skip
        plan = common.plan_of(**settings)  # type: ignore[arg-type]
        traces = {
            seed: trace_plan(plan, SeedBlock(seed, 0, options.number), lab=lab)
            for seed in common.SEEDS
        }
        found[name] = {
            str(seed): {
                "summary": {key: value.model_dump() for key, value in trace.summary.items()},
                "curves": {key: list(value) for key, value in trace.curves.items()},
                "t": list(trace.t),
            }
            for seed, trace in traces.items()
        }
        for seed, trace in traces.items():
            shown = ", ".join(f"{key} {value}" for key, value in trace.summary.items())
            print(f"{name}, seed {seed}: {shown}", flush=True)
    common.write("forgetting", {"plans": found, "number": options.number}, options.out)


def reliability(options: argparse.Namespace) -> None:
    """Correlation of g_i with the drop of log p(label) when token i is unknown."""
    lab, found = common.lab_of(), {}
    for name, scale in (("unguided trajectories", 0.0), ("guided, lambda 600", 600.0)):
        # Levels are constant (smooth = 1); the signal that is read is the effect of ablation.
        plan = common.plan_of(
            scale=scale, iterations=1, policy="tta_adaptive",
            parameters={"smooth": 1.0, "signal": "ablation"}, steps=options.steps,
        )  # fmt: skip
        steps: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        size = call_rows(plan.length, torch.device("cpu"))
        for seed in common.SEEDS:
            for first in range(0, options.number, size):
                ids = SequenceIds.of([SeedBlock(seed, first, size)])
                sample_dense(
                    plan, lab.denoisers, lab.process, ids, guides=lab.guides,
                    trace=lambda step, known=steps: _noted(step, known),  # type: ignore[misc]
                )  # fmt: skip
        found[name] = {}
        for step, parts in sorted(steps.items()):
            gradient_SL = np.concatenate([gradient for gradient, _ in parts])
            effect_SL = np.concatenate([effect for _, effect in parts])
            signed = gradient_reliability(gradient_SL, effect_SL)
            influence = gradient_reliability(gradient_SL, np.abs(effect_SL))
            t = 1 - step / plan.num_steps
            found[name][f"{t:.2f}"] = {
                "drop": signed.model_dump(), "influence": influence.model_dump(),
            }  # fmt: skip
            print(
                f"{name}, t = {t:.2f}: Pearson with the drop {signed.pearson},"
                f" with its size {influence.pearson}, Spearman {influence.spearman}",
                flush=True,
            )
    common.write("reliability", {"found": found, "number": options.number}, options.out)


def _noted(step: DenseStep, known: dict[int, list[tuple[np.ndarray, np.ndarray]]]) -> None:
    if step.pull is not None:
        known.setdefault(step.step, []).append(
            (step.pull.norm_BL.cpu().numpy(), step.signal_BL.cpu().numpy())
        )


def fluency(options: argparse.Namespace) -> None:
    """Gen-PPL of guided texts beside unguided ones whose entropy a lower temperature brings to
    the same value."""
    lab = common.lab_of()
    unguided = {
        f"unguided, temperature {temperature:g}": common.plan_of(
            **common.UNGUIDED, temperature=temperature
        )
        for temperature in (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
    }
    guided = {
        f"{name}, lambda {scale:g}": common.plan_of(
            scale=scale, policy=policy, parameters=parameters
        )
        for name, policy, parameters in (
            ("constant", "tta_constant", {}),
            ("adaptive", "tta_adaptive", {}),
            ("adaptive, smooth 0", "tta_adaptive", {"smooth": 0.0}),
        )
        for scale in (LAMBDAS if not parameters else (MAIN_LAMBDA,))
    }
    found = common.measured(unguided | guided, lab, number=options.number, store=options.store)
    curve = [common.fluency_of(found[name]) for name in unguided]
    gaps = {name: log_ppl_gap(common.fluency_of(found[name]), curve) for name in guided}
    for name, gap in gaps.items():
        print(f"{name}: log Gen-PPL minus unguided at equal entropy {gap}", flush=True)
    common.write(
        "fluency",
        {
            "plans": common.as_json(found, options.number),
            "log_gen_ppl_minus_unguided_at_equal_entropy": {
                name: gap.model_dump() for name, gap in gaps.items() if gap is not None
            },
        },
        options.out,
    )


def guides(options: argparse.Namespace) -> None:
    """Guides that differ in one thing, each at several lambdas."""
    found: dict[str, Any] = {}
    for name, where in {
        "single-step": "bundled:guide",
        "multi-step": str(options.models / "guide-multi"),
        "hierarchical": str(options.models / "guide-tree"),
    }.items():
        lab = common.lab_of(guides={"guide": where})
        plans = {
            f"{name}, {policy.removeprefix('tta_')}, lambda {scale:g}": common.plan_of(
                scale=scale, policy=policy
            )
            for policy in ("tta_constant", "tta_adaptive")
            for scale in (200.0, 600.0, 2000.0)
        }
        found |= common.measured(plans, lab, number=options.number, store=options.store)
    pairs = {
        f"{key} minus single-step": _differences(
            one, found["single-step, " + key.split(", ", 1)[1]]
        )
        for key, one in found.items()
        if not key.startswith("single-step")
    }
    common.write("guides", {"plans": common.as_json(found, options.number), "differences": pairs},
                 options.out)  # fmt: skip


def reduction(options: argparse.Namespace) -> None:
    """Every model at every number of inference steps, unguided and guided."""
    models = {
        "1000": "bundled:simplex",
        "1000 -> 200": str(options.models / "reduced" / "T200"),
        "1000 -> 200 -> 50": str(options.models / "reduced" / "T50"),
        "continued on 1000": str(options.models / "continued" / "T999"),
    }
    found: dict[str, Any] = {}
    for name, where in models.items():
        lab = common.lab_of({"H": where})
        plans = {}
        for steps in (8, 16, 50, 100):
            plans[f"{name}, {steps} steps, unguided"] = common.plan_of(
                **common.UNGUIDED, steps=steps
            )
            plans[f"{name}, {steps} steps, lambda 600"] = common.plan_of(
                scale=MAIN_LAMBDA, policy="tta_adaptive", steps=steps
            )
        found |= common.measured(plans, lab, number=options.number, store=options.store)
    pairs = {}
    for key, one in found.items():
        name, rest = key.split(", ", 1)
        if "->" in name:
            other = found[f"continued on 1000, {rest}"]
            pairs[f"{key} minus the matched continuation"] = _differences(one, other)
    common.write("reduction",
                 {"plans": common.as_json(found, options.number), "differences": pairs},
                 options.out)  # fmt: skip


def two(options: argparse.Namespace) -> None:
    """Topic alone, form alone, both; the cosine between their gradients by step."""
    lab = common.lab_of(
        guides={"guide": "bundled:guide", "form": str(options.models / "forms-guide")},
        judges={"judge": "bundled:judge", "form": str(options.models / "forms-judge")},
    )
    topic, form = Attribute(classifier="guide"), Attribute(classifier="form")
    # An attribute of weight 0 guides nothing and is judged.
    plans, cosines = {}, {}
    for label in ("parameters", "prose"):
        own = form.model_copy(update={"label": label})
        for name, weights in (("topic", (1.0, 0.0)), ("form", (0.0, 1.0)), ("both", (1.0, 1.0))):
            attributes = [
                one.model_copy(update={"weight": weight})
                for one, weight in zip((topic, own), weights, strict=True)
            ]
            plans[f"{name}, {label}"] = common.plan_of(
                scale=MAIN_LAMBDA, policy="tta_adaptive", attributes=attributes
            )
    found = common.measured(plans, lab, number=options.number, store=options.store)
    for label in ("parameters", "prose"):
        known: dict[int, list[np.ndarray]] = {}
        for seed in common.SEEDS:
            ids = SequenceIds.of([SeedBlock(seed, 0, 16)])
            sample_dense(
                plans[f"both, {label}"], lab.denoisers, lab.process, ids, guides=lab.guides,
                trace=lambda step, kept=known: _conflict(step, kept),  # type: ignore[misc]
            )  # fmt: skip
        cosines[label] = {
            str(step): bootstrap_mean(np.concatenate(parts)).estimate().model_dump()
            for step, parts in sorted(known.items())
        }
    common.write("two", {"plans": common.as_json(found, options.number), "cosines": cosines},
                 options.out)  # fmt: skip


def _conflict(step: DenseStep, kept: dict[int, list[np.ndarray]]) -> None:
    if step.pull is not None:
        kept.setdefault(step.step, []).append(step.pull.conflict_B.cpu().numpy())


def _differences(one: Any, other: Any) -> dict[str, Any]:
    return {
        "control": common.difference(one, other, common.control_S).model_dump(),
        "log_gen_ppl": common.log_ppl_difference(one, other).model_dump(),
        "entropy": common.difference(one, other, lambda found: found.entropy_S).model_dump(),
    }


STUDIES: dict[str, Callable[[argparse.Namespace], None]] = {
    study.__name__: study
    for study in (
        curves,
        allocation,
        signals,
        forgetting,
        reliability,
        fluency,
        guides,
        reduction,
        two,
    )
}


def main() -> None:
    """Run one study."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("study", choices=sorted(STUDIES))
    made.add_argument("--number", type=int, default=96, help="sequences of each of three seeds")
    made.add_argument("--steps", type=int, default=20, help="of `reliability`")
    made.add_argument("--lambdas", type=float, nargs="+", default=[200.0, 2000.0])
    made.add_argument("--store", type=Path, default=Path("runs/control"))
    made.add_argument("--models", type=Path, default=Path("runs/control_models"))
    made.add_argument("--out", type=Path, help="reports/control by default")
    made.add_argument("--quick", action="store_true", help="smoke run: too small to conclude from")
    options = made.parse_args()
    if options.quick:
        options.number, options.steps = 2, 4
    keep_freed_memory()
    torch.set_num_threads(1)
    STUDIES[options.study](options)


if __name__ == "__main__":
    main()

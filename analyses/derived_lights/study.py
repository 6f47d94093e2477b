"""What derived lights are worth: `python study.py RUNS OUT [--smoke]`, after `train.py RUNS`.

Held-out loss of every light of 4 blocks on the test split; then, for four of them as the light
role beside the bundled heavy denoiser, importance curves, hand-made and additive schedules, front
and report. OUT gets run folders, which may be cut off and gone on with, `results.json`, tables and
a figure.

Legend: S windows.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("svg")
from matplotlib import pyplot as plt
from train import HEAVY, NAMES, NUM_BLOCKS

from schedlab.denoisers import checkpoint, loading
from schedlab.files import write_atomic
from schedlab.job import Job, parse_job
from schedlab.pipeline import run_analyze, run_search
from schedlab.report import build_report
from schedlab.results.importance_file import ImportanceFile
from schedlab.results.search_file import SearchFile
from schedlab.search.front import hypervolume
from schedlab.text import Tokenizer, held_out_windows, load_corpus
from schedlab.training.objectives import held_out_losses, mean_with_interval

INDEPENDENT = "bundled:light-4"
SKIPS = {"skip first": "0,1,2,3", "skip last": "8,9,10,11", "skip spaced": "0,4,7,11"}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00")
SEED = 21
REFERENCE = (math.log(2), 1.1)  # twice all heavy's Gen-PPL, 1.1 times its cost: the same for all


def main(runs: str, out: str, *, smoke: bool = False) -> None:
    """Measure what is missing, then write everything."""
    target = Path(out)
    lights = places(Path(runs))
    results = {
        "setting": setting(smoke),
        "losses": losses(lights, smoke),
        "lights": {name: scheduled(name, lights[name], target, smoke) for name in roles(lights)},
    }
    write_atomic(target / "results.json", json.dumps(results, indent=1, allow_nan=False))
    write_atomic(target / "tables.md", "\n".join(lines(results)) + "\n")
    figure = draw(results)
    figure.savefig(target / "lights.svg", metadata={"Date": None})
    plt.close(figure)


def setting(smoke: bool) -> dict[str, int]:
    """How much of everything."""
    return {
        "test_windows": 32 if smoke else 502,
        "levels": 2 if smoke else 4,
        "length": 16 if smoke else 64,
        "num_steps": 16 if smoke else 40,
        "num_segments": 4 if smoke else 10,
        "analysis_windows": 32 if smoke else 192,
        "sampled_sequences": 4 if smoke else 32,
        "num_sequences": 32 if smoke else 96,
        "seed": SEED,
    }


def places(runs: Path) -> dict[str, str]:
    """Location of every light by its name."""
    found = {"independent": INDEPENDENT}
    found |= {name: str((runs / name).absolute()) for name in NAMES}
    kept = checkpoint.read_card(runs / "distilled")["blocks"]
    skips = SKIPS | {"skip ablation": ",".join(map(str, kept))}
    return found | {name: f"{HEAVY}#blocks={blocks}" for name, blocks in skips.items()}


def roles(lights: dict[str, str]) -> tuple[str, ...]:
    """The lights that are scheduled: trained alone, derived, shortly derived, not trained."""
    return ("independent", "distilled", "distilled-short", "skip ablation")


def losses(lights: dict[str, str], smoke: bool) -> dict[str, Any]:
    """NELBO on the test split, in pairs against the heavy one and the independent light, and the
    KL divergence from the heavy one."""
    how = setting(smoke)
    windows = held_out_windows(
        load_corpus("embedded"),
        Tokenizer.load("bundled"),
        split="test",
        length=128,
        num=how["test_windows"],
        seed=0,
    ).tokens_SL
    heavy = loading.load(HEAVY)
    networks = {"heavy": heavy}
    networks |= {name: loading.load(where) for name, where in lights.items()}
    found = {
        name: held_out_losses(network, windows, levels=how["levels"], seed=0)
        for name, network in networks.items()
    }
    rows: dict[str, Any] = {}
    for name, loss_S in found.items():
        divergence_S = held_out_losses(
            networks[name], windows, levels=how["levels"], seed=0, heavy=heavy
        )
        card = (
            {} if "#" in lights.get(name, HEAVY) else checkpoint.read_card(lights.get(name, HEAVY))
        )
        rows[name] = {
            "location": Path(lights.get(name, HEAVY)).name,
            "nelbo": mean_with_interval(loss_S).model_dump(),
            "minus_heavy": mean_with_interval(loss_S - found["heavy"]).model_dump(),
            "minus_independent": mean_with_interval(loss_S - found["independent"]).model_dump(),
            "kl_from_heavy": mean_with_interval(divergence_S).model_dump(),
            "percent_of_independent": 100 * float(loss_S.mean() / found["independent"].mean() - 1),
            **{key: card.get(key) for key in ("steps", "tokens", "training_seconds", "blocks")},
        }
    return rows


def job(where: str, smoke: bool) -> Job:
    """A job with one light."""
    how = setting(smoke)
    return parse_job(
        {
            "job": {"name": "derived-lights", "seed": SEED},
            "lab": {
                "denoisers": {"H": HEAVY, "Hb": "bundled:heavy-b", "L": where},
                "scorer": "bundled:scorer",
                "tokenizer": "bundled",
                "precision": "float32",
            },
            "corpus": {"source": "embedded", "split": "test"},
            "plan": {name: how[name] for name in ("length", "num_steps")},
            "analyze": {
                "num_windows": how["analysis_windows"],
                "sampled_sequences": how["sampled_sequences"],
                "propagation_sequences": 0,
            },
            "search": {
                "num_segments": how["num_segments"],
                "handmade_shares": [0.25, 0.5, 0.75],
                "exhaustive": False,
                "num_light": "all",
                "num_sequences": how["num_sequences"],
            },
        }
    )


def scheduled(name: str, where: str, out: Path, smoke: bool) -> dict[str, Any]:
    """Curves, front and best schedules of one light."""
    folder = out / name.replace(" ", "-")
    for stage in (run_analyze, run_search):
        stage(job(where, smoke), folder)
    build_report(folder)
    importance = ImportanceFile.read(folder / "importance.json")
    search = SearchFile.read(folder / "search.json")
    curve = next(
        one
        for one in importance.curves
        if one.metric == "loss_gap" and one.roles == ["H", "L"] and one.states == "forward"
    )
    fresh = {row.digest: row for row in search.fresh}
    named = {row.name: row for row in search.rows if row.name}
    return {
        "curve": {key: getattr(curve, key) for key in ("t", "value", "low", "high", "n")},
        "front": [
            {
                "schedule": str(row.schedule),
                "name": row.name,
                "saved": row.cost.saved_total,
                "change": row.paired_log_ppl.model_dump(),
                "fresh": fresh[row.digest].paired_log_ppl.model_dump()
                if row.digest in fresh
                else None,
            }
            for row in sorted(search.rows, key=lambda row: row.cost.saved_total)
            if row.on_front
        ],
        "handmade": {
            label: {
                "saved": row.cost.saved_total,
                "change": row.paired_log_ppl.model_dump(),
                "entropy": row.estimates["entropy"].model_dump(),
            }
            for label, row in named.items()
        },
        "hypervolume": hypervolume(
            [row.paired_log_ppl.value for row in search.rows if row.on_front],
            [1 - row.cost.saved_total for row in search.rows if row.on_front],
            REFERENCE,
        ),
        "picks": {
            pick: {
                "schedule": str(fresh[digest].schedule),
                "fresh": fresh[digest].paired_log_ppl.model_dump(),
                "saved": search.row(digest).cost.saved_total,
            }
            for pick, digest in search.picks.items()
            if digest in fresh
        },
    }


def lines(results: dict[str, Any]) -> Iterable[str]:
    """Tables in Markdown."""
    how = results["setting"]
    yield (
        f"Lights of {NUM_BLOCKS} blocks; NELBO in nats per token, test split, n ="
        f" {how['test_windows']} windows of 128 tokens, {how['levels']} noise levels each, the"
        " same masks for all, float32, 95 % intervals over windows.\n"
    )
    yield "| light | training steps | seconds | NELBO | minus independent | KL from heavy |"
    yield "|---|---|---|---|---|---|"
    for name, row in results["losses"].items():
        yield (
            f"| {name} | {row['steps'] or 0} | {row['training_seconds'] or 0:.0f} |"
            f" {number(row['nelbo'])} | {number(row['minus_independent'])}"
            f" ({row['percent_of_independent']:+.1f} %) | {number(row['kl_from_heavy'])} |"
        )
    yield ""
    yield (
        f"Scheduled beside the heavy one: {how['length']} tokens, {how['num_steps']} steps, seed"
        f" {how['seed']}, n = {how['num_sequences']}; Gen-PPL (bundled scorer) against all heavy,"
        " paired, on common noise; saved: share of all heavy's FLOPs, head included.\n"
    )
    names = list(results["lights"])
    yield "| schedule | " + " | ".join(names) + " |"
    yield "|---|" + "---|" * len(names)
    for label in results["lights"][names[0]]["handmade"]:
        if label == "all_heavy":
            continue
        rows = [results["lights"][name]["handmade"][label] for name in names]
        cells = [f"{percent(row['change'])} ({100 * row['saved']:.0f} % saved)" for row in rows]
        yield f"| {label.replace('_', ' ')} | " + " | ".join(cells) + " |"
    yield ""
    yield (
        "Hypervolume: area between the front and twice all heavy's Gen-PPL (log) at 1.1 times its"
        " cost, the same for all lights.\n"
    )
    yield "| light | hypervolume | pick | schedule | saved | fresh seeds |"
    yield "|---|---|---|---|---|---|"
    for name, found in results["lights"].items():
        for pick, row in found["picks"].items():
            yield (
                f"| {name} | {found['hypervolume']:.3f} | {pick} | `{row['schedule']}` |"
                f" {100 * row['saved']:.0f} % | {percent(row['fresh'])} |"
            )


def draw(results: dict[str, Any]) -> plt.Figure:
    """Loss gap against the noise level, and Gen-PPL against what is saved."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.8), layout="constrained")
    for colour, (name, found) in zip(COLOURS, results["lights"].items(), strict=True):
        curve = found["curve"]
        left.plot(curve["t"], curve["value"], color=colour, label=name)
        left.fill_between(curve["t"], curve["low"], curve["high"], color=colour, alpha=0.15, lw=0)
        rows = [row for row in found["front"] if row["saved"] >= 0]
        value, low, high = (
            np.array([100 * math.expm1(row["change"][end]) for row in rows])
            for end in ("value", "low", "high")
        )
        x = [100 * row["saved"] for row in rows]
        right.errorbar(
            x, value, yerr=[value - low, high - value], fmt="o-", color=colour, markersize=3,
            linewidth=0.9, elinewidth=0.8, label=name,
        )  # fmt: skip
    for axes in (left, right):
        axes.axhline(0, color="0.6", linewidth=0.8)
    left.invert_xaxis()
    # Blocks without training are far off: linear near 0, logarithmic beyond.
    left.set_yscale("symlog", linthresh=0.3)
    right.set_yscale("symlog", linthresh=30)
    left.set_ylim(-0.12, 4)
    for axes, ticks in ((left, (0, 0.1, 0.2, 0.3, 1, 2)), (right, (-20, 0, 20, 50, 200, 1000))):
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    left.set(xlabel="noise level t (noise to text)", ylabel="light minus heavy (nats per token)")
    right.set(xlabel="FLOPs saved (%)", ylabel="Gen-PPL against all heavy (%)")
    left.set_title(f"loss gap, n = {results['setting']['analysis_windows']}, 95 %", fontsize=9)
    right.set_title(
        f"front of each light, n = {results['setting']['num_sequences']}, 95 %", fontsize=9
    )
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, ncols=4, frameon=False, fontsize=8, loc="outside lower center")
    return figure


def percent(found: dict[str, float]) -> str:
    """A log ratio as a change in percent with its interval."""
    value, low, high = (100 * math.expm1(found[end]) for end in ("value", "low", "high"))
    return f"{value:+.1f} % [{low:+.1f}, {high:+.1f}]"


def number(found: dict[str, float]) -> str:
    """A number with its interval."""
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--smoke"]
    if len(words) != 2:
        sys.exit(__doc__)
    main(*words, smoke="--smoke" in sys.argv)

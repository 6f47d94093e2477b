"""Tables of what the studies found, as Markdown: `tables.py [--out FOLDER]` writes `tables.md`."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import REPORTS, arm_and_seed, baseline_of

from schedlab.files import write_atomic
from schedlab.results import Estimate
from schedlab.training.objectives import mean_with_interval

MEASURES = ("gen_ppl", "entropy", "distinct_3", "self_bleu", "kernel_distance")


def by_steps(title: str, file: dict[str, Any]) -> Iterator[str]:
    """Every model at every number of steps, then arms over seeds."""
    found = file["found"]
    yield f"## {title}: by number of steps (n = {file['number']} a model)\n"
    yield f"| model | steps | {' | '.join(MEASURES)} |"
    yield "|---" * (2 + len(MEASURES)) + "|"
    for label, one in found["models"].items():
        cells = [_shown(one["estimates"].get(what)) for what in MEASURES]
        yield f"| {label.split(', ')[0]} | {one['steps']} | {' | '.join(cells)} |"
    yield "\nOver training seeds (Student's interval; Gen-PPL as geometric means):\n"
    yield "| figure | " + " | ".join(_arms(found["over_seeds"])) + " |"
    yield "|---" * (1 + len(_arms(found["over_seeds"]))) + "|"
    for label, arms in found["over_seeds"].items():
        ratio = label.startswith("log Gen-PPL")
        cells = [_over_seeds(arms.get(arm), ratio) for arm in _arms(found["over_seeds"])]
        words = label.replace("log Gen-PPL minus continuation's", "Gen-PPL over continuation's")
        yield f"| {words.replace('log Gen-PPL', 'Gen-PPL')} | {' | '.join(cells)} |"
    yield ""


def at_equal_entropy(title: str, file: dict[str, Any]) -> Iterator[str]:
    """Ratios of Gen-PPL at equal entropy."""
    found = file["found"]
    yield f"## {title}: at equal entropy (n = {file['number']} a point)\n"
    yield "Gen-PPL of the first over that of the second at equal entropy.\n"
    yield "| compared | Gen-PPL ratio |\n|---|---|"
    for label, gap in found["gaps"].items():
        yield f"| {label} | {_ratio(gap)} |"
    yield from _distances(found["models"])
    yield "\nOver training seeds:\n\n| curve | " + " | ".join(_arms(found["over_seeds"])) + " |"
    yield "|---" * (1 + len(_arms(found["over_seeds"]))) + "|"
    for label, arms in found["over_seeds"].items():
        cells = [_over_seeds(arms.get(arm), True) for arm in _arms(found["over_seeds"])]
        yield f"| {label} | {' | '.join(cells)} |"
    yield ""


def _distances(models: dict[str, Any]) -> Iterator[str]:
    """Distance from real texts at equal entropy: the continuation's is interpolated linearly in
    entropy between the points of its curve."""
    yield "\nDistance from real texts at equal entropy, arm against continuation by seed:\n"
    yield "| arm | curve | by seed | difference over seeds |\n|---|---|---|---|"
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for label, points in models.items():
        name, curve = label.split(", ", 1)
        own = points[0]["estimates"]
        other = baseline_of(name, [one.split(", ")[0] for one in models])
        if other is None:
            continue
        x, y = (
            [point["estimates"][what]["value"] for point in models[f"{other}, {curve}"]]
            for what in ("entropy", "kernel_distance")
        )
        at = own["entropy"]["value"]
        if min(x) <= at <= max(x):
            order = np.argsort(x)
            there = float(np.interp(at, np.array(x)[order], np.array(y)[order]))
            key = (arm_and_seed(name)[0], curve)
            pairs.setdefault(key, []).append((own["kernel_distance"]["value"], there))
    for (arm, curve), values in pairs.items():
        shown = ", ".join(f"{one:.3f} / {other:.3f}" for one, other in values)
        mean = mean_with_interval(np.array([one - other for one, other in values]))
        interval = f" [{mean.low:.3f}, {mean.high:.3f}]" if len(values) > 1 else ""
        yield f"| {arm} | {curve} | {shown} | {mean.value:.3f}{interval} |"


def gaps(title: str, file: dict[str, Any]) -> Iterator[str]:
    """Distances of mixtures and of drawn tokens from real texts."""
    yield f"## {title}: mixtures and drawn tokens as the frozen network sees them\n"
    yield "| model | t | mixtures | drawn tokens | entropy of predictions | cross-entropy |"
    yield "|---|---|---|---|---|---|"
    for label, one in file["found"].items():
        name, _, t = label.partition(", t = ")
        yield (
            f"| {name} | {t} | {_shown(one['soft'])} | {_shown(one['drawn'])} |"
            f" {one['entropy_of_predictions']:.2f} | {one['cross_entropy']:.2f} |"
        )
    yield ""


def outside(title: str, file: dict[str, Any]) -> Iterator[str]:
    """What a network says that neither scored nor steered."""
    found = file["found"]
    yield f"## {title}: the same texts as `{found['judge']}` judges them (n = {file['number']})\n"
    yield "| texts | its bound (nats per token) | distance of its features | entropy |"
    yield "|---|---|---|---|"
    for label, one in found["models"].items():
        cells = [_shown(one.get(what)) for what in ("bound", "kernel_distance", "entropy")]
        yield f"| {label} | {' | '.join(cells)} |"
    arms = _arms(found["over_seeds"])
    yield "\nOver training seeds:\n\n| figure | " + " | ".join(arms) + " |"
    yield "|---" * (1 + len(arms)) + "|"
    for label, by_arm in found["over_seeds"].items():
        cells = [_over_seeds(by_arm.get(arm), False) for arm in arms]
        yield f"| {label} | {' | '.join(cells)} |"
    yield ""


def searches(title: str, file: dict[str, Any]) -> Iterator[str]:
    """The lowest Gen-PPL by cost, within the entropy band."""
    low, high = file["found"]["band"]
    yield f"## {title}: tuned, entropy within [{low:.3f}, {high:.3f}]\n"
    yield "| arm | cost at most | Gen-PPL | entropy | plan |\n|---|---|---|---|---|"
    for name, arm in file["found"]["arms"].items():
        for budget, row in arm["best"].items():
            loss = Estimate(**row["loss"])
            ppl = (
                f"{math.exp(loss.value):.0f} [{math.exp(loss.low):.0f}, {math.exp(loss.high):.0f}]"
            )
            grid = "" if isinstance(row["time_grid"], str) else ", own time grid"
            yield (
                f"| {name} | {budget} | {ppl} | {row['entropy']['value']:.3f} |"
                f" {row['steps']} steps, `{row['schedule']}`, temperature"
                f" {row['temperature']:g}, top-p {row['top_p']:g}{grid} |"
            )
    yield ""


def importance(title: str, file: dict[str, Any]) -> Iterator[str]:
    """Shares of path KL by step."""
    yield f"## {title}: path KL by step, from the noisy end\n"
    yield "| heavy against light | nats per token | share of every step (%) |\n|---|---|---|"
    for label, one in file["found"].items():
        total = sum(one["path_kl"])
        shares = " ".join(f"{100 * value / total:.0f}" for value in one["path_kl"])
        yield f"| {label} | {total:.3f} | {shares} |"
    yield ""


def _arms(over_seeds: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(arm for arms in over_seeds.values() for arm in arms))


def _shown(estimate: dict[str, Any] | None) -> str:
    return "" if estimate is None else str(Estimate(**estimate)).split(" (n")[0]


def _ratio(gap: dict[str, Any] | None) -> str:
    if gap is None:
        return "entropy beyond the curve"
    return "{:.2f} [{:.2f}, {:.2f}]".format(
        *(math.exp(gap[key]) for key in ("value", "low", "high"))
    )


def _over_seeds(one: dict[str, Any] | None, ratio: bool) -> str:
    if one is None:
        return ""
    missing = one["seeds"] - one["with_value"]
    note = f" ({missing} of {one['seeds']} beyond the curve)" if missing else ""
    if "value" not in one:
        single = [value for value in one["values"] if value is not None]
        if not single:
            return note.strip()
        return f"{math.exp(single[0]):.4g}{note}" if ratio else f"{single[0]:.4g}{note}"
    ends = [one[key] for key in ("value", "low", "high")]
    value, low, high = map(math.exp, ends) if ratio else ends
    return f"{value:.4g} [{low:.4g}, {high:.4g}]{note}"


NAMES = (
    "large-masked", "large-masked-long", "large-uniform", "large-uniform-long", "masked-base",
    "masked", "masked-long", "uniform", "ablation", "light-8-base-1", "light-8-base-2",
)  # fmt: skip
KINDS = {
    "steps": by_steps,
    "matched": at_equal_entropy,
    "outside": outside,
    "gap": gaps,
    "search": searches,
    "importance": importance,
}


def main() -> None:
    """Write what is there."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--out", type=Path, default=REPORTS)
    folder = made.parse_args().out
    lines = ["# Few steps: every figure", ""]
    for name in NAMES:
        for kind, table in KINDS.items():
            file = folder / f"{name}-{kind}.json"
            if file.exists():
                lines += list(table(name, json.loads(file.read_text())))
    write_atomic(folder / "tables.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

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

COLD = 0.9
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
    yield "\nStudent's interval; Gen-PPL as geometric means."
    yield from _by_arm(found["over_seeds"])


def at_equal_entropy(title: str, file: dict[str, Any]) -> Iterator[str]:
    """Ratios of Gen-PPL at equal entropy."""
    found = file["found"]
    yield f"## {title}: at equal entropy (n = {file['number']} a point)\n"
    yield "Gen-PPL of the first over that of the second at equal entropy.\n"
    yield "| compared | Gen-PPL ratio |\n|---|---|"
    for label, gap in found["gaps"].items():
        yield f"| {label} | {_ratio(gap)} |"
    yield from _distances(found["models"])
    yield from _colder(found["models"])
    yield from _by_arm({f"Gen-PPL ratio {k}": v for k, v in found["over_seeds"].items()}, True)


def _by_arm(over_seeds: dict[str, Any], ratios: bool = False) -> Iterator[str]:
    """A column for every arm; exponentials of logarithms of Gen-PPL, or of all."""
    arms = list(dict.fromkeys(arm for by_arm in over_seeds.values() for arm in by_arm))
    yield "\nOver training seeds:\n\n| figure | " + " | ".join(arms) + " |"
    yield "|---" * (1 + len(arms)) + "|"
    for label, by_arm in over_seeds.items():
        ratio = ratios or label.startswith("log Gen-PPL")
        cells = [_over_seeds(by_arm.get(arm), ratio) for arm in arms]
        words = label.replace("log Gen-PPL minus continuation's", "Gen-PPL over continuation's")
        yield f"| {words.replace('log Gen-PPL', 'Gen-PPL')} | {' | '.join(cells)} |"
    yield ""


def _colder(models: dict[str, Any]) -> Iterator[str]:
    """Every arm at temperature `COLD`: Gen-PPL over that of the continuation at 1, and at equal
    entropy, logarithms interpolated linearly in entropy between points of its curve."""
    yield f"\nGen-PPL of arms at temperature {COLD:g}, over training seeds:\n"
    yield "| arm | steps | over the continuation's at 1 | at equal entropy, by temperature |"
    yield "|---|---|---|---|"
    plain: dict[tuple[str, str], list[float]] = {}
    equal: dict[tuple[str, str], list[float]] = {}
    names = [label.split(", ")[0] for label in models]
    for label, points in models.items():
        name, curve = label.split(", ", 1)
        other = baseline_of(name, names) or name
        if not curve.endswith("by temperature"):
            continue
        line = sorted(map(_fluency, models[f"{other}, {curve}"]))
        (cold,) = [_fluency(point) for point in points if point["temperature"] == COLD]
        key = (arm_and_seed(name)[0], curve.split()[0])
        plain.setdefault(key, []).append(cold[1] - _fluency(models[f"{other}, {curve}"][0])[1])
        if other != name and line[0][0] <= cold[0] <= line[-1][0]:
            there = float(np.interp(cold[0], *zip(*line, strict=True)))
            equal.setdefault(key, []).append(cold[1] - there)
    for key, values in plain.items():
        cells = [_mean_ratio(values), _mean_ratio(equal.get(key, []))]
        yield f"| {' | '.join([*key, *cells])} |"


def _fluency(point: dict[str, Any]) -> tuple[float, float]:
    """Entropy and logarithm of Gen-PPL."""
    shown = point["estimates"]
    return shown["entropy"]["value"], math.log(shown["gen_ppl"]["value"])


def _mean_ratio(logs: list[float]) -> str:
    if len(logs) < 2:
        return f"{math.exp(logs[0]):.2f}" if logs else ""
    mean = mean_with_interval(np.array(logs))
    count = "" if len(logs) == 3 else f" ({len(logs)} seeds)"
    return (
        f"{math.exp(mean.value):.2f} [{math.exp(mean.low):.2f}, {math.exp(mean.high):.2f}]{count}"
    )


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
    yield from _by_arm(found["over_seeds"])


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

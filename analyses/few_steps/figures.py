"""Draw what the studies found: `figures.py [--out FOLDER]`, where their JSON files are.

`PROCESS-curves.svg`: Gen-PPL against entropy of every arm over temperature, one seed a line.
`PROCESS-training.svg`: Gen-PPL, entropy and distance from real texts along the refinement.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from common import REPORTS, arm_and_seed
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ARMS = {
    "begin": ("before", "#000000"),
    "continue": ("matched continuation", "#0072B2"),
    "reduce": ("step reduction", "#009E73"),
    "drift": ("TokenDrift", "#D55E00"),
    "sampled/drift": ("TokenDrift on drawn tokens [O]", "#CC79A7"),
    "wide/drift": ("TokenDrift, wide, 100 steps [O]", "#F0E442"),
    "method/drift": ("TokenDrift", "#D55E00"),
    "base/drift": ("ordinary loss, weight 3", "#E69F00"),
    "base-5/drift": ("ordinary loss, weight 5", "#999999"),
    "base-10/drift": ("ordinary loss, weight 10", "#56B4E9"),
    "sampled-base-0.3/drift": ("drawn, ordinary loss, weight 0.3 [O]", "#882255"),
}
MEASURES = {"gen_ppl": "Gen-PPL", "entropy": "entropy (nats)", "kernel_distance": "distance"}


def curves(found: dict[str, Any], target: Path) -> None:
    """Two panels, by number of steps."""
    steps = sorted({points[0]["steps"] for points in found["models"].values()})
    size = (4.2 * len(steps), 3.6)
    figure, grid = plt.subplots(1, len(steps), figsize=size, sharey=True, squeeze=False)
    axes = grid[0]
    for num, panel in zip(steps, axes, strict=True):
        seen = set()
        for label, points in found["models"].items():
            name, rest = label.split(", ", 1)
            arm = arm_and_seed(name)[0]
            if rest != f"{num} steps, by temperature" or arm not in ARMS:
                continue
            words, colour = ARMS[arm]
            line = sorted(points, key=lambda point: point["temperature"])
            x = [point["estimates"]["entropy"]["value"] for point in line]
            y = [point["estimates"]["gen_ppl"]["value"] for point in line]
            panel.plot(x, y, "o-", color=colour, markersize=3, linewidth=1,
                       label=None if arm in seen else words)  # fmt: skip
            plain = line.index(points[0])
            panel.plot(x[plain], y[plain], "s", color=colour, markersize=6)
            seen.add(arm)
        panel.set_title(f"{num} steps; squares: temperature 1", fontsize=9)
        panel.set_xlabel("entropy (nats)")
        panel.set_yscale("log")
    axes[0].set_ylabel("Gen-PPL")
    _finish(figure, axes[0], target)


def training(found: dict[str, Any], target: Path) -> None:
    """Three panels at 4 steps, against optimiser steps."""
    figure, axes = plt.subplots(1, len(MEASURES), figsize=(10, 3.2))
    seen = set()
    lines: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for label, one in found.items():
        if one["steps"] == 4:
            name, _, done = label.split(", ")[0].partition(" after ")
            lines.setdefault(name, []).append((int(done), one["estimates"]))
    for name, unsorted in lines.items():
        arm, points = arm_and_seed(name)[0], sorted(unsorted, key=lambda point: point[0])
        if arm not in ARMS:
            continue
        words, colour = ARMS[arm]
        for panel, what in zip(axes, MEASURES, strict=True):
            panel.plot([x for x, _ in points], [y[what]["value"] for _, y in points], "o-",
                       color=colour, markersize=3, linewidth=1,
                       label=None if arm in seen else words)  # fmt: skip
        seen.add(arm)
    for panel, (what, words) in zip(axes, MEASURES.items(), strict=True):
        panel.set_xlabel("optimiser steps")
        panel.set_ylabel(f"{words}, 4 steps")
        if what == "kernel_distance":
            panel.set_yscale("log")
    _finish(figure, axes[0], target)


def _finish(figure: Figure, labelled: Axes, target: Path) -> None:
    """Legend above the panels, and the file."""
    shown = dict(zip(*reversed(labelled.get_legend_handles_labels()), strict=True))
    words = [name for name in dict.fromkeys(name for name, _ in ARMS.values()) if name in shown]
    handles = [shown[name] for name in words]
    columns = min(len(words), 4)
    rows = -(-len(words) // columns)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.06 * rows))
    figure.legend(handles, words, loc="upper center", ncol=columns, fontsize=7, frameon=False)
    figure.savefig(target, metadata={"Date": None})


def main() -> None:
    """Draw what is there."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--out", type=Path, default=REPORTS)
    folder = made.parse_args().out
    plt.rcParams["svg.hashsalt"] = "few_steps"  # the same file every time
    for process in ("masked", "uniform", "large-masked", "large-uniform"):
        for name, draw in (("matched", curves), ("curve", training)):
            file = folder / f"{process}-{name}.json"
            if file.exists():
                words = "curves" if name == "matched" else "training"
                draw(json.loads(file.read_text())["found"], folder / f"{process}-{words}.svg")


if __name__ == "__main__":
    main()

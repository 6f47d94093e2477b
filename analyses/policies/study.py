"""Tables and figures of the policy study, from finished run folders.

python study.py RUN ... --out FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from schedlab.files import write_atomic
from schedlab.report import build_report
from schedlab.report.figures.policies import frontiers
from schedlab.report.run_data import load_run
from schedlab.results import Estimate
from schedlab.results.policy_file import FreshPolicyRow, PolicyFile
from schedlab.search.policy_bench import loss_at

TARGETS = {"accuracy": (0.5, 0.2, 0.1, 0.05, 0.03)}


def main() -> None:
    """Write one file of tables, and a figure and a report per run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    parts = ["# Tables of the policy study", "", "Made by `analyses/policies/study.py`."]
    for folder in options.runs:
        run = load_run(folder)
        file = run.policies
        assert file is not None, f"{folder} holds no search over policies"
        name = folder.name.removeprefix("policies-")
        figure = frontiers(run)
        assert figure is not None
        write_atomic(options.out / f"{name}.svg", figure.svg.standalone())
        report = build_report(folder)
        if report.pdf is not None:
            write_atomic(options.out / f"{name}.pdf", report.pdf.read_bytes())
        file.write(options.out / f"{name}.json")
        parts += ["", f"## {name}", "", _facts(file), "", *_families(file), "", *_matched(file)]
        parts += ["", *_at_equal_loss(file), "", *_parameters(file)]
    write_atomic(options.out / "tables.md", "\n".join(parts) + "\n")


def _facts(file: PolicyFile) -> str:
    setting = file.setting
    return (
        f"{setting.quality} against {setting.cost}; search n = {setting.num_sequences}, seed"
        f" {setting.seed}; fresh n = {setting.fresh_sequences}, seed {setting.fresh_seed};"
        f" {setting.precision}; {setting.trials} proposals in each of {setting.repeats} searches;"
        " 95 % bootstrap intervals over sequences."
    )


def _families(file: PolicyFile) -> list[str]:
    rows = sorted(file.families, key=lambda row: -row.hypervolume.value)
    return [
        "| policy | plans on its front | hypervolume |",
        "|---|---|---|",
        *(f"| {row.family} | {len(row.digests)} | {_text(row.hypervolume)} |" for row in rows),
    ]


def _matched(file: PolicyFile) -> list[str]:
    lines = [
        "| tuned | search | against | plans | mean difference in loss at equal cost"
        " | difference in hypervolume |",
        "|---|---|---|---|---|---|",
    ]
    for one in file.matched:
        mean = "no overlap" if one.mean_difference is None else _text(one.mean_difference)
        search = "all" if one.repeat is None else str(one.repeat + 1)
        lines.append(
            f"| {one.family} | {search} | {one.against} | {len(one.digests)} | {mean}"
            f" | {_text(one.hypervolume_difference)} |"
        )
    return lines


def _at_equal_loss(file: PolicyFile) -> list[str]:
    """Cost at which every front reaches a loss, between its plans; a point estimate."""
    targets = TARGETS.get(file.setting.quality)
    known = {row.digest: row for row in file.fresh}
    if targets is None:
        losses = [row.loss.value for row in file.fresh]
        targets = tuple(float(np.quantile(losses, q)) for q in (0.5, 0.3, 0.2, 0.1))
    lines = [
        f"Mean {file.setting.cost} at which a front reaches a loss (fresh, interpolated).",
        "",
        "| policy | " + " | ".join(f"{target:.3g}" for target in targets) + " |",
        "|---|" + "---|" * len(targets),
    ]
    for family in file.families:
        rows = [known[digest] for digest in family.digests if digest in known]
        cells = [_cost_at(rows, target, file) for target in targets]
        lines.append(f"| {family.family} | " + " | ".join(cells) + " |")
    return lines


def _cost_at(rows: list[FreshPolicyRow], target: float, file: PolicyFile) -> str:
    costs = np.array([row.estimates[file.setting.cost].value for row in rows])
    losses = np.array([row.loss.value for row in rows])
    order = np.argsort(costs)
    best = np.minimum.accumulate(losses[order])
    if best[-1] > target:
        return "-"
    grid = np.linspace(costs.min(), costs.max(), 2_000)
    found = loss_at(grid, np.tile(best, (len(grid), 1)), np.tile(costs[order], (len(grid), 1)))
    return f"{grid[int(np.argmax(found <= target))]:.2f}"


def _parameters(file: PolicyFile) -> list[str]:
    """What the plans of tuned fronts have in common."""
    lines = []
    for family in file.families:
        rows = [file.row(digest) for digest in family.digests]
        if not rows or not rows[0].curve.tuned:
            continue
        names = sorted({name for row in rows for name in row.plan.policy.parameters})
        lines += [f"Parameters on the front of {family.family}, from cheap to dear:", ""]
        lines += [
            "| " + " | ".join(["fresh loss", *names]) + " |",
            "|" + "---|" * (len(names) + 1),
        ]
        known = {row.digest: row for row in file.fresh}
        for row in rows:
            values = [_short(row.plan.policy.parameters.get(name, "")) for name in names]
            loss = f"{known[row.digest].loss.value:.4g}" if row.digest in known else ""
            lines.append("| " + " | ".join([loss, *values]) + " |")
    return lines


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _text(estimate: Estimate) -> str:
    return f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"


if __name__ == "__main__":
    main()

"""What the corpora say about the paper's claims: `python summary.py OUT_FOLDER RESULTS.json ...`.

Writes README.md (claims with their verdicts, tables) and figures. A claim is confirmed or not only
where intervals prove it; comparisons of hand-made schedules are corrected for their number within
a question (Bonferroni), and nothing is corrected over questions, lights and corpora.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt

from schedlab.files import write_atomic

Result = dict[str, Any]

MIDDLE, ENDS = ("light_second", "light_third"), ("light_first", "light_last", "sandwich")
SIGNS = {"yes": "confirmed", "no": "not confirmed", "open": "undecided", "fact": "fact"}
COLOURS = {"4": "#0072B2", "6": "#009E73", "8": "#E69F00", "10": "#D55E00"}


def main(folder: str, *paths: str) -> None:
    """Write the summary of these results."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    results = [json.loads(Path(path).read_text(encoding="utf-8")) for path in paths]
    for result in results:
        result["corpus"] = Path(result["corpus"]).name
        result["name"] = "embedded" if result["corpus"] == "embedded" else "stories"
        write_atomic(out / f"{result['name']}.json", json.dumps(result, indent=1))
        for name, draw in (("handmade", draw_handmade), ("shares", draw_shares)):
            figure = draw(result)
            figure.savefig(out / f"{result['name']}-{name}.svg", metadata={"Date": None})
            plt.close(figure)
    write_atomic(out / "tables.md", "\n".join(lines(results)) + "\n")


def lines(results: list[Result]) -> Iterable[str]:
    """The tables in Markdown."""
    yield from claims(results)
    for result in results:
        yield from corpus_tables(result)


def plain(text: str) -> str:
    """Roles by the number of their blocks."""
    names = {"H": "heavy", "L": "light 4", "Lsix": "light 6", "Leight": "light 8"}
    names |= {"Lten": "light 10", "Hb": "second heavy"}
    return re.sub(r"\b(H|Hb|L|Lsix|Leight|Lten)\b(?!\d)", lambda m: names[m[1]], text)


def claims(results: list[Result]) -> Iterable[str]:
    """Claim by claim, one column per corpus."""
    yield "## Claims\n"
    yield "| claim | " + " | ".join(result["name"] for result in results) + " |"
    yield "|---|" + "---|" * len(results)
    for blocks in dict.fromkeys(blocks for result in results for blocks in result["lights"]):
        for claim, judge in (
            (f"light {blocks}, a quarter light: the sandwich is the best", sandwich),
            (f"light {blocks}, a quarter light: 2nd or 3rd quarter is worst", middle_worst),
        ):
            found = [r["lights"].get(blocks) for r in results]
            cells = [judge(one["quarter"]) if one else "-" for one in found]
            yield f"| {claim} | " + " | ".join(cells) + " |"
    for claim, judge in (
        ("given a prefix (light 4): the sandwich is the best", sandwich),
        ("given a prefix (light 4): 2nd or 3rd quarter is worst", middle_worst),
    ):
        yield f"| {claim} | " + " | ".join(judge(r["prefix"]["quarter"]) for r in results) + " |"
    for question in dict.fromkeys(
        finding["question"] for result in results for finding in result["findings"]
    ):
        cells = []
        for result in results:
            found = [one for one in result["findings"] if one["question"] == question]
            cells.append(
                f"{SIGNS[found[0]['verdict']]}: {plain(found[0]['text'])}" if found else "-"
            )
        yield f"| {plain(question)} | " + " | ".join(cells) + " |"
    yield ""


def sandwich(quarter: dict[str, dict[str, Any]]) -> str:
    """Whether the sandwich beats each of the others."""
    own = quarter["sandwich"]
    if all(found["high"] < 0 for found in own.values()):
        return "confirmed"
    better = [name for name, found in own.items() if found["low"] > 0]
    if better:
        return f"not confirmed: {', '.join(map(said, better))} better"
    best, found = max(own.items(), key=lambda pair: pair[1]["value"])
    rank = 1 + sum(found["value"] > 0 for found in own.values())
    return f"undecided: rank {rank} of 5; against {said(best)} {percent(found)}"


def middle_worst(quarter: dict[str, dict[str, Any]]) -> str:
    """Whether both middle quarters are worse than each of the other three."""
    pairs = [quarter[middle][end] for middle in MIDDLE for end in ENDS]
    if all(found["low"] > 0 for found in pairs):
        return "confirmed"
    worse = {e for m in MIDDLE for e in ENDS if quarter[m][e]["high"] < 0}
    if worse:
        return f"not confirmed: {', '.join(map(said, sorted(worse)))} worse than a middle quarter"
    apart = sum(found["low"] > 0 for found in pairs)
    return f"undecided: {apart} of {len(pairs)} differences proven"


def corpus_tables(result: Result) -> Iterable[str]:
    """Hand-made schedules, influence, and what the additive scores choose."""
    setting = result["setting"]
    yield f"## {result['name']}\n"
    yield (
        f"{setting['length']} tokens, {setting['num_steps']} steps, seed {setting['seed']},"
        f" scorer: {setting['scorer']}. NELBO in nats per token ({setting['windows']} windows): "
        + "; ".join(f"{plain(r)} {number(found)}" for r, found in result["nelbo"].items())
        + ". Light minus heavy: "
        + "; ".join(f"{plain(r)} {number(found)}" for r, found in result["gap"].items())
        + ".\n"
    )
    yield (
        f"Gen-PPL against all heavy, paired, n = {setting['handmade_sequences']}; the last two"
        f" columns: saved as published (blocks only) and with the head.\n"
    )
    lights = list(result["lights"])
    yield "| schedule | " + " | ".join(f"light {n}" for n in lights) + " | saved (light 4) | |"
    yield "|---|" + "---|" * (len(lights) + 2)
    for name, row in result["lights"][lights[0]]["rows"].items():
        if name == "all_heavy":
            continue
        others = [result["lights"][n]["rows"].get(name) for n in lights]
        cells = [percent(other["change"]) if other else "-" for other in others]
        saved = [f"{100 * row[k]:.1f} %" for k in ("saved_blocks_nominal", "saved")]
        yield f"| {said(name)} | " + " | ".join([*cells, *saved]) + " |"
    rho = result["prefix_rank_correlation"]
    yield (
        f"\nGiven {setting['prefix_length']} tokens (light 4): "
        + "; ".join(
            f"{said(name)} {percent(row['change'])}"
            for name, row in result["prefix"]["rows"].items()
            if name != "all_heavy"
        )
        + f". Spearman of the five mixed ones with and without prefix {number(rho)}.\n"
    )
    yield (
        f"All {2 ** setting['num_segments']:,} schedules of light 4 (n ="
        f" {setting['exhaustive_sequences']}): Gen-PPL of every light share against all heavy; the"
        f" winner of the search and the additive choices on {setting['fresh_sequences']} fresh"
        " sequences; regret: choice against winner, fresh.\n"
    )
    yield "| light segments | mean of all | winner | loss gap | regret | path KL | regret |"
    yield "|---|---|---|---|---|---|---|"
    for count, row in result["by_count"].items():
        cells = [percent(row["mean_change"]), percent(row["winner"]["change"])]
        for name in ("loss_gap", "path_kl"):
            cells += [percent(row[name]["change"]), percent(row[name]["regret"])]
        yield f"| {count} | " + " | ".join(cells) + " |"
    mean = result["mean_regret"]
    yield (
        f"\nMean regret over the budgets: loss gap {percent(mean['loss_gap'])}, path KL"
        f" {percent(mean['path_kl'])}. Seconds: analysis {result['seconds']['analysis']:.0f},"
        f" search {result['seconds']['search']:.0f}.\n"
    )
    yield (
        "Segment influence on Gen-PPL (0 is the noisiest): "
        + "; ".join(f"{one['segment']}: {number(one['ppl'])}" for one in result["influence"])
        + ".\n"
    )
    yield (
        "Rank correlation with sampled quality among schedules of one cost: "
        + "; ".join(
            f"{one['score']} ({one['states']}) {number(one['spearman'])}"
            + (f", ceiling {number(one['ceiling_spearman'])}" if one["ceiling_spearman"] else "")
            for one in result["ranking"]
        )
        + ".\n"
    )


def draw_handmade(result: Result) -> plt.Figure:
    """Hand-made schedules at a quarter, by light."""
    names = [*ENDS[:1], *MIDDLE, *ENDS[1:], "all_light"]
    figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
    for place, (blocks, found) in enumerate(result["lights"].items()):
        points = [found["rows"][name]["change"] for name in names]
        x = [i + 0.16 * (place - 1.5) for i in range(len(names))]
        errorbars(axes, x, points, colour=COLOURS[blocks], label=f"light of {blocks} blocks")
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_xticks(range(len(names)), [said(name) for name in names])
    axes.set_ylabel("Gen-PPL against all heavy (%)")
    n = result["setting"]["handmade_sequences"]
    axes.set_title(
        f"{result['name']}: a quarter of the steps light; paired, 95 %, n = {n}", fontsize=9
    )
    figure.legend(fontsize=8, frameon=False, ncols=4, loc="outside lower center")
    return figure


def draw_shares(result: Result) -> plt.Figure:
    """Gen-PPL against the share of light steps."""
    figure, axes = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    counts = list(result["by_count"])
    segments = result["setting"]["num_segments"]
    styles = (
        ("mean of all schedules", "0.45", lambda row: row["mean_change"]),
        ("winner, fresh seeds", "#000000", lambda row: row["winner"]["change"]),
        ("lowest loss gap, fresh", "#0072B2", lambda row: row["loss_gap"]["change"]),
        ("lowest path KL, fresh", "#D55E00", lambda row: row["path_kl"]["change"]),
    )
    for place, (label, colour, pick) in enumerate(styles):
        x = [100 * int(count) / segments + 0.9 * (place - 1.5) for count in counts]
        points = [pick(result["by_count"][count]) for count in counts]
        errorbars(axes, x, points, colour=colour, label=label)
    rows = result["lights"][next(iter(result["lights"]))]["rows"]
    sandwiches = [row for name, row in rows.items() if name.startswith("sandwich")]
    sandwiches.sort(key=lambda row: row["light_share"])
    errorbars(
        axes,
        [100 * row["light_share"] for row in sandwiches],
        [row["change"] for row in sandwiches],
        colour="#009E73",
        label="sandwich",
        line=True,
    )
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_xlabel("share of light steps (%), light of 4 blocks")
    axes.set_ylabel("Gen-PPL against all heavy (%)")
    setting = result["setting"]
    axes.set_title(
        f"{result['name']}: paired, 95 %; n = {setting['exhaustive_sequences']} (mean),"
        f" {setting['fresh_sequences']} (fresh), {setting['handmade_sequences']} (sandwich)",
        fontsize=9,
    )
    figure.legend(fontsize=8, frameon=False, ncols=3, loc="outside lower center")
    return figure


def errorbars(
    axes: plt.Axes, x: list[float], points: list[dict[str, Any]], *, colour: str, label: str,
    line: bool = False,
) -> None:  # fmt: skip
    """Log ratios as percentages with their intervals."""
    value, low, high = (
        [100 * math.expm1(point[end]) for point in points] for end in ("value", "low", "high")
    )
    below = [max(0.0, v - e) for v, e in zip(value, low, strict=True)]
    above = [max(0.0, e - v) for v, e in zip(value, high, strict=True)]
    axes.errorbar(
        x, value, yerr=[below, above], fmt="o-" if line else "o", color=colour, label=label,
        markersize=3.5, elinewidth=1.0, linewidth=0.9,
    )  # fmt: skip


def said(name: str) -> str:
    """`sandwich_50` in words."""
    return name.replace("_", " ")


def percent(found: dict[str, float]) -> str:
    """A log ratio as a change in percent with its interval."""
    value, low, high = (100 * math.expm1(found[end]) for end in ("value", "low", "high"))
    return f"{value:+.1f} % [{low:+.1f}, {high:+.1f}]"


def number(found: dict[str, float]) -> str:
    """A number with its interval."""
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])

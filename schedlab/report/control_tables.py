"""Tables of a joint search over guidance and allocation."""

from __future__ import annotations

from schedlab.report.captions import control_facts, trace_facts
from schedlab.report.content import Cell, Column, Table
from schedlab.report.control_plans import (
    Measured,
    kind,
    measured,
    names_of,
    policy_words,
    scale_words,
    scaled,
    trace_name,
)
from schedlab.report.figures.control_steps import TITLES, title
from schedlab.report.tables import NONE
from schedlab.report.tables import estimate as estimate_cell
from schedlab.report.words import interval, one_line
from schedlab.results import Estimate
from schedlab.results.control_file import ControlFile

QUALITY = (
    ("gen_ppl", "Gen-PPL"),
    ("entropy", "entropy (nats)"),
    ("distinct_3", "distinct-3"),
    ("self_bleu", "self-BLEU"),
)
COSTS = {
    "seconds": "seconds per sequence",
    "flops_total": "FLOPs per sequence, head included",
    "forwards": "forwards per sequence",
}
MOST_LABELS = 8
_MOST_JUDGES = 3
_MOST_GUIDES = 3
_DOCUMENT_ROWS = 40


def plans(file: ControlFile) -> Table | None:
    """Every plan that was measured again: what it is, what it gives, what it costs."""
    if not file.fresh:
        return None
    has_ppl = any(row.ppl_ratio is not None for row in file.fresh)
    return Table(
        name="control-plans",
        title="All plans measured on fresh sequences",
        caption="The reference, then by falling control; other tables have the same numbers."
        " Policies read the gradient and nothing is pooled where nothing else is said. Ratios are"
        " to the reference on the same random numbers; cost is"
        f" {COSTS[file.setting.cost]}. Within: all constraints hold by their values here. "
        + control_facts(file),
        columns=(
            Column("plan"),
            Column("lambda", numeric=True),
            Column("iterations", numeric=True),
            Column("steps", numeric=True),
            Column("schedule"),
            Column("control (%)", numeric=True),
            *([Column("Gen-PPL ratio", numeric=True)] if has_ppl else []),
            Column("cost ratio", numeric=True),
            Column("within"),
        ),
        rows=tuple(
            (
                Cell(f"{place}. {policy_words(one.plan.policy)}", small=_about(file, one)),
                Cell(scale_words(one.scale), one.scale),
                _count(_iterations(one)),
                _count(one.plan.num_steps),
                Cell(one_line(str(one.plan.model_schedule), max_length=80)),
                _percent(one.fresh.control),
                *([_estimate(one.fresh.ppl_ratio)] if has_ppl else []),
                estimate_cell(one.fresh.cost),
                Cell("yes" if one.fresh.within else "no"),
            )
            for place, one in enumerate(measured(file), 1)
        ),
        document_rows=_DOCUMENT_ROWS,
    )


def quality(file: ControlFile) -> Table | None:
    """Perplexity beside what it could have been bought with."""
    shown = [(n, w) for n, w in QUALITY if any(n in row.estimates for row in file.fresh)]
    if not shown:
        return None
    ppl = (
        "Gen-PPL: lower is better, but dull text is low too. " if shown[0][0] == "gen_ppl" else ""
    )
    cost = file.setting.cost
    if any(cost in row.estimates for row in file.fresh):
        shown.append((cost, COSTS[cost].partition(",")[0]))
    return Table(
        name="control-quality",
        title="What control may have been bought with",
        caption=f"{ppl}Entropy of the tokens within a text, distinct-3 (share of different"
        " triples) and self-BLEU (likeness of the texts to each other) show whether texts became"
        " alike. " + control_facts(file),
        columns=(
            Column("plan"),
            Column("control (%)", numeric=True),
            *(Column(words, numeric=True) for _, words in shown),
        ),
        rows=tuple(
            (
                _short(file, place, one),
                _percent(one.fresh.control),
                *(_estimate(one.fresh.estimates.get(name)) for name, _ in shown),
            )
            for place, one in enumerate(measured(file), 1)
        ),
        document_rows=_DOCUMENT_ROWS,
    )


def opinions(file: ControlFile) -> Table | None:
    """Judges and guides side by side."""
    names = {name for row in file.fresh for name in row.estimates}
    judges = [name for name in file.setting.judges if f"control_{name}" in names][:_MOST_JUDGES]
    guides = sorted(name for name in names if name.startswith("guide_"))[:_MOST_GUIDES]
    heads = [
        *((f"control_{name}", f"judge '{name}' (%)") for name in judges),
        *((f"control_p_{name}", f"judge '{name}': p (%)") for name in judges),
        *((name, f"guide '{name.removeprefix('guide_')}' itself (%)") for name in guides),
    ]
    heads = [(name, words) for name, words in heads if name in names]
    if not heads:
        return None
    return Table(
        name="control-opinions",
        title="What judges say, and what the guide says",
        caption="Share of texts that have what was asked for, by every judge; p is the mean"
        " probability that a judge gives it. A guide's own opinion is not a measure: guidance"
        " moves texts to where the guide errs, and the gap to the judges shows how far. The"
        f" figures of this report are those of judge '{one_line(file.setting.judge)}'. "
        + control_facts(file),
        columns=(
            Column("plan"),
            *(Column(one_line(words, max_length=44), numeric=True) for _, words in heads),
        ),
        rows=tuple(
            (
                _short(file, place, one),
                *(_percent(one.fresh.estimates.get(name)) for name, _ in heads),
            )
            for place, one in enumerate(measured(file), 1)
        ),
        document_rows=_DOCUMENT_ROWS,
    )


def by_label(file: ControlFile) -> Table | None:
    """Control by the label that was asked for."""
    labels = list(dict.fromkeys(label for row in file.fresh for label in row.by_label))
    if len(labels) < 2:
        return None
    left_out = len(labels) - MOST_LABELS
    more = f" {left_out} more labels are in control.json." if left_out > 0 else ""
    labels = labels[:MOST_LABELS]
    widest = 32 if len(labels) <= 4 else 14
    return Table(
        name="control-labels",
        title="Control by label",
        caption="Share of the texts of which a label was asked that have it (%), labels of the"
        f" first attribute.{more} Each label has only its part of the sequences. "
        + control_facts(file),
        columns=(
            Column("plan"),
            *(Column(one_line(label, max_length=widest), numeric=True) for label in labels),
        ),
        rows=tuple(
            (
                _short(file, place, one),
                *(_percent(one.fresh.by_label.get(label)) for label in labels),
            )
            for place, one in enumerate(measured(file), 1)
        ),
        folded=True,
        document_rows=20,
    )


def summaries(file: ControlFile) -> Table | None:
    """Means over the steps of traced plans."""
    traces = [trace for trace in file.traces if trace.summary]
    names = list(dict.fromkeys(name for trace in traces for name in trace.summary))
    if not names:
        return None
    order = list(TITLES)
    names.sort(key=lambda name: order.index(name) if name in order else len(order))
    return Table(
        name="trace-summary",
        title="Traced plans: means over steps",
        caption="Of fluctuation, forgetting and changes less is steadier. The plans may differ in"
        " more than their clocks: see the table of plans. "
        + trace_facts(file, traces, interval=True),
        columns=(
            Column("measure"),
            *(Column(trace_name(file, trace), numeric=True) for trace in traces),
        ),
        rows=tuple(
            (Cell(title(name)), *(_estimate(trace.summary.get(name)) for trace in traces))
            for name in names
        ),
    )


def _about(file: ControlFile, one: Measured) -> str:
    """What a plan is in the search, and what of its guidance is not usual."""
    parts = names_of(file, one.digest)
    parts += [one.row.origin] if one.row.origin not in parts else []
    guidance = one.plan.guidance
    if guidance is not None and guidance.iterations > 0:
        if guidance.decay != "constant":
            parts.append(f"{guidance.decay} decay")
        if guidance.start < 1 or guidance.end > 0:
            parts.append(f"t {guidance.start:g} to {guidance.end:g}")
        if guidance.interval > 1:
            parts.append(f"every {guidance.interval} steps")
        if guidance.contrast:
            parts.append("contrast")
    return ", ".join(parts)


def _short(file: ControlFile, place: int, one: Measured) -> Cell:
    names = [*names_of(file, one.digest), f"lambda {scale_words(one.scale)}"]
    return Cell(f"{place}. {kind(one.plan.policy)}", small=", ".join(names))


def _iterations(one: Measured) -> int:
    return 0 if one.plan.guidance is None else one.plan.guidance.iterations


def _count(value: int) -> Cell:
    return Cell(str(value), float(value))


def _estimate(value: Estimate | None) -> Cell:
    return NONE if value is None else estimate_cell(value)


def _percent(value: Estimate | None) -> Cell:
    if value is None:
        return NONE
    text, _, ends = interval(scaled(value, 100.0)).partition(" ")
    return Cell(text, value.value, small=ends)

"""The report's sections on a search over policies."""

from __future__ import annotations

from schedlab.report.captions import policy_facts
from schedlab.report.content import (
    Block,
    Cell,
    Column,
    KeyNumber,
    Paragraph,
    SampleColumn,
    Samples,
    Section,
    Strip,
    Table,
)
from schedlab.report.figures import policies as figures
from schedlab.report.figures.policies import AXIS, LOSSES
from schedlab.report.run_data import RunData
from schedlab.report.words import interval, number, one_line, percent, visible
from schedlab.results import Estimate
from schedlab.results.policy_file import PolicyFile

OURS = ("stdd",)
"""Policies whose rule is schedlab's own parametrisation, not the paper's."""
_LONGEST = 400


def sections(run: RunData) -> list[Section]:
    """All there is to say; none where no policies were searched."""
    file = run.policies
    if file is None:
        return []
    blocks: list[Block | None] = [
        Paragraph(
            "Every policy ran on the same prompts and random numbers, with the same stop rule."
            " Policies are compared as curves at equal cost: each one's own knob is swept, and"
            " what was tuned was tuned on other sequences than those shown here." + _ours(file)
        ),
        figures.frontiers(run),
        _families(file),
        figures.matched(run),
        _matched(file),
        _plans(file),
    ]
    found = [Section("policies", "Policies: quality against cost", _kept(blocks))]
    samples = _samples(run, file)
    if samples is not None:
        found.append(Section("samples", "What the texts look like", (samples,)))
    return found


def key_numbers(file: PolicyFile) -> list[KeyNumber]:
    """The picks, on fresh sequences."""
    found = []
    for pick, words in (("best", "Best of the search"), ("knee", "Knee of the front")):
        digest = file.picks.get(pick)
        fresh = file.fresh_row(digest) if digest is not None else None
        if digest is None or fresh is None:
            continue
        quality = fresh.estimates[figures.SHOWN[file.setting.quality][0]]
        found.append(
            KeyNumber(
                f"{words}: {file.row(digest).plan.policy.name}",
                f"{percent(1 - fresh.cost.value)} saved",
                f"{figures.SHOWN[file.setting.quality][1].split(' (')[0]} {interval(quality)}",
            )
        )
    return found


def provenance(file: PolicyFile) -> list[tuple[str, str]]:
    """Rows of the provenance table."""
    setting = file.setting
    return [
        ("policies: task", setting.task or "none"),
        ("policies: seed", f"{setting.seed}, {setting.num_sequences} sequences per plan"),
        ("policies: fresh seed", f"{setting.fresh_seed}, {setting.fresh_sequences} per plan"),
        ("policies: reference", setting.reference),
        *((f"pick: {name}", digest) for name, digest in sorted(file.picks.items())),
    ]


def _ours(file: PolicyFile) -> str:
    ours = [name for name in OURS if any(row.curve.policy == name for row in file.rows)]
    if not ours:
        return ""
    return (
        f" The rule of {', '.join(ours)} is schedlab's own parametrisation: the paper's equations"
        " are not public."
    )


def _families(file: PolicyFile) -> Table:
    worst, dearest = file.setting.reference_point
    best = {
        family.family: min(
            (row.loss.value for row in file.fresh if row.digest in family.digests), default=None
        )
        for family in file.families
    }
    rows = sorted(file.families, key=lambda family: -family.hypervolume.value)
    return Table(
        name="families",
        title="Fronts by policy",
        caption="Plans that were on a policy's front on the search's sequences, measured on fresh"
        f" ones. Hypervolume: area between them and the point (loss {number(worst)}, cost"
        f" {number(dearest)} of the reference); larger is better. A policy with more settings"
        " tried has more chances on the search's sequences, none on fresh ones. "
        + policy_facts(file),
        columns=(
            Column("policy"),
            Column("plans on its front", numeric=True),
            Column("hypervolume", numeric=True),
            Column(f"lowest {LOSSES[file.setting.quality]}", numeric=True),
        ),
        rows=tuple(
            (
                Cell(row.family),
                Cell(str(len(row.digests)), float(len(row.digests))),
                _cell(row.hypervolume),
                Cell("") if best[row.family] is None else _number(best[row.family]),
            )
            for row in rows
        ),
    )


def _number(value: float | None) -> Cell:
    assert value is not None, "checked"
    return Cell(number(value), value)


def _matched(file: PolicyFile) -> Table | None:
    if not file.matched:
        return None
    return Table(
        name="matched-table",
        title="Tuned against swept at equal cost",
        caption="Differences in loss and hypervolume, paired by sequence; below zero in loss and"
        " above zero in hypervolume the tuned policy is better. 'All' is the front of all searches"
        " together. " + policy_facts(file),
        columns=(
            Column("tuned"),
            Column("search"),
            Column("against"),
            Column("plans", numeric=True),
            Column(f"mean difference in {LOSSES[file.setting.quality]}", numeric=True),
            Column("difference in hypervolume", numeric=True),
        ),
        rows=tuple(
            (
                Cell(one.family),
                Cell("all" if one.repeat is None else str(one.repeat + 1)),
                Cell(one.against),
                Cell(str(len(one.digests)), float(len(one.digests))),
                Cell("no overlap") if one.mean_difference is None else _cell(one.mean_difference),
                _cell(one.hypervolume_difference),
            )
            for one in file.matched
        ),
    )


def _plans(file: PolicyFile) -> Table:
    quality, _ = figures.SHOWN[file.setting.quality]
    by_digest = {row.digest: row for row in reversed(file.rows)}
    rows = sorted(file.fresh, key=lambda row: row.cost.value)
    return Table(
        name="policy-plans",
        title="All plans measured on fresh sequences",
        caption="From cheap to dear. " + policy_facts(file),
        columns=(
            Column("policy and parameters"),
            Column("schedule"),
            Column("temperature", numeric=True),
            Column(quality.replace("_", " "), numeric=True),
            Column(AXIS[file.setting.cost], numeric=True),
            Column("share of the reference", numeric=True),
        ),
        rows=tuple(
            (
                Cell(one_line(str(by_digest[row.digest].plan.policy), max_length=_LONGEST)),
                Cell(one_line(str(by_digest[row.digest].plan.model_schedule), max_length=80)),
                _number(by_digest[row.digest].plan.decoding.temperature),
                _cell(row.estimates[quality]),
                _cell(row.estimates[file.setting.cost]),
                _cell(row.cost),
            )
            for row in rows
        ),
        folded=True,
        document_rows=40,
    )


def _samples(run: RunData, file: PolicyFile) -> Samples | None:
    names: dict[str, list[str]] = {file.setting.reference: ["reference"]}
    for name, digest in file.picks.items():
        names.setdefault(digest, []).append(name)
    columns = []
    for digest, words in names.items():
        fresh, plan = file.fresh_row(digest), file.row(digest).plan
        if fresh is None or not fresh.samples:
            continue
        segments = plan.model_schedule.segments
        columns.append(
            SampleColumn(
                heading=", ".join(words),
                strip=Strip(
                    one_line(str(plan.model_schedule), max_length=200),
                    tuple((role, n, run.roles.colour(role)) for role, n in segments),
                ),
                facts=one_line(str(plan.policy), max_length=200),
                texts=tuple(visible(text, max_length=4000) for text in fresh.samples),
            )
        )
    if not columns:
        return None
    return Samples(
        name="texts",
        title="Samples beside each other",
        caption="Texts in a row answer the same prompt with the same random numbers. First"
        " sequences of the fresh ones, not selected. " + policy_facts(file),
        columns=tuple(columns),
    )


def _cell(estimate: Estimate) -> Cell:
    text, _, ends = interval(estimate).partition(" ")
    return Cell(text, estimate.value, small=ends)


def _kept(blocks: list[Block | None]) -> tuple[Block, ...]:
    return tuple(block for block in blocks if block is not None)

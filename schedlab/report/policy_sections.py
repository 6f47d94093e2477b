"""The report's sections on a search over policies."""

from __future__ import annotations

from schedlab.plan import Plan
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
from schedlab.report.words import interval, number, one_line, percent, sample
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
            "Every policy ran on the same prompts and random numbers. Policies are compared as"
            " curves at equal cost: each one's own knob is swept, and what was tuned was tuned on"
            " other sequences than those shown here." + _ours(file) + " One training seed per"
            " denoiser: intervals cover sequences, neither training nor the luck of a search (the"
            " table gives every search by itself), and nothing corrects for comparing with"
            " several."
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
                f"{figures.SHOWN[file.setting.quality][1].split(' (')[0]} {interval(quality)}"
                + (
                    f", entropy {interval(fresh.estimates['entropy'])}"
                    if file.setting.quality == "gen_ppl"
                    else ""
                ),
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
    known = {row.digest: row for row in file.fresh}
    # The dearest plan of a front has its lowest loss on the search's sequences: no new choice.
    best = {
        family.family: known[family.digests[-1]]
        for family in file.families
        if family.digests and family.digests[-1] in known
    }
    rows = sorted(file.families, key=lambda family: -family.hypervolume.value)
    return Table(
        name="families",
        title="Fronts by policy",
        caption="Plans that were on a policy's front on the search's sequences, measured on fresh"
        " ones, in the order in which they were chosen: a plan that turns out worse than a cheaper"
        f" one is not exchanged for it. Hypervolume: area between them and the point (loss"
        f" {number(worst)}, cost {number(dearest)} of the reference); larger is better. "
        + policy_facts(file),
        columns=(
            Column("policy"),
            Column("plans on its front", numeric=True),
            Column("hypervolume", numeric=True),
            Column(f"{LOSSES[file.setting.quality]} of its dearest plan", numeric=True),
        ),
        rows=tuple(
            (
                Cell(figures.shown_name(row.family, file)),
                Cell(str(len(row.digests)), float(len(row.digests))),
                _cell(row.hypervolume),
                _cell(best[row.family].loss) if row.family in best else Cell(""),
            )
            for row in rows
        ),
    )


def _matched(file: PolicyFile) -> Table | None:
    if not file.matched:
        return None
    return Table(
        name="matched-table",
        title="Tuned policies against others at equal cost",
        caption="Differences in loss and hypervolume, paired by sequence; below zero in loss and"
        " above zero in hypervolume the tuned policy is better. 'All' is the front of all searches"
        " together. Plans cheaper than all of the other's compare with nothing and are left out. "
        + policy_facts(file),
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
                Cell(figures.shown_name(one.against, file)),
                Cell(f"{len(one.digests)} of {len(one.digests) + one.cheaper}"),
                Cell("no overlap") if one.mean_difference is None else _cell(one.mean_difference),
                _cell(one.hypervolume_difference),
            )
            for one in file.matched
        ),
    )


def _plans(file: PolicyFile) -> Table:
    quality, _ = figures.SHOWN[file.setting.quality]
    # Gen-PPL never without what it could be bought with.
    beside = (
        (("entropy", "entropy (nats)"), ("distinct_2", "distinct-2"), ("self_bleu", "self-BLEU"))
        if file.setting.quality == "gen_ppl"
        else ()
    )
    by_digest = {row.digest: row for row in reversed(file.rows)}
    rows = sorted(file.fresh, key=lambda row: row.cost.value)
    return Table(
        name="policy-plans",
        title="All plans measured on fresh sequences",
        caption="From cheap to dear. " + policy_facts(file),
        columns=(
            Column("policy and parameters"),
            Column("schedule"),
            Column("temperature, top-p", numeric=True),
            Column(quality.replace("_", " "), numeric=True),
            *(Column(heading, numeric=True) for _, heading in beside),
            Column(AXIS[file.setting.cost], numeric=True),
            Column("share of the reference", numeric=True),
        ),
        rows=tuple(
            (
                Cell(one_line(_policy(by_digest[row.digest].plan), max_length=_LONGEST)),
                Cell(one_line(str(by_digest[row.digest].plan.model_schedule), max_length=80)),
                Cell(_decoding(by_digest[row.digest].plan)),
                _cell(row.estimates[quality]),
                *(
                    _cell(row.estimates[name]) if name in row.estimates else Cell("")
                    for name, _ in beside
                ),
                _cell(row.estimates[file.setting.cost]),
                _cell(row.cost),
            )
            for row in rows
        ),
        folded=True,
        document_rows=40,
    )


def _policy(plan: Plan) -> str:
    if isinstance(plan.time_grid, str):
        return str(plan.policy)
    return f"{plan.policy}, levels {', '.join(f'{t:.3g}' for t in plan.time_grid)}"


def _decoding(plan: Plan) -> str:
    decoding = plan.decoding
    top_p = "" if decoding.top_p == 1 else f", {decoding.top_p:g}"
    return f"{decoding.temperature:g}{top_p}"


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
                texts=tuple(sample(text, max_length=4000) for text in fresh.samples),
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

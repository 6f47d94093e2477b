"""The report's tables: the numbers behind the figures, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

from schedlab.plan import ModelSchedule
from schedlab.report.captions import (
    idle_skipped,
    importance_facts,
    kind_of_savings,
    search_facts,
)
from schedlab.report.content import Cell, Column, Strip, Table
from schedlab.report.figures.schedules import reasons
from schedlab.report.run_data import RunData, all_heavy, named, saved_as_counted
from schedlab.report.style import Roles
from schedlab.report.words import (
    change,
    flops,
    interval,
    number,
    one_line,
    percent,
    relative_change,
)
from schedlab.results import Estimate
from schedlab.results.search_file import FreshRow, SearchRow

NONE = Cell("\N{EN DASH}")
QUALITY = (
    ("gen_ppl", "Gen-PPL"),
    ("entropy", "entropy (nats)"),
    ("distinct_2", "distinct-2"),
    ("self_bleu", "self-BLEU"),
    ("agreement", "agreement with heavy"),
)
SAVED = "FLOPs saved, with head"
LONGEST_TABLE = 1100  # rows; beyond that the page becomes heavy, and search.json has them all


def denoisers(run: RunData) -> Table | None:
    """Held-out NELBO of every denoiser, and what it costs."""
    file = run.importance
    if file is None or not file.nelbo:
        return None
    known = run.environment.denoisers if run.environment is not None else {}
    gaps = {
        item.light: item
        for item in file.significance
        if item.metric == "loss_gap" and not item.prefix
    }
    rows = []
    for role in [name for name in run.roles.order if name in file.nelbo]:
        ref, gap = known.get(role), gaps.get(role)
        rows.append(
            (
                Cell(run.roles.describe(role), strip=solid(role, run.roles)),
                Cell(f"{ref.num_parameters:,}", float(ref.num_parameters)) if ref else NONE,
                Cell(flops(ref.flops_per_forward), ref.flops_per_forward) if ref else NONE,
                estimate(file.nelbo[role]),
                estimate(gap.mean_gap) if gap else NONE,
                Cell("yes" if gap.significant else "no") if gap else NONE,
            )
        )
    return Table(
        name="denoisers",
        title="The denoisers",
        caption="NELBO: bound on the negative log-likelihood of held-out text in nats per token,"
        " in its T-step form; lower is better. The gap is paired. "
        + importance_facts(file, n=[item.n for item in file.nelbo.values()]),
        columns=(
            Column("denoiser"),
            Column("parameters", numeric=True),
            Column("one forward", numeric=True),
            Column("NELBO", numeric=True),
            Column("gap to heavy", numeric=True),
            Column("significant"),
        ),
        rows=tuple(rows),
    )


def handmade(run: RunData) -> Table | None:
    """The hand-made schedules with all measures."""
    rows = [row for row in run.search.rows if "handmade" in row.families] if run.search else []
    if not rows or run.search is None:
        return None
    return _quality_table(
        run,
        rows,
        name="handmade-table",
        title="The hand-made schedules in numbers",
        caption=search_facts(run.search),
    )


def front(run: RunData) -> Table | None:
    """Every re-measured plan: search value, fresh value, savings."""
    file = run.search
    if file is None or not file.fresh:
        return None
    rows = []
    for again in sorted(file.fresh, key=lambda item: file.row(item.digest).cost.saved_total):
        row = file.row(again.digest)
        rows.append(
            (
                schedule_cell(row.schedule, run.roles, named(row, file)),
                Cell(one_line(", ".join(reasons(again.why)))),
                _change(row),
                _change(again),
                _estimate(again, "gen_ppl"),
                _estimate(again, "entropy"),
                share(row.cost.saved_total),
            )
        )
    return Table(
        name="front-table",
        title="Re-measured schedules: what was found, and what it is worth",
        caption="Changes are those of Gen-PPL against all heavy, paired. Entropy in nats per"
        f" sample, band for picks on fresh seeds {number(file.setting.fresh_entropy_band[0])} to"
        f" {number(file.setting.fresh_entropy_band[1])}. " + search_facts(file, both=True),
        columns=(
            Column("schedule"),
            Column("why"),
            Column("change, search", numeric=True),
            Column("change, fresh", numeric=True),
            Column("Gen-PPL, fresh", numeric=True),
            Column("entropy, fresh", numeric=True),
            Column(SAVED, numeric=True),
        ),
        rows=tuple(rows),
    )


def costs(run: RunData) -> Table | None:
    """What the hand-made and the re-measured schedules cost, in every convention."""
    file = run.search
    heavy = None if file is None else all_heavy(file)
    if file is None or heavy is None:
        return None
    again = {row.digest for row in file.fresh}
    rows = [row for row in file.rows if row.digest in again or "handmade" in row.families]
    return Table(
        name="costs",
        title="What the schedules cost",
        caption="Per sequence. Saved against all heavy: as the paper counts (blocks only, a"
        " forward at every step); the same with the head at every position;"
        f" {kind_of_savings(file.setting)}{idle_skipped(file.setting)}, blocks only and with the"
        " head where it is read; counted on the search's own samples. Seconds: forwards times the"
        " mean wall time of one in full calls, scoring left out. " + search_facts(file),
        columns=(
            Column("schedule"),
            *(Column(f"forwards of {role}", numeric=True) for role in _forward_roles(rows)),
            Column("block forwards", numeric=True),
            Column("FLOPs, with head", numeric=True),
            Column("seconds", numeric=True),
            Column("saved: paper", numeric=True),
            Column("saved: paper, head", numeric=True),
            Column("saved: blocks", numeric=True),
            Column("saved: with head", numeric=True),
            Column("saved: counted", numeric=True),
        ),
        rows=tuple(
            (
                schedule_cell(row.schedule, run.roles, named(row, file)),
                *(_number(row.cost.forwards.get(role, 0.0)) for role in _forward_roles(rows)),
                _number(row.cost.block_forwards),
                Cell(flops(row.cost.flops_total), row.cost.flops_total),
                _number(row.cost.seconds),
                share(row.cost.nominal_saved_blocks),
                share(row.cost.nominal_saved_total),
                share(row.cost.saved_blocks),
                share(row.cost.saved_total),
                share(saved_as_counted(row, heavy)),
            )
            for row in sorted(rows, key=lambda row: row.cost.saved_total)
        ),
    )


def all_schedules(run: RunData) -> Table | None:
    """Every evaluated schedule, best first."""
    if run.search is None or not run.search.rows:
        return None
    ranked = sorted(run.search.rows, key=lambda row: row.paired_log_ppl.value)
    shown = ranked[:LONGEST_TABLE]
    cut = (
        f" The first {len(shown)} of {len(ranked)}; search.json has all."
        if len(shown) < len(ranked)
        else ""
    )
    return _quality_table(
        run,
        shown,
        name="all-table",
        title=f"All {len(ranked)} evaluated schedules, best first",
        caption=search_facts(run.search) + cut,
        folded=True,
        document_rows=20,
    )


def schedule_cell(schedule: ModelSchedule, roles: Roles, text: str) -> Cell:
    """A schedule as a strip with its text."""
    return Cell(
        one_line(text, max_length=48),
        strip=Strip(
            one_line(str(schedule), max_length=200),
            tuple((role, count, roles.colour(role)) for role, count in schedule.segments),
        ),
    )


def solid(role: str, roles: Roles) -> Strip:
    """A strip of one colour: the mark of a denoiser."""
    return Strip(role, ((role, 1, roles.colour(role)),))


def estimate(value: Estimate) -> Cell:
    """A number with its interval in small print."""
    text, _, ends = interval(value).partition(" ")
    return Cell(text, value.value, small=ends)


def _quality_table(
    run: RunData,
    rows: Sequence[SearchRow],
    *,
    name: str,
    title: str,
    caption: str,
    folded: bool = False,
    document_rows: int | None = None,
) -> Table:
    assert run.search is not None
    file = run.search
    measures = [pair for pair in QUALITY if any(pair[0] in row.estimates for row in rows)]
    raced = any(row.dropped is not None for row in rows)
    return Table(
        name=name,
        title=title,
        caption=caption,
        columns=(
            Column("schedule"),
            Column("Gen-PPL against all heavy", numeric=True),
            *(Column(words, numeric=True) for _, words in measures),
            Column(SAVED, numeric=True),
            *([Column("n", numeric=True)] if raced else []),
        ),
        rows=tuple(
            (
                schedule_cell(row.schedule, run.roles, named(row, file)),
                _change(row),
                *(_estimate(row, measure) for measure, _ in measures),
                share(row.cost.saved_total),
                *([_sequences(row)] if raced else []),
            )
            for row in rows
        ),
        folded=folded,
        document_rows=document_rows,
    )


def _sequences(row: SearchRow) -> Cell:
    n = row.paired_log_ppl.n
    return Cell(str(n), float(n), small="" if row.dropped is None else "dropped")


def _change(row: SearchRow | FreshRow) -> Cell:
    text, _, ends = change(row.paired_log_ppl).partition(" ")
    return Cell(
        f"{text} %", relative_change(row.paired_log_ppl).value, small=ends.removesuffix(" %")
    )


def _estimate(row: SearchRow | FreshRow, name: str) -> Cell:
    return estimate(row.estimates[name]) if name in row.estimates else NONE


def share(value: float) -> Cell:
    """A share in percent."""
    return Cell(percent(value), value)


def _number(value: float) -> Cell:
    return Cell(number(value), value)


def _forward_roles(rows: Sequence[SearchRow]) -> list[str]:
    return list(dict.fromkeys(role for row in rows for role in row.cost.forwards))

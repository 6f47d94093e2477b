from __future__ import annotations

import synthetic_run

from schedlab.report import tables
from schedlab.report.captions import search_facts
from schedlab.report.content import Paragraph
from schedlab.report.run_data import RunData
from schedlab.report.sections import report
from schedlab.results.search_file import Dropped, Look, Race, SearchFile


def raced() -> SearchFile:
    """The planted search with its last exhaustive schedule dropped after 32 sequences."""
    file = synthetic_run.search()
    dominated = next(
        row for row in reversed(file.rows) if "exhaustive" in row.families and not row.on_front
    )
    best = next(row for row in file.rows if row.on_front)
    few = dominated.paired_log_ppl.model_copy(update={"n": 32})
    reason = Dropped(sequences=32, by=best.digest, difference=0.3, at_least=0.1)
    out = dominated.model_copy(update={"dropped": reason, "paired_log_ppl": few})
    count = len(file.rows)
    race = Race(
        error=0.05,
        comparisons=1209,
        looks=(Look(sequences=32, plans=count), Look(sequences=64, plans=count - 1)),
        sequences=64 * count - 32,
        sequences_without=64 * count,
    )
    rows = tuple(out if row is dominated else row for row in file.rows)
    return file.model_copy(update={"rows": rows, "race": race})


def test_a_race_is_told_with_its_error_and_what_it_saved() -> None:
    file = raced()
    run = RunData(name="raced", importance=None, search=file, environment=None, job=None)
    paragraphs = [
        block.text
        for section in report(run).sections
        for block in section.blocks
        if isinstance(block, Paragraph)
    ]
    told = next(text for text in paragraphs if "were raced" in text)
    count = len(file.rows)
    assert f"{count} on 32, {count - 1} on 64 sequences" in told
    assert "1,209 comparisons" in told
    assert "at most 5" in told
    assert f"{64 * count - 32:,} sequences instead of {64 * count:,}" in told


def test_dropped_rows_show_their_own_n() -> None:
    run = RunData(name="raced", importance=None, search=raced(), environment=None, job=None)
    table = tables.all_schedules(run)
    assert table is not None
    assert table.columns[-1].heading == "n"
    dropped = [row for row in table.rows if row[-1].small == "dropped"]
    assert [row[-1].text for row in dropped] == ["32"]
    assert "n = 32 to" in table.caption


def test_nothing_is_said_without_a_race() -> None:
    file = synthetic_run.search()
    run = RunData(name="plain", importance=None, search=file, environment=None, job=None)
    assert "raced" not in str(report(run))
    table = tables.all_schedules(run)
    assert table is not None
    assert table.columns[-1].heading != "n"


def test_captions_name_a_scorer_without_its_folders() -> None:
    file = synthetic_run.search()
    setting = file.setting.model_copy(update={"scorer": "/home/somebody/models/scorer"})
    told = search_facts(file.model_copy(update={"setting": setting}))
    assert "somebody" not in told
    assert "scorer \N{HORIZONTAL ELLIPSIS}/scorer" in told

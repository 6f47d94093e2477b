"""The PDF, and what happens where it cannot be made."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import synthetic_run

from schedlab.errors import InputError
from schedlab.report import build_report, load_run
from schedlab.report.build import PDF_NAME
from schedlab.report.content import (
    Cell,
    Code,
    Column,
    Finding,
    Findings,
    KeyNumber,
    KeyNumbers,
    Legend,
    Paragraph,
    Passage,
    Report,
    SampleColumn,
    Samples,
    Section,
    Strip,
    Table,
    TextAtStep,
    Trajectory,
)
from schedlab.report.document import (
    LONGEST_WORD,
    ZERO_WIDTH_SPACE,
    DocumentError,
    breakable,
    document_data,
    render_document,
)
from schedlab.report.numbering import numbered

# Code that would stop typst if it were ever evaluated.
CODE = '#panic("evaluated") ] ) } $ #assert(false) #image("/etc/passwd") \\ // /* " \''


def report_of(text: str) -> Report:
    """Every kind of block that holds text, full of `text`."""
    strip = Strip(text, (("H", 3, "#0072B2"), ("L", 1, "#E69F00")))
    return Report(
        text,
        text,
        (
            Section(
                "all",
                text,
                (
                    Paragraph(text),
                    KeyNumbers((KeyNumber(text, text, text, strip), KeyNumber(text, text, text))),
                    Legend((("H", text, "#0072B2"),)),
                    Findings((Finding(text, "open", text, text), Finding(text, "yes", text))),
                    Table(
                        "t",
                        text,
                        text,
                        (Column(text), Column(text, numeric=True)),
                        ((Cell(text, strip=strip), Cell(text, 1.0, small=text)),) * 3,
                        document_rows=2,
                    ),
                    Samples("s", text, text, (SampleColumn(text, strip, text, (text, "")),) * 3),
                    Trajectory(
                        "j",
                        text,
                        text,
                        (
                            TextAtStep(text, text, text, _passages(text)),
                            TextAtStep("", "", "", ()),
                        ),
                    ),
                    Code(text, text),
                ),
            ),
        ),
    )


def _passages(text: str) -> tuple[Passage, ...]:
    """With every marking."""
    return (
        Passage(text),
        Passage(text, is_key=True, note=text),
        *(Passage(text, key, edit) for key in (False, True) for edit in ("kept", "forgotten")),
    )


def test_the_document_is_a_pdf_with_all_figures(built) -> None:
    assert built.pdf.startswith(b"%PDF-")
    assert len(built.pdf) > 100_000


@pytest.mark.parametrize("text", [CODE, *synthetic_run.HOSTILE])
def test_text_is_never_evaluated(text: str) -> None:
    assert render_document(report_of(text)).startswith(b"%PDF-")


def test_equal_reports_give_equal_bytes() -> None:
    assert render_document(report_of("a")) == render_document(report_of("a"))
    assert render_document(report_of("a")) != render_document(report_of("b"))


def test_long_words_can_break_and_short_ones_stay() -> None:
    assert breakable("short words stay") == "short words stay"
    broken = breakable("w" * 600)
    assert broken.replace(ZERO_WIDTH_SPACE, "") == "w" * 600
    assert max(len(piece) for piece in broken.split(ZERO_WIDTH_SPACE)) == LONGEST_WORD


def test_the_document_and_the_page_share_their_numbering() -> None:
    report = report_of("a")
    labels = {"t": "Table 1", "s": "Table 2", "j": "Table 3"}
    assert document_data(report)["numbers"] == numbered(report) == labels
    section = report.sections[0]
    twice = dataclasses.replace(
        report, sections=(dataclasses.replace(section, blocks=section.blocks * 2),)
    )
    with pytest.raises(ValueError, match="unique"):
        numbered(twice)


def test_a_document_that_typst_refuses_is_an_error_of_one_line() -> None:
    report = report_of("a")
    broken = dataclasses.replace(report.sections[0], blocks=(Legend((("H", "x", "no colour"),)),))
    with pytest.raises(DocumentError, match="typst refuses it") as caught:
        render_document(dataclasses.replace(report, sections=(broken,)))
    assert "\n" not in str(caught.value)


def test_without_typst_the_page_is_written_and_the_reason_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = synthetic_run.search()
    bare = search.model_copy(update={"segment_influence": (), "rank_correlation": ()})
    folder = synthetic_run.write_run(tmp_path / "run", search_file=bare)
    (folder / PDF_NAME).write_bytes(b"an old report that would contradict the page")
    monkeypatch.setitem(sys.modules, "typst", None)
    paths = build_report(folder)
    assert paths.html.exists()
    assert paths.pdf is None
    assert "typst" in paths.problem and "pip install" in paths.problem
    assert not (folder / PDF_NAME).exists()
    page = paths.html.read_text(encoding="utf-8")
    assert "holds a search only" in page
    assert 'id="pareto"' in page and 'id="loss-gap"' not in page


def test_an_analysis_alone_gives_a_report_of_its_own(tmp_path: Path) -> None:
    full = synthetic_run.importance()
    some = full.model_copy(update={"curves": full.curves[:6], "propagation": []})
    folder = synthetic_run.write_run(tmp_path / "run", importance_file=some)
    paths = build_report(folder)
    page = paths.html.read_text(encoding="utf-8")
    assert "holds an analysis only" in page
    assert 'id="loss-gap"' in page and 'id="pareto"' not in page
    assert paths.pdf is not None and paths.pdf.read_bytes().startswith(b"%PDF-")


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither importance\.json nor search\.json"):
        load_run(synthetic_run.write_run(tmp_path / "run"))
    with pytest.raises(InputError, match="no such run folder"):
        load_run(tmp_path / "nowhere")


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    folder = synthetic_run.write_run(tmp_path / "run", search_file=synthetic_run.search())
    text = (folder / "search.json").read_text()
    (folder / "search.json").write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match=r"search\.json: not valid JSON"):
        load_run(folder)
    (folder / "search.json").write_text(text.replace('"num_steps"', '"num_step"'))
    with pytest.raises(InputError, match=r"num_step'; did you mean 'num_steps'"):
        load_run(folder)


def test_a_report_needs_neither_environment_nor_job(tmp_path: Path) -> None:
    folder = synthetic_run.write_run(tmp_path / "run", search_file=synthetic_run.search())
    (folder / "environment.json").unlink()
    (folder / "job.toml").unlink()
    run = load_run(folder)
    assert run.environment is None and run.job is None
    assert run.roles.describe("L") == "L"

"""The page: valid, self-contained, inert, and saying what the files say."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

import html5lib
import pytest
import synthetic_run
from synthetic_run import Built

from schedlab.report import RunData, build_report, sections
from schedlab.report.page import render_page
from schedlab.report.sections import report

HTML = "{http://www.w3.org/1999/xhtml}"
SVG = "{http://www.w3.org/2000/svg}"
XLINK = "{http://www.w3.org/1999/xlink}"
REFERENCES = {"href", "src", "srcset", "action", "data", "poster", XLINK + "href", "background"}


def parse(html: str) -> Element:
    """Strict: any parse error is a failure."""
    return html5lib.HTMLParser(strict=True).parse(html)


@pytest.fixture(scope="module")
def root(built: Built) -> Element:
    """The planted run's page."""
    return parse(built.html)


def text_of(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def check_inert(html: str) -> Element:
    """No script, handler, form, frame, or reference that leaves the page."""
    root = parse(html)
    allowed = set(
        "html head meta title style body header h1 p nav a main section h2 div span i figure"
        " figcaption strong b table caption thead tr th tbody td data small details summary"
        " blockquote h3 pre dl dt dd svg g path defs use clipPath rect".split()
    )
    for element in root.iter():
        tag = element.tag.removeprefix(HTML).removeprefix(SVG)
        assert tag in allowed, tag
        for name, value in element.attrib.items():
            assert not name.lower().startswith("on"), name
            if name in REFERENCES:
                assert value.startswith("#"), (tag, name, value)
            if name == "style" or tag == "style":
                assert "url(" not in value.replace("url(#", "(")
    style = text_of(next(root.iter(HTML + "style")))
    assert "url(" not in style and "@import" not in style
    return root


def tables(root: Element) -> Iterator[tuple[str, list[list[Element]]]]:
    for table in root.iter(HTML + "table"):
        caption = text_of(next(table.iter(HTML + "caption")))
        rows = [list(row.iter(HTML + "td")) for row in table.iter(HTML + "tr")]
        yield caption, [row for row in rows if row]


def numbers(cells: list[Element]) -> list[float]:
    return [float(data.attrib["value"]) for cell in cells for data in cell.iter(HTML + "data")]


def test_the_page_is_valid_html_without_scripts_or_requests(built: Built) -> None:
    check_inert(built.html)
    assert "http://" not in built.html and "https://" not in built.html


def test_the_content_security_policy_forbids_everything_but_inline_style(root: Element) -> None:
    metas = [m.attrib for m in root.iter(HTML + "meta")]
    policy = next(m["content"] for m in metas if "http-equiv" in m)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_ids_are_unique_and_every_link_has_its_target(built: Built, root: Element) -> None:
    ids = Counter(e.attrib["id"] for e in root.iter() if "id" in e.attrib)
    assert [name for name, count in ids.items() if count > 1] == []
    targets = {v[1:] for e in root.iter() for n, v in e.attrib.items() if n in REFERENCES}
    targets |= set(re.findall(r"url\(#([^)]*)\)", built.html))
    assert targets <= set(ids)
    assert len(targets) > 100  # glyphs, markers and clips of the drawings


def test_every_figure_says_n_seed_precision_decoding_and_scorer(root: Element) -> None:
    captions = [text_of(c) for c in root.iter(HTML + "figcaption")]
    assert len(captions) >= 12
    for caption in captions:
        assert re.search(r"\bn = \d+", caption), caption
        assert re.search(r"\bseed \d+", caption), caption
        for fact in ("float32", "temperature 1", "top-p 1", "scorer", "95 % bootstrap"):
            assert fact in caption, caption


def test_every_figure_says_whose_quantity_it_shows(root: Element) -> None:
    origins = [
        text_of(span) for span in root.iter(HTML + "span") if span.attrib.get("class") == "origin"
    ]
    figures = list(root.iter(HTML + "figure"))
    assert len(origins) == len(figures)
    assert "schedlab's own derivation" in origins and "as in the paper" in origins


def test_tables_hold_exactly_the_numbers_of_the_search_file(built: Built, root: Element) -> None:
    found = dict(tables(root))
    caption = next(c for c in found if "The hand-made schedules in numbers" in c)
    rows = {text_of(row[0]).split(":")[0]: numbers(row) for row in found[caption]}
    expected = next(row for row in built.search.rows if row.name == "sandwich")
    assert rows["sandwich"] == [
        math.expm1(expected.paired_log_ppl.value),
        *(
            expected.estimates[name].value
            for name in ("gen_ppl", "entropy", "distinct_2", "self_bleu", "agreement")
        ),
        expected.cost.saved_total,
    ]
    everything = next(c for c in found if "evaluated schedules, best first" in c)
    assert len(found[everything]) == len(built.search.rows)


def test_tables_hold_exactly_the_numbers_of_the_importance_file(
    built: Built, root: Element
) -> None:
    found = dict(tables(root))
    caption = next(c for c in found if "The denoisers" in c)
    for row in found[caption]:
        role = text_of(row[0]).split(" ")[0]
        assert built.importance.nelbo[role].value in numbers(row)


def test_sample_texts_and_the_job_are_shown(built: Built, root: Element) -> None:
    shown = {text_of(quote) for quote in root.iter(HTML + "blockquote")}
    best = built.search.fresh_row(built.search.picks["best"])
    assert best is not None
    assert set(best.samples) <= shown
    assert any("bundled:light-4" in text_of(pre) for pre in root.iter(HTML + "pre"))


def test_provenance_names_fingerprints_seeds_and_digests(built: Built, root: Element) -> None:
    found = dict(tables(root))
    rows = {
        text_of(r[0]): text_of(r[1])
        for r in next(
            rows for caption, rows in found.items() if "What this report was made from" in caption
        )
    }
    assert synthetic_run.fingerprint("L") in rows["denoiser L"]
    assert rows["search: corpus fingerprint"] == synthetic_run.CORPUS
    assert rows["pick: best"] == built.search.picks["best"]
    assert len(rows["sha256 of search.json"]) == 64
    assert rows["torch"] == "2.13.0+cpu"


def test_equal_files_give_equal_bytes(built: Built, tmp_path: Path) -> None:
    folder = synthetic_run.write_run(
        tmp_path / "planted", importance_file=built.importance, search_file=built.search
    )
    paths = build_report(folder)
    assert paths.html.read_text(encoding="utf-8") == built.html
    assert paths.pdf is not None and paths.pdf.read_bytes() == built.pdf


@pytest.fixture(scope="module")
def hostile() -> RunData:
    """A search in which every free text is hostile."""
    texts = synthetic_run.HOSTILE
    search = synthetic_run.search(text=lambda _, j: texts[j % len(texts)])
    fresh = tuple(row.model_copy(update={"samples": texts}) for row in search.fresh)
    rows = tuple(
        row.model_copy(update={"name": texts[j % len(texts)]})
        if row.name is None and j < 40
        else row
        for j, row in enumerate(search.rows)
    )
    setting = search.setting.model_copy(update={"scorer": "<b>$\\frac{</b>", "precision": "<i>"})
    picks = search.picks | {"<script>pick()</script>": search.picks["best"]}
    search = search.model_copy(
        update={"fresh": fresh, "rows": rows, "setting": setting, "picks": picks}
    )
    environment = synthetic_run.environment()
    environment = environment.model_copy(
        update={
            "notes": {name or "empty": name for name in texts},
            "device": "<svg onload=alert(1)>",
            "packages": {'"><script>': "</td></table>"},
        }
    )
    return RunData("</title><script>", None, search, environment, "\n".join(texts))


def test_hostile_text_is_inert_and_shown_as_it_is(
    hostile: RunData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "SAMPLES_SHOWN", len(synthetic_run.HOSTILE))
    root = check_inert(render_page(report(hostile)))
    shown = [text_of(quote) for quote in root.iter(HTML + "blockquote")]
    for text in (
        "<script>alert(1)</script>",
        "$\\frac{",
        "{{7*7}}",
        '#read("/etc/passwd")',
        "a\u2400b\u241b[31mred",
        "word" * 150,
        "",
    ):
        assert text in shown
    assert not any("\u202e" in text for text in shown)
    assert "49" not in shown

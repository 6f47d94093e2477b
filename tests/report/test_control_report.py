"""What a report says of a joint search over guidance and allocation: the file's numbers, in the
direction that was planted, and no more than they prove."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import synthetic_run
from matplotlib import colormaps
from matplotlib.figure import Figure as Canvas
from synthetic_control import (
    GUIDE,
    JUDGE,
    LABELS,
    OTHER,
    PARAMETERS,
    REFERENCE,
    SCALES,
    adaptive,
    control,
    plan,
)
from test_page import HTML, check_inert, tables, text_of

from schedlab.errors import InputError
from schedlab.plan import PolicySpec
from schedlab.report import RunData, build_report, load_run
from schedlab.report.content import (
    Finding,
    Paragraph,
    Report,
    Section,
    Table,
)
from schedlab.report.control_plans import (
    at_equal_lambda,
    kind,
    measured,
    noise_matched,
    origin_of,
    own_ideas,
    policy_words,
    sweeps,
    trace_name,
)
from schedlab.report.control_sections import key_numbers, sections
from schedlab.report.control_tables import MOST_LABELS, by_label
from schedlab.report.control_texts import MOST_STEPS, MOST_TOKENS, trajectory
from schedlab.report.document import render_document
from schedlab.report.figures import control as figures
from schedlab.report.figures import control_importance, control_steps
from schedlab.report.figures.axes import log_axis
from schedlab.report.findings import control as control_findings
from schedlab.report.findings import findings
from schedlab.report.page import render_page
from schedlab.report.sections import report
from schedlab.report.words import change, interval
from schedlab.results import Estimate, independent_difference
from schedlab.results.control_file import ControlFile, ControlTrace, StepOfText

FIGURES = ("control-plane", "against-lambda", "control-importance", "clocks", "stability")
TABLES = ("control-plans", "control-quality", "control-opinions", "control-labels")


def run_of(changes: dict[str, Any] | None = None, **world: Any) -> RunData:
    file = control(**world)
    return RunData("control", control=file.model_copy(update=changes) if changes else file)


def blocks_of(found: Sequence[Section]) -> dict[str, Any]:
    return {b.name: b for section in found for b in section.blocks if hasattr(b, "name")}


@pytest.fixture(scope="module")
def shown() -> list[Section]:
    """The sections on the planted search."""
    return sections(run_of())


def ask(run: RunData, question: str) -> Finding:
    (found,) = [finding for finding in findings(run) if question in finding.question]
    return found


def percent_of(estimate: Estimate) -> str:
    ends = {end: 100 * getattr(estimate, end) for end in ("value", "low", "high")}
    return interval(Estimate(n=estimate.n, **ends))


def test_all_parts_are_there_and_every_caption_says_what_it_is_made_from(
    shown: list[Section],
) -> None:
    assert [one.name for one in shown] == ["control", "clocks-and-edits", "guided-samples"]
    blocks = blocks_of(shown)
    assert set(blocks) == {
        *FIGURES, *TABLES, "trace-summary", "trajectory-1", "trajectory-2", "guided-texts",
    }  # fmt: skip
    for name, block in blocks.items():
        for fact in (f"judge '{JUDGE}'", "float32", "scorer bundled:scorer", "temperature 1"):
            assert fact in block.caption, name
        assert re.search(r"\bn = (512|16|24) ", block.caption), name
        assert re.search(r"\bseed (1011|11)\b", block.caption), name
        assert "48 tokens, 4 given" in block.caption and "masked process" in block.caption
    assert (
        "world, sports, business and science in turn (guide 'topic')" in blocks[TABLES[0]].caption
    )


def test_the_introduction_tells_what_is_the_papers_and_what_is_not(
    shown: list[Section],
) -> None:
    (text,) = [b.text for b in shown[0].blocks if isinstance(b, Paragraph)]
    assert "TTA's (arXiv 2510.26200)" in text
    for own in ("clocks of tokens in the masked process", "pooled", "the signal entropy"):
        assert own in text[text.index("schedlab's own here") :]
    assert "Gen-PPL at most 1.90 times the reference's" in text
    assert "distinct-3 at least 0.850" in text


def test_only_what_the_paper_has_is_called_its_own() -> None:
    file = control()
    simplex = file.model_copy(
        update={"setting": file.setting.model_copy(update={"process": "simplex"})}
    )
    papers = [plan(process="simplex"), adaptive(20.0, process="simplex")]
    assert own_ideas(simplex, papers) == [] and origin_of(simplex, papers) == "extended"
    for other in (
        adaptive(20.0, process="simplex", pooled="alpha"),
        plan("tta_adaptive", signal="margin", process="simplex"),
        plan("tta_softmax", process="simplex"),
        plan("tta_share", process="simplex"),
    ):
        assert len(own_ideas(simplex, [*papers, other])) == 1
        assert origin_of(simplex, [*papers, other]) == "schedlab"
    assert origin_of(file, papers) == "schedlab"  # clocks in the masked process
    assert origin_of(file, [plan()]) == "extended"


def test_sweeps_are_joined_in_the_order_of_lambda() -> None:
    file = control()
    shuffled = file.model_copy(update={"fresh": tuple(reversed(file.fresh))})
    for one in (file, shuffled):
        found = sweeps(one)
        assert [sweep.name for sweep in found] == ["tta_constant", "tta_adaptive"]
        for sweep in found:
            assert tuple(point.scale for point in sweep.points) == SCALES
            assert {point.row.origin for point in sweep.points} == {"sweep"}
    pairs = at_equal_lambda(found[1], found[0])
    assert [(a.scale, b.scale) for a, b in pairs] == [(scale, scale) for scale in SCALES]


def test_sweeps_of_equal_name_keep_apart() -> None:
    file = control()
    more = [
        row.model_copy(update={"origin": "sweep"})
        if kind(row.plan.policy) == "tta_adaptive" and row.plan.num_steps == 25
        else row
        for row in file.rows
    ]
    names = [sweep.name for sweep in sweeps(file.model_copy(update={"rows": tuple(more)}))]
    assert len(set(names)) == len(names) > 2 and "tta_adaptive #2" in names


def test_policies_are_called_by_what_sets_them_apart() -> None:
    assert kind(adaptive(1.0).policy) == "tta_adaptive"
    assert kind(adaptive(1.0, pooled="t").policy) == "tta_adaptive, pooled t"
    spec = PolicySpec(name="tta_top_k", parameters={"signal": "entropy", "pooled": "alpha"})
    assert kind(spec) == "tta_top_k, entropy, pooled alpha"
    assert policy_words(adaptive(1.0, 0.25).policy) == "tta_adaptive (smooth 0.25)"
    assert policy_words(spec) == "tta_top_k (signal entropy, pooled alpha)"


def test_tables_hold_the_numbers_of_the_file(shown: list[Section]) -> None:
    file, blocks = control(), blocks_of(shown)
    plans, quality, opinions, labels = (blocks[name] for name in TABLES)
    order = measured(file)
    assert order[0].plan == REFERENCE and len(order) == len(file.fresh)
    values = [one.fresh.control.value for one in order[1:]]
    assert values == sorted(values, reverse=True)
    for place, one in enumerate(order):
        own = one.fresh.estimates
        row = [cell.value for cell in plans.rows[place]]
        guidance = one.plan.guidance
        assert guidance is not None and one.fresh.ppl_ratio is not None
        assert row[1:4] == [guidance.scale, guidance.iterations, one.plan.num_steps]
        assert plans.rows[place][4].text == str(one.plan.model_schedule)
        assert row[5:8] == [e.value for e in (one.fresh.control, one.fresh.ppl_ratio,
                                              one.fresh.cost)]  # fmt: skip
        assert plans.rows[place][8].text == ("yes" if one.fresh.within else "no")
        assert plans.rows[place][5].small == "[" + percent_of(one.fresh.control).split("[")[1]
        names = ("gen_ppl", "entropy", "distinct_3", "self_bleu", "seconds")
        assert [cell.value for cell in quality.rows[place][2:]] == [own[n].value for n in names]
        names = (f"control_{JUDGE}", f"control_{OTHER}", f"control_p_{JUDGE}",
                 f"control_p_{OTHER}", f"guide_{GUIDE}")  # fmt: skip
        assert [cell.value for cell in opinions.rows[place][1:]] == [own[n].value for n in names]
        assert [cell.value for cell in labels.rows[place][1:]] == [
            one.fresh.by_label[label].value for label in LABELS
        ]
    assert "not a measure" in opinions.caption and labels.folded
    assert {"reference", "best", "knee"} <= {
        word.strip() for row in plans.rows for word in row[0].small.split(",")
    }


def test_key_numbers_are_the_picks_and_the_base_rate() -> None:
    file = control()
    best, knee, base = key_numbers(file)
    for card, digest in ((best, file.picks["best"]), (knee, file.picks["knee"])):
        fresh = file.fresh_row(digest)
        value, _, ends = percent_of(fresh.control).partition(" ")
        assert fresh.ppl_ratio is not None
        assert card.text == f"{value} % control" and card.small.startswith(ends)
        assert f"Gen-PPL {interval(fresh.ppl_ratio)} times" in card.small
        assert f"cost {interval(fresh.cost)} times" in card.small
    own = file.fresh_row(file.setting.reference)
    assert "Base rate" in base.label and base.text.startswith(percent_of(own.control).split()[0])


def test_the_best_plan_is_told_beside_the_base_rate() -> None:
    file = control()
    found = ask(run_of(), "more of what was asked for")
    best, base = file.fresh_row(file.picks["best"]), file.fresh_row(file.setting.reference)
    gain = independent_difference(best.control, base.control)
    assert found.verdict == "yes" and gain.low > 0.3
    assert f"{percent_of(best.control)} % of the texts" in found.text
    assert f"base rate of {percent_of(base.control)} %" in found.text
    assert f"+{percent_of(gain)} percentage points" in found.text
    assert f"judge '{OTHER}' {percent_of(best.estimates[f'control_{OTHER}'])} %" in found.detail
    assert "itself" in found.detail and "no measure" in found.detail
    assert f"entropy {interval(best.estimates['entropy'])}" in found.detail
    assert "as if unpaired" in found.detail
    knee = ask(run_of(), "Where is the knee")
    fresh = file.fresh_row(file.picks["knee"])
    assert knee.verdict == "fact" and percent_of(fresh.control) in knee.text


def test_the_price_of_the_best_plan_says_how_long_an_autoregressive_model_takes() -> None:
    question, words = "Does guidance give more of what was asked for?", "an autoregressive model"
    assert words not in ask(run_of(), question).detail
    ratio = Estimate(value=12.5, low=11.5, high=13.5, n=5)
    timed = ask(run_of({"autoregressive": ratio}), question)
    assert f"12.5 [11.5, 13.5] times the seconds of {words} of the same size" in timed.detail


@pytest.mark.parametrize(
    ("entropy", "verdict", "word"),
    [(2.6, "yes", "is lower"), (3.31, "open", "not proven"), (3.9, "no", "is higher")],
)
def test_repetitive_texts_are_called_so(entropy: float, verdict: str, word: str) -> None:
    file = control()
    own = synthetic_run.estimate(entropy, 0.03, 512)
    fresh = tuple(
        row.model_copy(update={"estimates": row.estimates | {"entropy": own}})
        if row.digest == file.picks["best"]
        else row
        for row in file.fresh
    )
    found = ask(run_of({"fresh": fresh}), "more repetitive than unguided")
    assert found.verdict == verdict and word in found.text and interval(own) in found.text
    assert ("look at the texts" in found.text) == (verdict == "yes")


@pytest.mark.parametrize(
    ("rise", "verdict", "word"),
    [(0.55, "yes", "It rises"), (0.0, "open", "No proven change"), (-0.2, "no", "It falls")],
)
def test_control_rises_with_lambda_where_that_is_planted(
    rise: float, verdict: str, word: str
) -> None:
    """Without a slope the ends of a sweep differ by noise alone, told apart by chance in 1 of 20
    worlds; the seeds are fixed."""
    run = run_of(rise=rise, gain=0.0)
    found = ask(run, "Does control rise with lambda?")
    assert found.verdict == verdict and found.text.startswith(word)
    file = run.control
    assert file is not None
    for sweep in sweeps(file):
        low, high = sweep.points[0].fresh.control, sweep.points[-1].fresh.control
        gap = independent_difference(high, low)
        assert f"{sweep.name} {'+' * (gap.value > 0)}{percent_of(gap)} percentage" in found.text
        assert "from lambda 20 to 20000" in found.text


def test_gen_ppl_rises_with_lambda() -> None:
    found, file = ask(run_of(), "Does Gen-PPL rise with lambda?"), control()
    assert found.verdict == "yes" and found.text.startswith("It rises")
    (constant, _) = sweeps(file)
    low, high = (constant.points[j].fresh.ppl_ratio for j in (0, -1))
    assert low is not None and high is not None
    gap = independent_difference(*(
        Estimate(value=np.log(e.value), low=np.log(e.low), high=np.log(e.high), n=e.n)
        for e in (high, low)
    ))  # fmt: skip
    assert f"tta_constant {change(gap)}" in found.text
    assert "Entropy (nats) meanwhile: tta_constant" in found.detail


def test_policies_that_disagree_prove_nothing_together() -> None:
    file = control()
    flat = {point.digest for point in sweeps(file)[0].points}
    level = file.fresh_row(file.setting.reference).control
    fresh = tuple(
        row.model_copy(update={"control": level}) if row.digest in flat else row
        for row in file.fresh
    )
    found = ask(run_of({"fresh": fresh}), "Does control rise")
    assert found.verdict == "open" and "Not the same under all policies" in found.text
    assert "(no proven change)" in found.text and "(rises)" in found.text


def test_control_that_is_highest_before_the_end_is_said_so() -> None:
    file = control()
    third = sweeps(file)[0].points[2]
    most = Estimate(value=0.99, low=0.98, high=1.0, n=512)
    fresh = tuple(
        row.model_copy(update={"control": most}) if row.digest == third.digest else row
        for row in file.fresh
    )
    assert "tta_constant at 2000" in ask(run_of({"fresh": fresh}), "Does control rise").detail
    assert "Highest" not in ask(run_of(), "Does control rise").detail


@pytest.mark.parametrize(
    ("gain", "verdict", "word"),
    [(0.12, "yes", "higher"), (0.0, "open", "not proven different"), (-0.12, "no", "lower")],
)
def test_adaptive_is_better_than_constant_where_that_is_planted(
    gain: float, verdict: str, word: str
) -> None:
    run = run_of(gain=gain)
    found = ask(run, "tta_adaptive control better than tta_constant at the same lambda")
    assert found.verdict == verdict and f"Its accuracy is {word}" in found.text
    assert "4 values of lambda" in found.text and "Its Gen-PPL is not proven" in found.text
    file = run.control
    assert file is not None
    pairs = at_equal_lambda(*reversed(sweeps(file)))
    gaps = [independent_difference(a.fresh.control, b.fresh.control) for a, b in pairs]
    mean = 100 * float(np.mean([gap.value for gap in gaps]))
    assert abs(mean - 100 * gain) < 4
    assert f"{abs(mean):.0f}" in found.text
    for scale, gap in zip(SCALES, gaps, strict=True):
        assert f"lambda {scale:.0f}: {'+' * (gap.value > 0)}{percent_of(gap)}" in found.detail


@pytest.mark.parametrize(("matched", "word"), [(0.0, "accuracy higher"), (1.0, "not proven")])
def test_the_noise_matched_constant_tells_less_noise_from_the_right_tokens(
    matched: float, word: str
) -> None:
    run = run_of(matched=matched)
    found = ask(run, "tta_adaptive control better")
    assert found.verdict == "yes"  # it is better than the constant clock in both worlds
    assert "never raises a level above t" in found.detail
    said = found.detail[found.detail.index("Against its noise-matched constant (pooled t") :]
    assert "4 pairs of plans" in said and word in said
    assert run.control is not None
    assert set(noise_matched(run.control, adaptive(1.0).policy)) == {"t"}


def test_how_much_lower_the_mean_level_was_is_taken_from_the_trace() -> None:
    file = control()
    trace, given = file.traces[0], file.setting.prefix_length
    levels = np.array(trace.mean_levels)[:, given:]
    ratio = 100 * levels.mean() / np.mean(trace.t)
    detail = ask(run_of(), "tta_adaptive control better").detail
    assert f"In the traced plan (best) the mean t_i is {ratio:.1f} % of the mean t." in detail


def test_where_no_noise_matched_constant_was_measured_that_is_said() -> None:
    found = ask(run_of(pooled=False), "tta_adaptive control better")
    assert "is not among the plans measured at equal settings" in found.detail
    assert "Against its noise-matched" not in found.detail


def test_a_sweep_that_is_pooled_is_not_taken_for_the_adaptive_one() -> None:
    file = control()
    swept = {point.digest for point in sweeps(file)[1].points}
    pooled = {adaptive(scale, pooled="t").digest for scale in SCALES}
    rows = tuple(
        row.model_copy(update={"origin": "proposal"}) if row.digest in swept
        else row.model_copy(update={"origin": "sweep"}) if row.digest in pooled else row
        for row in file.rows
    )  # fmt: skip
    found = ask(run_of({"rows": rows}), "control better than tta_constant")
    assert "tta_adaptive, pooled t control better" in found.question
    assert "the effect of another mean noise level alone" in found.detail


def test_the_parameter_that_matters_most_is_named_where_it_is_told_apart() -> None:
    found = ask(run_of(), "Which parameter matters most")
    assert found.verdict == "fact" and found.text == "lambda."
    assert "PED-ANOVA over 24 proposals and swept plans: lambda 0.58" in found.detail
    close = {name: Estimate(value=0.17, low=0.1, high=0.3, n=24) for name in PARAMETERS}
    found = ask(run_of({"importance": {"control": close}}), "Which parameter matters most")
    assert found.verdict == "open" and "not told apart from" in found.text


def test_the_figure_of_importances_says_what_they_are_not() -> None:
    figure = control_importance.importances(run_of())
    assert figure is not None and figure.origin == "schedlab"
    for words in ("PED-ANOVA", "bootstrap over proposals", "neither in which direction",
                  "n = 24 proposals", "too few"):  # fmt: skip
        assert words in figure.caption


def test_a_broken_constraint_of_a_pick_is_not_hidden() -> None:
    file = control()
    fresh = tuple(row.model_copy(update={"within": False}) for row in file.fresh)
    run = run_of({"fresh": fresh})
    assert "breaks a constraint" in ask(run, "more of what was asked for").detail
    assert "breaks a constraint" in ask(run, "Where is the knee").detail


def test_a_text_is_shown_step_by_step_with_its_edits_marked() -> None:
    step = StepOfText(
        step=7,
        t=0.5,
        tokens=("The", " film", " was", " good", "\n", " ", "!"),
        edited=(1, 3, 5),
        forgotten=(3,),
        key=(3, 6),
        levels=(0.5, 0.4, 0.5, 0.25, 0.5, 0.5, 0.1),
    )
    trace = control().traces[0].model_copy(update={"example": (step,), "label": "sports"})
    shown = trajectory(control(), 0, trace)
    assert shown is not None and "Asked for sports" in shown.caption
    (found,) = shown.steps
    assert (found.step, found.level, found.edits) == ("7", "0.50", "2 kept, 1 forgotten")
    marks = [(one.text, one.is_key, one.edit) for one in found.passages]
    assert marks == [
        ("The ", False, "none"),
        ("film", False, "kept"),
        (" was ", False, "none"),
        ("good", True, "forgotten"),
        ("\u21b5", False, "none"),
        ("\u2423", False, "kept"),
        ("!", True, "none"),
    ]
    assert found.passages[3].note == "t_i = 0.25"
    root = check_inert(render_page(Report("a", "b", (Section("c", "d", (shown,)),))))
    (text,) = [cell for cell in root.iter(HTML + "td") if cell.attrib.get("class") == "text"]
    spans = [(span.attrib["class"], text_of(span)) for span in text.iter(HTML + "span")]
    assert spans == [("kept", "film"), ("key forgotten", "good"), ("kept", "\u2423"),
                     ("key none", "!")]  # fmt: skip
    legend = [text_of(s) for s in root.iter(HTML + "span") if s.attrib.get("class") == "marks"]
    assert legend and all(word in legend[0] for word in ("underlined", "struck through", "boxed"))


def test_long_trajectories_are_cut_with_notice() -> None:
    (first, *_) = control().traces[0].example
    long = first.model_copy(update={"tokens": (" a",) * (MOST_TOKENS + 50)})
    trace = control().traces[0].model_copy(update={"example": (long,) * (MOST_STEPS + 9)})
    shown = trajectory(control(), 0, trace)
    assert shown is not None
    assert len(shown.steps) == MOST_STEPS and f"{MOST_STEPS} of {MOST_STEPS + 9}" in shown.caption
    assert f"The first {MOST_TOKENS} of {MOST_TOKENS + 50} tokens" in shown.caption
    text = "".join(one.text for one in shown.steps[0].passages)
    assert text.count("a") == MOST_TOKENS


def noisy_trace(steps: int, length: int, seed: int) -> ControlTrace:
    """Levels without any pattern: the most rectangles."""
    rng = np.random.default_rng(seed)
    levels = rng.random((steps, length)).tolist()
    changes = {
        "steps": tuple(range(steps)),
        "t": tuple((1 - np.arange(steps) / steps).tolist()),
        "mean_levels": tuple(map(tuple, levels)),
        "curves": {},
    }
    return control().traces[0].model_copy(update=changes)


@pytest.mark.parametrize(("steps", "length"), [(200, 256), (50, 48), (1, 48), (1000, 6)])
def test_maps_of_any_size_stay_small(steps: int, length: int) -> None:
    traces = tuple(noisy_trace(steps, length, seed) for seed in (1, 2))
    figure, again = (control_steps.maps(run_of({"traces": traces})) for _ in range(2))
    assert figure is not None and again is not None
    assert len(figure.svg.standalone()) < 300_000
    assert "<image" not in figure.svg.body
    assert figure.svg == again.svg
    ids = set(re.findall(r' id="([^"]*)"', figure.svg.body))
    assert set(re.findall(r'href="#([^"]*)"', figure.svg.body)) <= ids
    ElementTree.fromstring(figure.svg.standalone())


def test_maps_say_what_they_leave_out() -> None:
    figure = control_steps.maps(run_of({"traces": (noisy_trace(200, 256, 1),)}))
    assert figure is not None
    assert "of 200 steps, evenly spaced" in figure.caption
    assert "columns for 256 positions" in figure.caption


def test_maps_hold_generated_positions_whether_given_ones_are_recorded_or_not() -> None:
    file = control()
    trace, given = file.traces[0], file.setting.prefix_length
    generated = tuple(row[given:] for row in trace.mean_levels)
    bare = trace.model_copy(update={"mean_levels": generated})
    both = [control_steps.levels_KG(file, one) for one in (trace, bare)]
    assert both[0] is not None and both[1] is not None
    np.testing.assert_array_equal(both[0], both[1])


def test_a_map_has_the_colour_of_its_level_at_every_place() -> None:
    values = np.random.default_rng(3).random((6, 9))
    values[2] = values[2, 0]  # a row that becomes one rectangle
    scale = control_steps.Scale("t_i", np.linspace(0, 1, 21), colormaps["cividis"])
    axes = Canvas().add_subplot()
    scale.draw(axes, values, first=4, width=18)  # each column is two positions
    for row, column in np.ndindex(*values.shape):
        middle = (4 + 2 * column + 1, row + 0.5)
        (patch,) = [patch for patch in axes.patches if patch.get_path().contains_point(middle)]
        level = np.floor(20 * values[row, column]) / 20 + 0.025
        assert patch.get_facecolor() == pytest.approx(scale.colours(scale.norm(level)))


@pytest.mark.parametrize(
    ("low", "high"), [(20.0, 20000.0), (41.0, 105.0), (50.0, 53.0), (60.0, 60.0), (0.01, 3e5)]
)
def test_a_log_axis_has_a_few_round_ticks_whatever_is_shown(low: float, high: float) -> None:
    axes = Canvas().add_subplot()
    log_axis(axes, [low, high])
    ticks = axes.get_xticks()
    assert 2 <= len(ticks) <= 10
    left, right = axes.get_xlim()
    assert left < low <= high < right and all(left <= tick <= right for tick in ticks)


def test_ragged_maps_are_left_out() -> None:
    whole = control().traces[0]
    ragged = whole.model_copy(update={"mean_levels": ((0.5,) * 48, (0.5,) * 47)})
    assert control_steps.maps(run_of({"traces": (ragged,)})) is None
    assert control_steps.maps(run_of({"traces": (ragged, whole)})) is not None


def test_curves_take_whatever_was_measured() -> None:
    trace = control().traces[0]
    nothing = (None,) * len(trace.steps)
    curves = {"my_own": trace.curves["outputs"], "outputs_bleu": trace.curves["input"],
              "never": nothing}  # fmt: skip
    figure = control_steps.stability(run_of({"traces": (trace.model_copy(
        update={"curves": curves}),)}))  # fmt: skip
    assert figure is not None and figure.origin == "paper"
    assert "likeliest tokens of a step and of the next differ" in figure.caption
    empty = trace.model_copy(update={"curves": {"never": nothing}})
    assert control_steps.stability(run_of({"traces": (empty,)})) is None
    assert control_steps.title("my_own") == "my own"
    assert control_steps.title("outputs_bleu").endswith("by BLEU")


def test_values_between_gaps_are_drawn_as_points() -> None:
    """As where every other step is guided."""
    trace = control().traces[0]
    values = [v if k % 2 else None for k, v in enumerate(trace.curves["outputs"])]
    bodies = []
    for curve in (tuple(values), trace.curves["outputs"]):
        one = trace.model_copy(update={"curves": {"forgetting": curve}})
        figure = control_steps.stability(run_of({"traces": (one,)}))
        assert figure is not None
        bodies.append(figure.svg.body.count("<use "))
    assert bodies[0] >= bodies[1] + sum(value is not None for value in values)


def test_many_labels_are_cut_with_notice() -> None:
    file = control()
    label = file.fresh[0].control
    many = {f"label-{j}": label for j in range(MOST_LABELS + 3)}
    fresh = tuple(row.model_copy(update={"by_label": many}) for row in file.fresh)
    shown = by_label(file.model_copy(update={"fresh": fresh}))
    assert shown is not None
    assert len(shown.columns) == 1 + MOST_LABELS and "3 more labels" in shown.caption


def test_without_a_scorer_there_is_no_perplexity_and_no_hole() -> None:
    run = run_of(scorer=False)
    blocks = blocks_of(sections(run))
    assert "control-plane" not in blocks and "against-lambda" in blocks
    headings = {column.heading for name in TABLES for column in blocks[name].columns}
    assert "Gen-PPL" not in headings and "Gen-PPL ratio" not in headings
    assert "no scorer" in blocks["control-plans"].caption
    assert all("Gen-PPL rise" not in finding.question for finding in findings(run))
    assert "Gen-PPL was not measured" in ask(run, "tta_adaptive control better").text


def test_a_single_plan_without_anything_else_is_a_report_too() -> None:
    file = control()
    bare = {
        "rows": file.rows[:1],
        "fresh": tuple(row for row in file.fresh if row.digest == file.setting.reference),
        "front": (),
        "importance": {},
        "picks": {},
        "traces": (),
    }
    run = run_of(bare)
    found = sections(run)
    assert [section.name for section in found] == ["control", "guided-samples"]
    assert set(blocks_of(found)) == {*TABLES, "guided-texts"}
    assert control_findings.all_of(run.control) == [None] * 6  # type: ignore[arg-type]
    whole = report(run)
    page = render_page(whole)
    assert "How hard should guidance push, and where?" in page and "Base rate" in page
    assert render_document(whole).startswith(b"%PDF-")


@pytest.mark.parametrize(
    "changes",
    [
        {"traces": (), "importance": {}, "picks": {}},
        {"traces": (), "importance": {"control": {}}, "picks": {"best": "0" * 64}},
        {"fresh": ()},
    ],
)
def test_missing_parts_leave_no_trace(changes: dict[str, Any]) -> None:
    found = report(run_of(changes))
    check_inert(render_page(found))
    assert render_document(found).startswith(b"%PDF-")


def test_that_no_plan_was_picked_is_said() -> None:
    found = ask(run_of({"picks": {}}), "more of what was asked for")
    assert found.verdict == "open" and "none is within all constraints" in found.text


def test_sweeps_of_one_point_are_dots_and_no_slopes() -> None:
    file = control()
    kept = {plan(scale=2000.0).digest, adaptive(2000.0).digest, file.setting.reference}
    fresh = tuple(row for row in file.fresh if row.digest in kept)
    run = run_of({"fresh": fresh, "picks": {}})
    assert figures.against_lambda(run) is not None and figures.plane(run) is not None
    asked = [finding.question for finding in findings(run)]
    assert not any("rise" in question for question in asked)
    assert "on average" not in ask(run, "tta_adaptive control better").text


def test_nothing_is_said_of_guidance_where_none_was_searched() -> None:
    empty = RunData("none")
    assert sections(empty) == []
    for figure in (figures.plane, figures.against_lambda, control_importance.importances,
                   control_steps.maps, control_steps.stability):  # fmt: skip
        assert figure(empty) is None


@pytest.fixture(scope="module")
def hostile() -> RunData:
    """A search in which every free text is hostile."""
    texts = synthetic_run.HOSTILE
    file = control()
    setting = file.setting.model_copy(
        update={
            "labels": [texts],
            "judge": texts[0],
            "judges": (texts[0], *texts),
            "scorer": texts[6],
            "precision": "<i>",
            "process": texts[1],
            "objectives": texts,
            "constraints": dict.fromkeys(texts, 1.0),
            "sampler": texts[0],
        }
    )
    half = file.fresh[0].control
    names = {f"{kind}{text}": half for text in texts for kind in ("control_", "guide_")}
    fresh = tuple(
        row.model_copy(
            update={
                "samples": texts,
                "by_label": dict.fromkeys(texts, half),
                "estimates": row.estimates | names,
            }
        )
        for row in file.fresh
    )
    spec = file.rows[3].plan.policy.model_copy(
        update={"parameters": {"signal": texts[0], texts[1]: texts[0], "</td>": texts[6]}}
    )
    rows = tuple(
        row.model_copy(update={"plan": row.plan.model_copy(update={"policy": spec})})
        for row in file.rows
    )
    step = StepOfText(
        step=1, t=0.5, tokens=texts, edited=(0, 2, 5, 99), forgotten=(2, 5), key=(0, 1, 7, -3),
        levels=(0.5,),
    )  # fmt: skip
    curve = file.traces[0].curves["outputs"]
    trace = file.traces[0].model_copy(
        update={
            "label": texts[0],
            "example": (step, step.model_copy(update={"tokens": (), "levels": ()})),
            "curves": dict.fromkeys(texts, curve),
            "summary": dict.fromkeys(texts, half),
        }
    )
    lost = trace.model_copy(update={"digest": "f" * 64})
    changed = {
        "setting": setting,
        "fresh": fresh,
        "rows": rows,
        "picks": file.picks | {"<script>pick()</script>": file.picks["best"]},
        "importance": {text: dict.fromkeys(texts, half) for text in texts[:3]}
        | {"control": dict.fromkeys(texts, half)},
        "traces": (trace, lost),
    }
    return RunData("</title><script>", control=file.model_copy(update=changed))


def test_hostile_names_and_texts_are_inert(hostile: RunData) -> None:
    found = report(hostile)
    page = render_page(found)
    root = check_inert(page)
    shown = [text_of(quote) for quote in root.iter(HTML + "blockquote")]
    assert "<script>alert(1)</script>" in shown
    assert "<script>alert" not in page and "\u202e" not in page
    texts = [cell for cell in root.iter(HTML + "td") if cell.attrib.get("class") == "text"]
    words = [text_of(span) for cell in texts for span in cell.iter(HTML + "span")]
    assert "<script>alert(1)</script>" in words and "$\\frac{" in words
    assert "word" * 150 not in "".join("".join(cell.itertext()) for cell in texts)
    assert render_document(found).startswith(b"%PDF-")


def test_equal_files_give_equal_bytes(tmp_path: Path) -> None:
    pages = []
    for name in ("a", "b"):
        folder = synthetic_run.write_run(tmp_path / name / "run")
        ControlFile.model_validate_json(control().model_dump_json()).write(folder / "control.json")
        paths = build_report(folder)
        assert paths.pdf is not None, paths.problem
        pages.append((paths.html.read_bytes(), paths.pdf.read_bytes()))
    assert pages[0] == pages[1]
    root = check_inert(pages[0][0].decode())
    captions = [caption for caption, _ in tables(root)]
    assert any("All plans measured on fresh sequences" in caption for caption in captions)
    text, file = text_of(root), control()
    assert file.setting.reference in text and file.picks["best"] in text
    assert "'The paper' is TTA" in text


def test_it_shares_a_page_with_a_search_of_schedules() -> None:
    run = RunData("both", search=synthetic_run.search(), control=control())
    root = check_inert(render_page(report(run)))
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert len(set(ids)) == len(ids)
    text = text_of(root)
    assert "Which denoising steps need the large model?" in text
    assert "In the part on guidance it is TTA" in text


def test_a_folder_with_this_search_alone_is_read(tmp_path: Path) -> None:
    folder = synthetic_run.write_run(tmp_path / "run")
    with pytest.raises(InputError, match=r"nor control\.json in it"):
        load_run(folder)
    control().write(folder / "control.json")
    run = load_run(folder)
    assert run.control == control() and "control.json" in run.digests
    assert run.roles.order == ("H", "L")
    found = report(run)
    assert found.title == "How hard should guidance push, and where?"
    assert "24 plans of guided sampling" in found.subtitle
    (words,) = [b for s in found.sections for b in s.blocks
                if isinstance(b, Table) and b.name == "words-table"]  # fmt: skip
    assert "base rate" in {row[0].text for row in words.rows}


def test_a_traced_plan_that_the_search_did_not_try_is_the_picked_one_with_constant_clocks() -> (
    None
):
    file = control()
    own = file.traces[0].model_copy(update={"digest": "f" * 64})
    file = file.model_copy(update={"traces": (file.traces[0], own)})
    assert trace_name(file, file.traces[0]).startswith("best: ")
    assert trace_name(file, own) == "the same, constant clocks"

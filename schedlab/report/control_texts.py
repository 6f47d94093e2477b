"""Texts of a joint search: samples beside each other, and one text step by step."""

from __future__ import annotations

import re

import numpy as np

from schedlab.report.captions import control_facts, trace_facts
from schedlab.report.content import (
    Edit,
    Passage,
    SampleColumn,
    Samples,
    Strip,
    TextAtStep,
    Trajectory,
)
from schedlab.report.control_plans import measured, names_of, plan_words, share, trace_name
from schedlab.report.run_data import RunData
from schedlab.report.words import LINE_END, counted, listing, one_line, sample, visible
from schedlab.results.control_file import ControlFile, ControlTrace, StepOfText

MOST_STEPS = 12
MOST_TOKENS = 256
_LONGEST_TOKEN = 32  # characters
_LONGEST_SAMPLE = 4000
_LINE_ENDS = re.compile(LINE_END + "{4,}")
_BLANK = "\N{OPEN BOX}"


def trajectory(file: ControlFile, place: int, trace: ControlTrace) -> Trajectory | None:
    """The example of a trace, with its edits marked.

    Args:
        place: of the trace in the file; makes the name unique.
    """
    count = len(trace.example)
    if not count:
        return None
    chosen = np.unique(np.linspace(0, count - 1, min(MOST_STEPS, count)).round().astype(int))
    some = f", {len(chosen)} of {count} steps" if len(chosen) < count else ""
    longest = max(len(step.tokens) for step in trace.example)
    cut = f" The first {MOST_TOKENS} of {longest} tokens." if longest > MOST_TOKENS else ""
    given = file.setting.prefix_length
    given_words = f" The first {given} tokens are given." if given else ""
    asked = f"Asked for {one_line(trace.label)}" if trace.label else "Nothing was asked for"
    row = next((row for row in file.rows if row.digest == trace.digest), None)
    plan = "" if row is None else f" Plan: {plan_words(row.plan)}."
    return Trajectory(
        name=f"trajectory-{place + 1}",
        title=f"A text in the making, {trace_name(file, trace)}",
        caption="One sequence, not selected, of the traced ones: likeliest tokens after guidance."
        f" {asked}{some}.{given_words}{cut}{plan} {trace_facts(file, [trace])}",
        steps=tuple(_at(trace.example[number]) for number in chosen),
    )


def samples(run: RunData, file: ControlFile) -> Samples | None:
    """Texts of the reference and of the picks, each plan once."""
    columns = []
    for one in measured(file):
        names = names_of(file, one.digest)
        if not names or not one.fresh.samples:
            continue
        schedule = one.plan.model_schedule
        columns.append(
            SampleColumn(
                heading=", ".join(names),
                strip=Strip(
                    one_line(str(schedule), max_length=200),
                    tuple((role, n, run.roles.colour(role)) for role, n in schedule.segments),
                ),
                facts=f"{plan_words(one.plan)}; control {share(one.fresh.control)}",
                texts=tuple(
                    sample(text, max_length=_LONGEST_SAMPLE) for text in one.fresh.samples
                ),
            )
        )
    if not columns:
        return None
    labels = file.setting.labels[0] if file.setting.labels else ()
    asked = listing([one_line(name, max_length=32) for name in labels[:6]])
    turn = f" Rows ask for {asked} in turn, not necessarily from the first." if labels[1:] else ""
    return Samples(
        name="guided-texts",
        title="Samples beside each other",
        caption="Texts in a row were asked for the same and share all random numbers. First"
        f" sequences of the fresh ones, not selected.{turn} " + control_facts(file),
        columns=tuple(columns),
    )


def _at(step: StepOfText) -> TextAtStep:
    forgotten, key = set(step.forgotten), set(step.key)
    edited = set(step.edited) | forgotten
    passages: list[Passage] = []
    for place, token in enumerate(step.tokens[:MOST_TOKENS]):
        text = visible(token, max_length=_LONGEST_TOKEN).replace("\n", LINE_END)
        edit: Edit = "none"
        if place in edited:
            edit = "forgotten" if place in forgotten else "kept"
        if edit == "none" and place not in key:
            passages.append(Passage(text))
            continue
        # A mark begins at the word: blanks before it are plain, blanks alone get a sign.
        word = text.lstrip(" ")
        blanks = text[: len(text) - len(word)] if word else ""
        level = f"t_i = {step.levels[place]:.2f}" if place < len(step.levels) else ""
        passages += [Passage(blanks), Passage(word or _BLANK, place in key, edit, level)]
    kept = len(edited - forgotten)
    return TextAtStep(
        step=str(step.step),
        level=f"{step.t:.2f}",
        edits=f"{kept} kept, {len(forgotten)} forgotten" if edited else "none",
        passages=tuple(_joined(passages)),
    )


def _joined(passages: list[Passage]) -> list[Passage]:
    """Plain neighbours as one, nothing empty."""
    found: list[Passage] = []
    for one in passages:
        if not one.text:
            continue
        if _is_plain(one) and found and _is_plain(found[-1]):
            found[-1] = Passage(found[-1].text + one.text)
        else:
            found.append(one)
    return [_shortened(one) if _is_plain(one) else one for one in found]


def _shortened(passage: Passage) -> Passage:
    """Many line ends counted."""
    return Passage(_LINE_ENDS.sub(lambda run: f"{counted(len(run[0]))} ", passage.text))


def _is_plain(passage: Passage) -> bool:
    return not passage.is_key and passage.edit == "none"

"""The part of a caption that says what a figure was made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from schedlab.report.words import listing, one_line, without_folders
from schedlab.results.control_file import ControlFile, ControlTrace
from schedlab.results.importance_file import ImportanceFile
from schedlab.results.policy_file import PolicyFile
from schedlab.results.search_file import SearchFile, SearchSetting

BOOTSTRAP = "95 % bootstrap over sequences"
_MOST_LABELS = 6


def importance_facts(
    file: ImportanceFile, *, n: Iterable[int], states: str = "forward", prefix: bool = False
) -> str:
    """Sequences, seed, precision, decoding and interval method of an importance figure."""
    setting = file.setting
    kind = {
        "forward": f"held-out windows of {setting.length} tokens",
        "heavy_sampler": f"trajectories of {setting.length} tokens from the heavy sampler",
        "coupled": f"coupled pairs of trajectories of {setting.length} tokens",
        "both": f"held-out windows and {setting.sampled_sequences} heavy-sampler trajectories of"
        f" {setting.length} tokens",
    }[states]
    given = f" (prefix: the first {setting.prefix_length} of them)" if prefix else ""
    numbers = str(setting.num_sequences) if states == "both" else _counts(n)
    return (
        f"n = {numbers} {kind}{given}, seed {setting.seed}, {one_line(setting.precision)},"
        f" temperature 1, top-p 1, no scorer. Intervals: {BOOTSTRAP},"
        f" {setting.bootstrap_resamples} resamples, pointwise."
    )


def search_facts(file: SearchFile, *, fresh: bool = False, both: bool = False) -> str:
    """Sequences, seed, precision, scorer, decoding and interval method of a search figure."""
    setting = file.setting
    fewest = f"{file.race.looks[0].sequences} to " if file.race is not None else ""
    raced = " (a race)" if fewest else ""
    searched = (
        f"n = {fewest}{setting.num_sequences} sequences per schedule{raced}, seed {setting.seed}"
    )
    again = (
        f"n = {setting.fresh_sequences} sequences per schedule, fresh seed {setting.fresh_seed}"
    )
    counts = f"search: {searched}; re-measured: {again}" if both else again if fresh else searched
    is_usual = setting.policy.name == "ancestral"
    policy = "" if is_usual else f", policy {one_line(str(setting.policy))}"
    given = f" (the first {setting.prefix_length} given)" if setting.prefix_length else ""
    return (
        f"{counts[0].upper() if both else counts[0]}{counts[1:]}; {setting.length} tokens{given},"
        f" {setting.num_steps} steps, {one_line(setting.precision)}, scorer"
        f" {one_line(without_folders(setting.scorer))}, temperature {setting.temperature:g},"
        f" top-p {setting.top_p:g}{policy}. Intervals: {BOOTSTRAP}."
    )


def policy_facts(file: PolicyFile) -> str:
    """Sequences, seeds, precision, lengths and interval method of a figure on policies."""
    setting = file.setting
    task = f"task {one_line(setting.task)}, " if setting.task else ""
    given = f", {setting.prefix_length} given" if setting.prefix_length else ""
    scorer = (
        f", scorer {one_line(without_folders(setting.scorer))}"
        if setting.quality == "gen_ppl"
        else ""
    )
    temperatures = sorted({row.plan.decoding.temperature for row in file.rows})
    decoding = ", ".join(f"{value:g}" for value in temperatures)
    tuned = sum(row.curve.tuned for row in file.rows)
    effort = (
        f" Tuned: {setting.trials} proposals in each of {setting.repeats} searches, {tuned}"
        " different plans with the sweep's values; everything else has its knob swept and is as it"
        " is by default."
        if tuned
        else ""
    )
    return (
        f"{task}n = {setting.fresh_sequences} sequences per plan, fresh seed"
        f" {setting.fresh_seed} (search: {setting.num_sequences}, seed {setting.seed});"
        f" {setting.length} tokens{given}, {one_line(setting.precision)}, temperature {decoding},"
        f" top-p {setting.top_p:g}{scorer}. Intervals: {BOOTSTRAP}, given the plans.{effort}"
    )


def asked_for(file: ControlFile) -> str:
    """Labels that texts shall have, and the guides that push towards them."""
    parts = []
    for attribute, labels in zip(file.setting.attributes, file.setting.labels, strict=False):
        names = [one_line(label, max_length=32) for label in labels[:_MOST_LABELS]]
        more = f" and {len(labels) - _MOST_LABELS} more" if len(labels) > _MOST_LABELS else ""
        turn = " in turn" if len(labels) > 1 else ""
        parts.append(f"{listing(names)}{more}{turn} (guide '{one_line(attribute.classifier)}')")
    return "; ".join(parts)


def control_facts(file: ControlFile) -> str:
    """Sequences, seeds, judge, scorer, precision, decoding and intervals of fresh figures."""
    setting = file.setting
    return (
        f"n = {setting.fresh_sequences} sequences per plan, fresh seed {setting.fresh_seed}"
        f" (search: {setting.num_sequences}, seed {setting.seed}); {_control_world(file)}"
        f" Intervals: {BOOTSTRAP}, given the plans."
    )


def control_search_facts(file: ControlFile) -> str:
    """The same of what was seen on the search's own sequences."""
    setting = file.setting
    return (
        f"Each on {setting.num_sequences} sequences of seed {setting.seed}; {_control_world(file)}"
    )


def trace_facts(
    file: ControlFile, traces: Sequence[ControlTrace], *, interval: bool | None = None
) -> str:
    """The same of plans that were looked at step by step."""
    seeds = ", ".join(str(seed) for seed in sorted({trace.seed for trace in traces}))
    ends = {None: "", False: " No intervals.", True: f" Intervals: {BOOTSTRAP}."}[interval]
    return (
        f"n = {_counts(trace.num_sequences for trace in traces)} sequences per plan, fresh seed"
        f" {seeds}; {_control_world(file)}{ends}"
    )


def _control_world(file: ControlFile) -> str:
    setting = file.setting
    given = f", {setting.prefix_length} given" if setting.prefix_length else ""
    scorer = one_line(without_folders(setting.scorer))
    return (
        f"judge '{one_line(setting.judge)}', asked for {asked_for(file)}; {setting.length}"
        f" tokens{given}, {one_line(setting.process)} process, {one_line(setting.precision)},"
        f" temperature {setting.temperature:g}, top-p {setting.top_p:g},"
        f" {f'scorer {scorer}' if scorer not in ('', 'none') else 'no scorer'}."
    )


def kind_of_savings(setting: SearchSetting) -> str:
    """How the FLOPs saved by a schedule are known."""
    if setting.process != "masked":
        return "known, as every step costs a forward,"
    return "expected" if setting.policy.calls_known else "counted, for want of an expectation,"


def idle_skipped(setting: SearchSetting, *, before: str = " when ") -> str:
    """What savings rest on, where steps can be idle."""
    return f"{before}idle steps are skipped" if setting.process == "masked" else ""


def as_analysed(setting: SearchSetting) -> bool:
    """Whether plans were sampled the way that the analysis measures."""
    return setting.temperature == setting.top_p == 1 and setting.policy.name == "ancestral"


def untruncated(file: SearchFile) -> str:
    """What to add where additive scores meet samples that were drawn at other settings."""
    if as_analysed(file.setting):
        return ""
    return (
        " The scores are bounds of ancestral sampling at temperature 1 and top-p 1, not of the one"
        " used here. "
    )


def _counts(n: Iterable[int]) -> str:
    values = sorted(set(n))
    if not values:
        return "0"
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def ceiling_words(file: SearchFile) -> str:
    """What bounds a rank correlation under this run's sampling noise."""
    if any(item.ceiling_spearman is not None for item in file.rank_correlation):
        return (
            "'Ceiling' is what a perfect score would reach under this sampling noise (split"
            " halves of the sequences)."
        )
    return (
        "No ceiling is given: two halves of the sequences do not agree on a ranking at this n;"
        " measure more."
    )

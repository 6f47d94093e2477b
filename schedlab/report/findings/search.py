"""Statements about searched schedules."""

from __future__ import annotations

from collections.abc import Sequence

from schedlab.plan import ModelSchedule
from schedlab.report.captions import ceiling_words, idle_skipped, untruncated
from schedlab.report.content import Finding, Verdict
from schedlab.report.figures.schedules import peers
from schedlab.report.findings.regions import apart, mean_of, middle_verdict, region_means
from schedlab.report.run_data import all_heavy, label, saved_as_counted
from schedlab.report.words import (
    change,
    interval,
    listing,
    number,
    one_line,
    percent,
    relative_change,
    spoken_change,
)
from schedlab.results import Estimate, independent_difference
from schedlab.results.search_file import FreshRow, SearchFile, SearchRow

# The hand-made schedules that run the same share of steps on the light denoiser.
QUARTER_LIGHT = ("light_first", "light_second", "light_third", "light_last", "sandwich")
CHOSEN = {"best", "knee", "budget", "front", "exhaustive_best"}


def pick(file: SearchFile, name: str) -> Finding | None:
    """What a picked plan saves and costs, on fresh seeds."""
    digest = file.picks.get(name)
    if digest is None:
        return None
    question = {"best": "Which schedule is best?", "knee": "Where is the knee of the front?"}[name]
    row = file.row(digest)
    judged = file.fresh_row(digest) or row
    if row.schedule.roles == (file.setting.heavy,):
        return Finding(question, "fact", f"{row.schedule}: nothing cheaper was picked.")
    relative = relative_change(judged.paired_log_ppl)
    seeds = "on fresh seeds" if judged is not row else "on the search's own seeds, flattered"
    detail = (
        f"Saved: {percent(row.cost.nominal_saved_blocks)} as the paper counts (blocks only, a"
        f" forward at every step), {percent(row.cost.nominal_saved_total)} with the head at every"
        " position too;"
    )
    if idle := idle_skipped(file.setting):  # else the same again
        detail += (
            f" {percent(row.cost.saved_blocks)} of the block FLOPs and"
            f" {percent(row.cost.saved_total)} with the head{idle} (expected);"
        )
    detail += f" {_counted(row, file)} counted in this search."
    if not relative.excludes(0) and relative.high > 0:
        detail += f" The interval excludes a loss above {percent(relative.high)}."
    if not judged.in_entropy_band:
        detail += " Its entropy was outside the stated band when measured again."
    return Finding(
        question,
        "fact" if relative.excludes(0) else "open",
        f"{words(row.schedule)}: {percent(row.cost.saved_total)} of all FLOPs saved,"
        f" {spoken_change(judged.paired_log_ppl)} against all heavy, {seeds}.",
        detail,
    )


def all_light(file: SearchFile) -> Finding | None:
    """Whether sampled quality tells the two denoisers apart at all."""
    light = next((r for r in file.rows if r.schedule.roles == (file.setting.light,)), None)
    if light is None:
        return None
    again = file.fresh_row(light.digest)
    difference = (again or light).paired_log_ppl
    seeds = "fresh" if again is not None else "search"
    return Finding(
        "Is all light worse than all heavy when sampled?",
        _sign(difference),
        f"All light against all heavy: {spoken_change(difference)}, on {seeds} seeds.",
        f"It saves {percent(light.cost.saved_total)} of all FLOPs with the head.",
    )


def sandwich(file: SearchFile) -> Finding | None:
    """The paper's finding: of the hand-made quarter-light schedules the sandwich wins."""
    rows = [row for row in file.rows if row.name in QUARTER_LIGHT]
    own = next((row for row in rows if row.name == "sandwich"), None)
    if own is None or len(rows) < 2:
        return None
    ranked = sorted(rows, key=_log_ppl)
    others = [row for row in ranked if row is not own]
    tied = [row for row in others if not apart(row.paired_log_ppl, own.paired_log_ppl)]
    beaten_by = [row for row in others if row not in tied and _log_ppl(row) < _log_ppl(own)]
    verdict: Verdict
    if beaten_by:
        verdict = "no"
        names = listing([label(row, file) for row in beaten_by])
        text = f"Unlike in the paper, {names} is better."
    elif not tied:
        verdict, text = "yes", "As in the paper, it beats each of the others."
    else:
        verdict = "open"
        names = listing([label(row, file) for row in tied])
        text = (
            f"It ranks {ranked.index(own) + 1} of {len(ranked)}, and its interval overlaps that of"
            f" {names}."
        )
    order = "; ".join(f"{label(row, file)} {change(row.paired_log_ppl)}" for row in ranked)
    return Finding(
        "Does the sandwich win among the hand-made schedules, as in the paper?",
        verdict,
        text,
        f"Gen-PPL against all heavy, paired, best first: {order}.",
    )


def segments(file: SearchFile) -> Finding | None:
    """Which segments should stay heavy, by the exhaustive search."""
    if not file.segment_influence:
        return None
    estimates = [(item.segment, item.ppl) for item in file.segment_influence]
    worse = [(j, e) for j, e in estimates if e.low > 0]
    better = [(j, e) for j, e in estimates if e.high < 0]
    t = [1 - (j + 0.5) / file.setting.num_segments for j, _ in estimates]
    means = region_means(t, [e for _, e in estimates])
    if means is None:
        return None
    verdict = middle_verdict(*means)
    text = {
        "yes": "As in the paper, light hurts more in the middle than at either end.",
        "no": "Unlike in the paper, light hurts more at an end than in the middle.",
        "open": "The middle and the ends are not apart beyond their intervals.",
    }[verdict]
    noisy, middle, clean = map(interval, means)
    detail = (
        "Mean Gen-PPL with the segment light minus the mean over segments, in units of Gen-PPL;"
        f" segment 0 is the noisiest. {middle} in the middle, {noisy} at the noisy end, {clean}"
        " near the text, cautious intervals (means of the segments' ends)."
    )
    if worse:
        detail += f" Worse than average: {_named(worse)}."
    if better:
        detail += f" Better than average: {_named(better)}."
    return Finding(
        "Should the middle segments stay heavy, as in the paper?", verdict, text, detail
    )


def additive_ranks(file: SearchFile) -> Finding | None:
    """How well scores known before sampling rank the sampled schedules."""
    items = file.rank_correlation
    if not items:
        return None
    names = {"loss_gap": "excess NELBO", "path_kl": "path KL"}
    parts = []
    for item in items:
        text = f"{names[item.score]} ({one_line(item.states.replace('_', ' '))} states)"
        text += f" {interval(item.spearman)}"
        if item.ceiling_spearman is not None:
            text += f" beside a ceiling of {interval(item.ceiling_spearman)}"
        parts.append(text)
    verdict: Verdict = "open"
    if all(item.spearman.low > 0 for item in items):
        verdict, text = "yes", "Schedules with a lower additive score do sample better."
    elif all(item.spearman.high < 0 for item in items):
        verdict, text = "no", "Schedules with a lower additive score sample worse."
    else:
        text = "No significant rank correlation for at least one of the scores."
    return Finding(
        "Do the additive scores foresee the sampled ranking?",
        verdict,
        text,
        f"Spearman over {items[0].n_plans} schedules, ranked among those with as many light"
        f" steps: {'; '.join(parts)}. {ceiling_words(file)} Intervals are for the scores as"
        f" measured.{untruncated(file)}",
    )


def additive_reaches(file: SearchFile) -> Finding | None:
    """How the schedule sorted without sampling fares against the exhaustive winner."""
    exhaustive = peers(file)
    if not exhaustive:
        return None
    winner = exhaustive[0]
    same = [
        row
        for row in file.rows
        if "additive" in row.families
        and row.light_segments is not None
        and abs(row.light_share - winner.light_share) < 1e-9
    ]
    if not same:
        return None
    found = min(same, key=_additive_score)
    rank = 1 + sum(_log_ppl(row) < _log_ppl(found) for row in exhaustive)
    return Finding(
        "How good is the schedule found without sampling?",
        "fact",
        f"{words(found.schedule)}, the lowest in the additive score, would rank {rank} among the"
        f" {len(exhaustive)} exhaustive schedules of the same cost.",
        f"At the same share of light steps, {percent(winner.light_share)}, against all heavy:"
        f" {_compare(found, winner, file)}.",
    )


def winners_curse(file: SearchFile) -> Finding | None:
    """How much the chosen plans lost when measured again."""
    pairs = [
        (file.row(again.digest), again)
        for again in file.fresh
        if set(again.why) & CHOSEN and again.schedule.roles != (file.setting.heavy,)
    ]
    if not pairs:
        return None
    # The same fresh sequences for all: `mean_of` allows for that.
    mean = mean_of(
        [independent_difference(again.paired_log_ppl, row.paired_log_ppl) for row, again in pairs]
    )
    worse = sum(again.paired_log_ppl.value > _log_ppl(row) for row, again in pairs)
    best = next((pair for pair in pairs if "best" in pair[1].why), None)
    return Finding(
        "How large is the winner's curse?",
        "fact" if mean.excludes(0) else "open",
        f"{worse} of {len(pairs)} chosen schedules came out worse on fresh seeds; Gen-PPL moved by"
        f" {change(mean)} on average against all heavy, whose own luck is part of that.",
        f"The best one went from {change(best[0].paired_log_ppl)} in the search to"
        f" {change(best[1].paired_log_ppl)} against all heavy."
        if best
        else "",
    )


def entropy(file: SearchFile) -> Finding | None:
    """Whether the picks keep their diversity."""
    judged = {name: file.fresh_row(d) or file.row(d) for name, d in sorted(file.picks.items())}
    if not judged:
        return None
    outside = [one_line(name) for name, row in judged.items() if not row.in_entropy_band]
    low, high = file.setting.fresh_entropy_band
    values = [
        f"{one_line(name)} {interval(row.estimates['entropy'])}"
        for name, row in judged.items()
        if "entropy" in row.estimates
    ]
    dropped = sum(not row.in_entropy_band for row in file.rows)
    return Finding(
        "Do the picked schedules keep the diversity of all heavy?",
        "fact",
        f"Outside the stated entropy band: {listing(outside)}."
        if outside
        else "The unigram entropy of every pick lies within the stated band.",
        f"Band on fresh seeds {number(low)} to {number(high)} nats per sample;"
        f" {'; '.join(values)}. {dropped} of"
        f" {len(file.rows)} evaluated schedules were outside and could not be picked.",
    )


def _additive_score(row: SearchRow) -> float:
    """What chooses without sampling: the excess NELBO, or the path KL where that is missing."""
    scores = (row.additive.loss_gap, row.additive.path_kl)
    return next((score for score in scores if score is not None), float("inf"))


def words(schedule: ModelSchedule) -> str:
    """A schedule's text, cut when it has very many segments."""
    return one_line(str(schedule), max_length=90)


def _counted(row: SearchRow, file: SearchFile) -> str:
    heavy = all_heavy(file)
    return percent(saved_as_counted(row, heavy)) if heavy is not None else "not known"


def _compare(found: SearchRow, winner: SearchRow, file: SearchFile) -> str:
    """Both against all heavy, on fresh seeds where both were measured again."""
    again = [file.fresh_row(row.digest) for row in (found, winner)]
    fresh = [row for row in again if row is not None]
    rows: Sequence[FreshRow | SearchRow] = fresh if len(fresh) == 2 else (found, winner)
    seeds = "fresh seeds" if len(fresh) == 2 else "search seeds, which flatter the winner"
    first, second = (change(row.paired_log_ppl) for row in rows)
    return f"{first}; the exhaustive winner {words(winner.schedule)} {second} ({seeds})"


def _named(items: Sequence[tuple[int, Estimate]]) -> str:
    return listing([f"{j} ({interval(estimate)})" for j, estimate in items])


def _sign(estimate: Estimate) -> Verdict:
    if not estimate.excludes(0):
        return "open"
    return "yes" if estimate.value > 0 else "no"


def _log_ppl(row: SearchRow) -> float:
    return row.paired_log_ppl.value

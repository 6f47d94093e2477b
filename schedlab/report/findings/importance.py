"""Statements about step importance."""

from __future__ import annotations

from schedlab.report.content import Finding, Verdict
from schedlab.report.findings.regions import MIDDLE, apart, middle_verdict, regions
from schedlab.report.words import interval, level_range, listing, percent, spoken_interval
from schedlab.results import Estimate
from schedlab.results.importance_file import Curve, ImportanceFile, Metric, Significance

NATS = "nats per token"
CLAIMS: tuple[tuple[Metric, str], ...] = (
    ("loss_gap", "signed loss gap"),
    ("abs_loss_gap", "absolute loss gap"),
    ("relative_kl", "relative KL"),
)


def heavy_better(file: ImportanceFile, light: str) -> Finding | None:
    """Whether the heavy denoiser has the lower loss, and whether they differ beyond noise."""
    gap = _significance(file, light, "loss_gap")
    if gap is None:
        return None
    heavy = file.setting.heavy
    verdict: Verdict
    if not gap.mean_gap.excludes(0):
        verdict = "open"
        text = f"This run cannot tell which of {heavy} and {light} predicts held-out text better."
    elif gap.mean_gap.value > 0:
        verdict, text = "yes", f"{heavy} predicts held-out text better (lower NELBO)."
    else:
        verdict, text = "no", f"{light} predicts held-out text better (lower NELBO)."
    detail = f"{light} minus {heavy}: {spoken_interval(gap.mean_gap, unit=NATS)}."
    relative = _significance(file, light, "relative_kl")
    if relative is not None:
        beyond = "exceeds" if relative.mean_gap.low > 0 else "does not significantly exceed"
        detail += (
            f" The path KL of {light} from {heavy} (on noised held-out text) {beyond} that of a"
            " second, independently trained heavy denoiser; difference"
            f" {spoken_interval(relative.mean_gap, unit=NATS)}."
        )
    return Finding(f"Is {heavy} better than {light}?", verdict, text, detail)


def middle_matters(file: ImportanceFile, light: str) -> Finding | None:
    """The paper's claim: the denoisers differ most in the middle of the trajectory."""
    outcomes = []
    for metric, name in CLAIMS:
        curve = _curve(file, metric, light)
        means = None if curve is None else regions(curve)
        if means is not None:
            outcomes.append((name, middle_verdict(*means), means))
    if not outcomes:
        return None
    verdict: Verdict
    if all(one == "yes" for _, one, _ in outcomes):
        verdict = "yes"
        text = "As in the paper, the middle half lies above both ends on every curve."
    elif any(one == "no" for _, one, _ in outcomes):
        verdict = "no"
        names = listing([name for name, one, _ in outcomes if one == "no"])
        text = f"Unlike in the paper, an end lies above the middle half ({names})."
    else:
        verdict = "open"
        names = listing([name for name, one, _ in outcomes if one != "yes"])
        text = f"The middle half is not above both ends beyond the intervals ({names})."
    parts = [
        f"{name} {interval(middle)} in the middle, {interval(noisy)} at the noisy end,"
        f" {interval(clean)} near the text"
        for name, _, (noisy, middle, clean) in outcomes
    ]
    return Finding(
        f"Do the middle steps matter most for {light}, as in the paper?",
        verdict,
        text,
        f"Means over t from {MIDDLE[0]} to {MIDDLE[1]} and over the outer quarters,"
        f" {file.setting.unit}, with cautious intervals (means of the pointwise ends):"
        f" {'; '.join(parts)}.",
    )


def given_prefix(file: ImportanceFile, light: str) -> Finding | None:
    """Whether the gap, and where it lies, stay when the beginning of the text is given."""
    gap = _significance(file, light, "loss_gap", prefix=True)
    curve = _curve(file, "loss_gap", light, prefix=True)
    alone = _curve(file, "loss_gap", light)
    if gap is None or curve is None or alone is None:
        return None
    given, free = regions(curve), regions(alone)
    if given is None or free is None:
        return None
    names = ("at the noisy end", "in the middle", "near the text")
    moved = [
        name for name, one, other in zip(names, given, free, strict=True) if apart(one, other)
    ]
    parts = [f"{interval(mean)} {name}" for name, mean in zip(names, given, strict=True)]
    return Finding(
        "Does the loss gap change when the beginning of the text is given?",
        "yes" if moved else "open",
        f"It differs from that of whole texts {listing(moved)}."
        if moved
        else "No significant change in any part of the trajectory.",
        f"With {file.setting.prefix_length} tokens given: signed loss gap {', '.join(parts)},"
        f" {file.setting.unit}; {light} minus {file.setting.heavy} in the NELBO"
        f" {spoken_interval(gap.mean_gap, unit=NATS)}.",
    )


def peak(file: ImportanceFile, light: str) -> Finding | None:
    """Where one light step costs most in the bound."""
    curve = _curve(file, "loss_gap", light)
    if curve is None:
        return None
    question = f"Where does a step on {light} cost most in the bound?"
    top = max(range(len(curve.t)), key=lambda index: curve.value[index])
    highest = Estimate(value=curve.value[top], low=curve.low[top], high=curve.high[top], n=curve.n)
    worse = sum(low > 0 for low in curve.low)
    better = sum(high < 0 for high in curve.high)
    counts = (
        f"{light} is significantly worse at {worse} of {len(curve.t)} noise levels and"
        f" significantly better at {better} (pointwise)."
    )
    if not worse:
        return Finding(question, "open", "Nowhere significantly.", counts)
    tied = [t for t, high in zip(curve.t, curve.high, strict=True) if high >= highest.low]
    return Finding(
        question,
        "fact",
        f"At t = {curve.t[top]:.2f} (t = 1 is noise).",
        f"The signed loss gap there is {spoken_interval(highest, unit=file.setting.unit)};"
        f" levels within {level_range(min(tied), max(tied))} reach up to that interval. {counts}",
    )


def states_matter(file: ImportanceFile, light: str) -> Finding | None:
    """Path KL with the exact states against its cheap approximation."""
    totals = {
        score.states: Estimate(
            value=sum(score.path_kl),
            low=sum(score.path_kl_low),
            high=sum(score.path_kl_high),
            n=max(1, file.setting.num_sequences),
        )
        for score in file.step_scores
        if score.light == light and not score.prefix
    }
    if len(totals) < 2:
        return None
    exact, cheap = totals["heavy_sampler"], totals["forward"]
    differs = apart(exact, cheap)
    return Finding(
        "Does it matter on which states the path KL is measured?",
        "yes" if differs else "open",
        f"The exact and the cheap value {'differ' if differs else 'do not differ significantly'}"
        f" where {light} runs all steps.",
        f"{interval(exact)} {NATS} on the heavy sampler's own states (exact), {interval(cheap)} on"
        " noised held-out text (cheap); cautious intervals (sums of the pointwise ends).",
    )


def propagation(file: ImportanceFile, light: str) -> Finding | None:
    """Which segment's swap changes the final text most."""
    rows = [row for row in file.propagation if row.light == light and not row.prefix]
    if len(rows) < 2:
        return None
    most = max(rows, key=lambda row: row.changed_tokens.value)
    least = min(rows, key=lambda row: row.changed_tokens.value)
    stands_out = apart(most.changed_tokens, least.changed_tokens)

    def share(estimate: Estimate) -> str:
        low, high = percent(estimate.low), percent(estimate.high)
        return f"{percent(estimate.value)} of the tokens [{low}, {high}]"

    spread = [(row.propagated_tokens, row) for row in rows if row.propagated_tokens is not None]
    reach = ""
    widest_first = sorted(spread, key=lambda pair: -pair[0].value)
    if spread and apart(widest_first[0][0], widest_first[-1][0]):
        propagated, widest = widest_first[0]
        reach = (
            f" Most spread from segment {widest.segment}: {share(propagated)} were changed after"
            " it, by heavy itself."
        )
    return Finding(
        "Where does a swap change the final text most?",
        "fact" if stands_out else "open",
        f"In segment {most.segment}, {level_range(most.t_to, most.t_from)}."
        if stands_out
        else "No segment stands out beyond the intervals.",
        f"{share(most.changed_tokens)} change when segment {most.segment} alone runs on {light},"
        f" {share(least.changed_tokens)} for segment {least.segment}"
        f" ({level_range(least.t_to, least.t_from)}), all noise shared.{reach}",
    )


def _curve(
    file: ImportanceFile, metric: Metric, light: str, *, prefix: bool = False
) -> Curve | None:
    for curve in file.curves:
        wanted = curve.metric == metric and curve.roles[-1] == light
        if wanted and curve.states == "forward" and curve.prefix == prefix:
            return curve
    return None


def _significance(
    file: ImportanceFile, light: str, metric: str, *, prefix: bool = False
) -> Significance | None:
    for item in file.significance:
        if item.light == light and item.metric == metric and item.prefix == prefix:
            return item
    return None

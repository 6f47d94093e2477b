"""Statements about a joint search over guidance and allocation."""

from __future__ import annotations

from collections.abc import Sequence

from schedlab.report.content import Finding, Verdict
from schedlab.report.control_pairs import control_gap, entropy_gap, how, log_ppl_gap
from schedlab.report.control_plans import (
    CONSTANT,
    NEVER_ABOVE,
    Measured,
    Sweep,
    at_equal_lambda,
    kind,
    names_of,
    noise_matched,
    picked,
    plan_words,
    points,
    pooled,
    reference,
    scale_words,
    share,
    sweeps,
)
from schedlab.report.figures.control_importance import parameter_words
from schedlab.report.figures.control_steps import levels_KG
from schedlab.report.findings.regions import apart
from schedlab.report.words import change, interval, listing, one_line, percent
from schedlab.results import Estimate
from schedlab.results.control_file import ControlFile

_MOST_OPINIONS = 3


def all_of(file: ControlFile) -> list[Finding | None]:
    """All statements that the file allows."""
    found = [best(file), duller(file), knee(file), control_rises(file), ppl_rises(file)]
    constant = next((one for one in sweeps(file) if kind(one.policy) == CONSTANT), None)
    if constant is not None:
        others = [one for one in sweeps(file) if one.policy.name != CONSTANT]
        found += [against_constant(file, one, constant) for one in others]
    return [*found, matters_most(file)]


def best(file: ControlFile) -> Finding | None:
    """What the best pick gives against the base rate, and at what price."""
    question = "Does guidance give more of what was asked for?"
    own, base = picked(file, "best"), reference(file)
    if own is None:
        guided = [row for row in file.rows if row.digest != file.setting.reference]
        if not guided or file.picks:
            return None
        limits = " within all constraints" if file.setting.constraints else ""
        return Finding(question, "open", f"No guided plan was picked: none is{limits}.")
    price = "; ".join(price_words(own))
    if file.autoregressive is not None:
        price += (
            f"; {interval(file.autoregressive)} times the seconds of an autoregressive model of"
            " the same size"
        )
    within = "" if own.fresh.within else " It breaks a constraint on fresh sequences."
    if base is None:
        return Finding(
            question, "fact", f"{plan_words(own.plan)}: {share(own.fresh.control)} of the texts.",
            f"On fresh sequences: {price}.{within}",
        )  # fmt: skip
    gain = control_gap([(own, base)])
    words = {
        "yes": "has more of what was asked for than without guidance",
        "no": "has less of what was asked for than without guidance",
        "open": "is not proven to have more of what was asked for than without guidance",
    }
    verdict = _sign(gain)
    return Finding(
        question,
        verdict,
        f"The best pick, {plan_words(own.plan)}, {words[verdict]}: {share(own.fresh.control)} of"
        f" the texts against a base rate of {share(base.fresh.control)}, that is {points(gain)},"
        " on fresh sequences.",
        f"Its price: {price}. {_opinions(own, file)}{within} {how(file)}",
    )


def duller(file: ControlFile) -> Finding | None:
    """Whether the best pick's texts repeat themselves, which judges and scorers may like."""
    own, base = picked(file, "best"), reference(file)
    if own is None or base is None:
        return None
    a, b = (one.fresh.estimates.get("entropy") for one in (own, base))
    if a is None or b is None:
        return None
    gap = entropy_gap((base, own))  # above 0: duller
    if gap is None:
        return None
    verdict = _sign(gap)
    words = {"yes": "is lower", "no": "is higher", "open": "is not proven different"}[verdict]
    beside = [
        f"{label} {interval(own.fresh.estimates[name])} against"
        f" {interval(base.fresh.estimates[name])}"
        for name, label in (("distinct_3", "distinct-3"), ("self_bleu", "self-BLEU"))
        if name in own.fresh.estimates and name in base.fresh.estimates
    ]
    more = f"The same of {', '.join(beside)}. " if beside else ""
    return Finding(
        "Are the best pick's texts more repetitive than unguided ones?",
        verdict,
        f"Their entropy {words}: {interval(a)} nats against {interval(b)} without guidance."
        + (
            " Repeated words can please a judge and lower Gen-PPL: look at the texts."
            if verdict == "yes"
            else ""
        ),
        f"{more}{how(file)}",
    )


def knee(file: ControlFile) -> Finding | None:
    """Where more control begins to cost more."""
    own, first = picked(file, "knee"), picked(file, "best")
    if own is None:
        return None
    question = "Where is the knee of control against cost?"
    if first is not None and first.digest == own.digest:
        return Finding(question, "fact", "At the best pick: nothing cheaper bends the front.")
    within = "" if own.fresh.within else " It breaks a constraint on fresh sequences."
    return Finding(
        question,
        "fact",
        f"{plan_words(own.plan)}: control {share(own.fresh.control)}, on fresh sequences.",
        f"Its price: {'; '.join(price_words(own))}.{within}",
    )


def price_words(own: Measured) -> list[str]:
    """What a plan costs beside the reference."""
    found = []
    if (ratio := own.fresh.ppl_ratio) is not None:
        found.append(f"Gen-PPL {interval(ratio)} times the reference's")
    found.append(f"cost {interval(own.fresh.cost)} times the reference's")
    if (entropy := own.fresh.estimates.get("entropy")) is not None:  # Gen-PPL never without
        found.append(f"entropy {interval(entropy)}")
    return found


def control_rises(file: ControlFile) -> Finding | None:
    """Whether more lambda gives more control, by sweep."""
    changes = [(one, control_gap([(high, low)])) for one, low, high in _ends(file)]
    return _rise(
        "Does control rise with lambda?",
        [(one, gap, points(gap)) for one, gap in changes],
        _highest(file) + how(file),
    )


def ppl_rises(file: ControlFile) -> Finding | None:
    """Whether more lambda costs perplexity, by sweep."""
    changes = []
    for one, low, high in _ends(file):
        if (gap := log_ppl_gap([(high, low)])) is not None:
            changes.append((one, gap))
    return _rise(
        "Does Gen-PPL rise with lambda?",
        [(one, gap, change(gap)) for one, gap in changes],
        _entropy_beside(file) + how(file),
    )


def against_constant(file: ControlFile, one: Sweep, constant: Sweep) -> Finding | None:
    """Whether clocks of tokens control better than the constant one at the same lambda."""
    pairs = at_equal_lambda(one, constant)
    if not pairs:
        return None
    gaps = [control_gap([pair]) for pair in pairs]
    mean = control_gap(pairs)
    verdict = _sign(mean)
    words = {"yes": "higher", "no": "lower", "open": "not proven different"}[verdict]
    over = "" if len(pairs) == 1 else f" on average over {len(pairs)} values of lambda"
    by_lambda = "; ".join(
        f"lambda {scale_words(a.scale)}: {points(gap)}"
        for (a, _), gap in zip(pairs, gaps, strict=True)
    )
    return Finding(
        f"Does {one.name} control better than {CONSTANT} at the same lambda?",
        verdict,
        f"Its accuracy is {words}: {points(mean)}{over}.{_ppl_beside(pairs)}",
        f"{by_lambda}. {how(file)} {_less_noise(file, one)}".rstrip(),
    )


def matters_most(file: ControlFile) -> Finding | None:
    """The parameter that tells the best controlled proposals apart."""
    own = file.importance.get("control")
    if not own:
        return None
    question = "Which parameter matters most for control?"
    ranked = sorted(own.items(), key=lambda item: (-item[1].value, item[0]))
    (name, top), rest = ranked[0], ranked[1:]
    tied = [other for other, estimate in rest if not apart(estimate, top)]
    shares = "; ".join(f"{parameter_words(key)} {_share(value)}" for key, value in ranked[:5])
    detail = (
        f"Shares of PED-ANOVA over {top.n} proposals and swept plans: {shares}. Intervals:"
        " bootstrap over them. It ranks what tells the best tenth apart within the ranges"
        " searched; it is no effect, and knows no direction."
    )
    if not rest:
        return Finding(question, "open", f"Only {parameter_words(name)} was searched.", detail)
    if tied:
        names = listing([parameter_words(key) for key in tied])
        text = f"{parameter_words(name)} ranks first, not told apart from {names}."
        return Finding(question, "open", text, detail)
    return Finding(question, "fact", f"{parameter_words(name)}.", detail)


def _share(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _rise(
    question: str, changes: Sequence[tuple[Sweep, Estimate, str]], more: str
) -> Finding | None:
    """One statement over all sweeps: yes or no where it is proven for each."""
    if not changes:
        return None
    verdicts = [_sign(gap) for _, gap, _ in changes]
    verdict: Verdict = verdicts[0] if len(set(verdicts)) == 1 else "open"
    words = {"yes": "rises", "no": "falls", "open": "no proven change"}
    if verdict == "open" and len(set(verdicts)) > 1:
        text = "Not the same under all policies: "
    else:
        text = {"yes": "It rises: ", "no": "It falls: ", "open": "No proven change: "}[verdict]
    said = len(set(verdicts)) > 1
    parts = [
        f"{one.name} {amount}{f' ({words[own]})' if said else ''}, from lambda"
        f" {scale_words(one.points[0].scale)} to {scale_words(one.points[-1].scale)}"
        for (one, _, amount), own in zip(changes, verdicts, strict=True)
    ]
    return Finding(question, verdict, f"{text}{'; '.join(parts)}.", more)


def _entropy_beside(file: ControlFile) -> str:
    """What a lower Gen-PPL may be bought with."""
    parts = []
    for one, low, high in _ends(file):
        a, b = (point.fresh.estimates.get("entropy") for point in (low, high))
        if a is not None and b is not None:
            parts.append(f"{one.name} {interval(a)} to {interval(b)}")
    return f"Entropy (nats) meanwhile: {'; '.join(parts)}. " if parts else ""


def _highest(file: ControlFile) -> str:
    """Sweeps whose control is highest before the end."""
    parts = []
    for one, _, last in _ends(file):
        top = max(one.points, key=lambda point: point.fresh.control.value)
        if top.digest != last.digest:
            parts.append(f"{one.name} at {scale_words(top.scale)} ({share(top.fresh.control)})")
    if not parts:
        return ""
    return f"Highest not at the largest lambda but under {listing(parts)}. "


def _ends(file: ControlFile) -> list[tuple[Sweep, Measured, Measured]]:
    return [(one, one.points[0], one.points[-1]) for one in sweeps(file) if len(one.points) > 1]


def _sign(difference: Estimate) -> Verdict:
    if not difference.excludes(0):
        return "open"
    return "yes" if difference.value > 0 else "no"


def _ppl_beside(pairs: Sequence[tuple[Measured, Measured]]) -> str:
    """Gen-PPL at the same lambda: control bought with perplexity is no gain."""
    mean = log_ppl_gap(pairs)
    if mean is None:
        return " Gen-PPL was not measured."
    words = {"yes": "higher", "no": "lower", "open": "not proven different"}[_sign(mean)]
    return f" Its Gen-PPL is {words}: {change(mean)}."


def _less_noise(file: ControlFile, one: Sweep) -> str:
    """What of a difference may be that of less noise, and what says so."""
    if pooled(one.policy) != "none":
        return (
            "All tokens of a sequence get the mean level here: this is the effect of another mean"
            " noise level alone, not of telling tokens apart."
        )
    if one.policy.name not in NEVER_ABOVE:
        return ""
    text = (
        f"{one.policy.name} never raises a level above t, so the mean noise level is lower too:"
        " the comparison with a constant clock is not one at equal noise."
    )
    if traced := _mean_levels(file, one):
        text += f" {traced}"
    matched = noise_matched(file, one.policy)
    if not matched:
        return (
            f"{text} Its noise-matched constant (pooled t or alpha: every token gets the mean"
            " level; schedlab's own) is not among the plans measured at equal settings, so what"
            " less noise alone does is not known here."
        )
    for name, pairs in sorted(matched.items()):
        mean = control_gap(pairs)
        word = {"yes": "higher", "no": "lower", "open": "not proven different"}[_sign(mean)]
        number_words = "1 pair" if len(pairs) == 1 else f"{len(pairs)} pairs"
        text += (
            f" Against its noise-matched constant (pooled {name}: every token gets the mean level;"
            f" schedlab's own), {number_words} of plans at equal settings: accuracy {word},"
            f" {points(mean)}.{_ppl_beside(pairs)}"
        )
    return text


def _mean_levels(file: ControlFile, one: Sweep) -> str:
    """How much lower the mean level was, if a plan of this policy was traced."""
    for trace in file.traces:
        row = next((row for row in file.rows if row.digest == trace.digest), None)
        levels = levels_KG(file, trace)
        same = row is not None and kind(row.plan.policy) == kind(one.policy)
        if same and levels is not None and sum(trace.t) > 0:
            ratio = float(levels.mean()) / (sum(trace.t) / len(trace.t))
            names = ", ".join(names_of(file, trace.digest)) or trace.digest[:12]
            return f"In the traced plan ({names}) the mean t_i is {percent(ratio)} of the mean t."
    return ""


def _opinions(own: Measured, file: ControlFile) -> str:
    """Other judges, and the guides, which do not count."""
    found = own.fresh.estimates
    deciding = file.setting.deciding or (file.setting.judge,)
    others = [name for name in file.setting.judges if name not in deciding]
    parts = [
        f"judge '{one_line(name)}' {share(found[f'control_{name}'])}"
        for name in others
        if f"control_{name}" in found
    ][:_MOST_OPINIONS]
    parts += [
        f"the guide '{one_line(name.removeprefix('guide_'))}' itself {share(estimate)}, which is"
        " no measure"
        for name, estimate in sorted(found.items())
        if name.startswith("guide_")
    ][:_MOST_OPINIONS]
    return f"Others say of it: {'; '.join(parts)}." if parts else ""

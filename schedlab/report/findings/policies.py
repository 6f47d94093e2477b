"""Statements about searched policies."""

from __future__ import annotations

from schedlab.report.content import Finding, Verdict
from schedlab.report.figures.policies import AXIS, LOSSES, is_bound
from schedlab.report.words import interval, number, one_line, percent
from schedlab.results import Estimate
from schedlab.results.policy_file import Matched, PolicyFile


def pick(file: PolicyFile, name: str) -> Finding | None:
    """What a picked plan costs and gives, on fresh sequences, beside the reference."""
    digest = file.picks.get(name)
    fresh = file.fresh_row(digest) if digest is not None else None
    reference = file.fresh_row(file.setting.reference)
    if digest is None or fresh is None or reference is None:
        return None
    question = {"best": "Which plan is best?", "knee": "Where is the knee of the front?"}[name]
    row = file.row(digest)
    return Finding(
        question,
        "fact",
        f"{one_line(str(row.plan.policy), max_length=300)}: {_quality(file, fresh.estimates)} at"
        f" {percent(fresh.cost.value)} of the reference's cost, on fresh sequences.",
        f"{number(fresh.estimates[file.setting.cost].value)} {AXIS[file.setting.cost]}. The"
        f" reference, {one_line(str(file.row(reference.digest).plan.policy), max_length=200)} with"
        f" {file.setting.num_steps} steps: {_quality(file, reference.estimates)} at"
        f" {number(reference.estimates[file.setting.cost].value)}.",
    )


def beats(one: Matched, file: PolicyFile) -> Finding:
    """Whether a tuned policy beats another one at equal cost."""
    swept = not one.against.endswith(", tuned")
    other = f"{one.against} with its knob swept" if swept else one.against
    question = f"Is {one.family} better than {other} at equal cost?"
    mean = one.mean_difference
    if mean is None:
        return Finding(
            question, "open", "All its plans are cheaper than the other's.", _areas(one)
        )
    verdict: Verdict = "open"
    if mean.excludes(0):
        verdict = "yes" if mean.value < 0 else "no"
    words = {"yes": "lower", "no": "higher", "open": "not proven different"}[verdict]
    of_all = len(one.digests) + one.cheaper
    detail = _areas(one)
    if is_bound(one.against, file) and verdict == "yes":
        verdict = "open"
        detail += " The other's is an upper bound: what it gives away is part of the difference."
    return Finding(
        question,
        verdict,
        f"Its {LOSSES[file.setting.quality]} is {words}: {_points(mean, file)} on average over"
        f" {len(one.digests)} of the {of_all} plans of its front.",
        detail,
    )


def _areas(one: Matched) -> str:
    return f"Hypervolume minus the other's: {interval(one.hypervolume_difference)}."


def _points(mean: Estimate, file: PolicyFile) -> str:
    if file.setting.quality == "accuracy":
        scaled = Estimate(
            value=100 * mean.value, low=100 * mean.low, high=100 * mean.high, n=mean.n
        )
        return f"{interval(scaled)} percentage points"
    return f"{interval(mean)} nats per token"


def _quality(file: PolicyFile, estimates: dict[str, Estimate]) -> str:
    name = {"accuracy": "accuracy", "gen_ppl": "gen_ppl", "duel": "duel_nll"}[file.setting.quality]
    words = {"accuracy": "accuracy", "gen_ppl": "Gen-PPL", "duel": "-log p per token"}
    found = f"{words[file.setting.quality]} {interval(estimates[name])}"
    if file.setting.quality == "gen_ppl":  # never without entropy
        found += f", entropy {interval(estimates['entropy'])}"
    return found


def all_of(file: PolicyFile) -> list[Finding | None]:
    """All statements that the file allows."""
    found: list[Finding | None] = [pick(file, name) for name in ("best", "knee")]
    return found + [beats(one, file) for one in file.matched if one.repeat is None]

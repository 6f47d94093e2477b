"""The report's sections on a joint search over guidance and allocation."""

from __future__ import annotations

from schedlab.report import control_tables as tables
from schedlab.report.captions import asked_for
from schedlab.report.content import Block, KeyNumber, Paragraph, Section
from schedlab.report.control_plans import (
    Measured,
    kind,
    own_ideas,
    picked,
    ppl_of,
    reference,
    scale_words,
    scaled,
)
from schedlab.report.control_texts import samples, trajectory
from schedlab.report.figures import control as figures
from schedlab.report.figures import control_steps
from schedlab.report.figures.control_importance import importances
from schedlab.report.findings.control import price_words
from schedlab.report.run_data import RunData
from schedlab.report.words import interval, listing, number, one_line
from schedlab.results.control_file import OBJECTIVE_NAMES, ControlFile

PAPER = "arXiv 2510.26200"
CONSTRAINTS = {
    "max_ppl_ratio": "Gen-PPL at most {} times the reference's",
    "max_entropy_drop": "entropy at most {} nats below the reference's",
    "min_distinct_3": "distinct-3 at least {}",
    "max_cost": "cost at most {} times the reference's",
}
WORDS = (
    (
        "guidance, lambda",
        "gradient steps of a classifier, the guide, on the denoiser's logits; lambda is their"
        " size",
    ),
    (
        "control, judge",
        "share of texts that have what was asked for in the eyes of a classifier that did not"
        " guide, the judge; higher is better",
    ),
    ("base rate", "control of the unguided reference: what guidance has to beat"),
    (
        "t_i, allocation",
        "noise level of token i at a step of common level t; an allocation policy sets it",
    ),
    (
        "noise-matched constant",
        "gives every token the mean level of an allocation policy: as much noise, nothing told"
        " apart",
    ),
    ("key tokens", "tokens at which the gradient of the guides is largest"),
)


def sections(run: RunData) -> list[Section]:
    """All there is to say; none where this was not searched."""
    file = run.control
    if file is None:
        return []
    found = [
        _section(
            "control",
            "Guidance: control against quality and cost",
            [
                Paragraph(_introduction(file)),
                figures.plane(run),
                figures.against_lambda(run),
                tables.plans(file),
                tables.quality(file),
                tables.opinions(file),
                tables.by_label(file),
                importances(run),
            ],
        ),
        _section(
            "clocks-and-edits",
            "Step by step: clocks of tokens, and what becomes of edits",
            [
                control_steps.maps(run),
                control_steps.stability(run),
                tables.summaries(file),
                *(trajectory(file, place, trace) for place, trace in enumerate(file.traces)),
            ],
        ),
        _section("guided-samples", "What the guided texts look like", [samples(run, file)]),
    ]
    return [section for section in found if section.blocks]


def key_numbers(file: ControlFile) -> list[KeyNumber]:
    """The picks and the base rate, on fresh sequences."""
    found = []
    for pick, words in (("best", "Best of the search"), ("knee", "Knee of the front")):
        if (own := picked(file, pick)) is not None:
            label = f"{words}: {kind(own.plan.policy)}, lambda {scale_words(own.scale)}"
            found.append(_key_number(label, own, price_words(own)))
    if (base := reference(file)) is not None:
        ppl = ppl_of(base)
        entropy = base.fresh.estimates.get("entropy")
        beside = [] if ppl is None else [f"Gen-PPL {interval(ppl)}"]
        beside += [] if entropy is None else [f"entropy {interval(entropy)}"]
        found.append(_key_number("Base rate: the same sampler without guidance", base, beside))
    return found


def provenance(file: ControlFile) -> list[tuple[str, str]]:
    """Rows of the provenance table."""
    setting = file.setting
    return [
        ("control: asked for", asked_for(file)),
        ("control: judges", ", ".join(setting.judges)),
        ("control: seed", f"{setting.seed}, {setting.num_sequences} sequences per plan"),
        ("control: fresh seed", f"{setting.fresh_seed}, {setting.fresh_sequences} per plan"),
        ("control: seed blocks", f"{setting.block_size} sequences each"),
        ("control: proposals", f"{setting.trials} beyond the sweeps, sampler {setting.sampler}"),
        ("control: reference", setting.reference),
        *((f"pick: {name}", digest) for name, digest in sorted(file.picks.items())),
    ]


def _key_number(label: str, one: Measured, beside: list[str]) -> KeyNumber:
    text, _, ends = interval(scaled(one.fresh.control, 100.0)).partition(" ")
    return KeyNumber(label, f"{text} % control", "; ".join([ends, *beside]))


def _introduction(file: ControlFile) -> str:
    setting = file.setting
    objectives = [OBJECTIVE_NAMES.get(name, one_line(name)) for name in setting.objectives]
    limits = [
        CONSTRAINTS[name].format(number(value))
        if name in CONSTRAINTS
        else f"{one_line(name)} {number(value)}"
        for name, value in setting.constraints.items()
    ]
    ideas = own_ideas(file, [row.plan for row in file.rows])
    return (
        f"Asked for: {asked_for(file)}. A guide pushes the denoiser's logits by its gradient,"
        " lambda times and several iterations a step; an allocation policy gives every token a"
        " noise level t_i of its own. Whether a text has what was asked for is said by judge"
        f" '{one_line(setting.judge)}', which did not guide. The reference is the same sampler"
        f" unguided, {setting.num_steps} steps of the heavy denoiser, on the same random numbers."
        f" {len(file.rows)} plans were sampled: the reference, sweeps of lambda, and"
        f" {setting.trials} proposals. Losses: {listing(objectives)}. Constraints:"
        f" {f'{listing(limits)}; values must hold them, not intervals' if limits else 'none'}."
        f" Hypervolume of the front: {number(file.hypervolume)}, on the search's sequences,"
        " comparable only with searches of the same losses, reference, most steps and iterations."
        " Guidance, its gradients"
        f" as a signal and the allocation rules are TTA's ({PAPER}), where they are of simplex"
        " models."
        + (f" schedlab's own here: {listing(ideas)}." if ideas else "")
        + " One training seed per denoiser, guide and judge: intervals cover sequences, neither"
        " training nor the luck of the search."
    )


def _section(name: str, title: str, blocks: list[Block | None]) -> Section:
    return Section(name, title, tuple(block for block in blocks if block is not None))

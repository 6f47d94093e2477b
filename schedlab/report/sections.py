"""From a run folder's data to a report: which sections there are, and what stands in them."""

from __future__ import annotations

from schedlab.report import control_sections, policy_sections, tables
from schedlab.report.captions import as_analysed, search_facts
from schedlab.report.content import (
    Block,
    Cell,
    Code,
    Column,
    Findings,
    KeyNumber,
    KeyNumbers,
    Legend,
    Paragraph,
    Report,
    SampleColumn,
    Samples,
    Section,
    Strip,
    Table,
)
from schedlab.report.figures import curves, front, schedules, steps
from schedlab.report.findings import findings
from schedlab.report.run_data import RunData
from schedlab.report.words import (
    change,
    interval,
    number,
    one_line,
    percent,
    sample,
    visible,
    without_folders,
)
from schedlab.results.importance_file import ImportanceFile
from schedlab.results.search_file import FreshRow, SearchFile

SAMPLE_REASONS = ("all_heavy", "best", "knee", "all_light")
SAMPLES_SHOWN = 4
LONGEST_SAMPLE = 4000  # characters


def report(run: RunData) -> Report:
    """Everything a run folder has to say."""
    sections = [
        _summary(run),
        *_importance(run),
        *_search(run),
        *policy_sections.sections(run),
        *control_sections.sections(run),
        _words(run),
        _provenance(run),
    ]
    return Report(
        title=_title(run),
        subtitle=_subtitle(run),
        sections=tuple(section for section in sections if section.blocks),
    )


def _title(run: RunData) -> str:
    about_schedules = run.search is not None or run.importance is not None
    if run.policies is not None and not about_schedules:
        return "Which tokens should be committed when?"
    if run.control is not None and not about_schedules:
        return "How hard should guidance push, and where?"
    return "Which denoising steps need the large model?"


def _subtitle(run: RunData) -> str:
    parts = [f"schedlab report on the run '{one_line(run.name, max_length=80)}'"]
    if run.search is not None:
        parts.append(
            f"{len(run.search.rows)} schedules of {run.search.setting.num_steps} steps, sampled"
        )
    if run.importance is not None:
        parts.append(f"{run.importance.setting.num_sequences} held-out texts analyzed")
    if run.policies is not None:
        names = {row.curve.policy for row in run.policies.rows}
        how = "scored on held-out text" if run.policies.setting.quality == "duel" else "sampled"
        parts.append(f"{len(run.policies.rows)} plans of {len(names)} policies, {how}")
    if run.control is not None:
        parts.append(f"{len(run.control.rows)} plans of guided sampling, judged")
    return "; ".join(parts)


def _summary(run: RunData) -> Section:
    blocks: list[Block | None] = [
        _key_numbers(run),
        _legend(run),
        Findings(findings(run)),
        _missing(run),
        _samples_behind(run),
        Paragraph(
            "'Yes' and 'no' are said only where 95 % intervals prove it; 'not significant' means"
            " that this run cannot tell. Statements are derived from the numbers by fixed rules,"
            f" and nothing corrects for looking at many. {_papers(run)}"
        ),
    ]
    return _section("summary", "What this run shows", blocks)


def _papers(run: RunData) -> str:
    """Which paper is meant where one is spoken of."""
    schedules = (
        "'The paper' is 'Not All Denoising Steps Are Equal' (arXiv 2604.02340), whose models, text"
        " and scorer were others."
    )
    if run.control is None:
        return schedules
    guidance = (
        f"{{}} TTA, 'Token Timestep Allocation' ({control_sections.PAPER}), whose models, texts,"
        " classifiers and scorer were others."
    )
    if run.search is None and run.importance is None and run.policies is None:
        return guidance.format("'The paper' is")
    return f"{schedules} {guidance.format('In the part on guidance it is')}"


def _samples_behind(run: RunData) -> Paragraph | None:
    """n and seeds of the statements above; figures and tables repeat their own."""
    if run.search is None:
        return None
    setting = run.search.setting
    return Paragraph(
        f"Schedules were compared on {setting.num_sequences} sequences of seed {setting.seed}, and"
        f" chosen by that; what was chosen was measured again on {setting.fresh_sequences}"
        f" sequences of seed {setting.fresh_seed}. So the best one of the search need not be the"
        " best on fresh seeds, but only fresh figures say what it is worth."
    )


def _importance(run: RunData) -> list[Section]:
    if run.importance is None:
        return []
    file = run.importance
    curves_section = _section(
        "importance",
        "Where the denoisers differ",
        [
            Paragraph(
                "Every denoiser predicts the same noisy texts at the same noise levels. Sampling"
                " runs from noise (t = 1, left) to text (t = 0, right), so the curves read in the"
                " order of the steps."
            ),
            tables.denoisers(run),
            curves.cross_entropy(run),
            curves.loss_gap(run),
            curves.divergences(run),
            curves.relative_kl(run),
            curves.with_prefix(run),
        ],
    )
    lights = dict.fromkeys((run.main_light, *file.setting.lights))
    bounds = _section(
        "bounds",
        "What a light step costs in theory",
        [
            Paragraph(
                "A sampler that uses another denoiser at every step is itself a model with a bound"
                " on its likelihood, and that bound is a sum over steps. So is the KL divergence"
                " from the all-heavy trajectories. Both score schedules before any is sampled."
            ),
            *(steps.step_scores(run, light) for light in lights if light),
            _path_kl_note(file),
            steps.propagation(run),
        ],
    )
    return [curves_section, bounds]


def _path_kl_note(file: ImportanceFile) -> Paragraph | None:
    if not file.step_scores:
        return None
    return Paragraph(
        "Both bounds hold at temperature 1 and top-p 1. Truncated sampling (top-p below 1) makes"
        " the path KL infinite, since the denoisers' supports then differ."
    )


def _search(run: RunData) -> list[Section]:
    if run.search is None:
        return []
    file = run.search
    return [
        _section(
            "schedules",
            "What schedules do when sampled",
            [
                Paragraph(
                    "Every schedule was run with the same random numbers, so differences between"
                    " schedules are paired: look at their intervals rather than at those of the"
                    " perplexities themselves. " + _decoding(file)
                ),
                schedules.handmade(run),
                tables.handmade(run),
                schedules.extremes(run),
                schedules.influence(run),
            ],
        ),
        _section(
            "front",
            "Quality against cost",
            [
                Paragraph(
                    f"{_forwards(file)} The paper counts blocks only, with a forward at every"
                    " step: the cost table shows both, and what was counted."
                ),
                _race(file),
                front.pareto(run),
                tables.front(run),
                tables.costs(run),
                schedules.remeasured(run),
                _hypervolume(file),
                front.additive(run),
                tables.all_schedules(run),
            ],
        ),
        _section("samples", "What the texts look like", [_samples(run, file)]),
    ]


def _race(file: SearchFile) -> Paragraph | None:
    """How schedules were raced, and what the drops are worth."""
    race = file.race
    if race is None:
        return None
    looks = ", ".join(f"{look.plans} on {look.sequences}" for look in race.looks)
    return Paragraph(
        f"Schedules were raced. Measured were {looks} sequences; after each look but the last a"
        " schedule was dropped when one that costs no more was better with confidence (paired,"
        f" over all {race.comparisons:,} comparisons and all looks together). The probability that"
        f" any schedule of the true front was dropped is at most {percent(race.error)}. Sampled"
        f" were {race.sequences:,} sequences instead of {race.sequences_without:,}. What was"
        " dropped is shown with what it was measured on, and belongs to no front."
    )


def _decoding(file: SearchFile) -> str:
    setting = file.setting
    if as_analysed(setting):
        return ""
    return (
        f"Sampled at temperature {setting.temperature:g} and top-p {setting.top_p:g}, policy"
        f" {one_line(str(setting.policy))}: the additive bounds, which hold for ancestral sampling"
        " at 1 and 1, are only a heuristic here."
    )


def _hypervolume(file: SearchFile) -> Paragraph:
    volume = file.hypervolume
    families = "; ".join(
        f"{family} alone {number(value)}" for family, value in sorted(volume.by_family.items())
    )
    log_ppl, cost = file.setting.reference_point
    return Paragraph(
        f"Hypervolume of the front (larger is better): {number(volume.value)}"
        f"{'; ' if families else ''}{families}. Reference point: log Gen-PPL {number(log_ppl)} and"
        f" {number(cost)} times the cost of all heavy; search seeds, no interval."
    )


def _key_numbers(run: RunData) -> KeyNumbers | None:
    items: list[KeyNumber] = []
    if run.policies is not None:
        items += policy_sections.key_numbers(run.policies)
    if run.control is not None:
        items += control_sections.key_numbers(run.control)
    if run.search is not None:
        for pick, words in (("best", "Best of the search"), ("knee", "Knee of the front")):
            digest = run.search.picks.get(pick)
            if digest is not None:
                items.append(_pick_number(run, digest, words))
    if run.importance is not None:
        for item in run.importance.significance:
            if item.light == run.main_light and item.metric == "loss_gap" and not item.prefix:
                text, _, ends = interval(item.mean_gap).partition(" ")
                items.append(
                    KeyNumber(
                        f"NELBO of {item.light} minus {run.importance.setting.heavy}",
                        f"{text} nats",
                        f"per token {ends}, {'' if item.significant else 'not '}significant",
                    )
                )
    return KeyNumbers(tuple(items)) if items else None


def _pick_number(run: RunData, digest: str, words: str) -> KeyNumber:
    assert run.search is not None
    row = run.search.row(digest)
    fresh = run.search.fresh_row(digest)
    cell = tables.schedule_cell(row.schedule, run.roles, str(row.schedule))
    judged = fresh or row
    seeds = f"{'fresh' if fresh is not None else 'search'} seeds, n = {judged.paired_log_ppl.n}"
    return KeyNumber(
        f"{words}: {cell.text}",
        f"{percent(row.cost.saved_total)} FLOPs saved",
        f"Gen-PPL {change(judged.paired_log_ppl)} ({seeds})",
        strip=cell.strip,
    )


def _legend(run: RunData) -> Legend:
    roles = run.roles
    return Legend(
        tuple((role, roles.descriptions.get(role, ""), roles.colour(role)) for role in roles.order)
    )


def _missing(run: RunData) -> Paragraph | None:
    if run.policies is not None or run.control is not None:
        return None
    if run.search is None:
        return Paragraph("This run holds an analysis only; nothing was searched.")
    if run.importance is None:
        return Paragraph("This run holds a search only; nothing was analyzed.")
    return None


def _samples(run: RunData, file: SearchFile) -> Samples | None:
    """Samples of the plans a reader wants to compare, each plan once."""
    chosen: dict[str, FreshRow] = {}
    for reason in SAMPLE_REASONS:
        for row in file.fresh:
            if reason in row.why and row.samples:
                chosen.setdefault(row.digest, row)
    if not chosen:
        return None
    return Samples(
        name="texts",
        title="Samples beside each other",
        caption="Texts in a row share all random numbers; differences are the schedule's doing."
        " First samples of the fresh seeds, not selected. " + search_facts(file, fresh=True),
        columns=tuple(
            SampleColumn(
                heading=", ".join(schedules.reasons(row.why)),
                strip=Strip(
                    one_line(str(row.schedule), max_length=200),
                    tuple((r, n, run.roles.colour(r)) for r, n in row.schedule.segments),
                ),
                facts=f"{one_line(str(row.schedule), max_length=48)}; Gen-PPL"
                f" {number(row.estimates['gen_ppl'].value)}, entropy"
                f" {number(row.estimates['entropy'].value)}",
                texts=tuple(
                    sample(text, max_length=LONGEST_SAMPLE) for text in row.samples[:SAMPLES_SHOWN]
                ),
            )
            for row in chosen.values()
        ),
    )


def _forwards(file: SearchFile) -> str:
    """Which forwards a sampler of the process makes."""
    if file.setting.process != "masked":
        return "Every step moves all positions: each needs a forward, and the head everywhere."
    return (
        "A step that reveals nothing in a sequence needs no forward, and the head runs only where"
        " a token is drawn; savings here are those of such a sampler, on average over its idle"
        " steps."
    )


WORDS = (
    (
        "denoiser",
        "a network that predicts the tokens of a noisy text; heavy is the large one",
    ),
    (
        "t, step",
        "noise level, 1 is noise alone, 0 is text; a step goes from one level to the next",
    ),
    (
        "schedule",
        "which denoiser runs at which step: L5 H40 L5 is 5 light, 40 heavy, 5 light steps",
    ),
    ("segment", "one of the equal pieces of the trajectory, numbered from the noisy end"),
    ("NELBO", "upper bound on the negative log-likelihood of held-out text; lower is better"),
    (
        "loss gap",
        "cross-entropy of the light denoiser minus that of the heavy one, same noisy text",
    ),
    (
        "path KL",
        "divergence of the schedule's trajectories from the all-heavy ones; bounds that of"
        " the texts",
    ),
    (
        "Gen-PPL",
        "perplexity of generated text under another language model, the scorer; lower is"
        " better, but repetitive text is low too",
    ),
    ("entropy", "of the tokens within one sample; guards against repetitive text"),
    ("paired", "both runs used the same random numbers, so their difference has less noise"),
    ("fresh seeds", "random numbers that no choice of a schedule depended on"),
    (
        "front, knee",
        "schedules that no other beats in quality and cost; the knee is where it bends",
    ),
)


def _words(run: RunData) -> Section:
    words = WORDS if run.control is None else WORDS + control_sections.WORDS
    return _section(
        "words",
        "Words used here",
        [
            Table(
                name="words-table",
                title="Words",
                caption="In the sense of this report.",
                columns=(Column("word"), Column("meaning")),
                rows=tuple((Cell(word), Cell(meaning)) for word, meaning in words),
            )
        ],
    )


def _provenance(run: RunData) -> Section:
    rows: list[tuple[str, str]] = []
    if run.environment is not None:
        env = run.environment
        rows += [
            ("schedlab", env.schedlab),
            ("Python", env.python),
            ("platform", env.platform),
            ("device", f"{env.device}, {env.threads} threads" if env.threads else env.device),
            ("precision", env.precision),
            *((name, version) for name, version in sorted(env.packages.items())),
            *(
                (
                    f"denoiser {role}",
                    f"{ref.location}, {ref.num_blocks} blocks, sha256 {ref.sha256}",
                )
                for role, ref in env.denoisers.items()
            ),
            ("tokenizer", f"{env.tokenizer.location}, sha256 {env.tokenizer.sha256}"),
        ]
        if env.scorer is not None:
            rows.append(("scorer", f"{env.scorer.location}, sha256 {env.scorer.sha256}"))
        if env.corpus is not None:
            rows.append(("corpus", f"{env.corpus.source}, fingerprint {env.corpus.fingerprint}"))
        rows += [
            (f"{kind} {name}", f"{ref.location}, sha256 {ref.sha256}")
            for kind, known in (("classifier", env.classifiers), ("judge", env.judges))
            for name, ref in sorted(known.items())
        ]
        rows += sorted(env.notes.items())
    if run.importance is not None:
        setting = run.importance.setting
        rows += [
            ("analysis: corpus fingerprint", setting.corpus_fingerprint),
            ("analysis: seed", str(setting.seed)),
            ("analysis: windows", f"{setting.num_sequences} of {setting.length} tokens"),
            ("analysis: noise levels", str(setting.levels)),
            ("analysis: bootstrap resamples", str(setting.bootstrap_resamples)),
        ]
    if run.search is not None:
        found = run.search.setting
        rows += [
            ("search: corpus fingerprint", found.corpus_fingerprint),
            ("search: seed", f"{found.seed}, {found.num_sequences} sequences per schedule"),
            ("search: fresh seed", f"{found.fresh_seed}, {found.fresh_sequences} per schedule"),
            ("search: seed blocks", f"{found.block_size} sequences each"),
            *((f"pick: {name}", digest) for name, digest in sorted(run.search.picks.items())),
        ]
    if run.policies is not None:
        rows += policy_sections.provenance(run.policies)
    if run.control is not None:
        rows += control_sections.provenance(run.control)
    rows += [(f"sha256 of {name}", digest) for name, digest in sorted(run.digests.items())]
    return _section(
        "provenance",
        "Provenance",
        [
            Table(
                name="provenance-table",
                title="What this report was made from",
                caption="The report reads these files only and can be rebuilt from them anywhere."
                " Absolute paths are cut to their last part.",
                columns=(Column("what"), Column("value")),
                rows=tuple(
                    (Cell(one_line(k)), Cell(visible(without_folders(v), max_length=600)))
                    for k, v in rows
                ),
            ),
            Code("The job", visible(without_folders(run.job))) if run.job is not None else None,
        ],
    )


def _section(name: str, title: str, blocks: list[Block | None]) -> Section:
    return Section(name, title, tuple(block for block in blocks if block is not None))

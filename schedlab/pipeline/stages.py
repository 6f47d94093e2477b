"""The stages of a run: analyze, search, report, export. Each works on the files of the folder."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import platform
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Literal, cast

import torch

import schedlab
from schedlab import hub
from schedlab.classifiers import Classifier
from schedlab.denoisers.base import Denoiser
from schedlab.denoisers.cost import forward_flops
from schedlab.deploy import export
from schedlab.deploy.runtime import run_plan
from schedlab.errors import InputError
from schedlab.evaluation.evaluate import check_plan
from schedlab.evaluation.evaluator import Evaluator
from schedlab.evaluation.lab import Lab, build_lab
from schedlab.evaluation.prompts import Given, HeldOut, Prompts
from schedlab.files import canonical_json, write_atomic
from schedlab.importance import analyze
from schedlab.job import Job
from schedlab.metrics.relative_seconds import relative_seconds
from schedlab.pipeline.progress import Reporter
from schedlab.pipeline.run_folder import (
    CONTROL,
    DATABASE,
    ENVIRONMENT,
    IMPORTANCE,
    PLAN,
    POLICIES,
    SAMPLES,
    SEARCH,
    RunFolder,
    Stage,
)
from schedlab.pipeline.threads import choose_threads
from schedlab.pipeline.workers import ParallelEvaluator
from schedlab.plan.plan import DenoiserRef, FileRef
from schedlab.policies import check_policy, default_parameters
from schedlab.report import build_report
from schedlab.results import Store
from schedlab.results.environment_file import (
    CorpusRef,
    EnvironmentFile,
    machine,
    package_versions,
)
from schedlab.results.importance_file import ImportanceFile
from schedlab.sampling.compiled import Compiled
from schedlab.search.additive import StepCosts, step_costs
from schedlab.search.bench import Bench
from schedlab.search.control import ControlContext, search_control
from schedlab.search.control import first_plans as first_control_plans
from schedlab.search.policies import first_plans, search_policies
from schedlab.search.policy_board import PolicyContext
from schedlab.search.proposals import propose
from schedlab.search.run import Context, search
from schedlab.tasks import Task, load_task
from schedlab.tasks.rows import encode_prompts
from schedlab.text.corpora import Corpus, load_corpus
from schedlab.text.tokenizer import Tokenizer
from schedlab.text.windows import Windows, held_out_windows

log = logging.getLogger(__name__)

MAX_WORKERS = 8


@dataclasses.dataclass
class Run:
    """A job with what it names, loaded when first needed."""

    job: Job
    folder: RunFolder
    reporter: Reporter

    @cached_property
    def lab(self) -> Lab:
        """Denoisers, scorer and the rest; what the folder was begun with, or refused."""
        check_policy(self.job.plan.policy)
        self.reporter.stage("loading models")
        lab = build_lab(self.job.lab)
        check_unchanged(lab, self.folder)
        if lab.device_kind == "cpu":
            choose_threads(lab.denoisers[self.job.plan.heavy], self.job.plan.length)
        return lab

    @cached_property
    def corpus(self) -> Corpus:
        """Held-out text."""
        self.reporter.stage("loading text")
        return load_corpus(self.job.corpus.source)

    def windows(self, num: int) -> Windows:
        """Held-out windows; more of them keep the fewer."""
        return held_out_windows(
            self.corpus,
            self.tokenizer,
            split=self.job.corpus.split,
            length=self.job.plan.length,
            num=num,
            seed=self.job.job.seed,
        )

    @property
    def needs_corpus(self) -> bool:
        """Whether anything of the job reads text."""
        job = self.job
        if job.control is not None:
            return job.search.prefix_length > 0
        if job.policies is not None:
            is_duel = job.policies.quality == "duel"
            return job.task is None and (is_duel or job.search.prefix_length > 0)
        return job.search.additive or job.search.prefix_length > 0

    @cached_property
    def prompts(self) -> Given | None:
        """What sequences of the search and of the measurements on fresh seeds are given, each
        prefix, item of a task or text used once."""
        job, length = self.job, self.job.search.prefix_length
        blocks = (*job.blocks(), *job.fresh_blocks())
        number = max(block.first + block.size for block in blocks)
        if job.task is not None:
            return self._task_prompts(load_task(job.task, number))
        if job.policies is not None and job.policies.quality == "duel":
            return HeldOut(self.windows(number).tokens_SL, length)
        return Prompts.of(self.windows(number).tokens_SL[:, :length]) if length else None

    def _task_prompts(self, task: Task) -> Prompts:
        tokens = encode_prompts(task.items, self.tokenizer, where=f"task {task.name}")
        if tokens.tokens_NP.shape[1] >= self.job.plan.length:
            raise InputError(
                f"task {task.name}: a prompt has {tokens.tokens_NP.shape[1]} tokens; raise"
                f" plan.length {self.job.plan.length}, which holds prompt and answer"
            )
        return Prompts.of(tokens.tokens_NP, task, tokens.padding_N)

    @property
    def tokenizer(self) -> Tokenizer:
        """The lab's tokenizer."""
        spec = next(iter(self.lab.denoisers.values())).spec
        return Tokenizer.for_model(self.job.lab.tokenizer, spec.vocab_size, spec.mask_id)

    @property
    def num_workers(self) -> int:
        """Processes that sample."""
        if self.job.search.workers is not None:
            return self.job.search.workers
        if self.lab.device_kind != "cpu":
            return 1
        return min(MAX_WORKERS, len(os.sched_getaffinity(0)))

    def evaluator(self) -> ParallelEvaluator:
        """Runs plans and stores what they give."""
        local = Evaluator(
            self.lab,
            Store(self.folder.path),
            prompts=self.prompts,
            progress=self.reporter.update,
        )
        return ParallelEvaluator(local, self.job.lab, self.num_workers)


def analyze_stage(run: Run) -> None:
    """Write `importance.json` and `importance.npz`."""
    job = run.job
    if run.folder.is_done("analyze", job) and (run.folder / IMPORTANCE).exists():
        return
    windows = run.windows(job.analyze.num_windows)
    write_environment(run, with_corpus=True)
    what = [""]

    def progress(name: str, done: int, total: int) -> None:
        if name != what[0]:
            what[0] = name
            run.reporter.stage(f"importance: {name}")
        run.reporter.update(done, total)

    result = analyze(
        run.lab,
        windows,
        job.importance_config(),
        progress,
        corpus_fingerprint=run.corpus.fingerprint,
    )
    result.write(run.folder.path)
    run.folder.mark_done("analyze", job)


def search_stage(run: Run) -> None:
    """Write `search.json`."""
    job, folder = run.job, run.folder
    if folder.is_done("search", job) and (folder / SEARCH).exists():
        return
    costs = _costs(run)
    write_environment(run, with_corpus=run.needs_corpus)
    lab = run.lab
    with contextlib.closing(run.evaluator()) as evaluator:
        proposals = propose(job, costs, Bench(job, evaluator).step_share())
        folder.expect((len(proposals) + job.search.trials) * len(job.blocks()))
        file = search(
            job,
            evaluator,
            Context(
                scorer=lab.scorer_name,
                precision=lab.precision,
                corpus_fingerprint=run.corpus.fingerprint if run.needs_corpus else "",
                fingerprint=canonical_json(
                    lab.context() | ({"prompts": run.prompts.digest} if run.prompts else {})
                ),
            ),
            costs=costs,
            database=folder / DATABASE if job.search.trials else None,
            stage=run.reporter.stage,
        )
    file.write(folder / SEARCH)
    folder.mark_done("search", job)


def policies_stage(run: Run) -> None:
    """Write `policies.json`."""
    job, folder = run.job, run.folder
    if folder.is_done("policies", job) and (folder / POLICIES).exists():
        return
    assert job.policies is not None, "a search over policies"
    table, lab, prompts = job.policies, run.lab, run.prompts
    write_environment(run, with_corpus=run.needs_corpus)
    known = len(table.names) * table.points + len(table.tuned) * table.repeats * table.trials
    folder.expect(known * len(job.blocks()))
    prefix_length = prompts.prefix_length if prompts is not None else 0
    for plan in first_plans(job, prefix_length):
        check_plan(plan, lab, prompts)
    with contextlib.closing(run.evaluator()) as evaluator:
        file = search_policies(
            job,
            evaluator,
            PolicyContext(
                prefix_length=prefix_length,
                defaults={name: default_parameters(name) for name in table.tuned},
                task=prompts.task.name if isinstance(prompts, Prompts) and prompts.task else "",
                scorer=lab.scorer_name,
                precision=lab.precision,
                fingerprint=canonical_json(
                    lab.context() | ({"prompts": prompts.digest} if prompts else {})
                ),
                folder=folder.path,
            ),
            stage=run.reporter.stage,
        )
    file.write(folder / POLICIES)
    folder.mark_done("policies", job)


def control_stage(run: Run) -> None:
    """Write `control.json`."""
    job, folder = run.job, run.folder
    if folder.is_done("control", job) and (folder / CONTROL).exists():
        return
    assert job.control is not None, "a joint search"
    table, lab, prompts = job.control, run.lab, run.prompts
    write_environment(run, with_corpus=run.needs_corpus)
    plans = first_control_plans(job)
    folder.expect((len(plans) + table.trials) * len(job.blocks()))
    for plan in plans:
        check_plan(plan, lab, prompts)
    with contextlib.closing(run.evaluator()) as evaluator:
        file = search_control(
            job,
            evaluator,
            ControlContext(
                labels={name: guide.labels for name, guide in lab.guides.items()},
                judges={name: judge.labels for name, judge in lab.judges.items()},
                prefix_length=prompts.prefix_length if prompts is not None else 0,
                scorer=lab.scorer_name,
                precision=lab.precision,
                fingerprint=canonical_json(
                    lab.context() | ({"prompts": prompts.digest} if prompts else {})
                ),
                database=folder / DATABASE,
            ),
            stage=run.reporter.stage,
        )
        if prompts is None and file.picks:
            run.reporter.stage("timing the picked plan beside an autoregressive model")
            plan = file.row(next(iter(file.picks.values()))).plan
            ratio = relative_seconds(
                plan,
                lab.denoisers,
                lab.process,
                guides=lab.guides,
                device=lab.device,
                precision=lab.precision,
            )
            file = file.model_copy(update={"autoregressive": ratio})
    file.write(folder / CONTROL)
    folder.mark_done("control", job)


def report_stage(run: Run) -> None:
    """Write `report.html` and `report.pdf`."""
    run.reporter.stage("report")
    paths = build_report(run.folder.path)
    if paths.problem:
        log.warning("no PDF: %s", paths.problem)


def export_stage(run: Run) -> None:
    """Write `plan.json` and `samples.txt`, generated from it."""
    run.reporter.stage("export")
    plan_file = export(run.folder.path, run.job.output.pick)
    plan_file.write(run.folder / PLAN)
    if number := run.job.output.samples:
        # By the runtime that users call, from the file: what is exported is what is sampled.
        device = run.job.lab.device
        texts = run_plan(run.folder / PLAN, number, seed=run.job.job.seed, device=device)
        parts = [f"--- sample {j}\n{text}\n" for j, text in enumerate(texts)]
        write_atomic(run.folder / SAMPLES, "\n".join(parts))


STAGES: dict[Stage, Callable[[Run], None]] = {
    "analyze": analyze_stage,
    "search": search_stage,
    "policies": policies_stage,
    "control": control_stage,
    "report": report_stage,
    "export": export_stage,
}


def write_environment(run: Run, *, with_corpus: bool) -> None:
    """Write `environment.json`; a corpus that was noted before stays."""
    lab, config, path = run.lab, run.job.lab, run.folder / ENVIRONMENT
    corpus = EnvironmentFile.read(path).corpus if path.exists() else None
    if with_corpus:
        corpus = CorpusRef(source=run.corpus.source, fingerprint=run.corpus.fingerprint)
    on_gpu = lab.device_kind == "cuda"
    EnvironmentFile(
        schedlab=schedlab.__version__,
        python=platform.python_version(),
        platform=machine(),
        packages=package_versions(),
        device=torch.cuda.get_device_name(lab.device) if on_gpu else "cpu",
        threads=torch.get_num_threads(),
        precision=cast(Literal["float32", "bfloat16", "float64"], lab.precision),
        denoisers={
            role: DenoiserRef(
                location=hub.pinned(config.denoisers[role]),
                sha256=denoiser.fingerprint,
                num_blocks=denoiser.spec.num_blocks,
                num_parameters=_num_parameters(denoiser),
                flops_per_forward=forward_flops(denoiser.spec, run.job.plan.length),
            )
            for role, denoiser in lab.denoisers.items()
        },
        tokenizer=FileRef(
            location=hub.pinned(config.tokenizer, files=hub.TOKENIZER_FILES),
            sha256=lab.tokenizer.fingerprint,
        ),
        scorer=None
        if lab.scorer is None
        else FileRef(location=lab.scorer.name, sha256=lab.scorer.fingerprint),
        classifiers=_classifier_refs(lab.guides, config.classifiers),
        judges=_classifier_refs(lab.judges, config.judges),
        corpus=corpus,
    ).write(path)


def _classifier_refs(
    found: Mapping[str, Classifier], locations: Mapping[str, str]
) -> dict[str, FileRef]:
    return {
        name: FileRef(location=hub.pinned(locations[name]), sha256=model.fingerprint)
        for name, model in found.items()
    }


def check_unchanged(lab: Lab, folder: RunFolder) -> None:
    """Refuse models other than those the folder was begun with.

    Raises:
        InputError: a fingerprint or the precision differs.
    """
    path = folder / ENVIRONMENT
    if not path.exists():
        return
    before = EnvironmentFile.read(path)
    now = {role: denoiser.fingerprint for role, denoiser in lab.denoisers.items()}
    then = {role: denoiser.sha256 for role, denoiser in before.denoisers.items()}
    pairs = [(f"denoiser {role}", then[role], now[role]) for role in now.keys() & then.keys()]
    for kind, one, models in (
        ("classifiers", "classifier", lab.guides), ("judges", "judge", lab.judges)
    ):  # fmt: skip
        stored = getattr(before, kind)
        for name in models.keys() & stored.keys():
            pairs.append((f"{one} {name!r}", stored[name].sha256, models[name].fingerprint))
    pairs.append(("the tokenizer", before.tokenizer.sha256, lab.tokenizer.fingerprint))
    pairs.append(("the precision", before.precision, lab.precision))
    if before.scorer is not None and lab.scorer is not None:
        pairs.append(("the scorer", before.scorer.sha256, lab.scorer.fingerprint))
    for what, old, new in pairs:
        if old != new:
            raise InputError(
                f"{folder.path}: begun with another {what} ({old[:12]}, now {new[:12]}); choose"
                " another folder"
            )


def _num_parameters(denoiser: Denoiser) -> int:
    """Weights of a network; tables have none."""
    network = denoiser.inner if isinstance(denoiser, Compiled) else denoiser
    if not isinstance(network, torch.nn.Module):
        return 0
    return sum(weight.numel() for weight in network.parameters())


def _costs(run: Run) -> list[StepCosts]:
    """Additive step costs of the analysis in the folder, where the job uses them.

    Raises:
        InputError: the text changed since the analysis (the embedded one follows what is
            installed).
    """
    job = run.job
    if not job.search.additive:
        return []
    importance = ImportanceFile.read(run.folder / IMPORTANCE)
    old, new = importance.setting.corpus_fingerprint, run.corpus.fingerprint
    if old != new:
        raise InputError(
            f"{run.folder.path}: analyzed on another text ({old[:12]}, now {new[:12]}); choose"
            " another folder"
        )
    lights = dict.fromkeys((job.plan.light, *job.search_roles))
    return step_costs(
        importance,
        heavy=job.plan.heavy,
        num_steps=job.plan.num_steps,
        lights=[role for role in lights if role != job.plan.heavy],
        prefix=job.search.prefix_length > 0,
    )

"""Jobs: one TOML file that says what to analyze and search, with what, and where to put it.

    [job]       name, seed
    [lab]       denoisers by role, scorer, tokenizer, precision, device
    [corpus]    source of held-out text
    [plan]      what all plans share: length, steps, decoding, heavy and light role
    [analyze]   step importance
    [search]    which schedules, how many sequences, how long
    [task]      prompts with right answers, instead of a corpus
    [policies]  which policies are compared and tuned, instead of schedules
    [control]   guidance, timestep allocation, steps and schedules tuned together
    [output]    run folder, which plan to export

Unknown keys are refused with the nearest known one. Paths are relative to the job file. Loading
a job loads no torch and touches no model.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field, field_validator, model_validator

from schedlab.errors import InputError
from schedlab.files import Record, read_toml, validate
from schedlab.plan import Decoding, ModelSchedule, Plan, PolicySpec
from schedlab.plan.grid import GRID_POLICIES
from schedlab.plan.guidance import Attribute, Guidance, Name
from schedlab.plan.importance_config import ImportanceConfig
from schedlab.plan.lab_config import LabConfig
from schedlab.plan.model_schedule import MAX_STEPS
from schedlab.plan.plan import (
    DEFAULT_SIMPLEX_VALUE,
    MAX_LENGTH,
    NoiseScheduleName,
    PolicyName,
    Role,
    Scalar,
    TimeGrid,
)
from schedlab.plan.policy_space import POLICY_SPACES
from schedlab.plan.task_config import TaskConfig
from schedlab.results.seed_block import BLOCK_SIZE, SeedBlock, seed_blocks

MODIFIERS = ("integer", "monotonic", "warm_up", "token_time")
"""Parameters that all allocation policies have and that say nothing of their rule."""
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Many = Annotated[int, Field(ge=1, le=1_000_000)]
Share = Annotated[float, Field(gt=0, le=1)]
Unit = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(ge=0, le=100)]
Roles = Annotated[list[Role], Field(min_length=1)]

# Sequences are addressed by (seed, index): what must be independent gets seeds apart.
FRESH_SEED_OFFSET = 1_000_003
ANALYSIS_SEED_OFFSET = 2_000_003
MAX_SEED = 2**62


class JobConfig(Record):
    """The `[job]` table: a name for people, and the seed of everything random."""

    name: str = "job"
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
            raise InputError(f"must be 1 to 64 letters, digits or any of . _ -, got {name[:70]!r}")
        return name


class CorpusConfig(Record):
    """The `[corpus]` table.

    Args:
        source: `embedded`, a .txt or .jsonl file (also .gz), or `hf:name[:config]:split:field`.
        split: which split the held-out text comes from; the bundled models never saw `test`.
    """

    source: Annotated[str, Field(min_length=1, max_length=4096)] = "embedded"
    split: Literal["valid", "test"] = "test"


class PlanConfig(Record):
    """The `[plan]` table: what all plans of the job share.

    Args:
        length: positions L of a sequence.
        num_steps: denoising steps T.
        heavy: role of the denoiser that is never worse.
        light: role that replaces it in hand-made, exhaustive and additive schedules.
        temperature, top_p: of the draws in sampling, 0 for the likeliest token; the analysis is
            always at 1 and 1.
        policy: which tokens are committed at a step, with its parameters; the analysis is always
            of ancestral sampling.
        process: of the denoisers.
        noise_schedule: that of the process by default: `cosine` for `simplex`, else `linear`.
        time_grid, simplex_value, last_step: see `Plan`.
        guidance: classifiers of the lab that steer the prediction.
    """

    length: Annotated[int, Field(ge=1, le=MAX_LENGTH)] = 64
    num_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 50
    heavy: Role = "H"
    light: Role = "L"
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    policy: PolicySpec = PolicySpec()
    process: Literal["masked", "uniform", "simplex"] = "masked"
    noise_schedule: NoiseScheduleName | None = None
    time_grid: TimeGrid = "uniform"
    simplex_value: Annotated[float, Field(gt=0, le=1000)] = DEFAULT_SIMPLEX_VALUE
    guidance: Guidance | None = None
    last_step: Literal["draw", "greedy"] = "draw"

    def plan(self, schedule: ModelSchedule) -> Plan:
        """The plan with this model schedule."""
        default: NoiseScheduleName = "cosine" if self.process == "simplex" else "linear"
        return Plan(
            length=self.length,
            model_schedule=schedule,
            process=self.process,
            noise_schedule=self.noise_schedule or default,
            time_grid=self.time_grid,
            decoding=Decoding(temperature=self.temperature, top_p=self.top_p),
            policy=self.policy,
            guidance=self.guidance,
            simplex_value=self.simplex_value,
            last_step=self.last_step,
        )


class AnalyzeConfig(Record):
    """The `[analyze]` table; see `ImportanceConfig` for what is not explained here.

    Args:
        num_windows: held-out pieces of text, one per document while there are enough.
        lights: roles compared with heavy; all denoisers but heavy and `heavy_b` by default.
        heavy_b: an independently trained second heavy denoiser; `Hb` by default where it exists.
    """

    num_windows: Annotated[int, Field(ge=2, le=1_000_000)] = 128
    levels: Count | None = None
    lights: Annotated[list[Role], Field(min_length=1)] | None = None
    heavy_b: Role | None = None
    states: Annotated[list[Literal["forward", "heavy_sampler"]], Field(min_length=1)] = [
        "forward",
        "heavy_sampler",
    ]
    prefix_length: Natural = 0
    sampled_sequences: Annotated[int, Field(ge=2, le=1_000_000)] = 32
    propagation_sequences: Annotated[int, Field(ge=0, le=1_000_000)] = 16
    propagation_lights: list[Role] | None = None
    bootstrap_resamples: Annotated[int, Field(ge=100, le=1_000_000)] = 2_000
    max_batch_tokens: Count = 4_096
    head_budget_bytes: Annotated[int, Field(ge=1 << 16)] = 256 << 20


class SearchConfig(Record):
    """The `[search]` table.

    Args:
        num_segments: equal segments S that assignments are made of.
        handmade: the hand-made schedules, seven at one share.
        handmade_shares: shares of light steps in the mixed ones.
        additive: for every number of light segments the best assignment by loss gap and by path
            KL; needs the analysis.
        additive_steps: numbers of light steps for which the steps are sorted one by one as well;
            by default as many as `num_light` segments have.
        exhaustive: all assignments with `num_light` light segments.
        num_light: k, or `all` for any number (2^S plans).
        trials: Optuna proposals, over `roles`; 0 for none.
        roles: what a proposal may use; heavy and light by default.
        max_cost: proposals above this share of all-heavy's FLOPs are never run.
        sampler: Optuna's; `auto` is the Gaussian process up to 300 trials and 40 segments.
        num_sequences: per plan.
        race_from: sequences of every plan before the first look of a race; plans that cannot be on
            the front are then dropped, at every doubling up to `num_sequences`. By default there
            is no race and every plan gets `num_sequences`.
        race_error: bound on the probability of dropping any plan of the true front.
        fresh_sequences: per plan measured again on fresh seeds; `num_sequences` by default.
        block_size: sequences of a stored evaluation.
        workers: processes that sample; by default one per core, and one where there is a GPU.
        prefix_length: tokens of held-out text given at the start of every sequence.
        entropy_nats, entropy_standard_errors: half width of the entropy band around all-heavy is
            the larger of the two.
        max_plans: refuse an exhaustive set beyond this.
    """

    num_segments: Count = 10
    handmade: bool = True
    handmade_shares: Annotated[list[Share], Field(min_length=1)] = [0.25]
    additive: bool = True
    additive_steps: list[Natural] | None = None
    exhaustive: bool = True
    num_light: Natural | Literal["all"] = 4
    trials: Annotated[int, Field(ge=0, le=100_000)] = 0
    roles: Annotated[list[Role], Field(min_length=1)] | None = None
    max_cost: Share | None = None
    sampler: Literal["auto", "gp", "tpe"] = "auto"
    num_sequences: Many = 64
    race_from: Annotated[int, Field(ge=16)] | None = None
    race_error: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    fresh_sequences: Many | None = None
    block_size: Many = BLOCK_SIZE
    workers: Annotated[int, Field(ge=1, le=1_024)] | None = None
    prefix_length: Natural = 0
    entropy_nats: Annotated[float, Field(ge=0)] = 0.1
    entropy_standard_errors: Annotated[float, Field(ge=0)] = 3.0
    max_plans: Count = 20_000


class PoliciesConfig(Record):
    """The `[policies]` table: a search over policies, their parameters, and what goes with them.

    How many sequences, how many fresh ones, the workers, the prefix and the entropy band are those
    of `[search]`; `[plan]` names the policy and the number of steps that all is compared with, and
    its number of steps is the most that any gets.

    Args:
        quality: `accuracy` on the job's task; `gen_ppl` of samples, whose entropy must stay in the
            band around `[plan]`'s policy; `duel`: the exact likelihood of held-out text under the
            policy, for policies that have one.
        cost: per sequence, counted to the stop: `forwards`, `block_forwards`, `flops_total` or
            `seconds`.
        names: policies whose knob is swept.
        tuned: policies whose parameters Optuna searches as well.
        points: values of a knob in a sweep.
        temperatures, top_ps, block_lengths: swept with the knob and tuned; `[plan]`'s temperature
            and top-p by default, and no blocks.
        grid_points: tune the time grid as well, as how far t falls in each of so many parts of
            the steps (2 or more), of `ancestral` and `psi` [O]; 0 leaves it as it is.
        schedules: model schedules of the sweeps, as roles of equal parts; heavy by default.
        schedule_parts: tune the model schedule as well, as roles of so many equal parts.
        roles: what these parts may be; heavy and light by default.
        trials: proposals per tuned policy and repeat, beyond the sweep's points.
        repeats: independent searches per tuned policy, by the seed of the proposals.
        sampler: Optuna's.
        most_fresh: plans of a tuned policy's front that are measured again, per repeat.
        parameters: per policy, fixed instead of swept or tuned.
    """

    quality: Literal["accuracy", "gen_ppl", "duel"] = "accuracy"
    cost: Literal["forwards", "block_forwards", "flops_total", "seconds"] = "forwards"
    names: Annotated[list[PolicyName], Field(min_length=1)] = [
        "ancestral",
        "low_confidence",
        "threshold",
        "factor",
        "entropy_bound",
        "klass",
    ]
    tuned: list[PolicyName] = ["stdd"]
    points: Annotated[int, Field(ge=1, le=1_000)] = 8
    temperatures: Annotated[list[Temperature], Field(min_length=1)] | None = None
    top_ps: Annotated[list[Share], Field(min_length=1)] | None = None
    block_lengths: Annotated[list[Natural], Field(min_length=1)] = [0]
    grid_points: Annotated[int, Field(ge=0, le=64)] = 0
    schedules: Annotated[list[Roles], Field(min_length=1)] | None = None
    schedule_parts: Natural = 0
    roles: Annotated[list[Role], Field(min_length=1)] | None = None
    trials: Annotated[int, Field(ge=0, le=100_000)] = 60
    repeats: Annotated[int, Field(ge=1, le=100)] = 1
    sampler: Literal["auto", "gp", "tpe"] = "auto"
    most_fresh: Annotated[int, Field(ge=1, le=1_000)] = 12
    parameters: dict[PolicyName, dict[str, Scalar]] = {}


ControlObjective = Literal["control", "gen_ppl", "distinct_3", "self_bleu", "cost"]


class ControlConfig(Record):
    """The `[control]` table: a joint search over guidance, timestep allocation, iterations, steps
    and the model schedule.

    How many sequences, how many fresh ones, the workers and the prefix are those of `[search]`;
    `[plan]` unguided, heavy at every step, is what costs and perplexities are compared with.

    Args:
        attributes: what texts shall have.
        judge: the judge that says whether they do; the first of `lab.judges` by default.
        objectives: what is searched for, 2 to 4: `control` (accuracy by the judge), `gen_ppl`,
            `distinct_3`, `self_bleu`, `cost`.
        cost: per sequence: `seconds`, `flops_total`, `forwards`.
        max_ppl_ratio: constraint on Gen-PPL over the reference's.
        max_entropy_drop: constraint on how far entropy may fall below the reference's, in nats per
            sequence: guided texts that repeat themselves have low Gen-PPL.
        min_distinct_3, max_cost: constraints on diversity, and on cost over the reference's.
        scales, smooth: ranges of lambda (on a log scale) and alpha_smooth.
        iterations, steps, decays, starts, ends: values that are looked at; steps default to
            `[plan]`'s.
        interval, contrast, last_step: of guidance, the same for all plans.
        names: allocation policies; `signals`, `pooled`: of those that read one.
        schedules: model schedules, as roles of equal parts; heavy by default.
        points: values of lambda in the sweeps that a search begins with, one per policy and way to
            pool it.
        trials: proposals beyond them.
        sampler: Optuna's; `auto` is the Gaussian process up to 300 trials.
        most_fresh: plans of the front that are measured again, with all sweeps.
        choice_sequences: plans that are measured again are first compared on so many sequences of
            the search's seed, and picked by that: the best of many on few sequences is mostly
            lucky. `search.num_sequences` by default.
        traced: sequences on which the picked plan's clocks and edits are recorded.
    """

    attributes: Annotated[list[Attribute], Field(min_length=1, max_length=16)]
    judge: Name | None = None
    objectives: Annotated[list[ControlObjective], Field(min_length=2, max_length=4)] = [
        "control",
        "gen_ppl",
        "cost",
    ]
    cost: Literal["seconds", "flops_total", "forwards"] = "seconds"
    max_ppl_ratio: Annotated[float, Field(gt=0)] | None = None
    max_entropy_drop: Annotated[float, Field(ge=0)] | None = None
    min_distinct_3: Annotated[float, Field(ge=0, le=1)] | None = None
    max_cost: Annotated[float, Field(gt=0)] | None = None
    scales: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (20.0, 20_000.0)
    smooth: tuple[Unit, Unit] = (0.0, 1.0)
    iterations: Annotated[list[Count], Field(min_length=1)] = [1, 2, 3]
    steps: Annotated[list[Count], Field(min_length=1)] | None = None
    decays: Annotated[list[Literal["constant", "linear", "cosine"]], Field(min_length=1)] = [
        "constant"
    ]
    starts: Annotated[list[Unit], Field(min_length=1)] = [1.0]
    ends: Annotated[list[Unit], Field(min_length=1)] = [0.0]
    interval: Count = 1
    contrast: bool = False
    last_step: bool = False
    names: Annotated[list[PolicyName], Field(min_length=1)] = ["tta_constant", "tta_adaptive"]
    signals: Annotated[
        list[Literal["gradient", "entropy", "margin", "change", "ablation"]], Field(min_length=1)
    ] = ["gradient"]
    pooled: Annotated[list[Literal["none", "t", "alpha"]], Field(min_length=1)] = ["none"]
    schedules: Annotated[list[Roles], Field(min_length=1)] | None = None
    points: Annotated[int, Field(ge=1, le=100)] = 4
    trials: Annotated[int, Field(ge=0, le=100_000)] = 80
    sampler: Literal["auto", "gp", "tpe"] = "auto"
    most_fresh: Annotated[int, Field(ge=1, le=1_000)] = 12
    choice_sequences: Many | None = None
    traced: Annotated[int, Field(ge=2, le=10_000)] = 16

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for key in ("scales", "smooth"):
            low, high = getattr(self, key)
            if low > high:
                raise InputError(f"{key} must be lowest, highest; got {low} and {high}")
        for key in (
            "objectives", "iterations", "steps", "decays", "starts", "ends", "names", "signals",
            "pooled", "schedules",
        ):  # fmt: skip
            found = getattr(self, key) or []
            if any(one in found[:n] for n, one in enumerate(found)):
                raise InputError(f"{key} names one twice: {found}; name each once")
        if wrong := [name for name in self.names if not name.startswith("tta_")]:
            raise InputError(f"names must be allocation policies (tta_...), got {wrong[0]!r}")
        if "control" not in self.objectives:
            raise InputError("objectives must hold 'control'")
        for start, end in itertools.product(self.starts, self.ends):
            for scale, iterations in itertools.product(self.scales, self.iterations):
                self._check_guidance(start, end, scale, iterations)
        return self

    def _check_guidance(self, start: float, end: float, scale: float, iterations: int) -> None:
        try:
            Guidance(
                attributes=self.attributes,
                start=start,
                end=end,
                scale=scale,
                iterations=iterations,
            )
        except pydantic.ValidationError as error:
            found = error.errors()[0]
            where = ".".join(map(str, found["loc"])) or "starts and ends"
            raise InputError(f"{where}: {found['msg'].removeprefix('Value error, ')}") from None


class OutputConfig(Record):
    """The `[output]` table.

    Args:
        folder: run folder; the command line may name another.
        pick: plan to export: `best`, `knee` or `budget=0.25` (the best that saves that share).
        samples: texts to write from the exported plan.
    """

    folder: Annotated[str, Field(min_length=1, max_length=4096)] = "run"
    pick: str = "knee"
    samples: Annotated[int, Field(ge=0, le=10_000)] = 8

    @field_validator("pick")
    @classmethod
    def _known_pick(cls, pick: str) -> str:
        if not re.fullmatch(r"best|knee|budget=(0?\.\d+|0|1|1\.0*)", pick):
            raise InputError(
                f"must be best, knee or budget=SHARE such as budget=0.25, got {pick!r}"
            )
        return pick


class Job(Record):
    """A whole job file."""

    lab: LabConfig
    job: JobConfig = JobConfig()
    corpus: CorpusConfig = CorpusConfig()
    plan: PlanConfig = PlanConfig()
    analyze: AnalyzeConfig = AnalyzeConfig()
    search: SearchConfig = SearchConfig()
    task: TaskConfig | None = None
    policies: PoliciesConfig | None = None
    control: ControlConfig | None = None
    output: OutputConfig = OutputConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for where, role in self._roles():
            if role not in self.lab.denoisers:
                raise InputError(
                    f"{where}: role {role!r} has no denoiser; lab.denoisers has"
                    f" {sorted(self.lab.denoisers)}"
                )
        for where, prefix_length in (
            ("analyze", self.analyze.prefix_length),
            ("search", self.search.prefix_length),
        ):
            if prefix_length >= self.plan.length:
                raise InputError(
                    f"{where}.prefix_length must be below the length {self.plan.length},"
                    f" got {prefix_length}"
                )
        for key, blocks in (
            ("num_sequences", self.blocks),
            ("fresh_sequences", self.fresh_blocks),
        ):
            try:
                blocks()
            except InputError as error:
                raise InputError(f"search.{key}: {error}") from None
        process = self.plan.process
        if process == "simplex" and self.policies is not None:
            raise InputError(
                "plan.process 'simplex': decoding policies are for the masked and the uniform"
                " process; leave [policies] out"
            )
        if process == "simplex" and self.search.additive and self.control is None:
            raise InputError(
                "plan.process 'simplex': step importance is for the masked and the uniform-state"
                " process; set search.additive = false"
            )
        plain = self.plan.time_grid == "uniform" and self.plan.noise_schedule in (None, "linear")
        schedules_only = self.control is None and self.policies is None
        if schedules_only and self.search.additive and process != "simplex" and not plain:
            raise InputError(
                "plan.time_grid and plan.noise_schedule: step importance is of the uniform grid"
                " and the linear schedule; set search.additive = false"
            )
        if not schedules_only and not isinstance(self.plan.time_grid, str):
            raise InputError("plan.time_grid: a search over steps needs a grid by name, 'uniform'")
        try:
            self.plan.plan(ModelSchedule.constant(self.plan.heavy, self.plan.num_steps))
        except pydantic.ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise InputError(f"plan: {reason}") from None
        if self.control is not None:
            self._check_control(self.control)
        elif self.policies is not None:
            self._check_policies(self.policies)
        else:
            self._check_schedules()
        return self

    def _check_schedules(self) -> None:
        """What a search over model schedules needs."""
        plan, search = self.plan, self.search
        for attribute in plan.guidance.attributes if plan.guidance is not None else ():
            if attribute.classifier not in self.lab.classifiers:
                raise InputError(
                    f"plan.guidance: classifier {attribute.classifier!r} is not among"
                    f" {sorted(self.lab.classifiers)}; add it to lab.classifiers"
                )
        if self.task is not None:
            raise InputError("task: is what a search over policies measures; add [policies]")
        if plan.heavy == plan.light:
            raise InputError(f"plan.heavy and plan.light must differ, both are {plan.heavy!r}")
        for where, roles in (
            ("search.roles", search.roles),
            ("analyze.lights", self.analyze.lights),
            ("analyze.states", self.analyze.states),
        ):
            if len(set(roles or [])) < len(roles or []):
                raise InputError(f"{where} names one twice: {roles}; name each once")
        if search.trials and len(self.search_roles) < 2:
            raise InputError(
                f"search.roles must hold a second role beside {plan.heavy!r} for trials,"
                f" got {search.roles}"
            )
        if search.num_segments > plan.num_steps:
            raise InputError(
                f"search.num_segments must not exceed the {plan.num_steps} steps,"
                f" got {search.num_segments}"
            )
        if search.num_light != "all" and search.num_light > search.num_segments:
            raise InputError(
                f"search.num_light must not exceed the {search.num_segments} segments,"
                f" got {search.num_light}"
            )
        first = search.race_from
        if first is not None and (first % search.block_size or first > search.num_sequences):
            raise InputError(
                f"search.race_from must be a multiple of block_size {search.block_size} and at"
                f" most num_sequences {search.num_sequences}, got {first}"
            )
        if not plan.policy.calls_known:
            for key in ("race_from", "max_cost"):
                if getattr(search, key) is not None:
                    raise InputError(
                        f"search.{key} needs costs that are known before sampling, which policy"
                        f" {plan.policy.name!r} does not have; leave it out"
                    )
        if max(search.additive_steps or [0]) > plan.num_steps:
            raise InputError(
                f"search.additive_steps must not exceed the {plan.num_steps} steps,"
                f" got {search.additive_steps}"
            )
        if search.additive and search.prefix_length not in (0, self.analyze.prefix_length):
            raise InputError(
                "search.prefix_length must equal analyze.prefix_length where additive scores are"
                f" used, got {search.prefix_length} and {self.analyze.prefix_length}; set both or"
                " search.additive = false"
            )
        self.importance_config()

    def _check_control(self, table: ControlConfig) -> None:
        """What a joint search over guidance and allocation needs."""
        if self.policies is not None or self.task is not None:
            raise InputError("control: a job has one of [control] and [policies] or [task]")
        if self.search.race_from is not None or self.search.max_cost is not None:
            raise InputError(
                "search.race_from and search.max_cost are for searches over model schedules; leave"
                " them out where there is a [control] table"
            )
        if self.plan.guidance is not None:
            raise InputError(
                "plan.guidance: what [control] searches for; the reference is unguided"
            )
        policy = self.plan.policy
        if policy.name not in ("ancestral", "tta_constant") or not (
            set(policy.parameters) <= set(MODIFIERS)
        ):
            raise InputError(
                f"plan.policy {policy}: where there is a [control] table it is of the unguided"
                f" reference; leave it out, or name tta_constant with {', '.join(MODIFIERS)}"
            )
        if not table.last_step and 1 in (table.steps or [self.plan.num_steps]):
            raise InputError(
                "control: the last step is not guided, so one step guides nothing; set"
                " control.last_step, or take more steps"
            )
        for attribute in table.attributes:
            if attribute.classifier not in self.lab.classifiers:
                raise InputError(
                    f"control.attributes: classifier {attribute.classifier!r} is not among"
                    f" {sorted(self.lab.classifiers)}; add it to lab.classifiers"
                )
        if not self.lab.judges:
            raise InputError(
                "lab.judges: control needs a classifier that judges and does not guide"
            )
        if table.judge is not None and table.judge not in self.lab.judges:
            raise InputError(
                f"control.judge {table.judge!r} is not among {sorted(self.lab.judges)}"
            )
        needs_scorer = "gen_ppl" in table.objectives or table.max_ppl_ratio is not None
        if needs_scorer and self.lab.scorer == "none":
            raise InputError("control: gen_ppl needs a scorer; set lab.scorer")
        if table.choice_sequences is not None:
            if table.choice_sequences < self.search.num_sequences:
                raise InputError(
                    f"control.choice_sequences must be at least search.num_sequences"
                    f" {self.search.num_sequences}, got {table.choice_sequences}"
                )
            self.choice_blocks()
        longest = max(map(len, table.schedules or [[""]]))
        if longest > min(table.steps or [self.plan.num_steps]):
            raise InputError(
                f"control.schedules have up to {longest} parts, more than the fewest steps"
            )

    def _check_policies(self, table: PoliciesConfig) -> None:
        """What a search over policies needs."""
        if self.plan.guidance is not None:
            raise InputError("plan.guidance: searches over policies take none; use [control]")
        if (table.quality == "accuracy") != (self.task is not None):
            raise InputError(
                "policies.quality 'accuracy' and a [task] table belong together, got"
                f" {table.quality!r} and {'a' if self.task else 'no'} task"
            )
        if table.quality == "gen_ppl" and self.lab.scorer == "none":
            raise InputError("policies.quality 'gen_ppl' needs a scorer; set lab.scorer")
        for where in (
            "names", "tuned", "temperatures", "top_ps", "block_lengths", "schedules", "roles",
        ):  # fmt: skip
            found = getattr(table, where) or []
            if any(one in found[:n] for n, one in enumerate(found)):
                raise InputError(f"policies.{where} names one twice: {found}; name each once")
        if self.search.race_from is not None or self.search.max_cost is not None:
            raise InputError(
                "search.race_from and search.max_cost are for searches over model schedules; leave"
                " them out where there is a [policies] table"
            )
        longest = max(map(len, table.schedules or []), default=0)
        for where, parts in (("schedule_parts", table.schedule_parts), ("schedules", longest)):
            if parts > self.plan.num_steps:
                raise InputError(
                    f"policies.{where} must not exceed the {self.plan.num_steps} steps, got"
                    f" {parts} parts"
                )
        is_plain = (table.temperatures or [self.plan.temperature]) == [1.0]
        is_whole = (table.top_ps or [self.plan.top_p]) == [1.0]
        if table.quality == "duel" and not (is_plain and is_whole):
            raise InputError(
                "policies.quality 'duel' is the likelihood at temperature 1 and top-p 1; set"
                " plan.temperature = 1 and leave plan.top_p out"
            )
        if self.task is not None and self.search.prefix_length:
            raise InputError(
                "search.prefix_length: a task's prompts are what is given; leave it out"
            )
        searched = dict.fromkeys((*table.names, *table.tuned))
        if self.plan.process == "uniform":
            if others := [name for name in searched if name not in GRID_POLICIES]:
                raise InputError(
                    f"policies: {others[0]!r} is not searched in the uniform-state process; there"
                    f" are {' and '.join(GRID_POLICIES)}"
                )
            if table.quality == "duel":
                raise InputError(
                    "policies.quality 'duel': no policy of the uniform-state process has an exact"
                    " likelihood; use gen_ppl"
                )
        if table.grid_points == 1:
            raise InputError("policies.grid_points must be 0 or at least 2: one part has no shape")
        if unknown := sorted(table.parameters.keys() - searched.keys()):
            raise InputError(
                f"policies.parameters: {unknown[0]!r} is in neither policies.names nor tuned"
            )
        self._check_cost(table, list(searched))

    def _check_cost(self, table: PoliciesConfig, searched: list[PolicyName]) -> None:
        """Refuse to count calls where one call costs more than another."""
        if table.cost in ("flops_total", "seconds"):
            return
        uneven = [name for name in searched if not POLICY_SPACES[name].even_calls]
        for name, parameters in (
            *table.parameters.items(),
            (self.plan.policy.name, self.plan.policy.parameters),
        ):
            if parameters.get("cache", "none") != "none":
                uneven.append(name)
        mixed = table.schedule_parts > 0 or any(len(set(s)) > 1 for s in table.schedules or [])
        several = mixed or len({s[0] for s in table.schedules or [[""]]}) > 1
        if uneven:
            raise InputError(
                f"policies.cost {table.cost!r}: calls of {uneven[0]!r} with its shadows, locks or"
                " cache are no unit; use flops_total or seconds"
            )
        if several and table.cost == "forwards":
            raise InputError(
                "policies.cost 'forwards': denoisers of several model schedules differ; use"
                " block_forwards, flops_total or seconds"
            )

    def _roles(self) -> list[tuple[str, Role]]:
        named = [("plan.heavy", self.plan.heavy)]
        if self.control is not None:
            return named + [
                ("control.schedules", role)
                for roles in self.control.schedules or []
                for role in roles
            ]
        if (table := self.policies) is not None:
            parts = [*(table.schedules or []), table.roles or []]
            named += [("policies", role) for roles in parts for role in roles]
            if table.schedule_parts and table.roles is None:
                named.append(("plan.light", self.plan.light))
            return named
        named.append(("plan.light", self.plan.light))
        named += [("search.roles", role) for role in self.search.roles or []]
        named += [("analyze.lights", role) for role in self.analyze.lights or []]
        named += [("analyze.heavy_b", self.analyze.heavy_b)] if self.analyze.heavy_b else []
        return named

    @property
    def search_roles(self) -> tuple[Role, ...]:
        """Roles that a proposal of the Bayesian search may use, heavy first."""
        wanted = self.search.roles or [self.plan.light]
        return tuple(dict.fromkeys([self.plan.heavy, *wanted]))

    @property
    def fresh_seed(self) -> int:
        """Seed of the sequences that no choice depends on."""
        return self.job.seed + FRESH_SEED_OFFSET

    def blocks(self) -> tuple[SeedBlock, ...]:
        """The sequences of the search."""
        return seed_blocks(self.job.seed, self.search.num_sequences, self.search.block_size)

    def choice_blocks(self) -> tuple[SeedBlock, ...]:
        """The sequences that picks of a joint search are chosen on, the search's first."""
        wanted = self.control.choice_sequences if self.control is not None else None
        return seed_blocks(
            self.job.seed, wanted or self.search.num_sequences, self.search.block_size
        )

    def fresh_blocks(self) -> tuple[SeedBlock, ...]:
        """The sequences on which plans are measured again, numbered behind the search's and the
        analysis's where prefixes are given: sequence j gets prefix j, and a choice may hang on
        prefixes too."""
        table = self.search
        number = table.fresh_sequences or table.num_sequences
        schedules_only = self.policies is None and self.control is None
        analyzed = self.analyze.num_windows if table.additive and schedules_only else 0
        numbered = table.prefix_length or self.task or self._is_duel
        chosen = len(self.choice_blocks()) * table.block_size
        first = max(table.num_sequences, analyzed, chosen) if numbered else 0
        return tuple(
            replace(block, first=first + block.first)
            for block in seed_blocks(self.fresh_seed, number, table.block_size)
        )

    @property
    def _is_duel(self) -> bool:
        return self.policies is not None and self.policies.quality == "duel"

    def importance_config(self) -> ImportanceConfig:
        """What the analysis is asked to do."""
        table, heavy = self.analyze, self.plan.heavy
        heavy_b = table.heavy_b or ("Hb" if "Hb" in self.lab.denoisers else None)
        heavy_b = None if heavy_b == heavy or heavy_b in (table.lights or []) else heavy_b
        others = [role for role in self.lab.denoisers if role not in (heavy, heavy_b)]
        others.sort(key=lambda role: role != self.plan.light)  # it is looked at most closely
        shared = set(AnalyzeConfig.model_fields) & set(ImportanceConfig.model_fields)
        return ImportanceConfig(
            **{name: getattr(table, name) for name in shared - {"lights", "heavy_b"}},
            num_steps=self.plan.num_steps,
            heavy=heavy,
            heavy_b=heavy_b,
            lights=table.lights or others,
            propagation_segments=min(self.search.num_segments, self.plan.num_steps),
            seed=self.job.seed + ANALYSIS_SEED_OFFSET,
        )


def load_job(path: str | os.PathLike[str]) -> Job:
    """Read a job file.

    Raises:
        InputError: missing, not TOML, an unknown or missing key, a value that makes no sense.
    """
    file = Path(path)
    data = read_toml(file)
    if "kind" in data:
        raise InputError(f"{path}: a training job (it has a 'kind'); run it with schedlab train")
    job = validate(Job, data, where=str(path))
    return with_absolute_paths(job, file.resolve().parent)


def parse_job(data: dict[str, Any], *, where: str = "job") -> Job:
    """A job from parsed data; relative paths stay as they are."""
    return validate(Job, data, where=where)


def dump_job(job: Job) -> str:
    """The job as TOML: `load_job` of it gives the same job."""
    lines = []
    for table, values in job.model_dump(mode="json", exclude_none=True).items():
        lines.append(f"[{table}]")
        lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    # JSON's spelling is TOML's, except that TOML wants DEL escaped and knows no surrogate pairs.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def with_absolute_paths(job: Job, folder: Path) -> Job:
    """The job with relative paths taken as relative to `folder`: a copy of it elsewhere means the
    same files."""

    def place(location: str) -> str:
        is_name = location in ("bundled", "embedded", "none", "sudoku") or location.startswith(
            ("bundled:", "hf:")
        )
        return location if is_name else os.path.normpath(folder / location)

    lab = job.lab.model_copy(
        update={
            "denoisers": {role: place(where) for role, where in job.lab.denoisers.items()},
            "classifiers": {name: place(where) for name, where in job.lab.classifiers.items()},
            "judges": {name: place(where) for name, where in job.lab.judges.items()},
            "scorer": place(job.lab.scorer),
            "tokenizer": place(job.lab.tokenizer),
        }
    )
    return job.model_copy(
        update={
            "lab": lab,
            "corpus": job.corpus.model_copy(update={"source": place(job.corpus.source)}),
            "task": job.task and job.task.model_copy(update={"source": place(job.task.source)}),
            "output": job.output.model_copy(update={"folder": place(job.output.folder)}),
        }
    )

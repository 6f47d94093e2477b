"""What to train, as data: the TOML file of `schedlab train`. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pydantic

from schedlab.files import Record, read_toml, validate
from schedlab.plan.task_config import TaskConfig


class ModelSizes(Record):
    """Sizes of the network; the vocabulary follows from the tokenizer.

    Args:
        num_blocks: transformer blocks.
        hidden_size: width.
        num_heads: attention heads.
        length: tokens per training window, and the longest sequence the model takes.
        mlp_ratio: inner width of the MLP over the width.
        learned_positions: add a learned vector for every position, for tasks whose positions mean
            something.
    """

    num_blocks: int
    hidden_size: int = 128
    num_heads: int = 4
    length: int = 128
    mlp_ratio: int = 4
    learned_positions: bool = False


class Optimization(Record):
    """How to train.

    Args:
        num_steps: optimiser steps.
        batch_size: windows per step, over all processes.
        optimizer: "muon" trains the matrices inside the blocks by Muon and the rest by AdamW,
            "adamw" trains all by AdamW.
        learning_rate: peak rate of AdamW.
        muon_learning_rate: peak rate of Muon, in the scale of AdamW's (matched update size).
        warmup_steps: linear rise to the peak; then a cosine down to `final_learning_rate`.
        final_learning_rate: share of the peak that is left at the end.
        weight_decay: decoupled, on matrices only.
        gradient_clip: largest norm of the gradient.
        ema_decay: decay of the averaged weights, which are what is saved; rises to this value.
        smallest_t: noise levels are drawn from [smallest_t, 1]: 1 / t weighs the loss, so values
            near 0 add variance for a share `smallest_t` of the bound.
        noise_warmup_steps: over so many first steps the largest noise level rises from
            `first_largest_t` to 1: with most of the text in sight a network finds sooner that
            context matters. The bound itself is trained from then on.
        first_largest_t: where that rise begins.
        precision: "bfloat16" runs matrix products under autocast, "float32" all exactly.
        compile: use `torch.compile` where a compiler is found.
        accumulate: every process takes its rows in so many parts, one after the other, for less
            memory; what is trained is the same up to rounding.
    """

    num_steps: int
    batch_size: int = 32
    accumulate: int = 1
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: float = 3e-3
    muon_learning_rate: float = 1e-2
    warmup_steps: int = 100
    final_learning_rate: float = 0.02
    weight_decay: float = 0.05
    gradient_clip: float = 1.0
    ema_decay: float = 0.995
    smallest_t: float = 1e-3
    noise_warmup_steps: int = 0
    first_largest_t: float = 0.4
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    compile: bool = True

    @pydantic.model_serializer(mode="wrap")
    def _described(self, handler: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what a job does not use: folders of jobs made before it stay theirs."""
        found: dict[str, Any] = handler(self)
        if self.accumulate == 1:
            found.pop("accumulate", None)
        return found

    def model_post_init(self, _: object) -> None:
        """Check the ranges that the loop relies on."""
        for name in ("num_steps", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size must be a multiple of accumulate, got {self.batch_size} and"
                f" {self.accumulate}"
            )
        for name in ("learning_rate", "muon_learning_rate", "gradient_clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}")
        if not 0 < self.smallest_t < 1:
            raise ValueError(f"smallest_t must be in (0, 1), got {self.smallest_t}")
        if not self.smallest_t < self.first_largest_t <= 1:
            raise ValueError(
                f"first_largest_t must be in (smallest_t, 1], got {self.first_largest_t}"
            )
        if self.noise_warmup_steps < 0:
            raise ValueError(
                f"noise_warmup_steps must not be negative, got {self.noise_warmup_steps}"
            )


class Reporting(Record):
    """When to look and when to save, in steps.

    Args:
        log_every: a progress line.
        evaluate_every: the loss on held-out text.
        checkpoint_every: the resumable state and the model so far.
        held_out_windows: windows of the valid split that are measured (fewer where it has fewer).
        held_out_levels: noise levels per window.
    """

    log_every: int = 20
    evaluate_every: int = 500
    checkpoint_every: int = 100
    held_out_windows: int = 256
    held_out_levels: int = 8


class Derivation(Record):
    """How a light denoiser is made from a heavy one.

    Args:
        heavy: location of the heavy denoiser, of any family (see `denoisers.loading`).
        blocks: the blocks that the light one starts from: "first", "last", "spaced" (both ends
            and evenly between), "ablation" (one after the other is dropped, always the one
            without which the held-out loss is lowest), or their numbers.
        num_blocks: how many, unless they are numbered.
        denoising_weight: share of the denoising loss; the rest is the KL divergence of the light
            one's predictions from the heavy one's at the same z_t. 0 distils, 1 fine-tunes.
        length: tokens per training window; None is the longest that the heavy one takes.
        ablation_windows, ablation_levels: held-out windows and noise levels per window that an
            ablation looks at.
    """

    heavy: str
    blocks: Literal["first", "last", "spaced", "ablation"] | list[int] = "spaced"
    num_blocks: int | None = None
    denoising_weight: float = 0.0
    length: int | None = None
    ablation_windows: int = 32
    ablation_levels: int = 4

    def model_post_init(self, _: object) -> None:
        """Check ranges, and that the number of blocks is said once."""
        if isinstance(self.blocks, list) == (self.num_blocks is not None):
            raise ValueError(
                "num_blocks must be given with a rule for blocks, and only then, got blocks ="
                f" {self.blocks!r} and num_blocks = {self.num_blocks}"
            )
        if not 0 <= self.denoising_weight <= 1:
            raise ValueError(f"denoising_weight must be in [0, 1], got {self.denoising_weight}")
        for name in ("num_blocks", "length", "ablation_windows", "ablation_levels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be positive, got {value}")


class _Training(Record):
    """What every kind of training job says.

    Args:
        seed: initial weights, order of the data, noise levels and masks follow from it.
        corpus: a source as in `text.load_documents`.
        task: train on prompts and answers instead of a corpus; prompts are never masked.
        tokenizer: a `tokenizers` JSON file, or "bundled".
        optimization, reporting: see there.
    """

    seed: int
    optimization: Optimization
    corpus: str = "embedded"
    task: TaskConfig | None = None
    tokenizer: str = "bundled"
    reporting: Reporting = Reporting()

    def model_post_init(self, _: object) -> None:
        """Seeds address random streams, which have no negative names."""
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")

    def grid_steps_at(self, step: int) -> int | None:
        """N where a refinement takes noise levels k / N only at an optimiser step."""
        return None


class TrainJob(_Training):
    """Training from random weights.

    Args:
        kind: "denoiser" (masked diffusion) or "autoregressive" (scorer for Gen-PPL).
        model: sizes of the network.
    """

    kind: Literal["denoiser", "autoregressive"]
    model: ModelSizes

    def model_post_init(self, context: object) -> None:
        """A scorer predicts all of a text."""
        super().model_post_init(context)
        if self.kind == "autoregressive" and self.task is not None:
            raise ValueError("task is for denoisers; name a corpus for an autoregressive model")


class DeriveJob(_Training):
    """Training of a light denoiser that starts from blocks of a heavy one.

    Args:
        kind: "derive".
        derive: the heavy one, the blocks, what is minimised.
    """

    kind: Literal["derive"]
    derive: Derivation


class Texts(Record):
    """Which texts of a corpus, one document a row: what classifiers and what they steer need.

    Args:
        labels: documents of these labels only; None takes all.
        part: of the training documents, by a hash of their text: "first" and "second" are two
            halves, so that a judge need not have read what a guide has.
        balanced: every label as often as any other.
    """

    labels: list[str] | None = None
    part: Literal["all", "first", "second"] = "all"
    balanced: bool = False

    def model_post_init(self, _: object) -> None:
        """Labels are told apart by name."""
        if self.labels is not None and (
            not self.labels or len(set(self.labels)) < len(self.labels)
        ):
            raise ValueError(f"labels must be some and differ, got {self.labels}")
        if self.balanced and self.labels is None:
            raise ValueError("balanced needs labels")


class Stage(Record):
    """A stage of progressive step reduction.

    Args:
        grid_steps: N, noise levels are k / N.
        num_steps: optimiser steps.
    """

    grid_steps: int
    num_steps: int

    def model_post_init(self, _: object) -> None:
        """Both count."""
        if self.grid_steps < 1 or self.num_steps < 1:
            raise ValueError(
                f"grid_steps and num_steps must be positive, got {self.grid_steps} and"
                f" {self.num_steps}"
            )


class SimplexTraining(Record):
    """What is special of a simplex denoiser.

    Args:
        begin: location of a transformer over tokens of the same sizes, masked ones too, or of a
            simplex transformer, to begin as; None begins from random weights.
        grid_steps: noise levels are k / N, k = 0 ... N.
        value: K of the process.
        self_condition: `mean`, or `none`.
        self_condition_share: of the steps, those that read the logits of a first pass; the others
            read zeros.
        time_input: `sequence`, or `token`: half of the rows get a level of their own at every
            position, uniform below that of the row [O].
        prefix_share: of the rows, those with a clean beginning of a random length up to half
            of the row, which is given and not predicted.
    """

    begin: str | None = None
    grid_steps: int = 1000
    value: float = 5.0
    self_condition: Literal["none", "mean"] = "mean"
    self_condition_share: float = 0.5
    time_input: Literal["sequence", "token"] = "sequence"
    prefix_share: float = 0.0

    def model_post_init(self, _: object) -> None:
        """Check the ranges that training relies on."""
        if self.grid_steps < 1 or not self.value > 0:
            raise ValueError(
                f"grid_steps and value must be positive, got {self.grid_steps} and {self.value}"
            )
        for name in ("self_condition_share", "prefix_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")


class SimplexJob(_Training):
    """Training of a simplex denoiser (TESS, TTA).

    Args:
        kind: "simplex".
        model: sizes of the network.
        texts: which documents.
        simplex: see there.
        stages: progressive step reduction: each stage goes on from the weights of the one
            before, on a coarser grid; every stage is a model folder within the folder. In place
            of `simplex.grid_steps` and `optimization.num_steps`.
    """

    kind: Literal["simplex"]
    model: ModelSizes
    texts: Texts = Texts()
    simplex: SimplexTraining = SimplexTraining()
    stages: list[Stage] = []

    def model_post_init(self, context: object) -> None:
        """Rows are documents; positions are rotary."""
        super().model_post_init(context)
        if self.task is not None:
            raise ValueError("task is for masked denoisers; name a corpus for a simplex model")
        if self.model.learned_positions:
            raise ValueError("learned_positions is for masked denoisers")
        grids = [stage.grid_steps for stage in self.stages]
        if len(set(grids)) < len(grids):
            raise ValueError(f"stages must differ in grid_steps, got {grids}")


class UniformTraining(Record):
    """What is special of a denoiser of the uniform-state process.

    Args:
        begin: location of a transformer over tokens of the same sizes to begin as, a masked one
            say; None begins from random weights.
        loss: `bound` (UDLM, DUO) leads to a leave-one-out prediction, `cross_entropy` to a
            posterior, which samplers and bounds convert.
        time_input: `sequence`, or `token`: half of the rows get a level of their own at every
            position, uniform below that of the row [O].
    """

    begin: str | None = None
    loss: Literal["bound", "cross_entropy"] = "bound"
    time_input: Literal["sequence", "token"] = "sequence"


class UniformJob(_Training):
    """Training of a denoiser of the uniform-state process.

    Args:
        kind: "uniform".
        model: sizes of the network.
        uniform: see there.
    """

    kind: Literal["uniform"]
    model: ModelSizes
    uniform: UniformTraining = UniformTraining()

    def model_post_init(self, context: object) -> None:
        """Noise is everywhere, so nothing is given."""
        super().model_post_init(context)
        if self.task is not None:
            raise ValueError("task is for masked denoisers; name a corpus for a uniform one")


class Drift(Record):
    """TokenDrift (2605.19470), with the parts that its ablation changes.

    Args:
        taus: bandwidths of the field.
        step: alpha, how far along the field features should go.
        queue: features of earlier steps kept of real texts, and as many of generated ones.
        attraction, repulsion: factors of the two sums of the field; the method's are equal.
        lift: how a prediction enters the frozen network: `soft`; `hard`, the likeliest token with
            the gradient of the soft one (straight-through); `sampled`, a token drawn from the
            posterior of clean tokens with its gradient [O].
        features: what is compared: mean-pooled `hidden` layers, or `logits` [O].
        base_weight: of the ordinary loss beside it; the method's is 0.
    """

    taus: list[float] = [0.02, 0.05, 0.2]
    step: float = 1.0
    queue: int = 1024
    attraction: float = 1.0
    repulsion: float = 1.0
    lift: Literal["soft", "hard", "sampled"] = "soft"
    features: Literal["hidden", "logits"] = "hidden"
    base_weight: float = 0.0

    def model_post_init(self, _: object) -> None:
        """Check ranges."""
        if not self.taus or min(self.taus) <= 0:
            raise ValueError(f"taus must be some and positive, got {self.taus}")
        if self.step <= 0:
            raise ValueError(f"step must be positive, got {self.step}")
        for name in ("queue", "attraction", "repulsion", "base_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


Arm = Literal["drift", "continue", "reduce"]


class Refinement(Record):
    """How a denoiser is refined for few steps.

    Args:
        begin: location of the denoiser, masked or of the uniform-state process.
        arms: `drift`; `continue`: the ordinary loss on the same data, noise levels, steps,
            batches and optimiser; `reduce`: the same at noise levels of ever coarser grids, the
            idea of progressive step reduction (TTA 2510.26200) under one learning rate schedule
            [O].
        drift: see there.
        grid_steps: of `reduce`, falling: levels are k / N, k = 1 ... N, for every N in equal
            shares of the optimiser steps.
        length: tokens per training window; None is the longest that it takes.
    """

    begin: str
    arms: list[Arm] = ["drift", "continue"]
    drift: Drift = Drift()
    grid_steps: list[int] = [64, 16, 8]
    length: int | None = None

    @pydantic.model_serializer(mode="wrap")
    def _described(self, handler: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what the arms do not use: another grid is no other job for them."""
        found: dict[str, Any] = handler(self)
        if "reduce" not in self.arms:
            found.pop("grid_steps", None)
        return found

    def model_post_init(self, _: object) -> None:
        """Something is done, once."""
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise ValueError(f"arms must be some and differ, got {self.arms}")
        falling = sorted(set(self.grid_steps), reverse=True)
        if min(self.grid_steps, default=0) < 1 or falling != self.grid_steps:
            raise ValueError(f"grid_steps must be some, positive and fall, got {self.grid_steps}")
        if self.length is not None and self.length < 1:
            raise ValueError(f"length must be positive, got {self.length}")


class RefineOptimization(Optimization):
    """`Optimization` with the method's optimiser."""

    optimizer: Literal["muon", "adamw"] = "adamw"
    learning_rate: float = 5e-5


class RefineJob(_Training):
    """Refinement of a denoiser, every arm with every seed.

    Args:
        kind: "refine".
        refine: see there.
        seeds: of the order of the data, noise levels and noise; [] is `seed` alone. Every arm and
            seed is a model folder within the folder, unless there is one of them.
    """

    kind: Literal["refine"]
    refine: Refinement
    seeds: list[int] = []
    optimization: RefineOptimization

    def model_post_init(self, context: object) -> None:
        """Seeds are told apart; there is a text to compare with."""
        super().model_post_init(context)
        if self.task is not None:
            raise ValueError("task is for training from a task; name a corpus to refine on")
        if self.optimization.batch_size == 1 and self.refine.drift.queue == 0:
            raise ValueError("drift needs others to repel: set batch_size or queue above this")
        stages, num = self.refine.grid_steps, self.optimization.num_steps
        if "reduce" in self.refine.arms and num < len(stages):
            raise ValueError(f"num_steps must be {len(stages)} or more, one a grid, got {num}")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds, default=0) < 0:
            raise ValueError(f"seeds must differ and not be negative, got {self.seeds}")

    def grid_steps_at(self, step: int) -> int | None:
        """Of the arm `reduce`."""
        if self.refine.arms != ["reduce"]:
            return None
        stages = self.refine.grid_steps
        return stages[min(step * len(stages) // self.optimization.num_steps, len(stages) - 1)]

    @property
    def runs(self) -> dict[str, RefineJob]:
        """The single runs by the name of their folder, "" for the folder itself."""
        found = {}
        for seed in self.seeds or [self.seed]:
            for arm in self.refine.arms:
                refine = self.refine.model_copy(update={"arms": [arm]})
                update = {"seed": seed, "seeds": [], "refine": refine}
                found[f"{arm}-{seed}"] = self.model_copy(update=update)
        return found if len(found) > 1 else {"": next(iter(found.values()))}


class ClassifierSizes(Record):
    """Sizes of a classifier.

    Args:
        encoder: "transformer" or "convolution" (Kim 2014).
        num_blocks: transformer blocks, or convolutions of every width one after the other.
        hidden_size, num_heads: of the transformer; the width of embeddings and filters.
        length: tokens per text.
        time_input: whether it reads the noise level (a multi-step classifier).
        groups: a tree of labels for a hierarchical classifier: names of groups to their labels.
    """

    encoder: Literal["transformer", "convolution"] = "transformer"
    num_blocks: int = 2
    hidden_size: int = 64
    num_heads: int = 4
    length: int = 64
    time_input: bool = False
    groups: dict[str, list[str]] = {}


class SoftInputs(Record):
    """What a classifier reads in training.

    Args:
        denoiser: location of a denoiser: texts are noised, and its predictions are what the
            classifier reads, as in guidance; None reads the texts themselves.
        share: of the rows, those that are predictions.
        largest_t: noise levels are uniform from 0 to this.
    """

    denoiser: str | None = None
    share: float = 0.75
    largest_t: float = 1.0

    def model_post_init(self, _: object) -> None:
        """Check ranges."""
        if not 0 <= self.share <= 1 or not 0 < self.largest_t <= 1:
            raise ValueError(
                f"share must be in [0, 1] and largest_t in (0, 1], got {self.share} and"
                f" {self.largest_t}"
            )


class ClassifierJob(_Training):
    """Training of a classifier of soft or hard texts, to guide or to judge.

    Args:
        kind: "classifier".
        model: sizes of the network.
        texts: which documents; labels are needed.
        inputs: what it reads.
    """

    kind: Literal["classifier"]
    model: ClassifierSizes = ClassifierSizes()
    texts: Texts
    inputs: SoftInputs = SoftInputs()

    def model_post_init(self, context: object) -> None:
        """There is something to tell apart, and groups hold every label once."""
        super().model_post_init(context)
        if self.task is not None:
            raise ValueError("task is for masked denoisers; name a corpus with labels")
        labels = self.texts.labels
        if labels is None or len(labels) < 2:
            raise ValueError(f"texts.labels must name at least two labels, got {labels}")
        if self.model.time_input and self.inputs.denoiser is None:
            raise ValueError("model.time_input needs inputs.denoiser: texts have no noise level")
        grouped = [label for group in self.model.groups.values() for label in group]
        if self.model.groups and sorted(grouped) != sorted(labels):
            raise ValueError(f"model.groups must hold every label once, got {grouped}")


AnyTrainJob = TrainJob | DeriveJob | SimplexJob | UniformJob | RefineJob | ClassifierJob
_KINDS: dict[str, type[AnyTrainJob]] = {
    "derive": DeriveJob,
    "simplex": SimplexJob,
    "uniform": UniformJob,
    "refine": RefineJob,
    "classifier": ClassifierJob,
}


def read_train_job(path: str | Path) -> AnyTrainJob:
    """Read a TOML file; any problem is one `InputError` line naming the key."""
    values = read_toml(path)
    kind = values.get("kind")
    job_type = _KINDS.get(kind, TrainJob) if isinstance(kind, str) else TrainJob
    return validate(job_type, values, where=str(path))

"""A training run in memory: what it holds, how it starts or resumes, what it writes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from schedlab.denoisers import checkpoint, loading
from schedlab.denoisers.base import SoftDenoiser, features_at
from schedlab.denoisers.network import Network
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError
from schedlab.files import canonical_json, sha256_text, write_atomic
from schedlab.results import Estimate
from schedlab.tasks import TrainingItems
from schedlab.text import Tokenizer, held_out_windows, load_corpus, token_stream
from schedlab.text.corpora import Corpus
from schedlab.text.docstrings import package_versions
from schedlab.training.classifier_objective import ClassifierObjective, classifier_network
from schedlab.training.derive import Heavy, Parent, choose
from schedlab.training.distributed import Workers
from schedlab.training.document_rows import DocumentRows
from schedlab.training.drift_objective import DriftObjective, pooled_features
from schedlab.training.job import (
    AnyTrainJob,
    ClassifierJob,
    DeriveJob,
    RefineJob,
    SimplexJob,
    TrainJob,
    UniformJob,
)
from schedlab.training.objective import Objective
from schedlab.training.objectives import weighted_loss
from schedlab.training.optimizers import build_optimizers
from schedlab.training.progress import Say
from schedlab.training.rows import Rows, TaskRows, TextRows
from schedlab.training.simplex_objective import SimplexObjective, simplex_loss, simplex_network
from schedlab.training.state import load_state, save_state, stored_facts
from schedlab.training.token_objective import TokenObjective, maybe_compiled
from schedlab.training.uniform_objective import UniformObjective, uniform_loss, uniform_network

LOG_FILE = "train.jsonl"
JOB_FILE = "job.json"
# Held-out windows and masks are the same for every model, so that losses can be compared.
HELD_OUT_SEED = 0


@dataclass
class Run:
    """Everything that a run holds; weights, moments and the step count change as it goes on."""

    job: AnyTrainJob
    folder: Path
    workers: Workers
    rows: Rows
    objective: Objective
    tokenizer: Tokenizer
    model: Network
    average_model: Network
    optimizers: list[Optimizer]
    origin: Heavy | None = None
    parent: Parent | None = None
    steps_done: int = 0
    seconds_before: float = 0.0
    held_out: Estimate | None = None
    measured: dict[str, Estimate] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds spent on this run, earlier sittings included."""
        return self.seconds_before + time.monotonic() - self._started

    @property
    def length(self) -> int:
        """Positions of a row."""
        return int(self.rows.held_out_SL.shape[1])


def start_or_resume(job: AnyTrainJob, folder: Path, workers: Workers, say: Say) -> Run:
    """Build a run, and go to where it was left if the folder holds its state."""
    model: Network
    origin, parent = None, None
    if isinstance(job, DeriveJob | RefineJob):
        origin = _origin(job, workers)
        spec = origin.network.spec
        tokenizer = Tokenizer.for_model(job.tokenizer, spec.vocab_size, spec.mask_id)
        _check_tokenizer(job, tokenizer, origin)
        settings = job.derive if isinstance(job, DeriveJob) else job.refine
        rows = _rows(job, tokenizer, settings.length or spec.max_length)
        _check_identity(folder, _identity(job, rows, tokenizer, origin))
        network = origin.network
        if isinstance(job, DeriveJob):
            choice = choose(
                job.derive,
                origin,
                rows,
                seed=HELD_OUT_SEED,
                folder=folder,
                workers=workers,
                say=say,
            )
            parent = Parent(origin, choice)
            network = loading.with_blocks(network, choice.blocks)
        model = network.trainable_copy()
    else:
        tokenizer = Tokenizer.load(job.tokenizer)
        rows = _rows(job, tokenizer, job.model.length)
        _check_identity(folder, _identity(job, rows, tokenizer, None))
        model = _first_network(job, tokenizer)
    run = Run(
        job=job,
        folder=folder,
        workers=workers,
        rows=rows,
        objective=_objective(job, rows, tokenizer, workers, origin, parent, say),
        tokenizer=tokenizer,
        model=model.to(workers.device),
        average_model=model.trainable_copy().requires_grad_(False).to(workers.device),
        optimizers=build_optimizers(model, job.optimization),
        origin=origin,
        parent=parent,
    )
    _resume(run)
    return run


def _objective(
    job: AnyTrainJob,
    rows: Rows,
    tokenizer: Tokenizer,
    workers: Workers,
    origin: Heavy | None,
    parent: Parent | None,
    say: Say,
) -> Objective:
    compiled = job.optimization.compile
    if isinstance(job, RefineJob):
        assert origin is not None, "what it begins as"
        ordinary: TokenObjective | UniformObjective
        if origin.network.spec.process == "uniform":
            function = maybe_compiled(uniform_loss, compiled=compiled, say=say)
            ordinary = UniformObjective(job, rows, workers, function, HELD_OUT_SEED)
        else:
            mask_id = origin.network.spec.mask_id
            assert mask_id is not None, "a masked denoiser"
            function = maybe_compiled(weighted_loss, compiled=compiled, say=say)
            ordinary = TokenObjective(job, rows, mask_id, workers, None, function, HELD_OUT_SEED)
        (arm,) = job.refine.arms
        if arm == "drift":
            read, pooled = (
                maybe_compiled(function, compiled=compiled, say=say)
                for function in (features_at, pooled_features)
            )
            return DriftObjective(job, ordinary, origin.network, workers, read, pooled)
        return ordinary
    if isinstance(job, SimplexJob):
        assert isinstance(rows, DocumentRows)
        function = maybe_compiled(simplex_loss, compiled=compiled, say=say)
        return SimplexObjective(job, rows, workers, function, HELD_OUT_SEED)
    if isinstance(job, UniformJob):
        function = maybe_compiled(uniform_loss, compiled=compiled, say=say)
        return UniformObjective(job, rows, workers, function, HELD_OUT_SEED)
    if isinstance(job, ClassifierJob):
        assert isinstance(rows, DocumentRows)
        return ClassifierObjective.of(job, rows, tokenizer, workers, HELD_OUT_SEED)
    function = maybe_compiled(weighted_loss, compiled=compiled, say=say)
    return TokenObjective(job, rows, tokenizer.mask_id, workers, parent, function, HELD_OUT_SEED)


def _first_network(
    job: TrainJob | SimplexJob | UniformJob | ClassifierJob, tokenizer: Tokenizer
) -> Network:
    """Before the first step; drawn on the CPU: equal on every device."""
    generator = torch.Generator().manual_seed(job.seed)
    if isinstance(job, SimplexJob):
        return simplex_network(job, tokenizer.vocab_size, generator)
    if isinstance(job, UniformJob):
        return uniform_network(job, tokenizer.vocab_size, generator)
    if isinstance(job, ClassifierJob):
        return classifier_network(job, tokenizer.vocab_size, generator)
    model = Transformer(
        TransformerConfig(
            vocab_size=tokenizer.vocab_size,
            mask_id=tokenizer.mask_id,
            num_blocks=job.model.num_blocks,
            hidden_size=job.model.hidden_size,
            num_heads=job.model.num_heads,
            max_length=job.model.length,
            mlp_ratio=job.model.mlp_ratio,
            causal=job.kind == "autoregressive",
            learned_positions=job.model.learned_positions,
        )
    )
    model.init_weights(generator)
    return model


def _origin(job: DeriveJob | RefineJob, workers: Workers) -> Heavy:
    """The denoiser that a light or a refined one begins as."""
    device, settings = str(workers.device), job.optimization
    if isinstance(job, DeriveJob):
        return Heavy.load(job.derive.heavy, device=device, precision=settings.precision)
    found = Heavy.load(
        job.refine.begin,
        device=device,
        precision="float32",
        where="refine.begin",
        processes=("masked", "uniform"),
    )
    # Of both arms: a continuation is nothing without what it is compared with.
    if not isinstance(found.network, SoftDenoiser) or found.network.spec.num_blocks < 2:
        raise InputError(
            f"refine.begin: {job.refine.begin} must read mixtures of embeddings and have two"
            " blocks or more; name a transformer of schedlab, MDLM or DUO"
        )
    every = workers.world_size * settings.accumulate
    if settings.batch_size % every:
        raise InputError(
            f"optimization.batch_size must be a multiple of processes times accumulate, {every},"
            f" got {settings.batch_size}"
        )
    return found


def _check_tokenizer(job: DeriveJob | RefineJob, tokenizer: Tokenizer, heavy: Heavy) -> None:
    masked = heavy.network.spec.process == "masked"
    for name in ("vocab_size", "mask_id") if masked else ("vocab_size",):
        ours, theirs = getattr(tokenizer, name), getattr(heavy.network.spec, name)
        if ours != theirs:
            raise InputError(
                f"tokenizer {job.tokenizer!r}: its {name} is {ours}, that of {heavy.location} is"
                f" {theirs}; name the tokenizer that the model was trained with"
            )


def _rows(job: AnyTrainJob, tokenizer: Tokenizer, length: int) -> Rows:
    if job.task is not None:
        items, num = TrainingItems.of(job.task), job.reporting.held_out_windows
        return TaskRows.of(items, tokenizer, length=length, held_out=num)
    corpus = load_corpus(job.corpus)
    if isinstance(job, SimplexJob | ClassifierJob):
        return DocumentRows.of(
            corpus,
            tokenizer,
            length=length,
            labels=job.texts.labels,
            held_out=job.reporting.held_out_windows,
            part=job.texts.part,
            balanced=job.texts.balanced,
        )
    held_out_SL = _held_out(job, corpus, tokenizer, length)
    return TextRows(corpus, token_stream(corpus, tokenizer), held_out_SL)


def _held_out(job: AnyTrainJob, corpus: Corpus, tokenizer: Tokenizer, length: int) -> np.ndarray:
    """The job's number of windows of the valid split, or as many as it holds."""
    texts = [document.text for document in corpus.valid]
    available = sum(len(ids) // length for ids in tokenizer.encode_batch(texts))
    if available == 0:
        name = job.kind if isinstance(job, DeriveJob | RefineJob) else "model"
        raise InputError(
            f"corpus {job.corpus!r}: no document of the valid split has {length} tokens; use a "
            f"larger corpus or a smaller {name}.length"
        )
    num = min(job.reporting.held_out_windows, available)
    windows = held_out_windows(
        corpus, tokenizer, split="valid", length=length, num=num, seed=HELD_OUT_SEED
    )
    return windows.tokens_SL


def _identity(
    job: AnyTrainJob, rows: Rows, tokenizer: Tokenizer, heavy: Heavy | None
) -> dict[str, str]:
    """What a state depends on; how often to report is no part of it."""
    found = {
        "job": sha256_text(canonical_json(job.model_dump(exclude={"reporting"}))),
        "corpus": rows.fingerprint,
        "tokenizer": tokenizer.fingerprint,
    }
    return found if heavy is None else found | {"heavy": heavy.network.fingerprint}


def _facts(run: Run) -> dict[str, Any]:
    """The identity, and which blocks a derived model began as."""
    parent = run.parent
    found = _identity(run.job, run.rows, run.tokenizer, run.origin)
    return found if parent is None else {**found, "blocks": parent.choice.blocks}


def _check_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Refuse a folder whose state belongs to something else, before anything in it changes."""
    facts = stored_facts(folder)
    for name, value in identity.items():
        if facts and facts.get(name) != value:
            raise InputError(
                f"{folder}: was trained with another {name}; choose another folder, or "
                "delete its state.safetensors to start anew"
            )


def _resume(run: Run) -> None:
    _check_identity(run.folder, _facts(run))
    memory: dict[str, Tensor] = {}
    weights, average = run.model.state_dict(), run.average_model.state_dict()
    facts = load_state(run.folder, weights, average, run.optimizers, memory)
    if facts is None:
        return
    run.objective.memory.update(
        {name: value.to(run.workers.device) for name, value in memory.items()}
    )
    run.steps_done = int(facts["steps_done"])
    run.seconds_before = float(facts["seconds"])


def log(run: Run, **facts: Any) -> None:
    """Add a line to the run's log."""
    if run.workers.is_first:
        record = {"step": run.steps_done, "seconds": round(run.seconds, 1), **facts}
        run.folder.mkdir(parents=True, exist_ok=True)
        with open(run.folder / LOG_FILE, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")


def save(run: Run) -> None:
    """Write the model so far, and the state from which the run can go on."""
    if run.workers.is_first:
        family = run.origin.family if run.origin else None
        loading.save(run.folder, run.average_model, family, precision="bfloat16", card=_card(run))
        write_atomic(run.folder / JOB_FILE, checkpoint.json_text(run.job.model_dump()))
        facts = {**_facts(run), "steps_done": run.steps_done, "seconds": run.seconds}
        weights, average = run.model.state_dict(), run.average_model.state_dict()
        memory = run.objective.memory
        save_state(run.folder, facts, weights, average, run.optimizers, memory)
    run.workers.wait()


def _origin_card(run: Run) -> dict[str, Any]:
    if run.parent is not None:
        return run.parent.card()
    if run.origin is None:
        return {}
    return {"begin": run.origin.location, "begin_fingerprint": run.origin.network.fingerprint}


def _num_tokens(rows: Rows) -> dict[str, int]:
    if isinstance(rows, TextRows):
        return {"corpus_tokens": len(rows.stream)}
    return {"corpus_tokens": rows.num_tokens} if isinstance(rows, DocumentRows) else {}


def _card(run: Run) -> dict[str, Any]:
    """What the weights are, for people and for provenance pages."""
    job = run.job
    bounded = job.kind in ("denoiser", "derive", "uniform", "refine")
    spec = run.model.spec if bounded else None
    converted = spec is not None and spec.process == "uniform" and spec.prediction == "posterior"
    measure = "NELBO" if bounded and not converted else "cross-entropy"
    return {
        "kind": job.kind if job.kind in ("autoregressive", "classifier") else "denoiser",
        "num_blocks": run.model.config.num_blocks,
        "num_parameters": sum(weight.numel() for weight in run.model.parameters()),
        "seed": job.seed,
        "steps": run.steps_done,
        "planned_steps": job.optimization.num_steps,
        "tokens": run.steps_done * job.optimization.batch_size * run.length,
        "training_seconds": round(run.seconds, 1),
        "device": run.workers.device_name,
        "weights": f"exponential moving average, decay {job.optimization.ema_decay}",
        "held_out": None if run.held_out is None else run.held_out.model_dump(),
        "held_out_split": "valid",
        "held_out_unit": f"{measure}, {run.objective.unit}",
        **_origin_card(run),
        **{name: value.model_dump() for name, value in run.measured.items()},
        "corpus": run.rows.source,
        "corpus_fingerprint": run.rows.fingerprint,
        **_num_tokens(run.rows),
        "tokenizer_fingerprint": run.tokenizer.fingerprint,
        "package_versions": package_versions() if run.rows.source == "embedded" else {},
        "torch_version": torch.__version__,
        "job": job.model_dump(),
    }

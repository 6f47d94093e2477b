"""The run folder: what is in it, who works in it, what is done.

job.toml          the job as it runs (absolute paths, sized by calibration)
run.json          which stages were asked for, which are done
environment.json  versions, fingerprints
importance.json, importance.npz, evals/, optuna.db, search.json
policies.json, optuna-POLICY-N.db   of a search over policies
control.json, optuna.db             of a joint search over guidance and allocation
report.html, report.pdf, plan.json, samples.txt
.lock             held while a process works in the folder
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from schedlab.errors import InputError
from schedlab.files import FileRecord, canonical_json, sha256_text, write_atomic
from schedlab.job import Job, dump_job, load_job

Stage = Literal["analyze", "search", "policies", "control", "report", "export"]
ORDER: tuple[Stage, ...] = ("analyze", "search", "policies", "control", "report", "export")

JOB, STATE, LOCK = "job.toml", "run.json", ".lock"
IMPORTANCE, SEARCH, ENVIRONMENT = "importance.json", "search.json", "environment.json"
DATABASE, PLAN, SAMPLES = "optuna.db", "plan.json", "samples.txt"
POLICIES, CONTROL = "policies.json", "control.json"

# What the result of a stage depends on, and nothing else.
STAGE_TABLES: dict[Stage, tuple[str, ...]] = {
    "analyze": ("job", "lab", "corpus", "plan", "analyze"),
    "search": ("job", "lab", "corpus", "plan", "analyze", "search"),
    "policies": ("job", "lab", "corpus", "plan", "task", "search", "policies"),
    "control": ("job", "lab", "corpus", "plan", "search", "control"),
}


# A folder holds one study: these tables stay. The others may change, such as the number of
# sequences: what is stored is kept, stages that depend on the change run again.
STUDY_TABLES = ("lab", "corpus", "plan", "task")


class RunState(FileRecord):
    """The whole of `run.json`.

    Args:
        stages: asked for, in order.
        done: stage to digest of the part of the job that it was done for.
        evaluations: stored evaluations that the search will need, as far as known.
    """

    format: Literal["schedlab.run"] = "schedlab.run"
    version: Literal[1] = 1
    stages: tuple[Stage, ...] = ()
    done: dict[Stage, str] = {}
    evaluations: int = 0


class RunFolder:
    """A folder that one process works in."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def job(self) -> Job:
        """The job of this folder."""
        for name in (STATE, JOB):
            if not (self / name).is_file():
                raise InputError(
                    f"{self.path}: no {name} in it, so it is no run folder to go on with"
                )
        return load_job(self / JOB)

    @property
    def state(self) -> RunState:
        """What is asked for and done."""
        path = self / STATE
        return RunState.read(path) if path.exists() else RunState()

    def begin(self, job: Job, stages: tuple[Stage, ...]) -> None:
        """Put the job into the folder and ask for stages, beside those asked for before.

        Raises:
            InputError: the folder holds something else, or results of another study.
        """
        self._refuse_strangers()
        if (self / JOB).exists() and self.has_results:
            self._check_same_study(job)
        wanted = {*self.state.stages, *stages}
        # The state first: a folder with a job but without a state is a stranger's.
        self._update(stages=tuple(stage for stage in ORDER if stage in wanted))
        write_atomic(self / JOB, dump_job(job))

    def _refuse_strangers(self) -> None:
        """A folder that holds anything but a run is somebody else's."""
        if (self / STATE).exists() or not self.path.is_dir():
            return
        if found := sorted({entry.name for entry in self.path.iterdir()} - {LOCK}):
            raise InputError(
                f"{self.path}: not empty and no run folder (it holds {found[0]}); choose another"
                " folder"
            )

    @property
    def has_results(self) -> bool:
        """Whether anything measured is in the folder."""
        evaluations = self / "evals"
        return bool(self.state.done) or (
            evaluations.is_dir() and next(evaluations.iterdir(), None) is not None
        )

    def _check_same_study(self, job: Job) -> None:
        old = self.job
        changed = [table for table in STUDY_TABLES if getattr(old, table) != getattr(job, table)]
        for table in ("policies", "control"):  # one folder, one kind of search
            if (getattr(old, table) is None) != (getattr(job, table) is None):
                changed.append(table)
        if old.job.seed != job.job.seed:
            changed.append("job")
        if changed:
            raise InputError(
                f"{self.path}: holds results of another study: [{'], ['.join(changed)}] differ"
                f" from its {JOB}; choose another folder, or go on with 'schedlab resume'"
            )

    def is_done(self, stage: Stage, job: Job) -> bool:
        """Whether a stage is done for this very job."""
        return self.state.done.get(stage) == _digest(stage, job)

    def mark_done(self, stage: Stage, job: Job) -> None:
        """Note that a stage is done; its files must be written."""
        self._update(done=self.state.done | {stage: _digest(stage, job)})

    def expect(self, evaluations: int) -> None:
        """Note how many stored evaluations will be needed."""
        self._update(evaluations=evaluations)

    def _update(self, **changes: object) -> None:
        state = self.state.model_copy(update=changes)
        write_atomic(self / STATE, state.model_dump_json(indent=1) + "\n")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder against a second coordinator; a dead process holds nothing.

        Raises:
            InputError: another process works in it, it cannot be written, or it holds something
                else than a run.
        """
        self._refuse_strangers()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            stream = open(self / LOCK, "a+", encoding="ascii")  # noqa: SIM115  # held on purpose
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror}") from None
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                stream.seek(0)
                raise InputError(
                    f"{self.path}: process {stream.read(20).strip() or '?'} is working in it; wait"
                    " for it or choose another folder"
                ) from None
            stream.truncate(0)
            stream.write(f"{os.getpid()}\n")
            stream.flush()
            yield

    def holder(self) -> int | None:
        """Process that works in the folder now, if any."""
        try:
            with open(self / LOCK, "r+", encoding="ascii") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    return int(stream.read(20).strip() or 0)
        except OSError:
            pass
        return None


def _digest(stage: Stage, job: Job) -> str:
    tables = job.model_dump(mode="json", include=set(STAGE_TABLES.get(stage, ())))
    tables["job"].pop("name")
    # How work is split changes time and memory, not the result.
    for table, keys in {
        "search": ("workers",),
        "analyze": ("max_batch_tokens", "head_budget_bytes"),
    }.items():
        for key in keys:
            tables.get(table, {}).pop(key, None)
    if stage == "analyze":
        tables["segments"] = job.importance_config().propagation_segments
    return sha256_text(canonical_json(tables))

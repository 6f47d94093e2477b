"""What a run folder holds and how far it is, without loading a model."""

from __future__ import annotations

import os

from schedlab.files import Record
from schedlab.pipeline.run_folder import PLAN, RunFolder, Stage


class StageStatus(Record):
    """One stage that was asked for."""

    name: Stage
    done: bool


class RunStatus(Record):
    """How far a run is.

    Args:
        name: of the job.
        stages: what was asked for.
        evaluations: stored evaluations, each one plan on one block of sequences.
        expected_evaluations: how many the search will need at least, 0 before it began.
        process: id of the process that works in the folder now, None when nobody does.
    """

    folder: str
    name: str
    stages: tuple[StageStatus, ...]
    evaluations: int
    expected_evaluations: int
    process: int | None

    @property
    def complete(self) -> bool:
        """Whether all that was asked for is done."""
        return bool(self.stages) and all(stage.done for stage in self.stages)

    def __str__(self) -> str:
        if self.process is not None:
            doing = f"process {self.process} is working on it"
        elif self.complete:
            doing = "complete"
        else:
            doing = f"not complete; to go on: schedlab resume {self.folder}"
        lines = [f"{self.name} in {self.folder}: {doing}"]
        lines += [f"  {stage.name}: {'done' if stage.done else 'to do'}" for stage in self.stages]
        if self.expected_evaluations:
            needed = "" if self.complete else f" of at least {self.expected_evaluations}"
            lines.append(f"  {self.evaluations} evaluations stored{needed}")
        return "\n".join(lines)


def status(run_dir: str | os.PathLike[str]) -> RunStatus:
    """How far a run folder is.

    Raises:
        InputError: no run folder, or a broken file in it.
    """
    folder = RunFolder(run_dir)
    job, state = folder.job, folder.state
    written = {"report": folder / "report.html", "export": folder / PLAN}
    stored = folder / "evals"
    return RunStatus(
        folder=str(folder.path),
        name=job.job.name,
        stages=tuple(
            StageStatus(
                name=stage,
                done=written[stage].exists() if stage in written else folder.is_done(stage, job),
            )
            for stage in state.stages
        ),
        evaluations=sum(1 for _ in stored.glob("*.json")) if stored.is_dir() else 0,
        expected_evaluations=state.evaluations,
        process=folder.holder(),
    )

"""Evaluation in several processes: networks this small gain little from several threads.

Each worker is a fresh interpreter that loads the models once, takes one seed block at a time (all
plans of a call, so prefixes are shared) and writes to the store, which is where the coordinator
reads the results. Sequences do not depend on the batch they are in, so neither do results on the
number of workers.

A worker dies with its coordinator, however that ends: its standard input closes. Lines of JSON go
in (first the set-up, then work) and come out (one answer for each).
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import schedlab
from schedlab.allocator import keep_freed_memory
from schedlab.errors import InputError, SchedlabError
from schedlab.evaluation.evaluate import identity_of, run_missing
from schedlab.evaluation.evaluator import Evaluator
from schedlab.evaluation.lab import build_lab
from schedlab.evaluation.prompts import given_from_json
from schedlab.files import validate
from schedlab.plan import Plan
from schedlab.plan.lab_config import LabConfig
from schedlab.results import Measurement, PlanCost, SeedBlock, Store
from schedlab.results.control_file import ControlTrace

MIN_WORK = 64
"""Evaluations in all below which starting processes costs more than it saves ..."""

MIN_SECONDS = 20.0
"""... unless they took so long: a guided plan's take seconds each."""

_POLL_SECONDS = 0.1
_PROGRESS_SECONDS = 1.0


@dataclass
class ParallelEvaluator:
    """Like `Evaluator`, with the work spread over processes when there is enough of it.

    Args:
        local: evaluates in this process: small jobs, and merging what the workers stored.
        config: what the workers load; must be what `local` holds.
        num_workers: processes; 1 never starts any.
        min_work: evaluations, at once or one after the other, that are worth starting them for.
        min_seconds: seconds of evaluations in this process that are so, too.
    """

    local: Evaluator
    config: LabConfig
    num_workers: int
    min_work: int = MIN_WORK
    min_seconds: float = MIN_SECONDS
    _workers: list[_Worker] = field(default_factory=list)
    _asked: int = 0
    _seconds: float = 0.0

    def __call__(self, plans: Sequence[Plan], blocks: Sequence[SeedBlock]) -> list[Measurement]:
        """Measure plans on seed blocks; see `evaluate`."""
        missing = {
            (plan, block): key
            for plan in dict.fromkeys(plans)
            for block in blocks
            if (key := identity_of(plan, block, self.local.lab, self.local.prompts).key)
            not in self.local.store
        }
        # Proposals that come one by one add up to as much as a sweep.
        self._asked += len(missing)
        worth = self._asked >= self.min_work or self._seconds >= self.min_seconds
        started = bool(self._workers) or worth
        enough = len(missing) >= (2 if started else self.min_work)
        if self.num_workers > 1 and len({block for _, block in missing}) > 1 and enough:
            self._spread(missing, len(plans) * len(blocks))
        began = time.monotonic()
        found = self.local(plans, blocks)
        self._seconds += time.monotonic() - began
        return found

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    def trace(self, plan: Plan, block: SeedBlock) -> ControlTrace:
        """Clocks and edits of a plan on the sequences of a block."""
        return self.local.trace(plan, block)

    def cost_of(self, plan: Plan) -> PlanCost:
        """Expected cost of one sequence, before running."""
        return self.local.cost_of(plan)

    def texts(self, measurement: Measurement, num: int | None = None) -> list[str]:
        """The first samples of a measurement as text."""
        return self.local.texts(measurement, num)

    def close(self) -> None:
        """End the workers, at once."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def _spread(self, missing: dict[tuple[Plan, SeedBlock], str], total: int) -> None:
        plans_of: dict[SeedBlock, list[Plan]] = {}
        for plan, block in missing:
            plans_of.setdefault(block, []).append(plan)
        waiting = [
            {"plans": [plan.to_json() for plan in plans], "block": asdict(block)}
            for block, plans in plans_of.items()
        ]
        waiting.reverse()
        finished, looked = total - len(missing), 0.0
        in_hand: dict[_Worker, int] = {}
        while len(self._workers) < min(self.num_workers, len(waiting)):
            self._workers.append(_Worker(self._setup()))
        busy: list[_Worker] = []
        idle = list(self._workers)
        while waiting or busy:
            while waiting and idle:
                worker = idle.pop()
                work = waiting.pop()
                worker.send(work)
                busy.append(worker)
                in_hand[worker] = len(work["plans"])
            time.sleep(_POLL_SECONDS)
            for worker in [worker for worker in busy if worker.answered()]:
                busy.remove(worker)
                idle.append(worker)
                finished += in_hand.pop(worker)
            if self.local.progress is not None and time.monotonic() - looked > _PROGRESS_SECONDS:
                done = finished + sum(worker.done for worker in busy)
                self.local.progress(min(total, done), total)
                looked = time.monotonic()

    def _setup(self) -> dict[str, Any]:
        prompts = self.local.prompts
        return {
            "lab": self.config.model_dump(mode="json"),
            "folder": str(self.local.store.folder.parent),
            "prompts": None if prompts is None else prompts.to_json(),
        }


class _Worker:
    """A process, and the answers it gave.

    `done` says how many of the evaluations in hand are there; what is sampled counts in part.
    """

    def __init__(self, setup: dict[str, Any]) -> None:
        source = str(Path(schedlab.__file__).parents[1])
        paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "schedlab.pipeline.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(paths),
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "MKL_NUM_THREADS": "1",
            },
            start_new_session=True,  # Ctrl-C is the coordinator's business
        )
        self.done = 0
        self.answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        self.send(setup)

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its death is noticed in answered()
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def answered(self) -> bool:
        """Whether the work is done; raises what went wrong in the worker."""
        while True:
            try:
                answer = json.loads(self.answers.get_nowait())
            except queue.Empty:
                return False
            self.done = answer.get("done", 0)
            if "problem" in answer:
                break
        if answer["problem"] is None:
            return True
        raise (InputError if answer["is_input"] else SchedlabError)(answer["problem"])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.answers.put(line)
        problem = "a worker process ended (out of memory?); finished evaluations are kept: resume"
        self.answers.put(json.dumps({"problem": problem, "is_input": False}))


def main() -> None:
    """Be a worker: set up by the first line of standard input, then work line by line."""
    keep_freed_memory()
    # Results go to the real standard output alone; whatever prints by itself goes to the log.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    lines = _lines()
    setup = json.loads(next(lines))
    evaluator: Evaluator | None = None
    for line in lines:
        problem: SchedlabError | None = None
        try:
            if evaluator is None:
                evaluator = _evaluator(setup)
            work = json.loads(line)
            run_missing(
                [Plan.from_json(plan) for plan in work["plans"]],
                [SeedBlock(**work["block"])],
                lab=evaluator.lab,
                store=evaluator.store,
                prompts=evaluator.prompts,
                progress=lambda done, _: answer({"done": done}),
            )
        except SchedlabError as error:
            problem = error
        answer(
            {
                "problem": None if problem is None else str(problem),
                "is_input": isinstance(problem, InputError),
            }
        )


def _evaluator(setup: dict[str, Any]) -> Evaluator:
    return Evaluator(
        build_lab(validate(LabConfig, setup["lab"], where="worker")),
        Store(setup["folder"]),
        prompts=given_from_json(setup["prompts"]),
    )


def _lines() -> Iterator[str]:
    """Lines of standard input; when it closes the process ends, whatever it is doing."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            waiting.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield waiting.get()


if __name__ == "__main__":
    main()

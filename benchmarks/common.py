"""What all benchmarks share: processes of their own, spread, peaks of memory and of matmul, files.

Every way that is compared runs in a process of its own, so that its peak memory is its own, and
the processes are asked in turn, so that a ratio is one of neighbouring runs and holds on a busy
machine too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import torch

from schedlab.allocator import keep_freed_memory
from schedlab.files import write_atomic
from schedlab.results.environment_file import machine, package_versions

RESULTS = Path(__file__).resolve().parent / "results"
P = ParamSpec("P")
T = TypeVar("T")

# (M, K, N) of an (M, K) by (K, N) product: squares, then what the networks here multiply: 1,024
# positions through layers of width 128 and 256, 64 positions through the head.
SHAPES = (
    (512, 512, 512),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (1024, 128, 384),
    (1024, 128, 512),
    (1024, 512, 128),
    (1024, 256, 1024),
    (1024, 1024, 256),
    (64, 128, 2048),
    (64, 256, 8192),
)
_SECONDS_PER_ROUND, _LEAST_CALLS = 0.05, 2


class OwnProcess:
    """A process for one of the ways that are compared; it lives until the `with` ends.

    It is forked from a server that has imported everything and has run nothing (imports take
    seconds); functions must be of a module's top level. What must stay loaded between calls is
    kept by `functools.cache`.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            # The last one comes with the first checkpoint that is read.
            [
                "schedlab.importance",
                "schedlab.evaluation.lab",
                "schedlab.search.space",
                "torch._dynamo",
            ]
        )
        self._pool = ProcessPoolExecutor(1, context, _begin, (torch.get_num_threads(),))
        self._at_start = self.call(peak_memory)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of a call made there."""
        return self._pool.submit(function, *args, **kwargs).result()

    def memory(self) -> dict[str, int]:
        """Bytes: the peak so far, loading included, and what interpreter and libraries take."""
        return {"peak_bytes": self.call(peak_memory), "at_start_bytes": self._at_start}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()


def _begin(num_threads: int) -> None:
    keep_freed_memory()  # as the package's own processes do
    torch.set_num_threads(num_threads)


def peak_memory() -> int:
    """Peak resident bytes of this process.

    Linux keeps `ru_maxrss` over exec: a small process would show the peak of the one that began
    it. `VmHWM` belongs to the process alone.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def in_turn(ways: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Every way `repeats` times, alternating; every other round in reverse order."""
    found: dict[str, list[T]] = {name: [] for name in ways}
    for number in range(repeats):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            found[name].append(ways[name]())
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def ratios(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """Spread of the ratio over the repeats; runs of the same round are compared."""
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def shown(found: Mapping[str, float], digits: int = 3) -> str:
    """`median [low, high]`."""
    median, low, high = (f"{found[name]:#.{digits}g}" for name in ("median", "low", "high"))
    return f"{median.rstrip('.')} [{low.rstrip('.')}, {high.rstrip('.')}]"


def beyond_start(memory: Mapping[str, int]) -> int:
    """Bytes of the peak that interpreter and libraries do not take."""
    return memory["peak_bytes"] - memory["at_start_bytes"]


def mebibytes(memory: Mapping[str, int]) -> str:
    """The peak, and how much of it is beyond interpreter and libraries."""
    return f"{memory['peak_bytes'] / 2**20:.0f} MiB (+{beyond_start(memory) / 2**20:.0f})"


@torch.inference_mode()
def matmul_rates(dtype: torch.dtype, rounds: int) -> dict[str, float]:
    """FLOP/s of matrix products by shape at the present threads.

    The fastest of many single calls, in rounds: what other work on the machine leaves alone.
    """
    factors = {  # the second one lies as nn.Linear has it
        (m, k, n): (torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype).T)
        for m, k, n in SHAPES
    }
    fastest = dict.fromkeys(SHAPES, math.inf)
    for _ in range(rounds):
        for shape, (a, b) in factors.items():
            end = time.perf_counter() + _SECONDS_PER_ROUND
            for call in itertools.count():
                begin = time.perf_counter()
                if begin > end and call >= _LEAST_CALLS:
                    break
                a @ b
                fastest[shape] = min(fastest[shape], time.perf_counter() - begin)
    return {f"{m}x{k}x{n}": 2 * m * k * n / seconds for (m, k, n), seconds in fastest.items()}


def matmul_peaks(*precisions: str, rounds: int) -> dict[str, Any]:
    """The machine's peak by precision: FLOP/s, the shape that reached it, and all shapes' rates.

    Measured in a process of its own; printed.
    """
    peaks: dict[str, Any] = {}
    for precision in precisions:
        with OwnProcess() as process:
            rates = process.call(matmul_rates, getattr(torch, precision), rounds)
        shape = max(rates, key=rates.__getitem__)
        peaks[precision] = {"flops_per_second": rates[shape], "shape": shape, "by_shape": rates}
        print(f"matmul peak {precision}: {rates[shape] / 1e9:.0f} GFLOP/s at {shape}", flush=True)
    return peaks


def share_of_peak(
    peaks: Mapping[str, Any], precision: str, flops: float, seconds: Sequence[float]
) -> dict[str, float]:
    """Achieved FLOP/s over the matmul peak of the precision, spread over the runs."""
    peak = peaks[precision]["flops_per_second"]
    return spread([flops / one / peak for one in seconds])


def parser(doc: str | None, name: str) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    made.add_argument("--quick", action="store_true", help="smoke run: too small to conclude from")
    made.add_argument("--repeats", type=int, help="runs of every way")
    made.add_argument("--threads", type=int, help="of every process; torch's choice by default")
    made.add_argument(
        "--out",
        type=Path,
        help=f"JSON file; benchmarks/results/{name}.json by default, none after --quick",
    )
    made.set_defaults(name=name)
    return made


def parsed(made: argparse.ArgumentParser, *, repeats: int) -> argparse.Namespace:
    """The options, with what is not given filled in; sets the threads."""
    options = made.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.repeats = options.repeats or (2 if options.quick else repeats)
    options.peak_rounds = 1 if options.quick else 10
    if options.out is None and not options.quick:
        options.out = RESULTS / f"{options.name}.json"
    return options


def described() -> dict[str, Any]:
    """What a figure depends on beside the code; taken before anything runs."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "platform": machine(),
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],  # of the last minute: other work beside the run
        "python": platform.python_version(),
        "packages": {
            name: version
            for name, version in package_versions().items()
            if name in ("torch", "numpy")
        },
    }


def write(options: argparse.Namespace, result: Mapping[str, Any]) -> None:
    """The result as JSON, with how it was run."""
    if options.out is None:
        return
    settings = {  # files and folders say nothing about a figure
        name: value
        for name, value in vars(options).items()
        if name != "name" and not isinstance(value, Path)
    }
    write_atomic(options.out, json.dumps({"options": settings, **result}, indent=1) + "\n")
    print(f"wrote {os.path.relpath(options.out)}")

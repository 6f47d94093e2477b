"""Is anything slower or larger for small jobs than it was at an earlier commit?

Whole commands, start-up included, of this checkout and of another one, alternating, in the same
environment: seconds, and the peak resident memory of the command's main process.

    git worktree add /tmp/before COMMIT
    python benchmarks/small_jobs.py --before /tmp/before
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import common

HERE = Path(__file__).resolve().parent.parent
PLAN = HERE / "reports" / "embedded_pair" / "plan.json"
JOB = """
[lab]
denoisers = { H = "bundled:heavy", L = "bundled:light-4" }
[plan]
length = 16
num_steps = 8
[analyze]
num_windows = 16
sampled_sequences = 4
propagation_sequences = 2
[search]
num_segments = 4
num_light = 2
num_sequences = 16
fresh_sequences = 16
workers = 1
"""
# The command, then the peak of its own process (`ru_maxrss` would be that of a large parent).
COMMAND = """
import runpy, sys
try:
    runpy.run_module("schedlab", run_name="__main__", alter_sys=True)
finally:
    lines = open("/proc/self/status").read().splitlines()
    sys.stderr.write(next(line for line in lines if line.startswith("VmHWM:")))
"""
CASES = {
    "sample 1 text": ["sample", str(PLAN), "--num", "1"],
    "sample 16 texts": ["sample", str(PLAN), "--num", "16"],
    "analyze 16 windows of 16 tokens": ["analyze", "{job}", "--run", "{run}"],
    "search 17 schedules, 16 sequences, 8 steps": ["search", "{job}", "--run", "{run}"],
    "demo --quick": ["demo", "--quick", "--run", "{run}"],
}


def run(root: Path, arguments: list[str]) -> tuple[float, float]:
    """Seconds and peak MiB of one command with the package of `root`."""
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.toml"
        job.write_text(JOB, encoding="utf-8")
        names = {"{job}": str(job), "{run}": f"{folder}/run"}
        command = [names.get(argument, argument) for argument in arguments]
        begin = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *command],
            cwd=root,  # comes before what is installed
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - begin
        *_, last = done.stderr.splitlines() or [""]
        if done.returncode or "VmHWM:" not in last:
            raise SystemExit(f"{root}: {' '.join(command)} failed: {done.stderr[-400:]}")
        return seconds, int(last.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Run every case in both checkouts and write one JSON object."""
    made = common.parser(__doc__, "small_jobs")
    made.add_argument("--before", type=Path, required=True, help="a checkout to compare with")
    options = common.parsed(made, repeats=3)
    rows: list[dict[str, Any]] = []
    for name, arguments in CASES.items():
        found: dict[str, list[tuple[float, float]]] = {"before": [], "now": []}
        for _ in range(options.repeats):
            for which, root in (("before", options.before.resolve()), ("now", HERE)):
                found[which].append(run(root, arguments))
        seconds = {which: [one for one, _ in runs] for which, runs in found.items()}
        peaks = {which: [one for _, one in runs] for which, runs in found.items()}
        ratio = common.ratios(seconds["now"], seconds["before"])
        memory = {which: median(values) for which, values in peaks.items()}
        print(
            f"{name}: {median(seconds['before']):.1f} s before,"
            f" {median(seconds['now']):.1f} s now (ratio {common.shown(ratio)});"
            f" {memory['before']:.0f} MiB before, {memory['now']:.0f} MiB now",
            flush=True,
        )
        rows.append({"case": name, "seconds": seconds, "peak_mib": peaks, "ratio_seconds": ratio})
    common.write(options, {"setting": common.described(), "rows": rows})


if __name__ == "__main__":
    main()

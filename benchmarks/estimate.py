"""Does `schedlab estimate` say what a job will take?

Every job is estimated and then run, each by the command in a process of its own: wall seconds, and
the most memory that all its processes held at a time (proportional set size, sampled). What it
predicts of forwards is compared with forwards counted where they are made by a test
(`tests/test_calibration.py`).

    python benchmarks/estimate.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import common

_LOOK_SECONDS = 0.25
LAB = """
[lab]
denoisers = { H = "bundled:heavy", M = "bundled:light-8", L = "bundled:light-4" }
"""
JOBS = {
    "17 schedules, 32 tokens": """
plan = { length = 32, num_steps = 20 }
analyze = { num_windows = 64, sampled_sequences = 16, propagation_sequences = 8 }
search = { num_segments = 5, num_light = 2, num_sequences = 16 }
""",
    "240 schedules, 64 tokens": """
plan = { length = 64, num_steps = 50 }
analyze = { num_windows = 128, sampled_sequences = 32, propagation_sequences = 16 }
search = { num_segments = 10, num_light = 4, num_sequences = 32 }
""",
    "Optuna, three denoisers": """
plan = { length = 64, num_steps = 64 }
analyze = { num_windows = 64, sampled_sequences = 16, propagation_sequences = 8 }
search = { num_segments = 8, num_light = 3, trials = 40, roles = ["H", "M", "L"] }
""",
    "1,000 steps": """
plan = { length = 64, num_steps = 1000 }
analyze = { num_windows = 64, sampled_sequences = 16, propagation_sequences = 4 }
search = { num_segments = 6, num_light = 2, num_sequences = 32 }
""",
    "256 schedules, one process, no analysis": """
plan = { length = 48, num_steps = 24 }
search = { num_segments = 8, num_light = "all", num_sequences = 16, workers = 1, additive = false }
""",
}
QUICK = ["17 schedules, 32 tokens"]


def command(*words: str) -> list[str]:
    """A schedlab command of this checkout."""
    return [sys.executable, "-m", "schedlab", *words]


def estimated(job: Path) -> tuple[dict[str, Any], float]:
    """What the job is said to take, and how long saying it took."""
    begin = time.perf_counter()
    done = subprocess.run(command("estimate", str(job), "--json"), check=True, capture_output=True)
    return json.loads(done.stdout), time.perf_counter() - begin


def run(job: Path, folder: Path) -> tuple[float, int]:
    """Wall seconds and peak bytes of a search."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        command("search", str(job), "--run", str(folder)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak, over = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(_LOOK_SECONDS):
            peak = max(peak, sum(map(held, [process.pid, *descendants(process.pid)])))

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    seconds = time.perf_counter() - begin
    over.set()
    watcher.join()
    if status:
        raise SystemExit(f"{job}: the search ended with {status}")
    return seconds, peak


def descendants(pid: int) -> list[int]:
    """Processes that a process began, and that they began."""
    try:
        text = "".join(file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children"))
    except OSError:
        return []
    children = [int(word) for word in text.split()]
    return children + [one for child in children for one in descendants(child)]


def held(pid: int) -> int:
    """Bytes of a process, with its part of what it shares."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def measured(name: str, tables: str, folder: Path) -> dict[str, Any]:
    """One job, said and done."""
    number = len(list(folder.iterdir()))
    job = folder / f"job-{number}.toml"
    job.write_text(tables + LAB, encoding="utf-8")
    said, saying = estimated(job)
    seconds, peak = run(job, folder / f"run-{number}")
    predicted = said["start_seconds"] + said["analysis_seconds"] + said["search_seconds"]
    row = {
        "job": name,
        "predicted": said,
        "estimate_seconds": saying,
        "seconds": seconds,
        "peak_bytes": peak,
        "ratio_seconds": predicted / seconds,
        "ratio_memory": said["memory_bytes"] / peak,
    }
    print(
        f"{name}: {predicted:.0f} s predicted in {saying:.0f} s, took {seconds:.0f} s (ratio"
        f" {row['ratio_seconds']:.2f}); {said['memory_bytes'] / 1e9:.2f} GB predicted, held"
        f" {peak / 1e9:.2f} GB (ratio {row['ratio_memory']:.2f})",
        flush=True,
    )
    return row


def main() -> None:
    """Say and do every job and write one JSON object."""
    options = common.parsed(common.parser(__doc__, "estimate"), repeats=1)
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    setting = common.described()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, tables in JOBS.items():
            if not options.quick or name in QUICK:
                rows += [measured(name, tables, Path(folder)) for _ in range(options.repeats)]
    common.write(options, {"setting": setting, "rows": rows})


if __name__ == "__main__":
    main()

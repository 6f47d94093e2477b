"""Train the bundled models: `python train.py RUNS_FOLDER [NAME ...]`, all five by default.

Each job `NAME.toml` runs in `RUNS_FOLDER/NAME`. Stopped runs go on where they were when the same
command is given again; finished ones are skipped over quickly.
"""

from __future__ import annotations

import sys
from pathlib import Path

from schedlab.training import read_train_job, train

HERE = Path(__file__).resolve().parent
NAMES = ("heavy", "heavy-b", "light-4", "light-8", "scorer")


def main(runs: str, *names: str) -> None:
    for name in names or NAMES:
        sys.stdout.write(f"== {name}\n")
        train(read_train_job(HERE / f"{name}.toml"), Path(runs) / name)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])

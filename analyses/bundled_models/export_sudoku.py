"""Put the two Sudoku denoisers into the package: `python export_sudoku.py RUNS_FOLDER`.

Both runs must be finished. Each is measured on the test split's puzzles, which no run has seen:
its loss, and the share of puzzles that it solves; `sudoku_results.json` beside this script records
it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from schedlab.allocator import keep_freed_memory
from schedlab.denoisers import checkpoint
from schedlab.errors import InputError
from schedlab.evaluation.evaluate import evaluate
from schedlab.evaluation.lab import Lab, masked_process
from schedlab.evaluation.prompts import Prompts
from schedlab.files import write_atomic
from schedlab.plan import Decoding, ModelSchedule, Plan, PolicySpec
from schedlab.results import SeedBlock, Store
from schedlab.tasks import sudoku
from schedlab.tasks.rows import encode_prompts, encode_rows
from schedlab.text import Tokenizer
from schedlab.training.objectives import held_out_losses, mean_with_interval

HERE = Path(__file__).resolve().parent
NAMES = ("sudoku", "sudoku-light")
PUZZLES = 1_024
LEVELS = 8
SEED = 0
PLANS = {
    "one call": ("low_confidence", 1, {}),
    "a call per cell": ("low_confidence", 36, {}),
    "threshold 0.9": ("threshold", 36, {"threshold": 0.9}),
    "threshold 0.99": ("threshold", 36, {"threshold": 0.99}),
}


def main(runs: str) -> None:
    tokenizer = Tokenizer.load("bundled:sudoku")
    task = sudoku.task(PUZZLES)
    prompts = Prompts.of(encode_prompts(task.items, tokenizer).tokens_NP, task)
    given = prompts.prefix_length
    length = given + sudoku.CELLS
    rows_SL = encode_rows(task.items, tokenizer, prompt=given, length=length)
    results: dict[str, Any] = {}
    for name in NAMES:
        card = checkpoint.read_card(Path(runs) / name)
        if card["steps"] < card["planned_steps"]:
            raise InputError(f"{name}: {card['steps']} of {card['planned_steps']} steps are done")
        model = checkpoint.load(Path(runs) / name)
        losses_S = held_out_losses(model, rows_SL, levels=LEVELS, seed=SEED, given=given)
        card |= {"held_out": mean_with_interval(losses_S).model_dump(), "held_out_split": "test"}
        checkpoint.save(checkpoint.BUNDLED / name, model, card)
        lab = Lab({"H": model}, masked_process(model.spec), tokenizer, None)
        plans = [
            Plan(
                length=length,
                model_schedule=ModelSchedule.constant("H", steps),
                policy=PolicySpec(name=policy, parameters={"block_length": 0, **parameters}),
                decoding=Decoding(temperature=0),
            )
            for policy, steps, parameters in PLANS.values()
        ]
        with tempfile.TemporaryDirectory() as folder:
            found = evaluate(
                plans, [SeedBlock(SEED, 0, PUZZLES)], lab=lab, store=Store(folder), prompts=prompts
            )
        results[name] = {
            "held_out": card["held_out"],
            **{key: card[key] for key in ("num_parameters", "seed", "steps", "training_seconds")},
            "solved": {
                label: {
                    key: measured.estimates[key].model_dump() for key in ("accuracy", "forwards")
                }
                for label, measured in zip(PLANS, found, strict=True)
            },
        }
        print(
            name,
            {label: str(m.estimates["accuracy"]) for label, m in zip(PLANS, found, strict=True)},
        )
    facts = {"puzzles": PUZZLES, "split": "test", "levels": LEVELS, "seed": SEED}
    unit = "held_out: NELBO, nats per answer token; solved: share of puzzles, at temperature 0"
    write_atomic(
        HERE / "sudoku_results.json",
        checkpoint.json_text({**facts, "unit": unit, "precision": "float32", "models": results}),
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    keep_freed_memory()
    torch.set_num_threads(1)
    main(sys.argv[1])

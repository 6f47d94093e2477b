"""Every policy on the embedded reasoning task, under model schedules of the bundled pair."""

from __future__ import annotations

from pathlib import Path

import pytest

from schedlab.denoisers import loading
from schedlab.evaluation.evaluate import evaluate
from schedlab.evaluation.lab import Lab, masked_process
from schedlab.evaluation.prompts import Prompts
from schedlab.plan import Decoding, ModelSchedule, Plan, PolicySpec
from schedlab.plan.policy_space import POLICY_SPACES
from schedlab.policies import COMMIT_POLICIES, UNIFORM_POLICIES, default_parameters
from schedlab.results import Measurement, SeedBlock, Store
from schedlab.tasks import sudoku
from schedlab.tasks.rows import encode_prompts
from schedlab.text import Tokenizer

PUZZLES, LENGTH = 6, 73


@pytest.fixture(scope="module")
def lab() -> Lab:
    pair = {"H": loading.load("bundled:sudoku"), "L": loading.load("bundled:sudoku-light")}
    tokenizer = Tokenizer.load("bundled:sudoku")
    return Lab(pair, masked_process(pair["H"].spec), tokenizer, None)


def measured(lab: Lab, folder: Path, name: str, schedule: str, **parameters) -> Measurement:
    greedy = name in COMMIT_POLICIES
    task = sudoku.task(PUZZLES)
    prompts = Prompts.of(encode_prompts(task.items, lab.tokenizer).tokens_NP, task)
    blocks = {"block_length": 0} if POLICY_SPACES[name].in_blocks else {}
    plan = Plan(
        length=LENGTH,
        model_schedule=ModelSchedule.parse(schedule),
        policy=PolicySpec(name=name, parameters=blocks | parameters),
        decoding=Decoding(temperature=0 if greedy else 1),
    )
    block = SeedBlock(0, 0, PUZZLES)
    (found,) = evaluate([plan], [block], lab=lab, store=Store(folder), prompts=prompts)
    assert (found.tokens_SL[:, :37] == prompts.tokens_NP).all()
    assert (found.tokens_SL != lab.process.mask_id).all()
    return found


@pytest.mark.parametrize("name", sorted(POLICY_SPACES.keys() - UNIFORM_POLICIES.keys()))
def test_every_policy_answers_under_a_mixed_schedule(lab: Lab, tmp_path: Path, name: str) -> None:
    # Gradients come of guidance; any other signal does.
    reads_signal = default_parameters(name).get("signal", "none") != "none"
    signal = {"signal": "entropy"} if reads_signal else {}
    found = measured(lab, tmp_path, name, "L9 H18 L9", **signal)
    assert set(found.scores["accuracy"]) <= {0.0, 1.0}
    assert set(found.forwards) == {"H", "L"}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("low_confidence", {}),
        ("threshold", {"threshold": 0.99}),
        ("factor", {"factor": 0.05}),
        ("entropy_bound", {"gamma": 0.02}),
        ("stdd", {"threshold": 0.99, "lowest": 0.9}),
    ],
)
def test_careful_policies_solve_what_one_call_does_not(
    lab: Lab, tmp_path: Path, name: str, parameters
) -> None:
    careful = measured(lab, tmp_path, name, "H36", **parameters)
    hasty = measured(lab, tmp_path, "low_confidence", "H1")
    assert careful.scores["accuracy"].sum() >= 5
    assert hasty.scores["accuracy"].sum() <= 3

"""The evaluator: what search and pipelines hold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from toy_lab import LENGTH, oracle_lab, plan_of

from schedlab.denoisers.base import DenoiserSpec
from schedlab.errors import InputError
from schedlab.evaluation.evaluator import Evaluator
from schedlab.evaluation.prompts import Prompts
from schedlab.metrics.cost import expected_cost, role_costs
from schedlab.plan import ModelSchedule, Plan, PolicySpec
from schedlab.results import PlanCost, Store, seed_blocks


@pytest.mark.parametrize("policy", ["ancestral", "random_order"])
@pytest.mark.parametrize("prefix_length", [0, 2])
@pytest.mark.parametrize("schedule", ["L5 H15", "L1 H2"])
def test_expected_cost_is_the_mean_of_the_counted_cost(
    tmp_path: Path, policy: str, prefix_length: int, schedule: str
) -> None:
    prompts = Prompts.of([[0] * prefix_length]) if prefix_length else None
    evaluator = Evaluator(oracle_lab(), Store(tmp_path), prompts)
    plan = plan_of(schedule, policy=PolicySpec(name=policy))
    (measured,) = evaluator([plan], seed_blocks(1, 2_000, block_size=2_000))
    expected = evaluator.cost_of(plan)
    for name in ("block_forwards", "flops_blocks", "flops_total"):
        counted = getattr(measured, f"{name}_S")
        error = counted.std() / np.sqrt(len(counted))
        assert abs(counted.mean() - getattr(expected, name)) <= 4 * error + 1e-9
    for role, mean in expected.forwards.items():
        error = measured.forwards[role].std() / np.sqrt(2_000)
        assert abs(measured.forwards[role].mean() - mean) <= 4 * error + 1e-9


def test_expected_forwards_have_the_closed_form(tmp_path: Path) -> None:
    cost = Evaluator(oracle_lab(), Store(tmp_path)).cost_of(plan_of("L5 H15"))
    steps = 20 * (1 - (1 - 1 / 20) ** LENGTH)
    assert sum(cost.forwards.values()) == pytest.approx(steps)
    assert cost.forwards["L"] == pytest.approx(steps / 4)
    assert cost.block_forwards == pytest.approx(steps * (4 / 4 + 3 * 12 / 4))


def test_nominal_cost_is_the_papers_convention(tmp_path: Path) -> None:
    """A quarter of the steps on 4 of 12 blocks saves 16.7 % (arXiv 2604.02340)."""
    evaluator = Evaluator(oracle_lab(), Store(tmp_path))
    heavy, mixed = evaluator.cost_of(plan_of("H20")), evaluator.cost_of(plan_of("L5 H15"))
    assert mixed.nominal_forwards == {"L": 5, "H": 15}
    assert mixed.nominal_block_forwards == 5 * 4 + 15 * 12
    assert mixed.saved(heavy, "nominal_flops_blocks") == pytest.approx(1 / 6)
    assert mixed.saved(heavy, "block_forwards") == pytest.approx(1 / 6)


def test_nominal_cost_with_the_head_at_every_position_has_the_known_share() -> None:
    """At GPT-2's sizes a quarter light saves 16.7 % of the blocks, 12.2 % with the head."""
    size = {"vocab_size": 50_258, "mask_id": 50_257, "hidden_size": 768, "max_length": 1024}
    specs = {role: DenoiserSpec(num_blocks=n, **size) for role, n in (("H", 12), ("L", 4))}
    denoisers = {role: SimpleNamespace(spec=spec) for role, spec in specs.items()}

    def cost(schedule: str) -> PlanCost:
        plan = Plan(length=1024, model_schedule=ModelSchedule.parse(schedule))
        return expected_cost(plan, role_costs(plan, denoisers))

    heavy, mixed = cost("H20"), cost("L5 H15")
    assert mixed.saved(heavy, "nominal_flops_blocks") == pytest.approx(1 / 6)
    assert mixed.saved(heavy, "nominal_flops_total") == pytest.approx(0.122, abs=1e-3)


def test_texts_are_the_samples_decoded(tmp_path: Path) -> None:
    evaluator = Evaluator(oracle_lab(), Store(tmp_path))
    (measured,) = evaluator([plan_of("H10")], seed_blocks(0, 4, block_size=4))
    texts = evaluator.texts(measured, 3)
    spelling = {0: "a", 1: "b", 2: "\n\n"}  # 2 is the separator
    assert texts == ["".join(spelling[i] for i in row) for row in measured.tokens_SL[:3]]


def test_a_plan_with_an_unknown_role_has_no_cost(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="role 'X'"):
        Evaluator(oracle_lab(), Store(tmp_path)).cost_of(plan_of("X10"))

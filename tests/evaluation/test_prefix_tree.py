"""Steps of prefix trees."""

from __future__ import annotations

import pytest
from toy_lab import assignments, plan_of

from schedlab.evaluation.prefix_tree import steps_to_run


@pytest.mark.parametrize(("num_light", "steps"), [(4, 790), (5, 922), (None, 2046)])
def test_steps_to_run_counts_shared_steps_once(num_light: int | None, steps: int) -> None:
    assert sum(steps_to_run(assignments(10, num_light)).values()) == steps


def test_steps_to_run_counts_families_and_roles_apart_and_a_plan_once() -> None:
    plans = [plan_of("H4"), plan_of("H3 L1"), plan_of("H5"), plan_of("H4")]
    assert steps_to_run(plans) == {"H": 9, "L": 1}
    assert steps_to_run([plan_of("H1 L1 H2"), plan_of("H1 M1 H2")]) == {"H": 5, "L": 1, "M": 1}

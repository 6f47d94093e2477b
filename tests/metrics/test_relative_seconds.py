"""Seconds beside an autoregressive model of the same size."""

from __future__ import annotations

import pytest

from schedlab.denoisers import loading
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError
from schedlab.metrics.relative_seconds import autoregressive_config, relative_seconds
from schedlab.plan import ModelSchedule, Plan
from schedlab.processes import MaskedProcess


def plan_of(steps: int) -> Plan:
    return Plan(length=32, model_schedule=ModelSchedule.constant("H", steps))


def test_more_steps_take_more_of_its_seconds() -> None:
    denoiser = loading.load("bundled:heavy")
    assert denoiser.spec.mask_id is not None
    process = MaskedProcess(denoiser.spec.vocab_size, denoiser.spec.mask_id)
    few, many = (
        relative_seconds(plan_of(steps), {"H": denoiser}, process, turns=3) for steps in (1, 24)
    )
    assert 0 < few.low <= few.value <= few.high
    assert few.n == 3
    assert many.value > 2 * few.value  # 24 times the steps


@pytest.mark.parametrize("name", ["heavy", "simplex"])
def test_the_model_is_of_the_denoisers_size(name: str) -> None:
    spec = loading.load(f"bundled:{name}").spec
    config = autoregressive_config(spec, 64)
    assert config.causal
    found = Transformer(config).spec
    for field in ("vocab_size", "num_blocks", "hidden_size", "block_weights"):
        assert getattr(found, field) == getattr(spec, field)


def test_odd_widths_get_heads_that_fit() -> None:
    spec = Transformer(
        TransformerConfig(vocab_size=5, mask_id=4, num_blocks=1, hidden_size=150, num_heads=5,
                          max_length=8)
    ).spec  # fmt: skip
    assert autoregressive_config(spec, 8).num_heads in (1, 3, 5, 15)


def test_one_turn_has_no_interval() -> None:
    with pytest.raises(InputError, match="turns"):
        relative_seconds(plan_of(2), {}, MaskedProcess(5, 4), turns=1)

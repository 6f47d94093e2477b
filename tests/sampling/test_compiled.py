"""Compiled denoisers: the same function up to rounding, in sampling's shape only."""

from __future__ import annotations

import shutil

import pytest
import torch

from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.evaluation.lab import build_lab
from schedlab.plan.lab_config import LabConfig
from schedlab.sampling.compiled import Compiled
from schedlab.sampling.forwards import call_rows, logits_of, trunk_of

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


def test_compiled_calls_are_the_networks_own_up_to_rounding() -> None:
    config = TransformerConfig(
        vocab_size=11, mask_id=10, num_blocks=1, hidden_size=16, num_heads=2, max_length=32
    )
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    compiled = Compiled(model.eval())
    rows = call_rows(32, torch.device("cpu"))
    z = torch.randint(0, 11, (rows, 32), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model.features(z)
        trunk = trunk_of(compiled, z, None)
        torch.testing.assert_close(trunk, model.trunk(z), atol=1e-5, rtol=1e-5)
        row, position = torch.arange(rows), torch.arange(rows) % 32
        logits = logits_of(compiled, trunk, row, position)
        expected_logits = model.logits(expected[row, position])
        torch.testing.assert_close(logits, expected_logits, atol=1e-5, rtol=1e-5)
        # Outside of sampling nothing is compiled: the same bits.
        assert torch.equal(compiled.features(z), expected)
    assert compiled.fingerprint == model.fingerprint and compiled.spec == model.spec


def test_compiled_evaluations_are_stored_apart() -> None:
    denoisers = {"H": "bundled:light-4"}
    plain, compiled = (
        build_lab(LabConfig(denoisers=denoisers, device="cpu", compile=value))
        for value in (False, True)
    )
    assert (plain.kernels, compiled.kernels) == ("cpu", "cpu compiled")
    assert plain.context()["denoisers"] == compiled.context()["denoisers"]

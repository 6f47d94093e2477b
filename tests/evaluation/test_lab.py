"""A lab refuses parts that do not fit together and says which field differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_lab import oracle_lab

from schedlab.denoisers import checkpoint
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError
from schedlab.evaluation.lab import build_lab
from schedlab.files import validate
from schedlab.plan.lab_config import LabConfig
from schedlab.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.load("bundled")
SIZES = {
    "vocab_size": TOKENIZER.vocab_size,
    "mask_id": TOKENIZER.mask_id,
    "num_blocks": 1,
    "hidden_size": 8,
    "num_heads": 2,
    "max_length": 16,
}


def save(folder: Path, **sizes: int | bool) -> str:
    model = Transformer(TransformerConfig(**SIZES | sizes))
    model.init_weights(torch.Generator().manual_seed(0))
    checkpoint.save(folder, model, {})
    return str(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [("vocab_size", 7), ("mask_id", 0), ("max_length", 9), ("prediction", "leave_one_out")],
)
def test_denoisers_that_differ_are_refused_by_field(field: str, value: object) -> None:
    lab = oracle_lab()
    light = lab.denoisers["L"]
    light.spec = replace(light.spec, **{field: value})
    with pytest.raises(InputError, match=f"{field} must be the same .* denoiser L"):
        replace(lab)


@pytest.mark.parametrize("field", ["vocab_size", "mask_id"])
def test_a_tokeniser_of_another_vocabulary_is_refused(field: str) -> None:
    lab = oracle_lab()
    setattr(lab.tokenizer, field, 99)
    with pytest.raises(InputError, match=f"{field} must be the same .* the tokeniser"):
        replace(lab)


def test_build_lab_loads_what_the_config_names(tmp_path: Path) -> None:
    config = LabConfig(
        denoisers={"H": save(tmp_path / "h", num_blocks=2), "L": save(tmp_path / "l")},
        scorer=save(tmp_path / "s", causal=True),
        precision="float32",
        device="cpu",
    )
    lab = build_lab(config)
    assert (lab.precision, lab.device, lab.max_length) == ("float32", "cpu", 16)
    assert lab.denoisers["H"].spec.num_blocks == 2
    assert lab.context()["denoisers"].keys() == {"H", "L"}
    assert lab.process.mask_id == TOKENIZER.mask_id
    half = build_lab(config.model_copy(update={"precision": "bfloat16"}))
    assert half.denoisers["H"].embedding.weight.dtype == torch.bfloat16
    assert half.scorer.fingerprint == lab.scorer.fingerprint  # always float32


@pytest.mark.parametrize(
    ("capabilities", "precision"), [({"avx512_bf16": True}, "bfloat16"), ({}, "float32")]
)
def test_automatic_precision_follows_what_the_cpu_multiplies(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capabilities: dict[str, bool],
    precision: str,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    config = LabConfig(
        denoisers={"H": save(tmp_path / "h")},
        scorer=save(tmp_path / "s", causal=True),
        device="cpu",
    )
    assert build_lab(config).precision == precision


def test_denoiser_and_scorer_cannot_change_places(tmp_path: Path) -> None:
    denoiser, scorer = save(tmp_path / "h"), save(tmp_path / "s", causal=True)
    with pytest.raises(InputError, match=r"H: .* is autoregressive"):
        build_lab(LabConfig(denoisers={"H": scorer}, scorer=scorer, device="cpu"))
    with pytest.raises(InputError, match="scorer must be autoregressive"):
        build_lab(LabConfig(denoisers={"H": denoiser}, scorer=denoiser, device="cpu"))


def test_a_scorer_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    scorer = save(tmp_path / "s", causal=True, vocab_size=50, mask_id=49)
    with pytest.raises(InputError, match=f"tokeniser's {TOKENIZER.vocab_size} tokens, got 50"):
        build_lab(LabConfig(denoisers={"H": save(tmp_path / "h")}, scorer=scorer, device="cpu"))


def test_config_names_the_key_that_is_wrong() -> None:
    with pytest.raises(InputError, match="did you mean 'denoisers'"):
        validate(LabConfig, {"denoiser": {"H": "x"}}, where="job.toml")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_asking_for_cuda_without_one_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "h")
    with pytest.raises(InputError, match="'cuda' is not available"):
        build_lab(LabConfig(denoisers={"H": folder}, scorer=folder, device="cuda"))

"""The runtime: the same tokens everywhere, and a loud refusal of other models."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from schedlab.denoisers import checkpoint
from schedlab.denoisers.cost import forward_flops
from schedlab.deploy.runtime import load_plan, run_plan
from schedlab.errors import InputError
from schedlab.plan import DenoiserRef, FileRef, ModelSchedule, Plan, PlanFile
from schedlab.processes import MaskedProcess
from schedlab.results import SeedBlock
from schedlab.sampling.noise import SequenceIds
from schedlab.sampling.sampler import sample
from schedlab.text.tokenizer import Tokenizer

LENGTH = 12
TOKENIZER = Tokenizer.load("bundled")


def plan_file(models: Path, schedule: str = "L2 H3 L2", **locations: str) -> PlanFile:
    plan = Plan(length=LENGTH, model_schedule=ModelSchedule.parse(schedule))
    refs = {}
    for role, name in (("H", "heavy"), ("L", "light")):
        model = checkpoint.load(models / name)
        refs[role] = DenoiserRef(
            location=locations.get(role, str(models / name)),
            sha256=model.fingerprint,
            num_blocks=1,
            num_parameters=sum(p.numel() for p in model.parameters()),
            flops_per_forward=float(forward_flops(model.spec, LENGTH)),
        )
    return PlanFile(
        plan=plan,
        digest=plan.digest,
        denoisers=refs,
        tokenizer=FileRef(location="bundled", sha256=TOKENIZER.fingerprint),
        precision="float32",
    )


def test_a_plan_file_gives_the_tokens_of_the_sampler(models: Path) -> None:
    file = plan_file(models)
    denoisers = {"H": checkpoint.load(models / "heavy"), "L": checkpoint.load(models / "light")}
    process = MaskedProcess(TOKENIZER.vocab_size, TOKENIZER.mask_id)
    expected = sample(file.plan, denoisers, process, SequenceIds.of([SeedBlock(3, 0, 5)])).z_BL
    tokens = load_plan(file).tokens(5, seed=3)
    assert torch.equal(tokens, expected)
    assert run_plan(file, 5, seed=3) == [TOKENIZER.decode(row) for row in expected.tolist()]
    assert (tokens != TOKENIZER.mask_id).all()


def test_a_sample_does_not_depend_on_how_many_are_drawn(models: Path) -> None:
    player = load_plan(plan_file(models))
    many = player.tokens(5)
    assert torch.equal(player.tokens(2), many[:2])
    assert not torch.equal(player.tokens(5, seed=1), many)


def test_a_clean_process_gives_the_same_texts(
    models: Path, tmp_path: Path, repository: Path
) -> None:
    file = plan_file(models)
    file.write(tmp_path / "plan.json")
    code = (
        "import json, sys; from schedlab.deploy.runtime import run_plan;"
        " print(json.dumps(run_plan(sys.argv[1], 3, prompt='Returns', seed=9)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "plan.json")],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    texts = run_plan(file, 3, prompt="Returns", seed=9)
    assert json.loads(result.stdout) == texts
    assert all(text.startswith("Returns") for text in texts)


def test_relative_locations_are_looked_up_beside_the_plan_file(
    models: Path, tmp_path: Path
) -> None:
    shutil.copytree(models, tmp_path / "kept")
    path = tmp_path / "plan.json"
    plan_file(models, H="kept/heavy", L="kept/light").write(path)
    assert run_plan(path, 1) == run_plan(plan_file(models), 1)


@pytest.mark.parametrize("role", ["H", "L"])
def test_another_denoiser_at_the_place_is_refused(models: Path, role: str) -> None:
    other = {"H": "light", "L": "heavy"}[role]
    file = plan_file(models, **{role: str(models / other)})
    with pytest.raises(InputError, match=f"denoiser {role} .*is not the one.*fingerprint"):
        load_plan(file)


def test_one_changed_weight_is_noticed(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "light", tmp_path / "light")
    weights = tmp_path / "light" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-2] ^= 1  # the last weight, by its lowest bits
    weights.write_bytes(data)
    with pytest.raises(InputError, match="not the one this plan was measured with"):
        load_plan(plan_file(models, L=str(tmp_path / "light")))


def test_another_tokenizer_is_refused(models: Path, tmp_path: Path) -> None:
    Tokenizer.train(["some text"] * 4, TOKENIZER.vocab_size).save(tmp_path / "other.json")
    file = plan_file(models)
    moved = FileRef(location=str(tmp_path / "other.json"), sha256=file.tokenizer.sha256)
    with pytest.raises(InputError, match=r"the tokeniser .* is not the one"):
        load_plan(file.model_copy(update={"tokenizer": moved}))


def test_a_tokenizer_of_another_size_is_refused_even_with_its_own_fingerprint(
    models: Path, tmp_path: Path
) -> None:
    other = Tokenizer.train(["some text"] * 4, 258)
    other.save(tmp_path / "other.json")
    moved = FileRef(location=str(tmp_path / "other.json"), sha256=other.fingerprint)
    with pytest.raises(InputError, match="vocab_size must be the same"):
        load_plan(plan_file(models).model_copy(update={"tokenizer": moved}))


def test_a_missing_denoiser_is_named(models: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        load_plan(plan_file(models, L="nowhere"))


def test_a_plan_longer_than_its_denoisers_is_refused(models: Path) -> None:
    file = plan_file(models)
    plan = file.plan.model_copy(update={"length": 65})
    plan = Plan.from_json(plan.to_json())
    with pytest.raises(InputError, match="length 65 is more than the 64"):
        load_plan(file.model_copy(update={"plan": plan, "digest": plan.digest}))


def test_a_prompt_that_fills_the_sequence_is_refused(models: Path) -> None:
    player = load_plan(plan_file(models))
    with pytest.raises(InputError, match="nothing is left to generate"):
        player.texts(1, prompt="word " * 40)


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (-1, 0), (1, -1)])
def test_impossible_numbers_are_refused(models: Path, n: int, seed: int) -> None:
    with pytest.raises(InputError):
        load_plan(plan_file(models)).tokens(n, seed=seed)


def test_an_unknown_device_is_refused(models: Path) -> None:
    with pytest.raises(InputError, match="device must be"):
        load_plan(plan_file(models), device="tpu")

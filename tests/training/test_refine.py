"""Refinement for few steps: the drift's loss and gradient against slow recomputation, parts and
processes, exact resumption with queues, matched continuation, and refined models that sample."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from control_world import VOCABULARY
from safetensors.torch import load_file
from torch import Tensor
from training_world import BATCH, L, begun, quiet, tiny_job

from schedlab.denoisers import loading
from schedlab.denoisers.dit import DiT, DiTConfig
from schedlab.denoisers.families import FAMILIES
from schedlab.denoisers.network import Network
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError
from schedlab.processes.noise_schedule import log_linear
from schedlab.training import train
from schedlab.training.distributed import Workers
from schedlab.training.drift import DriftField
from schedlab.training.drift_objective import DriftObjective, drawn
from schedlab.training.job import RefineJob
from schedlab.training.objectives import log_predictions
from schedlab.training.run import Run

PROCESSES = ("masked", "uniform")


def denoiser(process: str, *, num_blocks: int = 2, seed: int = 4) -> Transformer:
    masked = process == "masked"
    config = TransformerConfig(
        vocab_size=VOCABULARY, mask_id=VOCABULARY - 1 if masked else None, num_blocks=num_blocks,
        hidden_size=16, num_heads=2, max_length=L, process=process,
        prediction="posterior" if masked else "leave_one_out",
        time_input="none" if masked else "sequence",
    )  # fmt: skip
    network = Transformer(config)
    generator = torch.Generator().manual_seed(seed)
    network.init_weights(generator)
    with torch.no_grad():
        network.head.weight.mul_(100)
        if network.time is not None:
            network.time.weight.normal_(generator=generator)
    return network


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for process in PROCESSES:
        loading.save(folder / process, denoiser(process), None, precision="float32", card={})
    return folder


@pytest.fixture
def make_job(files: Path, texts: Path) -> Callable[..., RefineJob]:
    """A tiny job; keyword arguments are tables, updated."""

    def make(process: str = "masked", **changes: Any) -> RefineJob:
        own = {
            "kind": "refine",
            "refine": {"begin": str(files / process), "arms": ["drift"]},
            "optimization": {"num_steps": 7, "learning_rate": 1e-3},
            "reporting": {"checkpoint_every": 3, "held_out_levels": 2},
        }
        return tiny_job(RefineJob, texts, own, changes)

    return make


def drift_of(run: Run, **changes: Any) -> DriftObjective:
    assert isinstance(run.objective, DriftObjective)
    return dataclasses.replace(run.objective, queues={}, _targets=None, **changes)


def features_by_hand(run: Run, model: Network, step: int) -> tuple[Tensor, Tensor]:
    """Of predictions and of texts, row after row, position after position."""
    objective = drift_of(run)
    noisy = objective.ordinary.noisy(model, step)
    start = objective.start
    E = start.embedding.weight
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for b in range(BATCH):
        z, t = noisy.z_BL[b : b + 1], noisy.t_B[b : b + 1]
        logits = model.logits(model.features(z, t))[0].clone()
        if start.config.mask_id is not None:
            logits[:, start.config.mask_id] = -torch.inf
        generated = []
        for i in range(L):
            predicted = start.config.mask_id is None or z[0, i] == start.config.mask_id
            generated.append(torch.softmax(logits[i], -1) @ E if predicted else E[z[0, i]])
        for rows, kept in zip((torch.stack(generated), E[noisy.x_BL[b]]), found, strict=True):
            outputs = start.block_outputs(rows[None], torch.zeros(1))
            kept.append(F.normalize(torch.cat([o[0].mean(0) for o in outputs[-2:]]), dim=0))
    return torch.stack(found[0]), torch.stack(found[1])


@pytest.mark.parametrize("process", PROCESSES)
def test_loss_and_gradient_are_those_of_a_slow_recomputation(
    make_job: Any, tmp_path: Path, process: str
) -> None:
    """Two steps, so that the second one sees a queue, which is shorter than two batches."""
    run = begun(make_job(process, refine={"drift": {"queue": 4}}), tmp_path)
    objective, model = drift_of(run), run.model
    with torch.no_grad():
        for weight in model.parameters():  # else phi's features of predictions are its own
            weight.add_(
                0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
            )
    objective.loss(model, 0)
    h0, u0 = features_by_hand(run, model, 0)
    torch.testing.assert_close(objective.queues["real"], u0[:4])
    torch.testing.assert_close(objective.queues["generated"], h0[:4].detach())
    model.zero_grad()
    loss = objective.loss(model, 1)
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    h, u = features_by_hand(run, model, 1)
    V = DriftField()(
        h.detach(), torch.cat((u, u0[:4])), torch.cat((h, h0[:4])).detach(), torch.arange(BATCH)
    )
    assert loss.item() == pytest.approx(float(V.square().sum()) / (2 * BATCH), rel=1e-4)
    # The gradient in h is -V / B.
    (-(h * V).sum() / BATCH).backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_gradient_through_the_soft_lift_is_that_of_finite_differences(
    make_job: Any, tmp_path: Path, process: str
) -> None:
    run = begun(make_job(process), tmp_path)
    objective = drift_of(run, start=run.model.trainable_copy().double().requires_grad_(False))
    model = run.model.double()
    noisy = objective.ordinary.noisy(model, 0)
    pull = torch.randn(BATCH, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def value() -> Tensor:
        # Features come out in float32; the sum of many is read in float64.
        return (objective._features(model, noisy).double() * pull).sum()

    value().backward()
    weight = model.head.weight
    for place in ((3, 1), (20, 7), (38, 15)):
        with torch.no_grad():
            weight[place] += 1e-2
            above = value()
            weight[place] -= 2e-2
            below = value()
            weight[place] += 1e-2
        slope = float(above - below) / 2e-2
        assert float(weight.grad[place]) == pytest.approx(slope, rel=0.05, abs=2e-4)


def test_a_hard_lift_reads_the_likeliest_token_with_the_soft_gradient(
    make_job: Any, tmp_path: Path
) -> None:
    run = begun(make_job(refine={"drift": {"lift": "hard"}}), tmp_path)
    objective, model = drift_of(run), run.model
    noisy = objective.ordinary.noisy(model, 0)
    logits = model.logits(model.features(noisy.z_BL))
    logits[..., VOCABULARY - 1] = -torch.inf
    text = torch.where(noisy.predicted_BL, logits.argmax(-1), noisy.z_BL)
    found = objective._features(model, noisy)
    torch.testing.assert_close(found, objective._pooled(objective._embedded(text)))
    found.sum().backward()
    assert model.head.weight.grad.abs().sum() > 0


def test_tokens_are_drawn_as_often_as_predicted() -> None:
    """A grid of numbers finds every token by its share; one of probability 0 never, even where
    rounding leaves the sum below 1."""
    generator = torch.Generator().manual_seed(3)
    p_V = torch.rand(50, generator=generator).pow(8)
    p_V[[0, 17, 49]] = 0
    p_V /= p_V.sum() * 1.001
    num = 20_000
    u_N = (torch.arange(num, dtype=torch.float64) + 0.5) / num
    token_N = drawn(p_V.expand(num, -1), u_N)
    counts_V = torch.bincount(token_N, minlength=50)
    torch.testing.assert_close(
        counts_V.double(), num * p_V.double() / p_V.double().sum(), atol=1.0, rtol=0
    )
    last = torch.full((1,), 1 - 2**-53, dtype=torch.float64)
    assert drawn(p_V[None], last).item() == 48
    assert drawn(p_V[None], torch.zeros(1, dtype=torch.float64)).item() == 1


@pytest.mark.parametrize("process", PROCESSES)
def test_a_sampled_lift_reads_drawn_tokens_with_the_soft_gradient(
    make_job: Any, tmp_path: Path, process: str
) -> None:
    run = begun(make_job(process, refine={"drift": {"lift": "sampled"}}), tmp_path)
    objective, model = drift_of(run), run.model
    noisy = objective.ordinary.noisy(model, 5)
    u_BL = objective._draws(5, 0)
    assert u_BL is not None and not torch.equal(u_BL, objective._draws(6, 0))
    features_NF = model.features(noisy.z_BL, noisy.t_B)[noisy.predicted_BL]
    p_NV = log_predictions(model, features_NF).exp()
    if process == "uniform":  # Bayes' rule, by hand
        z_N = noisy.z_BL.flatten()
        alpha_N1 = log_linear(noisy.t_B[:, None].expand_as(noisy.z_BL).flatten()[:, None])
        likely_NV = alpha_N1 * F.one_hot(z_N, VOCABULARY) + (1 - alpha_N1) / VOCABULARY
        p_NV = p_NV * likely_NV / (p_NV * likely_NV).sum(-1, keepdim=True)
    text = noisy.z_BL.masked_scatter(noisy.predicted_BL, drawn(p_NV, u_BL[noisy.predicted_BL]))
    found_BF = objective._features(model, noisy, u_BL)
    torch.testing.assert_close(found_BF, objective._pooled(objective._embedded(text)))
    # What enters phi has the soft gradient.
    E = objective.start.embedding.weight
    pull_ND = torch.randn(len(p_NV), E.shape[1], generator=torch.Generator().manual_seed(1))
    lifted_ND = objective._lifted(p_NV, u_BL[noisy.predicted_BL])
    (slope_NV,) = torch.autograd.grad((lifted_ND * pull_ND).sum(), p_NV)
    torch.testing.assert_close(slope_NV, pull_ND @ E.T)
    found_BF.sum().backward()
    assert model.head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("process", "parts", "lift"),
    [(process, parts, "soft") for process in PROCESSES for parts in (2, 3)]
    + [("masked", 3, "sampled"), ("uniform", 2, "sampled")],
)
def test_parts_train_what_the_whole_batch_trains(
    make_job: Any, tmp_path: Path, process: str, parts: int, lift: str
) -> None:
    refine = {"drift": {"lift": lift}}
    run = begun(make_job(process, refine=refine), tmp_path / "whole")
    in_parts = make_job(process, refine=refine, optimization={"accumulate": parts})
    model = run.model
    objectives = [drift_of(run), drift_of(begun(in_parts, tmp_path / "parts"))]
    objectives[1].ordinary = dataclasses.replace(objectives[0].ordinary, job=objectives[1].job)
    for step in range(3):
        found = []
        for objective, num in zip(objectives, (1, parts), strict=True):
            model.zero_grad()
            total = 0.0
            for part in range(num):
                value = objective.loss(model, step, part)
                value.backward()
                total += float(value.detach())
            found.append((total, [weight.grad.clone() for weight in model.parameters()]))
        assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
        for one, other in zip(found[0][1], found[1][1], strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(objectives[0].queues["real"], objectives[1].queues["real"])


def test_the_base_loss_is_added_by_its_weight(make_job: Any, tmp_path: Path) -> None:
    run = begun(make_job(), tmp_path / "a")
    with_base = begun(make_job(refine={"drift": {"base_weight": 0.5}}), tmp_path / "b")
    plain = float(drift_of(run).loss(run.model, 2))
    base = float(drift_of(run).ordinary.loss(run.model, 2))
    assert float(drift_of(with_base).loss(run.model, 2)) == pytest.approx(plain + 0.5 * base)


@pytest.mark.parametrize("features", ["hidden", "logits"])
def test_what_is_compared_has_length_one(make_job: Any, tmp_path: Path, features: str) -> None:
    run = begun(make_job(refine={"drift": {"features": features}}), tmp_path)
    objective = drift_of(run)
    found = objective._features(run.model, objective.ordinary.noisy(run.model, 0))
    assert found.shape == (BATCH, 32 if features == "hidden" else VOCABULARY)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(BATCH))


# Runs


@pytest.mark.parametrize("process", PROCESSES)
def test_a_stopped_run_goes_on_to_the_same_weights(
    make_job: Any, tmp_path: Path, process: str
) -> None:
    """What the queues hold is part of the state."""
    job = make_job(process, refine={"drift": {"queue": 9}})
    train(job, tmp_path / "whole", device="cpu", say=quiet)
    train(job, tmp_path / "parts", device="cpu", say=quiet, stop_after=4)
    train(job, tmp_path / "parts", device="cpu", say=quiet)
    name = "model.safetensors"
    whole, parts = tmp_path / "whole" / name, tmp_path / "parts" / name
    assert whole.read_bytes() == parts.read_bytes()


def test_both_arms_and_all_seeds_of_one_job(make_job: Any, tmp_path: Path) -> None:
    job = make_job(refine={"arms": ["drift", "continue"]}, seeds=[3, 4])
    train(job, tmp_path, device="cpu", say=quiet)
    names = {"drift-3", "drift-4", "continue-3", "continue-4"}
    assert {path.name for path in tmp_path.iterdir()} == names
    weights = {(tmp_path / name / "model.safetensors").read_bytes() for name in names}
    assert len(weights) == 4
    for name in names:
        card = json.loads((tmp_path / name / "card.json").read_text())
        arm, seed = name.split("-")
        assert card["seed"] == int(seed) and card["job"]["refine"]["arms"] == [arm]
        assert card["begin_fingerprint"] == loading.load(job.refine.begin).fingerprint
    # The same rows and noise: of the other arm, and of a job with this arm alone.
    drift, other = (begun(job.runs[name], tmp_path / name) for name in ("drift-3", "continue-3"))
    one, two = (
        objective.noisy(drift.model, 5)
        for objective in (drift.objective.ordinary, other.objective)  # type: ignore[attr-defined]
    )
    assert torch.equal(one.z_BL, two.z_BL) and torch.equal(one.t_B, two.t_B)


@pytest.mark.parametrize("process", PROCESSES)
def test_step_reduction_sees_the_continuations_noise_on_coarser_and_coarser_grids(
    make_job: Any, tmp_path: Path, process: str
) -> None:
    arms = ["continue", "reduce"]
    refine = {"arms": arms, "grid_steps": [4, 2, 1]}
    job = make_job(process, refine=refine, optimization={"smallest_t": 1e-9})
    plain, coarse = (begun(job.runs[f"{arm}-1"], tmp_path / arm) for arm in arms)
    for step, N in ((0, 4), (2, 4), (3, 2), (4, 2), (5, 1), (6, 1)):
        one, two = (
            run.objective.noisy(run.model, step)  # type: ignore[attr-defined]
            for run in (plain, coarse)
        )
        assert torch.equal(two.t_B, torch.ceil(one.t_B * N) / N)
        assert torch.equal(one.x_BL, two.x_BL)
        # More noise at higher levels, the same where it was.
        assert (two.z_BL == one.z_BL)[one.z_BL != one.x_BL].all()
    train(job, tmp_path / "runs", device="cpu", say=quiet)
    weights = [(tmp_path / "runs" / f"{arm}-1" / "model.safetensors").read_bytes() for arm in arms]
    assert weights[0] != weights[1]


@pytest.mark.parametrize("process", PROCESSES)
def test_step_reduction_in_parts_has_the_same_loss(
    make_job: Any, tmp_path: Path, process: str
) -> None:
    refine = {"arms": ["reduce"], "grid_steps": [4, 2]}
    whole, parts = (
        begun(make_job(process, refine=refine, optimization={"accumulate": num}), tmp_path / name)
        for num, name in ((1, "whole"), (3, "parts"))
    )
    for step in (0, 5):
        found = sum(float(parts.objective.loss(whole.model, step, p).detach()) for p in range(3))
        expected = float(whole.objective.loss(whole.model, step).detach())
        assert found == pytest.approx(expected, rel=1e-5)


def test_a_grid_is_no_part_of_a_drift_job(make_job: Any) -> None:
    one, other = (make_job(refine={"grid_steps": grid}) for grid in ([8, 4], [2]))
    assert one.model_dump() == other.model_dump()
    with_it = make_job(refine={"arms": ["reduce"], "grid_steps": [2]})
    assert with_it.model_dump()["refine"]["grid_steps"] == [2]


def test_a_single_arm_with_a_single_seed_has_that_seed(make_job: Any, tmp_path: Path) -> None:
    train(make_job(seeds=[5]), tmp_path / "one", device="cpu", say=quiet)
    train(make_job(seed=5), tmp_path / "two", device="cpu", say=quiet)
    card = json.loads((tmp_path / "one" / "card.json").read_text())
    assert card["seed"] == 5
    name = "model.safetensors"
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_two_processes_train_what_one_trains(
    make_job: Any, tmp_path: Path, repository: Path
) -> None:
    """Features of all processes are in the field, and the queues are the same everywhere."""
    drift = {"queue": 9, "lift": "sampled"}
    job = make_job("uniform", refine={"drift": drift}, optimization={"num_steps": 4})
    train(job, tmp_path / "alone", device="cpu", say=quiet)
    program = tmp_path / "run.py"
    program.write_text(
        "import sys, torch\n"
        "from schedlab.training import train\n"
        "from schedlab.training.job import RefineJob\n"
        "from schedlab.files import read_json, validate\n"
        "torch.set_num_threads(1)\n"
        "job = validate(RefineJob, read_json(sys.argv[1]), where='job')\n"
        "train(job, sys.argv[2], device='cpu')\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    paths = [program, tmp_path / "alone" / "job.json", tmp_path / "two"]
    done = subprocess.run(
        [*command, "2", *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)},
    )
    assert done.returncode == 0, done.stderr
    left, right = (load_file(tmp_path / name / "state.safetensors") for name in ("alone", "two"))
    assert left.keys() == right.keys() and "memory/real" in left
    for name, value in left.items():
        if name.startswith(("weights/", "memory/")):
            assert torch.allclose(value, right[name], atol=2e-4), name


def test_a_compiled_drift_is_the_drift(
    make_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that runs a network is compiled, at shapes that stay."""
    shapes: dict[str, list[tuple[int, ...]]] = {}

    def compile_(function: Any, **options: Any) -> Any:
        def noted(model: Network, *arguments: Any) -> Tensor:
            sizes = [tuple(one.shape) for one in arguments if isinstance(one, Tensor)]
            shapes.setdefault(function.__name__, []).append(sizes[0])
            return function(model, *arguments)

        return noted

    drift = {"drift": {"base_weight": 1.0}}
    plain = make_job(refine=drift, optimization={"num_steps": 2})
    train(plain, tmp_path / "a", device="cpu", say=quiet)
    monkeypatch.setattr(torch, "compile", compile_)
    compiled = make_job(refine=drift, optimization={"num_steps": 2, "compile": True})
    train(compiled, tmp_path / "b", device="cpu", say=quiet)
    assert set(shapes) == {"weighted_loss", "features_at", "pooled_features"}
    assert shapes["features_at"] == 2 * [(BATCH, L)]
    assert shapes["pooled_features"] == 4 * [(BATCH, L, shapes["pooled_features"][0][-1])]
    one, other = (loading.load(str(tmp_path / name)).state_dict() for name in "ab")
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_field_is_the_same_under_autocast(make_job: Any, tmp_path: Path) -> None:
    """Its two sums nearly cancel: bfloat16 products would leave little of it."""
    generator = torch.Generator().manual_seed(3)
    middle = torch.randn(1, 64, generator=generator)
    h, real, made = (
        F.normalize(middle + 0.1 * torch.randn(n, 64, generator=generator), dim=-1)
        for n in (12, 40, 40)
    )
    exact = DriftField()(h.double(), real.double(), made.double()).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = DriftField()(h, real, made)
    torch.testing.assert_close(found, exact, atol=1e-6, rtol=1e-5)


def test_in_bfloat16_real_and_generated_texts_enter_alike(make_job: Any, tmp_path: Path) -> None:
    run = begun(make_job(refine={"drift": {"lift": "hard"}}), tmp_path)
    objective, model = drift_of(run), run.model
    noisy = objective.ordinary.noisy(model, 0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = model.features(noisy.z_BL)
        logits = log_predictions(model, features.flatten(0, 1)).view(*features.shape[:2], -1)
        text = torch.where(noisy.predicted_BL, logits.argmax(-1), noisy.z_BL)
        made, real = (
            objective._features(model, noisy),
            objective._pooled(objective._embedded(text)),
        )
    # A hard lift adds and takes away the soft embedding: its rounding, and nothing else.
    assert made.dtype == real.dtype and (made - real).abs().max() < 2e-3


def test_refinement_moves_generated_features_towards_real_ones(
    make_job: Any, tmp_path: Path
) -> None:
    """Not a claim on quality: mean features of predictions come closer to those of texts."""
    job = make_job(optimization={"num_steps": 60, "batch_size": 24, "ema_decay": 0.5})
    before = begun(job, tmp_path / "before")
    train(job, tmp_path / "run", device="cpu", say=quiet)
    after = loading.load(tmp_path / "run")

    def gap(model: Network) -> float:
        objective, total = drift_of(before), []
        for step in range(100, 110):
            noisy = objective.ordinary.noisy(model, step)
            with torch.no_grad():
                h, u = objective._features(model, noisy), objective._embedded(noisy.x_BL)
                total.append(h.mean(0) - objective._pooled(u).mean(0))
        return float(torch.stack(total).mean(0).norm())

    assert gap(after) < 0.8 * gap(before.model)


@pytest.mark.parametrize("process", PROCESSES)
def test_a_published_network_keeps_its_layout(
    make_job: Any, files: Path, tmp_path: Path, process: str
) -> None:
    masked = process == "masked"
    config = DiTConfig(
        process=process, vocab_size=VOCABULARY, mask_id=VOCABULARY - 1 if masked else None,
        num_blocks=2, hidden_size=16, num_heads=2, cond_size=8, max_length=L,
        time_conditioning=not masked,
    )  # fmt: skip
    network = DiT(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(0.0, 0.3, generator=generator)
    family = FAMILIES["mdlm" if masked else "duo"]
    loading.save(tmp_path / "begin", network, family, precision="float32")
    job = make_job(refine={"begin": str(tmp_path / "begin")})
    train(job, tmp_path / "run", device="cpu", say=quiet)
    refined = loading.load(tmp_path / "run")
    assert isinstance(refined, DiT) and refined.config == network.config
    assert refined.fingerprint != loading.load(tmp_path / "begin").fingerprint


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"refine": {"arms": []}}, "arms must be some"),
        ({"refine": {"grid_steps": [4, 0]}}, "grid_steps must be some, positive and fall"),
        ({"refine": {"grid_steps": [8, 16]}}, "grid_steps must be some, positive and fall"),
        (
            {"refine": {"arms": ["reduce"], "grid_steps": [9, 8, 7, 6, 5, 4, 3, 2]}},
            "num_steps must be 8 or more, one a grid, got 7",
        ),
        ({"refine": {"grid_steps": []}}, "grid_steps must be some, positive and fall"),
        ({"refine": {"drift": {"taus": []}}}, "taus must be some"),
        ({"refine": {"drift": {"queue": -1}}}, "queue must not be negative"),
        ({"seeds": [1, 1]}, "seeds must differ"),
        ({"optimization": {"accumulate": 0}}, "accumulate must be positive"),
        ({"optimization": {"accumulate": 4}}, "must be a multiple of accumulate, got 6 and 4"),
        (
            {"optimization": {"batch_size": 1}, "refine": {"drift": {"queue": 0}}},
            "needs others to repel",
        ),
        ({"task": {"source": "sudoku"}}, "name a corpus to refine on"),
    ],
)
def test_what_cannot_be_trained_is_refused(make_job: Any, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_job(**changes)


def test_a_network_of_one_block_has_no_features(make_job: Any, tmp_path: Path) -> None:
    loading.save(
        tmp_path / "one", denoiser("masked", num_blocks=1), None, precision="float32", card={}
    )
    with pytest.raises(InputError, match="two blocks or more"):
        begun(make_job(refine={"begin": str(tmp_path / "one")}), tmp_path / "run")


def test_processes_divide_the_batch(make_job: Any, tmp_path: Path) -> None:
    workers = Workers(0, 4, torch.device("cpu"))
    for arm in ("drift", "continue"):
        with pytest.raises(
            InputError, match="must be a multiple of processes times accumulate, 4"
        ):
            begun(make_job(refine={"arms": [arm]}), tmp_path, workers)


def test_scorers_are_refused(make_job: Any, tmp_path: Path) -> None:
    config = denoiser("masked").config.model_copy(update={"causal": True})
    scorer = Transformer(config)
    scorer.init_weights(torch.Generator().manual_seed(0))
    loading.save(tmp_path / "scorer", scorer, None, precision="float32", card={})
    with pytest.raises(InputError, match="refine.begin: .* is autoregressive"):
        begun(make_job(refine={"begin": str(tmp_path / "scorer")}), tmp_path / "run")

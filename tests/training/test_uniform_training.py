"""Training of denoisers of the uniform-state process: what each loss is smallest at by sums over
a whole world, shares, exact resumption, and that what is saved samples and is analyzed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from control_world import VOCABULARY
from torch import Tensor
from training_world import MODEL, L, begun, quiet, tiny_job

from schedlab.denoisers import loading
from schedlab.denoisers.base import DenoiserSpec
from schedlab.denoisers.network import Network
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError
from schedlab.metrics.nelbo import nelbo
from schedlab.plan import ModelSchedule, Plan
from schedlab.processes import UniformProcess
from schedlab.processes.noise_schedule import log_linear
from schedlab.results import SeedBlock
from schedlab.sampling import SequenceIds, sample_plans
from schedlab.training import train
from schedlab.training.distributed import Workers
from schedlab.training.job import UniformJob
from schedlab.training.uniform_objective import (
    UniformObjective,
    held_out_losses,
    uniform_loss,
)


@pytest.fixture
def make_job(texts: Path) -> Callable[..., UniformJob]:
    """A tiny job; keyword arguments are tables, updated."""

    def make(**changes: Any) -> UniformJob:
        own = {"kind": "uniform", "model": MODEL}
        return tiny_job(UniformJob, texts, own, changes)

    return make


def scrambled(model: Network) -> None:
    """Untrained networks do not read the noise level."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2 or weight.shape == model.time.bias.shape:
                weight.add_(
                    0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
                )


# What the losses are smallest at

WORDS, PLACES, LEVEL = 3, 2, 0.6


class Table(Network):
    """Logits of every state at one level, (Z, L, V)."""

    def __init__(self, logits: Tensor, prediction: str) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(logits)
        self.prediction = prediction

    @property
    def spec(self) -> DenoiserSpec:
        return DenoiserSpec(
            vocab_size=WORDS, mask_id=None, num_blocks=0, hidden_size=WORDS, max_length=PLACES,
            process="uniform", time_input="sequence", prediction=self.prediction,
        )  # fmt: skip

    def features(self, z_BL: Tensor, t_B: Tensor | None = None) -> Tensor:
        return self.table[z_BL[:, 0] * WORDS + z_BL[:, 1]]

    def logits(self, features_ND: Tensor) -> Tensor:
        return features_ND


def world() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All texts and their probabilities, all states, and q(z | x), (X, Z)."""
    states = torch.tensor(list(itertools.product(range(WORDS), repeat=PLACES)))
    p_X = torch.rand(len(states), generator=torch.Generator().manual_seed(5))
    p_X /= p_X.sum()
    alpha = float(log_linear(torch.tensor(LEVEL)))
    same_XZL = states[:, None] == states[None]
    q_XZL = alpha * same_XZL + (1 - alpha) / WORDS
    return states, p_X, q_XZL.prod(-1), q_XZL


def exact(kind: str) -> Tensor:
    """log p(x_i | z), or without what stands at i, (Z, L, V)."""
    states, p_X, q_XZ, q_XZL = world()
    found = torch.zeros(len(states), PLACES, WORDS)
    for place in range(PLACES):
        weight_XZ = p_X[:, None] * (q_XZ / q_XZL[..., place] if kind == "leave_one_out" else q_XZ)
        for word in range(WORDS):
            found[:, place, word] = weight_XZ[states[:, place] == word].sum(0)
    return (found / found.sum(-1, keepdim=True)).log()


def gradient(logits: Tensor, prediction: str) -> float:
    """Largest slope of the expected loss over all texts and states."""
    states, p_X, q_XZ, _ = world()
    model = Table(logits, prediction)
    total = torch.zeros(())
    for text, p in zip(states, p_X, strict=True):
        for state, q in zip(states, q_XZ[(states == text).all(1)][0], strict=True):
            t_B = torch.full((1,), LEVEL)
            t_BL = torch.full((1, PLACES), LEVEL)
            total = total + p * q * uniform_loss(model, text[None], state[None], t_B, t_BL)
    total.backward()
    return float(model.table.grad.abs().max())


def test_the_bound_is_smallest_at_the_leave_one_out_prediction():
    assert gradient(exact("leave_one_out"), "leave_one_out") < 1e-5
    assert gradient(exact("posterior"), "leave_one_out") > 1e-2


def test_cross_entropy_is_smallest_at_the_posterior():
    assert gradient(exact("posterior"), "posterior") < 1e-6
    assert gradient(exact("leave_one_out"), "posterior") > 1e-3


def test_a_posterior_is_bounded_as_the_leave_one_out_prediction_that_it_is_converted_to():
    texts = np.array(list(itertools.product(range(WORDS), repeat=PLACES)))
    alpha = float(log_linear(torch.tensor(LEVEL)))
    states, logits = world()[0], exact("posterior")
    converted = UniformProcess(WORDS).leave_one_out(
        logits.flatten(0, 1).clone(), states.flatten(), torch.full((states.numel(),), alpha)
    ).view_as(logits)  # fmt: skip
    torch.testing.assert_close(converted.log_softmax(-1), exact("leave_one_out"))
    # At its own level alone: the conversion hangs on it.
    for name, table in (("posterior", logits), ("leave_one_out", exact("leave_one_out"))):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "schedlab.metrics.nelbo._levels",
                lambda x_BL, rng: torch.full((len(x_BL),), LEVEL, dtype=torch.float64),
            )
            bound = nelbo(Table(table, name), texts, repeats=4)
        if name == "posterior":
            expected = bound.nats_S
    np.testing.assert_allclose(bound.nats_S, expected, rtol=1e-5)


# The loss


@pytest.mark.parametrize("loss", ["bound", "cross_entropy"])
def test_the_loss_falls(make_job: Any, tmp_path: Path, loss: str) -> None:
    job = make_job(
        uniform={"loss": loss},
        optimization={"num_steps": 60, "batch_size": 16, "ema_decay": 0.9},
        reporting={"held_out_windows": 100},
    )
    before = begun(job, tmp_path / "before")
    first = before.objective.held_out(before.model)[0]
    last = train(job, tmp_path / "run", device="cpu", say=quiet)
    assert last.n > 30 and last.value < first.value - 0.1  # the same rows and noise


@pytest.mark.parametrize("time_input", ["sequence", "token"])
@pytest.mark.parametrize("num", [2, 3])
def test_shares_of_processes_and_parts_add_up_to_the_loss(
    make_job: Any, tmp_path: Path, time_input: str, num: int
) -> None:
    run = begun(make_job(uniform={"time_input": time_input}), tmp_path)
    scrambled(run.model)
    assert isinstance(run.objective, UniformObjective)
    run.model.requires_grad_(False)
    whole = run.objective.loss(run.model, 4).item()
    shares = [
        dataclasses.replace(run.objective, workers=Workers(rank, num, torch.device("cpu")))
        for rank in range(num)
    ]
    assert sum(float(s.loss(run.model, 4)) for s in shares) == pytest.approx(whole, rel=1e-5)
    job = make_job(uniform={"time_input": time_input}, optimization={"accumulate": num})
    parts = dataclasses.replace(run.objective, job=job)
    total = sum(float(parts.loss(run.model, 4, part)) for part in range(num))
    assert total == pytest.approx(whole, rel=1e-5)


def test_levels_are_one_a_row_or_one_a_token_below_that(make_job: Any, tmp_path: Path) -> None:
    run = begun(make_job(optimization={"batch_size": 200}), tmp_path / "a")
    t_B = run.objective.noisy(run.model, 0).t_B
    assert t_B.shape == (200,)
    # One in each of 200 equal parts.
    place_B = (t_B.double().sort()[0] - 1e-3) / (1 - 1e-3) * 200
    assert ((place_B - torch.arange(200) - 0.5).abs() < 0.5 + 1e-3).all()
    job = make_job(optimization={"batch_size": 200}, uniform={"time_input": "token"})
    own = begun(job, tmp_path / "b")
    t_BL = own.objective.noisy(own.model, 0).t_B
    several_B = (t_BL.max(1).values - t_BL.min(1).values) > 1e-6
    assert 70 < int(several_B.sum()) < 130  # of 200 by halves: 4 standard errors
    assert (t_BL <= t_B.max()).all()


def test_a_posterior_is_measured_by_its_own_loss_and_by_the_bound(
    make_job: Any, tmp_path: Path
) -> None:
    run = begun(make_job(uniform={"loss": "cross_entropy"}), tmp_path)
    scrambled(run.model)
    found, more = run.objective.held_out(run.model)
    assert set(more) == {"bound"} and found.n == more["bound"].n == 12
    assert 0 < found.value < 2 * np.log(VOCABULARY)


def test_every_held_out_row_is_measured_over_all_levels(make_job: Any, tmp_path: Path) -> None:
    """The estimate of one row, from many levels, is that of the published convention."""
    run = begun(make_job(), tmp_path)
    scrambled(run.model)
    row_1L = run.rows.held_out_SL[:1]
    seen: list[float] = []

    def listen(z_BL: Tensor, t_B: Tensor | None = None) -> Tensor:
        assert t_B is not None
        seen.extend(t_B.tolist())
        return Transformer.features(run.model, z_BL, t_B)

    run.model.features = listen  # type: ignore[method-assign]
    losses_2S = held_out_losses(run.model, row_1L, levels=300, seed=1)
    places = (np.array(seen) - 1e-3) / (1 - 1e-3) * 300
    assert (np.floor(places + 1e-3) == np.arange(300)).mean() > 0.98
    several = [
        nelbo(run.model, row_1L.astype(np.int64), repeats=1, batch_size=1, seed=seed).nats_S[0] / L
        for seed in range(300)
    ]
    error = np.std(several) / np.sqrt(300)
    assert abs(losses_2S[0][0] - np.mean(several)) < 4.5 * np.sqrt(2) * error  # 7e-6


def test_parts_of_the_vocabulary_head_change_nothing(
    make_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(make_job(), tmp_path)
    scrambled(run.model)

    def measured() -> tuple[float, list[Tensor]]:
        run.model.zero_grad()
        value = run.objective.loss(run.model, 1)
        value.backward()
        return float(value.detach()), [w.grad.clone() for w in run.model.parameters()]

    whole, gradients = measured()
    monkeypatch.setattr("schedlab.training.objectives._MOST_LOGITS", 7 * VOCABULARY)
    parts, again = measured()
    assert parts == pytest.approx(whole, rel=1e-5)
    for one, other in zip(gradients, again, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_noise_rises_with_the_warm_up(make_job: Any, tmp_path: Path) -> None:
    job = make_job(optimization={"noise_warmup_steps": 10, "first_largest_t": 0.2})
    run = begun(job, tmp_path)
    highest = [float(run.objective.noisy(run.model, step).t_B.max()) for step in (0, 5, 30)]
    assert highest[0] < 0.21 < highest[1] < 0.6 < highest[2]


def test_noise_is_that_of_the_process(make_job: Any, tmp_path: Path) -> None:
    run = begun(make_job(optimization={"batch_size": 4000}), tmp_path)
    noisy = run.objective.noisy(run.model, 2)
    alpha_B = log_linear(noisy.t_B.double())
    kept_B = (noisy.x_BL == noisy.z_BL).double().mean(1)
    expected_B = alpha_B + (1 - alpha_B) / VOCABULARY
    error = (expected_B * (1 - expected_B) / L).sum().sqrt()
    assert abs(float((kept_B - expected_B).sum())) < 4 * error  # false alarms: 6e-5
    assert noisy.predicted_BL.all()


# Runs


def test_a_stopped_run_goes_on_to_the_same_weights(make_job: Any, tmp_path: Path) -> None:
    job = make_job(uniform={"time_input": "token"})
    train(job, tmp_path / "whole", device="cpu", say=quiet)
    train(job, tmp_path / "parts", device="cpu", say=quiet, stop_after=5)
    train(job, tmp_path / "parts", device="cpu", say=quiet)
    name = "model.safetensors"
    whole, parts = tmp_path / "whole" / name, tmp_path / "parts" / name
    assert whole.read_bytes() == parts.read_bytes()


@pytest.mark.parametrize(
    ("loss", "prediction"), [("bound", "leave_one_out"), ("cross_entropy", "posterior")]
)
def test_what_is_saved_says_what_it_predicts_and_samples(
    make_job: Any, tmp_path: Path, loss: str, prediction: str
) -> None:
    train(make_job(uniform={"loss": loss}), tmp_path, device="cpu", say=quiet)
    network = loading.load(tmp_path)
    spec = network.spec
    assert (spec.process, spec.prediction, spec.mask_id) == ("uniform", prediction, None)
    plan = Plan(length=L, model_schedule=ModelSchedule.parse("H4"), process="uniform")
    (found,) = sample_plans(
        [plan], {"H": network}, UniformProcess(VOCABULARY), SequenceIds.of([SeedBlock(0, 0, 1)])
    )
    assert found.tokens_UL.shape == (1, L)


def test_a_model_begins_as_a_masked_one(make_job: Any, tmp_path: Path) -> None:
    config = TransformerConfig(
        vocab_size=VOCABULARY, mask_id=VOCABULARY - 1, num_blocks=1, hidden_size=16, num_heads=2,
        max_length=L,
    )  # fmt: skip
    masked = Transformer(config)
    masked.init_weights(torch.Generator().manual_seed(4))
    loading.save(tmp_path / "masked", masked, None, precision="float32", card={})
    job = make_job(uniform={"begin": str(tmp_path / "masked")})
    run = begun(job, tmp_path / "run")
    z_BL = torch.arange(L)[None]
    for level in (0.1, 0.9):  # unread at first
        found = run.model.features(z_BL, torch.full((1,), level))
        torch.testing.assert_close(found, masked.features(z_BL))
    with pytest.raises(InputError, match="num_blocks is 1, the model's is 2"):
        begun(make_job(uniform=job.uniform.model_dump(), model={"num_blocks": 2}), tmp_path / "b")


def test_folders_of_jobs_made_before_parts_stay_theirs(make_job: Any) -> None:
    """The identity of a run is a hash of its job."""
    assert "accumulate" not in make_job().model_dump()["optimization"]
    assert make_job(optimization={"accumulate": 2}).model_dump()["optimization"]["accumulate"] == 2


@pytest.mark.parametrize("loss", ["bound", "cross_entropy"])
def test_every_weight_gets_a_gradient_in_bfloat16(
    make_job: Any, tmp_path: Path, loss: str
) -> None:
    run = begun(make_job(uniform={"loss": loss}), tmp_path)
    scrambled(run.model)
    exact = run.objective.loss(run.model, 0)
    with torch.autocast("cpu", torch.bfloat16):
        value = run.objective.loss(run.model, 0)
    value.backward()
    assert value.item() == pytest.approx(exact.item(), rel=0.05)
    for name, weight in run.model.named_parameters():
        assert weight.grad is not None and weight.grad.any(), name


def test_tasks_are_refused(make_job: Any) -> None:
    with pytest.raises(InputError, match="task is for masked denoisers"):
        make_job(task={"source": "sudoku"})

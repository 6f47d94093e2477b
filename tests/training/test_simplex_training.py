"""Training of simplex denoisers: the loss term by term, shares, stages, exact resumption, and that
what is saved samples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from control_world import LABELS, LETTERS, SIGNS, VOCABULARY
from torch import Tensor
from training_world import ALONE, BATCH, MODEL, L, begun, quiet, tiny_job

from schedlab.denoisers import checkpoint, loading
from schedlab.denoisers.simplex_transformer import SimplexTransformer, SimplexTransformerConfig
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError
from schedlab.plan import ModelSchedule, Plan, PolicySpec
from schedlab.processes import SimplexProcess
from schedlab.results import SeedBlock
from schedlab.sampling import SequenceIds, sample_plans
from schedlab.text import Tokenizer
from schedlab.training import loop, train
from schedlab.training.distributed import Workers
from schedlab.training.job import SimplexJob
from schedlab.training.run import Run
from schedlab.training.simplex_objective import SimplexObjective, simplex_loss

K = 5.0


@pytest.fixture
def make_job(texts: Path) -> Callable[..., SimplexJob]:
    """A tiny job; keyword arguments are tables, updated."""

    def make(**changes: Any) -> SimplexJob:
        own = {"kind": "simplex", "model": MODEL, "simplex": {"grid_steps": 10}}
        return tiny_job(SimplexJob, texts, own, changes)

    return make


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@dataclasses.dataclass
class Asked:
    """What the network was asked for at a step."""

    X_BLV: Tensor
    t_B: Tensor
    x_BL: Tensor
    generated_BL: Tensor
    previous_BLV: Tensor | None
    weight: float


def asked_at(run: Run, step: int, **changes: Any) -> Asked:
    """What the loss of a step reads, and the weight of its sum."""
    found: list[Asked] = []

    def listen(model: SimplexTransformer, *arguments: Any) -> Tensor:
        copies = [a if a is None else a.clone() for a in arguments]
        found.append(Asked(*copies, weight=0.0))
        return torch.ones(())

    assert isinstance(run.objective, SimplexObjective)
    objective = dataclasses.replace(run.objective, function=listen, **changes)
    weight = float(objective.loss(run.model, step))
    (asked,) = found
    return dataclasses.replace(asked, weight=weight)


def steps_of(run: Run, num: int) -> Iterator[Asked]:
    return (asked_at(run, step) for step in range(num))


def scrambled(model: SimplexTransformer) -> None:
    """Untrained networks do not read the noise level."""
    with torch.no_grad():
        for weight in (model.time.weight, model.time.bias, model.head.weight):
            weight.normal_(generator=torch.Generator().manual_seed(3))


# Learning


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_loss_falls(make_job: Any, tmp_path: Path, optimizer: str) -> None:
    settings = {"num_steps": 50, "batch_size": 16, "optimizer": optimizer, "ema_decay": 0.9}
    job = make_job(texts={"labels": ["alpha"]}, optimization=settings)
    before = train(job, tmp_path, stop_after=1, say=quiet)
    after = train(job, tmp_path, say=quiet)
    # Of 41 signs 12 are likely: log 41 - log 12 is 1.2.
    assert before.value == pytest.approx(math.log(VOCABULARY), abs=0.2)
    assert after.high < before.low - 0.5
    card = checkpoint.read_card(tmp_path)
    assert card["held_out"] == after.model_dump() and card["kind"] == "denoiser"
    assert card["steps"] == 50 and card["tokens"] == 50 * 16 * L
    assert card["without_self_conditioning"]["value"] > 0
    assert card["held_out_unit"].startswith("cross-entropy, nats per token")


def test_what_is_trained_is_loaded_and_samples_its_texts(make_job: Any, tmp_path: Path) -> None:
    job = make_job(
        texts={"labels": ["gamma"]},
        simplex={"time_input": "token", "prefix_share": 0.5},
        optimization={"num_steps": 90, "batch_size": 16, "ema_decay": 0.9},
    )
    train(job, tmp_path, say=quiet)
    network = loading.load(tmp_path)
    assert isinstance(network, SimplexTransformer) and network.spec.time_input == "token"
    plans = [
        Plan(
            length=L, model_schedule=ModelSchedule.parse("H5"), process="simplex",
            noise_schedule="cosine", policy=PolicySpec(name=name, parameters=parameters),
        )
        for name, parameters in (
            ("tta_constant", {}),
            ("tta_adaptive", {"signal": "entropy", "smooth": 0.3, "token_time": True}),
        )
    ]  # fmt: skip
    tokenizer = Tokenizer.of_signs(SIGNS)
    prefix_BP = torch.tensor([tokenizer.encode("y01")] * 40)
    process = SimplexProcess(VOCABULARY)
    found = {
        (one.plans, one.sequence): one.tokens_UL
        for one in sample_plans(
            plans, {"H": network}, process, SequenceIds.of([SeedBlock(0, 0, 40)]), prefix_BP
        )
    }
    for place in range(2):
        rows = [tokenizer.decode(found[(place,), n][0].tolist()) for n in range(40)]
        assert all(row.startswith("y01") for row in rows) and len(set(rows)) > 30
        letters = "".join(row[3:] for row in rows).replace("\n", "").replace(".", "")
        assert sum(sign in LETTERS["gamma"] for sign in letters) / len(letters) > 0.75
    alone = next(
        sample_plans(
            plans[1:], {"H": network}, process, SequenceIds.of([SeedBlock(0, 7, 1)]), prefix_BP[:1]
        )
    )
    assert (alone.tokens_UL == found[(1,), 7]).all()


# Resumption


@pytest.mark.parametrize(
    "simplex",
    [
        {"self_condition_share": 0.5, "time_input": "token", "prefix_share": 0.5},
        {"self_condition": "none"},
        {"self_condition_share": 1.0},
    ],
)
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_stopped_run_goes_on_exactly(
    make_job: Any, tmp_path: Path, simplex: dict, optimizer: str
) -> None:
    job = make_job(
        simplex=simplex, texts={"labels": list(LABELS), "balanced": True},
        optimization={"optimizer": optimizer},
    )  # fmt: skip
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train(job, straight, say=quiet)
    for steps in (2, 5, None):
        train(job, stopped, stop_after=steps, say=quiet)
    assert weights_of(straight) == weights_of(stopped)
    left, right = (
        loading.load(folder).state_dict() for folder in (straight, stopped)
    )  # fmt: skip
    assert all(torch.equal(left[name], right[name]) for name in left)
    one, other = (checkpoint.read_card(folder)["held_out"] for folder in (straight, stopped))
    assert one == other


def test_a_killed_run_goes_on_from_its_last_state(
    make_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(simplex={"time_input": "token", "prefix_share": 0.5})
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    train(job, straight, say=quiet)
    real_step, calls = loop.train_step, []

    def dying_step(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 7:  # after the state of step 4
            raise KeyboardInterrupt
        return real_step(*arguments)

    monkeypatch.setattr(loop, "train_step", dying_step)
    with pytest.raises(KeyboardInterrupt):
        train(job, killed, say=quiet)
    train(job, killed, say=quiet)
    assert len(calls) == 7 + 5
    assert weights_of(straight) == weights_of(killed)


@pytest.mark.parametrize(
    "changes",
    [
        {"simplex": {"grid_steps": 11}},
        {"simplex": {"prefix_share": 0.1}},
        {"texts": {"part": "first"}},
        {"texts": {"labels": ["alpha"]}},
        {"seed": 2},
    ],
)
def test_a_folder_of_another_job_is_refused(
    make_job: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    train(make_job(), tmp_path, stop_after=1, say=quiet)
    before = weights_of(tmp_path)
    with pytest.raises(InputError, match="trained with another job") as caught:
        train(make_job(**changes), tmp_path, say=quiet)
    assert "\n" not in str(caught.value) and weights_of(tmp_path) == before
    train(make_job(reporting={"held_out_windows": 5}), tmp_path, stop_after=2, say=quiet)


# What the network reads


def test_noise_is_of_the_row_and_the_step_alone_and_normal(make_job: Any, tmp_path: Path) -> None:
    run = begun(make_job(simplex={"time_input": "token"}), tmp_path / "a")
    more = begun(make_job(optimization={"batch_size": 9}), tmp_path / "b")
    drawn = []
    for step in range(12):
        asked = asked_at(run, step)
        e_BLV = noise_in(asked)
        drawn.append(e_BLV[asked_levels(asked) > 0.05])
        other = asked_at(more, step)
        both = (asked_levels(asked) > 0.05) & (asked_levels(other)[:BATCH] > 0.05)
        torch.testing.assert_close(
            e_BLV[both], noise_in(other)[:BATCH][both], atol=2e-3, rtol=1e-3
        )
        assert not torch.allclose(e_BLV[0], e_BLV[1], atol=0.1)
    values = torch.cat([one.flatten() for one in drawn])
    assert abs(float(values.mean())) < 4 / math.sqrt(len(values))
    assert float(values.square().mean()) == pytest.approx(1, abs=4 * math.sqrt(2 / len(values)))
    assert not torch.allclose(drawn[0][:5], drawn[1][:5], atol=0.1)


def asked_levels(asked: Asked) -> Tensor:
    return asked.t_B if asked.t_B.ndim == 2 else asked.t_B[:, None].expand(asked.x_BL.shape)


def signal_of(t_BL: Tensor) -> Tensor:
    """The cosine schedule of simplex models: cos^2 of (t + s) / (1 + s) pi / 2, over that at 0."""
    s = 1e-4

    def f(t: Tensor) -> Tensor:
        return (((t + s) / (1 + s)) * math.pi / 2).cos().square()

    return f(t_BL.double()) / f(torch.zeros(1, dtype=torch.float64))


def noise_in(asked: Asked) -> Tensor:
    """eps of X = sqrt(a) K (2 e - 1) + sqrt(1 - a) K eps."""
    a_BL1 = signal_of(asked_levels(asked))[..., None]
    corner = 2.0 * torch.nn.functional.one_hot(asked.x_BL, VOCABULARY) - 1.0
    return (asked.X_BLV.double() / K - a_BL1.sqrt() * corner) / (1 - a_BL1).clamp(1e-12).sqrt()


@pytest.mark.parametrize("grid_steps", [1, 3, 1000])
def test_levels_are_spread_over_the_grid(make_job: Any, tmp_path: Path, grid_steps: int) -> None:
    run = begun(make_job(simplex={"grid_steps": grid_steps}), tmp_path)
    found = torch.cat([asked.t_B for asked in steps_of(run, 120)]).double()
    whole = (found * grid_steps).round()
    torch.testing.assert_close(found * grid_steps, whole, atol=1e-4, rtol=0)
    assert found.min() == 0 or grid_steps == 1000
    assert found.max() <= 1.0
    assert float(found.mean()) == pytest.approx(0.5, abs=0.02)  # one in each of B equal parts
    if grid_steps == 3:
        counts = torch.bincount(whole.long(), minlength=4) / len(found)
        torch.testing.assert_close(counts, torch.full((4,), 0.25), atol=0.03, rtol=0)


@pytest.mark.parametrize("grid_steps", [3, 10])
def test_levels_of_tokens_are_on_the_grid_and_never_beyond_noise(
    make_job: Any, tmp_path: Path, grid_steps: int
) -> None:
    simplex = {"grid_steps": grid_steps, "time_input": "token"}
    run = begun(make_job(simplex=simplex), tmp_path / "token")
    plain = begun(make_job(simplex={"grid_steps": grid_steps}), tmp_path / "plain")
    own, rows = 0, 0
    for step in range(60):
        t_BL, t_B = asked_at(run, step).t_B, asked_at(plain, step).t_B
        assert t_BL.shape == (BATCH, L) and t_BL.dtype == torch.float32
        steps_BL = t_BL.double() * grid_steps
        torch.testing.assert_close(steps_BL, steps_BL.round(), atol=1e-4, rtol=0)
        assert float(t_BL.min()) >= 0 and float(t_BL.max()) <= 1.0
        # At most the row's, which is that of a job without levels of tokens.
        assert (t_BL <= t_B[:, None] + 1e-6).all()
        same_B = (t_BL == t_B[:, None]).all(1)
        own += int((~same_B & (t_B > 0.5)).sum())
        rows += int((t_B > 0.5).sum())
    assert own / rows == pytest.approx(0.5, abs=0.12)


def test_prefixes_are_given_clean_and_at_most_half_of_a_row(make_job: Any, tmp_path: Path) -> None:
    found = []
    for share in (0.0, 0.5, 1.0):
        run = begun(make_job(simplex={"prefix_share": share}), tmp_path / str(share))
        lengths = []
        for asked in steps_of(run, 60):
            size_B = (~asked.generated_BL).sum(1)
            position = torch.arange(L)
            assert (asked.generated_BL == (position >= size_B[:, None])).all()
            assert asked.weight == pytest.approx(1 / float(asked.generated_BL.sum()))
            lengths += size_B.tolist()
        assert max(lengths) <= L // 2
        found.append(np.mean([size > 0 for size in lengths]))
        if share == 1.0:
            assert np.bincount(lengths, minlength=5).min() > 40  # 360 rows in five sizes
    assert found[0] == 0.0 and found[1] == pytest.approx(0.4, abs=0.09)


def test_half_of_the_steps_read_logits_of_a_first_pass(make_job: Any, tmp_path: Path) -> None:
    job = make_job(simplex={"prefix_share": 0.5, "time_input": "token"})
    run = begun(job, tmp_path / "a")
    scrambled(run.model)
    conditioned = 0
    for asked in steps_of(run, 40):
        assert asked.previous_BLV is not None and not asked.previous_BLV.requires_grad
        if asked.previous_BLV.any():
            conditioned += 1
            with torch.no_grad():
                features = run.model.features(
                    asked.X_BLV, asked.t_B, given_BL=asked.x_BL, generated_BL=asked.generated_BL
                )
                expected = run.model.logits(features)
            torch.testing.assert_close(asked.previous_BLV, expected)
    assert 10 <= conditioned <= 30
    always = begun(make_job(simplex={"self_condition_share": 1.0}), tmp_path / "b")
    never = begun(make_job(simplex={"self_condition_share": 0.0}), tmp_path / "c")
    none = begun(make_job(simplex={"self_condition": "none"}), tmp_path / "d")
    for step in range(5):
        first, second, third = (asked_at(run, step).previous_BLV for run in (always, never, none))
        assert first is not None and first.any()
        assert second is not None and not second.any()
        assert third is None


# The loss


def by_hand(model: SimplexTransformer, asked: Asked) -> float:
    """Mean of -log p over generated positions, one position of one row at a time, float64."""
    model = model.double().eval()
    total, count = 0.0, 0
    for b in range(len(asked.x_BL)):
        p_LV = asked.X_BLV[b].double().softmax(-1)
        if asked.previous_BLV is not None:
            p_LV = (p_LV + asked.previous_BLV[b].double().softmax(-1)) / 2
        e_LD = p_LV @ model.embedding.weight
        t_L = asked_levels(asked)[b].double()
        e_LD = e_LD + t_L[:, None] * model.time.weight[:, 0] + model.time.bias
        for i in range(L):
            if not asked.generated_BL[b, i]:
                e_LD[i] = model.embedding.weight[asked.x_BL[b, i]]
        # Clean embeddings of the other network, and all that is behind them.
        onehot = Transformer(
            TransformerConfig(**{
                name: getattr(model.config.of_blocks, name)
                for name in TransformerConfig.model_fields
            })
        ).double().eval()  # fmt: skip
        state = {k: v for k, v in model.state_dict().items() if not k.startswith("time.")}
        onehot.load_state_dict(state)
        onehot.embedding.forward = lambda tokens, e=e_LD: e[None]  # type: ignore[method-assign]
        logits_LV = onehot.logits(onehot.features(asked.x_BL[b : b + 1]))[0]
        for i in range(L):
            if asked.generated_BL[b, i]:
                total -= float(logits_LV[i].log_softmax(-1)[asked.x_BL[b, i]])
                count += 1
    return total / count


@pytest.mark.parametrize(
    "simplex",
    [
        {"time_input": "token", "prefix_share": 0.7, "self_condition_share": 1.0},
        {"self_condition": "none", "prefix_share": 0.3},
        {"self_condition_share": 0.0},
    ],
)
def test_the_loss_is_that_of_a_plain_slow_recomputation(
    make_job: Any, tmp_path: Path, simplex: dict
) -> None:
    run = begun(make_job(simplex=simplex), tmp_path)
    scrambled(run.model)
    for step in range(3):
        found = run.objective.loss(run.model, step).item()
        asked = asked_at(run, step)
        copied = run.model.trainable_copy().requires_grad_(False)
        assert found == pytest.approx(by_hand(copied, asked), rel=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_weight_gets_a_gradient_through_a_conditioned_step(
    make_job: Any, tmp_path: Path, precision: str
) -> None:
    """The first pass, which has none, must not leave its casts behind."""
    job = make_job(
        simplex={"self_condition_share": 1.0}, optimization={"precision": precision}
    )  # fmt: skip
    run = begun(job, tmp_path)
    scrambled(run.model)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        value = run.objective.loss(run.model, 0)
    value.backward()
    for name, weight in run.model.named_parameters():
        assert weight.grad is not None and weight.grad.any(), name


@pytest.mark.parametrize(
    "simplex",
    [
        {"time_input": "token", "prefix_share": 0.6, "self_condition_share": 1.0},
        {"self_condition": "none"},
    ],
)
@pytest.mark.parametrize("num", [2, 3])
def test_shares_of_processes_add_up_to_the_loss_and_its_gradient(
    make_job: Any, tmp_path: Path, simplex: dict, num: int
) -> None:
    run = begun(make_job(simplex=simplex, optimization={"batch_size": 7}), tmp_path)
    scrambled(run.model)
    assert isinstance(run.objective, SimplexObjective)

    def measured(workers: Workers) -> tuple[float, list[Tensor]]:
        run.model.zero_grad()
        value = dataclasses.replace(run.objective, workers=workers).loss(run.model, 4)
        value.backward()
        return float(value), [weight.grad.clone() for weight in run.model.parameters()]

    whole, gradients = measured(ALONE)
    shares = [measured(Workers(rank, num, torch.device("cpu"))) for rank in range(num)]
    assert sum(value for value, _ in shares) == pytest.approx(whole, rel=1e-5)
    for place, expected in enumerate(gradients):
        total = torch.stack([found[place] for _, found in shares]).sum(0)
        torch.testing.assert_close(total, expected, atol=1e-5, rtol=1e-3)


def test_the_held_out_loss_is_of_rows_and_levels_by_themselves(
    make_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(make_job(), tmp_path / "a")
    scrambled(run.model)
    value, more = run.objective.held_out(run.model)
    monkeypatch.setattr("schedlab.training.simplex_objective._CHUNK", 5)
    parts, parts_more = run.objective.held_out(run.model)
    assert parts.value == pytest.approx(value.value, rel=1e-5) and parts.n == value.n == 12
    assert set(more) == {"without_self_conditioning"} == set(parts_more)
    assert more["without_self_conditioning"].value != value.value
    again = begun(make_job(seed=8), tmp_path / "b")  # other weights and batches, the same noise
    again.model.load_state_dict(run.model.state_dict())
    assert again.objective.held_out(again.model)[0] == parts
    none = begun(make_job(simplex={"self_condition": "none"}), tmp_path / "c")
    assert none.objective.held_out(none.model)[1] == {}


def test_a_compiled_loss_is_the_loss(
    make_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []

    def compile_(function: Any, **options: Any) -> Any:
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    train(make_job(optimization={"num_steps": 2, "compile": True}), tmp_path / "a", say=quiet)
    assert compiled == [simplex_loss]
    train(make_job(optimization={"num_steps": 2}), tmp_path / "b", say=quiet)
    assert weights_of(tmp_path / "a") == weights_of(tmp_path / "b")


# Beginnings


def transformer(**changes: Any) -> Transformer:
    sizes = {"num_blocks": 1, "hidden_size": 16, "num_heads": 2, "max_length": 12}
    config = TransformerConfig(
        **{"vocab_size": VOCABULARY, "mask_id": changes.get("vocab_size", VOCABULARY) - 1}
        | sizes
        | changes
    )
    network = Transformer(config)
    network.init_weights(torch.Generator().manual_seed(4))
    network.head.weight.data.mul_(30)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("self_condition", ["none", "mean"])
def test_a_model_that_begins_as_a_masked_one_gives_its_logits_of_onehot_inputs(
    make_job: Any, tmp_path: Path, self_condition: str
) -> None:
    masked = transformer()
    checkpoint.save(tmp_path / "masked", masked, {}, precision="float32")
    begin = {"begin": str(tmp_path / "masked"), "self_condition": self_condition}
    run = begun(make_job(simplex=begin), tmp_path / "run")
    x_BL = torch.from_numpy(run.rows.of_step(0, batch_size=5, seed=0))
    X_BLV = 100.0 * (2.0 * torch.nn.functional.one_hot(x_BL, VOCABULARY) - 1.0)
    previous = None if self_condition == "none" else X_BLV
    with torch.no_grad():
        for model in (run.model, run.average_model):
            found = model.logits(model.features(X_BLV, torch.zeros(5), previous_BLV=previous))
            expected = masked.logits(masked.features(x_BL))
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    # A clean text of the process itself, K = 5, is one-hot up to 40 e^-10.
    if self_condition == "none":
        X_BLV = SimplexProcess(VOCABULARY, K).noised(x_BL, 1.0, torch.zeros(5, L, VOCABULARY))
        with torch.no_grad():
            near = run.model.logits(run.model.features(X_BLV, torch.zeros(5)))
        torch.testing.assert_close(near, expected, atol=0.2, rtol=0.05)


def test_a_model_begins_as_another_simplex_model_weight_by_weight(
    make_job: Any, tmp_path: Path
) -> None:
    first = make_job(optimization={"num_steps": 4})
    train(first, tmp_path / "first", say=quiet)
    begin = {"begin": str(tmp_path / "first"), "grid_steps": 5}
    run = begun(make_job(seed=9, simplex=begin), tmp_path / "second")
    expected = loading.load(tmp_path / "first").state_dict()
    for name, weight in run.model.state_dict().items():
        assert torch.equal(weight, expected[name]), name
    assert all(weight.requires_grad for weight in run.model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 8}, "its hidden_size is 8, the model's is 16; .*same sizes"),
        ({"num_blocks": 2}, "its num_blocks is 2, the model's is 1"),
        ({"num_heads": 1}, "its num_heads is 1"),
        ({"mlp_ratio": 2}, "its mlp_ratio is 2"),
        ({"vocab_size": 40}, "its vocab_size is 40, the model's is 41"),
        ({"learned_positions": True}, "learned positions, the model none"),
        ({"causal": True}, "is causal; name a denoiser"),
    ],
)
def test_beginnings_that_do_not_fit_are_one_line(
    make_job: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    checkpoint.save(tmp_path / "masked", transformer(**changes), {})
    job = make_job(simplex={"begin": str(tmp_path / "masked")})
    with pytest.raises(InputError, match=f"simplex.begin: .*{message}") as caught:
        train(job, tmp_path / "run", say=quiet)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["nowhere", "bundled:nothing"])
def test_a_beginning_that_is_not_there_is_one_line(
    make_job: Any, tmp_path: Path, place: str
) -> None:
    with pytest.raises(InputError) as caught:
        train(make_job(simplex={"begin": place}), tmp_path / "run", say=quiet)
    assert "\n" not in str(caught.value)


def test_a_published_network_is_no_beginning(make_job: Any, tmp_path: Path, golden: Path) -> None:
    job = make_job(simplex={"begin": str(golden / "simplex_tess")})
    with pytest.raises(InputError, match="is no transformer of schedlab"):
        train(job, tmp_path / "run", say=quiet)


# Stages

STAGES = [{"grid_steps": 8, "num_steps": 6}, {"grid_steps": 4, "num_steps": 5},
          {"grid_steps": 2, "num_steps": 3}]  # fmt: skip


@pytest.fixture
def staged(make_job: Any) -> SimplexJob:
    return make_job(stages=STAGES, simplex={"time_input": "token"})


def test_every_stage_is_a_model_that_begins_as_the_one_before(
    make_job: Any, staged: SimplexJob, tmp_path: Path
) -> None:
    lines: list[str] = []
    final = train(staged, tmp_path / "run", say=lines.append)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["T2", "T4", "T8"]
    assert sum(line.startswith("stage of") for line in lines) == 3
    begin = None
    for stage in STAGES:
        name = f"T{stage['grid_steps']}"
        alone = make_job(
            simplex={"time_input": "token", "begin": begin, "grid_steps": stage["grid_steps"]},
            optimization={"num_steps": stage["num_steps"]},
        )
        found = train(alone, tmp_path / "alone" / name, say=quiet)
        assert weights_of(tmp_path / "alone" / name) == weights_of(tmp_path / "run" / name)
        begin = str(tmp_path / "run" / name)
        card = checkpoint.read_card(begin)
        assert card["steps"] == card["planned_steps"] == stage["num_steps"]
    assert final == found == train(staged, tmp_path / "run", say=quiet)
    assert weights_of(tmp_path / "alone" / "T2") == weights_of(tmp_path / "run" / "T2")


def test_stages_that_were_stopped_go_on_exactly(staged: SimplexJob, tmp_path: Path) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train(staged, straight, say=quiet)
    steps = {3: {"T8": 3}, 6: {"T8": 6}, 8: {"T8": 6, "T4": 2}, 12: {"T8": 6, "T4": 5, "T2": 1}}
    for stop, expected in steps.items():
        found = train(staged, stopped, stop_after=stop, say=quiet)
        cards = {path.name: checkpoint.read_card(path) for path in stopped.iterdir()}
        assert {name: card["steps"] for name, card in cards.items()} == expected
        assert found.model_dump() == cards[list(expected)[-1]]["held_out"]
    train(staged, stopped, say=quiet)
    for name in ("T8", "T4", "T2"):
        assert weights_of(straight / name) == weights_of(stopped / name)


def test_stages_go_on_in_a_folder_that_is_spelt_another_way(
    staged: SimplexJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a run without stages does."""
    train(staged, tmp_path / "run", stop_after=8, say=quiet)
    monkeypatch.chdir(tmp_path)
    train(staged, "run", say=quiet)
    assert checkpoint.read_card("run/T2")["steps"] == 3


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": [STAGES[0], STAGES[0]]}, "stages must differ in grid_steps"),
        ({"stages": [{"grid_steps": 0, "num_steps": 5}]}, "must be positive, got 0 and 5"),
        ({"stages": [{"grid_steps": 5, "num_steps": 0}]}, "must be positive, got 5 and 0"),
        ({"stages": [{"grid_steps": 5}]}, "num_steps' is missing"),
        ({"stages": [{"steps": 5, "grid_steps": 2, "num_steps": 1}]}, "unknown key"),
        ({"simplex": {"grid_steps": 0}}, "grid_steps and value must be positive"),
        ({"simplex": {"value": 0.0}}, "grid_steps and value must be positive"),
        ({"simplex": {"self_condition_share": 1.5}}, "self_condition_share must be in"),
        ({"simplex": {"prefix_share": -0.1}}, "prefix_share must be in"),
        ({"simplex": {"self_condition": "sum"}}, "self_condition"),
        ({"simplex": {"time_input": "none"}}, "time_input"),
        ({"simplex": {"T": 5}}, "unknown key"),
        ({"texts": {"labels": []}}, "labels must be some and differ"),
        ({"texts": {"labels": ["alpha", "alpha"]}}, "labels must be some and differ"),
        ({"texts": {"balanced": True}}, "balanced needs labels"),
        ({"texts": {"part": "third"}}, "texts.part"),
        ({"task": {"source": "sudoku"}}, "task is for masked denoisers"),
        ({"model": {"learned_positions": True}}, "learned_positions is for masked"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_jobs_that_make_no_sense_are_one_line(
    make_job: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_job(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": {"labels": ["alpha", "delta"]}}, "no document of the train split .*'delta'"),
        ({"corpus": "nowhere.jsonl"}, "no such file"),
        ({"tokenizer": "nowhere.json"}, "nowhere.json"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    make_job: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        train(make_job(**changes), tmp_path / "run", say=quiet)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_the_configuration_says_what_the_model_was_trained_for(
    make_job: Any, tmp_path: Path
) -> None:
    job = make_job(simplex={"value": 3.0, "self_condition": "none", "time_input": "token"})
    train(job, tmp_path, stop_after=1, say=quiet)
    network = loading.load(tmp_path)
    assert network.config == SimplexTransformerConfig(
        vocab_size=VOCABULARY, num_blocks=1, hidden_size=16, num_heads=2, max_length=L,
        self_condition="none", time_input="token", value=3.0,
    )  # fmt: skip
    assert network.spec.simplex_value == 3.0

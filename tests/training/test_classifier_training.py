"""Training of classifiers: they learn, from texts and from what denoisers predict of noised ones;
calibration of planted data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from control_world import (
    LABELS,
    SIGNS,
    VOCABULARY,
    masked_network,
    simplex_network,
    write_corpus,
    write_tokenizer,
)
from torch import Tensor

from schedlab.classifiers import TextClassifier, load
from schedlab.denoisers import checkpoint
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError
from schedlab.files import validate
from schedlab.text import Tokenizer
from schedlab.training import train
from schedlab.training.calibration import calibration_error
from schedlab.training.classifier_objective import ClassifierObjective
from schedlab.training.distributed import Workers
from schedlab.training.job import ClassifierJob
from schedlab.training.run import Run, start_or_resume

L, BATCH = 8, 12
ALONE = Workers(0, 1, torch.device("cpu"))
MASK = VOCABULARY - 1


def _quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, its vocabulary and denoisers of two processes."""
    folder = tmp_path_factory.mktemp("texts")
    write_corpus(folder / "texts.jsonl", num=600)
    write_tokenizer(folder / "signs.json")
    checkpoint.save(folder / "masked", masked_network(0), {}, precision="float32")
    checkpoint.save(folder / "simplex", simplex_network(1), {}, precision="float32")
    checkpoint.save(folder / "scorer", masked_network(2, causal=True), {}, precision="float32")
    return folder


@pytest.fixture
def make_job(texts: Path) -> Callable[..., ClassifierJob]:
    """A tiny job; keyword arguments are tables, updated. `denoiser` is one of the folder."""

    def make(denoiser: str | None = None, **changes: Any) -> ClassifierJob:
        data: dict[str, Any] = {
            "kind": "classifier",
            "seed": 1,
            "corpus": str(texts / "texts.jsonl"),
            "tokenizer": str(texts / "signs.json"),
            "model": {"num_blocks": 1, "hidden_size": 16, "num_heads": 2, "length": L},
            "texts": {"labels": list(LABELS), "balanced": True},
            "optimization": {
                "num_steps": 8, "batch_size": BATCH, "warmup_steps": 2, "precision": "float32",
                "compile": False, "optimizer": "adamw", "learning_rate": 1e-2, "ema_decay": 0.9,
            },
            "reporting": {
                "checkpoint_every": 3, "evaluate_every": 100, "held_out_windows": 40,
            },
        }  # fmt: skip
        if denoiser is not None:
            data["inputs"] = {"denoiser": str(texts / denoiser)}
        for name, value in changes.items():
            data[name] = data.get(name, {}) | value if isinstance(value, dict) else value
        return validate(ClassifierJob, data, where="job")

    return make


def begun(job: ClassifierJob, folder: Path) -> Run:
    return start_or_resume(job, folder, ALONE, _quiet)


def state_of(folder: Path) -> dict[str, Tensor]:
    return load(folder).state_dict()


# Learning


@pytest.mark.parametrize("encoder", ["transformer", "convolution"])
def test_labels_that_can_be_told_apart_are_learned(
    make_job: Any, tmp_path: Path, encoder: str
) -> None:
    job = make_job(model={"encoder": encoder}, optimization={"num_steps": 60})
    before = train(job, tmp_path, stop_after=1, say=_quiet)
    assert before.value == pytest.approx(np.log(3), abs=0.1)  # nothing is known yet
    after = train(job, tmp_path, say=_quiet)
    assert after.high < before.low - 0.5
    card = checkpoint.read_card(tmp_path)
    assert card["accuracy"]["value"] > 0.85 and card["accuracy"]["n"] == after.n
    assert 0 <= card["calibration_error"]["value"] < 0.3
    assert card["held_out"] == after.model_dump() and card["kind"] == "classifier"
    assert card["held_out_unit"] == "cross-entropy, nats per text"
    assert not any("_at_t_" in name for name in card)
    network, tokenizer = load(tmp_path), Tokenizer.of_signs(SIGNS)
    assert network.labels == LABELS
    rows = torch.tensor([tokenizer.encode(text) for text in ("ab.cd.fe", "mn.op.qr", "01.yz.23")])
    assert network.log_probs_of_tokens(rows).argmax(-1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("encoder", ["transformer", "convolution"])
def test_every_weight_is_trained(make_job: Any, tmp_path: Path, encoder: str) -> None:
    groups = {"letters": ["alpha", "beta"], "digits": ["gamma"]}
    job = make_job(
        "simplex",
        model={"encoder": encoder, "groups": groups, "time_input": True},
        optimization={"weight_decay": 0.0},
    )
    first = begun(job, tmp_path / "first").model.state_dict()
    train(job, tmp_path / "trained", say=_quiet)
    same = [name for name, weight in state_of(tmp_path / "trained").items()
            if torch.equal(weight.bfloat16(), first[name].bfloat16())]  # fmt: skip
    assert same == []


@pytest.mark.parametrize("encoder", ["transformer", "convolution"])
def test_the_optimizer_that_is_the_default_takes_both_encoders(
    make_job: Any, tmp_path: Path, encoder: str
) -> None:
    """Or says in one line what to name instead."""
    job = make_job(model={"encoder": encoder}, optimization={"optimizer": "muon"})
    try:
        train(job, tmp_path, stop_after=2, say=_quiet)
    except InputError as error:
        assert "adamw" in str(error) and "\n" not in str(error)
        assert encoder == "convolution"


def test_groups_are_learned_and_kept(make_job: Any, tmp_path: Path) -> None:
    groups = {"digits": ["gamma"], "letters": ["beta", "alpha"]}
    job = make_job(model={"groups": groups}, optimization={"num_steps": 60})
    train(job, tmp_path, say=_quiet)
    assert checkpoint.read_card(tmp_path)["accuracy"]["value"] > 0.85
    network = load(tmp_path)
    assert network.config.groups == groups and network.labels == LABELS
    rows = torch.from_numpy(begun(job, tmp_path).rows.held_out_SL.astype(np.int64))
    p_SC = network.log_probs_of_tokens(rows).exp()
    torch.testing.assert_close(p_SC.sum(-1), torch.ones(len(rows)))


def test_predictions_of_noised_texts_are_learned_and_measured(
    make_job: Any, tmp_path: Path
) -> None:
    """A denoiser that leaves what is not masked; at t near 1 nothing is left to tell."""
    job = make_job("masked", optimization={"num_steps": 60})
    train(job, tmp_path, say=_quiet)
    card = checkpoint.read_card(tmp_path)
    accuracy = [card[f"accuracy{name}"]["value"]
                for name in ("", "_at_t_0.25", "_at_t_0.5", "_at_t_0.75")]  # fmt: skip
    assert accuracy[0] > 0.75 and accuracy[1] > accuracy[3]
    assert accuracy[3] > 1 / 3
    assert {name for name in card if name.startswith("calibration_error")} == {
        "calibration_error", "calibration_error_at_t_0.25", "calibration_error_at_t_0.5",
        "calibration_error_at_t_0.75",
    }  # fmt: skip


# Resumption and shares


@pytest.mark.parametrize(
    ("denoiser", "model"),
    [
        (None, {}),
        (None, {"encoder": "convolution"}),
        ("masked", {"time_input": True}),
        ("simplex", {"groups": {"a": ["alpha"], "b": ["beta", "gamma"]}}),
    ],
)
def test_a_stopped_run_goes_on_exactly(
    make_job: Any, tmp_path: Path, denoiser: str | None, model: dict[str, Any]
) -> None:
    job = make_job(denoiser, model=model)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train(job, straight, say=_quiet)
    for steps in (2, 5, None):
        train(job, stopped, stop_after=steps, say=_quiet)
    left, right = ((folder / "model.safetensors").read_bytes() for folder in (straight, stopped))
    assert left == right
    one, other = (checkpoint.read_card(folder) for folder in (straight, stopped))
    for name in ("held_out", "accuracy", "calibration_error", "steps"):
        assert one[name] == other[name]


@pytest.mark.parametrize("denoiser", [None, "masked", "simplex"])
@pytest.mark.parametrize("num", [2, 3])
def test_shares_of_processes_add_up_to_the_loss_and_its_gradient(
    make_job: Any, tmp_path: Path, denoiser: str | None, num: int
) -> None:
    job = make_job(denoiser, optimization={"batch_size": 7}, model={"time_input": bool(denoiser)})
    run = begun(job, tmp_path)
    with torch.no_grad():
        run.model.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    assert isinstance(run.objective, ClassifierObjective)

    def measured(workers: Workers) -> tuple[float, list[Tensor]]:
        run.model.zero_grad()
        value = dataclasses.replace(run.objective, workers=workers).loss(run.model, 3)
        value.backward()
        return value.item(), [weight.grad.clone() for weight in run.model.parameters()]

    whole, gradients = measured(ALONE)
    shares = [measured(Workers(rank, num, torch.device("cpu"))) for rank in range(num)]
    assert sum(value for value, _ in shares) == pytest.approx(whole, rel=1e-5)
    for place, expected in enumerate(gradients):
        total = torch.stack([found[place] for _, found in shares]).sum(0)
        torch.testing.assert_close(total, expected, atol=1e-5, rtol=1e-3)


# What is read


class Listener(TextClassifier):
    """Keeps what it reads: weights over the vocabulary, as its embedding is the unit matrix."""

    def __init__(self, network: TextClassifier) -> None:
        super().__init__(network.config)
        self.load_state_dict(network.state_dict())
        with torch.no_grad():
            self.embedding.weight.copy_(torch.eye(VOCABULARY, self.config.hidden_size))
        self.read: list[tuple[Tensor, Tensor]] = []

    def log_probs(self, e_BLD: Tensor, t_B: Tensor | None = None) -> Tensor:
        assert t_B is not None
        self.read.append((e_BLD.detach()[..., :VOCABULARY].clone(), t_B.clone()))
        return super().log_probs(e_BLD, t_B)


def read_at(run: Run, steps: range) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(weights, levels, tokens) of every step."""
    model = Listener(run.model)
    for step in steps:
        run.objective.loss(model, step)
    size, seed = run.job.optimization.batch_size, run.job.seed
    tokens = [torch.from_numpy(run.rows.of_step(step, batch_size=size, seed=seed))
              for step in steps]  # fmt: skip
    return [(p, t, x) for (p, t), x in zip(model.read, tokens, strict=True)]


WIDE = {"hidden_size": 44, "num_heads": 1}


def onehot(x: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(x, VOCABULARY).float()


def test_texts_alone_are_read_as_they_are(make_job: Any, tmp_path: Path) -> None:
    for p_BLV, t_B, x_BL in read_at(begun(make_job(model=WIDE), tmp_path), range(3)):
        assert torch.equal(p_BLV, onehot(x_BL)) and (t_B == 0).all()


@pytest.mark.parametrize(("share", "largest_t"), [(0.75, 1.0), (0.3, 0.5), (1.0, 0.6), (0.0, 1.0)])
def test_so_many_rows_are_predictions_at_levels_in_equal_parts(
    make_job: Any, tmp_path: Path, share: float, largest_t: float
) -> None:
    inputs = {"share": share, "largest_t": largest_t}
    run = begun(make_job("masked", model=WIDE, inputs=inputs), tmp_path)
    levels = torch.stack([t_B for _, t_B, _ in read_at(run, range(60))])
    assert levels.min() >= 0 and levels.max() <= largest_t
    assert float((levels > 0).double().mean()) == pytest.approx(share, abs=0.06)
    if share == 1.0:  # one in each of B equal parts, in any order
        parts = (levels / largest_t * BATCH).long().sort(dim=1).values
        assert (parts == torch.arange(BATCH)).all()
        assert len({tuple(row) for row in levels.argsort(dim=1).tolist()}) == 60


def test_predictions_of_a_masked_denoiser_are_read_at_masks_and_tokens_elsewhere(
    make_job: Any, tmp_path: Path
) -> None:
    run, denoiser = begun(make_job("masked", model=WIDE), tmp_path), masked_network(0)
    masked, expected_share = [], []
    for p_BLV, t_B, x_BL in read_at(run, range(25)):
        torch.testing.assert_close(p_BLV.sum(-1), torch.ones(BATCH, L))
        assert (p_BLV[..., MASK] == 0).all()
        hard_BL = (p_BLV == onehot(x_BL)).all(-1)
        assert hard_BL[t_B == 0].all()
        z_BL = torch.where(hard_BL, x_BL, MASK)
        logits = denoiser.logits(denoiser.features(z_BL))
        logits[..., MASK] = -torch.inf
        soft = ~hard_BL
        torch.testing.assert_close(p_BLV[soft], logits.softmax(-1)[soft], atol=1e-4, rtol=1e-3)
        masked.append(soft.float().mean(1))
        expected_share.append(t_B)
    gap = torch.cat(masked) - torch.cat(expected_share)
    assert abs(float(gap.mean())) < 4 * 0.5 / np.sqrt(len(gap) * L)
    assert np.corrcoef(torch.cat(masked), torch.cat(expected_share))[0, 1] > 0.8


def test_masks_and_levels_share_no_random_numbers(make_job: Any, tmp_path: Path) -> None:
    """A level is (part + u) / B; whether a position is masked must not hang on such a u."""
    inputs = {"share": 1.0}
    run = begun(make_job("masked", model=WIDE, inputs=inputs), tmp_path)
    agreed = np.zeros(BATCH)
    steps = range(40)
    for p_BLV, t_B, x_BL in read_at(run, steps):
        masked_BL = ~(p_BLV == onehot(x_BL)).all(-1).numpy()
        u_B = np.sort(t_B.double().numpy()) * BATCH % 1.0
        for row in range(BATCH):
            agreed[row] += (masked_BL[row] == (u_B[:L] < float(t_B[row]))).mean() / len(steps)
    assert (agreed < 0.9).all()  # by chance about 0.6


def test_predictions_of_a_simplex_denoiser_are_read_everywhere(
    make_job: Any, tmp_path: Path
) -> None:
    run = begun(make_job("simplex", model=WIDE), tmp_path)
    distance = []
    for p_BLV, t_B, x_BL in read_at(run, range(6)):
        torch.testing.assert_close(p_BLV.sum(-1), torch.ones(BATCH, L))
        hard_B = (p_BLV == onehot(x_BL)).all(-1).all(-1)
        assert (hard_B == (t_B == 0)).all()
        distance.append(p_BLV[t_B > 0])
    assert not torch.equal(distance[0][0], distance[1][0])
    (again, *_), (first, *_) = (read_at(run, range(2, 3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))


def test_a_classifier_without_noise_level_is_not_told_it_and_one_with_learns_it(
    make_job: Any, tmp_path: Path
) -> None:
    train(make_job("masked", model={"time_input": True}), tmp_path / "a", say=_quiet)
    network = load(tmp_path / "a")
    assert network.config.time_input and network.time.weight.any()
    train(make_job("masked"), tmp_path / "b", say=_quiet)
    assert not hasattr(load(tmp_path / "b"), "time")


def test_what_is_measured_does_not_hang_on_the_seed_of_the_job(
    make_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [begun(make_job("simplex", seed=seed), tmp_path / str(seed)) for seed in (1, 2)]
    runs[1].model.load_state_dict(runs[0].model.state_dict())
    first = runs[0].objective.held_out(runs[0].model)
    assert first == runs[1].objective.held_out(runs[1].model)
    monkeypatch.setattr("schedlab.training.classifier_objective._CHUNK", 7)
    loss, more = runs[0].objective.held_out(runs[0].model)
    assert loss.value == pytest.approx(first[0].value, rel=1e-5)
    assert {name: one.value for name, one in more.items()} == pytest.approx(
        {name: one.value for name, one in first[1].items()}, abs=1e-4
    )


# Calibration


def planted(n: int, error: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and right answers in `error` fewer of the cases."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.4, 1.0, n)
    return confidence, (rng.random(n) < confidence - error).astype(float)


def test_a_calibrated_classifier_has_hardly_an_error() -> None:
    found = calibration_error(*planted(3000, 0.0))
    assert 0 <= found.low <= found.value <= found.high and found.n == 3000
    assert found.value < 0.03
    few = calibration_error(*planted(150, 0.0))
    assert few.value > found.value  # biased upwards on few texts, as it says
    never, always = np.zeros(50), np.ones(50)
    assert calibration_error(always, always).value == 0 == calibration_error(never, never).value


@pytest.mark.parametrize("error", [0.1, 0.25, 0.4, -0.2])
def test_a_known_overconfidence_is_found(error: float) -> None:
    confidence, right = planted(2500, 0.0)
    rng = np.random.default_rng(1)
    if error < 0:
        confidence = confidence * 0.5  # room above
        right = (rng.random(2500) < confidence - error).astype(float)
    else:
        right = (rng.random(2500) < confidence - error).astype(float)
    found = calibration_error(confidence, right)
    assert found.value == pytest.approx(abs(error), abs=0.03)
    assert found.low <= abs(error) + 0.01 and found.high >= abs(error) - 0.01
    assert found.high - found.low < 0.08


def test_the_error_is_the_mean_of_gaps_over_bins_of_equally_many_texts() -> None:
    # Fewer texts than bins: a bin each.
    found = calibration_error(np.array([0.8, 0.6, 0.9]), np.array([0.0, 1.0, 1.0]))
    assert found.value == pytest.approx((0.8 + 0.4 + 0.1) / 3) and found.n == 3
    # Ten bins of two, sorted by confidence: gaps within a bin cancel, those of bins do not.
    confidence = np.linspace(0.05, 1.0, 20)
    right = np.tile([0.0, 1.0], 10)
    gaps = np.abs((confidence - right).reshape(10, 2).mean(1))
    order = np.random.default_rng(0).permutation(20)
    assert calibration_error(confidence[order], right[order]).value == pytest.approx(gaps.mean())
    one = calibration_error(*planted(100, 0.2), seed=1)
    assert one == calibration_error(*planted(100, 0.2), seed=1)
    other = calibration_error(*planted(100, 0.2), seed=2)
    assert other.value == one.value and (other.low, other.high) != (one.low, one.high)


def test_intervals_of_a_known_error_hold_it_nearly_always() -> None:
    """Of 12 intervals of 95 % fewer than 10 hold the truth once in 50 runs; seeds are fixed."""
    held = 0
    for seed in range(12):
        found = calibration_error(*planted(400, 0.25, seed), seed=seed)
        held += found.low <= 0.25 <= found.high
    assert held >= 10


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": {"labels": None, "balanced": False}}, "must name at least two labels"),
        ({"texts": {"labels": ["alpha"]}}, "must name at least two labels"),
        ({"texts": {"labels": ["alpha", "alpha"]}}, "labels must be some and differ"),
        ({"model": {"groups": {"a": ["alpha"]}}}, "groups must hold every label once"),
        (
            {"model": {"groups": {"a": ["alpha", "beta"], "b": ["beta", "gamma"]}}},
            "groups must hold every label once",
        ),
        ({"model": {"time_input": True}}, "time_input needs inputs.denoiser"),
        ({"model": {"encoder": "recurrent"}}, "encoder"),
        ({"inputs": {"share": 1.5}}, "share must be in"),
        ({"inputs": {"largest_t": 0.0}}, "largest_t in"),
        ({"inputs": {"largest_t": 1.5}}, "largest_t in"),
        ({"inputs": {"location": "x"}}, "unknown key"),
        ({"task": {"source": "sudoku"}}, "task is for masked denoisers"),
        ({"kind": "guide"}, "kind"),
    ],
)
def test_jobs_that_make_no_sense_are_one_line(
    make_job: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_job(**changes)
    assert "\n" not in str(caught.value)


def refused(job: ClassifierJob, folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        train(job, folder / "run", say=_quiet)
    assert "\n" not in str(caught.value) and not (folder / "run").exists()
    return str(caught.value)


def test_labels_that_no_text_has_are_refused(make_job: Any, tmp_path: Path) -> None:
    job = make_job(texts={"labels": ["alpha", "delta"]})
    assert "no document of the train split is labelled 'delta'" in refused(job, tmp_path)


def test_a_denoiser_of_another_vocabulary_or_of_shorter_texts_is_refused(
    make_job: Any, tmp_path: Path
) -> None:
    for name, sizes in (("other", {"vocab_size": 30}), ("short", {"max_length": 5})):
        config = {"vocab_size": VOCABULARY, "num_blocks": 1, "hidden_size": 8, "num_heads": 1,
                  "max_length": 16} | sizes  # fmt: skip
        network = Transformer(TransformerConfig(**config, mask_id=config["vocab_size"] - 1))
        network.init_weights(torch.Generator().manual_seed(0))
        checkpoint.save(tmp_path / name, network, {})
    message = refused(make_job(inputs={"denoiser": str(tmp_path / "other")}), tmp_path)
    assert "has 30 tokens, the tokenizer 41" in message
    message = refused(make_job(inputs={"denoiser": str(tmp_path / "short")}), tmp_path)
    assert "at most 5 for this model, got 8" in message
    refused(make_job(inputs={"denoiser": str(tmp_path / "nowhere")}), tmp_path)


def test_an_autoregressive_model_is_no_denoiser(
    make_job: Any, texts: Path, tmp_path: Path
) -> None:
    """It never looks at what comes after: its predictions are no guide's."""
    job = make_job(inputs={"denoiser": str(texts / "scorer")})
    assert "autoregressive" in refused(job, tmp_path)


def in_signs(tmp_path: Path, num: int) -> dict[str, Any]:
    """A vocabulary of so many tokens, and texts in the first of its signs."""
    signs = "".join(chr(code) for code in range(33, 127))
    first = "".join(sign for sign in SIGNS if sign in signs)
    rest = "".join(sign for sign in signs if sign not in first)
    file = write_tokenizer(tmp_path / f"signs-{num}.json", (first + rest)[: num - 2])
    return {"tokenizer": str(file)}


def test_a_denoiser_of_the_uniform_process_is_refused(
    make_job: Any, tmp_path: Path, golden: Path
) -> None:
    job = make_job(inputs={"denoiser": str(golden / "duo")}, **in_signs(tmp_path, 64))
    assert "is of the uniform process; name a masked or simplex one" in refused(job, tmp_path)


def test_a_published_simplex_network_is_read_like_ours(
    make_job: Any, tmp_path: Path, golden: Path
) -> None:
    inputs = {"denoiser": str(golden / "simplex_tess")}
    job = make_job(inputs=inputs, **in_signs(tmp_path, 96))
    train(job, tmp_path / "run", stop_after=1, say=_quiet)
    assert "accuracy_at_t_0.5" in checkpoint.read_card(tmp_path / "run")

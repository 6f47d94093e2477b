"""Training on prompts and answers: what is masked, what counts, what is written."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from schedlab.denoisers import checkpoint, loading
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError
from schedlab.files import validate
from schedlab.plan.task_config import TaskConfig
from schedlab.tasks import sudoku
from schedlab.text import Tokenizer
from schedlab.training import DeriveJob, TrainJob, train
from schedlab.training.batches import mask_at_levels, masked_batch, share_of
from schedlab.training.distributed import join_workers
from schedlab.training.objectives import held_out_losses, weighted_loss
from schedlab.training.run import start_or_resume
from schedlab.training.token_objective import TokenObjective

GIVEN, LENGTH = 37, 73


def _quiet(line: str) -> None:
    pass


def sudoku_job(**changes) -> TrainJob:
    data = {
        "kind": "denoiser",
        "seed": 5,
        "task": {"source": "sudoku"},
        "tokenizer": "bundled:sudoku",
        "model": {"num_blocks": 2, "hidden_size": 16, "num_heads": 2, "length": LENGTH,
                  "learned_positions": True},
        "optimization": {"num_steps": 6, "batch_size": 3, "warmup_steps": 2,
                         "precision": "float32", "compile": False},
        "reporting": {"checkpoint_every": 2, "evaluate_every": 100, "held_out_windows": 4,
                      "held_out_levels": 2},
    }  # fmt: skip
    for name, value in changes.items():
        data[name] = {**data[name], **value} if isinstance(data.get(name), dict) else value
    return validate(TrainJob, data, where="job")


def tiny_model(seed: int = 0, **sizes) -> Transformer:
    config = TransformerConfig(
        **{"vocab_size": 12, "mask_id": 11, "num_blocks": 2, "hidden_size": 16, "num_heads": 2,
           "max_length": 20, "learned_positions": True} | sizes
    )  # fmt: skip
    model = Transformer(config).double()
    model.init_weights(torch.Generator().manual_seed(seed))
    model.head.weight.data.mul_(100)  # else untrained predictions are all but uniform
    return model.eval()


def log_p(model: Transformer, input_BL: np.ndarray) -> np.ndarray:
    """Log-probabilities of all positions, the mask token left out; (B, L, V)."""
    with torch.no_grad():
        logits = model.logits(model.features(torch.from_numpy(input_BL)).flatten(0, 1))
    logits[:, model.config.mask_id] = -torch.inf
    return torch.log_softmax(logits, -1).reshape(*input_BL.shape, -1).numpy()


def by_hand(model: Transformer, tokens_BL: np.ndarray, input_BL: np.ndarray, t_B: np.ndarray,
            given: int) -> np.ndarray:  # fmt: skip
    """Per row the sum of -log p / t over masked answer positions, by their number; (B,)."""
    found = log_p(model, input_BL)
    B, L = tokens_BL.shape
    losses = np.zeros(B)
    for b in range(B):
        for i in range(given, L):
            if input_BL[b, i] == model.config.mask_id:
                losses[b] -= found[b, i, tokens_BL[b, i]] / t_B[b] / (L - given)
    return losses


@pytest.mark.parametrize("given", [0, 1, 7, 18])
def test_given_positions_are_never_masked_and_count_for_nothing(given: int) -> None:
    rng = np.random.default_rng(given)
    tokens = rng.integers(0, 11, (6, 19))
    model = tiny_model()
    for step in range(4):
        batch = masked_batch(
            tokens, mask_id=11, smallest_t=1e-3, seed=1, step=step, given=given
        )  # fmt: skip
        masked = batch.input_BL == 11
        assert not masked[:, :given].any() and masked[:, given:].any()
        assert (batch.input_BL[~masked] == tokens[~masked]).all()
        counted = batch.read_N[batch.weight_N > 0]
        assert sorted(counted) == np.flatnonzero(masked).tolist()
        expected = by_hand(model, tokens, batch.input_BL, batch.t_B.astype(float), given).mean()
        arrays = (batch.input_BL, batch.t_B, batch.read_N, batch.target_N, batch.weight_N)
        with torch.no_grad():
            found = weighted_loss(model, None, 1.0, *map(torch.from_numpy, arrays))
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_held_out_loss_is_that_of_the_answers() -> None:
    rng = np.random.default_rng(0)
    tokens, given, levels, seed = rng.integers(0, 11, (5, 15)), 6, 3, 4
    model = tiny_model(1)
    expected = np.zeros(5)
    for level in range(levels):
        draws = np.random.default_rng([seed, level])
        t_S, u_SL = (level + 1.0 - draws.random((5,))) / levels, draws.random((5, 15))
        masked = u_SL < t_S[:, None]
        masked[:, :given] = False
        expected += by_hand(model, tokens, np.where(masked, 11, tokens), t_S, given) / levels
    for chunk in (2, 64):
        found = held_out_losses(
            model, tokens, levels=levels, seed=seed, chunk=chunk, given=given
        )  # fmt: skip
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_shares_of_processes_add_up_to_the_batch() -> None:
    rng = np.random.default_rng(2)
    tokens = rng.integers(0, 11, (8, 19))
    whole = mask_at_levels(
        tokens, rng.uniform(0.1, 1, 8), rng.random((8, 19)), mask_id=11, given=9
    )
    found = set()
    for rank in range(2):
        part = share_of(whole, rank=rank, world_size=2)
        for place, target, weight in zip(part.read_N, part.target_N, part.weight_N, strict=True):
            if weight > 0:
                found.add((2 * (place // 19) + rank, place % 19, target, weight))
    real = whole.weight_N > 0
    columns = (whole.read_N // 19, whole.read_N % 19, whole.target_N, whole.weight_N)
    assert found == set(zip(*(column[real] for column in columns), strict=True))


def test_a_run_masks_the_grids_of_its_puzzles_only(tmp_path: Path) -> None:
    job = sudoku_job()
    with join_workers("cpu") as workers:
        run = start_or_resume(job, tmp_path, workers, _quiet)
        assert (run.rows.given, run.length) == (GIVEN, LENGTH)
        seen = set()
        for step in range(4):
            assert isinstance(run.objective, TokenObjective)
            batch = run.objective.batch(step)
            texts = [run.tokenizer.decode(row) for row in batch.input_BL[:, :GIVEN].tolist()]
            expected = [sudoku.item("train 5", 3 * step + j) for j in range(3)]
            assert texts == [item.prompt for item in expected]
            answers = batch.target_N[batch.weight_N > 0]
            rows = run.tokenizer.encode_batch([item.answer for item in expected])
            places = batch.read_N[batch.weight_N > 0]
            assert (answers == np.array(rows)[places // LENGTH, places % LENGTH - GIVEN]).all()
            seen |= set(texts)
        assert len(seen) == 12
        valid = [sudoku.item("valid", n) for n in range(4)]
        held_out = [run.tokenizer.decode(row) for row in run.rows.held_out_SL.tolist()]
        assert held_out == [item.prompt + item.answer for item in valid]


def test_a_stopped_run_on_a_task_goes_on_exactly(tmp_path: Path) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train(sudoku_job(), straight, say=_quiet)
    for steps in (1, 4, None):
        train(sudoku_job(), stopped, stop_after=steps, say=_quiet)
    for name in ("model.safetensors", "config.json"):
        assert (straight / name).read_bytes() == (stopped / name).read_bytes()
    card = checkpoint.read_card(straight)
    assert card["corpus"] == "task sudoku" and "corpus_tokens" not in card
    with pytest.raises(InputError, match="trained with another"):
        train(sudoku_job(seed=6), stopped, say=_quiet)


def test_how_much_is_measured_may_change_between_sittings(tmp_path: Path) -> None:
    train(sudoku_job(), tmp_path, stop_after=2, say=_quiet)
    found = train(sudoku_job(reporting={"held_out_windows": 20}), tmp_path, say=_quiet)
    assert found.n == 20


def test_a_file_of_items_is_trained_on_and_another_wording_is_another_corpus(
    tmp_path: Path,
) -> None:
    file, vocabulary = tmp_path / "sums.jsonl", tmp_path / "signs.json"
    Tokenizer.of_signs("0123456789+=").save(vocabulary)
    lines = [{"q": f"{a}+{b}=", "answer": str(a + b)} for a in range(4, 14) for b in range(3)]
    file.write_text("\n".join(map(json.dumps, lines)))
    job = sudoku_job(
        task={"source": str(file), "template": "$q"},
        tokenizer=str(vocabulary),
        model={"length": 8},
        optimization={"num_steps": 2},
    )
    train(job, tmp_path / "model", stop_after=1, say=_quiet)
    assert checkpoint.load(tmp_path / "model").config.vocab_size == 14
    file.write_text(file.read_text().replace('"4+1="', '"1+4="'))
    with pytest.raises(InputError, match="trained with another corpus"):
        train(job, tmp_path / "model", say=_quiet)


def test_a_light_model_is_derived_on_the_task_of_the_heavy_one(tmp_path: Path) -> None:
    train(sudoku_job(optimization={"num_steps": 1}), tmp_path / "heavy", say=_quiet)
    data = sudoku_job().model_dump(exclude={"model", "kind"}) | {
        "kind": "derive",
        "derive": {"heavy": str(tmp_path / "heavy"), "blocks": "first", "num_blocks": 1},
    }
    data["optimization"]["num_steps"] = 1
    train(validate(DeriveJob, data, where="job"), tmp_path / "light", say=_quiet)
    light = checkpoint.load(tmp_path / "light")
    assert light.config.num_blocks == 1 and light.config.learned_positions
    assert checkpoint.read_card(tmp_path / "light")["kl_from_heavy"]["value"] >= 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "autoregressive"}, "task is for denoisers"),
        ({"task": {"source": "sudoko"}}, "must be sudoku or a .jsonl file"),
        ({"model": {"length": 40}}, "an answer has 36 tokens, behind a prompt of 37 there are 3"),
        ({"model": {"length": 30}}, "an answer has 36 tokens|1 to 30 tokens|there are -7"),
        ({"tokenizer": "bundled:nowhere"}, "no bundled model 'nowhere'"),
    ],
)
def test_jobs_on_tasks_that_make_no_sense_are_one_line(
    tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        train(sudoku_job(**changes), tmp_path, say=_quiet)
    assert "\n" not in str(caught.value)


# Learned positions


def test_learned_positions_survive_saving_and_leaving_blocks_out(tmp_path: Path) -> None:
    model = tiny_model(3)
    z = torch.from_numpy(np.random.default_rng(0).integers(0, 12, (2, 9)))
    checkpoint.save(tmp_path / "model", model, {}, precision="float64")
    loaded = checkpoint.load(tmp_path / "model", precision="float64")
    assert loaded.config.learned_positions and loaded.fingerprint == model.fingerprint
    with torch.no_grad():
        assert torch.equal(loaded.features(z), model.features(z))
    all_blocks = loading.with_blocks(loaded, [0, 1])
    assert all_blocks.fingerprint == loaded.fingerprint
    one = loading.with_blocks(loaded, [1])
    assert one.positions is loaded.positions and one.config.learned_positions
    with torch.no_grad():
        one.positions.weight[3] += 1.0
        assert not torch.equal(one.features(z), loading.with_blocks(model, [1]).features(z))


def test_learned_positions_tell_equal_tokens_apart_and_others_do_not() -> None:
    z = torch.full((1, 20), 4)
    for learned in (True, False):
        with torch.no_grad():
            features = tiny_model(learned_positions=learned).features(z)[0, 5:15]
        spread = float((features - features[0]).abs().max())
        assert (spread > 0.1) == learned  # equal keys and values: rotary positions change nothing


def test_weights_without_positions_do_not_pass_for_weights_with_them(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, tiny_model(learned_positions=False), {})
    config = json.loads((tmp_path / "config.json").read_text())
    assert "learned_positions" not in config
    (tmp_path / "config.json").write_text(json.dumps(config | {"learned_positions": True}))
    with pytest.raises(InputError, match="positions.weight"):
        checkpoint.load(tmp_path)


def test_networks_without_learned_positions_are_known_by_the_fingerprint_of_before() -> None:
    """Stored evaluations and exported plans name denoisers by it."""
    assert (
        loading.load("bundled:light-4", device="cpu", precision="float32").fingerprint
        == "feeca22b50ce86fb1e47b368348758690c0f119a6f23ba70ef7dab0c73caeb4a"
    )


# Vocabularies of signs


def test_signs_are_tokens_in_their_order_and_text_comes_back(tmp_path: Path) -> None:
    tokenizer = Tokenizer.of_signs(sudoku.ALPHABET)
    assert (tokenizer.vocab_size, tokenizer.eot_id, tokenizer.mask_id) == (10, 8, 9)
    assert tokenizer.encode(sudoku.ALPHABET) == list(range(8))
    assert tokenizer.decode([7, 0, 1, 9]) == "=.1_"
    tokenizer.save(tmp_path / "signs.json")
    assert Tokenizer.load(tmp_path / "signs.json").fingerprint == tokenizer.fingerprint
    assert Tokenizer.load("bundled:sudoku").fingerprint == tokenizer.fingerprint
    assert Tokenizer.of_signs("12").fingerprint != Tokenizer.of_signs("21").fingerprint


@pytest.mark.parametrize("signs", ["aa", "ä", "a\n", "a\t"])
def test_signs_that_cannot_be_a_vocabulary_are_refused(signs: str) -> None:
    with pytest.raises(InputError, match="different printable ASCII"):
        Tokenizer.of_signs(signs)


@pytest.mark.parametrize("name", ["bundled:", "bundled:heavy", "bundled:../models/sudoku"])
def test_only_models_with_a_tokenizer_of_their_own_have_one_by_name(name: str) -> None:
    if name == "bundled:":
        assert Tokenizer.load(name).fingerprint == Tokenizer.load().fingerprint
        return
    with pytest.raises(InputError, match="with a tokenizer of its own"):
        Tokenizer.load(name)


def test_the_configuration_of_a_task_is_read_strictly() -> None:
    with pytest.raises(InputError, match="unknown key 'sorce'; did you mean 'source'"):
        validate(TaskConfig, {"sorce": "sudoku"}, where="task")
    with pytest.raises(InputError, match="scorer"):
        validate(TaskConfig, {"scorer": "fuzzy"}, where="task")

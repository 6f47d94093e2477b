"""Light denoisers made from heavy ones: which blocks, what is minimised, what is written."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import models, pre_tokenizers

from schedlab.denoisers import checkpoint, loading
from schedlab.errors import InputError
from schedlab.files import validate
from schedlab.training import DeriveJob, train
from schedlab.training.derive import CHOICE_FILE, ablated, check_blocks, chosen
from schedlab.training.distributed import join_workers
from schedlab.training.job import Derivation
from schedlab.training.run import start_or_resume


def _quiet(line: str) -> None:
    pass


def _derivation(**values) -> Derivation:
    return validate(Derivation, {"heavy": "anything", **values}, where="derive")


def _never(blocks) -> float:
    raise AssertionError("only an ablation measures")


@pytest.mark.parametrize(
    ("rule", "num", "expected"),
    [
        ("first", 4, [0, 1, 2, 3]),
        ("last", 4, [8, 9, 10, 11]),
        ("spaced", 4, [0, 4, 7, 11]),
        ("spaced", 1, [0]),
        ("spaced", 12, list(range(12))),
        ([3, 0, 2], None, [3, 0, 2]),
    ],
)
def test_rules(rule, num, expected: list[int]) -> None:
    values = {"blocks": rule} | ({} if num is None else {"num_blocks": num})
    assert chosen(_derivation(**values), 12, _never, _quiet) == (expected, [])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"blocks": "first"}, "num_blocks must be given with a rule"),
        ({"blocks": [0, 1], "num_blocks": 2}, "num_blocks must be given with a rule"),
        ({"num_blocks": 2, "denoising_weight": 1.5}, "denoising_weight"),
        ({"num_blocks": 0}, "num_blocks must be positive"),
        ({"num_blocks": 13}, "the heavy one has 12 blocks, got 13"),
        ({"blocks": [12]}, "between 0 and 11"),
        ({"blocks": []}, "between 0 and 11"),
        ({"blocks": [0, 1, 0]}, "must differ"),
        ({"blocks": "middle", "num_blocks": 2}, "blocks"),
    ],
)
def test_wrong_choices_are_one_line(values, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        check_blocks(_derivation(**values), 12)
    assert "\n" not in str(caught.value)


def test_an_ablation_of_independent_blocks_keeps_the_best_set() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        worth = rng.random(7)
        asked: list[tuple[int, ...]] = []

        def loss_of(blocks, worth=worth, asked=asked) -> float:
            asked.append(tuple(blocks))
            return float(-worth[list(blocks)].sum())

        kept, dropped = ablated(range(7), 3, loss_of, _quiet)
        best = max(
            itertools.combinations(range(7), 3), key=lambda blocks: worth[list(blocks)].sum()
        )
        assert tuple(kept) == best
        assert sorted([*kept, *(one.block for one in dropped)]) == list(range(7))
        assert dropped[-1].held_out == pytest.approx(-worth[list(best)].sum())
        assert len(asked) == (7 * 8 - 3 * 4) // 2


def test_an_ablation_measures_anew_after_every_drop() -> None:
    """Blocks 0 and 1 stand in for each other: either can go, not both."""

    def loss_of(blocks) -> float:
        return 5.0 * (not {0, 1} & set(blocks)) + 1.0 * (2 not in blocks) + 2.0 * (3 not in blocks)

    assert ablated(range(4), 2, loss_of, _quiet)[0] == [1, 3]


@pytest.fixture(scope="module")
def heavy(small_corpus, small_tokenizer, tmp_path_factory) -> str:
    """A trained denoiser of four blocks."""
    from schedlab.training import TrainJob

    folder = tmp_path_factory.mktemp("heavy")
    job = TrainJob.model_validate(
        {
            "kind": "denoiser",
            "seed": 1,
            "corpus": small_corpus,
            "tokenizer": small_tokenizer,
            "model": {"num_blocks": 4, "hidden_size": 32, "num_heads": 2, "length": 16},
            "optimization": {
                "num_steps": 80,
                "batch_size": 16,
                "warmup_steps": 3,
                "precision": "float32",
                "compile": False,
                "ema_decay": 0.9,
            },
            "reporting": {"held_out_windows": 20},
        }
    )
    train(job, folder, say=_quiet)
    return str(folder)


@pytest.fixture
def derive_job(small_corpus, small_tokenizer, heavy):
    """A tiny job; keyword arguments go to [derive]."""

    def make(num_steps: int = 12, tokenizer: str = small_tokenizer, **derive) -> DeriveJob:
        derive = {"heavy": heavy, "ablation_windows": 8, "ablation_levels": 2, **derive}
        if not isinstance(derive.get("blocks"), list):
            derive.setdefault("num_blocks", 2)
        return validate(
            DeriveJob,
            {
                "kind": "derive",
                "seed": 5,
                "corpus": small_corpus,
                "tokenizer": tokenizer,
                "derive": derive,
                "optimization": {
                    "num_steps": num_steps,
                    "batch_size": 8,
                    "warmup_steps": 3,
                    "muon_learning_rate": 0.005,
                    "learning_rate": 0.001,
                    "precision": "float32",
                    "compile": False,
                    "ema_decay": 0.9,
                },
                "reporting": {
                    "checkpoint_every": 5,
                    "evaluate_every": 6,
                    "held_out_windows": 20,
                },
            },
            where="job",
        )

    return make


def test_a_light_one_starts_as_blocks_of_the_heavy_one(derive_job, heavy, tmp_path) -> None:
    with join_workers("cpu") as workers:
        run = start_or_resume(derive_job(blocks=[0, 3]), tmp_path, workers, _quiet)
    z_BL = torch.randint(0, run.model.spec.vocab_size, (3, 16))
    skipped = loading.load(f"{heavy}#blocks=0,3")
    with torch.no_grad():
        assert torch.equal(run.model(z_BL), skipped(z_BL))
        assert torch.equal(run.average_model(z_BL), skipped(z_BL))
    assert all(weight.requires_grad for weight in run.model.parameters())
    own = {weight.data_ptr() for weight in run.model.parameters()}
    assert not own & {weight.data_ptr() for weight in run.parent.heavy.network.parameters()}


def test_distillation_brings_it_to_the_heavy_one(derive_job, heavy, tmp_path) -> None:
    job = derive_job(num_steps=120)
    train(job, tmp_path, stop_after=1, say=_quiet)
    before = checkpoint.read_card(tmp_path)
    held_out = train(job, tmp_path, say=_quiet)
    card = checkpoint.read_card(tmp_path)
    assert card["kl_from_heavy"]["high"] < 0.5 * before["kl_from_heavy"]["value"]
    assert held_out.value < before["held_out"]["value"]
    assert card["heavy"] == heavy and card["blocks"] == [0, 3] and card["num_blocks"] == 2
    difference = card["held_out"]["value"] - card["heavy_held_out"]["value"]
    assert card["minus_heavy"]["value"] == pytest.approx(difference)
    assert card["heavy_fingerprint"] == loading.load(heavy).fingerprint
    assert loading.load(tmp_path).spec.num_blocks == 2
    assert not torch.equal(  # its own weights by now
        loading.load(tmp_path).embedding.weight, loading.load(heavy).embedding.weight
    )


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_a_stopped_derivation_goes_on_exactly(derive_job, tmp_path, weight: float) -> None:
    job = derive_job(blocks="ablation", denoising_weight=weight)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train(job, straight, say=_quiet)
    lines: list[str] = []
    for steps in (3, 7, None):
        train(job, stopped, stop_after=steps, say=lines.append)
    for file in ("model.safetensors", CHOICE_FILE):
        assert (straight / file).read_bytes() == (stopped / file).read_bytes()
    assert sum("without block" in line for line in lines) == 2  # chosen once
    records = [json.loads(line) for line in (straight / "train.jsonl").read_text().splitlines()]
    assert "kl_from_heavy" in records[-1]


def test_a_choice_of_other_settings_is_made_anew(derive_job, tmp_path) -> None:
    train(derive_job(num_steps=1, blocks="first"), tmp_path, say=_quiet)
    (tmp_path / "state.safetensors").unlink()
    train(derive_job(num_steps=1, blocks="last"), tmp_path, say=_quiet)
    assert checkpoint.read_card(tmp_path)["blocks"] == [2, 3]


def test_a_folder_of_another_job_is_refused_before_it_changes(derive_job, tmp_path) -> None:
    train(derive_job(num_steps=2, blocks="ablation"), tmp_path, stop_after=1, say=_quiet)
    before = (tmp_path / CHOICE_FILE).read_bytes()
    with pytest.raises(InputError, match="trained with another job"):
        train(derive_job(num_steps=2, blocks="first"), tmp_path, say=_quiet)
    assert (tmp_path / CHOICE_FILE).read_bytes() == before


def test_another_heavy_model_at_the_same_place_is_noticed(derive_job, heavy, tmp_path) -> None:
    place = tmp_path / "heavy"
    shutil.copytree(heavy, place)
    job = derive_job(num_steps=2, heavy=str(place), blocks="ablation")
    train(job, tmp_path / "light", stop_after=1, say=_quiet)
    other = loading.load(place).trainable_copy()
    with torch.no_grad():
        other.head.weight.mul_(1.5)
    checkpoint.save(place, other, {})
    with pytest.raises(InputError, match="trained with another heavy"):
        train(job, tmp_path / "light", say=_quiet)
    (tmp_path / "light" / "state.safetensors").unlink()
    lines: list[str] = []
    train(job, tmp_path / "light", say=lines.append)
    assert sum("without block" in line for line in lines) == 2  # chosen anew


def _word_tokenizer(path: Path, size: int) -> Path:
    vocabulary = {f"w{n}": n for n in range(size - 1)} | {"[UNK]": size - 1}
    core = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(["<|endoftext|>"])
    core.save(str(path / "tokenizer.json"))
    return path / "tokenizer.json"


@pytest.mark.parametrize("name", ["mdlm", "mdlm_timecond", "llada", "dream"])
def test_a_light_one_is_written_in_the_layout_of_the_heavy_one(
    derive_job, golden: Path, tmp_path, name: str
) -> None:
    heavy = loading.load(golden / name)
    tokenizer = _word_tokenizer(tmp_path, 40)
    job = derive_job(
        num_steps=4, heavy=str(golden / name), blocks=[0], length=16, tokenizer=str(tokenizer)
    )
    train(job, tmp_path / "light", say=_quiet)
    assert loading.published(tmp_path / "light")[1] is loading.published(golden / name)[1]
    light = loading.load(tmp_path / "light")
    assert light.config == heavy.config.model_copy(update={"num_blocks": 1})
    card = checkpoint.read_card(tmp_path / "light")
    untrained = loading.load(f"{golden / name}#blocks=0")
    changed = [
        own
        for (own, value), (_, before) in zip(
            light.named_parameters(), untrained.named_parameters(), strict=True
        )
        if not torch.equal(value, before)
    ]
    unread = {"sigma_map.mlp.0.weight"} if name == "mdlm" else set()  # always given zero noise
    assert len(changed) >= len(list(light.parameters())) - len(unread) - 8
    assert card["steps"] == 4 and card["kl_from_heavy"]["value"] > 0


def test_what_cannot_be_a_heavy_denoiser_is_one_line(
    derive_job, make_job, golden: Path, tmp_path
) -> None:
    train(make_job("autoregressive", num_steps=1), tmp_path / "scorer", say=_quiet)
    cases = [
        ({"heavy": str(tmp_path / "scorer")}, "is autoregressive"),
        ({"heavy": str(golden / "duo")}, "uniform process"),
        ({"heavy": str(golden / "llada"), "num_blocks": 1}, "vocab_size"),
        ({"heavy": str(tmp_path / "nothing")}, "must be a folder"),
        ({"num_blocks": 5}, "has 4 blocks, got 5"),
        ({"length": 17}, "at most 16"),
    ]
    for derive, expected in cases:
        with pytest.raises(InputError, match=expected) as caught:
            train(derive_job(**derive), tmp_path / "out", say=_quiet)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "model.safetensors").exists()

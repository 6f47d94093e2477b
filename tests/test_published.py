"""Published checkpoints through the command line: analyze, search, report, export, sample."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import models, pre_tokenizers
from typer.testing import CliRunner, Result

from schedlab.cli import app
from schedlab.denoisers import checkpoint
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.text import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))

from tiny_world import tiny_job, write_job

MASKS = {"mdlm": 64, "mdlm_timecond": 64, "llada": 126, "dream": 126}
NUM_WORDS = 50
DERIVE = """
kind = "derive"
seed = 1
corpus = "{folder}/corpus.txt"
tokenizer = "{folder}/tokenizer.json"
[derive]
heavy = "{heavy}"
blocks = "ablation"
num_blocks = 1
length = 16
[optimization]
num_steps = 2
batch_size = 4
compile = false
[reporting]
held_out_windows = 8
"""


def run(*words: object) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output + result.stderr
    return result


@pytest.fixture(params=sorted(MASKS))
def world(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A tokenizer, a scorer and a corpus that fit a published checkpoint."""
    name = request.param
    words = [f"w{n}" for n in range(NUM_WORDS)]
    vocabulary = {word: n for n, word in enumerate([*words, "[UNK]"])}
    core = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(["<|endoftext|>"])
    core.save(str(tmp_path / "tokenizer.json"))
    vocab_size = {64: 65, 126: 128}[MASKS[name]]
    tokenizer = Tokenizer.for_model(tmp_path / "tokenizer.json", vocab_size, MASKS[name])
    assert tokenizer.decode(tokenizer.encode("w3 w1 <|endoftext|>")) == "w3 w1 [UNK]"
    scorer = Transformer(
        TransformerConfig(
            vocab_size=vocab_size,
            mask_id=MASKS[name],
            num_blocks=1,
            hidden_size=16,
            num_heads=2,
            max_length=32,
            causal=True,
        )
    )
    scorer.init_weights(torch.Generator().manual_seed(0))
    checkpoint.save(tmp_path / "scorer", scorer, {})
    draw = random.Random(0)
    documents = [" ".join(draw.choices(words, k=40)) for _ in range(300)]
    (tmp_path / "corpus.txt").write_text("\n\n".join(documents), encoding="utf-8")
    return name, tmp_path


def test_the_command_line_runs_on_it(world: tuple[str, Path], golden: Path) -> None:
    name, folder = world
    heavy = golden / name
    (folder / "derive.toml").write_text(DERIVE.format(folder=folder, heavy=heavy))
    run("train", folder / "derive.toml", "--out", folder / "light")
    assert "family " + name.partition("_")[0] in run("inspect", folder / "light").stdout
    job = tiny_job(
        folder,
        lab={
            "denoisers": {
                "H": str(heavy),
                "L": str(folder / "light"),
                "S": f"{heavy}#blocks=0",
            },
            "scorer": str(folder / "scorer"),
            "tokenizer": str(folder),
        },
    )
    file = write_job(job, folder / "job.toml")
    run("analyze", file)
    run("search", file)
    search = json.loads((folder / "run" / "search.json").read_text())
    assert len(search["rows"]) > 6
    run("report", folder / "run")
    run("export", folder / "run", "--out", folder / "plan.json")
    found = run("sample", folder / "plan.json", "--num", "3", "--json")
    texts = json.loads(found.stdout)["texts"]
    assert len(texts) == 3 and all(isinstance(text, str) and text for text in texts)


def test_inspect_says_what_is_unusual(golden: Path) -> None:
    lines = {
        "mdlm": "is always given 0",
        "mdlm_timecond": "reads the noise level",
        "duo": "leave-one-out",
        "llada": "family llada",
        "dream": "predicts the next one",
        "simplex_tess_selfcond": "self-conditioned",
    }
    for name, line in lines.items():
        assert line in run("inspect", golden / name).stdout

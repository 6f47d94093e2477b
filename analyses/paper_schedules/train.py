"""Train this study's models: `python train.py CORPUS FOLDER NAME ...`.

CORPUS is "embedded" (the bundled tokenizer, 4,500 steps as the bundled models) or a text file of
short stories (its own tokenizer of 2,048 tokens, 2,500 steps). NAME is `heavy`, `heavy-b`,
`light-N` with N blocks, or `scorer`. Stopped runs go on when the same command is given again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from schedlab.text import Tokenizer, load_corpus
from schedlab.training import TrainJob, train

SEEDS = {"heavy": 1, "heavy-b": 2, "light-4": 3, "light-8": 4, "scorer": 5}
SEEDS |= {"light-6": 6, "light-10": 7}
BLOCKS = {"heavy": 12, "heavy-b": 12, "scorer": 6}


def job(corpus: str, tokenizer: str, name: str) -> TrainJob:
    """The bundled models' recipe (`analyses/bundled_models`) at another depth or on other text."""
    blocks = BLOCKS[name] if name in BLOCKS else int(name.removeprefix("light-"))
    optimization = {
        "num_steps": 4500 if corpus == "embedded" else 2500,
        "batch_size": 32,
        "muon_learning_rate": 0.007,
        "noise_warmup_steps": 0 if name == "scorer" else 400,
    }
    return TrainJob.model_validate(
        {
            "kind": "autoregressive" if name == "scorer" else "denoiser",
            "seed": SEEDS[name],
            "corpus": corpus,
            "tokenizer": tokenizer,
            "model": {"num_blocks": blocks, "hidden_size": 128, "num_heads": 4, "length": 128},
            "optimization": optimization,
        }
    )


def main(corpus: str, folder: str, *names: str) -> None:
    """Make the tokenizer where there is none yet, then train one model after the other."""
    tokenizer = "bundled"
    if corpus != "embedded":
        tokenizer = str(Path(folder) / "tokenizer.json")
        if not Path(tokenizer).exists():
            texts = [document.text for document in load_corpus(corpus).train]
            Tokenizer.train(texts, 2048).save(tokenizer)
    for name in names:
        sys.stdout.write(f"== {name}\n")
        sys.stdout.flush()
        train(job(corpus, tokenizer, name), Path(folder) / name)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])

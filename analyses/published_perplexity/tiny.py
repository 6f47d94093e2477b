"""Small checkpoints in the layouts of MDLM and DUO to try the evaluation on: `python tiny.py OUT`.

OUT/mdlm is trained for a few minutes on the embedded corpus from random weights, OUT/duo is random
(`--random`: both). Neither has anything to do with the published weights but its layout.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from schedlab.denoisers import loading
from schedlab.denoisers.dit import DiT, DiTConfig
from schedlab.denoisers.families import FAMILIES
from schedlab.text import Tokenizer
from schedlab.training import DeriveJob, train


def random_network(process: str) -> DiT:
    """A DiT of 4 blocks over the bundled vocabulary."""
    tokenizer = Tokenizer.load("bundled")
    network = DiT(
        DiTConfig(
            process=process,
            vocab_size=tokenizer.vocab_size,
            mask_id=tokenizer.mask_id if process == "masked" else None,
            num_blocks=4,
            hidden_size=128,
            num_heads=4,
            cond_size=32,
            max_length=128,
            time_conditioning=process == "uniform",
        )
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim < 2:
                weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            else:
                scale = 1.0 if "embedding" in name else 0.5 * weight.shape[1] ** -0.5
                weight.normal_(0.0, scale, generator=generator)
    # Gates of branches start open: 1 at every position.
    for block in network.blocks:
        bias = block.adaLN_modulation.bias.data.view(6, -1)
        bias[2] = bias[5] = 0.3
    return network


def main(out: str, *, random: bool) -> None:
    """Write both."""
    folder = Path(out)
    for family, process in (("mdlm", "masked"), ("duo", "uniform")):
        name = family if random or family == "duo" else "mdlm-random"
        loading.save(folder / name, random_network(process), FAMILIES[family])
    if random:
        return
    job = {
        "kind": "derive",
        "seed": 1,
        "derive": {
            "heavy": str((folder / "mdlm-random").absolute()),
            "blocks": [0, 1, 2, 3],
            "denoising_weight": 1.0,
        },
        "optimization": {
            "num_steps": 600,
            "muon_learning_rate": 0.007,
            "noise_warmup_steps": 100,
            "precision": "float32",
        },
        "reporting": {"evaluate_every": 100_000, "log_every": 100},
    }
    train(DeriveJob.model_validate(job), folder / "mdlm")


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--random"]
    if len(words) != 1:
        sys.exit(__doc__)
    main(words[0], random="--random" in sys.argv)

"""Makes the planted run importable, and a tiny pair of denoisers on disk."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "report"))

from schedlab.denoisers import checkpoint
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random one-block denoisers `heavy` and `light`."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = Tokenizer.load("bundled")
    for seed, name in enumerate(("heavy", "light")):
        config = TransformerConfig(
            vocab_size=tokenizer.vocab_size,
            mask_id=tokenizer.mask_id,
            num_blocks=1,
            hidden_size=8,
            num_heads=2,
            max_length=64,
        )
        model = Transformer(config)
        model.init_weights(torch.Generator().manual_seed(seed))
        model.head.weight.data.mul_(100)  # else untrained predictions are all but uniform
        checkpoint.save(folder / name, model, {})
    return folder

"""The number of threads is measured on states that the denoiser reads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from schedlab.denoisers.dit import DiT, DiTConfig
from schedlab.denoisers.network import Network
from schedlab.denoisers.simplex_transformer import SimplexTransformer, SimplexTransformerConfig
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.pipeline.threads import choose_threads

SIZES = {"vocab_size": 11, "num_blocks": 1, "hidden_size": 16, "num_heads": 2, "max_length": 8}


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "network",
    [
        Transformer(TransformerConfig(**SIZES, mask_id=10)),
        SimplexTransformer(SimplexTransformerConfig(**SIZES)),
        DiT(DiTConfig(**SIZES, process="uniform", mask_id=None, cond_size=8,
                      time_conditioning=True)),
    ],
    ids=["masked", "simplex", "uniform, reads the time"],
)  # fmt: skip
def test_every_kind_of_denoiser_is_timed(network: Network) -> None:
    chosen = choose_threads(network, 8)
    assert chosen in (1, 2)
    assert torch.get_num_threads() == chosen

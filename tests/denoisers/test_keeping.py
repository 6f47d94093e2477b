"""Positions computed with what is kept of the others: nothing kept is the ordinary forward."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from schedlab.denoisers import loading
from schedlab.denoisers.base import keeping
from schedlab.denoisers.gated import GatedConfig, GatedTransformer
from schedlab.denoisers.keeping import put
from schedlab.denoisers.network import Network
from schedlab.denoisers.oracle import OracleDenoiser, ToyWorld
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError
from schedlab.sampling.compiled import Compiled

V, L, B = 11, 9, 5


def network(kind: str) -> Network:
    sizes = {"vocab_size": V, "mask_id": V - 1, "hidden_size": 16, "max_length": L}
    model: Network
    if kind in ("bundled", "bundled, learned positions"):
        learned = kind != "bundled"
        config = TransformerConfig(num_blocks=3, num_heads=2, learned_positions=learned, **sizes)
        model = Transformer(config)
    else:
        model = GatedTransformer(
            GatedConfig(
                num_blocks=3, num_heads=4, num_kv_heads=2, mlp_size=24, rope_base=1e4,
                norm_eps=1e-6, qkv_bias=kind == "dream", shifted=kind == "dream", **sizes,
            )
        )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0.0 if weight.ndim > 1 else 0.5, 0.4, generator=generator)
    return model.double().requires_grad_(False).eval()


KINDS = ["bundled", "bundled, learned positions", "llada", "dream"]


def tokens(seed: int = 1) -> torch.Tensor:
    return torch.randint(V, (B, L), generator=torch.Generator().manual_seed(seed))


def everywhere() -> torch.Tensor:
    return torch.arange(L).expand(B, L)


def logits(model: Network, kept: torch.Tensor) -> torch.Tensor:
    rows, places = torch.meshgrid(torch.arange(B), torch.arange(L), indexing="ij")
    return keeping(model, "H").kept_logits(kept, rows.flatten(), places.flatten()).view(B, L, V)


@pytest.mark.parametrize("kind", KINDS)
def test_all_positions_are_the_ordinary_forward(kind: str) -> None:
    model, z = network(kind), tokens()
    found = keeping(model, "H")
    kept = found.refresh(None, z, everywhere())
    assert kept.shape == (B, L, found.kept_width)
    expected = model.logits(model.features(z))
    torch.testing.assert_close(logits(model, kept), expected, atol=1e-9, rtol=1e-9)
    # Whatever was kept before, and in whatever order positions are given.
    stale = found.refresh(None, tokens(2), everywhere())
    order = torch.stack([torch.randperm(L) for _ in range(B)])
    again = put(stale, found.refresh(stale, z.gather(1, order), order), order)
    torch.testing.assert_close(again, kept, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_fillers_are_read_by_nobody(kind: str) -> None:
    model, z = network(kind), tokens()
    found = keeping(model, "H")
    kept = found.refresh(None, tokens(2), everywhere())
    some = torch.tensor([[0, 3, 8]]).expand(B, 3)
    fresh = found.refresh(kept, z.gather(1, some), some)
    filled = torch.cat((some, torch.full((B, 3), L)), dim=1)
    for filler in (0, 7):
        z_filled = torch.cat((z.gather(1, some), torch.full((B, 3), filler)), dim=1)
        again = found.refresh(kept, z_filled, filled)
        torch.testing.assert_close(again[:, :3], fresh, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(put(kept, again, filled), put(kept, fresh, some))


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_changed_nothing_changes(kind: str) -> None:
    model, z = network(kind), tokens()
    found = keeping(model, "H")
    kept = found.refresh(None, z, everywhere())
    some = torch.tensor([[0, 3, 4], [8, 7, 2], [1, 5, 6], [2, 4, 6], [0, 1, 8]])
    fresh = found.refresh(kept, z.gather(1, some), some)
    torch.testing.assert_close(put(kept, fresh, some), kept, atol=1e-9, rtol=1e-9)


def test_one_block_reads_what_is_kept_exactly() -> None:
    """What one block keeps of a position of the gated network depends on that position alone, so
    other positions are exact however many are left out."""
    model = network("llada")
    model.blocks = model.blocks[:1]  # type: ignore[assignment]
    found, z = keeping(model, "H"), tokens()
    kept = found.refresh(None, z, everywhere())
    changed = z.clone()
    changed[:, 4] = (z[:, 4] + 1) % V
    some = torch.tensor([[4, 6]]).expand(B, 2)
    kept = put(kept, found.refresh(kept, changed.gather(1, some), some), some)
    expected = model.logits(model.features(changed))
    got = logits(model, kept)
    torch.testing.assert_close(got[:, [4, 6]], expected[:, [4, 6]], atol=1e-9, rtol=1e-9)
    assert not torch.allclose(got[:, 5], expected[:, 5])  # left as it was


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_positions_are_read_as_they_were(kind: str) -> None:
    """Two refreshes that differ in what the frozen position holds now are the same."""
    model, z = network(kind), tokens()
    found = keeping(model, "H")
    kept = found.refresh(None, z, everywhere())
    others = torch.tensor([[n for n in range(L) if n != 4]]).expand(B, L - 1)
    changed = z.clone()
    changed[:, 0] = (z[:, 0] + 1) % V
    fresh = found.refresh(kept, changed.gather(1, others), others)
    torch.testing.assert_close(put(kept, fresh, others)[:, 4], kept[:, 4], atol=0, rtol=0)
    moved = found.refresh(put(kept, kept[:, 5:6], torch.full((B, 1), 4)), changed[:, 5:6],
                          torch.full((B, 1), 5))  # fmt: skip
    assert not torch.allclose(moved[:, 0], fresh[:, 4])  # they do read it


@pytest.mark.parametrize("name", ["llada", "dream"])
@torch.inference_mode()
def test_published_layouts_can_keep(golden: Path, name: str) -> None:
    model = loading.load(golden / name)
    found = keeping(model, "H")
    z = torch.randint(model.spec.vocab_size, (2, 12), generator=torch.Generator().manual_seed(0))
    kept = found.refresh(None, z, torch.arange(12).expand(2, 12))
    rows, places = torch.meshgrid(torch.arange(2), torch.arange(12), indexing="ij")
    got = found.kept_logits(kept, rows.flatten(), places.flatten()).view(2, 12, -1)
    expected = model.logits(model.features(z))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_those_that_cannot_are_refused_in_one_line() -> None:
    table = OracleDenoiser(ToyWorld.random(num_real=2, length=3, seed=0))
    with pytest.raises(InputError, match="'H' always computes whole sequences") as caught:
        keeping(table, "H")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="always computes whole"):
        keeping(Compiled(table), "H")
    model = network("bundled")
    assert keeping(Compiled(model), "H").kept_width == keeping(model, "H").kept_width
    causal = Transformer(model.config.model_copy(update={"causal": True}))
    with pytest.raises(InputError, match="causal"):
        causal.refresh(None, tokens(), everywhere())

import math

import pytest
import torch

from schedlab.importance.divergences import (
    kl_divergence,
    log_probs,
    position_stats,
    row_chunks,
)
from schedlab.importance.readings import MaskedReading, Step
from schedlab.processes import MaskedProcess


def random_logits(num: int, vocab_size: int, *, spread: float = 3.0, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(num, vocab_size, dtype=torch.float64, generator=generator)


def stats_of(logits: dict[str, torch.Tensor], targets=None):
    vocab_size = logits["H"].shape[1]
    reading = MaskedReading(MaskedProcess(vocab_size, vocab_size - 1))
    laws = {role: log_probs(part, reading.process) for role, part in logits.items()}
    none = torch.empty(0)
    step = Step(none, none, none)  # of which masked losses read nothing
    losses = None if targets is None else reading.losses(laws, targets, step)
    return position_stats(laws, "H", losses)


def test_every_metric_matches_its_definition():
    logits = {"H": random_logits(7, 6), "L": random_logits(7, 6, seed=1)}
    targets = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    stats = stats_of(logits, targets)
    p, q = (logits[role][:, :5].softmax(-1) for role in "HL")  # the mask, id 5, has none
    mean = (p + q) / 2
    row = torch.arange(7)
    losses = {"H": -p[row, targets].log(), "L": -q[row, targets].log()}
    expected = {
        "cross_entropy/H": losses["H"],
        "cross_entropy/L": losses["L"],
        "loss_gap/H/L": losses["L"] - losses["H"],
        "abs_loss_gap/H/L": (losses["L"] - losses["H"]).abs(),
        "kl_heavy_light/H/L": (p * (p / q).log()).sum(-1),
        "kl_light_heavy/H/L": (q * (q / p).log()).sum(-1),
        "js/H/L": ((p * (p / mean).log()).sum(-1) + (q * (q / mean).log()).sum(-1)) / 2,
    }
    assert stats.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(stats[name], value, rtol=1e-12, atol=1e-14, msg=name)


def test_equal_predictions_give_exactly_zero():
    for dtype in (torch.float32, torch.float64):
        logits = random_logits(50, 40).to(dtype)
        stats = stats_of({"H": logits, "L": logits.clone()}, torch.zeros(50, dtype=torch.int64))
        for name, value in stats.items():
            if not name.startswith("cross_entropy"):
                assert (value == 0).all(), name


def test_without_clean_tokens_there_are_divergences_only():
    stats = stats_of({"H": random_logits(3, 5), "L": random_logits(3, 5, seed=1)})
    assert set(stats) == {"kl_heavy_light/H/L", "kl_light_heavy/H/L", "js/H/L"}


def test_impossible_tokens_leave_everything_finite():
    """p and q with disjoint support: JS is log 2, and KL is huge rather than NaN."""
    p = torch.tensor([[0.0, -torch.inf, -torch.inf, 0.0]], dtype=torch.float64)
    q = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0]], dtype=torch.float64)
    stats = stats_of({"H": p, "L": q})
    assert stats["js/H/L"].item() == pytest.approx(math.log(2), abs=1e-9)
    assert stats["kl_heavy_light/H/L"].item() > 1_000
    assert (stats_of({"H": p, "L": p})["kl_heavy_light/H/L"] == 0).all()


@pytest.mark.parametrize("closeness", [1e-3, 0.1, 1.0])
def test_float32_is_enough_for_predictions_of_a_large_vocabulary(closeness):
    """Error below 1e-5 nats at a position, 1e-6 in the mean, for close and distant models."""
    heavy = random_logits(64, 20_000)
    light = heavy + closeness * random_logits(64, 20_000, spread=1.0, seed=1)
    targets = torch.arange(64)
    exact = stats_of({"H": heavy, "L": light}, targets)
    rounded = {"H": heavy.float(), "L": light.float()}
    # The rounded logits in float64: what is measured is the arithmetic, not the input's rounding.
    reference = stats_of({role: part.double() for role, part in rounded.items()}, targets)
    single = stats_of(rounded, targets)
    for name, value in reference.items():
        assert single[name].dtype == torch.float64
        assert (single[name] - value).abs().max() < 1e-5, name
        assert (single[name] - value).mean().abs() < 1e-6, name
        assert (single[name] - exact[name]).mean().abs() < 2e-6, name


def test_bfloat16_logits_are_computed_with_in_float32():
    process = MaskedProcess(8, 7)
    assert log_probs(random_logits(2, 8).bfloat16(), process).dtype == torch.float32
    assert log_probs(random_logits(2, 8), process).dtype == torch.float64


def test_kl_divergence_agrees_with_torch():
    log_p, log_q = (random_logits(5, 9, seed=seed).log_softmax(-1) for seed in (0, 1))
    expected = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(kl_divergence(log_p, log_q), expected)


def test_chunks_cover_all_rows_once_within_the_budget():
    chunks = list(row_chunks(1_000, vocab_size=50_000, num_denoisers=4, budget_bytes=64 << 20))
    rows = [row for chunk in chunks for row in range(chunk.start, chunk.stop)]
    assert rows == list(range(1_000))
    assert max(chunk.stop - chunk.start for chunk in chunks) * 50_000 * 8 * 10 <= 64 << 20
    assert list(row_chunks(0, vocab_size=9, num_denoisers=1, budget_bytes=1)) == []
    assert len(list(row_chunks(3, vocab_size=9, num_denoisers=1, budget_bytes=1))) == 3


def test_a_large_budget_makes_chunks_no_larger_than_caches_are_good_for():
    chunks = list(row_chunks(1_000, vocab_size=2_048, num_denoisers=4, budget_bytes=1 << 30))
    assert [chunk.stop - chunk.start for chunk in chunks] == [128] * 7 + [104]

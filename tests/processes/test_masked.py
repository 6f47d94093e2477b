"""The masked process: marginals, conditional reveals, SUBS log-probabilities."""

import pytest
import torch

from schedlab.errors import InputError
from schedlab.processes import MaskedProcess, alpha, reveal_probs, time_grid, uniform_grid

PROCESS = MaskedProcess(vocab_size=5, mask_id=4)


def test_grid_runs_from_one_to_exactly_zero_and_reveals_everything():
    grid = uniform_grid(7)
    assert grid[0] == 1.0
    assert grid[-1] == 0.0
    assert (grid.diff() < 0).all()
    reveal = reveal_probs(alpha("linear"), grid)
    assert reveal[-1] == 1.0
    torch.testing.assert_close(reveal, 1.0 / torch.arange(7, 0, -1, dtype=torch.float64))


def test_forward_keeps_a_share_alpha():
    u = torch.rand(1, 200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.zeros(1, 200_000, dtype=torch.int64)
    kept = (PROCESS.forward(x, 0.3, u) == 0).double().mean().item()
    # 5 standard errors of a share of 0.3: false-alarm rate 6e-7.
    assert abs(kept - 0.3) < 5 * (0.3 * 0.7 / 200_000) ** 0.5


def test_a_fixed_uniform_reveals_with_the_conditional_probability():
    grid = uniform_grid(8)
    u = torch.rand(100_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z = torch.full((100_000, 1), PROCESS.mask_id)
    for k, r in enumerate(reveal_probs(alpha("linear"), grid).tolist()):
        masked = (z == PROCESS.mask_id).sum().item()
        hit = PROCESS.revealed(z, 1.0 - grid[k + 1].item(), u)
        share = hit.sum().item() / masked
        assert abs(share - r) <= 5 * (r * (1 - r) / masked) ** 0.5 + 1e-12
        z[hit] = 0
    assert (z == 0).all()


def test_log_p_x_gives_the_mask_no_probability_and_sums_to_one():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
    log_probs = PROCESS.log_p_x(logits)
    assert log_probs.dtype == torch.float64
    assert (log_probs[:, 4] == -torch.inf).all()
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(6, dtype=torch.float64))
    assert torch.isfinite(logits[:, 4]).all(), "the caller's logits must not be changed"


def test_temperature_and_top_p_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05, 1.0]], dtype=torch.float64).log()
    got = PROCESS.log_p_x(logits, top_p=0.75).exp()
    expected = torch.tensor([[0.5 / 0.8, 0.3 / 0.8, 0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(got, expected)
    cold = PROCESS.log_p_x(logits, temperature=0.5).exp()
    squares = torch.tensor([[0.25, 0.09, 0.0225, 0.0025, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(cold, squares / squares.sum())
    assert (PROCESS.log_p_x(logits, top_p=1e-9).exp() > 0).sum() == 1


def test_unknown_names_list_the_known_ones():
    with pytest.raises(InputError, match="linear"):
        alpha("quadratic")
    with pytest.raises(InputError, match="uniform"):
        time_grid("quadratic", 4)

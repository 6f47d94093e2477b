"""The uniform-state process: Bayes' rule by brute force, DUO's own numbers, leave-one-out."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schedlab.processes import UniformProcess

V = 4
PROCESS = UniformProcess(V)
shares = st.floats(0, 1, allow_nan=False)


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def kernel(share: float, size: int = V) -> torch.Tensor:
    """q(later | earlier), rows sum to 1."""
    eye = torch.eye(size, dtype=torch.float64)
    return share * eye + (1 - share) / size


def test_forward_keeps_a_share_and_scatters_the_rest_evenly():
    draws = 200_000
    generator = torch.Generator().manual_seed(0)
    u, token_u = torch.rand(2, draws, dtype=torch.float64, generator=generator)
    z = PROCESS.forward(torch.full((draws,), 2), 0.3, u, token_u)
    expected = kernel(0.3)[2]
    share = torch.bincount(z, minlength=V).double() / draws
    # 5 standard errors of four shares: false-alarm rate 2e-6.
    assert ((share - expected).abs() < 5 * (expected * (1 - expected) / draws).sqrt()).all()


def test_the_largest_uniform_is_still_a_token():
    u = torch.full((1,), 1 - 2.0**-53, dtype=torch.float64)
    assert PROCESS.forward(torch.tensor([0]), 0.0, u, u).item() == V - 1


@settings(max_examples=80, deadline=None)
@given(early=shares, late=shares, seed=st.integers(0, 1000))
def test_the_posterior_is_bayes_rule(early, late, seed):
    alpha_t, alpha_s = sorted((early, late))
    ratio = alpha_t / alpha_s if alpha_s > 0 else 1.0
    p = torch.rand(V, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    p /= p.sum()
    # The joint law of (x, z_s, z_t), summed over x and read at every z_t.
    joint = p[:, None, None] * kernel(alpha_s)[:, :, None] * kernel(ratio)
    expected = (joint.sum(0) / joint.sum((0, 1))).T
    found = PROCESS.posterior(
        torch.arange(V), p.expand(V, V), doubles(alpha_t).expand(V), doubles(alpha_s).expand(V)
    )
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.sum(-1), torch.ones(V, dtype=torch.float64))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


@settings(max_examples=50, deadline=None)
@given(share=st.floats(0, 0.999), token=st.integers(0, V - 1), seed=st.integers(0, 100))
def test_a_step_to_the_same_level_moves_nothing(share, token, seed):
    p = torch.randn(1, V, generator=torch.Generator().manual_seed(seed)).softmax(-1)
    found = PROCESS.posterior(torch.tensor([token]), p, doubles(share), doubles(share))
    assert found[0, token] == 1.0 and found.sum() == 1.0


def test_a_step_from_pure_noise_forgets_and_one_to_the_text_predicts():
    p = torch.rand(2, V, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    p /= p.sum(-1, keepdim=True)
    z = torch.tensor([1, 3])
    from_noise = PROCESS.posterior(z, p, doubles(0, 0), doubles(0.4, 0.4))
    torch.testing.assert_close(from_noise, 0.4 * p + 0.6 / V)
    to_text = PROCESS.posterior(z[:1], p[:1], doubles(0.7), doubles(1.0))
    expected = p[:1] * kernel(0.7)[:, 1]
    torch.testing.assert_close(to_text, expected / expected.sum())


def test_every_token_may_have_its_own_levels():
    generator = torch.Generator().manual_seed(4)
    p = torch.randn(6, V, generator=generator).softmax(-1)
    z = torch.randint(V, (6,), generator=generator)
    alpha_s, alpha_t = (
        torch.rand(2, 6, dtype=torch.float64, generator=generator).sort(0)[0].flip(0)
    )
    together = PROCESS.posterior(z, p, alpha_t, alpha_s)
    for n in range(6):
        one = slice(n, n + 1)
        alone = PROCESS.posterior(z[one], p[one], alpha_t[one], alpha_s[one])
        assert torch.equal(together[one], alone)


def test_the_prediction_is_left_alone():
    p = torch.full((1, V), 1 / V, dtype=torch.float64)
    PROCESS.posterior(torch.tensor([0]), p, doubles(0.2), doubles(0.6))
    assert (p == 1 / V).all()


def test_posterior_and_marginal_are_those_of_duo(golden):
    with np.load(golden / "duo" / "posterior.npz", allow_pickle=False) as data:
        case = {name: torch.from_numpy(data[name]) for name in data.files}
    process = UniformProcess(64)
    for n in range(5):
        alpha_t, alpha_s = (case[name][n].double().expand(8) for name in ("alpha_t", "alpha_s"))
        found = process.posterior(case["xt"][n], case["x0_probs"][n], alpha_t, alpha_s)
        expected = case["posterior_float64"][n]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
        # From pure noise the posterior is the marginal at s.
        zeros = torch.zeros(8, dtype=torch.float64)
        found = process.posterior(case["xt"][n], case["x0_probs"][n], zeros, alpha_s)
        expected = case["forward_process_at_alpha_s"][n].double()
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_an_ordinary_posterior_is_turned_into_a_leave_one_out_one(share):
    length, generator = 2, torch.Generator().manual_seed(5)
    texts = list(itertools.product(range(V), repeat=length))
    p_text = torch.rand(len(texts), dtype=torch.float64, generator=generator) ** 4
    p_text /= p_text.sum()
    q = kernel(share)
    for z in texts:
        for i in range(length):
            ordinary, without = torch.zeros(2, V, dtype=torch.float64)
            for p, x in zip(p_text, texts, strict=True):
                others = torch.stack([q[x[j], z[j]] for j in range(length) if j != i]).prod()
                without[x[i]] += p * others
                ordinary[x[i]] += p * others * q[x[i], z[i]]
            # Logits are given up to a constant.
            logits = (ordinary / ordinary.sum()).log()[None] + 3.0
            found = PROCESS.leave_one_out(logits, torch.tensor([z[i]]), doubles(share))
            torch.testing.assert_close(found.softmax(-1)[0], without / without.sum())
            back = PROCESS.all_in(without.log()[None], torch.tensor([z[i]]), doubles(share))
            torch.testing.assert_close(back.softmax(-1)[0], ordinary / ordinary.sum())


def test_nothing_is_subtracted_at_pure_noise_and_nothing_breaks_without_noise():
    logits = torch.randn(2, V, generator=torch.Generator().manual_seed(6))
    before = logits.clone()
    found = PROCESS.leave_one_out(logits, torch.tensor([0, 2]), doubles(0.0, 1.0))
    assert torch.equal(found[0], logits[0]) and torch.isfinite(found).all()
    assert found.dtype == logits.dtype and torch.equal(logits, before)

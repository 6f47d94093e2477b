"""Addressed normals and picked uniforms: their law, independence of address, batch and chunks."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from schedlab.results import SeedBlock
from schedlab.sampling import Purpose, SequenceIds, uniforms
from schedlab.sampling import noise as noise_module
from schedlab.sampling.noise import normals, uniforms_at

ROWS, WIDTH = 400, 500


def ids_of(num, seed=3):
    return SequenceIds.of([SeedBlock(seed, 0, num)])


def draws(ids=None, purpose=Purpose.SIMPLEX, position=7, visit=0, num=WIDTH):
    ids = ids_of(ROWS) if ids is None else ids
    return normals(ids, purpose, torch.full((len(ids),), position), visit, num)


def test_normals_are_normal():
    x = draws()
    assert x.dtype == torch.float32 and x.shape == (ROWS, WIDTH)
    # A Kolmogorov-Smirnov test of 200,000 values at false-alarm rate 1e-4.
    assert stats.kstest(x.flatten().numpy(), "norm").pvalue > 1e-4


def test_the_tails_are_normal():
    # 4 million values: beyond 4 about 253 are due; two-sided binomial test, false-alarm rate 1e-4.
    x = draws(num=10_000)
    beyond = int((x.abs() > 4).sum())
    assert stats.binomtest(beyond, x.numel(), 2 * stats.norm.sf(4)).pvalue > 1e-4
    assert x.abs().max() > 4.5  # fails once in 10^12 runs


def test_moments():
    x = draws().double().flatten()
    # 5 standard errors each (variances of x, x^2, x^3, x^4: 1, 2, 15, 96): false-alarm rate 2e-6.
    for power, (mean, variance) in enumerate([(0, 1), (1, 2), (0, 15), (3, 96)], start=1):
        assert abs(x.pow(power).mean().item() - mean) < 5 * math.sqrt(variance / x.numel()), power


@pytest.mark.parametrize("gap", [1, WIDTH // 2, WIDTH - 1])
def test_values_of_one_address_are_independent(gap):
    # The two values of a pair lie half a width apart: same radius, angles a quarter turn apart.
    x = draws().double()
    left, right = x[:, :-gap].flatten(), x[:, gap:].flatten()
    for one, other in ((left, right), (left.square(), right.square()), (left, right.square())):
        correlation = torch.corrcoef(torch.stack((one, other)))[0, 1]
        # 5 standard errors: false-alarm rate 2e-6 for all of this test.
        assert abs(correlation) < 5 / math.sqrt(len(one))


def test_neighbouring_addresses_are_independent():
    x = draws().double()
    correlation = torch.corrcoef(torch.stack((x[:-1].flatten(), x[1:].flatten())))[0, 1]
    assert abs(correlation) < 5 / math.sqrt(x[1:].numel())


def test_every_part_of_the_address_matters():
    base = draws().double()
    others = [
        draws(ids_of(ROWS, seed=4)),
        draws(purpose=Purpose.TOKEN),
        draws(position=8),
        draws(visit=1),
        draws(SequenceIds.of([SeedBlock(3, ROWS, ROWS)])),
    ]
    for other in others:
        # A few equal float32 values are due by chance.
        assert (base == other).double().mean() < 1e-4
        both = torch.stack((base.flatten(), other.double().flatten()))
        # 5 standard errors: false-alarm rate 3e-6 for all of this test.
        assert abs(torch.corrcoef(both)[0, 1]) < 5 / math.sqrt(base.numel())


@pytest.mark.parametrize("num", [1, 2, 7, 96, 501])
def test_values_depend_on_nothing_but_the_address(num, monkeypatch):
    ids, position = ids_of(12), torch.arange(12) * 3
    whole = normals(ids, Purpose.SIMPLEX, position, 5, num)
    assert whole.shape == (12, num)
    rows = torch.tensor([9, 2, 2])
    picked = normals(ids.pick(rows), Purpose.SIMPLEX, position[rows], 5, num)
    assert torch.equal(picked, whole[rows])
    visits = normals(ids, Purpose.SIMPLEX, position, torch.full((12,), 5), num)
    assert torch.equal(visits, whole)
    # Nor on how many are made at a time.
    monkeypatch.setattr(noise_module, "_CPU_NORMALS", 1)
    assert torch.equal(normals(ids, Purpose.SIMPLEX, position, 5, num), whole)


def test_no_addresses_give_no_values():
    nobody = torch.zeros(0, dtype=torch.int64)
    ids = SequenceIds(nobody, nobody)
    assert normals(ids, Purpose.SIMPLEX, nobody, 0, 6).shape == (0, 6)
    assert uniforms_at(ids, Purpose.TOKEN, nobody).shape == (0,)


def test_both_ways_of_computing_the_halves_give_the_same_bits():
    """numpy's way on CPUs, torch's on other devices."""
    key = torch.randint(-(2**63), 2**63 - 1, (50,), generator=torch.Generator().manual_seed(0))
    upper, lower = noise_module._halves(key, 300)
    x = noise_module._mix(key[:, None] + torch.arange(1, 301) * noise_module._GOLDEN)
    first, second = x & 0xFFFFFFFF, noise_module._shift_right(x, 32)
    assert torch.equal(upper, (first.float() + 0.5) * 2.0**-32)
    assert torch.equal(lower, (second.float() + 0.5) * 2.0**-32)


@pytest.mark.parametrize("bits", [0, 2**64 - 1, 2**32 - 1, (2**32 - 1) << 32])
def test_the_extreme_bits_give_finite_values(bits, monkeypatch):
    monkeypatch.setattr(
        noise_module, "_mixed", lambda key, num: np.full((len(key), num), bits, dtype=np.uint64)
    )
    x = draws(ids_of(2), num=4)
    assert torch.isfinite(x).all() and x.abs().max() < 6.8


def test_picked_uniforms_are_those_of_the_whole():
    ids, position = ids_of(20), torch.arange(9)
    for visit in (0, 64 * 1000 + 3):
        whole = uniforms(ids, Purpose.TOKEN, position, visit)
        row, at = torch.tensor([4, 4, 11, 0]), torch.tensor([0, 8, 2, 2])
        picked = uniforms_at(ids.pick(row), Purpose.TOKEN, at, visit)
        assert torch.equal(picked, whole[row, at])
    visits = torch.tensor([0, 1, 2, 3])
    own = uniforms_at(ids.pick(row), Purpose.TOKEN, at, visits)
    for n in range(4):
        assert own[n] == uniforms(ids, Purpose.TOKEN, position, n)[row[n], at[n]]

"""Addressed noise: known answers, uniformity, independence of call order and batch."""

import math

import torch
from scipy import stats

from schedlab.results import SeedBlock
from schedlab.sampling import Purpose, SequenceIds, gumbels, uniforms
from schedlab.sampling import noise as noise_module


def ids_of(num, seed=3):
    return SequenceIds.of([SeedBlock(seed, 0, num)])


def test_the_mixer_is_splitmix64():
    # First outputs of the reference SplitMix64 with seed 1234567.
    stream = noise_module._mix(1234567 + torch.arange(1, 4) * noise_module._GOLDEN)
    assert [int(x) % 2**64 for x in stream] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_values_do_not_depend_on_the_batch():
    position = torch.arange(9)
    whole = uniforms(ids_of(20), Purpose.REVEAL, position)
    part = uniforms(ids_of(20).pick(torch.tensor([7, 3])), Purpose.REVEAL, position)
    assert torch.equal(part, whole[[7, 3]])
    row_N, position_N = torch.tensor([4, 4, 11]), torch.tensor([0, 8, 2])
    many = gumbels(ids_of(20).pick(row_N), Purpose.TOKEN, position_N, 0, 6)
    one = gumbels(ids_of(20).pick(row_N[2:]), Purpose.TOKEN, position_N[2:], 0, 6)
    assert torch.equal(one[0], many[2])


def test_every_part_of_the_address_matters():
    position = torch.arange(50)
    base = uniforms(ids_of(50), Purpose.REVEAL, position)
    others = [
        uniforms(ids_of(50, seed=4), Purpose.REVEAL, position),
        uniforms(ids_of(50), Purpose.FORWARD, position),
        uniforms(ids_of(50), Purpose.REVEAL, position, visit=1),
        uniforms(ids_of(50), Purpose.REVEAL, position + 50),
    ]
    for other in others:
        assert not (base == other).any()
        correlation = torch.corrcoef(torch.stack([base.flatten(), other.flatten()]))[0, 1]
        assert abs(correlation) < 5 / math.sqrt(base.numel())  # false-alarm rate 6e-7


def test_uniforms_are_uniform_and_pairs_are_independent():
    u = uniforms(ids_of(400), Purpose.REVEAL, torch.arange(256))
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-4
    cells = (u * 8).long()
    for left, right in [(cells[:, :-1], cells[:, 1:]), (cells[:-1], cells[1:])]:
        table = torch.bincount((left * 8 + right).flatten(), minlength=64).double()
        assert stats.chisquare(table.numpy()).pvalue > 1e-4


def test_gumbels_have_the_right_law_far_into_the_tail():
    g = gumbels(ids_of(1000), Purpose.TOKEN, torch.zeros(1000, dtype=torch.int64), 0, 1000)
    assert stats.kstest(g.flatten()[:200_000].numpy(), "gumbel_r").pvalue > 1e-4


def test_the_extreme_uniforms_lie_inside_the_open_interval_and_give_finite_gumbels():
    extremes = noise_module._to_unit(torch.tensor([0, -1]))  # no bit set, all bits set
    assert 0 < extremes[0] < 1e-15 and 1 - 1e-15 < extremes[1] < 1
    low, high = (-torch.log(-torch.log(extremes))).tolist()
    # Far beyond float32's 16.6.
    assert -3.7 < low < -3.5 and 36 < high < 37


def test_both_ways_of_computing_the_stream_give_the_same_bits() -> None:
    """numpy's way on CPUs, torch's on other devices."""
    key = torch.randint(-(2**63), 2**63 - 1, (50,), generator=torch.Generator().manual_seed(0))
    key = torch.cat((key, torch.tensor([0, -1, 2**63 - 1, -(2**63)])))
    counter = torch.arange(1, 301)
    expected = noise_module._to_unit(
        noise_module._mix(key[:, None] + counter * noise_module._GOLDEN)
    )
    assert torch.equal(torch.from_numpy(noise_module._stream(key.numpy(), 300)), expected)
    assert expected.min() > 0 and expected.max() < 1

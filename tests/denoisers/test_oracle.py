"""The toy worlds that other tests lean on."""

import torch

from schedlab.denoisers.base import Denoiser
from schedlab.denoisers.oracle import OracleDenoiser, ToyWorld, sequence_index

WORLD = ToyWorld.random(num_real=3, length=3, seed=4)


def test_world_is_a_distribution_over_all_texts():
    assert WORLD.texts().shape == (27, 3)
    torch.testing.assert_close(WORLD.probs_X.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert (WORLD.probs_X > 0).all()


def test_sequence_index_inverts_enumeration():
    assert torch.equal(sequence_index(WORLD.noisy(), 4), torch.arange(64))


def test_posterior_agrees_with_conditioning_by_hand():
    oracle = OracleDenoiser(WORLD)
    texts = WORLD.texts()
    z = torch.tensor([[1, 3, 3]])
    fits = texts[:, 0] == 1
    for position in range(3):
        for token in range(3):
            joint = WORLD.probs_X[fits & (texts[:, position] == token)].sum()
            expected = joint / WORLD.probs_X[fits].sum()
            got = oracle.features(z)[0, position, token].exp()
            torch.testing.assert_close(got, expected)


def test_tables_satisfy_the_denoiser_contract_and_differ_when_perturbed():
    oracle = OracleDenoiser(WORLD)
    light = oracle.perturbed(0.5, seed=0)
    assert isinstance(oracle, Denoiser)
    assert oracle.fingerprint != light.fingerprint
    assert oracle.fingerprint == OracleDenoiser(WORLD).fingerprint
    torch.testing.assert_close(
        light.log_probs_ZLV.exp().sum(-1), torch.ones(64, 3, dtype=torch.float64)
    )

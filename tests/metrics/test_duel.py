"""The exact likelihood of policies: it sums to 1 over all texts, and is what samples follow."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError
from schedlab.metrics.duel import duel, refusal
from schedlab.plan import Decoding, ModelSchedule, Plan, PolicySpec
from schedlab.policies import COMMIT_POLICIES
from schedlab.processes import MaskedProcess
from schedlab.results.seed_block import SeedBlock
from schedlab.sampling import SequenceIds, decode

V, MASK, L = 4, 3, 5
PROCESS = MaskedProcess(V, MASK)
TEXTS = np.array(list(itertools.product(range(3), repeat=L)))
SETTINGS = [
    (name, {"confidence": "likeliest", "block_length": block, **values})
    for name, values in (
        *((name, {}) for name, policy in sorted(COMMIT_POLICIES.items()) if not policy.revises),
        ("threshold", {"threshold": 0.5}),
        ("dream_threshold", {"threshold": 0.5}),
        ("factor", {"factor": 2.0}),
        ("entropy_bound", {"gamma": 1.0}),
        ("klass", {"threshold": 0.4, "epsilon": 0.5, "stable_calls": 1}),
        ("stdd", {"threshold": 0.5, "window": 2}),
        ("slowfast", {"threshold": 0.5, "horizon_threshold": 0.4}),
        ("low_confidence", {"guidance": 0.7}),
        ("surelock", {"epsilon": 0.5, "share": 0.8}),
        ("low_confidence", {"cache": "prefix"}),
        ("klass", {"cache": "dual", "threshold": 0.4, "epsilon": 0.5, "stable_calls": 1}),
    )
    for block in (0, 2)
]


def network(seed: int) -> Transformer:
    config = TransformerConfig(
        vocab_size=V, mask_id=MASK, num_blocks=1, hidden_size=16, num_heads=2, max_length=L
    )
    model = Transformer(config).double().requires_grad_(False).eval()
    model.init_weights(torch.Generator().manual_seed(seed))
    model.head.weight.data.mul_(120.0)
    return model


@pytest.fixture(scope="module")
def denoisers() -> dict[str, Transformer]:
    return {"H": network(0), "L": network(1)}


def plan_of(name: str, parameters, schedule: str = "H4 L2", **decoding) -> Plan:
    return Plan(
        length=L,
        model_schedule=ModelSchedule.parse(schedule),
        policy=PolicySpec(name=name, parameters=parameters),
        decoding=Decoding(**decoding),
    )


@pytest.mark.parametrize(("name", "parameters"), SETTINGS)
def test_probabilities_of_all_texts_sum_to_one(denoisers, name: str, parameters) -> None:
    found = duel(plan_of(name, parameters), denoisers, PROCESS, TEXTS)
    assert np.exp(-found.nats_S).sum() == pytest.approx(1.0, abs=1e-6)
    given = duel(plan_of(name, parameters), denoisers, PROCESS, TEXTS, prefix_length=2)
    by_prefix = np.exp(-given.nats_S).reshape(9, 27).sum(axis=1)
    assert by_prefix == pytest.approx(np.ones(9), abs=1e-6)
    assert (given.tokens_S == 3).all()


@pytest.mark.parametrize("block", [0, 2])
@pytest.mark.parametrize("name", ["low_confidence", "threshold", "klass"])
def test_a_stop_at_the_end_is_exact_too(denoisers, name: str, block: int) -> None:
    """Over all texts it sums to 1, and those that go on behind an end where nothing had been
    committed yet are impossible; chi-square of samples at 0.1 %, fixed seed."""
    given = {"confidence": "likeliest", "stop_at_end": True, "block_length": block}
    plan = plan_of(name, given, "H6")
    probability = np.exp(-duel(plan, denoisers, PROCESS, TEXTS, end_id=1).nats_S)
    assert probability.sum() == pytest.approx(1.0, abs=1e-6)
    assert (probability == 0).any()
    n = 4_000
    ids = SequenceIds.of([SeedBlock(seed=5, first=0, size=n)])
    drawn = decode(plan, denoisers, PROCESS, ids, end_id=1).z_BL.numpy()
    counts = np.bincount((drawn * 3 ** np.arange(L)[::-1]).sum(axis=1), minlength=len(TEXTS))
    assert (counts[probability == 0] == 0).all()
    often = probability * n >= 5
    observed = np.append(counts[often], counts[~often].sum())
    expected = np.append(probability[often], probability[~often].sum()) * n
    assert stats.chisquare(observed, expected * n / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *((name, {}) for name in ("low_confidence", "threshold", "klass", "stdd", "margin")),
        ("surelock", {"epsilon": 0.5, "share": 0.8}),
        ("low_confidence", {"cache": "dual"}),
    ],
)
def test_samples_follow_it(denoisers, name: str, values) -> None:
    """Chi-square at 0.1 %, fixed seed."""
    plan = plan_of(name, {"confidence": "likeliest", "block_length": 3, **values})
    probability = np.exp(-duel(plan, denoisers, PROCESS, TEXTS).nats_S)
    n = 4_000
    ids = SequenceIds.of([SeedBlock(seed=5, first=0, size=n)])
    drawn = decode(plan, denoisers, PROCESS, ids).z_BL.numpy()
    counts = np.bincount((drawn * 3 ** np.arange(L)[::-1]).sum(axis=1), minlength=len(TEXTS))
    often = probability * n >= 5
    observed = np.append(counts[often], counts[~often].sum())
    expected = np.append(probability[often], probability[~often].sum()) * n
    assert stats.chisquare(observed, expected * n / expected.sum()).pvalue > 1e-3


def test_those_without_a_likelihood_are_refused_with_the_reason(denoisers) -> None:
    cases = [
        (plan_of("low_confidence", {}), "depend on the drawn tokens"),
        (plan_of("stdd", {}, temperature=0.5), "temperature 1"),
        (plan_of("stdd", {}, top_p=0.9), "temperature 1"),
        (plan_of("ancestral", {}), "its order is random"),
        (plan_of("p2", {"confidence": "likeliest"}), "takes tokens back"),
        (plan_of("wino", {"confidence": "likeliest"}), "takes tokens back"),
        (plan_of("random_order", {}), "its order is random"),
    ]
    for plan, message in cases:
        with pytest.raises(InputError, match=message):
            duel(plan, denoisers, PROCESS, TEXTS)
    assert refusal(plan_of("stdd", {})) is None
    with pytest.raises(InputError, match="plan's length 5, got 4"):
        duel(plan_of("stdd", {}), denoisers, PROCESS, TEXTS[:, :4])


def test_the_batch_does_not_matter(denoisers) -> None:
    plan = plan_of("klass", {"confidence": "likeliest", "threshold": 0.4})
    whole = duel(plan, denoisers, PROCESS, TEXTS)
    parts = duel(plan, denoisers, PROCESS, TEXTS, batch_size=7)
    assert np.allclose(whole.nats_S, parts.nats_S, rtol=1e-12)

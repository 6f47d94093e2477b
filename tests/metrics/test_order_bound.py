"""Bounds of random orders: unbiased, against sums over all orders."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError
from schedlab.metrics.duel import has_random_order, scored
from schedlab.metrics.order_bound import order_bound
from schedlab.plan import Decoding, ModelSchedule, Plan, PolicySpec
from schedlab.processes import MaskedProcess
from schedlab.results.seed_block import SeedBlock
from schedlab.sampling import SequenceIds

V, MASK, L = 4, 3, 3
PROCESS = MaskedProcess(V, MASK)
TEXTS = np.array([[0, 2, 1], [1, 1, 0]])
DRAWS = 6_000


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


def plan_of(name: str, schedule: str, **decoding: float) -> Plan:
    return Plan(
        length=L,
        model_schedule=ModelSchedule.parse(schedule),
        policy=PolicySpec(name=name),
        decoding=Decoding(**decoding),
    )


def nats(denoisers, plan: Plan, text, step_of) -> float:
    """By hand: position i is revealed at step step_of[i], all of one step by one prediction."""
    total = 0.0
    for step in sorted(set(step_of)):
        z_1L = torch.tensor(
            [[x if s < step else MASK for x, s in zip(text, step_of, strict=True)]]
        )
        log_p_LV = PROCESS.log_p_x(denoisers[plan.model_schedule.steps[step]](z_1L)[0])
        total -= sum(float(log_p_LV[i, x]) for i, x in enumerate(text) if step_of[i] == step)
    return total


def mean_and_error(denoisers, plan: Plan, text, prefix_length: int = 0) -> tuple[float, float]:
    rows = np.repeat(np.array([text]), DRAWS, axis=0)
    ids = SequenceIds.of([SeedBlock(seed=3, first=0, size=DRAWS)])
    found, usage = order_bound(plan, denoisers, PROCESS, rows, ids, prefix_length=prefix_length)
    assert sum(int(one.head_positions_B.sum()) for one in usage.values()) == DRAWS * (
        L - prefix_length
    )
    return float(found.nats_S.mean()), float(found.nats_S.std() / math.sqrt(DRAWS))


@pytest.mark.parametrize("text", TEXTS.tolist())
def test_ancestral_steps_are_independent_and_even(denoisers, text) -> None:
    """4 standard errors: a false alarm in 16,000; fixed seed."""
    plan = plan_of("ancestral", "H1 L2")
    exact = np.mean(
        [nats(denoisers, plan, text, s) for s in itertools.product(range(3), repeat=L)]
    )
    mean, error = mean_and_error(denoisers, plan, text)
    assert abs(mean - exact) < 4 * error


@pytest.mark.parametrize("name", ["random_order", "first_hitting"])
def test_one_by_one_is_the_mean_over_permutations(denoisers, name: str) -> None:
    """The same, with one denoiser: first-hitting steps are spans of time."""
    plan = plan_of(name, "H3")
    text = TEXTS[0].tolist()
    exact = np.mean([nats(denoisers, plan, text, s) for s in itertools.permutations(range(3))])
    mean, error = mean_and_error(denoisers, plan, text)
    assert abs(mean - exact) < 4 * error


def test_given_tokens_are_not_scored(denoisers) -> None:
    plan = plan_of("random_order", "H2")
    text = TEXTS[0].tolist()
    # By hand the given token is revealed first, by a prediction that nothing is asked of.
    later = plan_of("random_order", "H3")
    orders = [nats(denoisers, later, text, (0, *s)) for s in ((1, 2), (2, 1))]
    log_p_LV = PROCESS.log_p_x(denoisers["H"](torch.full((1, L), MASK))[0])
    exact = np.mean(orders) + float(log_p_LV[0, text[0]])
    mean, error = mean_and_error(denoisers, plan, text, prefix_length=1)
    assert abs(mean - exact) < 4 * error


def test_it_is_no_less_than_the_truth_and_goes_through_scored(denoisers) -> None:
    """Over all texts exp(-bound) sums to less than 1."""
    texts = np.array(list(itertools.product(range(3), repeat=L)))
    plan = plan_of("random_order", "H3")
    bound = np.mean(
        [
            scored(plan, denoisers, PROCESS, texts, seeds=SeedBlock(seed, 0, len(texts)))[0].nats_S
            for seed in range(200)
        ],
        axis=0,
    )
    assert np.exp(-bound).sum() < 1


def test_only_plain_random_orders_have_one(denoisers) -> None:
    assert not has_random_order(plan_of("ancestral", "H3", temperature=0.5))
    assert not has_random_order(plan_of("threshold", "H3"))
    with pytest.raises(InputError, match="its order is random"):
        scored(plan_of("ancestral", "H3", top_p=0.9), denoisers, PROCESS, TEXTS)

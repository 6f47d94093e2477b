"""Importance in the uniform-state process against exact sums over all states of a toy world.

Seeds are fixed; limits are 4.5 standard errors of some 40 comparisons: false alarms 3e-4.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from schedlab.denoisers.base import DenoiserSpec
from schedlab.denoisers.oracle import ToyWorld
from schedlab.importance import NoiseLevels, Panel, forward_sums, heavy_sampler_sums
from schedlab.importance.propagation import swap_sums
from schedlab.plan import ModelSchedule, Plan
from schedlab.processes import UniformProcess
from schedlab.results import SeedBlock
from schedlab.sampling import SequenceIds, sample_dense

V, L, T = 3, 2, 4
WORLDS = {
    role: ToyWorld.random(num_real=V, length=L, seed=seed) for role, seed in (("H", 1), ("L", 2))
}
STATES = WORLDS["H"].texts()


def kernel(share: float) -> Tensor:
    return share * torch.eye(V, dtype=torch.float64) + (1 - share) / V


class Oracle:
    """The exact prediction of a world for every state and level."""

    def __init__(self, world: ToyWorld, prediction: str = "leave_one_out") -> None:
        self.world, self.prediction = world, prediction
        self.spec = DenoiserSpec(
            vocab_size=V, mask_id=None, num_blocks=1, hidden_size=V, max_length=L,
            prediction=prediction, time_input="sequence", process="uniform",
        )  # fmt: skip
        self.fingerprint = "oracle"

    def table(self, t: float) -> Tensor:
        """(Z, L, V) probabilities."""
        likely_ZXL = kernel(1 - t)[STATES[None], STATES[:, None]]
        found = []
        for i in range(L):
            others = [j for j in range(L) if self.prediction == "posterior" or j != i]
            weight_ZX = likely_ZXL[..., others].prod(-1) * self.world.probs_X
            onehot_XV = torch.nn.functional.one_hot(STATES[:, i], V).double()
            found.append(weight_ZX @ onehot_XV / weight_ZX.sum(1, keepdim=True))
        return torch.stack(found, dim=1)

    def features(self, z_BL: Tensor, t_B: Tensor | None = None) -> Tensor:
        assert t_B is not None
        tables = {t: self.table(t).log() for t in set(t_B.tolist())}
        number_B = z_BL[:, 0] * V + z_BL[:, 1]
        pairs = zip(t_B.tolist(), number_B.tolist(), strict=True)
        return torch.stack([tables[t][number] for t, number in pairs])

    def logits(self, features_ND: Tensor) -> Tensor:
        return features_ND


def panel_of(prediction: str = "leave_one_out") -> Panel:
    denoisers = {role: Oracle(world, prediction) for role, world in WORLDS.items()}
    return Panel(denoisers, UniformProcess(V), heavy="H", lights=("L",))


def ids_of(num: int, seed: int = 0) -> SequenceIds:
    return SequenceIds.of([SeedBlock(seed, 0, num)])


def step_law(p_ZLV: Tensor, t: float, s: float) -> Tensor:
    """q(z_s,i | z_t, p) of every state, (Z, L, V), by Bayes' rule."""
    a = (1 - t) / (1 - s)
    weight = (p_ZLV @ kernel(1 - s)) * kernel(a)[:, STATES].permute(1, 2, 0)
    return weight / weight.sum(-1, keepdim=True)


def laws(role: str, t: float, s: float) -> Tensor:
    return step_law(Oracle(WORLDS[role]).table(t), t, s)


def transition(law_ZLV: Tensor) -> Tensor:
    return (law_ZLV[:, 0, :, None] * law_ZLV[:, 1, None, :]).flatten(1)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log().nan_to_num(0.0)).sum(-1)


LEVELS = [(1 - k / T, 1 - (k + 1) / T) for k in range(T)]


@pytest.mark.parametrize("prediction", ["leave_one_out", "posterior"])
def test_on_heavys_trajectories_the_steps_sum_to_the_kl_of_paths(prediction: str) -> None:
    """A posterior is converted, so both readings give the same."""
    law_Z = torch.full((V**L,), 1.0 / V**L, dtype=torch.float64)
    expected = []
    for t, s in LEVELS:
        heavy, light = laws("H", t, s), laws("L", t, s)
        expected.append(float(law_Z @ divergence(heavy, light).sum(1)) / L)
        law_Z = law_Z @ transition(heavy)
    # By enumeration of all paths: the chain rule, not taken for granted.
    total = 0.0
    moves = {role: [transition(laws(role, t, s)) for t, s in LEVELS] for role in WORLDS}
    for path in itertools.product(range(V**L), repeat=T + 1):
        p = q = 1.0 / V**L
        for k, (a, b) in enumerate(itertools.pairwise(path)):
            p, q = p * float(moves["H"][k][a, b]), q * float(moves["L"][k][a, b])
        total += p * np.log(p / q) if p > 0 else 0.0
    assert sum(expected) * L == pytest.approx(total, rel=1e-9)
    sums = heavy_sampler_sums(panel_of(prediction), ids_of(4000), num_steps=T, length=L)
    found_ST = sums.per_step("kl_heavy_light/H/L")
    error_T = found_ST.std(0) / np.sqrt(len(found_ST))
    assert (np.abs(found_ST.mean(0) - expected) < 4.5 * error_T + 1e-9).all()
    assert (sums.masked_SK == L).all()


def test_on_noised_text_every_metric_is_its_expectation() -> None:
    world, num = WORLDS["H"], 4000
    x_SL = world.draw(num, torch.Generator().manual_seed(5))
    sums = forward_sums(panel_of(), x_SL, ids_of(num), NoiseLevels(T, T))
    for k, (t, s) in enumerate(LEVELS):
        heavy, light = laws("H", t, s), laws("L", t, s)
        expected = {"cross_entropy/H": 0.0, "cross_entropy/L": 0.0, "kl_heavy_light/H/L": 0.0}
        for text, p_text in zip(STATES, world.probs_X.tolist(), strict=True):
            noise_ZL = torch.stack([kernel(1 - t)[text[i], STATES[:, i]] for i in range(L)], 1)
            weight_Z = p_text * noise_ZL.prod(1)
            onehot = torch.nn.functional.one_hot(text, V).double().expand(len(STATES), L, V)
            true = step_law(onehot, t, s)
            expected["cross_entropy/H"] += float(weight_Z @ divergence(true, heavy).sum(1))
            expected["cross_entropy/L"] += float(weight_Z @ divergence(true, light).sum(1))
            expected["kl_heavy_light/H/L"] += float(weight_Z @ divergence(heavy, light).sum(1))
        expected["loss_gap/H/L"] = expected["cross_entropy/L"] - expected["cross_entropy/H"]
        for name, value in expected.items():
            found_S = sums.per_step(name)[:, k]
            error = found_S.std() / np.sqrt(num)
            assert abs(found_S.mean() - value / L) < 4.5 * error + 1e-9, (name, k)


def test_more_levels_than_steps_leave_the_bound_alone() -> None:
    x_SL = WORLDS["H"].draw(2000, torch.Generator().manual_seed(5))
    fine = forward_sums(panel_of(), x_SL, ids_of(2000), NoiseLevels(T, 3 * T))
    assert fine.metrics["cross_entropy/H"].shape == (2000, 3 * T)
    coarse = forward_sums(panel_of(), x_SL, ids_of(2000), NoiseLevels(T, T))
    for name in ("cross_entropy/H", "kl_heavy_light/H/L"):
        one, other = fine.per_step(name), coarse.per_step(name)
        assert one.shape == other.shape == (2000, T)
        error_T = (one - other).std(0) / np.sqrt(2000)
        assert (np.abs((one - other).mean(0)) < 4.5 * error_T + 1e-9).all()


def test_a_prefix_is_given_and_not_counted() -> None:
    x_SL = WORLDS["H"].draw(500, torch.Generator().manual_seed(5))
    sums = forward_sums(panel_of(), x_SL, ids_of(500), NoiseLevels(T, T), prefix_length=1)
    assert (sums.masked_SK == 1).all() and sums.num_free == 1
    visited = heavy_sampler_sums(
        panel_of(), ids_of(500), num_steps=T, length=L, prefix_SP=x_SL[:, :1]
    )
    assert (visited.masked_SK == 1).all()


def test_swaps_are_those_of_the_sampler() -> None:
    """Final tokens of coupled samplers, from whole runs of their plans."""
    panel, ids = panel_of(), ids_of(300)
    found = swap_sums(panel, ids, lights=["L"], num_steps=T, num_segments=2, length=L)["L"]

    def final(schedule: str) -> Tensor:
        plan = Plan(
            length=L, model_schedule=ModelSchedule.parse(schedule), process="uniform"
        )  # fmt: skip
        return sample_dense(plan, panel.denoisers, UniformProcess(V), ids).z_BL

    heavy = final("H4")
    for j, schedule in enumerate(("L2 H2", "H2 L2")):
        changed_S = (final(schedule) != heavy).sum(1).numpy()
        np.testing.assert_array_equal(found.changed_SJ[:, j], changed_S)
    # After the last segment nothing is predicted, and what differs there is what differs at all.
    np.testing.assert_array_equal(found.own_SJ[:, 1], found.changed_SJ[:, 1])
    assert (found.masked_SJ[:, 1] == 0).all() and (found.masked_SJ[:, 0] == L).all()
    assert found.kl_next_SJ[:, 0].sum() > 0

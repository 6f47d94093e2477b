"""Panels over toy worlds, and the exact value of everything that the estimators estimate."""

from __future__ import annotations

import functools

import numpy as np
import torch

from schedlab.denoisers.oracle import OracleDenoiser, TableDenoiser, ToyWorld
from schedlab.importance import NoiseLevels, Panel, SequenceSums
from schedlab.importance.sums import with_relative_kl
from schedlab.processes import MaskedProcess, alpha, reveal_probs, uniform_grid
from schedlab.results import SeedBlock
from schedlab.sampling import SequenceIds
from tests.importance import brute_force

ROLES = ("H", "L", "M", "Hb")
SCALES = {"H": 0.4, "L": 1.2, "M": 0.8, "Hb": 0.5}


@functools.cache
def tables(world: ToyWorld) -> dict[str, TableDenoiser]:
    """Four denoisers of different quality; heavy is not exact either."""
    oracle = OracleDenoiser(world)
    return {
        role: oracle.perturbed(SCALES[role], seed=seed) for seed, role in enumerate(ROLES, start=1)
    }


def panel_of(world: ToyWorld, **settings: int) -> Panel:
    return Panel(
        denoisers=tables(world),
        process=MaskedProcess(world.vocab_size, world.mask_id),
        heavy="H",
        lights=("L", "M"),
        heavy_b="Hb",
        **settings,
    )


def ids_of(num: int, seed: int = 0) -> SequenceIds:
    return SequenceIds.of([SeedBlock(seed, 0, num)])


def exact_forward(world: ToyWorld, panel: Panel, num_steps: int) -> SequenceSums:
    """Expectation of every sum of a sequence: the panel on all texts and masks, weighted."""
    x_XL, mask_ML = world.texts(), torch.from_numpy(brute_force.mask_patterns(world.length))
    x_RL = x_XL.repeat_interleave(len(mask_ML), 0)
    masked_RL = mask_ML.repeat(len(x_XL), 1)
    z_RL = torch.where(masked_RL, world.mask_id, x_RL)
    sums = panel.sums(z_RL, torch.ones(len(z_RL), dtype=torch.float64), x_RL)
    prob_R = world.probs_X.repeat_interleave(len(mask_ML)).numpy()
    num_R = masked_RL.sum(1).numpy()
    t_K = NoiseLevels(num_steps, num_steps).draw(ids_of(1))[0][0].numpy()
    weight_K = reveal_probs(alpha("linear"), uniform_grid(num_steps)).numpy()
    weight_RK = (
        prob_R[:, None] * t_K ** num_R[:, None] * (1 - t_K) ** (world.length - num_R)[:, None]
    )
    return _expectations(panel, sums, num_R, weight_RK, t_K, weight_K, world.length)


def exact_heavy_sampler(world: ToyWorld, panel: Panel, num_steps: int) -> SequenceSums:
    """The same on all states, weighted by the exact law of the heavy sampler before every step."""
    heavy = panel.denoisers["H"]
    assert isinstance(heavy, TableDenoiser)
    z_ZL = world.noisy()
    sums = panel.sums(z_ZL, torch.ones(len(z_ZL), dtype=torch.float64))
    law_ZK = np.stack(brute_force.state_laws(world, [heavy] * num_steps)[:-1], axis=1)
    num_Z = (z_ZL == world.mask_id).sum(1).numpy()
    t_K = NoiseLevels(num_steps, num_steps).draw(ids_of(1))[0][0].numpy()
    weight_K = reveal_probs(alpha("linear"), uniform_grid(num_steps)).numpy()
    return _expectations(panel, sums, num_Z, law_ZK, t_K, weight_K, world.length)


def _expectations(
    panel: Panel,
    sums: dict[str, torch.Tensor],
    num_R: np.ndarray,
    weight_RK: np.ndarray,
    t_K: np.ndarray,
    reveal_K: np.ndarray,
    length: int,
) -> SequenceSums:
    metrics = {name: (sum_R.numpy() @ weight_RK)[None] for name, sum_R in sums.items()}
    return SequenceSums(
        metrics=with_relative_kl(metrics, heavy="H", lights=panel.lights, heavy_b="Hb"),
        masked_SK=(num_R @ weight_RK)[None],
        weight_SK=reveal_K[None],
        t_K=t_K,
        level_of_step_T=np.arange(len(t_K)),
        num_free=length,
    )

"""Exact laws of masked samplers on toy worlds, by summing over every state and every trajectory.

Independent of the code under test: only tables of probabilities and matrix products, no additivity
over positions or steps is assumed. A sampler is a Markov chain over the Z = V^L noisy sequences.

Legend: Z noisy sequences, X texts, L positions, V vocabulary with the mask as last id, T steps.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np

from schedlab.denoisers.oracle import TableDenoiser, ToyWorld


def probs_of(denoiser: TableDenoiser) -> np.ndarray:
    """(Z, L, V) probabilities of the clean token; the mask has none."""
    probs_ZLV = denoiser.log_probs_ZLV.exp().numpy().copy()
    probs_ZLV[..., denoiser.spec.mask_id] = 0.0
    return probs_ZLV / probs_ZLV.sum(-1, keepdims=True)


def reveal_prob(k: int, num_steps: int) -> float:
    """Of a masked position at step k of the uniform grid, alpha_t = 1 - t."""
    return 1.0 / (num_steps - k)


def reverse_step(world: ToyWorld, denoiser: TableDenoiser, k: int, num_steps: int) -> np.ndarray:
    """P(z_s | z_t) of step k, (Z, Z)."""
    z_ZL, probs_ZLV = world.noisy().numpy(), probs_of(denoiser)
    r = reveal_prob(k, num_steps)
    masked_ZL = z_ZL == world.mask_id
    step_ZZ = np.ones((len(z_ZL), len(z_ZL)))
    for i in range(world.length):
        stays_ZV = np.eye(world.vocab_size)[z_ZL[:, i]]
        moves_ZV = r * probs_ZLV[:, i] + (1 - r) * np.eye(world.vocab_size)[world.mask_id]
        factor_ZV = np.where(masked_ZL[:, i, None], moves_ZV, stays_ZV)
        step_ZZ *= factor_ZV[:, z_ZL[:, i]]
    return step_ZZ


def forward_step(world: ToyWorld, k: int, num_steps: int) -> np.ndarray:
    """q(z_t | z_s) from level t_{k+1} up to t_k, (Z of z_s, Z of z_t)."""
    z_ZL = world.noisy().numpy()
    alpha_t, alpha_s = k / num_steps, (k + 1) / num_steps
    keep = alpha_t / alpha_s
    factor_VV = keep * np.eye(world.vocab_size)
    factor_VV[:, world.mask_id] += 1 - keep
    step_ZZ = np.ones((len(z_ZL), len(z_ZL)))
    for i in range(world.length):
        step_ZZ *= factor_VV[z_ZL[:, i][:, None], z_ZL[:, i][None, :]]
    return step_ZZ


def all_masks(world: ToyWorld) -> int:
    """Row of the state at t = 1."""
    return world.vocab_size**world.length - 1


def rows_of_texts(world: ToyWorld) -> np.ndarray:
    """Row of every text among the noisy sequences, (X,)."""
    powers_L = world.vocab_size ** np.arange(world.length - 1, -1, -1)
    return world.texts().numpy() @ powers_L


def state_laws(world: ToyWorld, denoisers: Sequence[TableDenoiser]) -> list[np.ndarray]:
    """Law of the sampler's state before every step and at the end, T + 1 arrays (Z,)."""
    laws = [np.eye(world.vocab_size**world.length)[all_masks(world)]]
    for k, denoiser in enumerate(denoisers):
        laws.append(laws[-1] @ reverse_step(world, denoiser, k, len(denoisers)))
    return laws


def path_law(steps: Sequence[np.ndarray], first_Z: np.ndarray) -> np.ndarray:
    """Probability of every trajectory, an array with one axis of length Z per time."""
    law = first_Z
    for step_ZZ in steps:
        law = law[..., None] * step_ZZ  # broadcasts over all earlier times
    return law


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """Sum of p log(p / q), 0 log 0 = 0."""
    seen = p > 0
    return float((p[seen] * np.log(p[seen] / q[seen])).sum())


def path_kl_by_enumeration(
    world: ToyWorld, heavy: TableDenoiser, schedule: Sequence[TableDenoiser]
) -> float:
    """KL between two samplers' trajectories, as one sum over all Z^T of them."""
    num_steps = len(schedule)
    first_Z = np.eye(world.vocab_size**world.length)[all_masks(world)]
    laws = [
        path_law(
            [reverse_step(world, denoiser, k, num_steps) for k, denoiser in enumerate(sampler)],
            first_Z,
        )
        for sampler in ([heavy] * num_steps, schedule)
    ]
    return kl(laws[0], laws[1])


def path_kl_by_chain_rule(
    world: ToyWorld, heavy: TableDenoiser, schedule: Sequence[TableDenoiser]
) -> float:
    """The same by the chain rule over time alone: joint transitions of all positions, any T."""
    num_steps = len(schedule)
    total = 0.0
    for k, law_Z in enumerate(state_laws(world, [heavy] * num_steps)[:-1]):
        heavy_ZZ = reverse_step(world, heavy, k, num_steps)
        other_ZZ = reverse_step(world, schedule[k], k, num_steps)
        ratio_ZZ = np.divide(heavy_ZZ, other_ZZ, out=np.ones_like(heavy_ZZ), where=heavy_ZZ > 0)
        total += float(law_Z @ (heavy_ZZ * np.log(ratio_ZZ)).sum(1))
    return total


def nelbo_by_enumeration(world: ToyWorld, schedule: Sequence[TableDenoiser]) -> float:
    """E_x of KL(q(trajectory | x) || p(trajectory)), a sum over all texts and trajectories."""
    num_steps = len(schedule)
    first_Z = np.eye(world.vocab_size**world.length)[all_masks(world)]
    model = path_law(
        [reverse_step(world, denoiser, k, num_steps) for k, denoiser in enumerate(schedule)],
        first_Z,
    )
    noising = [forward_step(world, k, num_steps) for k in reversed(range(num_steps))]
    total = 0.0
    for row, prob in zip(rows_of_texts(world), world.probs_X.tolist(), strict=True):
        clean_Z = np.eye(world.vocab_size**world.length)[row]
        from_clean = path_law(noising, clean_Z)  # axes: t = 0 first
        total += prob * kl(from_clean.transpose(), model)
    return total


def nelbo_by_chain_rule(world: ToyWorld, schedule: Sequence[TableDenoiser]) -> float:
    """The same over pairs of successive states, for any T and larger worlds."""
    num_steps = len(schedule)
    steps = [reverse_step(world, denoiser, k, num_steps) for k, denoiser in enumerate(schedule)]
    noising = [forward_step(world, k, num_steps) for k in range(num_steps)]
    total = 0.0
    for row, prob in zip(rows_of_texts(world), world.probs_X.tolist(), strict=True):
        law_Z = np.eye(world.vocab_size**world.length)[row]  # q(z_s | x), s = 0
        for k in reversed(range(num_steps)):
            pair_ZZ = law_Z[:, None] * noising[k]  # (z_s, z_t)
            marginal_Z = pair_ZZ.sum(0)
            seen = pair_ZZ > 0
            posterior_ZZ = np.divide(
                pair_ZZ, marginal_Z, out=np.zeros_like(pair_ZZ), where=seen
            )  # q(z_s | z_t, x)
            total += prob * float(
                (pair_ZZ[seen] * np.log(posterior_ZZ[seen] / steps[k].T[seen])).sum()
            )
            law_Z = marginal_Z
    return total


def mask_patterns(length: int) -> np.ndarray:
    """All 2^L choices of masked positions, bool."""
    return np.array(list(itertools.product([False, True], repeat=length)))


@functools.cache
def toy(num_real: int = 3, length: int = 3, seed: int = 0) -> ToyWorld:
    """A world whose positions depend on each other strongly."""
    return ToyWorld.random(num_real=num_real, length=length, seed=seed)

"""Bounds on the likelihood of held-out text, in the conventions that published figures use.

A convention draws noise levels and says what a position's prediction costs. All are unbiased (up
to the smallest noise level, which MDLM and DUO leave out) estimates of an upper bound on
-log p(x), summed over the tokens that count; perplexity is exp of nats per token.

    mdlm   alpha_t = 1 - (1 - eps) t, t in [eps, 1], one level in each of B equal parts of a batch
           of B; weight 1/t at masked positions [C]; with `num_steps` T, levels are rounded up to
           multiples of 1/T as MDLM's discrete-time loss does [C]
    duo    the same levels; the rate form of the uniform process's bound at every position, of
           leave-one-out predictions (a posterior is converted)
    llada  l masked positions out of L, l uniform in 1..L and spread evenly over repeats; weight
           L / l at masked positions [C]

Legend: S windows, B windows of a batch, L positions, N positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from schedlab.denoisers.base import Denoiser, features_at
from schedlab.errors import InputError
from schedlab.processes import MaskedProcess, UniformProcess
from schedlab.processes.noise_schedule import LOG_LINEAR_EPS, log_linear
from schedlab.results import Estimate
from schedlab.results.bootstrap import bootstrap_ratio, bootstrap_statistic

_MOST_LOGITS = 1 << 26  # at a time: half a gigabyte in float64


@dataclass(frozen=True)
class Bound:
    """Per window, summed over the tokens that count.

    Args:
        nats_S: (S,) bound on -log p(x).
        tokens_S: (S,) how many tokens count.
    """

    nats_S: NDArray[np.float64]
    tokens_S: NDArray[np.int64]

    def per_token(self) -> Estimate:
        """Nats per token with its 95 % interval over windows."""
        return bootstrap_ratio(self.nats_S, self.tokens_S).estimate()

    def perplexity(self) -> Estimate:
        """exp of nats per token, with its 95 % interval over windows."""
        return bootstrap_statistic(
            lambda nats, tokens: np.exp(nats / tokens), self.nats_S, self.tokens_S
        ).estimate()


@torch.inference_mode()
def nelbo(
    denoiser: Denoiser,
    tokens_SL: NDArray[np.int64],
    *,
    convention: str | None = None,
    counted_SL: NDArray[np.bool_] | None = None,
    num_steps: int | None = None,
    repeats: int = 1,
    batch_size: int = 16,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Bound:
    """A bound on the likelihood of windows.

    Args:
        denoiser: of the masked or the uniform process.
        tokens_SL: (S, L) int64 windows.
        convention: see the module; None is `duo` for the uniform process, else `mdlm`.
        counted_SL: (S, L) tokens that count (None: all); the others are noised and predicted all
            the same, as in the published evaluations of padded text.
        num_steps: T of MDLM's discrete-time loss; None is continuous time.
        repeats: noise levels per window; what is returned is their mean.
        batch_size: B; noise levels are stratified over it.
        seed: of levels and noise.
        device: where the denoiser is.

    Raises:
        InputError: a convention of another process, or unknown.
    """
    name = convention or ("duo" if denoiser.spec.process == "uniform" else "mdlm")
    if name not in CONVENTIONS:
        raise InputError(f"convention {name!r} is unknown; known: {', '.join(CONVENTIONS)}")
    process = "uniform" if name == "duo" else "masked"
    if denoiser.spec.process != process:
        raise InputError(
            f"convention {name} is for the {process} process, the denoiser is of the"
            f" {denoiser.spec.process} one"
        )
    if num_steps is not None and name != "mdlm":
        raise InputError(f"num_steps is for the convention mdlm, got it with {name}")
    S, L = tokens_SL.shape
    counted = np.ones((S, L), dtype=bool) if counted_SL is None else counted_SL
    nats_S = np.zeros(S)
    for repeat in range(repeats):
        for start in range(0, S, batch_size):
            rows = slice(start, start + batch_size)
            rng = np.random.default_rng([seed, repeat, start])
            x_BL = torch.from_numpy(tokens_SL[rows]).to(device)
            place = (repeat + rng.random()) / repeats
            nats_BL = CONVENTIONS[name](denoiser, x_BL, rng, place, num_steps)
            kept_BL = torch.from_numpy(counted[rows]).to(device)
            nats_S[rows] += (nats_BL * kept_BL).sum(dim=1).cpu().numpy() / repeats
    return Bound(nats_S, counted.sum(axis=1))


# Conventions: (denoiser, x_BL, rng, a place in [0, 1) that repeats share evenly, T) to (B, L) nats


def _mdlm(
    denoiser: Denoiser, x_BL: Tensor, rng: np.random.Generator, place: float, T: int | None
) -> Tensor:
    t_B = _levels(x_BL, rng)
    t_B, weight_B = (t_B, 1.0 / t_B) if T is None else discrete_levels(t_B, T)
    u_BL = torch.from_numpy(rng.random(x_BL.shape)).to(x_BL.device)
    z_BL = torch.where(u_BL < log_linear(t_B)[:, None], x_BL, _mask_id(denoiser))
    return masked_nats(denoiser, x_BL, z_BL, t_B, weight_B)


def _llada(
    denoiser: Denoiser, x_BL: Tensor, rng: np.random.Generator, place: float, T: int | None
) -> Tensor:
    B, L = x_BL.shape
    # As evenly over rows and repeats as can be, every count equally likely in every row.
    spread = (place + rng.permutation(B) / B) % 1.0
    count_B = torch.from_numpy(1 + np.floor(spread * L).astype(np.int64)).to(x_BL.device)
    order_BL = torch.from_numpy(rng.random((B, L)).argsort(axis=1)).to(x_BL.device)
    z_BL = torch.where(order_BL < count_B[:, None], _mask_id(denoiser), x_BL)
    share_B = count_B.double() / L
    return masked_nats(denoiser, x_BL, z_BL, share_B, 1.0 / share_B)


def _duo(
    denoiser: Denoiser, x_BL: Tensor, rng: np.random.Generator, place: float, T: int | None
) -> Tensor:
    V = denoiser.spec.vocab_size
    t_B = _levels(x_BL, rng)
    alpha_B = log_linear(t_B)
    u_BL = torch.from_numpy(rng.random(x_BL.shape)).to(x_BL.device)
    other_BL = torch.from_numpy(rng.integers(V, size=x_BL.shape)).to(x_BL.device)
    z_BL = torch.where(u_BL < alpha_B[:, None], x_BL, other_BL)
    features_ND = features_at(denoiser, z_BL, t_B.float()).flatten(0, 1)
    alpha_N = alpha_B.repeat_interleave(x_BL.shape[1])
    x_N, z_N = x_BL.flatten(), z_BL.flatten()
    size = max(1, _MOST_LOGITS // V)
    parts = [
        uniform_rate_nats(
            torch.log_softmax(_leave_one_out(denoiser, features_ND[at], z_N[at], alpha_N[at]), -1),
            z_N[at],
            x_N[at],
            alpha_N[at],
            torch.full_like(alpha_N[at], -(1.0 - LOG_LINEAR_EPS)),
        )
        for at in (slice(start, start + size) for start in range(0, len(x_N), size))
    ]
    return torch.cat(parts).view(x_BL.shape)


def _leave_one_out(
    denoiser: Denoiser, features_ND: Tensor, z_N: Tensor, alpha_N: Tensor
) -> Tensor:
    """Logits of the leave-one-out prediction, float64 (N, V)."""
    logits_NV = denoiser.logits(features_ND).double()
    if denoiser.spec.prediction == "leave_one_out":
        return logits_NV
    return UniformProcess(denoiser.spec.vocab_size).leave_one_out(logits_NV, z_N, alpha_N)


CONVENTIONS: Mapping[
    str, Callable[[Denoiser, Tensor, np.random.Generator, float, int | None], Tensor]
] = {"mdlm": _mdlm, "duo": _duo, "llada": _llada}


def discrete_levels(t_B: Tensor, num_steps: int) -> tuple[Tensor, Tensor]:
    """Levels rounded up to multiples of 1/T, and weights of masked positions there [C, MDLM]."""
    t_B = torch.floor(t_B * num_steps) / num_steps + 1.0 / num_steps
    return t_B, 1.0 / t_B.clamp(max=1.0 - 1e-4)


def masked_nats(
    denoiser: Denoiser, x_BL: Tensor, z_BL: Tensor, t_B: Tensor, weight_B: Tensor
) -> Tensor:
    """weight * -log p(x_i | z) at masked positions, (B, L) float64; 0 elsewhere.

    Args:
        denoiser: of the masked process.
        x_BL, z_BL: clean and noisy tokens.
        t_B: noise levels, for denoisers that read them.
        weight_B: one per row.
    """
    mask_id, V = _mask_id(denoiser), denoiser.spec.vocab_size
    process = MaskedProcess(V, mask_id)
    masked_BL = z_BL == mask_id
    features_ND = features_at(denoiser, z_BL, t_B.float())[masked_BL]
    x_N = x_BL[masked_BL]
    size = max(1, _MOST_LOGITS // V)
    parts = [
        process.log_p_x(denoiser.logits(features_ND[at])).gather(1, x_N[at][:, None])[:, 0]
        for at in (slice(start, start + size) for start in range(0, len(x_N), size))
    ]
    nats_BL = torch.zeros(x_BL.shape, dtype=torch.float64, device=x_BL.device)
    if parts:
        nats_BL[masked_BL] = -torch.cat(parts)
    return nats_BL * weight_B[:, None]


def uniform_rate_nats(
    log_p_NV: Tensor, z_N: Tensor, x_N: Tensor, alpha_N: Tensor, slope_N: Tensor
) -> Tensor:
    """Density in t of the uniform process's bound at every position, (N,).

    Reverse rates from z to y are (beta / V) q(y) / q(z), with beta = -alpha' / alpha and
    q = alpha p + (1 - alpha) / V for the model's p, or for the true token's; the bound is the
    KL divergence of the two jump processes [own form of DUO's (2506.10892), the same value].

    Args:
        log_p_NV: (N, V) predictions, leave-one-out.
        z_N, x_N: (N,) noisy and clean tokens.
        alpha_N, slope_N: (N,) alpha_t and its derivative.
    """
    V = log_p_NV.shape[1]
    noise_N = (1.0 - alpha_N) / V
    model_NV = alpha_N[:, None] * log_p_NV.exp() + noise_N[:, None]
    model_z_N = model_NV.gather(1, z_N[:, None])[:, 0]
    true_z_N = alpha_N * (x_N == z_N) + noise_N
    log_ratio_N = torch.log(model_z_N) - torch.log(true_z_N)
    # sum over y of r(y) log(r(y) / r_model(y)), r = q(y) / q(z); q is noise_N but at x.
    log_model_NV = torch.log(model_NV)
    at_x_N = log_model_NV.gather(1, x_N[:, None])[:, 0]
    true_x_N = alpha_N + noise_N
    entropy_N = (
        true_x_N * (torch.log(true_x_N) - at_x_N)
        + noise_N * ((V - 1) * torch.log(noise_N) - (log_model_NV.sum(dim=1) - at_x_N))
        + log_ratio_N
    ) / true_z_N
    beta_N = -slope_N / alpha_N
    return beta_N / V * (1.0 / model_z_N - 1.0 / true_z_N + entropy_N)


def _levels(x_BL: Tensor, rng: np.random.Generator) -> Tensor:
    """(B,) float64 noise levels in [eps, 1], one in each of B equal parts."""
    B = len(x_BL)
    u_B = (np.arange(B) + rng.random(B)) / B
    return torch.from_numpy(LOG_LINEAR_EPS + (1.0 - LOG_LINEAR_EPS) * u_B).to(x_BL.device)


def _mask_id(denoiser: Denoiser) -> int:
    assert denoiser.spec.mask_id is not None, "a masked denoiser"
    return denoiser.spec.mask_id

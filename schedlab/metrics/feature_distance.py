"""How far samples are from real texts as a distribution: squared maximum mean discrepancy between
features of a language model, which had better be another one than made or steered the samples.

Gen-PPL and entropy are both of single texts: samples that all say one likely thing pass both. The
estimate is unbiased (it may be below 0 where there is no difference), the kernel is that of KID,
(x.y / D + 1)^3, of features scaled to unit variance over the real texts. [O]: the kernel distance
of images (2018) on a text model's features; MAUVE needs thousands of texts, this a few hundred.

Legend: S samples, R real texts, L positions, D features.

Reference: Binkowski et al., "Demystifying MMD GANs" (1801.01401).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from schedlab.denoisers.base import Denoiser, features_at
from schedlab.errors import InputError
from schedlab.results import Estimate

_ROWS = 64
_RESAMPLES = 1_000

FloatArray = NDArray[np.float64]


@torch.inference_mode()
def text_features(
    model: Denoiser, tokens_SL: NDArray[np.int64], *, device: str | torch.device = "cpu"
) -> FloatArray:
    """Mean over positions of a language model's features, float64 (S, D); `device` is its own."""
    if model.spec.time_input != "none":
        raise InputError("features of texts are read from a model without a noise level")
    parts = [
        features_at(model, torch.from_numpy(tokens_SL[first : first + _ROWS]).to(device), None)
        .float()
        .mean(1)
        for first in range(0, len(tokens_SL), _ROWS)
    ]
    return torch.cat(parts).double().cpu().numpy()


def kernel_distance(
    samples_SD: FloatArray, real_RD: FloatArray, *, resamples: int = _RESAMPLES, seed: int = 0
) -> Estimate:
    """Squared MMD with a 95 % percentile interval over samples and real texts.

    Args:
        samples_SD, real_RD: features, see `text_features`.
        resamples, seed: of the bootstrap.

    Raises:
        InputError: fewer than two of either, or another number of features.
    """
    if min(len(samples_SD), len(real_RD)) < 2 or samples_SD.shape[1] != real_RD.shape[1]:
        raise InputError(
            "a distance needs two samples, two real texts and the same features, got"
            f" {samples_SD.shape} and {real_RD.shape}"
        )
    scale_D = np.maximum(real_RD.std(0), 1e-12)
    middle_D = real_RD.mean(0)
    x_SD, y_RD = (samples_SD - middle_D) / scale_D, (real_RD - middle_D) / scale_D
    kernels = (_kernel(x_SD, x_SD), _kernel(y_RD, y_RD), _kernel(x_SD, y_RD))
    value = _distance(np.ones(len(x_SD)), np.ones(len(y_RD)), kernels)
    rng = np.random.default_rng(seed)
    drawn = [
        _distance(_counts(rng, len(x_SD)), _counts(rng, len(y_RD)), kernels)
        for _ in range(resamples)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(value=value, low=float(low), high=float(high), n=len(x_SD))


def _kernel(x_AD: FloatArray, y_BD: FloatArray) -> FloatArray:
    return (x_AD @ y_BD.T / x_AD.shape[1] + 1.0) ** 3


def _counts(rng: np.random.Generator, num: int) -> FloatArray:
    return rng.multinomial(num, np.full(num, 1.0 / num)).astype(np.float64)


def _distance(
    w_S: FloatArray, v_R: FloatArray, kernels: tuple[FloatArray, FloatArray, FloatArray]
) -> float:
    """Weighted by how often each was drawn; a text is never paired with itself."""
    xx_SS, yy_RR, xy_SR = kernels
    across = w_S @ xy_SR @ v_R / (w_S.sum() * v_R.sum())
    return float(_within(w_S, xx_SS) + _within(v_R, yy_RR) - 2 * across)


def _within(w_S: FloatArray, k_SS: FloatArray) -> float:
    pairs = w_S.sum() ** 2 - (w_S**2).sum()
    return float((w_S @ k_SS @ w_S - (w_S**2) @ k_SS.diagonal()) / pairs)

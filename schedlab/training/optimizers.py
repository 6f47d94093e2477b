"""Optimisers, averaged weights, and what changes with the step: learning rate, noise levels.

References: Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (1711.05101); Jordan et
al., "Muon" (2024); Liu et al., "Muon is Scalable for LLM Training" (2502.16982: update sizes
matched to AdamW's).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from schedlab.denoisers.network import Network
from schedlab.errors import InputError
from schedlab.training.job import Optimization


def build_optimizers(model: Network, settings: Optimization) -> list[Optimizer]:
    """AdamW for embedding, head and norms, and for the blocks' matrices unless Muon takes them.

    Weight decay acts on matrices only. Every group remembers its peak rate as `peak_lr`.
    """
    named = list(model.named_parameters())
    hidden = [w for name, w in named if name.startswith("blocks.") and w.ndim == 2]
    # Filters of convolutions have three dimensions.
    tables = [w for name, w in named if not name.startswith("blocks.") and w.ndim >= 2]
    gains = [w for _, w in named if w.ndim < 2]
    by_muon = hidden if settings.optimizer == "muon" else []
    by_adamw = tables if by_muon else tables + hidden
    optimizers: list[Optimizer] = [
        torch.optim.AdamW(
            [
                {"params": by_adamw, "weight_decay": settings.weight_decay},
                {"params": gains, "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
        )
    ]
    if by_muon:
        if not hasattr(torch.optim, "Muon"):
            raise InputError(
                f"optimizer 'muon' needs torch >= 2.9, this is {torch.__version__}; use 'adamw'"
            )
        optimizers.append(
            torch.optim.Muon(
                hidden,
                lr=settings.muon_learning_rate,
                weight_decay=settings.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def learning_rate_share(step: int, settings: Optimization) -> float:
    """Share of the peak rate at a step: linear warm-up, then a cosine to the final share."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, settings.num_steps - settings.warmup_steps)
    floor = settings.final_learning_rate
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def largest_noise_level(step: int, settings: Optimization) -> float:
    """Upper end of the noise levels at a step: rises with the square of progress to 1."""
    if step >= settings.noise_warmup_steps:
        return 1.0
    first = settings.first_largest_t
    return first + (1.0 - first) * (step / settings.noise_warmup_steps) ** 2


def set_learning_rate(optimizers: Sequence[Optimizer], share: float) -> None:
    """Set every group to `share` of its peak rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = share * group["peak_lr"]


@torch.no_grad()
def update_average(
    average: Sequence[Tensor], weights: Sequence[Tensor], *, step: int, decay: float
) -> None:
    """Move an exponential average in place; its decay rises to `decay`, so that it starts warm."""
    rising = min(decay, (1.0 + step) / (10.0 + step))
    torch._foreach_lerp_(list(average), list(weights), 1.0 - rising)

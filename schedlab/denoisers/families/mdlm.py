"""MDLM (Sahoo et al., 2406.07524): the layout of kuleshov-group/mdlm-owt and of its trainer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from schedlab.denoisers.dit import DiT, DiTConfig
from schedlab.denoisers.families.base import Family, PublishedConfig

PREFIX = "backbone."


def build(config: PublishedConfig) -> DiT:
    """The network of a published configuration; the mask is the last id."""
    vocab_size = config.whole("vocab_size")
    return DiT(
        DiTConfig(
            process="masked",
            vocab_size=vocab_size,
            mask_id=vocab_size - 1,
            time_conditioning=config.flag("time_conditioning"),
            **sizes(config),
        )
    )


def sizes(config: PublishedConfig) -> dict[str, int]:
    """What MDLM and DUO call alike."""
    return {
        "num_blocks": config.whole("n_blocks"),
        "hidden_size": config.whole("hidden_dim"),
        "num_heads": config.whole("n_heads"),
        "cond_size": config.whole("cond_dim"),
        "max_length": config.whole("model_length"),
    }


def published_sizes(network: DiT) -> dict[str, Any]:
    """The reverse of `sizes`, and what both write."""
    config = network.config
    return {
        "n_blocks": config.num_blocks,
        "hidden_dim": config.hidden_size,
        "n_heads": config.num_heads,
        "cond_dim": config.cond_size,
        "model_length": config.max_length,
        "vocab_size": config.vocab_size,
        "dropout": 0.1,
        "return_dict": False,
    }


def published_config(network: DiT) -> dict[str, Any]:
    """`config.json`."""
    return {
        "architectures": ["MDLM"],
        "model_type": "mdlm",
        "time_conditioning": network.config.time_conditioning,
        **published_sizes(network),
    }


def published_name(name: str) -> str:
    """Names are the published ones behind a prefix."""
    return PREFIX + name


def derived(network: DiT) -> dict[str, Tensor]:
    """The frequencies of the rotary positions, which the published code keeps as a buffer."""
    size = network.config.hidden_size // network.config.num_heads
    exponent = torch.arange(0, size, 2).float() / size
    return {f"{PREFIX}rotary_emb.inv_freq": 1.0 / (10_000.0**exponent)}


def unusual(network: DiT) -> tuple[str, ...]:
    """Whether the noise level is read."""
    if network.config.time_conditioning:
        return ("reads the noise level: sequences of one call may stand at different ones",)
    return ("has a noise embedding and is always given 0",)


MDLM = Family("mdlm", "mdlm", build, published_name, published_config, derived, unusual)

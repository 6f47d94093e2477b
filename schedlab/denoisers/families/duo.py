"""DUO (Sahoo et al., 2506.10892): MDLM's network for the uniform-state process."""

from __future__ import annotations

from typing import Any

from schedlab.denoisers.dit import DiT, DiTConfig
from schedlab.denoisers.families.base import Family, PublishedConfig
from schedlab.denoisers.families.mdlm import derived, published_name, published_sizes, sizes


def build(config: PublishedConfig) -> DiT:
    """The network of a published configuration; there is no mask token."""
    config.expect("causal", False)
    return DiT(
        DiTConfig(
            process="uniform",
            vocab_size=config.whole("vocab_size"),
            mask_id=None,
            time_conditioning=True,
            **sizes(config),
        )
    )


def published_config(network: DiT) -> dict[str, Any]:
    """`config.json`."""
    return {
        "architectures": ["DUO"],
        "model_type": "duo",
        "causal": False,
        "var_min": False,
        **published_sizes(network),
    }


def unusual(network: DiT) -> tuple[str, ...]:
    """What its predictions are."""
    return (
        "predicts a token from the others (leave-one-out), for the uniform-state process",
        "reads the noise level",
    )


DUO = Family("duo", "duo", build, published_name, published_config, derived, unusual)

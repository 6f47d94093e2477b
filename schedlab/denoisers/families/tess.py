"""TESS (Karimi Mahabadi et al., 2305.08379): the layout of allenai/tess-diffusion's RoBERTa."""

from __future__ import annotations

from typing import Any, Literal

from schedlab.denoisers.families.base import Family, PublishedConfig
from schedlab.denoisers.simplex_roberta import SimplexRoberta, SimplexRobertaConfig

_OTHER_CONDITIONS = (
    "self_condition_mix_logits_before_weights",
    "self_condition_mlp_projection",
    "self_condition_zeros_after_softmax",
    "deepmind_conditional",
    "classifier_free_simplex_inputs",
)


def build(config: PublishedConfig) -> SimplexRoberta:
    """The network of a published configuration; variants of self-conditioning are refused."""
    config.expect("hidden_act", "gelu")
    config.expect("type_vocab_size", 1)
    return SimplexRoberta(
        SimplexRobertaConfig(
            vocab_size=config.whole("vocab_size"),
            num_blocks=config.whole("num_hidden_layers"),
            hidden_size=config.whole("hidden_size"),
            num_heads=config.whole("num_attention_heads"),
            mlp_size=config.whole("intermediate_size"),
            num_positions=config.whole("max_position_embeddings"),
            pad_id=config.token("pad_token_id"),
            norm_eps=config.number("layer_norm_eps", 1e-5),
            self_condition=self_condition(config),
        )
    )


def self_condition(config: PublishedConfig) -> Literal["none", "mean"]:
    """How previous logits are read; variants of TESS's and TESS 2's code are refused."""
    config.expect("self_condition", None, "logits_mean")
    mean = config.values.get("self_condition") is not None
    if mean:
        config.expect("self_condition_mix_before_weights", True)
    for name in _OTHER_CONDITIONS:
        config.expect(name, False)
    return "mean" if mean else "none"


def published_self_condition(kind: str) -> dict[str, Any]:
    """The reverse of `self_condition`."""
    return {
        "self_condition": "logits_mean" if kind == "mean" else None,
        "self_condition_mix_before_weights": kind == "mean",
        **dict.fromkeys(_OTHER_CONDITIONS[:3], False),
    }


def published_config(network: SimplexRoberta) -> dict[str, Any]:
    """`config.json`."""
    config = network.config
    return {
        "architectures": ["RobertaForDiffusionLM"],
        "model_type": "roberta",
        "hidden_act": "gelu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_size,
        "layer_norm_eps": config.norm_eps,
        "max_position_embeddings": config.num_positions,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_blocks,
        "pad_token_id": config.pad_id,
        **published_self_condition(config.self_condition),
        "type_vocab_size": 1,
        "vocab_size": config.vocab_size,
    }


def published_name(name: str) -> str:
    """Names are the published ones."""
    return name


def unusual(network: Any) -> tuple[str, ...]:
    """What it reads."""
    lines = ("reads a simplex over the vocabulary instead of tokens, and the noise level",)
    if network.config.self_condition == "none":
        return lines
    return (*lines, "self-conditioned: also reads its previous logits")


TESS = Family("tess", "roberta", build, published_name, published_config, unusual=unusual)

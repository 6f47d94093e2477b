"""TESS 2 (Tae et al., 2502.13917): the layout of hamishivi/tess-2's Mistral."""

from __future__ import annotations

from typing import Any

from schedlab.denoisers.families.base import Family, PublishedConfig
from schedlab.denoisers.families.dream import llama_name
from schedlab.denoisers.families.tess import published_self_condition, self_condition, unusual
from schedlab.denoisers.simplex_gated import SimplexGated, SimplexGatedConfig

ARCHITECTURE = "MistralForDiffusionLM"


def build(config: PublishedConfig) -> SimplexGated:
    """The network of a published configuration; variants, and Mistrals that are no diffusion
    models, are refused."""
    config.expect("architectures", [ARCHITECTURE])
    config.expect("hidden_act", "silu")
    config.expect("is_causal", False)
    config.expect("rope_scaling", None)
    num_heads, hidden_size = config.whole("num_attention_heads"), config.whole("hidden_size")
    config.expect("head_dim", None, hidden_size // num_heads)
    # Within its window attention is that of the whole sequence.
    longest = config.whole("max_position_embeddings")
    if config.values.get("sliding_window") is not None:
        longest = min(longest, config.whole("sliding_window"))
    return SimplexGated(
        SimplexGatedConfig(
            vocab_size=config.whole("vocab_size"),
            num_blocks=config.whole("num_hidden_layers"),
            hidden_size=hidden_size,
            num_heads=num_heads,
            num_kv_heads=config.whole("num_key_value_heads", num_heads),
            mlp_size=config.whole("intermediate_size"),
            max_length=longest,
            rope_base=config.number("rope_theta", 10_000.0),
            norm_eps=config.number("rms_norm_eps", 1e-6),
            reads_time=not config.flag("disable_timestep_embed", False),
            self_condition=self_condition(config),
            tied=config.flag("tie_word_embeddings", False),
        )
    )


def published_config(network: SimplexGated) -> dict[str, Any]:
    """`config.json`."""
    config = network.config
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "mistral",
        "disable_timestep_embed": not config.reads_time,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_size,
        "is_causal": False,
        "max_position_embeddings": config.max_length,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_blocks,
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_base,
        **published_self_condition(config.self_condition),
        "sliding_window": None,
        "tie_word_embeddings": config.tied,
        "vocab_size": config.vocab_size,
    }


def published_name(name: str) -> str:
    """Names are those of a Llama, and of the embedding of the noise level."""
    return "timestep_embed.weight" if name == "time.weight" else llama_name(name)


TESS2 = Family("tess2", "mistral", build, published_name, published_config, unusual=unusual)

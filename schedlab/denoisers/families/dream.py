"""Dream (Ye et al., 2508.15487): Qwen2 without the causal mask, logits shifted by one."""

from __future__ import annotations

from typing import Any

from schedlab.denoisers.families.base import Family, PublishedConfig, names_by_part
from schedlab.denoisers.gated import GatedConfig, GatedTransformer

_OUTSIDE = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
_IN_BLOCK = {
    "attention_norm": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
llama_name = names_by_part(_OUTSIDE, "model.layers", _IN_BLOCK)


def build(config: PublishedConfig) -> GatedTransformer:
    """The network of a published configuration; variants are refused."""
    config.expect("hidden_act", "silu")
    config.expect("rope_scaling", None)
    config.expect("use_sliding_window", False)
    config.expect("use_mrope", False)
    num_heads = config.whole("num_attention_heads")
    return GatedTransformer(
        GatedConfig(
            vocab_size=config.whole("vocab_size"),
            mask_id=config.token("mask_token_id"),
            num_blocks=config.whole("num_hidden_layers"),
            hidden_size=config.whole("hidden_size"),
            num_heads=num_heads,
            num_kv_heads=config.whole("num_key_value_heads", num_heads),
            mlp_size=config.whole("intermediate_size"),
            max_length=config.whole("max_position_embeddings"),
            rope_base=config.number("rope_theta", 10_000.0),
            norm_eps=config.number("rms_norm_eps", 1e-6),
            qkv_bias=True,
            tied=config.flag("tie_word_embeddings", False),
            shifted=True,
        )
    )


def published_config(network: GatedTransformer) -> dict[str, Any]:
    """`config.json`."""
    config = network.config
    return {
        "architectures": ["DreamModel"],
        "model_type": "Dream",
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_size,
        "mask_token_id": config.mask_id,
        "max_position_embeddings": config.max_length,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_blocks,
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.norm_eps,
        "rope_scaling": None,
        "rope_theta": config.rope_base,
        "tie_word_embeddings": config.tied,
        "use_mrope": False,
        "use_sliding_window": False,
        "vocab_size": config.vocab_size,
    }


def unusual(network: GatedTransformer) -> tuple[str, ...]:
    """The shift."""
    return ("the network's output at a position predicts the next one; position 0 its own",)


DREAM = Family("dream", "Dream", build, llama_name, published_config, unusual=unusual)

"""LLaDA (Nie et al., 2502.09992): the layout of GSAI-ML/LLaDA-8B."""

from __future__ import annotations

from typing import Any

from schedlab.denoisers.families.base import Family, PublishedConfig, names_by_part
from schedlab.denoisers.gated import GatedConfig, GatedTransformer

_OUTSIDE = {
    "embedding": "model.transformer.wte",
    "norm": "model.transformer.ln_f",
    "head": "model.transformer.ff_out",
}
_IN_BLOCK = {
    "attention_norm": "attn_norm",
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "output": "attn_out",
    "mlp_norm": "ff_norm",
    "gate": "ff_proj",
    "up": "up_proj",
    "down": "ff_out",
}
_NAMES = names_by_part(_OUTSIDE, "model.transformer.blocks", _IN_BLOCK)


def build(config: PublishedConfig) -> GatedTransformer:
    """The network of a published configuration; variants of its code base are refused."""
    config.expect("block_type", "llama")
    config.expect("layer_norm_type", "rms")
    config.expect("activation_type", "silu", "swiglu")
    config.expect("rope", True)
    for name in (
        "alibi",
        "attention_layer_norm",
        "include_bias",
        "input_emb_norm",
        "scale_logits",
    ):
        config.expect(name, False)
    config.expect("multi_query_attention", None, False)
    num_heads = config.whole("n_heads")
    vocab_size = config.whole("embedding_size", config.values.get("vocab_size"))
    return GatedTransformer(
        GatedConfig(
            vocab_size=vocab_size,
            mask_id=config.token("mask_token_id"),
            num_blocks=config.whole("n_layers"),
            hidden_size=config.whole("d_model"),
            num_heads=num_heads,
            num_kv_heads=config.whole("n_kv_heads", num_heads),
            mlp_size=config.whole("mlp_hidden_size"),
            max_length=config.whole("max_sequence_length"),
            rope_base=config.number("rope_theta", 10_000.0),
            norm_eps=config.number("rms_norm_eps", 1e-5),
            qkv_bias=config.flag("include_qkv_bias", False),
            tied=config.flag("weight_tying", False),
        )
    )


def published_config(network: GatedTransformer) -> dict[str, Any]:
    """`config.json`."""
    config = network.config
    return {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "activation_type": "silu",
        "alibi": False,
        "attention_layer_norm": False,
        "block_type": "llama",
        "d_model": config.hidden_size,
        "embedding_size": config.vocab_size,
        "include_bias": False,
        "include_qkv_bias": config.qkv_bias,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "mask_token_id": config.mask_id,
        "max_sequence_length": config.max_length,
        "mlp_hidden_size": config.mlp_size,
        "multi_query_attention": None,
        "n_heads": config.num_heads,
        "n_kv_heads": config.num_kv_heads,
        "n_layers": config.num_blocks,
        "rms_norm_eps": config.norm_eps,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": config.rope_base,
        "scale_logits": False,
        "vocab_size": config.vocab_size,
        "weight_tying": config.tied,
    }


LLADA = Family("llada", "llada", build, _NAMES, published_config)

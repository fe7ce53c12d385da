"""Tiny random models of every architecture with a native decoder, with awkward sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from tests import models

_SIZES: dict[str, Any] = {
    "vocab_size": 203,
    "hidden_size": 51,
    "intermediate_size": 77,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "head_dim": 14,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}

_RECURRENT: dict[str, Any] = {
    "hidden_size": 52, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12,
}  # fmt: skip

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama tied": ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "llama biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama grouped": (
        "Llama",
        {
            "hidden_size": 100, "num_attention_heads": 10, "num_key_value_heads": 2,
            "head_dim": 80, "intermediate_size": 300,
        },
    ),
    "llama linear": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e4}},
    ),
    "llama 3": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
                "rope_theta": 1e4,
            }
        },
    ),
    "mistral": ("Mistral", {"sliding_window": None, "num_key_value_heads": 1}),
    "qwen2": ("Qwen2", {"hidden_size": 42, "num_key_value_heads": 1, "head_dim": 14}),
    "qwen3": ("Qwen3", {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32}),
}  # fmt: skip
"""Architectures and variants, by name: the class and its differences from the common sizes."""

_WINDOWS = ["sliding_attention", "full_attention", "sliding_attention"]

_YARN: dict[str, Any] = {
    "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "rope_theta": 1e4,
}  # fmt: skip

_MOE: dict[str, Any] = {
    "hidden_size": 52, "intermediate_size": 76, "num_experts": 5, "num_experts_per_tok": 2,
    "moe_intermediate_size": 44,
}  # fmt: skip
"""Sizes of mixtures of experts; torch's grouped products take only multiples of 4."""

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma": ("Gemma", {"num_key_value_heads": 1}),
    "gemma 2": (
        "Gemma2",
        {
            "sliding_window": 40, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 3.0, "layer_types": _WINDOWS,
        },
    ),
    "gemma 3": (
        "Gemma3Text",
        {
            "num_key_value_heads": 1, "sliding_window": 40, "query_pre_attn_scalar": 20,
            "layer_types": _WINDOWS,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "gemma 4": (
        "Gemma4Text",
        {
            "num_hidden_layers": 6, "num_key_value_heads": 1, "sliding_window": 40,
            "global_head_dim": 20, "layer_types": _WINDOWS[:2] * 3, "num_kv_shared_layers": 3,
            "hidden_size_per_layer_input": 10, "vocab_size_per_layer_input": 203,
            "use_double_wide_mlp": True, "final_logit_softcapping": 3.0,
        },
    ),
    "gemma 4 values of keys": (
        "Gemma4Text",
        {
            "num_hidden_layers": 4, "sliding_window": 40, "global_head_dim": 24,
            "layer_types": _WINDOWS[:2] * 2, "hidden_size_per_layer_input": 0,
            "attention_k_eq_v": True, "num_global_key_value_heads": 1,
            "attention_bias": True, "initializer_range": 0.1,
        },
    ),
    "glm 4": ("Glm4", {"head_dim": 16, "num_key_value_heads": 1, "pad_token_id": 0}),
    "granite": (
        "Granite",
        {
            "num_key_value_heads": 1, "embedding_multiplier": 3.0, "attention_multiplier": 0.11,
            "residual_multiplier": 0.6, "logits_scaling": 2.5,
        },
    ),
    "granite moe": (
        "GraniteMoe",
        {
            **_MOE, "num_local_experts": 5, "num_key_value_heads": 1, "embedding_multiplier": 3.0,
            "attention_multiplier": 0.11, "residual_multiplier": 0.6, "logits_scaling": 2.5,
        },
    ),
    "llama yarn": (
        "Llama",
        {
            "rope_parameters": {
                **_YARN, "beta_fast": 16, "beta_slow": 2, "attention_factor": 1.3,
                "truncate": False,
            }
        },
    ),
    "mistral window": ("Mistral", {"sliding_window": 30, "num_key_value_heads": 1}),
    "olmo 2": ("Olmo2", {"num_key_value_heads": 1, "hidden_size": 42}),
    "olmo 3": (
        "Olmo3",
        {
            "num_key_value_heads": 1, "hidden_size": 42, "sliding_window": 40,
            "layer_types": _WINDOWS,
            "rope_parameters": {
                "full_attention": _YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "phi 3": ("Phi3", {"num_key_value_heads": 1, "hidden_size": 42, "pad_token_id": 0}),
    "phi 3 window": (
        "Phi3",
        {
            "num_key_value_heads": 1, "hidden_size": 48, "head_dim": 16, "pad_token_id": 0,
            "sliding_window": 50,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5,
            },
        },
    ),
    "phi 4": (
        "Phi3",
        {
            "num_key_value_heads": 1, "hidden_size": 48, "head_dim": 16, "pad_token_id": 0,
            "tie_word_embeddings": True, "original_max_position_embeddings": 1024,
            "rope_parameters": {
                "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75,
                "short_factor": [1.0, 1.1, 1.3, 1.4, 1.5, 2.0],
                "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 9.0],
            },
        },
    ),
    "qwen2 window": (
        "Qwen2",
        {
            "hidden_size": 42, "num_key_value_heads": 1, "use_sliding_window": True,
            "sliding_window": 64, "max_window_layers": 1,
        },
    ),
    "smollm 3": (
        "SmolLM3",
        {
            "num_key_value_heads": 1, "hidden_size": 42, "no_rope_layer_interval": 2,
            "pad_token_id": 0,
        },
    ),

    "qwen3 moe": (
        "Qwen3Moe",
        {
            **_MOE, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32,
            "num_experts": 7, "num_experts_per_tok": 3, "norm_topk_prob": True,
            "mlp_only_layers": [1],
        },
    ),
    "qwen2 moe": ("Qwen2Moe", {**_MOE, "shared_expert_intermediate_size": 36}),
    "mixtral": ("Mixtral", _MOE),
    "mixtral with a window": ("Mixtral", {**_MOE, "sliding_window": 24}),
    "olmoe": (
        "Olmoe",
        {
            **_MOE, "hidden_size": 56, "num_attention_heads": 4, "num_key_value_heads": 4,
            "num_experts_per_tok": 4, "eos_token_id": None, "pad_token_id": None,
        },
    ),
    "gpt-oss": (
        "GptOss",
        {
            **_MOE, "num_attention_heads": 6, "num_key_value_heads": 2,
            "sliding_window": 24,
            "rope_parameters": {
                "rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
                "truncate": False, "original_max_position_embeddings": 128, "rope_theta": 150000.0,
            },
        },
    ),
    "lfm2": ("Lfm2", _RECURRENT | {"layer_types": ["conv", "full_attention", "conv"]}),
    "lfm2 biases": (
        "Lfm2",
        _RECURRENT
        | {
            "full_attn_idxs": [2], "conv_bias": True, "conv_L_cache": 4, "conv_dim": 48,
            "block_auto_adjust_ff_dim": False,
        },
    ),
    "lfm2 moe": (
        "Lfm2Moe",
        _RECURRENT
        | {
            "num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "conv"],
            "num_dense_layers": 1, "num_experts": 7, "num_experts_per_tok": 3,
            "moe_intermediate_size": 44, "routed_scaling_factor": 1.5, "initializer_range": 0.1,
        },
    ),
    "qwen3.5": (
        "Qwen3_5Text",
        _RECURRENT
        | {
            "num_hidden_layers": 4, "head_dim": 16, "linear_key_head_dim": 10,
            "linear_value_head_dim": 12, "linear_num_key_heads": 2, "linear_num_value_heads": 6,
            "initializer_range": 0.05,  # more magnifies the order of float32 sums
        },
    ),
    "qwen3.5 moe": (
        "Qwen3_5MoeText",
        _RECURRENT
        | {
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "head_dim": 16, "linear_key_head_dim": 12, "linear_value_head_dim": 10,
            "linear_num_key_heads": 3, "linear_num_value_heads": 3, "num_experts": 5,
            "num_experts_per_tok": 2, "moe_intermediate_size": 36,
            "shared_expert_intermediate_size": 28, "initializer_range": 0.05,
        },
    ),
    "granite 4": (
        "GraniteMoeHybrid",
        _RECURRENT
        | {
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": 70,
            "mamba_n_heads": 8, "mamba_n_groups": 2, "mamba_d_state": 18,
            "embedding_multiplier": 3.0, "attention_multiplier": 0.11, "residual_multiplier": 0.6,
            "logits_scaling": 2.5,
        },
    ),
    "granite 4 moe": (
        "GraniteMoeHybrid",
        _RECURRENT
        | {
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "num_local_experts": 7, "num_experts_per_tok": 3, "intermediate_size": 44,
            "shared_intermediate_size": 72, "mamba_n_heads": 8, "mamba_n_groups": 2,
            "mamba_d_state": 18, "embedding_multiplier": 3.0, "attention_multiplier": 0.11,
            "residual_multiplier": 0.6, "logits_scaling": 2.5,
        },
    ),
    "granite 4 rope": (
        "GraniteMoeHybrid",
        _RECURRENT
        | {
            "layer_types": ["full_attention", "linear_attention", "linear_attention"],
            "num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": 70,
            "mamba_n_heads": 13, "mamba_n_groups": 1, "mamba_d_state": 16, "mamba_d_conv": 3,
            "mamba_proj_bias": True, "mamba_conv_bias": False, "position_embedding_type": "rope",
        },
    ),
}  # fmt: skip
"""Further families and their variants, which `test_architectures` compares."""


def config_of(variant: str, **changes: Any) -> Any:
    """The config of transformers of a variant."""
    kind, own = {**CONFIGS, **FAMILIES}[variant]
    if "vocab_size" in changes and "vocab_size_per_layer_input" in own:
        changes = {"vocab_size_per_layer_input": changes["vocab_size"], **changes}
    return getattr(transformers, f"{kind}Config")(**{**_SIZES, **own, **changes})


def save(folder: Path, variant: str, **changes: Any) -> Path:
    """Write a random model of a variant, in bfloat16, into a folder; the same each time."""
    kind, _ = {**CONFIGS, **FAMILIES}[variant]
    config = config_of(variant, **changes)
    torch.manual_seed(1)
    model = getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")(config)
    model = model.to(torch.bfloat16)
    for name, tensor in model.named_parameters():
        if name.endswith("norm.weight"):
            tensor.data.uniform_(0.5, 1.5)
        elif name.endswith("bias"):
            tensor.data.uniform_(-0.5, 0.5)
    for name, tensor in model.named_buffers():
        if name.endswith("expert_bias"):
            tensor.uniform_(-0.3, 0.3)
        elif name.endswith("layer_scalar"):
            tensor.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    return folder


def reference(folder: Path, dtype: torch.dtype) -> Any:
    """The model in a folder as transformers runs it."""
    return models.load_plain(folder, dtype)

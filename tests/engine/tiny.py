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

_MOE: dict[str, Any] = {
    "hidden_size": 52, "intermediate_size": 76, "num_experts": 5, "num_experts_per_tok": 2,
    "moe_intermediate_size": 44,
}  # fmt: skip
"""Sizes of mixtures of experts; torch's grouped products take only multiples of 4."""

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "granite": (
        "Granite",
        {
            "num_key_value_heads": 1, "embedding_multiplier": 3.0, "attention_multiplier": 0.11,
            "residual_multiplier": 0.6, "logits_scaling": 2.5,
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
    model.save_pretrained(folder)
    return folder


def reference(folder: Path, dtype: torch.dtype) -> Any:
    """The model in a folder as transformers runs it."""
    return models.load_plain(folder, dtype)

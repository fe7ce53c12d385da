"""Tiny random models of each architecture in transformers, and what GGUF files say of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}

Metadata = dict[str, Any]


@dataclass(frozen=True)
class Original:
    """A model in transformers, and what its GGUF file says about it."""

    kind: str
    """Its class in transformers without `ForCausalLM`."""
    architecture: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Differences from `SIZES`."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the file, without the architecture's name."""
    tensors: Mapping[str, list[float]] = field(default_factory=dict)
    """Tensors that are no weights."""
    interleaved: bool = False
    shifted_norms: bool = False
    epsilon: str = "attention.layer_norm_rms_epsilon"


def llama3_factors(theta: float, dimensions: int, factor: float) -> list[float]:
    """The divisors that llama.cpp's converter writes for Llama 3.1 to 3.3."""
    frequencies = 1.0 / theta ** (torch.arange(0, dimensions, 2, dtype=torch.float32) / dimensions)
    factors = []
    for wavelength in (2 * torch.pi / frequencies).tolist():
        smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
        between = 1 / ((1 - smooth) / factor + smooth)
        factors.append(1.0 if wavelength < 8192 / 4 else factor if wavelength > 8192 else between)
    return factors


def _llama3(factor: float) -> dict[str, Any]:
    return {
        "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_theta": 5e5,
    }  # fmt: skip


def _longrope(pairs: int, **more: Any) -> dict[str, Any]:
    return {
        "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 128,
        "short_factor": [1.0 + 0.125 * i for i in range(pairs)],
        "long_factor": [1.0 + 0.75 * i for i in range(pairs)],
        **more,
    }  # fmt: skip


def _longrope_tensors(pairs: int) -> dict[str, list[float]]:
    rope = _longrope(pairs)
    return {
        "rope_factors_long.weight": rope["long_factor"],
        "rope_factors_short.weight": rope["short_factor"],
    }


_YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "rope_theta": 1e4,
}  # fmt: skip


_YARN_METADATA = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 128,
}


_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32, "num_experts": 4}


_EXPERTS_METADATA = {"expert_count": 4, "expert_used_count": 2}


_MULTIPLIERS = {
    "embedding_multiplier": 3.0, "attention_multiplier": 0.11, "residual_multiplier": 0.6,
    "logits_scaling": 2.5,
}  # fmt: skip


_MULTIPLIERS_METADATA = {
    "attention.scale": 0.11,
    "embedding_scale": 3.0,
    "residual_scale": 0.6,
    "logit_scale": 2.5,
}


_LINEAR = {
    "num_hidden_layers": 4,
    "head_dim": 16,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}


_LINEAR_METADATA = {
    "attention.key_length": 16,
    "attention.value_length": 16,
    "ssm.conv_kernel": 4,
    "ssm.state_size": 8,
    "ssm.group_count": 2,
    "ssm.time_step_rank": 4,
    "ssm.inner_size": 32,
    "full_attention_interval": 4,
    "rope.dimension_count": 4,
    "rope.dimension_sections": [1, 1, 1, 0],
}


_GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
}


_GEMMA4 = {"head_dim": 16, "global_head_dim": 32, "sliding_window": 16}


_GEMMA4_METADATA = {
    "attention.key_length": 32,
    "attention.value_length": 32,
    "attention.key_length_swa": 16,
    "attention.value_length_swa": 16,
    "rope.dimension_count": 32,
    "rope.dimension_count_swa": 16,
    "rope.freq_base": 1e6,
    "rope.freq_base_swa": 1e4,
    "attention.sliding_window": 16,
}


_PHI3_METADATA = {
    "rope.scaling.original_context_length": 128,
    "rope.scaling.attn_factor": (1 + math.log(4) / math.log(128)) ** 0.5,
    "attention.sliding_window": 0,
}


_GRANITE_HYBRID = {
    **_MULTIPLIERS,
    "num_hidden_layers": 3,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "shared_intermediate_size": 96,
    "mamba_n_heads": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 16,
}


_GRANITE_HYBRID_METADATA = {
    **_MULTIPLIERS_METADATA,
    "attention.head_count_kv": [0, 2, 0],
    "expert_shared_feed_forward_length": 96,
    "rope.dimension_count": 16,
    "rope.scaling.finetuned": False,
    "ssm.conv_kernel": 4,
    "ssm.state_size": 16,
    "ssm.group_count": 1,
    "ssm.inner_size": 128,
    "ssm.time_step_rank": 8,
}


ORIGINALS: dict[str, Original] = {
    "llama": Original("Llama", "llama", {}, {"rope.dimension_count": 16}, interleaved=True),
    "llama tied": Original("Llama", "llama", {"tie_word_embeddings": True}, interleaved=True),
    "llama biases": Original(
        "Llama", "llama", {"attention_bias": True, "mlp_bias": True}, interleaved=True
    ),
    "llama wide heads": Original(
        "Llama",
        "llama",
        {"head_dim": 32},
        {"attention.key_length": 32, "attention.value_length": 32},
        interleaved=True,
    ),
    "llama 3.1": Original(
        "Llama",
        "llama",
        {"rope_parameters": _llama3(8.0), "max_position_embeddings": 131072},
        tensors={"rope_freqs.weight": llama3_factors(5e5, 16, 8.0)},
        interleaved=True,
    ),
    "llama 3.2": Original(
        "Llama",
        "llama",
        {"rope_parameters": _llama3(32.0), "max_position_embeddings": 131072},
        tensors={"rope_freqs.weight": llama3_factors(5e5, 16, 32.0)},
        interleaved=True,
    ),
    "llama linear": Original(
        "Llama",
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        interleaved=True,
    ),
    "llama old linear": Original(
        "Llama",
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
        {"rope.scale_linear": 4.0},
        interleaved=True,
    ),
    "llama yarn": Original(
        "Llama", "llama", {"rope_parameters": _YARN}, _YARN_METADATA, interleaved=True
    ),
    "llama yarn with all settings": Original(
        "Llama",
        "llama",
        {
            "rope_parameters": {
                **_YARN,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
                "attention_factor": 0.75,
            }
        },
        {
            **_YARN_METADATA,
            "rope.scaling.yarn_beta_fast": 16.0,
            "rope.scaling.yarn_beta_slow": 2.0,
            "rope.scaling.yarn_attn_factor": 0.75,
        },
        interleaved=True,
    ),
    "mixtral": Original(
        "Mixtral",
        "llama",
        {"num_local_experts": 4, "num_experts_per_tok": 2},
        _EXPERTS_METADATA,
        interleaved=True,
    ),
    "qwen2": Original("Qwen2", "qwen2"),
    "qwen2 yarn": Original("Qwen2", "qwen2", {"rope_parameters": _YARN}, _YARN_METADATA),
    "qwen3": Original(
        "Qwen3",
        "qwen3",
        {"head_dim": 32},
        {"attention.key_length": 32, "attention.value_length": 32},
    ),
    "qwen2moe": Original(
        "Qwen2Moe",
        "qwen2moe",
        {**_EXPERTS, "shared_expert_intermediate_size": 48},
        {
            **_EXPERTS_METADATA,
            "expert_feed_forward_length": 32,
            "expert_shared_feed_forward_length": 48,
        },
    ),
    "qwen3moe": Original(
        "Qwen3Moe",
        "qwen3moe",
        {**_EXPERTS, "head_dim": 32, "norm_topk_prob": True},
        {
            **_EXPERTS_METADATA,
            "expert_feed_forward_length": 32,
            "attention.key_length": 32,
            "attention.value_length": 32,
        },
    ),
    "qwen3moe wide": Original(
        "Qwen3Moe",
        "qwen3moe",
        {
            **_EXPERTS,
            "hidden_size": 256,
            "moe_intermediate_size": 256,
            "head_dim": 64,
            "norm_topk_prob": True,
        },
        {
            **_EXPERTS_METADATA,
            "expert_feed_forward_length": 256,
            "attention.key_length": 64,
            "attention.value_length": 64,
        },
    ),
    "gemma": Original(
        "Gemma",
        "gemma",
        {"head_dim": 32},
        {"attention.key_length": 32, "attention.value_length": 32},
        shifted_norms=True,
    ),
    "gemma2": Original(
        "Gemma2",
        "gemma2",
        {"head_dim": 32, "sliding_window": 16, "query_pre_attn_scalar": 32},
        {
            "attention.key_length": 32,
            "attention.value_length": 32,
            "attention.sliding_window": 16,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        shifted_norms=True,
    ),
    "gemma3": Original(
        "Gemma3",
        "gemma3",
        {
            "head_dim": 32,
            "sliding_window": 16,
            "query_pre_attn_scalar": 32,
            "num_hidden_layers": 7,
            "rope_parameters": _GEMMA3_ROPE,
        },
        {
            "attention.key_length": 32,
            "attention.value_length": 32,
            "attention.sliding_window": 16,
            "rope.freq_base": 1e6,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
        shifted_norms=True,
    ),
    "gemma3 27b": Original(
        "Gemma3",
        "gemma3",
        {
            "hidden_size": 32,
            "intermediate_size": 32,
            "head_dim": 32,
            "sliding_window": 16,
            "query_pre_attn_scalar": 8,
            "num_hidden_layers": 62,
            "rope_parameters": _GEMMA3_ROPE,
        },
        {
            "attention.key_length": 32,
            "attention.value_length": 32,
            "attention.sliding_window": 16,
            "rope.freq_base": 1e6,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
        shifted_norms=True,
    ),
    "gemma4": Original(
        "Gemma4",
        "gemma4",
        {
            **_GEMMA4,
            "num_hidden_layers": 12,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 320,
            "num_kv_shared_layers": 6,
            "use_double_wide_mlp": True,
            "final_logit_softcapping": 30.0,
        },
        {
            **_GEMMA4_METADATA,
            "attention.sliding_window_pattern": [*[True] * 5, False] * 2,
            "embedding_length_per_layer_input": 8,
            "feed_forward_length": [96] * 6 + [192] * 6,
            "attention.shared_kv_layers": 6,
            "final_logit_softcapping": 30.0,
        },
        {"rope_freqs.weight": [1.0] * 4 + [1e30] * 12},
    ),
    "gemma4 shared values": Original(
        "Gemma4",
        "gemma4",
        {
            **_GEMMA4,
            "num_hidden_layers": 6,
            "hidden_size_per_layer_input": 0,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
        },
        {
            **_GEMMA4_METADATA,
            "attention.sliding_window_pattern": [*[True] * 5, False],
            "embedding_length_per_layer_input": 0,
            "attention.head_count_kv": [2, 2, 2, 2, 2, 1],
        },
        {"rope_freqs.weight": [1.0] * 4 + [1e30] * 12},
    ),
    "phi3": Original(
        "Phi3",
        "phi3",
        {"sliding_window": 20, "original_max_position_embeddings": 512},
        {
            "rope.dimension_count": 16,
            "rope.scaling.original_context_length": 512,
            "attention.sliding_window": 20,
        },
    ),
    "phi3 longrope": Original(
        "Phi3",
        "phi3",
        {"original_max_position_embeddings": 128, "rope_parameters": _longrope(8)},
        {"rope.dimension_count": 16, **_PHI3_METADATA},
        _longrope_tensors(8),
    ),
    "phi4 mini": Original(
        "Phi3",
        "phi3",
        {
            "original_max_position_embeddings": 128,
            "tie_word_embeddings": True,
            "rope_parameters": _longrope(6, partial_rotary_factor=0.75),
        },
        {"rope.dimension_count": 12, **_PHI3_METADATA},
        _longrope_tensors(6),
    ),
    "llama wide": Original(
        "Llama", "llama", {"hidden_size": 256, "intermediate_size": 512}, interleaved=True
    ),
    "granite": Original(
        "Granite",
        "granite",
        _MULTIPLIERS,
        _MULTIPLIERS_METADATA,
        interleaved=True,
    ),
    "olmo2": Original("Olmo2", "olmo2"),
    "smollm3": Original("SmolLM3", "smollm3", {"num_hidden_layers": 4}, interleaved=True),
    "stablelm": Original(
        "StableLm",
        "stablelm",
        {},
        {"rope.dimension_count": 4, "use_parallel_residual": False},
        epsilon="attention.layer_norm_epsilon",
    ),
    "seed_oss": Original(
        "SeedOss",
        "seed_oss",
        {"head_dim": 16, "attention_dropout": 0.0, "residual_dropout": 0.0},
        {"attention.key_length": 16, "attention.value_length": 16},
    ),
    "arcee": Original("Arcee", "arcee", {}, interleaved=True),
    "ernie4_5": Original(
        "Ernie4_5",
        "ernie4_5",
        {"head_dim": 32},
        {"attention.key_length": 32, "attention.value_length": 32},
    ),
    "glm4": Original("Glm4", "glm4", {"head_dim": 16}, {"rope.dimension_count": 8}),
    "granitemoe": Original(
        "GraniteMoe",
        "granitemoe",
        # with 2, two experts are equally good for a token of the tests, and rounding decides
        {**_MULTIPLIERS, "num_local_experts": 4, "num_experts_per_tok": 3},
        {**_MULTIPLIERS_METADATA, **_EXPERTS_METADATA, "expert_used_count": 3},
        interleaved=True,
    ),
    "granitehybrid": Original(
        "GraniteMoeHybrid",
        "granitehybrid",
        {**_GRANITE_HYBRID, "num_local_experts": 0, "num_experts_per_tok": 0},
        _GRANITE_HYBRID_METADATA,
        interleaved=True,
    ),
    "granitehybrid with experts": Original(
        "GraniteMoeHybrid",
        "granitehybrid",
        {
            **_GRANITE_HYBRID,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "intermediate_size": 32,
        },
        {**_GRANITE_HYBRID_METADATA, **_EXPERTS_METADATA},
        interleaved=True,
    ),
    "olmo3": Original(
        "Olmo3",
        "olmo2",
        {"sliding_window": 16, "num_hidden_layers": 4},
        {
            "attention.sliding_window": 16,
            "attention.sliding_window_pattern": [True, True, True, False],
            "rope.freq_base_swa": 5e5,
        },
    ),
    "olmoe": Original(
        "Olmoe",
        "olmoe",
        {"num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 4},
        _EXPERTS_METADATA,
    ),
    "exaone4": Original(
        "Exaone4", "exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 2}
    ),
    "exaone4 window": Original(
        "Exaone4",
        "exaone4",
        {"sliding_window": 16, "num_hidden_layers": 4},
        {"attention.sliding_window": 16},
    ),
    "hunyuan": Original(
        "HunYuanDenseV1",
        "hunyuan-dense",
        {"head_dim": 16},
        {"attention.key_length": 16, "attention.value_length": 16},
    ),
    "command-r": Original(
        "Cohere",
        "command-r",
        {},
        {"logit_scale": 0.0625, "rope.scaling.type": "none"},
        epsilon="attention.layer_norm_epsilon",
    ),
    "nemotron": Original(
        "Nemotron",
        "nemotron",
        {},
        {
            "rope.dimension_count": 8,
            "rope.scaling.type": "none",
            "attention.layer_norm_rms_epsilon": 1e-5,
        },
        shifted_norms=True,
        epsilon="attention.layer_norm_epsilon",
    ),
    "gpt-oss": Original(
        "GptOss",
        "gpt-oss",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 16},
        {
            **_EXPERTS_METADATA,
            "expert_feed_forward_length": 96,
            "attention.key_length": 16,
            "attention.value_length": 16,
            "attention.sliding_window": 16,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 32.0,
            "rope.scaling.original_context_length": 4096,
            "rope.scaling.yarn_beta_fast": 32.0,
            "rope.scaling.yarn_beta_slow": 1.0,
        },
    ),
    "qwen35": Original("Qwen3_5", "qwen35", _LINEAR, _LINEAR_METADATA, shifted_norms=True),
    "qwen35moe": Original(
        "Qwen3_5Moe",
        "qwen35moe",
        {**_LINEAR, **_EXPERTS, "shared_expert_intermediate_size": 48},
        {
            **_LINEAR_METADATA,
            **_EXPERTS_METADATA,
            "expert_feed_forward_length": 32,
            "expert_shared_feed_forward_length": 48,
        },
        shifted_norms=True,
    ),
    "lfm2": Original(
        "Lfm2",
        "lfm2",
        {
            "num_hidden_layers": 4,
            "layer_types": ["conv", "conv", "full_attention", "conv"],
            "block_auto_adjust_ff_dim": False,
        },
        {"attention.head_count_kv": [0, 0, 2, 0], "shortconv.l_cache": 3},
    ),
    "lfm2moe": Original(
        "Lfm2Moe",
        "lfm2moe",
        {
            **_EXPERTS,
            "num_hidden_layers": 4,
            "layer_types": ["conv", "conv", "full_attention", "conv"],
            "num_dense_layers": 1,
        },
        {
            **_EXPERTS_METADATA,
            "attention.head_count_kv": [0, 0, 2, 0],
            "shortconv.l_cache": 3,
            "expert_feed_forward_length": 32,
            "leading_dense_block_count": 1,
            "expert_gating_func": 2,
        },
    ),
}


UNREAD = {
    "internlm2": Original("Llama", "internlm2", {}, {"rope.dimension_count": 16}, interleaved=True)
}
"""Architectures that llama.cpp knows and chatlm does not."""


def save_original(folder: Path, variant: str) -> Path:
    """Write the original into a folder, in bfloat16; the same each time."""
    original = {**ORIGINALS, **UNREAD}[variant]
    has_text_config = original.kind in ("Gemma3", "Gemma4", "Qwen3_5", "Qwen3_5Moe")
    config_kind = f"{original.kind}{'TextConfig' if has_text_config else 'Config'}"
    config = getattr(transformers, config_kind)(**{**SIZES, **original.changes})
    torch.manual_seed(1)
    model = getattr(transformers, f"{original.kind}ForCausalLM")(config).to(torch.bfloat16)
    for name, tensor in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
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

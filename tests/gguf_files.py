"""GGUF files of tiny random models, written as llama.cpp's converter writes them.

Names of tensors come from the gguf package's own table, so that they do not depend on chatlm's.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from gguf import (
    GGML_QUANT_SIZES,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFWriter,
    Keys,
    get_tensor_name_map,
    quants,
)
from safetensors.torch import load_file

from chatlm.hub.gguf.file import split_paths
from chatlm.hub.gguf_folder import prepare_in_process

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"

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
    "rope.scaling.attn_factor": (1 + np.log(4) / np.log(128)) ** 0.5,
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


def make_folder(gguf: Path, name: str = "made") -> Path:
    """Make a model's folder from a GGUF file, beside it."""
    folder = gguf.parent / name
    prepare_in_process(gguf, folder)
    for part in split_paths(gguf):
        (folder / part.name).hardlink_to(part)
    return folder


def save_gguf(
    path: Path,
    variant: str = "llama",
    *,
    changes: Mapping[str, Any] | None = None,
    general: Mapping[str, str] | None = None,
    tokenizer: Callable[[GGUFWriter], None] | None = None,
    without: str = " ",
    more: Mapping[str, tuple[int, ...]] | None = None,
    types: Mapping[str, str] | None = None,
    part_tensors: int = 0,
) -> Path:
    """Write an original as a GGUF file, beside a folder `original`.

    Args:
        path: of the file.
        variant: of `ORIGINALS` or `UNREAD`.
        changes: to the settings; None removes one.
        general: what the file says about its origin.
        tokenizer: writes the vocabulary.
        without: pattern of the names of tensors that are left out.
        more: shapes of tensors that do not belong there, by name.
        types: number formats by pattern of the names of tensors; those that the gguf package cannot
            write get random weights.
    """
    original = {**ORIGINALS, **UNREAD}[variant]
    folder = save_original(path.parent / "original", variant)
    config = transformers.AutoConfig.from_pretrained(folder)
    writer = GGUFWriter(path, original.architecture, split_max_tensors=part_tensors)
    for key, value in (_settings(original, config.to_dict()) | dict(changes or {})).items():
        if value is not None:
            _add(writer, f"{original.architecture}.{key}", value)
    for key, text in (general or {}).items():
        writer.add_string(f"general.{key}", text)
    (tokenizer or write_vocabulary)(writer)
    tensors = _tensors(original, config, folder)
    tensors |= {name: np.array(values, np.float32) for name, values in original.tensors.items()}
    tensors = {name: values for name, values in tensors.items() if not re.search(without, name)}
    tensors |= {name: np.ones(shape, np.float32) for name, shape in (more or {}).items()}
    for name, values in tensors.items():
        kinds = [kind for pattern, kind in (types or {}).items() if re.search(pattern, name)]
        if kinds:
            kind = GGMLQuantizationType[kinds[0]]
            writer.add_tensor(name, _quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def save_gguf_lora(
    path: Path,
    adapter: Path,
    model: Path,
    *,
    architecture: str = "llama",
    interleaved: bool = True,
    alpha: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    types: Mapping[str, str] | None = None,
    more: Mapping[str, tuple[int, ...]] | None = None,
) -> Path:
    """Write an adapter of peft as llama.cpp's convert_lora_to_gguf.py writes it.

    Args:
        path: of the file.
        adapter: folder of the adapter.
        model: folder of its model.
        architecture: its name in GGUF.
        interleaved: whether the rows of queries and keys are in that order.
        alpha: None for the adapter's own.
        metadata: further settings of the file.
        types: number formats by pattern of the names of tensors, 32 bits if none matches.
        more: shapes of further tensors, by name.
    """
    config = transformers.AutoConfig.from_pretrained(model)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    number = next(k for k, v in MODEL_ARCH_NAMES.items() if v == architecture)
    names = get_tensor_name_map(number, config.num_hidden_layers)
    facts: Metadata = {
        "general.type": "adapter",
        Keys.Adapter.TYPE: "lora",
        Keys.Adapter.LORA_ALPHA: float(settings["lora_alpha"] if alpha is None else alpha),
        **(metadata or {}),
    }
    writer = GGUFWriter(path, architecture)
    for key, value in facts.items():
        match value:
            case str():
                writer.add_string(key, value)
            case float():
                writer.add_float32(key, value)
            case list():
                writer.add_array(key, value)
    tensors: dict[str, Any] = {}
    for name, tensor in load_file(adapter / "adapter_model.safetensors").items():
        if ".lora_" not in name:  # peft also saves an embedding that it adapts
            continue
        module, letter = name.removesuffix(".weight").rsplit(".lora_", 1)
        module = module.removeprefix("base_model.model.")
        values = tensor.float()
        if letter == "B" and interleaved and module.endswith("q_proj"):
            values = _interleave(values, config.num_attention_heads)
        if letter == "B" and interleaved and module.endswith("k_proj"):
            values = _interleave(values, config.num_key_value_heads)
        target = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        assert target, name
        tensors[f"{target}.lora_{letter.lower()}"] = values.numpy()
    tensors |= {name: np.ones(shape, np.float32) for name, shape in (more or {}).items()}
    for name, values in tensors.items():
        kinds = [kind for pattern, kind in (types or {}).items() if re.search(pattern, name)]
        kind = GGMLQuantizationType[kinds[0] if kinds else "F32"]
        writer.add_tensor(name, quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _quantize(values: Any, kind: GGMLQuantizationType) -> Any:
    try:
        return quants.quantize(values, kind)
    except NotImplementedError:
        *rows, columns = values.shape
        return random_rows(kind, math.prod(rows), columns).reshape(*rows, -1)


_SCALE_OFFSETS = {
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip
"""Where the blocks of a format have their scales and minimums, as 16-bit floats."""


def random_rows(kind: GGMLQuantizationType, rows: int, columns: int, seed: int = 1) -> Any:
    """The bytes of random weights in a number format: (rows, bytes of a row)."""
    generator = np.random.default_rng(seed)
    values, size = GGML_QUANT_SIZES[kind]
    blocks = generator.integers(0, 256, (rows * columns // values, size), dtype=np.uint8)
    if kind is GGMLQuantizationType.MXFP4:
        blocks[:, 0] = generator.integers(118, 124, len(blocks))  # exponents
    for offset in _SCALE_OFFSETS.get(kind.name, ()):
        scales = generator.uniform(-0.01, 0.01, len(blocks)).astype(np.float16)
        blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def write_vocabulary(writer: GGUFWriter, pre: str | None = "smollm", **ids: int | None) -> None:
    """Write a byte-level vocabulary with one merge, two spaces.

    Args:
        writer: of the file.
        pre: how text is split.
        ids: special tokens, by key.
    """
    tokens = [*CONTROL, *byte_alphabet(), "ĠĠ"]
    padding = [f"[PAD{index}]" for index in range(len(tokens), SIZES["vocab_size"])]
    writer.add_tokenizer_model("gpt2")
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list([*tokens, *padding])
    types = [3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL)) + [5] * len(padding)
    writer.add_token_types(types)
    writer.add_token_merges(["Ġ Ġ"])
    for key, token in ({"bos_token_id": 1, "eos_token_id": 2} | ids).items():
        if token is not None:
            writer.add_uint32(f"tokenizer.ggml.{key}", token)
    writer.add_chat_template(TEMPLATE)


def byte_alphabet() -> list[str]:
    """The 256 characters that byte-level BPE writes bytes with, in byte order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(others)) for b in range(256)]


def _settings(original: Original, config: Mapping[str, Any]) -> Metadata:
    rope = config["rope_parameters"]
    rope = rope.get("full_attention", rope)
    epsilons = ("rms_norm_eps", "norm_eps", "layer_norm_eps")
    return {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config.get("intermediate_size"),
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "rope.freq_base": rope["rope_theta"],
        original.epsilon: next(config[name] for name in epsilons if name in config),
        **original.metadata,
    }


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)
        case _:
            writer.add_float32(key, float(value))


def _tensors(original: Original, config: Any, folder: Path) -> dict[str, Any]:
    architecture = next(k for k, v in MODEL_ARCH_NAMES.items() if v == original.architecture)
    names = get_tensor_name_map(architecture, config.num_hidden_layers)
    tensors: dict[str, Any] = {}
    for name, tensor in _join_experts(load_file(folder / "model.safetensors")).items():
        values = tensor.float()
        if original.interleaved and re.search(r"q_proj\.(weight|bias)$", name):
            values = _interleave(values, config.num_attention_heads)
        if original.interleaved and re.search(r"k_proj\.(weight|bias)$", name):
            values = _interleave(values, config.num_key_value_heads)
        if original.shifted_norms and re.search(r"norm\.weight$", name):
            values = values + (0 if "linear_attn.norm" in name else 1)
        if special := _split(name, values, config):
            tensors |= special
            continue
        if name.endswith("conv.conv.weight"):
            values = values.squeeze(1)
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert target, name
        tensors[target] = values.numpy()
    return tensors


def _split(name: str, values: torch.Tensor, config: Any) -> dict[str, Any]:
    """The tensors of the file for one that has no counterpart there; none for others."""
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
    prefix, leaf = (f"blk.{match[1]}", match[2]) if match else ("", name)
    gate, up, down = (f"{prefix}.ffn_{kind}_exps" for kind in ("gate", "up", "down"))
    made: dict[str, torch.Tensor] = {}
    match leaf:
        case "block_sparse_moe.input_linear.weight":
            first, second = values.chunk(2, dim=1)
            made = {f"{gate}.weight": first, f"{up}.weight": second}
        case "block_sparse_moe.output_linear.weight":
            made = {f"{down}.weight": values}
        case "mlp.experts.gate_up_proj":
            rows = values.transpose(1, 2)
            made = {f"{gate}.weight": rows[:, ::2], f"{up}.weight": rows[:, 1::2]}
        case "mlp.experts.gate_up_proj_bias":
            made = {f"{gate}.bias": values[:, ::2], f"{up}.bias": values[:, 1::2]}
        case "mlp.experts.down_proj":
            made = {f"{down}.weight": values.transpose(1, 2)}
        case "mlp.experts.down_proj_bias":
            made = {f"{down}.bias": values}
        case "layer_scalar":
            made = {f"{prefix}.layer_output_scale.weight": values}
        case "self_attn.sinks":
            made = {f"{prefix}.attn_sinks.weight": values}
        case "shared_mlp.input_linear.weight":
            first, second = values.chunk(2)
            end = "_shexp" if config.num_local_experts else ""
            made = {
                f"{prefix}.ffn_gate{end}.weight": first,
                f"{prefix}.ffn_up{end}.weight": second,
            }
        case "shared_mlp.output_linear.weight" if not config.num_local_experts:
            made = {f"{prefix}.ffn_down.weight": values}
        case "feed_forward.expert_bias":
            made = {f"{prefix}.exp_probs_b.bias": values}
        case "mamba.A_log":
            made = {f"{prefix}.ssm_a": -values.exp()[:, None]}
        case "mamba.D":
            made = {f"{prefix}.ssm_d": values[:, None]}
        case "mamba.dt_bias":
            made = {f"{prefix}.ssm_dt.bias": values}
        case "mamba.norm.weight":
            made = {f"{prefix}.ssm_norm.weight": values.view(config.mamba_n_groups, -1)}
        case "mamba.conv1d.weight":
            made = {f"{prefix}.ssm_conv1d.weight": values.squeeze(1)}
        case "linear_attn.A_log":
            made = {f"{prefix}.ssm_a": _tile(-values.exp(), config, 1)}
        case "linear_attn.dt_bias":
            made = {f"{prefix}.ssm_dt.bias": _tile(values, config, 1)}
        case "linear_attn.in_proj_a.weight":
            made = {f"{prefix}.ssm_alpha.weight": _tile(values, config, 1)}
        case "linear_attn.in_proj_b.weight":
            made = {f"{prefix}.ssm_beta.weight": _tile(values, config, 1)}
        case "linear_attn.in_proj_z.weight":
            size = config.linear_value_head_dim
            made = {f"{prefix}.attn_gate.weight": _tile(values, config, size)}
        case "linear_attn.out_proj.weight":
            size = config.linear_value_head_dim
            made = {f"{prefix}.ssm_out.weight": _tile(values.T, config, size).T}
        case "linear_attn.in_proj_qkv.weight" | "linear_attn.conv1d.weight":
            kept = 2 * config.linear_num_key_heads * config.linear_key_head_dim
            tail = _tile(values[kept:], config, config.linear_value_head_dim)
            kind = "attn_qkv" if "qkv" in leaf else "ssm_conv1d"
            made = {f"{prefix}.{kind}.weight": torch.cat([values[:kept], tail]).squeeze(1)}
    return {target: tensor.contiguous().numpy() for target, tensor in made.items()}


def _tile(tensor: torch.Tensor, config: Any, size: int) -> torch.Tensor:
    """Bring the first value head of every key together, then the second, and so on."""
    keys = config.linear_num_key_heads
    heads = config.linear_num_value_heads // keys
    grouped = tensor.reshape(keys, heads, size, *tensor.shape[1:])
    return grouped.transpose(0, 1).reshape(tensor.shape)


def _join_experts(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    joined: dict[str, torch.Tensor] = {}
    experts: dict[str, list[torch.Tensor]] = {}
    for name in sorted(tensors, key=lambda each: [int(n) for n in re.findall(r"\d+", each)]):
        if match := re.fullmatch(r"(.*)\.experts\.\d+\.(\w+)\.weight", name):
            prefix, kind = match.groups()
            prefix = prefix.replace("model.layers", "layers").replace(
                "block_sparse_moe", "feed_forward"
            )
            own = "layers" if "feed_forward" in prefix else "model.layers"
            prefix = prefix.replace("layers", own)
            experts.setdefault(f"{prefix}.experts.{kind}.weight", []).append(tensors[name])
        else:
            joined[name] = tensors[name]
    return joined | {name: torch.stack(parts) for name, parts in experts.items()}


def _interleave(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    rest = tensor.shape[1:]
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *rest)
    return halves.swapaxes(1, 2).reshape(tensor.shape)

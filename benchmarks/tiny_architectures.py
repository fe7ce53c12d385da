"""Tiny random models of any architecture in transformers, made from its default config.

Sizes shrink by their names; the structure stays: kinds of layers, experts, windows, RoPE scaling.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from chatlm.hub.architecture import reads_as_whole

SPECIAL_TOKENS = PAD, BOS, EOS = ("<pad>", "<s>", "</s>")
"""Ids 0 to 2."""

VOCAB_SIZE = 320
"""Three special tokens, 256 bytes, and ids for the tokens of images and the like."""

LAYERS = 4

SIZES: dict[str, int] = {
    **dict.fromkeys(
        (
            "hidden_size", "n_embd", "d_model", "embed_dim", "hidden_size_global",
            "word_embed_proj_dim",
            "attention_hidden_size", "embedding_size", "text_hidden_size", "encoder_hidden_size",
            "projection_dim", "out_hidden_size", "decoder_hidden_size", "backbone_hidden_size",
            "output_hidden_size", "emb_dim", "audio_hidden_size", "vision_hidden_size",
            "patch_embed_hidden_size",
            "audio_embed_dim", "output_proj_dims", "lru_width", "dim_model",
        ),
        64,
    ),
    **dict.fromkeys(
        (
            "intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "n_inner", "d_ff",
            "dff", "dim_ff", "mlp_dim", "ffn_hidden_size", "intermediate_size_mlp",
            "dense_intermediate_size", "shared_intermediate_size", "prefix_dense_intermediate_size",
        ),
        96,
    ),
    **dict.fromkeys(
        (
            "moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size",
            "shared_experts_intermediate_size", "moe_shared_expert_intermediate_size",
            "expert_ffn_size",
        ),
        32,
    ),
    **dict.fromkeys(
        (
            "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
            "decoder_attention_heads", "attention_heads", "swa_num_attention_heads",
            "num_encoder_attention_heads", "num_decoder_attention_heads",
            "linear_num_value_heads", "linear_num_heads", "mamba_n_heads", "mamba_num_heads",
            "n_mamba_heads",
        ),
        4,
    ),
    **dict.fromkeys(
        (
            "num_key_value_heads", "kv_n_heads", "num_kv_heads", "swa_num_key_value_heads",
            "linear_num_key_heads", "num_global_key_value_heads",
        ),
        2,
    ),
    **dict.fromkeys(
        (
            "head_dim", "v_head_dim", "qk_nope_head_dim", "swa_head_dim", "index_head_dim",
            "linear_key_head_dim", "linear_value_head_dim", "linear_head_dim", "global_head_dim",
            "mamba_head_dim", "kv_channels", "dim_head", "d_kv", "query_pre_attn_scalar",
            "swa_v_head_dim", "linear_head_size",
        ),
        16,
    ),
    **dict.fromkeys(("qk_rope_head_dim", "rotary_dim", "qk_rope_dim"), 8),
    **dict.fromkeys(("qk_head_dim",), 24),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 32),
    "hidden_size_per_layer_input": 32,
    **dict.fromkeys(("laurel_rank", "gated_norm_rank", "loop_gate_rank", "adapter_rank"), 8),
    **dict.fromkeys(
        (
            "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts",
        ),
        8,
    ),
    **dict.fromkeys(
        (
            "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k",
            "top_k_experts",
        ),
        2,
    ),
    **dict.fromkeys(("n_group", "num_expert_group"), 2),
    **dict.fromkeys(("topk_group",), 1),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size"), 16),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size", "block_size"), 16),
    **dict.fromkeys(("time_step_rank", "mamba_dt_rank"), 8),
    **dict.fromkeys(
        (
            "sliding_window", "sliding_window_size", "window_size", "local_attention",
            "keep_window_size", "local_attention_window_len", "attention_window_size",
        ),
        24,
    ),
    "attention_chunk_size": 32,
    "index_topk": 16,
    "index_n_heads": 32,  # with few, many scores are exactly 0, and the order of equals is open
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 1024),
    "max_target_positions": 1024,
    "max_source_positions": 64,
    **dict.fromkeys(
        (
            "num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers",
            "num_decoder_layers", "encoder_layers", "num_encoder_layers", "depth", "layers",
            "num_blocks",
        ),
        LAYERS,
    ),
    "image_size": 28,
    "patch_size": 14,
    "vision_output_dim": 64,
    "projector_input_dim": 64,
    "projector_output_dim": 64,
    "vocab_size": VOCAB_SIZE,
    "vocab_size_per_layer_input": VOCAB_SIZE,
    "unpadded_vocab_size": VOCAB_SIZE - 8,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "num_nextn_predict_layers": 0,
}  # fmt: skip
"""New values of numbers, by name; one that is smaller already stays."""

_MAMBA = {"mamba_d_head": 32, "mamba_n_groups": 1}
_VOCABULARY = {"<image>": VOCAB_SIZE - 1, "<eoi>": VOCAB_SIZE - 2, "IMGIMGA": VOCAB_SIZE - 3}
_INDEXER = {
    "indexer_n_heads": 32, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 16,
    "indexer_compress_ratio": 4,
}  # fmt: skip
_MROPE = {"text_config.rope_parameters.mrope_section": [2, 3, 3]}
_NEMOTRON_H = {"mamba_head_dim": 32, "n_groups": 2}

OVERRIDES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            "glm46v", "glm4v", "glm_ocr", "glmga", "paddleocr_vl", "qwen2_vl", "qwen2_5_vl",
            "qwen2_5_omni_thinker",
        ),
        _MROPE,
    ),
    "glm4v_moe": {"text_config.rope_parameters.mrope_section": [1, 1, 2]},
    "apertus1p5": {
        "audio_config.codebook_dim": 64, "audio_config.codebook_size": 16,
        "vision_config.codebook_size": 16, "image_token_offset": 270, "audio_token_offset": 286,
    },
    "blenderbot": {"max_position_embeddings": 1024},
    "deepseek_ocr2": {
        "text_config.mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        "text_config.num_experts_per_tok": 2,
    },
    "granite4_vision": {"deepstack_layer_map": [], "downsample_rate": "1/2"},
    "step3p7": {"text_config.sliding_window": 24},
    "bamba": {**_MAMBA, "attn_layer_indices": [1, 3]},
    "blt": {
        "encoder_hash_byte_group_vocab": 64, "cross_attn_k": 1,
        "decoder_config.cross_attn_k": 1, "encoder_config.cross_attn_k": 1,
        "decoder_config.num_hidden_layers": 2, "encoder_config.num_hidden_layers": 1,
        "patcher_config.num_hidden_layers": 2, "global_config.num_hidden_layers": 2,
    },
    "chameleon": {"vocabulary_map": _VOCABULARY},
    "cohere_compass": {
        "text_config.rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4}
            for kind in ("full_attention", "sliding_attention")
        },
        "text_config.layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4}
            for kind in ("full_attention", "sliding_attention")
        },
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "ctrl": {"n_positions": 1024},
    "dbrx": {"attn_config.rope_theta": 1e4, "attn_config.clip_qkv": 8.0},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dory": {
        "num_hidden_layers": 8, "n_input_layers": 2, "n_recurrent_layers": 4, "n_output_layers": 2,
        "layer_types": ["sliding_attention", "mlp", "full_attention", "mlp"] * 2,
    },
    "dots1": {
        "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2,
        "n_group": 2, "topk_group": 1,
    },
    "dots3_note": {
        "text_config.head_dim": 24, "vision_config.adapter_in_dim": 64,
        "vision_config.adapter_out_dim": 64, "audio_config.adapter_out_dim": 64,
        "audio_config.adapter_input_size": 64,
    },
    "dots3_note_text": {"head_dim": 24},
    "emu3": {"vocabulary_map": _VOCABULARY},
    "ernie4_5_vl_moe": {
        "text_config.moe_intermediate_size": [32, 32],
        "text_config.rope_parameters": {
            "rope_type": "default", "rope_theta": 1e4, "mrope_section": [3, 3, 2],
        },
    },
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 128},
    "gemma3n_text": {
        "num_hidden_layers": 6, "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "intermediate_size": [96] * 6, "activation_sparsity_pattern": [0.95] * 3 + [0.0] * 3,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {
        **_MAMBA, "layer_types": ["linear_attention", "full_attention"] * 2,
    },
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "hunyuan_vl": {
        "text_config.head_dim": 16,
        "text_config.rope_parameters.mrope_section": [2, 2, 2, 2],
    },
    "hy_v4_vl": {"text_config.rope_parameters.mrope_section": [2, 1, 1]},
    "jamba": {
        "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 1,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"head_dim": 32, "n_groups": 2},
    "ministral": {"head_dim": 16},
    "molmo2": {"adapter_config.vision_feature_layer": [2, 1]},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": _NEMOTRON_H,
    "nemotron_h_omni": {f"text_config.{key}": value for key, value in _NEMOTRON_H.items()},
    "qwen4_exp": {f"text_config.{key}": value for key, value in _INDEXER.items()},
    "qwen4_exp_text": _INDEXER,
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "xlnet": {"d_head": 16},
    "xlstm": {"embedding_dim": 64},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 6, "attention_hidden_size": 128, "attention_head_dim": 32,
        "layers_block_type": ["linear_attention", "hybrid"] * 3,
    },
    "zamba2": {
        "num_hidden_layers": 6, "layers_block_type": ["linear_attention", "hybrid"] * 3,
        "hybrid_layer_ids": [1, 3, 5], "attention_hidden_size": 128, "attention_head_dim": 32,
        "mamba_headdim": 32, "num_query_groups": 4,
    },
}  # fmt: skip
"""What the names alone do not get right: values by path inside the config."""

_LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 300,
    "short_factor": [1.0] * 8, "long_factor": [1.0 + index for index in range(8)],
}  # fmt: skip
_YARN = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 256,
}  # fmt: skip

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama dynamic": (
        "llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}}
    ),
    "llama longrope": ("llama", {"rope_parameters": _LONGROPE}),
    "llama yarn": ("llama", {"rope_parameters": _YARN}),
    "mistral full": ("mistral", {"sliding_window": None}),
    "phi3 longrope": (
        "phi3", {"rope_parameters": _LONGROPE, "original_max_position_embeddings": 300}
    ),
    "phi3 window": ("phi3", {"sliding_window": 24}),
    "phimoe longrope": (
        "phimoe",
        {
            "rope_parameters": {**_LONGROPE, "short_mscale": 1.1, "long_mscale": 1.3},
            "original_max_position_embeddings": 300,
        },
    ),
    "qwen2 window": (
        "qwen2", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 2,
                  "layer_types": ["full_attention", "sliding_attention"] * 2}
    ),
}  # fmt: skip
"""Further configs of an architecture, by name: the architecture and its changes."""


def architectures() -> list[str]:
    """Return every `model_type` that transformers can make a causal language model of, and every
    one that reads text with images."""
    return list(
        dict.fromkeys(
            [*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES]
        )
    )


def model_type(name: str) -> str:
    """Return the architecture of a name in `VARIANTS`, or the name itself."""
    return VARIANTS[name][0] if name in VARIANTS else name


def tiny_config(name: str) -> Any:
    """Return the shrunk config of an architecture or of a variant."""
    kind, changes = VARIANTS.get(name, (name, {}))
    config_class = CONFIG_MAPPING[kind]
    values = _shrink(json.loads(json.dumps(config_class().to_dict())))
    for path, value in {**OVERRIDES.get(kind, {}), **changes}.items():
        _set(values, path, value)
    return config_class(**values)


def save(folder: Path, name: str) -> Any:
    """Write a tiny random model with a tokenizer of single bytes, as a user's folder would be.

    Returns:
        The class of transformers that reads it.
    """
    config = tiny_config(name)
    has_parts = type(config) in AutoModelForImageTextToText._model_mapping
    auto: Any = AutoModelForImageTextToText if has_parts else AutoModelForCausalLM
    torch.manual_seed(1)
    model = auto.from_config(config, dtype=torch.float32)
    _randomize(model)
    if model.generation_config is not None:
        model.generation_config.update(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return auto if has_parts and reads_as_whole(config) else AutoModelForCausalLM


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of single bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = [*SPECIAL_TOKENS, *letters]
    raw = Tokenizer(models.BPE({text: i for i, text in enumerate(texts)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=PAD, bos_token=BOS, eos_token=EOS
    )


def _shrink(values: dict[str, Any]) -> dict[str, Any]:
    """Return a config, or one inside it, with small sizes."""
    layers = _count_layers(values)
    kept = _kept_layers(values, layers)
    heads = values.get("num_attention_heads")
    out: dict[str, Any] = {}
    next_id = VOCAB_SIZE - 1
    for key, value in values.items():
        if key in (
            "transformers_version",
            "architectures",
            "_name_or_path",
            "id2label",
            "label2id",
        ):
            continue
        if isinstance(value, dict) and key in ("rope_parameters", "rope_scaling"):
            out[key] = _shrink_rope(value)
        elif key == "per_layer_config" and isinstance(value, dict):
            own = {int(index): settings for index, settings in value.items()}
            out[key] = {new: _shrink(own[old]) for new, old in enumerate(kept) if old in own}
        elif isinstance(value, dict):
            out[key] = _shrink(value)
        elif key == "num_key_value_heads" and value == heads and heads:
            out[key] = _small("num_attention_heads", value)
        elif isinstance(value, list) and layers and len(value) == layers:
            out[key] = [_small(key, value[index]) for index in kept]
        elif key == "head_dim" and value and value == values.get("qk_rope_head_dim"):
            out[key] = SIZES["qk_rope_head_dim"]
        elif key.endswith(("token_id", "token_index", "_start_id", "_end_id")):
            fixed = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
            if key in fixed:
                out[key] = fixed[key]
            elif value is None or (isinstance(value, int) and value < 260):
                out[key] = value
            else:
                out[key], next_id = next_id, next_id - 1
        else:
            out[key] = _small(key, value)
    if layers and kept:
        for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
            if out.get(key):
                out[key] = len(kept)
    return out


def _shrink_rope(values: dict[str, Any]) -> dict[str, Any]:
    """Return RoPE settings, which may differ by kind of layer, for heads of 16."""
    out = {
        key: _shrink_rope(value) if isinstance(value, dict) else value
        for key, value in values.items()
    }
    if "mrope_section" in out:
        half = out.get("partial_rotary_factor", 1.0) == 0.5
        out["mrope_section"] = [1, 1, 2] if half else [2, 3, 3]
    return out


def _count_layers(values: Mapping[str, Any]) -> int:
    for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth"):
        if isinstance(values.get(key), int):
            return int(values[key])
    return 0


def _kept_layers(values: Mapping[str, Any], layers: int) -> list[int]:
    """Choose layers so that every kind is there, as the lists with one item a layer say."""
    lists = [
        [json.dumps(item) for item in value]
        for value in values.values()
        if isinstance(value, list) and layers and len(value) == layers
        if value != list(range(layers))
    ]
    if own := values.get("per_layer_config"):
        by_layer = {int(index): json.dumps(settings) for index, settings in own.items()}
        lists.append([by_layer.get(index, "") for index in range(layers)])
    if not lists:
        return list(range(min(layers, LAYERS)))
    kinds = list(zip(*lists, strict=True))
    kept = {kinds.index(kind) for kind in dict.fromkeys(kinds)}
    for index in range(layers):
        if len(kept) >= LAYERS:
            break
        kept.add(index)
    return sorted(kept)


def _small(key: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int) or key not in SIZES:
        return value
    return min(value, SIZES[key]) if value > 0 else value


def _set(values: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[last] = value


def _randomize(model: Any) -> None:
    """Give every tensor random values that matter: with those of training's start, attention
    hardly looks anywhere, and a wrong cache would change little."""
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if any(
                word in name for word in ("A_log", "dt_bias", "dt_proj", "time_decay", "rotary")
            ):
                continue
            if not tensor.is_floating_point():
                continue
            if "embed" in name and tensor.dim() == 2:
                tensor.normal_(0, 1)
            elif tensor.dim() >= 2:
                tensor.normal_(0, 1.5 / tensor.shape[-1] ** 0.5)
            else:
                tensor.add_(torch.randn_like(tensor) * 0.1)

"""Gemma 1 to 3: GELU, scaled embeddings, norms by 1 + weight; then windows and further norms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from chatlm.engines.model import Unsupported
from chatlm.engines.native.architectures.config_parser import (
    layer_windows,
    read_attention,
    read_mlp,
    read_model,
)
from chatlm.engines.native.attention import AttentionConfig
from chatlm.engines.native.model_config import (
    TENSOR_NAMES,
    LayerConfig,
    ModelConfig,
    TensorNames,
)
from chatlm.engines.native.rope import RopeConfig, read_rope

FOUR_NORMS = {
    "pre_mixer_norm": "input_layernorm",
    "post_mixer_norm": "post_attention_layernorm",
    "pre_mlp_norm": "pre_feedforward_layernorm",
    "post_mlp_norm": "post_feedforward_layernorm",
}

_SLIDING = "sliding_attention"

_GEMMA3_DEFAULTS: Mapping[str, Any] = {
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208,
    "max_position_embeddings": 131_072, "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
}  # fmt: skip
"""What `text_config` leaves out where it is as in transformers."""


def read_gemma_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `gemma`."""
    activation = values.get("hidden_activation") or "gelu_pytorch_tanh"
    attention = _with_biases(read_attention(values, default_head_dim=256), values)
    mlp = read_mlp({**values, "hidden_activation": activation}, activation="hidden_activation")
    return _read_model(values, [LayerConfig(attention, mlp)] * int(values["num_hidden_layers"]))


def read_gemma2_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `gemma2`."""
    attention = _scaled_attention(values)
    windows = _read_windows(values, pattern=2)
    return _read_model(
        values,
        _layers_with_four_norms(
            values, [dataclasses.replace(attention, window=window) for window in windows]
        ),
        tensor_names=TensorNames(of_layer={**TENSOR_NAMES, **FOUR_NORMS}),
        final_logit_softcapping=_softcap(values.get("final_logit_softcapping", 30.0)),
    )


def read_gemma3_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `gemma3_text`."""
    return _read_gemma3(values, TensorNames(of_layer={**TENSOR_NAMES, **FOUR_NORMS}))


def read_gemma3_config_with_images(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of the language model of a `gemma3`, which also reads images."""
    text = {
        **_GEMMA3_DEFAULTS,
        **values["text_config"],
        "quantization_config": values.get("quantization_config"),
        "tie_word_embeddings": values.get("tie_word_embeddings", True),
    }
    names = TensorNames(
        embed_tokens="language_model.model.embed_tokens",
        layers="language_model.model.layers",
        norm="language_model.model.norm",
        lm_head="language_model.lm_head",
        of_layer={**TENSOR_NAMES, **FOUR_NORMS},
        unread=("vision_tower.", "multi_modal_projector."),
    )
    return _read_gemma3(text, names)


def _read_gemma3(values: Mapping[str, Any], names: TensorNames) -> ModelConfig:
    if values.get("use_bidirectional_attention"):
        raise Unsupported("its tokens attend to later ones")
    plain = {**values, "rope_parameters": None, "rope_scaling": None}  # of no layer
    attention = dataclasses.replace(_scaled_attention(plain), qk_norm="head")
    pattern = int(values.get("sliding_window_pattern", 6))
    types = values.get("layer_types") or _types(values, pattern)
    ropes = {kind: _gemma3_rope(values, attention.head_dim, kind) for kind in set(types)}
    mixers = [
        dataclasses.replace(attention, window=window, rope=ropes[kind])
        for window, kind in zip(_read_windows(values, pattern), types, strict=True)
    ]
    return _read_model(
        values,
        _layers_with_four_norms(values, mixers),
        tensor_names=names,
        final_logit_softcapping=_softcap(values.get("final_logit_softcapping")),
    )


def _gemma3_rope(values: Mapping[str, Any], head_dim: int, kind: str) -> RopeConfig:
    """Return the RoPE of one type of layer; older files have the bases side by side."""
    if kind in (values.get("rope_parameters") or {}):
        return read_rope(values, head_dim, layer_type=kind)
    if kind == _SLIDING:
        base = values.get("rope_local_base_freq", 10_000.0)
        return read_rope({"rope_theta": base}, head_dim)
    return read_rope({"rope_theta": 1_000_000.0, **values}, head_dim)


def _scaled_attention(values: Mapping[str, Any]) -> AttentionConfig:
    return dataclasses.replace(
        _with_biases(read_attention(values, default_head_dim=256), values),
        scale=float(values.get("query_pre_attn_scalar", 256)) ** -0.5,
        softcap=_softcap(values.get("attn_logit_softcapping")),
    )


def _with_biases(attention: AttentionConfig, values: Mapping[str, Any]) -> AttentionConfig:
    bias = bool(values.get("attention_bias", False))
    return dataclasses.replace(attention, qkv_bias=bias, o_proj_bias=bias)


def _softcap(value: float | None) -> float | None:
    return float(value) if value else None


def _types(values: Mapping[str, Any], pattern: int) -> list[str]:
    """Return the types of the layers: each one of that number sees everything."""
    return [
        _SLIDING if number % pattern else "full_attention"
        for number in range(1, int(values["num_hidden_layers"]) + 1)
    ]


def _read_windows(values: Mapping[str, Any], pattern: int) -> list[int | None]:
    types = values.get("layer_types") or _types(values, pattern)
    window = values.get("sliding_window", 4096)
    return layer_windows({**values, "layer_types": types}, None if window is None else int(window))


def _layers_with_four_norms(
    values: Mapping[str, Any], mixers: Sequence[AttentionConfig]
) -> list[LayerConfig]:
    mlp = read_mlp(values, activation="hidden_activation")
    return [LayerConfig(mixer, mlp, tuple(FOUR_NORMS)) for mixer in mixers]


def _read_model(
    values: Mapping[str, Any], layers: Sequence[LayerConfig], **variants: Any
) -> ModelConfig:
    return read_model(
        values,
        layers,
        embedding_multiplier=int(values["hidden_size"]) ** 0.5,
        one_plus_norms=True,
        tie_word_embeddings=bool(values.get("tie_word_embeddings", True)),
        **variants,
    )

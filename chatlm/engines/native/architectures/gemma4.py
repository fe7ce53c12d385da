"""Gemma 4: heads of another size in layers that see everything, values with a norm, last layers
that share keys and values of earlier ones, and inputs of the token itself in each layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from chatlm.engines.model import Unsupported
from chatlm.engines.native.architectures.config_parser import (
    layer_windows,
    read_attention,
    read_mlp,
    read_model,
)
from chatlm.engines.native.architectures.gemma import FOUR_NORMS
from chatlm.engines.native.attention import AttentionConfig
from chatlm.engines.native.layer_inputs import LayerInputConfig
from chatlm.engines.native.model_config import (
    TENSOR_NAMES,
    LayerConfig,
    ModelConfig,
    TensorNames,
)
from chatlm.engines.native.rope import read_rope

_FULL, _SLIDING = "full_attention", "sliding_attention"

_DEFAULTS: Mapping[str, Any] = {
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_144,
    "max_position_embeddings": 131_072, "rms_norm_eps": 1e-6, "sliding_window": 512,
    "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True,
    "hidden_size_per_layer_input": 256, "vocab_size_per_layer_input": 262_144,
    "rope_parameters": {
        _SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
        _FULL: {
            "rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0,
        },
    },
}  # fmt: skip
"""What config.json leaves out where it is as in transformers."""

_OF_LAYER = {
    **TENSOR_NAMES,
    **FOUR_NORMS,
    "input_gate": "per_layer_input_gate",
    "input_proj": "per_layer_projection",
    "post_input_norm": "post_per_layer_input_norm",
    "layer_scale": "layer_scalar",
}

_SHARED = ("k_proj", "v_proj", "k_norm", "v_norm")
"""Of layers that share keys and values; some files have them, and nothing uses them."""


def read_text_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `gemma4_text`."""
    return _read(values, "model", ())


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of the language model of a `gemma4`, which also reads images and sound."""
    text = {
        **values["text_config"],
        "quantization_config": values.get("quantization_config"),
        "tie_word_embeddings": values.get("tie_word_embeddings", True),
    }
    others = ("vision_tower", "audio_tower", "embed_vision", "embed_audio")
    return _read(text, "model.language_model", tuple(f"model.{name}." for name in others))


def _read(values: Mapping[str, Any], prefix: str, unread: tuple[str, ...]) -> ModelConfig:
    given = {name: value for name, value in values.items() if value is not None}
    values = {**_DEFAULTS, **given}
    if values.get("use_bidirectional_attention") == "all":
        raise Unsupported("its tokens attend to later ones")
    if values.get("enable_moe_block"):
        raise Unsupported("its layers have experts beside their MLP")
    count = int(values["num_hidden_layers"])
    shared = int(values.get("num_kv_shared_layers", 0))
    types = _types(values, count)
    mixers = _read_mixers(values, types, count - shared)
    mlp = read_mlp(values, activation="hidden_activation")
    wide = dataclasses.replace(mlp, intermediate_size=2 * mlp.intermediate_size)
    size = int(values["hidden_size_per_layer_input"])
    inputs = LayerInputConfig(size, mlp.activation) if size else None
    if inputs and int(values["vocab_size_per_layer_input"]) != int(values["vocab_size"]):
        raise Unsupported("its layers have inputs of other tokens than its vocabulary's")
    layers = [
        LayerConfig(
            mixer,
            wide if values.get("use_double_wide_mlp") and number >= count - shared else mlp,
            tuple(FOUR_NORMS),
            inputs,
            is_scaled=True,
        )
        for number, mixer in enumerate(mixers)
    ]
    names = TensorNames(
        embed_tokens=f"{prefix}.embed_tokens",
        layers=f"{prefix}.layers",
        norm=f"{prefix}.norm",
        of_layer=_OF_LAYER,
        unread=(
            *unread,
            *(
                f"{prefix}.layers.{number}.self_attn.{name}"
                for number in range(count - shared, count)
                for name in _SHARED
            ),
        ),
        without_suffix=frozenset({"layer_scale"}),
        layer_inputs={
            "table": f"{prefix}.embed_tokens_per_layer",
            "projection": f"{prefix}.per_layer_model_projection",
            "norm": f"{prefix}.per_layer_projection_norm",
        },
    )
    cap = values.get("final_logit_softcapping")
    return read_model(
        values,
        layers,
        embedding_multiplier=int(values["hidden_size"]) ** 0.5,
        final_logit_softcapping=float(cap) if cap else None,
        tensor_names=names,
    )


def _types(values: Mapping[str, Any], count: int) -> list[str]:
    """Return the types of the layers, of which the last one always sees everything."""
    types = values.get("layer_types") or [
        _SLIDING if number % 6 else _FULL for number in range(1, count + 1)
    ]
    return [*types[:-1], _FULL]


def _read_mixers(
    values: Mapping[str, Any], types: list[str], own_count: int
) -> list[AttentionConfig]:
    """Return the attention of all layers, of which the first few have keys and values."""
    windows = layer_windows({**values, "layer_types": types}, int(values["sliding_window"]))
    if not set(types) <= set(types[:own_count]):
        raise Unsupported("some of its layers share keys and values that no layer has")
    mixers = []
    for number, (kind, window) in enumerate(zip(types, windows, strict=True)):
        sizes = {**values, **_own_sizes(values, number, kind), "rope_parameters": None}
        attention = read_attention(sizes)
        donor = own_count - 1 - types[own_count - 1 :: -1].index(kind)
        bias = bool(values.get("attention_bias", False))
        mixers.append(
            dataclasses.replace(
                attention,
                rope=read_rope(values, attention.head_dim, layer_type=kind),
                scale=1.0,
                window=window,
                qk_norm="head",
                value_norm=True,
                qkv_bias=bias,
                o_proj_bias=bias,
                values_are_keys=bool(values.get("attention_k_eq_v")) and kind == _FULL,
                shares_kv_of=donor if number >= own_count else None,
            )
        )
    return mixers


def _own_sizes(values: Mapping[str, Any], number: int, kind: str) -> Mapping[str, Any]:
    """Return the sizes in which a layer's attention differs from `values`."""
    if (own := values.get("per_layer_config")) is not None:
        sizes = own.get(str(number), {})
        if unknown := set(sizes) - {"head_dim", "num_key_value_heads"}:
            raise Unsupported(f"its layers differ in {sorted(unknown)[0]}")
        return dict(sizes)
    if kind != _FULL:
        return {}
    sizes = {"head_dim": values.get("global_head_dim", 512)}
    if values.get("attention_k_eq_v") and values.get("num_global_key_value_heads"):
        sizes["num_key_value_heads"] = values["num_global_key_value_heads"]
    return sizes

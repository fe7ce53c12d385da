"""Read the parts of config.json that model families share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chatlm.engines.model import Unsupported
from chatlm.engines.native.attention import AttentionConfig
from chatlm.engines.native.mlp import DenseMlpConfig
from chatlm.engines.native.model_config import MAX_HEAD_DIM, LayerConfig, ModelConfig
from chatlm.engines.native.moe import MoeConfig
from chatlm.engines.native.products import Activation
from chatlm.engines.native.rope import read_rope
from chatlm.hub.quantization_config import UnreadableQuantization, read_quantization

_ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
}
"""Names in config.json."""


def read_attention(
    values: Mapping[str, Any],
    *,
    default_head_dim: int | None = None,
    default_num_key_value_heads: int | None = None,
    interleaved: bool = False,
) -> AttentionConfig:
    """Return the attention of a layer without biases and variants; a family adds its own.

    Args:
        values: of config.json.
        default_head_dim: where config.json leaves it open; None for hidden_size / heads.
        default_num_key_value_heads: likewise; None where the file must give it.
        interleaved: see `RopeConfig`.

    Raises:
        Unsupported: the sizes do not fit together, or its RoPE is unknown.
        KeyError, TypeError, ValueError: a value is missing or malformed.
    """
    heads, hidden_size = int(values["num_attention_heads"]), int(values["hidden_size"])
    head_dim = int(values.get("head_dim") or default_head_dim or hidden_size // heads)
    if not 2 <= head_dim <= MAX_HEAD_DIM:
        raise Unsupported(f"its heads have the size {head_dim}")
    key_value_heads = values.get("num_key_value_heads") or default_num_key_value_heads
    if key_value_heads is None:
        raise Unsupported("its config.json does not say num_key_value_heads")
    key_value_heads = int(key_value_heads)
    if min(heads, key_value_heads) < 1 or heads % key_value_heads or head_dim % 2:
        raise Unsupported("its sizes do not fit together")
    return AttentionConfig(
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head_dim,
        rope=read_rope(values, head_dim, interleaved=interleaved),
        scale=head_dim**-0.5,
    )


def read_mlp(
    values: Mapping[str, Any], *, activation: str = "hidden_act", bias: bool = False
) -> DenseMlpConfig:
    """Return the MLP of a layer.

    Args:
        values: of config.json.
        activation: the name of its activation there.
        bias: whether its matrices have biases.

    Raises:
        Unsupported: the activation is unknown.
        KeyError, TypeError, ValueError: a value is missing or malformed.
    """
    if values[activation] not in _ACTIVATIONS:
        raise Unsupported(f"its activation is {values[activation]}")
    return DenseMlpConfig(int(values["intermediate_size"]), _ACTIVATIONS[values[activation]], bias)


def read_moe(values: Mapping[str, Any], expert_size: str, *, normalised: bool) -> MoeConfig:
    """Return the mixture of experts of a layer, without biases and variants.

    Args:
        values: of config.json.
        expert_size: the name of an expert's intermediate size there.
        normalised: see `MoeConfig`.

    Raises:
        Unsupported: the activation is unknown, or the sizes do not fit together.
        KeyError, TypeError, ValueError: a value is missing or malformed.
    """
    if _ACTIVATIONS.get(values["hidden_act"]) != "silu":
        raise Unsupported(f"the activation of its experts is {values['hidden_act']}")
    # Mixtral's name, under which transformers saves other models, too
    count = int(values["num_local_experts" if "num_local_experts" in values else "num_experts"])
    used, size = int(values["num_experts_per_tok"]), int(values[expert_size])
    if not 1 <= used <= count or size < 1:
        raise Unsupported(f"it uses {used} of {count} experts of the size {size}")
    return MoeConfig(count, used, size, normalised)


def read_model(
    values: Mapping[str, Any], layers: Sequence[LayerConfig], **variants: Any
) -> ModelConfig:
    """Return the config of a model with these layers.

    Args:
        values: of config.json.
        layers: `num_hidden_layers` of them.
        variants: further fields of `ModelConfig`.

    Raises:
        Unsupported: its weights are quantized in an unknown way, or its sizes do not fit together.
        KeyError, TypeError, ValueError: a value is missing or malformed.
    """
    try:
        read_quantization(values)
    except UnreadableQuantization as reason:
        raise Unsupported(str(reason)) from None
    config = ModelConfig(
        **{
            "hidden_size": int(values["hidden_size"]),
            "vocab_size": int(values["vocab_size"]),
            "max_position_embeddings": int(values["max_position_embeddings"]),
            "rms_norm_eps": float(values["rms_norm_eps"]),
            "layers": tuple(layers),
            "tie_word_embeddings": bool(values.get("tie_word_embeddings", False)),
            **variants,
        }
    )
    sizes = (
        len(config.layers), config.hidden_size, config.vocab_size, config.max_position_embeddings,
        *(
            size
            for layer in config.layers[:1]
            for shape in layer.matrix_shapes(config.hidden_size).values()
            for size in (shape.rows, shape.columns)
        ),
    )  # fmt: skip
    if min(sizes) < 1:
        raise Unsupported("its sizes do not fit together")
    return config


def layer_windows(
    values: Mapping[str, Any], window: int | None, default_type: str = "full_attention"
) -> list[int | None]:
    """Return how far each layer's attention looks back, in tokens; None for everything.

    Args:
        values: of config.json.
        window: of the layers with a sliding window; None if there is none.
        default_type: of all layers where config.json has no `layer_types`.

    Raises:
        Unsupported: a type of layer is unknown.
        KeyError, TypeError, ValueError: a value is missing or malformed.
    """
    count = int(values["num_hidden_layers"])
    types = values.get("layer_types") or [default_type] * count
    if window is not None and window < 1:
        raise Unsupported(f"its sliding window has {window} tokens")
    if window is not None and window >= int(values["max_position_embeddings"]):
        window = None
    windows = {"sliding_attention": window, "full_attention": None}
    if unknown := sorted(set(map(str, types)) - set(windows)):
        raise Unsupported(f"it has layers of the type {unknown[0]}")
    if len(types) != count:
        raise Unsupported("its layer_types do not fit its number of layers")
    return [windows[kind] for kind in types]

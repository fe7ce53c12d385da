"""How much memory a model's KV cache takes per token, from its config.json alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_RECURRENT = ("linear", "mamba", "conv", "recurrent", "ssm", "rwkv", "lightning")
"""Parts of the names of layers whose state does not grow with the text."""

MAX_STATES = 6
"""Limit of the copies of recurrent states that a cache keeps, so that it can go back; the older,
the farther apart."""

KEPT_BEHIND_WINDOW = 1024
"""Tokens behind a sliding window that a cache in transformers keeps."""


def densest(lengths: Sequence[int]) -> int:
    """Return the index of the copy whose loss costs least, never the newest.

    That is the one whose neighbours lie closest together, compared with how far back they are.

    Args:
        lengths: of the texts that the copies are of, rising.
    """
    lengths = [0, *lengths]
    end = lengths[-1]
    gaps = [
        (lengths[number + 1] - lengths[number - 1]) / (end - lengths[number - 1])
        for number in range(1, len(lengths) - 1)
    ]
    return gaps.index(min(gaps))


@dataclass(frozen=True)
class KVLayer:
    """The keys and values of one layer."""

    size: int
    """Numbers per token."""
    window: int | None = None
    """Tokens that are kept; None for all."""


@dataclass(frozen=True)
class KVLayout:
    """The KV cache of a model."""

    layers: Sequence[KVLayer]
    state_size: int = 0
    """Numbers in the states of all recurrent layers, mostly of 32 bits."""

    def numbers(self, tokens: int) -> int:
        """Return how many numbers the cache of a text of this length has."""
        return sum(layer.size * min(tokens, layer.window or tokens) for layer in self.layers)

    def numbers_in_checkpoints(self, tokens: int) -> int:
        """Return how many numbers are kept of windows, so that they can go back.

        Args:
            tokens: length of the text.
        """
        return sum(
            layer.size * min(tokens, layer.window + KEPT_BEHIND_WINDOW)
            for layer in self.layers
            if layer.window
        )


def read_kv_layout(
    config: Mapping[str, Any], *, row_multiple: int = 1, keeps_all: bool = False
) -> KVLayout:
    """Return the layout of a model's KV cache; where config.json leaves it open, an upper bound.

    Args:
        config: values of config.json.
        row_multiple: to which a head's row is padded.
        keeps_all: whether layers with a sliding window keep all tokens, too, so that the cache can
            be cut back to any length.

    Raises:
        KeyError, TypeError, ValueError, ZeroDivisionError: sizes are missing or damaged.
    """
    text = config.get("text_config") or config
    count = int(_first(text, "num_hidden_layers", "n_layer", "num_layers"))
    types = text.get("layer_types") or text.get("layers_block_type")
    if not isinstance(types, list) or len(types) != count:
        types = _types_by_pattern(text, count)
    shared = int(text.get("num_kv_shared_layers") or 0)
    window = None if keeps_all else _window(text)
    layers = []
    state_size = 0
    for kind in types[: count - shared]:
        is_recurrent = any(part in str(kind) for part in _RECURRENT)
        if is_recurrent or "hybrid" in str(kind):
            state_size += _state_size(text)
        if is_recurrent:
            continue
        is_local = "sliding" in str(kind) or "chunked" in str(kind)
        size = _size_per_token(text, row_multiple, is_global=not is_local)
        layers.append(KVLayer(size, window if is_local else None))
    return KVLayout(tuple(layers), state_size)


def _state_size(text: Mapping[str, Any]) -> int:
    """Return the numbers in the state of one recurrent layer; 0 for an unknown kind."""
    hidden = int(text["hidden_size"])
    if text.get("linear_num_value_heads"):  # a gated delta net
        heads, key_heads = int(text["linear_num_value_heads"]), int(text["linear_num_key_heads"])
        key, value = int(text["linear_key_head_dim"]), int(text["linear_value_head_dim"])
        width, kernel = 2 * key_heads * key + heads * value, int(text["linear_conv_kernel_dim"])
        return heads * key * value + width * kernel
    if text.get("mamba_d_state"):
        inner = int(text.get("mamba_d_ssm") or int(text.get("mamba_expand") or 2) * hidden)
        state = int(text["mamba_d_state"])
        width = inner + 2 * int(text.get("mamba_n_groups") or 1) * state
        return inner * state + width * int(text.get("mamba_d_conv") or 4)
    if text.get("conv_L_cache"):  # a short convolution
        return hidden * int(text["conv_L_cache"])
    return 0


def _first(values: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        if values.get(name) is not None:
            return values[name]
    raise KeyError(names[0])


def _window(text: Mapping[str, Any]) -> int | None:
    window = text.get("sliding_window") or text.get("attention_chunk_size")
    return window if isinstance(window, int) and window > 0 else None


def _types_by_pattern(text: Mapping[str, Any], count: int) -> list[str]:
    """Return the types of a model's layers where config.json does not list them."""
    if text.get("model_type") == "falcon_h1":
        return ["hybrid"] * count
    if _window(text) is None or text.get("use_sliding_window") is False:
        return ["full_attention"] * count
    pattern = text.get("sliding_window_pattern")
    if isinstance(pattern, int) and pattern > 0:  # each layer of that number sees everything
        return [
            "sliding_attention" if number % pattern else "full_attention"
            for number in range(1, count + 1)
        ]
    return ["sliding_attention"] * count


def _size_per_token(text: Mapping[str, Any], row_multiple: int, *, is_global: bool) -> int:
    heads = int(_first(text, "num_attention_heads", "n_head"))
    if text.get("kv_lora_rank"):  # latent attention, which transformers caches expanded
        keys = int(text["qk_nope_head_dim"]) + int(text["qk_rope_head_dim"])
        return heads * (keys + int(text["v_head_dim"]))
    kv_heads = 1 if text.get("multi_query") else int(text.get("num_key_value_heads") or heads)
    head_dim = int(text.get("head_dim") or int(_first(text, "hidden_size", "n_embd")) // heads)
    if is_global:
        head_dim = int(text.get("global_head_dim") or head_dim)
    return 2 * kv_heads * (-(-head_dim // row_multiple) * row_multiple)

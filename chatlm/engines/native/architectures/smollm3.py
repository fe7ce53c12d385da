"""SmolLM3: Llama's block, in which every fourth layer encodes no positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatlm.engines.model import Unsupported
from chatlm.engines.native.architectures import llama
from chatlm.engines.native.architectures.config_parser import layer_windows, read_model
from chatlm.engines.native.model_config import ModelConfig


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `smollm3`."""
    count = int(values["num_hidden_layers"])
    interval = int(values.get("no_rope_layer_interval", 4))
    has_rope = values.get("no_rope_layers") or [
        (number + 1) % interval != 0 for number in range(count)
    ]
    if len(has_rope) != count:
        raise Unsupported("its no_rope_layers do not fit its number of layers")
    window = values.get("sliding_window") if values.get("use_sliding_window") else None
    types = values.get("layer_types") or [
        "full_attention" if window is None or rope else "sliding_attention" for rope in has_rope
    ]
    windows = layer_windows({**values, "layer_types": types}, window)
    settings = {"num_key_value_heads": 4, "tie_word_embeddings": True, **values}
    layers = []
    for rope, own in zip(has_rope, windows, strict=True):
        variants = {"window": own} if rope else {"window": own, "rope": None}
        layers.append(llama.read_layers(settings, **variants)[0])
    return read_model(settings, layers)

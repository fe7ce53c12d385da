"""Find the model family of a config.json and read the model's config."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from chatlm.engines.model import Unsupported
from chatlm.engines.native.architectures import (
    gemma,
    gemma4,
    glm4,
    gpt_oss,
    granite,
    granite_hybrid,
    lfm2,
    llama,
    mistral,
    mixtral,
    olmo,
    olmoe,
    phi3,
    qwen,
    qwen3_5,
    qwen_moe,
    smollm3,
)
from chatlm.engines.native.model_config import ModelConfig

FAMILIES: Mapping[str, Callable[[Mapping[str, Any]], ModelConfig]] = {
    "gemma": gemma.read_gemma_config,
    "gemma2": gemma.read_gemma2_config,
    "gemma3": gemma.read_gemma3_config_with_images,
    "gemma3_text": gemma.read_gemma3_config,
    "gemma4": gemma4.read_config,
    "gemma4_text": gemma4.read_text_config,
    "glm4": glm4.read_config,
    "gpt_oss": gpt_oss.read_config,
    "granite": granite.read_config,
    "granitemoe": granite.read_moe_config,
    "granitemoehybrid": granite_hybrid.read_config,
    "lfm2": lfm2.read_config,
    "lfm2_moe": lfm2.read_moe_config,
    "llama": llama.read_config,
    "mistral": mistral.read_config,
    "olmo2": olmo.read_olmo2_config,
    "olmo3": olmo.read_olmo3_config,
    "phi3": phi3.read_config,
    "mixtral": mixtral.read_config,
    "olmoe": olmoe.read_config,
    "qwen2": qwen.read_qwen2_config,
    "qwen2_moe": qwen_moe.read_qwen2_moe_config,
    "qwen3": qwen.read_qwen3_config,
    "smollm3": smollm3.read_config,
    "qwen3_5": qwen3_5.read_config,
    "qwen3_5_moe": qwen3_5.read_config,
    "qwen3_5_moe_text": qwen3_5.read_text_config,
    "qwen3_5_text": qwen3_5.read_text_config,
    "qwen3_moe": qwen_moe.read_qwen3_moe_config,
}
"""Parsers of config.json, by `model_type`."""


def read_config(folder: Path) -> ModelConfig:
    """Read the config of the model in a folder.

    Raises:
        Unsupported: no family reads it, or it is a variant that no native decoder runs.
    """
    try:
        values = json.loads((folder / "config.json").read_bytes())
        model_type = values["model_type"]
        if model_type not in FAMILIES:
            raise Unsupported(f"there is no native decoder for the architecture {model_type}")
        return FAMILIES[model_type](values)
    except (OSError, ValueError, TypeError, KeyError, ZeroDivisionError, OverflowError) as error:
        raise Unsupported(f"config.json: {type(error).__name__}: {error}") from error

"""LoRA adapters with random weights, made by peft for a model in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.models import load_plain

ALL = (
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    "in_proj", "in_proj_qkv", "out_proj",
)  # fmt: skip


def save(
    folder: Path, model: Path, *, seed: int = 1, strength: float = 0.02, **settings: Any
) -> Path:
    """Write a deterministic adapter with an effect.

    Args:
        folder: where it is written.
        model: folder of its base model.
        seed: seed of the weights.
        strength: standard deviation of the weights of B.
        settings: settings of peft's `LoraConfig`.
    """
    from peft import LoraConfig, get_peft_model

    base = load_plain(model, torch.float32)
    modules = {name.rpartition(".")[2] for name, _ in base.named_modules()}
    given: dict[str, Any] = {
        "r": 8, "lora_alpha": 16, "target_modules": [name for name in ALL if name in modules],
    }  # fmt: skip
    adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **{**given, **settings}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in adapted.named_parameters():
            if "lora_" in name:
                spread = strength if "lora_B" in name or "embedding_A" in name else 0.1
                tensor.copy_(spread * torch.randn(tensor.shape, generator=generator))
    adapted.save_pretrained(str(folder))
    return folder


def reference(model: Path, adapter: Path | None, dtype: torch.dtype = torch.float32) -> Any:
    """Return the model with an adapter, run by peft."""
    from peft import PeftModel

    base = load_plain(model, dtype)
    if adapter is None:
        return base
    return PeftModel.from_pretrained(base, str(adapter), autocast_adapter_dtype=False).eval()

"""A tiny chat model with random weights, and adapters for it, good and bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from chatlm import ModelLocation

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + "
    "'\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LAYERS, HIDDEN, RANK = 2, 32, 4
MODULES = [
    f"model.layers.{layer}.self_attn.{name}"
    for layer in range(LAYERS)
    for name in ("q_proj", "o_proj")
]
"""Modules that the adapters change; all have HIDDEN inputs and outputs."""


def tiny_base(folder: Path) -> ModelLocation:
    """A chat model whose tokens are bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {text: number for number, text in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|endoftext|>"],
    )
    fast.chat_template = CHATML
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return ModelLocation(str(folder), folder, "chat")


def config(**changes: Any) -> dict[str, Any]:
    """An adapter_config.json as peft writes it."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "",
        "r": RANK,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["o_proj", "q_proj"],
        "inference_mode": True,
    } | changes


def matrices(seed: int = 1, strength: float = 0.5) -> dict[str, np.ndarray[Any, Any]]:
    """A and B of each of MODULES."""
    numbers = np.random.default_rng(seed)
    found = {}
    for module in MODULES:
        for letter, shape in (("A", (RANK, HIDDEN)), ("B", (HIDDEN, RANK))):
            scale = 1.0 if letter == "A" else strength
            found[f"base_model.model.{module}.lora_{letter}.weight"] = (
                numbers.standard_normal(shape) * scale
            ).astype(np.float32)
    return found


def adapter(
    folder: Path,
    weights: dict[str, np.ndarray[Any, Any]] | None = None,
    settings: dict[str, Any] | None = None,
) -> Path:
    """A folder with an adapter."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(settings or config()))
    save_file(matrices() if weights is None else weights, folder / "adapter_model.safetensors")
    return folder

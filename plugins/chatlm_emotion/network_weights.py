"""Keeps what a classifier learnt in its folder, and gives it back; numbers are 16 bits wide."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from chatlm import ChatlmError
from chatlm_emotion.card import WEIGHTS_FILE

_PEFT_NAME = re.compile(r"(?:adapted\.base_model\.model\.)?(.*?)(\.default\.weight)?")


def save_tensors(tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write tensors.

    Raises:
        OSError: they cannot be written.
    """
    try:
        save_file(
            {
                name: value.detach().to(torch.float16).contiguous()
                for name, value in tensors.items()
            },
            folder / WEIGHTS_FILE,
        )
    except SafetensorError as error:
        raise OSError(str(error)) from error


def load_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Tensors that `save` wrote.

    Raises:
        ChatlmError: they cannot be read.
    """
    try:
        return load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise ChatlmError(
            f"The classifier {folder.name} is damaged: {WEIGHTS_FILE} cannot be read.",
            hint=f"Remove it: chatlm emotion remove {folder.name}",
        ) from error


def with_stored_names(parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A network's parameters by the names under which they are stored: those of the base model's
    modules, with `lora_A` and `lora_B` after them."""
    return {stored_name(name): value for name, value in parameters.items()}


def load_into_network(network: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give a network what it had learnt.

    Raises:
        ValueError: the tensors are not those of the network.
    """
    learnt = network.trainable_parameters()
    if {stored_name(name) for name in learnt} != set(tensors):
        raise ValueError("other tensors than the base model needs")
    with torch.no_grad():
        for name, value in learnt.items():
            value.copy_(tensors[stored_name(name)])


def stored_name(name: str) -> str:
    """A parameter's name without what peft puts around it."""
    match = _PEFT_NAME.fullmatch(name)
    return match[1] if match else name

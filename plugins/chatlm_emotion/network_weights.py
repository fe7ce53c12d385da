"""Save and load the trained tensors of a classifier, in float16."""

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
    """Save tensors in a classifier's folder.

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
    """Load the tensors of a classifier's folder.

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
    """Return parameters by their stored names: the base model's module names, followed by `lora_A`
    and `lora_B`."""
    return {stored_name(name): value for name, value in parameters.items()}


def load_into_network(network: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load trained tensors into a network.

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
    """Return a parameter's name without peft's prefix and suffix."""
    match = _PEFT_NAME.fullmatch(name)
    return match[1] if match else name

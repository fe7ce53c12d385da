"""Helpers for transformers and peft: log level, dtypes, target modules, saving."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from chatlm import ChatlmError, ModelLocation, UsageError, fast_dtype, one_line, write_atomically
from chatlm_lora.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from chatlm_lora.recipe import ALL_LINEAR


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence warnings and log messages of transformers and peft, which would garble the screen."""
    logger = transformers.utils.logging
    level = logger.get_verbosity()
    logger.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.set_verbosity(level)


@contextmanager
def explain_out_of_memory(hint: str) -> Iterator[None]:
    """Turn an out-of-memory error into a `ChatlmError`.

    Args:
        hint: what to do about it.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ChatlmError("Not enough memory.", hint=hint) from error


@dataclass(frozen=True)
class TrainingDtypes:
    """Dtypes of a training run."""

    base_weights: str
    """Dtype of the base model; the adapter's weights are always float32."""
    mixed_precision: bool
    """Whether matrix products use bfloat16."""


def training_dtypes(use_cpu: bool) -> TrainingDtypes:
    """Return the fastest dtypes that do not lose the adapter's small updates.

    A CPU is faster with float32 weights rounded for each product than with bfloat16 weights; a GPU
    is not, and its memory is scarce.

    Args:
        use_cpu: train on the CPU.
    """
    mixed = fast_dtype("cpu" if use_cpu else "auto") == "bfloat16"
    return TrainingDtypes("float32" if use_cpu or not mixed else "bfloat16", mixed)


def resolve_target_modules(
    model: Any, targets: Sequence[str], base: ModelLocation
) -> list[str] | str:
    """Return the target modules for peft.

    Raises:
        UsageError: the model has no linear module of that name.
    """
    if tuple(targets) == (ALL_LINEAR,):
        return ALL_LINEAR
    linear = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | transformers.pytorch_utils.Conv1D)
    }
    unknown = sorted(set(targets) - linear)
    if unknown:
        raise UsageError(
            f"{base.name} has no linear module {one_line(', '.join(unknown), 80)}.",
            hint=f"It has: {', '.join(sorted(linear))}; or {ALL_LINEAR}.",
        )
    return list(targets)


def save_adapter(
    model: Any, folder: Path, base: ModelLocation, adapter_name: str = "default"
) -> None:
    """Save an adapter in bfloat16 like peft, but with the base model's name instead of its path.

    Args:
        model: a `PeftModel`.
        folder: an empty folder.
        base: the base model.
        adapter_name: name of the adapter in `model`.

    Raises:
        OSError: it cannot be written.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    state = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    numbers = {
        name: tensor.to("cpu", torch.bfloat16).contiguous() for name, tensor in state.items()
    }
    save_file(numbers, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    settings = model.peft_config[adapter_name]
    inference, settings.inference_mode = settings.inference_mode, True
    values = settings.to_dict()
    settings.inference_mode = inference
    values |= {"base_model_name_or_path": base.name, "target_modules": _sorted_targets(values)}
    write_atomically(folder / CONFIG_FILE, [json.dumps(values, indent=2, default=str), "\n"])


def load_checkpoint(model: Any, folder: Path) -> None:
    """Load an adapter's weights from a checkpoint that transformers saved.

    Raises:
        ChatlmError: they cannot be read.
    """
    from peft import set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        set_peft_model_state_dict(model, load_file(folder / WEIGHTS_FILE))
    except (OSError, SafetensorError) as error:
        raise ChatlmError(
            f"The checkpoint {folder} cannot be read.", hint="Start over with --restart."
        ) from error


def _sorted_targets(values: dict[str, Any]) -> list[str] | str:
    targets = values["target_modules"]
    return targets if isinstance(targets, str) else sorted(targets)

"""Small things around transformers and peft: quiet, number formats, target modules, saving."""

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
    """No bars and remarks of transformers and peft in the middle of a screen."""
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
    """Turn "out of memory" into an error that says what to do.

    Args:
        hint: the next step.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ChatlmError("The memory is not enough.", hint=hint) from error


@dataclass(frozen=True)
class TrainingDtypes:
    """The number formats of a training."""

    base_weights: str
    """Of the base; the adapter's own numbers are always float32."""
    mixed_precision: bool
    """Whether matrices are multiplied in bfloat16."""


def training_dtypes(use_cpu: bool) -> TrainingDtypes:
    """What trains fastest without losing the adapter's small steps.

    A processor is faster with weights in float32 that are rounded for each product than with
    weights in bfloat16; a GPU is not, and its memory is dear.

    Args:
        use_cpu: whether the processor trains.
    """
    mixed = fast_dtype("cpu" if use_cpu else "auto") == "bfloat16"
    return TrainingDtypes("float32" if use_cpu or not mixed else "bfloat16", mixed)


def resolve_target_modules(
    model: Any, targets: Sequence[str], base: ModelLocation
) -> list[str] | str:
    """The target modules as peft wants them.

    Raises:
        UsageError: the model has no module of that name, or it is not linear.
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
    """Write an adapter in bfloat16 as peft does, with the base's name in place of its folder.

    Args:
        model: a `PeftModel`.
        folder: empty.
        base: the model's.
        adapter_name: its name in `model`.

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


def _sorted_targets(values: dict[str, Any]) -> list[str] | str:
    targets = values["target_modules"]
    return targets if isinstance(targets, str) else sorted(targets)

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
    """Return the target modules for peft; of a vision model only those of its language part.

    Raises:
        UsageError: the model has no linear module of that name.
    """
    decoder = _language_part(model)
    if decoder:
        return _modules_below(model, decoder, targets, base)
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


def _language_part(model: Any) -> str:
    """Return the name of a vision model's language part; empty for other models."""
    if not hasattr(model.config, "vision_config"):
        return ""
    decoder = model.get_decoder()
    names = [str(name) for name, module in model.named_modules() if module is decoder]
    if not names or not names[0]:
        raise UsageError(
            "This vision model does not say which of its modules are its language part.",
            hint="Train an adapter for a model without vision: chatlm models list.",
        )
    return names[0]


def _modules_below(
    model: Any, decoder: str, targets: Sequence[str], base: ModelLocation
) -> list[str]:
    """Return the whole names of a language part's linear modules, or of those in `targets`."""
    linear = [
        name
        for name, module in model.named_modules()
        if name.startswith(f"{decoder}.") and isinstance(module, torch.nn.Linear)
    ]
    kinds = {name.rpartition(".")[2] for name in linear}
    if tuple(targets) == (ALL_LINEAR,):
        return linear
    if unknown := sorted(set(targets) - kinds):
        raise UsageError(
            f"The language part of {base.name} has no linear module "
            f"{one_line(', '.join(unknown), 80)}.",
            hint=f"It has: {', '.join(sorted(kinds))}; or {ALL_LINEAR}.",
        )
    return [name for name in linear if name.rpartition(".")[2] in targets]


def check_trains_on_text(model: Any, base: ModelLocation) -> None:
    """Compute a loss on text alone, as training does; some vision models need more.

    Raises:
        UsageError: the model fails.
    """
    ids = torch.arange(4)[None].to(model.device)
    model.train()
    try:
        with torch.no_grad():
            model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids)
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        reason = one_line(str(error).partition("\n")[0] or type(error).__name__, 200)
        raise UsageError(
            f"{base.name} cannot be trained on text alone: {reason}.",
            hint="Train an adapter for a model without vision: chatlm models list.",
        ) from error


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

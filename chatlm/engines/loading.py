"""Reads a model folder with transformers: safetensors only, no code from the folder, no network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from chatlm.engines.devices import Placement, is_out_of_memory
from chatlm.errors import ModelError, OutOfMemoryError


def load_model(name: str, folder: Path, placement: Placement) -> Any:
    """The model, ready for inference.

    Raises:
        OutOfMemoryError: the device's memory does not hold it.
        ModelError: anything else that transformers says against the folder.
    """
    with _quiet():
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=placement.dtype,
                device_map=placement.device_map,
                quantization_config=placement.quantization,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
            )
        except Exception as error:  # transformers raises many kinds
            if is_out_of_memory(error):
                raise OutOfMemoryError(
                    f"The memory is not enough for the model {name}",
                    hint="Choose a smaller model, or `chatlm config set quantize 4bit`.",
                ) from error
            raise _unusable(name, folder, error) from error
    return model.eval()


def load_tokenizer(name: str, folder: Path) -> Any:
    """The model's tokenizer.

    Raises:
        ModelError: what transformers says against the folder.
    """
    with _quiet():
        try:
            return AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # transformers raises many kinds
            raise _unusable(name, folder, error) from error


def _unusable(name: str, folder: Path, error: Exception) -> ModelError:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return ModelError(
        f"The model {name} in {folder} cannot be loaded: {reason}",
        hint=f"`chatlm models verify {name}` checks its files.",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars or remarks of transformers in the middle of a screen."""
    logger = transformers.utils.logging
    level, bars = logger.get_verbosity(), logger.is_progress_bar_enabled()
    logger.set_verbosity_error()
    logger.disable_progress_bar()
    try:
        yield
    finally:
        logger.set_verbosity(level)
        if bars:
            logger.enable_progress_bar()

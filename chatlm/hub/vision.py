"""Tell which models read images, from their files alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatlm.errors import ModelError
from chatlm.hub.architecture import read_config
from chatlm.hub.weights import gguf_file

_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


def reads_images(folder: Path) -> bool:
    """Return whether a model's folder has what reads images: its config, a processor and tensors.

    Whether transformers can use them is known once the model is loaded.

    Args:
        folder: of the model.
    """
    if gguf_file(folder) is not None:
        return False
    if not any((folder / name).is_file() for name in _PROCESSOR_FILES):
        return False
    try:
        config: Mapping[str, Any] = read_config(folder)
    except ModelError:
        return False
    return isinstance(config.get("vision_config"), Mapping)

"""Turn images into what a model of transformers reads, with the processor that comes with it."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoProcessor

from chatlm.engines.model import Unsupported
from chatlm.errors import UsageError
from chatlm.hub.tensor_check import quiet_transformers

_TEXT_INPUTS = frozenset(
    {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "offset_mapping"}
)
"""What a processor returns for the text around an image."""


def load_processor(folder: Path) -> Any:
    """Load a model's processor with transformers, so that its results do not depend on whether
    torchvision is installed, except where nothing but torchvision will do.

    Raises:
        Exception: transformers cannot load it.
    """
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with quiet_transformers():
        try:
            return AutoProcessor.from_pretrained(folder, backend="pil", **options)
        except ImportError:  # what reads videos exists for torchvision alone
            return AutoProcessor.from_pretrained(folder, **options)


def _reason(error: Exception) -> str:
    for package in ("torchvision", "num2words"):
        if package in str(error).lower() and importlib.util.find_spec(package) is None:
            return f"it needs the package {package}; run `pip install 'chatlm[vision]'`"
    return str(error).strip().partition("\n")[0] or type(error).__name__


class ImageProcessor:
    """The part of a model's processor that reads images.

    Args:
        folder: of the model.

    Raises:
        Unsupported: transformers cannot load it, or it does not replace placeholders by tokens.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._processor = load_processor(folder)
        except Exception as error:  # transformers raises many types
            raise Unsupported(f"its image processor cannot be loaded: {_reason(error)}") from error
        self.placeholder: str = getattr(self._processor, "image_token", None) or ""
        """The text of the token that a chat template writes for an image."""
        if not self.placeholder or not hasattr(self._processor, "image_processor"):
            raise Unsupported("its processor does not tell which token stands for an image")
        self.chat_template: str | dict[str, str] | None = self._processor.chat_template
        self.expand: Callable[[int, int], str] = lru_cache(256)(self._expand)
        """`(width, height) -> text`: the text of all tokens that replace a placeholder; the size is
        in pixels."""

    def read(self, content: bytes) -> Mapping[str, Any]:
        """Return the inputs of a model for one image, tensors by name.

        Args:
            content: the image as a file.

        Raises:
            UsageError: it cannot be read as an image.
        """
        import PIL.Image

        try:
            with PIL.Image.open(io.BytesIO(content)) as image:
                return self._process(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            raise UsageError(
                f"An image cannot be read: {str(error).partition(chr(10))[0]}",
                hint="Attach it again as PNG or JPEG.",
            ) from error

    def example(self, content: bytes) -> list[int]:
        """Return the ids of an image with some text before and after it."""
        ids: list[int] = self.example_inputs(content, [])["input_ids"][0].tolist()
        return ids

    def example_inputs(self, content: bytes, more: Sequence[int]) -> dict[str, Tensor]:
        """Return all inputs of a model for `example`, followed by more ids of text."""
        import PIL.Image

        text = f"This is an example of a picture: {self.placeholder} Is it all of it?"
        with PIL.Image.open(io.BytesIO(content)) as image, quiet_transformers():
            inputs = dict(self._processor(text=[text], images=[image], return_tensors="pt"))
        added = torch.tensor([[*more]], dtype=torch.long)
        for name in _TEXT_INPUTS & inputs.keys():
            fill = {"input_ids": added, "attention_mask": torch.ones_like(added)}
            inputs[name] = torch.cat([inputs[name], fill.get(name, torch.zeros_like(added))], 1)
        return {name: value for name, value in inputs.items() if isinstance(value, Tensor)}

    def _process(self, image: Any) -> Mapping[str, Any]:
        with quiet_transformers():
            inputs = self._processor(text=[self.placeholder], images=[image], return_tensors="pt")
        return {name: value for name, value in inputs.items() if name not in _TEXT_INPUTS}

    def _expand(self, width: int, height: int) -> str:
        """Replace a placeholder; it depends on the size of an image alone, not on its content."""
        import PIL.Image

        with quiet_transformers():
            blank = PIL.Image.new("RGB", (width, height))
            out = self._processor(
                text=[self.placeholder], images=[blank], return_text_replacement_offsets=True
            )
        ((replacement,),) = out["text_replacement_offsets"]
        return str(replacement["replacement"])

"""Check that a model reads images in blocks as transformers does in one forward pass."""

from __future__ import annotations

import io
from importlib.metadata import version
from typing import Any

import torch

from chatlm.engines.devices import is_out_of_memory
from chatlm.engines.image_ids import image_ids
from chatlm.engines.image_processor import ImageProcessor
from chatlm.engines.model import Unsupported
from chatlm.engines.transformers_cache import PrefillMode, TransformersCache, are_close, log
from chatlm.engines.transformers_images import TransformersImages
from chatlm.hub.architecture import proven_modes

PROVEN = frozenset(
    {
        *("gemma3", "gemma4", "idefics3", "lfm2_vl", "mistral3"),
        *("qwen2_5_vl", "qwen3_5", "qwen3_vl", "smolvlm"),
    }
)
"""Architectures for which tests show it with the version of `proven_modes`; others are checked when
they are loaded."""


def open_images(module: Any, processor: ImageProcessor, mode: PrefillMode) -> TransformersImages:
    """Return what reads a model's images, as transformers would.

    Args:
        module: the model.
        processor: its image processor.
        mode: how it reads text.

    Raises:
        Unsupported: it cannot, or computes something else when it reads in blocks.
    """
    images = TransformersImages(module, processor)
    kind = module.config.model_type
    if mode.kind != "blocks":
        raise Unsupported(f"its architecture {kind} does not read prompts in blocks")
    if kind in PROVEN and proven_modes()[0] == version("transformers"):
        return images
    try:
        exact = reads_exactly(module, processor, images, mode)
    except Exception as error:  # a model may raise anything
        if is_out_of_memory(error):
            raise
        log.info("%s with an image: %s", type(module).__name__, error)
        reason = str(error).strip().partition("\n")[0]
        raise Unsupported(f"its architecture {kind} fails with one: {reason}") from error
    if not exact:
        raise Unsupported(
            f"its architecture {kind} computes something else when a prompt is read in blocks"
        )
    return images


def reads_exactly(
    module: Any, processor: ImageProcessor, images: TransformersImages, mode: PrefillMode
) -> bool:
    """Compare a prompt in three blocks, of which the second ends with an image, and a token, with
    plain forward passes."""
    content = _picture()
    sha256 = "0" * 64
    expected, ids = [], processor.example(content)
    for more in ([], [ids[0]]):
        inputs = processor.example_inputs(content, more)
        with torch.inference_mode():
            inputs = {name: value.to(module.device) for name, value in inputs.items()}
            expected.append(module(**inputs).logits[0, -1])
    places = [at for at, number in enumerate(ids) if number == images.feature_id]
    if not places:
        return False
    numbers = dict(zip(places, image_ids(sha256, len(places)), strict=True))
    keyed = [numbers.get(at, number) for at, number in enumerate(ids)]
    tokens = TransformersCache(module, mode, images=images)
    middle, end = places[0] // 2, places[-1] + 1
    with images.available([sha256], {sha256: content}):
        for start, stop in ((0, middle), (middle, end), (end, len(ids))):
            logits = tokens.prefill(keyed[start:stop])
        found = [logits, tokens.decode([ids[0]])[0]]
    images.clear()
    return all(
        are_close(each, wanted, module.dtype) for each, wanted in zip(found, expected, strict=True)
    )


def _picture() -> bytes:
    """Return a picture of 64×48 pixels in which no two regions are the same."""
    import PIL.Image

    size = 64, 48
    pixels = [(4 * x, 5 * y, (3 * x + 7 * y) % 256) for y in range(size[1]) for x in range(size[0])]
    image = PIL.Image.new("RGB", size)
    image.putdata(pixels)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()

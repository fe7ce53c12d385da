"""Chooses how a model is run: the fast way where it can be, else with transformers."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from chatlm.engines.devices import Placement, is_out_of_memory
from chatlm.engines.fast.compiler import NoKernel, kernel_library
from chatlm.engines.fast.graphs import GraphDecoder, check_steps
from chatlm.engines.fast.kernel import Decoder, Kernel
from chatlm.engines.fast.model import FastModel, TokenDecoder, generation_settings
from chatlm.engines.fast.plain import PlainDecoder
from chatlm.engines.fast.shape import Shape, read_shape
from chatlm.engines.fast.tokenizer import PlainTokenizer
from chatlm.engines.fast.weights import Format, Linear, Weights, read_weights
from chatlm.engines.model import About, Model, Unsuitable, ends_of, suggested
from chatlm.errors import OutOfMemoryError

log = logging.getLogger(__name__)

FORMATS: dict[str, Format | None] = {
    "auto": None, "bf16": "bf16", "int8": "int8", "int4": "int4",
}  # fmt: skip
"""What the person may want, and in which format the weights are then kept to write replies with;
None for int8, or int4 where it loses no more. `python -m benchmarks.speed` shows what each costs in
exactness. On CUDA all but off are the same."""


def load(name: str, folder: Path, placement: Placement, fast: str) -> Model:
    """The model in a folder, run in the best way for it.

    Args:
        name: what the person calls it.
        folder: config.json and safetensors.
        placement: device and number format.
        fast: one of `FORMATS`, or off.

    Raises:
        ModelError: the folder does not hold a model that can be used.
        OutOfMemoryError: the memory does not hold it.
    """
    notes: tuple[str, ...] = ()
    device = placement.device
    if fast in FORMATS and device is not None and _suits(device, placement, fast):
        try:
            return _fast_model(name, folder, device, placement.dtype, FORMATS[fast])
        except Unsuitable as reason:
            log.info("%s is run with transformers: %s", name, reason)
            if fast != "auto":
                notes = (f"This model cannot be run with fast = {fast}: {reason}.",)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"The memory is not enough for the model {name}",
                hint="Choose a smaller model, or `chatlm config set fast off`.",
            ) from error
    from chatlm.engines.transformers_model import TransformersModel

    return TransformersModel(name, folder, placement, notes)


def load_tokenizer(name: str, folder: Path) -> Any:
    """The model's tokenizer, without transformers where its files allow.

    Raises:
        ModelError: it cannot be loaded.
    """
    try:
        return PlainTokenizer(folder)
    except Unsuitable as reason:
        log.info("the tokenizer of %s is read with transformers: %s", name, reason)
    from chatlm.engines import loading

    return loading.load_tokenizer(name, folder)


def _suits(device: str, placement: Placement, fast: str) -> bool:
    if placement.quantization is not None:
        return False
    exact = placement.asked and placement.dtype is torch.float32 and fast == "auto"
    on_cpu = device == "cpu" and placement.dtype in (torch.bfloat16, torch.float32) and not exact
    return on_cpu or device.startswith("cuda")


def _fast_model(
    name: str, folder: Path, device: str, dtype: torch.dtype, form: Format | None
) -> Model:
    shape = read_shape(folder)
    try:
        generation = generation_settings(folder)
    except (OSError, ValueError) as error:
        raise Unsuitable(f"its generation config cannot be read: {error}") from error
    weights = read_weights(folder, shape, dtype, device)
    decoder, label, notes = _decoder(shape, weights, form)
    about = About(
        device=device,
        dtype=label,
        context=shape.context,
        ends=ends_of(generation.get("eos_token_id")),
        suggested=suggested(name, generation),
        notes=notes,
    )
    model = FastModel(shape, weights, decoder, about)
    if isinstance(decoder, GraphDecoder):
        check_steps(model)
    return model


def _decoder(
    shape: Shape, weights: Weights[Linear], form: Format | None
) -> tuple[TokenDecoder, str, tuple[str, ...]]:
    """With what the screen calls its numbers, and what the person should know of it."""
    dtype = weights.embedding.dtype
    if weights.embedding.device.type != "cpu":
        return GraphDecoder(shape, weights), f"{str(dtype).removeprefix('torch.')} (fast)", ()
    try:
        kernel = Kernel(kernel_library(float32=dtype is torch.float32), dtype)
        compiled = Decoder(kernel, shape, weights, form, torch.get_num_threads())
        return compiled, f"{_in_words(compiled.formats)} (fast)", ()
    except NoKernel as reason:
        log.warning("no compiled kernel: %s", reason)
        plain = PlainDecoder(shape, weights, form)
        note = (
            f"Replies are written by torch, at less than half the speed: {reason}. "
            "With a C compiler, such as gcc or clang, chatlm compiles a faster way by itself."
        )
        return plain, f"{_in_words(plain.formats)} (torch)", (note,)


def _in_words(formats: Iterable[Format]) -> str:
    return " and ".join(sorted(formats)).replace("bf16", "bfloat16")

"""Choose the decoder: native C, CUDA graph, torch, transformers."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import torch

from chatlm.engines.devices import Placement, is_out_of_memory
from chatlm.engines.model import About, Model, Unsuitable, ends_of, suggested
from chatlm.engines.native.architectures.llama import read_shape
from chatlm.engines.native.c_decoder import Decoder, Kernel
from chatlm.engines.native.compiler import NoKernel, kernel_library
from chatlm.engines.native.cuda_graph import GraphDecoder, check_steps
from chatlm.engines.native.model import FastModel, TokenDecoder, generation_settings
from chatlm.engines.native.model_config import Shape
from chatlm.engines.native.quantization import Format
from chatlm.engines.native.torch_decoder import PlainDecoder
from chatlm.engines.native.weights import Linear, Weights, read_weights
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

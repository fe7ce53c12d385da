"""Choose the decoder: native C, CUDA graph, torch, transformers."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import torch

from chatlm.engines.devices import Placement, is_out_of_memory
from chatlm.engines.model import (
    Model,
    ModelInfo,
    Unsupported,
    parse_eos_token_ids,
    recommended_sampling,
)
from chatlm.engines.native.architectures.llama import read_config
from chatlm.engines.native.c_decoder import CDecoder, Kernel
from chatlm.engines.native.compiler import KernelUnavailable, kernel_library
from chatlm.engines.native.cuda_graph import CudaGraphDecoder, check_against_prefill
from chatlm.engines.native.model import NativeModel, TokenDecoder, read_generation_config
from chatlm.engines.native.model_config import ModelConfig
from chatlm.engines.native.quantization import WeightFormat
from chatlm.engines.native.torch_decoder import TorchDecoder
from chatlm.engines.native.weights import Linear, ModelWeights, read_weights
from chatlm.errors import OutOfMemoryError

log = logging.getLogger(__name__)


DECODER_FORMATS: dict[str, WeightFormat | None] = {
    "auto": None, "bf16": "bf16", "int8": "int8", "int4": "int4",
}  # fmt: skip
"""What the person may want, and in which format the weights are then kept to write replies with;
None for int8, or int4 where it loses no more. `python -m benchmarks.speed` shows what each costs in
exactness. On CUDA all but off are the same."""


def load(name: str, folder: Path, placement: Placement, decoder_format: str) -> Model:
    """The model in a folder, run in the best way for it.

    Args:
        name: what the person calls it.
        folder: config.json and safetensors.
        placement: device and number format.
        decoder_format: one of `FORMATS`, or off.

    Raises:
        ModelError: the folder does not hold a model that can be used.
        OutOfMemoryError: the memory does not hold it.
    """
    notes: tuple[str, ...] = ()
    device = placement.device
    if (
        decoder_format in DECODER_FORMATS
        and device is not None
        and _can_run_native(device, placement, decoder_format)
    ):
        try:
            return _load_native(
                name, folder, device, placement.dtype, DECODER_FORMATS[decoder_format]
            )
        except Unsupported as reason:
            log.info("%s is run with transformers: %s", name, reason)
            if decoder_format != "auto":
                notes = (f"This model cannot be run with fast = {decoder_format}: {reason}.",)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"The memory is not enough for the model {name}",
                hint="Choose a smaller model, or `chatlm config set fast off`.",
            ) from error
    from chatlm.engines.transformers_model import TransformersModel

    return TransformersModel(name, folder, placement, notes)


def _can_run_native(device: str, placement: Placement, decoder_format: str) -> bool:
    if placement.quantization_config is not None:
        return False
    exact = (
        placement.dtype_is_explicit
        and placement.dtype is torch.float32
        and decoder_format == "auto"
    )
    on_cpu = device == "cpu" and placement.dtype in (torch.bfloat16, torch.float32) and not exact
    return on_cpu or device.startswith("cuda")


def _load_native(
    name: str, folder: Path, device: str, dtype: torch.dtype, weight_format: WeightFormat | None
) -> Model:
    shape = read_config(folder)
    try:
        generation = read_generation_config(folder)
    except (OSError, ValueError) as error:
        raise Unsupported(f"its generation config cannot be read: {error}") from error
    weights = read_weights(folder, shape, dtype, device)
    decoder, label, notes = _open_decoder(shape, weights, weight_format)
    about = ModelInfo(
        device=device,
        dtype=label,
        context_length=shape.max_position_embeddings,
        eos_token_ids=parse_eos_token_ids(generation.get("eos_token_id")),
        recommended_sampling=recommended_sampling(name, generation),
        notes=notes,
    )
    model = NativeModel(shape, weights, decoder, about)
    if isinstance(decoder, CudaGraphDecoder):
        check_against_prefill(model)
    return model


def _open_decoder(
    config: ModelConfig, weights: ModelWeights[Linear], weight_format: WeightFormat | None
) -> tuple[TokenDecoder, str, tuple[str, ...]]:
    """With what the screen calls its numbers, and what the person should know of it."""
    dtype = weights.embed_tokens.dtype
    if weights.embed_tokens.device.type != "cpu":
        return CudaGraphDecoder(config, weights), f"{str(dtype).removeprefix('torch.')} (fast)", ()
    try:
        kernel = Kernel(kernel_library(float32=dtype is torch.float32), dtype)
        compiled = CDecoder(kernel, config, weights, weight_format, torch.get_num_threads())
        return compiled, f"{_format_label(compiled.formats)} (fast)", ()
    except KernelUnavailable as reason:
        log.warning("no compiled kernel: %s", reason)
        plain = TorchDecoder(config, weights, weight_format)
        note = (
            f"Replies are written by torch, at less than half the speed: {reason}. "
            "With a C compiler, such as gcc or clang, chatlm compiles a faster way by itself."
        )
        return plain, f"{_format_label(plain.formats)} (torch)", (note,)


def _format_label(formats: Iterable[WeightFormat]) -> str:
    return " and ".join(sorted(formats)).replace("bf16", "bfloat16")

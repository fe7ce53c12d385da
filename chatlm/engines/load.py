"""Load a model with the best decoder that supports it: C, CUDA graph, torch, or transformers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from chatlm.engines.devices import Placement, is_out_of_memory
from chatlm.engines.model import (
    Model,
    ModelInfo,
    Unsupported,
    parse_eos_token_ids,
)
from chatlm.engines.native.architectures.registry import read_config
from chatlm.engines.native.c_decoder import CDecoder, Kernel
from chatlm.engines.native.compiler import KernelUnavailable, kernel_library
from chatlm.engines.native.cuda_graph import CudaGraphDecoder, check_against_prefill
from chatlm.engines.native.model import NativeModel, TokenDecoder
from chatlm.engines.native.model_config import ModelConfig
from chatlm.engines.native.quantization import WeightFormat
from chatlm.engines.native.torch_decoder import TorchDecoder
from chatlm.engines.native.weights import (
    ComputedWeights,
    LinearWeights,
    StoredWeights,
    read_weights,
    to_linear,
)
from chatlm.errors import OutOfMemoryError
from chatlm.hub.generation_config import read_generation_config, recommended_sampling

log = logging.getLogger(__name__)

DECODER_FORMATS: dict[str, WeightFormat | None] = {
    "auto": None, "bf16": "bf16", "int8": "int8", "int4": "int4",
}  # fmt: skip
"""Values of the setting `fast` other than off, and the format of the decoder's weights; None for
int8, or int4 where it loses no more. `python -m benchmarks.speed` shows what each costs in
accuracy. CUDA keeps the weights as they are."""


def load(name: str, folder: Path, placement: Placement, decoder_format: str) -> Model:
    """Load the model in a folder with the first decoder that supports it.

    Args:
        name: as the user calls it.
        folder: config.json and safetensors.
        placement: device and dtype.
        decoder_format: one of `DECODER_FORMATS`, or off for transformers.

    Raises:
        ModelError: the folder does not hold a usable model.
        OutOfMemoryError: the device has too little memory.
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
            log.info("%s is run by transformers: %s", name, reason)
            if decoder_format != "auto":
                notes = (f"This model cannot be run with fast = {decoder_format}: {reason}.",)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"Not enough memory to load {name}",
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
    config = read_config(folder)
    try:
        generation = read_generation_config(folder)
    except (OSError, ValueError) as error:
        raise Unsupported(f"its generation config cannot be read: {error}") from error
    weights = read_weights(folder, config)
    if weight_format is None and any(folder.glob("*.gguf")):
        weight_format = "stored"
    placed = _PlacedWeights(weights, dtype, device)
    notes: tuple[str, ...] = ()
    reasons: list[str] = []
    for open_decoder in _DECODERS:
        try:
            decoder, computed, label = open_decoder(config, placed, weight_format)
            info = ModelInfo(
                device=device,
                dtype=label,
                context_length=config.max_position_embeddings,
                eos_token_ids=parse_eos_token_ids(generation.get("eos_token_id")),
                recommended_sampling=recommended_sampling(name, generation),
                notes=notes,
            )
            model = NativeModel(config, computed, decoder, info)
            if device != "cpu":  # a driver may fail or compute something else
                check_against_prefill(model)
            return model
        except KernelUnavailable as reason:
            log.warning("no C kernel: %s", reason)
            reasons.append(str(reason))
            notes = (
                f"Replies are generated by torch, at less than half the speed: {reason}. "
                "With a C compiler, such as gcc or clang, chatlm compiles a faster decoder itself.",
            )
        except Unsupported as reason:
            log.info("%s: %s: %s", name, open_decoder.__name__.strip("_"), reason)
            reasons.append(str(reason))
    raise Unsupported("; ".join(reasons))


@dataclass(frozen=True)
class _PlacedWeights:
    """Stored weights, and where and how to compute with them."""

    stored: StoredWeights
    dtype: torch.dtype
    device: str

    def to_linear(self) -> LinearWeights:
        return to_linear(self.stored, self.dtype, self.device)

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


_OpenedDecoder = tuple[TokenDecoder, ComputedWeights, str]
"""A decoder, the weights for prompts, and the name of the number format for the screen."""


def _c_decoder(
    config: ModelConfig, weights: _PlacedWeights, weight_format: WeightFormat | None
) -> _OpenedDecoder:
    if weights.device != "cpu":
        raise Unsupported("the C kernel runs on the CPU only")
    CDecoder.check_supported(config)  # before a kernel is compiled in vain
    kernel = Kernel(kernel_library(float32=weights.dtype is torch.float32), weights.dtype)
    decoder = CDecoder(kernel, config, weights.stored, weight_format, torch.get_num_threads())
    label = _format_label(_KERNEL_LABELS.get(each, each) for each in decoder.formats)
    return decoder, decoder.weights, f"{label} (fast)"


def _cuda_graph_decoder(
    config: ModelConfig, weights: _PlacedWeights, weight_format: WeightFormat | None
) -> _OpenedDecoder:
    if not weights.device.startswith("cuda"):
        raise Unsupported("CUDA graphs run on CUDA only")
    linear = weights.to_linear()
    return CudaGraphDecoder(config, linear), linear, f"{weights.dtype_name} (fast)"


def _torch_decoder(
    config: ModelConfig, weights: _PlacedWeights, weight_format: WeightFormat | None
) -> _OpenedDecoder:
    linear = weights.to_linear()
    if weights.device != "cpu":  # torch's packed products are for the CPU
        return TorchDecoder(config, linear, "bf16"), linear, f"{weights.dtype_name} (torch)"
    decoder = TorchDecoder(config, linear, weight_format)
    return decoder, linear, f"{_format_label(decoder.formats)} (torch)"


_DECODERS: tuple[
    Callable[[ModelConfig, _PlacedWeights, WeightFormat | None], _OpenedDecoder], ...
] = (_c_decoder, _cuda_graph_decoder, _torch_decoder)
"""In order of preference; each may raise `Unsupported`."""

_KERNEL_LABELS = {"BF16": "bf16", "Q8_0": "int8", "Q4_1": "int4"}


def _format_label(formats: Iterable[str]) -> str:
    return " and ".join(sorted(formats)).replace("bf16", "bfloat16")

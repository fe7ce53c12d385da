"""Load a model with the best decoder that supports it: C, CUDA graph, torch, a plugin's runtime of
GGUF files, or transformers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from chatlm.engines.devices import Placement, can_quantize, is_out_of_memory, place_weights
from chatlm.engines.gguf_runtimes import describe_gguf
from chatlm.engines.model import (
    NO_IMAGES,
    BlockRules,
    Model,
    ModelInfo,
    Unsupported,
    describe_weights,
    parse_eos_token_ids,
)
from chatlm.engines.native.architectures.registry import read_config
from chatlm.engines.native.c_decoder import CDecoder
from chatlm.engines.native.compiler import KernelUnavailable, decoder_name, open_library
from chatlm.engines.native.cuda_graph import CudaGraphDecoder, check_against_prefill
from chatlm.engines.native.kernel import Kernel
from chatlm.engines.native.kv_cache import KVFormat
from chatlm.engines.native.model import NativeModel, TokenDecoder
from chatlm.engines.native.model_config import ModelConfig
from chatlm.engines.native.quantization import WeightFormat
from chatlm.engines.native.stored_matrix import StoredMatrix
from chatlm.engines.native.torch_decoder import TorchDecoder
from chatlm.engines.native.weight_reader import read_weights, to_linear
from chatlm.engines.native.weights import ComputedWeights, LinearWeights, StoredWeights
from chatlm.errors import ChatlmError, ModelError, OutOfMemoryError
from chatlm.hub.generation_config import read_generation_config, recommended_sampling
from chatlm.hub.gguf.architectures import UnknownArchitecture, find_architecture
from chatlm.hub.gguf.file import GgufFile
from chatlm.hub.vision import reads_images
from chatlm.hub.weights import gguf_file
from chatlm.plugin_host.faults import describe_error
from chatlm.types.runtimes import GgufRuntime

log = logging.getLogger(__name__)

_FORMATS: dict[str, WeightFormat | None] = {
    "auto": None, "stored": "stored", "bf16": "bf16", "int8": "int8", "int4": "int4",
}  # fmt: skip
"""Formats of native weights by the setting `weights`. None: as stored for a GGUF file; otherwise
int8, or int4 where it loses no more. `python -m benchmarks.speed` shows what each costs."""

_NO_KV_FORMAT = "transformers runs this model, so its KV cache is not held in 8 bits."

_NATIVE_ENGINES = ("auto", "native", "torch")


def load(
    name: str,
    folder: Path,
    placement: Placement,
    engine: str = "auto",
    weights: str = "auto",
    kv_cache: KVFormat = "auto",
    *,
    context: int | None = None,
    runtimes: Mapping[str, GgufRuntime] | None = None,
) -> Model:
    """Load the model in a folder with the first decoder that supports it.

    Args:
        name: as the user calls it.
        folder: config.json and weights.
        placement: device, and dtype of the computation.
        engine: a value of the setting; one that chatlm does not have is looked up in `runtimes`.
        weights: a value of the setting. float32 is left to transformers, which rounds nothing.
        kv_cache: format of the KV caches; transformers has no other than the computation's, which
            the model's notes say.
        context: limit of the context in tokens; None for the model's own.
        runtimes: what plugins offer to run GGUF files, by name.

    Raises:
        ModelError: the folder does not hold a usable model, or the engine cannot run it.
        OutOfMemoryError: the device has too little memory.
    """
    notes: tuple[str, ...] = ()
    runtimes = runtimes or {}
    if engine not in (*_NATIVE_ENGINES, "transformers"):
        return _load_by_runtime(name, folder, context, engine, runtimes)
    if engine in ("auto", "transformers") and reads_images(folder):
        seeing, notes = _load_with_images(name, folder, placement, engine, weights, kv_cache)
        if seeing is not None:
            return seeing
    if engine in _NATIVE_ENGINES:
        try:
            return _load_native(name, folder, placement, engine, weights, kv_cache, notes)
        except Unsupported as reason:
            if is_out_of_memory(reason):
                raise _memory_error(name) from reason
            if engine != "auto":
                raise ModelError(
                    f"{name} cannot be run with engine = {engine}: {reason}",
                    hint="With `chatlm config set engine auto`, chatlm chooses one that can.",
                ) from reason
            if weights in ("auto", "stored"):
                model, why_not = _try_runtimes(name, folder, context, runtimes)
                if model is not None:
                    return model
                notes += why_not
            if gguf_file(folder) and not runtimes:
                _refuse_unknown_architecture(folder, ())
                notes = (
                    "transformers runs this model, with more memory than its file has; "
                    "`pip install 'chatlm[llamacpp]'` lets llama.cpp run it as it is.",
                )
            log.info("%s is run by transformers: %s", name, reason)
            if weights in ("int8", "int4") and not can_quantize():
                notes = (
                    *notes,
                    f"The weights could not be held as {weights}: {reason}. transformers can do "
                    "it after `pip install 'chatlm[quantize]'`.",
                )
                weights = "auto"
        except (MemoryError, OSError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise _memory_error(name) from error
    _refuse_unknown_architecture(folder, notes)
    from chatlm.engines.transformers_model import TransformersModel

    if kv_cache != "auto":
        notes = (*notes, _NO_KV_FORMAT)
    return TransformersModel(name, folder, place_weights(placement, weights), notes)


def _load_with_images(
    name: str, folder: Path, placement: Placement, engine: str, weights: str, kv_cache: KVFormat
) -> tuple[Model | None, tuple[str, ...]]:
    """Load a model that reads images, or return why it cannot."""
    from chatlm.engines.image_processor import ImageProcessor
    from chatlm.engines.transformers_model import TransformersModel

    try:
        processor = ImageProcessor(folder)
    except Unsupported as reason:
        log.info("%s without images: %s", name, reason)
        return None, (f"{NO_IMAGES}{reason}.",)
    notes: tuple[str, ...] = ()
    if engine == "auto":
        notes = (
            "transformers runs this model, since it reads images; for text only, "
            "`chatlm config set engine native` may be faster.",
        )
    if kv_cache != "auto":
        notes = (*notes, _NO_KV_FORMAT)
    quantizes = weights not in ("int8", "int4") or can_quantize()
    placed = place_weights(placement, weights if quantizes else "auto")
    model = TransformersModel(name, folder, placed, notes, processor)
    if model.images is None and engine == "auto":
        return None, tuple(note for note in model.info.notes if note not in notes)
    return model, notes


def _memory_error(name: str) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"Not enough memory to load {name}",
        hint="Close other programs, choose a smaller model, or `chatlm config set weights int4`.",
    )


def _refuse_unknown_architecture(folder: Path, notes: tuple[str, ...]) -> None:
    """Refuse a GGUF file that only a runtime may run; `notes` say why none does."""
    path = gguf_file(folder)
    if path is None:
        return
    try:
        with GgufFile(path) as file:
            find_architecture(file)
    except UnknownArchitecture as error:
        if notes:
            raise ModelError(error.message, hint=" ".join(notes)) from error
        raise


def _load_by_runtime(
    name: str,
    folder: Path,
    context: int | None,
    engine: str,
    runtimes: Mapping[str, GgufRuntime],
) -> Model:
    """Load a GGUF file with the runtime that the setting `engine` names."""
    if engine not in runtimes:
        raise ModelError(
            f"engine = {engine} needs the plugin {engine}, which is not installed or disabled",
            hint=f"Install it with `pip install 'chatlm[{engine}]'` (`chatlm plugins list` shows "
            "whether it is loaded), or use `chatlm config set engine auto`.",
        )
    try:
        return _run_runtime(engine, runtimes[engine], name, folder, context)
    except Unsupported as reason:
        raise ModelError(
            f"{name} cannot be run with engine = {engine}: {reason}",
            hint="With `chatlm config set engine auto`, chatlm chooses one that can.",
        ) from reason


def _try_runtimes(
    name: str, folder: Path, context: int | None, runtimes: Mapping[str, GgufRuntime]
) -> tuple[Model | None, tuple[str, ...]]:
    """Load a GGUF file with the first runtime that can run it; return it, or why none can."""
    reasons = []
    for engine, runtime in runtimes.items() if gguf_file(folder) else ():
        try:
            return _run_runtime(engine, runtime, name, folder, context), ()
        except Unsupported as reason:
            log.info("%s is not run by %s: %s", name, engine, reason)
            reasons.append(f"{engine} does not run this model: {reason}.")
    return None, tuple(reasons)


def _run_runtime(
    engine: str, runtime: GgufRuntime, name: str, folder: Path, context: int | None
) -> Model:
    """Load a GGUF file with a plugin's runtime, which may fail in any way."""
    model = describe_gguf(name, folder, context)
    try:
        loaded: Model = runtime(model)
    except (Unsupported, ChatlmError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError(
                f"Not enough memory to load {name}",
                hint="Choose a smaller model, or lower `chatlm config set context`.",
            ) from error
        raise ModelError(
            f"The runtime {engine} failed to load {name}: {describe_error(error)}",
            hint="`chatlm logs` may have more; `chatlm config set engine auto` chooses another.",
        ) from error
    return loaded


def _load_native(
    name: str,
    folder: Path,
    placement: Placement,
    engine: str,
    weight_setting: str,
    kv_cache: KVFormat,
    notes: tuple[str, ...],
) -> Model:
    device, dtype = placement.device, placement.dtype
    on_cpu = device == "cpu" and dtype in (torch.bfloat16, torch.float32)
    if device is None or dtype == "auto" or not (on_cpu or device.startswith("cuda")):
        where = f"{device} in {dtype}" if device else "several devices"
        raise Unsupported(f"only transformers computes on {where}")
    if weight_setting == "float32":
        raise Unsupported("only transformers computes with float32 weights")
    weight_format = _FORMATS[weight_setting]
    config = read_config(folder)
    try:
        generation = read_generation_config(folder)
    except (OSError, ValueError) as error:
        raise Unsupported(f"its generation config cannot be read: {error}") from error
    is_gguf = gguf_file(folder) is not None
    weights = _PlacedWeights(read_weights(folder, config), config, dtype, device, is_gguf)
    reasons: list[str] = []
    for open_decoder in _DECODERS[engine]:
        try:
            decoder, computed, label = open_decoder(config, weights, weight_format)
            info = ModelInfo(
                device=device,
                weights=label,
                context_length=config.max_position_embeddings,
                block_rules=BlockRules(first_past=config.long_past),
                eos_token_ids=parse_eos_token_ids(generation.get("eos_token_id")),
                recommended_sampling=recommended_sampling(name, generation),
                notes=notes,
                kv_cache="8-bit" if kv_cache == "int8" else "",
            )
            model = NativeModel(config, computed, decoder, info, kv_cache)
            if device != "cpu":  # a driver may fail or compute something else
                check_against_prefill(model)
            return model
        except KernelUnavailable as reason:
            log.warning("no C kernel: %s", reason)
            reasons.append(str(reason))
            notes = (
                *notes,
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
    config: ModelConfig
    dtype: torch.dtype
    device: str
    is_gguf: bool

    def to_linear(self, weight_format: WeightFormat | None) -> LinearWeights:
        """Convert to tensors of the dtype.

        Raises:
            Unsupported: that loses something, although the weights are asked for as stored.
        """
        types = {matrix.type for matrix in self._matrices()}
        if weight_format == "stored" and types != {"BF16"}:
            raise Unsupported(f"without the C kernel, torch rounds {' and '.join(sorted(types))}")
        return to_linear(self.stored, self.config, self.dtype, self.device)

    def _matrices(self) -> list[StoredMatrix]:
        mixtures = [layer.moe for layer in self.stored.layers if layer.moe is not None]
        return [
            self.stored.embed_tokens,
            self.stored.lm_head,
            *self.stored.matrices(),
            *(stack[0] for mixture in mixtures for stack in mixture.experts.values()),
        ]


_OpenedDecoder = tuple[TokenDecoder, ComputedWeights, str]
"""A decoder, the weights for prompts, and a description of its weights."""


def _c_decoder(
    config: ModelConfig, weights: _PlacedWeights, weight_format: WeightFormat | None
) -> _OpenedDecoder:
    if weights.device != "cpu":
        raise Unsupported("the C kernel runs on the CPU only")
    if weight_format is None and weights.is_gguf:
        weight_format = "stored"

    def open_decoder(library: Path) -> CDecoder:
        kernel = Kernel(library, weights.dtype)
        decoder = CDecoder(kernel, config, weights.stored, weight_format, torch.get_num_threads())
        decoder.check_products()
        return decoder

    decoder = open_library(decoder_name(float32=weights.dtype is torch.float32), open_decoder)
    return decoder, decoder.weights, describe_weights(decoder.formats)


def _cuda_graph_decoder(
    config: ModelConfig, weights: _PlacedWeights, weight_format: WeightFormat | None
) -> _OpenedDecoder:
    label = _label_on_cuda(weights, weight_format, "")
    linear = weights.to_linear(weight_format)
    return CudaGraphDecoder(config, linear), linear, label


def _torch_decoder(
    config: ModelConfig, weights: _PlacedWeights, weight_format: WeightFormat | None
) -> _OpenedDecoder:
    if weights.device != "cpu":  # torch's packed products are for the CPU
        label = _label_on_cuda(weights, weight_format, "torch")
        linear = weights.to_linear(weight_format)
        return TorchDecoder(config, linear, "bf16"), linear, label
    linear = weights.to_linear(weight_format)
    decoder = TorchDecoder(config, linear, "bf16" if weight_format == "stored" else weight_format)
    return decoder, linear, describe_weights(decoder.formats, "torch")


def _label_on_cuda(weights: _PlacedWeights, weight_format: WeightFormat | None, engine: str) -> str:
    if not weights.device.startswith("cuda"):
        raise Unsupported("CUDA graphs run on CUDA only")
    if weight_format in ("int8", "int4"):
        raise Unsupported("chatlm's decoders quantize no weights on CUDA")
    return describe_weights([str(weights.dtype).removeprefix("torch.")], engine)


_OpenDecoder = Callable[[ModelConfig, _PlacedWeights, WeightFormat | None], _OpenedDecoder]

_DECODERS: dict[str, tuple[_OpenDecoder, ...]] = {
    "auto": (_c_decoder, _cuda_graph_decoder, _torch_decoder),
    "native": (_c_decoder, _cuda_graph_decoder),
    "torch": (_torch_decoder,),
}
"""By the setting `engine`, in order of preference; each may raise `Unsupported`."""

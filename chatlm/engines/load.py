"""Load a model with the best decoder that supports it: C, CUDA graph, torch, a plugin's runtime of
GGUF files, or transformers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from chatlm.engines.devices import Placement, can_quantize, is_out_of_memory, place_weights
from chatlm.engines.gguf_runtimes import describe_gguf
from chatlm.engines.model import (
    Model,
    ModelInfo,
    Unsupported,
    describe_weights,
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
from chatlm.engines.native.weights import Linear, ModelWeights, read_weights
from chatlm.errors import ChatlmError, ModelError, OutOfMemoryError
from chatlm.hub.generation_config import read_generation_config, recommended_sampling
from chatlm.hub.weights import gguf_file, matrix_dtypes
from chatlm.plugin_host.faults import describe_error
from chatlm.types.runtimes import GgufRuntime

log = logging.getLogger(__name__)

_FORMATS: dict[str, WeightFormat | None] = {
    "auto": None, "bf16": "bf16", "int8": "int8", "int4": "int4",
}  # fmt: skip
"""Formats of native weights by the setting `weights`; None for int8, or int4 where it loses no
more. `python -m benchmarks.speed` shows what each costs in accuracy."""

_NATIVE_ENGINES = ("auto", "native", "torch")


def load(
    name: str,
    folder: Path,
    placement: Placement,
    engine: str = "auto",
    weights: str = "auto",
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
    if engine in _NATIVE_ENGINES:
        try:
            return _load_native(name, folder, placement, engine, weights)
        except Unsupported as reason:
            if engine != "auto":
                raise ModelError(
                    f"{name} cannot be run with engine = {engine}: {reason}",
                    hint="With `chatlm config set engine auto`, chatlm chooses one that can.",
                ) from reason
            if weights in ("auto", "stored"):
                model, notes = _try_runtimes(name, folder, context, runtimes)
                if model is not None:
                    return model
            log.info("%s is run by transformers: %s", name, reason)
            if weights in ("int8", "int4") and not can_quantize():
                notes = (
                    f"The weights could not be held as {weights}: {reason}. transformers can do "
                    "it after `pip install 'chatlm[quantize]'`.",
                )
                weights = "auto"
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"Not enough memory to load {name}",
                hint="Choose a smaller model, or `chatlm config set weights int4`.",
            ) from error
    from chatlm.engines.transformers_model import TransformersModel

    return TransformersModel(name, folder, place_weights(placement, weights), notes)


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
            reasons.append(f"transformers runs this model, in more memory: {reason}.")
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


def _native_format(folder: Path, weights: str) -> WeightFormat | None:
    """Return the format in which a native decoder holds the weights of a folder.

    Raises:
        Unsupported: none holds them as they are asked for.
    """
    if weights in _FORMATS:
        return _FORMATS[weights]
    if weights == "float32":
        raise Unsupported("only transformers computes with float32 weights")
    stored = matrix_dtypes(folder)
    if stored != {"BF16"}:
        raise Unsupported(f"only transformers keeps weights stored as {' and '.join(stored)}")
    return "bf16"


def _load_native(
    name: str, folder: Path, placement: Placement, engine: str, weight_setting: str
) -> Model:
    device, dtype = placement.device, placement.dtype
    on_cpu = device == "cpu" and dtype in (torch.bfloat16, torch.float32)
    if device is None or dtype == "auto" or not (on_cpu or device.startswith("cuda")):
        where = f"{device} in {dtype}" if device else "several devices"
        raise Unsupported(f"only transformers computes on {where}")
    weight_format = _native_format(folder, weight_setting)
    config = read_config(folder)
    try:
        generation = read_generation_config(folder)
    except (OSError, ValueError) as error:
        raise Unsupported(f"its generation config cannot be read: {error}") from error
    weights = read_weights(folder, config, dtype, device)
    notes: tuple[str, ...] = ()
    reasons: list[str] = []
    for open_decoder in _DECODERS[engine]:
        try:
            decoder, label = open_decoder(config, weights, weight_format)
            info = ModelInfo(
                device=device,
                weights=label,
                context_length=config.max_position_embeddings,
                eos_token_ids=parse_eos_token_ids(generation.get("eos_token_id")),
                recommended_sampling=recommended_sampling(name, generation),
                notes=notes,
            )
            model = NativeModel(config, weights, decoder, info)
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


def _c_decoder(
    config: ModelConfig, weights: ModelWeights[Linear], weight_format: WeightFormat | None
) -> tuple[TokenDecoder, str]:
    embedding = weights.embed_tokens
    if embedding.device.type != "cpu":
        raise Unsupported("the C kernel runs on the CPU only")
    CDecoder.check_supported(config)  # before a kernel is compiled in vain
    kernel = Kernel(kernel_library(float32=embedding.dtype is torch.float32), embedding.dtype)
    decoder = CDecoder(kernel, config, weights, weight_format, torch.get_num_threads())
    return decoder, describe_weights(decoder.formats)


def _cuda_graph_decoder(
    config: ModelConfig, weights: ModelWeights[Linear], weight_format: WeightFormat | None
) -> tuple[TokenDecoder, str]:
    return CudaGraphDecoder(config, weights), _label_on_cuda(weights, weight_format, "")


def _torch_decoder(
    config: ModelConfig, weights: ModelWeights[Linear], weight_format: WeightFormat | None
) -> tuple[TokenDecoder, str]:
    if weights.embed_tokens.device.type != "cpu":  # torch's packed products are for the CPU
        label = _label_on_cuda(weights, weight_format, "torch")
        return TorchDecoder(config, weights, "bf16"), label
    decoder = TorchDecoder(config, weights, weight_format)
    return decoder, describe_weights(decoder.formats, "torch")


def _label_on_cuda(
    weights: ModelWeights[Linear], weight_format: WeightFormat | None, engine: str
) -> str:
    embedding = weights.embed_tokens
    if embedding.device.type != "cuda":
        raise Unsupported("CUDA graphs run on CUDA only")
    if weight_format in ("int8", "int4"):
        raise Unsupported("chatlm's decoders quantize no weights on CUDA")
    return describe_weights([str(embedding.dtype).removeprefix("torch.")], engine)


_OpenDecoder = Callable[
    [ModelConfig, ModelWeights[Linear], WeightFormat | None], tuple[TokenDecoder, str]
]

_DECODERS: dict[str, tuple[_OpenDecoder, ...]] = {
    "auto": (_c_decoder, _cuda_graph_decoder, _torch_decoder),
    "native": (_c_decoder, _cuda_graph_decoder),
    "torch": (_torch_decoder,),
}
"""By the setting `engine`, in order of preference; each returns a decoder and the description of
its weights, or raises `Unsupported`."""

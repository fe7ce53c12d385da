"""Run any architecture with transformers, and its adapters with peft."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
)

from chatlm.engines.adapters import ADAPTER_WEIGHTS_FILE, check_lora_init
from chatlm.engines.devices import Placement, is_out_of_memory
from chatlm.engines.gguf_state_dict import open_state_dict
from chatlm.engines.image_check import open_images
from chatlm.engines.image_processor import ImageProcessor
from chatlm.engines.model import (
    NO_IMAGES,
    BlockRules,
    ModelInfo,
    Unsupported,
    describe_weights,
    parse_eos_token_ids,
)
from chatlm.engines.transformers_cache import (
    PrefillMode,
    TransformersCache,
    choose_mode,
    rope_switch,
)
from chatlm.engines.transformers_images import TransformersImages
from chatlm.errors import ModelError, OutOfMemoryError
from chatlm.hub.architecture import (
    check_architecture,
    read_config,
    reads_as_whole,
    unexpected_tensors,
)
from chatlm.hub.generation_config import recommended_sampling
from chatlm.hub.tensor_check import describe_wrong_tensors, quiet_transformers
from chatlm.hub.weights import gguf_file


class TransformersModel:
    """A model computed by transformers.

    Args:
        name: of the model, as the user calls it.
        folder: config.json and weights.
        placement: device and dtype.
        notes: messages to the user about the choice of transformers.
        processor: lets it read images; None for text alone.

    Raises:
        ModelError: the folder does not hold a usable model.
        OutOfMemoryError: the device has too little memory.
    """

    max_step_tokens = 1
    max_draft_tokens = 0

    def __init__(
        self,
        name: str,
        folder: Path,
        placement: Placement,
        notes: tuple[str, ...] = (),
        processor: ImageProcessor | None = None,
    ) -> None:
        self.module = load_model(name, folder, placement)
        _shorten_scans(self.module)
        self.mode = _choose_mode(name, self.module)
        self.rope_switch = rope_switch(self.module.config)
        self.images: TransformersImages | None = None
        """How it reads images; None if it cannot."""
        if processor is not None:
            try:
                self.images = open_images(self.module, processor, self.mode)
            except Unsupported as reason:
                notes = (*notes, f"{NO_IMAGES}{reason}.")
        text_config = self.module.config.get_text_config()
        generation = self.module.generation_config
        self.device_type: str = self.module.device.type
        self.info = ModelInfo(
            device=_device_names(self.module),
            weights=_describe_weights(self.module, placement),
            context_length=getattr(text_config, "max_position_embeddings", None) or 2048,
            eos_token_ids=parse_eos_token_ids(generation.eos_token_id),
            recommended_sampling=recommended_sampling(name, generation.to_dict()),
            notes=(*notes, *filter(None, [self.mode.note])),
            block_rules=BlockRules(self.mode.kind == "blocks", self.rope_switch),
        )

        self.adapters = PeftAdapters(self.module)

    def new_cache(self) -> TransformersCache:
        """Return an empty KV cache."""
        return self.new_adapted_cache(None)

    def new_adapted_cache(self, adapter: str | None) -> TransformersCache:
        """Return an empty KV cache for one of `adapters`; None for none."""
        return TransformersCache(
            self.module,
            self.mode,
            self.rope_switch,
            lambda: self.adapters.activate(adapter),
            self.images,
            adapter,
        )

    def decode(self, caches: Sequence[Any], ids: Sequence[Sequence[int]]) -> Tensor:
        """Decode the tokens of one cache after the other."""
        return torch.cat([cache.decode(new) for cache, new in zip(caches, ids, strict=True)])

    def load_adapter(self, folder: Path) -> PeftAdaptedModel:
        """Load an adapter with peft."""
        return PeftAdaptedModel(self, self.adapters.add(folder))


class PeftAdaptedModel:
    """A model with one of its adapters.

    Args:
        model: that has loaded it.
        adapter: the name that `PeftAdapters.add` returned.
    """

    max_step_tokens = 1
    max_draft_tokens = 0

    def __init__(self, model: TransformersModel, adapter: str) -> None:
        self._model = model
        self._adapter = adapter
        self.device_type = model.device_type

    def new_cache(self) -> TransformersCache:
        """Return an empty KV cache."""
        return self._model.new_adapted_cache(self._adapter)

    def close(self) -> None:
        """Unload the adapter."""
        self._model.adapters.remove(self._adapter)


_SCAN_CHUNK = 64
"""Tokens that a Mamba-2 layer scans at once on the processor; it pads blocks to multiples of that.
The short blocks at the end of a chat are such multiples."""


def _shorten_scans(module: Any) -> None:
    """Let Mamba-2 layers scan fewer tokens at once; only rounding depends on it."""
    for layer in module.modules() if module.device.type == "cpu" else ():
        if hasattr(layer, "chunk_size") and hasattr(layer, "ssm_state_size"):
            layer.chunk_size = min(layer.chunk_size, _SCAN_CHUNK)


def _device_names(model: Any) -> str:
    spread = getattr(model, "hf_device_map", None) or {"": model.device}
    names = {f"cuda:{place}" if isinstance(place, int) else str(place) for place in spread.values()}
    return "+".join(sorted(names))


def _describe_weights(model: Any, placement: Placement) -> str:
    if quantized := placement.quantization_config:
        return describe_weights(["int8" if quantized.load_in_8bit else "int4"], "transformers")
    return describe_weights([str(model.dtype).removeprefix("torch.")], "transformers")


def _choose_mode(name: str, module: Any) -> PrefillMode:
    """Choose how a model reads prompts.

    Raises:
        OutOfMemoryError: the device has too little memory.
        ModelError: it does not read text alone.
    """
    try:
        return choose_mode(module)
    except Exception as error:  # a model may raise anything
        if is_out_of_memory(error):
            raise _memory_error(name) from error
        raise ModelError(
            f"The model {name} cannot read text alone: {_first_line(error)}",
            hint="Choose another model; chatlm gives a model no images, sounds or other inputs.",
        ) from error


def load_model(name: str, folder: Path, placement: Placement) -> Any:
    """Load a model with transformers, ready for inference.

    Raises:
        OutOfMemoryError: the device has too little memory.
        ModelError: transformers cannot load the folder.
    """
    check_architecture(name, read_config(folder))
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            options: dict[str, Any] = {
                "config": config,
                "output_loading_info": True,
                "ignore_mismatched_sizes": True,  # to be refused by name
                "dtype": placement.dtype,
                "device_map": placement.device_map,
                "quantization_config": placement.quantization_config,
                "trust_remote_code": False,
            }
            if gguf := gguf_file(folder):
                loaded = _load_gguf(gguf, options)
            else:
                whole = reads_as_whole(config)
                auto: Any = AutoModelForImageTextToText if whole else AutoModelForCausalLM
                loaded = auto.from_pretrained(
                    folder, use_safetensors=True, local_files_only=True, **options
                )
        except Exception as error:  # transformers raises many types
            if is_out_of_memory(error):
                raise _memory_error(name) from error
            raise _load_error(name, folder, error) from error
    model, report = loaded
    report["unexpected_keys"] = unexpected_tensors(config, report["unexpected_keys"])
    _check_tensors(name, report)
    return model.eval()


def _load_gguf(path: Path, options: dict[str, Any]) -> Any:
    """Load the GGUF file of a model's folder as `from_pretrained` loads the folder."""
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(options["config"])]
    with open_state_dict(path) as tensors:
        loaded = model_class.from_pretrained(None, state_dict=tensors, **options)
    model, _ = loaded
    model.generation_config = GenerationConfig.from_pretrained(path.parent, local_files_only=True)
    model.config.name_or_path = str(path.parent)  # which peft writes into adapters
    model.name_or_path = str(path.parent)
    return loaded


def _memory_error(name: str) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"Not enough memory to load {name}",
        hint="Choose a smaller model, or `chatlm config set weights int4`.",
    )


_QUANTIZED_TENSORS = (
    ("g_idx", "GPTQ"),
    ("qzeros", "AWQ"),
    ("qweight", "GPTQ or AWQ"),
    ("weight_packed", "compressed-tensors"),
    ("absmax", "bitsandbytes"),
    ("weight_scale", "FP8"),
    ("weight_scale_inv", "FP8"),
    ("blocks", "MXFP4"),
)
"""Last parts of the names of quantized tensors, and their formats; the first that is found."""


def _quantized_format(names: Iterable[str]) -> str | None:
    ends = {name.rpartition(".")[2] for name in names}
    return next((label for end, label in _QUANTIZED_TENSORS if end in ends), None)


def _check_tensors(name: str, report: Mapping[str, Any]) -> None:
    """Refuse a model whose files do not have exactly its tensors.

    transformers would give missing ones random values and ignore what it does not know.

    Raises:
        ModelError: a tensor is missing, has another shape, or is not expected.
    """
    if label := _quantized_format(report["unexpected_keys"]):
        hint = (
            f"Its tensors are quantized with {label}, but its config.json does not say how "
            "(quantization_config). Use a complete copy of it, the original repository, or a GGUF "
            "file of it."
        )
    else:
        hint = f"Its files are incomplete or of another model; `chatlm models verify {name}`."
    if wrong := describe_wrong_tensors(report):
        shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3:,} more" if wrong[3:] else "")
        raise ModelError(
            f"The tensors of the model {name} do not fit its config.json: {shown}", hint=hint
        )


def load_tokenizer(name: str, folder: Path) -> Any:
    """Load a model's tokenizer with transformers.

    Raises:
        ModelError: transformers cannot load it.
    """
    with quiet_transformers():
        try:
            return AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # transformers raises many types
            raise _load_error(name, folder, error) from error


def _load_error(name: str, folder: Path, error: Exception) -> ModelError:
    return ModelError(
        f"The model {name} in {folder} cannot be loaded: {_first_line(error)}",
        hint=f"`chatlm models verify {name}` checks its files.",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


_UNSUPPORTED_SETTINGS = ("layer_replication", "arrow_config", "target_parameters")
"""Settings of adapters that change the model itself, which could then not run without them."""


class PeftAdapters:
    """The peft adapters of one model.

    Args:
        module: the model, whose layers peft replaces in place.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self._peft_model: Any = None
        """Wraps the module once an adapter has been loaded."""
        self._active_adapter: str | None = None
        self._counter = itertools.count()

    def add(self, folder: Path) -> str:
        """Load an adapter; return the name it has in peft.

        Raises:
            Unsupported: the model could not run without it afterwards.
            ValueError: it is damaged, or does not fit the model.
        """
        if not (folder / ADAPTER_WEIGHTS_FILE).is_file():  # peft would load a pickle file
            raise ValueError(f"it has no {ADAPTER_WEIGHTS_FILE}")
        name = f"adapter{next(self._counter)}"
        self._active_adapter = ""  # unknown: loading changes what peft has active
        with _quiet_peft():
            try:
                self._load(folder, name)
            except Unsupported:
                raise
            except Exception as error:  # peft raises many types
                with suppress(Exception):
                    self._peft_model.delete_adapter(name)
                raise ValueError(str(error).strip().partition("\n")[0]) from error
        return name

    def activate(self, name: str | None) -> None:
        """Make one adapter active; None for no adapter."""
        if name == self._active_adapter or self._peft_model is None:
            return
        if name is None:
            self._peft_model.base_model.disable_adapter_layers()
        else:
            self._peft_model.base_model.enable_adapter_layers()
            self._peft_model.base_model.set_adapter(name, inference_mode=True)
        self._active_adapter = name

    def remove(self, name: str) -> None:
        """Free an adapter's memory."""
        self._active_adapter = ""
        with _quiet_peft():
            self._peft_model.delete_adapter(name)

    def _load(self, folder: Path, name: str) -> None:
        from peft import PeftConfig, PeftModel

        config: Any = PeftConfig.from_pretrained(str(folder))
        if config.peft_type != "LORA" or config.bias != "none":
            raise Unsupported("it is not a LoRA adapter, or it changes biases")
        for setting in _UNSUPPORTED_SETTINGS:
            if getattr(config, setting, None):
                raise Unsupported(f"it uses {setting}")
        check_lora_init(config.init_lora_weights)
        config.inference_mode = True
        if self._peft_model is None:
            self._peft_model = PeftModel(self._module, config, name, autocast_adapter_dtype=False)
        else:
            self._peft_model.add_adapter(name, config, autocast_adapter_dtype=False)
        result = self._peft_model.load_adapter(
            str(folder), name, torch_device=str(self._module.device), autocast_adapter_dtype=False
        )
        if mismatched := [*result.missing_keys, *result.unexpected_keys]:
            raise ValueError(f"its tensors do not match its config: {mismatched[0]}")


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """Silence the warnings of peft, which would disturb the screen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

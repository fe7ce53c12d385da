"""A GGUF file that llama.cpp computes, as a `chatlm.Model`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatlm import BlockRules, GgufModel, ModelError, ModelInfo, Unsupported, human_bytes
from chatlm_llamacpp.images import LlamaImages, open_images
from chatlm_llamacpp.library import forwarder, load_ggml, load_library, log
from chatlm_llamacpp.lora import gguf_adapter
from chatlm_llamacpp.offload import GPU_RESERVE, Devices, expert_patterns, layers_that_fit
from chatlm_llamacpp.owned import Owned
from chatlm_llamacpp.sequences import CHUNK_TOKENS, ContextOptions, LlamaCache, LlamaContext
from chatlm_llamacpp.settings import Settings


def open_model(model: GgufModel, settings: Settings) -> LlamaCppModel:
    """Load a GGUF file.

    Raises:
        Unsupported: llama.cpp cannot be loaded, or cannot run the model.
        ModelError: it cannot read the file.
        MemoryError: there is not enough memory.
    """
    return LlamaCppModel(load_library(), model, settings)


class LlamaCppModel:
    """A model computed by llama.cpp.

    Args:
        api: see `load_library`.
        model: its file.
        settings: how it is loaded.
    """

    device_type = "cpu"
    """Where the logits are, whatever computes them."""

    def __init__(self, api: Any, model: GgufModel, settings: Settings) -> None:
        self._api = api
        self._file = model
        devices = Devices(load_ggml())
        gpus = devices.gpus()
        layers = settings.n_gpu_layers
        if layers < 0 and gpus:
            free = sum(max(0, gpu.free_bytes - GPU_RESERVE) for gpu in gpus)
            layers = self._layers_that_fit(free, settings)
            log.info("%s: %d layers in %s", model.name, layers, human_bytes(free))
        patterns = [*settings.cpu_tensors, *expert_patterns(settings.n_cpu_moe)]
        params = api.llama_model_default_params()
        params.n_gpu_layers = layers
        if patterns:
            overrides = devices.overrides(patterns)
            params.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
        self._model = self._load(params)
        pointer = self._model.pointer
        self._refuse_other_kinds(pointer)
        trained = int(api.llama_model_n_ctx_train(pointer))
        self.images, notes = self._open_images(use_gpu=bool(gpus and layers))
        self._context = LlamaContext(
            api,
            self._model,
            ContextOptions(
                max_capacity=min(trained, model.context or trained),
                sequences=settings.parallel,
                threads=torch.get_num_threads(),
                type_k=self._ggml_type(settings.type_k),
                type_v=self._ggml_type(settings.type_v),
                swa_full=settings.swa_full,
                grows="rope_factors_long.weight" not in model.tensors,
            ),
            self.images,
        )
        self.info = ModelInfo(
            device="+".join([*(gpu.name for gpu in gpus if layers), "cpu"]),
            weights=f"{self._weights(pointer)}, llama.cpp",
            context_length=trained,
            eos_token_ids=model.eos_token_ids,
            recommended_sampling=model.recommended_sampling,
            notes=notes,
            versions={"llama-cpp-python": api.__version__},
            block_rules=BlockRules(sizes=(CHUNK_TOKENS, CHUNK_TOKENS)),
        )
        rolls_back = not (
            api.llama_model_is_recurrent(pointer)
            or api.llama_model_is_hybrid(pointer)
            or (api.llama_model_n_swa(pointer) and not settings.swa_full)
        )
        self.max_step_tokens = settings.parallel if rolls_back else 1
        self.max_draft_tokens = self.max_step_tokens - 1

    def new_cache(self) -> LlamaCache:
        """Return an empty KV cache."""
        return self._context.new_cache()

    def decode(self, caches: Sequence[Any], ids: Sequence[Sequence[int]]) -> Tensor:
        """Decode new tokens of several caches, in one pass for those with the same adapter."""
        return self._context.decode(caches, ids)

    def load_adapter(self, folder: Path) -> LlamaCppAdaptedModel:
        """Load a LoRA adapter in peft's format, or the GGUF file in its folder."""
        forwarder.errors.clear()
        with gguf_adapter(folder, self._architecture, self._file.find_linear) as path:
            pointer = self._api.llama_adapter_lora_init(self._model.pointer, bytes(path))
        if not pointer:
            raise ValueError(forwarder.cause())
        adapter = Owned(pointer, self._api.llama_adapter_lora_free, self._model)
        return LlamaCppAdaptedModel(self._context, adapter, self.max_step_tokens)

    def _open_images(self, *, use_gpu: bool) -> tuple[LlamaImages | None, tuple[str, ...]]:
        """Return how the model reads images, and why it cannot although it has an mmproj file."""
        mmproj = self._file.mmproj
        if mmproj is None:
            return None, ()
        try:
            if mmproj.projector == "gemma4v" and self._has_layer_embeddings:
                raise Unsupported(
                    "in the small models of Gemma 4 the tokens of an image see only those before "
                    "them, in one direction, while llama.cpp lets them see each other; the model's "
                    "safetensors run with transformers"
                )
            return (
                open_images(
                    self._api,
                    self._model,
                    mmproj.path,
                    mmproj.projector,
                    torch.get_num_threads(),
                    use_gpu=use_gpu,
                ),
                (),
            )
        except Unsupported as reason:
            return None, (f"It cannot read images here: {reason}.",)

    def _weights(self, pointer: Any) -> str:
        """Return llama.cpp's name of the number format of the weights, such as Q4_K - Medium."""
        name: bytes = self._api.llama_ftype_name(self._api.llama_model_ftype(pointer))
        return name.decode()

    @property
    def _has_layer_embeddings(self) -> bool:
        width = self._metadata(f"{self._architecture}.embedding_length_per_layer_input")
        return width not in ("", "0")

    @property
    def _architecture(self) -> str:
        return self._metadata("general.architecture")

    def _metadata(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(256)
        self._api.llama_model_meta_val_str(self._model.pointer, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    def _load(self, params: Any) -> Owned:
        forwarder.errors.clear()
        path = self._file.path
        pointer = self._api.llama_model_load_from_file(bytes(path), params)
        if pointer:
            return Owned(pointer, self._api.llama_model_free)
        reason = forwarder.cause()
        if "unknown model architecture" in reason or "unknown pre-tokenizer" in reason:
            raise Unsupported(f"llama.cpp does not know it: {reason}")
        if "allocate" in reason:
            raise MemoryError(reason)
        raise ModelError(
            f"llama.cpp cannot load {path}: {reason}",
            hint="Copy or download the file again; `chatlm logs` has llama.cpp's messages.",
        )

    def _refuse_other_kinds(self, pointer: Any) -> None:
        api = self._api
        causal = self._metadata(f"{self._architecture}.attention.causal")
        if api.llama_model_has_encoder(pointer) or not api.llama_model_has_decoder(pointer):
            raise Unsupported("it has an encoder, which a chat does not use")
        if api.llama_model_is_diffusion(pointer) or causal == "false":
            raise Unsupported("it does not generate one token after the other")

    def _ggml_type(self, name: str) -> int:
        return int(getattr(self._api, f"GGML_TYPE_{name.upper()}"))

    def _layers_that_fit(self, free_bytes: int, settings: Settings) -> int:
        """Return how many layers the GPUs have room for, with the whole context."""
        api = self._api
        params = api.llama_model_default_params()
        params.no_alloc = True
        pointer = self._load(params).pointer
        heads = max(1, api.llama_model_n_head(pointer))
        width = api.llama_model_n_embd(pointer) // heads * api.llama_model_n_head_kv(pointer)
        tokens = self._file.context or api.llama_model_n_ctx_train(pointer)
        # twice the bytes of f16: keys and values; a smaller format leaves some room
        cache = 4 * width * tokens * settings.parallel
        size = sum(self._file.tensors.values()) or self._file.path.stat().st_size
        return layers_that_fit(free_bytes, size, api.llama_model_n_layer(pointer), cache)


class LlamaCppAdaptedModel:
    """A model with a LoRA adapter, which is not merged into the weights.

    Args:
        context: of the model.
        adapter: the loaded adapter.
        max_step_tokens: of the model.
    """

    device_type = "cpu"

    def __init__(self, context: LlamaContext, adapter: Owned, max_step_tokens: int) -> None:
        self._context = context
        self._adapter = adapter
        self.max_step_tokens = max_step_tokens
        self.max_draft_tokens = max_step_tokens - 1

    def new_cache(self) -> LlamaCache:
        """Return an empty KV cache."""
        return self._context.new_cache(self._adapter)

    def close(self) -> None:
        """Free the adapter."""
        self._context.forget_adapter(self._adapter)
        self._adapter.free()

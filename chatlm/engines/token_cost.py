"""What a new token of a model takes, and how many a second that makes on this machine.

The seconds of a token are those of its products, by the rate at which the kernel multiplies weights
of their formats, of each layer's other work, and of sampling. Large models are thus limited by the
memory, and small ones by the processor; `python -m benchmarks.fit` shows the constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatlm.engines.machine_speed import MachineSpeed, TokenCost, machine_speed
from chatlm.engines.memory_plan import MemoryPlan, ModelFacts
from chatlm.engines.native.kernel import FORMATS
from chatlm.hub.catalogue import CatalogueEntry

_PACKED = {"auto": "Q8_0", "int8": "Q8_0", "int4": "Q4_1", "bf16": "BF16", "stored": "BF16"}
"""The kernel's formats for weights in safetensors, by the setting `weights`."""

_SHARE_OF_RATE = 0.8
"""Part of what the kernel reaches with one large matrix that it reaches with a model's many."""

_LAYERS_OF_PROBE = 4.0
"""What a layer takes beside its products, in the small layers that `measure_kernel` times: it has
more heads, and threads finish its products less evenly."""

_SHARE_OF_BANDWIDTH = 0.81
"""Part of the measured bandwidth that decoding reaches without a measured kernel."""

_LAYER_SECONDS = {"native": 40e-6, "transformers": 600e-6}
"""What a layer takes beside reading its weights without a measured kernel, by what runs it."""

_VOCABULARY_SECONDS = 1e-9
"""What sampling takes for each token of the vocabulary."""


def token_cost(
    facts: ModelFacts,
    plan: MemoryPlan,
    engine: str,
    entry: CatalogueEntry | None = None,
    weights: str = "auto",
) -> TokenCost:
    """Return what a token costs early in a chat.

    An embedding that is not the output matrix too is not read, nor are experts that are not chosen.

    Args:
        facts: about the model.
        plan: of its memory.
        engine: what runs it, see `Fit.engine`.
        entry: of the catalogue, if it has the model.
        weights: the setting.
    """
    share = 1.0
    if entry is not None and entry.active_parameters and entry.parameters:
        share = entry.active_parameters / entry.parameters
    elif experts := _experts(facts.config):
        share = experts
    read = plan.weights * share
    text = facts.config.get("text_config") or facts.config
    vocabulary = int(text.get("vocab_size") or 0)
    if facts.is_gguf and share == 1.0 and vocabulary and facts.has_output_matrix:
        embedding = vocabulary * int(text["hidden_size"])
        read -= embedding / max(1, facts.parameters) * plan.weights
    layers = int(text.get("num_hidden_layers") or len(plan.kv_layout.layers))
    shares = _format_shares(facts, weights)
    return TokenCost(
        {name: part * read for name, part in shares.items()}, layers, vocabulary, engine
    )


def _experts(config: Mapping[str, Any]) -> float | None:
    """Return the share of a mixture of experts that a token reads; None if it is none."""
    text = config.get("text_config") or config
    count = text.get("num_experts") or text.get("num_local_experts") or text.get("n_routed_experts")
    used = text.get("num_experts_per_tok") or text.get("top_k_experts")
    if not isinstance(count, int) or not isinstance(used, int) or count <= 1:
        return None
    outside = 0.05  # attention, embeddings and shared experts, as in published models
    return min(1.0, outside + (1 - outside) * used / count)


def _format_shares(facts: ModelFacts, weights: str) -> Mapping[str, float]:
    """Return which part of the weights' bytes each number format has in memory."""
    if not facts.is_gguf or weights not in ("auto", "stored"):
        return {_PACKED.get(weights, "BF16"): 1.0}
    sizes: dict[str, float] = {}
    for kind, count in facts.types.items():
        name = _format_of(kind)
        sizes[name] = sizes.get(name, 0.0) + count * _bits(name)
    total = sum(sizes.values())
    return {name: size / total for name, size in sizes.items()} if total else {"Q4_K": 1.0}


def _format_of(quantization: str) -> str:
    """Return the format of most weights of a quantization, such as Q4_K of Q4_K_M."""
    known = [name for name in FORMATS if quantization.upper().startswith(name)]
    return max(known, key=len, default=quantization)


def _bits(name: str) -> float:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    except KeyError:
        return 4.5  # about as many as most quantizations have
    return 8 * size / block


def speed_of(cost: TokenCost, device: str, measured: MachineSpeed | None = None) -> float:
    """Return the tokens per second that memory and processor allow.

    Args:
        cost: of a token.
        device: see `MemoryPlan.device`.
        measured: of the device; None for what is stored.
    """
    speed = measured or machine_speed("cuda:0" if device == "auto" else device)
    kernel = speed.kernel
    if kernel is None or device != "cpu" or cost.engine == "transformers":
        layer_seconds = _LAYER_SECONDS.get(cost.engine, _LAYER_SECONDS["native"])
        reading = cost.bytes / (speed.bandwidth * _SHARE_OF_BANDWIDTH)
    else:
        layer_seconds = _LAYERS_OF_PROBE * kernel.layer_seconds
        products = sum(size / kernel.rate(name) for name, size in cost.weights.items())
        reading = products / _SHARE_OF_RATE
    sampling = cost.vocabulary * _VOCABULARY_SECONDS
    return 1 / (reading + cost.layers * layer_seconds + sampling)

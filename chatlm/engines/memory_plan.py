"""Plan a model's memory before it is loaded: what it needs, what is there, what fits instead."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch

from chatlm.engines.devices import Placement
from chatlm.engines.draft_model import FIRST_TOKENS, MAX_TEXT
from chatlm.engines.kv_layout import MAX_STATES, KVLayout, read_kv_layout
from chatlm.engines.machine_memory import available_memory, own_memory
from chatlm.engines.model import Unsupported
from chatlm.engines.native.architectures.registry import read_config as read_native_config
from chatlm.engines.native.kv_cache import ROOM, KVFormat, kv_row_format
from chatlm.errors import OutOfMemoryError
from chatlm.hub.architecture import read_config
from chatlm.hub.disk import human_bytes
from chatlm.hub.installed import ModelDetails, list_installed_models
from chatlm.hub.quantization_config import (
    QuantizedLayout,
    UnreadableQuantization,
    read_quantization,
)
from chatlm.hub.vision import reads_images
from chatlm.hub.weights import (
    gguf_file,
    parameters_by_type,
    tensor_shapes,
    weight_files,
)
from chatlm.types.memory import MemoryBudget

_BITS = {"int4": 5.0, "int8": 8.5, "bf16": 16.0, "auto": 8.5}
"""Bits per weight of chatlm's packed formats, scales included. auto may also become int4."""

_BITS_OF_TRANSFORMERS = {"int4": 4.5, "int8": 8.0}
"""Bits per quantized weight in transformers; the embedding and the output matrix keep 16."""

_REPACKED_FACTOR = 1.2
"""Packed weights of a quantized checkpoint, whose scales are repeated for every 32 columns, to its
files, if they have 4 bits; those of 8 bits take less."""

_GGUF_FACTOR = 1.03
"""Packed weights of a GGUF file, as a part of its size."""

_MXFP4_BITS = 4.25
"""Bits per weight of MXFP4 in a file, scales included."""

_PACKED_MXFP4_BITS = 4.5
"""The same in chatlm's packed form."""

_NATIVE_PROGRAM = 270_000_000
"""Program, screen and torch without a model: 220 MB measured with `chatlm ask`, and the screen."""

_TRANSFORMERS_PROGRAM = 430_000_000
"""The same with transformers, measured as 396 MB."""

_BYTES_PER_VOCABULARY_TOKEN = 1000
"""What tokenizer and samplers keep of each token; `python -m benchmarks.fit` shows the whole."""

_CUDA_PROGRAM = 600_000_000
"""What CUDA and its libraries take on a device; not measured."""

_BLOCK = 256
"""Tokens of a prompt that are computed at once."""

_EXPERT_BLOCK = 32
"""To a multiple of it, the tokens of a block that use the same expert are padded."""

_USABLE_SHARE = 0.9
"""Share of the available memory that the default context and the prompt cache may fill."""

MIN_CONTEXT = 2048
"""The least context that chatlm chooses by itself, or the model's own if that is less."""


@dataclass(frozen=True)
class MemoryPlan:
    """What one model needs, by the length of its context.

    Args:
        weights: bytes.
        program: bytes, with what the computation takes.
        kv_layout: of its KV cache.
        number_bytes: bytes of a number in it, with its share of a scale.
        own_context: positions that the model supports.
        available: bytes; None if unknown.
        device: whose memory it is.
        keeps_states: whether its caches keep copies of earlier states.
        keeps_windows: whether its caches keep what windows had before.
        draft_model: bytes of a model that drafts tokens for it, with its KV cache.
    """

    weights: int
    program: int
    kv_layout: KVLayout
    number_bytes: float
    own_context: int
    available: int | None
    device: str
    keeps_states: bool = False
    keeps_windows: bool = False
    draft_model: int = 0

    def kv_bytes(self, tokens: int) -> int:
        """Return the size of the KV cache of a text of this length."""
        return int(self.kv_layout.numbers(tokens) * self.number_bytes) + self._extra_bytes(tokens)

    def _extra_bytes(self, tokens: int) -> int:
        """Return the size of states, and of what is kept so that windows and states can go back."""
        states = 4 * self.kv_layout.state_size * (1 + MAX_STATES * self.keeps_states)
        if not self.keeps_windows:
            return states
        return states + int(self.kv_layout.numbers_in_checkpoints(tokens) * self.number_bytes)

    def budget(self, context: int | None) -> MemoryBudget:
        """Return the budget for a context; what is left over goes to the prompt cache.

        Args:
            context: tokens; None for as many as fit, up to the model's own length.
        """
        chosen = min(context, self.own_context) if context else self._longest_context()
        kv_cache = self.kv_bytes(chosen)
        left = kv_cache if self.available is None else max(0, self._room() - kv_cache)
        return MemoryBudget(
            device=self.device,
            weights=self.weights,
            kv_cache=kv_cache,
            context_length=chosen,
            prompt_cache=min(kv_cache, left),
            per_prompt=min(kv_cache, self._extra_bytes(chosen)),
            program=self.program,
            available=self.available,
            draft_model=self.draft_model,
        )

    def _room(self) -> int:
        """Return what is left for KV caches."""
        usable = int((self.available or 0) * _USABLE_SHARE)
        return usable - self.weights - self.program - self.draft_model

    def _longest_context(self) -> int:
        lengths = _context_lengths(self.own_context)
        if self.available is None:
            return lengths[0]
        return next((each for each in lengths if self.kv_bytes(each) <= self._room()), lengths[-1])


def _context_lengths(own: int) -> list[int]:
    """Return the lengths that are tried, longest first: few, so that a chat is continued with the
    same length even if a little less memory is available."""
    steps = (step << power for power in range(30, 9, -1) for step in (3, 2))
    return [own, *(step for step in steps if MIN_CONTEXT <= step < own)]


class ModelFacts(Protocol):
    """What is known about a model: from its folder, or before it is downloaded."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Values of its config.json."""
        ...

    @property
    def is_gguf(self) -> bool:
        """Whether its weights are a GGUF file."""
        ...

    @property
    def file_bytes(self) -> int:
        """Size of its files of weights."""
        ...

    @property
    def parameters(self) -> int:
        """Number of its parameters."""
        ...

    @property
    def types(self) -> Mapping[str, int]:
        """The same by the number format that stores them."""
        ...

    @property
    def has_output_matrix(self) -> bool:
        """Whether it has an output matrix of its own beside the embedding."""
        ...

    @property
    def is_native(self) -> bool:
        """Whether chatlm's own decoders read its config.json."""
        ...

    @property
    def reads_images(self) -> bool:
        """Whether transformers is preferred, since it reads images."""
        ...


class FolderFacts:
    """The facts about the model in a folder, each read when it is asked for.

    Args:
        folder: of the model.

    Raises:
        ModelError: its config.json cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.config = read_config(folder)

    @property
    def is_gguf(self) -> bool:
        """Whether its weights are a GGUF file."""
        return gguf_file(self._folder) is not None

    @property
    def file_bytes(self) -> int:
        """Size of its files of weights."""
        return sum(path.stat().st_size for path in weight_files(self._folder))

    @property
    def parameters(self) -> int:
        """Number of its parameters."""
        return sum(self.types.values())

    @cached_property
    def types(self) -> Mapping[str, int]:
        """The same by the number format that stores them."""
        return parameters_by_type(self._folder)

    @cached_property
    def has_output_matrix(self) -> bool:
        """Whether it has an output matrix of its own beside the embedding."""
        text = self.config.get("text_config") or self.config
        embedding = int(text["vocab_size"]) * int(text.get("hidden_size") or text["n_embd"])
        shapes = tensor_shapes(self._folder).values()
        return [prod(shape) for shape in shapes if len(shape) == 2].count(embedding) > 1

    @property
    def is_native(self) -> bool:
        """Whether chatlm's own decoders read its config.json."""
        try:
            read_native_config(self._folder)
        except Unsupported:
            return False
        return True

    @property
    def reads_images(self) -> bool:
        """Whether its files have what reads images."""
        return reads_images(self._folder)


def plan_memory(
    folder: Path,
    placement: Placement,
    engine: str = "auto",
    weights: str = "auto",
    kv_cache: KVFormat = "auto",
    runtimes: Collection[str] = (),
    draft_model: Path | None = None,
    reserved: int = 0,
) -> MemoryPlan | None:
    """Estimate a model's memory from its config.json and the headers of its files.

    Args:
        folder: of the model.
        placement: where it would be loaded.
        engine: see `chatlm.engines.load.load`.
        weights: see `chatlm.engines.load.load`.
        kv_cache: see `chatlm.engines.load.load`.
        runtimes: names of those that plugins offer.
        draft_model: folder of a model that drafts tokens for it, see
            `chatlm.engines.draft_loading.draft_problem`; None for none.
        reserved: available bytes that others may still take.

    Returns:
        None if its config.json does not say enough.

    Raises:
        ModelError: its config.json cannot be read.
    """
    plan = plan_model(FolderFacts(folder), placement, engine, weights, kv_cache, runtimes, reserved)
    if plan is None or draft_model is None:
        return plan
    drafts = plan_model(FolderFacts(draft_model), placement, "native", kv_cache=kv_cache)
    if drafts is None:
        return plan
    text = MAX_TEXT + FIRST_TOKENS + ROOM
    return dataclasses.replace(plan, draft_model=drafts.weights + drafts.kv_bytes(text))


def plan_model(
    facts: ModelFacts,
    placement: Placement,
    engine: str = "auto",
    weights: str = "auto",
    kv_cache: KVFormat = "auto",
    runtimes: Collection[str] = (),
    reserved: int = 0,
) -> MemoryPlan | None:
    """Estimate a model's memory; like `plan_memory`, for a model that need not be here."""
    config = facts.config
    device = placement.device or "auto"
    on_native_device = device == "cpu" or device.startswith("cuda")
    native = (
        engine != "transformers"
        and weights != "float32"
        and on_native_device
        and facts.is_native
        and not (engine == "auto" and facts.reads_images)
    )
    by_runtime = facts.is_gguf and (
        engine in runtimes
        or (engine == "auto" and not native and weights in ("auto", "stored") and bool(runtimes))
    )
    if by_runtime:  # it keeps in main memory what a GPU has no room for
        native, device = False, "cpu"
    number_bytes = 4 if weights == "float32" or placement.dtype is torch.float32 else 2
    try:
        text = config.get("text_config") or config
        row_multiple, kv_number_bytes = 1, float(number_bytes)
        if by_runtime:
            kv_number_bytes = 2.0
        elif native:
            row_multiple, kv_number_bytes = kv_row_format(number_bytes, kv_cache)
        layout = read_kv_layout(config, row_multiple=row_multiple, keeps_all=native)
        own_context = int(text.get("max_position_embeddings") or text.get("n_positions") or 2048)
        hidden = int(text.get("hidden_size") or text["n_embd"])
        vocabulary = int(text["vocab_size"])
        inner = int(text.get("intermediate_size") or 4 * hidden)
        computing = 4 * (_BLOCK * (4 * hidden + 3 * inner) + 2 * vocabulary)
        computing += _BYTES_PER_VOCABULARY_TOKEN * vocabulary
        computing += number_bytes * _expert_numbers(text, hidden, inner)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    if by_runtime:
        weight_bytes = facts.file_bytes
    elif native:
        unpacked = _layer_input_numbers(text) if device == "cpu" else 0
        weight_bytes = _native_weights(facts, device, weights, vocabulary * hidden, unpacked)
    else:
        weight_bytes = _transformers_weights(facts, weights, number_bytes, vocabulary * hidden)
    available = available_memory(device)
    if device in ("cpu", "mps"):
        program = _NATIVE_PROGRAM if native or by_runtime else _TRANSFORMERS_PROGRAM
        if available is not None:  # without what the program has taken already
            available += min(own_memory(), program)
    else:
        program = _CUDA_PROGRAM
    if available is not None:
        available = max(0, available - reserved)
    return MemoryPlan(
        weights=weight_bytes,
        program=program + computing,
        kv_layout=layout,
        number_bytes=kv_number_bytes,
        own_context=own_context,
        available=available,
        device=device,
        keeps_states=not by_runtime,
        keeps_windows=not native and not by_runtime,
    )


def _expert_numbers(text: Mapping[str, Any], hidden: int, inner: int) -> int:
    """Return the size of the inputs and inner values of a block's experts; 0 without experts."""
    count = int(text.get("num_local_experts") or text.get("num_experts") or 0)
    slots = _BLOCK * int(text.get("num_experts_per_tok") or 0)
    if not count or not slots:
        return 0
    padded = slots + min(count, slots) * (_EXPERT_BLOCK - 1)
    return padded * (hidden + int(text.get("moe_intermediate_size") or inner))


def _quantized_layout(config: Mapping[str, Any]) -> QuantizedLayout | None:
    try:
        return read_quantization(config)
    except UnreadableQuantization:  # the architecture's own, such as MXFP4
        return None


def _layer_input_numbers(text: Mapping[str, Any]) -> int:
    """Return the size of a table with inputs of all layers (Gemma 4); 0 without."""
    size = int(text.get("hidden_size_per_layer_input") or 0)
    rows = int(text.get("vocab_size_per_layer_input") or text["vocab_size"])
    return rows * int(text["num_hidden_layers"]) * size if size else 0


def _native_weights(
    facts: ModelFacts, device: str, weights: str, embedding: int, unpacked: int
) -> int:
    """Return the bytes of the packed weights; the embedding and `unpacked` other numbers are read
    from the file row by row."""
    types = Counter(facts.types)
    mxfp4 = 0 if facts.is_gguf else int(types.pop("U8", 0) * 8 / _MXFP4_BITS)  # codes and scales
    parameters = types.total()
    as_stored = weights in ("auto", "stored")
    if _quantized_layout(facts.config) is not None:
        bits = _BITS["int4"] if as_stored else _BITS[weights]
        bits = bits if device == "cpu" else 16
        return int(_REPACKED_FACTOR * facts.file_bytes * bits / _BITS["int4"])
    if device != "cpu":
        return 2 * (parameters + mxfp4)
    if facts.is_gguf and as_stored:
        is_mxfp4 = types["MXFP4"] > parameters / 2
        factor = _PACKED_MXFP4_BITS / _MXFP4_BITS if is_mxfp4 else _GGUF_FACTOR
        return int(factor * facts.file_bytes * (1 - unpacked / max(1, parameters)))
    packed_mxfp4 = mxfp4 * (_PACKED_MXFP4_BITS if as_stored else _BITS[weights]) / 8
    copies = _copies(facts)
    if weights == "stored":
        in_file = ((copies - 1) * embedding + unpacked) / max(1, parameters)
        stored = facts.file_bytes - mxfp4 * _MXFP4_BITS / 8
        return int(stored * (1 - in_file) + packed_mxfp4)
    bits = _BITS[weights]
    head_bits = max(bits, _BITS["int8"])
    # without an output matrix of its own, a model uses the embedding, which is packed for that
    others = max(0, parameters - copies * embedding - unpacked)
    return int((others * bits + embedding * head_bits) / 8 + packed_mxfp4)


def _transformers_weights(
    facts: ModelFacts, weights: str, number_bytes: int, embedding: int
) -> int:
    if weights in _BITS_OF_TRANSFORMERS:
        kept = _copies(facts) * embedding
        others = max(0, facts.parameters - kept)
        return int(others * _BITS_OF_TRANSFORMERS[weights] / 8) + 2 * kept
    if weights == "stored" and not facts.is_gguf:
        return facts.file_bytes
    return facts.parameters * number_bytes


def images_do_not_fit(
    facts: ModelFacts,
    placement: Placement,
    engine: str = "auto",
    weights: str = "auto",
    kv_cache: KVFormat = "auto",
    runtimes: Collection[str] = (),
    reserved: int = 0,
    *,
    context: int | None = None,
) -> MemoryBudget | None:
    """Return what a model needs to read images if it fits natively alone, for text; else None.

    Args:
        facts: about the model.
        placement: see `plan_memory`.
        engine: see `plan_memory`; only auto leaves the choice.
        weights: see `plan_memory`.
        kv_cache: see `plan_memory`.
        runtimes: see `plan_memory`.
        reserved: see `plan_memory`.
        context: as set by the user; None for as much as fits.
    """
    if engine != "auto" or not facts.reads_images or not facts.is_native:
        return None
    budgets = []
    for each in ("auto", "native"):
        plan = plan_model(facts, placement, each, weights, kv_cache, runtimes, reserved)
        if plan is None or plan.available is None:
            return None
        budgets.append(plan.budget(context))
    seeing, native = budgets
    return seeing if native.fits and not seeing.fits else None


def _copies(facts: ModelFacts) -> int:
    """Return whether a model has an embedding alone, or an output matrix of its own, too."""
    return 2 if facts.has_output_matrix else 1


def budget_memory(
    name: str,
    folder: Path,
    placement: Placement,
    *,
    engine: str = "auto",
    weights: str = "auto",
    kv_cache: KVFormat = "auto",
    context: int | None = None,
    refuse: bool = True,
    runtimes: Collection[str] = (),
    draft_model: Path | None = None,
    reserved: int = 0,
) -> MemoryBudget | None:
    """Return the budget of a model that may be loaded; None if it cannot be estimated.

    Args:
        name: of the model.
        folder: of the model.
        placement: where it is loaded.
        engine: see `chatlm.engines.load.load`.
        weights: see `chatlm.engines.load.load`.
        kv_cache: see `chatlm.engines.load.load`.
        context: as set by the user; None for as much as fits.
        refuse: whether to refuse a model that does not fit.
        runtimes: see `plan_memory`.
        draft_model: see `plan_memory`.
        reserved: see `plan_memory`.

    Raises:
        OutOfMemoryError: it does not fit; the message says what is needed and available, the hint
            what fits.
        ModelError: its config.json cannot be read.
    """

    def plan_with(weights: str, kv_cache: KVFormat = kv_cache) -> MemoryPlan | None:
        return plan_memory(
            folder, placement, engine, weights, kv_cache, runtimes, draft_model, reserved
        )

    plan = plan_with(weights)
    if plan is None:
        return None
    budget = plan.budget(context)
    if budget.fits or budget.available is None or not refuse:
        return budget
    parts = ", ".join(f"{what} {human_bytes(size)}" for what, size in budget.rows()[:-2] if size)
    raise OutOfMemoryError(
        f"{name} needs {human_bytes(budget.total)} of memory on {budget.device} ({parts}), but "
        f"{human_bytes(budget.available)} are available",
        hint=_suggest(name, folder, plan, context, weights, plan_with),
        missing=budget.total - budget.available,
    )


_PlanWith = Callable[..., MemoryPlan | None]
"""`(weights, kv_cache) -> plan`: the plan with other settings; the second may be omitted."""


def _suggest(
    name: str,
    folder: Path,
    plan: MemoryPlan,
    context: int | None,
    weights: str,
    plan_with: _PlanWith,
) -> str:
    """Return what would fit, as a hint."""
    fitting = [
        *_smaller_context(plan, context),
        *_smaller_kv_cache(plan, context, plan_with(weights, "int8")),
        *_smaller_weights(weights, context, plan_with),
        *_smaller_quantizations(name, folder, plan),
    ]
    if plan.device != "cpu" and list(folder.glob("*.gguf")):
        fitting.append("`chatlm config set engine llamacpp`, which keeps a part in main memory")
    begin = f"This fits: {'; '.join(fitting)}. Or close" if fitting else "Close"
    return (
        f"{begin} other programs, choose a smaller model (`chatlm models list`), or load it "
        "anyway with `chatlm config set check_memory false`."
    )


def _smaller_context(plan: MemoryPlan, context: int | None) -> Iterator[str]:
    if context is not None:
        budget = plan.budget(None)
        if budget.fits and budget.context_length < context:
            yield (
                f"`chatlm config set context {budget.context_length}` ({human_bytes(budget.total)})"
            )


def _smaller_kv_cache(
    now: MemoryPlan, context: int | None, plan: MemoryPlan | None
) -> Iterator[str]:
    if plan is not None and plan.number_bytes < now.number_bytes:
        budget = plan.budget(context)
        if budget.fits:
            yield f"`chatlm config set kv_cache int8` ({human_bytes(budget.total)})"


def _smaller_weights(weights: str, context: int | None, plan_with: _PlanWith) -> Iterator[str]:
    now = plan_with(weights)
    for smaller in ("int8", "int4"):
        plan = plan_with(smaller)
        if plan is None or now is None or plan.weights >= now.weights:
            continue
        budget = plan.budget(context)
        if budget.fits:
            yield f"`chatlm config set weights {smaller}` ({human_bytes(budget.total)})"
            return


def _smaller_quantizations(name: str, folder: Path, plan: MemoryPlan) -> Iterator[str]:
    """Yield the largest smaller quantization of the same model that is installed and fits."""
    family = _without_quantization(name)
    smaller = [
        other
        for other in list_installed_models()
        if other.folder and other.folder != folder and _without_quantization(other.name) == family
    ]
    for other in sorted(smaller, key=lambda other: other.bytes, reverse=True):
        if (total := _estimate_by_size(other, plan)) is not None:
            yield f"the model {other.name} ({human_bytes(total)})"
            return


def _estimate_by_size(other: ModelDetails, plan: MemoryPlan) -> int | None:
    """Return what another quantization needs if it fits, by the size of its files."""
    theirs = dataclasses.replace(plan, weights=int(_GGUF_FACTOR * other.bytes))
    budget = theirs.budget(None)
    return budget.total if theirs.weights < plan.weights and budget.fits else None


_QUANTIZATION = re.compile(
    r"[-_.]?(i?q[0-9](_[0-9k])?(_(xxs|xs|s|m|l|nl))?|bf16|f16|f32|fp16|mxfp4|int[48]|gguf)$", re.I
)


def _without_quantization(name: str) -> str:
    """Return the name of a model without that of its quantization, such as Q4_K_M."""
    stem = name.lower().removesuffix(".gguf")
    while (shorter := _QUANTIZATION.sub("", stem)) != stem:
        stem = shorter
    return stem

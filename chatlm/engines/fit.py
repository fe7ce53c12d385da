"""Whether a model fits this machine and how fast it would be, before it is downloaded or loaded."""

from __future__ import annotations

import dataclasses
import shutil
import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from chatlm.config import paths
from chatlm.config.config import Config
from chatlm.engines.devices import Placement, resolve_placement
from chatlm.engines.kv_layout import KVLayer, KVLayout
from chatlm.engines.machine_speed import (
    MAX_OTHERS,
    MIN_TOKENS,
    UNKNOWN_COST,
    RecordedRun,
    TokenCost,
    record_run,
    recorded_runs,
    refresh_machine_speed,
)
from chatlm.engines.memory_plan import (
    FolderFacts,
    MemoryPlan,
    ModelFacts,
    images_do_not_fit,
    plan_model,
)
from chatlm.engines.native.architectures.registry import FAMILIES
from chatlm.engines.token_cost import speed_of, token_cost
from chatlm.errors import ModelError
from chatlm.hub.architecture import proven_modes
from chatlm.hub.catalogue import CatalogueEntry, catalogue, find_entry
from chatlm.hub.disk import human_bytes
from chatlm.hub.gguf.architectures import ARCHITECTURES
from chatlm.hub.installed import ModelDetails, ModelLocation
from chatlm.hub.other_programs import find_stored_model
from chatlm.types.engine import EngineInfo
from chatlm.types.memory import MemoryBudget
from chatlm.types.replies import Usage

Verdict = Literal["fits", "tight", "too big", "unknown"]

COMFORTABLE_CONTEXT = 8192
"""Tokens of context, or the model's own if that is less, with which a model counts as fitting."""

_ERROR_OF_TRANSFORMERS = 0.5
"""Relative error of a speed with transformers, which is less regular."""

_ERROR_WITHOUT_RUNS = 0.3
"""Relative error of a speed that no run on this machine corrected."""

_ERROR_OF_OWN_RUNS = 0.1
"""Relative error of the speed of a model that has run here."""

_MAX_CORRECTION = 1.5
"""Most that runs raise what is expected: a reply that repeats earlier text is drafted, and faster
than another model would be."""

_USUAL_KV_NUMBERS = 36 * 2048
"""Numbers of the KV cache per token, where the shape is unknown: as of a 4B or 8B model."""


@dataclass(frozen=True)
class Fit:
    """What a model needs on this machine."""

    verdict: Verdict
    memory: MemoryBudget | None
    """With the context that would be chosen; None if its needs are unknown."""
    download_bytes: int
    """0 if it is here."""
    disk_missing: int
    """Bytes that the disk lacks for the download."""
    tokens_per_second: float | None
    """Of a reply; None if unknown."""
    speed_error: float
    """Relative error of that."""
    engine: str
    """What would run it: native, transformers, or a runtime such as llamacpp; empty for nothing
    that is installed."""
    needed: int = 0
    """Bytes of memory with a context of `COMFORTABLE_CONTEXT`; 0 if unknown."""
    is_estimate: bool = False
    """Whether the shape of the model is unknown, so that its context's memory is a guess."""

    @property
    def runs(self) -> bool:
        """Whether it can be used here."""
        return self.verdict in ("fits", "tight") and not self.disk_missing and bool(self.engine)

    @property
    def speed_text(self) -> str:
        """The speed in words, such as ~12 tokens/s; empty if unknown."""
        if self.tokens_per_second is None:
            return ""
        return f"~{_two_digits(self.tokens_per_second)} tokens/s"

    @property
    def summary(self) -> str:
        """The verdict and why, in a few words."""
        if not self.engine:
            return "needs llama.cpp"
        if self.disk_missing:
            return "disk full"
        return self.verdict

    def describe_need(self, name: str) -> str:
        """Return what the model needs and what is there, in a sentence."""
        if self.disk_missing:
            return (
                f"{name} needs {human_bytes(self.download_bytes)} on the disk; "
                f"{human_bytes(self.disk_missing)} more are needed than are free."
            )
        memory = self.memory
        if memory is None or memory.available is None:
            return f"How much memory {name} needs is not known."
        about = "about " if self.is_estimate or self.download_bytes else ""
        needed, context = self.needed, min(COMFORTABLE_CONTEXT, memory.context_length)
        if needed > memory.available:
            needed, context = memory.total, memory.context_length
        return (
            f"{name} needs {about}{human_bytes(needed)} of memory with a context of "
            f"{context:,} tokens; {human_bytes(memory.available)} are available on "
            f"{memory.device}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        speed = self.tokens_per_second
        return {
            "verdict": self.verdict,
            "engine": self.engine or None,
            "needed_bytes": self.needed or None,
            "memory": self.memory.to_dict() if self.memory else None,
            "download_bytes": self.download_bytes,
            "disk_missing": self.disk_missing,
            "tokens_per_second": round(speed, 1) if speed is not None else None,
            "tokens_per_second_error": self.speed_error if speed is not None else None,
            "estimate": self.is_estimate,
        }


class EntryFacts:
    """The facts about a model of the catalogue that need not be here.

    Args:
        entry: of the catalogue.
        file_bytes: size of its weights; 0 for those of the default files.
    """

    def __init__(self, entry: CatalogueEntry, file_bytes: int = 0) -> None:
        self._entry = entry
        self.is_gguf = entry.gguf is not None
        self.file_bytes = file_bytes or entry.bytes

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Values of its config.json, as far as its memory depends on them."""
        shape = dict(self._entry.shape or {})
        config = shape | {
            "model_type": self._entry.model_type,
            "max_position_embeddings": self._entry.context_length,
        }
        layers = int(shape.get("num_hidden_layers", 0))
        if interval := shape.get("full_attention_interval"):
            config["layer_types"] = [
                "linear_attention" if number % interval else "full_attention"
                for number in range(1, layers + 1)
            ]
        elif full := shape.get("full_attention_layers"):
            config["layer_types"] = ["full_attention"] * full + ["conv"] * (layers - full)
        return config

    @property
    def parameters(self) -> int:
        """Number of its parameters; from the size of 16-bit weights if that is not known."""
        return self._entry.parameters or self.file_bytes // 2

    @property
    def types(self) -> Mapping[str, int]:
        """The same by the number format that stores them, as far as it matters."""
        files = self._entry.gguf.files[0] if self._entry.gguf else None
        return {files.quantization if files else "BF16": self.parameters}

    @property
    def has_output_matrix(self) -> bool:
        """Whether it has an output matrix of its own beside the embedding."""
        return not self.config.get("tie_word_embeddings", True)

    @property
    def is_native(self) -> bool:
        """Whether chatlm's own decoders read its architecture."""
        return self._entry.model_type in FAMILIES

    reads_images = False
    """Of its files, which are not here, nothing is known."""


@dataclass(frozen=True)
class FileFacts:
    """What is known about GGUF files of which only the size is known."""

    file_bytes: int
    context_length: int = COMFORTABLE_CONTEXT
    is_gguf: bool = True
    has_output_matrix: bool = False
    is_native: bool = True
    reads_images: bool = False

    @property
    def config(self) -> Mapping[str, Any]:
        """Nothing is known."""
        return {"max_position_embeddings": self.context_length}

    @property
    def parameters(self) -> int:
        """As many as 4-bit weights of this size have."""
        return int(self.file_bytes * 8 / 4.9)

    @property
    def types(self) -> Mapping[str, int]:
        """The same by the number format that stores them: those of a usual file."""
        return {"Q4_K": self.parameters}


@dataclass(frozen=True)
class RepositoryFacts:
    """The facts about a model in safetensors that is not here.

    Args:
        config: values of its config.json.
        file_bytes: size of its weights.
    """

    config: Mapping[str, Any]
    file_bytes: int
    is_gguf: bool = False

    @property
    def parameters(self) -> int:
        """Number of its parameters, from the size of its weights; of quantized ones, the number
        that takes as much memory."""
        kind = str(self.config.get("dtype") or self.config.get("torch_dtype"))
        return self.file_bytes // (4 if kind == "float32" else 2)

    @property
    def types(self) -> Mapping[str, int]:
        """The same by the number format that stores them."""
        return {"BF16": self.parameters}

    @property
    def has_output_matrix(self) -> bool:
        """Whether it has an output matrix of its own beside the embedding."""
        text = self.config.get("text_config") or self.config
        return not text.get("tie_word_embeddings", self.config.get("tie_word_embeddings", True))

    @property
    def is_native(self) -> bool:
        """Whether chatlm's own decoders read its architecture."""
        return self.config.get("model_type") in FAMILIES

    @property
    def reads_images(self) -> bool:
        """Whether it has a part that reads images; its processor comes with it."""
        return isinstance(self.config.get("vision_config"), Mapping)


class FitChecker:
    """Tells how models fit this machine, with the user's settings; measured once and kept.

    Args:
        config: the user's settings.
        runtimes: names of what plugins offer to run GGUF files.

    Raises:
        ModelError: the machine has no such device.
    """

    def __init__(self, config: Config, runtimes: Collection[str] = ()) -> None:
        self._config = config
        self._runtimes = tuple(runtimes)
        self._placement: Placement = resolve_placement(config.device)
        self._runs = recorded_runs()
        self._disk_free = _free_disk(paths.models_dir())

    def check(self, details: ModelDetails) -> Fit | None:
        """Return how a model of the catalogue or an installed one fits; None for another kind than
        chat, or a model of a server."""
        stored = find_stored_model(details.name)
        found = find_entry(details.name if stored is None else details.name.partition(":")[2])
        entry = found[0] if found else None
        if details.kind != "chat":
            return None
        if stored is not None and not details.installed:
            fit = self.check_files(details.name, stored.bytes, entry)
            return dataclasses.replace(fit, download_bytes=0, disk_missing=0)
        if details.installed and details.folder is not None:
            try:
                return self._check(details.name, FolderFacts(details.folder), 0, entry)
            except (ModelError, OSError):
                return None
        if entry is None:
            return None
        return self._check(details.name, EntryFacts(entry, details.bytes), details.bytes, entry)

    def check_entry(self, entry: CatalogueEntry) -> Fit:
        """Return how a model of the catalogue fits that is not here."""
        return self._check(entry.name, EntryFacts(entry), entry.bytes, entry)

    def check_files(self, name: str, size: int, entry: CatalogueEntry | None = None) -> Fit:
        """Return how GGUF files fit that are not here.

        Args:
            name: of the model.
            size: bytes.
            entry: of the same model in the catalogue, if it is known.
        """
        facts: ModelFacts = EntryFacts(entry, size) if entry else FileFacts(size)
        return self._check(name, facts, size, entry)

    def check_repository(self, name: str, config: Mapping[str, Any], size: int) -> Fit | None:
        """Return how a model in safetensors fits that is not here; None if nothing runs it, which
        its download explains.

        Args:
            name: of the model.
            config: values of its config.json.
            size: bytes of its weights.
        """
        fit = self._check(name, RepositoryFacts(config, size), size, None)
        return fit if fit.engine else None

    def smaller(self, entry_or_size: CatalogueEntry | int) -> CatalogueEntry | None:
        """Return the largest chat model of the catalogue that is smaller and fits; None if none
        does."""
        size = entry_or_size if isinstance(entry_or_size, int) else entry_or_size.bytes
        chat = [each for each in catalogue().values() if each.kind == "chat" and each.bytes < size]
        for entry in sorted(chat, key=lambda each: each.bytes, reverse=True):
            fit = self.check_entry(entry)
            if fit.verdict == "fits" and fit.engine and not fit.disk_missing:
                return entry
        return None

    def describe_load(self, location: ModelLocation) -> str:
        """Return how an installed model fits, what memory it takes and how fast it will be, in a
        few words; empty if that is not known."""
        found = find_entry(location.name)
        try:
            fit = self._check(
                location.name, FolderFacts(location.folder), 0, found[0] if found else None
            )
        except (ModelError, OSError, KeyError, ValueError, TypeError):
            return ""
        if fit.memory is None or not fit.engine:
            return ""
        speed = f", {fit.speed_text}" if fit.speed_text else ""
        return f"{fit.summary}: {human_bytes(fit.memory.total)} of memory{speed}"

    def cost_of(self, location: ModelLocation) -> TokenCost:
        """Return what a token of an installed model costs.

        Raises:
            ModelError: its files cannot be read.
        """
        facts = FolderFacts(location.folder)
        found = find_entry(location.name)
        entry = found[0] if found else None
        plan = self._plan(facts)
        if plan is None:
            return UNKNOWN_COST
        engine = self._engine(facts, entry)
        return token_cost(facts, plan, engine, entry, self._config.weights)

    def _check(
        self, name: str, facts: ModelFacts, download: int, entry: CatalogueEntry | None
    ) -> Fit:
        engine = self._engine(facts, entry)
        plan = self._plan(facts)
        is_estimate = plan is None
        if plan is None and (facts.is_gguf or entry is not None):
            plan = self._plan_by_size(facts)
        memory = plan.budget(self._config.context) if plan else None
        speed, error = self._speed(name, facts, plan, engine, entry)
        return Fit(
            verdict=_verdict(plan, memory),
            memory=memory,
            download_bytes=download,
            disk_missing=max(0, download - self._disk_free),
            tokens_per_second=speed,
            speed_error=error,
            engine=engine,
            needed=_needed(plan),
            is_estimate=is_estimate,
        )

    def _plan(self, facts: ModelFacts) -> MemoryPlan | None:
        config = self._config
        return plan_model(
            facts,
            self._placement,
            self._engine_setting(facts),
            config.weights,
            config.kv_cache,
            self._runtimes,
        )

    def _engine_setting(self, facts: ModelFacts) -> str:
        """Return the setting `engine` with which a model is loaded."""
        config = self._config
        if config.check_memory and images_do_not_fit(
            facts,
            self._placement,
            config.engine,
            config.weights,
            config.kv_cache,
            self._runtimes,
            context=config.context,
        ):
            return "native"
        return config.engine

    def _plan_by_size(self, facts: ModelFacts) -> MemoryPlan | None:
        """Return a plan for a model of unknown shape: its files, and a usual KV cache."""
        known = next(iter(catalogue().values()))
        shape = self._plan(EntryFacts(known))
        if shape is None:
            return None
        return dataclasses.replace(
            shape,
            weights=facts.file_bytes,
            kv_layout=KVLayout((KVLayer(_USUAL_KV_NUMBERS),)),
            own_context=int(facts.config["max_position_embeddings"]),
        )

    def _engine(self, facts: ModelFacts, entry: CatalogueEntry | None) -> str:
        setting = self._engine_setting(facts)
        if setting in self._runtimes:
            return setting if facts.is_gguf else ""
        if setting == "auto" and facts.reads_images:
            return "transformers"
        if facts.is_native and setting != "transformers":
            return "native"
        if facts.is_gguf and self._runtimes and setting == "auto":
            return self._runtimes[0]
        kind = str(facts.config.get("model_type") or "")
        readable = not facts.is_gguf or entry is None or entry.gguf_architecture in ARCHITECTURES
        known = kind in proven_modes()[1] or isinstance(facts, FolderFacts)
        return "transformers" if readable and known else ""

    def _speed(
        self,
        name: str,
        facts: ModelFacts,
        plan: MemoryPlan | None,
        engine: str,
        entry: CatalogueEntry | None,
    ) -> tuple[float | None, float]:
        """Return the expected tokens per second and the relative error."""
        own = [run for key, run in self._runs.items() if key.rpartition(" ")[0] == name]
        own = [run for run in own if plan is None or run.device == plan.device]
        if own:
            return own[-1].tokens_per_second, _ERROR_OF_OWN_RUNS
        if plan is None:
            return None, 0.0
        cost = token_cost(facts, plan, engine, entry, self._config.weights)
        expected = speed_of(cost, plan.device)
        error = _ERROR_OF_TRANSFORMERS if engine == "transformers" else _ERROR_WITHOUT_RUNS
        ratios = [
            min(_MAX_CORRECTION, run.tokens_per_second / speed_of(run.cost, run.device))
            for run in self._runs.values()
            if run.cost.bytes and run.device == plan.device
        ]
        if not ratios or engine == "transformers":
            return expected, error
        middle = statistics.median(ratios)
        spread = max(abs(each / middle - 1) for each in ratios)
        return expected * middle, round(min(0.5, max(0.2, spread)), 2)


class RunRecorder:
    """Stores how fast a loaded model replies, which corrects what is expected of others.

    Args:
        config: the user's settings.
        runtimes: names of what plugins offer to run GGUF files.
        location: of the model.
    """

    def __init__(self, config: Config, runtimes: Collection[str], location: ModelLocation) -> None:
        self._config = config
        self._runtimes = tuple(runtimes)
        self._location = location
        self._cost: TokenCost | None = None
        refresh_machine_speed()

    def record(self, info: EngineInfo, usage: Usage, others: float = 0.0) -> None:
        """Store the speed of a reply, unless it is too short to tell, or others slowed it down.

        Args:
            info: of the engine.
            usage: of the reply.
            others: share of the processors that other programs took from it.
        """
        speed = usage.tokens_per_second
        if speed is None or usage.completion_tokens < MIN_TOKENS or others > MAX_OTHERS:
            return
        run = RecordedRun(speed, self._token_cost(), info.device)
        record_run(self._location.name, info.weights, run)

    def _token_cost(self) -> TokenCost:
        if self._cost is None:
            try:
                checker = FitChecker(self._config, self._runtimes)
                self._cost = checker.cost_of(self._location)
            except (ModelError, OSError, KeyError, ValueError, TypeError):
                self._cost = UNKNOWN_COST
        return self._cost


def _verdict(plan: MemoryPlan | None, memory: MemoryBudget | None) -> Verdict:
    if plan is None or memory is None or memory.available is None:
        return "unknown"
    if not memory.fits:
        return "too big"
    comfortable = min(COMFORTABLE_CONTEXT, plan.own_context)
    chosen = memory.context_length
    return "fits" if chosen >= comfortable or chosen >= plan.own_context else "tight"


def _needed(plan: MemoryPlan | None) -> int:
    if plan is None:
        return 0
    context = min(COMFORTABLE_CONTEXT, plan.own_context)
    return plan.weights + plan.program + plan.kv_bytes(context)


def _free_disk(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _two_digits(value: float) -> str:
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"

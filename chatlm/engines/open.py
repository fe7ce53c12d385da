"""Open the engine of a model by name: a plugin's by its scheme, otherwise the local one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from chatlm.config.config import Config
from chatlm.errors import ChatlmError, EngineError, ModelError, OutOfMemoryError
from chatlm.hub.disk import human_bytes, tree_bytes
from chatlm.plugin_host.faults import CtrlC, describe_error, marked_ctrl_c
from chatlm.plugin_host.host import PluginHost
from chatlm.types.engine import Engine, EngineInfo, EngineOpener
from chatlm.types.memory import MemoryBudget
from chatlm.types.runtimes import GgufRuntime
from chatlm.types.sampling import Sampling

if TYPE_CHECKING:
    from chatlm.engines.devices import Placement
    from chatlm.hub.jobs import ProgressCallback, Stage


LOCAL_SCHEME = "local"
"""The scheme of chatlm's own engine, which also opens models without a scheme."""


def open_engine(
    config: Config,
    plugins: PluginHost,
    progress: ProgressCallback,
    reserved: int = 0,
    report_fit: Callable[[str], None] | None = None,
) -> Engine:
    """Load the model `config.model`; a catalogue model that is not installed is pulled.

    Args:
        config: the model and how to run it.
        plugins: may register engines; `scheme:name` is opened by the one of the scheme.
        progress: called while a model is pulled.
        reserved: bytes of available memory that other models may still take.
        report_fit: called with how a local model fits this machine, before it is loaded.

    Raises:
        ModelError: there is no such model, or it cannot be used.
        OutOfMemoryError: the device has too little memory.
    """
    registered, name = _resolve_scheme(config.model, plugins)
    if registered is None:
        return _open_local(name, config, plugins, progress, reserved, report_fit)
    try:
        with marked_ctrl_c():
            engine = registered.opener(name)
            if not isinstance(engine.info, EngineInfo):
                raise TypeError(f"info is {type(engine.info).__name__}, not EngineInfo")
    except (ChatlmError, CtrlC):
        raise
    except BaseException as error:  # a plugin may fail in any way
        raise ModelError(
            f"The plugin {registered.plugin} failed to open {config.model}: "
            f"{describe_error(error)}",
            hint="`chatlm logs` may have more; `chatlm config set model` names another.",
        ) from error
    return engine


def make_model_opener(
    config: Config, plugins: PluginHost, reserved: Callable[[], int] = lambda: 0
) -> Callable[[str, Callable[[str], None]], Engine]:
    """Return a function that opens any model with the config's other settings.

    Args:
        config: the user's settings.
        plugins: see `open_engine`.
        reserved: returns the bytes of available memory that other models may still take.
    """

    def open_model(model: str, report: Callable[[str], None]) -> Engine:
        from chatlm.hub.jobs import describe_progress

        def progress(stage: Stage, done: int, total: int | None) -> None:
            report(describe_progress(stage, done, total))

        chosen = dataclasses.replace(config, model=model)
        return open_engine(chosen, plugins, progress, reserved(), report)

    return open_model


def is_available(model: str, plugins: PluginHost) -> bool:
    """Tell whether `open_engine` can open a model without a download; a plugin's model always.

    Raises:
        ModelError: the name is invalid, or the model is damaged.
    """
    from chatlm.hub import installed

    registered, name = _resolve_scheme(model, plugins)
    return registered is not None or installed.is_installed(name)


def check_available(model: str, adapter: str, plugins: PluginHost) -> None:
    """Check that a model and an adapter can be opened without a download.

    Args:
        model: as `--model` takes it; a plugin's model and its adapters are not checked.
        adapter: empty for none.
        plugins: may register engines and adapters.

    Raises:
        ModelError: the model is not installed, or cannot be used.
        ChatlmError: there is no such adapter, or it cannot be used with the model.
    """
    from chatlm.hub import installed

    registered, name = _resolve_scheme(model, plugins)
    if registered is None:
        if adapter:
            _find_adapter(plugins, name, adapter)
        installed.find_model(name)


@dataclass(frozen=True)
class _RegisteredEngine:
    plugin: str
    opener: EngineOpener


def _resolve_scheme(model: str, plugins: PluginHost) -> tuple[_RegisteredEngine | None, str]:
    """Return the opener of a model, None for a local one, and its name without the scheme."""
    engines: dict[str, _RegisteredEngine] = {}
    plugins.collect("register_engines", partial(_register_engine, engines))
    scheme, colon, name = model.partition(":")
    if colon and scheme in engines:
        return engines[scheme], name
    return None, name if colon and scheme == LOCAL_SCHEME else model


def _register_engine(
    engines: dict[str, _RegisteredEngine], plugin: str, scheme: str, opener: EngineOpener
) -> None:
    """Register a plugin's engine; errors raised here are reported as the plugin's."""
    if scheme == LOCAL_SCHEME:
        raise ChatlmError(f"{LOCAL_SCHEME}: is the scheme of chatlm's own models")
    taken = engines.setdefault(scheme, _RegisteredEngine(plugin, opener))
    if taken.plugin != plugin:
        raise ChatlmError(f"the scheme {scheme}: is taken by the plugin {taken.plugin}")


def _open_local(
    name: str,
    config: Config,
    plugins: PluginHost,
    progress: ProgressCallback,
    reserved: int,
    report_fit: Callable[[str], None] | None,
) -> Engine:
    from chatlm.hub.catalogue import find_entry
    from chatlm.hub.pull import ensure_model

    location = ensure_model(name, progress)
    entry = find_entry(location.name)
    import torch

    from chatlm.engines.devices import resolve_placement
    from chatlm.engines.fit import FitChecker, RunRecorder
    from chatlm.engines.local_engine import LocalEngine
    from chatlm.engines.memory_plan import budget_memory
    from chatlm.engines.model import NO_IMAGES
    from chatlm.engines.native.compiler import compile_missing, decoder_name

    placement = resolve_placement(config.device)
    runtimes = registered_runtimes(plugins)
    notes: tuple[str, ...] = ()
    if whole := _too_large_for_images(config, location.folder, placement, runtimes, reserved):
        config = dataclasses.replace(config, engine="native")
        notes = (
            f"{NO_IMAGES}for that it needs {human_bytes(whole.total)} of memory, but "
            f"{human_bytes(whole.available or 0)} are available. It runs natively, for text only.",
        )
    draft_model = _locate_draft_model(config, location.folder, progress)
    try:
        memory = budget_memory(
            location.name,
            location.folder,
            placement,
            engine=config.engine,
            weights=config.weights,
            kv_cache=config.kv_cache,
            context=config.context,
            refuse=config.check_memory,
            runtimes=runtimes.keys(),
            draft_model=_usable_draft_folder(location.folder, draft_model, placement, config),
            reserved=reserved,
        )
    except OutOfMemoryError as error:
        size = tree_bytes(location.folder)
        if smaller := FitChecker(config, runtimes.keys()).smaller(size):
            error.hint = (
                f"The next smaller model that fits: chatlm pull {smaller.name}\n{error.hint}"
            )
        raise
    if placement.device == "cpu":
        float32 = placement.dtype is torch.float32
        compile_missing(
            (decoder_name(float32=float32), "choose", "elementwise"),
            lambda: progress("compile", 0, None),
        )
    recorder = RunRecorder(config, runtimes.keys(), location)
    if report_fit and (fit := FitChecker(config, runtimes.keys()).describe_load(location)):
        report_fit(fit)
    engine = LocalEngine.from_folder(
        location.name,
        location.folder,
        placement,
        prompt_format=config.prompt_format,
        context=config.context,
        catalogue_sampling=entry[0].sampling if entry else Sampling(),
        engine=config.engine,
        weights=config.weights,
        kv_cache=config.kv_cache,
        find_adapter=partial(_find_adapter, plugins, location.name),
        memory=memory,
        runtimes=runtimes,
        report_usage=lambda usage, others: recorder.record(engine.info, usage, others),
        chat_cache=config.chat_cache * 1_000_000,
        draft_model=draft_model,
        notes=notes,
    )
    return engine


def _too_large_for_images(
    config: Config,
    folder: Path,
    placement: Placement,
    runtimes: Collection[str],
    reserved: int,
) -> MemoryBudget | None:
    """Return what a model needs to read images, if only its part for text fits in memory."""
    from chatlm.engines.memory_plan import FolderFacts, images_do_not_fit

    if not config.check_memory:
        return None
    return images_do_not_fit(
        FolderFacts(folder),
        placement,
        config.engine,
        config.weights,
        config.kv_cache,
        runtimes,
        reserved,
        context=config.context,
    )


def _locate_draft_model(
    config: Config, folder: Path, progress: ProgressCallback
) -> tuple[str, Path] | None:
    """Return name and folder of the draft model that is set, pulled if it is not here.

    Args:
        config: of chatlm.
        folder: of the model that it drafts for, which may have a layer for it.
        progress: of a download.
    """
    from chatlm.engines.draft_loading import OWN_LAYER
    from chatlm.hub.pull import ensure_model

    if not config.draft_model:
        return None
    if config.draft_model == OWN_LAYER:
        return OWN_LAYER, folder
    name = config.draft_model.removeprefix(f"{LOCAL_SCHEME}:")
    location = ensure_model(name, progress)
    return location.name, location.folder


def _usable_draft_folder(
    folder: Path, draft_model: tuple[str, Path] | None, placement: Placement, config: Config
) -> Path | None:
    """Return the folder of the draft model if it would be used and needs memory of its own; None
    otherwise."""
    from chatlm.engines.draft_loading import OWN_LAYER, draft_problem

    if draft_model is None or draft_model[0] == OWN_LAYER:
        return None
    name, draft_folder = draft_model
    problem = draft_problem(name, folder, draft_folder, placement, config.engine, config.weights)
    return None if problem else draft_folder


def registered_runtimes(plugins: PluginHost) -> Mapping[str, GgufRuntime]:
    """Return what plugins offer to run GGUF files, by name; the first plugin of a name wins."""
    runtimes: dict[str, GgufRuntime] = {}
    for _, (name, runtime) in plugins.collect("register_gguf_runtimes"):
        runtimes.setdefault(name, runtime)
    return runtimes


def _find_adapter(plugins: PluginHost, model: str, name: str) -> Path:
    """Return the folder of an adapter from the first plugin that knows it."""
    folder: Path | ChatlmError | None = plugins.call_hook("find_adapter", name=name, model=model)
    if isinstance(folder, Path):
        return folder
    raise folder or EngineError(
        f"There is no adapter {name}",
        hint="Continue without it, or check that its plugin is enabled: chatlm plugins list",
    )

"""Try what a plugin registers or returns: engines, templates, processors, panels and screens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import ChatlmError
from chatlm.plugin_host.hook_table import SAMPLES, sample_arguments
from chatlm.plugin_host.host import PluginHost
from chatlm.plugin_host.turn_plugins import TurnPlugins
from chatlm.types.engine import EngineInfo
from chatlm.types.requests import Request
from chatlm.types.setups import RenderedTemplate

VOCABULARY_SIZE = 2**18
"""Scores that a processor gets; more than most models have tokens."""

Trial = tuple[str, Callable[[], object]]
"""`(name, call)`: the call raises what is wrong; a `ChatlmError` is a valid refusal."""


def trials(host: PluginHost, plugin: Any, hook: str, settings: Any, ui: Any) -> Iterator[Trial]:
    """Yield a trial of each thing that a hook registers or returns.

    Args:
        host: has the plugin.
        plugin: the module or object.
        hook: the hook that is checked.
        settings: values of the plugin's settings.
        ui: accepts every call.
    """
    match hook:
        case "register_engines":
            for _, (scheme, opener) in host.collect(hook):
                yield f"engine {scheme}", partial(_open_engine, opener, _model_name(host, scheme))
        case "register_templates":
            for _, (name, render) in host.collect(hook):
                yield f"template {name}", partial(_render, render)
        case "adjust_request":
            yield "processors and criteria", partial(_call_processors, host)
        case "register_panels":
            for _, (panel,) in host.collect(hook):
                yield f"panel {panel.name}", partial(_show, plugin, "panel", panel.name, settings)
        case "register_screens":
            for _, (screen,) in host.collect(hook):
                create = partial(screen.create_screen, ui, "")
                yield (
                    f"screen {screen.name}",
                    partial(_show_screen, plugin, screen.name, settings, create),
                )


def _model_name(host: PluginHost, scheme: str) -> str:
    """Return a model of the scheme that the plugin lists, or else a name that may not exist."""
    listed = (model.name.partition(":") for model in host.call_hook("list_models"))
    return next((name for start, _, name in listed if start == scheme), "check")


def _open_engine(opener: Callable[[str], Any], model: str) -> None:
    try:
        engine = opener(model)
    except ChatlmError:
        return  # there is no such model, or its server does not answer
    if not isinstance(engine.info, EngineInfo):
        raise TypeError(f"info is {type(engine.info).__name__}, not chatlm.EngineInfo")
    for method in ("stream", "batch", "preview", "count_tokens", "read_ahead", "close"):
        if not callable(getattr(engine, method, None)):
            raise TypeError(f"the engine has no method {method}")
    engine.close()


def _render(render: Callable[..., Any]) -> None:
    try:
        rendered = render({}, SAMPLES["text"], dict)
    except ChatlmError:
        return  # a variable without a value
    if not isinstance(rendered, RenderedTemplate):
        raise TypeError(f"render returned {type(rendered).__name__}, not chatlm.RenderedTemplate")


def _call_processors(host: PluginHost) -> None:
    """Call what `adjust_request` adds with scores of a vocabulary; failures are faults."""
    turn = TurnPlugins(host)
    arguments = sample_arguments("adjust_request", engine=ScriptedEngine("Good."))
    request: Request = turn.call_hook("adjust_request", **arguments)
    added = (*request.logits_processors, *request.stopping_criteria)
    if not added:
        return
    import torch

    ids = torch.tensor([[1, 2, 3]])
    scores = torch.linspace(-4.0, 4.0, VOCABULARY_SIZE)[None]
    for function in added:
        function(ids, scores)
    turn.take_calls()


def _show_screen(plugin: Any, name: str, settings: Any, create: Callable[[], object]) -> None:
    with suppress(Exception):  # showing it reports the failure
        try:
            create()
        except ChatlmError:
            return  # it needs an argument
    _show(plugin, "screen", name, settings)


def _show(plugin: Any, kind: str, name: str, settings: Any) -> None:
    """Show a panel or screen in chatlm's UI without a terminal, and close it again."""
    import asyncio
    import dataclasses

    from chatlm.testing import scripted_screen

    values = dataclasses.asdict(settings) if settings is not None else {}

    async def show() -> None:
        async with scripted_screen(plugin, replies=["Good."], settings=values) as shown:
            before = len(shown.faults)
            regions = shown.app.chat_screen.plugin_actions.regions
            (regions.toggle_panel if kind == "panel" else regions.open_screen)(name)
            await shown.settle()
            await shown.submit("Hello") if kind == "panel" else await shown.press("escape")
            faults = [fault for fault in shown.faults[before:] if fault.hook == f"{kind} {name}"]
            if faults:
                raise ShownFault(faults[0].error)

    asyncio.run(show())


class ShownFault(Exception):
    """A failure of a panel or screen, in the words of its fault."""

"""Replies made by a method that a plugin offers, instead of one generation."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping
from contextlib import closing
from difflib import get_close_matches
from typing import Any, Protocol

from chatlm.errors import ContinuationUnsupported, UsageError
from chatlm.text import one_line
from chatlm.types.engine import Engine
from chatlm.types.events import EngineEvent
from chatlm.types.methods import ReplyMethod
from chatlm.types.requests import Request


class CollectsOffers(Protocol):
    """What of the plugin host is needed here."""

    def collect(self, hook: str) -> list[tuple[str, tuple[Any, ...]]]:
        """Return what plugins register in a hook, each with the plugin's name."""
        ...


class NoOffers:
    """Stands for the plugin host where no plugins are loaded."""

    def collect(self, hook: str) -> list[tuple[str, tuple[Any, ...]]]:
        """Return nothing."""
        return []


def reply_methods(plugins: CollectsOffers) -> Mapping[str, ReplyMethod]:
    """Return the methods of all plugins by name; of two, that of the plugin called first."""
    found: dict[str, ReplyMethod] = {}
    for _, (method,) in plugins.collect("register_methods"):
        found.setdefault(method.name, method)
    return found


def stream_request(
    engine: Engine, request: Request, plugins: CollectsOffers
) -> Generator[EngineEvent, None, None]:
    """Generate as `Engine.stream` does, by the method that the request names if it names one.

    Raises:
        UsageError: there is no such method, or the request asks for what methods cannot do.
        ContinuationUnsupported: a reply would be continued, which methods cannot do.
        ChatlmError: as `Engine.stream`.
    """
    wanted = request.sampling.reply_method
    if wanted is None:
        with closing(engine.stream(request)) as events:
            yield from events
        return
    name, argument = wanted
    method = _find(name, plugins)
    _check(request, name)
    sampling = dataclasses.replace(request.sampling, method=None)
    plain = dataclasses.replace(request, sampling=sampling)
    with closing(method.stream(engine, plain, argument)) as events:
        yield from events


def _find(name: str, plugins: CollectsOffers) -> ReplyMethod:
    known = reply_methods(plugins)
    if name in known:
        return known[name]
    near = get_close_matches(name, known, 1)
    raise UsageError(
        f"There is no method {one_line(name, 30)}",
        hint=f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known) or 'none'}.",
    )


def _check(request: Request, name: str) -> None:
    if request.messages and request.messages[-1].role == "assistant":
        raise ContinuationUnsupported(
            f"A reply cannot be continued by the method {name}",
            hint="Regenerate it, or set method to off to continue it as it is.",
        )
    if request.logprobs is not None:
        raise UsageError(
            f"The method {name} has no log-probabilities: it joins several generations",
            hint="Set method to off, or leave out logprobs.",
        )
    if request.tools:
        raise UsageError(
            f"The method {name} cannot call tools", hint="Set method to off, or turn tools off."
        )

"""The ways in which hooks are called, each plugin alone; knows neither plugins nor hooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pluggy

from chatlm.plugins import contract
from chatlm.plugins.faults import Fault

Accept = Callable[[Any], Any]
"""Gives what a result is worth, or raises what is wrong with it."""


@dataclass(frozen=True)
class Outcome:
    """What came of one call."""

    value: Any = None
    """None where the plugin returned nothing, or failed."""
    seconds: float = 0.0
    fault: Fault | None = None
    called: bool = True
    """False for a plugin that is left out."""

    @property
    def came_through(self) -> bool:
        """Whether the plugin was called and did not fail."""
        return self.called and self.fault is None


class Calls(ABC):
    """Calls every plugin that implements a hook, one after the other."""

    @abstractmethod
    def implementations(self, hook: str) -> list[pluggy.HookImpl]:
        """Those to be called, in order."""

    @abstractmethod
    def call(
        self,
        impl: pluggy.HookImpl,
        hook: str,
        arguments: Mapping[str, Any],
        accept: Accept,
        before: Any = None,
    ) -> Outcome:
        """Call one implementation; whatever it does, this returns.

        Args:
            impl: what to call.
            hook: the hook it implements.
            arguments: all that the hook has.
            accept: for what it returns, unless that is None.
            before: what holds if it returns None; for those that tell what it changed.
        """

    def each(self, hook: str, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """Call every implementation; yield `(plugin, result)` of those that returned something."""
        for impl in self.implementations(hook):
            result = self.call(impl, hook, arguments, _anything).value
            if result is not None:
                yield impl.plugin_name, result

    def offer(self, hook: str, make: Callable[[str], Mapping[str, Any]]) -> Iterator[str]:
        """Call every implementation with arguments of its own; yield who came through.

        Args:
            hook: the hook.
            make: the arguments for the plugin of this name; called just before it.
        """
        for impl in self.implementations(hook):
            if self.call(impl, hook, make(impl.plugin_name), _anything).came_through:
                yield impl.plugin_name

    def gather(self, hook: str, kind: type, **arguments: Any) -> list[Any]:
        """All values of all implementations, each checked to be a `kind`."""
        found: list[Any] = []
        for impl in self.implementations(hook):
            found += self.call(impl, hook, arguments, contract.list_of(kind)).value or ()
        return found

    def merge(self, hook: str, accept: Accept, /, **arguments: Any) -> dict[str, Any]:
        """What all implementations returned, as one mapping; what comes first stays.

        Args:
            hook: the hook.
            accept: gives a mapping, see `call`.
            arguments: those of the hook.
        """
        found: dict[str, Any] = {}
        for impl in self.implementations(hook):
            value = self.call(impl, hook, arguments, accept).value or {}
            found = {**value, **found}
        return found

    def first(self, hook: str, usual: Any, accept: Accept, /, **arguments: Any) -> Any:
        """What the first implementation returned that returned anything.

        Args:
            hook: the hook.
            usual: what is given back when none did.
            accept: see `call`.
            arguments: those of the hook.
        """
        for impl in self.implementations(hook):
            value = self.call(impl, hook, arguments, accept, usual).value
            if value is not None:
                return value
        return usual

    def fold(
        self,
        hook: str,
        name: str,
        value: Any,
        accept: Callable[[str, Any, Any], Any] | None = None,
        /,
        **arguments: Any,
    ) -> Any:
        """Pass a value through all implementations, each given what the one before returned.

        Args:
            hook: the hook.
            name: of the argument that is the value.
            value: to begin with.
            accept: gives what a result is worth, or raises what is wrong with it; called with the
                plugin, the value before and the result. Without it any value of the type is good.
            arguments: the others of the hook.
        """
        accept = accept or partial(_same_kind, contract.one(type(value)))
        for impl in self.implementations(hook):
            good = partial(accept, impl.plugin_name, value)
            result = self.call(impl, hook, {**arguments, name: value}, good, value).value
            value = value if result is None else result
        return value


def _anything(result: Any) -> Any:
    return result


def _same_kind(accept: Accept, plugin: str, before: Any, result: Any) -> Any:
    return accept(result)

"""Loads plugins and calls their hooks one by one; knows no hook's meaning."""

from __future__ import annotations

import importlib.metadata
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pluggy

from chatlm import hookspecs, paths
from chatlm.config import Config

log = logging.getLogger(__name__)

_ANY = (Exception, SystemExit)
"""What a plugin may raise without taking chatlm along."""

MOST_FAILURES = 3
"""After this many failures in a row a plugin is left out until restart."""


@dataclass(frozen=True)
class Fault:
    """A plugin that failed: which, where, how."""

    plugin: str
    hook: str
    error: str
    left_out: bool = False

    def __str__(self) -> str:
        end = " It is left out until chatlm restarts." if self.left_out else ""
        return f"The plugin {self.plugin} failed in {self.hook}: {self.error}.{end}"


@contextmanager
def loaded(config: Config) -> Iterator[PluginHost]:
    """The installed plugins, told when chatlm is ready and when it is about to exit."""
    host = PluginHost()
    host.load_entry_points(config.disabled_plugins)
    context = hookspecs.Context(config, paths.data_dir())
    for _ in host.each("startup", context=context):
        pass
    try:
        yield host
    finally:
        for _ in host.each("shutdown"):
            pass


class PluginHost:
    """The loaded plugins; one that raises in a hook is noted as a `Fault`, and the others go on.

    Args:
        plugins: `(name, module or object)` pairs to register, the last of them called first.
    """

    def __init__(self, plugins: Iterable[tuple[str, Any]] = ()) -> None:
        self._manager = pluggy.PluginManager("chatlm")
        self._manager.add_hookspecs(hookspecs)
        self._failures: Counter[str] = Counter()
        self._faults: list[Fault] = []
        for name, plugin in plugins:
            self.register(name, plugin)

    def register(self, name: str, plugin: Any) -> None:
        """Add a plugin; one that pluggy refuses, or that wraps the hooks of others, is a fault."""
        try:
            self._manager.register(plugin, name)
            self._manager.check_pending()
            for caller in self._manager.get_hookcallers(plugin) or ():
                for impl in caller.get_hookimpls():
                    if impl.plugin is plugin and (impl.wrapper or impl.hookwrapper):
                        raise TypeError(f"{caller.name} is a wrapper; chatlm calls each hook alone")
        except _ANY as error:  # whatever a stranger's plugin does, only it is lost
            self._note(name, "registration", error, left_out=True)
            if self._manager.get_plugin(name) is plugin:
                self._manager.unregister(name=name)

    def load_entry_points(self, disabled: Iterable[str] = ()) -> None:
        """Import and register the installed plugins (entry points in group `chatlm`)."""
        skip = set(disabled)
        for entry in importlib.metadata.entry_points(group="chatlm"):
            if entry.name in skip:
                continue
            try:
                plugin = entry.load()
            except _ANY as error:  # an import may fail in any way
                self._note(entry.name, "import", error, left_out=True)
            else:
                self.register(entry.name, plugin)

    def each(self, hook: str, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """Call every implementation; yield `(plugin, result)` of those that returned something."""
        for impl in self._implementations(hook):
            yield from self._call(impl, hook, arguments)

    def gather(self, hook: str, kind: type, **arguments: Any) -> list[Any]:
        """All values of all implementations, each checked to be a `kind`."""
        found: list[Any] = []
        for name, result in self.each(hook, **arguments):
            values = list(result) if isinstance(result, list | tuple) else [result]
            if all(isinstance(value, kind) for value in values):
                found.extend(values)
            else:
                self._wrong(name, hook, f"a list of {kind.__name__}", result)
        return found

    def first(self, hook: str, kind: type, **arguments: Any) -> list[Any] | None:
        """The values of the first implementation that returned any; None when none did."""
        for name, result in self.each(hook, **arguments):
            values = list(result) if isinstance(result, list | tuple) else []
            if values and all(isinstance(value, kind) for value in values):
                return values
            self._wrong(name, hook, f"a list of {kind.__name__}", result)
        return None

    def fold(self, hook: str, name: str, value: Any, **arguments: Any) -> Any:
        """Pass `value` through all implementations, each given what the one before returned."""
        current = {name: value}
        kind = type(value)
        for impl in self._implementations(hook):
            for plugin, result in self._call(impl, hook, {**arguments, **current}):
                if isinstance(result, kind):
                    current[name] = result
                else:
                    self._wrong(plugin, hook, kind.__name__, result)
        return current[name]

    def take_faults(self) -> list[Fault]:
        """What failed since the last call."""
        faults, self._faults = self._faults, []
        return faults

    def _implementations(self, hook: str) -> list[pluggy.HookImpl]:
        """In pluggy's order: the last registered first."""
        caller: pluggy.HookCaller = getattr(self._manager.hook, hook)
        return list(reversed(caller.get_hookimpls()))

    def _call(
        self, impl: pluggy.HookImpl, hook: str, arguments: dict[str, Any]
    ) -> Iterator[tuple[str, Any]]:
        """Call one implementation; yield nothing if it failed, is left out or returned None."""
        name = impl.plugin_name
        if self._failures[name] >= MOST_FAILURES:
            return
        try:
            result = impl.function(*(arguments[argument] for argument in impl.argnames))
        except _ANY as error:  # the chat goes on without it
            self._failures[name] += 1
            self._note(name, hook, error, left_out=self._failures[name] >= MOST_FAILURES)
            return
        self._failures[name] = 0
        if result is not None:
            yield name, result

    def _wrong(self, plugin: str, hook: str, wanted: str, got: Any) -> None:
        error = TypeError(f"returned {type(got).__name__}, not {wanted}")
        self._note(plugin, hook, error, left_out=False)

    def _note(self, plugin: str, hook: str, error: BaseException, *, left_out: bool) -> None:
        log.error("plugin %s failed in %s", plugin, hook, exc_info=error)
        text = f"{type(error).__name__}: {error}".rstrip(".")
        self._faults.append(Fault(plugin, hook, text, left_out))

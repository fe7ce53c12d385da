"""PluginHost: register plugins, call hooks, drop one that keeps failing."""

from __future__ import annotations

import logging
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pluggy

from chatlm.errors import ChatlmError
from chatlm.plugin_host import hook_table, hookspecs, settings
from chatlm.plugin_host.discovery import PluginSource
from chatlm.plugin_host.faults import Fault, describe_error, reraise_interrupt

Validator = Callable[[Any], Any]
"""Gives what a result is worth, or raises what is wrong with it."""


@dataclass(frozen=True)
class CallResult:
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


class HookCaller(ABC):
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
        accept: Validator,
        before: Any = None,
    ) -> CallResult:
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
            result = self.call(impl, hook, arguments, _accept_any).value
            if result is not None:
                yield impl.plugin_name, result

    def offer(self, hook: str, make: Callable[[str], Mapping[str, Any]]) -> Iterator[str]:
        """Call every implementation with arguments of its own; yield who came through.

        Args:
            hook: the hook.
            make: the arguments for the plugin of this name; called just before it.
        """
        for impl in self.implementations(hook):
            if self.call(impl, hook, make(impl.plugin_name), _accept_any).came_through:
                yield impl.plugin_name

    def gather(self, hook: str, kind: type, **arguments: Any) -> list[Any]:
        """All values of all implementations, each checked to be a `kind`."""
        found: list[Any] = []
        for impl in self.implementations(hook):
            found += self.call(impl, hook, arguments, hook_table.list_of(kind)).value or ()
        return found

    def merge(self, hook: str, accept: Validator, /, **arguments: Any) -> dict[str, Any]:
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

    def first(self, hook: str, usual: Any, accept: Validator, /, **arguments: Any) -> Any:
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
        accept = accept or partial(_validate_result, hook_table.instance_of(type(value)))
        for impl in self.implementations(hook):
            good = partial(accept, impl.plugin_name, value)
            result = self.call(impl, hook, {**arguments, name: value}, good, value).value
            value = value if result is None else result
        return value


def _accept_any(result: Any) -> Any:
    return result


def _validate_result(accept: Validator, plugin: str, before: Any, result: Any) -> Any:
    return accept(result)


log = logging.getLogger(__name__)


MAX_FAILURES = 3
"""After this many failures of one hook in a row a plugin is left out until restart."""


SLOW_SECONDS = 10.0
"""A hook that takes longer is reported. Nothing in a running program can stop it."""


HEAVY_MODULES = frozenset(
    {"torch", "transformers", "peft", "faiss", "sentence_transformers", "textual"}
)
"""What a plugin may import inside its hooks only, since every start would wait for it."""


class PluginHost(HookCaller):
    """The loaded plugins; one that fails in a hook is noted as a `Fault`, and the others go on.

    Args:
        plugins: `(name, module or object)` pairs to register, the last of them called first.
        slow_after: seconds after which a hook that came back is reported.
    """

    def __init__(
        self, plugins: Iterable[tuple[str, Any]] = (), *, slow_after: float = SLOW_SECONDS
    ) -> None:
        self._manager = pluggy.PluginManager("chatlm")
        self._manager.add_hookspecs(hookspecs)
        self._slow_after = slow_after
        self._in_a_row: Counter[tuple[str, str]] = Counter()
        self._left_out: set[str] = set()
        self._faults: list[Fault] = []
        self.past: list[Fault] = []
        """Every fault so far, in order, whether taken or not."""
        self.came_through: set[tuple[str, str]] = set()
        """`(plugin, hook)` of every call that went well."""
        for name, plugin in plugins:
            self.register(name, plugin)

    @property
    def last_faults(self) -> dict[str, Fault]:
        """The last fault of each plugin that had one."""
        return {fault.plugin: fault for fault in self.past}

    @property
    def names(self) -> list[str]:
        """The registered plugins, in the order they were loaded."""
        return [name for name, _ in self._manager.list_name_plugin()]

    def hooks_of(self, name: str) -> list[str]:
        """The hooks that the plugin implements."""
        callers = self._manager.get_hookcallers(self._manager.get_plugin(name)) or []
        return [caller.name for caller in callers]

    def register(self, name: str, plugin: Any) -> bool:
        """Add a plugin; returns whether it is in. One that cannot be called is a fault."""
        try:
            hook_table.check_signatures(self._manager, plugin)
            self._manager.register(plugin, name)
            hook_table.check_implementations(self._manager, plugin)
            settings.check_settings_class(plugin)
        except BaseException as error:  # whatever a stranger's plugin does, only it is lost
            reraise_interrupt(error)
            if self._manager.get_plugin(name) is plugin:
                self._manager.unregister(name=name)
            self._note(name, "registration", error, left_out=True)
            return False
        return True

    def load(self, found: PluginSource) -> bool:
        """Import and register a plugin; returns whether it is in. What fails is a fault."""
        if found.problem:
            self._note(found.name, "loading", ChatlmError(found.problem), left_out=True)
            return False
        before = HEAVY_MODULES & sys.modules.keys()
        try:
            plugin = found.bring()
        except BaseException as error:  # an import may fail in any way
            reraise_interrupt(error)
            self._note(found.name, "import", error, left_out=True)
            return False
        registered = self.register(found.name, plugin)
        if registered and (heavy := sorted(HEAVY_MODULES & sys.modules.keys() - before)):
            slow = ChatlmError(
                f"it imports {', '.join(heavy)} when it is loaded, not when a hook needs it",
                hint="It works, but every start waits for it: tell its author.",
            )
            self._note(found.name, "import", slow)
        return registered

    def settings(self, name: str, section: Mapping[str, Any]) -> Any:
        """An object of the plugin's `Settings`, None where it has none.

        A wrong setting is a fault, and the plugin is left out.
        """
        kind = settings.settings_class(self._manager.get_plugin(name))
        try:
            return settings.read_settings(name, kind, section) if kind else None
        except ChatlmError as error:
            self.leave_out(name, "settings", error)
            return None

    def settings_class(self, name: str) -> type | None:
        """The plugin's `Settings`; None where it has none or is not loaded."""
        return settings.settings_class(self._manager.get_plugin(name))

    def is_left_out(self, name: str) -> bool:
        """Whether the plugin is called no more."""
        return name in self._left_out

    def leave_out(self, name: str, where: str, error: BaseException) -> None:
        """Call the plugin no more, and say why."""
        self._left_out.add(name)
        self._note(name, where, error, left_out=True)

    def take_faults(self) -> list[Fault]:
        """What failed since the last call."""
        faults, self._faults = self._faults, []
        return faults

    def implementations(self, hook: str) -> list[pluggy.HookImpl]:
        """In pluggy's order: `tryfirst`, then the last registered first, then `trylast`."""
        caller: pluggy.HookCaller = getattr(self._manager.hook, hook)
        return list(reversed(caller.get_hookimpls()))

    def call(
        self,
        impl: pluggy.HookImpl,
        hook: str,
        arguments: Mapping[str, Any],
        accept: Validator,
        before: Any = None,
    ) -> CallResult:
        """See `Calls.call`; a plugin that is left out is not called."""
        name = impl.plugin_name
        if name in self._left_out:
            return CallResult(called=False)
        started = time.perf_counter()
        seconds = None
        try:
            result = impl.function(*(arguments[argument] for argument in impl.argnames))
            seconds = time.perf_counter() - started
            accepted = None if result is None else accept(result)
        except BaseException as error:  # the chat goes on without it
            reraise_interrupt(error)
            seconds = seconds or time.perf_counter() - started
            return CallResult(seconds=seconds, fault=self.failed(name, hook, error))
        self.went_well(name, hook, seconds)
        return CallResult(accepted, seconds)

    def failed(self, name: str, where: str, error: BaseException) -> Fault:
        """Note that a plugin failed; after `MOST_FAILURES` in a row it is left out.

        Args:
            name: the plugin.
            where: the hook, or another place where it was called, in a few words.
            error: what it raised.
        """
        self._in_a_row[name, where] += 1
        if self._in_a_row[name, where] >= MAX_FAILURES:
            self._left_out.add(name)
        return self._note(name, where, error, left_out=name in self._left_out)

    def went_well(self, name: str, where: str, seconds: float = 0.0) -> None:
        """Note that a plugin came through; one that took long is told."""
        self._in_a_row[name, where] = 0
        self.came_through.add((name, where))
        if seconds > self._slow_after:
            self._note(name, where, ChatlmError(f"it took {seconds:.1f} s, and all else waited"))

    def _note(
        self,
        plugin: str,
        hook: str,
        error: BaseException,
        *,
        left_out: bool = False,
    ) -> Fault:
        log.error("plugin %s failed in %s", plugin, hook, exc_info=error)
        hint = error.hint if isinstance(error, ChatlmError) else ""
        fault = Fault(plugin, hook, describe_error(error), left_out, hint)
        self._faults.append(fault)
        self.past.append(fault)
        return fault

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
    def succeeded(self) -> bool:
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
        validate: Validator,
        original: Any = None,
    ) -> CallResult:
        """Call one implementation; whatever it does, this returns.

        Args:
            impl: what to call.
            hook: the hook it implements.
            arguments: all that the hook has.
            validate: for what it returns, unless that is None.
            original: what holds if it returns None; for those that tell what it changed.
        """

    def call_each(self, hook: str, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """Call every implementation; yield `(plugin, result)` of those that returned something."""
        for impl in self.implementations(hook):
            result = self.call(impl, hook, arguments, _accept_any).value
            if result is not None:
                yield impl.plugin_name, result

    def call_each_with(
        self, hook: str, make_arguments: Callable[[str], Mapping[str, Any]]
    ) -> Iterator[str]:
        """Call every implementation with arguments of its own; yield who came through.

        Args:
            hook: the hook.
            make_arguments: the arguments for the plugin of this name; called just before it.
        """
        for impl in self.implementations(hook):
            if self.call(impl, hook, make_arguments(impl.plugin_name), _accept_any).succeeded:
                yield impl.plugin_name

    def gather(self, hook: str, kind: type, **arguments: Any) -> list[Any]:
        """All values of all implementations, each checked to be a `kind`."""
        found: list[Any] = []
        for impl in self.implementations(hook):
            found += self.call(impl, hook, arguments, hook_table.list_of(kind)).value or ()
        return found

    def merge(self, hook: str, validate: Validator, /, **arguments: Any) -> dict[str, Any]:
        """What all implementations returned, as one mapping; what comes first stays.

        Args:
            hook: the hook.
            validate: gives a mapping, see `call`.
            arguments: those of the hook.
        """
        found: dict[str, Any] = {}
        for impl in self.implementations(hook):
            value = self.call(impl, hook, arguments, validate).value or {}
            found = {**value, **found}
        return found

    def first(self, hook: str, default: Any, validate: Validator, /, **arguments: Any) -> Any:
        """What the first implementation returned that returned anything.

        Args:
            hook: the hook.
            default: what is given back when none did.
            validate: see `call`.
            arguments: those of the hook.
        """
        for impl in self.implementations(hook):
            value = self.call(impl, hook, arguments, validate, default).value
            if value is not None:
                return value
        return default

    def fold(
        self,
        hook: str,
        name: str,
        value: Any,
        validate: Callable[[str, Any, Any], Any] | None = None,
        /,
        **arguments: Any,
    ) -> Any:
        """Pass a value through all implementations, each given what the one before returned.

        Args:
            hook: the hook.
            name: of the argument that is the value.
            value: to begin with.
            validate: gives what a result is worth, or raises what is wrong with it; called with the
                plugin, the value before and the result. Without it any value of the type is good.
            arguments: the others of the hook.
        """
        validate = validate or partial(_validate_result, hook_table.instance_of(type(value)))
        for impl in self.implementations(hook):
            good = partial(validate, impl.plugin_name, value)
            result = self.call(impl, hook, {**arguments, name: value}, good, value).value
            value = value if result is None else result
        return value


def _accept_any(result: Any) -> Any:
    return result


def _validate_result(validate: Validator, plugin: str, original: Any, result: Any) -> Any:
    return validate(result)


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
        self._consecutive_failures: Counter[tuple[str, str]] = Counter()
        self._dropped: set[str] = set()
        self._faults: list[Fault] = []
        self.all_faults: list[Fault] = []
        """Every fault so far, in order, whether taken or not."""
        self.succeeded_calls: set[tuple[str, str]] = set()
        """`(plugin, hook)` of every call that went well."""
        for name, plugin in plugins:
            self.register(name, plugin)

    @property
    def last_faults(self) -> dict[str, Fault]:
        """The last fault of each plugin that had one."""
        return {fault.plugin: fault for fault in self.all_faults}

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
            self._record_fault(name, "registration", error, dropped=True)
            return False
        return True

    def load(self, source: PluginSource) -> bool:
        """Import and register a plugin; returns whether it is in. What fails is a fault."""
        if source.problem:
            self._record_fault(source.name, "loading", ChatlmError(source.problem), dropped=True)
            return False
        before = HEAVY_MODULES & sys.modules.keys()
        try:
            plugin = source.load()
        except BaseException as error:  # an import may fail in any way
            reraise_interrupt(error)
            self._record_fault(source.name, "import", error, dropped=True)
            return False
        registered = self.register(source.name, plugin)
        if registered and (heavy := sorted(HEAVY_MODULES & sys.modules.keys() - before)):
            slow = ChatlmError(
                f"it imports {', '.join(heavy)} when it is loaded, not when a hook needs it",
                hint="It works, but every start waits for it: tell its author.",
            )
            self._record_fault(source.name, "import", slow)
        return registered

    def settings(self, name: str, section: Mapping[str, Any]) -> Any:
        """An object of the plugin's `Settings`, None where it has none.

        A wrong setting is a fault, and the plugin is left out.
        """
        kind = settings.settings_class(self._manager.get_plugin(name))
        try:
            return settings.read_settings(name, kind, section) if kind else None
        except ChatlmError as error:
            self.drop(name, "settings", error)
            return None

    def settings_class(self, name: str) -> type | None:
        """The plugin's `Settings`; None where it has none or is not loaded."""
        return settings.settings_class(self._manager.get_plugin(name))

    def is_dropped(self, name: str) -> bool:
        """Whether the plugin is called no more."""
        return name in self._dropped

    def drop(self, name: str, where: str, error: BaseException) -> None:
        """Call the plugin no more, and say why."""
        self._dropped.add(name)
        self._record_fault(name, where, error, dropped=True)

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
        validate: Validator,
        original: Any = None,
    ) -> CallResult:
        """See `Calls.call`; a plugin that is left out is not called."""
        name = impl.plugin_name
        if name in self._dropped:
            return CallResult(called=False)
        started = time.perf_counter()
        seconds = None
        try:
            result = impl.function(*(arguments[argument] for argument in impl.argnames))
            seconds = time.perf_counter() - started
            accepted = None if result is None else validate(result)
        except BaseException as error:  # the chat goes on without it
            reraise_interrupt(error)
            seconds = seconds or time.perf_counter() - started
            return CallResult(seconds=seconds, fault=self.record_failure(name, hook, error))
        self.record_success(name, hook, seconds)
        return CallResult(accepted, seconds)

    def record_failure(self, name: str, where: str, error: BaseException) -> Fault:
        """Note that a plugin failed; after `MOST_FAILURES` in a row it is left out.

        Args:
            name: the plugin.
            where: the hook, or another place where it was called, in a few words.
            error: what it raised.
        """
        self._consecutive_failures[name, where] += 1
        if self._consecutive_failures[name, where] >= MAX_FAILURES:
            self._dropped.add(name)
        return self._record_fault(name, where, error, dropped=name in self._dropped)

    def record_success(self, name: str, where: str, seconds: float = 0.0) -> None:
        """Note that a plugin came through; one that took long is told."""
        self._consecutive_failures[name, where] = 0
        self.succeeded_calls.add((name, where))
        if seconds > self._slow_after:
            self._record_fault(
                name, where, ChatlmError(f"it took {seconds:.1f} s, and all else waited")
            )

    def _record_fault(
        self,
        plugin: str,
        hook: str,
        error: BaseException,
        *,
        dropped: bool = False,
    ) -> Fault:
        log.error("plugin %s failed in %s", plugin, hook, exc_info=error)
        hint = error.hint if isinstance(error, ChatlmError) else ""
        fault = Fault(plugin, hook, describe_error(error), dropped, hint)
        self._faults.append(fault)
        self.all_faults.append(fault)
        return fault

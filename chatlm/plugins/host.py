"""Holds the loaded plugins and calls their hooks one by one; knows no hook's meaning."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pluggy

from chatlm import hookspecs
from chatlm.errors import ChatlmError
from chatlm.plugins import contract, settings
from chatlm.plugins.discovery import Found
from chatlm.text import one_line

log = logging.getLogger(__name__)

MOST_FAILURES = 3
"""After this many failures of one hook in a row a plugin is left out until restart."""

SLOW_SECONDS = 10.0
"""A hook that takes longer is reported. Nothing in a running program can stop it."""

HEAVY = frozenset({"torch", "transformers", "peft", "faiss", "sentence_transformers", "textual"})
"""What a plugin may import inside its hooks only, since every start would wait for it."""


LOADING_STEPS = ("loading", "import", "registration", "settings")
"""Where a plugin may fail before any hook."""


@dataclass(frozen=True)
class Fault:
    """A plugin that failed: which, where, how."""

    plugin: str
    hook: str
    """The hook, or one of `LOADING_STEPS`."""
    error: str
    left_out: bool = False
    hint: str = ""
    """What to do; empty for what can always be done."""

    def __str__(self) -> str:
        end = " It is left out until chatlm restarts." if self.left_out else ""
        hint = self.hint or (f"More: chatlm logs. Without it: chatlm plugins disable {self.plugin}")
        return f"The plugin {self.plugin} failed in {self.hook}: {self.error}.{end} {hint}"


class PluginHost:
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
            contract.check_names(self._manager, plugin)
            self._manager.register(plugin, name)
            contract.check_hooks(self._manager, plugin)
            settings.check_schema(plugin)
        except BaseException as error:  # whatever a stranger's plugin does, only it is lost
            _pass_on(error)
            if self._manager.get_plugin(name) is plugin:
                self._manager.unregister(name=name)
            self._note(name, "registration", error, left_out=True)
            return False
        return True

    def load(self, found: Found) -> bool:
        """Import and register a plugin; returns whether it is in. What fails is a fault."""
        if found.problem:
            self._note(found.name, "loading", ChatlmError(found.problem), left_out=True)
            return False
        before = HEAVY & sys.modules.keys()
        try:
            plugin = found.bring()
        except BaseException as error:  # an import may fail in any way
            _pass_on(error)
            self._note(found.name, "import", error, left_out=True)
            return False
        registered = self.register(found.name, plugin)
        if registered and (heavy := sorted(HEAVY & sys.modules.keys() - before)):
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
        kind = settings.class_of(self._manager.get_plugin(name))
        try:
            return settings.read(name, kind, section) if kind else None
        except ChatlmError as error:
            self.leave_out(name, "settings", error)
            return None

    def settings_class(self, name: str) -> type | None:
        """The plugin's `Settings`; None where it has none or is not loaded."""
        return settings.class_of(self._manager.get_plugin(name))

    def is_left_out(self, name: str) -> bool:
        """Whether the plugin is called no more."""
        return name in self._left_out

    def leave_out(self, name: str, where: str, error: BaseException) -> None:
        """Call the plugin no more, and say why."""
        self._left_out.add(name)
        self._note(name, where, error, left_out=True)

    def each(self, hook: str, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """Call every implementation; yield `(plugin, result)` of those that returned something."""
        for impl in self._implementations(hook):
            _, result = self._call(impl, hook, arguments, _anything)
            if result is not None:
                yield impl.plugin_name, result

    def offer(self, hook: str, make: Callable[[str], Mapping[str, Any]]) -> Iterator[str]:
        """Call every implementation with arguments of its own; yield who came through.

        Args:
            make: the arguments for the plugin of this name; called just before it.
        """
        for impl in self._implementations(hook):
            came_through, _ = self._call(impl, hook, make(impl.plugin_name), _anything)
            if came_through:
                yield impl.plugin_name

    def gather(self, hook: str, kind: type, **arguments: Any) -> list[Any]:
        """All values of all implementations, each checked to be a `kind`."""
        found: list[Any] = []
        for impl in self._implementations(hook):
            _, values = self._call(impl, hook, arguments, contract.list_of(kind))
            found += values or ()
        return found

    def first(self, hook: str, kind: type, **arguments: Any) -> list[Any] | None:
        """The values of the first implementation that returned any; None when none did."""
        for impl in self._implementations(hook):
            _, values = self._call(impl, hook, arguments, contract.list_of(kind))
            if values:
                found: list[Any] = values
                return found
        return None

    def first_text(self, hook: str, **arguments: Any) -> str | None:
        """What the first implementation says that returned a text; None when none did."""
        for impl in self._implementations(hook):
            _, said = self._call(impl, hook, arguments, contract.text)
            if said is not None:
                return str(said)
        return None

    def fold(self, hook: str, name: str, value: Any, **arguments: Any) -> Any:
        """Pass `value` through all implementations, each given what the one before returned."""
        accept = contract.one(type(value))
        for impl in self._implementations(hook):
            _, result = self._call(impl, hook, {**arguments, name: value}, accept)
            value = value if result is None else result
        return value

    def take_faults(self) -> list[Fault]:
        """What failed since the last call."""
        faults, self._faults = self._faults, []
        return faults

    def _implementations(self, hook: str) -> list[pluggy.HookImpl]:
        """In pluggy's order: `tryfirst`, then the last registered first, then `trylast`."""
        caller: pluggy.HookCaller = getattr(self._manager.hook, hook)
        return list(reversed(caller.get_hookimpls()))

    def _call(
        self,
        impl: pluggy.HookImpl,
        hook: str,
        arguments: Mapping[str, Any],
        accept: Callable[[Any], Any],
    ) -> tuple[bool, Any]:
        """Call one implementation.

        Args:
            accept: gives what a result is worth, or raises TypeError.

        Returns:
            whether it came through, and the result; None too for one that is left out or failed.
        """
        name = impl.plugin_name
        if name in self._left_out:
            return False, None
        started = time.perf_counter()
        try:
            result = impl.function(*(arguments[argument] for argument in impl.argnames))
            accepted = None if result is None else accept(result)
        except BaseException as error:  # the chat goes on without it
            _pass_on(error)
            self._in_a_row[name, hook] += 1
            if self._in_a_row[name, hook] < MOST_FAILURES:
                self._note(name, hook, error)
            else:
                self.leave_out(name, hook, error)
            return False, None
        self._in_a_row[name, hook] = 0
        self.came_through.add((name, hook))
        seconds = time.perf_counter() - started
        if seconds > self._slow_after:
            self._note(name, hook, ChatlmError(f"it took {seconds:.1f} s, and all else waited"))
        return True, accepted

    def _note(
        self,
        plugin: str,
        hook: str,
        error: BaseException,
        *,
        left_out: bool = False,
    ) -> None:
        log.error("plugin %s failed in %s", plugin, hook, exc_info=error)
        hint = error.hint if isinstance(error, ChatlmError) else ""
        fault = Fault(plugin, hook, _text(error), left_out, hint)
        self._faults.append(fault)
        self.past.append(fault)


def _pass_on(error: BaseException) -> None:
    """Raise what is no fault of the plugin's: Ctrl-C, which only the main thread ever gets."""
    if isinstance(error, KeyboardInterrupt) and (
        threading.current_thread() is threading.main_thread()
    ):
        raise error


def _text(error: BaseException) -> str:
    if isinstance(error, ChatlmError):
        return one_line(error.message, 300).rstrip(".")
    try:
        said = str(error)
    except Exception:  # a stranger's exception may not even have words
        said = "it cannot say what"
    return one_line(": ".join(filter(None, (type(error).__name__, said))), 300).rstrip(".")


def _anything(result: Any) -> Any:
    return result

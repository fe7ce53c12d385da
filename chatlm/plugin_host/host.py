"""PluginHost: register plugins, call hooks, drop one that keeps failing or does not return."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pluggy

from chatlm.config import paths
from chatlm.errors import ChatlmError
from chatlm.plugin_host import hook_table, hookspecs, settings
from chatlm.plugin_host.discovery import PluginSource
from chatlm.plugin_host.faults import CtrlC, Fault, FaultKind, describe_error, marked_ctrl_c
from chatlm.plugin_host.hook_table import HOOKS, CallStyle, Hook
from chatlm.plugin_host.hook_threads import POLL_SECONDS, HookCall

Validator = Callable[[Any], Any]
"""Returns a valid hook result, or raises what is wrong with it."""


@dataclass(frozen=True)
class CallResult:
    """The outcome of one call."""

    value: Any = None
    """None where the plugin returned nothing, or failed."""
    seconds: float = 0.0
    fault: Fault | None = None
    called: bool = True
    """False for a plugin that was dropped."""
    in_time: bool = True
    """False if nobody waited until it returned, which is not the plugin's fault."""

    @property
    def succeeded(self) -> bool:
        """Whether the plugin was called and did not fail."""
        return self.called and self.fault is None


class HookCaller(ABC):
    """Calls every plugin that implements a hook, one after the other."""

    @abstractmethod
    def implementations(self, hook: str) -> list[pluggy.HookImpl]:
        """Return the implementations to call, in order."""

    @abstractmethod
    def call(
        self,
        impl: pluggy.HookImpl,
        hook: str,
        arguments: Mapping[str, Any],
        validate: Validator,
        original: Any = None,
    ) -> CallResult:
        """Call one implementation, in another thread; wait until it returns or is abandoned.

        Args:
            impl: what to call.
            hook: the hook it implements.
            arguments: all that the hook has.
            validate: for what it returns, unless that is None.
            original: the value if it returns None; subclasses compare the result with it.
        """

    def call_hook(self, hook: str, default: Any = None, /, **arguments: Any) -> Any:
        """Call a hook as the table of hooks says.

        Args:
            hook: the hook's name.
            default: the result with `FIRST`, if no plugin returns one.
            arguments: all arguments of the hook.

        Returns:
            a list with `GATHER`, a dict with `MERGE`, the first result with `FIRST`, the last value
            with `FOLD`, None with `NOTIFY` and `REGISTER`.
        """
        row = HOOKS[hook]
        match row.style:
            case CallStyle.GATHER:
                results = self._results(row, arguments)
                return [value for result in results for value in result]
            case CallStyle.MERGE:
                merged: dict[str, Any] = {}
                for result in self._results(row, arguments):
                    merged = {**result, **merged}
                return merged
            case CallStyle.FIRST:
                return next(self._results(row, arguments, default), default)
            case CallStyle.FOLD:
                return self._fold(row, arguments)
        for _ in self._results(row, arguments):
            pass
        return None

    def call_each(
        self,
        hook: str,
        make_arguments: Callable[[str], Mapping[str, Any]],
        *,
        only: Collection[str] | None = None,
    ) -> Iterator[str]:
        """Call a `NOTIFY` hook with arguments of each plugin's own.

        Args:
            hook: the hook's name.
            make_arguments: returns the arguments for the plugin of this name; called just before
                that plugin.
            only: the plugins to call; None for all.

        Yields:
            the plugins that did not fail.
        """
        row = HOOKS[hook]
        for impl in self.implementations(hook):
            if only is not None and impl.plugin_name not in only:
                continue
            arguments = make_arguments(impl.plugin_name)
            if self.call(impl, hook, arguments, row.validate).succeeded:
                yield impl.plugin_name

    def _results(
        self, row: Hook, arguments: Mapping[str, Any], default: Any = None
    ) -> Iterator[Any]:
        """Call every implementation; yield the results that are not None."""
        for impl in self.implementations(row.name):
            value = self.call(impl, row.name, arguments, row.validate, default).value
            if value is not None:
                yield value

    def _fold(self, row: Hook, arguments: Mapping[str, Any]) -> Any:
        value = arguments[row.folded]
        for impl in self.implementations(row.name):
            validate = partial(row.validate, original=value)
            copied = dataclasses.replace(value)  # what a plugin does to it by force changes nothing
            result = self.call(
                impl, row.name, {**arguments, row.folded: copied}, validate, value
            ).value
            value = value if result is None else result
        return value


log = logging.getLogger(__name__)


MAX_FAILURES = 3
"""After this many failures of one hook in a row a plugin is left out until restart."""


SLOW_SECONDS = 10.0
"""A hook that takes longer is reported as slow."""

UI_THREAD_SECONDS = 5.0
"""A hook that is called in an event loop's thread is abandoned after this, or the screen would
stand still for ever."""

INTERRUPT_SECONDS = 1.0
"""How long hooks may take altogether after Ctrl-C."""


HEAVY_MODULES = frozenset(
    {"torch", "transformers", "peft", "faiss", "sentence_transformers", "textual"}
)
"""What a plugin may import inside its hooks only, since every start would wait for it."""


class PluginHost(HookCaller):
    """The loaded plugins; one that fails in a hook is noted as a `Fault`, and the others go on.

    Args:
        plugins: `(name, module or object)` pairs to register, the last of them called first.
        slow_after: seconds after which a hook that came back is reported as slow.
    """

    def __init__(
        self, plugins: Iterable[tuple[str, Any]] = (), *, slow_after: float = SLOW_SECONDS
    ) -> None:
        self._manager = pluggy.PluginManager("chatlm")
        self._manager.add_hookspecs(hookspecs)
        self._slow_after = slow_after
        self._calls: list[HookCall] = []
        """The calls that somebody waits for, innermost last."""
        self._ends_at: float | None = None
        """The time after which no hook is waited for; see `finish_within`."""
        self.on_hang: Callable[[HookCall], object] | None = None
        """Called once for each hook that has not returned after `HANG_SECONDS`, by the thread that
        waits for it."""
        self._consecutive_failures: Counter[tuple[str, str]] = Counter()
        self._dropped: set[str] = set()
        self._services: dict[str, tuple[str, Any]] | None = None
        self._settings: dict[str, Any] = {}
        self._faults: list[Fault] = []
        self.all_faults: list[Fault] = []
        """Every fault so far, in order, whether taken or not."""
        self.succeeded_calls: set[tuple[str, str]] = set()
        """`(plugin, hook)` of every call that went well."""
        for name, plugin in plugins:
            self.register(name, plugin)

    @property
    def last_faults(self) -> dict[str, Fault]:
        """The last fault of each plugin that had one; a failure goes before a slow call."""
        faults = sorted(self.all_faults, key=lambda fault: fault.kind != "slow")
        return {fault.plugin: fault for fault in faults}

    @property
    def names(self) -> list[str]:
        """The registered plugins, in the order they were loaded."""
        return [name for name, _ in self._manager.list_name_plugin()]

    def plugin(self, name: str) -> Any:
        """Return the module or object of a plugin; None if it is not registered."""
        return self._manager.get_plugin(name)

    def hooks_of(self, name: str) -> list[str]:
        """The hooks that the plugin implements."""
        callers = self._manager.get_hookcallers(self._manager.get_plugin(name)) or []
        return [caller.name for caller in callers]

    def register(self, name: str, plugin: Any) -> bool:
        """Add a plugin; returns whether it is in. One that cannot be called is a fault."""
        try:
            with marked_ctrl_c():
                hook_table.check_signatures(self._manager, plugin)
                self._manager.register(plugin, name)
                hook_table.check_implementations(self._manager, plugin)
                settings.check_settings_class(plugin)
        except CtrlC:
            raise
        except (
            BaseException
        ) as error:  # a third-party plugin may raise anything; only it is dropped
            if self._manager.get_plugin(name) is plugin:
                self._manager.unregister(name=name)
            self._record_fault(name, "registration", error, dropped=True)
            return False
        return True

    def load(self, source: PluginSource) -> bool:
        """Import and register a plugin; return whether it was registered. Errors become faults."""
        if source.problem:
            self._record_fault(source.name, "loading", ChatlmError(source.problem), dropped=True)
            return False
        before = HEAVY_MODULES & sys.modules.keys()
        try:
            with marked_ctrl_c():
                plugin = source.load()
        except CtrlC:
            raise
        except BaseException as error:  # an import may fail in any way
            self._record_fault(source.name, "import", error, dropped=True)
            return False
        registered = self.register(source.name, plugin)
        if registered and (heavy := sorted(HEAVY_MODULES & sys.modules.keys() - before)):
            slow = ChatlmError(
                f"it imports {', '.join(heavy)} when it is loaded, not when a hook needs it",
                hint="It works but slows every start. Report it to the plugin's author.",
            )
            self._record_fault(source.name, "import", slow)
        return registered

    def settings(self, name: str, section: Mapping[str, Any]) -> Any:
        """An object of the plugin's `Settings`, None where it has none.

        A wrong setting is a fault, and the plugin is left out.
        """
        kind = settings.settings_class(self._manager.get_plugin(name))
        try:
            if kind is None:
                return None
            values: Any = settings.plugin_section(name, kind).read(
                section, str(paths.config_file())
            )
            self._settings[name] = values
            return values
        except ChatlmError as error:
            self.drop(name, "settings", error)
            return None

    def loaded_settings(self, name: str) -> Any:
        """The object that `settings` returned last for a plugin; None where there is none."""
        return self._settings.get(name)

    def summary(self, name: str) -> str:
        """Return what a plugin does: its docstring's first line; empty where there is none."""
        plugin = self._manager.get_plugin(name)
        doc = None if plugin is None else plugin.__doc__
        return doc.strip().partition("\n")[0] if isinstance(doc, str) else ""

    def settings_class(self, name: str) -> type | None:
        """The plugin's `Settings`; None where it has none or is not loaded."""
        return settings.settings_class(self._manager.get_plugin(name))

    def service(self, name: str) -> Any:
        """Return a service by name, see `service_of`; None if no plugin offers it."""
        return self.service_of(name)[1]

    def service_of(self, name: str) -> tuple[str, Any]:
        """Return a service by name behind the name of its plugin, the first that offers it; an
        empty name and None if none does.

        The plugins are asked once; a service of a plugin that was dropped since is not returned.
        """
        if self._services is None:
            services: dict[str, tuple[str, Any]] = {}
            for plugin, (offered, service) in self.collect("register_services"):
                services.setdefault(offered, (plugin, service))
            self._services = services
        plugin, service = self._services.get(name, ("", None))
        return ("", None) if self.is_dropped(plugin) else (plugin, service)

    def is_dropped(self, name: str) -> bool:
        """Return whether the plugin is no longer called."""
        return name in self._dropped

    def is_unavailable(self, name: str) -> bool:
        """Return whether the plugin could not be loaded, or is no longer called."""
        return name in self._dropped or name not in self.names

    def drop(self, name: str, where: str, error: BaseException) -> None:
        """Stop calling the plugin and record why."""
        self._dropped.add(name)
        self._record_fault(name, where, error, dropped=True)

    def take_faults(self) -> list[Fault]:
        """Return and clear the faults since the last call."""
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
        """Call one implementation, see `HookCaller.call`; a dropped plugin is not called."""
        return self.call_before(None, impl, hook, arguments, validate)

    def call_before(
        self,
        deadline: float | None,
        impl: pluggy.HookImpl,
        hook: str,
        arguments: Mapping[str, Any],
        validate: Validator,
    ) -> CallResult:
        """Call one implementation, and do not wait for it any longer at a deadline.

        Args:
            deadline: of `time.monotonic`; after it the hook is still called, but has to be quick.
                None waits as long as it takes.
            impl, hook, arguments, validate: as in `call`.
        """
        name = impl.plugin_name
        if name in self._dropped:
            return CallResult(called=False)
        values = [arguments[argument] for argument in impl.argnames]

        def function() -> Any:
            environment = dict(os.environ)
            try:
                result = impl.function(*values)
            finally:
                _restore_environment(environment)
            return None if result is None or call.abandoned else validate(result)

        started = time.perf_counter()
        call = HookCall(name, hook, function)
        self._calls.append(call)
        try:
            call.start()
            self._wait(call, deadline)
        except KeyboardInterrupt:  # Ctrl-C: only the main thread gets it, and hooks run in others
            self.finish_within(INTERRUPT_SECONDS)
            raise
        finally:
            self._abandon(call)
            self._calls.remove(call)
        seconds = time.perf_counter() - started
        if call.abandoned:
            return CallResult(seconds=seconds, fault=call.fault, in_time=False)
        if call.error is not None:
            return CallResult(seconds=seconds, fault=self.record_failure(name, hook, call.error))
        self.record_success(name, hook, call.own_seconds)
        return CallResult(call.value, seconds)

    @property
    def running_call(self) -> HookCall | None:
        """The innermost call that something waits for."""
        return self._calls[-1] if self._calls else None

    @property
    def hanging_call(self) -> HookCall | None:
        """The call that has not returned for `HANG_SECONDS`, and that something waits for."""
        return next((call for call in self._calls if call.hangs), None)

    def abandon_hanging_call(self) -> bool:
        """Abandon a hanging hook and its plugin until restart; return False if none hangs."""
        call = self.hanging_call
        return call is not None and self._abandon(call, dropped=True)

    def finish_within(self, seconds: float) -> None:
        """Wait for hooks no longer than this from now on; each still gets `POLL_SECONDS`."""
        self._ends_at = time.monotonic() + seconds

    def shut_down(self, seconds: float) -> None:
        """Call every `shutdown`; wait no longer than this for all of them together."""
        self._ends_at, ends_at = None, time.monotonic() + seconds
        for impl in self.implementations("shutdown"):
            self.call_before(ends_at, impl, "shutdown", {}, HOOKS["shutdown"].validate)

    def _wait(self, call: HookCall, deadline: float | None) -> None:
        """Wait until a call returns or is abandoned; abandon it when there is no time left."""
        in_ui_thread, reported = _runs_event_loop(), False
        while not call.wait(POLL_SECONDS):
            if call.hangs and not reported:
                reported = True
                if self.on_hang is not None:
                    self.on_hang(call)
            if in_ui_thread and call.elapsed > UI_THREAD_SECONDS:
                self._abandon(call, dropped=True)
            elif _has_passed(deadline) or _has_passed(self._ends_at):
                self._abandon(call)

    def _abandon(self, call: HookCall, *, dropped: bool = False) -> bool:
        """Let go of a call; one that hung is a fault. Return False if it has returned."""

        def record() -> None:
            if dropped:
                self._dropped.add(call.plugin)
            if dropped or call.hangs:
                error = ChatlmError(f"chatlm went on without it after {call.elapsed:.0f} s")
                call.fault = self._record_fault(
                    call.plugin, call.hook, error, dropped=dropped, kind="abandoned"
                )
            else:
                log.info("plugin %s was not waited for in %s", call.plugin, call.hook)

        return call.abandon(record)

    def collect(
        self, hook: str, accept: Callable[..., None] | None = None
    ) -> list[tuple[str, tuple[Any, ...]]]:
        """Call a `REGISTER` hook and return what the plugins register.

        Args:
            hook: the hook's name.
            accept: called with the plugin's name and the arguments of `register`; what it raises is
                that plugin's fault.

        Returns:
            `(plugin, arguments of register)` in the order of the calls, without those that are not
            valid; of a plugin that failed, what it had registered before.
        """
        check = HOOKS[hook].registers
        offered: list[tuple[str, tuple[Any, ...]]] = []

        def make_arguments(plugin: str) -> Mapping[str, Any]:
            def register(*values: Any) -> None:
                try:
                    if check is not None:
                        check(*values)
                    if accept is not None:
                        accept(plugin, *values)
                except Exception as error:  # the plugin's next calls of `register` may be valid
                    self._record_rejection(plugin, hook, error)
                else:
                    offered.append((plugin, values))

            return {"register": register}

        for _ in self.call_each(hook, make_arguments):
            pass
        return offered

    def record_failure(self, name: str, where: str, error: BaseException) -> Fault:
        """Note that a plugin failed; after `MAX_FAILURES` in a row it is left out.

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
        """Record a successful call; a slow one is reported."""
        self._consecutive_failures[name, where] = 0
        self.succeeded_calls.add((name, where))
        if seconds > self._slow_after:
            self._record_fault(name, where, ChatlmError(f"it took {seconds:.1f} s"), kind="slow")

    def _record_rejection(self, plugin: str, hook: str, error: Exception) -> None:
        """Record once what a plugin registered wrongly, however often it is asked."""
        known = {(fault.plugin, fault.hook, fault.error) for fault in self.all_faults}
        if (plugin, hook, describe_error(error)) not in known:
            self._record_fault(plugin, hook, error)

    def _record_fault(
        self,
        plugin: str,
        hook: str,
        error: BaseException,
        *,
        dropped: bool = False,
        kind: FaultKind = "failed",
    ) -> Fault:
        hint = error.hint if isinstance(error, ChatlmError) else ""
        fault = Fault(plugin, hook, describe_error(error), dropped, hint, kind)
        if kind == "failed":
            log.error("plugin %s failed in %s", plugin, hook, exc_info=error)
        else:
            log.warning("%s", fault)
        self._faults.append(fault)
        self.all_faults.append(fault)
        return fault


def _restore_environment(before: Mapping[str, str]) -> None:
    """Set the variables that a plugin removed, such as the one that says where chats are stored.

    Raises:
        RuntimeError: it removed one; the message names it.
    """
    removed = sorted(before.keys() - os.environ.keys())
    if removed:
        os.environ.update({name: before[name] for name in removed})
        raise RuntimeError(f"it removed environment variables: {', '.join(removed)}")


def _has_passed(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


def _runs_event_loop() -> bool:
    """Whether the current thread runs an event loop, which stands still while it waits."""
    if "asyncio" not in sys.modules:  # whose import takes longer than most commands
        return False
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

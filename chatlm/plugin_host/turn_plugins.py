"""One turn's plugins: traced calls, guarded processors and criteria."""

from __future__ import annotations

import dataclasses
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import pluggy

from chatlm.plugin_host.faults import CtrlC, Fault, marked_ctrl_c
from chatlm.plugin_host.hook_threads import run_queue_seconds
from chatlm.plugin_host.host import CallResult, HookCaller, PluginHost, Validator
from chatlm.plugin_host.trace_diff import callable_name, find_changes, summarise_result
from chatlm.types.provenance import Call, Change
from chatlm.types.requests import Request


class TurnPlugins(HookCaller):
    """Calls the hooks of one turn.

    Args:
        host: has the plugins and records failures.
        disabled_plugins: plugins that are not called.
    """

    def __init__(self, host: PluginHost, disabled_plugins: Collection[str] = ()) -> None:
        self._host = host
        self._disabled_plugins = disabled_plugins
        self._calls: list[Call] = []
        self._deadline: float | None = None
        self._guards: list[GuardedCallable] = []
        self.completed_by = ""
        """The plugin that gave the whole reply in `adjust_request`; empty for none."""

    def implementations(self, hook: str) -> list[pluggy.HookImpl]:
        """The host's implementations, without those of disabled plugins."""
        impls = self._host.implementations(hook)
        return [impl for impl in impls if impl.plugin_name not in self._disabled_plugins]

    def collect(self, hook: str) -> list[tuple[str, tuple[Any, ...]]]:
        """Return what the enabled plugins register in a hook, each with the plugin's name."""
        offers = self._host.collect(hook)
        return [offer for offer in offers if offer[0] not in self._disabled_plugins]

    def call(
        self,
        impl: pluggy.HookImpl,
        hook: str,
        arguments: Mapping[str, Any],
        validate: Validator,
        original: Any = None,
    ) -> CallResult:
        """Call through the host and record the outcome."""
        summary: str = ""
        changed: tuple[Change, ...] = ()

        def accept_and_tell(result: Any) -> Any:
            """Validate the value, so that an error counts as the plugin's failure."""
            nonlocal summary, changed
            accepted = validate(result)
            if isinstance(accepted, Request):
                if accepted.reply_complete and not original.reply_complete:
                    self.completed_by = impl.plugin_name
                accepted = self.guard(impl.plugin_name, accepted)
            summary, changed = summarise_result(accepted), find_changes(original, accepted)
            return accepted

        outcome = self._host.call_before(self._deadline, impl, hook, arguments, accept_and_tell)
        if outcome.called:
            error = outcome.fault.error if outcome.fault else ""
            if not outcome.in_time:
                summary, changed = "" if error else "not waited for", ()
            seconds = round(outcome.seconds, 6)
            self._calls.append(Call(impl.plugin_name, hook, seconds, summary, changed, error))
        return outcome

    @contextmanager
    def limited(self, seconds: float | None) -> Iterator[None]:
        """Wait for the hooks called inside no longer than this altogether; None for no limit."""
        self._deadline = None if seconds is None else time.monotonic() + seconds
        try:
            yield
        finally:
            self._deadline = None

    def guard(self, plugin: str, request: Request) -> Request:
        """The request with a guard around each processor and criterion that has none yet.

        Args:
            plugin: the plugin that added them, named in the fault when one fails.
            request: what the plugin made.
        """
        failed = partial(self._host.record_failure, plugin)
        processors = tuple(
            one
            if isinstance(one, GuardedCallable)
            else self._register_guard(GuardedProcessor(plugin, one, failed))
            for one in request.logits_processors
        )
        criteria = tuple(
            one
            if isinstance(one, GuardedCallable)
            else self._register_guard(GuardedCriterion(plugin, one, failed))
            for one in request.stopping_criteria
        )
        return dataclasses.replace(
            request, logits_processors=processors, stopping_criteria=criteria
        )

    def note_tool(self, plugin: str, tool: str, seconds: float, summary: str, error: str) -> None:
        """Record the call of a tool among the calls of the turn.

        Args:
            plugin: who offers the tool.
            tool: its name.
            seconds: how long it ran.
            summary: its result in a few words.
            error: why there is none; empty for nothing.
        """
        self._calls.append(Call(plugin, f"tool {tool}", round(seconds, 6), summary, error=error))

    def loaded_settings(self, name: str) -> Any:
        """As `PluginHost.loaded_settings`."""
        return self._host.loaded_settings(name)

    def take_calls(self) -> tuple[Call, ...]:
        """Return the calls since the last time, in order; processors and criteria last."""
        calls = [*self._calls, *(guard.as_call() for guard in self._guards if guard.calls)]
        for guard in self._guards:
            if guard.calls and guard.fault is None:
                self._host.record_success(guard.plugin, guard.label, guard.seconds)
        self._calls, self._guards = [], []
        return tuple(calls)

    def take_faults(self) -> list[Fault]:
        """Return and clear the faults since the last call."""
        return self._host.take_faults()

    def _register_guard(self, guard: GuardedCallable) -> GuardedCallable:
        self._guards.append(guard)
        return guard


class GuardedCallable(ABC):
    """A processor or criterion, called for each token until it fails; then it is skipped.

    Args:
        plugin: who added it.
        function: what it added.
        on_failure: called with the place and the error of the failure.
    """

    label: ClassVar[str]
    """The kind of function, as named in faults."""

    def __init__(
        self,
        plugin: str,
        function: Callable[[Any, Any], Any],
        on_failure: Callable[[str, BaseException], Fault],
    ) -> None:
        self.plugin = plugin
        self.__name__ = callable_name(function)
        self.calls = 0
        self.seconds = 0.0
        """Duration of all calls, without waiting for a CPU core."""
        self.fault: Fault | None = None
        self._function = function
        self._on_failure = on_failure

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Call it with a copy of the scores, so that a failure leaves nothing half done."""
        if self.fault is not None:
            return self._fallback(scores)
        started, delayed = time.perf_counter(), run_queue_seconds()
        try:
            with marked_ctrl_c():
                return self._validate(self._function(input_ids, scores.clone()), scores)
        except CtrlC:
            raise
        except BaseException as error:  # the reply continues without it
            self.fault = self._on_failure(self.label, error)
            return self._fallback(scores)
        finally:
            self.calls += 1
            seconds = time.perf_counter() - started
            self.seconds += max(seconds - (run_queue_seconds() - delayed), 0.0)

    def as_call(self) -> Call:
        """All of its calls as one."""
        tokens = "1 token" if self.calls == 1 else f"{self.calls:,} tokens"
        error = self.fault.error if self.fault else ""
        summary = f"{self.__name__}, {tokens}"
        return Call(self.plugin, self.label, round(self.seconds, 6), summary, error=error)

    @abstractmethod
    def _validate(self, result: Any, scores: Any) -> Any:
        """Return the validated result; raises TypeError or ValueError if it is invalid."""

    @abstractmethod
    def _fallback(self, scores: Any) -> Any:
        """Return the result to use once it is skipped."""


class GuardedProcessor(GuardedCallable):
    """A `LogitsProcessor`."""

    label = "a logits processor"

    def _validate(self, result: Any, scores: Any) -> Any:
        if not isinstance(result, type(scores)):
            raise TypeError(f"{self.__name__} returned {type(result).__name__}, not a tensor")
        if result.shape != scores.shape:
            shapes = f"{tuple(result.shape)}, not {tuple(scores.shape)}"
            raise ValueError(f"{self.__name__} returned scores of shape {shapes}")
        if not result.is_floating_point() or result.device != scores.device:
            kind = f"{result.dtype} on {result.device}"
            raise TypeError(f"{self.__name__} returned scores of {kind}")
        if not _can_sample(result) and _can_sample(scores):
            raise ValueError(f"{self.__name__} masked all tokens (-inf)")
        return result

    def _fallback(self, scores: Any) -> Any:
        return scores


class GuardedCriterion(GuardedCallable):
    """A `StoppingCriterion`."""

    label = "a stopping criterion"

    def _validate(self, result: Any, scores: Any) -> bool:
        one = isinstance(result, type(scores)) and result.numel() == 1
        if not isinstance(result, bool) and not one:
            kind = type(result).__name__
            raise TypeError(f"{self.__name__} returned {kind}, not true or false for one row")
        return bool(result)

    def _fallback(self, scores: Any) -> bool:
        return False


def _can_sample(scores: Any) -> bool:
    """Whether no score is NaN or +inf, and one at least is not -inf; the greatest tells it all."""
    return math.isfinite(scores.max())

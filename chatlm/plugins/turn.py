"""The plugins as one turn sees them: those that are on in its chat, each call remembered."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pluggy

from chatlm.changes import changes, told
from chatlm.generation import Request
from chatlm.plugins.calling import Accept, Calls, Outcome
from chatlm.plugins.faults import Fault
from chatlm.plugins.guarding import Guarded, GuardedCriterion, GuardedProcessor
from chatlm.trace import Call, Change

if TYPE_CHECKING:
    from chatlm.plugins.host import PluginHost


class TurnPlugins(Calls):
    """Calls the hooks of one turn.

    Args:
        host: has the plugins, and is told of what fails.
        without: plugins that are not called.
    """

    def __init__(self, host: PluginHost, without: Collection[str] = ()) -> None:
        self._host = host
        self._without = without
        self._calls: list[Call] = []
        self._guards: list[Guarded] = []

    def implementations(self, hook: str) -> list[pluggy.HookImpl]:
        """Those of the host, but for the plugins that are switched off."""
        impls = self._host.implementations(hook)
        return [impl for impl in impls if impl.plugin_name not in self._without]

    def call(
        self,
        impl: pluggy.HookImpl,
        hook: str,
        arguments: Mapping[str, Any],
        accept: Accept,
        before: Any = None,
    ) -> Outcome:
        """Call by way of the host, and remember what came of it."""
        said: str = ""
        changed: tuple[Change, ...] = ()

        def accept_and_tell(result: Any) -> Any:
            """What fails here fails as the plugin's, whose value it is."""
            nonlocal said, changed
            accepted = accept(result)
            said, changed = told(accepted), changes(before, accepted)
            return accepted

        outcome = self._host.call(impl, hook, arguments, accept_and_tell, before)
        if outcome.called:
            error = outcome.fault.error if outcome.fault else ""
            seconds = round(outcome.seconds, 6)
            self._calls.append(Call(impl.plugin_name, hook, seconds, said, changed, error))
        return outcome

    def guard(self, plugin: str, request: Request) -> Request:
        """The request with a guard around each processor and criterion that has none yet.

        Args:
            plugin: who added them; it is told as having failed when one of them does.
            request: what the plugin made.
        """
        failed = partial(self._host.failed, plugin)
        processors = tuple(
            one
            if isinstance(one, Guarded)
            else self._watched(GuardedProcessor(plugin, one, failed))
            for one in request.processors
        )
        criteria = tuple(
            one
            if isinstance(one, Guarded)
            else self._watched(GuardedCriterion(plugin, one, failed))
            for one in request.criteria
        )
        return dataclasses.replace(request, processors=processors, criteria=criteria)

    def take_calls(self) -> tuple[Call, ...]:
        """What was called since the last time, in order; processors and criteria last."""
        calls = [*self._calls, *(guard.as_call() for guard in self._guards if guard.calls)]
        for guard in self._guards:
            if guard.calls and guard.fault is None:
                self._host.went_well(guard.plugin, guard.where, guard.seconds)
        self._calls, self._guards = [], []
        return tuple(calls)

    def take_faults(self) -> list[Fault]:
        """See `PluginHost.take_faults`."""
        return self._host.take_faults()

    def _watched(self, guard: Guarded) -> Guarded:
        self._guards.append(guard)
        return guard

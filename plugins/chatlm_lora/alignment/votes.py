"""The votes of the arena as rows of pairs, from the service `preferences`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from chatlm import Preferences, UsageError, service

if TYPE_CHECKING:
    from chatlm import PluginContext

_contexts: list[PluginContext] = []
"""The program, through which other plugins' services are found; empty before it starts."""


def use_services_of(context: PluginContext) -> None:
    """Look the service `preferences` up in this program from now on."""
    _contexts[:] = [context]


def read_own_votes() -> Sequence[Mapping[str, Any]]:
    """Return a row for each vote of the user's that prefers a reply, while a chat is open.

    Raises:
        UsageError: no plugin offers votes.
        ChatlmError: they cannot be read.
    """
    for context in _contexts:
        # looked up at each call: the plugin may have been disabled meanwhile
        if (found := context.service("preferences", Preferences)) is not None:
            return found.pairs(USER)
    raise UsageError("There are no votes.", hint="Is the plugin arena switched off?")


ALL_JUDGES = "all"
"""Stands for the votes of everybody."""

USER = "human"
"""The judge of the user's own votes."""


def read_votes(judge: str) -> Sequence[Mapping[str, Any]]:
    """Return a row for each vote that prefers a reply.

    Args:
        judge: `USER`, the name of another judge, or `ALL_JUDGES`.

    Raises:
        UsageError: no plugin offers votes.
        ChatlmError: they cannot be read.
    """
    with service("preferences", Preferences) as preferences:
        return preferences.pairs("" if judge == ALL_JUDGES else judge)

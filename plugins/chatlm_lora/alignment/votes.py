"""The votes of the arena as rows of pairs, from the service `preferences`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chatlm import Preferences, service

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

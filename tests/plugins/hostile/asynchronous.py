"""Hopes to be awaited."""

from typing import Any

from chatlm import hookimpl


@hookimpl
async def turn_finished(turn: Any) -> None:
    """Never called."""

"""Implements a hook that does not exist."""

from typing import Any

from chatlm import hookimpl


@hookimpl
def anotate_message(message: Any) -> None:
    """Never called."""

"""Asks for an argument that the hook does not have."""

from typing import Any

from chatlm import hookimpl


@hookimpl
def annotate_message(mesage: Any) -> None:
    """Never called."""

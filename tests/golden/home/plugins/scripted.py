"""Offers a model that says what its name says: scripted:Hello says Hello."""

from collections.abc import Callable
from typing import Any

from chatlm import hookimpl


@hookimpl
def register_engines(register: Callable[[str, Any], None]) -> None:
    """Offer the model."""
    from chatlm.testing import ScriptedEngine

    register("scripted", ScriptedEngine)

"""The plugin's hooks: commands, and an engine for the scheme `openai:`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from chatlm import hookimpl
from chatlm_openai import PLUGIN
from chatlm_openai.settings import Settings

if TYPE_CHECKING:
    from chatlm import Commands, Engine, EngineOpener

__all__ = ["Settings"]


@hookimpl
def register_commands(cli: Commands) -> None:
    """Add `chatlm openai`."""
    cli.add_lazy(
        "openai",
        "chatlm_openai.commands:openai",
        "List and check models on OpenAI-compatible servers.",
    )


@hookimpl
def register_engines(register: Callable[[str, EngineOpener], None]) -> None:
    """Register the engine that opens `openai:MODEL@ENDPOINT`."""
    register(PLUGIN, _open_engine)


def _open_engine(name: str) -> Engine:
    from chatlm_openai.engine import open_engine

    return open_engine(name)

"""Use models on servers that speak OpenAI's protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from chatlm import hookimpl
from chatlm_openai import PLUGIN
from chatlm_openai.settings import Settings

if TYPE_CHECKING:
    from chatlm import Commands, Engine, EngineOpener, ModelListing

__all__ = ["Settings"]


@hookimpl
def register_commands(cli: Commands) -> None:
    """Add `chatlm openai` and `chatlm models remote`."""
    cli.add_lazy(
        "openai",
        "chatlm_openai.commands:openai",
        "List and check models on OpenAI-compatible servers.",
    )
    cli.group_of("models").add_lazy(
        "remote",
        "chatlm_openai.commands:models",
        "List the models of an OpenAI-compatible server.",
    )


@hookimpl
def register_engines(register: Callable[[str, EngineOpener], None]) -> None:
    """Register the engine that opens `openai:MODEL@ENDPOINT`."""
    register(PLUGIN, _open_engine)


@hookimpl
def list_models() -> list[ModelListing]:
    """List the models of the configured endpoints; one that cannot be reached is left out."""
    from chatlm_openai.listing import list_endpoint_models

    return list_endpoint_models()


def _open_engine(name: str) -> Engine:
    from chatlm_openai.engine import open_engine

    return open_engine(name)

"""Run GGUF files with llama.cpp."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chatlm import hookimpl, load_plugin_settings
from chatlm_llamacpp import PLUGIN, is_installed
from chatlm_llamacpp.settings import Settings

if TYPE_CHECKING:
    from chatlm import GgufModel, GgufRuntime

__all__ = ["Settings"]


@hookimpl
def register_gguf_runtimes(register: Callable[[str, GgufRuntime], None]) -> None:
    """Register llama.cpp if it is installed."""
    if is_installed():
        register(PLUGIN, _open_model)


def _open_model(model: GgufModel) -> Any:
    from chatlm_llamacpp.model import open_model

    return open_model(model, load_plugin_settings(PLUGIN, Settings))

"""chatlm's public names, each imported only when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatlm.config import load_config
    from chatlm.engines.learning import ChatEncoder, ChatTokens, fast_dtype, load_weights
    from chatlm.errors import ChatlmError, UsageError
    from chatlm.events import Delta
    from chatlm.extending import Panel, PluginScreen, SlashCommand, Ui, Work
    from chatlm.files import write_atomically
    from chatlm.generation import Engine, EngineInfo, Request, stream_many
    from chatlm.hookspecs import Commands, Context, hookimpl
    from chatlm.messages import (
        Annotation,
        Conversation,
        Message,
        Passage,
        Reply,
        StopReason,
        Turn,
    )
    from chatlm.models import ModelLocation, ensure_model, find_model
    from chatlm.models.disk import human_bytes, sync_tree
    from chatlm.paths import data_dir, shipped
    from chatlm.plugins.settings import own_settings
    from chatlm.sampling import Sampling
    from chatlm.session import ChatSession
    from chatlm.store import Store
    from chatlm.templates import Rendered, TemplateRenderer
    from chatlm.text import dump_json, one_line, visible

    __version__: str

_WHERE = {
    "Annotation": "chatlm.messages",
    "ChatEncoder": "chatlm.engines.learning",
    "ChatSession": "chatlm.session",
    "ChatTokens": "chatlm.engines.learning",
    "ChatlmError": "chatlm.errors",
    "Commands": "chatlm.hookspecs",
    "Context": "chatlm.hookspecs",
    "Conversation": "chatlm.messages",
    "Delta": "chatlm.events",
    "Engine": "chatlm.generation",
    "EngineInfo": "chatlm.generation",
    "Message": "chatlm.messages",
    "ModelLocation": "chatlm.models",
    "Panel": "chatlm.extending",
    "Passage": "chatlm.messages",
    "PluginScreen": "chatlm.extending",
    "Rendered": "chatlm.templates",
    "Reply": "chatlm.messages",
    "Request": "chatlm.generation",
    "Sampling": "chatlm.sampling",
    "SlashCommand": "chatlm.extending",
    "StopReason": "chatlm.messages",
    "Store": "chatlm.store",
    "TemplateRenderer": "chatlm.templates",
    "Turn": "chatlm.messages",
    "Ui": "chatlm.extending",
    "UsageError": "chatlm.errors",
    "Work": "chatlm.extending",
    "data_dir": "chatlm.paths",
    "dump_json": "chatlm.text",
    "ensure_model": "chatlm.models",
    "fast_dtype": "chatlm.engines.learning",
    "find_model": "chatlm.models",
    "hookimpl": "chatlm.hookspecs",
    "human_bytes": "chatlm.models.disk",
    "load_config": "chatlm.config",
    "load_weights": "chatlm.engines.learning",
    "one_line": "chatlm.text",
    "own_settings": "chatlm.plugins.settings",
    "shipped": "chatlm.paths",
    "stream_many": "chatlm.generation",
    "sync_tree": "chatlm.models.disk",
    "visible": "chatlm.text",
    "write_atomically": "chatlm.files",
}

__all__ = [
    "Annotation",
    "ChatEncoder",
    "ChatSession",
    "ChatTokens",
    "ChatlmError",
    "Commands",
    "Context",
    "Conversation",
    "Delta",
    "Engine",
    "EngineInfo",
    "Message",
    "ModelLocation",
    "Panel",
    "Passage",
    "PluginScreen",
    "Rendered",
    "Reply",
    "Request",
    "Sampling",
    "SlashCommand",
    "StopReason",
    "Store",
    "TemplateRenderer",
    "Turn",
    "Ui",
    "UsageError",
    "Work",
    "__version__",
    "data_dir",
    "dump_json",
    "ensure_model",
    "fast_dtype",
    "find_model",
    "hookimpl",
    "human_bytes",
    "load_config",
    "load_weights",
    "one_line",
    "own_settings",
    "shipped",
    "stream_many",
    "sync_tree",
    "visible",
    "write_atomically",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from chatlm.version import version

        value: Any = version()
    elif name in _WHERE:
        from importlib import import_module

        value = getattr(import_module(_WHERE[name]), name)
    else:
        raise AttributeError(f"module 'chatlm' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""chatlm's public names, each imported only when it is first used."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatlm.chat.replay import differences
    from chatlm.chat.session import ChatSession
    from chatlm.chat.side_chats import side_chats
    from chatlm.config.config import Config, load_config
    from chatlm.config.paths import data_dir, expanded, shipped, write_atomically
    from chatlm.engines.batching import open_batch, stream_many
    from chatlm.engines.estimated_tokens import Pieces
    from chatlm.engines.stopping import StopText
    from chatlm.engines.training_api import ChatEncoder, ChatTokens, fast_dtype, load_weights
    from chatlm.errors import (
        CannotGoOn,
        ChatlmError,
        ContextTooLong,
        EngineError,
        MessageRefused,
        ModelError,
        UsageError,
    )
    from chatlm.hub.disk import fingerprint_weights, human_bytes, sync_tree
    from chatlm.hub.installed import ModelLocation, find_model
    from chatlm.hub.pull import ensure_model
    from chatlm.plugin_host.hookspecs import Commands, Context, hookimpl
    from chatlm.plugin_host.settings import own_settings, save_setting
    from chatlm.plugin_host.ui_api import Panel, PluginScreen, SlashCommand, Ui, Work
    from chatlm.plugin_kit.artifacts import Artifact, Artifacts
    from chatlm.plugin_kit.progress import stopped_by_keys
    from chatlm.plugin_kit.screens import PluginCard
    from chatlm.store.database import Database
    from chatlm.store.store import Store
    from chatlm.text import dump_json, one_line, visible
    from chatlm.tui import run_ui
    from chatlm.types.engine import Batch, Engine, EngineInfo, EngineOpener
    from chatlm.types.events import (
        Delta,
        EngineEvent,
        Finished,
        Fitted,
        Prefill,
        ShownTokens,
        TokenLogprob,
    )
    from chatlm.types.messages import (
        Annotation,
        Conversation,
        Message,
        Passage,
        Reply,
        StopReason,
        Turn,
        Usage,
    )
    from chatlm.types.requests import Prompt, Request
    from chatlm.types.sampling import Sampling
    from chatlm.types.setups import Facts, Rendered, Setup, SideChat, SideChats, TemplateRenderer

    __version__: str

if "OMP_WAIT_POLICY" not in os.environ:
    # torch's threads wait for each other in a busy loop, which takes the processors from the decode
    # kernel's threads and from all other programs; so they sleep soon. Read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

_WHERE = {
    "Annotation": "chatlm.types.messages",
    "Artifact": "chatlm.plugin_kit.artifacts",
    "Artifacts": "chatlm.plugin_kit.artifacts",
    "Batch": "chatlm.types.engine",
    "CannotGoOn": "chatlm.errors",
    "ChatEncoder": "chatlm.engines.training_api",
    "ChatSession": "chatlm.chat.session",
    "ChatTokens": "chatlm.engines.training_api",
    "ChatlmError": "chatlm.errors",
    "Commands": "chatlm.plugin_host.hookspecs",
    "Config": "chatlm.config.config",
    "Context": "chatlm.plugin_host.hookspecs",
    "ContextTooLong": "chatlm.errors",
    "Conversation": "chatlm.types.messages",
    "Database": "chatlm.store.database",
    "Delta": "chatlm.types.events",
    "Engine": "chatlm.types.engine",
    "EngineError": "chatlm.errors",
    "EngineEvent": "chatlm.types.events",
    "EngineInfo": "chatlm.types.engine",
    "EngineOpener": "chatlm.types.engine",
    "Facts": "chatlm.types.setups",
    "Finished": "chatlm.types.events",
    "Fitted": "chatlm.types.events",
    "Message": "chatlm.types.messages",
    "MessageRefused": "chatlm.errors",
    "ModelError": "chatlm.errors",
    "ModelLocation": "chatlm.hub.installed",
    "Panel": "chatlm.plugin_host.ui_api",
    "Passage": "chatlm.types.messages",
    "Pieces": "chatlm.engines.estimated_tokens",
    "PluginCard": "chatlm.plugin_kit.screens",
    "PluginScreen": "chatlm.plugin_host.ui_api",
    "Prefill": "chatlm.types.events",
    "Prompt": "chatlm.types.requests",
    "Rendered": "chatlm.types.setups",
    "Reply": "chatlm.types.messages",
    "Request": "chatlm.types.requests",
    "Sampling": "chatlm.types.sampling",
    "Setup": "chatlm.types.setups",
    "ShownTokens": "chatlm.types.events",
    "SideChat": "chatlm.types.setups",
    "SideChats": "chatlm.types.setups",
    "SlashCommand": "chatlm.plugin_host.ui_api",
    "StopReason": "chatlm.types.messages",
    "StopText": "chatlm.engines.stopping",
    "Store": "chatlm.store.store",
    "TemplateRenderer": "chatlm.types.setups",
    "TokenLogprob": "chatlm.types.events",
    "Turn": "chatlm.types.messages",
    "Ui": "chatlm.plugin_host.ui_api",
    "Usage": "chatlm.types.messages",
    "UsageError": "chatlm.errors",
    "Work": "chatlm.plugin_host.ui_api",
    "data_dir": "chatlm.config.paths",
    "differences": "chatlm.chat.replay",
    "dump_json": "chatlm.text",
    "ensure_model": "chatlm.hub.pull",
    "expanded": "chatlm.config.paths",
    "fast_dtype": "chatlm.engines.training_api",
    "find_model": "chatlm.hub.installed",
    "fingerprint_weights": "chatlm.hub.disk",
    "hookimpl": "chatlm.plugin_host.hookspecs",
    "human_bytes": "chatlm.hub.disk",
    "load_config": "chatlm.config.config",
    "load_weights": "chatlm.engines.training_api",
    "one_line": "chatlm.text",
    "open_batch": "chatlm.engines.batching",
    "own_settings": "chatlm.plugin_host.settings",
    "run_ui": "chatlm.tui",
    "save_setting": "chatlm.plugin_host.settings",
    "shipped": "chatlm.config.paths",
    "side_chats": "chatlm.chat.side_chats",
    "stopped_by_keys": "chatlm.plugin_kit.progress",
    "stream_many": "chatlm.engines.batching",
    "sync_tree": "chatlm.hub.disk",
    "visible": "chatlm.text",
    "write_atomically": "chatlm.config.paths",
}

__all__ = [
    "Annotation",
    "Artifact",
    "Artifacts",
    "Batch",
    "CannotGoOn",
    "ChatEncoder",
    "ChatSession",
    "ChatTokens",
    "ChatlmError",
    "Commands",
    "Config",
    "Context",
    "ContextTooLong",
    "Conversation",
    "Database",
    "Delta",
    "Engine",
    "EngineError",
    "EngineEvent",
    "EngineInfo",
    "EngineOpener",
    "Facts",
    "Finished",
    "Fitted",
    "Message",
    "MessageRefused",
    "ModelError",
    "ModelLocation",
    "Panel",
    "Passage",
    "Pieces",
    "PluginCard",
    "PluginScreen",
    "Prefill",
    "Prompt",
    "Rendered",
    "Reply",
    "Request",
    "Sampling",
    "Setup",
    "ShownTokens",
    "SideChat",
    "SideChats",
    "SlashCommand",
    "StopReason",
    "StopText",
    "Store",
    "TemplateRenderer",
    "TokenLogprob",
    "Turn",
    "Ui",
    "Usage",
    "UsageError",
    "Work",
    "__version__",
    "data_dir",
    "differences",
    "dump_json",
    "ensure_model",
    "expanded",
    "fast_dtype",
    "find_model",
    "fingerprint_weights",
    "hookimpl",
    "human_bytes",
    "load_config",
    "load_weights",
    "one_line",
    "open_batch",
    "own_settings",
    "run_ui",
    "save_setting",
    "shipped",
    "side_chats",
    "stopped_by_keys",
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

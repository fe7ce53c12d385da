"""chatlm's public names, each imported only when it is first used."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatlm.artifacts import Artifact, Artifacts
    from chatlm.batching import Batch, open_batch, stream_many
    from chatlm.beside import Setup, SideChat, SideChats
    from chatlm.config import Config, load_config
    from chatlm.engines.learning import ChatEncoder, ChatTokens, fast_dtype, load_weights
    from chatlm.engines.pieces import Pieces
    from chatlm.errors import (
        CannotGoOn,
        ChatlmError,
        ContextTooLong,
        EngineError,
        MessageRefused,
        ModelError,
        UsageError,
    )
    from chatlm.events import Delta, EngineEvent, Finished, Fitted, Prefill
    from chatlm.extending import Panel, PluginScreen, SlashCommand, Ui, Work
    from chatlm.files import expanded, write_atomically
    from chatlm.generation import Engine, EngineInfo, EngineOpener, Prompt, Request
    from chatlm.hookspecs import Commands, Context, hookimpl
    from chatlm.interrupts import stopped_by_keys
    from chatlm.logprobs import ShownTokens, TokenLogprob
    from chatlm.messages import (
        Annotation,
        Conversation,
        Message,
        Passage,
        Reply,
        StopReason,
        Turn,
        Usage,
    )
    from chatlm.models import ModelLocation, ensure_model, find_model
    from chatlm.models.disk import fingerprint_weights, human_bytes, sync_tree
    from chatlm.paths import data_dir, shipped
    from chatlm.plugins.settings import own_settings, save_setting
    from chatlm.replay import differences
    from chatlm.sampling import Sampling
    from chatlm.session import ChatSession
    from chatlm.sidechats import side_chats
    from chatlm.stopping import StopText
    from chatlm.store import Store
    from chatlm.store.database import Database
    from chatlm.templates import Facts, Rendered, TemplateRenderer
    from chatlm.text import dump_json, one_line, visible
    from chatlm.tui import run_ui
    from chatlm.tui.plugin_card import PluginCard

    __version__: str

if "OMP_WAIT_POLICY" not in os.environ:
    # torch's threads wait for each other in a busy loop, which takes the processors from the decode
    # kernel's threads and from all other programs; so they sleep soon. Read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

_WHERE = {
    "Annotation": "chatlm.messages",
    "Artifact": "chatlm.artifacts",
    "Artifacts": "chatlm.artifacts",
    "Batch": "chatlm.batching",
    "CannotGoOn": "chatlm.errors",
    "ChatEncoder": "chatlm.engines.learning",
    "ChatSession": "chatlm.session",
    "ChatTokens": "chatlm.engines.learning",
    "ChatlmError": "chatlm.errors",
    "Commands": "chatlm.hookspecs",
    "Config": "chatlm.config",
    "Context": "chatlm.hookspecs",
    "ContextTooLong": "chatlm.errors",
    "Conversation": "chatlm.messages",
    "Database": "chatlm.store.database",
    "Delta": "chatlm.events",
    "Engine": "chatlm.generation",
    "EngineError": "chatlm.errors",
    "EngineEvent": "chatlm.events",
    "EngineInfo": "chatlm.generation",
    "EngineOpener": "chatlm.generation",
    "Facts": "chatlm.templates",
    "Finished": "chatlm.events",
    "Fitted": "chatlm.events",
    "Message": "chatlm.messages",
    "MessageRefused": "chatlm.errors",
    "ModelError": "chatlm.errors",
    "ModelLocation": "chatlm.models",
    "Panel": "chatlm.extending",
    "Passage": "chatlm.messages",
    "Pieces": "chatlm.engines.pieces",
    "PluginCard": "chatlm.tui.plugin_card",
    "PluginScreen": "chatlm.extending",
    "Prefill": "chatlm.events",
    "Prompt": "chatlm.generation",
    "Rendered": "chatlm.templates",
    "Reply": "chatlm.messages",
    "Request": "chatlm.generation",
    "Sampling": "chatlm.sampling",
    "Setup": "chatlm.beside",
    "ShownTokens": "chatlm.logprobs",
    "SideChat": "chatlm.beside",
    "SideChats": "chatlm.beside",
    "SlashCommand": "chatlm.extending",
    "StopReason": "chatlm.messages",
    "StopText": "chatlm.stopping",
    "Store": "chatlm.store",
    "TemplateRenderer": "chatlm.templates",
    "TokenLogprob": "chatlm.logprobs",
    "Turn": "chatlm.messages",
    "Ui": "chatlm.extending",
    "Usage": "chatlm.messages",
    "UsageError": "chatlm.errors",
    "Work": "chatlm.extending",
    "data_dir": "chatlm.paths",
    "differences": "chatlm.replay",
    "dump_json": "chatlm.text",
    "ensure_model": "chatlm.models",
    "expanded": "chatlm.files",
    "fast_dtype": "chatlm.engines.learning",
    "find_model": "chatlm.models",
    "fingerprint_weights": "chatlm.models.disk",
    "hookimpl": "chatlm.hookspecs",
    "human_bytes": "chatlm.models.disk",
    "load_config": "chatlm.config",
    "load_weights": "chatlm.engines.learning",
    "one_line": "chatlm.text",
    "open_batch": "chatlm.batching",
    "own_settings": "chatlm.plugins.settings",
    "run_ui": "chatlm.tui",
    "save_setting": "chatlm.plugins.settings",
    "shipped": "chatlm.paths",
    "side_chats": "chatlm.sidechats",
    "stopped_by_keys": "chatlm.interrupts",
    "stream_many": "chatlm.batching",
    "sync_tree": "chatlm.models.disk",
    "visible": "chatlm.text",
    "write_atomically": "chatlm.files",
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

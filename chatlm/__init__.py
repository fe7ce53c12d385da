"""chatlm's public names, each imported only when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatlm.errors import ChatlmError
    from chatlm.generation import Engine, EngineInfo, Request
    from chatlm.hookspecs import hookimpl
    from chatlm.messages import (
        Annotation,
        Conversation,
        Message,
        Passage,
        Reply,
        StopReason,
        Turn,
    )
    from chatlm.sampling import Sampling
    from chatlm.session import ChatSession
    from chatlm.store import Store

    __version__: str

_WHERE = {
    "Annotation": "chatlm.messages",
    "ChatSession": "chatlm.session",
    "ChatlmError": "chatlm.errors",
    "Conversation": "chatlm.messages",
    "Engine": "chatlm.generation",
    "EngineInfo": "chatlm.generation",
    "Message": "chatlm.messages",
    "Passage": "chatlm.messages",
    "Reply": "chatlm.messages",
    "Request": "chatlm.generation",
    "Sampling": "chatlm.sampling",
    "StopReason": "chatlm.messages",
    "Store": "chatlm.store",
    "Turn": "chatlm.messages",
    "hookimpl": "chatlm.hookspecs",
}

__all__ = [
    "Annotation",
    "ChatSession",
    "ChatlmError",
    "Conversation",
    "Engine",
    "EngineInfo",
    "Message",
    "Passage",
    "Reply",
    "Request",
    "Sampling",
    "StopReason",
    "Store",
    "Turn",
    "__version__",
    "hookimpl",
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

"""The hooks a plugin may implement; each is called alone, so one that fails harms nobody else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

from chatlm.generation import Engine, EngineOpener, Request
from chatlm.messages import Annotation, Conversation, Message, Passage, Turn

if TYPE_CHECKING:
    from chatlm.config import Config

hookspec = pluggy.HookspecMarker("chatlm")
hookimpl = pluggy.HookimplMarker("chatlm")


@dataclass(frozen=True)
class Context:
    """What a plugin may know about the program it runs in."""

    config: Config
    data_dir: Path


@hookspec
def startup(context: Context) -> None:
    """chatlm is ready and will call the other hooks from now on."""


@hookspec
def shutdown() -> None:
    """chatlm is about to exit."""


@hookspec
def register_engines(register: Callable[[str, EngineOpener], None]) -> None:
    """Offer engines: `register("openai", opener)` makes `openai:NAME` a model."""


@hookspec
def annotate_message(conversation: Conversation, message: Message) -> Sequence[Annotation]:
    """Label a message: the user's before it is answered, the reply when it has ended."""
    raise NotImplementedError


@hookspec
def retrieve_passages(conversation: Conversation, message: Message) -> Sequence[Passage]:
    """Find pieces of documents that may help to answer the user's message."""
    raise NotImplementedError


@hookspec(firstresult=True)
def build_messages(conversation: Conversation, turn: Turn) -> Sequence[Message] | None:
    """Make what the model reads; the first plugin that returns messages decides."""


@hookspec
def adjust_request(request: Request, turn: Turn, engine: Engine) -> Request | None:
    """Change the request just before it runs; each plugin gets what the one before it returned."""


@hookspec
def turn_finished(conversation: Conversation, turn: Turn) -> None:
    """The reply is complete, or was cancelled, and is stored."""

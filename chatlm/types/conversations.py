"""Turns and conversations as frozen values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from chatlm.types.messages import Annotation, Message
from chatlm.types.parts import Image
from chatlm.types.projects import Project
from chatlm.types.replies import Reply, utc_now
from chatlm.types.sampling import Sampling
from chatlm.types.tool_rules import ChatTools

PluginData = Mapping[str, Mapping[str, Any]]
"""Plugin name -> JSON values by name."""


SUMMARY_PREFIX = "Earlier in this chat, in short: "
"""Precedes the summary of a turn in the prompt."""


class ContextPolicy(StrEnum):
    """How a turn takes part in the prompt."""

    AUTO = "auto"
    """Included as long as it fits the context window."""
    PINNED = "pinned"
    """Always included; other turns are left out before it."""
    DROPPED = "dropped"
    """Left out."""
    SUMMARISED = "summarised"
    """`Turn.summary` replaces it."""


@dataclass(frozen=True)
class Turn:
    """One user message and everything that answers it."""

    id: int
    position: int
    """0 for the first turn of its conversation."""
    user: Message
    replies: tuple[Reply, ...] = ()
    active_reply_id: int | None = None
    """Id of the reply that is in the history; None for the newest."""
    created: datetime = field(default_factory=utc_now)
    context_policy: ContextPolicy = ContextPolicy.AUTO
    summary: str = ""
    """Kept whether or not it replaces the turn."""
    raw_input: str = ""
    """What the user typed, where a plugin rewrote it into the message; the message itself while
    plugins have not seen it; else empty."""
    annotations: tuple[tuple[int | None, Annotation], ...] = ()
    """Labels, each with the id of its reply; None for the user's message."""
    passage_images: tuple[Image, ...] = ()
    """Pictures of the passages that were retrieved for it."""

    @property
    def reply(self) -> Reply | None:
        """The version of the reply that is in the history."""
        for reply in self.replies:
            if reply.id == self.active_reply_id:
                return reply
        return self.replies[-1] if self.replies else None

    @property
    def display_text(self) -> str:
        """What the user typed."""
        return self.raw_input or self.user.text

    @property
    def is_raw(self) -> bool:
        """Whether plugins have not had the chance to rewrite the message; so it stays where the
        program ended first."""
        return bool(self.raw_input) and self.raw_input == self.user.text

    @property
    def is_rewritten(self) -> bool:
        """Whether the model reads something else than the user typed."""
        return bool(self.raw_input) and self.raw_input != self.user.text

    def messages(self) -> tuple[Message, ...]:
        """Return the turn's messages in the prompt; none for a dropped turn."""
        if self.context_policy is ContextPolicy.DROPPED:
            return ()
        if self.context_policy is ContextPolicy.SUMMARISED and self.summary:
            return (Message("user", f"{SUMMARY_PREFIX}{self.summary}"),)
        pinned = self.context_policy is ContextPolicy.PINNED
        user = Message(self.user.role, self.user.parts, pinned)
        return (user, *(self.reply.messages(pinned) if self.reply else ()))


@dataclass(frozen=True)
class ConversationHeader:
    """All of a chat but its turns."""

    id: int
    title: str = ""
    system: str = ""
    created: datetime = field(default_factory=utc_now)
    updated: datetime = field(default_factory=utc_now)
    sampling: Sampling = field(default_factory=Sampling)
    """The user's settings for this chat."""
    pinned: bool = False
    """Whether it is listed first."""
    forked_from: int | None = None
    """The chat it was copied from; None once that is deleted."""
    plugin_data: PluginData = field(default_factory=dict)
    """What plugins store with the chat."""
    disabled_plugins: frozenset[str] = frozenset()
    """Plugins that the user disabled in this chat."""
    project: Project | None = None
    """The folder that it belongs to; None for none."""
    tags: tuple[str, ...] = ()
    """The user's tags, sorted."""
    tools: ChatTools = field(default_factory=ChatTools)
    """What the user decided about tools in this chat."""

    @property
    def system_prompt(self) -> str:
        """The whole system prompt: the chat's own, then the project's instructions."""
        parts = (self.system, self.project.prompt if self.project else "")
        return "\n\n".join(filter(None, parts))


@dataclass(frozen=True)
class Conversation(ConversationHeader):
    """A chat with its turns."""

    turns: tuple[Turn, ...] = ()

    def with_header(self, header: ConversationHeader) -> Conversation:
        """Return these turns under another header."""
        fields = {f.name: getattr(header, f.name) for f in dataclasses.fields(ConversationHeader)}
        return dataclasses.replace(self, **fields)

    def with_turn(self, turn: Turn) -> Conversation:
        """Return the chat with this turn in place of the one with its id, else appended."""
        turns = tuple(turn if other.id == turn.id else other for other in self.turns)
        if turn not in turns:
            turns += (turn,)
        return dataclasses.replace(self, turns=turns)

    def images(self) -> Iterator[Image]:
        """Yield the images of all messages, retrieved passages and versions of replies."""
        for turn in self.turns:
            yield from turn.passage_images
            for parts in (turn.user.parts, *(reply.parts for reply in turn.replies)):
                yield from (part for part in parts if isinstance(part, Image))

    def messages(self, before: int | None = None) -> tuple[Message, ...]:
        """Return the prompt's messages: the system prompt, then those of each turn.

        Args:
            before: position of the first turn to leave out; None for none.
        """
        system = self.system_prompt
        head = (Message("system", system),) if system else ()
        return head + tuple(m for turn in self.turns[:before] for m in turn.messages())

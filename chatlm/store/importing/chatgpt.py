"""Reads chats as ChatGPT exports them: each a tree of messages, with the way that was taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

from chatlm.store.importing.fields import JsonObject, ParsedChat, check_time_range
from chatlm.store.insert import fork_title
from chatlm.store.rows import short_title
from chatlm.types.messages import Conversation, Message, Reply, StopReason, Turn

MAX_FORKS = 20
"""Further branches of one chat are left out."""


def parse_chatgpt(value: Any, time: datetime) -> ParsedChat:
    """A chat along the way to its current message.

    Other answers to a message become versions of the reply, other ways the chat went become
    forks. Left out and counted: system and tool messages, calls of tools, thoughts, hidden
    messages, images and files.

    Args:
        value: the object.
        time: when it counts as begun where the file does not say it.

    Raises:
        BadChat: it is not built as ChatGPT builds it, or no user says anything.
    """
    chat = JsonObject(value)
    tree = _MessageTree(chat)
    if not tree.asked:
        raise chat.bad("no user message")
    begun = _parse_time(chat, "create_time")
    current = next((ask for ask in reversed(tree.asked) if ask.on_way), tree.asked[-1])
    ends = [ask for ask in tree.asked if not ask.goes_on and ask is not current]
    if len(ends) > MAX_FORKS:
        tree.left_out["branches"] += len(ends) - MAX_FORKS
    created = begun or time
    updated = _parse_time(chat, "update_time") or created
    way = current.way()
    title = chat.text_or_none("title") or ""
    ids = count(1)
    conversation = Conversation(
        id=0,
        title=title,
        turns=_build_turns(way, ids, created),
        created=created,
        updated=max(created, updated),
    )
    forks = []
    names: set[str] = set()
    for end in ends[:MAX_FORKS]:
        parts = end.way()
        parted = next((ask for ask in parts if ask not in way), end).created or created
        names.add(name := fork_title(short_title(title, way[0].text), names))
        latest = end.created or parted
        turns = _build_turns(parts, ids, created)
        forks.append(Conversation(0, name, "", turns, created=parted, updated=max(parted, latest)))
    return ParsedChat(conversation, begun is not None, tuple(forks), left_out=tree.left_out)


@dataclass(eq=False)
class _AssistantReply:
    nodes: tuple[str, ...]
    text: str
    model: str
    created: datetime | None


@dataclass(eq=False)
class _UserMessage:
    """A user message, and all that was said to it before the next."""

    before: _UserMessage | None
    text: str
    created: datetime | None
    on_way: bool
    goes_on: bool = False
    answers: list[_AssistantReply] = field(default_factory=list)
    chosen: _AssistantReply | None = None

    def way(self) -> list[_UserMessage]:
        """The user messages from the first to this one."""
        way = [self]
        while way[-1].before is not None:
            way.append(way[-1].before)
        return way[::-1]


class _MessageTree:
    """The messages of a chat, gathered into what was asked and answered, oldest first."""

    def __init__(self, chat: JsonObject) -> None:
        nodes = chat.inner("mapping").value
        self._nodes = {
            name: JsonObject(node, f"message {name[:40]}") for name, node in nodes.items()
        }
        self._way = self._way_to(chat)
        self.asked: list[_UserMessage] = []
        self.left_out: Counter[str] = Counter()
        roots = [name for name, node in self._nodes.items() if self._parent(node) is None]
        waiting: list[tuple[str, _UserMessage | None, tuple[_AssistantReply, ...]]] = []
        waiting += [(name, None, ()) for name in reversed(roots)]
        while waiting:
            name, ask, said = waiting.pop()
            ask, said = self._take(name, ask, said)
            children = [c for c in self._nodes[name].texts("children") if self._is_below(c, name)]
            if not children:
                self._end(ask, said)
            waiting += [(child, ask, said) for child in reversed(children)]

    def _parent(self, node: JsonObject) -> str | None:
        parent = node.text_or_none("parent")
        return parent if parent in self._nodes else None

    def _is_below(self, child: str, name: str) -> bool:
        return child in self._nodes and self._parent(self._nodes[child]) == name

    def _way_to(self, chat: JsonObject) -> set[str]:
        way: set[str] = set()
        name = chat.text_or_none("current_node")
        while name in self._nodes and name not in way:
            way.add(name)
            name = self._parent(self._nodes[name])
        return way

    def _take(
        self, name: str, ask: _UserMessage | None, said: tuple[_AssistantReply, ...]
    ) -> tuple[_UserMessage | None, tuple[_AssistantReply, ...]]:
        """What is asked and said so far when the message `name` has been read."""
        if self._nodes[name].value.get("message") is None:
            return ask, said
        message = self._nodes[name].inner("message")
        role = message.inner("author").text("role")
        text = self._text(message, role)
        if text is None:
            return ask, said
        created = _parse_time(message, "create_time")
        if role == "user":
            self._end(ask, said)
            if ask is not None:
                ask.goes_on = True
            self.asked.append(_UserMessage(ask, text, created, name in self._way))
            return self.asked[-1], ()
        if ask is None:
            self.left_out["assistant messages before the first question"] += 1
            return ask, said
        metadata = message.value.get("metadata") or {}
        model = JsonObject(metadata, message.where).text_or_none("model_slug") or ""
        return ask, (*said, _AssistantReply((name,), text, model, created))

    def _end(self, ask: _UserMessage | None, said: tuple[_AssistantReply, ...]) -> None:
        """Keep what was said to `ask` on one way through the tree as one answer."""
        if ask is None or not said:
            return
        nodes = tuple(part.nodes[0] for part in said)
        if any(answer.nodes == nodes for answer in ask.answers):
            return
        text = "\n\n".join(part.text for part in said)
        answer = _AssistantReply(nodes, text, said[-1].model, said[0].created)
        ask.answers.append(answer)
        longest = ask.chosen is None or len(nodes) > len(ask.chosen.nodes)
        if longest and self._way.issuperset(nodes):
            ask.chosen = answer

    def _text(self, message: JsonObject, role: str) -> str | None:
        """The words of a user or the assistant to each other; None for anything else."""
        content = message.inner("content")
        kind = content.text("content_type", "text")
        metadata = message.value.get("metadata")
        hidden = isinstance(metadata, dict) and metadata.get("is_visually_hidden_from_conversation")
        spoken = kind in ("text", "multimodal_text")
        texts = list(self._parts(content)) if spoken else []
        if role not in ("user", "assistant"):
            if texts or not spoken:
                self.left_out[f"{role[:40]} messages"] += 1
        elif hidden or not spoken:
            self.left_out["hidden messages" if hidden else kind[:40].replace("_", " ")] += 1
        elif role == "assistant" and message.text("recipient", "all") != "all":
            self.left_out["calls of tools"] += 1
        elif texts or role == "user":
            return "\n\n".join(texts)
        return None

    def _parts(self, content: JsonObject) -> Iterator[str]:
        for part in content.list("parts"):
            if isinstance(part, str):
                if part:
                    yield part
            elif isinstance(part, dict) and part.get("content_type") == "audio_transcription":
                yield JsonObject(part, content.where).text("text")
            elif part is not None:
                self.left_out["images and files"] += 1


def _build_turns(
    way: Iterable[_UserMessage], ids: Iterator[int], default: datetime
) -> tuple[Turn, ...]:
    turns = []
    for position, ask in enumerate(way):
        created = ask.created or default
        replies, chosen = [], None
        for version, answer in enumerate(ask.answers, start=1):
            reply = Reply(
                id=next(ids),
                version=version,
                text=answer.text,
                stop_reason=StopReason.END,
                model=answer.model,
                created=answer.created or created,
            )
            replies.append(reply)
            chosen = reply.id if answer is ask.chosen else chosen
        user = Message("user", ask.text)
        turns.append(Turn(next(ids), position, user, tuple(replies), chosen, created))
    return tuple(turns)


def _parse_time(fields: JsonObject, name: str) -> datetime | None:
    seconds = fields.number(name)
    try:
        return None if seconds is None else check_time_range(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError, OSError):
        raise fields.bad(f"{name} is no time") from None

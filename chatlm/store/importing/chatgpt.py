"""Parser for ChatGPT's export, in which each chat is a tree of messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

from chatlm.store.blobs import describe_image
from chatlm.store.importing.fields import JsonObject, ParsedChat, check_time_range
from chatlm.store.importing.json_stream import FindFile
from chatlm.store.rows import short_title
from chatlm.store.writes import fork_title
from chatlm.types.conversations import Conversation, Turn
from chatlm.types.messages import Message
from chatlm.types.parts import Image, Part, Reasoning, Text, text_of
from chatlm.types.replies import Reply, ReplyStep, StopReason

MAX_FORKS = 20
"""Further branches of one chat are left out."""


def parse_chatgpt(
    value: Any, default_time: datetime, find_file: FindFile = lambda _: None
) -> ParsedChat:
    """Parse a chat along the path to its current message.

    Other answers to a message become versions of the reply, other branches become forks. Thoughts
    become reasoning. Left out and counted: system and tool messages, calls of tools, hidden
    messages, files, and images other than those of the user whose files are in the archive.

    Args:
        value: the object.
        default_time: the chat's time where the file has none.
        find_file: finds the files of images.

    Raises:
        InvalidChat: its structure is not ChatGPT's, or there is no user message.
    """
    chat = JsonObject(value)
    tree = _MessageTree(chat, find_file)
    if not tree.user_messages:
        raise chat.error("no user message")
    created_in_file = _parse_time(chat, "create_time")
    current = next(
        (m for m in reversed(tree.user_messages) if m.on_current_path), tree.user_messages[-1]
    )
    ends = [m for m in tree.user_messages if not m.has_follow_up and m is not current]
    if len(ends) > MAX_FORKS:
        tree.left_out["branches"] += len(ends) - MAX_FORKS
    created = created_in_file or default_time
    updated = _parse_time(chat, "update_time") or created
    way = current.path_from_root()
    title = chat.optional_text("title") or ""
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
        parts = end.path_from_root()
        parted = next((message for message in parts if message not in way), end).created or created
        names.add(name := fork_title(short_title(title, way[0].text), names))
        latest = end.created or parted
        turns = _build_turns(parts, ids, created)
        forks.append(
            Conversation(0, name, created=parted, updated=max(parted, latest), turns=turns)
        )
    return ParsedChat(
        conversation,
        created_in_file is not None,
        tuple(forks),
        blobs=tree.read_image,
        left_out=tree.left_out,
    )


@dataclass(eq=False)
class _AssistantReply:
    node_ids: tuple[str, ...]
    parts: tuple[Part, ...]
    model: str
    created: datetime | None
    stop_reason: StopReason


@dataclass(eq=False)
class _UserMessage:
    """A user message and every message up to the next one."""

    previous: _UserMessage | None
    parts: tuple[Part, ...]
    created: datetime | None
    on_current_path: bool
    has_follow_up: bool = False
    replies: list[_AssistantReply] = field(default_factory=list)
    chosen: _AssistantReply | None = None

    @property
    def text(self) -> str:
        return text_of(self.parts)

    def path_from_root(self) -> list[_UserMessage]:
        """The user messages from the first to this one."""
        way = [self]
        while way[-1].previous is not None:
            way.append(way[-1].previous)
        return way[::-1]


class _MessageTree:
    """The messages of a chat, grouped into user messages and their replies, oldest first."""

    def __init__(self, chat: JsonObject, find_file: FindFile) -> None:
        self._find_file = find_file
        self._image_files: dict[str, str] = {}
        """SHA-256 of each image -> how its file's name begins."""
        nodes = chat.nested("mapping").value
        self._nodes = {
            name: JsonObject(node, f"message {name[:40]}") for name, node in nodes.items()
        }
        self._current_path = self._path_to_current_node(chat)
        self.user_messages: list[_UserMessage] = []
        self.left_out: Counter[str] = Counter()
        roots = [name for name, node in self._nodes.items() if self._parent_id(node) is None]
        waiting: list[tuple[str, _UserMessage | None, tuple[_AssistantReply, ...]]] = []
        waiting += [(name, None, ()) for name in reversed(roots)]
        while waiting:
            name, question, replies = waiting.pop()
            question, replies = self._visit(name, question, replies)
            children = [
                c for c in self._nodes[name].text_array("children") if self._is_child(c, name)
            ]
            if not children:
                self._add_reply(question, replies)
            waiting += [(child, question, replies) for child in reversed(children)]

    def _parent_id(self, node: JsonObject) -> str | None:
        parent = node.optional_text("parent")
        return parent if parent in self._nodes else None

    def _is_child(self, child: str, parent: str) -> bool:
        return child in self._nodes and self._parent_id(self._nodes[child]) == parent

    def _path_to_current_node(self, chat: JsonObject) -> set[str]:
        way: set[str] = set()
        name = chat.optional_text("current_node")
        while name in self._nodes and name not in way:
            way.add(name)
            name = self._parent_id(self._nodes[name])
        return way

    def _visit(
        self,
        node_id: str,
        user_message: _UserMessage | None,
        reply_parts: tuple[_AssistantReply, ...],
    ) -> tuple[_UserMessage | None, tuple[_AssistantReply, ...]]:
        """Read the message `node_id`; return the user message it belongs to, and replies so far."""
        if self._nodes[node_id].value.get("message") is None:
            return user_message, reply_parts
        message = self._nodes[node_id].nested("message")
        role = message.nested("author").text("role")
        parts = self._message_parts(message, role)
        if parts is None:
            return user_message, reply_parts
        created = _parse_time(message, "create_time")
        if role == "user":
            self._add_reply(user_message, reply_parts)
            if user_message is not None:
                user_message.has_follow_up = True
            self.user_messages.append(
                _UserMessage(user_message, parts, created, node_id in self._current_path)
            )
            return self.user_messages[-1], ()
        if user_message is None:
            self.left_out["assistant messages before the first question"] += 1
            return user_message, reply_parts
        metadata = JsonObject(message.value.get("metadata") or {}, message.location)
        model = metadata.optional_text("model_slug") or ""
        reason = _stop_reason(metadata)
        return user_message, (
            *reply_parts,
            _AssistantReply((node_id,), parts, model, created, reason),
        )

    def _add_reply(
        self, user_message: _UserMessage | None, reply_parts: tuple[_AssistantReply, ...]
    ) -> None:
        """Add the messages that follow `user_message` on one path through the tree as a reply."""
        parts = _join_texts(part for answer in reply_parts for part in answer.parts)
        if user_message is None or not any(isinstance(part, Text) for part in parts):
            return
        nodes = tuple(part.node_ids[0] for part in reply_parts)
        if any(answer.node_ids == nodes for answer in user_message.replies):
            return
        last = reply_parts[-1]
        answer = _AssistantReply(nodes, parts, last.model, reply_parts[0].created, last.stop_reason)
        user_message.replies.append(answer)
        longest = user_message.chosen is None or len(nodes) > len(user_message.chosen.node_ids)
        if longest and self._current_path.issuperset(nodes):
            user_message.chosen = answer

    def _message_parts(self, message: JsonObject, role: str) -> tuple[Part, ...] | None:
        """Return what the user or the assistant wrote, or the assistant's thoughts; else None."""
        content = message.nested("content")
        kind = content.text("content_type", "text")
        metadata = message.value.get("metadata")
        hidden = isinstance(metadata, dict) and metadata.get("is_visually_hidden_from_conversation")
        spoken = kind in ("text", "multimodal_text")
        parts = list(self._content_parts(content, role)) if spoken else []
        if role not in ("user", "assistant"):
            if parts or not spoken:
                self.left_out[f"{role[:40]} messages"] += 1
        elif role == "assistant" and not hidden and (thoughts := _thoughts(content, kind)):
            return (Reasoning(thoughts),)
        elif hidden or not spoken:
            self.left_out["hidden messages" if hidden else kind[:40].replace("_", " ")] += 1
        elif role == "assistant" and message.text("recipient", "all") != "all":
            self.left_out["calls of tools"] += 1
        elif parts or role == "user":
            return _join_texts(parts)
        return None

    def _content_parts(self, content: JsonObject, role: str) -> Iterator[Text | Image]:
        for part in content.array("parts"):
            if isinstance(part, str):
                if part:
                    yield Text(part)
            elif isinstance(part, dict) and part.get("content_type") == "audio_transcription":
                yield Text(JsonObject(part, content.location).text("text"))
            elif role == "user" and (image := self._find_image(part)):
                yield image
            elif part is not None:
                self.left_out["images and files"] += 1

    def _find_image(self, part: Any) -> Image | None:
        """Return the image that a part points to, if its file is in the archive."""
        pointer = part.get("asset_pointer") if isinstance(part, dict) else None
        if not isinstance(pointer, str):
            return None
        # such as file-service://file-abc or sediment://file_abc#page
        beginning = pointer.rpartition("://")[2].partition("#")[0]
        found = self._find_file(beginning) if beginning else None
        if found is None:
            return None
        name, content = found
        image = describe_image(content, name.removeprefix(f"{beginning}-"))
        if image is not None:
            self._image_files[image.sha256] = beginning
        return image

    def read_image(self, sha256: str) -> bytes | None:
        """Read an image again, so that those of a long chat are never in memory together."""
        beginning = self._image_files.get(sha256)
        found = None if beginning is None else self._find_file(beginning)
        return found[1] if found else None


_STOP_REASONS = {
    "max_tokens": StopReason.LENGTH,
    "interrupted": StopReason.CANCELLED,
    "content_filter": StopReason.CONTENT_FILTER,
}
"""By the type of a message's `finish_details`; all others mean that the reply is whole."""


def _stop_reason(metadata: JsonObject) -> StopReason:
    details = metadata.value.get("finish_details")
    kind = details.get("type") if isinstance(details, dict) else None
    return _STOP_REASONS.get(str(kind), StopReason.END)


def _thoughts(content: JsonObject, kind: str) -> str:
    """Join the summaries and texts of the thoughts; empty for content of another type."""
    if kind != "thoughts":
        return ""
    thoughts = content.object_array("thoughts")
    texts = [thought.text(name, "") for thought in thoughts for name in ("summary", "content")]
    return "\n\n".join(text for text in texts if text)


def _join_texts(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Join adjacent text parts, an empty line between them."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(last, Text) and isinstance(part, Text):
            joined[-1] = Text(f"{last.text}\n\n{part.text}")
        else:
            joined.append(part)
    return tuple(joined)


def _build_turns(
    path: Iterable[_UserMessage], ids: Iterator[int], default_time: datetime
) -> tuple[Turn, ...]:
    turns = []
    for position, ask in enumerate(path):
        created = ask.created or default_time
        replies, chosen = [], None
        for version, answer in enumerate(ask.replies, start=1):
            reply = Reply(
                id=next(ids),
                version=version,
                model=answer.model,
                created=answer.created or created,
                steps=(ReplyStep(answer.parts, answer.stop_reason),),
            )
            replies.append(reply)
            chosen = reply.id if answer is ask.chosen else chosen
        user = Message("user", ask.parts)
        turns.append(Turn(next(ids), position, user, tuple(replies), chosen, created))
    return tuple(turns)


def _parse_time(fields: JsonObject, name: str) -> datetime | None:
    seconds = fields.number(name)
    try:
        return None if seconds is None else check_time_range(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError, OSError):
        raise fields.error(f"{name} is not a time") from None

"""Import of chats from files: detect the format, parse each chat, store it once."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

from chatlm.errors import UsageError
from chatlm.store.importing.chatgpt import parse_chatgpt
from chatlm.store.importing.chatlm_jsonl import parse_chatlm
from chatlm.store.importing.fields import InvalidChat, ParsedChat
from chatlm.store.importing.json_stream import FindFile, InvalidJson, JsonItem, iter_json_items
from chatlm.store.importing.lm_studio import parse_lm_studio
from chatlm.store.importing.open_webui import parse_open_webui
from chatlm.store.importing.openai_messages import parse_openai_messages
from chatlm.store.store import Store
from chatlm.types.conversations import Conversation
from chatlm.types.replies import utc_now

ImportFormat = Literal["auto", "chatlm", "messages", "chatgpt", "open-webui", "lm-studio"]


IMPORT_FORMATS: tuple[ImportFormat, ...] = get_args(ImportFormat)


_ChatParser = Callable[[Any, datetime, FindFile], ParsedChat]


_PARSERS: dict[str, _ChatParser] = {
    "chatlm": lambda value, _time, _files: parse_chatlm(value),
    "messages": lambda value, time, _files: parse_openai_messages(value, time),
    "chatgpt": parse_chatgpt,
    "open-webui": parse_open_webui,
    "lm-studio": parse_lm_studio,
}


_FORMAT_BY_KEY = {
    "turns": "chatlm",
    "messages": "messages",
    "mapping": "chatgpt",
    "chat": "open-webui",
}
"""A key that only one format has -> the format."""


EXPORT_ONLY_SUFFIXES = (".md", ".chatml")
"""Suffixes of exports that cannot be imported."""


@dataclass(frozen=True)
class UnreadableChat:
    """A chat that cannot be read."""

    location: str
    """Where it is in the file, such as `line 3`."""
    problem: str

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "place": self.location,
            "problem": self.problem,
        }


MAX_UNREADABLE = 10_000
"""Chats of one file that may be unreadable; a file with more of them is something else."""


def read_chats(
    path: Path, import_format: ImportFormat = "auto"
) -> Iterator[tuple[ParsedChat | UnreadableChat, int, int]]:
    """Parse the chats of a file in order; yields each with the bytes read so far and in all.

    Args:
        path: JSON lines, a JSON list, or the ZIP file of ChatGPT's export.
        import_format: the format of the chats; `auto` detects it for each one.

    Raises:
        UsageError: the file cannot be read, or is not made of chats.
    """
    if path.suffix.lower() in EXPORT_ONLY_SUFFIXES:
        raise UsageError(
            f"{path} cannot be imported: {path.suffix.lower()} is a format for reading only.",
            hint="Export the chats as .jsonl, which keeps all there is.",
        )
    time = utc_now()
    unreadable = 0
    try:
        for piece in iter_json_items(path):
            chat = _parse_item(piece, import_format, time)
            unreadable += isinstance(chat, UnreadableChat)
            if unreadable > MAX_UNREADABLE:
                raise UsageError(
                    f"{path} cannot be imported: more than {MAX_UNREADABLE:,} of its entries are "
                    "no chats.",
                    hint="Check that it is an export of chats.",
                )
            yield chat, piece.bytes_read, piece.total_bytes
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror or error}.",
            hint="Check the name and the permissions of the file.",
        ) from error


def _parse_item(
    item: JsonItem, import_format: ImportFormat, default_time: datetime
) -> ParsedChat | UnreadableChat:
    try:
        if isinstance(item.content, InvalidJson):
            raise InvalidChat(item.content.problem)
        value = item.content.value
        return _PARSERS[_detect_format(value) if import_format == "auto" else import_format](
            value, default_time, item.find_file
        )
    except InvalidChat as error:
        return UnreadableChat(item.location, str(error))


def _detect_format(value: Any) -> str:
    keys = value if isinstance(value, dict) else {}
    messages = keys.get("messages")
    if isinstance(messages, list) and any(
        isinstance(m, dict) and "versions" in m for m in messages
    ):
        return "lm-studio"
    for key, form in _FORMAT_BY_KEY.items():
        if key in keys:
            return form
    raise InvalidChat("it is not a chat: it has neither turns nor messages nor a mapping")


MAX_UNREADABLE_LISTED = 20
"""Maximum number of unreadable chats that are listed; more are only counted."""


@dataclass
class ImportProgress:
    """State of an import."""

    bytes_read: int = 0
    """Of `total_bytes`."""
    total_bytes: int = 0
    checking: bool = False
    """Whether the file is still being checked, before anything is stored."""
    added: list[int] = field(default_factory=list)
    """Ids of the new chats, including forks."""
    already_stored: int = 0
    """Number of chats that were already in the store."""
    left_out: Counter[str] = field(default_factory=Counter)
    """What chatlm cannot represent, in the plural -> how many."""
    unreadable: list[UnreadableChat] = field(default_factory=list)
    """The first unreadable chats."""
    unreadable_count: int = 0
    """Number of all unreadable chats; if not 0, nothing is added without `skip_bad`."""
    readable_count: int = 0
    """Number of readable chats found while checking."""

    def to_dict(self) -> dict[str, Any]:
        """Convert the result to JSON values."""
        return {
            "added": list(self.added),
            "there": self.already_stored,
            "left_out": dict(self.left_out),
            "bad": [bad.to_dict() for bad in self.unreadable],
            "bad_count": self.unreadable_count,
        }


def import_file(
    store: Store, path: Path, import_format: ImportFormat = "auto", *, skip_bad: bool = False
) -> Iterator[ImportProgress]:
    """Import the chats of a file; yields the progress after each chat.

    The consumer may stop pulling at any time: the chats stored by then stay, and the same import
    continues from there. The same object is yielded each time, complete at the end.

    Args:
        store: where the chats are added.
        path: the file.
        import_format: the format of its chats; `auto` detects it for each one.
        skip_bad: import the readable chats even if some are not; otherwise the file is read twice
            and one unreadable chat prevents the import.

    Raises:
        UsageError: the file cannot be read.
        StoreError: the chats cannot be stored.
    """
    state = ImportProgress()
    if not skip_bad:
        state.checking = True
        for found, state.bytes_read, state.total_bytes in read_chats(path, import_format):
            _record_unreadable(state, found)
            state.readable_count += isinstance(found, ParsedChat)
            yield state
        if state.unreadable_count:
            return
        state.checking = False
    for found, state.bytes_read, state.total_bytes in read_chats(path, import_format):
        if isinstance(found, ParsedChat):
            _store_chat(store, found, state)
        elif skip_bad:
            _record_unreadable(state, found)
        yield state


def _record_unreadable(progress: ImportProgress, chat: ParsedChat | UnreadableChat) -> None:
    if isinstance(chat, UnreadableChat):
        progress.unreadable_count += 1
        if len(progress.unreadable) < MAX_UNREADABLE_LISTED:
            progress.unreadable.append(chat)


def _store_chat(store: Store, chat: ParsedChat, progress: ImportProgress) -> None:
    def count_missing_images(conversation: Conversation) -> None:
        hashes = {image.sha256 for image in conversation.images()}
        if missing := sum(not store.has_blob(sha256) for sha256 in hashes):
            progress.left_out["bytes of images"] += missing

    original = store.find_duplicate(chat.conversation, created_known=chat.created_known)
    if original is None:
        original = store.add_conversation(
            chat.conversation,
            lambda turn: chat.passages.get(turn, ()),
            lambda turn: chat.annotations.get(turn, ()),
            chat.provenance.get,
            lambda turn: chat.traces.get(turn, ()),
            chat.blobs,
        ).id
        progress.added.append(original)
        progress.left_out.update(chat.left_out)
        count_missing_images(chat.conversation)
    else:
        progress.already_stored += 1
    for fork in chat.forks:
        if store.find_duplicate(fork, created_known=chat.created_known) is None:
            copy = dataclasses.replace(fork, forked_from=original)
            kept = store.add_conversation(copy, blobs=chat.blobs)
            progress.added.append(kept.id)
        else:
            progress.already_stored += 1

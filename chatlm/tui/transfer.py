"""Writes the shown chat to a file and reads chats from one; draws nothing."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path

from chatlm.errors import UsageError
from chatlm.files import write_atomically
from chatlm.messages import Conversation
from chatlm.store import Store, export
from chatlm.store.intake import Import, import_file
from chatlm.store.outgoing import ENDINGS, exported

LONGEST_NAME = 60
HOLD_CHATS = "Chats are read from chatlm's .jsonl, lists of messages, and ChatGPT's export."


def file_name(chat: Conversation) -> str:
    """A name for the chat's file, from its title; none that is there already."""
    words = re.sub(r"[^\w]+", "-", export.title_of(chat).lower()).strip("-_")[:LONGEST_NAME]
    stem = words.strip("-_") or f"chat-{chat.id}"
    number, path = 1, Path(f"{stem}.md")
    while path.exists():
        number += 1
        path = Path(f"{stem}-{number}.md")
    return str(path)


def write(store: Store, chat: Conversation, path: Path) -> None:
    """Write the chat in the format that the file's ending says.

    Raises:
        UsageError: the ending says nothing, the file is there already, or cannot be written.
    """
    endings = [ending for ending in ENDINGS if path.name.lower().endswith(ending)]
    if not endings:
        raise UsageError(
            f"The ending of {path.name} names no format",
            hint=f"End it in {', '.join(ENDINGS)}.",
        )
    try:
        if path.exists():
            raise UsageError(f"{path} exists already", hint="Give another name.")
        write_atomically(path, exported(store, [chat.id], ENDINGS[max(endings, key=len)]))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}",
            hint="Check the folder, its permissions and the free space.",
        ) from error


def read(store: Store, path: Path) -> Generator[Import, None, None]:
    """Read the chats of a file into the store; yields how far it is.

    Raises:
        UsageError: the file holds no chats, or some that cannot be read; nothing is imported then.
        StoreError: they cannot be stored.
    """
    state = Import()
    for state in import_file(store, path):
        yield state
    if state.bad_count:
        first = state.bad[0]
        others = "`chatlm chats import --skip-bad` takes the others."
        raise UsageError(
            f"{path.name}, {first.place}: {first.problem}; nothing was imported",
            hint=others if state.readable else HOLD_CHATS,
        )
    if not state.added and not state.there:
        raise UsageError(f"{path.name} holds no chats", hint=HOLD_CHATS)

"""Detect the format, read chats one by one, add once."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

from chatlm.errors import UsageError
from chatlm.store.importing.chatgpt import read_chatgpt
from chatlm.store.importing.chatlm_jsonl import read_own
from chatlm.store.importing.fields import BadChat, Read
from chatlm.store.importing.json_stream import Broken, Piece, pieces
from chatlm.store.importing.openai_messages import read_messages
from chatlm.store.store import Store
from chatlm.types.messages import now

Format = Literal["auto", "chatlm", "messages", "chatgpt"]


FORMATS: tuple[Format, ...] = get_args(Format)


_Reader = Callable[[Any, datetime], Read]


_READERS: dict[str, _Reader] = {
    "chatlm": lambda value, _: read_own(value),
    "messages": read_messages,
    "chatgpt": read_chatgpt,
}


_TELLING = {"turns": "chatlm", "messages": "messages", "mapping": "chatgpt"}
"""The key that only a chat of this format has -> the format."""


FOR_READING = (".md", ".chatml")
"""Endings of exports from which no chat can be made again."""


@dataclass(frozen=True)
class Bad:
    """A chat that cannot be read."""

    place: str
    """Where in the file it stands, such as `line 3`."""
    problem: str

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "place": self.place,
            "problem": self.problem,
        }


def read(path: Path, form: Format = "auto") -> Iterator[tuple[Read | Bad, int, int]]:
    """The chats of a file, in its order: each with the bytes read so far, and those in all.

    Args:
        path: JSON lines, a JSON list, or the ZIP file that ChatGPT sends.
        form: what the chats are; auto looks at each one.

    Raises:
        UsageError: the file cannot be read at all.
    """
    if path.suffix.lower() in FOR_READING:
        raise UsageError(
            f"{path} cannot be imported: {path.suffix.lower()} is a format for reading only.",
            hint="Export the chats as .jsonl, which keeps all there is.",
        )
    time = now()
    try:
        for piece in pieces(path):
            yield _read(piece, form, time), piece.done, piece.total
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror or error}.",
            hint="Check the name and the permissions of the file.",
        ) from error


def _read(piece: Piece, form: Format, time: datetime) -> Read | Bad:
    try:
        if isinstance(piece.content, Broken):
            raise BadChat(piece.content.problem)
        value = piece.content.value
        return _READERS[_format(value) if form == "auto" else form](value, time)
    except BadChat as error:
        return Bad(piece.place, str(error))


def _format(value: Any) -> str:
    keys = value if isinstance(value, dict) else {}
    for key, form in _TELLING.items():
        if key in keys:
            return form
    raise BadChat("this is no chat: it has neither turns nor messages nor a mapping")


MOST_BAD = 20
"""Bad chats that are named; further ones are only counted."""


@dataclass
class Import:
    """How far an import is."""

    done: int = 0
    """Bytes read so far, of `total`."""
    total: int = 0
    checking: bool = False
    """Whether the file is still looked through, before anything is stored."""
    added: list[int] = field(default_factory=list)
    """Ids of the new chats, forks among them."""
    there: int = 0
    """Chats that were stored already."""
    left_out: Counter[str] = field(default_factory=Counter)
    """What a chat of chatlm has no place for, in the plural, and how many there were."""
    bad: list[Bad] = field(default_factory=list)
    """The first chats that cannot be read."""
    bad_count: int = 0
    """How many there are in all; where it is not 0 and none may be left out, nothing is added."""
    readable: int = 0
    """How many chats the file was found to hold when it was looked through."""

    def to_dict(self) -> dict[str, Any]:
        """What came of it, as plain values, ready for JSON."""
        return {
            "added": list(self.added),
            "there": self.there,
            "left_out": dict(self.left_out),
            "bad": [bad.to_dict() for bad in self.bad],
            "bad_count": self.bad_count,
        }


def import_file(
    store: Store, path: Path, form: Format = "auto", *, skip_bad: bool = False
) -> Iterator[Import]:
    """Read the chats of a file into the store; yields how far it is after each chat.

    Pulled by the consumer, who may stop at any time: the chats stored by then stay, whole, and
    the same import goes on from there. The same object comes each time and is complete when
    nothing more comes.

    Args:
        store: gets the chats.
        path: the file.
        form: what its chats are; auto looks at each one.
        skip_bad: import the others although some are bad; else the file is read twice, and one
            bad chat keeps all out.

    Raises:
        UsageError: the file cannot be read at all.
        StoreError: the chats cannot be written.
    """
    state = Import()
    if not skip_bad:
        state.checking = True
        for found, state.done, state.total in read(path, form):
            _note_bad(state, found)
            state.readable += isinstance(found, Read)
            yield state
        if state.bad_count:
            return
        state.checking = False
    for found, state.done, state.total in read(path, form):
        if isinstance(found, Read):
            _add(store, found, state)
        elif skip_bad:
            _note_bad(state, found)
        yield state


def _note_bad(state: Import, found: Read | Bad) -> None:
    if isinstance(found, Bad):
        state.bad_count += 1
        if len(state.bad) < MOST_BAD:
            state.bad.append(found)


def _add(store: Store, found: Read, state: Import) -> None:
    original = store.find_same(found.conversation, timed=found.timed)
    if original is None:
        original = store.add_conversation(
            found.conversation,
            lambda turn: found.passages.get(turn, ()),
            lambda turn: found.annotations.get(turn, ()),
            found.provenance.get,
            lambda turn: found.traces.get(turn, ()),
        ).id
        state.added.append(original)
        state.left_out.update(found.left_out)
    else:
        state.there += 1
    for fork in found.forks:
        if store.find_same(fork, timed=found.timed) is None:
            kept = store.add_conversation(dataclasses.replace(fork, forked_from=original))
            state.added.append(kept.id)
        else:
            state.there += 1

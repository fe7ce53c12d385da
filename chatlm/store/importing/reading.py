"""Reads a file of chats one by one, whatever kind they are; a bad one does not hide the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

from chatlm.errors import UsageError
from chatlm.messages import now
from chatlm.store.importing.chatgpt import read_chatgpt
from chatlm.store.importing.messages import read_messages
from chatlm.store.importing.own import read_own
from chatlm.store.importing.pieces import Broken, Piece, pieces
from chatlm.store.importing.values import BadChat, Read

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

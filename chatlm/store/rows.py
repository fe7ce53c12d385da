"""Database rows to the values of a chat and back; it runs no query."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable
from datetime import datetime

from chatlm.messages import Annotation, Message, Passage, Reply, StopReason, Turn, Usage, now


def storable(text: str) -> str:
    """The text as UTF-8 can hold it: a surrogate pair becomes its character, a lone one U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def finite(score: float | None) -> float | None:
    """The score as a plain number; None for none, NaN or an infinity, which JSON cannot hold."""
    return None if score is None or not math.isfinite(score) else float(score)


def moment() -> str:
    """Now, as text whose order is the order of time."""
    return now().isoformat(timespec="microseconds")


def to_reply(row: sqlite3.Row) -> Reply:
    """One row of `reply`."""
    reason = row["stop_reason"]
    return Reply(
        id=row["id"],
        version=row["version"],
        text=row["text"],
        stop_reason=None if reason is None else StopReason(reason),
        error=row["error"],
        model=row["model"],
        adapter=row["adapter"],
        settings=row["settings"],
        usage=Usage(
            prompt_tokens=row["prompt_tokens"],
            cached_tokens=row["cached_tokens"],
            completion_tokens=row["completion_tokens"],
            first_token_seconds=row["first_token_seconds"],
            decode_seconds=row["decode_seconds"],
        ),
        created=datetime.fromisoformat(row["created"]),
    )


def to_turns(turns: Iterable[sqlite3.Row], replies: Iterable[sqlite3.Row]) -> tuple[Turn, ...]:
    """Rows of `turn` in order, each with its rows of `reply`, in order too."""
    versions: dict[int, list[Reply]] = {}
    for row in replies:
        versions.setdefault(row["turn_id"], []).append(to_reply(row))
    return tuple(
        Turn(
            id=row["id"],
            position=row["position"],
            user=Message("user", row["content"]),
            replies=tuple(versions.get(row["id"], ())),
            chosen=row["chosen"],
            created=datetime.fromisoformat(row["created"]),
        )
        for row in turns
    )


def to_passage(row: sqlite3.Row) -> Passage:
    """One row of `passage`."""
    return Passage(row["text"], row["source"], row["score"])


def to_annotation(row: sqlite3.Row) -> tuple[int | None, Annotation]:
    """One row of `annotation`: the reply it labels, or None for the user's message."""
    return row["reply_id"], Annotation(row["plugin"], row["name"], row["value"], row["score"])


def short_title(title: str, first_message: str | None) -> str:
    """The chat's title, else the beginning of its first message on one line; may be empty."""
    if title or not first_message:
        return title
    line = " ".join(first_message.split())
    return line if len(line) <= 60 else line[:59].rstrip() + "…"

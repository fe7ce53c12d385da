"""Full-text search in the titles, messages and replies of saved chats.

`NAME:VALUE`, such as `mood:anger`, restricts the search to messages with that label; if no message
has a label of that name, it is an ordinary word. `#TAG` or `tag:TAG`, and `project:NAME`, restrict
it to chats with that tag or of that project, and list these chats if they stand alone. If there is
no such chat, they are ordinary words too.

Words are looked up in an FTS5 index. It cannot split scripts written without spaces into words, so
query words in these are searched by scanning the text.
"""

from __future__ import annotations

import json
import re
import sqlite3
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from chatlm.store.queries import chat_title, project_name
from chatlm.store.rows import as_text
from chatlm.types.messages import Role

MAX_QUERY_WORDS = 64
"""Maximum number of query words; more are ignored."""

SNIPPET_LEAD, SNIPPET_WIDTH = 40, 160
"""Length of a snippet before the first hit, and in all, in characters."""

_ANNOTATION_FILTER = re.compile(r"""(?<!\S)([a-z][\w-]*):(?:"([^"]+)"|([^\s"]+))(?!\S)""")
"""`mood:anger`, or `topic:"lost card"`."""
_CHAT_FILTER = re.compile(r"""(?<!\S)(?:#|(tag|project):)(?:"([^"]+)"|([^\s"]+))(?!\S)""")
_UNSPACED_SCRIPTS = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"
    "\uf900-\ufaff\U00020000-\U0003ffff]"
)

_HAS_ANNOTATIONS = """NOT EXISTS (
            SELECT 1 FROM json_each(:labels) AS wanted WHERE NOT EXISTS (
                SELECT 1 FROM annotation a WHERE a.turn_id = t.id AND a.reply_id IS {reply}
                AND a.name = json_extract(wanted.value, '$[0]')
                AND instr(lower(a.value), json_extract(wanted.value, '$[1]')) = 1))"""
# no user input becomes part of the statements these are inserted into
_MESSAGE, _REPLY = _HAS_ANNOTATIONS.format(reply="NULL"), _HAS_ANNOTATIONS.format(reply="r.id")
"""Conditions: the message or reply has a label with each requested name and value prefix."""

_CHAT = "(:chats IS NULL OR c.id IN (SELECT value FROM json_each(:chats)))"
"""Condition: the chat has the requested tags and project."""

_TITLE_INDEX = f"""SELECT c.id AS conversation_id, NULL AS turn_id, NULL AS reply_id,
        c.title AS text, c.updated AS time
        FROM title_words JOIN conversation c ON c.id = title_words.rowid
        WHERE title_words MATCH :words AND c.trashed IS NULL AND {_CHAT} AND NOT EXISTS (
            SELECT 1 FROM json_each(:scanned) WHERE instr(lower(c.title), value) = 0)
        ORDER BY c.updated DESC, c.id DESC LIMIT :limit"""  # noqa: S608
_TITLE_SCAN = f"""SELECT c.id AS conversation_id, NULL AS turn_id, NULL AS reply_id,
        c.title AS text, c.updated AS time
        FROM conversation c
        WHERE c.trashed IS NULL AND {_CHAT} AND NOT EXISTS (
            SELECT 1 FROM json_each(:scanned) WHERE instr(lower(c.title), value) = 0)
        ORDER BY c.updated DESC, c.id DESC LIMIT :limit"""  # noqa: S608
_MESSAGE_INDEX = f"""SELECT c.id AS conversation_id, t.id AS turn_id, NULL AS reply_id,
        t.words AS text, t.created AS time
        FROM turn_words JOIN turn t ON t.id = turn_words.rowid
        JOIN conversation c ON c.id = t.conversation_id
        WHERE turn_words MATCH :words AND c.trashed IS NULL AND {_CHAT} AND NOT EXISTS (
            SELECT 1 FROM json_each(:scanned) WHERE instr(lower(t.words), value) = 0) AND {_MESSAGE}
        ORDER BY turn_words.rowid DESC LIMIT :limit"""  # noqa: S608
_MESSAGE_SCAN = f"""SELECT c.id AS conversation_id, t.id AS turn_id, NULL AS reply_id,
        t.words AS text, t.created AS time
        FROM turn t
        JOIN conversation c ON c.id = t.conversation_id
        WHERE c.trashed IS NULL AND {_CHAT} AND NOT EXISTS (
            SELECT 1 FROM json_each(:scanned) WHERE instr(lower(t.words), value) = 0) AND {_MESSAGE}
        ORDER BY t.id DESC LIMIT :limit"""  # noqa: S608


def _reply_queries(column: str, words: str) -> tuple[str, str]:
    """Return the queries that look words up in a text of replies, and that scan it.

    Args:
        column: the text.
        words: its index.
    """
    head = f"""SELECT c.id AS conversation_id, t.id AS turn_id, r.id AS reply_id,
        r.{column} AS text, r.created AS time"""
    joined = "JOIN turn t ON t.id = r.turn_id JOIN conversation c ON c.id = t.conversation_id"
    fits = f"""c.trashed IS NULL AND {_CHAT} AND NOT EXISTS (
            SELECT 1 FROM json_each(:scanned) WHERE instr(lower(r.{column}), value) = 0)
            AND {_REPLY}"""  # noqa: S608
    there = "" if column == "text" else f"r.{column} <> '' AND "
    return (
        f"""{head} FROM {words} JOIN reply r ON r.id = {words}.rowid {joined}
        WHERE {words} MATCH :words AND {fits} ORDER BY {words}.rowid DESC LIMIT :limit""",
        f"""{head} FROM reply r {joined}
        WHERE {there}{fits} ORDER BY r.id DESC LIMIT :limit""",
    )


SearchedPart = Literal["text", "reasoning", "tools"]
"""What is searched of replies: the answer, thoughts, or calls of tools with their results."""

_REPLY_QUERIES: dict[SearchedPart, tuple[str, str]] = {
    "text": _reply_queries("text", "reply_words"),
    "reasoning": _reply_queries("reasoning", "reasoning_words"),
    "tools": _reply_queries("tool_text", "tool_words"),
}


@dataclass(frozen=True)
class ChatSearchHit:
    """One title, message or reply that matches a query."""

    conversation_id: int
    title: str
    turn_id: int | None
    """None for a title."""
    role: Role | None
    """None for a title."""
    snippet: str
    """The text around the first hit, on one line."""
    spans: list[tuple[int, int]]
    """Start and end of each hit in `snippet`."""
    reply_id: int | None = None
    """None for a user message or a title."""
    part: SearchedPart = "text"
    """`reasoning` for a thought, `tools` for a call of a tool or its result."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "conversation_id": self.conversation_id,
            "title": self.title,
            "turn_id": self.turn_id,
            "role": self.role,
            "snippet": self.snippet,
            "spans": [list(span) for span in self.spans],
            "reply_id": self.reply_id,
        }


def search(
    db: sqlite3.Connection, query: str, limit: int, part: SearchedPart = "text"
) -> list[ChatSearchHit]:
    """Find titles, then messages and replies, with every word of the query, newest first.

    Any text is a valid query. Another `part` than "text" searches only that of replies.
    """
    chats, query = _parse_chat_filters(db, query.replace("\0", " "))
    labels, query = _parse_annotation_filters(db, query)
    words = [word for word in query.split() if any(map(str.isalnum, word))]
    words = list(dict.fromkeys(words))[:MAX_QUERY_WORDS]
    scanned = [word for word in words if _UNSPACED_SCRIPTS.search(word)]
    indexed = [word for word in words if word not in scanned]
    if not (words or labels or chats) or limit < 1:
        return []
    arguments = {
        "words": " ".join('"' + word.replace('"', '""') + '"' for word in indexed) + "*",
        "scanned": json.dumps([re.sub("[A-Z]+", _lower, word) for word in scanned]),
        "labels": json.dumps(labels),
        "chats": None if chats is None else json.dumps(sorted(chats)),
        "limit": limit,
    }
    titles = []
    look_up, scan = _REPLY_QUERIES[part]
    in_text = [look_up if indexed else scan]
    if part == "text":
        in_text.insert(0, _MESSAGE_INDEX if indexed else _MESSAGE_SCAN)
        in_title = _TITLE_INDEX if indexed else _TITLE_SCAN
        titles = [] if labels else db.execute(in_title, arguments).fetchall()
    if not (words or labels):
        in_text = []
    texts = [row for source in in_text for row in db.execute(source, arguments)]
    texts.sort(key=lambda row: (as_text(row["time"]), row["turn_id"]), reverse=True)
    pattern = _compile_pattern(indexed, scanned)
    return [_to_hit(db, row, pattern, part) for row in [*titles, *texts][:limit]]


def _parse_chat_filters(db: sqlite3.Connection, query: str) -> tuple[set[int] | None, str]:
    """Split a query into the chats that its filters name, None for all, and its words."""
    chats: set[int] | None = None
    rest = query
    for match in list(_CHAT_FILTER.finditer(query))[:MAX_QUERY_WORDS]:
        wanted = (match[2] or match[3]).casefold()
        found = {
            row["id"]
            for row in db.execute(
                "SELECT id, project, tags FROM conversation"
                " WHERE trashed IS NULL AND (tags <> '' OR project <> '')"
            )
            if wanted in _chat_words(row, "project" if match[1] == "project" else "tags")
        }
        if found:
            chats = found if chats is None else chats & found
            rest = rest.replace(match[0], " ")
    return chats, rest


def _chat_words(row: sqlite3.Row, column: str) -> list[str]:
    if column == "tags":
        return as_text(row["tags"]).casefold().split()
    return [project_name(as_text(row["project"])).casefold()]


def _parse_annotation_filters(
    db: sqlite3.Connection, query: str
) -> tuple[list[tuple[str, str]], str]:
    """Split a query into the names and values of label filters, and its words."""
    found = []
    rest = query
    for match in _ANNOTATION_FILTER.finditer(query):
        name, value = match[1], match[2] or match[3]
        if db.execute("SELECT 1 FROM annotation WHERE name = ? LIMIT 1", (name,)).fetchone():
            found.append((name, re.sub("[A-Z]+", _lower, value)))
            rest = rest.replace(match[0], " ")
    return found[:MAX_QUERY_WORDS], rest


def _lower(match: re.Match[str]) -> str:
    return match[0].lower()


def _to_hit(
    db: sqlite3.Connection, row: sqlite3.Row, pattern: re.Pattern[str], part: SearchedPart
) -> ChatSearchHit:
    title, text = chat_title(db, row["conversation_id"]), as_text(row["text"])
    is_title = row["turn_id"] is None  # which a chat with a requested tag may not have of its own
    snippet, spans = _make_snippet(text or title if is_title else text, pattern)
    speaker: Role = "user" if row["reply_id"] is None else "assistant"
    return ChatSearchHit(
        conversation_id=row["conversation_id"],
        title=title,
        turn_id=row["turn_id"],
        role=None if is_title else speaker,
        snippet=snippet,
        spans=spans,
        reply_id=row["reply_id"],
        part=part,
    )


def _compile_pattern(indexed: list[str], scanned: list[str]) -> re.Pattern[str]:
    """Compile a pattern for the query words in folded text; the last indexed word is a prefix."""
    choices = [re.escape(_fold(word)[0]) for word in scanned]
    for number, word in enumerate(indexed, start=1):
        parts = re.findall(r"[^\W_]+", _fold(word)[0])
        end = r"[^\W_]*" if number == len(indexed) else r"(?![^\W_])"
        choices.append(r"(?<![^\W_])" + r"[\W_]+".join(parts) + end)
    return re.compile("|".join(choices) or "(?!)")


def _make_snippet(text: str, pattern: re.Pattern[str]) -> tuple[str, list[tuple[int, int]]]:
    """Return a window of the text on one line, and the spans of the matches in it."""
    folded, places = _fold(text)
    spans = [
        (places[match.start()], places[match.end() - 1] + 1) for match in pattern.finditer(folded)
    ]
    start = max(spans[0][0] - SNIPPET_LEAD, 0) if spans else 0
    window = re.sub(r"\s", " ", text[start : start + SNIPPET_WIDTH])
    before, after = "…" * (start > 0), "…" * (start + SNIPPET_WIDTH < len(text))
    shift = len(before) - start
    inside = [
        (left + shift, min(right, start + SNIPPET_WIDTH) + shift)
        for left, right in spans
        if left < start + SNIPPET_WIDTH
    ]
    return before + window + after, inside


def _fold(text: str) -> tuple[str, list[int] | range]:
    """Remove case and accents; also returns the original index of each character."""
    if text.isascii():
        return text.lower(), range(len(text))
    kept = [(place, _fold_character(c)) for place, c in enumerate(text) if not _is_accent(c)]
    return "".join(c for _, c in kept), [place for place, _ in kept]


def _is_accent(character: str) -> bool:
    return "\u0300" <= character <= "\u036f"


@lru_cache(maxsize=4096)
def _fold_character(character: str) -> str:
    parts = unicodedata.normalize("NFD", character)
    return (parts[0] if all(map(_is_accent, parts[1:])) else character).lower()[0]

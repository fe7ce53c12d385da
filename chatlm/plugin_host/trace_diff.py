"""Summaries of hook results and of the changes that plugins made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher
from itertools import islice, zip_longest
from operator import attrgetter
from typing import Any

from chatlm.errors import UsageError
from chatlm.text import one_line
from chatlm.types.messages import Annotation, Message, Passage
from chatlm.types.provenance import Change
from chatlm.types.requests import Request

MAX_CHANGE_LENGTH = 400
"""Characters of a changed text that are stored."""


SURROUNDING_LENGTH = 40
"""Characters of the unchanged text before and after it."""


MAX_CHANGES = 12
"""Changes of one call that are stored."""


MAX_COMPARED_MESSAGES = 100
"""Messages, between those that both lists begin and end with, that are compared one by one."""


MAX_SUMMARY_LENGTH = 200
"""Characters about what a plugin returned."""


_COMPARISON_KEY = attrgetter("role", "parts", "pinned")
"""Tuples are compared much faster than dataclasses."""


def summarise_result(value: Any) -> str:
    """Summarise what a hook returned.

    Args:
        value: as a hook may return it; None gives an empty text, as does a request, whose
            changes tell more.
    """
    match value:
        case None | Request():
            return ""
        case UsageError():
            return _truncate(f"refused: {value.message}")
        case str():
            return f"a message of {_format_count(len(value), 'character')}"
        case [Message(), *_]:
            return _format_count(len(value), "message")
        case [Passage(), *_]:
            sources = dict.fromkeys(passage.source for passage in value)
            return _truncate(f"{_format_count(len(value), 'passage')}: {', '.join(sources)}")
        case [Annotation(), *_]:
            return _truncate(", ".join(map(_format_annotation, value)))
        case {}:
            return _truncate(", ".join(f"{name} {setting}" for name, setting in value.items()))
        case []:
            return ""
    return type(value).__name__


def find_changes(before: Any, after: Any) -> tuple[Change, ...]:
    """Return the differences of two texts, lists of messages or requests, in bounded size."""
    match before, after:
        case Request(), Request():
            found = _request_changes(before, after)
        case str(), str():
            found = _text_changes("message", before, after)
        case [*old], [*new]:
            found = _messages_changes(old, new)
        case _:
            return ()
    kept = tuple(islice(found, MAX_CHANGES))
    more = sum(1 for _ in found)
    return (*kept, Change("and more", "", _format_count(more, "further change"))) if more else kept


def callable_name(function: Callable[..., Any]) -> str:
    """Return the name of a logits processor or a stopping criterion."""
    return one_line(str(getattr(function, "__name__", type(function).__name__)), 60)


def _request_changes(before: Request, after: Request) -> Iterator[Change]:
    old = before.sampling.settings() | {"adapter": before.adapter}
    new = after.sampling.settings() | {"adapter": after.adapter}
    for name, was in old.items():
        if was != new[name]:
            yield Change(name.replace("_", " "), _format_value(was), _format_value(new[name]))
    for what, had, has in (
        ("logits processors", before.logits_processors, after.logits_processors),
        ("stopping criteria", before.stopping_criteria, after.stopping_criteria),
    ):
        if had != has:
            yield Change(
                what, *(_truncate(", ".join(map(callable_name, those))) for those in (had, has))
            )
    if before.tools != after.tools:
        yield Change(
            "tools",
            *(
                _truncate(", ".join(tool.name for tool in request.tools))
                for request in (before, after)
            ),
        )
    if before.messages != after.messages:
        yield from _messages_changes(before.messages, after.messages)


def _messages_changes(before: Sequence[Message], after: Sequence[Message]) -> Iterator[Change]:
    mine, theirs = list(map(_COMPARISON_KEY, before)), list(map(_COMPARISON_KEY, after))
    head = _common_prefix_length(mine, theirs)
    tail = _common_prefix_length(mine[head:][::-1], theirs[head:][::-1])
    old = before[head : len(before) - tail]
    new = after[head : len(after) - tail]
    if max(len(old), len(new)) > MAX_COMPARED_MESSAGES:
        yield Change(
            "messages", _format_count(len(old), "message"), _format_count(len(new), "message")
        )
        return
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        for place, (was, now) in enumerate(zip_longest(old[a:b], new[c:d])):
            yield from _message_changes(head + (c if now else a) + place + 1, was, now)


def _message_changes(
    number: int, before: Message | None, after: Message | None
) -> Iterator[Change]:
    if before and after and before.role == after.role:
        yield from _text_changes(f"message {number} ({after.role})", before.text, after.text)
        if before.pinned != after.pinned:
            pinned = {True: "pinned", False: "not pinned"}
            yield Change(
                f"message {number} ({after.role})", pinned[before.pinned], pinned[after.pinned]
            )
        return
    if before:
        yield from _text_changes(f"message {number} ({before.role})", before.text, "")
    if after:
        yield from _text_changes(f"message {number} ({after.role})", "", after.text)


def _text_changes(target: str, before: str, after: str) -> Iterator[Change]:
    """The changed middle of a text with a little of what is around it."""
    if before == after:
        return
    room = min(len(before), len(after))
    head = _bisect_max(room, lambda n: before[:n] == after[:n])
    tail = _bisect_max(room - head, lambda n: before[len(before) - n :] == after[len(after) - n :])
    yield Change(target, *(_changed_excerpt(text, head, tail) for text in (before, after)))


def _changed_excerpt(text: str, head: int, tail: int) -> str:
    begin, end = (
        max(head - SURROUNDING_LENGTH, 0),
        min(len(text) - tail + SURROUNDING_LENGTH, len(text)),
    )
    middle = text[head : len(text) - tail]
    if len(middle) > MAX_CHANGE_LENGTH:
        left_out = len(middle) - MAX_CHANGE_LENGTH
        middle = f"{middle[:MAX_CHANGE_LENGTH]} … ({_format_count(left_out, 'further character')}) "
    before, after = "…" * (begin > 0), "…" * (end < len(text))
    return f"{before}{text[begin:head]}{middle}{text[len(text) - tail : end]}{after}"


def _common_prefix_length(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Return the length of the common prefix."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


def _bisect_max(limit: int, predicate: Callable[[int], bool]) -> int:
    """The greatest number up to `limit` for which `predicate` holds; it holds for all smaller
    ones."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if predicate(middle) else (low, middle - 1)
    return low


def _format_annotation(annotation: Annotation) -> str:
    score = "" if annotation.score is None else f" ({annotation.score:.2f})"
    return f"{annotation.name} {annotation.value}{score}"


def _format_value(value: Any) -> str:
    return (
        ""
        if value in (None, ())
        else _truncate(value if isinstance(value, str) else json.dumps(value))
    )


def _truncate(text: str) -> str:
    return one_line(text, MAX_SUMMARY_LENGTH)


def _format_count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"

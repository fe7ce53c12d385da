"""Tells what a plugin returned and what it changed, in few words; pure functions over values."""

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

LONGEST = 400
"""Characters of a changed text that are kept."""


AROUND = 40
"""Characters of the unchanged text before and after it."""


MOST_CHANGES = 12
"""Changes of one call that are kept."""


MOST_COMPARED = 100
"""Messages, between those that both lists begin and end with, that are compared one by one."""


SAID = 200
"""Characters about what a plugin returned."""


_PARTS = attrgetter("role", "content", "pinned")
"""Tuples are compared much faster than dataclasses."""


def told(value: Any) -> str:
    """What a hook returned, in short.

    Args:
        value: as a hook may return it; None gives an empty text, as does a request, whose
            changes tell more.
    """
    match value:
        case None | Request():
            return ""
        case UsageError():
            return _cut(f"refused: {value.message}")
        case str():
            return f"a message of {_count(len(value), 'character')}"
        case [Message(), *_]:
            return _count(len(value), "message")
        case [Passage(), *_]:
            sources = dict.fromkeys(passage.source for passage in value)
            return _cut(f"{_count(len(value), 'passage')}: {', '.join(sources)}")
        case [Annotation(), *_]:
            return _cut(", ".join(map(_label, value)))
        case {}:
            return _cut(", ".join(f"{name} {said}" for name, said in value.items()))
        case []:
            return ""
    return type(value).__name__


def changes(before: Any, after: Any) -> tuple[Change, ...]:
    """What differs between two texts, two lists of messages or two requests, in bounded size."""
    match before, after:
        case Request(), Request():
            found = _request(before, after)
        case str(), str():
            found = _text("message", before, after)
        case [*old], [*new]:
            found = _messages(old, new)
        case _:
            return ()
    kept = tuple(islice(found, MOST_CHANGES))
    more = sum(1 for _ in found)
    return (*kept, Change("and more", "", _count(more, "further change"))) if more else kept


def name_of(added: Callable[..., Any]) -> str:
    """What a logits processor or a stopping criterion is called."""
    return one_line(str(getattr(added, "__name__", type(added).__name__)), 60)


def _request(before: Request, after: Request) -> Iterator[Change]:
    old = before.sampling.settings() | {"adapter": before.adapter}
    new = after.sampling.settings() | {"adapter": after.adapter}
    for name, was in old.items():
        if was != new[name]:
            yield Change(name.replace("_", " "), _value(was), _value(new[name]))
    for what, had, has in (
        ("logits processors", before.processors, after.processors),
        ("stopping criteria", before.criteria, after.criteria),
    ):
        if had != has:
            yield Change(what, *(_cut(", ".join(map(name_of, those))) for those in (had, has)))
    if before.messages != after.messages:
        yield from _messages(before.messages, after.messages)


def _messages(before: Sequence[Message], after: Sequence[Message]) -> Iterator[Change]:
    mine, theirs = list(map(_PARTS, before)), list(map(_PARTS, after))
    head = _common(mine, theirs)
    tail = _common(mine[head:][::-1], theirs[head:][::-1])
    old = before[head : len(before) - tail]
    new = after[head : len(after) - tail]
    if max(len(old), len(new)) > MOST_COMPARED:
        yield Change("messages", _count(len(old), "message"), _count(len(new), "message"))
        return
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        for place, (was, now) in enumerate(zip_longest(old[a:b], new[c:d])):
            yield from _message(head + (c if now else a) + place + 1, was, now)


def _message(number: int, was: Message | None, now: Message | None) -> Iterator[Change]:
    if was and now and was.role == now.role:
        yield from _text(f"message {number} ({now.role})", was.content, now.content)
        if was.pinned != now.pinned:
            pinned = {True: "pinned", False: "not pinned"}
            yield Change(f"message {number} ({now.role})", pinned[was.pinned], pinned[now.pinned])
        return
    if was:
        yield from _text(f"message {number} ({was.role})", was.content, "")
    if now:
        yield from _text(f"message {number} ({now.role})", "", now.content)


def _text(what: str, before: str, after: str) -> Iterator[Change]:
    """The changed middle of a text with a little of what is around it."""
    if before == after:
        return
    room = min(len(before), len(after))
    head = _longest(room, lambda n: before[:n] == after[:n])
    tail = _longest(room - head, lambda n: before[len(before) - n :] == after[len(after) - n :])
    yield Change(what, *(_middle(text, head, tail) for text in (before, after)))


def _middle(text: str, head: int, tail: int) -> str:
    begin, end = max(head - AROUND, 0), min(len(text) - tail + AROUND, len(text))
    middle = text[head : len(text) - tail]
    if len(middle) > LONGEST:
        left_out = len(middle) - LONGEST
        middle = f"{middle[:LONGEST]} … ({_count(left_out, 'further character')}) "
    before, after = "…" * (begin > 0), "…" * (end < len(text))
    return f"{before}{text[begin:head]}{middle}{text[len(text) - tail : end]}{after}"


def _common(left: Sequence[Any], right: Sequence[Any]) -> int:
    """How many items the two begin with in common."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


def _longest(most: int, same: Callable[[int], bool]) -> int:
    """The greatest number up to `most` for which `same` holds; it holds for all smaller ones."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if same(middle) else (low, middle - 1)
    return low


def _label(label: Annotation) -> str:
    score = "" if label.score is None else f" ({label.score:.2f})"
    return f"{label.name} {label.value}{score}"


def _value(value: Any) -> str:
    return (
        "" if value in (None, ()) else _cut(value if isinstance(value, str) else json.dumps(value))
    )


def _cut(text: str) -> str:
    return one_line(text, SAID)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"

"""Reads chats as chatlm itself exports them, one JSON object each."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, TypeVar

from chatlm.errors import UsageError
from chatlm.store.importing.fields import Fields, Read
from chatlm.types.messages import (
    Annotation,
    Conversation,
    Kept,
    Message,
    Passage,
    Reply,
    Role,
    Standing,
    StopReason,
    Turn,
    Usage,
)
from chatlm.types.provenance import Call, Change, Provenance, Trace
from chatlm.types.sampling import Sampling

Kind = TypeVar("Kind", bound=StrEnum)


def read_own(value: Any) -> Read:
    """A chat with all that was kept of it; `forked_from` names a chat elsewhere and is dropped.

    Raises:
        BadChat: something in it is not as chatlm writes it.
    """
    return _Reader(Fields(value)).read()


class _Reader:
    def __init__(self, chat: Fields) -> None:
        self._chat = chat
        self._passages: dict[int, list[Passage]] = {}
        self._annotations: dict[int, list[tuple[int | None, Annotation]]] = {}
        self._provenance: dict[int, Provenance] = {}
        self._traces: dict[int, list[Trace]] = {}
        self._replies = 0

    def read(self) -> Read:
        chat = self._chat
        conversation = Conversation(
            id=0,
            title=chat.text("title"),
            system=chat.text("system"),
            created=chat.time("created"),
            updated=chat.time("updated"),
            sampling=_sampling(chat.inner("sampling")),
            pinned=chat.flag("pinned"),
            kept=_kept(chat),
            without=frozenset(chat.texts("without")),
            turns=tuple(self._turn(n, turn) for n, turn in enumerate(chat.objects("turns"))),
        )
        return Read(
            conversation,
            timed=True,
            passages=self._passages,
            annotations=self._annotations,
            provenance=self._provenance,
            traces=self._traces,
        )

    def _turn(self, number: int, turn: Fields) -> Turn:
        ids: dict[int, int] = {}
        replies: list[Reply] = []
        for fields in turn.objects("replies"):
            self._replies += 1
            ids[fields.count("id")] = self._replies
            replies.append(self._reply(fields, len(replies) + 1))
        if len(ids) < len(replies):
            raise turn.bad("two replies have one id")
        self._passages[number] = [
            Passage(
                p.text("text"), p.text("source"), p.number("score") or 0.0, _plain(p, "details")
            )
            for p in turn.objects("passages")
        ]
        self._annotations[number] = [
            (_reply_id(label, "reply", ids), _annotation(label))
            for label in turn.objects("annotations")
        ]
        self._traces[number] = [
            Trace(tuple(map(_call, trace.objects("calls"))), _reply_id(trace, "reply", ids))
            for trace in turn.objects("traces")
        ]
        return Turn(
            id=number,
            position=number,
            user=Message("user", turn.text("content")),
            replies=tuple(replies),
            chosen=_reply_id(turn, "chosen", ids),
            created=turn.time("created"),
            standing=_one_of(Standing, turn, "standing", Standing.AUTO.value),
            summary=turn.text("summary", ""),
            typed=turn.text("typed", ""),
        )

    def _reply(self, reply: Fields, version: int) -> Reply:
        usage = reply.inner("usage")
        made = reply.value.get("provenance")
        if made is not None:
            self._provenance[self._replies] = _provenance(reply.inner("provenance"))
        settings = reply.value.get("settings")
        if not isinstance(settings, str):
            settings = json.dumps(reply.inner("settings").value)
        unfinished = reply.value.get("stop_reason") is None
        return Reply(
            id=self._replies,
            version=version,
            text=reply.text("text"),
            stop_reason=None if unfinished else _one_of(StopReason, reply, "stop_reason"),
            error=reply.text_or_none("error"),
            model=reply.text("model"),
            adapter=reply.text_or_none("adapter"),
            settings=settings,
            usage=Usage(
                prompt_tokens=usage.count("prompt_tokens"),
                cached_tokens=usage.count("cached_tokens"),
                completion_tokens=usage.count("completion_tokens"),
                first_token_seconds=usage.number("first_token_seconds"),
                decode_seconds=usage.number("decode_seconds") or 0.0,
            ),
            created=reply.time("created"),
        )


def _annotation(label: Fields) -> Annotation:
    plugin, name, value = (label.text(field) for field in ("plugin", "name", "value"))
    return Annotation(plugin, name, value, label.number("score"), label.text("icon", ""))


def _call(call: Fields) -> Call:
    changes = tuple(
        Change(change.text("what"), change.text("before"), change.text("after"))
        for change in call.objects("changes")
    )
    seconds = call.number("seconds") or 0.0
    plugin, hook, said, error = (call.text(field) for field in ("plugin", "hook", "said", "error"))
    return Call(plugin, hook, seconds, said, changes, error)


def _reply_id(fields: Fields, name: str, ids: dict[int, int]) -> int | None:
    """The reply that a field names; None for null or nothing."""
    if fields.value.get(name) is None:
        return None
    number = fields.count(name)
    if number not in ids:
        raise fields.bad(f"{name} is none of the turn's replies")
    return ids[number]


def _provenance(made: Fields) -> Provenance:
    versions = made.inner("versions")
    return Provenance(
        messages=tuple(map(_message, made.objects("messages"))),
        sampling=_sampling(made.inner("sampling")),
        model=made.text("model"),
        adapter=made.text_or_none("adapter"),
        prompt_format=made.text("prompt_format", ""),
        device=made.text("device", ""),
        dtype=made.text("dtype", ""),
        context_length=made.count("context_length"),
        prompt_hash=made.text("prompt_hash", ""),
        versions={name: versions.text(name) for name in versions.value},
        added=made.texts("added"),
    )


def _message(message: Fields) -> Message:
    roles: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
    role = message.text("role")
    if role not in roles:
        raise message.bad(f"role must be one of {', '.join(roles)}")
    return Message(roles[role], message.text("content"), message.flag("pinned"))


def _kept(chat: Fields) -> Kept:
    plugins = _plain(chat, "kept")
    return {plugin: chat.inner("kept").inner(plugin).value for plugin in plugins}


def _plain(fields: Fields, name: str) -> dict[str, Any]:
    """An object of values that the database can hold as JSON."""
    inner = fields.inner(name)
    try:
        json.dumps(inner.value, allow_nan=False)
    except ValueError:
        raise inner.bad("a number in it is not finite") from None
    return inner.value


def _sampling(values: Fields) -> Sampling:
    try:
        return Sampling.from_dict(values.value)
    except UsageError as error:
        raise values.bad(error.message) from error


def _one_of(kind: type[Kind], fields: Fields, name: str, default: str | None = None) -> Kind:
    try:
        return kind(fields.text(name, default))
    except ValueError:
        raise fields.bad(f"{name} must be one of {', '.join(kind)}") from None

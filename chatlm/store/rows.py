"""Conversion between rows of the chat database and values."""

from __future__ import annotations

import json
import math
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from chatlm.errors import StoreError, UsageError
from chatlm.types.conversations import ContextPolicy, ConversationHeader, PluginData, Turn
from chatlm.types.messages import Annotation, Message, Passage
from chatlm.types.parts import Image, Text, ToolCall, ToolResult, part_from_dict
from chatlm.types.projects import Project
from chatlm.types.provenance import Provenance, Trace, calls_from_dicts
from chatlm.types.replies import Reply, ReplyStep, StopReason, Usage, utc_now
from chatlm.types.sampling import Sampling
from chatlm.types.tool_rules import ChatTools


def utf8_safe(text: str) -> str:
    """Make text encodable as UTF-8: join surrogate pairs and replace lone surrogates by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def finite_or_none(score: float | None) -> float | None:
    """Return the score as a float; None for None, NaN and infinities, which JSON lacks."""
    return None if score is None or not math.isfinite(score) else float(score)


def utf8_safe_or_none(text: str | None) -> str | None:
    """As `utf8_safe`; None stays None."""
    return None if text is None else utf8_safe(text)


def format_timestamp(time: datetime) -> str:
    """Format a time in UTC so that text order is chronological."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def current_timestamp() -> str:
    """Return the current time as `format_timestamp` does."""
    return format_timestamp(utc_now())


def as_text(value: Any) -> str:
    """Return a stored text; bytes that another program wrote in its place are decoded."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None else str(value)


def parse_timestamp(text: str) -> datetime:
    """Parse a stored time, or raise a StoreError."""
    try:
        return datetime.fromisoformat(text)
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"A time among the saved chats is damaged: {text!r}.",
            hint="Another program wrote to the database; a backup has the right one.",
        ) from error


def header_from_row(row: sqlite3.Row) -> ConversationHeader:
    """Convert a row of `conversation`, or raise a StoreError."""
    try:
        sampling = Sampling.from_dict(json.loads(row["sampling"]))
    except (ValueError, TypeError, UsageError) as error:
        raise StoreError(f"The sampling settings of chat {row['id']} are damaged.") from error
    try:
        plugin_data = {str(name): dict(values) for name, values in json.loads(row["kept"]).items()}
        disabled = frozenset(map(str, json.loads(row["without"])))
    except (ValueError, TypeError, AttributeError) as error:
        raise StoreError(f"The plugin data of chat {row['id']} is damaged.") from error
    try:
        project = load_project(as_text(row["project"]))
    except (ValueError, TypeError, LookupError) as error:
        raise StoreError(f"The project of chat {row['id']} is damaged.") from error
    try:
        tools = load_tools(as_text(row["tools"]))
    except (ValueError, TypeError, AttributeError, UsageError) as error:
        raise StoreError(f"The tools of chat {row['id']} are damaged.") from error
    return ConversationHeader(
        id=row["id"],
        title=as_text(row["title"]),
        system=as_text(row["system"]),
        created=parse_timestamp(row["created"]),
        updated=parse_timestamp(row["updated"]),
        sampling=sampling,
        pinned=bool(row["pinned"]),
        forked_from=row["forked_from"],
        plugin_data=plugin_data,
        disabled_plugins=disabled,
        project=project,
        tags=tuple(as_text(row["tags"]).split()),
        tools=tools,
    )


def reply_from_row(row: sqlite3.Row) -> Reply:
    """Convert a row of `reply`, or raise a StoreError."""
    unknown: list[str] = []
    steps = _steps_from_row(row, unknown)
    error = None if row["error"] is None else as_text(row["error"])
    return Reply(
        id=row["id"],
        version=row["version"],
        error=reply_error(error, unknown),
        model=as_text(row["model"]),
        adapter=None if row["adapter"] is None else as_text(row["adapter"]),
        settings=as_text(row["settings"]),
        created=parse_timestamp(row["created"]),
        steps=steps,
    )


def _steps_from_row(row: sqlite3.Row, unknown: list[str]) -> tuple[ReplyStep, ...]:
    """Convert the steps; unknown stop reasons are added to `unknown`."""
    if row["steps"] is not None:
        try:
            steps = json.loads(row["steps"])
            for step in steps:
                word = step["stop_reason"]
                step["stop_reason"] = read_stop_reason(word and as_text(word), unknown)
            return tuple(map(ReplyStep.from_dict, steps))
        except (ValueError, TypeError, LookupError) as error:
            raise StoreError(f"The parts of reply {row['id']} are damaged.") from error
    word = row["stop_reason"]
    reason = read_stop_reason(None if word is None else as_text(word), unknown)
    usage = Usage(
        prompt_tokens=row["prompt_tokens"],
        cached_tokens=row["cached_tokens"],
        completion_tokens=row["completion_tokens"],
        first_token_seconds=row["first_token_seconds"],
        decode_seconds=row["decode_seconds"],
    )
    parts = (Text(as_text(row["text"])),) if row["text"] else ()
    return (ReplyStep(parts, reason, usage),)


def read_stop_reason(word: str | None, unknown: list[str]) -> StopReason | None:
    """Return a stored stop reason; an unknown one, added to `unknown`, counts as an error."""
    if word is None:
        return None
    try:
        return StopReason(word)
    except ValueError:
        unknown.append(word)
        return StopReason.ERROR


def reply_error(error: str | None, unknown: Sequence[str]) -> str | None:
    """Return a reply's error, or that it has stop reasons that `read_stop_reason` does not know."""
    if error or not unknown:
        return error
    return (
        f"The stop reason {unknown[0]!r} is unknown. A newer chatlm or another program wrote "
        "it; the reply is whole."
    )


def dump_steps(steps: Sequence[ReplyStep]) -> str | None:
    """Convert a reply's steps to JSON; None for one step of text, which has its own columns."""
    if len(steps) == 1 and steps[0].is_plain:
        return None
    return _dump_json(step.to_dict() for step in steps)


def tool_text(steps: Sequence[ReplyStep]) -> str:
    """Return names, arguments and results of the calls in a reply, to be searched."""
    lines = []
    for part in (part for step in steps for part in step.parts):
        match part:
            case ToolCall():
                lines.append(f"{part.name} {_readable(part.arguments)}")
            case ToolResult():
                lines.append(f"{part.name} {part.source}\n{part.text}")
    return utf8_safe("\n".join(lines))


def _readable(arguments: str) -> str:
    """Return JSON without escaped letters; other text as it is."""
    try:
        return json.dumps(json.loads(arguments), ensure_ascii=False)
    except (ValueError, RecursionError):
        return arguments


def _user_message(row: sqlite3.Row) -> Message:
    if row["parts"] is None:
        return Message("user", as_text(row["content"]))
    try:
        return Message("user", map(part_from_dict, json.loads(row["parts"])))
    except (ValueError, TypeError, LookupError) as error:
        raise StoreError(f"The parts of turn {row['id']} are damaged.") from error


def dump_message_parts(message: Message) -> str | None:
    """Convert a message's parts to JSON; None for plain text, which has its own column."""
    return None if message.is_plain else _dump_json(part.to_dict() for part in message.parts)


def _dump_json(values: Iterable[Any]) -> str:
    return utf8_safe(json.dumps(list(values), ensure_ascii=False))


def turns_from_rows(
    turns: Iterable[sqlite3.Row],
    replies: Iterable[sqlite3.Row],
    annotations: Iterable[sqlite3.Row],
    passages: Iterable[sqlite3.Row],
) -> tuple[Turn, ...]:
    """Convert rows of `turn`, `reply`, `annotation` and `passage`, each in order, to turns.

    Args:
        turns: whole rows.
        replies: whole rows.
        annotations: whole rows.
        passages: `turn_id` and `images` of those that have any.
    """
    versions: dict[int, list[Reply]] = {}
    for row in replies:
        versions.setdefault(row["turn_id"], []).append(reply_from_row(row))
    labels: dict[int, list[tuple[int | None, Annotation]]] = {}
    for row in annotations:
        labels.setdefault(row["turn_id"], []).append(annotation_from_row(row))
    pictures: dict[int, list[Image]] = {}
    for row in passages:
        pictures.setdefault(row["turn_id"], []).extend(_load_images(row))
    return tuple(
        Turn(
            id=row["id"],
            position=row["position"],
            user=_user_message(row),
            replies=tuple(versions.get(row["id"], ())),
            active_reply_id=row["chosen"],
            created=parse_timestamp(row["created"]),
            context_policy=_context_policy(row),
            summary=as_text(row["summary"]),
            raw_input=as_text(row["typed"]),
            annotations=tuple(labels.get(row["id"], ())),
            passage_images=tuple(pictures.get(row["id"], ())),
        )
        for row in turns
    )


def _context_policy(row: sqlite3.Row) -> ContextPolicy:
    try:
        return ContextPolicy(row["standing"])
    except ValueError as error:
        raise StoreError(
            f"The context policy {as_text(row['standing'])!r} of turn {row['id']} is unknown.",
            hint="A newer chatlm or another program wrote it: update chatlm.",
        ) from error


def passage_from_row(row: sqlite3.Row) -> Passage:
    """Convert a row of `passage`, or raise a StoreError."""
    try:
        details = dict(json.loads(row["details"]))
    except (ValueError, TypeError) as error:
        raise _damaged_passage(row) from error
    return Passage(row["text"], row["source"], row["score"], details, _load_images(row))


def _load_images(row: sqlite3.Row) -> tuple[Image, ...]:
    """Return the images of a row of `passage`, or raise a StoreError."""
    if row["images"] is None:
        return ()
    try:
        return parse_images(json.loads(as_text(row["images"])))
    except (ValueError, TypeError, LookupError) as error:
        raise _damaged_passage(row) from error


def parse_images(values: Iterable[Any]) -> tuple[Image, ...]:
    """Restore images from what their `to_dict` returned.

    Raises:
        ValueError, TypeError, LookupError: something is no image.
    """
    parts = tuple(map(part_from_dict, values))
    images = tuple(part for part in parts if isinstance(part, Image))
    if len(images) < len(parts):
        raise ValueError("a part is no image")
    return images


def dump_images(images: Iterable[Image]) -> str | None:
    """Convert a passage's images to JSON; None for none."""
    values = [image.to_dict() for image in images]
    return _dump_json(values) if values else None


def _damaged_passage(row: sqlite3.Row) -> StoreError:
    return StoreError(
        f"A passage of turn {row['turn_id']} is damaged and cannot be read.",
        hint="The turn itself is intact.",
    )


def dump_details(details: Mapping[str, Any]) -> str:
    """Convert a passage's details to JSON.

    Raises:
        TypeError, ValueError: a value that JSON cannot represent.
    """
    return json.dumps(dict(details), allow_nan=False)


def annotation_from_row(row: sqlite3.Row) -> tuple[int | None, Annotation]:
    """Convert a row of `annotation` to the id of its reply (None: the user's message) and label."""
    return row["reply_id"], Annotation(
        row["plugin"], row["name"], row["value"], row["score"], row["icon"]
    )


def dump_sampling(sampling: Sampling) -> str:
    """Convert sampling settings to JSON."""
    return json.dumps(sampling.to_dict())


def dump_plugin_data(plugin_data: PluginData) -> str:
    """Convert the plugins' data to JSON.

    Raises:
        TypeError, ValueError: a value that JSON cannot represent.
    """
    plain = {name: dict(values) for name, values in plugin_data.items()}
    return json.dumps(plain, allow_nan=False)


def dump_plugin_names(plugin_names: Iterable[str]) -> str:
    """Convert names of plugins to JSON."""
    return json.dumps(sorted(plugin_names))


def dump_project(project: Project | None) -> str:
    """Convert a project to JSON; empty for none."""
    return utf8_safe(json.dumps(project.to_dict(), ensure_ascii=False)) if project else ""


def load_project(text: str) -> Project | None:
    """Read back what `dump_project` returned.

    Raises:
        ValueError, TypeError, LookupError: it is damaged.
    """
    return Project.from_dict(json.loads(text)) if text else None


def dump_tools(tools: ChatTools) -> str:
    """Convert what the user decided about tools to JSON; empty for nothing."""
    values = tools.to_dict()
    return utf8_safe(json.dumps(values, ensure_ascii=False)) if values else ""


def load_tools(text: str) -> ChatTools:
    """Read back what `dump_tools` returned.

    Raises:
        ValueError, TypeError, AttributeError, UsageError: it is damaged.
    """
    return ChatTools.from_dict(json.loads(text)) if text else ChatTools()


def dump_tags(tags: Iterable[str]) -> str:
    """Join tags, which have no spaces."""
    return utf8_safe(" ".join(sorted(set(tags))))


def dump_provenance(provenance: Provenance) -> bytes:
    """Convert a provenance to JSON, compressed because it repeats much of the chat."""
    return zlib.compress(json.dumps(provenance.to_dict()).encode())


def load_provenance(content: bytes) -> Provenance | None:
    """Read back what `dump_provenance` returned; None if it is damaged."""
    try:
        return Provenance.from_dict(json.loads(zlib.decompress(content)))
    except (zlib.error, ValueError, TypeError, LookupError, UsageError):
        return None


def dump_calls(trace: Trace) -> bytes:
    """Convert the calls of a trace to compressed JSON."""
    return zlib.compress(json.dumps(trace.to_dict()["calls"]).encode())


def trace_from_row(row: sqlite3.Row) -> Trace:
    """Convert a row of `trace`, or raise a StoreError."""
    try:
        calls = calls_from_dicts(json.loads(zlib.decompress(row["content"])))
    except (zlib.error, ValueError, TypeError, LookupError) as error:
        raise StoreError(
            f"The plugin trace of turn {row['turn_id']} is damaged and cannot be read.",
            hint="The turn itself is intact.",
        ) from error
    return Trace(calls, row["reply_id"])


def short_title(title: str, first_message: str | None) -> str:
    """Return the title, else the beginning of the first message on one line; may be empty."""
    if title or not first_message:
        return title
    line = " ".join((_before_files(first_message) or first_message).split())
    return line if len(line) <= 60 else line[:59].rstrip() + "…"


def _before_files(message: str) -> str:
    """Return what stands before the first code block of a message and the name of its file."""
    before, fence, _ = f"\n{message}".partition("\n```")
    text, _, name = before.rpartition("\n\n")
    return text if fence and text.strip() and "\n" not in name.strip() else ""


BlobLookup = Callable[[str], bytes | None]
"""SHA-256 of an image -> its bytes, None where they are missing."""


PassageLookup = Callable[[int], Sequence[Passage]]
"""Turn id -> passages, such as `Store.passages`."""


AnnotationLookup = Callable[[int], Sequence[tuple[int | None, Annotation]]]
"""Turn id -> labels with their reply ids, such as `Store.annotations`."""


ProvenanceLookup = Callable[[int], Provenance | None]
"""Reply id -> provenance, such as `Store.provenance`."""


TraceLookup = Callable[[int], Sequence[Trace]]
"""Turn id -> traces of plugin calls, such as `Store.traces`."""

"""Chat formats that chatlm knows, and the spans of a rendered prompt.

A prompt is a list of spans. A control span is one control token, later inserted by id; every other
span is plain text, whatever it looks like, so no message can forge a turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from chatlm.engines.model_families import ToolCallFormat
from chatlm.engines.tool_call_syntax import Malformed, WrittenCall, write_json_list
from chatlm.engines.tracked_text import TEMPLATE, TrackedText, concat, origins_of
from chatlm.types.messages import Message
from chatlm.types.parts import Image, Part, Reasoning, Text, ToolCall, ToolResult, reasoning_of

CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


ALPACA_STOP = "### Instruction:"


ALPACA = (
    "{% if not messages or messages[0].role != 'system' %}"
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
    "{% endif %}"
    "{% for message in messages %}"
    "{% if message.role == 'user' +%}\n\n### Instruction:\n"
    "{% elif message.role == 'assistant' +%}\n\n### Response:\n{% endif %}"
    "{{ message.content }}"
    "{% endfor %}"
    "{% if add_generation_prompt +%}\n\n### Response:\n{% endif %}"
)


VICUNA_STOP = "USER:"


VICUNA = (
    "{% if not messages or messages[0].role != 'system' %}"
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
    "{% endif %}"
    "{% for message in messages %}"
    "{% if message.role == 'user' %} USER: "
    "{% elif message.role == 'assistant' %} ASSISTANT: {% endif %}"
    "{{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


RAW = (
    "{% for message in messages %}"
    "{% if not loop.first and message.role != 'assistant' +%}\n\n{% endif %}"
    "{{ message.content }}"
    "{% endfor %}"
)
"""For base models, which continue a text: a reply follows its message without any words between."""


TEMPLATES = {"chatml": CHATML, "alpaca": ALPACA, "vicuna": VICUNA, "raw": RAW}
"""Jinja templates of the formats that need none of the model's."""


@dataclass(frozen=True)
class Span:
    """A part of a prompt."""

    text: str
    control: bool = False
    message_index: int | None = None
    """Index of the message whose content this is; None for the format's text."""
    part: str = "text"
    """Type of the message's part that it belongs to."""
    token: str = ""
    """Of a control span: text of its token; `text` may add white space that the token absorbs."""
    number: int | None = None
    """Of a placeholder of an image: its number, see `chatlm.engines.image_ids`."""


CallForm = Literal["object", "text", "content"]
"""How a template wants the calls of earlier turns: in `tool_calls`, with the arguments as an object
or as JSON text, or within the content."""


_PARTS = (Text.type, Reasoning.type, ToolCall.type, ToolResult.type, Image.type)

_IMAGE_MARKER = "\ufffc"
"""Stands for an image within a content; its origin tells it from the same character of a text."""


def _origin(index: int, part: str) -> int:
    """Return the origin of the characters of a message's parts of one type."""
    return index * len(_PARTS) + _PARTS.index(part)


MessageGroup = tuple[int, ...]
"""Indices of consecutive messages that are rendered as one, in the role of the last."""


def group_by_role(messages: Sequence[Message]) -> list[MessageGroup]:
    """Group consecutive messages of one role, since templates expect alternating roles."""
    groups: list[MessageGroup] = []
    for index, message in enumerate(messages):
        if groups and messages[index - 1].role == message.role:
            groups[-1] = (*groups[-1], index)
        else:
            groups.append((index,))
    return groups


def merge_system_into_user(
    groups: Sequence[MessageGroup], messages: Sequence[Message]
) -> list[MessageGroup]:
    """Move the system prompt to the start of the first user message."""
    roles = [messages[group[-1]].role for group in groups[:2]]
    if roles != ["system", "user"]:
        return list(groups)
    return [groups[0] + groups[1], *groups[2:]]


def template_messages(
    messages: Sequence[Message],
    groups: Sequence[MessageGroup],
    calls: ToolCallFormat | None = None,
    call_form: CallForm = "object",
    *,
    images_apart: bool = False,
) -> list[dict[str, Any]]:
    """Return each group as one message of a template, its contents separated by blank lines.

    The origin of a character tells its message and the type of its part. Reasoning is passed under
    the names that templates read; they decide what of it a model sees again. The result of each
    tool is a message of its own.

    Args:
        messages: of the request.
        groups: see `group_by_role`.
        calls: how the model's family writes tool calls.
        call_form: how the template wants calls.
        images_apart: whether images that came with the results of tools are a message of the user
            after them, since the template does not show them within a result.
    """
    chat: list[dict[str, Any]] = []
    ids: dict[str, str] = {}
    for group in groups:
        values: dict[str, Any] = {"role": TrackedText(messages[group[-1]].role, TEMPLATE)}
        own = [(index, part) for index in group for part in messages[index].parts]
        if any(isinstance(part, ToolResult) for _, part in own):
            chat += _result_messages(values, own, ids, images_apart=images_apart)
            continue
        made = [(index, part) for index, part in own if isinstance(part, ToolCall)]
        contents = [_content(index, messages[index]) for index in group]
        values["content"] = TrackedText("\n\n").join(
            [content for content in contents if content] if made else contents
        )
        thoughts = [(index, reasoning_of(messages[index].parts)) for index in group]
        if any(text for _, text in thoughts):
            values["reasoning_content"] = values["thinking"] = _join(thoughts, Reasoning.type)
        for _, call in made:
            ids[call.id] = calls.call_id(call, len(ids)) if calls else call.id
        if made and call_form == "content" and calls is not None:
            values["content"] += _written_calls(made, calls)
        elif made:
            values["tool_calls"] = [
                _call_value(call, ids[call.id], index, as_text=call_form == "text")
                for index, call in made
            ]
        chat.append(values)
    return chat if calls is None or calls.is_parallel else _with_single_calls(chat)


def _result_messages(
    values: Mapping[str, Any],
    parts: Iterable[tuple[int, Part]],
    ids: Mapping[str, str],
    *,
    images_apart: bool,
) -> list[dict[str, Any]]:
    """Return the results of tools, each with the images that follow it."""
    chat: list[dict[str, Any]] = []
    apart = TrackedText("")
    for index, part in parts:
        if isinstance(part, ToolResult):
            origin = _origin(index, part.type)
            chat.append(
                {
                    **values,
                    "content": TrackedText(part.text, origin),
                    "name": TrackedText(part.name, origin),
                    "tool_call_id": TrackedText(ids.get(part.call_id, part.call_id), origin),
                }
            )
        elif isinstance(part, Image):
            marker = TrackedText(_IMAGE_MARKER, _origin(index, part.type))
            if images_apart or not chat:
                apart += marker
            else:
                chat[-1]["content"] += marker
    return [*chat, {"role": TrackedText("user", TEMPLATE), "content": apart}] if apart else chat


def _written_calls(made: Sequence[tuple[int, ToolCall]], calls: ToolCallFormat) -> TrackedText:
    """Return calls as the model wrote them, or their JSON where it cannot be written so."""
    origin = _origin(made[-1][0], ToolCall.type)
    own = [WrittenCall(call.name, call.arguments) for _, call in made]
    try:
        texts = calls.write(own) if calls.write else []
    except Malformed:
        texts = write_json_list(own)
    start, end = calls.starts[0], calls.ends[0] if calls.ends else ""
    marked = ((TrackedText(start, TEMPLATE), text, TrackedText(end, TEMPLATE)) for text in texts)
    return concat(
        piece if isinstance(piece, TrackedText) else TrackedText(piece, origin)
        for pieces in marked
        for piece in pieces
    )


def _call_value(call: ToolCall, call_id: str, index: int, *, as_text: bool) -> Any:
    arguments: Any = call.arguments
    if not as_text:
        with suppress(ValueError, RecursionError):
            arguments = json.loads(call.arguments)
    origin = _origin(index, call.type)
    function = _track({"name": call.name, "arguments": arguments}, origin)
    return {"id": TrackedText(call_id, origin), "type": "function", "function": function}


def _track(value: Any, origin: int) -> Any:
    """Give the texts within JSON values an origin."""
    if isinstance(value, str):
        return TrackedText(value, origin)
    if isinstance(value, dict):
        return {_track(key, origin): _track(each, origin) for key, each in value.items()}
    if isinstance(value, list):
        return [_track(each, origin) for each in value]
    return value


def _with_single_calls(chat: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make each call a message of its own, followed by its result."""
    out: list[dict[str, Any]] = []
    for values in chat:
        answered = values.get("tool_call_id")
        if answered is not None:
            callers = [
                place
                for place, each in enumerate(out)
                if any(call["id"] == answered for call in each.get("tool_calls", ()))
            ]
            out.insert(callers[-1] + 1 if callers else len(out), values)
            continue
        calls = values.get("tool_calls", [])
        out.append({**values, "tool_calls": calls[:1]} if calls else values)
        empty = {"role": values["role"], "content": TrackedText("")}
        out += [{**empty, "tool_calls": [call]} for call in calls[1:]]
    return out


def without_thoughts_before_calls(messages: Iterable[Message]) -> list[Message]:
    """Leave out the thoughts of messages that have text and tool calls as well."""
    return [
        Message(
            message.role,
            (part for part in message.parts if not isinstance(part, Reasoning)),
            message.pinned,
        )
        if message.text and any(isinstance(part, ToolCall) for part in message.parts)
        else message
        for message in messages
    ]


def _content(index: int, message: Message) -> TrackedText:
    """Return the text of a message, with a marker in place of each image."""
    return concat(
        TrackedText(part.text, _origin(index, part.type))
        if isinstance(part, Text)
        else TrackedText(_IMAGE_MARKER, _origin(index, part.type))
        for part in message.parts
        if isinstance(part, Text | Image)
    )


def with_content_lists(
    chat: Iterable[Mapping[str, Any]], *, only_with_images: bool
) -> list[dict[str, Any]]:
    """Make the contents of a template's messages lists of texts and images.

    Args:
        chat: as `template_messages` returns them.
        only_with_images: whether contents without an image stay texts.
    """
    changed: list[dict[str, Any]] = []
    for values in chat:
        content = values["content"]
        pieces = _pieces(content)
        has_images = any(is_image for _, is_image in pieces)
        if only_with_images and not has_images:
            changed.append(dict(values))
            continue
        items = [
            {"type": TrackedText("image", TEMPLATE)}
            if is_image
            else {"type": TrackedText("text", TEMPLATE), "text": text}
            for text, is_image in pieces
        ]
        changed.append({**values, "content": items})
    return changed


def _pieces(content: str) -> list[tuple[str, bool]]:
    """Split a content at the markers of images; return each piece and whether it is one.

    White space around images that joins messages is left out.
    """
    pieces: list[tuple[str, bool]] = []
    start = 0
    image = _PARTS.index(Image.type)
    for place, origin in enumerate(origins_of(content)):
        if origin >= 0 and origin % len(_PARTS) == image:
            pieces += [(content[start:place], False), (content[place : place + 1], True)]
            start = place + 1
    pieces.append((content[start:], False))
    return [piece for piece in pieces if piece[0]] or [(content, False)]


def _join(texts: Sequence[tuple[int, str]], part: str = Text.type) -> TrackedText:
    tracked = (TrackedText(text, _origin(index, part)) for index, text in texts)
    return TrackedText("\n\n").join(tracked)


def to_spans(text: TrackedText, tokens: re.Pattern[str]) -> list[Span]:
    """Split a rendered prompt into spans.

    Args:
        text: as the template wrote it.
        tokens: matches the text of any token that is a control token where the template wrote all
            of it.
    """
    spans: list[Span] = []
    characters = str.__str__(text)
    origins = origins_of(text)
    edges = [0, *(np.flatnonzero(np.diff(np.asarray(origins))) + 1).tolist(), len(characters)]
    for start, end in pairwise(edges):
        piece = characters[start:end]
        origin = origins[start] if piece else TEMPLATE
        if origin == TEMPLATE:
            spans += split_control_tokens(piece, tokens)
        else:
            index, part = divmod(origin, len(_PARTS)) if origin >= 0 else (None, 0)
            spans.append(Span(piece, message_index=index, part=_PARTS[part]))
    return spans


def split_control_tokens(text: str, tokens: re.Pattern[str]) -> Iterable[Span]:
    """Split a text of the format at the texts of control tokens."""
    start = 0
    for match in tokens.finditer(text):
        if match.start() > start:
            yield Span(text[start : match.start()])
        yield Span(match[0], control=True, token=match[0])
        start = match.end()
    if start < len(text):
        yield Span(text[start:])


_WHITE_SPACE = "[^\\S\x1c-\x1f]*"
"""White space as Rust's tokenizers see it."""


def absorb_white_space(
    spans: Sequence[Span], left: frozenset[str], right: frozenset[str]
) -> list[Span]:
    """Move white space around control tokens into those that take it.

    Args:
        spans: of a prompt.
        left: tokens that take the white space before them (`lstrip`).
        right: tokens that take the white space after them (`rstrip`).
    """
    out: list[Span] = []
    taking = False
    for span in spans:
        if span.control:
            taking = span.token in right
            taken = ""
            while span.token in left and out and not out[-1].control:
                kept = re.sub(f"{_WHITE_SPACE}\\Z", "", out[-1].text)
                taken = out[-1].text[len(kept) :] + taken
                out[-1] = replace(out[-1], text=kept)
                if kept:
                    break
                out.pop()
            out.append(replace(span, text=taken + span.text))
            continue
        match = re.match(_WHITE_SPACE, span.text) if taking else None
        if match:
            out[-1] = replace(out[-1], text=out[-1].text + match[0])
        kept = span.text[match.end() if match else 0 :]
        if kept:
            taking = False
            out.append(replace(span, text=kept))
    return out


def span_owners(spans: Sequence[Span]) -> list[int | None]:
    """Return the message that each span belongs to; None for the start of the reply.

    Spans between two contents belong to the later one, except for the first control token and the
    white space after it, which end the earlier one.
    """
    owners: list[int | None] = []
    earlier: int | None = None
    for index, span in enumerate(spans):
        if span.message_index is None:
            continue
        between = spans[len(owners) : index]
        ending = 0 if earlier is None else _count_closing_spans(between)
        owners += [earlier] * ending + [span.message_index] * (len(between) - ending + 1)
        earlier = span.message_index
    rest = spans[len(owners) :]
    ending = 0 if earlier is None else _count_closing_spans(rest)
    return owners + [earlier] * ending + [None] * (len(rest) - ending)


def _count_closing_spans(spans: Sequence[Span]) -> int:
    """Count the spans after a content that end its message."""
    for index, span in enumerate(spans):
        if span.control:
            following = spans[index + 1 : index + 2]
            blank = any(not span.control and span.text.isspace() for span in following)
            return index + 1 + blank
    return 0


def span_runs(spans: Iterable[Span]) -> list[list[Span]]:
    """Group consecutive plain spans, since a tokenizer merges across their boundaries.

    A control span is a run of its own.
    """
    out: list[list[Span]] = []
    for span in spans:
        if out and not span.control and not out[-1][-1].control:
            out[-1].append(span)
        else:
            out.append([span])
    return out

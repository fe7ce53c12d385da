"""Render messages in a chat format: a model's own template, ChatML, Alpaca or Vicuna.

A prompt is a list of spans. A control span is one control token, named by its text and later
inserted by id; every other span is plain text, whatever it looks like, so no message can forge a
turn.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from chatlm.types.messages import Message


@dataclass(frozen=True)
class Span:
    """A part of a prompt."""

    text: str
    control: bool = False
    message_index: int | None = None
    """Index of the message whose content this is; None for the format's text."""


Renderer = Callable[[Sequence[Message]], list[Span]]
"""Renders messages; a last message of the assistant is left open, otherwise a reply is started."""


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


def render_groups(
    render: Renderer, messages: Sequence[Message], groups: Sequence[MessageGroup]
) -> list[Span]:
    """Render each group as one message, its contents separated by blank lines.

    The spans of contents have the indices of `messages`.
    """
    merged = [
        Message(messages[group[-1]].role, "\n\n".join(messages[i].text for i in group))
        for group in groups
    ]
    spans: list[Span] = []
    for span in render(merged):
        if span.message_index is None:
            spans.append(span)
            continue
        for position, index in enumerate(groups[span.message_index]):
            if position:
                spans.append(Span("\n\n"))
            spans.append(Span(messages[index].text, message_index=index))
    return spans


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


def render_chatml(messages: Sequence[Message]) -> list[Span]:
    """ChatML: `<|im_start|>role`, newline, content, `<|im_end|>`, newline."""
    spans: list[Span] = []
    for number, message in enumerate(messages):
        spans += [
            Span("<|im_start|>", control=True),
            Span(f"{message.role}\n"),
            Span(message.text, message_index=number),
        ]
        if message.role == "assistant" and number == len(messages) - 1:
            return spans
        spans += [Span("<|im_end|>", control=True), Span("\n")]
    return [*spans, Span("<|im_start|>", control=True), Span("assistant\n")]


_ALPACA_INTRO = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)


ALPACA_STOP = "### Instruction:"


def render_alpaca(messages: Sequence[Message]) -> list[Span]:
    """Alpaca: an introduction or the system prompt, `### Instruction:`, `### Response:`."""
    spans: list[Span] = []
    if not messages or messages[0].role != "system":
        spans.append(Span(_ALPACA_INTRO))
    heads = {"user": f"\n\n{ALPACA_STOP}\n", "assistant": "\n\n### Response:\n", "system": ""}
    for number, message in enumerate(messages):
        spans += [Span(heads[message.role]), Span(message.text, message_index=number)]
    if not messages or messages[-1].role != "assistant":
        spans.append(Span(heads["assistant"]))
    return spans


_VICUNA_INTRO = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


VICUNA_STOP = "USER:"


def vicuna_renderer(eos_token: str) -> Renderer:
    """Return the renderer of Vicuna 1.1: `USER: … ASSISTANT: …` and the end token after each reply.

    Args:
        eos_token: text of the model's end-of-sequence token.
    """

    def render(messages: Sequence[Message]) -> list[Span]:
        spans: list[Span] = []
        if not messages or messages[0].role != "system":
            spans.append(Span(_VICUNA_INTRO))
        for number, message in enumerate(messages):
            if message.role == "user":
                spans.append(Span(f" {VICUNA_STOP} "))
            elif message.role == "assistant":
                spans.append(Span(" ASSISTANT: "))
            spans.append(Span(message.text, message_index=number))
            if message.role == "assistant" and number < len(messages) - 1:
                spans.append(Span(eos_token, control=True))
        if not messages or messages[-1].role != "assistant":
            spans.append(Span(" ASSISTANT:"))
        return spans

    return render


def template_renderer(
    apply: Callable[[list[dict[str, str]], bool], str], control_tokens: Iterable[str]
) -> Renderer:
    """Return the renderer of a model's own chat template, which never sees the contents.

    The template gets an unguessable placeholder for each content. Its output is split at the
    placeholders and at the texts of control tokens, so that only what the template itself wrote
    can become a control token.

    Args:
        apply: `(messages as dicts, whether to continue the last one) -> text`.
        control_tokens: texts of all control tokens that the template may write.
    """
    patterns = sorted((re.escape(text) for text in control_tokens if text), key=len, reverse=True)
    tokens = re.compile(f"({'|'.join(patterns)})") if patterns else None

    def render(messages: Sequence[Message]) -> list[Span]:
        nonce = secrets.token_hex(8)
        dicts = [
            {"role": message.role, "content": f"\ue000{nonce}:{number}\ue001"}
            for number, message in enumerate(messages)
        ]
        continues = bool(messages) and messages[-1].role == "assistant"
        text = apply(dicts, continues)
        spans: list[Span] = []
        for index, part in enumerate(re.split(f"\ue000{nonce}:(\\d+)\ue001", text)):
            if index % 2:
                spans.append(Span(messages[int(part)].text, message_index=int(part)))
            elif tokens is None:
                spans.append(Span(part))
            else:
                texts = tokens.split(part)
                spans += [Span(text, control=bool(n % 2)) for n, text in enumerate(texts)]
        return [span for span in spans if span.text or span.message_index is not None]

    return render


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

"""Writes messages as a model wants to read them, with control tokens kept apart from people's text.

A prompt is a list of spans. A control span is one control token, named by its text and later
looked up by id; every other span is plain text, whatever it looks like, so no message can forge a
turn. No tokenizer is known here.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from chatlm.messages import Message


@dataclass(frozen=True)
class Span:
    """A piece of a prompt."""

    text: str
    control: bool = False
    message: int | None = None
    """Index of the message whose content this is; None for what the format adds."""


Render = Callable[[Sequence[Message]], list[Span]]
"""Writes messages; a last message of the assistant stays open, else a new reply is opened."""


def joined(messages: Iterable[Message]) -> list[Message]:
    """The messages, with neighbours of one role made one, as templates want roles to alternate."""
    out: list[Message] = []
    for message in messages:
        if out and out[-1].role == message.role:
            text = f"{out[-1].content}\n\n{message.content}"
            out[-1] = Message(message.role, text)
        else:
            out.append(message)
    return out


def without_system_role(messages: Sequence[Message]) -> list[Message]:
    """The messages, with the system prompt at the head of the first user message."""
    if len(messages) < 2 or messages[0].role != "system" or messages[1].role != "user":
        return list(messages)
    first = Message("user", f"{messages[0].content}\n\n{messages[1].content}")
    return [first, *messages[2:]]


def chatml(messages: Sequence[Message]) -> list[Span]:
    """ChatML: `<|im_start|>role`, newline, content, `<|im_end|>`, newline."""
    spans: list[Span] = []
    for number, message in enumerate(messages):
        spans += [
            Span("<|im_start|>", control=True),
            Span(f"{message.role}\n"),
            Span(message.content, message=number),
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


def alpaca(messages: Sequence[Message]) -> list[Span]:
    """Alpaca: an introduction or the system prompt, `### Instruction:`, `### Response:`."""
    spans: list[Span] = []
    if not messages or messages[0].role != "system":
        spans.append(Span(_ALPACA_INTRO))
    heads = {"user": f"\n\n{ALPACA_STOP}\n", "assistant": "\n\n### Response:\n", "system": ""}
    for number, message in enumerate(messages):
        spans += [Span(heads[message.role]), Span(message.content, message=number)]
    if not messages or messages[-1].role != "assistant":
        spans.append(Span(heads["assistant"]))
    return spans


_VICUNA_INTRO = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
VICUNA_STOP = "USER:"


def vicuna(end: str) -> Render:
    """Vicuna 1.1: `USER: … ASSISTANT: …` and the end token after each reply.

    Args:
        end: text of the model's end-of-sequence token.
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
            spans.append(Span(message.content, message=number))
            if message.role == "assistant" and number < len(messages) - 1:
                spans.append(Span(end, control=True))
        if not messages or messages[-1].role != "assistant":
            spans.append(Span(" ASSISTANT:"))
        return spans

    return render


def template(apply: Callable[[list[dict[str, str]], bool], str], controls: Iterable[str]) -> Render:
    """The model's own chat template, with contents kept out of its sight.

    The template gets an unguessable stand-in for each content. What it makes is cut at the
    stand-ins and at the control tokens' texts; only what the template itself wrote can become a
    control token.

    Args:
        apply: `(messages as dicts, go on with the last one) -> text`.
        controls: texts of all control tokens the template may write.
    """
    found = sorted((re.escape(text) for text in controls if text), key=len, reverse=True)
    tokens = re.compile(f"({'|'.join(found)})") if found else None

    def render(messages: Sequence[Message]) -> list[Span]:
        nonce = secrets.token_hex(8)
        dicts = [
            {"role": message.role, "content": f"\ue000{nonce}:{number}\ue001"}
            for number, message in enumerate(messages)
        ]
        go_on = bool(messages) and messages[-1].role == "assistant"
        text = apply(dicts, go_on)
        spans: list[Span] = []
        for index, piece in enumerate(re.split(f"\ue000{nonce}:(\\d+)\ue001", text)):
            if index % 2:
                spans.append(Span(messages[int(piece)].content, message=int(piece)))
            elif tokens is None:
                spans.append(Span(piece))
            else:
                parts = tokens.split(piece)
                spans += [Span(part, control=bool(n % 2)) for n, part in enumerate(parts)]
        return [span for span in spans if span.text]

    return render


def runs(spans: Iterable[Span]) -> list[Span]:
    """The spans with neighbouring plain ones joined, as a tokenizer merges across their borders."""
    out: list[Any] = []
    for span in spans:
        if out and not span.control and not out[-1].control:
            out[-1] = Span(out[-1].text + span.text)
        else:
            out.append(span)
    return out

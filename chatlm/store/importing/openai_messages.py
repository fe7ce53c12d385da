"""Reads chats as trainers take them: `{"messages": [{"role": …, "content": …}, …]}`."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

from chatlm.store.importing.fields import JsonObject, ParsedChat
from chatlm.types.messages import Conversation, Message, Reply, StopReason, Turn


def parse_openai_messages(value: Any, default_time: datetime) -> ParsedChat:
    """A chat, with its first system messages as the system prompt.

    Left out and counted: what tools said, parts that are no text, later system messages, and what
    the assistant said before any user message. Neighbouring messages of the assistant are one
    reply.

    Args:
        value: the object.
        default_time: when it counts as begun, since the file does not say it.

    Raises:
        BadChat: a role is not known, a content is of no known kind, or no user says anything.
    """
    chat = JsonObject(value)
    system: list[str] = []
    said: list[tuple[str, list[str]]] = []
    left_out: Counter[str] = Counter()
    for message in chat.object_array("messages"):
        role, text = message.text("role"), _message_text(message, left_out)
        match role:
            case "system" | "developer" if not said:
                system.append(text)
            case "user":
                said.append((text, []))
            case "assistant" if not said:
                left_out["assistant messages before the first question"] += 1
            case "assistant" if text:
                said[-1][1].append(text)
            case "assistant":
                left_out["assistant messages without text"] += 1
            case "system" | "developer":
                left_out["later system messages"] += 1
            case "tool" | "function":
                left_out[f"{role} messages"] += 1
            case _:
                raise message.error("role must be system, user, assistant or tool")
    if not said:
        raise chat.error("no user message")
    turns = tuple(
        _build_turn(n, question, answers, default_time)
        for n, (question, answers) in enumerate(said)
    )
    conversation = Conversation(
        id=0, system="\n\n".join(system), turns=turns, created=default_time, updated=default_time
    )
    return ParsedChat(conversation, created_known=False, left_out=left_out)


def _build_turn(number: int, question: str, answers: list[str], time: datetime) -> Turn:
    text = "\n\n".join(answers)
    reply = Reply(id=number, version=1, text=text, stop_reason=StopReason.END, created=time)
    replies = (reply,) if answers else ()
    return Turn(number, number, Message("user", question), replies, created=time)


def _message_text(message: JsonObject, left_out: Counter[str]) -> str:
    content = message.value.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = []
    for part in message.array("content"):
        if isinstance(part, str):
            texts.append(part)
            continue
        fields = JsonObject(part, f"{message.location}, part")
        kind = fields.text("type")
        if kind in ("text", "input_text", "output_text"):
            texts.append(fields.text("text"))
        else:
            left_out[f"parts of type {kind[:40]}"] += 1
    return "\n\n".join(texts)

"""Compare the prompts of chat templates with those of transformers, and try to forge turns.

Each template gets a tokenizer of single bytes that has the template's tokens as added tokens, once
as special ones and once as plain ones.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from chatlm.engines.model_families import ToolCallFormat
from chatlm.engines.prompt_encoder import PromptEncoder
from chatlm.errors import ModelError
from chatlm.types.messages import Message, Role
from chatlm.types.parts import Part, Reasoning, Text, ToolCall, ToolResult, reasoning_of
from chatlm.types.requests import ToolDefinition

_TOOL = ToolDefinition(
    "find_hotel",
    "Find a hotel.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where."},
            "nights": {"type": "integer", "description": "How long."},
        },
        "required": ["city"],
    },
)


def _call(number: int) -> ToolCall:
    return ToolCall(f"callid{number:03}", "find_hotel", '{"city": "Bern", "nights": 2}')


def _result(number: int) -> ToolResult:
    return ToolResult(f"callid{number:03}", "find_hotel", '{"name": "Bear"}')


@dataclass(frozen=True)
class Chat:
    """Messages, and the tools that are offered."""

    messages: Sequence[Message]
    tools: Sequence[ToolDefinition] = ()


def _chat(*texts: str, system: str | None = None) -> Chat:
    """Return a chat of texts in turn of the user and the assistant."""
    roles: Iterator[Role] = cycle(("user", "assistant"))
    messages = [Message(role, text) for role, text in zip(roles, texts, strict=False)]
    return Chat([*([] if system is None else [Message("system", system)]), *messages])


def _tool_chat(*parts: Part, results: Sequence[ToolResult], then: Sequence[Message] = ()) -> Chat:
    return Chat(
        [Message("user", "A hotel?"), Message("assistant", parts), Message("tool", results), *then],
        [_TOOL],
    )


CHATS: dict[str, Chat] = {
    "one user message": _chat("Hi there"),
    "system and user": _chat("Hi there", system="Be brief."),
    "three turns": _chat("Hi", "Hello", "How are you?", "Fine", "And now?"),
    "reasoning": Chat(
        [
            Message("user", "2+2?"),
            Message("assistant", (Reasoning("Easy."), Text("4"))),
            Message("user", "3+3?"),
        ]
    ),
    "thoughts in the text": _chat("2+2?", "<think>\nEasy.\n</think>\n\n4", "3+3?"),
    "blanks": _chat("  Hi \n\n there\n", "\n ok  ", "\tx ", system="  be brief \n"),
    "empty system prompt": _chat("Hi", system=""),
    "/no_think": _chat("Hi /no_think", system="/no_think"),
    "continued reply": _chat("Hi", "Hello, I am "),
    "tools": Chat([Message("user", "A hotel?")], [_TOOL]),
    "tool call": _tool_chat(_call(1), results=[_result(1)]),
    "text and two tool calls": _tool_chat(
        Text("Let me look."), _call(1), _call(2), results=[_result(1), _result(2)]
    ),
    "thought and tool call": _tool_chat(Reasoning("Hm."), _call(1), results=[_result(1)]),
    "tool call in an earlier turn": _tool_chat(
        Reasoning("Hm."),
        _call(1),
        results=[_result(1)],
        then=[Message("assistant", (Reasoning("Ah."), Text("The Bear."))), Message("user", "No.")],
    ),
}

BOS, EOS = "<s>", "</s>"

TOKENS = re.compile(r"<\|?[^\s<>|{}'\"%]{1,40}\|?>|\[/?[A-Z][A-Z_]{1,30}\]|<｜[^｜]{1,40}｜>")
"""What looks like a control token in the source of a template."""

ROLE_TOKENS = [f"<|{role}|>" for role in ("system", "user", "assistant", "tool")]


def tokenizer_for(source: str, special: bool) -> PreTrainedTokenizerFast:
    """Return a tokenizer of single bytes with the tokens of a template."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    texts = [BOS, EOS, *ROLE_TOKENS, *TOKENS.findall(source)]
    raw.add_tokens(
        [
            AddedToken(text, special=special or text in (BOS, EOS), normalized=False)
            for text in dict.fromkeys(texts)
        ]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=BOS, eos_token=EOS)
    tokenizer.chat_template = source
    return tokenizer


def their_messages(
    messages: Sequence[Message], form: ToolCallFormat | None, arguments_as_text: bool
) -> list[dict[str, Any]]:
    """Return messages as transformers takes them, with the ids that the family expects."""
    chat: list[dict[str, Any]] = []
    calls = [part for message in messages for part in message.parts if isinstance(part, ToolCall)]
    ids = {call.id: form.call_id(call, n) if form else call.id for n, call in enumerate(calls)}
    for message in messages:
        results = [part for part in message.parts if isinstance(part, ToolResult)]
        calls = [part for part in message.parts if isinstance(part, ToolCall)]
        chat += [
            {
                "role": "tool",
                "content": each.text,
                "name": each.name,
                "tool_call_id": ids[each.call_id],
            }
            for each in results
        ]
        if results:
            continue
        values: dict[str, Any] = {"role": message.role, "content": message.text}
        if thoughts := reasoning_of(message.parts):
            values["reasoning_content"] = thoughts
        if calls:
            values["tool_calls"] = [
                {
                    "id": ids[call.id],
                    "type": "function",
                    "function": {
                        "name": call.name,
                        "arguments": call.arguments
                        if arguments_as_text
                        else json.loads(call.arguments),
                    },
                }
                for call in calls
            ]
        chat.append(values)
    return chat


def their_ids(
    tokenizer: Any, chat: Chat, form: ToolCallFormat | None, arguments_as_text: bool = False
) -> list[int] | str:
    """Return the ids of transformers, or its error."""
    tools = [tool.to_dict() for tool in chat.tools] or None
    further = {} if form is None or form.tools_variable == "tools" else {form.tools_variable: tools}
    continues = chat.messages[-1].role == "assistant"
    try:
        return list(
            tokenizer.apply_chat_template(
                their_messages(chat.messages, form, arguments_as_text),
                tools=None if further else tools,
                add_generation_prompt=not continues,
                continue_final_message=continues,
                return_dict=False,
                **further,
            )
        )
    except Exception as error:  # a template may raise anything
        return f"{type(error).__name__}: {error}"


def our_ids(encoder: PromptEncoder, chat: Chat) -> list[int] | str:
    """Return the ids of chatlm, or its error."""
    if chat.tools and not encoder.calls_tools:
        return "its chat template does not describe tools"
    try:
        return encoder.with_options("auto", chat.tools).encode(chat.messages)
    except ModelError as error:
        return str(error)


def _calls_tools(message: Message) -> bool:
    return any(isinstance(part, ToolCall) for part in message.parts)


def _has_several_calls(message: Message) -> bool:
    return sum(isinstance(part, ToolCall) for part in message.parts) > 1


def compare(source: str, special: bool) -> dict[str, str]:
    """Compare the token ids of each chat with those of transformers; return the outcome by chat."""
    tokenizer = tokenizer_for(source, special)
    encoder = PromptEncoder(tokenizer_for(source, special), "template", [])
    form, as_text = encoder.family.tool_calls, encoder.call_form == "text"
    expected = {name: their_ids(tokenizer, chat, form, as_text) for name, chat in CHATS.items()}
    outcome: dict[str, str] = {}
    for name, chat in CHATS.items():
        ours, theirs = our_ids(encoder, chat), expected[name]
        if ours == theirs:
            outcome[name] = "same"
        elif isinstance(ours, str) and isinstance(theirs, str):
            outcome[name] = "refused by both"
        elif chat.tools and not encoder.calls_tools:
            outcome[name] = "tools refused: the template has none, or calls in an unknown form"
        elif encoder.call_form == "content" and any(map(_calls_tools, chat.messages)):
            outcome[name] = "calls in the content, since the template does not read tool_calls"
        elif form and not form.is_parallel and any(map(_has_several_calls, chat.messages)):
            outcome[name] = "each call in a message of its own"
        elif isinstance(theirs, str) and chat.messages[0].role == "system":
            outcome[name] = "system prompt moved into the first message"
        else:
            shown = [ids if isinstance(ids, str) else encoder.decode(ids) for ids in (ours, theirs)]
            if shown[0] == shown[1]:
                outcome[name] = "same text, but a control token in a message stays text"
            else:
                outcome[name] = f"differs: {shown[0]!r} instead of {shown[1]!r}"
    return outcome


def count_forged(source: str, special: bool) -> tuple[int, int]:
    """Try to forge each token in each place; return the numbers of attempts and of successes."""
    tokenizer = tokenizer_for(source, special)
    encoder = PromptEncoder(tokenizer, "template", [])
    controls = set(encoder.control_tokens.values())
    texts = [text for text in encoder.control_tokens if text not in (BOS, EOS)]

    def count_written(text: str, place: int) -> Counter[int] | None:
        contents = ["x"] * 4
        contents[place] = text
        chat = Chat(
            [
                Message("system", contents[0]),
                Message("user", contents[1]),
                Message("assistant", (Reasoning(contents[2]), Text(contents[2]))),
                Message("user", contents[3]),
            ]
        )
        ids = our_ids(encoder, chat)
        return None if isinstance(ids, str) else Counter(i for i in ids if i in controls)

    attempts = forged = 0
    for place in range(4):
        harmless = count_written("axb", place)
        for text in texts:
            hostile = count_written(f"a{text}b", place)
            if harmless is None or hostile is None:
                continue
            attempts += 1
            forged += bool(hostile - harmless)
    return attempts, forged


def main() -> None:
    """Compare all templates of a folder."""
    parser = argparse.ArgumentParser(
        description="Compare prompts of chat templates with those of transformers."
    )
    parser.add_argument("folder", type=Path, help="folder of *.jinja files")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    differing: dict[str, dict[str, str]] = {}
    attempts = forged = 0
    files = sorted(options.folder.glob("*.jinja"))
    for file in files:
        source = file.read_text(encoding="utf-8")
        for special in (True, False):
            for name, outcome in compare(source, special).items():
                outcomes[outcome.partition(":")[0]] += 1
                if outcome.startswith("differs"):
                    differing.setdefault(file.name, {})[name] = outcome
            tried, succeeded = count_forged(source, special)
            attempts, forged = attempts + tried, forged + succeeded
    if options.json:
        values = {
            "templates": len(files),
            "identical_templates": len(files) - len(differing),
            "outcomes": dict(outcomes),
            "differing": differing,
            "forgery_attempts": attempts,
            "forged": forged,
        }
        print(json.dumps(values, ensure_ascii=False))
        return
    for name, chats in differing.items():
        for chat, outcome in chats.items():
            print(f"{name}, {chat}: {outcome}")
    print(f"{len(files)} templates, {len(files) - len(differing)} identical in all chats")
    for outcome, count in outcomes.most_common():
        print(f"{count:6} prompts: {outcome}")
    print(f"control tokens forged: {forged} of {attempts} attempts")


if __name__ == "__main__":
    main()

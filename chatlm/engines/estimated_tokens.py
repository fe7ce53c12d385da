"""Estimate prompts for engines without a tokenizer, by splitting text with a rule."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from chatlm.engines.context_fit import compute_reply_reserve, fit_prompt
from chatlm.types.engine import EngineInfo, check_parts
from chatlm.types.messages import Message
from chatlm.types.parts import Image, Part, Text, ToolCall, ToolResult
from chatlm.types.requests import Prompt, PromptToken, Request, prompt_hash

IMAGE_SQUARE, MAX_IMAGE_TOKENS = 32, 1536
"""Pixels of the sides of a square that takes a token, and the limit of an image, which larger ones
are made smaller for; of most servers' models."""


@dataclass(frozen=True)
class EstimatedTokens:
    """A substitute for a tokenizer; each message has two control tokens around its parts."""

    split: Callable[[str], Sequence[str]]
    """Splits a text into tokens; joined, they are the text again."""
    estimated: bool = True
    """Estimates, as in `Prompt.estimated`."""

    def preview(self, request: Request, info: EngineInfo) -> Prompt:
        """Preview a request, as `Engine.preview` does.

        Raises:
            UsageError, ContextTooLong: see `Engine.preview`.
        """
        check_parts(request, info)
        written = [
            self._encode_message(message, index) for index, message in enumerate(request.messages)
        ]

        tools = [
            PromptToken(_token_id(piece), piece)
            for tool in request.tools
            for piece in self.split(json.dumps(tool.to_dict(), ensure_ascii=False))
        ]

        def tokens(indices: Sequence[int]) -> Iterator[PromptToken]:
            yield from tools
            for index in indices:
                yield from written[index]

        def encode(indices: Sequence[int]) -> list[int]:
            return [token.id for token in tokens(indices)]

        costs = tuple(len(tokens) for tokens in written)
        limit, reserve = info.context_length, compute_reply_reserve(request, info)
        fitted = fit_prompt(
            request.messages, encode, costs, context_length=limit, reply_reserve=reserve
        )
        return Prompt(
            tokens=tuple(tokens(fitted.included)),
            message_tokens=costs,
            omitted=fitted.omitted,
            context_length=limit,
            reply_reserve=reserve,
            hash=prompt_hash(fitted.ids),
            estimated=self.estimated,
        )

    def count_tokens(self, messages: Iterable[Message]) -> int:
        """Count tokens, as `Engine.count_tokens` does."""
        return sum(len(self._encode_message(message, 0)) for message in messages)

    def _encode_message(self, message: Message, index: int) -> list[PromptToken]:
        begin, end = f"<{message.role}>", f"</{message.role}>"
        return [
            PromptToken(_token_id(begin), begin, control=True),
            *self._encode_content(message, index),
            PromptToken(_token_id(end), end, control=True),
        ]

    def _encode_content(self, message: Message, index: int) -> Iterator[PromptToken]:
        for part in message.parts:
            if isinstance(part, Image):
                yield from _image_tokens(part, index)
            for text in _texts_of(part):
                for piece in self.split(text):
                    yield PromptToken(_token_id(piece), piece, message_index=index, part=part.type)


def _image_tokens(image: Image, index: int) -> Iterator[PromptToken]:
    """Yield the tokens that an image may take: one for each square, up to a limit."""
    squares = -(-image.width // IMAGE_SQUARE) * -(-image.height // IMAGE_SQUARE)
    for number in range(min(squares, MAX_IMAGE_TOKENS)):
        text = f"[{image.name or 'image'}]" if number == 0 else ""
        token = _token_id(f"{image.sha256} {number}")
        yield PromptToken(token, text, control=True, message_index=index, part=image.type)


def _texts_of(part: Part) -> tuple[str, ...]:
    """Return what is sent of a part; thoughts are not."""
    match part:
        case Text(text=text) | ToolResult(text=text):
            return (text,)
        case ToolCall():
            return (part.name, part.arguments)
    return ()


def _token_id(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))

"""Estimate prompts for engines without a tokenizer, by splitting text with a rule."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from chatlm.engines.context_fit import compute_reply_reserve, fit_prompt
from chatlm.types.engine import EngineInfo, check_parts
from chatlm.types.messages import Message
from chatlm.types.requests import Prompt, PromptToken, Request, prompt_hash


@dataclass(frozen=True)
class EstimatedTokens:
    """A substitute for a tokenizer; each message has two control tokens around its text."""

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

        def encode(indices: Sequence[int]) -> list[int]:
            return [token.id for index in indices for token in written[index]]

        costs = tuple(len(tokens) for tokens in written)
        limit, reserve = info.context_length, compute_reply_reserve(request, info)
        fitted = fit_prompt(
            request.messages, encode, costs, context_length=limit, reply_reserve=reserve
        )
        return Prompt(
            tokens=tuple(token for index in fitted.included for token in written[index]),
            message_tokens=costs,
            omitted=fitted.omitted,
            context_length=limit,
            reply_reserve=reserve,
            hash=prompt_hash(fitted.ids),
            estimated=self.estimated,
        )

    def count_tokens(self, messages: Iterable[Message]) -> int:
        """Count tokens, as `Engine.count_tokens` does."""
        return sum(len(self.split(message.text)) + 2 for message in messages)

    def _encode_message(self, message: Message, index: int) -> list[PromptToken]:
        begin, end = f"<{message.role}>", f"</{message.role}>"
        return [
            PromptToken(_token_id(begin), begin, control=True),
            *(
                PromptToken(_token_id(piece), piece, message_index=index)
                for piece in self.split(message.text)
            ),
            PromptToken(_token_id(end), end, control=True),
        ]


def _token_id(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))

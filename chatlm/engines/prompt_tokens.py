"""Tell which tokens of a prompt belong to which message."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from chatlm.engines import chat_formats
from chatlm.engines.chat_formats import Span
from chatlm.engines.prompt_encoder import PromptEncoder
from chatlm.engines.text_encoder import EncodedText
from chatlm.types.messages import Message
from chatlm.types.requests import PromptToken


def prompt_tokens(
    encoder: PromptEncoder, messages: Sequence[Message], included: Sequence[int]
) -> Iterator[PromptToken]:
    """Yield the tokens of `PromptEncoder.encode` with their text and the message they belong to.

    A token across a boundary belongs to the message in which it starts.

    Args:
        encoder: of the model.
        messages: of the request.
        included: indices of the messages in the prompt, ascending.
    """
    for number in encoder.prefix_ids:
        yield PromptToken(number, encoder.decode([number]), control=True)
    controls = set(encoder.control_tokens.values())
    runs = chat_formats.span_runs(encoder.spans([messages[index] for index in included]))
    for number, run in enumerate(runs):
        encoded = encoder.encode_run(run, is_first=number == 0)
        text = "".join(span.text for span in run)
        start = 0
        for span, positions in zip(run, _token_ranges(run, encoded), strict=True):
            message = None if span.message_index is None else included[span.message_index]
            for index in positions:
                end = len(text) if index == len(encoded.ids) - 1 else encoded.end_offsets[index]
                token = encoded.ids[index]
                if span.number is not None:
                    token = encoder.placeholder_id
                is_control = token in controls
                yield PromptToken(token, text[start:end], is_control, message, span.part)
                start = end


def count_message_tokens(encoder: PromptEncoder, messages: Sequence[Message]) -> tuple[int, ...]:
    """Count the tokens of each message, with the format's tokens around it."""
    spans = encoder.spans(messages)
    owners = iter(chat_formats.span_owners(spans))
    counts = [0] * len(messages)
    for number, run in enumerate(chat_formats.span_runs(spans)):
        encoded = encoder.encode_run(run, is_first=number == 0)
        for positions in _token_ranges(run, encoded):
            owner = next(owners)
            if owner is not None:
                counts[owner] += len(positions)
    return tuple(counts)


def _token_ranges(run: Sequence[Span], encoded: EncodedText) -> Iterator[range]:
    """Yield for each span of a run the range of tokens that start in it."""
    first = offset = 0
    for span in run:
        offset += len(span.text)
        end = _count_tokens_before(offset, encoded)
        yield range(first, end)
        first = end


def _count_tokens_before(offset: int, encoded: EncodedText) -> int:
    """Count the tokens that start before a character; all tokens of one character start with it."""
    if offset == 0:
        return 0
    reaching = bisect_left(encoded.end_offsets, offset) + 1
    return min(max(reaching, bisect_right(encoded.end_offsets, offset)), len(encoded.ids))

"""Reads a prompt out: each token's text and whose it is, and each message's cost; runs no model."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from chatlm import chatml
from chatlm.chatml import Span
from chatlm.engines.tokens import Encoded, PromptTokenizer
from chatlm.generation import PromptToken
from chatlm.messages import Message


def read_out(
    tokenizer: PromptTokenizer, messages: Sequence[Message], kept: Sequence[int]
) -> Iterator[PromptToken]:
    """The tokens whose ids `PromptTokenizer.encode` gives; their texts joined are the prompt's.

    A token that reaches over a border belongs to where it begins.

    Args:
        tokenizer: of the model.
        messages: the request's.
        kept: indices of those that are in the prompt, in order.
    """
    for number in tokenizer.begin:
        yield PromptToken(number, tokenizer.decode([number]), control=True)
    controls = set(tokenizer.controls.values())
    for run in chatml.runs(tokenizer.spans([messages[index] for index in kept])):
        encoded = tokenizer.encode_run(run)
        text = "".join(span.text for span in run)
        start = 0
        for span, places in zip(run, _places(run, encoded), strict=True):
            message = None if span.message is None else kept[span.message]
            for place in places:
                end = len(text) if place == len(encoded.ids) - 1 else encoded.ends[place]
                number = encoded.ids[place]
                yield PromptToken(number, text[start:end], number in controls, message)
                start = end


def costs(tokenizer: PromptTokenizer, messages: Sequence[Message]) -> tuple[int, ...]:
    """Tokens that each message takes, with what the format writes for it."""
    spans = tokenizer.spans(messages)
    owners = iter(chatml.owners(spans))
    counted = [0] * len(messages)
    for run in chatml.runs(spans):
        for places in _places(run, tokenizer.encode_run(run)):
            owner = next(owners)
            if owner is not None:
                counted[owner] += len(places)
    return tuple(counted)


def _places(run: Sequence[Span], encoded: Encoded) -> Iterator[range]:
    """For each span of a run, the places of the tokens that begin in it."""
    first = border = 0
    for span in run:
        border += len(span.text)
        behind = _beginning_before(border, encoded)
        yield range(first, behind)
        first = behind


def _beginning_before(border: int, encoded: Encoded) -> int:
    """How many tokens begin before that character; a character's further tokens begin with it."""
    if border == 0:
        return 0
    reaching = bisect_left(encoded.ends, border) + 1
    return min(max(reaching, bisect_right(encoded.ends, border)), len(encoded.ids))

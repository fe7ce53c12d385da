"""Encode texts as tokens, such that no text becomes a control token."""

from __future__ import annotations

import copy
import hashlib
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from chatlm.engines.chat_formats import Span
from chatlm.engines.chat_tokenizer import without_prefix_space

MAX_CACHED_TEXTS = 2048
"""Texts whose tokens are cached: a chat's messages are encoded again in every turn."""


MAX_CACHED_TEXT_LENGTH = 8_000
"""Limit of a cached text in characters."""


@dataclass(frozen=True)
class EncodedText:
    """The tokens of plain text."""

    ids: array[int]
    end_offsets: array[int]
    """End of the text covered so far after each token, in characters; never decreases."""


class TextEncoder:
    """Encodes plain text to tokens that are not control tokens, and these by id alone.

    Args:
        backend: of a fast tokenizer, from now on used by this encoder alone.
        token_ids: ids of the tokenizer's added tokens by text.
        control_texts: texts of those that are control tokens.
    """

    def __init__(
        self, backend: Any, token_ids: Mapping[str, int], control_texts: Iterable[str]
    ) -> None:
        self._backend = backend
        self._token_ids = token_ids
        # set once, since a tokenizer in use by other threads cannot be changed
        backend.encode_special_tokens = True
        backend.post_processor = None  # it may trim spaces from the offsets
        self._middle_backend = without_prefix_space(backend)
        self.control_tokens: dict[str, int] = {}
        """Ids of control tokens by text; no content is ever encoded to these ids."""
        self._guard(control_texts)

    def guarding(self, texts: Iterable[str]) -> TextEncoder:
        """Return an encoder for which these added tokens are control tokens, too."""
        changed = copy.copy(self)
        changed._guard(texts)
        return changed

    def _guard(self, texts: Iterable[str]) -> None:
        new = {text: self._token_ids[text] for text in texts}
        self.control_tokens = {**self.control_tokens, **new}
        self.control_pattern = any_of(self.control_tokens)
        """Matches the text of any of them."""
        self._cached_encode = lru_cache(MAX_CACHED_TEXTS)(self._encode_with_offsets)
        self._long_text_tokens: dict[bytes, int] = {}

    def count_tokens(self, text: str) -> int:
        """Count the tokens of a text; each text is encoded only once."""
        if len(text) <= MAX_CACHED_TEXT_LENGTH:
            return len(self._cached_encode(text, False).ids)
        key = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
        if key not in self._long_text_tokens:
            if len(self._long_text_tokens) >= MAX_CACHED_TEXTS:
                self._long_text_tokens.clear()
            self._long_text_tokens[key] = len(self.encode_with_offsets(text).ids)
        return self._long_text_tokens[key]

    def encode_run(self, run: Sequence[Span], is_first: bool = False) -> EncodedText:
        """Encode one run of `chat_formats.span_runs`.

        Args:
            run: a control span, or plain ones.
            is_first: whether the prompt's text starts with it.
        """
        text = "".join(span.text for span in run)
        if run[0].control:
            number = run[0].number
            token = self._token_ids[run[0].token] if number is None else number
            return EncodedText(array("I", [token]), array("I", [len(text)]))
        return self.encode_with_offsets(text, is_first)

    def encode_with_offsets(self, text: str, is_first: bool = False) -> EncodedText:
        """Encode plain text, with the end of each token.

        Args:
            text: the characters.
            is_first: whether a prompt starts with them; some tokenizers put a blank before it.
        """
        if len(text) > MAX_CACHED_TEXT_LENGTH:
            return self._encode_with_offsets(text, is_first)
        return self._cached_encode(text, is_first)

    def _encode_with_offsets(self, text: str, is_first: bool) -> EncodedText:
        forbidden = set(self.control_tokens.values())
        backend = self._backend if is_first else self._middle_backend
        text = text.encode("utf-8", "replace").decode()  # tokenizers refuse lone surrogates
        encoding = encode_plain(backend, text)
        if forbidden.isdisjoint(encoding.ids):
            ends = (end for _, end in encoding.offsets)
            return _to_encoded_text(zip(encoding.ids, ends, strict=True))
        tokens, start = [], 0
        for part in self._split_control_tokens(text):  # added tokens that are not marked special
            tokens += [(number, start + end) for number, end in self._encode_safely(backend, part)]
            start += len(part)
            backend = self._middle_backend
        return _to_encoded_text(tokens)

    def _encode_safely(self, backend: Any, text: str) -> list[tuple[int, int]]:
        """Return ids, none of a control token, and their ends.

        A normalizer may still make a control token of a text that only resembles it; such a text
        is taken apart.
        """
        encoding = encode_plain(backend, text)
        forbidden = set(self.control_tokens.values())
        tokens = [
            (number, end) for number, (_, end) in zip(encoding.ids, encoding.offsets, strict=True)
        ]
        if forbidden.isdisjoint(encoding.ids):
            return tokens
        if len(text) < 2:
            return [token for token in tokens if token[0] not in forbidden]
        places = [
            start + 1
            for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
            if number in forbidden and end - start > 1
        ]
        out: list[tuple[int, int]] = []
        for start, end in pairwise([0, *(places or [len(text) // 2]), len(text)]):
            pieces = self._encode_safely(backend, text[start:end])
            out += [(number, start + place) for number, place in pieces]
            backend = self._middle_backend
        return out

    def _split_control_tokens(self, text: str) -> Iterator[str]:
        """Split the text inside the text of every control token."""
        start = 0
        for match in self.control_pattern.finditer(text):
            yield text[start : match.start() + 1]
            start = match.start() + 1
        yield text[start:]


def any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern of any of the texts, the longest first; of nothing if there are none."""
    patterns = [re.escape(text) for text in sorted(texts, key=len, reverse=True)]
    return re.compile("|".join(patterns) or r"(?!)")


def encode_plain(backend: Any, text: str) -> Any:
    """Encode a text with a tokenizer's backend, which adds no tokens; other threads run meanwhile
    if it is long."""
    if len(text) > MAX_CACHED_TEXT_LENGTH:  # only `encode_batch` lets other threads run meanwhile
        return backend.encode_batch([text], add_special_tokens=False)[0]
    return backend.encode(text, add_special_tokens=False)


def _to_encoded_text(tokens: Iterable[tuple[int, int]]) -> EncodedText:
    """Collect ids with their ends, made monotonic."""
    ids, ends = array("I"), array("I")
    covered = 0
    for number, end in tokens:
        covered = max(covered, end)
        ids.append(number)
        ends.append(covered)
    return EncodedText(ids, ends)

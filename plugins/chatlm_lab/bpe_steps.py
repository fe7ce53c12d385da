"""Byte-pair encoding one merge at a time, to study it (book, section 2.3).

It makes the merges of the library `tokenizers`, which does the real work; the tests compare them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers

from chatlm_lab.tokenizer_kinds import END_OF_TEXT, WORD_PATTERN, byte_level


@dataclass(frozen=True)
class Merge:
    """One step: the most frequent pair of neighbours becomes a token."""

    left: str
    """In GPT-2's letters for bytes, in which Ġ is a blank and Ċ a line break."""
    right: str
    count: int
    """How often the pair occurs in the text."""
    tokens: int
    """Tokens of the text after the merge."""
    vocabulary: int
    """Size of the vocabulary after the merge, `END_OF_TEXT` included."""

    @property
    def token(self) -> str:
        """The new token."""
        return self.left + self.right


class BpeSteps:
    """Trains BPE on texts; each step is one merge.

    Args:
        texts: are split into words first, see `WORD_PATTERN`; no merge crosses two of them.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        splitter: Any = byte_level(WORD_PATTERN)
        counts = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(text))
        # as in the library, ids follow the special token, and decide between equal counts
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        self.ids = {token: number for number, token in enumerate((END_OF_TEXT, *letters))}
        self.tokens = [END_OF_TEXT, *letters]
        """The vocabulary, by id."""
        self.merges: list[Merge] = []
        self._words = [[self.ids[letter] for letter in word] for word in counts]
        self._times = list(counts.values())
        self._pairs: Counter[tuple[int, int]] = Counter()
        self._places: dict[tuple[int, int], set[int]] = {}
        for number in range(len(self._words)):
            self._count_pairs(number, 1)

    @property
    def num_tokens(self) -> int:
        """Tokens of the texts now."""
        return sum(len(word) * times for word, times in zip(self._words, self._times, strict=True))

    def step(self) -> Merge | None:
        """Merge the most frequent pair; None if no pair is left.

        Of pairs that are equally frequent, the one with the smaller ids is merged.
        """
        pair = max(
            self._pairs, key=lambda each: (self._pairs[each], -each[0], -each[1]), default=None
        )
        if pair is None or self._pairs[pair] < 1:
            return None
        count = self._pairs[pair]
        token = self.tokens[pair[0]] + self.tokens[pair[1]]
        new = self.ids.setdefault(token, len(self.tokens))  # it may exist, by other pairs
        if new == len(self.tokens):
            self.tokens.append(token)
        for number in self._places.pop(pair):
            self._count_pairs(number, -1)
            self._words[number] = _merge(self._words[number], pair, new)
            self._count_pairs(number, 1)
        merge = Merge(
            self.tokens[pair[0]],
            self.tokens[pair[1]],
            count,
            self.num_tokens,
            len(self.tokens),
        )
        self.merges.append(merge)
        return merge

    def steps(self, count: int) -> Iterator[Merge]:
        """Yield up to so many merges."""
        for _ in range(count):
            merge = self.step()
            if merge is None:
                return
            yield merge

    def encode(self, text: str) -> list[str]:
        """Return the tokens of a text after the merges so far, each in the order of training."""
        splitter: Any = byte_level(WORD_PATTERN)
        found: list[str] = []
        for word, _ in splitter.pre_tokenize_str(text):
            ids = [self.ids[letter] for letter in word]
            for merge in self.merges:
                pair = self.ids[merge.left], self.ids[merge.right]
                ids = _merge(ids, pair, self.ids[merge.token])
            found += (self.tokens[number] for number in ids)
        return found

    def _count_pairs(self, number: int, sign: int) -> None:
        """Add the pairs of a word to the counts, or subtract them."""
        word, times = self._words[number], self._times[number]
        for pair in pairwise(word):
            self._pairs[pair] += sign * times
            if sign > 0:
                self._places.setdefault(pair, set()).add(number)
            elif not self._pairs[pair]:
                del self._pairs[pair]


def _merge(word: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """Return a word with a pair merged from left to right."""
    merged: list[int] = []
    for token in word:
        if merged and merged[-1] == pair[0] and token == pair[1]:
            merged[-1] = new
        else:
            merged.append(token)
    return merged


def visible(token: str) -> str:
    """Return a token of a byte-level vocabulary as text, with · for blanks and ↵ for line breaks.

    Bytes that are no character by themselves are shown in hex, such as `‹C3›`.
    """
    from chatlm_lab.tokenizer_kinds import bytes_of_letters

    table = bytes_of_letters()
    if any(letter not in table for letter in token):
        return token
    content = bytes(table[letter] for letter in token)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return "".join(f"‹{byte:02X}›" for byte in content)
    return text.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥")


def library_merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Return the merges of a tokenizer of the library, in order."""
    import json

    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(each) if isinstance(each, list) else tuple(each.split(" ")) for each in merges]

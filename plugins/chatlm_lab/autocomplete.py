"""Suggest the next words of a message, from counts of the words in earlier ones.

Only memory holds what was learned. It is read again from the saved chats when they may have
changed, so a deleted chat is forgotten, and nothing of an incognito chat is ever in it.
"""

from __future__ import annotations

import logging
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from chatlm import ChatlmError, expand_path
from chatlm_lab.counts import NgramCounts, count_ngrams
from chatlm_lab.tokenizer_kinds import WORD_PATTERN

log = logging.getLogger("chatlm.plugins.lab")

ORDER = 4
"""Longest n-grams of words."""

MAX_MESSAGES = 5_000
"""Newest messages that are learned from."""

MAX_CHARACTERS = 4_000_000
"""Text that is learned from at most, the newest messages first."""

MIN_COUNT = 2
"""How often a word must have followed its context to be suggested."""

MIN_SHARE = 0.5
"""Share of the words that followed a context which the suggested one must have."""

MAX_WORDS = 5
"""Words that are suggested at a time."""

RECHECK_SECONDS = 2.0
"""After so long the saved chats are looked at again."""

_WORDS = re.compile(WORD_PATTERN)

_BOUNDARY = "\n"
"""Stands between messages, as a line break does within them."""


class WordCompleter:
    """Completes a text by the words that most often followed its last ones.

    Args:
        texts: to learn from.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        pieces = [_BOUNDARY]
        for text in texts:
            pieces += _WORDS.findall(text)
            pieces.append(_BOUNDARY)
        self._vocabulary = sorted(set(pieces))
        self._ids = {word: number for number, word in enumerate(self._vocabulary)}
        ids = np.array([self._ids[piece] for piece in pieces], np.uint32)
        size = len(self._vocabulary)
        self._counts: NgramCounts = count_ngrams(ids, min(ORDER, len(ids)), size)
        self.words = len(ids)
        """Words and signs that were learned from."""

    def complete(self, text: str) -> str:
        """Return what to insert at the end of a text; empty where nothing is likely enough.

        The end of the text may be the beginning of a word, which is completed; words that are
        likely to follow are added, up to the end of the line.
        """
        line = text.rpartition("\n")[2]
        pieces = _WORDS.findall(line)
        if not pieces:
            return ""
        # the last piece may be whole, or the beginning of a longer one
        *before, typed = [_BOUNDARY, *pieces]
        context = [self._ids.get(piece, -1) for piece in before]
        found = self._best(context, typed)
        if found is None or not any(each.isalnum() for each in self._vocabulary[found]):
            return ""
        suggested = [self._vocabulary[found][len(typed) :]]
        context.append(found)
        while len(suggested) < MAX_WORDS + (not suggested[0]):
            following = self._best(context, "")
            if following is None or self._vocabulary[following] == _BOUNDARY:
                break
            suggested.append(self._vocabulary[following])
            context.append(following)
        return "".join(suggested)

    def _best(self, context: Sequence[int], prefix: str) -> int | None:
        """Return the likeliest word after a context among those with a prefix, if likely enough.

        The longest context that was followed by any of them decides, as in back-off; at least one
        word of it is needed where nothing is typed of the next one.
        """
        low, high = self._range(prefix)
        if low == high:
            return None
        recent = list(context[-(ORDER - 1) :])
        while recent and recent.count(-1):
            del recent[: recent.index(-1) + 1]
        nodes = self._counts.context_nodes(np.array(recent, np.uint32))
        size = self._counts.vocabulary
        for length in range(len(nodes) - 1, 0 if not prefix else -1, -1):
            level = self._counts.levels[length]
            start, end = np.searchsorted(
                level.keys, (nodes[length] * size + low, nodes[length] * size + high)
            )
            counts = level.counts[start:end]
            if not len(counts):
                continue
            place = int(counts.argmax())
            best = int(counts[place])
            if best >= MIN_COUNT and best >= MIN_SHARE * int(counts.sum(dtype=np.int64)):
                return int(level.keys[start + place] - nodes[length] * size)
            return None
        return None

    def _range(self, prefix: str) -> tuple[int, int]:
        """Return the ids of the words with a prefix: the first, and the one after the last."""
        if not prefix:
            return 0, len(self._vocabulary)
        low = bisect_left(self._vocabulary, prefix)
        return low, bisect_left(self._vocabulary, prefix + "\U0010ffff", low)


@dataclass(frozen=True)
class Learned:
    """What a completer was made from."""

    texts: tuple[str, ...]
    completer: WordCompleter


class Autocomplete:
    """Keeps a completer of the user's messages up to date, in a thread of its own.

    Args:
        read_texts: returns the texts to learn from; called in that thread.
    """

    def __init__(self, read_texts: Callable[[], Sequence[str]]) -> None:
        self._read_texts = read_texts
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="chatlm-autocomplete")
        self._lock = Lock()
        self._learned: Learned | None = None
        self._pending: Future[None] | None = None
        self._checked_at = float("-inf")
        self._generation = 0

    @property
    def words(self) -> int:
        """Words that were learned from; 0 before anything was."""
        learned = self._learned
        return learned.completer.words if learned else 0

    def complete(self, text: str) -> str:
        """Return what to insert at the end of a text; empty for nothing. It takes no time."""
        learned = self._learned
        if time.monotonic() - self._checked_at > RECHECK_SECONDS:
            self.refresh()
        return learned.completer.complete(text) if learned else ""

    def refresh(self) -> Future[None]:
        """Look for new and deleted messages, in the thread; return when that is done."""
        with self._lock:
            if self._pending is None or self._pending.done():
                self._pending = self._executor.submit(self._learn, self._generation)
            return self._pending

    def forget(self) -> None:
        """Forget everything at once."""
        with self._lock:
            self._generation += 1
            self._learned = None
            self._pending = None
            self._checked_at = float("-inf")

    def close(self) -> None:
        """Forget everything and end the thread."""
        self.forget()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _learn(self, generation: int) -> None:
        try:
            texts = tuple(self._read_texts())
            learned = self._learned
            if learned is None or learned.texts != texts:
                learned = Learned(texts, WordCompleter(texts)) if texts else None
        except (ChatlmError, OSError) as error:
            log.warning("nothing was learned for autocompletion: %s", error)
            learned = None
        with self._lock:
            if generation == self._generation:  # nothing was forgotten meanwhile
                self._learned = learned
                self._checked_at = time.monotonic()


def read_own_texts(database: Path, data: Sequence[str]) -> list[str]:
    """Return the user's messages of all saved chats, newest first, and texts of their own.

    Args:
        database: of the saved chats; it need not exist. Chats in the trash are left out.
        data: paths of text files and folders.

    Raises:
        ChatlmError: the database or a path cannot be read.
    """
    from chatlm import Store
    from chatlm_lab.corpus import read_texts

    texts: list[str] = []
    if database.exists():
        with Store(database) as store:
            texts = [each for each in store.recent_inputs(MAX_MESSAGES) if each[:1] != "/"]
    if data:
        texts += read_texts(expand_path(path) for path in data)
    size, kept = 0, []
    for text in texts:
        kept.append(text[: MAX_CHARACTERS - size])
        size += len(kept[-1])
        if size >= MAX_CHARACTERS:
            break
    return kept

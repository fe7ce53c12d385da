"""BM25 over stems; words of a question in a text.

It knows no vectors. The weights are those of BM25's usual form (Lucene's, k1 1.5, b 0.75), worked
out when the index is written, so that a search only adds them up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, cast

from chatlm_rag.index.folder import npy_header_lock

if TYPE_CHECKING:
    import numpy as np
    import Stemmer
    from bm25s import BM25
    from numpy.typing import NDArray


FOLDER = "lexical"
"""The folder that an index keeps them in."""


WORD_PATTERN = r"[^\W_]+"
"""A run of letters and digits: `stop_reason` is two words, and so is `don't`."""


STOPWORDS = "en_plus"
"""bm25s's name for the words that are passed by: English ones that bind a sentence or ask."""


def write(folder: Path, texts: Sequence[str]) -> None:
    """Write the index of texts, in their order, into `folder/lexical`.

    Args:
        texts: at least one.
    """
    from bm25s import BM25, tokenize
    from bm25s.tokenization import Tokenized

    words = tokenize(
        list(texts),
        token_pattern=WORD_PATTERN,
        stopwords=STOPWORDS,
        stemmer=_stemmer(),
        show_progress=False,
    )
    if not words.vocab:  # bm25s wants at least one word; no query has the empty one
        words = Tokenized(ids=[[0] for _ in texts], vocab={"": 0})
    index = BM25()
    index.index(words, show_progress=False)
    index.save(str(folder / FOLDER), show_progress=False)


def load(folder: Path) -> BM25Index:
    """The index in `folder/lexical`.

    Raises:
        OSError, ValueError: it is not there, or damaged.
    """
    from bm25s import BM25

    with npy_header_lock:
        index = BM25.load(str(folder / FOLDER), mmap=True, allow_pickle=False)
    return BM25Index(index)


def stems(text: str) -> list[str]:
    """What a text is found by: the stems of its words, in order, without `STOPPED` ones."""
    from bm25s import tokenize

    tokens = tokenize(
        text,
        token_pattern=WORD_PATTERN,
        stopwords=STOPWORDS,
        stemmer=_stemmer(),
        return_ids=False,
        show_progress=False,
    )
    return cast(list[list[str]], tokens)[0]


class BM25Index:
    """An open index; safe to use in several threads."""

    def __init__(self, index: BM25) -> None:
        self._index = index

    def __len__(self) -> int:
        """How many texts there are."""
        return int(self._index.scores["num_docs"])

    def scores(self, query: str) -> NDArray[np.float32]:
        """The BM25 score of every piece: 0 where no word of the query stands, without an upper
        bound."""
        ids = self._index.get_tokens_ids(stems(query))
        return cast("NDArray[np.float32]", self._index.get_scores_from_ids(ids))

    def idf(self, stem: str) -> float:
        """How much a stem tells, more than 0: its inverse document frequency in BM25."""
        scores = self._index.scores
        number = self._index.vocab_dict.get(stem)
        having = 0 if number is None else scores["indptr"][number + 1] - scores["indptr"][number]
        return log(1 + (scores["num_docs"] - having + 0.5) / (having + 0.5))


def _stemmer() -> Stemmer.Stemmer:
    import Stemmer  # one stemmer must not be used in two threads

    return Stemmer.Stemmer("english")


def matching_spans(text: str, question: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each word of the text whose stem is one of the question's."""
    asked = set(stems(question))
    if not asked:
        return
    import Stemmer

    stem = Stemmer.Stemmer("english").stemWord
    for match in re.finditer(WORD_PATTERN, text):
        if stem(match[0].lower()) in asked:
            yield match.span()

"""BM25 index over word stems.

The scores are those of Lucene's BM25 with k1 = 1.5 and b = 0.75. They are computed when the index
is written; a search only adds them up.
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
"""Subfolder of an index version."""


WORD_PATTERN = r"[^\W_]+"
"""A run of letters and digits: `stop_reason` and `don't` are two words each."""


STOPWORDS = "en_plus"
"""Name of a stopword list of bm25s: English function words and question words."""


def write(folder: Path, texts: Sequence[str]) -> None:
    """Build the index and write it to `folder/lexical`.

    Args:
        folder: the index version.
        texts: one for each chunk, in order; at least one.
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
    if not words.vocab:  # bm25s needs at least one word; no query contains the empty one
        words = Tokenized(ids=[[0] for _ in texts], vocab={"": 0})
    index = BM25()
    index.index(words, show_progress=False)
    index.save(str(folder / FOLDER), show_progress=False)


def load(folder: Path) -> BM25Index:
    """Open the index in `folder/lexical`.

    Raises:
        OSError, ValueError: it is missing or damaged.
    """
    from bm25s import BM25

    with npy_header_lock:
        index = BM25.load(str(folder / FOLDER), mmap=True, allow_pickle=False)
    return BM25Index(index)


def stems(text: str) -> list[str]:
    """Return the stems of a text's words in order, without stopwords."""
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
    """An open BM25 index; thread-safe."""

    def __init__(self, index: BM25) -> None:
        self._index = index

    def __len__(self) -> int:
        """Return the number of chunks."""
        return int(self._index.scores["num_docs"])

    def scores(self, query: str) -> NDArray[np.float32]:
        """Return the BM25 score of every chunk, `(len(self),)`; 0 without a word of the query."""
        ids = self._index.get_tokens_ids(stems(query))
        return cast("NDArray[np.float32]", self._index.get_scores_from_ids(ids))

    def idf(self, stem: str) -> float:
        """Return BM25's inverse document frequency of a stem, above 0."""
        scores = self._index.scores
        number = self._index.vocab_dict.get(stem)
        frequency = 0 if number is None else scores["indptr"][number + 1] - scores["indptr"][number]
        return log(1 + (scores["num_docs"] - frequency + 0.5) / (frequency + 0.5))


def _stemmer() -> Stemmer.Stemmer:
    import Stemmer

    return Stemmer.Stemmer("english")  # a new one each time: a stemmer is not thread-safe


def matching_spans(text: str, question: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each word of the text that shares its stem with the question."""
    question_stems = set(stems(question))
    if not question_stems:
        return
    import Stemmer

    stem = Stemmer.Stemmer("english").stemWord
    for match in re.finditer(WORD_PATTERN, text):
        if stem(match[0].lower()) in question_stems:
            yield match.span()

"""Which words of a text a question asks about; pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterator

from chatlm_rag.lexical import WORD, stems


def spans(text: str, question: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each word of the text whose stem is one of the question's."""
    asked = set(stems(question))
    if not asked:
        return
    import Stemmer

    stem = Stemmer.Stemmer("english").stemWord
    for match in re.finditer(WORD, text):
        if stem(match[0].lower()) in asked:
            yield match.span()

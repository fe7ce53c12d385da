"""The replies before there was a reader, to compare with: quotes by cosine and words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.grounding_collections import normalize
from chatlm_rag.index.bm25 import stems
from chatlm_rag.reading.statements import statements
from chatlm_rag.retrieval.hits import SearchHit
from chatlm_rag.retrieval.search import Index

THRESHOLD = 0.55
"""Below this confidence, the reply was "Nothing relevant"."""

MAX_QUOTES, MIN_RELATIVE_SCORE = 2, 0.9


def confidence(index: Index, question: str, hits: Sequence[SearchHit]) -> float:
    """Return the mean of the best cosine and of the share of the question's words in eight hits."""
    best = hits[:8]
    cosine = max((hit.dense.score for hit in best), default=0.0)
    weights = {stem: index.idf(stem) for stem in stems(question)}
    if not weights:
        return cosine
    found = {stem for hit in best for stem in stems(hit.chunk.indexed_text)}
    covered = sum(weight for stem, weight in weights.items() if stem in found)
    return (cosine + covered / sum(weights.values())) / 2


def quotes(index: Index, question: str, hits: Sequence[SearchHit]) -> list[tuple[int, str]]:
    """Return the quoted statements, best first, each with the number of its passage."""
    numbered = [
        (number, text)
        for number, hit in enumerate(hits, start=1)
        for text in statements(hit.chunk.text)
    ]
    if not numbered:
        return []
    texts = [text for _, text in numbered]
    cosines = index.embedder.embed(texts) @ index.embedder.embed_query(question)
    weights = {stem: index.idf(stem) for stem in stems(question)}
    found = [set(stems(text)) for text in texts]
    covered = np.array([sum(weights[s] for s in weights.keys() & each) for each in found])
    passage = np.array([hits[number - 1].score for number, _ in numbered])
    scores = ((cosines + covered / (sum(weights.values()) or 1)) + passage) / 3
    chosen: dict[str, tuple[int, str]] = {}
    for at in np.argsort(-scores, kind="stable"):
        if len(chosen) == MAX_QUOTES or scores[at] < MIN_RELATIVE_SCORE * scores.max():
            break
        chosen.setdefault(normalize(texts[at]), numbered[at])
    return list(chosen.values())

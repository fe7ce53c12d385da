"""Topics of matches: tags of prompts, or clusters of the first messages by their embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from chatlm import UsageError
from chatlm_arena.votes import FloatArray, IntArray

MIN_MESSAGES = 10
"""Different messages that are needed for clusters."""

MAX_TOPICS = 12
"""Most clusters that are tried if their number is not given."""

NAME_WORDS = 3
"""Words in the name of a cluster."""


def cluster_messages(
    messages: Sequence[str], vectors: FloatArray, number: int | None = None, seed: int = 0
) -> IntArray:
    """Return the cluster of each message by k-means, shape (messages,).

    Args:
        messages: different texts.
        vectors: their embeddings, shape (messages, dimensions), of length 1.
        number: number of clusters; None for that with the best silhouette (Rousseeuw, 1987).
        seed: seed of the starting points.

    Raises:
        UsageError: there are too few messages.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    needed = max(MIN_MESSAGES, number or 0)
    if len(messages) < needed:
        raise UsageError(
            f"{len(messages)} different messages are too few for topics; {needed} are needed.",
            hint="Play more matches, or tag the prompts of a tournament.",
        )
    best, best_score = np.zeros(len(messages), dtype=np.int64), -2.0
    numbers = [number] if number else range(2, min(MAX_TOPICS, len(messages) // 3) + 1)
    for count in numbers:
        found = KMeans(count, n_init=5, random_state=seed).fit_predict(vectors)
        if number:
            return np.asarray(found, dtype=np.int64)
        if len(np.unique(found)) < 2:
            continue
        score = float(silhouette_score(vectors, found, sample_size=5000, random_state=seed))
        if score > best_score:
            best, best_score = np.asarray(found, dtype=np.int64), score
    return best


def name_clusters(messages: Sequence[str], clusters: IntArray) -> dict[int, str]:
    """Name each cluster by the words that are frequent in it and rare in the others.

    These have the highest class-based TF-IDF (Grootendorst, 2022).
    """
    from sklearn.feature_extraction.text import CountVectorizer

    numbers = sorted(set(clusters.tolist()))
    texts = [
        "\n".join(text for text, own in zip(messages, clusters, strict=True) if own == number)
        for number in numbers
    ]
    counter = CountVectorizer(
        stop_words="english",
        token_pattern=r"(?u)\b[^\W\d_]{3,}\b",  # noqa: S106
    )
    try:
        counts = counter.fit_transform(texts).toarray().astype(np.float64)
    except ValueError:  # no words at all
        return {number: f"topic {number + 1}" for number in numbers}
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    weight = share * np.log(1 + counts.sum() / len(numbers) / counts.sum(axis=0))
    words = counter.get_feature_names_out()
    names: dict[int, str] = {}
    for row, number in enumerate(numbers):
        top = [words[at] for at in np.argsort(-weight[row], kind="stable") if weight[row][at] > 0]
        name = ", ".join(top[:NAME_WORDS]) or f"topic {number + 1}"
        taken = name in names.values()
        names[number] = f"{name} ({number + 1})" if taken else name
    return names


def topics_by_cluster(
    prompts: Mapping[int, str], vectors: FloatArray, number: int | None = None
) -> dict[str, list[int]]:
    """Group matches by the clusters of their first messages.

    Args:
        prompts: the first message of each match by its id.
        vectors: embeddings of the different messages, in the order of their first match.
        number: number of clusters; None to choose it.

    Returns:
        Ids of matches by topic.
    """
    texts = list(dict.fromkeys(prompts.values()))
    clusters = cluster_messages(texts, vectors, number)
    names = name_clusters(texts, clusters)
    topic = {text: names[own] for text, own in zip(texts, clusters.tolist(), strict=True)}
    groups: dict[str, list[int]] = {}
    for match, text in prompts.items():
        groups.setdefault(topic[text], []).append(match)
    return groups


def topics_by_tag(tags: Mapping[int, Sequence[str]]) -> dict[str, list[int]]:
    """Group matches by their tags; a match with several counts in each.

    Raises:
        UsageError: no match has a tag.
    """
    groups: dict[str, list[int]] = {}
    for match, own in tags.items():
        for tag in own:
            groups.setdefault(tag, []).append(match)
    if not groups:
        raise UsageError(
            "No match has tags.",
            hint='Prompts of a tournament have them: {"prompt": "…", "tags": ["code"]}. '
            "Without tags: chatlm arena topics",
        )
    return groups

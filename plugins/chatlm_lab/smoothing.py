"""Next-token probabilities from counts: stupid back-off, Laplace, Kneser–Ney (book, section 2.5).

Each method gives the distribution after a context, for generation, and the probabilities of all
tokens of a text at once, for perplexity. Both are tested to be equal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from chatlm_lab.counts import MISSING, Level, NgramCounts, Nodes
from chatlm_lab.tokenizer_kinds import Ids

SmoothingName = Literal["kneser-ney", "backoff", "laplace"]

SMOOTHINGS: tuple[SmoothingName, ...] = get_args(SmoothingName)

Floats = NDArray[np.float64]


class Smoothing(ABC):
    """Probabilities of the next token, from the counts of a text.

    Args:
        counts: of the text.
        order: length of the longest n-grams to use; None for the longest that are counted.
    """

    normalised: ClassVar[bool] = True
    """Whether the probabilities after each context sum to 1."""

    def __init__(self, counts: NgramCounts, order: int | None = None) -> None:
        self.counts = counts
        self.order = order or counts.order
        self.levels = counts.levels[: self.order]

    @abstractmethod
    def distribution(self, context: Ids) -> Floats:
        """Return the probability of each token after a context: (vocabulary,)."""

    @abstractmethod
    def probabilities(self, ids: Ids) -> Floats:
        """Return the probability of each token of a text after those before it: (tokens,)."""

    def _contexts(self, context: Ids) -> list[int]:
        start = max(len(context) - self.order + 1, 0)
        return self.counts.context_nodes(context[start:])[: self.order]

    def _nodes(self, ids: Ids) -> list[tuple[Nodes, Nodes]]:
        """Return for each length the nodes of the contexts, and of the n-grams, of all tokens."""
        nodes = self.counts.nodes(ids)[: self.order]
        contexts = [np.zeros(len(ids), np.int64)]
        contexts += [np.concatenate([[MISSING], each[:-1]]) for each in nodes[:-1]]
        return list(zip(contexts, nodes, strict=True))

    def _followers(self, length: int, context: int) -> tuple[slice, NDArray[np.int64]]:
        """Return the n-grams that begin with a context, and their last tokens.

        Args:
            length: of the n-grams.
            context: node of the first `length` - 1 tokens.
        """
        level, size = self.levels[length - 1], self.counts.vocabulary
        place = level.children(context, size)
        return place, np.asarray(level.keys[place]) - context * size

    def _parents(self, level: Level) -> Nodes:
        return np.asarray(level.keys) // self.counts.vocabulary

    def _sums(self, length: int, values: NDArray[Any]) -> Floats:
        """Sum values of the n-grams of a length by the context that they begin with."""
        level = self.levels[length - 1]
        contexts = len(self.levels[length - 2].keys) if length > 1 else 1
        return np.bincount(self._parents(level), values, contexts).astype(np.float64, copy=False)


def _pick(values: NDArray[Any], nodes: Nodes) -> Floats:
    """Return the values of nodes, and 0 where one is missing."""
    return np.where(nodes == MISSING, 0.0, values[np.maximum(nodes, 0)])


class BackOff(Smoothing):
    """Stupid back-off as the book defines it.

    The longest context in which the token occurs decides: its count divided by the context's.
    A token that follows none of them has its unigram probability with Laplace smoothing, over the
    tokens that occur. No factor discounts shorter contexts, so the sum may exceed 1.
    """

    normalised = False

    @cached_property
    def _unigrams(self) -> Floats:
        level, size = self.levels[0], self.counts.vocabulary
        seen = np.zeros(size)
        seen[level.keys] = level.counts
        return (seen + 1) / (self.counts.tokens + len(level.keys))

    def distribution(self, context: Ids) -> Floats:
        """Return what the longest contexts say of each token; see the class."""
        found = self._unigrams.copy()
        for length, node in enumerate(self._contexts(context), 1):
            if length == 1:
                continue
            place, tokens = self._followers(length, node)
            counts = self.levels[length - 1].counts[place]
            if len(tokens):
                found[tokens] = counts / counts.sum(dtype=np.int64)
        return found

    def probabilities(self, ids: Ids) -> Floats:
        """Return the values of the tokens of a text; see the class."""
        found = self._unigrams[ids]
        for length, (contexts, nodes) in enumerate(self._nodes(ids), 1):
            if length == 1:
                continue
            counts = self.levels[length - 1].counts
            totals = self._sums(length, counts)
            share = _pick(counts, nodes) / np.maximum(_pick(totals, contexts), 1)
            found = np.where(nodes == MISSING, found, share)
        return found


class Laplace(Smoothing):
    """Add-one smoothing: (count + 1) / (count of the context + size of the vocabulary).

    The context has `order` - 1 tokens, fewer only at the start of a text; a context that does not
    occur makes all tokens equally likely.
    """

    def distribution(self, context: Ids) -> Floats:
        """Return (count + 1) / (total + vocabulary) for each token."""
        found = np.ones(self.counts.vocabulary)
        length = min(len(context), self.order - 1)
        nodes = self._contexts(context)
        if len(nodes) > length:
            place, tokens = self._followers(length + 1, nodes[length])
            found[tokens] += self.levels[length].counts[place]
        found /= found.sum()
        return found

    def probabilities(self, ids: Ids) -> Floats:
        """Return (count + 1) / (total + vocabulary) for the tokens of a text."""
        found = np.empty(len(ids))
        for length, (contexts, nodes) in enumerate(self._nodes(ids), 1):
            counts = self.levels[length - 1].counts
            totals = _pick(self._sums(length, counts), contexts)
            share = (_pick(counts, nodes) + 1) / (totals + self.counts.vocabulary)
            found[length - 1 :] = share[length - 1 :]
        return found


class KneserNey(Smoothing):
    """Interpolated Kneser–Ney with three discounts (Chen and Goodman 1998), as KenLM computes it.

    From each count a discount is taken, which is given to the distribution of the context without
    its first token. Shorter n-grams count the different tokens before them in place of their
    occurrences; the shortest context interpolates with equal probabilities for all tokens.
    """

    def _adjusted(self, length: int) -> NDArray[np.uint32]:
        level = self.levels[length - 1]
        if length == self.order or level.continuations is None:
            return level.counts
        return level.continuations

    @cached_property
    def discounts(self) -> tuple[Floats, ...]:
        """For each length the discounts of counts of 0, 1, 2, and 3 or more: (4,)."""
        return tuple(find_discounts(self._adjusted(n)) for n in range(1, self.order + 1))

    def _interpolate(
        self, below: Floats, tokens: NDArray[Any], counts: NDArray[Any], discounts: Floats
    ) -> Floats:
        total = int(counts.sum(dtype=np.int64))
        if not total:
            return below
        taken = discounts[np.minimum(counts, 3)]
        found = below * (float(taken.sum()) / total)
        found[tokens] += (counts - taken) / total
        return found

    @cached_property
    def _unigrams(self) -> Floats:
        size = self.counts.vocabulary
        keys, counts = np.asarray(self.levels[0].keys), self._adjusted(1)
        return self._interpolate(np.full(size, 1 / size), keys, counts, self.discounts[0])

    def distribution(self, context: Ids) -> Floats:
        """Return the interpolated probability of each token."""
        found = self._unigrams
        for length, node in enumerate(self._contexts(context), 1):
            if length > 1:
                place, tokens = self._followers(length, node)
                counts = self._adjusted(length)[place]
                found = self._interpolate(found, tokens, counts, self.discounts[length - 1])
        return found.copy() if found is self._unigrams else found

    def probabilities(self, ids: Ids) -> Floats:
        """Return the interpolated probabilities of the tokens of a text."""
        found = np.full(len(ids), 1 / self.counts.vocabulary)
        for length, (contexts, nodes) in enumerate(self._nodes(ids), 1):
            counts = np.asarray(self._adjusted(length))
            taken = self.discounts[length - 1][np.minimum(counts, 3)]
            totals = _pick(self._sums(length, counts), contexts)
            given = _pick(self._sums(length, taken), contexts)
            known = totals > 0
            totals = np.maximum(totals, 1)
            share = _pick(counts - taken, nodes) / totals + given / totals * found
            found = np.where(known, share, found)
        return found


def find_discounts(counts: NDArray[Any]) -> Floats:
    """Return the discounts of counts of 0, 1, 2, and 3 or more, from how many there are of each.

    Where a text is too small for Chen and Goodman's estimate, Ney's single discount n1 / (n1 + 2
    n2) is taken from every count, or a half if even that cannot be estimated.

    Args:
        counts: of all n-grams of a length.

    Returns:
        An array of shape (4,), of which the first is 0.
    """
    one, two, three, four = (int(np.count_nonzero(counts == n)) for n in (1, 2, 3, 4))
    if not one or not two:
        return np.array([0.0, 0.5, 0.5, 0.5])
    single = one / (one + 2 * two)
    if three and four:
        found = [
            1 - 2 * single * two / one,
            2 - 3 * single * three / two,
            3 - 4 * single * four / three,
        ]
        if all(0 < each < limit for limit, each in enumerate(found, 1)):
            return np.array([0.0, *found])
    return np.array([0.0, single, single, single])


_CLASSES: dict[SmoothingName, type[Smoothing]] = {
    "kneser-ney": KneserNey,
    "backoff": BackOff,
    "laplace": Laplace,
}


def make_smoothing(name: SmoothingName, counts: NgramCounts, order: int | None = None) -> Smoothing:
    """Return the smoothing of a name over counts, see `Smoothing`."""
    return _CLASSES[name](counts, order)


def mean_sum(smoothing: Smoothing, ids: Ids, places: Sequence[int]) -> float:
    """Return what the probabilities of all tokens sum to, on average over places of a text.

    Args:
        smoothing: of the counts.
        ids: the text.
        places: positions whose contexts are taken.
    """
    start = smoothing.order - 1
    sums = [float(smoothing.distribution(ids[max(at - start, 0) : at]).sum()) for at in places]
    return float(np.mean(sums))

"""Word embeddings (book, section 2.2): skip-gram and CBOW with negative sampling.

Both learn two vectors for each word, one as the word in the middle, one as a word near it, so that
σ(v · u) is large for pairs that occur and small for pairs that were drawn at random (Mikolov and
others 2013). The vectors of the side that is given, not predicted, are the result.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from chatlm import UsageError

Method = Literal["skip-gram", "cbow"]

METHODS: tuple[Method, ...] = get_args(Method)

POWER = 0.75
"""Frequencies are raised to it before random words are drawn, which favours rare ones."""

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class VectorRecipe:
    """How word vectors are trained."""

    method: Method = "skip-gram"
    width: int = 64
    """Numbers of a vector."""
    window: int = 5
    """Words on each side that may be near; each place draws its own from 1 to this."""
    negatives: int = 5
    """Random words for each pair."""
    epochs: int = 5
    min_count: int = 2
    """Rarer words are left out."""
    vocabulary: int = 20_000
    """Most frequent words that are used."""
    subsample: float = 1e-3
    """Words that are more frequent than this share are left out at random; 0 for none."""
    learning_rate: float = 0.01
    """At the beginning; it falls to 0."""
    batch_size: int = 512
    """Places of a step."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"--method must be {' or '.join(METHODS)}, not {self.method!r}.")
        limits: dict[str, tuple[float, float]] = {
            "width": (2, 1024),
            "window": (1, 50),
            "negatives": (1, 100),
            "epochs": (1, 1000),
            "min_count": (1, 10**6),
            "vocabulary": (2, 10**6),
            "subsample": (0, 1),
            "learning_rate": (1e-6, 1),
            "batch_size": (1, 10**5),
            "seed": (0, 2**32 - 1),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(
                    f"--{name.replace('_', '-')} must be {low:,} to {high:,}, not {value:g}."
                )

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return asdict(self)


class WordVectors:
    """Words with their vectors.

    Args:
        words: the most frequent one first.
        vectors: of the words, (words, width).

    Raises:
        ValueError: there are not as many vectors as words.
    """

    def __init__(self, words: Sequence[str], vectors: Floats) -> None:
        if vectors.ndim != 2 or len(vectors) != len(words):
            raise ValueError("there are not as many vectors as words")
        self.words, self.vectors = tuple(words), vectors
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        self._units: Floats = vectors / np.maximum(lengths, 1e-9)
        self._places = {word: place for place, word in enumerate(self.words)}

    def unit(self, word: str) -> Floats:
        """Return the vector of a word with length 1.

        Raises:
            UsageError: the word has none.
        """
        place = self._places.get(word.lower())
        if place is None:
            raise UsageError(
                f"{word!r} is not among the {len(self.words):,} words.",
                hint="Rare words are left out; train with a lower --min-count.",
            )
        found: Floats = self._units[place]
        return found

    def neighbours(self, word: str, count: int) -> list[tuple[str, float]]:
        """Return the words whose vectors point most like that of a word, with the cosine.

        Raises:
            UsageError: the word has no vector.
        """
        return self._nearest(self.unit(word), {word.lower()}, count)

    def analogies(self, a: str, b: str, c: str, count: int) -> list[tuple[str, float]]:
        """Return the words that are to c as b is to a: near b - a + c, with the cosine.

        Raises:
            UsageError: a word has no vector.
        """
        target = self.unit(b) - self.unit(a) + self.unit(c)
        target = target / max(float(np.linalg.norm(target)), 1e-9)
        return self._nearest(target, {a.lower(), b.lower(), c.lower()}, count)

    def project(self, words: Sequence[str]) -> Floats:
        """Return where words lie in the plane in which they differ most: (words, 2).

        It is that of their first two principal components.

        Raises:
            UsageError: a word has no vector, or there are fewer than three words.
        """
        if len(words) < 3:
            raise UsageError("A map needs three words or more.")
        units = np.stack([self.unit(word) for word in words])
        centred = units - units.mean(0)
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        found: Floats = centred @ axes[:2].T
        return found

    def _nearest(self, target: Floats, without: set[str], count: int) -> list[tuple[str, float]]:
        cosines = self._units @ target
        order = np.argsort(-cosines, kind="stable")[: count + len(without)].tolist()
        found = [(self.words[place], float(cosines[place])) for place in order]
        return [each for each in found if each[0] not in without][:count]


def find_words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return re.findall(r"\w+(?:['’]\w+)?", text.lower())


def train_vectors(
    texts: Sequence[str],
    recipe: VectorRecipe,
    report: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> tuple[WordVectors, list[float]]:
    """Train word vectors.

    Args:
        texts: each line is read by itself.
        recipe: how to train.
        report: called with the steps done, those of all epochs, and the loss; it may raise.

    Returns:
        The vectors, and the mean loss of each epoch.

    Raises:
        UsageError: there are too few words.
    """
    lines = [find_words(line) for text in texts for line in text.splitlines()]
    counts = Counter(word for line in lines for word in line)
    frequent = counts.most_common(recipe.vocabulary)
    words = tuple(word for word, count in frequent if count >= recipe.min_count)
    if len(words) < 2:
        raise UsageError(
            f"Only {len(words)} words occur {recipe.min_count} times or more.",
            hint="Add text, or use a lower --min-count.",
        )
    places = {word: at for at, word in enumerate(words)}
    known = [[places[word] for word in line if word in places] for line in lines]
    stream = np.array([word for line in known for word in line], np.int64)
    line_of = np.repeat(np.arange(len(known)), [len(line) for line in known])
    frequencies = np.bincount(stream, minlength=len(words)).astype(np.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = NegativeSampling(len(words), recipe)
        losses = _fit(model, stream, line_of, frequencies, recipe, report)
    vectors: Floats = model.given.weight.detach().numpy()
    return WordVectors(words, vectors), losses


class NegativeSampling(nn.Module):
    """The two vectors of each word, and the loss of negative sampling.

    Args:
        words: their number.
        recipe: has the method and the width.
    """

    def __init__(self, words: int, recipe: VectorRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.given = nn.Embedding(words, recipe.width, sparse=True)
        self.predicted = nn.Embedding(words, recipe.width, sparse=True)
        nn.init.uniform_(self.given.weight, -0.5 / recipe.width, 0.5 / recipe.width)
        nn.init.zeros_(self.predicted.weight)

    def forward(self, centres: Tensor, near: Tensor, drawn: Tensor) -> Tensor:
        """Return the loss, the mean over the predicted words of

        -ln σ(v · u) - Σ ln σ(-v · u_n), with u_n of the words that were drawn at random.

        Skip-gram gives the centre and predicts each word near it; CBOW gives the mean of the words
        near it and predicts the centre.

        Args:
            centres: words in the middle, (places,).
            near: words near them, (places, 2 · window); -1 where there is none.
            drawn: random words, (predicted words, negatives).
        """
        there = near >= 0
        if self.recipe.method == "skip-gram":
            v = self.given(centres)[:, None].expand(-1, near.shape[1], -1)[there]
            u = self.predicted(near[there])
        else:
            shares = there / there.sum(1, keepdim=True)
            v = (self.given(near.clamp(min=0)) * shares[..., None]).sum(1)
            u = self.predicted(centres)
        right = logsigmoid((v * u).sum(-1))
        wrong = logsigmoid(-(self.predicted(drawn) @ v[..., None])[..., 0]).sum(-1)
        return -(right + wrong).mean()


def _fit(
    model: NegativeSampling,
    stream: Ids,
    line_of: Ids,
    frequencies: NDArray[np.float64],
    recipe: VectorRecipe,
    report: Callable[[int, int, str], None],
) -> list[float]:
    """Train, and return the mean loss of each epoch."""
    chance = np.random.default_rng(recipe.seed)
    noise = frequencies**POWER
    limits = np.cumsum(noise / noise.sum())
    optimizer = torch.optim.SparseAdam(list(model.parameters()), lr=recipe.learning_rate)
    means = []
    for epoch in range(recipe.epochs):
        kept = _subsample(stream, frequencies, recipe.subsample, chance)
        ids, lines = stream[kept], line_of[kept]
        losses: list[float] = []
        for done, batch in _batches(len(ids), recipe.batch_size, chance):
            near = find_near(ids, lines, batch, recipe.window, chance)
            paired = (near >= 0).any(1)
            rows, near = batch[paired], near[paired]
            if not len(rows):
                continue
            predicted = int((near >= 0).sum()) if recipe.method == "skip-gram" else len(rows)
            drawn = np.searchsorted(limits, chance.random((predicted, recipe.negatives)))
            drawn = np.minimum(drawn, len(limits) - 1)
            left = 1 - (epoch + done / len(ids)) / recipe.epochs
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * max(left, 1e-4)
            loss = model(
                torch.from_numpy(ids[rows]), torch.from_numpy(near), torch.from_numpy(drawn)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            total = recipe.epochs * len(ids)
            report(epoch * len(ids) + done, total, f"epoch {epoch + 1}, loss {losses[-1]:.3f}")
        if not losses:
            raise UsageError(
                "No line has two words that are frequent enough.", hint="Add text, in longer lines."
            )
        means.append(float(np.mean(losses)))
    return means


def find_near(ids: Ids, line_of: Ids, rows: Ids, window: int, chance: np.random.Generator) -> Ids:
    """Return the words near some places: (places, 2 · window), -1 where there is none.

    Args:
        ids: of all words, (words,).
        line_of: the line of each.
        rows: the places.
        window: words on each side, at most; each place draws a number up to it.
        chance: draws them.
    """
    offsets = np.concatenate([np.arange(-window, 0), np.arange(1, window + 1)])
    reach = chance.integers(1, window + 1, len(rows))
    places = rows[:, None] + offsets
    inside = np.clip(places, 0, len(ids) - 1)
    near = (places == inside) & (line_of[inside] == line_of[rows][:, None])
    near &= np.abs(offsets) <= reach[:, None]
    return np.where(near, ids[inside], -1)


def _subsample(
    stream: Ids, frequencies: NDArray[np.float64], threshold: float, chance: np.random.Generator
) -> NDArray[np.bool_]:
    """Return which words are kept: one of frequency f with the probability √(threshold / f)."""
    if not threshold:
        return np.ones(len(stream), bool)
    kept = np.sqrt(threshold * frequencies.sum() / np.maximum(frequencies, 1))
    found: NDArray[np.bool_] = chance.random(len(stream)) < kept[stream]
    return found


def _batches(places: int, size: int, chance: np.random.Generator) -> Iterator[tuple[int, Ids]]:
    """Yield all places in random order, in batches, with how many there were so far."""
    order = chance.permutation(places)
    for start in range(0, places, size):
        rows = order[start : start + size]
        yield start + len(rows), rows

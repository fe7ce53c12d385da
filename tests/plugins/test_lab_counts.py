"""Counts and probabilities of n-grams equal those of a slow program that follows the formulas."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlm_lab import counts as ngrams
from chatlm_lab.counts import NgramCounts, count_ngrams, load_counts, save_counts
from chatlm_lab.smoothing import (
    SMOOTHINGS,
    BackOff,
    KneserNey,
    Laplace,
    find_discounts,
    make_smoothing,
    mean_sum,
)

VOCABULARY = 5

Text = list[int]

texts = st.lists(st.integers(0, VOCABULARY - 1), min_size=6, max_size=40)


def counted(text: Sequence[int], order: int = 3, vocabulary: int = VOCABULARY) -> NgramCounts:
    return count_ngrams(np.array(text, np.uint32), order, vocabulary)


def grams(text: Text, length: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(text[at : at + length]) for at in range(len(text) - length + 1))


def follow(text: Text, context: tuple[int, ...]) -> dict[int, int]:
    """Return the tokens that follow a context in a text, with their counts."""
    found = grams(text, len(context) + 1)
    return {gram[-1]: count for gram, count in found.items() if gram[:-1] == context}


def back_off(text: Text, context: tuple[int, ...], token: int, order: int) -> Fraction:
    """Return the book's value: section 2.5, and `get_probability` of its public notebook."""
    for length in range(order - 1, 0, -1):
        if len(context) >= length:
            after = follow(text, context[-length:])
            if token in after:
                return Fraction(after[token], sum(after.values()))
    return Fraction(text.count(token) + 1, len(text) + len(set(text)))


def laplace(text: Text, context: tuple[int, ...], token: int, order: int) -> Fraction:
    after = follow(text, context[max(len(context) - order + 1, 0) :])
    return Fraction(after.get(token, 0) + 1, sum(after.values()) + VOCABULARY)


def kneser_ney(text: Text, context: tuple[int, ...], token: int, order: int) -> float:
    """Return Chen and Goodman's recursion, with the discounts of the program."""

    def adjusted(length: int) -> dict[tuple[int, ...], int]:
        if length == order:
            return dict(grams(text, length))
        left = grams(text, length + 1)
        return {gram: sum(each[1:] == gram for each in left) for gram in grams(text, length)}

    def probability(context: tuple[int, ...]) -> float:
        length = len(context) + 1
        below = probability(context[1:]) if context else 1 / VOCABULARY
        every = adjusted(length)
        after = {gram[-1]: n for gram, n in every.items() if gram[:-1] == context}
        total = sum(after.values())
        if not total:
            return below
        discounts = find_discounts(np.array(list(every.values())))
        taken = {each: discounts[min(n, 3)] for each, n in after.items()}
        own = after.get(token, 0) - taken.get(token, 0.0)
        return float(own / total + sum(taken.values()) / total * below)

    return probability(context[max(len(context) - order + 1, 0) :])


@given(texts, st.integers(1, 4), st.integers(1, 60))
def test_counts_are_those_of_counting_one_by_one(text: Text, order: int, extra: int) -> None:
    vocabulary = VOCABULARY + extra  # large ones are sorted, small ones are counted in a table
    found = counted(text, order, vocabulary)
    nodes = found.nodes(np.array(text, np.uint32))
    for length, level in enumerate(found.levels, 1):
        expected = grams(text, length)
        assert len(level.keys) == len(expected)
        assert level.counts.sum() == sum(expected.values())
        for at in range(length - 1, len(text)):
            gram = tuple(text[at - length + 1 : at + 1])
            node = nodes[length - 1][at]
            assert level.counts[node] == expected[gram]
            if level.continuations is not None:
                left = {each for each in grams(text, length + 1) if each[1:] == gram}
                assert level.continuations[node] == len(left)
        assert np.all(np.diff(level.keys) > 0)
        assert all(node == ngrams.MISSING for node in nodes[length - 1][: length - 1])


def test_sorting_and_the_table_count_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    text = np.random.default_rng(1).integers(0, 9, 4000).tolist()
    table = counted(text, 4, 9)
    monkeypatch.setattr(ngrams, "TABLE_FACTOR", 0)
    for one, other in zip(table.levels, counted(text, 4, 9).levels, strict=True):
        assert np.array_equal(one.keys, other.keys)
        assert np.array_equal(one.counts, other.counts)


@settings(max_examples=40)
@given(texts, texts, st.integers(1, 3))
def test_probabilities_are_those_of_the_formulas(text: Text, other: Text, order: int) -> None:
    found = counted(text)
    ids = np.array(other, np.uint32)
    of_backoff = BackOff(found, order).probabilities(ids)
    of_laplace = Laplace(found, order).probabilities(ids)
    of_kneser_ney = KneserNey(found, order).probabilities(ids)
    for at, token in enumerate(other):
        context = tuple(other[:at])
        assert of_backoff[at] == pytest.approx(float(back_off(text, context, token, order)))
        assert of_laplace[at] == pytest.approx(float(laplace(text, context, token, order)))
        assert of_kneser_ney[at] == pytest.approx(kneser_ney(text, context, token, order))


@settings(max_examples=40)
@given(texts, texts, st.sampled_from(SMOOTHINGS), st.integers(1, 3))
def test_the_distribution_after_a_context_is_what_a_text_is_scored_with(
    text: Text, other: Text, name: str, order: int
) -> None:
    smoothing = make_smoothing(name, counted(text), order)  # type: ignore[arg-type]
    ids = np.array(other, np.uint32)
    scored = smoothing.probabilities(ids)
    for at, token in enumerate(other):
        distribution = smoothing.distribution(ids[:at])
        assert distribution.shape == (VOCABULARY,)
        assert distribution[token] == pytest.approx(scored[at], rel=1e-12)
        assert distribution.min() > 0
        if smoothing.normalised:
            assert distribution.sum() == pytest.approx(1, rel=1e-12)


def test_back_off_sums_to_more_than_one() -> None:
    text = [0, 1, 0, 2, 0, 3, 1, 4] * 3
    smoothing = BackOff(counted(text))
    places = list(range(2, len(text)))
    assert mean_sum(smoothing, np.array(text, np.uint32), places) > 1.2
    kneser = KneserNey(counted(text))
    assert mean_sum(kneser, np.array(text, np.uint32), places) == pytest.approx(1)


def test_discounts_follow_chen_and_goodman() -> None:
    counts = np.repeat([1, 2, 3, 4, 9], [100, 40, 20, 10, 30])
    single = 100 / 180
    expected = [0, 1 - 2 * single * 0.4, 2 - 3 * single * 0.5, 3 - 4 * single * 0.5]
    assert find_discounts(counts).tolist() == pytest.approx(expected)
    assert find_discounts(np.array([1, 1, 2])).tolist() == pytest.approx([0, 0.5, 0.5, 0.5])
    assert find_discounts(np.array([1, 2, 2, 2])).tolist() == pytest.approx([0, *[1 / 7] * 3])
    assert find_discounts(np.array([7])).tolist() == [0, 0.5, 0.5, 0.5]


def test_kneser_ney_predicts_better_than_laplace() -> None:
    draw = np.random.default_rng(0)
    size = 200  # so many that most pairs are not seen, as with words
    chain = draw.dirichlet(np.full(size, 0.02), size)
    text = [0]
    for _ in range(6000):
        text.append(int(draw.choice(size, p=chain[text[-1]])))
    found = counted(text[:4000], 3, size)
    rest = np.array(text[4000:], np.uint32)

    def perplexity(probabilities: np.ndarray) -> float:
        return math.exp(-np.log(probabilities).mean())

    best = perplexity(KneserNey(found).probabilities(rest))
    for order in (1, 2, 3):
        assert best < perplexity(Laplace(found, order).probabilities(rest))
    assert best < perplexity(KneserNey(found, 1).probabilities(rest))


def test_counts_are_mapped_from_their_file(tmp_path: Path) -> None:
    file = tmp_path / "counts.safetensors"
    written = counted([0, 1, 2, 0, 1, 3, 0])
    save_counts(written, file)
    read = load_counts(file)
    assert (read.vocabulary, read.tokens, read.order) == (VOCABULARY, 7, 3)
    for one, other in zip(read.levels, written.levels, strict=True):
        assert isinstance(one.keys, np.memmap)
        assert np.array_equal(one.keys, other.keys)
        assert np.array_equal(one.counts, other.counts)
    ids = np.array([0, 1, 2, 4], np.uint32)
    expected = KneserNey(written).probabilities(ids)
    assert KneserNey(read).probabilities(ids).tolist() == expected.tolist()


@pytest.mark.parametrize("keep", [0, 4, 30, 300, -1])
def test_a_damaged_file_is_refused(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "counts.safetensors"
    save_counts(counted([0, 1, 2, 0, 1, 3, 0]), file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"counts\.safetensors|Expecting|Unterminated|delimiter"):
        load_counts(file)


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ValueError, match="order"):
        counted([0, 1], 0)
    with pytest.raises(ValueError, match="no n-gram of 3"):
        counted([0, 1], 3)
    with pytest.raises(ValueError, match="vocabulary of 5"):
        counted([0, 7], 1)

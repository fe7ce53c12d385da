"""Counts of n-grams as sorted arrays, which are memory-mapped from one safetensors file.

The n-grams of 1 to `order` tokens form a trie. Level k is a sorted array of keys

    parent · vocabulary + last token

where the parent is the index, in level k - 1, of the n-gram without its last token (0 for level 1).
So the tokens that follow a context lie side by side, and a lookup is a binary search. Levels are
counted one after the other from the keys of all positions, which numpy sorts, or looks up in a
table, at millions of tokens a second.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatlm_lab.tokenizer_kinds import Ids

Keys = NDArray[np.int64]
Counts = NDArray[np.uint32]
Nodes = NDArray[np.int64]

MISSING = -1
"""Node of an n-gram that does not occur."""

MAX_ORDER = 8
"""Longest n-grams that are counted."""

TABLE_FACTOR = 4
"""How many times as many keys as positions are counted in a table."""

BYTES_PER_TOKEN = 128
"""Memory that counting takes at most for each token of the text."""


@dataclass(frozen=True)
class Level:
    """All n-grams of one length, sorted."""

    keys: Keys
    counts: Counts
    """How often each occurs."""
    continuations: Counts | None
    """How many different tokens come before each; None at the last level."""

    def find(self, parents: Nodes, tokens: NDArray[Any], vocabulary: int) -> Nodes:
        """Return the nodes of contexts followed by tokens, of the shape of both; or `MISSING`."""
        wanted = parents * vocabulary + tokens
        places = np.searchsorted(self.keys, wanted)
        places[places == len(self.keys)] = 0
        found = (parents != MISSING) & (self.keys[places] == wanted)
        return np.where(found, places, MISSING)

    def children(self, parent: int, vocabulary: int) -> slice:
        """Return the slice of the n-grams that begin with a context, by its node."""
        low, high = np.searchsorted(self.keys, (parent * vocabulary, (parent + 1) * vocabulary))
        return slice(int(low), int(high))


@dataclass(frozen=True)
class NgramCounts:
    """Counts of the n-grams of a text, of 1 to `order` tokens."""

    vocabulary: int
    """Number of tokens that there are, seen or not."""
    tokens: int
    """Length of the text."""
    levels: tuple[Level, ...]

    @property
    def order(self) -> int:
        """Length of the longest n-grams."""
        return len(self.levels)

    def nodes(self, ids: Ids) -> list[Nodes]:
        """Return for each level the nodes of the n-grams that end at each position.

        Returns:
            Arrays of the shape of `ids`; `MISSING` where an n-gram does not occur in the text that
            was counted, or would begin before the first id.
        """
        tokens = ids.astype(np.int64)
        found: list[Nodes] = []
        parents = np.zeros(len(ids), np.int64)
        for level in self.levels:
            found.append(level.find(parents, tokens, self.vocabulary))
            parents = np.concatenate([[MISSING], found[-1][:-1]])
        return found

    def context_nodes(self, context: Ids) -> list[int]:
        """Return the node of the last k tokens of a context, for k = 0, 1, … as long as it occurs.

        Args:
            context: tokens, of which the last `order` - 1 count.
        """
        recent = context[max(len(context) - self.order + 1, 0) :]
        found = [0]
        for length in range(1, len(recent) + 1):
            node = 0
            for level, token in zip(self.levels, recent[len(recent) - length :], strict=False):
                key = node * self.vocabulary + int(token)
                place = int(np.searchsorted(level.keys, key))
                if place == len(level.keys) or level.keys[place] != key:
                    return found
                node = place
            found.append(node)
        return found

    @property
    def num_ngrams(self) -> int:
        """Number of different n-grams of all lengths."""
        return sum(len(level.keys) for level in self.levels)


def count_ngrams(
    ids: Ids, order: int, vocabulary: int, report: Callable[[int], None] = lambda level: None
) -> NgramCounts:
    """Count the n-grams of a text.

    Args:
        ids: the text, of shape (tokens,); at least `order` of them.
        order: length of the longest n-grams, 1 to `MAX_ORDER`.
        vocabulary: number of tokens that there are; all ids are below.
        report: called with the number of levels that are counted.

    Raises:
        ValueError: the text is too short, or an argument is out of range.
    """
    if not 1 <= order <= MAX_ORDER:
        raise ValueError(f"order must be 1 to {MAX_ORDER}, not {order}")
    if len(ids) < order:
        raise ValueError(f"{len(ids)} tokens have no n-gram of {order}")
    if int(ids.max()) >= vocabulary:
        raise ValueError(f"the id {ids.max()} is outside a vocabulary of {vocabulary}")
    tokens = ids.astype(np.int64)
    keys, counts, nodes = _group(tokens, vocabulary)
    levels = [Level(keys, counts, None)]
    report(1)
    for length in range(2, order + 1):
        longer = nodes[:-1] * vocabulary + tokens[length - 1 :]
        keys, counts, next_nodes = _group(longer, len(levels[-1].keys) * vocabulary)
        # the same n-gram without its first token, which is the same at all its positions
        shorter = np.empty(len(keys), np.int64)
        shorter[next_nodes] = nodes[1:]
        before = levels[-1]
        continuations = np.bincount(shorter, minlength=len(before.keys)).astype(np.uint32)
        levels[-1] = Level(before.keys, before.counts, continuations)
        levels.append(Level(keys, counts, None))
        nodes = next_nodes
        report(length)
    return NgramCounts(vocabulary, len(ids), tuple(levels))


def _group(keys: Keys, size: int) -> tuple[Keys, Counts, Nodes]:
    """Return the distinct keys, sorted, how often each occurs, and the place of each key.

    Args:
        keys: from 0 to `size` - 1.
        size: number of keys that there may be. Where it is not much larger than the number of
            positions, as with bytes, a table of all keys is faster than sorting.
    """
    if size <= TABLE_FACTOR * len(keys):
        table = np.bincount(keys, minlength=size)
        distinct = np.flatnonzero(table)
        ranks = np.zeros(size, np.int32)
        ranks[distinct] = np.arange(len(distinct), dtype=np.int32)
        return distinct, table[distinct].astype(np.uint32), ranks[keys].astype(np.int64)
    order = np.argsort(keys)
    ordered = keys[order]
    is_first = np.empty(len(keys), bool)
    is_first[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    starts = np.flatnonzero(is_first)
    places = np.empty(len(keys), np.int64)
    places[order] = np.cumsum(is_first) - 1
    counts = np.diff(np.append(starts, len(keys))).astype(np.uint32)
    return ordered[starts], counts, places


def save_counts(counts: NgramCounts, file: Path) -> None:
    """Write counts as a safetensors file.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors.numpy import save_file

    tensors: dict[str, NDArray[Any]] = {}
    for number, level in enumerate(counts.levels, 1):
        tensors[f"keys.{number}"] = level.keys
        tensors[f"counts.{number}"] = level.counts
        if level.continuations is not None:
            tensors[f"continuations.{number}"] = level.continuations
    metadata = {"vocabulary": str(counts.vocabulary), "tokens": str(counts.tokens)}
    save_file(tensors, file, metadata)


_DTYPES: dict[str, np.dtype[Any]] = {"I64": np.dtype("<i8"), "U32": np.dtype("<u4")}

_MAX_HEADER = 1_000_000


def load_counts(file: Path) -> NgramCounts:
    """Map counts from a file that `save_counts` wrote; only what is looked up is read.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or something else.
    """
    tensors, metadata = _map_tensors(file)
    try:
        vocabulary, tokens = int(metadata["vocabulary"]), int(metadata["tokens"])
        order = sum(name.startswith("keys.") for name in tensors)
        levels = tuple(
            Level(
                tensors[f"keys.{number}"],
                tensors[f"counts.{number}"],
                tensors[f"continuations.{number}"] if number < order else None,
            )
            for number in range(1, order + 1)
        )
    except KeyError as error:
        raise ValueError(f"{file.name} has no {error}") from error
    sizes = [
        {len(each) for each in (level.keys, level.counts, level.continuations) if each is not None}
        for level in levels
    ]
    if not 1 <= order <= MAX_ORDER or vocabulary < 1 or any(len(size) != 1 for size in sizes):
        raise ValueError(f"{file.name} has no counts of n-grams")
    return NgramCounts(vocabulary, tokens, levels)


def _map_tensors(file: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Map all tensors of a safetensors file; its own library would copy them."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= _MAX_HEADER:
            raise ValueError(f"{file.name} is not a safetensors file")
        header = json.loads(stream.read(length))
    if not isinstance(header, dict):
        raise ValueError(f"{file.name} is not a safetensors file")
    metadata = header.pop("__metadata__", {})
    size = file.stat().st_size
    tensors: dict[str, NDArray[Any]] = {}
    for name, entry in header.items():
        try:
            dtype, (start, end) = _DTYPES[entry["dtype"]], entry["data_offsets"]
            shape = tuple(entry["shape"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file.name} has a tensor {name} of another kind") from error
        start, end = start + 8 + length, end + 8 + length
        if not 0 <= start <= end <= size or math.prod(shape) * dtype.itemsize != end - start:
            raise ValueError(f"{file.name} ends before the tensor {name}")
        if start == end:
            tensors[name] = np.empty(shape, dtype)
        else:
            tensors[name] = np.memmap(str(file), dtype, "r", start, shape)
    return tensors, metadata

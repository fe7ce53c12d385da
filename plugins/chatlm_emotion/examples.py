"""Read labelled texts from JSON lines, and split them."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatlm import UsageError, check_regular_file, one_line

MAX_TEXT_CHARACTERS = 10_000
"""Longer texts are cut off; no classifier reads more."""


@dataclass(frozen=True)
class LabelledExample:
    """A text with its label."""

    text: str
    label: str | None
    """None for a text that fits no label, which trains the classifier to be unsure."""


@dataclass(frozen=True)
class LabelledDataset:
    """Labelled texts of one or more files."""

    rows: tuple[LabelledExample, ...]
    file_names: tuple[str, ...]
    """Names without folders."""
    sha256: str
    """Hash of the concatenated files."""
    duplicates: int = 0
    """Number of repeated rows, which are left out."""
    labels: tuple[str, ...] = field(default=())
    """Sorted alphabetically."""


def read_dataset(paths: Sequence[Path], *, min_labels: int = 2) -> LabelledDataset:
    """Read files of `{"text": …, "label": …}` lines; a label may be null.

    Args:
        paths: the files.
        min_labels: minimum number of labels.

    Raises:
        UsageError: a file cannot be read, a line is not valid, or there are too few labels.
    """
    digest = hashlib.sha256()
    rows: dict[LabelledExample, None] = {}
    total = 0
    for path in paths:
        for row in _parse_rows(path, digest):
            rows.setdefault(row)
            total += 1
    labels = tuple(sorted({row.label for row in rows if row.label is not None}))
    if len(labels) < min_labels:
        raise UsageError(
            f"{one_line(paths[0].name, 80)} has {len(labels)} label(s); at least "
            f"{min_labels} are needed.",
            hint='Each line needs a text and its label: {"text": "so happy!", "label": "joy"}',
        )
    names = tuple(path.name for path in paths)
    return LabelledDataset(tuple(rows), names, digest.hexdigest(), total - len(rows), labels)


def read_texts(path: Path) -> list[str]:
    """Return the texts of a JSON lines file, or the lines of any other file.

    Raises:
        UsageError: the file cannot be read, is empty, or a line is not an object with a text.
    """
    found = []
    for number, line in _numbered_lines(path, hashlib.sha256()):
        if path.suffix.lower() != ".jsonl":
            found.append(line.strip())
            continue
        value = _parse_object(line, f"{one_line(path.name, 80)}, line {number}")
        found.append(_require_text(value, f"{one_line(path.name, 80)}, line {number}").strip())
    return found


def split_held_out(
    rows: Sequence[LabelledExample], held_out_share: float, seed: int
) -> tuple[list[LabelledExample], list[LabelledExample]]:
    """Split rows into training and held-out rows, stratified by label.

    A text is never in both, even with different labels.

    Args:
        rows: all rows.
        held_out_share: share of each label to hold out, between 0 and 1; at least one text is.
        seed: decides which.
    """
    by_text: dict[str, list[LabelledExample]] = {}
    for row in rows:
        by_text.setdefault(row.text, []).append(row)
    groups: dict[str | None, list[str]] = {}
    for text, same in by_text.items():
        groups.setdefault(same[0].label, []).append(text)
    held: set[str] = set()
    for label in sorted(groups, key=str):
        texts = sorted(groups[label])
        random.Random(f"{seed}{label}").shuffle(texts)  # noqa: S311  # no secret
        held.update(texts[: max(1, round(len(texts) * held_out_share))])
    return (
        [row for row in rows if row.text not in held],
        [row for row in rows if row.text in held],
    )


def count_labels(rows: Sequence[LabelledExample]) -> dict[str, int]:
    """Return the number of rows per label, without unlabelled ones."""
    return dict(sorted(Counter(row.label for row in rows if row.label is not None).items()))


def _parse_rows(path: Path, digest: Any) -> Iterator[LabelledExample]:
    for number, line in _numbered_lines(path, digest):
        where = f"{one_line(path.name, 80)}, line {number}"
        value = _parse_object(line, where)
        text, label = _require_text(value, where), value.get("label", "")
        if label is not None and (not isinstance(label, str) or not label.strip()):
            raise UsageError(f"{where}: label must be a non-empty string or null.")
        yield LabelledExample(text, None if label is None else one_line(label.strip(), 60))


def _numbered_lines(path: Path, digest: Any) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers."""
    try:
        check_regular_file(path)
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    digest.update(raw)
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{one_line(path.name, 80)}, line {at}: not UTF-8.") from error
    if not content.strip():
        raise UsageError(f"{one_line(path.name, 80)} is empty.")
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            yield number, line


def _parse_object(line: str, location: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{location}: not JSON.",
            hint='One object per line: {"text": "so happy!", "label": "joy"}',
        ) from error
    if not isinstance(value, dict):
        raise UsageError(f"{location}: not an object with text and label.")
    return value


def _require_text(value: dict[str, Any], location: str) -> str:
    text = value.get("text")
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"{location}: text must be a non-empty string.")
    return text[:MAX_TEXT_CHARACTERS]

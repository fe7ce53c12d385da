"""Reads the prompts of a tournament from JSON lines; knows no model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from chatlm import UsageError, one_line
from chatlm_arena.keeping.rows import storable

FORMS = (
    'A row has "turns", a list of messages, or "prompt", one of them; and perhaps "reference", the '
    "answer that is wanted, or a list with one a turn."
)


@dataclass(frozen=True)
class Prompt:
    """What a contestant is asked."""

    turns: tuple[str, ...]
    """One message after the other, each answered."""
    references: tuple[str, ...] = ()
    """A good answer for each turn, as far as there are any; empty texts say nothing."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "turns": list(self.turns),
            "references": list(self.references),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Prompt:
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(
            turns=tuple(values["turns"]),
            references=tuple(values["references"]),
        )


def read(path: Path, most: int | None = None) -> tuple[Prompt, ...]:
    """All prompts of a file, in their order.

    Args:
        path: JSON lines.
        most: take only so many, the first; None takes all.

    Raises:
        UsageError: it cannot be read, has none, or a line is wrong, which is named.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # JSON may hold other line ends
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start}).", hint=FORMS) from None
    found = tuple(
        _prompt(line, f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    )
    if not found:
        raise UsageError(f"{path} has no prompts.", hint=FORMS)
    return found[:most]


def _prompt(line: str, where: str) -> Prompt:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON: {error}", hint=FORMS) from None
    if not isinstance(row, dict):
        _wrong(where, "is not a JSON object")
    turns = row.get("turns", [row.get("prompt")])
    if not isinstance(turns, list) or not turns or not all(map(_is_text, turns)):
        _wrong(where, "has no message")
    references = row.get("reference", [])
    references = references if isinstance(references, list) else [references]
    if not all(isinstance(text, str) for text in references):
        _wrong(where, f"has the reference {one_line(repr(references), 60)}")
    return Prompt(tuple(map(storable, turns)), tuple(map(storable, references)))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _wrong(where: str, what: str) -> NoReturn:
    raise UsageError(f"{where}: it {what}.", hint=FORMS)

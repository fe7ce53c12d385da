"""Card of an adapter: its history, as card.json and README.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from chatlm import dump_json, escape_controls, one_line, write_atomically
from chatlm.plugin_kit import cards

CARD_FILE, README_FILE = "card.json", "README.md"
MAX_CARD_BYTES = 4_000_000
"""Larger cards are ignored."""

AdapterOrigin = Literal["trained", "merged", "added"]


@dataclass(frozen=True)
class SampleAnswer:
    """Answers to a held-out prompt, before and after training."""

    prompt: str
    expected: str
    before: str
    after: str

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            "prompt": self.prompt,
            "wanted": self.expected,
            "before": self.before,
            "after": self.after,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SampleAnswer:
        """Restore from `to_dict`.

        Raises:
            KeyError, TypeError: the values are not valid.
        """
        return cls(
            prompt=values["prompt"],
            expected=values["wanted"],
            before=values["before"],
            after=values["after"],
        )


@dataclass(frozen=True)
class AdapterCard:
    """The history of an adapter."""

    name: str
    origin: AdapterOrigin
    base: str
    """The base model."""
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    description: str = ""
    licence: str = ""
    """Licence of the data; empty if not stated."""
    command: str = ""
    """The command line, with the data file's name instead of its path."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """The data and its hash, the merged adapters, or the added folder."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    """Losses are cross-entropy in nats per token, over the assistant's tokens only."""
    cost: Mapping[str, Any] = field(default_factory=dict)
    """Seconds and tokens of the process that finished the run, which it resumed after `from_step`,
    and why it ended."""
    answers: tuple[SampleAnswer, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries used."""
    curves: Mapping[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    """Loss and measures on the held-out examples by name: steps and values."""

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            "name": self.name,
            "way": self.origin,
            "base": self.base,
            "made_at": self.created_at,
            "description": self.description,
            "licence": self.licence,
            "command": self.command,
            "source": dict(self.source),
            "settings": dict(self.settings),
            "scores": dict(self.scores),
            "cost": dict(self.cost),
            "answers": [answer.to_dict() for answer in self.answers],
            "versions": dict(self.versions),
            **({"curves": dict(self.curves)} if self.curves else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AdapterCard:
        """Restore from `to_dict`.

        Raises:
            KeyError, TypeError: the values are not valid.
        """
        return cls(
            name=values["name"],
            origin=values["way"],
            base=values["base"],
            created_at=values.get("made_at", ""),
            description=values.get("description", ""),
            licence=values.get("licence", ""),
            command=values.get("command", ""),
            source=values.get("source", {}),
            settings=values.get("settings", {}),
            scores=values.get("scores", {}),
            cost=values.get("cost", {}),
            answers=tuple(map(SampleAnswer.from_dict, values.get("answers", ()))),
            versions=values.get("versions", {}),
            curves={
                name: tuple(map(tuple, points)) for name, points in values.get("curves", {}).items()
            },
        )


def write_card(card: AdapterCard, folder: Path) -> None:
    """Write card.json and README.md to an adapter's folder.

    Raises:
        OSError: they cannot be written.
    """
    write_atomically(folder / CARD_FILE, [dump_json(card.to_dict()), "\n"])
    write_atomically(folder / README_FILE, [_readme(card)])


def read_card(folder: Path) -> AdapterCard | None:
    """Return the card of an adapter; None if it is missing or cannot be read."""
    try:
        if (folder / CARD_FILE).stat().st_size > MAX_CARD_BYTES:
            return None
        card = AdapterCard.from_dict(json.loads((folder / CARD_FILE).read_bytes()))
        texts = [card.name, card.origin, card.base, card.description, card.licence, card.created_at]
        texts += [card.command]
        texts += [text for answer in card.answers for text in answer.to_dict().values()]
        tables = (card.source, card.settings, card.scores, card.cost, card.versions, card.curves)
        card_lines(card)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    right = all(isinstance(text, str) for text in texts)
    return card if right and all(isinstance(table, dict) for table in tables) else None


def summarize_card(card: AdapterCard) -> str:
    """Return a one-line summary for lists."""
    fall = card.scores.get("fall")
    better = f", loss {fall:.0%} lower" if isinstance(fall, float) else ""
    about = card.description.rstrip(".") or f"{card.origin} for {card.base}"
    return one_line(about, 80) + better


def card_lines(card: AdapterCard) -> list[str]:
    """Return the card as lines of a title and a value."""
    return cards.card_lines(
        [
            ("Base", card.base),
            ("Made", f"{card.origin}, {card.created_at}"),
            ("Command", card.command),
            *_source_rows(card.source),
            ("Licence", card.licence),
            ("Settings", card.settings),
            ("Scores", card.scores),
            ("Cost", card.cost),
        ]
    )


def _source_rows(source: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the rows of a source; each adapter from which training started has one of its own."""
    rows: list[tuple[str, Any]] = []
    started = source.get("started_from")
    for key, value in source.items():
        if key != "started_from" or not isinstance(value, Mapping):
            rows.append((key.replace("_", " ").capitalize(), value))
    while isinstance(started, Mapping):
        shown = {key: value for key, value in started.items() if key != "started_from"}
        rows.append(("Started from", shown))
        started = started.get("started_from")
    return rows


def _readme(card: AdapterCard) -> str:
    head = [
        "---",
        f"base_model: {json.dumps(card.base)}",
        "library_name: peft",
        "tags: [lora, chatlm]",
        "---",
        f"# {card.name}",
        "",
        escape_controls(card.description) or f"A LoRA adapter for {one_line(card.base, 100)}.",
        "",
        "```",
        *card_lines(card),
        "```",
    ]
    for answer in card.answers:
        head += ["", "## " + one_line(answer.prompt, 100), ""]
        for title, text in (
            ("Wanted", answer.expected),
            ("Before", answer.before),
            ("After", answer.after),
        ):
            head += [f"**{title}:** {one_line(text, 600)}", ""]
    return "\n".join(head).rstrip() + "\n"

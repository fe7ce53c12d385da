"""The details of a reply: model, settings, tokens and times."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from chatlm.text import dump_json, one_line
from chatlm.tui import clipboard
from chatlm.tui.formatting import count, join_parts, speed, stop_label, version_text
from chatlm.tui.screens.card import Card
from chatlm.types.conversations import Turn
from chatlm.types.parts import summarise_parts
from chatlm.types.provenance import Provenance, describe_old_weights
from chatlm.types.replies import Reply, Usage

NAME_WIDTH = 20


VALUE_WIDTH = 400


SHOWN_HASH_LENGTH = 16
"""Characters shown of the prompt's hash; a copy has all."""


NO_PROVENANCE = "An older version of chatlm stored no more details of this reply."


DetailRows = Sequence[tuple[str, str]]
"""Sections of names and values; empty values are omitted."""


class DetailsScreen(Card[None]):
    """A card with scrolling text.

    Args:
        turn: the turn of the reply.
        reply: one of its versions.
        provenance: its stored provenance; None for an older reply.
        forked_from: id of the chat this one was forked from.
    """

    CARD_TITLE = "Details of this reply"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "copy", "copy as JSON"),
        Binding("escape", "dismiss", "close"),
        Binding("i,q", "dismiss", "close", show=False),
    ]

    def __init__(
        self,
        turn: Turn,
        reply: Reply,
        provenance: Provenance | None,
        forked_from: int | None = None,
    ) -> None:
        super().__init__()
        self._turn = dataclasses.replace(turn, active_reply_id=reply.id)
        self._reply = reply
        self._provenance = provenance
        self._forked_from = forked_from

    def body(self) -> Iterable[Widget]:
        """Yield the scrolling text."""
        parts = [("Reply", self._reply_rows()), ("Cost", usage_rows(self._reply.usage))]
        if self._provenance is None:
            parts += [
                ("Made by", self._model_rows()),
                ("Sampling", _setting_rows(self._reply.sampling)),
            ]
        else:
            parts += provenance_sections(self._provenance)
        text = Content("\n\n").join(_section(head, rows) for head, rows in parts)
        if self._provenance is None:
            text = Content.assemble((NO_PROVENANCE, "$text-warning"), "\n\n", text)
        with VerticalScroll() as scroll:
            scroll.styles.height = "1fr"
            yield Static(text)

    def action_copy(self) -> None:
        """Copy the details as JSON with the full hash."""
        clipboard.copy(self.app, dump_json(self._as_json()), "the details")

    def _reply_rows(self) -> DetailRows:
        reply = self._reply
        fork = "" if self._forked_from is None else f"chat {self._forked_from}"
        return (
            ("ended", stop_label(reply.stop_reason)),
            ("error", reply.error or ""),
            ("version", version_text(self._turn).removeprefix("version ")),
            ("parts", "" if reply.is_plain else summarise_parts(reply.parts)),
            ("length", count(len(reply.text), "character")),
            ("thought", _thought_facts(reply)),
            ("made", format_local_time(reply.created)),
            ("forked from", fork),
        )

    def _model_rows(self) -> DetailRows:
        return (("model", self._reply.model), ("adapter", self._reply.adapter or "none"))

    def _as_json(self) -> dict[str, Any]:
        reply, provenance = self._reply, self._provenance
        values = reply.to_dict() | {
            "settings": reply.sampling,
            "tokens_per_second": reply.usage.tokens_per_second,
            "provenance": provenance and _without_key(provenance.to_dict(), "messages"),
        }
        return _without_key(_without_key(values, "text"), "steps")


def _thought_facts(reply: Reply) -> str:
    """Return what the thoughts of a reply took, and their length; empty without any."""
    thoughts = reply.thoughts
    length = count(len(thoughts.text), "character") if thoughts.text else ""
    return join_parts(thoughts.cost, length)


def usage_rows(usage: Usage) -> DetailRows:
    """Return tokens and times of a generation."""
    first = usage.first_token_seconds
    return (
        ("prompt", count(usage.prompt_tokens, "token")),
        ("of these reused", count(usage.cached_tokens, "token")),
        ("reply", count(usage.completion_tokens, "token")),
        ("speed", speed(usage)),
        ("first token after", "" if first is None else f"{first:.2f} s"),
    )


def provenance_sections(provenance: Provenance) -> list[tuple[str, DetailRows]]:
    """Return the provenance sections: model, sampling, prompt, libraries."""
    model = (
        ("model", provenance.model or "none, written by a plugin"),
        ("adapter", provenance.adapter or "none"),
        ("prompt format", provenance.prompt_format),
        ("device", provenance.device),
        ("weights", describe_old_weights(provenance.weights)),
        ("KV cache", provenance.kv_cache),
        ("context", count(provenance.context_length, "token") if provenance.model else ""),
    )
    prompt = (
        ("messages", f"{len(provenance.messages):,}"),
        ("hash", provenance.prompt_hash[:SHOWN_HASH_LENGTH]),
        ("added by plugins", ", ".join(provenance.plugin_processors) or "nothing"),
    )
    sampling = _setting_rows(provenance.sampling.to_dict())
    versions = tuple(provenance.versions.items())
    return [("Made by", model), ("Sampling", sampling), ("Prompt", prompt), ("Versions", versions)]


def format_local_time(when: datetime) -> str:
    """Format a time in the local time zone, to the second."""
    return f"{when.astimezone():%Y-%m-%d %H:%M:%S}"


def _without_key(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def _setting_rows(values: dict[str, Any]) -> DetailRows:
    return tuple((name.replace("_", " "), json.dumps(value)) for name, value in values.items())


def _section(title: str, rows: DetailRows) -> Content:
    lines = [Content.styled(title, "bold $text-primary")]
    for name, value in rows:
        if value:
            label = one_line(name, NAME_WIDTH - 1).ljust(NAME_WIDTH)
            lines.append(Content.assemble((label, "$text-muted"), one_line(value, VALUE_WIDTH)))
    return Content("\n").join(lines)

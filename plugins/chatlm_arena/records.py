"""Stored values of the arena: matches, replies, votes and judgements."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args

from chatlm import Image, ReplyStep, StopReason
from chatlm_arena.contestants import Contestant
from chatlm_arena.votes import Verdict

Side = Literal["left", "right"]
SIDES: tuple[Side, ...] = get_args(Side)

HUMAN = "human"
"""The judge of the user's own votes."""


@dataclass(frozen=True)
class MatchReply:
    """A contestant's reply to one message."""

    contestant_id: int
    turn: int
    """Index of the message in the match, from 0."""
    prompt: str
    """The message as typed, before a template is applied."""
    text: str
    stop_reason: StopReason
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Model, adapter, sampling with the seed, tokens and times, as plain values."""
    id: int = 0
    """0 until it is saved."""
    images: tuple[Image, ...] = ()
    """The message's images, whose bytes the store has."""

    @property
    def has_answer(self) -> bool:
        """Whether the text is the contestant's, rather than an error or nothing."""
        return self.stop_reason is not StopReason.ERROR and bool(self.text.strip())

    @property
    def display_text(self) -> str:
        """The text, or in brackets why there is none."""
        return self.text if self.text.strip() else f"({self.stop_reason.label})"

    @property
    def steps(self) -> tuple[ReplyStep, ...]:
        """Outputs of the model and results of the tools it called; none without tools."""
        return tuple(map(ReplyStep.from_dict, self.provenance.get("steps", ())))

    @property
    def tokens(self) -> int | None:
        """Number of generated tokens; None if unknown."""
        count = self.provenance.get("completion_tokens")
        return count if isinstance(count, int) else None

    @property
    def seconds(self) -> float | None:
        """Time from the request to the last token; None if unknown."""
        first, rest = (
            self.provenance.get("first_token_seconds"),
            self.provenance.get("decode_seconds"),
        )
        return first + rest if isinstance(first, float) and isinstance(rest, float) else None

    def with_id(self, number: int) -> MatchReply:
        """Return the reply with its id in the database."""
        return dataclasses.replace(self, id=number)


@dataclass(frozen=True)
class Match:
    """Two contestants and their replies."""

    id: int
    left: Contestant
    right: Contestant
    left_replies: tuple[MatchReply, ...] = ()
    right_replies: tuple[MatchReply, ...] = ()


@dataclass(frozen=True)
class Ballot:
    """A saved vote, with the contestants' names."""

    id: int
    left: str
    right: str
    verdict: str
    judge: str
    match_id: int | None = None


@dataclass(frozen=True)
class Judgement:
    """One attempt of a judge at a verdict."""

    swapped: bool
    """Whether the right side was presented as A."""
    attempt: int
    """1 for the first."""
    text: str
    """The judge's reply."""
    verdict: Verdict | None
    """In terms of the match's sides; None if the reply has no verdict."""


Exchanges = tuple[tuple[str, str], ...]
"""The turns of a chat: message and reply."""


class ImportedVote(NamedTuple):
    """A vote read from a file."""

    left: str
    right: str
    verdict: Verdict
    judge: str
    chats: tuple[Exchanges, Exchanges] | None = None
    """Both sides' chats with the same user messages; None if the file has none."""


@dataclass(frozen=True)
class VoteFacts:
    """What is known about one vote besides its outcome."""

    left: int
    """Id of the contestant on the left."""
    right: int
    judge: str
    """Who voted: `HUMAN`, a model, or a voter of an imported file."""
    created: datetime
    """When it was saved, with the time zone."""
    imported: bool
    match_id: int | None
    ranking_id: int | None
    """The ranking that implied it, if any."""
    prompt: str | None
    """The first message of its match; None if unknown."""
    left_text: str | None
    """The left replies, one after the other; None if unknown."""
    right_text: str | None

    @property
    def characters(self) -> int | None:
        """Number of characters in both sides' replies; None if unknown."""
        if self.left_text is None or self.right_text is None:
            return None
        return len(self.left_text) + len(self.right_text)


@dataclass(frozen=True)
class AspectRating:
    """A judge's rating of one answer in one aspect."""

    reply_id: int
    contestant: str
    judge: str
    aspect: str
    value: int
    """-2 to 2."""

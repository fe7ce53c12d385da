"""What the arena keeps of a match, as values; knows no database."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from chatlm import StopReason
from chatlm_arena.contestants import Contestant
from chatlm_arena.votes import Verdict

Side = Literal["left", "right"]
SIDES: tuple[Side, ...] = get_args(Side)

HUMAN = "human"
"""The judge of votes that a person gave."""


@dataclass(frozen=True)
class MatchReply:
    """What a contestant said to one message."""

    contestant_id: int
    turn: int
    """0 for the first of a match."""
    prompt: str
    """As it was typed; a template may have made another message of it."""
    text: str
    stop_reason: StopReason
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Model, adapter, sampling with the seed, tokens and times, as plain values."""
    id: int = 0

    @property
    def tokens(self) -> int | None:
        """How many were made; None where that is not known."""
        count = self.provenance.get("completion_tokens")
        return count if isinstance(count, int) else None

    @property
    def seconds(self) -> float | None:
        """From the request to the last token; None where that is not known."""
        first, rest = (
            self.provenance.get("first_token_seconds"),
            self.provenance.get("decode_seconds"),
        )
        return first + rest if isinstance(first, float) and isinstance(rest, float) else None

    def with_id(self, number: int) -> MatchReply:
        """The same, as it is stored."""
        return dataclasses.replace(self, id=number)


@dataclass(frozen=True)
class Match:
    """Two contestants and what they said."""

    id: int
    left: Contestant
    right: Contestant
    left_replies: tuple[MatchReply, ...] = ()
    right_replies: tuple[MatchReply, ...] = ()


@dataclass(frozen=True)
class Ballot:
    """A vote as it is stored."""

    id: int
    left: str
    """The contestant's name."""
    right: str
    verdict: str
    judge: str
    match_id: int | None = None


@dataclass(frozen=True)
class Judgement:
    """One attempt of a judge at a verdict."""

    swapped: bool
    """Whether the right side was shown as A."""
    attempt: int
    """1 for the first."""
    text: str
    """What the judge said."""
    verdict: Verdict | None
    """With the sides as they are in the match; None where it said none."""


Exchanges = tuple[tuple[str, str], ...]
"""Each message of a chat with its reply."""


class ImportedVote(NamedTuple):
    """A vote from a file that another program wrote."""

    left: str
    """The contestant's name."""
    right: str
    verdict: Verdict
    judge: str
    chats: tuple[Exchanges, Exchanges] | None = None
    """What both sides said to the same messages; None where the file has no chats."""

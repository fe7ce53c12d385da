"""Golden chats: chats with an expected reply, and checks whether a contestant still gives it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatlm import (
    Conversation,
    Image,
    SideChats,
    StopReason,
    Turn,
    UsageError,
    check_regular_file,
    one_line,
)
from chatlm_arena import metrics
from chatlm_arena.answers import AnswerRequest, Seat, generate_answers
from chatlm_arena.contestants import Contestant, validate_name


@dataclass(frozen=True)
class GoldenChat:
    """A chat up to a user message, and the expected reply."""

    name: str
    history: tuple[tuple[str, str], ...]
    """The earlier turns: message and reply."""
    prompt: str
    expected: str
    seed: int | None = None
    """The seed with which the reply was generated."""

    def to_dict(self) -> dict[str, Any]:
        """Return the chat as plain values, ready for JSON."""
        messages = [text for pair in self.history for text in pair]
        return {
            "name": self.name,
            "messages": [*messages, self.prompt],
            "expected": self.expected,
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GoldenChat:
        """Create a golden chat from what `to_dict` returns.

        Raises:
            ValueError: the values are invalid.
        """
        messages, expected = values.get("messages"), values.get("expected")
        seed = values.get("seed")
        texts = isinstance(messages, list) and all(isinstance(text, str) for text in messages)
        if not texts or not messages or not len(messages) % 2 or not isinstance(expected, str):
            raise ValueError("it needs an odd number of messages and an expected reply")
        if seed is not None and type(seed) is not int:
            raise ValueError("its seed is not an integer")
        pairs = tuple(zip(messages[:-1:2], messages[1::2], strict=True))
        return cls(validate_name(str(values.get("name", ""))), pairs, messages[-1], expected, seed)


@dataclass(frozen=True)
class GoldenResult:
    """The result of sending a golden chat again."""

    golden: GoldenChat
    reply: str
    similarity: float
    """ROUGE-L of the reply against the expected one; 1 if they are equal."""

    def passes(self, min_similarity: float) -> bool:
        """Return whether the reply is similar enough; with 1 it must be equal."""
        return self.reply == self.golden.expected or (
            min_similarity < 1 and self.similarity >= min_similarity
        )


_INCOMPLETE = (None, StopReason.CANCELLED, StopReason.ERROR, StopReason.CONTENT_FILTER)


def golden_from_turn(name: str, conversation: Conversation, turn: Turn) -> GoldenChat:
    """Create a golden chat from a turn and the turns before it.

    Raises:
        UsageError: the name is invalid, the turn has no complete reply, or there are images.
    """
    reply = turn.reply
    if reply is None or reply.stop_reason in _INCOMPLETE or not reply.text.strip():
        raise UsageError("This turn has no complete reply.", hint="Let the model answer it first.")
    before = [each for each in conversation.turns if each.position < turn.position]
    if any(isinstance(part, Image) for each in (*before, turn) for part in each.user.parts):
        raise UsageError(
            "This chat has images, which golden chats do not keep.",
            hint="Choose a turn of a chat without images.",
        )
    history = [
        (earlier.display_text, earlier.reply.text)
        for earlier in before
        if earlier.messages() and earlier.reply
    ]
    seed = reply.sampling.get("seed")
    return GoldenChat(
        validate_name(name),
        tuple(history),
        turn.display_text,
        reply.text,
        seed if type(seed) is int else None,
    )


def read_goldens(path: Path) -> list[GoldenChat]:
    """Read golden chats from a file that `chatlm arena golden list --json` printed.

    Raises:
        UsageError: the file cannot be read or is invalid.
    """
    try:
        check_regular_file(path)
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{path} is not a list of golden chats.")
    goldens = []
    for number, row in enumerate(rows, 1):
        try:
            goldens.append(GoldenChat.from_dict(row))
        except ValueError as error:
            raise UsageError(f"{path}, entry {number}: {error}.") from None
    return goldens


def check_goldens(
    chats: SideChats, contestant: Contestant, goldens: Iterable[GoldenChat]
) -> Iterator[GoldenResult]:
    """Send every golden chat to a contestant again.

    Args:
        chats: creates the chats in which it answers.
        contestant: the contestant, which needs a set-up.
        goldens: the golden chats.

    Raises:
        UsageError: the contestant has no set-up.
    """
    if contestant.setup is None:
        raise UsageError(f"{one_line(contestant.name, 60)} cannot play: it has no set-up.")
    for golden in goldens:
        chat = chats.begin(contestant.setup)
        for message, answer in golden.history:
            chat.add(message, answer)
        request = AnswerRequest(
            Seat(contestant, chat), golden.prompt, len(golden.history), golden.seed or 0
        )
        for _, reply in generate_answers([request]):
            similarity = (
                1.0
                if reply.text == golden.expected
                else metrics.rouge_scores(reply.text, golden.expected)["rougeL"]
            )
            yield GoldenResult(golden, reply.text, similarity)

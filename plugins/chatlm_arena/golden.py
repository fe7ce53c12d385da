"""Golden chats: replies that are right, and whether a contestant still gives them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatlm import Conversation, SideChats, StopReason, Turn, UsageError, one_line
from chatlm_arena import metrics
from chatlm_arena.answers import AnswerRequest, Seat, generate_answers
from chatlm_arena.contestants import Contestant, validate_name


@dataclass(frozen=True)
class GoldenChat:
    """A chat up to a message, and the reply that is right."""

    name: str
    history: tuple[tuple[str, str], ...]
    """Each earlier message with its reply."""
    prompt: str
    expected: str
    seed: int | None = None
    """With which the reply was made."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        messages = [text for pair in self.history for text in pair]
        return {
            "name": self.name,
            "messages": [*messages, self.prompt],
            "expected": self.expected,
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GoldenChat:
        """Read back what `to_dict` made.

        Raises:
            ValueError: it is something else.
        """
        messages, expected = values.get("messages"), values.get("expected")
        seed = values.get("seed")
        texts = isinstance(messages, list) and all(isinstance(text, str) for text in messages)
        if not texts or not messages or not len(messages) % 2 or not isinstance(expected, str):
            raise ValueError("it has no odd number of messages and an expected reply")
        if seed is not None and type(seed) is not int:
            raise ValueError("its seed is no whole number")
        pairs = tuple(zip(messages[:-1:2], messages[1::2], strict=True))
        return cls(validate_name(str(values.get("name", ""))), pairs, messages[-1], expected, seed)


@dataclass(frozen=True)
class GoldenResult:
    """A golden chat that was asked again."""

    golden: GoldenChat
    reply: str
    similarity: float
    """ROUGE-L of the reply against the expected one; 1 where they are the same."""

    def passes(self, min_similarity: float) -> bool:
        """Whether the reply is similar enough; with 1 it has to be the very same."""
        return self.reply == self.golden.expected or (
            min_similarity < 1 and self.similarity >= min_similarity
        )


def golden_from_turn(name: str, conversation: Conversation, turn: Turn) -> GoldenChat:
    """A turn of a chat as a golden one, with what was said before it.

    Raises:
        UsageError: the name cannot be used, or the turn has no whole reply.
    """
    reply = turn.reply
    if reply is None or reply.stop_reason in (None, StopReason.CANCELLED, StopReason.ERROR):
        raise UsageError("This turn has no whole reply.", hint="Let the model answer it first.")
    before = [
        (earlier.display_text, earlier.reply.text)
        for earlier in conversation.turns
        if earlier.position < turn.position and earlier.messages() and earlier.reply
    ]
    seed = reply.sampling.get("seed")
    return GoldenChat(
        validate_name(name),
        tuple(before),
        turn.display_text,
        reply.text,
        seed if type(seed) is int else None,
    )


def read_goldens(path: Path) -> list[GoldenChat]:
    """Golden chats from a file that `chatlm arena golden list --json` printed.

    Raises:
        UsageError: it cannot be read, or holds something else.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{path} is no list of golden chats.")
    found = []
    for number, row in enumerate(rows, 1):
        try:
            found.append(GoldenChat.from_dict(row))
        except ValueError as error:
            raise UsageError(f"{path}, entry {number}: {error}.") from None
    return found


def check_goldens(
    chats: SideChats, contestant: Contestant, goldens: Iterable[GoldenChat]
) -> Iterator[GoldenResult]:
    """Ask a contestant every golden chat again.

    Args:
        chats: in which it answers.
        contestant: one with a set-up.
        goldens: what it is asked.

    Raises:
        UsageError: only its votes are known, so that it cannot answer.
    """
    if contestant.setup is None:
        raise UsageError(f"{one_line(contestant.name, 60)} cannot play: only its votes are known.")
    for golden in goldens:
        chat = chats.begin(contestant.setup)
        for message, reply in golden.history:
            chat.add(message, reply)
        order = AnswerRequest(
            Seat(contestant, chat), golden.prompt, len(golden.history), golden.seed or 0
        )
        for _, made in generate_answers([order]):
            same = made.text == golden.expected
            score = 1.0 if same else metrics.rouge_scores(made.text, golden.expected)["rougeL"]
            yield GoldenResult(golden, made.text, score)

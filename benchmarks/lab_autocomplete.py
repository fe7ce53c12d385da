"""What the composer's autocompletion is worth: latency, and acceptance on held-out messages.

Each held-out message is typed letter by letter. Whenever something is suggested, a user accepts a
word of it by one key if the message goes on with that word, as → does, and types on otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chatlm_lab.autocomplete import WordCompleter


@dataclass(frozen=True)
class Acceptance:
    """Figures of typing held-out messages."""

    learned_messages: int
    learned_words: int
    learning_seconds: float
    messages: int
    characters: int
    asked: int
    """Texts that were asked about."""
    suggested: int
    accepted: int
    """Suggestions whose first word the message went on with."""
    inserted_characters: int
    """Characters of accepted words."""
    keys: int
    """Keys pressed in all, one for each accepted word."""
    milliseconds_median: float
    milliseconds_99: float
    milliseconds_max: float


def type_messages(learned: Sequence[str], held_out: Sequence[str]) -> Acceptance:
    """Type messages with suggestions made from others.

    Args:
        learned: messages to learn from.
        held_out: messages to type.
    """
    started = time.perf_counter()
    completer = WordCompleter(learned)
    learning = time.perf_counter() - started
    seconds: list[float] = []
    suggested = accepted = inserted = keys = 0
    for message in held_out:
        place = 0
        while place < len(message):
            place, keys = place + 1, keys + 1
            while place < len(message):
                started = time.perf_counter()
                words = completer.complete(message[:place])
                seconds.append(time.perf_counter() - started)
                if not words:
                    break
                suggested += 1
                word = _first_word(words)
                end = place + len(word)
                whole = message[place:end] == word and not message[end : end + 1].isalnum()
                if not whole:
                    break
                accepted += 1
                inserted += len(word)
                place, keys = end, keys + 1
    times = np.array(seconds) * 1e3
    return Acceptance(
        learned_messages=len(learned),
        learned_words=completer.words,
        learning_seconds=learning,
        messages=len(held_out),
        characters=sum(map(len, held_out)),
        asked=len(seconds),
        suggested=suggested,
        accepted=accepted,
        inserted_characters=inserted,
        keys=keys,
        milliseconds_median=float(np.median(times)),
        milliseconds_99=float(np.percentile(times, 99)),
        milliseconds_max=float(times.max()),
    )


def _first_word(text: str) -> str:
    """Return a suggestion up to the end of its first word."""
    body = text.lstrip()
    return text[: len(text) - len(body)] + body.split(maxsplit=1)[0]


def report(found: Acceptance) -> None:
    """Print the figures."""
    print(
        f"\nAutocompletion: learned from {found.learned_messages:,} messages "
        f"({found.learned_words:,} words) in {found.learning_seconds:.2f} s; "
        f"{found.messages:,} held-out messages of {found.characters:,} characters typed"
    )
    share, saved = found.accepted / max(found.suggested, 1), 1 - found.keys / found.characters
    print(
        f"suggested {found.suggested:,} times for {found.asked:,} texts; accepted {share:.1%}; "
        f"{found.inserted_characters / found.characters:.1%} of the characters inserted, "
        f"{saved:.1%} of the keys saved"
    )
    print(
        f"time of a suggestion: median {found.milliseconds_median:.3f} ms, 99 % "
        f"{found.milliseconds_99:.3f} ms, longest {found.milliseconds_max:.3f} ms"
    )

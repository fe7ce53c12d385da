"""Pairs of replies of which one was preferred: read from votes or a file, and split."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatlm import Message, UsageError
from chatlm_lora.alignment.enough import MIN_HELD_OUT, PairCount
from chatlm_lora.dataset import (
    ChatExample,
    check_turns,
    parse_messages,
    parse_rows,
    read_bytes,
    reject,
    require_text,
)

VOTES, VERSIONS = "votes", "versions"
"""Stand for the arena's votes, and versions of replies in chats, where a file may be named."""

_HINTS = {
    VOTES: "Vote: chatlm arena, or /arena in a chat.",
    VERSIONS: "Regenerate replies (Ctrl-R), choose the version you prefer and chat on.",
}
"""How to get more pairs."""

FORMAT_HELP = (
    "A row has prompt, chosen and rejected: texts, or lists of messages, as `chatlm arena export "
    "--as dpo` writes them."
)


@dataclass(frozen=True)
class PreferencePair:
    """A prompt with two replies, one of which was preferred."""

    prompt: ChatExample
    """The chat up to a message of the user."""
    chosen: ChatExample
    """The preferred reply; in a match of several turns the rest of its chat."""
    rejected: ChatExample


@dataclass(frozen=True)
class PairDataset:
    """The pairs of the votes or of a file, split into train and held-out."""

    name: str
    """The file's name, `VOTES` or `VERSIONS`."""
    sha256: str
    train: tuple[PreferencePair, ...]
    held_out: tuple[PreferencePair, ...]
    """Pairs for evaluation only; none of their prompts is trained on."""
    repeated: int
    """Number of rows that repeat another one, or are outvoted by those for the other reply."""
    contradictory: int
    """Number of rows left out since as many prefer the other reply."""
    with_images: int
    """Number of rows left out because of images."""

    @property
    def count(self) -> int:
        """Number of pairs, trained on and held out."""
        return len(self.train) + len(self.held_out)


@dataclass(frozen=True)
class PairRows:
    """The rows of the votes or of a file, not yet read as pairs."""

    name: str
    sha256: str
    rows: tuple[tuple[str, Mapping[str, Any]], ...]
    """Each with its location, for errors."""


def rows_of_file(path: Path) -> PairRows:
    """Read the rows of a file: JSON lines, or one JSON list.

    Raises:
        UsageError: the file cannot be read.
    """
    raw = read_bytes(path)
    return PairRows(path.name, hashlib.sha256(raw).hexdigest(), tuple(parse_rows(path, raw)))


def rows_of_votes(rows: Sequence[Mapping[str, Any]], name: str = VOTES) -> PairRows:
    """Return rows of the service `preferences`, or of versions.

    Args:
        rows: the rows.
        name: `VOTES` or `VERSIONS`.
    """
    text = json.dumps(rows, sort_keys=True, ensure_ascii=False)
    located = tuple((f"{name[:-1]} {number}", row) for number, row in enumerate(rows, 1))
    return PairRows(name, hashlib.sha256(text.encode()).hexdigest(), located)


def read_pairs(
    source: PairRows, *, seed: int, held_out_share: float, system_prompt: str = ""
) -> PairDataset:
    """Read rows as pairs, and split them by their prompts.

    Args:
        source: the rows; those of votes and versions may have images and are left out then.
        seed: decides which prompts are held out.
        held_out_share: share of the pairs to hold out, above 0 and below 1.
        system_prompt: system prompt for pairs without one.

    Raises:
        UsageError: a row is not valid, or there are too few pairs.
    """
    found, with_images = _parse_rows(source, system_prompt)
    pairs, contradictory = _settle(found)
    check_enough(PairCount(len(pairs), held_out_share), source.name)
    train, held_out = _split(pairs, seed, held_out_share)
    if len(held_out) < MIN_HELD_OUT:
        raise UsageError(
            f"Only {len(held_out)} of {len(pairs):,} pairs can be held out, {MIN_HELD_OUT} are "
            "needed: most pairs have the same prompt.",
            hint="Give pairs of more prompts.",
        )
    return PairDataset(
        name=source.name,
        sha256=source.sha256,
        train=train,
        held_out=held_out,
        repeated=len(found) - contradictory - len(pairs),
        contradictory=contradictory,
        with_images=with_images,
    )


def _parse_rows(source: PairRows, system_prompt: str) -> tuple[list[PreferencePair], int]:
    """Return the pairs, and the number of votes left out because of images."""
    found: list[PreferencePair] = []
    with_images = 0
    for location, row in source.rows:
        if source.name in _HINTS and _has_images(row):
            with_images += 1
        else:
            found.append(_parse_pair(row, location, system_prompt))
    return found, with_images


def count_pairs(source: PairRows) -> dict[str, int]:
    """Count the pairs of rows, their prompts, and what is left out, as JSON values.

    Raises:
        UsageError: a row is not valid.
    """
    found, with_images = _parse_rows(source, "")
    pairs, contradictory = _settle(found)
    return {
        "pairs": len(pairs),
        "prompts": len({pair.prompt for pair in pairs}),
        "repeated": len(found) - contradictory - len(pairs),
        "contradictory": contradictory,
        "with_images": with_images,
    }


def explain_count(found: Mapping[str, int], count: PairCount) -> str:
    """Return the counts, and how many pairs are missing, as lines of text."""
    left_out = [
        f"{found[key]:,} {words}"
        for key, words in (
            ("repeated", "repeated or outvoted"),
            ("contradictory", "contradicting each other"),
            ("with_images", "with images"),
        )
        if found[key]
    ]
    prompts = "1 prompt" if found["prompts"] == 1 else f"{found['prompts']:,} prompts"
    lines = [
        f"{found['pairs']:,} {'pair' if found['pairs'] == 1 else 'pairs'} of {prompts}"
        + (f"; left out: {', '.join(left_out)}." if left_out else ".")
    ]
    if count.missing:
        lines.append(f"{count.missing:,} more are needed to train.")
    elif count.missing_for_verdict:
        lines.append(
            f"Enough to train. With about {count.missing_for_verdict:,} more, the held-out pairs "
            "would probably show whether it helped."
        )
    else:
        lines.append("Enough to train, and to show whether it helped.")
    return "\n".join(lines)


def check_enough(count: PairCount, name: str) -> None:
    """Refuse so few pairs that no result could differ from chance.

    Raises:
        UsageError: more pairs are needed.
    """
    if not count.missing:
        return
    where = f"The {name} give" if name in _HINTS else f"{name} has"
    noun = "pair" if count.pairs == 1 else "pairs"
    is_needed = "one more is" if count.missing == 1 else f"{count.missing:,} more are"
    raise UsageError(
        f"{where} {count.pairs:,} different {noun}; {is_needed} needed to train.",
        hint=_HINTS.get(name, FORMAT_HELP),
    )


def _has_images(row: Mapping[str, Any]) -> bool:
    entries = [entry for value in row.values() if isinstance(value, list) for entry in value]
    return any(
        isinstance(entry, dict) and isinstance(entry.get("content"), list) for entry in entries
    )


def _parse_pair(row: Mapping[str, Any], location: str, system_prompt: str) -> PreferencePair:
    if not {"prompt", "chosen", "rejected"} <= set(row):
        reject(location, "has no prompt, chosen and rejected", FORMAT_HELP)
    prompt = _parse_side(row, "prompt", "user", location)
    if system_prompt and prompt[0].role != "system":
        prompt = (Message("system", system_prompt), *prompt)
    chosen = _parse_side(row, "chosen", "assistant", location)
    rejected = _parse_side(row, "rejected", "assistant", location)
    for reply in (chosen, rejected):
        check_turns((*prompt, *reply), location)
    if chosen == rejected:
        reject(location, "has the same reply as chosen and rejected")
    return PreferencePair(prompt, chosen, rejected)


def _parse_side(row: Mapping[str, Any], key: str, role: str, location: str) -> ChatExample:
    if isinstance(row[key], str):
        return (
            Message("user" if role == "user" else "assistant", require_text(row, key, location)),
        )
    messages = parse_messages(row, key, location)
    if not messages or messages[-1].role != role:
        reject(location, f"has `{key}` that does not end with a message of the {role}", FORMAT_HELP)
    return messages


def _settle(found: Iterable[PreferencePair]) -> tuple[list[PreferencePair], int]:
    """Return each pair once, as most rows have it, and the number of rows that settle nothing."""
    votes = Counter(found)
    pairs, contradictory = [], 0
    for pair, count in votes.items():
        other = votes[PreferencePair(pair.prompt, pair.rejected, pair.chosen)]
        if count > other:
            pairs.append(pair)
        elif count == other:
            contradictory += count
    return pairs, contradictory


def _split(
    pairs: Sequence[PreferencePair], seed: int, share: float
) -> tuple[tuple[PreferencePair, ...], tuple[PreferencePair, ...]]:
    """Return pairs to train on, and held-out ones with other prompts."""
    by_prompt: dict[ChatExample, list[PreferencePair]] = {}
    for pair in pairs:
        by_prompt.setdefault(pair.prompt, []).append(pair)
    prompts = list(by_prompt)
    if len(prompts) < 2:
        raise UsageError(
            "All pairs have the same prompt.",
            hint="Give pairs of several prompts, since some prompts are held out.",
        )
    random.Random(seed).shuffle(prompts)  # noqa: S311  # no secret
    wanted = max(round(len(pairs) * share), 1)
    held_out: list[PreferencePair] = []
    while len(held_out) < wanted and len(prompts) > 1:
        held_out += by_prompt[prompts.pop()]
    train = [pair for prompt in prompts for pair in by_prompt[prompt]]
    return tuple(train), tuple(held_out)

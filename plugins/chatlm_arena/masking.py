"""Hides what would tell who speaks; pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable

from chatlm_arena.contestants import Contestant

MASK = "▒▒▒"

_SHORTEST = 3
"""Letters of a word that is hidden; shorter ones stand in too many others."""


def words_of(contestants: Iterable[Contestant]) -> tuple[str, ...]:
    """What may give contestants away: their names, models, adapters, and the models' families."""
    found: list[str] = []
    for contestant in contestants:
        found.append(contestant.name)
        if contestant.setup is None:
            continue
        found += [contestant.setup.adapter, contestant.setup.model]
        family = re.match(r"[A-Za-z]+\d*", contestant.setup.model.rpartition("/")[2])
        found.append(family.group() if family else "")
    kept = dict.fromkeys(word for word in found if len(word) >= _SHORTEST)
    return tuple(sorted(kept, key=len, reverse=True))


def masked(text: str, words: Iterable[str]) -> str:
    """The text with each of the words hidden, in whatever case and with - _ or blanks between.

    Args:
        text: of a reply.
        words: see `words_of`.
    """
    patterns = [r"[-_ ]?".join(map(re.escape, re.split(r"[-_ ]+", word))) for word in words]
    if not patterns:
        return text
    whole = "|".join(rf"(?<!\w){pattern}(?!\w)" for pattern in patterns)
    return re.sub(whole, MASK, text, flags=re.IGNORECASE)

"""Puts the chats of a file into a store, each of them once; it draws nothing and asks nobody."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatlm.store.importing import Bad, Format, Read, read
from chatlm.store.store import Store

MOST_BAD = 20
"""Bad chats that are named; further ones are only counted."""


@dataclass
class Import:
    """How far an import is."""

    done: int = 0
    """Bytes read so far, of `total`."""
    total: int = 0
    checking: bool = False
    """Whether the file is still looked through, before anything is stored."""
    added: list[int] = field(default_factory=list)
    """Ids of the new chats, forks among them."""
    there: int = 0
    """Chats that were stored already."""
    left_out: Counter[str] = field(default_factory=Counter)
    """What a chat of chatlm has no place for, in the plural, and how many there were."""
    bad: list[Bad] = field(default_factory=list)
    """The first chats that cannot be read."""
    bad_count: int = 0
    """How many there are in all; where it is not 0 and none may be left out, nothing is added."""
    readable: int = 0
    """How many chats the file was found to hold when it was looked through."""

    def to_dict(self) -> dict[str, Any]:
        """What came of it, as plain values, ready for JSON."""
        return {
            "added": list(self.added),
            "there": self.there,
            "left_out": dict(self.left_out),
            "bad": [bad.to_dict() for bad in self.bad],
            "bad_count": self.bad_count,
        }


def import_file(
    store: Store, path: Path, form: Format = "auto", *, skip_bad: bool = False
) -> Iterator[Import]:
    """Read the chats of a file into the store; yields how far it is after each chat.

    Pulled by the consumer, who may stop at any time: the chats stored by then stay, whole, and
    the same import goes on from there. The same object comes each time and is complete when
    nothing more comes.

    Args:
        store: gets the chats.
        path: the file.
        form: what its chats are; auto looks at each one.
        skip_bad: import the others although some are bad; else the file is read twice, and one
            bad chat keeps all out.

    Raises:
        UsageError: the file cannot be read at all.
        StoreError: the chats cannot be written.
    """
    state = Import()
    if not skip_bad:
        state.checking = True
        for found, state.done, state.total in read(path, form):
            _note_bad(state, found)
            state.readable += isinstance(found, Read)
            yield state
        if state.bad_count:
            return
        state.checking = False
    for found, state.done, state.total in read(path, form):
        if isinstance(found, Read):
            _add(store, found, state)
        elif skip_bad:
            _note_bad(state, found)
        yield state


def _note_bad(state: Import, found: Read | Bad) -> None:
    if isinstance(found, Bad):
        state.bad_count += 1
        if len(state.bad) < MOST_BAD:
            state.bad.append(found)


def _add(store: Store, found: Read, state: Import) -> None:
    original = store.find_same(found.conversation, timed=found.timed)
    if original is None:
        original = store.add_conversation(
            found.conversation,
            lambda turn: found.passages.get(turn, ()),
            lambda turn: found.annotations.get(turn, ()),
            found.provenance.get,
            lambda turn: found.traces.get(turn, ()),
        ).id
        state.added.append(original)
        state.left_out.update(found.left_out)
    else:
        state.there += 1
    for fork in found.forks:
        if store.find_same(fork, timed=found.timed) is None:
            kept = store.add_conversation(dataclasses.replace(fork, forked_from=original))
            state.added.append(kept.id)
        else:
            state.there += 1

"""Draft value, background saving, history of sent messages."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from chatlm.errors import StoreError
from chatlm.store.store import Store
from chatlm.text import visible

OPEN, CLOSE = "\ufdd0", "\ufdd1"
"""Around a placeholder. Unicode keeps these two for a program's inner use and `clean` lets none
through, so nobody can type or paste a placeholder."""


FOLD_LINES = 12


FOLD_CHARACTERS = 1500
"""A paste with more than either is folded."""


_PLACEHOLDER = re.compile(f"{OPEN}pasted ([0-9]+): [^{OPEN}{CLOSE}\n]*{CLOSE}")


_FORGED = str.maketrans({OPEN: "\ufffd", CLOSE: "\ufffd"})


_DRAWN = str.maketrans({OPEN: "[", CLOSE: "]"})


def clean(text: str) -> str:
    """A text from outside, safe to draw and free of placeholders; what is seen is what is sent."""
    return visible(text).translate(_FORGED)


def drawn(text: str) -> str:
    """The text as it is shown, character by character: placeholders stand in brackets."""
    return text.translate(_DRAWN)


def is_long(text: str) -> bool:
    """Whether a pasted text is better folded."""
    return len(text) > FOLD_CHARACTERS or _lines(text) > FOLD_LINES


def placeholder(number: int, text: str) -> str:
    """What stands for a folded text, such as `[pasted 1: 120 lines]`."""
    lines = _lines(text)
    size = f"{lines:,} lines" if lines > 1 else f"{len(text):,} characters"
    return f"{OPEN}pasted {number}: {size}{CLOSE}"


def _lines(text: str) -> int:
    return text.removesuffix("\n").count("\n") + 1


def placeholders(text: str) -> Iterator[tuple[int, int, int]]:
    """`(start, end, number)` of each placeholder in the text."""
    for match in _PLACEHOLDER.finditer(text):
        yield match.start(), match.end(), int(match[1])


@dataclass(frozen=True)
class Draft:
    """A text with placeholders, and what they stand for."""

    text: str = ""
    pastes: Mapping[int, str] = field(default_factory=dict)
    """By the number in the placeholder."""

    @classmethod
    def of(cls, text: str, pastes: Mapping[int, str]) -> Draft:
        """A text with those of the pastes that stand in it."""
        numbers = {number for _, _, number in placeholders(text)}
        return cls(text, {n: paste for n, paste in pastes.items() if n in numbers})

    def unfolded(self) -> str:
        """The whole text."""

        def whole(match: re.Match[str]) -> str:
            return self.pastes.get(int(match[1]), drawn(match[0]))

        return _PLACEHOLDER.sub(whole, self.text)

    def __add__(self, other: Draft) -> Draft:
        """One behind the other; the other's pastes get the numbers that follow."""
        shift = max(self.pastes, default=0)
        moved = {number + shift: text for number, text in other.pastes.items()}

        def renumbered(match: re.Match[str]) -> str:
            number = int(match[1]) + shift
            return placeholder(number, moved[number]) if number in moved else match[0]

        text = self.text + _PLACEHOLDER.sub(renumbered, other.text)
        return Draft(text, {**self.pastes, **moved})

    def dump(self) -> str:
        """As a string to keep; empty for an empty draft."""
        if not self.text:
            return ""
        return json.dumps({"text": self.text, "pastes": self.pastes})

    @classmethod
    def load(cls, state: str) -> Draft:
        """Read back what `dump` made; anything else is a plain text."""
        try:
            return cls._read(json.loads(state))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return cls(clean(state))

    @classmethod
    def _read(cls, values: Mapping[str, object]) -> Draft:
        text, pastes = values["text"], values["pastes"]
        if len(values) != 2 or not isinstance(text, str) or not isinstance(pastes, dict):
            raise TypeError("not a draft")
        read = {int(number): clean(paste) for number, paste in pastes.items()}
        return cls(visible(text), read)


log = logging.getLogger(__name__)


Place = tuple[Store, int | None]
"""A store, and a chat in it or the new chat."""


class DraftKeeper:
    """The newest draft of each chat is what counts; those before it need not reach the disk."""

    def __init__(self) -> None:
        self._newest: dict[Place, str] = {}
        """What is not yet saved."""
        self._changed = threading.Condition()
        self._saving = False

    @property
    def saving(self) -> bool:
        """Whether something is not yet on disk."""
        return self._saving

    def keep(self, store: Store, conversation_id: int | None, state: str) -> None:
        """Save what is typed in a chat, soon."""
        with self._changed:
            self._newest[store, conversation_id] = state
            if not self._saving:
                self._saving = True
                threading.Thread(target=self._save, name="chatlm-drafts", daemon=True).start()

    def draft(self, store: Store, conversation_id: int | None) -> str:
        """What was typed in a chat, saved yet or not.

        Raises:
            StoreError: it cannot be read.
        """
        with self._changed:
            waiting = self._newest.get((store, conversation_id))
        return store.draft(conversation_id) if waiting is None else waiting

    def wait(self, seconds: float) -> None:
        """Let all be saved, if it takes no longer."""
        with self._changed:
            self._changed.wait_for(lambda: not self._saving, seconds)

    def _save(self) -> None:
        while True:
            with self._changed:
                if not self._newest:
                    self._saving = False
                    self._changed.notify_all()
                    return
                (store, conversation_id), state = next(iter(self._newest.items()))
            try:
                store.save_draft(conversation_id, state)
            except StoreError as error:  # typing must go on; sending will say what is wrong
                log.info("draft not saved: %s", error)
            with self._changed:
                if self._newest[store, conversation_id] == state:
                    del self._newest[store, conversation_id]


class History:
    """Earlier messages behind the one that is being written.

    Changes to an earlier one stay while the walk goes on.

    Args:
        read: the earlier messages, newest first; called at the first step of each walk.
    """

    def __init__(self, read: Callable[[], Sequence[str]]) -> None:
        self._read = read
        self._entries: list[Draft] = []
        self._at = 0

    @property
    def walking(self) -> bool:
        """Whether an earlier message stands in place of the one that was being written."""
        return self._at > 0

    def step(self, shown: Draft, steps: int) -> Draft | None:
        """The message `steps` further back, or forth if negative; None where there is none.

        Args:
            shown: what stands in the composer now; it comes back when the walk does.
            steps: 1 or -1.
        """
        if not self.walking:
            if steps < 0:
                return None
            self._entries = [shown, *(Draft(clean(text)) for text in self._read())]
        if not 0 <= self._at + steps < len(self._entries):
            return None
        self._entries[self._at] = shown
        self._at += steps
        return self._entries[self._at]

    def leave(self) -> None:
        """End the walk where it is."""
        self._at = 0

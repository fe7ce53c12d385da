"""Drafts with folded pastes, their background saving, and the message history."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from chatlm.errors import StoreError
from chatlm.store.store import Store
from chatlm.text import escape_controls

PLACEHOLDER_START, PLACEHOLDER_END = "\ufdd0", "\ufdd1"
"""Delimiters of a placeholder: Unicode noncharacters that `sanitise` removes from all
input, so that nobody can type or paste a placeholder."""


FOLD_LINES = 12
"""Lines above which a paste is folded."""


FOLD_CHARACTERS = 1500
"""Characters above which a paste is folded."""


_PLACEHOLDER = re.compile(
    f"{PLACEHOLDER_START}pasted ([0-9]+): "
    f"[^{PLACEHOLDER_START}{PLACEHOLDER_END}\n]*{PLACEHOLDER_END}"
)


_REPLACE_MARKERS = str.maketrans({PLACEHOLDER_START: "\ufffd", PLACEHOLDER_END: "\ufffd"})


_MARKERS_AS_BRACKETS = str.maketrans({PLACEHOLDER_START: "[", PLACEHOLDER_END: "]"})


def sanitise(text: str) -> str:
    """Return an external text that is safe to draw and free of placeholders."""
    return escape_controls(text).translate(_REPLACE_MARKERS)


def for_display(text: str) -> str:
    """Return the text as shown, with placeholders in brackets and the same length."""
    return text.translate(_MARKERS_AS_BRACKETS)


def should_fold(text: str) -> bool:
    """Whether a pasted text should be folded."""
    return len(text) > FOLD_CHARACTERS or _line_count(text) > FOLD_LINES


def format_placeholder(number: int, text: str) -> str:
    """Return the placeholder of a folded text, such as `[pasted 1: 120 lines]`."""
    lines = _line_count(text)
    size = f"{lines:,} lines" if lines > 1 else f"{len(text):,} characters"
    return f"{PLACEHOLDER_START}pasted {number}: {size}{PLACEHOLDER_END}"


def _line_count(text: str) -> int:
    return text.removesuffix("\n").count("\n") + 1


def find_placeholders(text: str) -> Iterator[tuple[int, int, int]]:
    """Yield `(start, end, number)` of each placeholder."""
    for match in _PLACEHOLDER.finditer(text):
        yield match.start(), match.end(), int(match[1])


@dataclass(frozen=True)
class Draft:
    """A text with placeholders and the pastes behind them."""

    text: str = ""
    pastes: Mapping[int, str] = field(default_factory=dict)
    """Pastes by the number in the placeholder."""

    @classmethod
    def with_used_pastes(cls, text: str, pastes: Mapping[int, str]) -> Draft:
        """Return a draft with only the pastes its text uses."""
        numbers = {number for _, _, number in find_placeholders(text)}
        return cls(text, {n: paste for n, paste in pastes.items() if n in numbers})

    def unfold(self) -> str:
        """Return the text with all pastes inserted."""

        def whole(match: re.Match[str]) -> str:
            return self.pastes.get(int(match[1]), for_display(match[0]))

        return _PLACEHOLDER.sub(whole, self.text)

    def __add__(self, other: Draft) -> Draft:
        """Concatenate drafts; the other's pastes are renumbered."""
        shift = max(self.pastes, default=0)
        moved = {number + shift: text for number, text in other.pastes.items()}

        def renumbered(match: re.Match[str]) -> str:
            number = int(match[1]) + shift
            return format_placeholder(number, moved[number]) if number in moved else match[0]

        text = self.text + _PLACEHOLDER.sub(renumbered, other.text)
        return Draft(text, {**self.pastes, **moved})

    def dump(self) -> str:
        """Serialise the draft; empty for an empty draft."""
        if not self.text:
            return ""
        return json.dumps({"text": self.text, "pastes": self.pastes})

    @classmethod
    def load(cls, state: str) -> Draft:
        """Parse a dumped draft; anything else is plain text."""
        try:
            return cls._from_json(json.loads(state))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return cls(sanitise(state))

    @classmethod
    def _from_json(cls, values: Mapping[str, object]) -> Draft:
        text, pastes = values["text"], values["pastes"]
        if len(values) != 2 or not isinstance(text, str) or not isinstance(pastes, dict):
            raise TypeError("not a draft")
        read = {int(number): sanitise(paste) for number, paste in pastes.items()}
        return cls(escape_controls(text), read)


@dataclass(frozen=True)
class TemporaryEdit:
    """A temporary text, such as an edited message; `saved_draft` is restored after it."""

    title: str
    saved_draft: Draft
    message_position: int | None = None
    """Position of the edited message; None for a command."""


log = logging.getLogger(__name__)


DraftKey = tuple[Store, int | None]
"""A store, and a chat in it or the new chat."""


class DraftSaver:
    """Saves drafts in a thread; only the newest draft of each chat is written."""

    def __init__(self) -> None:
        self._unsaved: dict[DraftKey, str] = {}
        """Drafts that are not yet saved."""
        self._condition = threading.Condition()
        self._saving = False

    @property
    def saving(self) -> bool:
        """Whether something is not yet on disk."""
        return self._saving

    def save(self, store: Store, conversation_id: int | None, state: str) -> None:
        """Save the draft of a chat in the background."""
        with self._condition:
            self._unsaved[store, conversation_id] = state
            if not self._saving:
                self._saving = True
                threading.Thread(target=self._save_loop, name="chatlm-drafts", daemon=True).start()

    def load(self, store: Store, conversation_id: int | None) -> str:
        """Return the draft of a chat, saved yet or not.

        Raises:
            StoreError: it cannot be read.
        """
        with self._condition:
            waiting = self._unsaved.get((store, conversation_id))
        return store.draft(conversation_id) if waiting is None else waiting

    def wait(self, seconds: float) -> None:
        """Wait until all drafts are saved, for at most `seconds`."""
        with self._condition:
            self._condition.wait_for(lambda: not self._saving, seconds)

    def _save_loop(self) -> None:
        while True:
            with self._condition:
                if not self._unsaved:
                    self._saving = False
                    self._condition.notify_all()
                    return
                (store, conversation_id), state = next(iter(self._unsaved.items()))
            try:
                store.save_draft(conversation_id, state)
            except StoreError as error:  # typing must go on; sending will say what is wrong
                log.info("draft not saved: %s", error)
            with self._condition:
                if self._unsaved[store, conversation_id] == state:
                    del self._unsaved[store, conversation_id]


class MessageHistory:
    """History of sent messages, browsed like a shell history.

    Changes to an earlier message are kept while browsing.

    Args:
        load: returns the earlier messages, newest first; called when browsing starts.
    """

    def __init__(self, load: Callable[[], Sequence[str]]) -> None:
        self._load = load
        self._entries: list[Draft] = []
        self._index = 0

    @property
    def browsing(self) -> bool:
        """Whether an earlier message is shown."""
        return self._index > 0

    def step(self, current: Draft, steps: int) -> Draft | None:
        """Return the message `steps` back, or forward if negative; None if there is none.

        Args:
            current: the draft in the composer, restored on the way back.
            steps: 1 or -1.
        """
        if not self.browsing:
            if steps < 0:
                return None
            self._entries = [current, *(Draft(sanitise(text)) for text in self._load())]
        if not 0 <= self._index + steps < len(self._entries):
            return None
        self._entries[self._index] = current
        self._index += steps
        return self._entries[self._index]

    def reset(self) -> None:
        """Stop browsing at the current message."""
        self._index = 0

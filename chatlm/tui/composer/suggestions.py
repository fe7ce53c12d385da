"""Suggest how a text could continue."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Thread

from rich.cells import cell_len, set_cell_size

from chatlm.tui.composer.drafts import sanitise

log = logging.getLogger(__name__)

_FIRST_WORD = re.compile(r"\s*\S+")

MIN_SUGGESTION_WIDTH = 2
"""Columns below which a suggestion is not shown."""


@dataclass(frozen=True)
class Question:
    """A text for which a suggestion is wanted."""

    version: int
    """Version of the text in the composer."""
    text: str


class Suggestions:
    """The suggestion for the end of a text, asked for in a thread.

    One question is asked at a time. While its answer takes long, only the newest question waits, so
    that a slow plugin delays nothing but suggestions. An answer about an earlier text is dropped.

    Args:
        ask: returns what to insert at the end of a text, empty for nothing; called in a thread.
        call_in_ui_thread: calls a function in the UI thread, from any thread.
        on_suggested: called when `rest` has become known.
    """

    def __init__(
        self,
        ask: Callable[[str], str],
        *,
        call_in_ui_thread: Callable[[Callable[[], None]], object],
        on_suggested: Callable[[], None],
    ) -> None:
        self._ask = ask
        self._call_in_ui_thread = call_in_ui_thread
        self._on_suggested = on_suggested
        self._text = ""
        self._version = 0
        self._start = 0
        """Length of the text that the suggestion was made for."""
        self._suggested = ""
        """That text and its suggestion; empty for none."""
        self._asked: Question | None = None
        self._waiting: Question | None = None

    @property
    def rest(self) -> str:
        """What is suggested after the current text; empty for nothing."""
        return self._suggested[len(self._text) :]

    @property
    def busy(self) -> bool:
        """Whether an answer is expected."""
        return self._asked is not None

    def follow(self, text: str) -> None:
        """Take the current text; a suggestion is kept while the user types what it says."""
        self._text = text
        self._version += 1
        self._waiting = None
        if not (self._suggested.startswith(text) and len(text) >= self._start):
            self._suggested = ""

    def request(self, unfolded_text: str) -> None:
        """Ask for a suggestion for the current text.

        Args:
            unfolded_text: the current text with its pastes.
        """
        self._waiting = Question(self._version, unfolded_text)
        if self._asked is None:
            self._ask_next()

    def _ask_next(self) -> None:
        self._asked, self._waiting = self._waiting, None
        if self._asked is not None:
            Thread(
                target=self._answer, args=(self._asked,), name="chatlm-suggestion", daemon=True
            ).start()

    def _answer(self, question: Question) -> None:
        """Ask in a thread of its own."""
        suggestion = ""
        try:
            suggestion = self._ask(question.text)
        except Exception as error:  # the user did not ask for a suggestion: only the log tells
            log.info("no suggestion: %s", error)
        self._call_in_ui_thread(partial(self._take_answer, question, suggestion))

    def _take_answer(self, question: Question, suggestion: str) -> None:
        if question.version == self._version:
            line = sanitise(suggestion.partition("\n")[0])
            self._start = len(self._text)
            self._suggested = self._text + line if line else ""
            self._on_suggested()
        self._ask_next()


def first_word(suggestion: str) -> str:
    """Return a suggestion up to the end of its first word, with the blanks before it."""
    match = _FIRST_WORD.match(suggestion)
    return match[0] if match else suggestion


def fit_suggestion(suggestion: str, width: int) -> str:
    """Return a suggestion as shown in so many columns; empty if it has no room."""
    line = suggestion.replace("\t", " ")
    if cell_len(line) <= width:
        return line
    return set_cell_size(line, width - 1) + "…" if width >= MIN_SUGGESTION_WIDTH else ""

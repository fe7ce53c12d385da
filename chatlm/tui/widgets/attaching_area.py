"""A text area whose text may name files as `@path`, with what they cost; sends nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from textual import on, work
from textual.content import Content
from textual.message import Message
from textual.timer import Timer
from textual.widgets import TextArea

from chatlm.errors import UsageError
from chatlm.text import one_line
from chatlm.tui import attachments
from chatlm.tui.attachments import Attachment, Cost, Count
from chatlm.tui.commands import Command
from chatlm.tui.completion import Candidate, Completer
from chatlm.tui.drafts import clean
from chatlm.tui.widgets.completing_area import CompletingArea

PAUSE = 0.5
"""Seconds after a change, at most, until what is typed is looked at as a whole."""

Costs = Mapping[Attachment, Cost | UsageError]


class AttachingArea(CompletingArea):
    """Knows the files that are named, and counts their tokens in a thread.

    Args:
        typed, values, folder: see `CompletingArea`.
        count_tokens: what a text costs; called in a thread.
    """

    @dataclass
    class FilesCounted(Message):
        """The files that `text` names, and what each adds to it."""

        text: str
        costs: Costs

    def __init__(
        self,
        typed: Iterable[Command],
        values: Mapping[str, Completer],
        folder: Path,
        count_tokens: Count,
        *,
        id: str,
        placeholder: str,
    ) -> None:
        super().__init__(typed, values, folder, id=id, placeholder=placeholder)
        self._count_tokens = count_tokens
        self._costs: Costs = {}
        self._pause: Timer | None = None

    def attach(self, path: str) -> None:
        """Name a file at the cursor.

        Raises:
            UsageError: it is missing, not readable, no text or too large.
        """
        name = one_line(path, attachments.NAME_WIDTH)
        found = attachments.locate(path, self._folder)
        if found is None:
            raise UsageError(f"{name} does not exist", hint="Check the path.")
        if not found.is_file():
            raise UsageError(f"{name} is not a file", hint="Give the path of a text file.")
        attachments.read(found, path)
        row, column = self.cursor_location
        blank = " " if column and not self.document[row][column - 1].isspace() else ""
        words = clean(attachments.mention(path))
        self.insert(f"{blank}{words} ", maintain_selection_offset=False)
        self.recount()

    def recount(self) -> None:
        """Count the files now; also when a model has come that can."""
        self._count(self.text, {})

    def with_files(self, text: str) -> str:
        """The text, unfolded, and below it the text of each file that it names.

        Raises:
            UsageError: a file cannot be read, or is gone since it was counted.
        """
        files = attachments.attached(text, self._folder)
        words = {file.words for file in files}
        gone = [file for file in self._costs if file.words in text and file.words not in words]
        blocks = attachments.blocks([*gone, *files])
        whole = self.unfold(attachments.name_in_words(text, files))
        return "\n\n".join([whole.rstrip(), *blocks]) if blocks else whole

    def look_over(self) -> None:
        """Look at what was typed as a whole."""
        if "@" in self.text:
            self._count(self.text, self._costs)

    def notes(self) -> list[str]:
        """What the border says below: for each file what it adds."""
        text = self.text
        return attachments.summary(cost for file, cost in self._costs.items() if file.words in text)

    def describe(self) -> None:
        """Bring the border up to date."""
        notes = Content(" │ ".join(self.notes()))
        if notes.markup != (self.border_subtitle or ""):
            self.border_subtitle = notes

    def _take(self, candidate: Candidate, *, sends: bool = False) -> None:
        super()._take(candidate, sends=sends)
        self.look_over()

    @on(TextArea.Changed)
    def _changed(self) -> None:
        self.describe()
        if self._pause is None:
            self._pause = self.set_timer(PAUSE, self._time_is_up)

    def _time_is_up(self) -> None:
        self._pause = None
        self.look_over()

    @work(thread=True, exclusive=True, group="files", exit_on_error=False)
    def _count(self, text: str, known: Costs) -> None:
        costs: dict[Attachment, Cost | UsageError] = {}
        before = {file.words: cost for file, cost in known.items()}
        for file in attachments.attached(text, self._folder):
            cost = before.get(file.words)
            if not isinstance(cost, Cost) or cost.tokens is None:
                cost = attachments.cost(file, self._count_tokens)
            costs[file] = cost
        self.post_message(self.FilesCounted(text, costs))

    @on(FilesCounted)
    def _show_costs(self, event: FilesCounted) -> None:
        event.stop()
        if event.text == self.text:
            self._costs = event.costs
            self.describe()

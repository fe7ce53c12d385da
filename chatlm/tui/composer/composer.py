"""Composer: the one TextArea subclass; file costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from textual import on, work
from textual.content import Content
from textual.document._document import Location
from textual.message import Message
from textual.timer import Timer
from textual.widgets import TextArea

from chatlm.errors import UsageError
from chatlm.text import escape_controls, one_line
from chatlm.tui import commands
from chatlm.tui import commands as commands_module
from chatlm.tui.commands import Command
from chatlm.tui.composer import attachments
from chatlm.tui.composer.attachments import Attachment, AttachmentCost, TokenCounter
from chatlm.tui.composer.completion import Candidate, Completer, CompletingArea
from chatlm.tui.composer.drafts import Draft, MessageHistory, sanitise

SCAN_DELAY_SECONDS = 0.5
"""Seconds after a change, at most, until what is typed is looked at as a whole."""


AttachmentCosts = Mapping[Attachment, AttachmentCost | UsageError]


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
        costs: AttachmentCosts

    def __init__(
        self,
        typed: Iterable[Command],
        values: Mapping[str, Completer],
        folder: Path,
        count_tokens: TokenCounter,
        *,
        id: str,
        placeholder: str,
    ) -> None:
        super().__init__(typed, values, folder, id=id, placeholder=placeholder)
        self._count_tokens = count_tokens
        self._costs: AttachmentCosts = {}
        self._pause: Timer | None = None

    def attach(self, path: str) -> None:
        """Name a file at the cursor.

        Raises:
            UsageError: it is missing, not readable, no text or too large.
        """
        name = one_line(path, attachments.MAX_NAME_WIDTH)
        found = attachments.resolve_path(path, self._folder)
        if found is None:
            raise UsageError(f"{name} does not exist", hint="Check the path.")
        if not found.is_file():
            raise UsageError(f"{name} is not a file", hint="Give the path of a text file.")
        attachments.read_text_file(found, path)
        row, column = self.cursor_location
        blank = " " if column and not self.document[row][column - 1].isspace() else ""
        words = sanitise(attachments.format_mention(path))
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
        files = attachments.find_attachments(text, self._folder)
        words = {file.words for file in files}
        gone = [file for file in self._costs if file.words in text and file.words not in words]
        blocks = attachments.format_blocks([*gone, *files])
        whole = self.unfold(attachments.replace_mentions(text, files))
        return "\n\n".join([whole.rstrip(), *blocks]) if blocks else whole

    def look_over(self) -> None:
        """Look at what was typed as a whole."""
        if "@" in self.text:
            self._count(self.text, self._costs)

    def notes(self) -> list[str]:
        """What the border says below: for each file what it adds."""
        text = self.text
        return attachments.summarise_costs(
            cost for file, cost in self._costs.items() if file.words in text
        )

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
            self._pause = self.set_timer(SCAN_DELAY_SECONDS, self._time_is_up)

    def _time_is_up(self) -> None:
        self._pause = None
        self.look_over()

    @work(thread=True, exclusive=True, group="files", exit_on_error=False)
    def _count(self, text: str, known: AttachmentCosts) -> None:
        costs: dict[Attachment, AttachmentCost | UsageError] = {}
        before = {file.words: cost for file, cost in known.items()}
        for file in attachments.find_attachments(text, self._folder):
            cost = before.get(file.words)
            if not isinstance(cost, AttachmentCost) or cost.tokens is None:
                cost = attachments.attachment_cost(file, self._count_tokens)
            costs[file] = cost
        self.post_message(self.FilesCounted(text, costs))

    @on(FilesCounted)
    def _show_costs(self, event: FilesCounted) -> None:
        event.stop()
        if event.text == self.text:
            self._costs = event.costs
            self.describe()


@dataclass(frozen=True)
class TemporaryEdit:
    """Something else that is being written; `before` waits for it and comes back."""

    title: str
    before: Draft
    edit: int | None = None
    """Which message is being changed; None while it is a command."""


class Composer(AttachingArea):
    """Sends with Enter and keeps its text until it is told that all went well.

    Args:
        typed: the slash commands; None for all that can be typed.
        history: the messages sent before, newest first.
        count_tokens: what a text costs, None while no model is there; called in a thread.
        values: completes the arguments of commands, by the command's name. Paths are completed
            without it.
        folder: where paths start; None for the working directory.
    """

    DEFAULT_CSS = """
    Composer {
        height: auto;
        min-height: 3;
        max-height: 10;
        border: round $foreground 30%;
        padding: 0 1;
        background: transparent;
        scrollbar-size-vertical: 1;
        border-title-color: $text-warning;
        border-subtitle-color: $text-muted;

        &:focus { border: round $primary; }
        &.-incognito { border: round $warning 60%; }
        &.-incognito:focus { border: round $warning; }
        &.-editing, &.-editing:focus { border: round $accent; border-title-color: $text-accent; }
        & .text-area--placeholder { color: $text-muted; }
    }
    """

    @dataclass
    class Sent(Message):
        """The person wants this text, which is not blank, to be sent; `sent` says that it was."""

        text: str
        draft: Draft
        """As it stood here."""
        aside: TemporaryEdit | None = None

        @property
        def edit(self) -> int | None:
            """What `begin_edit` was given: which message it replaces."""
            return self.aside.edit if self.aside else None

    @dataclass
    class Commanded(Message):
        """The person typed a command; nothing of it is left in the composer."""

        name: str
        argument: str

    @dataclass
    class Drafted(Message):
        """What is typed has changed; `state` has it."""

    def __init__(
        self,
        typed: Sequence[Command] | None = None,
        *,
        history: Callable[[], Sequence[str]] = tuple,
        count_tokens: TokenCounter = lambda text: None,
        values: Mapping[str, Completer] | None = None,
        folder: Path | None = None,
    ) -> None:
        every = [command for command in commands.ALL.values() if command.typed]
        super().__init__(
            every if typed is None else typed,
            values or {},
            folder or Path.cwd(),
            count_tokens,
            id="composer",
            placeholder="Write a message, / for commands, @ for files",
        )
        self._earlier = MessageHistory(history)
        self._recalled: tuple[str, Location] | None = None
        """Text and cursor as the last step through the history left them."""
        self._aside: TemporaryEdit | None = None
        self._sent: Composer.Sent | None = None
        """The message that is on its way, or the last one that was."""
        self._kept = ""
        """The state that was known last."""

    def message(self) -> str:
        """What Enter would send now: pastes unfolded, files put in.

        Raises:
            UsageError: a file cannot be attached, or a command is typed.
        """
        meaning = self._meaning()
        if not isinstance(meaning, str):
            raise UsageError("What is typed is a command", hint=commands_module.DOUBLE_SLASH_HINT)
        return self.with_files(meaning)

    def action_send(self) -> None:
        """Post the message or the command, unless nothing is typed."""
        self.close_completion()
        if not self.text.strip():
            return
        try:
            meaning = self._meaning()
            if isinstance(meaning, str):
                self._post(self.with_files(meaning))
            else:
                self._run(*meaning)
        except UsageError as error:
            self.notify(escape_controls(str(error)), severity="warning", markup=False)

    def sent(self, message: Sent) -> None:
        """The message is on its way: forget it, and keep what was typed since."""
        whole, posted = self.draft, message.draft.text
        since = whole.text.removeprefix(posted) if whole.text.startswith(posted) else ""
        before = message.aside.before if message.aside else Draft()
        self._sent = message
        self._earlier.leave()
        self._set_aside(None)
        self.show(before + Draft.of(since, whole.pastes))

    def put_back(self, text: str) -> None:
        """Show a text again that could not be sent, before what was typed since."""
        typed, back = self.draft, Draft(sanitise(text))
        if self._sent is not None and self._sent.text == text:
            back = self._sent.draft
            if self._sent.aside is not None:
                self._set_aside(dataclasses.replace(self._sent.aside, before=typed))
                typed = Draft()
        self.show(back + Draft("\n") + typed if typed.text else back)

    def state(self) -> str:
        """Everything that was typed, to be kept; empty when there is nothing."""
        return self._waiting.dump()

    def restore(self, state: str) -> None:
        """Show what `state` gave, in place of what stands here; any other string as a text."""
        self._set_aside(None)
        self._sent = None
        self._earlier.leave()
        self.show(Draft.load(state))
        self._kept = self.state()

    @property
    def editing(self) -> bool:
        """Whether a message or a command is being written for which the draft waits."""
        return self._aside is not None

    def begin_edit(self, text: str, title: str, edit: int) -> None:
        """Let the person change a message that was sent; what was being written waits.

        Args:
            text: the message.
            title: shown in the border, such as `editing message 3`.
            edit: which message it is; `Sent` has it again.
        """
        self._set_aside(TemporaryEdit(title, self._waiting, edit))
        self.show(Draft(sanitise(text)))

    def begin_command(self, command: Command) -> None:
        """Let the person type a command's argument; what was being written waits."""
        self._set_aside(TemporaryEdit(f"/{command.name} {command.argument}", self._waiting))
        self.show(Draft(f"/{command.name} "))
        self.look()

    def end_edit(self) -> bool:
        """Leave the message or the command, and go on with the draft; False when there is none."""
        aside = self._aside
        if aside is not None:
            self._set_aside(None)
            self.show(aside.before)
        return aside is not None

    @property
    def takes_commands(self) -> bool:
        """A message that is edited is one, whatever it begins with."""
        return self._aside is None or self._aside.edit is None

    def action_newline(self) -> None:
        """Begin a new line at the cursor."""
        self.insert("\n")
        self.scroll_cursor_visible()

    def action_cursor_up(self, select: bool = False) -> None:
        """Move up, or from the first line to the message before."""
        first = self.navigator.is_first_wrapped_line(self.cursor_location)
        if select or not self._recall(1, at_edge=first):
            super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        """Move down, or from the last line to the message after."""
        last = self.navigator.is_last_wrapped_line(self.cursor_location)
        if select or not self._recall(-1, at_edge=last):
            super().action_cursor_down(select)

    def show(self, draft: Draft) -> None:
        """Put a draft in place of what stands here."""
        super().show(draft)
        self.close_completion()
        self.describe()

    def notes(self) -> list[str]:
        """The keys that leave an edit and unfold a paste, and what files cost."""
        keys = commands.key_of
        does = "runs it" if self.takes_commands else "asks again in a fork"
        aside = f"{keys('send')} {does} · {keys('stop')} leaves it"
        unfold = f"{keys('unfold')} unfolds"
        return [aside] * self.editing + super().notes() + [unfold] * self.has_folds

    def look_over(self) -> None:
        """Say that there is something to keep."""
        super().look_over()
        state = self.state()
        if state != self._kept:
            self._kept = state
            self.post_message(self.Drafted())

    def _meaning(self) -> tuple[Command, str] | str:
        return (
            commands_module.parse_slash_command(self.text, self._commands)
            if self.takes_commands
            else self.text
        )

    def _post(self, text: str) -> None:
        """What is typed while the message is looked at comes behind it."""
        message = self.Sent(text, self.draft, self._aside)
        self.move_cursor(self.document.end)
        self.post_message(message)

    def _run(self, command: Command, argument: str) -> None:
        argument = self.unfold(argument)
        if not self.end_edit():
            self.show(Draft())
        self.post_message(self.Commanded(command.name, argument))

    @property
    def _waiting(self) -> Draft:
        """The draft, whether it stands here or waits."""
        return self._aside.before if self._aside else self.draft

    def _set_aside(self, aside: TemporaryEdit | None) -> None:
        self._aside = aside
        self.set_class(aside is not None, "-editing")
        self.border_title = Content(one_line(aside.title, 60)) if aside else None

    def _recall(self, steps: int, *, at_edge: bool) -> bool:
        """Walk on if the cursor is at the edge or where the last step left it; False if not."""
        stands = (self.text, self.cursor_location)
        if self.editing or not (at_edge or (self._earlier.walking and stands == self._recalled)):
            return False
        draft = self._earlier.step(self.draft, steps)
        if draft is None:
            return False
        self.show(draft)
        self._recalled = (self.text, self.cursor_location)
        return True

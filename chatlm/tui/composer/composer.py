"""The composer: sending, slash commands, history, edits and attachment costs."""

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

from chatlm.chat.attachments import MAX_NAME_WIDTH, read_text_file
from chatlm.errors import UsageError
from chatlm.text import escape_controls, one_line
from chatlm.tui import commands
from chatlm.tui import commands as commands_module
from chatlm.tui.commands import Command
from chatlm.tui.composer import attachments
from chatlm.tui.composer.attachments import Attachment, AttachmentCost, FileReader, TokenCounter
from chatlm.tui.composer.completion import Candidate, Completer, CompletingArea
from chatlm.tui.composer.drafts import Draft, MessageHistory, sanitise

SCAN_DELAY_SECONDS = 0.5
"""Maximum seconds from a change to the scan of the whole text."""


AttachmentCosts = Mapping[Attachment, AttachmentCost | UsageError]


class AttachingArea(CompletingArea):
    """A text area that finds attachments and counts their tokens in a thread.

    Args:
        typed, values, folder: see `CompletingArea`.
        count_tokens: returns the tokens of a text; called in a thread.
        read_file: reads attached files; called in a thread too.
    """

    @dataclass
    class FilesCounted(Message):
        """Costs of the files that `text` mentions."""

        text: str
        costs: AttachmentCosts

    def __init__(
        self,
        slash_commands: Iterable[Command],
        completers: Mapping[str, Completer],
        folder: Path,
        count_tokens: TokenCounter,
        read_file: FileReader,
        *,
        id: str,
        placeholder: str,
    ) -> None:
        super().__init__(slash_commands, completers, folder, id=id, placeholder=placeholder)
        self._count_tokens = count_tokens
        self._read_file = read_file
        self._costs: AttachmentCosts = {}
        self._scan_timer: Timer | None = None

    def attach_file(self, path: str) -> None:
        """Insert a file mention at the cursor.

        Raises:
            UsageError: it is missing, unreadable, not text, or too large.
        """
        name = one_line(path, MAX_NAME_WIDTH)
        found = attachments.resolve_path(path, self._folder)
        if found is None:
            raise UsageError(f"{name} does not exist", hint="Check the path.")
        if not found.is_file():
            raise UsageError(f"{name} is not a file", hint="Give the path of a text file.")
        self._read_file(found, path)
        row, column = self.cursor_location
        blank = " " if column and not self.document[row][column - 1].isspace() else ""
        words = sanitise(attachments.format_mention(path))
        self.insert(f"{blank}{words} ", maintain_selection_offset=False)
        self.recount_files()

    def recount_files(self) -> None:
        """Count the files now, for example after a model was loaded."""
        self._count_files(self.text, {})

    def with_attachments(self, text: str) -> str:
        """Return the unfolded text followed by the blocks of the attached files.

        Raises:
            UsageError: a file cannot be read.
        """
        files = attachments.find_attachments(text, self._folder)
        words = {file.mention for file in files}
        gone = [file for file in self._costs if file.mention in text and file.mention not in words]
        blocks = attachments.format_blocks([*gone, *files], self._read_file)
        whole = self.unfold(attachments.replace_mentions(text, files))
        return "\n\n".join([whole.rstrip(), *blocks]) if blocks else whole

    def scan_text(self) -> None:
        """Scan the whole text."""
        if "@" in self.text:
            self._count_files(self.text, self._costs)

    def border_notes(self) -> list[str]:
        """Return the notes of the bottom border: the cost of each file."""
        text = self.text
        return attachments.summarise_costs(
            cost for file, cost in self._costs.items() if file.mention in text
        )

    def update_border(self) -> None:
        """Update the border."""
        notes = Content(" │ ".join(self.border_notes()))
        if notes.markup != (self.border_subtitle or ""):
            self.border_subtitle = notes

    def _accept(self, candidate: Candidate, *, send: bool = False) -> None:
        super()._accept(candidate, send=send)
        self.scan_text()

    @on(TextArea.Changed)
    def _schedule_scan(self) -> None:
        self.update_border()
        if self._scan_timer is None:
            self._scan_timer = self.set_timer(SCAN_DELAY_SECONDS, self._run_scan)

    def _run_scan(self) -> None:
        self._scan_timer = None
        self.scan_text()

    @work(thread=True, exclusive=True, group="files", exit_on_error=False)
    def _count_files(self, text: str, known_costs: AttachmentCosts) -> None:
        costs: dict[Attachment, AttachmentCost | UsageError] = {}
        before = {file.mention: cost for file, cost in known_costs.items()}
        for file in attachments.find_attachments(text, self._folder):
            cost = before.get(file.mention)
            if not isinstance(cost, AttachmentCost) or cost.tokens is None:
                cost = attachments.attachment_cost(file, self._count_tokens, self._read_file)
            costs[file] = cost
        self.post_message(self.FilesCounted(text, costs))

    @on(FilesCounted)
    def _show_costs(self, event: FilesCounted) -> None:
        event.stop()
        if event.text == self.text:
            self._costs = event.costs
            self.update_border()


@dataclass(frozen=True)
class TemporaryEdit:
    """A temporary text, such as an edited message; `saved_draft` is restored after it."""

    title: str
    saved_draft: Draft
    message_position: int | None = None
    """Position of the edited message; None for a command."""


class Composer(AttachingArea):
    """The text area for messages and commands; a sent text stays until it is confirmed.

    Args:
        slash_commands: the slash commands; None for all.
        history: the messages sent before, newest first.
        count_tokens: returns the tokens of a text; called in a thread.
        completers: completes the arguments of commands, by the command's name. Paths are completed
            without it.
        folder: where paths start; None for the working directory.
        read_file: reads attached files; called in a thread too.
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
    class Submitted(Message):
        """The user sent this non-blank text; `confirm_submitted` clears it."""

        text: str
        draft: Draft
        """The draft that was sent."""
        temporary_edit: TemporaryEdit | None = None

        @property
        def edited_position(self) -> int | None:
            """Position of the message it replaces."""
            return self.temporary_edit.message_position if self.temporary_edit else None

    @dataclass
    class CommandEntered(Message):
        """The user entered a command, which was removed from the composer."""

        name: str
        argument: str

    @dataclass
    class DraftChanged(Message):
        """The draft has changed."""

    def __init__(
        self,
        slash_commands: Sequence[Command] | None = None,
        *,
        history: Callable[[], Sequence[str]] = tuple,
        count_tokens: TokenCounter = lambda text: None,
        completers: Mapping[str, Completer] | None = None,
        folder: Path | None = None,
        read_file: FileReader = read_text_file,
    ) -> None:
        every = [command for command in commands.ALL.values() if command.is_slash_command]
        super().__init__(
            every if slash_commands is None else slash_commands,
            completers or {},
            folder or Path.cwd(),
            count_tokens,
            read_file,
            id="composer",
            placeholder="Write a message, / for commands, @ for files",
        )
        self._message_history = MessageHistory(history)
        self._last_recall: tuple[str, Location] | None = None
        """Text and cursor after the last history step."""
        self._temporary_edit: TemporaryEdit | None = None
        self._last_submitted: Composer.Submitted | None = None
        """The last submitted message."""
        self._last_state = ""
        """The last announced draft."""

    def outgoing_message(self) -> str:
        """Return what Enter would send: pastes unfolded, files inserted.

        Raises:
            UsageError: a file cannot be attached, or the text is a command.
        """
        meaning = self._parse_input()
        if not isinstance(meaning, str):
            raise UsageError("This is a command", hint=commands_module.DOUBLE_SLASH_HINT)
        return self.with_attachments(meaning)

    def action_send(self) -> None:
        """Post the message or the command, unless it is blank."""
        self.close_completion()
        if not self.text.strip():
            return
        try:
            meaning = self._parse_input()
            if isinstance(meaning, str):
                self._submit_text(self.with_attachments(meaning))
            else:
                self._enter_command(*meaning)
        except UsageError as error:
            self.notify(escape_controls(str(error)), severity="warning", markup=False)

    def confirm_submitted(self, message: Submitted) -> None:
        """Remove a sent message, and keep text typed since."""
        whole, posted = self.draft, message.draft.text
        since = whole.text.removeprefix(posted) if whole.text.startswith(posted) else ""
        before = message.temporary_edit.saved_draft if message.temporary_edit else Draft()
        self._last_submitted = message
        self._message_history.reset()
        self._set_temporary_edit(None)
        self.set_draft(before + Draft.with_used_pastes(since, whole.pastes))

    def restore_unsent(self, text: str) -> None:
        """Restore an unsent text before text typed since."""
        typed, back = self.draft, Draft(sanitise(text))
        if self._last_submitted is not None and self._last_submitted.text == text:
            back = self._last_submitted.draft
            if self._last_submitted.temporary_edit is not None:
                self._set_temporary_edit(
                    dataclasses.replace(self._last_submitted.temporary_edit, saved_draft=typed)
                )
                typed = Draft()
        self.set_draft(back + Draft("\n") + typed if typed.text else back)

    def dump_draft(self) -> str:
        """Serialise the draft; empty if there is none."""
        return self._main_draft.dump()

    def load_draft(self, state: str) -> None:
        """Load a serialised draft; any other string is plain text."""
        self._set_temporary_edit(None)
        self._last_submitted = None
        self._message_history.reset()
        self.set_draft(Draft.load(state))
        self._last_state = self.dump_draft()

    @property
    def editing(self) -> bool:
        """Whether a temporary text is being edited."""
        return self._temporary_edit is not None

    def begin_edit(self, text: str, title: str, message_position: int) -> None:
        """Edit a sent message; the current draft is restored afterwards.

        Args:
            text: the message.
            title: shown in the border, such as `editing message 3`.
            message_position: its position, repeated in `Submitted`.
        """
        self._set_temporary_edit(TemporaryEdit(title, self._main_draft, message_position))
        self.set_draft(Draft(sanitise(text)))

    def begin_command(self, command: Command) -> None:
        """Type a command's argument; the current draft is restored afterwards."""
        self._set_temporary_edit(
            TemporaryEdit(f"/{command.name} {command.argument}", self._main_draft)
        )
        self.set_draft(Draft(f"/{command.name} "))
        self.update_completion()

    def end_edit(self) -> bool:
        """End the temporary edit and restore the draft; return False if there is none."""
        aside = self._temporary_edit
        if aside is not None:
            self._set_temporary_edit(None)
            self.set_draft(aside.saved_draft)
        return aside is not None

    @property
    def accepts_commands(self) -> bool:
        """An edited message is never a command."""
        return self._temporary_edit is None or self._temporary_edit.message_position is None

    def action_newline(self) -> None:
        """Insert a newline at the cursor."""
        self.insert("\n")
        self.scroll_cursor_visible()

    def action_cursor_up(self, select: bool = False) -> None:
        """Move up, or from the first line to the previous message."""
        first = self.navigator.is_first_wrapped_line(self.cursor_location)
        if select or not self._recall_message(1, at_edge=first):
            super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        """Move down, or from the last line to the next message."""
        last = self.navigator.is_last_wrapped_line(self.cursor_location)
        if select or not self._recall_message(-1, at_edge=last):
            super().action_cursor_down(select)

    def set_draft(self, draft: Draft) -> None:
        """Replace the text by a draft."""
        super().set_draft(draft)
        self.close_completion()
        self.update_border()

    def border_notes(self) -> list[str]:
        """Return the notes of the bottom border: keys and attachment costs."""
        keys = commands.key_of
        does = "runs" if self.accepts_commands else "resends in a fork"
        aside = f"{keys('send')} {does} · {keys('stop')} cancels"
        unfold = f"{keys('unfold')} unfolds"
        return [aside] * self.editing + super().border_notes() + [unfold] * self.has_folds

    def scan_text(self) -> None:
        """Announce a changed draft."""
        super().scan_text()
        state = self.dump_draft()
        if state != self._last_state:
            self._last_state = state
            self.post_message(self.DraftChanged())

    def _parse_input(self) -> tuple[Command, str] | str:
        return (
            commands_module.parse_slash_command(self.text, self._commands)
            if self.accepts_commands
            else self.text
        )

    def _submit_text(self, text: str) -> None:
        """Hold back text typed while the message is checked."""
        message = self.Submitted(text, self.draft, self._temporary_edit)
        self.move_cursor(self.document.end)
        self.post_message(message)

    def _enter_command(self, command: Command, argument: str) -> None:
        argument = self.unfold(argument)
        if not self.end_edit():
            self.set_draft(Draft())
        self.post_message(self.CommandEntered(command.name, argument))

    @property
    def _main_draft(self) -> Draft:
        """The draft, shown or saved during a temporary edit."""
        return self._temporary_edit.saved_draft if self._temporary_edit else self.draft

    def _set_temporary_edit(self, temporary_edit: TemporaryEdit | None) -> None:
        self._temporary_edit = temporary_edit
        self.set_class(temporary_edit is not None, "-editing")
        self.border_title = Content(one_line(temporary_edit.title, 60)) if temporary_edit else None

    def _recall_message(self, steps: int, *, at_edge: bool) -> bool:
        """Step through the history if the cursor is at the edge; return False if not."""
        stands = (self.text, self.cursor_location)
        if self.editing or not (
            at_edge or (self._message_history.browsing and stands == self._last_recall)
        ):
            return False
        draft = self._message_history.step(self.draft, steps)
        if draft is None:
            return False
        self.set_draft(draft)
        self._last_recall = (self.text, self.cursor_location)
        return True

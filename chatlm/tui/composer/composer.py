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
        slash_commands: Iterable[Command],
        completers: Mapping[str, Completer],
        folder: Path,
        count_tokens: TokenCounter,
        *,
        id: str,
        placeholder: str,
    ) -> None:
        super().__init__(slash_commands, completers, folder, id=id, placeholder=placeholder)
        self._count_tokens = count_tokens
        self._costs: AttachmentCosts = {}
        self._scan_timer: Timer | None = None

    def attach_file(self, path: str) -> None:
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
        self.recount_files()

    def recount_files(self) -> None:
        """Count the files now; also when a model has come that can."""
        self._count_files(self.text, {})

    def with_attachments(self, text: str) -> str:
        """The text, unfolded, and below it the text of each file that it names.

        Raises:
            UsageError: a file cannot be read, or is gone since it was counted.
        """
        files = attachments.find_attachments(text, self._folder)
        words = {file.mention for file in files}
        gone = [file for file in self._costs if file.mention in text and file.mention not in words]
        blocks = attachments.format_blocks([*gone, *files])
        whole = self.unfold(attachments.replace_mentions(text, files))
        return "\n\n".join([whole.rstrip(), *blocks]) if blocks else whole

    def scan_text(self) -> None:
        """Look at what was typed as a whole."""
        if "@" in self.text:
            self._count_files(self.text, self._costs)

    def border_notes(self) -> list[str]:
        """What the border says below: for each file what it adds."""
        text = self.text
        return attachments.summarise_costs(
            cost for file, cost in self._costs.items() if file.mention in text
        )

    def update_border(self) -> None:
        """Bring the border up to date."""
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
                cost = attachments.attachment_cost(file, self._count_tokens)
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
    """Something else that is being written; `saved_draft` waits for it and comes back."""

    title: str
    saved_draft: Draft
    message_position: int | None = None
    """Which message is being changed; None while it is a command."""


class Composer(AttachingArea):
    """Sends with Enter and keeps its text until it is told that all went well.

    Args:
        slash_commands: the slash commands; None for all that can be typed.
        history: the messages sent before, newest first.
        count_tokens: what a text costs, None while no model is there; called in a thread.
        completers: completes the arguments of commands, by the command's name. Paths are completed
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
    class Submitted(Message):
        """The person wants this text, which is not blank, to be sent; `sent` says that it was."""

        text: str
        draft: Draft
        """As it stood here."""
        temporary_edit: TemporaryEdit | None = None

        @property
        def edited_position(self) -> int | None:
            """What `begin_edit` was given: which message it replaces."""
            return self.temporary_edit.message_position if self.temporary_edit else None

    @dataclass
    class CommandEntered(Message):
        """The person typed a command; nothing of it is left in the composer."""

        name: str
        argument: str

    @dataclass
    class DraftChanged(Message):
        """What is typed has changed; `state` has it."""

    def __init__(
        self,
        slash_commands: Sequence[Command] | None = None,
        *,
        history: Callable[[], Sequence[str]] = tuple,
        count_tokens: TokenCounter = lambda text: None,
        completers: Mapping[str, Completer] | None = None,
        folder: Path | None = None,
    ) -> None:
        every = [command for command in commands.ALL.values() if command.is_slash_command]
        super().__init__(
            every if slash_commands is None else slash_commands,
            completers or {},
            folder or Path.cwd(),
            count_tokens,
            id="composer",
            placeholder="Write a message, / for commands, @ for files",
        )
        self._message_history = MessageHistory(history)
        self._last_recall: tuple[str, Location] | None = None
        """Text and cursor as the last step through the history left them."""
        self._temporary_edit: TemporaryEdit | None = None
        self._last_submitted: Composer.Submitted | None = None
        """The message that is on its way, or the last one that was."""
        self._last_state = ""
        """The state that was known last."""

    def outgoing_message(self) -> str:
        """What Enter would send now: pastes unfolded, files put in.

        Raises:
            UsageError: a file cannot be attached, or a command is typed.
        """
        meaning = self._parse_input()
        if not isinstance(meaning, str):
            raise UsageError("This is a command", hint=commands_module.DOUBLE_SLASH_HINT)
        return self.with_attachments(meaning)

    def action_send(self) -> None:
        """Post the message or the command, unless nothing is typed."""
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
        """The message is on its way: forget it, and keep what was typed since."""
        whole, posted = self.draft, message.draft.text
        since = whole.text.removeprefix(posted) if whole.text.startswith(posted) else ""
        before = message.temporary_edit.saved_draft if message.temporary_edit else Draft()
        self._last_submitted = message
        self._message_history.reset()
        self._set_temporary_edit(None)
        self.set_draft(before + Draft.with_used_pastes(since, whole.pastes))

    def restore_unsent(self, text: str) -> None:
        """Show a text again that could not be sent, before what was typed since."""
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
        """Everything that was typed, to be kept; empty when there is nothing."""
        return self._main_draft.dump()

    def load_draft(self, state: str) -> None:
        """Show what `state` gave, in place of what stands here; any other string as a text."""
        self._set_temporary_edit(None)
        self._last_submitted = None
        self._message_history.reset()
        self.set_draft(Draft.load(state))
        self._last_state = self.dump_draft()

    @property
    def editing(self) -> bool:
        """Whether a message or a command is being written for which the draft waits."""
        return self._temporary_edit is not None

    def begin_edit(self, text: str, title: str, message_position: int) -> None:
        """Let the person change a message that was sent; what was being written waits.

        Args:
            text: the message.
            title: shown in the border, such as `editing message 3`.
            message_position: which message it is; `Sent` has it again.
        """
        self._set_temporary_edit(TemporaryEdit(title, self._main_draft, message_position))
        self.set_draft(Draft(sanitise(text)))

    def begin_command(self, command: Command) -> None:
        """Let the person type a command's argument; what was being written waits."""
        self._set_temporary_edit(
            TemporaryEdit(f"/{command.name} {command.argument}", self._main_draft)
        )
        self.set_draft(Draft(f"/{command.name} "))
        self.update_completion()

    def end_edit(self) -> bool:
        """Leave the message or the command, and go on with the draft; False when there is none."""
        aside = self._temporary_edit
        if aside is not None:
            self._set_temporary_edit(None)
            self.set_draft(aside.saved_draft)
        return aside is not None

    @property
    def accepts_commands(self) -> bool:
        """A message that is edited is one, whatever it begins with."""
        return self._temporary_edit is None or self._temporary_edit.message_position is None

    def action_newline(self) -> None:
        """Begin a new line at the cursor."""
        self.insert("\n")
        self.scroll_cursor_visible()

    def action_cursor_up(self, select: bool = False) -> None:
        """Move up, or from the first line to the message before."""
        first = self.navigator.is_first_wrapped_line(self.cursor_location)
        if select or not self._recall_message(1, at_edge=first):
            super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        """Move down, or from the last line to the message after."""
        last = self.navigator.is_last_wrapped_line(self.cursor_location)
        if select or not self._recall_message(-1, at_edge=last):
            super().action_cursor_down(select)

    def set_draft(self, draft: Draft) -> None:
        """Put a draft in place of what stands here."""
        super().set_draft(draft)
        self.close_completion()
        self.update_border()

    def border_notes(self) -> list[str]:
        """The keys that leave an edit and unfold a paste, and what files cost."""
        keys = commands.key_of
        does = "runs" if self.accepts_commands else "resends in a fork"
        aside = f"{keys('send')} {does} · {keys('stop')} cancels"
        unfold = f"{keys('unfold')} unfolds"
        return [aside] * self.editing + super().border_notes() + [unfold] * self.has_folds

    def scan_text(self) -> None:
        """Say that there is something to keep."""
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
        """What is typed while the message is looked at comes behind it."""
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
        """The draft, whether it stands here or waits."""
        return self._temporary_edit.saved_draft if self._temporary_edit else self.draft

    def _set_temporary_edit(self, temporary_edit: TemporaryEdit | None) -> None:
        self._temporary_edit = temporary_edit
        self.set_class(temporary_edit is not None, "-editing")
        self.border_title = Content(one_line(temporary_edit.title, 60)) if temporary_edit else None

    def _recall_message(self, steps: int, *, at_edge: bool) -> bool:
        """Walk on if the cursor is at the edge or where the last step left it; False if not."""
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

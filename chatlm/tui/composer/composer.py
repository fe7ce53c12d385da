"""The composer: where the user writes messages and commands."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from rich.cells import cell_len
from textual import events, on
from textual.app import SuspendNotSupported
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.document._document import Location, Selection
from textual.message import Message
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import TextArea

from chatlm.chat.attachments import FileReader, read_text_file
from chatlm.chat.pasted_images import PastedImages
from chatlm.chat.resources import Resources
from chatlm.errors import ChatlmError, UsageError
from chatlm.text import escape_controls, one_line
from chatlm.tui import clipboard, commands
from chatlm.tui.commands import Command
from chatlm.tui.composer import editor
from chatlm.tui.composer.attachments import (
    Attachments,
    CompleteMessage,
    OutgoingMessage,
    Sources,
    TokenCounter,
)
from chatlm.tui.composer.completion import Completer, Completion
from chatlm.tui.composer.draft_area import DraftArea
from chatlm.tui.composer.drafts import (
    Draft,
    MessageHistory,
    TemporaryEdit,
    sanitise,
)
from chatlm.tui.composer.folders import FolderIndexing
from chatlm.tui.composer.suggestion_line import SuggestionLine
from chatlm.tui.composer.vim import VimKeys
from chatlm.tui.vision import Vision
from chatlm.tui.widgets.hints import HINT_GAP, hint
from chatlm.types.parts import PreparedImage

PLACEHOLDERS = (
    "Write a message, / for commands, @ for files",
    "Write a message, / for commands",
    "Write a message",
)
"""What an empty composer says; the longest that fits."""

SCAN_DELAY_SECONDS = 0.5
"""Maximum seconds from a change to the scan of the whole text."""


class Composer(DraftArea):
    """The text area for messages and commands; a sent message stays until it is confirmed.

    Args:
        slash_commands: the slash commands; None for all.
        history: the messages sent before, newest first.
        count_tokens: returns the tokens of a text; called in a thread.
        folder_fits: whether a message can take the text of a folder; called in a thread.
        completers: completes the arguments of commands, by the command's name. Paths are completed
            without it.
        folder: where paths start; None for the working directory.
        read_file: reads an attached file; called in a thread.
        vision: what the model makes of images; None for a model that is not known.
        web_hosts: servers that need not be public, see `fetch_image`.
        pasted: images of the clipboard and screenshots.
        resources: what plugins offer to attach; None for nothing.
        suggest: returns what to insert at the end of a text, empty for nothing; called in a thread.
        vim: whether it has the keys of vi.
    """

    BINDINGS: ClassVar[list[BindingType]] = [*commands.bindings(commands.COMPOSER)]

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
        &.-problem { border-subtitle-color: $text-warning; }

        &:focus { border: round $primary; }
        &.-incognito { border: round $warning 60%; }
        &.-incognito:focus { border: round $warning; }
        &.-editing, &.-editing:focus { border: round $accent; border-title-color: $text-accent; }
    }
    """

    @dataclass
    class Submitted(Message):
        """The user sent this non-blank text; `confirm_submitted` clears it."""

        text: str
        draft: Draft
        """The draft that was sent."""
        temporary_edit: TemporaryEdit | None = None
        images: tuple[PreparedImage, ...] = ()
        """The images that are sent with it."""

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
        folder_fits: Callable[[str], bool] = lambda text: True,
        completers: Mapping[str, Completer] | None = None,
        folder: Path | None = None,
        read_file: FileReader = read_text_file,
        vision: Vision | None = None,
        web_hosts: tuple[str, ...] = (),
        pasted: PastedImages | None = None,
        resources: Resources | None = None,
        suggest: Callable[[str], str] = lambda text: "",
        vim: bool = False,
    ) -> None:
        every = [command for command in commands.ALL.values() if command.is_slash_command]
        folder = folder or Path.cwd()
        resources = resources or Resources()
        # The collaborators come first: TextArea's own __init__ calls methods that use them.
        self._completion = Completion(
            self,
            every if slash_commands is None else slash_commands,
            completers or {},
            folder,
            resources.names,
            accepts_commands=lambda: self.accepts_commands,
            send=self.action_send,
            on_accepted=self.scan_text,
            on_changed=self.update_border,
        )
        self._attachments = Attachments(
            folder,
            count_tokens,
            Sources(read_file, resources, web_hosts, pasted or PastedImages(), folder_fits),
            vision or Vision(),
            call_in_ui_thread=self.call_later,
            on_changed=self.update_border,
            on_failed=self._warn,
        )
        self._suggestions = SuggestionLine(
            self,
            suggest,
            may_show=lambda: not (self._completion.is_open or self.busy),
            on_changed=self.update_border,
        )
        self._vim = VimKeys() if vim else None
        self._message_history = MessageHistory(history)
        self._last_recall: tuple[str, Location] | None = None
        """Text and cursor after the last history step."""
        self._temporary_edit: TemporaryEdit | None = None
        self._last_submitted: Composer.Submitted | None = None
        """The last submitted message."""
        self._before_cut: Draft | None = None
        """The draft before Ctrl-X, which Ctrl-E after it opens in an editor."""
        self._unsent_reason = self._unsent_text = ""
        """Why the text was not sent, and which text."""
        self._last_state = ""
        """The last announced draft."""
        self._scan_timer: Timer | None = None
        super().__init__(PLACEHOLDERS[0], id="composer")
        self._key_actions = _editing_actions()

    # --- the text -------------------------------------------------------------------------

    def set_draft(self, draft: Draft) -> None:
        """Replace the text by a draft, with the cursor at its end."""
        if self.cancel_sending():
            self._warn(UsageError("The message was not sent: its files were still being read"))
        super().set_draft(draft)
        self.close_completion()
        self.update_border()

    def paste(self, text: str) -> None:
        """Replace the selection by a text, folded if it is long; the path of a file attaches it."""
        mention = self._attachments.mention_of_paste(text)
        if mention is None:
            super().paste(text)
        else:
            self.replace_selection(f"{sanitise(mention)} ")

    def action_copy(self) -> None:
        """Copy the selection of the composer, or else of the screen; without one, offer to quit."""
        text = self.selected_text or self.screen.get_selected_text()
        if text:
            clipboard.copy(self.app, text, "the selection")
        else:
            self.app.action_help_quit()

    def edit_outside(self) -> None:
        """Let the user write the text in an editor.

        Raises:
            UsageError: there is no editor, it failed, or no program can have this terminal.
        """
        command = editor.find_editor()
        try:
            with self.app.suspend():
                text = editor.edit_text(command, self.unfolded_text)
        except SuspendNotSupported as error:
            raise UsageError("No editor can be opened here", hint="Write it here.") from error
        if text != self.unfolded_text:
            self.set_draft(Draft(sanitise(text)))
        self.refresh()

    # --- keys and completion --------------------------------------------------------------

    def on_mount(self) -> None:
        """Mount the list of candidates above the composer."""
        if isinstance(self.parent, Widget):
            self.parent.mount(self._completion.popup, before=self)

    def on_blur(self) -> None:
        """Close the list of candidates."""
        self.close_completion()

    @property
    def accepts_commands(self) -> bool:
        """Whether a slash begins a command: not in an edited message."""
        return self._temporary_edit is None or self._temporary_edit.message_position is None

    def close_completion(self) -> bool:
        """Close the list of candidates; return False if it was closed."""
        was_open = self._completion.close()
        self._suggestions.show()
        return was_open

    def watch_selection(self) -> None:
        """Update the candidates and the suggestion when the cursor moves."""
        if self._completion.is_open:
            self._completion.update()
        self._suggestions.show()

    async def _on_key(self, event: events.Key) -> None:
        """Handle keys at once; a binding that bubbles up would run after later keys."""
        event.prevent_default()
        if await self._run_vim_command(event):
            return
        action = self._key_actions.get(event.key, "")
        before_cut, self._before_cut = self._before_cut, None
        if event.key == "ctrl+x":
            self._before_cut = self.draft
        elif event.key == "ctrl+e" and before_cut is not None:
            event.stop()
            self.set_draft(before_cut)
            await self.app.run_action("screen.command('editor')")
            return
        if self._completion.handle_key(event.key, action):
            event.stop()
            self._suggestions.show()
            return
        if event.key == "tab" and self._suggestions.accept():
            event.stop()
            return
        if action and await self.app.run_action(action, self):
            event.stop()
        else:
            await super()._on_key(event)
        if event.is_printable or action.startswith("delete"):
            self._completion.update()
            self._suggestions.show()

    async def _run_vim_command(self, event: events.Key) -> bool:
        """Handle a key of the normal mode; return False for all others."""
        if self._vim is None or not event.is_printable or event.character is None:
            return False
        actions = self._vim.press(event.character)
        if actions is None:
            return False
        event.stop()
        for action in actions:
            await self.app.run_action(action, self)
        self.update_border()
        return True

    def leave_insert_mode(self) -> bool:
        """Begin vi's normal mode; return False without such keys, or if it is on already."""
        left = self._vim is not None and self._vim.leave_insert()
        self.update_border()
        return left

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

    def _recall_message(self, steps: int, *, at_edge: bool) -> bool:
        """Step through the history if the cursor is at the edge; return False if not."""
        is_unchanged = (self.text, self.cursor_location) == self._last_recall
        if self.editing or not (at_edge or (self._message_history.browsing and is_unchanged)):
            return False
        draft = self._message_history.step(self.draft, steps)
        if draft is None:
            return False
        self.set_draft(draft)
        self._last_recall = (self.text, self.cursor_location)
        return True

    # --- suggestions ----------------------------------------------------------------------

    def update_suggestion(self) -> None:
        """Keep the suggestion only while the text follows it; called after each change."""
        self._suggestions.follow()

    def action_cursor_right(self, select: bool = False) -> None:
        """Move right, or accept a word of the suggestion."""
        if select or not self._suggestions.accept(word=True):
            self.suggestion = ""  # which TextArea would insert
            super().action_cursor_right(select)
            self._suggestions.show()

    def on_resize(self) -> None:
        """Fit placeholder and suggestion into the new width, once the text is wrapped to it."""
        width = self.content_size.width
        fitting = (text for text in PLACEHOLDERS if cell_len(text) <= width)
        self.placeholder = next(fitting, PLACEHOLDERS[-1])
        self.call_later(self._suggestions.show)

    @property
    def suggesting(self) -> bool:
        """Whether a suggestion is asked for, or soon will be."""
        return self._suggestions.busy

    @on(TextArea.Changed)
    def _schedule_suggestion(self) -> None:
        self._suggestions.schedule()

    # --- attached files and the border ----------------------------------------------------

    def attach_file(self, path: str) -> None:
        """Insert a file mention at the cursor.

        Raises:
            UsageError: there is no such file.
        """
        self.attach_mention(sanitise(self._attachments.find_mention(path)))

    def attach_mention(self, mention: str) -> None:
        """Insert a mention at the cursor, with its @, and read what it names."""
        row, column = self.cursor_location
        blank = " " if column and not self.document[row][column - 1].isspace() else ""
        self.insert(f"{blank}{mention} ", maintain_selection_offset=False)
        self._attachments.scan(self.text, attached=mention)

    def index_folders_by(self, folders: FolderIndexing) -> None:
        """Let folders that are too large to attach be indexed."""
        self._attachments.folders = folders

    def recount_files(self) -> None:
        """Count the files again, for example after a model was loaded."""
        self._attachments.scan(self.text, recount=True)

    def scan_text(self) -> None:
        """Find the attached files, and announce a changed draft."""
        if "@" in self.text:
            self._attachments.scan(self.text)
        state = self.dump_draft()
        if state != self._last_state:
            self._last_state = state
            self.post_message(self.DraftChanged())

    def update_border(self) -> None:
        """Show keys and the cost of attached files in the bottom border."""
        notes = Content(" │ ").join(self._border_notes())
        if notes.markup != (self.border_subtitle or ""):
            self.border_subtitle = notes
        self.set_class(self._attachments.has_problem(self.text), "-problem")

    def _border_notes(self) -> list[Content]:
        keys, text = commands.key_of, self.text
        notes = []
        if self._vim is not None and not self._vim.inserting:
            notes.append(Content(f"NORMAL {self._vim.pending}".rstrip()))
        if self._unsent_reason and text == self._unsent_text:
            notes.append(Content(f"not sent: {self._unsent_reason}"))
        acts = [hint("tab", "complete")] if self._completion.is_open else []
        if self.editing:
            does = "run" if self.accepts_commands else "resend in a fork"
            acts.append(hint(keys("send"), does))
        if acts:
            leaves = "close" if self._completion.is_open else "cancel"
            notes.append(HINT_GAP.join((*acts, hint(keys("stop"), leaves))))
        if self.busy:
            notes.append(HINT_GAP.join((Content("sending…"), hint(keys("stop"), "cancel"))))
        notes += map(Content, self._attachments.notes(text, self.size.width - 2))
        if self.suggestion:
            notes.append(HINT_GAP.join((hint("tab", "accept"), hint("→", "accept a word"))))
        if self.has_folds:
            notes.append(hint(keys("unfold"), "unfold"))
        return notes

    @on(TextArea.Changed)
    def _schedule_scan(self) -> None:
        self.update_border()
        if self._scan_timer is None:
            self._scan_timer = self.set_timer(SCAN_DELAY_SECONDS, self._run_scan)

    def _run_scan(self) -> None:
        self._scan_timer = None
        self.scan_text()

    def _warn(self, error: ChatlmError) -> None:
        self.notify(escape_controls(str(error)), severity="warning", markup=False)

    # --- sending --------------------------------------------------------------------------

    def outgoing_message(self) -> OutgoingMessage:
        """Return what Enter would send.

        Raises:
            UsageError: the text is a command.
        """
        meaning = self._parse_input()
        if not isinstance(meaning, str):
            raise UsageError("This is a command", hint=commands.DOUBLE_SLASH_HINT)
        return self._attachments.outgoing_message(meaning, self.unfold)

    def message_of(self, text: str) -> OutgoingMessage:
        """Return what would be sent for another text than the composer's; call it in any thread."""
        return self._attachments.message_of(text)

    def action_send(self) -> None:
        """Post the message, after reading its files, or the command; ignore a blank text."""
        self.close_completion()
        if not self.text.strip():
            return
        if self.busy:
            advice = f"Wait, or cancel it with {commands.key_of('stop')}."
            self._warn(UsageError("The files of this message are still being read", advice))
            return
        try:
            meaning = self._parse_input()
            if isinstance(meaning, str):
                self._submit_text(meaning)
            else:
                self._enter_command(*meaning)
        except UsageError as error:
            self._warn(error)
            if isinstance(error, commands.UnknownCommandError):
                self._offer_to_replace("unknown command, typing replaces it")

    def confirm_submitted(self, message: Submitted) -> None:
        """Remove a sent message, and keep text typed since."""
        whole, posted = self.draft, message.draft.text
        since = whole.text.removeprefix(posted) if whole.text.startswith(posted) else ""
        before = message.temporary_edit.saved_draft if message.temporary_edit else Draft()
        self._last_submitted = message
        self._message_history.reset()
        self._set_temporary_edit(None)
        self.set_draft(before + Draft.with_used_pastes(since, whole.pastes))

    def recall(self, text: str) -> None:
        """Write an earlier message, behind what is written already."""
        self.set_draft(self.draft + Draft(("\n" if self.text else "") + sanitise(text)))

    def restore_unsent(self, text: str, reason: str = "") -> None:
        """Restore an unsent text before text typed since.

        Args:
            text: the text.
            reason: why it was not sent; then it is selected, so that typing replaces it.
        """
        typed, back = self.draft, Draft(sanitise(text))
        if self._last_submitted is not None and self._last_submitted.text == text:
            back = self._last_submitted.draft
            if self._last_submitted.temporary_edit is not None:
                self._set_temporary_edit(
                    dataclasses.replace(self._last_submitted.temporary_edit, saved_draft=typed)
                )
                typed = Draft()
        self.set_draft(back + Draft("\n") + typed if typed.text else back)
        if reason and not typed.text:
            self._offer_to_replace(reason)
        else:
            self.show_unsent(reason)

    def _offer_to_replace(self, reason: str) -> None:
        """Select a text that was not sent, so that typing replaces it."""
        self.selection = Selection((0, 0), self.document.end)
        self.show_unsent(reason)

    def show_unsent(self, reason: str) -> None:
        """Say why the text was not sent, until it changes; empty for no reason any longer."""
        self._unsent_reason, self._unsent_text = reason, self.text
        self.update_border()

    def _parse_input(self) -> tuple[Command, str] | str:
        if not self.accepts_commands:
            return self.text
        return commands.parse_slash_command(self.text, self._completion.commands)

    @property
    def busy(self) -> bool:
        """Whether a message waits for its files."""
        return self._attachments.is_reading_message

    def cancel_sending(self) -> bool:
        """Do not send the message whose files are being read; return False if there is none."""
        return self._attachments.cancel_message()

    def _submit_text(self, text: str) -> None:
        """Post a message, after its files are read; hold back text typed meanwhile."""
        message = self._attachments.outgoing_message(text, self.unfold)
        submit = partial(self._post_submitted, self.draft, self._temporary_edit)
        self.move_cursor(self.document.end)
        if message.files:
            self._attachments.read_message(message, submit)
        else:
            submit(CompleteMessage(message.text))

    def _post_submitted(
        self,
        draft: Draft,
        temporary_edit: TemporaryEdit | None,
        result: CompleteMessage | ChatlmError,
    ) -> None:
        if isinstance(result, ChatlmError):
            self._warn(result)
        elif not self.text.startswith(draft.text):
            advice = f"{commands.key_of('send').capitalize()} sends it as it is now."
            self._warn(
                UsageError(
                    "The message was not sent: it was changed while its files were read", advice
                )
            )
        else:
            self.post_message(self.Submitted(result.text, draft, temporary_edit, result.images))

    def _enter_command(self, command: Command, argument: str) -> None:
        argument = self.unfold(argument)
        if not self.end_edit():
            self.set_draft(Draft())
        self.post_message(self.CommandEntered(command.name, argument))

    # --- drafts and temporary edits -------------------------------------------------------

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
        self._completion.update()

    def end_edit(self) -> bool:
        """End the temporary edit and restore the draft; return False if there is none."""
        edit = self._temporary_edit
        if edit is not None:
            self._set_temporary_edit(None)
            self.set_draft(edit.saved_draft)
        return edit is not None

    @property
    def _main_draft(self) -> Draft:
        """The draft, shown or saved during a temporary edit."""
        return self._temporary_edit.saved_draft if self._temporary_edit else self.draft

    def _set_temporary_edit(self, temporary_edit: TemporaryEdit | None) -> None:
        self._temporary_edit = temporary_edit
        self.set_class(temporary_edit is not None, "-editing")
        self.border_title = Content(one_line(temporary_edit.title, 60)) if temporary_edit else None


def _editing_actions() -> dict[str, str]:
    """Return the actions of the text area by key; those of the composer take precedence."""
    theirs = [binding for binding in TextArea.BINDINGS if isinstance(binding, Binding)]
    keys = [(binding.key, binding.action) for binding in theirs]
    keys += [
        (command.key, command.action) for command in commands.with_current_keys(commands.COMPOSER)
    ]
    return {key: action for joined, action in keys for key in joined.split(",")}

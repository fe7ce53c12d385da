"""The sources panel: passages of the selected turn, which open in an editor."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from textual import on
from textual.app import ComposeResult, SuspendNotSupported
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from chatlm import ChatlmError, Passage, Ui, UsageError, escape_controls, one_line
from chatlm.plugin_kit.screens import MUTED_STYLE
from chatlm_rag import actions
from chatlm_rag.actions import HOW_TO_BUILD
from chatlm_rag.index import bm25, folder
from chatlm_rag.retrieval.explain import passage_outcomes
from chatlm_rag.retrieval.hits import origin_of
from chatlm_rag.settings import index_from_plugin_data


class RagSources(Vertical):
    """The passages of the selected turn. The highlighted one is expanded; Enter opens its file.

    Args:
        ui: the chat's screen.
    """

    DEFAULT_CSS = """
    RagSources {
        height: 1fr;

        & > .head { height: auto; color: $text-muted; margin: 0 0 1 0; }
        & > .keys { height: auto; color: $text-muted; }
        & > .keys.-empty, & > OptionList.-empty { display: none; }
        & > OptionList {
            height: 1fr;
            border: none;
            padding: 0;
            background: $background;
            scrollbar-size-vertical: 1;
            scrollbar-background: $background;
            scrollbar-background-hover: $background;
            scrollbar-background-active: $background;
            scrollbar-color: $foreground 25%;
            scrollbar-color-hover: $foreground 45%;
            scrollbar-color-active: $foreground 45%;
            & > .option-list--option-highlighted {
                background: $foreground 6%; color: $foreground; text-style: none;
            }
            &:focus { border: none; background-tint: $foreground 0%; }
            &:focus > .option-list--option-highlighted {
                background: $primary 18%; color: $foreground; text-style: none;
            }
        }
    }
    """

    def __init__(self, ui: Ui) -> None:
        super().__init__()
        self._ui = ui
        self._passages: list[Passage] = []
        self._question = ""
        self._passage_outcomes: Mapping[int, str] = {}
        self._expanded_row = -1
        """Index of the expanded passage, from 0; -1 for none."""
        self._pending_jump: int | None = None

    def compose(self) -> ComposeResult:
        """Build the header, the list of passages and the key hints."""
        yield Static(classes="head")
        yield OptionList(markup=False)
        yield Static(
            Content.assemble(("↑↓", "bold $text"), " select · ", ("enter", "bold $text"), " open"),
            classes="keys",
        )

    def on_mount(self) -> None:
        """Register the panel for `/source`."""
        self._pending_jump = actions.attach_panel(self)

    def on_unmount(self) -> None:
        """Unregister the panel."""
        actions.detach_panel(self)

    def request_jump(self, number: int) -> None:
        """Show a passage, counted from 1; callable from any thread."""
        self.call_later(self._jump_to, number)

    def show(self, ui: Ui) -> None:
        """Show the passages of the selected turn."""
        turn = ui.turn
        question, outcomes = (turn.display_text, passage_outcomes(turn)) if turn else ("", {})
        passages = list(ui.passages)
        is_same_turn = (passages, question) == (self._passages, self._question)
        highlighted = self._expanded_row if is_same_turn else 0
        self._passages, self._question, self._passage_outcomes = passages, question, outcomes
        empty = not self._passages
        rows = self.query_one(OptionList)
        rows.set_class(empty, "-empty")
        self.query_one(".keys").set_class(empty, "-empty")
        self.query_one(".head", Static).update(self._empty_text() if empty else self._head())
        self._expanded_row = -1
        rows.set_options(
            [Option(self._row(at, full=False), id=str(at)) for at in range(len(self._passages))]
        )
        rows.highlighted = None if empty else highlighted
        if self._pending_jump is not None:
            self._jump_to(self._pending_jump)
            self._pending_jump = None

    def _jump_to(self, number: int) -> None:
        if 1 <= number <= len(self._passages):
            rows = self.query_one(OptionList)
            rows.highlighted = number - 1
            rows.focus()

    @on(OptionList.OptionHighlighted)
    def _expand_row(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        rows, before = event.option_list, self._expanded_row
        self._expanded_row = event.option_index
        for at, full in ((before, False), (self._expanded_row, True)):
            if 0 <= at < len(self._passages) and before != self._expanded_row:
                rows.replace_option_prompt_at_index(at, self._row(at, full=full))
        rows.scroll_to_highlight()

    @on(OptionList.OptionSelected)
    def _open_in_editor(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        origin = origin_of(self._passages[event.option_index])
        try:
            if not origin.path:
                raise UsageError("The file of this passage is unknown.")
            argv = editor_command(origin.path, origin.line)
            with self.app.suspend():
                subprocess.run(argv, check=False)
        except SuspendNotSupported:
            self._ui.notify("This terminal cannot open an editor.", warning=True)
        except OSError as error:
            self._ui.notify(f"The editor cannot be started: {error.strerror}.", warning=True)
        except ChatlmError as error:
            self._ui.notify(str(error), warning=True)

    def _head(self) -> Content:
        name = one_line(origin_of(self._passages[0]).index, 40)
        count = len(self._passages)
        passages = "1 passage" if count == 1 else f"{count} passages"
        return Content(f"{passages} from {name} for" if name else f"{passages} for").append(
            f" “{one_line(self._question, 60)}”"
        )

    def _empty_text(self) -> Content:
        name = index_from_plugin_data(self._ui.state)
        if name and self._question:
            return Content(f"No passages from {one_line(name, 64)} were used for this message.")
        if name:
            return Content(f"This chat uses the index {one_line(name, 64)}. Send a question.")
        names = ", ".join(index.name for index in folder.all_indices())
        known = f"Indices: {one_line(names, 300)}. " if names else ""
        return Content.assemble(
            f"This chat uses no index.\n\n{known}",
            ("/rag NAME" if names else "", "bold $text"),
            " uses one.\n\n" if names else "",
            ("/rag build PATH", "bold $text"),
            HOW_TO_BUILD.removeprefix("/rag build PATH"),
        )

    def _row(self, at: int, *, full: bool) -> Content:
        """Build the row of a passage: source, score, outcome, and the text or its first line."""
        passage = self._passages[at]
        origin = origin_of(passage)
        source, place = one_line(origin.source, 60), one_line(origin.place, 120)
        head = Content.assemble(
            (f"[{at + 1}] ", "bold $text-accent"),
            (f"{source}:{origin.line}" if origin.line else source, "bold"),
            (f"  {passage.score:.2f}", MUTED_STYLE),
        )
        blocks = [head]
        if outcome := self._passage_outcomes.get(at + 1):
            blocks.append(Content.styled(one_line(outcome, 40), MUTED_STYLE))
        if place:
            blocks.append(Content.styled(place, "$text-primary"))
        blocks.append(
            self._highlight_terms(passage.text) if full else Content(one_line(passage.text, 70))
        )
        return Content("\n").join([*blocks, Content()])

    def _highlight_terms(self, text: str) -> Content:
        """Highlight the words of the question in a passage."""
        content = Content(escape_controls(text))
        for start, end in bm25.matching_spans(escape_controls(text), self._question):
            content = content.stylize("bold underline", start, end)
        return content


_PLUS_LINE_EDITORS = {
    "vi", "vim", "nvim", "view", "nano", "pico", "emacs", "emacsclient", "kak", "micro", "joe",
    "jed", "mg", "ne", "gedit", "sensible-editor",
}  # fmt: skip
"""Editors that take `+LINE FILE`."""


_COLON_LINE_EDITORS = {"hx", "helix", "subl", "zed"}
"""Editors that take `FILE:LINE`."""


_GOTO_EDITORS = {"code", "codium", "cursor"}
"""Editors that take `--goto FILE:LINE`."""


_FALLBACK_EDITORS = ("sensible-editor", "nano", "vim", "vi")


_BINARY_SUFFIXES = {".pdf", ".docx"}


def editor_command(path: str, line: int) -> list[str]:
    """Return the command that opens a file in `$VISUAL`, `$EDITOR` or an installed editor.

    Args:
        path: the file.
        line: line to go to, from 1; 0 for none.

    Raises:
        UsageError: the file does not exist or is not text, or there is no editor.
    """
    file = Path(path).absolute()
    if not file.is_file():
        raise UsageError(
            f"{file} does not exist.", hint="The passage shows what was read when it was indexed."
        )
    if file.suffix.lower() in _BINARY_SUFFIXES:
        raise UsageError(f"{file} is not a text file.", hint="Open it in another program.")
    editor = _editor()
    name = Path(editor[0]).stem
    if not line:
        return [*editor, str(file)]
    if name in _PLUS_LINE_EDITORS:
        return [*editor, f"+{line}", str(file)]
    if name in _COLON_LINE_EDITORS:
        return [*editor, f"{file}:{line}"]
    if name in _GOTO_EDITORS:
        return [*editor, "--goto", f"{file}:{line}"]
    return [*editor, str(file)]


def _editor() -> list[str]:
    for variable in ("VISUAL", "EDITOR"):
        try:
            words = shlex.split(os.environ.get(variable, ""))
        except ValueError:
            continue
        if words:
            return words
    for name in _FALLBACK_EDITORS:
        if shutil.which(name):
            return [name]
    raise UsageError("No editor was found.", hint="Set $EDITOR, for example to nano.")

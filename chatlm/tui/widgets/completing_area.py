"""A text area that completes commands and files; what a message or a command does is not known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import TextArea

from chatlm.tui import commands
from chatlm.tui.commands import Command
from chatlm.tui.completion import Candidate, Completer, Completion, complete
from chatlm.tui.drafts import clean
from chatlm.tui.widgets.completion_list import CompletionList
from chatlm.tui.widgets.folding_area import FoldingArea


class CompletingArea(FoldingArea):
    """Offers what may be typed next in a list above itself, which it puts there.

    Args:
        typed: the slash commands.
        values: completes the arguments of commands, by the command's name. Paths are completed
            without it.
        folder: where paths start.
    """

    BINDINGS: ClassVar[list[BindingType]] = [*commands.bindings(commands.COMPOSER)]

    def __init__(
        self,
        typed: Iterable[Command],
        values: Mapping[str, Completer],
        folder: Path,
        *,
        id: str,
        placeholder: str,
    ) -> None:
        self._list = CompletionList(self._take)
        self._looked: tuple[str, bool] = ("", False)
        """What the list's candidates were made from."""
        super().__init__(id=id, placeholder=placeholder)
        self._commands = {command.name: command for command in typed}
        self._values = values
        self._folder = folder
        self._actions = _actions()

    def on_mount(self) -> None:
        """Put the list above."""
        if isinstance(self.parent, Widget):
            self.parent.mount(self._list, before=self)

    def on_blur(self) -> None:
        """Nothing is typed here now."""
        self.close_completion()

    @property
    def takes_commands(self) -> bool:
        """Whether a slash begins a command."""
        return True

    def action_send(self) -> None:
        """What Enter does; a completion that makes the message complete does it too."""
        raise NotImplementedError

    def close_completion(self) -> bool:
        """Close the list; False when it is closed already."""
        was_open = self._list.completion is not None
        self._list.offer(None)
        return was_open

    def watch_selection(self) -> None:
        """Follow the cursor, and what is typed at it."""
        if self._list.completion is not None:
            self.look()

    async def _on_key(self, event: events.Key) -> None:
        """Act at once; a binding that bubbles up to the app would act after keys typed later."""
        event.prevent_default()
        action = self._actions.get(event.key, "")
        if self._list.completion is not None and self._choose(event.key, action):
            event.stop()
            return
        if action and await self.app.run_action(action, self):
            event.stop()
        else:
            await super()._on_key(event)
        if event.is_printable or action.startswith("delete"):
            self.look()

    def _choose(self, key: str, action: str) -> bool:
        """Use a key for the open list; False when it means what it always does."""
        completion, candidate = self._list.completion, self._list.candidate
        assert completion is not None  # noqa: S101
        if key == "tab":
            self._take(candidate or completion.candidates[0])
        elif key == "escape":
            self.close_completion()
        elif action == "cursor_up":
            self._list.action_cursor_up()
        elif action == "cursor_down":
            self._list.action_cursor_down()
        elif action == "send" and candidate and not _is_there(candidate, completion):
            self._take(candidate, sends=True)
        else:
            return False
        return True

    def _take(self, candidate: Candidate, *, sends: bool = False) -> None:
        """Put a candidate in place of what was typed of it."""
        completion = self._list.completion
        self.close_completion()
        if completion is None:
            return
        row, column = self.cursor_location
        start = (row, completion.start)
        insert = clean(candidate.insert)
        self.replace(insert, start, (row, column), maintain_selection_offset=False)
        if candidate.goes_on:
            self.look()
        elif sends and candidate.sends:
            self.action_send()

    def look(self) -> None:
        """Offer what may stand at the cursor."""
        row, column = self.cursor_location
        line = self.document[row]
        whole = self.document.line_count == 1 and column == len(line)
        looked = line[:column], whole and self.takes_commands
        if self._list.completion is None or looked != self._looked:
            self._looked = looked
            self._list.offer(self._completion(*looked) if self.selection.is_empty else None)

    def _completion(self, before: str, only: bool) -> Completion | None:
        return complete(before, self._commands.values(), self._values, self._folder, only=only)


def _is_there(candidate: Candidate, completion: Completion) -> bool:
    """Whether all of it is typed, and Enter need not wait for more."""
    typed = candidate.insert.strip() == completion.typed.strip()
    return typed and (candidate.sends or not candidate.goes_on)


def _actions() -> dict[str, str]:
    """What the area does itself for each key; ours come last and win."""
    theirs = [binding for binding in TextArea.BINDINGS if isinstance(binding, Binding)]
    keys = [(binding.key, binding.action) for binding in theirs]
    keys += [(command.key, command.action) for command in commands.now(commands.COMPOSER)]
    return {key: action for joined, action in keys for key in joined.split(",")}

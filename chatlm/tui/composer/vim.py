"""The keys of vi for the composer: a normal mode whose keys run the text area's actions."""

from __future__ import annotations

from dataclasses import dataclass

INSERT = "insert"
"""Pseudo-action that begins the insert mode."""

COMMANDS: dict[str, tuple[str, ...]] = {
    "h": ("cursor_left",),
    "l": ("cursor_right",),
    "j": ("cursor_down",),
    "k": ("cursor_up",),
    "w": ("cursor_word_right",),
    "e": ("cursor_word_right",),
    "b": ("cursor_word_left",),
    "0": ("cursor_line_start",),
    "^": ("cursor_line_start",),
    "$": ("cursor_line_end",),
    "gg": ("text_start",),
    "G": ("text_end",),
    "x": ("delete_right",),
    "X": ("delete_left",),
    "D": ("delete_to_end_of_line",),
    "dd": ("delete_line",),
    "dw": ("delete_word_right",),
    "de": ("delete_word_right",),
    "db": ("delete_word_left",),
    "d$": ("delete_to_end_of_line",),
    "d0": ("delete_to_start_of_line",),
    "p": ("paste",),
    "u": ("undo",),
    "U": ("redo",),
    "i": (INSERT,),
    "a": ("cursor_right", INSERT),
    "I": ("cursor_line_start", INSERT),
    "A": ("cursor_line_end", INSERT),
    "o": ("cursor_line_end", "newline", INSERT),
    "O": ("cursor_line_start", "newline", "cursor_up", INSERT),
    "s": ("delete_right", INSERT),
    "S": ("cursor_line_end", "delete_to_start_of_line", INSERT),
    "cc": ("cursor_line_end", "delete_to_start_of_line", INSERT),
    "C": ("delete_to_end_of_line", INSERT),
    "c$": ("delete_to_end_of_line", INSERT),
    "cw": ("delete_word_right", INSERT),
    "ce": ("delete_word_right", INSERT),
}
"""Keys of the normal mode, and the actions that they run."""

_BEGINNINGS = {keys[0] for keys in COMMANDS if len(keys) == 2}


@dataclass
class VimKeys:
    """The mode, and the first key of a command of two."""

    inserting: bool = True
    pending: str = ""

    def leave_insert(self) -> bool:
        """Begin the normal mode, or forget a first key; return False if there was nothing to do."""
        was_busy = self.inserting or bool(self.pending)
        self.inserting, self.pending = False, ""
        return was_busy

    def press(self, character: str) -> tuple[str, ...] | None:
        """Return the actions of a printable key; None in the insert mode, in which it is typed.

        Args:
            character: what the key types.
        """
        if self.inserting:
            return None
        keys, self.pending = self.pending + character, ""
        if keys in _BEGINNINGS and keys not in COMMANDS:
            self.pending = keys
            return ()
        actions = COMMANDS.get(keys, ())
        if INSERT in actions:
            self.inserting = True
        return tuple(action for action in actions if action != INSERT)

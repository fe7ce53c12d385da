"""Every key of the screen in one table, so that bindings, hints and help cannot differ.

Only keys that ordinary terminals send, over ssh and inside tmux too: control with a letter, no
function key but F1, nothing that the text area needs for editing. The screen's keys have priority:
others bubble up from the focused widget, and would act after a key that was typed later.
"""

from __future__ import annotations

from textual.binding import Binding

SEND = Binding("enter", "send", "Send", show=False)
NEWLINE = Binding("ctrl+j,shift+enter,alt+enter", "newline", "New line", show=False)
PAGE_UP = Binding("pageup", "screen.scroll_transcript(-1)", "Scroll up", show=False)
PAGE_DOWN = Binding("pagedown", "screen.scroll_transcript(1)", "Scroll down", show=False)

STOP = Binding("escape", "stop", "Stop the reply", priority=True, show=False)
CONTINUE = Binding("ctrl+g", "continue_reply", "Go on with the reply", priority=True, show=False)
REGENERATE = Binding("ctrl+r", "regenerate", "Answer once more", priority=True, show=False)
NEW_CHAT = Binding("ctrl+n", "new_chat", "New chat", priority=True, show=False)
INCOGNITO = Binding(
    "ctrl+t", "new_incognito", "New incognito chat, nothing saved", priority=True, show=False
)
CHATS = Binding("ctrl+l", "chats", "Chat list: show, focus, hide", priority=True, show=False)
HELP = Binding("f1", "help", "Keys", priority=True, show=False)
QUIT = Binding("ctrl+q", "quit", "Quit", priority=True, show=False)

COMPOSER = [SEND, NEWLINE, PAGE_UP, PAGE_DOWN]
CHAT = [STOP, CONTINUE, REGENERATE, NEW_CHAT, INCOGNITO, CHATS, HELP]
APP = [QUIT]


def name(binding: Binding) -> str:
    """The key as people write it; the first where a binding has several."""
    words = {"escape": "esc", "pageup": "page up", "pagedown": "page down"}
    first = binding.key.split(",")[0]
    return words.get(first, first)

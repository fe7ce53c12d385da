"""What an incognito chat is asked before it is left, and how it is saved; runs no turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Static

from chatlm.store import Store
from chatlm.tui.card import Card


class LeavingScreen(Card[bool | None]):
    """Gives whether to save the chat first; None to stay in it.

    Args:
        can_save: whether there is a place to save it.
    """

    DEFAULT_CSS = """
    LeavingScreen {
        & > .card { width: 64; height: auto; padding: 1 2; }
        & Hints { margin: 1 0 0 0; }
    }
    """

    CARD_TITLE = "Leave this incognito chat?"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "dismiss(False)", "leave it"),
        Binding("ctrl+s", "dismiss(True)", "save it and leave"),
        Binding("escape", "dismiss", "stay"),
    ]

    def __init__(self, *, can_save: bool) -> None:
        super().__init__()
        self._can_save = can_save

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what can be done is offered."""
        return self._can_save or parameters != (True,)

    def body(self) -> Iterable[Widget]:
        """What is lost."""
        yield Static("It is in memory only. When you leave it, it is gone.")


def save(incognito: Store, saved: Store, conversation_id: int, draft: str) -> None:
    """Copy all of an incognito store, forks too, to the saved chats.

    Args:
        incognito: where they are.
        saved: where they go.
        conversation_id: the chat on the screen.
        draft: what is typed in it.

    Raises:
        StoreError: it could not be written.
    """
    copies: dict[int | None, int] = {}
    for each in sorted(chat.id for chat in incognito.conversations()):
        chat = incognito.conversation(each)
        chat = dataclasses.replace(chat, forked_from=copies.get(chat.forked_from))
        copy = saved.add_conversation(
            chat,
            incognito.passages,
            incognito.annotations,
            incognito.provenance,
            incognito.traces,
        )
        copies[each] = copy.id
    saved.save_draft(copies[conversation_id], draft)

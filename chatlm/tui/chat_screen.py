"""The screen of the chat: the keys, the list beside it and the status bar; knows no session."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.screen import Screen

from chatlm.errors import StoreError
from chatlm.messages import now
from chatlm.store import Store
from chatlm.tui import keys
from chatlm.tui.help_screen import HelpScreen
from chatlm.tui.live_chat import LiveChat
from chatlm.tui.loading import EngineState
from chatlm.tui.widgets.chat_list import ChatList
from chatlm.tui.widgets.status_bar import Status, StatusBar

if TYPE_CHECKING:
    from chatlm.tui.app import ChatApp

LIST_FROM_WIDTH = 100
"""With fewer columns the list is hidden, since the text needs them."""


class ChatScreen(Screen[None]):
    """One chat and the list of the others.

    Args:
        app: the program this screen belongs to.
        store: the saved chats.
        incognito: begin with a chat that is not saved.
        conversation_id: open this chat at once.
    """

    BINDINGS: ClassVar[list[BindingType]] = [*keys.CHAT]
    CSS_PATH = "chatlm.tcss"
    AUTO_FOCUS = "#composer"

    def __init__(
        self,
        app: ChatApp,
        store: Store,
        *,
        incognito: bool = False,
        conversation_id: int | None = None,
    ) -> None:
        super().__init__()
        self._owner = app
        self._incognito = incognito
        self._conversation_id = conversation_id
        self._list_wanted: bool | None = None
        """What the person chose; None leaves it to the width."""
        self.chat = LiveChat(app, store)
        self._chats = ChatList(store, now)
        self._bar = StatusBar(app.config.model)

    def compose(self) -> ComposeResult:
        """List, chat, status bar."""
        with Horizontal():
            yield self._chats
            yield self.chat
        yield self._bar

    async def on_mount(self) -> None:
        """Show the first chat and follow what changes."""
        self.watch(self._owner, "engine_state", self._show_engine)
        self.watch(self.chat, "status", self._show_status)
        await self.chat.begin(incognito=self._incognito)
        if self._conversation_id is not None and not self._incognito:
            await self.chat.open(self._conversation_id)
        for fault in self._owner.plugins.take_faults():
            await self.chat.tell(str(fault))

    def on_resize(self, event: events.Resize) -> None:
        """Give the list's room to the text when there is little."""
        if self._list_wanted is None:
            self._chats.display = event.size.width >= LIST_FROM_WIDTH

    def action_stop(self) -> None:
        """Stop the running reply; with none, go back to the composer."""
        if not self.chat.stop():
            self.set_focus(self.chat.composer)

    def action_continue_reply(self) -> None:
        """Go on with a reply that was cut short."""
        self.chat.continue_reply()

    def action_regenerate(self) -> None:
        """Answer the newest message once more."""
        self.chat.regenerate()

    async def action_new_chat(self) -> None:
        """Begin a chat."""
        await self.chat.begin()
        self.set_focus(self.chat.composer)

    async def action_new_incognito(self) -> None:
        """Begin a chat that is not saved."""
        await self.chat.begin(incognito=True)
        self.set_focus(self.chat.composer)

    def action_chats(self) -> None:
        """Show the list and go to it; from the list, hide it."""
        chats = self._chats
        self._list_wanted = chats.display = not (chats.display and chats.has_focus)
        self.set_focus(chats if chats.display else self.chat.composer)

    def action_scroll_transcript(self, pages: int) -> None:
        """Turn the transcript's pages while the composer has the keys."""
        self.chat.turn_page(pages)

    def action_help(self) -> None:
        """Show every key."""
        self.app.push_screen(HelpScreen())

    @on(ChatList.ChatOpened)
    async def _open(self, event: ChatList.ChatOpened) -> None:
        """Show the chat; on a small screen the list makes room for it."""
        if not await self.chat.open(event.conversation_id):
            return
        if self.size.width < LIST_FROM_WIDTH:
            self._list_wanted = self._chats.display = False
        self.set_focus(self.chat.composer)

    @on(LiveChat.Changed)
    def _reload_list(self) -> None:
        try:
            self._chats.reload(self.chat.current, self.chat.answering)
        except StoreError as error:
            self.notify(str(error), severity="error", markup=False)

    def _show_engine(self, state: EngineState) -> None:
        self._bar.engine = state

    def _show_status(self, status: Status) -> None:
        self._bar.status = status

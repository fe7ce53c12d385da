"""The screen of the chat: list, chat and status bar, and the way from a command to what does it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual import events, on
from textual.actions import SkipAction
from textual.app import ComposeResult
from textual.binding import BindingsMap, BindingType
from textual.containers import Horizontal
from textual.screen import Screen
from textual.widget import Widget

from chatlm.errors import ChatlmError
from chatlm.store.store import Store
from chatlm.tui import clipboard, commands
from chatlm.tui.actions.chat import ChatActions, TurnActions
from chatlm.tui.actions.inspect import ContextMeasured, InspectActions, context_fill
from chatlm.tui.actions.settings import SettingsActions
from chatlm.tui.chat.controller import LiveChat
from chatlm.tui.chat.status import Status, StatusBar
from chatlm.tui.chat.transcript import Transcript
from chatlm.tui.chat.turn_column import Suggestion
from chatlm.tui.chat.turn_view import TurnView
from chatlm.tui.chat_list.chat_list import ChatList
from chatlm.tui.chat_list.panel import ChatsPanel
from chatlm.tui.composer.composer import Composer
from chatlm.tui.engine_loader import EngineState
from chatlm.tui.plugin_ui.commands import PluginActions
from chatlm.tui.widgets.context_gauge import ContextGauge
from chatlm.tui.workers import to_user_error
from chatlm.types.messages import utc_now

if TYPE_CHECKING:
    from chatlm.tui.app import ChatApp

MIN_WIDTH_FOR_LIST = 100
"""With fewer columns the list is hidden, since the text needs them."""

FIRST_PAINT_SECONDS = 0.05
"""Seconds in which the first picture reaches the terminal, before plugins and model are loaded."""


class ChatScreen(Screen[None]):
    """One chat and the list of the others.

    Args:
        app: the program this screen belongs to.
        store: the saved chats.
        incognito: begin with a chat that is not saved.
        conversation_id: open this chat at once.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        *commands.bindings(commands.CHAT, priority=True),
        *commands.bindings(commands.PANE_NAVIGATION),
    ]
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
        theirs = commands.bindings(commands.plugin_commands(), priority=True)
        self._bindings = BindingsMap.merge([self._bindings, BindingsMap(theirs)])
        self.owner = app
        self._incognito = incognito
        self._conversation_id = conversation_id
        self._list_wanted: bool | None = None
        """What the person chose; None leaves it to the width."""
        self.chat = LiveChat(app, store)
        self.chats = ChatsPanel(store, utc_now, self.chat.writes)
        self.insight = InspectActions(self)
        self.settings = SettingsActions(self)
        self._bar = StatusBar()
        self.plugin_actions = PluginActions(self, app.offers)
        self.actions = (ChatActions(self), TurnActions(self), self.settings)

    def compose(self) -> ComposeResult:
        """List, chat, status bar."""
        with Horizontal():
            yield self.chats
            yield self.chat
        yield self._bar

    async def on_mount(self) -> None:
        """Show the first chat and follow what changes."""
        self.watch(self.owner, "engine_state", self._show_engine)
        self.watch(self.chat, "status", self._show_status)
        self.watch(self, "focused", self._show_focus)
        await self.chat.begin(incognito=self._incognito)
        if self._conversation_id is not None and not self._incognito:
            await self.chat.open(self._conversation_id)
        for fault in self.owner.plugins.take_faults():
            await self.chat.tell(str(fault))
        self.call_after_refresh(self.set_timer, FIRST_PAINT_SECONDS, self._begin)

    def _begin(self) -> None:
        self.plugin_actions.begin()
        self.owner.begin()

    def on_unmount(self) -> None:
        """No thread waits on."""
        self.insight.close()
        self.plugin_actions.close()

    def on_resize(self, event: events.Resize) -> None:
        """Give the list's room to the text when there is little."""
        if self._list_wanted is None:
            self.chats.display = event.size.width >= MIN_WIDTH_FOR_LIST
        self.plugin_actions.regions.resize()

    async def action_command(self, name: str, argument: str = "") -> None:
        """Run a command; what it cannot do is told."""
        method = f"do_{name.replace('-', '_')}"
        runs = [getattr(actions, method) for actions in self.actions if hasattr(actions, method)]
        run = runs[0] if runs else partial(self.plugin_actions.run, name)
        await self.attempt(partial(run, argument), f"command {name}")

    async def attempt(self, do: Callable[[], Awaitable[object] | object], doing: str) -> None:
        """Do something; what cannot be done is told.

        Args:
            do: may be async.
            doing: what it is, for the log.
        """
        try:
            result = do()
            if inspect.isawaitable(result):
                await result
        except ChatlmError as error:
            self.chat.toast(error)
        except Exception as problem:
            failure = to_user_error(problem, doing)
            if failure is not None:
                self.chat.toast(failure)

    def action_copy_text(self) -> None:
        """Copy what is selected with the mouse, to the system's clipboard too."""
        text = self.get_selected_text()
        if text is None:
            raise SkipAction
        clipboard.copy(self.app, text, "the selection")

    def action_begin(self, name: str) -> None:
        """Write a slash command into the composer, for its argument to be typed."""
        self.chat.composer.begin_command(commands.ALL[name])
        self.set_focus(self.chat.composer)

    def action_turn_page(self, pages: int) -> None:
        """Turn the transcript's pages while the composer has the keys."""
        self.chat.turn_page(pages)

    def action_next_region(self, step: int) -> None:
        """Go round: composer, newest turn, a plugin's panel, list of chats; those that are seen."""
        panel = self.plugin_actions.regions.panel
        if panel is not None and panel.walk(step):
            return
        ring: list[tuple[Widget, Callable[[], object]]] = [
            (self.chat.composer, self.chat.composer.focus)
        ]
        if panel is None or not panel.covers:
            turns = [self.chat.newest] if self.chat.newest else [*self.chat.query(Suggestion)][:1]
            ring += [(self.chat.query_one(Transcript), turn.focus) for turn in turns]
        if panel is not None:
            ring.append((panel, partial(panel.enter, step)))
        if self.chats.display:
            ring.append((self.chats, self.chats.enter))
        focused = [at for at, (place, _) in enumerate(ring) if _contains(place, self.focused)]
        _, enter = ring[((focused or [0])[0] + step) % len(ring)]
        enter()

    def toggle_list(self) -> None:
        """Show the list and go to it; from the list, hide it."""
        shown, inside = self.chats.display, self.chats.has_focus_within
        self._list_wanted = self.chats.display = not (shown and inside)
        if self.chats.display:
            self.chats.list_again()
        else:
            self.set_focus(self.chat.composer)

    def show_list(self) -> None:
        """Show the list."""
        self._list_wanted = self.chats.display = True

    @on(Composer.Commanded)
    async def _run_typed(self, event: Composer.Commanded) -> None:
        event.stop()
        await self.action_command(event.name, event.argument)

    @on(ChatList.ChatOpened)
    async def _open(self, event: ChatList.ChatOpened) -> None:
        event.stop()
        await self.chat.leave(partial(self._show_chat, event))

    async def _show_chat(self, event: ChatList.ChatOpened) -> None:
        """Show the chat; on a small screen the list makes room for it."""
        if event.turn_id is None:
            self.set_focus(self.chat.composer)  # first: letters that follow are no keys of the list
        opened = await self.chat.open(event.conversation_id, event.turn_id)
        if opened and self.size.width < MIN_WIDTH_FOR_LIST:
            self._list_wanted = self.chats.display = False

    @on(ChatList.ChatDeleted)
    async def _leave_deleted(self, event: ChatList.ChatDeleted) -> None:
        event.stop()
        if event.conversation_id == self.chat.current:
            await self.chat.begin()

    @on(ChatList.ChatsChanged)
    @on(LiveChat.Changed)
    def _follow_changes(self) -> None:
        self.plugin_actions.regions.follow()
        try:
            self.chats.reload(self.chat.current, self.chat.answering)
        except ChatlmError as error:
            self.chat.toast(error)
        self.chat.name_again()
        self.plugin_actions.refresh_status()
        self._show_hint()
        self.insight.measure()

    @on(LiveChat.Switched)
    def _tell_plugins(self) -> None:
        self.plugin_actions.chat_shown()

    @on(ContextMeasured)
    def _show_measure(self, event: ContextMeasured) -> None:
        if event.conversation_id != self.chat.conversation_id:
            return  # of a chat that was shown before
        if event.measure is None:
            self.chat.show_fill(None)
        else:
            self.chat.show_fill(context_fill(event.measure), event.measure.outside)

    @on(ContextGauge.Clicked)
    async def _show_context(self) -> None:
        await self.action_command("context")

    def _show_engine(self, state: EngineState) -> None:
        self._bar.engine = state
        self.insight.measure()

    def _show_focus(self) -> None:
        self._show_hint()
        self.plugin_actions.regions.follow(changed=False)

    def _show_hint(self) -> None:
        focused = self.focused
        self._bar.hint = focused.hint if isinstance(focused, TurnView) else None

    def show_words(self, words: tuple[str, ...]) -> None:
        """Show what plugins say beside the model's name."""
        self._bar.words = words

    def _show_status(self, status: Status) -> None:
        self._bar.status = status
        if status.used is not None:
            self.chat.show_used(status.used)


def _contains(place: Widget, focused: Widget | None) -> bool:
    return focused is not None and place in focused.ancestors_with_self

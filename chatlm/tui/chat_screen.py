"""The main screen: chat list, open chat and status bar; dispatches commands."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from textual import events, on
from textual.actions import SkipAction
from textual.app import ComposeResult
from textual.binding import BindingsMap, BindingType
from textual.containers import Horizontal
from textual.screen import Screen
from textual.widget import Widget

from chatlm.chat.meaning_search import find_embedder, search_by_meaning
from chatlm.store.search import ChatSearchHit
from chatlm.tui import clipboard, commands
from chatlm.tui.actions.chat import ChatActions, TurnActions
from chatlm.tui.actions.images import ImageActions
from chatlm.tui.actions.inspect import (
    ContextMeasured,
    InspectActions,
    context_fill,
    describe_tools,
)
from chatlm.tui.actions.projects import ProjectActions
from chatlm.tui.actions.settings import SettingsActions
from chatlm.tui.chat.chat_view import ChatView
from chatlm.tui.chat.controller import ChatController
from chatlm.tui.chat.header import ModelLabel
from chatlm.tui.chat.status import Status, StatusBar
from chatlm.tui.chat.transcript import Transcript
from chatlm.tui.chat.turn_view import TurnView
from chatlm.tui.chat.welcome import Suggestion
from chatlm.tui.chat_list.chat_list import ChatList
from chatlm.tui.chat_list.panel import ChatsPanel
from chatlm.tui.commands import CommandHandler
from chatlm.tui.composer.composer import Composer
from chatlm.tui.engine_loader import EngineState
from chatlm.tui.plugin_ui.commands import PluginActions
from chatlm.tui.plugin_ui.folder_indexing import PluginFolderIndexing
from chatlm.tui.plugin_ui.isolation import GuardedApp
from chatlm.tui.plugin_ui.registrations import Registrations
from chatlm.tui.services import Services
from chatlm.tui.widgets.context_gauge import ContextGauge
from chatlm.tui.widgets.download_line import DownloadLine
from chatlm.tui.widgets.hints import command_hint

MIN_WIDTH_FOR_LIST = 100
"""Columns below which the list is hidden."""

HANG_CHECK_SECONDS = 0.25
"""How often the status bar looks for a hook that does not return."""

FIRST_PAINT_SECONDS = 0.05
"""Seconds for the first paint to reach the terminal before background work starts."""


PANEL_HINTS = {"stop": "back", "next-region": "next pane", "palette": "commands", "help": "help"}
"""Keys of the status bar in the chat list, which names its own above."""


class ChatScreen(Screen[None]):
    """The main screen.

    Args:
        services: shared services.
        registrations: commands, panels and screens of plugins.
        app: isolates what plugins draw.
        start_background_work: called after the first paint.
        incognito: start with a chat that is not saved.
        conversation_id: the chat to open at the start.
        project: the folder of the project to open at the start; empty for none.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        *commands.bindings(commands.CHAT, priority=True),
        *commands.bindings(commands.PANE_NAVIGATION),
    ]
    CSS_PATH = "chatlm.tcss"
    AUTO_FOCUS = "#composer"

    def __init__(
        self,
        services: Services,
        registrations: Registrations,
        app: GuardedApp,
        *,
        start_background_work: Callable[[], object],
        incognito: bool = False,
        conversation_id: int | None = None,
        project: str = "",
    ) -> None:
        super().__init__()
        theirs = commands.bindings(commands.plugin_commands(), priority=True)
        self._bindings = BindingsMap.merge([self._bindings, BindingsMap(theirs)])
        self._services = services
        self._start_program_work = start_background_work
        self._incognito = incognito
        self._conversation_id = conversation_id
        self._project = project
        self._list_shown_by_user: bool | None = None
        """The user's choice; None decides by the width."""
        self.chat = ChatController(services)
        self.chats_panel = ChatsPanel(
            services.store,
            services.now,
            self.chat.edits.write_queue,
            search_by_meaning=self._search_by_meaning,
            with_asked=services.config.list_ask_chats,
        )
        self._status_bar = StatusBar()
        self.download_line = DownloadLine()
        self.inspect_actions = InspectActions(services, self.chat)
        self.settings_actions = SettingsActions(services, self.chat)
        self.plugin_actions = PluginActions(
            services,
            registrations,
            app,
            self.chat,
            self._status_bar,
            switch_model=self.settings_actions.do_model,
        )
        self.chat.composer.index_folders_by(PluginFolderIndexing(self.plugin_actions))
        chat_actions = ChatActions(
            self.chat,
            self.chats_panel,
            self.inspect_actions,
            close_panel=self.plugin_actions.regions.close_covering_panel,
            cancel_work=self.plugin_actions.cancel_latest,
            abandon_hook=self.plugin_actions.abandon_hook,
            leave_search=self.leave_search,
            show_chat_list=self.show_chat_list,
            toggle_chat_list=self.toggle_chat_list,
        )
        self._project_actions = ProjectActions(services, self.chat, self.settings_actions.do_model)
        turn_actions = TurnActions(services, self.chat, self.inspect_actions)
        self.command_handlers: dict[str, CommandHandler] = {
            **chat_actions.handlers(),
            **turn_actions.handlers(),
            **self.settings_actions.handlers(),
            **self._project_actions.handlers(),
            **ImageActions(services, self.chat).handlers(),
        }

    def compose(self) -> ComposeResult:
        """Yield the header, the list, the chat and the status bar."""
        yield self.chat.view.header
        with Horizontal(id="panes"):
            yield self.chats_panel
            yield self.chat.view
        yield self.download_line
        yield self._status_bar

    def _search_by_meaning(
        self, query: str, progress: Callable[[int, int], None], is_cancelled: Callable[[], bool]
    ) -> list[ChatSearchHit]:
        return search_by_meaning(
            self._services.store,
            find_embedder(self._services.plugins),
            query,
            progress=progress,
            is_cancelled=is_cancelled,
        )

    async def on_mount(self) -> None:
        """Open the first chat and watch for changes."""
        self.chat.view.watch(self.app, "engine_state", self.chat.show_engine_state)
        self.watch(self.app, "engine_state", self._show_engine_state)
        self.watch(self.chat.view, "status", self._show_status)
        self.watch(self, "focused", self._follow_focus)
        self.set_interval(HANG_CHECK_SECONDS, self.plugin_actions.show_hanging_hook)
        await self.chat.switch.start(self._conversation_id, incognito=self._incognito)
        if self._project:
            await self.action_command("project", self._project)
        for fault in self._services.plugins.take_faults():
            await self.chat.view.show_notice(str(fault))
        self.call_after_refresh(self.set_timer, FIRST_PAINT_SECONDS, self._start_background_work)

    def _start_background_work(self) -> None:
        self.plugin_actions.start()
        self._start_program_work()

    def on_unmount(self) -> None:
        """Stop all threads."""
        self.inspect_actions.close()
        self.plugin_actions.close()

    def on_resize(self, event: events.Resize) -> None:
        """Hide the list on a narrow screen."""
        if self._list_shown_by_user is None:
            self.chats_panel.display = event.size.width >= MIN_WIDTH_FOR_LIST
        self.plugin_actions.regions.place_panel()

    async def action_command(self, name: str, argument: str = "") -> None:
        """Run a command; show errors in a toast."""
        run = self.command_handlers.get(name) or partial(self.plugin_actions.run_command, name)
        await self.chat.view.run_reporting_errors(partial(run, argument), f"command {name}")

    def action_copy_text(self) -> None:
        """Copy the mouse selection to the terminal's and the system's clipboard."""
        text = self.get_selected_text()
        if text is None:
            raise SkipAction
        clipboard.copy(self.app, text, "the selection")

    def action_begin(self, name: str) -> None:
        """Put a slash command into the composer, ready for its argument."""
        self.chat.composer.begin_command(commands.ALL[name])
        self.chat.view.focus_composer()

    def action_turn_page(self, pages: int) -> None:
        """Scroll the transcript while the composer has the focus."""
        self.chat.view.scroll_pages(pages)

    def action_next_region(self, step: int) -> None:
        """Cycle the focus through the panes: composer, newest turn, plugin panel, chat list."""
        panel = self.plugin_actions.regions.panel
        if panel is not None and panel.move_focus(step):
            return
        ring: list[tuple[Widget, Callable[[], object]]] = [
            (self.chat.composer, self.chat.composer.focus)
        ]
        if panel is None or not panel.covers_transcript:
            turns = (
                [self.chat.view.newest_view]
                if self.chat.view.newest_view
                else [*self.chat.view.query(Suggestion)][:1]
            )
            ring += [(self.chat.view.query_one(Transcript), turn.focus) for turn in turns]
        if panel is not None:
            ring.append((panel, partial(panel.focus_inside, step)))
        if self.chats_panel.display:
            ring.append((self.chats_panel, self.chats_panel.focus_list))
        focused = [at for at, (place, _) in enumerate(ring) if _contains(place, self.focused)]
        _, enter = ring[((focused or [0])[0] + step) % len(ring)]
        enter()

    def toggle_chat_list(self) -> None:
        """Show and focus the list; hide it if it has the focus."""
        shown, inside = self.chats_panel.display, self.chats_panel.has_focus_within
        self._list_shown_by_user = self.chats_panel.display = not (shown and inside)
        if self.chats_panel.display:
            self.chats_panel.reset_search()
        else:
            self.chat.view.focus_composer()

    def leave_search(self) -> bool:
        """Go back from the search to the composer; return False if nobody searches.

        What is typed after Esc is not meant for the list.
        """
        if not self.chats_panel.leave_search():
            return False
        self._write_after_search()
        return True

    def _write_after_search(self) -> None:
        self.chat.view.focus_composer()
        if self.size.width < MIN_WIDTH_FOR_LIST:
            self._list_shown_by_user = self.chats_panel.display = False

    def show_chat_list(self) -> None:
        """Show the list."""
        self._list_shown_by_user = self.chats_panel.display = True

    @on(Composer.CommandEntered)
    async def _run_slash_command(self, event: Composer.CommandEntered) -> None:
        event.stop()
        await self.action_command(event.name, event.argument)

    @on(ChatList.ChatOpened)
    async def _open_chat(self, event: ChatList.ChatOpened) -> None:
        event.stop()
        await self.chat.switch.leave_chat(partial(self._show_chat, event))

    async def _show_chat(self, event: ChatList.ChatOpened) -> None:
        """Open the chat; hide the list on a narrow screen."""
        if event.turn_id is None:
            self.chat.view.focus_composer()  # first: letters that follow are no keys of the list
        self.run_worker(self._open_and_hide_list(event), exit_on_error=False)

    async def _open_and_hide_list(self, event: ChatList.ChatOpened) -> None:
        opened = await self.chat.switch.open_chat(
            event.conversation_id, event.turn_id, shows_thoughts=event.shows_thoughts
        )
        if opened and self.size.width < MIN_WIDTH_FOR_LIST:
            self._list_shown_by_user = self.chats_panel.display = False

    @on(ChatsPanel.SearchLeft)
    def _handle_search_left(self, event: ChatsPanel.SearchLeft) -> None:
        event.stop()
        self._write_after_search()

    @on(ChatList.ChatDeleted)
    async def _replace_deleted_chat(self, event: ChatList.ChatDeleted) -> None:
        event.stop()
        if event.conversation_id == self.chat.saved_conversation_id:
            await self.chat.switch.new_chat()

    @on(ChatList.ChatsChanged)
    @on(ChatView.Changed)
    def _refresh_after_change(self) -> None:
        self.plugin_actions.regions.refresh_panel()
        self.chats_panel.reload(
            self.chat.saved_conversation_id, self.chat.answering_conversation_id
        )
        self.chat.refresh_title()
        self._status_bar.thinking = self.chat.thinking
        self.plugin_actions.refresh_status()
        self._update_hints()
        self.inspect_actions.measure_context()

    @on(ChatView.Started)
    def _handle_started(self) -> None:
        self._update_hints()

    @on(ChatView.Switched)
    def _notify_chat_shown(self) -> None:
        self.plugin_actions.notify_chat_shown()
        self._project_actions.refresh()

    @on(ContextMeasured)
    def _show_context_usage(self, event: ContextMeasured) -> None:
        if event.conversation_id != self.chat.conversation_id:
            return  # of a chat that was shown before
        self._status_bar.tools = describe_tools(event.usage)
        if event.usage is None:
            self.chat.view.show_context_fill(None)
        else:
            self.chat.view.show_context_fill(context_fill(event.usage), event.usage.omitted_turns)
        if event.conversation_id == self.chat.answering_conversation_id:
            self._show_status(self._status_bar.status)  # its count is newer than the measurement

    @on(ModelLabel.Clicked)
    async def _show_models(self) -> None:
        await self.action_command("model")

    @on(DownloadLine.SwitchRequested)
    async def _switch_to_downloaded(self, event: DownloadLine.SwitchRequested) -> None:
        await self.action_command("model", event.name)

    @on(ContextGauge.Clicked)
    async def _show_context(self) -> None:
        await self.action_command("context")

    def _show_engine_state(self, state: EngineState) -> None:
        if state.model and state.model == self.download_line.ready:
            self.download_line.hide()
        self._status_bar.engine_state = state
        self._update_hints()
        self.inspect_actions.measure_context()

    def _follow_focus(self) -> None:
        self._update_hints()
        self.plugin_actions.regions.refresh_panel(chat_changed=False)

    def _update_hints(self) -> None:
        focused = self.focused
        if isinstance(focused, TurnView):
            hints = focused.hints
        elif _contains(self.chats_panel, focused):
            hints = [command_hint(name, label) for name, label in PANEL_HINTS.items()]
        else:
            hints = self.chat.hints
        self._status_bar.hints = tuple(hints)

    def _show_status(self, status: Status) -> None:
        self._status_bar.status = status
        if status.used_tokens is not None:
            self.chat.view.show_used_tokens(status.used_tokens)


def _contains(widget: Widget, focused: Widget | None) -> bool:
    return focused is not None and widget in focused.ancestors_with_self

"""Open, leave and switch chats."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from chatlm.chat.deletion import open_memory_store
from chatlm.errors import StoreError, UsageError
from chatlm.store.store import Store
from chatlm.tui.chat.chat_loader import ChatLoader
from chatlm.tui.chat.chat_state import ChatState
from chatlm.tui.chat.chat_view import ChatView
from chatlm.tui.chat.incognito import copy_incognito_chats
from chatlm.tui.chat.status import Status
from chatlm.tui.chat.turn_control import TurnControl
from chatlm.tui.composer.composer import Composer
from chatlm.tui.screens.dialogs import LeaveIncognitoScreen
from chatlm.tui.services import OpenChat
from chatlm.tui.workers import to_user_error
from chatlm.types.conversations import Conversation
from chatlm.types.setups import Setup

SAVE_SECONDS = 5.0
"""How long saving an incognito chat waits for its running reply to end."""


class ChatSwitch:
    """Decides which chat is open, and loads it.

    Args:
        state: the open chat and the running turn.
        turns: runs the turns of the open chat.
        loader: reads chats and drafts in a thread.
        submit: sends a message that was held for a chat.
    """

    def __init__(
        self,
        state: ChatState,
        turns: TurnControl,
        loader: ChatLoader,
        submit: Callable[[Composer.Submitted], None],
    ) -> None:
        self._state = state
        self._view = state.view
        self._turns = turns
        self._loader = loader
        self._submit = submit
        self._opening: object | None = None
        """Identifies the chat that is being loaded, the last one that was asked for."""
        self._submitted_early: Composer.Submitted | None = None
        """A message for the chat that is being loaded."""
        self.project_setups: dict[str, Setup] = {}
        """What the user saved for the new chats of each project that was open, by its folder."""
        self.count = 0
        """How often another chat was opened."""

    @property
    def is_opening(self) -> bool:
        """Whether a chat is being loaded."""
        return self._opening is not None

    def hold_message(self, event: Composer.Submitted) -> bool:
        """Keep a message for the chat that is being loaded; return False if none is."""
        if self._opening is None:
            return False
        self._submitted_early = event
        return True

    async def start(self, conversation_id: int | None = None, *, incognito: bool = False) -> None:
        """Open the first chat, a new one until a saved one is loaded."""
        await self.new_chat(incognito=incognito)
        first = self._load_first(self._state.chat, None if incognito else conversation_id)
        self._view.run_worker(first, exit_on_error=False)

    async def _load_first(self, first: OpenChat, conversation_id: int | None) -> None:
        """Load what a new chat shows of earlier runs, then the chat to open."""
        store = self._state.saved_store
        if first.store is store:
            draft = await self._loader.load_new_draft(store)
            if self._state.chat is first and first.conversation_id is None and not self._opening:
                self._state.drafts.add_saved(store, draft)
        await self._loader.load_history(store)
        if conversation_id is not None:
            await self.open_chat(conversation_id)

    async def new_chat(self, *, incognito: bool = False) -> None:
        """Open a new chat, stored with its first message; an incognito one in memory only.

        In a project, it stays there, and begins with what the user saved for it.

        It is incognito too where the saved chats cannot be written.
        """
        self._opening = None
        in_memory = incognito or self._state.saved_store.unwritable is not None
        store = open_memory_store() if in_memory else self._state.saved_store
        project = self._state.conversation.project
        setup = self.project_setups.get(project.folder, Setup()) if project else Setup()
        chat = OpenChat(
            store,
            system=setup.system or self._state.services.config.system,
            sampling=setup.sampling,
            plugin_data=setup.plugin_data,
            project=project,
        )
        async with self._state.draw_lock:
            await self.show_chat(chat, self._state.drafts.of_new_chat(store))

    async def open_chat(
        self, conversation_id: int, turn_id: int | None = None, *, shows_thoughts: bool = False
    ) -> bool:
        """Load a saved chat and show it, at a turn if one is named.

        Only the chat that was asked for last is shown. What is typed and sent meanwhile is meant
        for it.

        Args:
            conversation_id: the chat.
            turn_id: the turn.
            shows_thoughts: whether the thoughts of the turn are opened.

        Returns:
            False when it cannot be read, which the user is told, or when another one is opened.
        """
        self._state.save_draft()
        self._opening = opening = object()
        self._state.drafts.leave()
        store = self._state.saved_store
        try:
            loaded, draft = await self._loader.load(store, conversation_id)
        except StoreError as error:
            if self._opening is opening:
                self._opening = self._submitted_early = None
                self._state.drafts.stay()
                await self._view.show_notice(error)
            return False
        if self._opening is not opening:
            return False
        self._opening = None
        async with self._state.draw_lock:
            await self.show_chat(self._chat_of(store, loaded), draft)
        if turn_id is not None:
            view = await self._view.transcript.reveal_turn(turn_id)
            if view is not None and shows_thoughts:
                await self._view.transcript.open_thoughts(view, True)
        if submitted := self._submitted_early:
            self._submitted_early = None
            self._submit(submitted)
        return True

    def _chat_of(self, store: Store, loaded: Conversation) -> OpenChat:
        """Return the chat of the running turn if it is this one, else a newly opened chat."""
        live = self._state.live_turn
        if live is None or (live.chat.store, live.chat.conversation_id) != (store, loaded.id):
            return OpenChat(store, loaded.id, loaded=loaded)
        live.chat.loaded = loaded
        if live.turn is not None:
            live.chat.update_turn(live.turn)
        return live.chat

    async def fork_chat(self, turns: int) -> None:
        """Fork the open chat after its first `turns` turns, and open the fork.

        Raises:
            UsageError: the chat is empty, or the last of these turns is running.
        """
        conversation_id = self._state.chat.conversation_id
        if conversation_id is None:
            raise UsageError("This chat has no message yet", hint="Type one first.")
        live = self._state.live_turn
        if live and live.chat is self._state.chat and live.turn and live.turn.position < turns:
            self._state.require_idle()
        store = self._state.store
        fork = await self._state.write_queue.submit(partial(store.fork, conversation_id, turns))
        async with self._state.draw_lock:
            await self.show_chat(OpenChat(store, fork.id, loaded=fork), "")

    async def leave_chat(self, proceed: Callable[[], Awaitable[object]]) -> None:
        """Leave the open chat; ask first if it is incognito and has messages.

        Args:
            proceed: called at once or after the user's answer; not called if the user stays.
        """
        asked = isinstance(self._view.app.screen, LeaveIncognitoScreen)
        if self._state.incognito and self._state.chat.conversation_id is not None and not asked:
            self._view.run_worker(self._confirm_and_leave(proceed), exit_on_error=False)
        else:
            await proceed()

    async def _confirm_and_leave(self, proceed: Callable[[], Awaitable[object]]) -> None:
        try:
            saves = await self._view.app.push_screen_wait(
                LeaveIncognitoScreen(can_save=self._state.saved_store.can_save)
            )
            if saves:
                await self._save_incognito()
            if saves is not None:
                await proceed()
        except Exception as problem:
            if error := to_user_error(problem, "leaving a chat"):
                self._view.toast(error)

    async def _save_incognito(self) -> None:
        """Stop a running reply and copy the incognito chat to the saved chats."""
        chat, live = self._state.chat, self._state.live_turn
        if live is not None and live.chat is chat:
            live.stop.set()
            await self._state.write_queue.submit(partial(live.done.wait, SAVE_SECONDS))
        if chat.conversation_id is not None:
            draft = self._view.composer.dump_draft()
            saved = self._state.saved_store
            await self._state.write_queue.submit(
                partial(copy_incognito_chats, chat.store, saved, chat.conversation_id, draft)
            )
            self._view.notify("The chat is saved.", markup=False)

    async def show_chat(self, chat: OpenChat, draft: str) -> None:
        """Show another chat, which is loaded, with its draft."""
        self._state.save_draft()
        self._opening = None
        before, self._state.chat, live = self._state.chat, chat, self._state.live_turn
        self._state.drafts.enter(chat, draft)
        if live is not None and live.chat is before:
            live.view = None
        if before.store is not chat.store:
            self._state.discard_incognito(before)
        conversation = chat.conversation
        turns = conversation.turns
        self._view.header.set_project(conversation.project)
        await self._view.show_chat(conversation.title, turns, incognito=self._state.incognito)
        self._view.status = Status.for_turn(turns[-1]) if turns else Status()
        if live is not None and live.chat is chat and (view := self._view.newest_view):
            await live.attach(view)
            self._state.show_live_status()
        self.count += 1
        self._state.notify_changed()
        self._view.post_message(ChatView.Switched())
        self._turns.resume_read_ahead()

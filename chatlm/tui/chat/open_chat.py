"""Switch chats, keep drafts, leave and save incognito."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from textual import on
from textual.message import Message

from chatlm.errors import StoreError, UsageError
from chatlm.store.store import Store
from chatlm.tui.chat.edits import StoredChat
from chatlm.tui.chat.live_turn import LiveTurn
from chatlm.tui.chat.status import Status
from chatlm.tui.chat.transcript import Transcript
from chatlm.tui.composer.composer import Composer
from chatlm.tui.composer.drafts import DraftSaver
from chatlm.tui.screens.dialogs import LeaveIncognitoScreen
from chatlm.tui.services import OpenChat, Services
from chatlm.tui.workers import to_user_error
from chatlm.types.messages import Turn

SAVE_SECONDS = 5.0
"""How long saving an incognito chat waits for the end of its reply."""


class ShownChat(StoredChat):
    """One chat at a time, saved or incognito.

    Args:
        services: of the program.
    """

    @dataclass
    class Switched(Message):
        """Another chat is shown, or a new one."""

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        self.drafts = DraftSaver()
        self._last_draft: tuple[int | None, str] = (None, "")
        """Of which chat, and what, was saved or shown last."""
        self.switch_count = 0
        """How often another chat was shown."""

    @property
    def saved_conversation_id(self) -> int | None:
        """Id of the saved chat that is shown."""
        return self._saved_id(self._chat)

    @property
    def answering_conversation_id(self) -> int | None:
        """Id of the saved chat that a turn is running for."""
        return self._saved_id(self._live_turn.chat) if self._live_turn else None

    @property
    def has_pending_writes(self) -> bool:
        """Whether something is not yet on disk, running turns aside."""
        return self.drafts.saving or self.write_queue.pending

    async def new_chat(self, *, incognito: bool = False) -> None:
        """Show a new chat; it is stored with its first message, an incognito one in memory."""
        store = Store(None) if incognito else self.saved_store
        async with self._draw_lock:
            await self._switch_chat(OpenChat(store, system=self._services.config.system))

    async def open_chat(self, conversation_id: int, turn_id: int | None = None) -> bool:
        """Show a saved chat, at a turn if one is named; False when it cannot be read, which the
        person is told."""
        async with self._draw_lock:
            if not await self._load_chat(self.saved_store, conversation_id):
                return False
        if turn_id is not None:
            await self.query_one(Transcript).reveal_turn(turn_id)
        return True

    async def fork_chat(self, turns: int) -> None:
        """Show a copy of the first `turns` turns of the shown chat, as a chat of its own.

        Raises:
            UsageError: there is no turn, or the reply of the last one is being written.
        """
        if self.conversation_id is None:
            raise UsageError("This chat has no message yet", hint="Type one first.")
        live = self._live_turn
        if live and live.chat is self._chat and live.turn and live.turn.position < turns:
            self.require_idle()
        store = self.store
        fork = await self.write_queue.submit(partial(store.fork, self.conversation_id, turns))
        async with self._draw_lock:
            await self._load_chat(store, fork.id)

    async def leave_chat(self, proceed: Callable[[], Awaitable[object]]) -> None:
        """Do what takes the shown chat away; an incognito one with messages is asked about first.

        Args:
            proceed: done at once, or when the person has answered; not at all if they stay.
        """
        asked = isinstance(self.app.screen, LeaveIncognitoScreen)
        if self.incognito and self.conversation_id is not None and not asked:
            self.run_worker(self._confirm_and_leave(proceed), exit_on_error=False)
        else:
            await proceed()

    async def _confirm_and_leave(self, proceed: Callable[[], Awaitable[object]]) -> None:
        try:
            saves = await self.app.push_screen_wait(
                LeaveIncognitoScreen(can_save=self.saved_store.on_disk)
            )
            if saves:
                await self._save_incognito()
            if saves is not None:
                await proceed()
        except Exception as problem:
            if error := to_user_error(problem, "leaving a chat"):
                self.toast(error)

    async def _save_incognito(self) -> None:
        """Copy the incognito chat to the saved ones; a reply that is written ends before."""
        chat, live = self._chat, self._live_turn
        if live is not None and live.chat is chat:
            live.stop.set()
            await self.write_queue.submit(partial(live.done.wait, SAVE_SECONDS))
        if chat.conversation_id is not None:
            draft = self.composer.dump_draft()
            await self.write_queue.submit(
                partial(
                    copy_incognito_chats, chat.store, self.saved_store, chat.conversation_id, draft
                )
            )
            self.notify("The chat is saved.", markup=False)

    async def _load_chat(self, store: Store, conversation_id: int) -> bool:
        live = self._live_turn
        if live is not None and live.chat.store is store:
            same = live.chat.conversation_id == conversation_id
        else:
            same = False
        chat = live.chat if live is not None and same else OpenChat(store, conversation_id)
        try:
            conversation = store.conversation(conversation_id)
        except StoreError as error:
            await self.show_notice(error)
            return False
        await self._switch_chat(chat, conversation.title, conversation.turns)
        return True

    async def _switch_chat(
        self, chat: OpenChat, title: str = "", turns: tuple[Turn, ...] = ()
    ) -> None:
        """Show a chat in place of the one before."""
        self.save_draft()
        before, self._chat, live = self._chat, chat, self._live_turn
        self.load_draft()  # at once: what is typed from now on is meant for this chat
        if live is not None and live.chat is before:
            live.view = None
        if before.store is not chat.store:
            self._discard_incognito(before)
        await self.show_chat(title, turns, incognito=self.incognito)
        self.status = Status.for_turn(turns[-1]) if turns else Status()
        if live is not None and live.chat is chat and (view := self.newest_view):
            await live.attach(view)
            self._sync_status(live)
        self.switch_count += 1
        self.notify_changed()
        self.post_message(self.Switched())

    def _discard_incognito(self, chat: OpenChat) -> None:
        """An incognito chat ends when it is left, and its reply with it."""
        if chat.store is self.saved_store:
            return
        if self._live_turn is not None and self._live_turn.chat is chat:
            self._live_turn.stop.set()
        else:
            self.write_queue.submit(chat.store.close)

    def _sync_status(self, live: LiveTurn) -> None:
        if live.chat is self._chat:
            self.status = live.status

    def save_draft(self) -> None:
        """Save what stands in the composer with its chat, if that changed."""
        kept, now = self._last_draft, (self.conversation_id, self.composer.dump_draft())
        if now == kept:
            return
        self.drafts.save(self.store, *now)
        if kept[0] is None and now[0] is not None:
            self.drafts.save(self.store, None, "")  # the new chat has become this one
        self._last_draft = now

    def load_draft(self) -> None:
        """Show what was typed in this chat before."""
        draft = ""
        try:
            draft = self.drafts.load(self.store, self.conversation_id)
        except StoreError as error:
            self.toast(error)
        self.composer.load_draft(draft)
        self._last_draft = (self.conversation_id, self.composer.dump_draft())

    @on(Composer.DraftChanged)
    def _handle_draft_changed(self, event: Composer.DraftChanged) -> None:
        event.stop()
        self.save_draft()

    def _saved_id(self, chat: OpenChat) -> int | None:
        return chat.conversation_id if chat.store is self.saved_store else None


def copy_incognito_chats(source: Store, target: Store, conversation_id: int, draft: str) -> None:
    """Copy all of an incognito store, forks too, to the saved chats.

    Args:
        source: where they are.
        target: where they go.
        conversation_id: the chat on the screen.
        draft: what is typed in it.

    Raises:
        StoreError: it could not be written.
    """
    copies: dict[int | None, int] = {}
    for each in sorted(chat.id for chat in source.list_conversations()):
        chat = source.conversation(each)
        chat = dataclasses.replace(chat, forked_from=copies.get(chat.forked_from))
        copy = target.add_conversation(
            chat,
            source.passages,
            source.annotations,
            source.provenance,
            source.traces,
        )
        copies[each] = copy.id
    target.save_draft(copies[conversation_id], draft)

"""The chat on the screen as it is stored: versions, standings, settings, draft; runs no turn."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual import on
from textual.message import Message

from chatlm.errors import StoreError, UsageError
from chatlm.messages import Conversation, Standing
from chatlm.sampling import Sampling
from chatlm.store import Store, export
from chatlm.tui.arguments import arguments
from chatlm.tui.draft_keeper import DraftKeeper
from chatlm.tui.live_turn import OpenChat
from chatlm.tui.widgets.chat_view import NEW_CHAT, ChatView
from chatlm.tui.widgets.composer import Composer
from chatlm.tui.widgets.transcript import Transcript
from chatlm.tui.widgets.turn_view import TurnView

if TYPE_CHECKING:
    from chatlm.tui.app import ChatApp


class ShownChat(ChatView):
    """One chat, saved or incognito.

    Args:
        app: the program it belongs to.
        store: the saved chats; an incognito chat has a store of its own.
    """

    @dataclass
    class Changed(Message):
        """A chat is new or changed, another one is shown, or a turn began or ended."""

    def __init__(self, app: ChatApp, store: Store) -> None:
        composer = Composer(
            history=self._sent_before, count_tokens=app.engine.count_tokens, values=arguments(app)
        )
        super().__init__(app.clock, composer)
        self._owner = app
        self.saved = store
        self._chat = OpenChat(store)
        self.drafts = DraftKeeper()
        self._draft: tuple[int | None, str] = (None, "")
        """Of which chat, and what, was saved or shown last."""
        self._drawing = asyncio.Lock()
        """Held while a turn is drawn or the chat is switched: both come from pumps of their own."""

    @property
    def store(self) -> Store:
        """Where the shown chat is kept."""
        return self._chat.store

    @property
    def conversation_id(self) -> int | None:
        """The shown chat's id in its store; None before its first message."""
        return self._chat.conversation_id

    @property
    def current(self) -> int | None:
        """Id of the saved chat that is shown."""
        return self._saved_id(self._chat)

    @property
    def incognito(self) -> bool:
        """Whether the shown chat is in memory only."""
        return self._chat.store is not self.saved

    @property
    def selected(self) -> TurnView | None:
        """The turn that commands are meant for."""
        return self.query_one(Transcript).selected

    @property
    def conversation(self) -> Conversation:
        """The shown chat; an empty one with the settings it will have before its first message."""
        chat = self._chat
        if chat.conversation_id is None:
            return Conversation(0, system=chat.system, sampling=chat.sampling)
        return chat.store.conversation(chat.conversation_id)

    def set_system(self, system: str) -> None:
        """Give the chat another system prompt."""
        if self._chat.conversation_id is None:
            self._chat.system = system
        else:
            self.store.set_system(self._chat.conversation_id, system)
        self.changed()

    def set_sampling(self, sampling: Sampling) -> None:
        """Give the chat its own sampling."""
        if self._chat.conversation_id is None:
            self._chat.sampling = sampling
        else:
            self.store.set_sampling(self._chat.conversation_id, sampling)
        self.changed()

    async def step_version(self, view: TurnView, step: int) -> None:
        """Let the version before or after the one that stands take its place."""
        if len(view.turn.replies) < 2:
            raise UsageError("This message has only one reply", hint="Regenerate makes another.")
        self.refuse_while_busy()
        reply = view.version(step)
        if reply is not None:
            async with self._drawing:
                await self.query_one(Transcript).change(self.store.choose(view.turn.id, reply.id))
            self.changed()

    async def set_standing(self, view: TurnView, standing: Standing) -> None:
        """Let the turn take part in what the model reads in another way."""
        self.refuse_while_busy()
        async with self._drawing:
            await self.query_one(Transcript).change(self.store.set_standing(view.turn.id, standing))
        self.changed()

    def changed(self) -> None:
        """Let everything that depends on the chats be drawn again."""
        self.post_message(self.Changed())

    async def redraw(self, turn_id: int | None = None) -> None:
        """Show the chat as it is stored now, and go to a turn if one is named; a chat that cannot
        be read is told."""
        try:
            turns = self.conversation.turns
        except StoreError as error:
            self.toast(error)
            return
        async with self._drawing:
            for turn in turns:
                await self.query_one(Transcript).change(turn)
        if turn_id is not None:
            await self.query_one(Transcript).reveal(turn_id)
        self.changed()

    def name_again(self) -> None:
        """Show the chat's title as it is now; a chat that is gone keeps the one it had."""
        with suppress(StoreError):
            self.show_title(export.title_of(self.conversation) or NEW_CHAT)

    def refuse_while_busy(self) -> None:
        """See `LiveChat`."""
        raise NotImplementedError

    def keep_draft(self) -> None:
        """Save what stands in the composer with its chat, if that changed."""
        kept, now = self._draft, (self.conversation_id, self.composer.state())
        if now == kept:
            return
        self.drafts.keep(self.store, *now)
        if kept[0] is None and now[0] is not None:
            self.drafts.keep(self.store, None, "")  # the new chat has become this one
        self._draft = now

    def take_draft(self) -> None:
        """Show what was typed in this chat before."""
        draft = ""
        try:
            draft = self.drafts.draft(self.store, self.conversation_id)
        except StoreError as error:
            self.toast(error)
        self.composer.restore(draft)
        self._draft = (self.conversation_id, self.composer.state())

    @on(Composer.Drafted)
    def _drafted(self, event: Composer.Drafted) -> None:
        event.stop()
        self.keep_draft()

    def _sent_before(self) -> list[str]:
        try:
            return self.store.sent()
        except StoreError:  # without a history one can still write
            return []

    def _saved_id(self, chat: OpenChat) -> int | None:
        return chat.conversation_id if chat.store is self.saved else None

"""The chat on the screen as it is stored: versions, standings, settings; knows no other chat."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from textual.message import Message
from textual.reactive import reactive

from chatlm.chat.attachments import AttachmentReader
from chatlm.errors import StoreError, UsageError
from chatlm.store import export
from chatlm.store.store import Store
from chatlm.tui import commands
from chatlm.tui.chat.chat_view import NEW_CHAT, ChatView
from chatlm.tui.chat.live_turn import LiveTurn
from chatlm.tui.chat.status import Status
from chatlm.tui.chat.transcript import Transcript
from chatlm.tui.chat.turn_view import TurnView
from chatlm.tui.composer.composer import Composer
from chatlm.tui.services import OpenChat, Services, argument_completers
from chatlm.tui.workers import WriteQueue, to_user_error
from chatlm.types.messages import ContextPolicy, Conversation, Turn
from chatlm.types.sampling import Sampling


class StoredChat(ChatView):
    """What is changed is shown at once and stored behind that, in order.

    Args:
        services: of the program.
    """

    status: reactive[Status] = reactive(Status(), repaint=False)
    """Of the chat that is shown."""

    @dataclass
    class Changed(Message):
        """A chat is new or changed, another one is shown, or a turn began or ended."""

    def __init__(self, services: Services) -> None:
        composer = Composer(
            history=self._sent_messages,
            count_tokens=services.engine.count_tokens,
            completers=argument_completers(lambda: self.app.available_themes),
            read_file=AttachmentReader(services.plugins),
        )
        super().__init__(services.clock, composer)
        self._services = services
        self.saved_store = services.store
        self.write_queue = WriteQueue()
        self._chat = OpenChat(services.store)
        self._live_turn: LiveTurn | None = None
        """The turn that is running, in this chat or another."""
        self._draw_lock = asyncio.Lock()
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
    def incognito(self) -> bool:
        """Whether the shown chat is in memory only."""
        return self._chat.store is not self.saved_store

    @property
    def selected_view(self) -> TurnView | None:
        """The turn that commands are meant for."""
        return self.query_one(Transcript).selected_view

    @property
    def conversation(self) -> Conversation:
        """The shown chat; an empty one with the settings it will have before its first message."""
        chat = self._chat
        if chat.conversation_id is None:
            return Conversation(
                0,
                system=chat.system,
                sampling=chat.sampling,
                plugin_data=chat.plugin_data,
                disabled_plugins=chat.disabled_plugins,
            )
        return chat.store.conversation(chat.conversation_id)

    @property
    def busy(self) -> bool:
        """Whether a turn is running."""
        return self._live_turn is not None

    def require_idle(self) -> None:
        """Some things wait until the reply is written.

        Raises:
            UsageError: a turn is running.
        """
        if self._live_turn is not None:
            where = "" if self._live_turn.chat is self._chat else " in another chat"
            stop = commands.key_of("stop")
            raise UsageError(f"A reply is being written{where}", hint=f"{stop} stops it.")

    def set_system(self, system: str) -> None:
        """Give the chat another system prompt."""
        if self._chat.conversation_id is None:
            self._chat.system = system
            self.notify_changed()
        else:
            self._submit_write(partial(self.store.set_system, self._chat.conversation_id, system))

    def set_sampling(self, sampling: Sampling) -> None:
        """Give the chat its own sampling."""
        if self._chat.conversation_id is None:
            self._chat.sampling = sampling
            self.notify_changed()
        else:
            self._submit_write(
                partial(self.store.set_sampling, self._chat.conversation_id, sampling)
            )

    def set_disabled_plugins(self, plugins: Iterable[str]) -> None:
        """Switch these plugins off in the chat, and all others on."""
        names = frozenset(plugins)
        if self._chat.conversation_id is None:
            self._chat.disabled_plugins = names
            self.notify_changed()
        else:
            self._submit_write(
                partial(self.store.set_disabled_plugins, self._chat.conversation_id, names)
            )

    def set_plugin_data(self, plugin: str, values: Mapping[str, Any]) -> None:
        """Keep a plugin's values with the chat, beside the others it keeps; None forgets one."""
        chat = self._chat
        if chat.conversation_id is None:
            chat.plugin_data = {
                **chat.plugin_data,
                plugin: _merge(chat.plugin_data.get(plugin, {}), values),
            }
            self.notify_changed()
        else:
            self._submit_write(
                partial(_update_plugin_data, chat.store, chat.conversation_id, plugin, values)
            )

    async def step_version(self, view: TurnView, step: int) -> None:
        """Let the version before or after the one that stands take its place."""
        if len(view.turn.replies) < 2:
            raise UsageError("This message has only one reply", hint="Regenerate makes another.")
        self.require_idle()
        reply = view.adjacent_version(step)
        if reply is not None:
            turn = dataclasses.replace(view.turn, active_reply_id=reply.id)
            await self._update_turn(turn, partial(self.store.choose_reply, turn.id, reply.id))

    async def set_context_policy(self, view: TurnView, policy: ContextPolicy) -> None:
        """Let the turn take part in what the model reads in another way."""
        self.require_idle()
        turn = dataclasses.replace(view.turn, context_policy=policy)
        await self._update_turn(turn, partial(self.store.set_context_policy, turn.id, policy))

    def notify_changed(self) -> None:
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
        async with self._draw_lock:
            for turn in turns:
                await self.query_one(Transcript).update_turn(turn)
        if turn_id is not None:
            await self.query_one(Transcript).reveal_turn(turn_id)
        self.notify_changed()

    def refresh_title(self) -> None:
        """Show the chat's title as it is now; a chat that is gone keeps the one it had."""
        with suppress(StoreError):
            self.show_title(export.display_title(self.conversation) or NEW_CHAT)

    async def _update_turn(self, turn: Turn, write: Callable[[], object]) -> None:
        """Show a turn as it will be, and store that; what cannot be stored is taken back."""
        self._submit_write(write, self.redraw)
        async with self._draw_lock:
            await self.query_one(Transcript).update_turn(turn)
        if self.newest_view is not None and self.newest_view.turn.id == turn.id:
            self.status = Status.for_turn(turn)

    def _submit_write(
        self,
        write: Callable[[], object],
        revert: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        making = self.write_queue.submit(write)
        self.run_worker(self._await_write(making, revert), exit_on_error=False)

    async def _await_write(
        self, pending: Awaitable[object], revert: Callable[[], Awaitable[None]] | None
    ) -> None:
        try:
            await pending
        except Exception as problem:
            if error := to_user_error(problem, "changing a chat"):
                self.toast(error)
            if revert is not None:
                await revert()
        self.notify_changed()

    def _sent_messages(self) -> list[str]:
        try:
            return self.store.recent_inputs()
        except StoreError:  # without a history one can still write
            return []


def _update_plugin_data(
    store: Store, conversation_id: int, plugin: str, values: Mapping[str, Any]
) -> None:
    before = store.conversation(conversation_id).plugin_data.get(plugin, {})
    store.set_plugin_data(conversation_id, plugin, _merge(before, values))


def _merge(current: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**current, **values}.items() if value is not None}

"""Edits of the open chat: settings, plugin data, reply versions and context policies."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any

from chatlm.errors import UsageError
from chatlm.store.store import Store
from chatlm.tui.chat.chat_view import ChatView
from chatlm.tui.chat.status import Status
from chatlm.tui.chat.turn_view import TurnView
from chatlm.tui.services import OpenChat
from chatlm.tui.workers import WriteQueue, to_user_error
from chatlm.types.messages import ContextPolicy, Turn
from chatlm.types.sampling import Sampling


class ChatEdits:
    """Changes to the open chat, shown at once and written to the store in order.

    Args:
        view: shows the open chat.
        chat: returns the open chat.
        draw_lock: held while turns are drawn.
        require_idle: raises `UsageError` while a turn is running.
        redraw: shows the chat as it is stored.
        notify_changed: announces a change.
    """

    def __init__(
        self,
        view: ChatView,
        chat: Callable[[], OpenChat],
        draw_lock: asyncio.Lock,
        *,
        require_idle: Callable[[], None],
        redraw: Callable[[], Awaitable[None]],
        notify_changed: Callable[[], None],
    ) -> None:
        self.write_queue = WriteQueue()
        self._view = view
        self._chat = chat
        self._draw_lock = draw_lock
        self._require_idle = require_idle
        self._redraw = redraw
        self._notify_changed = notify_changed

    def store_changes(self, chat: OpenChat, before: OpenChat) -> None:
        """Store what was changed in a new chat while its first message was being stored.

        Args:
            chat: the chat, which is stored now.
            before: the settings that it was stored with.
        """
        store, chat_id = chat.store, chat.conversation_id
        if chat_id is None:
            return
        if chat.system != before.system:
            self._submit_write(partial(store.set_system, chat_id, chat.system))
        if chat.sampling != before.sampling:
            self._submit_write(partial(store.set_sampling, chat_id, chat.sampling))
        if chat.disabled_plugins != before.disabled_plugins:
            names = chat.disabled_plugins
            self._submit_write(partial(store.set_disabled_plugins, chat_id, names))
        for plugin, values in chat.plugin_data.items():
            if values != before.plugin_data.get(plugin):
                self._submit_write(partial(store.set_plugin_data, chat_id, plugin, values))

    def set_system(self, system: str) -> None:
        """Set the system prompt of the chat."""
        chat = self._chat()
        if chat.conversation_id is None:
            chat.system = system
            self._notify_changed()
        else:
            self._submit_write(partial(chat.store.set_system, chat.conversation_id, system))

    def set_sampling(self, sampling: Sampling) -> None:
        """Set the sampling of the chat."""
        chat = self._chat()
        if chat.conversation_id is None:
            chat.sampling = sampling
            self._notify_changed()
        else:
            self._submit_write(partial(chat.store.set_sampling, chat.conversation_id, sampling))

    def set_disabled_plugins(self, plugins: Iterable[str]) -> None:
        """Disable these plugins in the chat, and enable all others."""
        names = frozenset(plugins)
        chat = self._chat()
        if chat.conversation_id is None:
            chat.disabled_plugins = names
            self._notify_changed()
        else:
            self._submit_write(
                partial(chat.store.set_disabled_plugins, chat.conversation_id, names)
            )

    def set_plugin_data(self, plugin: str, values: Mapping[str, Any]) -> None:
        """Merge values into a plugin's data of the chat; None deletes one."""
        chat = self._chat()
        if chat.conversation_id is None:
            chat.plugin_data = {
                **chat.plugin_data,
                plugin: _merge(chat.plugin_data.get(plugin, {}), values),
            }
            self._notify_changed()
        else:
            self._submit_write(
                partial(_update_plugin_data, chat.store, chat.conversation_id, plugin, values)
            )

    async def step_version(self, view: TurnView, step: int) -> None:
        """Activate the previous (-1) or next (1) version of a reply."""
        if len(view.turn.replies) < 2:
            raise UsageError("This message has only one reply", hint="Regenerate to get another.")
        self._require_idle()
        reply = view.adjacent_version(step)
        if reply is not None:
            turn = dataclasses.replace(view.turn, active_reply_id=reply.id)
            await self._update_turn(
                turn, partial(self._chat().store.choose_reply, turn.id, reply.id)
            )

    async def set_context_policy(self, view: TurnView, policy: ContextPolicy) -> None:
        """Change whether and how the model reads a turn."""
        self._require_idle()
        turn = dataclasses.replace(view.turn, context_policy=policy)
        await self._update_turn(
            turn, partial(self._chat().store.set_context_policy, turn.id, policy)
        )

    async def _update_turn(self, turn: Turn, write: Callable[[], object]) -> None:
        """Show a changed turn at once and store it; a failed write is reverted on the screen."""
        self._submit_write(write, self._redraw)
        async with self._draw_lock:
            await self._view.transcript.update_turn(turn)
        if self._view.newest_view is not None and self._view.newest_view.turn.id == turn.id:
            self._view.status = Status.for_turn(turn)

    def _submit_write(
        self,
        write: Callable[[], object],
        revert: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        making = self.write_queue.submit(write)
        self._view.run_worker(self._await_write(making, revert), exit_on_error=False)

    async def _await_write(
        self, pending: Awaitable[object], revert: Callable[[], Awaitable[None]] | None
    ) -> None:
        try:
            await pending
        except Exception as problem:
            if error := to_user_error(problem, "changing a chat"):
                self._view.toast(error)
            if revert is not None:
                await revert()
        self._notify_changed()


def _update_plugin_data(
    store: Store, conversation_id: int, plugin: str, values: Mapping[str, Any]
) -> None:
    before = store.conversation(conversation_id).plugin_data.get(plugin, {})
    store.set_plugin_data(conversation_id, plugin, _merge(before, values))


def _merge(current: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**current, **values}.items() if value is not None}

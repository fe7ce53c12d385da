"""Edits of the open chat: settings, plugin data, reply versions and context policies."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any

from chatlm.errors import UsageError
from chatlm.store.store import Store
from chatlm.tui.chat.chat_state import ChatState
from chatlm.tui.chat.status import Status
from chatlm.tui.chat.turn_view import TurnView
from chatlm.tui.services import OpenChat
from chatlm.tui.workers import to_user_error
from chatlm.types.conversations import ContextPolicy, Turn
from chatlm.types.projects import Project
from chatlm.types.sampling import Sampling
from chatlm.types.tool_rules import ChatTools

_SETTERS: dict[str, Callable[[Store, int, Any], None]] = {
    "system": Store.set_system,
    "sampling": Store.set_sampling,
    "disabled_plugins": Store.set_disabled_plugins,
    "project": Store.set_project,
    "tools": Store.set_tools,
}


class ChatEdits:
    """Changes to the open chat, shown at once and written to the store in order.

    Args:
        state: the open chat.
        redraw: shows the chat as it is stored.
    """

    def __init__(self, state: ChatState, redraw: Callable[[], Awaitable[None]]) -> None:
        self.write_queue = state.write_queue
        self.count = 0
        """How many changes were made."""
        self._state = state
        self._view = state.view
        self._redraw = redraw

    def store_changes(self, chat: OpenChat, before: OpenChat) -> None:
        """Store what was changed in a new chat while its first message was being stored.

        Args:
            chat: the chat, which is stored now.
            before: the settings that it was stored with.
        """
        for field in _SETTERS:
            value = getattr(chat, field)
            if value != getattr(before, field):
                self._change(chat, field, value)
        for plugin, values in chat.plugin_data.items():
            if values != before.plugin_data.get(plugin):
                self._change_plugin_data(chat, plugin, values)

    def set_system(self, system: str) -> None:
        """Set the system prompt of the chat."""
        self._change(self._state.chat, "system", system)

    def set_sampling(self, sampling: Sampling) -> None:
        """Set the sampling of the chat."""
        self._change(self._state.chat, "sampling", sampling)

    def set_disabled_plugins(self, plugins: Iterable[str]) -> None:
        """Disable these plugins in the chat, and enable all others."""
        self._change(self._state.chat, "disabled_plugins", frozenset(plugins))

    def set_project(self, project: Project | None) -> None:
        """Set the project that the chat belongs to."""
        self._change(self._state.chat, "project", project)

    def set_tools(self, tools: ChatTools) -> None:
        """Set what the user decided about tools in the chat."""
        self._change(self._state.chat, "tools", tools)

    def set_tags(self, tags: tuple[str, ...]) -> None:
        """Set the tags of the chat, which is stored."""
        chat = self._state.chat
        chat.change("tags", tags)
        self._store_change(chat, lambda store, chat_id: store.set_tags(chat_id, tags))

    def set_plugin_data(self, plugin: str, values: Mapping[str, Any]) -> None:
        """Merge values into a plugin's data of the chat; None deletes one."""
        self._change_plugin_data(self._state.chat, plugin, values)

    def _change_plugin_data(self, chat: OpenChat, plugin: str, values: Mapping[str, Any]) -> None:
        data = chat.conversation.plugin_data
        merged = {**data, plugin: _merge(data.get(plugin, {}), values)}
        chat.change("plugin_data", merged)
        self._store_change(
            chat, lambda store, chat_id: _update_plugin_data(store, chat_id, plugin, values)
        )

    def _change(self, chat: OpenChat, field: str, value: Any) -> None:
        """Change a setting of a chat at once, and store it if the chat is stored."""
        chat.change(field, value)
        write = _SETTERS[field]
        self._store_change(chat, lambda store, chat_id: write(store, chat_id, value))

    def _store_change(self, chat: OpenChat, write: Callable[[Store, int], object]) -> None:
        if chat.conversation_id is None:
            self._state.notify_changed()
        else:
            self._submit_write(partial(write, chat.store, chat.conversation_id), self._redraw)

    async def step_version(self, view: TurnView, step: int) -> None:
        """Activate the previous (-1) or next (1) version of a reply."""
        if len(view.turn.replies) < 2:
            raise UsageError("This message has only one reply", hint="Regenerate to get another.")
        self._state.require_idle()
        reply = view.adjacent_version(step)
        if reply is not None:
            turn = dataclasses.replace(view.turn, active_reply_id=reply.id)
            await self._update_turn(
                turn, partial(self._state.chat.store.choose_reply, turn.id, reply.id)
            )

    async def set_context_policy(self, view: TurnView, policy: ContextPolicy) -> None:
        """Change whether and how the model reads a turn."""
        self._state.require_idle()
        turn = dataclasses.replace(view.turn, context_policy=policy)
        await self._update_turn(
            turn, partial(self._state.chat.store.set_context_policy, turn.id, policy)
        )

    async def _update_turn(self, turn: Turn, write: Callable[[], object]) -> None:
        """Show a changed turn at once and store it; a failed write is reverted on the screen."""
        self._state.chat.update_turn(turn)
        self._submit_write(write, self._redraw)
        async with self._state.draw_lock:
            await self._view.transcript.update_turn(turn)
        if self._view.newest_view is not None and self._view.newest_view.turn.id == turn.id:
            self._view.status = Status.for_turn(turn)

    def _submit_write(
        self,
        write: Callable[[], object],
        revert: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.count += 1
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
        self._state.notify_changed()


def _update_plugin_data(
    store: Store, conversation_id: int, plugin: str, values: Mapping[str, Any]
) -> None:
    before = store.conversation(conversation_id).plugin_data.get(plugin, {})
    store.set_plugin_data(conversation_id, plugin, _merge(before, values))


def _merge(current: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**current, **values}.items() if value is not None}

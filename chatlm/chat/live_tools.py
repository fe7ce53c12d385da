"""Tools of a replayed reply, run anew beside a copy of its chat in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from chatlm.chat.deletion import open_memory_store
from chatlm.chat.reply_writer import ReplyWriter
from chatlm.chat.tool_loop import LoopEvents, ToolLoop, retrieved_only
from chatlm.chat.tool_set import ToolOptions, ToolSet, find_tools
from chatlm.plugin_host.host import PluginHost
from chatlm.plugin_host.turn_plugins import TurnPlugins
from chatlm.store.store import Store
from chatlm.types.messages import Conversation, Reply, ReplyStep, Turn
from chatlm.types.parts import Part
from chatlm.types.requests import Request, ToolDefinition


class LiveTools:
    """The tools of a chat, for a reply that is replayed; the chat itself does not change.

    They run under the rules of the chat, the settings and the options. As in an incognito chat,
    they keep nothing about it.

    Args:
        store: has the chat.
        plugins: offer the tools.
        options: rules of the settings and of this replay.
        conversation: the chat, with the turn.
        turn: whose reply is replayed.
    """

    def __init__(
        self,
        store: Store,
        plugins: PluginHost,
        options: ToolOptions,
        conversation: Conversation,
        turn: Turn,
    ) -> None:
        self._passages = retrieved_only(store.passages(turn.id))
        self._plugins = TurnPlugins(plugins, conversation.disabled_plugins)
        self._options = options
        self._conversation, self._turn = conversation, turn
        self._tools = find_tools(self._plugins)

    def missing(self, tools: Iterable[ToolDefinition]) -> list[str]:
        """Return the names of tools that are not there any longer."""
        return [each.name for each in tools if each.name not in self._tools]

    def begin(self, request: Request, prefix: Sequence[Part]) -> LiveReply:
        """Begin a reply.

        Args:
            request: names the tools.
            prefix: what the reply has already.
        """
        names = tuple(each.name for each in request.tools if each.name in self._tools)
        store = open_memory_store()
        copy = store.create_conversation()
        turn = store.add_turn(copy.id, self._turn.user.parts)
        store.save_passages(turn.id, self._passages)
        reply = store.start_reply(turn.id, model="")
        if prefix:
            reply = dataclasses.replace(reply, steps=(ReplyStep(tuple(prefix)),))
        loop = ToolLoop(
            store,
            self._plugins,
            ToolSet(
                self._tools, dataclasses.replace(self._options, names=names), self._conversation
            ),
            dataclasses.replace(self._conversation, id=copy.id),
            dataclasses.replace(self._turn, id=turn.id),
        )
        return LiveReply(store, loop, reply)


class LiveReply:
    """One replayed reply with new calls and results.

    Args:
        store: in memory.
        loop: runs its calls.
        reply: what it has already.
    """

    def __init__(self, store: Store, loop: ToolLoop, reply: Reply) -> None:
        self._store = store
        self.loop = loop
        self.reply = reply
        """The reply with all whole steps so far."""

    @property
    def images(self) -> Mapping[str, bytes]:
        """The bytes of the images that the tools returned, by hash."""
        return self._store.images

    def writer(self) -> ReplyWriter:
        """Return the writer of the next step."""
        return ReplyWriter(self._store, self.reply, "{}")

    def run_tools(self) -> LoopEvents:
        """Run the calls of the last step, and add their results."""
        self.loop.count_output(self.reply.steps[-1].usage)
        yield from self.loop.run(self.reply)
        self.reply = self.loop.reply

    def close(self) -> None:
        """Forget it."""
        self._store.close()

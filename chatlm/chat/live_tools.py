"""Tools of a reply that is not stored, such as a replayed one: run beside a chat in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from chatlm.chat.deletion import open_memory_store
from chatlm.chat.reply_writer import ReplyWriter
from chatlm.chat.tool_loop import LoopEvents, ToolLoop
from chatlm.chat.tool_set import ToolOptions, ToolSet, find_tools
from chatlm.plugin_host.host import PluginHost
from chatlm.plugin_host.turn_plugins import TurnPlugins
from chatlm.store.store import Store
from chatlm.types.conversations import Conversation, Turn
from chatlm.types.messages import Passage
from chatlm.types.replies import Reply, ReplyStep
from chatlm.types.requests import ToolDefinition


class LiveTools:
    """The tools of a chat, for a reply beside it; the chat itself does not change.

    They run under the rules of the chat, the settings and the options. As in an incognito chat,
    they keep nothing about it.

    Args:
        plugins: offer the tools.
        options: rules of the settings and of this reply.
        conversation: the chat, with the turn.
        turn: what is answered.
        passages: what was retrieved for it.
    """

    def __init__(
        self,
        plugins: PluginHost,
        options: ToolOptions,
        conversation: Conversation,
        turn: Turn,
        passages: Sequence[Passage] = (),
    ) -> None:
        self._passages = passages
        self._plugins = TurnPlugins(plugins, conversation.disabled_plugins)
        self._options = options
        self._conversation, self._turn = conversation, turn
        self._tools = find_tools(self._plugins, options.added)

    @property
    def definitions(self) -> tuple[ToolDefinition, ...]:
        """The tools that the options and the chat offer."""
        return ToolSet(self._tools, self._options, self._conversation).definitions

    def missing(self, tools: Iterable[ToolDefinition]) -> list[str]:
        """Return the names of tools that are not there any longer."""
        return [each.name for each in tools if each.name not in self._tools]

    def begin(self, tools: Iterable[ToolDefinition], steps: Sequence[ReplyStep]) -> LiveReply:
        """Begin a reply.

        Args:
            tools: offered to the model.
            steps: what the reply has already.
        """
        names = tuple(each.name for each in tools if each.name in self._tools)
        store = open_memory_store()
        copy = store.create_conversation()
        turn = store.add_turn(copy.id, self._turn.user.parts)
        store.save_passages(turn.id, list(self._passages))
        reply = store.start_reply(turn.id, model="")
        if steps:
            reply = dataclasses.replace(reply, steps=tuple(steps))
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
    """One reply with its calls and results.

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

"""The default model, made to call, runs a tool whose arguments fit the schema, and answers."""

from __future__ import annotations

import json
from typing import Any

from chatlm import LocalEngine, Sampling, ToolCall, ToolResult, tool
from chatlm.chat.replay import ReplayFinished, replay
from chatlm.chat.session import ChatSession
from chatlm.chat.tool_set import ToolOptions
from chatlm.plugin_host.hookspecs import hookimpl
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store


@tool(permission="allow", read_only=True)
def add(first: int, second: int) -> str:
    """Add two whole numbers.

    Args:
        first: a number.
        second: another number.
    """
    return str(first + second)


class Plugin:
    @hookimpl
    def register_tools(self, register: Any) -> None:
        register(add)


def test_a_small_model_calls_reads_the_result_and_is_replayed(engine: LocalEngine) -> None:
    with Store(None) as store:
        session = ChatSession(
            store,
            lambda: engine,
            plugins=PluginHost([("sums", Plugin())]),
            sampling=Sampling(temperature=0.0, max_tokens=90),
            tools=ToolOptions(names=("add",), choice="required"),
        )
        list(session.send("What is 17 + 25?"))
        chat = session.conversation
        assert chat is not None
        reply = chat.turns[0].reply
        assert reply is not None
        calls = [part for part in reply.parts if isinstance(part, ToolCall)]
        results = [part for part in reply.parts if isinstance(part, ToolResult)]
        assert len(calls) == len(results) >= 1
        for call, result in zip(calls, results, strict=True):
            values = json.loads(call.arguments)
            assert {name: type(value) for name, value in values.items()} == {
                "first": int,
                "second": int,
            }
            assert result.text == str(values["first"] + values["second"])
        assert reply.text.strip()
        usage = session.context_usage()
        session.tools = ToolOptions()
        without = session.context_usage()
        assert usage.turn_tokens == without.turn_tokens
        assert usage.used_tokens - without.used_tokens > 50
        assert usage.system_tokens - without.system_tokens > 50
        *_, again = replay(store, engine, reply.id)
        assert isinstance(again, ReplayFinished)
        assert (again.same_text, again.same_prompt, again.mismatches) == (True, True, ())

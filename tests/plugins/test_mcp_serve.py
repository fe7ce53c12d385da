"""chatlm is a server itself: documents, chats and ratings, read-only."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters

from chatlm import ChatlmError, Passage, Store
from chatlm_mcp.serve import MAX_CHAT_CHARACTERS, Sources, _TokenGuard, make_server


class Papers:
    def collections(self) -> list[str]:
        return ["papers"]

    def search(self, collection: str, query: str) -> list[Passage]:
        if collection != "papers":
            raise ChatlmError("there is no such index")
        return [Passage(f"{query} {number}", "a.pdf", 0.5) for number in range(60)]


class Table:
    def leaderboard(self) -> Sequence[dict[str, Any]]:
        return [{"name": "small", "elo": 1500.0, "games": 2, "win_rate": 0.5}]


async def ask(client: Client, tool: str, **arguments: object) -> str:
    result = await client.call_tool(tool, arguments)
    text: str = result.content[0].text  # type: ignore[union-attr]
    return f"error: {text}" if result.is_error else text


async def test_what_is_there_can_be_read(home: Path) -> None:
    home.mkdir()
    with Store(home / "chats.db") as store:
        chat = store.create_conversation()
        turn = store.add_turn(chat.id, "Where is the walrus?")
        store.finish_reply(store.start_reply(turn.id, model="x").id, text="In the bath.")
        long = store.create_conversation()
        store.add_turn(long.id, "x" * (MAX_CHAT_CHARACTERS + 10))
        server = make_server(Sources(store, Papers(), Table()))
        async with Client(server) as client:
            tools = (await client.list_tools()).tools
            assert {tool.name for tool in tools} == {
                "search_chats",
                "read_chat",
                "list_documents",
                "search_documents",
                "arena_ratings",
            }
            assert all(tool.annotations and tool.annotations.read_only_hint for tool in tools)
            (hit,) = json.loads(await ask(client, "search_chats", query="walrus"))
            text = await ask(client, "read_chat", conversation_id=hit["conversation_id"])
            assert "## User\nWhere is the walrus?\n\n## Assistant\nIn the bath." in text
            text = await ask(client, "read_chat", conversation_id=long.id)
            assert len(text) < MAX_CHAT_CHARACTERS + 100
            assert "(cut: " in text
            assert "no chat 99" in await ask(client, "read_chat", conversation_id=99)
            assert json.loads(await ask(client, "list_documents")) == ["papers"]
            found = await ask(client, "search_documents", collection="papers", query="ice", limit=2)
            assert [each["text"] for each in json.loads(found)] == ["ice 0", "ice 1"]
            found = await ask(client, "search_documents", collection="x", query="ice")
            assert found.startswith("error: ")
            assert "there is no such index" in found
            assert json.loads(await ask(client, "arena_ratings"))[0]["name"] == "small"


async def test_what_is_not_there_is_not_offered() -> None:
    async with Client(make_server(Sources(None, None, None))) as client:
        assert (await client.list_tools()).tools == []


async def test_the_command_serves_over_its_standard_streams(home: Path) -> None:
    command = StdioServerParameters(
        command=sys.executable,
        args=["-m", "chatlm", "mcp", "serve", "--without-chats"],
        env={"CHATLM_HOME": str(home)},
    )
    async with Client(command) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert names == {"list_documents", "search_documents", "arena_ratings"}
        assert json.loads(await ask(client, "arena_ratings")) == []
        with pytest.raises(MCPError):
            await client.read_resource("chats://all")


async def test_nobody_is_answered_over_http_without_the_token() -> None:
    reached: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])

    guard = _TokenGuard(app, "sesame")
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    for given in (b"", b"Bearer wrong", b"sesame"):
        scope = {"type": "http", "path": "/mcp", "headers": [(b"authorization", given)]}
        await guard(scope, receive, send)
    assert [message["status"] for message in sent if "status" in message] == [401] * 3
    assert reached == []
    scope = {"type": "http", "path": "/mcp", "headers": [(b"authorization", b"Bearer sesame")]}
    await guard(scope, receive, send)
    assert reached == ["/mcp"]

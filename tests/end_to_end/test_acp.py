"""`chatlm acp` is an agent for editors; the SDK's own client is the editor."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import acp
import pytest
from acp.schema import (
    AllowedOutcome,
    DeniedOutcome,
    EnvVariable,
    HttpMcpServer,
    McpServerStdio,
    RequestPermissionResponse,
    ResourceContentBlock,
    SseMcpServer,
)

from chatlm import Image, Store, ToolResult
from tests.waiting import PATIENCE

POINT = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9Q"
    "DwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""A picture of one pixel."""

PLUGIN = '''
from chatlm import Reasoning, Text, ToolCall, hookimpl, tool


@tool
def stamp(letter: str) -> str:
    """Stamp a letter."""
    return f"stamped {letter}"


@tool(permission="allow")
def choose(context) -> str:
    """Let the user choose."""
    return "chosen: " + context.ask("Which one?", ("left", "right"))


@hookimpl
def register_tools(register):
    register(stamp)
    register(choose)


@hookimpl
def register_engines(register):
    from chatlm.testing import ScriptedEngine

    print("This must not reach the editor.")
    register(
        "parrot",
        lambda name: ScriptedEngine(
            (Reasoning("Two calls."), ToolCall("1", "stamp", '{"letter": "a"}')),
            (ToolCall("2", "choose", "{}"),),
            "Done.",
        ),
    )
'''


class Editor:
    """Notes what the agent sends, and answers its questions by a script."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Any, list[Any]]] = []
        self.updates: list[Any] = []
        self.on_update = asyncio.Event()

    async def request_permission(
        self, session_id: str, tool_call: Any, options: list[Any], **_: Any
    ) -> RequestPermissionResponse:
        self.asked.append((tool_call, options))
        if not self.answers:
            return RequestPermissionResponse(outcome=DeniedOutcome(outcome="cancelled"))
        chosen = AllowedOutcome(outcome="selected", option_id=self.answers.pop(0))
        return RequestPermissionResponse(outcome=chosen)

    async def session_update(self, session_id: str, update: Any, **_: Any) -> None:
        self.updates.append(update)
        self.on_update.set()

    def text(self, kind: str) -> str:
        return "".join(
            update.content.text for update in self.updates if update.session_update == kind
        )


@asynccontextmanager
async def editing(
    home: Path, editor: Editor, *options: str, servers: Sequence[Any] = ()
) -> AsyncIterator[Any]:
    """Start the agent and begin a session; yields the connection and the session's id."""
    client: Any = editor  # it has the methods that this agent calls
    environment = {**acp.default_environment(), "CHATLM_HOME": str(home)}
    async with (
        asyncio.timeout(PATIENCE),
        acp.spawn_agent_process(
            client, sys.executable, "-m", "chatlm", "acp", *options, env=environment
        ) as (agent, _),
    ):
        greeting = await agent.initialize(protocol_version=acp.PROTOCOL_VERSION)
        assert greeting.protocol_version == 1
        session = await agent.new_session(cwd=str(home), mcp_servers=list(servers))
        yield agent, session.session_id


async def test_the_default_model_answers_and_stops(chat_home: Path) -> None:
    note = chat_home / "note.md"
    note.write_text("The walrus is in the bath.")
    editor = Editor()
    async with editing(chat_home, editor) as (agent, session):
        link = ResourceContentBlock(type="resource_link", name="note.md", uri=note.as_uri())
        asked = [acp.text_block("Where is the walrus? See "), link]
        done = await agent.prompt(session_id=session, prompt=asked)
        assert done.stop_reason in ("end_turn", "max_tokens")
        answer = editor.text("agent_message_chunk")
        assert answer.strip()

        editor.on_update.clear()
        writing = asyncio.create_task(
            agent.prompt(
                session_id=session, prompt=[acp.text_block("Count from one to a thousand.")]
            )
        )
        await editor.on_update.wait()
        await agent.cancel(session_id=session)
        assert (await writing).stop_reason == "cancelled"

        with pytest.raises(acp.RequestError):
            await agent.prompt(session_id="nobody", prompt=asked)
    with Store(chat_home / "chats.db") as store:
        (entry,) = store.list_conversations()
        chat = store.conversation(entry.id)
        assert chat.turns[0].user.text.startswith("Where is the walrus? See note.md")
        assert "The walrus is in the bath." in chat.turns[0].user.text
        assert chat.turns[0].reply and chat.turns[0].reply.text == answer
        assert chat.turns[1].reply and chat.turns[1].reply.stop_reason == "cancelled"


@pytest.fixture
def scripted_home(home: Path) -> Path:
    (home / "plugins").mkdir(parents=True)
    (home / "plugins" / "parrot.py").write_text(PLUGIN)
    return home


async def test_a_session_is_listed_and_loaded_by_another_process(scripted_home: Path) -> None:
    options = ("-m", "parrot:x", "--tools", "stamp,choose")
    first = Editor("allow", "1")
    async with editing(scripted_home, first, *options) as (agent, session):
        assert (await agent.list_sessions()).sessions == []
        await agent.prompt(session_id=session, prompt=[acp.text_block("Stamp it.")])
    later = Editor("allow", "1")
    async with editing(scripted_home, later, *options) as (agent, _):
        (listed,) = (await agent.list_sessions(cwd=str(scripted_home))).sessions
        assert (listed.session_id, listed.title) == (session, "Stamp it.")
        assert (await agent.list_sessions(cwd="/elsewhere")).sessions == []
        with pytest.raises(acp.RequestError):
            await agent.load_session(cwd=str(scripted_home), session_id="nobody", mcp_servers=[])
        await agent.load_session(cwd=str(scripted_home), session_id=session, mcp_servers=[])
        assert later.text("user_message_chunk") == "Stamp it."
        assert later.text("agent_thought_chunk").startswith("Two calls.")
        assert later.text("agent_message_chunk") == "Done."
        assert states(later, "1") == ["pending", "completed"]
        assert later.asked == []
        await agent.prompt(session_id=session, prompt=[acp.text_block("Again.")])
    with Store(scripted_home / "chats.db") as store:
        (entry,) = store.list_conversations()
        turns = store.conversation(entry.id).turns
        assert [turn.user.text for turn in turns] == ["Stamp it.", "Again."]


async def test_a_session_is_closed_and_resumed(scripted_home: Path) -> None:
    editor = Editor("allow", "1", "allow", "1")
    options = ("-m", "parrot:x", "--tools", "stamp,choose")
    async with editing(scripted_home, editor, *options) as (agent, session):
        asked = [acp.text_block("Stamp it.")]
        await agent.prompt(session_id=session, prompt=asked)
        with pytest.raises(acp.RequestError):
            await agent.resume_session(cwd=str(scripted_home), session_id=session, mcp_servers=[])
        await agent.close_session(session_id=session)
        for gone in (agent.close_session, agent.prompt):
            with pytest.raises(acp.RequestError):
                await gone(
                    session_id=session, **({"prompt": asked} if gone == agent.prompt else {})
                )
        shown = len(editor.updates)
        await agent.resume_session(cwd=str(scripted_home), session_id=session, mcp_servers=[])
        assert len(editor.updates) == shown  # the editor still has what was said
        await agent.prompt(session_id=session, prompt=asked)
        # what chatlm does not have is refused, and the connection goes on
        for absent in (
            agent.set_session_mode(session_id=session, mode_id="x"),
            agent.set_config_option(session_id=session, config_id="x", value=True),
            agent.fork_session(session_id=session, cwd=str(scripted_home)),
            agent.ext_method("x", {}),
        ):
            with pytest.raises(acp.RequestError):
                await absent
        assert len((await agent.list_sessions()).sessions) == 1
    with Store(scripted_home / "chats.db") as store:
        (entry,) = store.list_conversations()
        assert len(store.conversation(entry.id).turns) == 2


async def test_an_image_of_the_editor_is_stored_and_sent(scripted_home: Path) -> None:
    file = scripted_home / "plugins" / "parrot.py"
    file.write_text(PLUGIN.replace('"Done.",', '"Done.",\n            images=True,'))
    picture = scripted_home / "point.png"
    picture.write_bytes(base64.b64decode(POINT))
    editor = Editor()
    async with editing(scripted_home, editor, "-m", "parrot:x") as (agent, session):
        link = ResourceContentBlock(type="resource_link", name="point", uri=picture.as_uri())
        asked = [acp.text_block("What is it?"), acp.image_block(POINT, "image/png"), link]
        await agent.prompt(session_id=session, prompt=asked)
    with Store(scripted_home / "chats.db") as store:
        (entry,) = store.list_conversations()
        (turn,) = store.conversation(entry.id).turns
    images = [part for part in turn.user.parts if isinstance(part, Image)]
    assert len(images) == 1  # the same twice


def states(editor: Editor, call_id: str) -> list[str]:
    return [
        update.status
        for update in editor.updates
        if update.session_update.startswith("tool_call") and update.tool_call_id == call_id
    ]


async def test_calls_are_asked_about_and_shown(scripted_home: Path) -> None:
    editor = Editor("allow", "1")
    options = ("-m", "parrot:x", "--tools", "stamp,choose", "--no-save")
    async with editing(scripted_home, editor, *options) as (agent, session):
        asked = [acp.text_block("Stamp it.")]
        done = await agent.prompt(session_id=session, prompt=asked)
    assert done.stop_reason == "end_turn"
    assert editor.text("agent_thought_chunk").startswith("Two calls.")
    assert editor.text("agent_message_chunk") == "Done."
    (stamp, answers), (choice, choices) = editor.asked
    assert stamp.raw_input == {"letter": "a"}
    assert [each.option_id for each in answers] == ["allow", "allow-in-chat", "reject"]
    assert [each.name for each in choices] == ["left", "right"]
    assert choice.content[0].content.text == "Which one?"
    first, second = (call.tool_call_id for call in (stamp, choice))
    assert states(editor, first) == ["pending", "in_progress", "completed"]
    assert states(editor, second)[-1] == "completed"
    shown = [
        u.content[0].content.text
        for u in editor.updates
        if getattr(u, "content", None) and isinstance(u.content, list)
    ]
    assert shown == ["stamped a", "chosen: right"]


async def test_a_call_that_nobody_allows_does_not_run(scripted_home: Path) -> None:
    editor = Editor("reject")
    options = ("-m", "parrot:x", "--tools", "stamp", "--no-save")
    async with editing(scripted_home, editor, *options) as (agent, session):
        await agent.prompt(session_id=session, prompt=[acp.text_block("Stamp it.")])
    first = editor.asked[0][0].tool_call_id
    assert states(editor, first) == ["pending", "failed"]


async def test_what_editors_may_not_send_is_refused(scripted_home: Path) -> None:
    editor = Editor()
    async with editing(scripted_home, editor, "-m", "parrot:x", "--no-save") as (agent, session):
        sound = acp.audio_block("AAAA", "audio/wav")
        pictures = [acp.image_block(data, "image/png") for data in ("AAAA", "no base64!")]
        for block in (sound, *pictures, acp.text_block("  ")):
            with pytest.raises(acp.RequestError):
                await agent.prompt(session_id=session, prompt=[block])
        seen = [acp.text_block("What is it?"), acp.image_block(POINT, "image/png")]
        with pytest.raises(acp.RequestError, match="cannot read images"):
            await agent.prompt(session_id=session, prompt=seen)
        missing = ResourceContentBlock(type="resource_link", name="x", uri="file:///no/such/file")
        with pytest.raises(acp.RequestError, match="does not exist"):
            await agent.prompt(session_id=session, prompt=[missing])


CALLER = """
from chatlm import ToolCall, hookimpl


@hookimpl
def register_engines(register):
    from chatlm.testing import ScriptedEngine

    def load(name):
        engine = ScriptedEngine(
            (
                ToolCall("1", "editor-my-server__environment", '{"name": "WORD"}'),
                ToolCall("2", "editor-my-server__add", '{"first": 2, "second": 3}'),
                ToolCall("3", "editor-my-server__crash", "{}"),
            ),
            "Done.",
            "Again.",
        )
        return engine

    register("parrot", load)
"""


def stdio_server(name: str, command: str = sys.executable) -> McpServerStdio:
    script = str(Path(__file__).parents[1] / "mcp_server.py")
    word = EnvVariable(name="WORD", value="${HOME} as it is")
    return McpServerStdio(name=name, command=command, args=[script], env=[word])


@pytest.fixture
def calling_home(scripted_home: Path) -> Path:
    (scripted_home / "plugins" / "parrot.py").write_text(CALLER)
    (scripted_home / "config.toml").write_text('[tools]\nallow = ["my_server", "my-server"]\n')
    return scripted_home


async def test_mcp_servers_of_the_editor_are_used_for_its_session_alone(calling_home: Path) -> None:
    editor = Editor("allow", "allow", "reject")
    wanted = [
        stdio_server("my server"),
        stdio_server("broken", "no-such-program"),
        SseMcpServer(type="sse", name="old", url="http://127.0.0.1:1/", headers=[]),
        HttpMcpServer(type="http", name="away", url="http://127.0.0.1:1/mcp", headers=[]),
    ]
    async with editing(calling_home, editor, "-m", "parrot:x", servers=wanted) as (agent, session):
        asked = [acp.text_block("Go.")]
        assert (await agent.prompt(session_id=session, prompt=asked)).stop_reason == "end_turn"
        # rules for servers of mcp.json are not about these, so each call was asked about
        assert [call.title for call, _ in editor.asked] == [
            f"editor-my-server__{name}" for name in ("environment", "add", "crash")
        ]
        results = [
            update.content[0].content.text
            for update in editor.updates
            if getattr(update, "status", "") in ("completed", "failed")
        ]
        assert results[:2] == ["${HOME} as it is", "5"]
        assert results[2].startswith("Not run")
        problems = editor.text("agent_thought_chunk")
        for name in ("broken", "old", "away"):
            assert problems.count(f"The MCP server editor-{name} ") == 1
        editor.updates.clear()
        await agent.prompt(session_id=session, prompt=asked)
        assert editor.text("agent_thought_chunk") == ""
        await agent.close_session(session_id=session)
    assert not (calling_home / "mcp.json").exists()
    with Store(calling_home / "chats.db") as store:
        (entry,) = store.list_conversations()
        reply = store.conversation(entry.id).turns[0].reply
    assert reply is not None
    first, *_ = (part for part in reply.parts if isinstance(part, ToolResult))
    assert (first.untrusted, first.source) == (True, "MCP server editor-my-server")


async def test_without_the_plugin_the_user_is_told(calling_home: Path) -> None:
    editor = Editor()
    options = ("-m", "parrot:x", "--without", "mcp")
    wanted = [stdio_server("my server")]
    async with editing(calling_home, editor, *options, servers=wanted) as (agent, session):
        await agent.prompt(session_id=session, prompt=[acp.text_block("Go.")])
    assert "MCP servers are not used" in editor.text("agent_thought_chunk")

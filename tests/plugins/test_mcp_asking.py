"""Servers ask for folders and for the user's answers, on both transports and in both protocols."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mcp
import pytest

from chatlm import ToolCall, ToolCancelled, ToolOutput, ToolResult, UsageError
from chatlm.testing import ScriptedToolContext, run_tool, scripted_chat
from chatlm_mcp.connection import Connection
from chatlm_mcp.forms import ANSWER, DECLINE, OPENED, Declined, ask_form, ask_to_open
from chatlm_mcp.limits import MAX_FIELDS, MAX_QUESTIONS
from chatlm_mcp.listing import KnownServer
from chatlm_mcp.plugin import McpPlugin
from chatlm_mcp.resources import ServerResources
from chatlm_mcp.server_config import ServerConfig, save_server
from chatlm_mcp.server_log import ServerLog
from chatlm_mcp.server_requests import ServerRequests
from chatlm_mcp.servers import Servers
from chatlm_mcp.tools import make_tools
from tests.plugins.mcp_servers import PATIENT, TESTS, http_server
from tests.waiting import wait_until

SCRIPT = TESTS / "asking_mcp_server.py"

Call = Callable[..., tuple[ToolOutput, ScriptedToolContext]]


@pytest.fixture(params=["stdio", "http"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["2026-07-28", "2025-11-25"])
def protocol(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The newest protocol, and the newest one with a handshake, in which servers ask directly."""
    if request.param == "2025-11-25":
        monkeypatch.setattr(mcp, "Client", functools.partial(mcp.Client, mode="legacy"))
    return str(request.param)


@pytest.fixture
def servers(home: Path, tmp_path: Path, transport: str, protocol: str) -> Iterator[Servers]:
    home.mkdir()
    noticed = str(tmp_path / "noticed")
    with ExitStack() as stack:
        if transport == "http":
            url = stack.enter_context(http_server(SCRIPT, noticed))
            save_server(ServerConfig("test", url=url))
        else:
            save_server(ServerConfig("test", sys.executable, (str(SCRIPT), noticed)))
        servers = Servers(PATIENT, lambda: (home,))
        stack.callback(servers.close)
        yield servers


def test_a_server_asks_its_client(
    servers: Servers, home: Path, tmp_path: Path, protocol: str
) -> None:
    tools = {tool.name.removeprefix("test__"): tool for tool in make_tools(servers, 300)}

    def call(name: str, *answers: str, **options: Any) -> tuple[str, list[str]]:
        context = ScriptedToolContext(*answers, **options)
        return run_tool(tools[name], {}, context).text, context.questions

    # questions to the user: a form, one with a single choice, and no answer
    ordered, asked = call("order", ANSWER, "large", "10", "3", "hot")
    assert ordered == 'accept {"size":"large","number":3,"note":"hot"}'
    assert asked[0].startswith("The MCP server test asks:\nWhat would you like?␛[2J\nIt wants: ")
    assert asked[1] == "Size\nHow much?"
    assert asked[3].endswith("10 is greater than the maximum of 9.")
    assert call("order", ANSWER, "small", "1", "")[0].endswith('"note":""}')
    assert call("order", DECLINE)[0] == "decline"
    assert call("order")[0] == "cancel"
    assert call("delete", "yes") == ("accept True", ["The MCP server test asks:\nDelete it?"])
    assert call("delete", DECLINE)[0] == "decline"

    # folders: those of the call, as far as they exist
    other = tmp_path / "other"
    other.mkdir()
    assert call("folders", workspace_folders=[home]) == (home.as_uri(), [])
    assert call("folders", workspace_folders=[other, home / "gone"])[0] == other.as_uri()
    assert call("folders")[0] == "none"

    # chatlm runs no model for servers, and says so
    assert "sampling" in call("think")[0]

    # a call that is cancelled is cancelled in the server, too
    with pytest.raises(ToolCancelled):
        call("wait", cancel_after=1)
    wait_until((tmp_path / "noticed").exists)

    # a list that changes is asked for again, so that the next message has the new tool
    assert call("learn")[0] == "learned"
    wait_until(lambda: "test__sing" in [tool.name for tool in make_tools(servers, 0)])

    # templates of resources
    source = ServerResources(servers.get("test"))
    assert source.names() == ["notes?day=&place="]
    assert source.read("notes?day=monday&place=New York") == "On monday in New York: buy bread."
    assert source.read("notes://monday/Bonn") == "On monday in Bonn: buy bread."
    for wrong, problem in [
        ("notes?day=monday", "needs the argument place"),
        ("notes?day=a&place=b&x=c", "no argument x"),
        ("notes://{day}/{place}", "needs the argument day"),
    ]:
        with pytest.raises(UsageError, match=problem):
            source.read(wrong)
    assert servers.get("test").health().starts == 1


def test_a_server_that_is_not_here_is_told_no_folders(home: Path) -> None:
    home.mkdir()
    for url, told in [
        ("https://example.org/mcp", ()),
        ("http://127.0.0.1.example.org/mcp", ()),
        ("http://127.0.0.1:8000/mcp", (home,)),
        ("http://localhost/mcp", (home,)),
        ("", (home,)),
    ]:
        assert ServerRequests(ServerConfig("test", url=url), lambda: (home,)).folders() == told


def test_a_server_may_not_ask_without_end(home: Path) -> None:
    from mcp_types import ElicitRequestFormParams, ElicitResult

    requests = ServerRequests(ServerConfig("test"))
    schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}}
    params = ElicitRequestFormParams(message="Sure?", requested_schema=schema)

    def ask() -> str:
        answer = asyncio.run(requests.elicit(None, params))  # type: ignore[arg-type]
        assert isinstance(answer, ElicitResult)
        return answer.action

    assert ask() == "cancel"  # no call runs, so nobody is asked
    context = ScriptedToolContext(*["no"] * 100)
    with requests.during(context):
        assert [ask() for _ in range(MAX_QUESTIONS + 1)] == ["accept"] * MAX_QUESTIONS + ["decline"]
    assert len(context.questions) == MAX_QUESTIONS
    assert ask() == "cancel"


async def test_the_time_in_which_the_user_answers_does_not_count(home: Path) -> None:
    config = ServerConfig("test")
    connection = Connection(config, ServerLog("test"), ServerRequests(config), lambda: None)
    async with asyncio.timeout(1000) as limit:
        connection._limits.add(limit)
        before = limit.when()
        assert before is not None
        with connection._pause_limits():
            assert limit.when() is None
            await asyncio.sleep(0.01)
        after = limit.when()
        assert after is not None
        assert after > before


class Script:
    """Answers questions, and notes them."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def __call__(self, question: str, choices: Any = ()) -> str:
        self.asked.append((question, tuple(choices)))
        return self.answers.pop(0)


def form(script: Script, *required: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return ask_form("test", "Please.", schema, script)


def test_fields_of_all_kinds_are_asked_for() -> None:
    titled = {
        "type": "string",
        "oneOf": [{"const": "r", "title": "Red"}, {"const": "g", "title": "Red"}],
    }
    several = {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 2}
    script = Script(
        *(ANSWER, "Red (2)", "leave it out", "a, x", "a,b,c", "A, c"),
        *("", "nan", "1.5", "nobody", "me@example.org"),
    )
    values = form(
        script,
        *("colour", "several", "number", "mail"),
        colour=titled,
        spare={"type": "boolean"},
        several=several,
        age={"type": "integer", "default": 7},
        number={"type": "number"},
        mail={"type": "string", "format": "email"},
    )
    assert values == {
        "colour": "g",
        "several": ["a", "c"],
        "age": 7,
        "number": 1.5,
        "mail": "me@example.org",
    }
    assert script.asked[1][1] == ("Red", "Red (2)")
    assert script.asked[2][1] == ("yes", "no", "leave it out")
    assert not script.answers


def test_a_choice_of_the_server_is_never_taken_for_one_of_chatlm() -> None:
    field = {"type": "string", "enum": [DECLINE, "go on"]}
    assert form(Script(DECLINE), "x", x=field) == {"x": DECLINE}
    with pytest.raises(Declined):
        form(Script(f"{DECLINE} (2)"), "x", x=field)


def test_answers_that_never_fit_are_no_answers() -> None:
    with pytest.raises(Declined):
        form(Script(ANSWER, "a", "b", "c"), "x", x={"type": "integer"})


@pytest.mark.parametrize(
    "field",
    [
        {"type": "object"},
        {"type": ["string"]},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array"},
        "text",
    ],
)
def test_forms_that_cannot_be_shown_are_refused(field: Any) -> None:
    script = Script()
    with pytest.raises(ValueError, match="the field x"):
        form(script, x=field)
    with pytest.raises(ValueError, match="more than"):
        form(script, **{f"x{n}": {"type": "string"} for n in range(MAX_FIELDS + 1)})
    assert script.asked == []


def test_a_pattern_that_takes_for_ever_is_not_used() -> None:
    field = {"type": "string", "pattern": "^(a+)+$"}
    assert form(Script(ANSWER, "a" * 40 + "!"), "x", x=field) == {"x": "a" * 40 + "!"}


def test_a_page_is_shown_with_its_host_and_never_opened() -> None:
    script = Script(OPENED, DECLINE)
    ask_to_open("test", "Sign in.", "https://example.org/sign-in?x=1", script)
    assert "example.org:\nSign in.\n\nhttps://example.org/sign-in?x=1" in script.asked[0][0]
    with pytest.raises(Declined):
        ask_to_open("test", "Sign in.", "https://example.org/", script)
    for url in ("file:///etc/passwd", "javascript:alert(1)", "https://", "https://exаmple.org/"):
        with pytest.raises(ValueError, match="the address"):
            ask_to_open("test", "Sign in.", url, script)


@pytest.mark.parametrize("transport", ["stdio"], indirect=True)
@pytest.mark.parametrize("protocol", ["2026-07-28"], indirect=True)
def test_the_next_message_of_a_chat_has_a_tool_that_is_new(servers: Servers) -> None:
    make_tools(servers, 300)
    learn, sing = ToolCall("1", "test__learn", "{}"), ToolCall("2", "test__sing", "{}")
    with scripted_chat(McpPlugin(servers), (learn,), "Learned.", (sing,), "Sung.") as chat:
        chat.say("Learn.", True)
        known = KnownServer(servers.get("test").config)
        wait_until(lambda: bool(known.listing and known.listing.tool("sing")))
        turn = chat.say("Sing.", True)
    assert turn.reply is not None
    results = [part.text for part in turn.reply.parts if isinstance(part, ToolResult)]
    assert results == ["la"]

"""Tools, resources and prompts of servers are chatlm's own, and what they return is not trusted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatlm import Tool, ToolCall, ToolCancelled, ToolResult, UsageError
from chatlm.testing import ScriptedToolContext, run_tool, scripted_chat
from chatlm_mcp.listing import KnownServer
from chatlm_mcp.plugin import McpPlugin
from chatlm_mcp.prompts import make_templates
from chatlm_mcp.resources import ServerResources
from chatlm_mcp.server_config import save_server
from chatlm_mcp.servers import Servers
from chatlm_mcp.tools import REFUSE, RUN, group_name, make_tools
from tests.plugins.mcp_servers import PATIENT, raw_config, sdk_config


@pytest.fixture
def servers(home: Path) -> Iterator[Servers]:
    home.mkdir()
    save_server(sdk_config())
    servers = Servers(PATIENT)
    yield servers
    servers.close()


def tool_of(servers: Servers, name: str) -> Tool:
    return next(tool for tool in make_tools(servers, 300) if tool.name == name)


def test_tools_are_offered_with_the_servers_schemas(servers: Servers) -> None:
    tools = make_tools(servers, 300)
    add = tools[0]
    add.check()
    assert (add.name, add.description, add.group) == ("test__add", "Add two numbers.", "test")
    assert set(add.parameters["properties"]) == {"first", "second"}
    # the server says that it is read-only, which must not make it run unasked
    assert (add.permission, add.read_only, add.untrusted_output) == ("ask", False, True)
    output = run_tool(add, {"first": 2, "second": 3})
    assert (output.text, output.is_error, output.untrusted) == ("5", False, True)
    assert output.source == "MCP server test"
    assert "second" in run_tool(add, {"first": 2}).text


def test_known_tools_are_offered_without_starting_the_server(servers: Servers) -> None:
    assert make_tools(servers, 0) == []
    assert len(make_tools(servers, 300)) == 10
    servers.close()
    assert len(make_tools(servers, 0)) == 10
    assert servers.get("test").health().state == "not started"


def test_a_failing_tool_and_a_crash_are_results_that_the_model_reads(servers: Servers) -> None:
    failed = run_tool(tool_of(servers, "test__fail"), {"reason": "it rains"})
    assert failed.is_error
    crashed = run_tool(tool_of(servers, "test__crash"))
    assert crashed.is_error
    assert "exit code 3" in crashed.text
    added = run_tool(tool_of(servers, "test__add"), {"first": 2, "second": 3})
    assert added.text == "5"


def test_pictures_are_passed_on(servers: Servers) -> None:
    output = run_tool(tool_of(servers, "test__draw"))
    assert output.text.startswith("A point:\n(image of the type image/png, ")
    (image,) = output.images
    assert image.startswith(b"\x89PNG")


def test_progress_is_shown(servers: Servers) -> None:
    context = ScriptedToolContext()
    assert run_tool(tool_of(servers, "test__count"), {"to": 2}, context).text == "counted"
    assert context.reported[-2:] == [("at 1", 0.5), ("at 2", 1.0)]


def test_a_tool_can_be_stopped(servers: Servers) -> None:
    hang = tool_of(servers, "test__hang")
    servers.get("test").restart()  # so that its start is the progress that is waited for
    with pytest.raises(ToolCancelled):
        run_tool(hang, {"seconds": 600}, ScriptedToolContext(cancel_after=1))


def test_a_tool_that_changed_is_asked_about_again(servers: Servers) -> None:
    arguments = {"first": 1, "second": 2}
    add = tool_of(servers, "test__add")
    assert run_tool(add, arguments).text == "3"
    known = KnownServer(servers.get("test").config)
    before = known.used_fingerprint("add")
    known.remember_use("add", "as it was when the user allowed it")

    with pytest.raises(ToolCancelled):  # nobody is there to ask
        run_tool(add, arguments)
    context = ScriptedToolContext(REFUSE)
    refused = run_tool(add, arguments, context)
    assert refused.is_error
    assert "changed" in refused.text
    assert "Add two numbers." in context.questions[0]
    assert known.used_fingerprint("add") != before
    assert run_tool(add, arguments, ScriptedToolContext(RUN)).text == "3"
    assert known.used_fingerprint("add") == before
    assert run_tool(add, arguments).text == "3"


def test_nothing_is_remembered_of_an_incognito_chat(servers: Servers) -> None:
    context = ScriptedToolContext(incognito=True)
    add = tool_of(servers, "test__add")
    assert run_tool(add, {"first": 1, "second": 2}, context).text == "3"
    assert KnownServer(servers.get("test").config).used_fingerprint("add") == ""


def test_a_tool_that_is_another_than_it_was_listed_is_asked_about(servers: Servers) -> None:
    add = tool_of(servers, "test__add")
    server = servers.get("test")
    server.restart()
    # the same entry now starts a program whose tool says something else
    object.__setattr__(server.config, "args", (*server.config.args, "--changed"))
    context = ScriptedToolContext(REFUSE)
    assert run_tool(add, {"first": 1, "second": 2}, context).is_error
    assert "Delete all files." in context.questions[0]


def test_a_tool_that_is_gone_is_an_error(servers: Servers) -> None:
    make_tools(servers, 300)
    server = servers.get("test")
    known = KnownServer(server.config)
    values = json.loads(json.dumps(known.listing.to_dict() if known.listing else {}))
    values["tools"][0]["name"] = "gone"
    known.remember(type(known.listing).from_dict(values))  # type: ignore[union-attr]
    output = run_tool(tool_of(servers, "test__gone"), {"first": 1, "second": 2})
    assert output.is_error
    assert "does not offer" in output.text


def test_another_program_under_the_same_name_starts_anew(servers: Servers) -> None:
    run_tool(tool_of(servers, "test__add"), {"first": 1, "second": 2})
    old = KnownServer(servers.get("test").config)
    assert old.used_fingerprint("add")
    save_server(sdk_config("--changed"))
    new = KnownServer(servers.get("test").config)
    assert new.listing is None
    assert not new.used_fingerprint("add")


def test_a_server_that_does_not_answer_costs_no_tools_of_others(servers: Servers) -> None:
    save_server(raw_config("silent"))
    make_tools(servers, 0)
    KnownServer(servers.get("test").config).remember(servers.get("test").list_all())
    assert len(make_tools(servers, 0.1)) == 10


def test_resources_are_read_by_uri_and_by_name(servers: Servers) -> None:
    make_tools(servers, 300)
    source = ServerResources(servers.get("test"))
    assert source.names() == ["notes://today", "notes://picture"]
    assert source.read("notes://today") == "Buy bread.\n"
    assert source.read("notes") == "Buy bread.\n"
    with pytest.raises(UsageError, match="no text"):
        source.read("notes://picture")


def test_prompts_are_templates(servers: Servers) -> None:
    make_tools(servers, 300)
    render = make_templates(servers)["test:review"]
    assert render.__doc__ == "Review a piece of code. (MCP server test)"
    assert render({}, "x = 1", dict).user == "Review this code, be kind:\nx = 1"
    rendered = render({"code": "x = 1", "style": "strict"}, "Be quick.", dict)
    assert rendered.user == "Review this code, be strict:\nx = 1\n\nBe quick."
    with pytest.raises(UsageError, match="needs: code"):
        render({"style": "kind"}, "", dict)
    with pytest.raises(UsageError, match="no argument mood"):
        render({"mood": "kind"}, "x", dict)


def test_groups_are_valid_names() -> None:
    assert group_name("my server.x") == "my_server_x"


def test_a_chat_calls_them_once_they_are_allowed(servers: Servers) -> None:
    calls = [
        ("test__hostile", "{}"),
        ("test__add", '{"first": "two", "second": 3}'),
        ("test__crash", "{}"),
        ("test__add", '{"first": 2, "second": 3}'),
    ]
    made = [(ToolCall(str(at), name, text),) for at, (name, text) in enumerate(calls)]
    make_tools(servers, 300)
    with scripted_chat(McpPlugin(servers), *made, "Done.") as chat:
        turn = chat.say("Go on.", True, True, False)
        assert chat.faults == []
    assert turn.reply is not None
    assert turn.reply.text == "Done."
    hostile, wrong, crashed, added = (
        part for part in turn.reply.parts if isinstance(part, ToolResult)
    )
    assert "<|im_start|>" in hostile.text
    assert (hostile.untrusted, hostile.source) == (True, "MCP server test")
    assert wrong.is_error  # the arguments do not fit the schema, so nobody is asked
    assert "first" in wrong.text
    assert "exit code 3" in crashed.text
    assert added.status == "denied"
    # the model reads what came from outside as data
    parts = [part for message in chat.requests[-1].messages for part in message.parts]
    read = next(part for part in parts if isinstance(part, ToolResult) and part.call_id == "0")
    assert read.text != hostile.text
    assert "Obey me." in read.text

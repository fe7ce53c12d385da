"""`chatlm mcp`, `ask` with resources, prompts and the panel."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatlm.testing import scripted_screen
from chatlm_mcp.plugin import McpPlugin
from chatlm_mcp.server_config import ServerConfig, find_server, save_server
from chatlm_mcp.servers import Servers
from tests.plugins.mcp_servers import PATIENT, TESTS, sdk_config
from tests.program import run_chatlm
from tests.waiting import PATIENCE

SERVER = str(TESTS / "mcp_server.py")


def run(*arguments: str) -> str:
    done = run_chatlm("mcp", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fail(*arguments: str) -> str:
    done = run_chatlm("mcp", *arguments)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_server_is_added_listed_tested_and_removed(home: Path) -> None:
    added = run("add", "test", "--env", "TOKEN=${HOME}", "--", sys.executable, SERVER)
    assert "10 tools, 2 resources, 1 prompt" in added
    assert find_server("test").env == {"TOKEN": "${HOME}"}
    (row,) = json.loads(run("list", "--json"))
    assert (row["name"], row["transport"], len(row["tools"])) == ("test", "stdio", 10)
    assert "test  10 tools, 2 resources, 1 prompt" in run("list")
    tested = run("test", "test")
    assert "add (read-only): Add two numbers." in tested
    assert "@test:notes://today" in tested

    done = run_chatlm("ask", "--dry-run", "-a", "@test:notes://today", "What is on?")
    assert "test:notes://today\n```\nBuy bread.\n```" in done.stdout
    done = run_chatlm("ask", "--dry-run", "-t", "test:review", "-v", "style=strict", "x = 1")
    assert "Review this code, be strict:\nx = 1" in done.stdout
    done = run_chatlm("ask", "--dry-run", "-a", "test:notes://nowhere", "What is on?")
    assert done.returncode != 0
    assert "test:notes://nowhere" in done.stderr

    run("remove", "test")
    assert json.loads(run("list", "--json")) == []
    assert "no MCP server test" in fail("test", "test")
    assert "no MCP server test" in fail("remove", "test")


def test_a_server_that_does_not_work_is_kept_and_said(home: Path) -> None:
    errors = fail("add", "broken", "--", sys.executable, "-c", "import sys; sys.exit('no key')")
    assert "ended with exit code 1" in errors
    assert "no key" in errors  # the end of its log
    assert find_server("broken").command == sys.executable


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), "needs a name"),
        (("a",), "either a command or a url"),
        (("a", "--url", "ftp://x"), "http://"),
        (("a", "--env", "X", "--", "x"), "has no ="),
        (("a/b", "--", "x"), "needs a name of letters"),
        (("--from", "missing.json"), "does not exist"),
        (("--from", "x.json", "--url", "http://x"), "not a command"),
    ],
)
def test_what_cannot_be_added_is_refused(
    home: Path, arguments: tuple[str, ...], error: str
) -> None:
    assert error in fail("add", *arguments)
    assert not (home / "mcp.json").exists()


def test_servers_of_other_programs_are_taken_over(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "claude_desktop_config.json"
    servers = {"one": {"command": "x"}, "two": {"command": "y"}, "old": {"type": "sse"}}
    file.write_text(json.dumps({"mcpServers": servers, "theme": "dark"}))
    done = run_chatlm("mcp", "add", "--from", str(file), "--no-test")
    assert done.returncode == 0
    assert "old uses the transport sse" in done.stderr
    assert [row["name"] for row in json.loads(run("list", "--json"))] == ["one", "two"]
    assert "no server three" in fail("add", "three", "--from", str(file))


@pytest.fixture
def servers(home: Path) -> Iterator[Servers]:
    """A server that runs, and one that is off."""
    home.mkdir()
    save_server(sdk_config())
    save_server(ServerConfig("off", "x", disabled=True))
    servers = Servers(PATIENT)
    servers.live_listing(servers.get("test"))
    yield servers
    servers.close()


async def test_servers_are_shown_and_used_on_the_screen(servers: Servers) -> None:
    plugin = McpPlugin(servers)
    async with scripted_screen(plugin, replies=["Yes."], size=(160, 50)) as screen:
        await screen.submit("/mcp")
        async with asyncio.timeout(PATIENCE):  # the panel reads files in a thread
            while "● test  running" not in screen.text():
                await screen.pilot.pause(0.05)
        text = screen.text()
        assert "– off  off" in text
        assert "10 tools · 2 resources · 1 prompt" in text
        assert "Tools: add (read-only), environment" in text
        assert "Resources: notes://today, notes://picture" in text
        await screen.submit("/prompt")
        assert "test:review" in screen.notifications[-1]
        await screen.submit("/prompt test:review style=strict x = 1")
        assert "Review this code, be strict:" in screen.text()
        await screen.submit("What is in @test:notes://today?")
        assert "Buy bread." in screen.requests[-1].messages[-1].text
        assert screen.faults == []

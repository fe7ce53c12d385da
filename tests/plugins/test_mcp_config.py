"""mcp.json has the form that other programs use, and their files can be taken over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatlm import ChatlmError, UsageError
from chatlm_mcp import server_config
from chatlm_mcp.listing import unique
from chatlm_mcp.server_config import (
    ServerConfig,
    load_servers,
    parse_server,
    read_servers_of,
    remove_server,
    save_server,
)


def write(home: Path, text: str) -> None:
    home.mkdir(exist_ok=True)
    (home / "mcp.json").write_text(text, encoding="utf-8")


def test_the_common_form_is_read(home: Path) -> None:
    write(
        home,
        json.dumps(
            {
                "mcpServers": {
                    "files": {
                        "command": "npx",
                        "args": ["-y", "@x/files"],
                        "env": {"KEY": "${FILES_KEY}", "DEBUG": 1},
                        "autoApprove": ["read"],
                    },
                    "web": {"type": "http", "url": "https://example.org/mcp", "disabled": True},
                    "old": {"type": "streamable-http", "url": "http://localhost:1/mcp"},
                }
            }
        ),
    )
    files, web, old = load_servers()
    assert (files.command, files.args) == ("npx", ("-y", "@x/files"))
    assert files.env == {"KEY": "${FILES_KEY}", "DEBUG": "1"}
    assert (files.transport, web.transport, old.transport) == ("stdio", "http", "http")
    assert [each.disabled for each in (files, web, old)] == [False, True, False]
    assert not any(each.problem for each in (files, web, old))


@pytest.mark.parametrize(
    "text",
    [
        '{"servers": {"a": {"type": "stdio", "command": "x"}}, "inputs": []}',
        '{"mcp": {"servers": {"a": {"command": "x"}}}}',
        '{// a comment\n"mcpServers": {"a": {"command": "x", /* why */ "args": ["//x",],},},}',
    ],
)
def test_files_of_other_programs_are_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.json"
    path.write_text(text, encoding="utf-8")
    (server,) = read_servers_of(path)
    assert (server.name, server.command) == ("a", "x")
    assert server.args in ((), ("//x",))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({}, "either a command or a url"),
        ({"command": "x", "url": "http://x"}, "either a command or a url"),
        ({"command": ["x"]}, "a command that is not a text"),
        ({"command": "x", "args": "y"}, "args that are not a list"),
        ({"command": "x", "env": ["y"]}, "env that is not a JSON object"),
        ({"url": "file:///x"}, "http://"),
        ({"type": "sse", "url": "http://x"}, "sse"),
        ({"type": "http", "command": "x"}, "type http"),
        ({"type": "pigeon", "url": "http://x"}, "'pigeon'"),
        ({"command": "x", "args": ["${input:token}"]}, "only VS Code"),
        ({"command": "x\0"}, "NUL"),
        ([], "not a JSON object"),
    ],
)
def test_a_wrong_entry_says_what_is_wrong(values: object, problem: str) -> None:
    assert problem in parse_server("a", values).problem


def test_a_wrong_entry_costs_no_other(home: Path) -> None:
    write(home, '{"mcpServers": {"a": {}, "b": {"command": "x"}, "c/d": {"command": "x"}}}')
    assert [bool(server.problem) for server in load_servers()] == [True, False, True]


@pytest.mark.parametrize("text", ["{", "[]", '{"mcpServers": []}', '{"a": ' * 5000])
def test_a_file_that_is_no_json_is_refused(home: Path, text: str) -> None:
    write(home, text)
    with pytest.raises(ChatlmError, match=r"mcp\.json"):
        load_servers()


def test_variables_are_filled_in_when_a_server_starts() -> None:
    server = ServerConfig(
        "a",
        command="${HOME_OF_IT}/run",
        args=("${MODE:-quick}", "$PLAIN"),
        env={"KEY": "${env:KEY}"},
        headers={"Authorization": "Bearer ${KEY}"},
    )
    ready = server.expanded({"HOME_OF_IT": "/srv", "KEY": "secret"})
    assert (ready.command, ready.args) == ("/srv/run", ("quick", "$PLAIN"))
    assert (ready.env["KEY"], ready.headers["Authorization"]) == ("secret", "Bearer secret")
    with pytest.raises(UsageError, match="KEY"):
        server.expanded({"HOME_OF_IT": "/srv"})


def test_what_else_is_in_the_file_stays(home: Path) -> None:
    write(home, '{"servers": {"a": {"command": "x"}}, "inputs": ["kept"]}')
    save_server(ServerConfig("b", url="http://localhost:1/mcp"))
    remove_server("a")
    document = json.loads((home / "mcp.json").read_text(encoding="utf-8"))
    assert document == {
        "servers": {"b": {"type": "http", "url": "http://localhost:1/mcp"}},
        "inputs": ["kept"],
    }
    assert [server.name for server in load_servers()] == ["b"]
    with pytest.raises(UsageError, match="no MCP server a"):
        remove_server("a")


def test_what_is_written_is_read_again(home: Path) -> None:
    server = ServerConfig(
        "my server", "run", ("-x",), env={"A": "1"}, cwd="/srv", headers={}, disabled=True
    )
    save_server(server)
    assert load_servers() == [server]
    assert server_config.config_path().stat().st_mode & 0o77 == 0


def test_names_of_tools_are_valid_and_differ() -> None:
    names = ["a__b", "a__b c", "a__b/c", "a__b", "ü" * 80, "x" * 80, "x" * 90]
    found = unique(names)
    assert found[0] == "a__b"
    assert len(set(found)) == len(names)
    for name in found:
        assert 1 <= len(name) <= 64
        assert all(letter.isascii() and (letter.isalnum() or letter in "_-") for letter in name)

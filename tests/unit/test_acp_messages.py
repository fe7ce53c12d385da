"""What editors send becomes values of chatlm."""

from __future__ import annotations

from acp.schema import EnvVariable, HttpHeader, HttpMcpServer, McpServerStdio

from chatlm.cli.acp_messages import server_entries


def program(name: str) -> McpServerStdio:
    variables = [EnvVariable(name="KEY", value="${HOME}")]
    return McpServerStdio(name=name, command="/bin/x", args=["-v"], env=variables)


def test_an_editors_servers_get_names_that_no_other_server_has() -> None:
    names = ["my notes", "my/notes", "../..", "", "é\x1b[2J", "x" * 500, "editor-x"]
    entries = server_entries([program(name) for name in names], "/project")
    assert [*entries] == [
        "editor-my-notes",
        "editor-my-notes-2",
        "editor-server",
        "editor-server-2",
        "editor-2J",
        f"editor-{'x' * 40}",
        "editor-editor-x",
    ]
    for entry in entries.values():
        assert entry == {
            "command": "/bin/x",
            "args": ["-v"],
            "env": {"KEY": "${HOME}"},
            "cwd": "/project",
        }


def test_addresses_keep_their_headers() -> None:
    header = HttpHeader(name="Authorization", value="Bearer 1")
    server = HttpMcpServer(type="http", name="away", url="https://a.example/", headers=[header])
    assert server_entries([server], "/project") == {
        "editor-away": {
            "type": "http",
            "url": "https://a.example/",
            "headers": {"Authorization": "Bearer 1"},
        }
    }

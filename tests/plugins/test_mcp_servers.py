"""Servers start when they are needed, crash alone, and can break the protocol without harm."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import psutil
import pytest

from chatlm import UsageError
from chatlm_mcp.connection import ConnectionLost, RequestCancelled, RequestRefused
from chatlm_mcp.limits import MAX_PAGES, McpServerError
from chatlm_mcp.results import resource_text, result_text
from chatlm_mcp.server import Server
from chatlm_mcp.server_config import ServerConfig
from chatlm_mcp.settings import Settings
from tests.plugins.mcp_servers import (
    PATIENT,
    TESTS,
    Clock,
    http_server,
    raw_config,
    running,
    sdk_config,
)
from tests.waiting import wait_until


def call(server: Server, tool: str = "go", /, **arguments: object) -> str:
    return result_text(server.call_tool(tool, dict(arguments)))


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    with running(sdk_config()) as server:
        yield server


def test_a_server_of_the_sdk_is_listed_and_called(server: Server) -> None:
    assert server.health().state == "not started"
    listing = server.list_all()
    assert [tool.name for tool in listing.tools][:2] == ["add", "environment"]
    assert listing.tools[0].hints == ("read-only",)
    assert listing.tools[0].parameters["required"] == ["first", "second"]
    assert [resource.uri for resource in listing.resources] == [
        "notes://today",
        "notes://picture",
    ]
    assert (listing.prompts[0].arguments, listing.prompts[0].required) == (
        ("code", "style"),
        ("code",),
    )
    assert call(server, "add", first=2, second=3) == "5"
    assert server.call_tool("add", {"first": "two"}).is_error
    assert resource_text(server.read_resource("notes://today")) == "Buy bread.\n"
    assert resource_text(server.read_resource("notes://picture")) == ""
    with pytest.raises(RequestRefused):
        server.read_resource("notes://nowhere")
    progress: list[tuple[float, float | None, str | None]] = []
    result = server.call_tool("count", {"to": 2}, lambda *values: progress.append(values))
    assert result_text(result) == "counted"
    assert progress == [(1, 2, "at 1"), (2, 2, "at 2")]
    text = call(server, "hostile")
    assert "<|im_start|>" in text  # the encoder splits it, as in any text
    assert "\x1b" not in text
    assert "\0" not in text
    assert len(call(server, "huge", characters=2_000_000)) < 1_001_000
    health = server.health()
    assert (health.state, health.starts) == ("running", 1)


def test_a_crash_costs_one_call_and_no_other_server(home: Path, server: Server) -> None:
    with running(replace(sdk_config(), name="other")) as other:
        call(other, "add", first=1, second=1)
        with pytest.raises(ConnectionLost, match="exit code 3"):
            call(server, "crash")
        assert server.health().state == "failed"
        assert "about to crash" in "\n".join(server.log.tail(5))
        assert call(server, "add", first=1, second=2) == "3"  # it was started again
        assert call(other, "add", first=1, second=2) == "3"
        assert (server.health().starts, other.health().starts) == (2, 1)


def test_a_server_that_keeps_failing_is_started_after_pauses(home: Path) -> None:
    clock = Clock()
    config = ServerConfig("test", sys.executable, ("-c", "print('no server'); exit(4)"))
    with running(config, clock=clock) as server:
        for _ in range(2):
            with pytest.raises(ConnectionLost, match="exit code 4"):
                server.list_all()
        with pytest.raises(McpServerError, match="not started again for 2 seconds"):
            server.list_all()
        clock.now += 2
        with pytest.raises(ConnectionLost):
            server.list_all()
        assert server.health().wait_seconds == 4
        for _ in range(10):
            clock.now += 60
            with pytest.raises(ConnectionLost):
                server.list_all()
        assert server.health().wait_seconds == 60
        server.restart()
        assert server.health().wait_seconds == 0
        assert "[stdout] no server" in server.log.tail(50)


def test_a_request_that_takes_too_long_ends_the_server(home: Path) -> None:
    with running(raw_config("hang")) as server:
        server.list_all()
        server.settings = Settings(start_seconds=300, call_seconds=0.2)
        with pytest.raises(ConnectionLost, match=r"did not answer within 0\.2 seconds"):
            call(server)
        assert server.health().state == "failed"


def test_a_server_that_never_introduces_itself_is_given_up(home: Path) -> None:
    with (
        running(raw_config("silent"), Settings(start_seconds=0.5)) as server,
        pytest.raises(ConnectionLost, match=r"introduce itself within 0\.5 seconds"),
    ):
        server.list_all()


def test_a_cancelled_call_leaves_the_server_running(server: Server) -> None:
    server.list_all()
    with pytest.raises(RequestCancelled):
        server.call_tool("hang", {"seconds": 600}, cancelled=lambda: True)
    assert call(server, "add", first=1, second=2) == "3"
    assert server.health().starts == 1


def test_calls_at_the_same_time_share_one_process(server: Server) -> None:
    results: list[str] = []

    def work(number: int) -> None:
        results.append(call(server, "add", first=number, second=0))

    threads = [Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [str(number) for number in range(8)]
    assert server.health().starts == 1


def test_no_process_outlives_its_server(home: Path) -> None:
    with running(raw_config("deaf")) as server:
        server.list_all()
        (process,) = (
            each
            for each in psutil.Process().children(recursive=True)
            if "raw_mcp_server.py" in " ".join(each.cmdline())
        )
    wait_until(lambda: not process.is_running())


def test_the_environment_is_not_handed_over(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "sesame")
    config = replace(sdk_config(), env={"GIVEN": "${SECRET_TOKEN}"})
    with running(config) as server:
        assert call(server, "environment", name="SECRET_TOKEN") == "not set"
        assert call(server, "environment", name="GIVEN") == "sesame"
    with (
        running(replace(config, env={"GIVEN": "${NOT_SET_ANYWHERE}"})) as server,
        pytest.raises(UsageError, match="NOT_SET_ANYWHERE"),
    ):
        server.list_all()


def test_a_program_that_does_not_exist_is_named(home: Path) -> None:
    with (
        running(ServerConfig("test", "no-such-program")) as server,
        pytest.raises(ConnectionLost, match="does not exist: no-such-program"),
    ):
        server.list_all()


@pytest.mark.parametrize("mode", ["garbage", "wrong ids", "loud", "good"])
def test_noise_does_not_matter(home: Path, mode: str) -> None:
    with running(raw_config(mode)) as server:
        assert call(server) == "gone"
        assert server.health().state == "running"


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("deep", "recursion limit"),
        ("surrogate", "no message"),
        ("no line end", "more than 8 MB"),
        ("wrong result", "does not follow the protocol"),
    ],
)
def test_a_message_that_cannot_be_used_is_an_error(home: Path, mode: str, reason: str) -> None:
    with running(raw_config(mode)) as server, pytest.raises(McpServerError, match=reason):
        call(server)


def test_bytes_that_are_no_text_are_replaced(home: Path) -> None:
    with running(raw_config("invalid UTF-8")) as server:
        assert call(server) == "a\ufffd\ufffdb"


def test_a_list_without_end_is_cut(home: Path) -> None:
    with running(raw_config("endless")) as server:
        assert len(server.list_all().tools) == MAX_PAGES


def test_tools_that_cannot_be_used_are_left_out_with_the_reason(home: Path) -> None:
    with running(raw_config("odd tools")) as server:
        listing = server.list_all()
    assert [tool.name for tool in listing.tools] == ["go", "a b/ü"]
    assert [text.partition(":")[0] for text in listing.left_out] == [
        "go",
        "deep",
        "large",
        "wrong",
    ]
    description = listing.tools[1].description
    assert len(description) <= 2000
    assert "\x1b" not in description


def test_a_log_does_not_grow_without_end(home: Path) -> None:
    with running(raw_config("loud")) as server:
        for _ in range(3):
            call(server)
    files = list((home / "mcp" / "logs").iterdir())
    assert sum(file.stat().st_size for file in files) < 2_000_000
    assert all("\x1b" not in line for line in server.log.tail(20))


def test_a_server_is_used_over_http(home: Path) -> None:
    with (
        http_server(TESTS / "mcp_server.py") as url,
        running(ServerConfig("test", url=url), PATIENT) as server,
    ):
        assert len(server.list_all().tools) == 10
        assert call(server, "add", first=2, second=3) == "5"
        assert len(call(server, "huge", characters=1000)) == 1000
        with pytest.raises(ConnectionLost):
            call(server, "huge", characters=9_000_000)
        assert call(server, "add", first=2, second=3) == "5"
        with pytest.raises(ConnectionLost):
            call(server, "crash")
        assert server.health().state == "failed"
    with (
        running(ServerConfig("gone", url=url)) as server,
        pytest.raises(ConnectionLost, match="connection"),
    ):
        server.list_all()

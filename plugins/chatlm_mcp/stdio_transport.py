"""Run a server as a process and exchange messages with it over its standard input and output.

The SDK's own transport keeps lines of any length in memory and lets a server write to the
terminal. This one limits both, and tells why a connection ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from chatlm import one_line
from chatlm_mcp.limits import MAX_MESSAGE_BYTES
from chatlm_mcp.server_log import ServerLog

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

    from chatlm_mcp.server_config import ServerConfig

EXIT_SECONDS = 0.3
"""For a server to end after its input was closed, and again after SIGTERM."""

_POLL_SECONDS = 0.02


@asynccontextmanager
async def run_server(
    server: ServerConfig, log: ServerLog, on_end: Callable[[str], None]
) -> AsyncIterator[TransportStreams]:
    """Start the server's process; at the end it is stopped with all processes it started.

    Args:
        server: with its variables filled in.
        log: gets what the server writes to standard error, and lines that are no messages.
        on_end: called with the reason when the server ended or broke the protocol by itself.

    Raises:
        OSError: the program cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        server.command,
        *server.args,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=get_default_environment() | dict(server.env),
        cwd=server.cwd or None,
        limit=MAX_MESSAGE_BYTES,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None  # noqa: S101
    received, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, to_send = anyio.create_memory_object_stream[SessionMessage](0)
    stopping = False

    def end(reason: str) -> None:
        if not stopping:
            on_end(reason)

    tasks = [
        asyncio.create_task(_read_messages(process, received, log, end)),
        asyncio.create_task(_write_messages(process.stdin, to_send)),
        asyncio.create_task(_copy_errors(process.stderr, log)),
    ]
    try:
        yield incoming, outgoing
    finally:
        stopping = True
        for stream in (incoming, outgoing, received, to_send):
            stream.close()
        await asyncio.shield(asyncio.ensure_future(_stop(process)))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # a process that outlived its group's leader may hold the pipes open
        process._transport.close()  # type: ignore[attr-defined]


async def _read_messages(
    process: asyncio.subprocess.Process,
    received: anyio.abc.ObjectSendStream[SessionMessage | Exception],
    log: ServerLog,
    on_end: Callable[[str], None],
) -> None:
    assert process.stdout is not None  # noqa: S101
    reason = ""
    with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
        while not reason:
            try:
                line = await process.stdout.readline()
            except ValueError:
                reason = f"it sent a message of more than {MAX_MESSAGE_BYTES // 1_000_000} MB"
                break
            if not line:
                reason = await _exit_reason(process)
                break
            text = line.decode("utf-8", "replace").strip()
            if not text.startswith("{"):  # many servers print to standard output by mistake
                if text:
                    log.write(f"[stdout] {text}\n".encode())
                continue
            try:
                message = jsonrpc_message_adapter.validate_json(text, by_name=False)
            except (ValueError, RecursionError) as error:
                problem = " ".join(str(error).splitlines()[1:2]).partition(" [type=")[0].strip()
                log.write(f"[not a message] {one_line(text, 500)}\n".encode())
                reason = f"it sent something that is no message ({one_line(problem, 120)})"
                break
            await received.send(SessionMessage(message))
    if reason:
        on_end(reason)
    await received.aclose()


async def _exit_reason(process: asyncio.subprocess.Process) -> str:
    with suppress(TimeoutError):
        async with asyncio.timeout(EXIT_SECONDS):
            await process.wait()
    code = process.returncode
    if code is None:
        return "it closed its output"
    if code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
        return f"it was ended by {name}"
    return f"it ended with exit code {code}"


async def _write_messages(
    stdin: asyncio.StreamWriter, to_send: anyio.abc.ObjectReceiveStream[SessionMessage]
) -> None:
    with suppress(anyio.ClosedResourceError, anyio.EndOfStream, OSError):
        async for message in to_send:
            text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            stdin.write(text.encode() + b"\n")
            await stdin.drain()


async def _copy_errors(stderr: asyncio.StreamReader, log: ServerLog) -> None:
    while data := await stderr.read(65536):
        log.write(data)


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Close the server's input, then end it and all processes of its group."""
    assert process.stdin is not None  # noqa: S101
    process.stdin.close()
    if not await _has_ended(process):
        _signal_group(process, signal.SIGTERM)
        await _has_ended(process)
    _signal_group(process, getattr(signal, "SIGKILL", signal.SIGTERM))
    await _has_ended(process)


async def _has_ended(process: asyncio.subprocess.Process) -> bool:
    """Wait for the process alone: `wait` would also wait for those who inherited its pipes."""
    waited = 0.0
    while process.returncode is None and waited < EXIT_SECONDS:
        await asyncio.sleep(_POLL_SECONDS)
        waited += _POLL_SECONDS
    return process.returncode is not None


def _signal_group(process: asyncio.subprocess.Process, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, number)  # it leads a group of its own

"""Answers what a server asks of chatlm: the user's folders, and questions to the user."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from ipaddress import ip_address
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from chatlm import ToolCancelled, ToolContext, one_line
from chatlm_mcp.forms import Declined, ask_form, ask_to_open
from chatlm_mcp.limits import MAX_QUESTIONS
from chatlm_mcp.server_config import ServerConfig

if TYPE_CHECKING:
    from mcp.client.session import ClientRequestContext
    from mcp_types import ElicitRequestParams, ElicitResult, ErrorData, ListRootsResult

T = TypeVar("T")

Pause = Callable[[], AbstractContextManager[None]]
"""Stops the clock of the requests that run, while the user answers."""


class ServerRequests:
    """Answers the requests of one server, by the tools of it that run. Thread-safe.

    A question is asked where the newest call was made. Without a call nobody is asked.

    Args:
        config: the server.
        folders: returns the folders that the user lets tools use.
    """

    def __init__(
        self, config: ServerConfig, folders: Callable[[], tuple[Path, ...]] = tuple
    ) -> None:
        self._config = config
        self._folders = folders
        self._lock = Lock()
        self._calls: list[_Call] = []
        self.told_folders: tuple[Path, ...] | None = None
        """What the server was told when it asked last; None if it never did."""
        self.pause: Pause = nullcontext
        """Set by the connection."""

    @contextmanager
    def during(self, context: ToolContext) -> Iterator[None]:
        """Let the server ask what a call of its tools makes it ask."""
        call = _Call(context)
        with self._lock:
            self._calls.append(call)
        try:
            yield
        finally:
            with self._lock:
                self._calls.remove(call)

    def folders(self) -> tuple[Path, ...]:
        """Return the folders that the server is told: none, if it does not run on this machine."""
        if not _is_here(self._config):
            return ()
        call = self._newest()
        found = call.context.workspace_folders if call is not None else self._folders()
        return tuple(folder for folder in found if folder.is_dir())

    async def list_roots(self, context: ClientRequestContext) -> ListRootsResult:
        """Answer `roots/list`."""
        from mcp_types import ListRootsResult, Root

        self.told_folders = folders = await _in_thread(self.folders)
        roots = [{"uri": folder.as_uri(), "name": folder.name} for folder in folders]
        return ListRootsResult(roots=[Root.model_validate(root) for root in roots])

    async def elicit(
        self, context: ClientRequestContext, params: ElicitRequestParams
    ) -> ElicitResult | ErrorData:
        """Answer `elicitation/create`: ask the user, and nobody if no call runs."""
        from mcp_types import INVALID_PARAMS, ElicitResult, ErrorData

        call = self._newest()
        if call is None:
            return ElicitResult(action="cancel")
        call.questions += 1
        if call.questions > MAX_QUESTIONS:
            return ElicitResult(action="decline")
        server = one_line(self._config.name, 60)

        def ask() -> ElicitResult:
            with call.asking:  # one question at a time
                if params.mode == "url":
                    ask_to_open(server, params.message, params.url, call.context.ask)
                    return ElicitResult(action="accept")
                schema = params.requested_schema
                content = ask_form(server, params.message, schema, call.context.ask)
                return ElicitResult(action="accept", content=dict(content))

        try:
            with self.pause():
                return await _in_thread(ask)
        except Declined:
            return ElicitResult(action="decline")
        except ToolCancelled:
            return ElicitResult(action="cancel")
        except ValueError as error:
            return ErrorData(code=INVALID_PARAMS, message=f"chatlm cannot ask this: {error}")

    def _newest(self) -> _Call | None:
        with self._lock:
            return self._calls[-1] if self._calls else None


class _Call:
    """A call of a tool that runs."""

    def __init__(self, context: ToolContext) -> None:
        self.context = context
        self.questions = 0
        self.asking = Lock()


def _is_here(config: ServerConfig) -> bool:
    """Whether a server runs on this machine, as far as its address says."""
    if not config.url:
        return True
    host = urlsplit(config.url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


async def _in_thread(function: Callable[[], T]) -> T:
    """Run a function in a thread that nobody waits for if the connection ends meanwhile.

    `asyncio.to_thread` would keep the event loop alive until the user has answered.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, failure = None, None
        try:
            result = function()
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(finish, result, failure)

    Thread(target=work, name="chatlm-mcp-question", daemon=True).start()
    return await future

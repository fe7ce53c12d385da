"""chatlm as a server of the Model Context Protocol: documents, chats and ratings, read-only."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from chatlm import (
    ChatlmError,
    Documents,
    Ratings,
    Store,
    UsageError,
    __version__,
    data_dir,
    dump_json,
    load_config,
    side_chats,
)

if TYPE_CHECKING:
    from mcp.server import MCPServer
    from starlette.types import ASGIApp, Receive, Scope, Send

    from chatlm import SideChats

T = TypeVar("T")

MAX_CHAT_CHARACTERS = 50_000
"""Of a chat that another program reads."""

MAX_HITS = 50

PATH = "/mcp"


@dataclass(frozen=True)
class Sources:
    """What is offered; None for what is not there."""

    store: Store | None
    documents: Documents | None
    ratings: Ratings | None


def run_server(port: int | None, with_chats: bool) -> None:
    """Serve until the client ends, or Ctrl-C.

    Args:
        port: of HTTP on this machine, 0 for any; None for standard input and output.
        with_chats: whether the saved chats can be searched.

    Raises:
        ChatlmError: the chats cannot be opened, or the port is taken.
    """
    with ExitStack() as stack:
        store = None
        if with_chats:
            data_dir().mkdir(parents=True, exist_ok=True)
            store = stack.enter_context(Store(data_dir() / "chats.db"))
        chats = stack.enter_context(side_chats(load_config(), _ignore))
        sources = Sources(
            store,
            documents=_find_service(chats, "documents", Documents),
            ratings=_find_service(chats, "ratings", Ratings),
        )
        server = make_server(sources)
        if port is None:
            server.run("stdio")
        else:
            _run_http(server, port)


def make_server(sources: Sources) -> MCPServer:
    """Return the server with a tool for each thing that is there."""
    from mcp.server import MCPServer
    from mcp.types import ToolAnnotations

    server: MCPServer = MCPServer(
        "chatlm",
        version=__version__,
        instructions="Searches the documents and chats of the user, kept on this machine.",
        log_level="ERROR",
    )
    annotations = ToolAnnotations(
        read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
    )

    def offer(function: Callable[..., Any]) -> None:
        server.tool(annotations=annotations, structured_output=False)(_reporting(function))

    if sources.store is not None:
        _offer_chats(offer, sources.store)
    if sources.documents is not None:
        _offer_documents(offer, sources.documents)
    if sources.ratings is not None:
        ratings = sources.ratings

        def arena_ratings() -> str:
            """Return how the user's models compare, by the votes of blind comparisons.

            One row for each contestant, strongest first, as JSON.
            """
            return dump_json(list(ratings.leaderboard()))

        offer(arena_ratings)
    return server


def _offer_chats(offer: Callable[[Callable[..., Any]], None], store: Store) -> None:
    def search_chats(query: str, limit: int = 10) -> str:
        """Find messages in the user's saved chats that contain all words of a query.

        Returns a list as JSON; `conversation_id` is the id for read_chat.
        """
        hits = store.search(query, _limited(limit))
        return dump_json([hit.to_dict() for hit in hits])

    def read_chat(conversation_id: int) -> str:
        """Return the messages and answers of one of the user's chats."""
        chat = store.conversation(conversation_id)
        lines = [f"# {chat.title}"]
        for turn in chat.turns:
            lines.append(f"## User\n{turn.display_text}")
            if turn.reply is not None:
                lines.append(f"## Assistant\n{turn.reply.text}")
        text = "\n\n".join(lines)
        if len(text) > MAX_CHAT_CHARACTERS:
            left = len(text) - MAX_CHAT_CHARACTERS
            return f"{text[:MAX_CHAT_CHARACTERS]}\n(cut: {left:,} more characters)"
        return text

    offer(search_chats)
    offer(read_chat)


def _offer_documents(offer: Callable[[Callable[..., Any]], None], documents: Documents) -> None:
    def list_documents() -> str:
        """Return the names of the user's collections of documents, as a JSON list."""
        return dump_json(list(documents.collections()))

    def search_documents(collection: str, query: str, limit: int = 8) -> str:
        """Find the passages of a collection of documents that answer a question, best first.

        Returns a list as JSON; list_documents has the names of the collections.
        """
        passages = documents.search(collection, query)[: _limited(limit)]
        return dump_json(
            [{"text": each.text, "source": each.source, "score": each.score} for each in passages]
        )

    offer(list_documents)
    offer(search_documents)


def _reporting(function: Callable[..., str]) -> Callable[..., str]:
    """Return the function with errors that the client's model may read."""
    from functools import wraps

    from mcp.server.mcpserver.exceptions import ToolError

    @wraps(function)
    def call(*arguments: Any, **values: Any) -> str:
        try:
            return function(*arguments, **values)
        except ChatlmError as error:
            raise ToolError(str(error)) from error

    return call


def _run_http(server: MCPServer, port: int) -> None:
    """Serve over HTTP on this machine; a token keeps its other users out."""
    import socket

    import anyio
    import uvicorn

    token = secrets.token_urlsafe(24)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise ChatlmError(
                f"Port {port} cannot be used: {error.strerror}.", hint="Use another: --port N"
            ) from error
        url = f"http://127.0.0.1:{listener.getsockname()[1]}{PATH}"
        entry = {"type": "http", "url": url, "headers": {"Authorization": f"Bearer {token}"}}
        click.echo(dump_json({"mcpServers": {"chatlm": entry}}))
        app = _TokenGuard(server.streamable_http_app(streamable_http_path=PATH), token)
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=2)
        anyio.run(uvicorn.Server(config).serve, [listener])


class _TokenGuard:
    """Refuses requests without the token.

    Args:
        app: gets the others.
        token: of the header `Authorization: Bearer`.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401."""
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        if scope["type"] == "http" and not secrets.compare_digest(given, self._expected):
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b"a token is required\n"})
            return
        await self._app(scope, receive, send)


def _find_service(chats: SideChats, name: str, protocol: Callable[..., T]) -> T | None:
    try:
        return chats.service(name, protocol)
    except UsageError:
        return None


def _limited(limit: int) -> int:
    return min(max(limit, 1), MAX_HITS)


def _ignore(text: str) -> None:
    """Take the progress of loading a model, which nothing here does."""

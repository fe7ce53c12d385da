"""Sign in to servers that want OAuth: in the browser once, then with stored tokens."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from chatlm import ChatlmError, UsageError, data_dir, one_line, write_atomically
from chatlm_mcp.limits import McpServerError
from chatlm_mcp.server_config import ServerConfig

if TYPE_CHECKING:
    from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
    from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

SIGN_IN_SECONDS = 300.0
"""For the user to sign in in the browser."""

_PAGE = b"You can close this page and go back to chatlm."


class StoredTokens:
    """The tokens of one server in a file that only its owner can read; the SDK's `TokenStorage`.

    Args:
        server: if its URL changes, it has none.
    """

    def __init__(self, server: ServerConfig) -> None:
        self._server = server
        slug = re.sub("[^A-Za-z0-9_-]", "_", server.name)
        self.path = data_dir() / "mcp" / "sign-in" / f"{slug}.json"

    def read(self) -> dict[str, Any]:
        """Return what is stored; empty for nothing."""
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        is_same = isinstance(values, dict) and values.get("identity") == self._server.identity
        return values if is_same else {}

    def write(self, **changes: Any) -> None:
        """Change values.

        Raises:
            ChatlmError: the file cannot be written.
        """
        values = {**self.read(), "identity": self._server.identity, **changes}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, [json.dumps(values)])
        except OSError as error:
            raise ChatlmError(f"{self.path} cannot be written: {error.strerror}.") from error

    def delete(self) -> None:
        """Forget the tokens."""
        self.path.unlink(missing_ok=True)

    async def get_tokens(self) -> OAuthToken | None:
        """Return the tokens; None for none."""
        from mcp.shared.auth import OAuthToken

        found = self.read().get("tokens")
        return OAuthToken.model_validate(found) if found else None

    async def set_tokens(self, tokens: OAuthToken) -> None:
        """Store new tokens, with the time at which they expire."""
        expires = time.time() + tokens.expires_in if tokens.expires_in else None
        self.write(tokens=tokens.model_dump(mode="json"), expires=expires)

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        """Return as what chatlm is registered; None if it is not."""
        from mcp.shared.auth import OAuthClientInformationFull

        found = self.read().get("client")
        return OAuthClientInformationFull.model_validate(found) if found else None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """Store as what chatlm is registered."""
        self.write(client=client_info.model_dump(mode="json"))


def stored_sign_in(server: ServerConfig) -> OAuthClientProvider | None:
    """Return what signs requests with the stored tokens and renews them; None if there are none."""
    tokens = StoredTokens(server)
    if not server.url or not (values := tokens.read()).get("tokens"):
        return None
    from mcp.shared.auth import OAuthMetadata

    async def refuse(*arguments: str) -> Any:
        raise McpServerError(
            "the sign-in has ended", hint=f"Sign in again: chatlm mcp login {server.name}"
        )

    # the SDK asks for the page only if it could also wait for the answer
    provider = _make_provider(server, tokens, "http://127.0.0.1/callback", refuse, refuse)
    if metadata := values.get("metadata"):  # where tokens are renewed
        provider.context.oauth_metadata = OAuthMetadata.model_validate(metadata)
    provider.context.token_expiry_time = values.get("expires")
    return provider


def sign_in(server: ServerConfig, open_page: Callable[[str], object]) -> None:
    """Let the user sign in in the browser, and store the tokens.

    Args:
        server: with its variables filled in.
        open_page: opens an address in the browser, or shows it.

    Raises:
        UsageError: the server is none that is reached by a URL.
        McpServerError: the server cannot be reached or wants no sign-in, or it failed.
    """
    if not server.url:
        raise UsageError(f"The MCP server {server.name} runs here and wants no sign-in.")
    StoredTokens(server).delete()
    try:
        asyncio.run(_sign_in(server, open_page))
    except ChatlmError:
        raise
    except Exception as error:  # whatever the SDK and the network raise
        first: BaseException = error
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        reason = one_line(str(first), 200).rstrip(".") or type(first).__name__
        raise McpServerError(f"Signing in to {server.name} failed: {reason}.") from error


async def _sign_in(server: ServerConfig, open_page: Callable[[str], object]) -> None:
    import httpx2

    from chatlm_mcp.http_limits import LimitedTransport

    tokens = StoredTokens(server)
    answer: asyncio.Future[AuthorizationCodeResult] = asyncio.get_running_loop().create_future()

    async def redirect(url: str) -> None:
        open_page(url)  # the SDK has checked that it is a web page

    async def wait_for_answer() -> AuthorizationCodeResult:
        try:
            async with asyncio.timeout(SIGN_IN_SECONDS):
                return await answer
        except TimeoutError:
            raise McpServerError("Nobody signed in within five minutes.") from None

    async def take_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _take_answer(reader, writer, answer)

    listener = await asyncio.start_server(take_answer, "127.0.0.1", 0, limit=16_384)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        callback = f"http://127.0.0.1:{port}/callback"
        provider = _make_provider(server, tokens, callback, redirect, wait_for_answer)
        async with httpx2.AsyncClient(
            auth=provider,
            headers={**server.headers, "Accept": "application/json, text/event-stream"},
            timeout=30.0,
            transport=LimitedTransport(),
        ) as client:
            # any request will do: it is refused, which begins the sign-in, and sent again
            request = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
            async with client.stream("POST", server.url, json=request) as response:
                status = response.status_code
    if not tokens.read().get("tokens"):
        raise McpServerError(
            f"The MCP server {server.name} did not ask for a sign-in (status {status}).",
            hint=f"Try it: chatlm mcp test {server.name}",
        )
    if metadata := provider.context.oauth_metadata:
        tokens.write(metadata=metadata.model_dump(mode="json", exclude_none=True))


async def _take_answer(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    answer: asyncio.Future[AuthorizationCodeResult],
) -> None:
    """Take the code from the browser's request for the callback address."""
    from mcp.client.auth import AuthorizationCodeResult

    try:
        line = (await reader.readline()).decode("ascii", "replace").split()
        parts = urlsplit(line[1] if len(line) > 1 else "")
        values = {key: each[0] for key, each in parse_qs(parts.query).items()}
        if parts.path == "/callback" and not answer.done():
            if "code" in values:
                answer.set_result(
                    AuthorizationCodeResult(
                        code=values["code"], state=values.get("state"), iss=values.get("iss")
                    )
                )
            elif "error" in values:
                why = one_line(values.get("error_description") or values["error"], 200)
                answer.set_exception(McpServerError(f"The sign-in was refused: {why}."))
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(_PAGE)}\r\n"
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + _PAGE)
        await writer.drain()
    finally:
        writer.close()


def _make_provider(
    server: ServerConfig, tokens: StoredTokens, callback: str, redirect: Any, wait_for_answer: Any
) -> OAuthClientProvider:
    from mcp.client.auth import OAuthClientProvider
    from mcp.shared.auth import OAuthClientMetadata

    metadata = OAuthClientMetadata.model_validate(
        {"client_name": "chatlm", "redirect_uris": [callback], "token_endpoint_auth_method": "none"}
    )
    return OAuthClientProvider(server.url, metadata, tokens, redirect, wait_for_answer)

"""LoRA adapters on a server: list those of a model, and load and unload them on a vLLM server."""

from __future__ import annotations

from collections.abc import Iterable

from chatlm import EngineError
from chatlm_openai.client import ServerClient
from chatlm_openai.errors import ErrorMessages, HttpRefusal
from chatlm_openai.protocol import RemoteModel

ADAPTER_NOT_FOUND = "NotFoundError"
"""vLLM's error type for a missing adapter; other 404s mean that the route does not exist."""


def adapters_of(model: str, remote_models: Iterable[RemoteModel]) -> tuple[str, ...]:
    """Return the names of a model's adapters among the models of a server."""
    return tuple(remote.name for remote in remote_models if remote.parent == model)


async def load(server: ServerClient, name: str, path: str) -> None:
    """Load an adapter into a server.

    Args:
        server: the server.
        name: name for the adapter.
        path: the adapter's folder on the server's machine.

    Raises:
        EngineError: it was not loaded; the message says why.
    """
    try:
        await server.post("load_lora_adapter", {"lora_name": name, "lora_path": path})
    except HttpRefusal as refusal:
        messages = server.error_messages
        server_message = messages.server_message(refusal)
        if refusal.status == 404 and ADAPTER_NOT_FOUND in refusal.failure.codes:
            raise EngineError(
                f"{messages.server_label} finds no adapter at this path.{server_message}",
                hint="The path must name a folder saved by peft on the server's machine.",
            ) from refusal
        if refusal.status == 400 and "already" in refusal.failure.message:
            raise EngineError(
                f"{messages.server_label} already has an adapter of that name.{server_message}",
                hint="Choose another name, or first: chatlm openai unload-adapter "
                f"{messages.endpoint.display_name} {name}",
            ) from refusal
        raise _refusal_error(messages, refusal, name) from refusal


async def unload(server: ServerClient, name: str) -> None:
    """Unload an adapter from a server.

    Raises:
        EngineError: there is no such adapter, or it stays loaded; the message says why.
    """
    try:
        await server.post("unload_lora_adapter", {"lora_name": name})
    except HttpRefusal as refusal:
        if refusal.status == 404 and ADAPTER_NOT_FOUND in refusal.failure.codes:
            adapters = [remote.name for remote in await server.list_models() if remote.parent]
            raise server.error_messages.unknown_adapter(name, adapters) from refusal
        raise _refusal_error(server.error_messages, refusal, name) from refusal


def _refusal_error(error_messages: ErrorMessages, refusal: HttpRefusal, name: str) -> EngineError:
    if refusal.status in (404, 405):
        return EngineError(
            f"{error_messages.server_label} cannot load or unload adapters while it is running.",
            hint="vLLM can if it is started with --enable-lora and "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment. It can also load adapters "
            "when it starts: --lora-modules NAME=PATH",
        )
    return error_messages.refusal_error(refusal, name, {})

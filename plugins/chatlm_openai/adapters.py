"""LoRA adapters that a server has, and how a vLLM server loads more of them while it runs."""

from __future__ import annotations

from collections.abc import Iterable

from chatlm import EngineError
from chatlm_openai.client import ServerClient
from chatlm_openai.errors import ErrorMessages, HttpRefusal
from chatlm_openai.protocol import RemoteModel

ADAPTER_NOT_FOUND = "NotFoundError"
"""What vLLM calls it when it lacks the adapter, rather than the address."""


def adapters_of(model: str, remote_models: Iterable[RemoteModel]) -> tuple[str, ...]:
    """The names of a model's adapters, among all that a server has."""
    return tuple(each.name for each in remote_models if each.parent == model)


async def load(server: ServerClient, name: str, path: str) -> None:
    """Let a server load an adapter.

    Args:
        server: asked to.
        name: by which the adapter is chosen from then on.
        path: of its folder, on the server's machine.

    Raises:
        EngineError: it was not loaded; the message says why.
    """
    try:
        await server.post("load_lora_adapter", {"lora_name": name, "lora_path": path})
    except HttpRefusal as refusal:
        words = server.error_messages
        says = words.server_message(refusal)
        if refusal.status == 404 and ADAPTER_NOT_FOUND in refusal.failure.codes:
            raise EngineError(
                f"{words.server_label} finds no adapter there.{says}",
                hint="The path is one on the server's machine, to a folder that peft saved.",
            ) from refusal
        if refusal.status == 400 and "already" in refusal.failure.message:
            raise EngineError(
                f"{words.server_label} has an adapter of that name.{says}",
                hint="Take another name, or first: chatlm openai unload-adapter "
                f"{words.endpoint.display_name} {name}",
            ) from refusal
        raise _refusal_error(words, refusal, name) from refusal


async def unload(server: ServerClient, name: str) -> None:
    """Let a server forget an adapter.

    Raises:
        EngineError: there is none of that name, or it stays loaded; the message says why.
    """
    try:
        await server.post("unload_lora_adapter", {"lora_name": name})
    except HttpRefusal as refusal:
        if refusal.status == 404 and ADAPTER_NOT_FOUND in refusal.failure.codes:
            there = [each.name for each in await server.list_models() if each.parent]
            raise server.error_messages.unknown_adapter(name, there) from refusal
        raise _refusal_error(server.error_messages, refusal, name) from refusal


def _refusal_error(error_messages: ErrorMessages, refusal: HttpRefusal, name: str) -> EngineError:
    if refusal.status in (404, 405):
        return EngineError(
            f"{error_messages.server_label} neither loads nor unloads adapters while it runs.",
            hint="vLLM does, if it is started with --enable-lora and with "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment. Adapters can also be named "
            "at its start: --lora-modules NAME=PATH",
        )
    return error_messages.refusal_error(refusal, name, {})

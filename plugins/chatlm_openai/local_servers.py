"""Notice servers of other programs on this machine, on their usual ports of loopback.

One short probe connects to 127.0.0.1 only. Each program says more in its own API than in OpenAI's:
how long the context is and what a model can do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import httpx2

from chatlm import ModelListing, __version__, one_line
from chatlm_openai import PLUGIN, protocol
from chatlm_openai.usual_ports import PROGRAMS, Program

CONNECT_SECONDS = 0.25
"""Timeout of a connection to loopback, where a port without a server refuses at once."""

PROBE_SECONDS = 1.5
"""Timeout of all questions to one server."""

OLLAMA_DEFAULT_CONTEXT = 4096
"""What Ollama gives a model on a machine with little GPU memory, unless it is told otherwise."""

_MAX_BYTES = 4 << 20
_MAX_DESCRIBED = 40
"""Models of Ollama that are asked for, each with a request."""

log = logging.getLogger("chatlm.plugins.openai")


@dataclass(frozen=True)
class LocalModel:
    """A model on a server of this machine."""

    name: str
    context_length: int | None = None
    """Tokens that the server gives it, or that it was trained for; None if unknown."""
    abilities: tuple[str, ...] = ()
    """As in `ModelListing`."""
    note: str = ""
    """What the user should know, such as a context that is shorter than the model's."""


class _Asker:
    """Asks one server.

    Args:
        client: for loopback.
        port: of the server.
    """

    def __init__(self, client: httpx2.AsyncClient, port: int) -> None:
        self._client = client
        self._base = f"http://127.0.0.1:{port}"

    async def get(self, path: str) -> dict[str, Any] | None:
        """Return an object that the server answers with; None for anything else."""
        return await self._ask("GET", path)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """Like `get`, with a body."""
        return await self._ask("POST", path, body)

    async def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        try:
            async with self._client.stream(method, self._base + path, json=body) as response:
                if response.status_code != 200:
                    return None
                data = bytearray()
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > _MAX_BYTES:
                        return None
            values = protocol.parse_json(bytes(data))
        except (httpx2.HTTPError, protocol.ProtocolError):
            return None
        return values if isinstance(values, dict) else None


_Lister = Callable[[_Asker], Awaitable[list[LocalModel] | None]]
"""Lists a server's models; None if another program listens there."""


async def _list_ollama(ask: _Asker) -> list[LocalModel] | None:
    tags = await ask.get("/api/tags")
    if tags is None or not isinstance(tags.get("models"), list):
        return None
    names = [name for row in tags["models"] if (name := _text(_dict(row).get("name")))]
    running = {
        _text(_dict(row).get("name")): _count(_dict(row).get("context_length"))
        for row in _list((await ask.get("/api/ps") or {}).get("models"))
    }

    async def describe(name: str) -> LocalModel | None:
        shown = await ask.post("/api/show", {"model": name}) or {}
        found = _list(shown.get("capabilities"))
        if found and "completion" not in found:
            return None  # an embedder
        info = _dict(shown.get("model_info"))
        trained = _count(info.get(f"{_text(info.get('general.architecture'))}.context_length"))
        given = running.get(name)
        note = ""
        if given is None and trained and trained > OLLAMA_DEFAULT_CONTEXT:
            note = (
                f"Ollama gives a model {OLLAMA_DEFAULT_CONTEXT:,} tokens of context on most "
                f"machines, although this one has {trained:,}. OLLAMA_CONTEXT_LENGTH changes that."
            )
        return LocalModel(name, given or trained, _abilities(found), note)

    described = await asyncio.gather(*map(describe, names[:_MAX_DESCRIBED]))
    rest = [LocalModel(name) for name in names[_MAX_DESCRIBED:]]
    return [model for model in described if model is not None] + rest


async def _list_lmstudio(ask: _Asker) -> list[LocalModel] | None:
    listed = await ask.get("/api/v1/models")
    if listed is not None and isinstance(listed.get("models"), list):
        rows = [_dict(row) for row in listed["models"]]
        return [_lmstudio_model(row) for row in rows if row.get("type", "llm") == "llm"]
    listed = await ask.get("/api/v0/models")
    if listed is not None and isinstance(listed.get("data"), list):
        rows = [_dict(row) for row in listed["data"]]
        return [
            LocalModel(
                _text(row.get("id")),
                _count(row.get("loaded_context_length")) or _count(row.get("max_context_length")),
                ("images",) if row.get("type") == "vlm" else (),
            )
            for row in rows
            if row.get("type") in ("llm", "vlm") and _text(row.get("id"))
        ]
    return await _list_openai(ask)


def _lmstudio_model(row: dict[str, Any]) -> LocalModel:
    can = _dict(row.get("capabilities"))
    loaded = [_dict(_dict(each).get("config")) for each in _list(row.get("loaded_instances"))]
    contexts = [count for each in loaded if (count := _count(each.get("context_length")))]
    found = [
        name
        for name, has in (
            ("tools", can.get("trained_for_tool_use")),
            ("vision", can.get("vision")),
            ("thinking", can.get("reasoning")),
        )
        if has
    ]
    return LocalModel(
        _text(row.get("key")) or _text(row.get("id")),
        contexts[0] if contexts else _count(row.get("max_context_length")),
        _abilities(found),
    )


async def _list_llamacpp(ask: _Asker) -> list[LocalModel] | None:
    models = await _list_openai(ask)
    if not models or (props := await ask.get("/props")) is None:
        return models
    given = _count(_dict(props.get("default_generation_settings")).get("n_ctx"))
    can = _dict(props.get("chat_template_caps"))
    found = [
        name
        for name, has in (
            ("tools", can.get("supports_tools") or can.get("supports_tool_calls")),
            ("vision", _dict(props.get("modalities")).get("vision")),
            ("thinking", can.get("supports_reasoning_effort")),
        )
        if has
    ]
    if len(models) == 1:  # a router has several, and describes none of them
        return [replace(models[0], context_length=given, abilities=_abilities(found))]
    return models


async def _list_openai(ask: _Asker, path: str = "/v1/models") -> list[LocalModel] | None:
    listed = await ask.get(path)
    if listed is None or not isinstance(listed.get("data"), list):
        return None
    found = []
    for row in map(_dict, listed["data"]):
        name = _text(row.get("id"))
        labels = [str(label).replace("-calling", "s") for label in _list(row.get("labels"))]
        context = next(
            (
                count
                for key in ("max_model_len", "max_context_window", "context_length")
                if (count := _count(row.get(key)))
            ),
            None,
        )
        if name and not {"embeddings", "reranking"} & set(labels):
            found.append(LocalModel(name, context, _abilities(labels)))
    return found


async def _list_docker(ask: _Asker) -> list[LocalModel] | None:
    return await _list_openai(ask, "/engines/v1/models")


_LISTERS: Mapping[str, _Lister] = MappingProxyType(
    {
        "ollama": _list_ollama,
        "lmstudio": _list_lmstudio,
        "llamacpp": _list_llamacpp,
        "docker": _list_docker,
    }
)
"""Those of programs that say more in their own API, by name."""


async def find_local_models(
    programs: Iterable[Program] = tuple(PROGRAMS.values()),
) -> dict[str, list[LocalModel]]:
    """Return the models of the programs that listen, by the name of the endpoint."""
    asked = list(programs)
    limits = httpx2.Timeout(PROBE_SECONDS, connect=CONNECT_SECONDS)
    headers = {"User-Agent": f"chatlm/{__version__}"}
    async with httpx2.AsyncClient(timeout=limits, headers=headers, trust_env=False) as client:
        lists = await asyncio.gather(*(_list_one(program, client) for program in asked))
    return {each.name: models for each, models in zip(asked, lists, strict=True) if models}


async def _list_one(program: Program, client: httpx2.AsyncClient) -> list[LocalModel]:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            if not await _listens(program.port):
                return []
            list_models = _LISTERS.get(program.name, _list_openai)
            return await list_models(_Asker(client, program.port)) or []
    except TimeoutError:
        log.info("%s on port %d did not answer in time", program.title, program.port)
        return []


async def _listens(port: int) -> bool:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def to_listings(found: Mapping[str, list[LocalModel]]) -> list[ModelListing]:
    """Return the models as `/model` lists them."""
    return [
        ModelListing(
            f"{PLUGIN}:{model.name}@{name}",
            _describe(PROGRAMS[name].title, model.context_length),
            model.context_length,
            model.abilities,
        )
        for name, models in found.items()
        for model in models
    ]


def _describe(program: str, context_length: int | None) -> str:
    context = f", context {context_length:,}" if context_length else ""
    return f"{program} on this machine{context}"


_ABILITIES = {"tools": "tools", "tool": "tools", "vision": "images", "thinking": "thinking",
              "reasoning": "thinking"}  # fmt: skip


def _abilities(names: Iterable[Any]) -> tuple[str, ...]:
    found = (_ABILITIES.get(name) for name in names if isinstance(name, str))
    return tuple(dict.fromkeys(filter(None, found)))


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    text = value.strip() if isinstance(value, str) else ""
    return text if text == one_line(text, 200) else ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

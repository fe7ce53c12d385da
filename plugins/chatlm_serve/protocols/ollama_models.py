"""Ollama's models: `/api/tags`, `/api/show`, `/api/ps`, `/api/embed` and what belongs to them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import chatlm
from chatlm import ModelDetails, ModelError, find_installed_model, list_installed_models, one_line
from chatlm_serve.errors import ApiError, field_error
from chatlm_serve.fields import get_typed, refuse_unknown, without_nulls
from chatlm_serve.http_guard import read_json_body
from chatlm_serve.model_names import unknown_model_error
from chatlm_serve.model_pool import ServedModel
from chatlm_serve.protocols.ollama_fields import parse_keep_alive
from chatlm_serve.protocols.openai_embeddings import (
    EMBEDDING_MODEL,
    EmbeddingService,
    parse_embedding_request,
)
from chatlm_serve.reply_service import ReplyService
from chatlm_serve.replying import while_connected

EMBED_FIELDS = frozenset(
    {"model", "input", "truncate", "options", "keep_alive", "dimensions", "prompt"}
)

_FOREVER = timedelta(days=365 * 100)
"""How far away the time is when a model that is always kept is freed."""


def routes(service: ReplyService, embeddings: EmbeddingService) -> list[Route]:
    """Return the endpoints."""
    return [
        Route("/api/version", _version),
        Route("/api/tags", partial(_tags, service)),
        Route("/api/ps", partial(_loaded, service)),
        Route("/api/show", partial(_show, service), methods=["POST"]),
        Route("/api/embed", partial(_embed, embeddings), methods=["POST"]),
        Route("/api/embeddings", partial(_embed_one, embeddings), methods=["POST"]),
        Route("/api/pull", _refuse_pull, methods=["POST"]),
    ]


async def _version(request: Request) -> Response:
    return JSONResponse({"version": chatlm.__version__})


async def _tags(service: ReplyService, request: Request) -> Response:
    installed = {
        details.name: _model_object(details)
        for details in await asyncio.to_thread(list_installed_models)
        if details.kind in ("chat", "embedder")
    }
    models = []
    for model in await service.models():
        base = installed.get(model.parent or model.name, _plain_object(model.parent or model.name))
        models.append(_named(base, model.name, model.parent))
    listed = {each["name"] for each in models}
    models += [each for name, each in installed.items() if name not in listed]
    return JSONResponse({"models": models})


async def _loaded(service: ReplyService, request: Request) -> Response:
    details = {each.name: each for each in await asyncio.to_thread(list_installed_models)}
    return JSONResponse(
        {
            "models": [
                _loaded_object(model, details.get(model.name)) for model in service.pool.models
            ]
        }
    )


async def _show(service: ReplyService, request: Request) -> Response:
    fields = without_nulls(await read_json_body(request), "body")
    refuse_unknown(fields, ("model", "name", "verbose"))
    name = get_typed(fields, "model" if "model" in fields else "name", str)
    info = next((m.info for m in service.pool.models if m.name == name), None)
    details = await asyncio.to_thread(_details, name)
    if details is None and info is None:
        known = [model.name for model in await service.models()]
        raise unknown_model_error(name, known)
    return JSONResponse(await asyncio.to_thread(show_object, details, info))


def _details(name: str) -> ModelDetails | None:
    """Return the details of an installed model by any of its names."""
    try:
        found = find_installed_model(name).name
    except ModelError:
        return None
    return next((each for each in list_installed_models() if each.name == found), None)


def show_object(details: ModelDetails | None, info: chatlm.EngineInfo | None) -> dict[str, Any]:
    """Describe a model as Ollama does.

    Args:
        details: of the installed model; None for one that a plugin's engine runs.
        info: of the loaded model; None if it is not loaded.
    """
    config = _read_config(details)
    family = _family(config)
    abilities = set(details.abilities if details else ())
    if info is not None and "tool_call" in info.accepts:
        abilities.add("tools")
    if info is not None and info.thinks:
        abilities.add("thinking")
    if info is not None and "image" in info.accepts:
        abilities.add("images")
    is_embedder = details is not None and details.kind == "embedder"
    capabilities = ["embedding"] if is_embedder else ["completion"]
    capabilities += [each for each in ("tools", "thinking") if each in abilities]
    capabilities += ["vision"] * ("images" in abilities)
    model_info: dict[str, Any] = {"general.architecture": family}
    if details is not None and details.parameters is not None:
        model_info["general.parameter_count"] = details.parameters
    context = info.context_length if info else details and details.context_length
    if context is not None:
        model_info[f"{family}.context_length"] = context
    if embedding := config.get("hidden_size"):
        model_info[f"{family}.embedding_length"] = embedding
    sampling = details.sampling.to_dict() if details else {}
    return {
        "license": details.licence if details else "",
        "modelfile": "",
        "parameters": "\n".join(f"{name} {value}" for name, value in sampling.items()),
        "template": "",
        "details": _model_details(details),
        "model_info": model_info,
        "capabilities": capabilities,
        "modified_at": _modified_at(details),
    }


async def _embed(service: EmbeddingService, request: Request) -> Response:
    began = time.monotonic()
    body = without_nulls(await read_json_body(request), "body")
    texts, model = _parse_embed(body, "input")
    batches = await while_connected(request, service.embed(texts)) if texts else []
    vectors = [vector.tolist() for batch in batches for vector in batch.vectors]
    return JSONResponse(
        {
            "model": model,
            "embeddings": vectors,
            "total_duration": round((time.monotonic() - began) * 1e9),
            "load_duration": 0,
            "prompt_eval_count": sum(batch.token_count for batch in batches),
        }
    )


async def _embed_one(service: EmbeddingService, request: Request) -> Response:
    body = without_nulls(await read_json_body(request), "body")
    texts, _ = _parse_embed(body, "prompt")
    if len(texts) != 1:
        raise field_error("prompt", "must be one text.")
    batches = await while_connected(request, service.embed(texts))
    return JSONResponse({"embedding": batches[0].vectors[0].tolist()})


def _parse_embed(
    fields: Mapping[str, Any], name: str
) -> tuple[Sequence[str | tuple[int, ...]], str]:
    """Return the texts to embed, and the model's name in the request."""
    refuse_unknown(fields, EMBED_FIELDS - {"input", "prompt"} | {name})
    parse_keep_alive(fields)
    get_typed(fields, "options", dict, {})  # they are about replies and the machine
    if get_typed(fields, "truncate", bool, False):
        raise field_error("truncate", "must be false: a text that is too long is refused.")
    if "dimensions" in fields:
        raise field_error("dimensions", "is not supported.", "unsupported_parameter")
    model = get_typed(fields, "model", str)
    if fields.get(name) in ("", []):
        return [], model
    canonical = EMBEDDING_MODEL if _is_embedder(model) else model
    value = fields.get(name)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise field_error(name, "must be a string or a list of strings, none of them empty.")
    parse_embedding_request({"model": canonical, "input": texts})
    return texts, model


def _is_embedder(name: str) -> bool:
    """Tell whether a name means the embedding model, which Ollama calls `all-minilm`."""
    if name.partition(":")[0] == "all-minilm":
        return True
    with suppress(ModelError):
        return find_installed_model(name).name == EMBEDDING_MODEL
    return False


async def _refuse_pull(request: Request) -> Response:
    fields = without_nulls(await read_json_body(request), "body")
    name = get_typed(fields, "model" if "model" in fields else "name", str)
    raise ApiError(501, f"This server downloads no models. Run: chatlm pull {one_line(name, 80)}")


def _named(base: Mapping[str, Any], name: str, parent: str) -> dict[str, Any]:
    details = base["details"] | {"parent_model": parent}
    return dict(base) | {"name": name, "model": name, "details": details}


def _model_object(details: ModelDetails) -> dict[str, Any]:
    facts = [details.name, details.bytes, details.pulled_at, details.parameters]
    return {
        "name": details.name,
        "model": details.name,
        "modified_at": _modified_at(details),
        "size": details.bytes,
        "digest": hashlib.sha256(json.dumps(facts).encode()).hexdigest(),
        "details": _model_details(details),
    }


def _plain_object(name: str) -> dict[str, Any]:
    """Return what is known of a model that is not in the models folder."""
    return {
        "name": name,
        "model": name,
        "modified_at": _modified_at(None),
        "size": 0,
        "digest": hashlib.sha256(name.encode()).hexdigest(),
        "details": _model_details(None),
    }


def _loaded_object(model: ServedModel, details: ModelDetails | None) -> dict[str, Any]:
    on_gpu = not model.info.device.startswith("cpu")
    left = _FOREVER if math.isinf(model.expires_in) else timedelta(seconds=model.expires_in)
    base = _model_object(details) if details else _plain_object(model.name)
    del base["modified_at"]
    return base | {
        "size": model.bytes or base["size"],
        "size_vram": model.bytes if on_gpu else 0,
        "context_length": model.info.context_length,
        "expires_at": _time_text(datetime.now(UTC) + left),
    }


def _model_details(details: ModelDetails | None) -> dict[str, Any]:
    family = _family(_read_config(details))
    dtypes = details.dtypes if details else ()
    is_gguf = details is not None and any(each.startswith(("Q", "IQ")) for each in dtypes)
    return {
        "parent_model": "",
        "format": "gguf" if is_gguf else "safetensors",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": _parameter_size(details.parameters if details else None),
        "quantization_level": dtypes[0] if dtypes else "",
    }


def _parameter_size(parameters: int | None) -> str:
    """Return a number of parameters such as `134.5M` or `1.7B`."""
    if not parameters:
        return ""
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"


def _read_config(details: ModelDetails | None) -> Mapping[str, Any]:
    if details is None or details.folder is None:
        return {}
    with suppress(OSError, ValueError):
        value = json.loads(Path(details.folder, "config.json").read_text("utf-8"))
        return value if isinstance(value, dict) else {}
    return {}


def _family(config: Mapping[str, Any]) -> str:
    return str(config.get("model_type", ""))


def _modified_at(details: ModelDetails | None) -> str:
    with suppress(ValueError, TypeError):
        pulled = datetime.fromisoformat((details.pulled_at if details else None) or "")
        return _time_text(pulled if pulled.tzinfo else pulled.replace(tzinfo=UTC))
    return _time_text(datetime.fromtimestamp(0, UTC))


def _time_text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")

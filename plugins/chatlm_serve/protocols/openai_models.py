"""OpenAI's list of models: `GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chatlm_serve.model_names import unknown_model_error
from chatlm_serve.protocols import openai_embeddings, rerank
from chatlm_serve.reply_service import ReplyService


def routes(service: ReplyService) -> list[Route]:
    """Return the endpoints."""
    return [
        Route("/v1/models", partial(_list, service)),
        Route("/v1/models/{name:path}", partial(_get, service)),
    ]


async def _list(service: ReplyService, request: Request) -> Response:
    return JSONResponse({"object": "list", "data": list((await _models(service)).values())})


async def _get(service: ReplyService, request: Request) -> Response:
    models = await _models(service)
    name = request.path_params["name"]
    if name not in models:
        raise unknown_model_error(name, models)
    return JSONResponse(models[name])


async def _models(service: ReplyService) -> dict[str, dict[str, Any]]:
    """Return the description of each model by its name."""
    common = {"object": "model", "created": 0, "owned_by": "chatlm"}
    models = {
        model.name: {"id": model.name}
        | common
        | {"max_model_len": model.context_length}  # vLLM's name for it
        | ({"parent": model.parent} if model.parent else {})
        # OpenRouter's name for what a model reads
        | {"input_modalities": ["text", "image"] if model.reads_images else ["text"]}
        for model in await service.models()
    }
    embedders = [openai_embeddings.EMBEDDING_MODEL] if openai_embeddings.is_installed() else []
    return models | {
        name: {"id": name} | common for name in (*embedders, *rerank.installed_rerankers())
    }

"""The description of the API, as OpenAPI and as a page without outside assets."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from chatlm_serve.endpoints import ENDPOINTS, Endpoint
from chatlm_serve.protocols import (
    anthropic_messages,
    ollama_chat,
    ollama_models,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_responses,
    rerank,
    vector_stores,
)

_TYPES: Mapping[str, tuple[str, ...]] = {
    "string": (
        "model", "prompt_cache_key", "service_tier", "user", "suffix", "reasoning_effort",
        "encoding_format", "instructions", "query", "safety_identifier", "truncation", "thinking",
    ),
    "integer": (
        "n", "best_of", "max_tokens", "max_completion_tokens", "max_output_tokens", "top_logprobs",
        "seed", "top_k", "top_n", "max_num_results", "thinking_budget", "dry_allowed_length",
    ),
    "number": (
        "temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty",
        "repetition_penalty", "top_n_sigma", "xtc_probability", "xtc_threshold",
        "dry_multiplier", "dry_base",
    ),
    "boolean": (
        "stream", "store", "background", "echo", "parallel_tool_calls", "continue_final_message",
        "return_documents", "rewrite_query",
    ),
    "array": ("messages", "tools", "documents", "include", "modalities"),
    "object": ("stream_options", "response_format", "chat_template_kwargs", "metadata", "text"),
}  # fmt: skip
"""Names of fields by their type; a field of several types is not among them."""

_TYPE_OF = {name: kind for kind, names in _TYPES.items() for name in names}

_OTHER_TYPES = {
    "/v1/messages": {"system", "thinking"},
    "/v1/messages/count_tokens": {"system", "thinking"},
}
"""Fields whose type in a protocol differs from that of their name."""

_RERANK = (rerank.KNOWN_FIELDS, ("model", "query", "documents"))

_FIELDS: Mapping[str, tuple[Any, tuple[str, ...]]] = {
    "/v1/chat/completions": (openai_chat.KNOWN_FIELDS, ("model", "messages")),
    "/v1/responses": (openai_responses.KNOWN_FIELDS, ("model", "input")),
    "/v1/completions": (openai_completions.KNOWN_FIELDS, ("model", "prompt")),
    "/v1/embeddings": (openai_embeddings.KNOWN_FIELDS, ("model", "input")),
    "/v1/vector_stores/{name}/search": (vector_stores.KNOWN_FIELDS, ("query",)),
    "/v1/rerank": _RERANK,
    "/rerank": _RERANK,
    "/v2/rerank": _RERANK,
    "/v1/messages": (anthropic_messages.KNOWN_FIELDS, ("model", "messages", "max_tokens")),
    "/v1/messages/count_tokens": (anthropic_messages.KNOWN_FIELDS, ("model", "messages")),
    "/api/chat": (ollama_chat.CHAT_FIELDS, ("model",)),
    "/api/generate": (ollama_chat.GENERATE_FIELDS, ("model",)),
    "/api/embed": (ollama_models.EMBED_FIELDS - {"prompt"}, ("model", "input")),
    "/api/embeddings": (ollama_models.EMBED_FIELDS - {"input"}, ("model", "prompt")),
}
"""Fields of the bodies by path, and those that are required."""

_STREAMS = {
    "/v1/chat/completions": "text/event-stream",
    "/v1/responses": "text/event-stream",
    "/v1/completions": "text/event-stream",
    "/v1/messages": "text/event-stream",
    "/api/chat": "application/x-ndjson",
    "/api/generate": "application/x-ndjson",
}
"""Media types of streamed replies by path."""

_ERRORS = {
    "400": "A field is missing, invalid or not supported; the message names it.",
    "401": "The token is missing or wrong.",
    "404": "There is no such model.",
    "429": "The server is busy; try again after Retry-After seconds.",
}


def routes(version: str) -> list[Route]:
    """Return the endpoints.

    Args:
        version: of chatlm.
    """
    document = openapi_document(version)
    page = docs_page(document)

    async def describe(request: Request) -> Response:
        return JSONResponse(document)

    async def show(request: Request) -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    return [Route("/openapi.json", describe), Route("/docs", show)]


def openapi_document(version: str) -> dict[str, Any]:
    """Return the description of the endpoints in the form of OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "chatlm serve",
            "version": version,
            "description": "Local models over the protocols of OpenAI, Anthropic and Ollama. "
            "Fields that are not listed are refused by name.",
        },
        "security": [{"bearer": []}, {"key": []}],
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            }
        },
        "paths": paths,
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    path = endpoint.path
    content: dict[str, Any] = {"text/html" if path in ("/", "/docs") else "application/json": {}}
    if path in _STREAMS:
        content[_STREAMS[path]] = {}
    words = re.findall(r"\w+", f"{endpoint.method.lower()} {path}")
    operation: dict[str, Any] = {
        "operationId": "_".join(words),
        "summary": endpoint.summary[0].upper() + endpoint.summary[1:],
        "tags": [endpoint.protocol or "chatlm"],
        "responses": {"200": {"description": "The answer.", "content": content}}
        | {status: {"description": text} for status, text in _ERRORS.items()},
    }
    if "{name}" in path:
        name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
        operation["parameters"] = [name]
    if path == "/health":
        operation["security"] = []
    if path in _FIELDS:
        body = {"application/json": {"schema": _body_schema(path)}}
        operation["requestBody"] = {"required": True, "content": body}
    return operation


def _body_schema(path: str) -> dict[str, Any]:
    fields, required = _FIELDS[path]
    others = _OTHER_TYPES.get(path, set())
    return {
        "type": "object",
        "properties": {
            name: {"type": _TYPE_OF[name]} if name in _TYPE_OF and name not in others else {}
            for name in sorted(fields, key=lambda name: (name not in required, name))
        },
        "required": list(required),
        "additionalProperties": False,
    }


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color-scheme: light dark; }
summary { cursor: pointer; padding: .3rem 0; } code { font-size: 95%; }
.method { display: inline-block; width: 3.5rem; font-weight: 600; }
td { padding: .1rem 1.5rem .1rem 0; vertical-align: top; } .about { opacity: .75; }
"""


def docs_page(document: Mapping[str, Any]) -> str:
    """Return the description as HTML, which loads nothing."""
    groups: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            entry = _entry(method.upper(), path, operation)
            groups.setdefault(operation["tags"][0], []).append(entry)
    sections = "".join(
        f"<h2>{html.escape(name)}</h2>{''.join(entries)}" for name, entries in groups.items()
    )
    about = html.escape(document["info"]["description"])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>chatlm serve</title>'
        f"<style>{_STYLE}</style></head><body><h1>chatlm serve</h1><p>{about} "
        "A token is sent as <code>Authorization: Bearer TOKEN</code> or <code>x-api-key: TOKEN"
        '</code>. For programs: <a href="openapi.json">openapi.json</a>.</p>'
        f"{sections}</body></html>"
    )


def _entry(method: str, path: str, operation: Mapping[str, Any]) -> str:
    head = (
        f'<span class="method">{method}</span> <code>{html.escape(path)}</code> '
        f'<span class="about">{html.escape(operation["summary"])}</span>'
    )
    media_types = ", ".join(operation["responses"]["200"]["content"])
    rows = [f"<tr><td>answers</td><td>{html.escape(media_types)}</td></tr>"]
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        rows += [
            f"<tr><td><code>{html.escape(name)}</code></td><td>{value.get('type', 'any')}"
            f"{', required' if name in schema['required'] else ''}</td></tr>"
            for name, value in schema["properties"].items()
        ]
    return f"<details><summary>{head}</summary><table>{''.join(rows)}</table></details>"

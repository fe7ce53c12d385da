"""What the server answers: one table for `serve --help`, `/openapi.json` and `/docs`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Endpoint:
    """An endpoint."""

    method: str
    path: str
    protocol: str
    """Whose protocol it is; empty for chatlm's own."""
    summary: str


ENDPOINTS = (
    Endpoint("GET", "/v1/models", "OpenAI", "list the models"),
    Endpoint("GET", "/v1/models/{name}", "OpenAI", "describe one model"),
    Endpoint("POST", "/v1/chat/completions", "OpenAI", "answer messages"),
    Endpoint("POST", "/v1/responses", "OpenAI", "answer messages, with typed events"),
    Endpoint("POST", "/v1/completions", "OpenAI", "continue a text, or fill a gap"),
    Endpoint("POST", "/v1/embeddings", "OpenAI", "embed texts"),
    Endpoint("GET", "/v1/vector_stores", "OpenAI", "list the indices"),
    Endpoint("POST", "/v1/vector_stores/{name}/search", "OpenAI", "search an index"),
    Endpoint("POST", "/v1/rerank", "Jina", "order documents by a query"),
    Endpoint("POST", "/rerank", "vLLM", "the same"),
    Endpoint("POST", "/v2/rerank", "Cohere", "the same"),
    Endpoint("POST", "/v1/messages", "Anthropic", "answer messages"),
    Endpoint("POST", "/v1/messages/count_tokens", "Anthropic", "count the tokens of a prompt"),
    Endpoint("POST", "/api/chat", "Ollama", "answer messages"),
    Endpoint("POST", "/api/generate", "Ollama", "answer a prompt"),
    Endpoint("GET", "/api/tags", "Ollama", "list the models"),
    Endpoint("POST", "/api/show", "Ollama", "describe one model"),
    Endpoint("GET", "/api/ps", "Ollama", "list the loaded models"),
    Endpoint("POST", "/api/embed", "Ollama", "embed texts"),
    Endpoint("POST", "/api/embeddings", "Ollama", "embed one text"),
    Endpoint("GET", "/api/version", "Ollama", "tell the version"),
    Endpoint("POST", "/api/pull", "Ollama", "say how a model is installed"),
    Endpoint("GET", "/", "", "show the server's state, as a page"),
    Endpoint("GET", "/health", "", "tell that it runs, without a token"),
    Endpoint("GET", "/openapi.json", "", "describe the endpoints, as OpenAPI"),
    Endpoint("GET", "/docs", "", "the same as a page"),
)
"""All endpoints."""


def help_text() -> str:
    """Return the endpoints as lines of a command's help."""
    width = max(len(each.path) for each in ENDPOINTS)
    lines = [f"  {each.method:4} {each.path:{width}}  {each.summary}" for each in ENDPOINTS]
    return "\b\n" + "\n".join(["Endpoints:", *lines])

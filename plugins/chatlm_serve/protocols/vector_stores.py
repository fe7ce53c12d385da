"""Search of the user's documents, in the format of OpenAI's vector stores.

The documents come from the service `documents` that a plugin offers; each of its collections is one
vector store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chatlm import Documents, Passage, SideChats, UsageError, one_line
from chatlm_serve.errors import ApiError, as_api_error, field_error
from chatlm_serve.fields import refuse_unknown, without_nulls
from chatlm_serve.http_guard import read_json_body
from chatlm_serve.replying import collect, while_connected
from chatlm_serve.work_queue import WorkQueue

SERVICE = "documents"
"""The name of the service."""

DEFAULT_RESULTS, MAX_RESULTS = 10, 50
"""`max_num_results`, as in OpenAI's API; the collection's own limit may be lower."""

KNOWN_FIELDS = {"query", "max_num_results", "rewrite_query"}


def routes(chats: SideChats, queue: WorkQueue) -> list[Route]:
    """Return the endpoints.

    Args:
        chats: knows the service of the documents.
        queue: runs the searches, which embed their queries.
    """
    return [
        Route("/v1/vector_stores", partial(_list, chats)),
        Route("/v1/vector_stores/{name}/search", partial(_search, chats, queue), methods=["POST"]),
    ]


async def _list(chats: SideChats, request: Request) -> Response:
    return JSONResponse(await asyncio.to_thread(list_response, _documents(chats)))


async def _search(chats: SideChats, queue: WorkQueue, request: Request) -> Response:
    parsed = parse_search_request(await read_json_body(request))
    factory = partial(search, _documents(chats), request.path_params["name"], parsed)
    (passages,) = await while_connected(request, collect(queue.stream(factory)))
    return JSONResponse(search_response(passages, parsed))


def _documents(chats: SideChats) -> Documents:
    try:
        return chats.service(SERVICE, Documents)
    except UsageError as error:
        raise as_api_error(error) from error


@dataclass(frozen=True)
class SearchRequest:
    """A parsed search request."""

    query: str
    max_results: int


def parse_search_request(body: Mapping[str, Any]) -> SearchRequest:
    """Parse and validate a request body.

    Raises:
        ApiError: a field, which is named, is missing, invalid or unsupported.
    """
    fields = without_nulls(body, "body")
    refuse_unknown(fields, KNOWN_FIELDS)
    if fields.get("rewrite_query", False) is not False:
        raise field_error("rewrite_query", "is not supported.", "unsupported_parameter")
    query = fields.get("query")
    if not isinstance(query, str) or not query.strip():
        raise field_error("query", "must be a string that is not blank.")
    limit = fields.get("max_num_results", DEFAULT_RESULTS)
    if type(limit) is not int or not 1 <= limit <= MAX_RESULTS:
        raise field_error("max_num_results", f"must be an integer from 1 to {MAX_RESULTS}.")
    return SearchRequest(query, limit)


def list_response(documents: Documents) -> dict[str, Any]:
    """Return the response body that lists the collections.

    OpenAI's counts of files and bytes are left out, since the service does not know them.
    """
    stores = [
        {
            "id": name,
            "object": "vector_store",
            "name": name,
            "created_at": 0,
            "status": "completed",
        }
        for name in documents.collections()
    ]
    return {
        "object": "list",
        "data": stores,
        "first_id": stores[0]["id"] if stores else None,
        "last_id": stores[-1]["id"] if stores else None,
        "has_more": False,
    }


def search(
    documents: Documents, collection: str, request: SearchRequest
) -> Generator[Sequence[Passage], None, None]:
    """Yield the relevant passages of a collection, as one item, best first.

    Raises:
        ApiError: the collection does not exist.
        ChatlmError: it cannot be searched.
    """
    known = documents.collections()
    if collection not in known:
        near = get_close_matches(collection, known, 1)
        raise ApiError(
            404,
            f"The vector store {one_line(collection, 80)!r} does not exist. "
            + (f"Did you mean {near[0]}? " if near else "")
            + "GET /v1/vector_stores lists all.",
            param="vector_store_id",
            code="not_found",
        )
    yield documents.search(collection, request.query)[: request.max_results]


def search_response(passages: Sequence[Passage], request: SearchRequest) -> dict[str, Any]:
    """Return the response body of a search."""
    return {
        "object": "vector_store.search_results.page",
        "search_query": [request.query],
        "data": [
            {
                "file_id": passage.source,
                "filename": passage.source,
                "score": passage.score,
                "attributes": {},
                "content": [{"type": "text", "text": passage.text}],
            }
            for passage in passages
        ],
        "has_more": False,
        "next_page": None,
    }

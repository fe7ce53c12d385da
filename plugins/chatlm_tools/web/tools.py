"""The tools `web_search` and `fetch`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from chatlm import Passage, ToolContext, ToolOutput, UsageError, one_line, tool
from chatlm_tools.settings import Settings, current_settings
from chatlm_tools.web.cache import WebCache

_MAX_RESULTS = 10
_PAGE_CHARACTERS = 10_000


def _cache(context: ToolContext) -> WebCache:
    hours = 0.0 if context.incognito else current_settings(context).web_cache_hours
    return WebCache(context.data_folder, hours)


def _check_extra() -> None:
    """Check that the extra packages are installed.

    Raises:
        UsageError: one is missing.
    """
    try:
        import ddgs  # noqa: F401
        import trafilatura  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"The tools for the web need more packages ({error.name or error}).",
            hint="Install them with: pip install 'chatlm[web]'",
        ) from None


@tool(
    permission="ask",
    group="web",
    read_only=True,
    untrusted_output=True,
    enabled_by_default=False,
)
def fetch(address: str, context: ToolContext, start: int = 0) -> ToolOutput:
    """Read the text of a web page.

    Args:
        address: of the page, with https://.
        start: how many characters to leave out, to read on in a long page.
    """
    _check_extra()
    from chatlm import CheckedConnections, check_address
    from chatlm_tools.web.download import download_page, readable_text

    asked = check_address(address)
    cache = _cache(context)
    values = cache.get("page", asked)
    if values is None:
        context.progress(f"Reading {one_line(asked, 60)}")
        backend = CheckedConnections(current_settings(context).web_hosts)
        page = download_page(asked, backend, context.check_cancelled)
        title, text = readable_text(page)
        values = {"address": page.address, "title": title, "text": text}
        cache.put("page", asked, values)
    found, title, text = (str(values.get(key, "")) for key in ("address", "title", "text"))
    piece = text[max(start, 0) : max(start, 0) + _PAGE_CHARACTERS]
    if not piece:
        raise UsageError(f"The page has only {len(text)} characters.")
    end = max(start, 0) + len(piece)
    about = f"{title or found}: characters {max(start, 0)} to {end} of {len(text)}"
    if end < len(text):
        about += f"; read on with start={end}"
    passage = Passage(piece, found, 1.0, {"title": title})
    return ToolOutput(about, untrusted=True, source=found, passages=(passage,))


@tool(
    permission="ask",
    group="web",
    read_only=True,
    untrusted_output=True,
    enabled_by_default=False,
)
def web_search(query: str, context: ToolContext, results: int = 5) -> ToolOutput:
    """Search the web; fetch then reads a page that was found.

    Args:
        query: a few words, as one types them into a search engine.
        results: how many, up to 10.
    """
    _check_extra()
    wanted = min(max(results, 1), _MAX_RESULTS)
    settings = current_settings(context)
    cache = _cache(context)
    key = f"{settings.search_server} {wanted} {query.strip()}"
    values = cache.get("search", key)
    if values is None:
        context.progress(f"Searching for {one_line(query, 60)}")
        rows = (
            _ask_searxng(query, wanted, settings, context)
            if settings.search_server
            else _ask_ddgs(query, wanted)
        )
        values = {"rows": rows}
        cache.put("search", key, values)
    passages = tuple(
        Passage(f"{row['title']}\n{row['text']}", row["address"], 1 / rank, {"title": row["title"]})
        for rank, row in enumerate(values["rows"], 1)
    )
    count = len(passages)
    text = f"{count} result{'s' * (count != 1)} for: {query.strip()}" if count else "No results."
    return ToolOutput(text, untrusted=True, source="web search", passages=passages)


def _row(title: Any, address: Any, text: Any) -> dict[str, str]:
    return {
        "title": one_line(str(title or ""), 200),
        "address": one_line(str(address or ""), 500),
        "text": one_line(str(text or ""), 600),
    }


def _ask_ddgs(query: str, wanted: int) -> Sequence[dict[str, str]]:
    """Search with DuckDuckGo and the other engines that ddgs knows.

    Raises:
        UsageError: none of them answered.
    """
    from ddgs import DDGS
    from ddgs.exceptions import DDGSException

    try:
        found = DDGS(timeout=10).text(query, max_results=wanted)
    except DDGSException as error:
        if "no results" in str(error).lower():
            return []
        raise UsageError(f"The search failed: {one_line(str(error), 200)}") from None
    return [_row(each.get("title"), each.get("href"), each.get("body")) for each in found[:wanted]]


def _ask_searxng(
    query: str, wanted: int, settings: Settings, context: ToolContext
) -> Sequence[dict[str, str]]:
    """Search with the user's own server.

    Raises:
        UsageError: it did not answer with results.
    """
    from chatlm import CheckedConnections
    from chatlm_tools.web.download import download_page

    question = urlencode({"q": query, "format": "json"})
    address = f"{settings.search_server.rstrip('/')}/search?{question}"
    page = download_page(address, CheckedConnections(settings.web_hosts), context.check_cancelled)
    try:
        found = json.loads(page.text)["results"]
        rows = [_row(each.get("title"), each["url"], each.get("content")) for each in found]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{settings.search_server} did not answer with results in JSON.") from None
    return rows[:wanted]

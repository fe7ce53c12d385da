"""The tools `documents_list` and `documents_search`: the user's indices, when a model asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chatlm import Documents, ToolOutput, UsageError, one_line, tool

if TYPE_CHECKING:
    from chatlm import PluginContext

_contexts: list[PluginContext] = []
"""The program, through which other plugins' services are found; empty before it starts."""


def use_services_of(context: PluginContext) -> None:
    """Look the service `documents` up in this program from now on."""
    _contexts[:] = [context]


def _collections() -> tuple[Documents, Sequence[str]]:
    for context in _contexts:
        # Looked up at each call: the plugin may have been disabled meanwhile.
        if (found := context.service("documents", Documents)) is not None:
            return found, found.collections()
    raise UsageError(
        "There is nothing to search documents with.", hint="Is the plugin rag switched off?"
    )


@tool(permission="allow", read_only=True, group="documents")
def documents_list() -> str:
    """List the collections of the user's documents that documents_search can search."""
    _, names = _collections()
    return "\n".join(one_line(name, 100) for name in names) or "There are no collections."


@tool(permission="allow", read_only=True, untrusted_output=True, timeout=120, group="documents")
def documents_search(query: str, collection: str = "") -> ToolOutput:
    """Search the user's documents for passages that answer a question.

    Args:
        query: the question, or what the passages should be about.
        collection: where to search; may be left out if there is only one.
    """
    documents, names = _collections()
    if not names:
        raise UsageError(
            "There are no collections.", hint="The user can make one: chatlm rag build"
        )
    if not collection and len(names) == 1:
        collection = names[0]
    if collection not in names:
        listed = ", ".join(one_line(name, 100) for name in names)
        raise UsageError(f"Give one of these as collection: {listed}")
    passages = tuple(documents.search(collection, query))
    count = len(passages)
    text = f"{count} passage{'s' * (count != 1)} in {collection}"
    return ToolOutput(
        text if passages else f"Nothing in {collection} is about that.",
        untrusted=True,
        source=collection,
        passages=passages,
    )

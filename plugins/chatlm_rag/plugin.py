"""Answer from your documents, with checked citations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlm import Annotation, Panel, PluginScreen, hookimpl, load_plugin_settings
from chatlm_rag import PLUGIN, actions
from chatlm_rag.settings import INDEX_KEY, Settings, index_from_conversation, index_from_plugin_data

if TYPE_CHECKING:
    from chatlm import (
        AskOption,
        ChatlmError,
        Commands,
        Conversation,
        Engine,
        Message,
        Passage,
        Request,
        Setup,
        SlashCommand,
        Turn,
        Ui,
        UsageError,
    )
    from chatlm_rag.index.embedding import Embedder

__all__ = ["Settings"]

_omitted_passages: dict[int, int] = {}
"""Number of passages that did not fit the current request, by turn id."""


@hookimpl
def register_commands(cli: Commands) -> None:
    """Add `chatlm rag`."""
    cli.add_lazy(
        "rag",
        "chatlm_rag.commands:rag",
        "Build, search and evaluate indices of your documents.",
    )


@hookimpl
def register_ask_options(register: Callable[[AskOption], None]) -> None:
    """Add `chatlm ask --index`."""
    from chatlm import AskOption

    register(
        AskOption(
            "--index",
            "Answer from this index of documents; see: chatlm rag list",
            _setup_with_index,
            metavar="NAME",
        )
    )


def _setup_with_index(name: str) -> Setup:
    from chatlm import Setup
    from chatlm_rag.index.folder import find_index

    return Setup(plugin_data={PLUGIN: {INDEX_KEY: find_index(name).name}})


@hookimpl
def register_setups(register: Callable[[str, Setup], None]) -> None:
    """Register a setup for each complete index."""
    from chatlm import Setup
    from chatlm_rag.index.folder import all_indices

    for index in all_indices():
        if index.current():
            register(index.name, Setup(plugin_data={PLUGIN: {INDEX_KEY: index.name}}))


class IndexSearch:
    """The service `documents`: search in the complete indices."""

    def collections(self) -> list[str]:
        """Return the names of the complete indices."""
        from chatlm_rag.index.folder import all_indices

        return [index.name for index in all_indices() if index.current()]

    def search(self, collection: str, query: str) -> list[Passage]:
        """Return the relevant passages of an index, best first."""
        from chatlm_rag.retrieval import grounding

        return grounding.find_passages(collection, query)


class DefaultEmbedder:
    """The service `embedder`: the default embedder, loaded on first use."""

    def __init__(self) -> None:
        self._embedder: Embedder | None = None

    def fingerprint(self) -> str:
        """Return the hash of its weights."""
        from chatlm_rag.index import embedding

        return embedding.find_embedder(embedding.DEFAULT_EMBEDDER).record.fingerprint

    def embed(self, texts: Sequence[str], progress: Callable[[int, int], None]) -> Any:
        """Return the vectors of texts as unit vectors."""
        from chatlm_rag.index import embedding

        if self._embedder is None:
            local = embedding.find_embedder(embedding.DEFAULT_EMBEDDER)
            self._embedder = embedding.Embedder(local.folder, local.record)
        return self._embedder.embed(texts, progress=progress)


@hookimpl
def register_services(register: Callable[[str, Any], None]) -> None:
    """Offer the indices, the embedder and the indexing of folders to chatlm and other plugins."""
    from chatlm_rag.folder_indexer import FolderIndexes

    register("folder_indexer", FolderIndexes())
    register("documents", IndexSearch())
    register("embedder", DefaultEmbedder())


@hookimpl
def register_slash_commands(register: Callable[[SlashCommand], None]) -> None:
    """Add `/rag` and `/source`."""
    actions.register(register)


@hookimpl
def register_panels(register: Callable[[Panel], None]) -> None:
    """Add the sources of the selected turn."""
    register(Panel(actions.PANEL, "Sources", _open_sources, key="f4"))


@hookimpl
def register_screens(register: Callable[[PluginScreen], None]) -> None:
    """Add the index picker and the card for longer texts."""
    register(PluginScreen(actions.PICKER, _open_picker))
    register(PluginScreen(actions.SHEET, _open_sheet))


@hookimpl
def chat_shown(ui: Ui) -> None:
    """Preload the chat's index while the user reads and types, and keep it up to date if set."""
    if not (name := index_from_plugin_data(ui.state)):
        return
    from chatlm_rag.retrieval.search import preload_in_background

    preload_in_background(name)
    if load_plugin_settings(PLUGIN, Settings).watch:
        from functools import partial

        from chatlm_rag.index.watching import shared_watches

        shared_watches.start(name, partial(ui.notify, warning=True))


@hookimpl
def shutdown() -> None:
    """Stop watching files."""
    import sys

    if watching := sys.modules.get("chatlm_rag.index.watching"):  # else nothing was watched
        watching.shared_watches.stop()


@hookimpl
def read_attachment(path: Path) -> str | ChatlmError | None:
    """Read documents that are attached to a message, such as PDF files."""
    if path.suffix.lower() not in (".pdf", ".docx", ".xlsx", ".pptx", ".epub", ".eml"):
        return None
    from chatlm import UsageError
    from chatlm_rag.documents.document import Problem
    from chatlm_rag.documents.reader_process import DocumentReader

    with DocumentReader() as reader:
        (document,) = reader.read(path, path.name)
    if isinstance(document, Problem):
        return UsageError(f"it {document.reason}")
    return document.text


@hookimpl(tryfirst=True)
def write_message(conversation: Conversation, text: str) -> UsageError | None:
    """Refuse a question if the chat's index cannot be used."""
    if not (name := index_from_conversation(conversation)):
        return None
    from chatlm_rag.retrieval.grounding import search_problem

    return search_problem(name, text)


@hookimpl
def annotate_message(
    conversation: Conversation, message: Message, passages: Sequence[Passage]
) -> list[Annotation] | None:
    """Annotate a question with its search result, and a reply with its citation checks."""
    from chatlm_rag.retrieval import prompting

    if message.role == "assistant" and prompting.has_index_passages(passages):
        from chatlm_rag.retrieval import citations, extractive

        turn = conversation.turns[-1]
        omitted = _omitted_passages.pop(turn.id, 0)
        readings = extractive.try_to_read(turn.display_text, passages)
        annotations = citations.reply_annotations(
            message.text, passages, omitted, turn.display_text, readings
        )
        is_quoted = turn.reply is not None and turn.reply.plugin == PLUGIN
        return [citations.QUOTED_ANSWER, *annotations] if is_quoted else annotations
    if message.role == "assistant" and _found_nothing(conversation.turns[-1]):
        from chatlm_rag.retrieval.grounding import ASK_WITHOUT_DOCUMENTS

        return [ASK_WITHOUT_DOCUMENTS]
    if message.role == "assistant" and index_from_conversation(conversation):
        from chatlm_rag.retrieval import citations

        return citations.reply_annotations(message.text, []) or None
    if message.role == "user" and (name := index_from_conversation(conversation)):
        from chatlm_rag.retrieval.grounding import question_annotation

        return [question_annotation(name, conversation.turns[-1].display_text)]
    return None


@hookimpl
def retrieve_passages(conversation: Conversation, message: Message) -> list[Passage] | None:
    """Search the chat's index for a question."""
    if not (name := index_from_conversation(conversation)):
        return None
    from chatlm_rag.retrieval import grounding

    return grounding.find_passages(name, message.text)


@hookimpl
def build_messages(
    conversation: Conversation, turn: Turn, passages: Sequence[Passage]
) -> list[Message] | None:
    """Insert the passages into the user's message."""
    from chatlm_rag.retrieval import prompting

    return (
        prompting.grounded_messages(conversation, turn, passages)
        if prompting.has_index_passages(passages)
        else None
    )


@hookimpl
def adjust_request(
    request: Request,
    conversation: Conversation,
    turn: Turn,
    passages: Sequence[Passage],
    engine: Engine,
) -> Request | None:
    """Drop passages that do not fit the context window, answer with quotes, or say that nothing
    relevant was found."""
    from chatlm_rag.retrieval import extractive, prompting

    if not passages and not turn.replies and (name := index_from_conversation(conversation)):
        return _say_nothing_relevant(request, name, turn)
    if not prompting.has_index_passages(passages):
        return None
    shorter, count = prompting.fit_passages(request, turn, passages, engine)
    _omitted_passages[turn.id] = len(passages) - count
    if turn.replies:
        sampling = shorter.sampling.with_fallback(prompting.REGENERATE_SAMPLING)
        return dataclasses.replace(shorter, sampling=sampling)
    return extractive.answer_with_quotes(shorter, turn, passages[:count], engine)


def _found_nothing(turn: Turn) -> bool:
    """Whether the newest reply says that an index has nothing relevant."""
    from chatlm import StopReason

    return (
        turn.reply is not None
        and turn.reply.plugin == PLUGIN
        and turn.reply.stop_reason is StopReason.NOTHING_RELEVANT
    )


def _say_nothing_relevant(request: Request, name: str, turn: Turn) -> Request | None:
    """Complete a request where an index has no answer; None where the model is to answer."""
    from chatlm import Message, StopReason
    from chatlm_rag.retrieval.grounding import nothing_relevant_reply

    text = nothing_relevant_reply(name, turn.user.text)
    if text is None or request.messages[-1].role == "assistant":
        return None
    return dataclasses.replace(
        request,
        messages=(*request.messages, Message("assistant", text)),
        reply_complete=True,
        reply_stop_reason=StopReason.NOTHING_RELEVANT,
    )


def _open_picker(ui: Ui, argument: str) -> Any:
    from chatlm_rag.screens.picker import RagPicker

    return RagPicker(ui)


def _open_sheet(ui: Ui, argument: str) -> Any:
    from chatlm.plugin_kit.screens import TextCard

    return TextCard("Your documents", argument)


def _open_sources(ui: Ui) -> Any:
    from chatlm_rag.screens.sources import RagSources

    return RagSources(ui)

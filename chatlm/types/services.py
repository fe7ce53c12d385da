"""Protocols of the services that plugins offer each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast, runtime_checkable

from chatlm.errors import UsageError
from chatlm.types.messages import Annotation, Passage
from chatlm.types.progress import ProgressReporter
from chatlm.types.setups import Setup, SideChat
from chatlm.types.tools import Tool

T = TypeVar("T")


@runtime_checkable
class Documents(Protocol):
    """Searches collections of the user's documents."""

    def collections(self) -> Sequence[str]:
        """Return the names of the collections that can be searched."""
        ...

    def search(self, collection: str, query: str) -> Sequence[Passage]:
        """Return the passages that are relevant to the query, best first.

        Raises:
            ChatlmError: the collection does not exist or cannot be read.
        """
        ...


@runtime_checkable
class Classifier(Protocol):
    """Labels texts."""

    def classify(self, text: str) -> Annotation:
        """Return the label of a text; may load a model first.

        Raises:
            ChatlmError: the classifier cannot be loaded.
        """
        ...


@runtime_checkable
class TextEmbedder(Protocol):
    """Maps texts to vectors, near each other for texts of similar meaning."""

    def fingerprint(self) -> str:
        """Return what tells its vectors from those of other models: they can be stored with it.

        Raises:
            ChatlmError: the embedding model is not on this machine.
        """
        ...

    def embed(self, texts: Sequence[str], progress: Callable[[int, int], None]) -> Any:
        """Return an array of float32 with shape (texts, dimensions), whose rows have length 1.

        Args:
            texts: in any order.
            progress: called with the number of texts done and that of all.

        Raises:
            ChatlmError: the embedding model is not on this machine or cannot be loaded.
        """
        ...


@runtime_checkable
class FolderIndexer(Protocol):
    """Makes a folder searchable that is too large to attach to a message."""

    def index_folder(self, folder: Path, progress: ProgressReporter) -> Setup:
        """Return what a chat needs to be answered from the folder's files, in `plugin_data`.

        May take minutes; a folder that was indexed before is brought up to date.

        Args:
            folder: an existing folder.
            progress: receives the progress; may cancel.

        Raises:
            ChatlmError: the folder has no text or cannot be indexed, or the user stopped it.
        """
        ...


@runtime_checkable
class Adapters(Protocol):
    """Finds LoRA adapters."""

    def names(self) -> Sequence[str]:
        """Return the names of all adapters."""
        ...

    def find(self, name: str, model: str) -> Path:
        """Return the folder of an adapter.

        Raises:
            ChatlmError: the adapter does not exist, or does not fit the model.
        """
        ...


@runtime_checkable
class Judge(Protocol):
    """Compares two answers to a prompt."""

    def compare(
        self, chat: SideChat, prompt: str, first: str, second: str, seed: int = 0
    ) -> Literal["first", "second", "tie"] | None:
        """Return the better answer, None where the model gives no verdict.

        Args:
            chat: an empty side chat with the model that judges.
            prompt: what both answers reply to.
            first: one answer.
            second: the other answer.
            seed: for sampling, where the model has to be asked again.

        Raises:
            EngineError: the model failed.
        """
        ...


@runtime_checkable
class Ratings(Protocol):
    """Rates models by the user's votes."""

    def leaderboard(self) -> Sequence[Mapping[str, Any]]:
        """Return a row of JSON values for each contestant with votes, strongest first.

        Each has at least `name`, `elo`, `games` and `win_rate`.
        """
        ...


@runtime_checkable
class Preferences(Protocol):
    """Pairs of replies of which one was preferred."""

    def pairs(self, judge: str) -> Sequence[Mapping[str, Any]]:
        """Return a row of JSON values for each vote that prefers a reply, oldest first.

        Each has `prompt`, `chosen` and `rejected`, lists of messages in OpenAI's form. Those of a
        message with images have a list of parts as content.

        Args:
            judge: who voted: `human` for the user, a model; empty for all.
        """
        ...


class ConnectedServers(Protocol):
    """Servers of tools, for the time of a session. Thread-safe."""

    def tools(self) -> Sequence[Tool]:
        """Return the tools of the servers; waits a while for those that start."""
        ...

    def problems(self) -> Sequence[str]:
        """Return a sentence about each server that does not work now."""
        ...

    def close(self) -> None:
        """End the servers."""
        ...


@runtime_checkable
class ToolServers(Protocol):
    """Connects servers of tools that are not in the user's settings."""

    def connect(
        self, entries: Mapping[str, Mapping[str, Any]], folders: Sequence[Path]
    ) -> ConnectedServers:
        """Connect servers; none is started before it is needed.

        Args:
            entries: as in `mcpServers` of the Model Context Protocol's clients, by name; taken
                literally, without variables. An entry that is wrong is among the `problems`.
            folders: those that the user lets tools use.
        """
        ...


SERVICES: Mapping[str, type] = {
    "documents": Documents,
    "classifier": Classifier,
    "adapters": Adapters,
    "judge": Judge,
    "ratings": Ratings,
    "preferences": Preferences,
    "embedder": TextEmbedder,
    "folder_indexer": FolderIndexer,
    "tool_servers": ToolServers,
}
"""The names of these services, each with its protocol. Plugins may offer others."""


def as_service(service: Any, protocol: Callable[..., T]) -> T | None:
    """Return the service, typed; None if it is not an instance of the protocol.

    Args:
        service: what a plugin offers; None for nothing.
        protocol: a class. Not typed as `type[T]`, which type checkers refuse for protocols.
    """
    return cast(T, service) if isinstance(service, cast(type, protocol)) else None


def require_service(name: str, service: Any, protocol: Callable[..., T]) -> T:
    """Return the service, typed.

    Args:
        name: as it was looked up.
        service: what a plugin offers under this name; None for nothing.
        protocol: as for `as_service`.

    Raises:
        UsageError: no plugin offers it.
    """
    found = as_service(service, protocol)
    if found is None:
        raise UsageError(
            f"No plugin offers the service {name}.",
            hint="It may be disabled or have failed: chatlm plugins list",
        )
    return found

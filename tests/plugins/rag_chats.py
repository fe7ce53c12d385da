"""Shared by tests of chats with an index: documents, an index of them, a chat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import chatlm_rag.plugin
from chatlm import Conversation, Message, Passage, Reply, StopReason, Turn
from chatlm.chat.session import ChatSession
from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm_rag.documents.files import Source
from chatlm_rag.index import builder
from chatlm_rag.retrieval.hits import Origin
from tests import models
from tests.plugins.ui import RememberingWork

NAME = "house"
CATS = "Are cats allowed in the flat?"
SPACE = "How far away is the Andromeda galaxy?"

DOCUMENTS = {
    "house.md": "# House\n\n## Pets\n\n"
    "Cats are allowed in the flat. Dogs need the owner's consent.\n\n"
    "## Boiler\n\nThe boiler is serviced each October; error E17 means too little water.\n",
    "bread.txt": "Bread is baked at 240 degrees with steam for the first ten minutes.\n",
    "tides.txt": "At spring tide the moon and the sun pull in the same direction.\n",
}


def make_home(home: Path) -> Path:
    """Prepare a home with the embedder; return the folder of the documents."""
    models.lend(home, models.embedder_model())
    folder = home.parent / "documents"
    folder.mkdir()
    for name, text in DOCUMENTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@contextmanager
def house(home: Path) -> Iterator[Path]:
    """Prepare a home with the index `house`; yield the folder of its documents."""
    folder = make_home(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATLM_HOME", str(home))
        builder.build(NAME, (Source(str(folder)),), RememberingWork(cancelled=False))
        yield folder


@contextmanager
def chat(*replies: str, index: str = NAME) -> Iterator[tuple[ChatSession, ScriptedEngine]]:
    """A chat with an index and a scripted model."""
    engine = ScriptedEngine(*replies)
    host = PluginHost([("rag", chatlm_rag.plugin)])
    with Store(None) as store:
        yield (
            ChatSession(store, lambda: engine, plugins=host, plugin_data={"rag": {"index": index}}),
            engine,
        )
        assert host.all_faults == []


def say(session: ChatSession, text: str) -> Turn:
    """Send a message and return the finished turn."""
    for _ in session.send(text):
        pass
    assert session.conversation is not None
    return session.conversation.turns[-1]


def passage(text: str, source: str = "house.md", place: str = "", **more: object) -> Passage:
    """Return a passage as the plugin stores it."""
    origin = Origin(index=NAME, source=source, place=place, line=3, **more)  # type: ignore[arg-type]
    return Passage(text, source, 0.9, origin.to_details())


def answered(question: str, reply: str, **more: object) -> Conversation:
    """Return a chat with the index and one finished turn."""
    said = Reply(7, 1, reply, StopReason.END)
    turn = Turn(1, 0, Message("user", question), (said,), **more)  # type: ignore[arg-type]
    return Conversation(1, turns=(turn,), plugin_data={"rag": {"index": NAME}})

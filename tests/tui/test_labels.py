"""Labels of plugins under their messages, and the chats that plugins are notified of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chatlm import Annotation, Message, Passage, Ui, hookimpl
from chatlm.config.config import Config
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.tui.app import ChatApp
from tests.tui.support import (
    StillEngine,
    chat_of,
    everything_drawn,
    hostile_texts,
    idle,
    newest,
    opens,
    plain,
    say,
    until,
)


class Labels:
    """Labels every message, and records the chats it was notified of."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts or ("calm",)
        self.shown: list[int] = []
        self.ui: Ui | None = None

    @hookimpl
    def screen_opened(self, ui: Ui) -> None:
        self.ui = ui

    @hookimpl
    def chat_shown(self, ui: Ui) -> None:
        self.shown.append(ui.conversation.id)

    @hookimpl
    def retrieve_passages(self) -> list[Passage]:
        return [Passage("x", "y", 1.0, {"n": 1})]

    @hookimpl
    def annotate_message(self, message: Message, passages: Sequence[Passage]) -> list[Annotation]:
        score = None if message.role == "user" else 0.931
        return [Annotation("labels", message.role, text, score) for text in self.texts]


def app_with(plugin: Labels, engine: StillEngine, store: Store) -> ChatApp:
    host = PluginHost([("labels", plugin)])
    return ChatApp(store, opens(engine), plugins=host, config=Config(), clock=lambda: 0.0)


async def test_labels_stand_under_their_messages_the_first_before_the_reply_is_there() -> None:
    engine = StillEngine("one ", "two", stand_after=1)
    with Store(None) as store:
        async with app_with(Labels("calm", "short"), engine, store).run_test() as pilot:
            await say(pilot, "Hello")
            await until(pilot, lambda: "user calm\nuser short" in plain(newest(pilot)))
            assert "assistant" not in plain(newest(pilot))
            engine.go.set()
            await idle(pilot)
            lines = plain(newest(pilot)).split("\n")
            assert lines.index("user calm") < lines.index("assistant calm (0.93)")
            assert "assistant short (0.93)" in lines
            await pilot.press("ctrl+n")
            await chat_of(pilot).switch.open_chat(1)
            await until(pilot, lambda: chat_of(pilot).view.newest_view)
            assert plain(newest(pilot)).split("\n") == lines, "the same from the store"


async def test_each_version_has_its_own_labels() -> None:
    labels = Labels("first")
    with Store(None) as store:
        async with app_with(labels, StillEngine("one"), store).run_test() as pilot:
            await say(pilot, "Hello")
            await idle(pilot)
            labels.texts = ("second",)
            await pilot.press("ctrl+r")
            await idle(pilot)
            assert "assistant second" in plain(newest(pilot))
            await pilot.press("tab", "left")
            await until(pilot, lambda: "assistant first" in plain(newest(pilot)))
            assert "assistant second" not in plain(newest(pilot))


async def test_hostile_labels_are_only_drawn(shared_data: Path) -> None:
    texts = hostile_texts(shared_data)[::20]
    with Store(None) as store:
        app = app_with(Labels(*texts), StillEngine("one"), store)
        async with app.run_test(size=(100, 200)) as pilot:
            await say(pilot, "Hello")
            await idle(pilot)
            drawn = everything_drawn(pilot)
            assert all(sign.isprintable() or sign == "\n" for sign in drawn)
            assert drawn.count("assistant ") >= len(texts)


async def test_plugins_are_notified_of_each_chat_that_is_shown() -> None:
    labels = Labels()
    with Store(None) as store:
        saved = store.create_conversation("Saved").id
        async with app_with(labels, StillEngine("one"), store).run_test() as pilot:
            await until(pilot, lambda: labels.shown == [0])
            await chat_of(pilot).switch.open_chat(saved)
            await until(pilot, lambda: labels.shown == [0, saved])
            await say(pilot, "Hello")
            await idle(pilot)
            assert labels.ui is not None
            assert [passage.details for passage in labels.ui.passages] == [{"n": 1}]
            await pilot.press("ctrl+n")
            await until(pilot, lambda: labels.shown == [0, saved, 0])
            assert labels.ui.passages == ()

"""Messages are labelled in the background, found by their labels, and never delay the answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.app import App, ComposeResult
from textual.widgets import Static

import chatlm_emotion.plugin
import chatlm_templates.plugin
from chatlm import (
    Annotation,
    Artifact,
    ChatlmError,
    Conversation,
    Message,
    Reasoning,
    Reply,
    StopReason,
    Text,
    Turn,
    UsageError,
)
from chatlm.chat.session import ChatSession
from chatlm.config.config import Config
from chatlm.engines.scripted import ScriptedEngine, ScriptedReply
from chatlm.plugin_host.host import PluginHost
from chatlm.plugin_kit.training import ProgressListener
from chatlm.store.store import Store
from chatlm.tui.app import ChatApp
from chatlm_emotion import actions, classifier, examples, train_pipeline
from chatlm_emotion.recipe import Recipe
from chatlm_emotion.screens.mood_panel import MoodPanel
from tests.plugins.ui import RememberingUi
from tests.tui.cards import everything_visible
from tests.tui.support import StillEngine, chat_of, idle, newest, opens, plain, say, until
from tests.waiting import PATIENCE

WORDS = {"anger": "furious angry mad hate", "joy": "happy glad great love", "fear": "afraid scared"}


@pytest.fixture
def moods(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home with a small classifier of moods that is the active one."""
    data = tmp_path / "moods.jsonl"
    rows: list[dict[str, str | None]] = [
        {"text": f"i am {word} about number {number}", "label": mood}
        for mood, words in WORDS.items()
        for word in words.split()
        for number in range(6)
    ]
    rows += [{"text": f"the {thing} is here", "label": None} for thing in ("bus", "cup", "tree")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    order = train_pipeline.TrainingJob(
        "small", "mood", examples.read_dataset([data]), Recipe(method="baseline"), None, 0.6
    )
    train_pipeline.train_classifier(order, ProgressListener(), lambda: False)
    monkeypatch.setenv("CHATLM_EMOTION_CLASSIFIER", "small")
    monkeypatch.setenv("CHATLM_EMOTION_LABEL", "user")
    yield home
    actions.close_labeller()


def chat(store: Store, *replies: ScriptedReply, **kept: Any) -> ChatSession:
    host = PluginHost([("emotion", chatlm_emotion.plugin), ("templates", chatlm_templates.plugin)])
    engine = ScriptedEngine(*(replies or ("Good.",) * 9))
    return ChatSession(store, lambda: engine, plugins=host, plugin_data=kept)


def send(session: ChatSession, text: str) -> Turn:
    list(session.send(text))
    assert session.conversation
    assert session.plugins.all_faults == []
    return session.conversation.turns[-1]


def labels(turn: Turn) -> list[tuple[bool, str]]:
    return [(on is not None, label.value) for on, label in turn.annotations]


def test_the_users_messages_are_labelled_and_found(moods: Path) -> None:
    actions.get_labeller().wait_until_loaded()
    with Store(None) as store:
        session = chat(store)
        first = send(session, "I am so happy about it")
        second = send(session, "I am furious, I hate it")
        third = send(session, "The bus is here")
        ((_, label),) = first.annotations
        assert (label.plugin, label.name, label.value, label.icon) == (
            "emotion", "mood", "joy", "😊",
        )  # fmt: skip
        assert label.score and label.score > 0.6
        assert labels(second) == [(False, "anger")]
        assert labels(third) == [], "nothing is shown where the classifier is unsure"
        (hit,) = store.search("mood:anger")
        assert (hit.turn_id, hit.snippet) == (second.id, "I am furious, I hate it")
        assert [hit.turn_id for hit in store.search("mood:JO happy")] == [first.id]
        assert store.search("mood:anger happy") == []
        assert store.search("mood:fear") == []


def test_all_or_none_in_one_chat(moods: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        actions, "MAX_ANSWER_DELAY", PATIENCE
    )  # or a busy machine changes the order
    actions.get_labeller().wait_until_loaded()
    with Store(None) as store:
        turn = send(chat(store, "I am glad", emotion={"label": "all"}), "I am scared")
        assert labels(turn) == [(False, "fear"), (True, "joy")]
        turn = send(chat(store, emotion={"label": "off"}), "I am scared")
        assert labels(turn) == []
        turn = send(chat(store, emotion={"label": ["no choice"]}), "I am scared")
        assert labels(turn) == [(False, "fear")], "the usual choice holds"


def test_the_answer_is_labelled_without_the_thought_before_it(
    moods: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "MAX_ANSWER_DELAY", PATIENCE)
    actions.get_labeller().wait_until_loaded()
    reply = (Reasoning("The user is furious, and I hate it. Mad! " * 3), Text("I am glad"))
    with Store(None) as store:
        turn = send(chat(store, reply, emotion={"label": "all"}), "I am scared")
        assert labels(turn) == [(False, "fear"), (True, "joy")]


def test_nothing_is_labelled_unless_the_user_asks(
    moods: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHATLM_EMOTION_LABEL")
    with Store(None) as store:
        assert labels(send(chat(store), "I am scared")) == []
        assert labels(send(chat(store, emotion={"label": "user"}), "I am scared"))


def test_a_slow_classifier_holds_nothing_up_and_labels_at_the_end(
    moods: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, gave_up = threading.Event(), threading.Event()
    load = classifier.load_classifier

    def slow(place: Artifact) -> classifier.Classifier:
        if not go.wait(PATIENCE):
            gave_up.set()
        return load(place)

    monkeypatch.setattr(classifier, "load_classifier", slow)
    with Store(None) as store:
        session = chat(store, "One two three")
        events = session.send("I am scared")
        for event in events:
            if type(event).__name__ == "Delta":
                break
        assert not gave_up.is_set(), "the answer did not wait"
        assert not go.is_set()
        go.set()
        list(events)
        assert session.conversation
        assert labels(session.conversation.turns[-1]) == [(False, "fear")]


def test_without_the_base_nothing_is_labelled_and_nothing_is_shown(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLM_EMOTION_LABEL", "user")
    try:
        with Store(None) as store:
            session = chat(store)
            assert labels(send(session, "I am scared")) == []
        ui = RememberingUi("emotion")
        with pytest.raises(ChatlmError, match="Nothing is labelled yet") as caught:
            actions.emotion(ui, "")
        assert caught.value.hint == "/emotion user downloads what is missing."
    finally:
        actions.close_labeller()


def test_a_template_knows_the_mood(moods: Path) -> None:
    with Store(None) as store:
        kept = {"templates": {"template": "companion", "values": {}}}
        session = chat(store, **kept)
        turn = send(session, "I am furious about my bill")
        assert "Answer calmly" in turn.user.text
        assert turn.raw_input == "I am furious about my bill"
        assert labels(turn) == [(False, "anger")], "of what was typed, not of the whole message"
        assert "share my joy" in send(session, "I am so glad").user.text
        assert "matter-of-fact" in send(session, "the cup is here").user.text
        session = chat(store, **kept, emotion={"label": "off"})
        assert "matter-of-fact" in send(session, "I am so glad").user.text


def test_the_slash_command(moods: Path) -> None:
    ui = RememberingUi("emotion")
    actions.emotion(ui, "")
    assert "Your messages in this chat are labelled" in ui.called("notify")[-1]["text"]
    for word, choice in (("on", "all"), ("user", "user"), ("OFF", "off")):
        actions.emotion(ui, word)
        assert ui.state["label"] == choice
    actions.emotion(ui, "")
    assert "No message of this chat" in ui.called("notify")[-1]["text"]
    with pytest.raises(UsageError, match="no setting 'maybe'"):
        actions.emotion(ui, "maybe")


def test_the_same_text_is_classified_once(moods: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    classify = classifier.Classifier.classify

    def counted(self: classifier.Classifier, texts: list[str]) -> list[classifier.Prediction]:
        asked.extend(texts)
        return classify(self, texts)

    monkeypatch.setattr(classifier.Classifier, "classify", counted)
    for _ in range(3):
        assert actions.result_within(actions.get_labeller().submit("I am glad"), 20)
    for number in range(40):
        actions.result_within(actions.get_labeller().submit(str(number)), 20)
    actions.result_within(actions.get_labeller().submit("I am glad"), 20)
    assert asked.count("I am glad") == 2


# --- on the screen -------------------------------------------------------------------------------


class PanelApp(App[None]):
    """Shows the panel alone."""

    def __init__(self, ui: RememberingUi) -> None:
        super().__init__()
        self.ui = ui
        self.panel = MoodPanel(ui)

    def compose(self) -> ComposeResult:
        yield self.panel

    def on_mount(self) -> None:
        self.call_after_refresh(self.panel.show, self.ui)


def talk(*values: str, replies: str = "") -> Conversation:
    turns = []
    for number, value in enumerate(values):
        own = (None, Annotation("emotion", "mood", value, 0.9, "😊" if value == "joy" else ""))
        other = (None, Annotation("rag", "passages", "none"))
        on_reply = [(number + 1, Annotation("emotion", "mood", replies, 0.4))] if replies else []
        turns.append(
            Turn(
                number, number, Message("user", "x"),
                (Reply(number + 1, 1, "y", StopReason.END),),
                annotations=(own, other, *on_reply),
            )
        )  # fmt: skip
    return Conversation(1, turns=tuple(turns))


async def panel_of(conversation: Conversation) -> str:
    app = PanelApp(RememberingUi("emotion", conversation))
    async with app.run_test(size=(40, 20)) as pilot:
        await until(pilot, lambda: str(app.panel.query_one(Static).visual))
        return everything_visible(pilot)


async def test_the_panel_counts_and_draws(home: Path) -> None:
    seen = await panel_of(talk("joy", "joy", "fear", "joy"))
    lines = [line.rstrip() for line in seen.split("\n")]
    assert lines[:3] == ["You · 4 messages", "😊 joy ██·█ 3", "fear   ··█· 1"]
    assert "Selected: 😊 joy (0.90)" in seen
    both = await panel_of(talk("joy", replies="anger"))
    assert "Replies · 1 message" in both
    assert "anger ▄ 1" in both


async def test_the_panel_says_what_to_do_when_there_is_nothing(home: Path) -> None:
    on = Conversation(1, plugin_data={"emotion": {"label": "user"}})
    assert "No message is labelled yet" in await panel_of(on)
    assert "/emotion user labels" in await panel_of(Conversation(1))


async def test_many_messages_and_labels_stay_in_bounds(home: Path) -> None:
    seen = await panel_of(talk(*(f"label {number % 30} \x1b[31m" for number in range(90))))
    assert "The strips show the newest 16." in seen
    assert "\x1b" not in seen
    assert seen.count("·" * 10) <= 12


async def test_a_badge_under_the_message_and_the_panel_by_its_key(moods: Path) -> None:
    actions.get_labeller().wait_until_loaded()
    engine = StillEngine("Good.")
    host = PluginHost([("emotion", chatlm_emotion.plugin)])
    with Store(None) as store:
        app = ChatApp(store, opens(engine), plugins=host, config=Config(), clock=lambda: 0.0)
        async with app.run_test(size=(120, 36)) as pilot:
            await say(pilot, "I am so happy")
            await idle(pilot)
            await until(pilot, lambda: "😊 mood joy (" in plain(newest(pilot)))
            await pilot.press("f8")
            await until(pilot, lambda: "You · 1 message" in everything_visible(pilot))
            await pilot.press("ctrl+n")
            await chat_of(pilot).switch.open_chat(1)
            await until(pilot, lambda: "😊 mood joy (" in plain(newest(pilot)))
        assert host.all_faults == []

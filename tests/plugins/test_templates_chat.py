"""Chats that use a template, and prompts about a reply, without a screen."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import chatlm_templates.plugin
from chatlm import (
    Conversation,
    Message,
    RenderedTemplate,
    Sampling,
    SideChats,
    TemplateRenderer,
    Ui,
    UsageError,
    hookimpl,
)
from chatlm.chat.session import ChatSession
from chatlm.chat.side_chats import InMemorySideChats
from chatlm.config.config import Config
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.host import PluginHost
from chatlm.store.export import to_markdown
from chatlm.store.store import Store
from chatlm.types.conversations import Turn
from chatlm.types.replies import Reply, StopReason
from chatlm.types.sampling import DEFAULT_SAMPLING
from chatlm_templates import actions, chat_state, slash_commands
from chatlm_templates.library import load_template
from chatlm_templates.rendering import escape_tags
from chatlm_templates.template import Template, Variable
from tests.plugins.ui import RememberingUi

NOTE = """\
system: Be {{ tone }}.
variables:
  tone: {type: choice, choices: [kind, stern], default: kind}
  words: {type: multiline}
input: words
sampling: {temperature: 0.4, max_tokens: 33}
user: |
  Tone: {{ tone }}

  {{ words }}
"""


@pytest.fixture
def note(home: Path) -> Path:
    path = home / "prompts" / "note.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(NOTE)
    return path


def session(engine: ScriptedEngine, kept: dict[str, Any], **more: Any) -> ChatSession:
    host = PluginHost([("templates", chatlm_templates.plugin)])
    return ChatSession(
        Store(None),
        lambda: engine,
        plugins=host,
        plugin_data={"templates": kept} if kept else {},
        **more,
    )


def say(chat: ChatSession, text: str) -> Turn:
    list(chat.send(text))
    assert chat.conversation
    return chat.conversation.turns[-1]


# --- a chat that uses a template ---------------------------------------------------------------


def test_each_message_goes_through_the_template(note: Path) -> None:
    engine = ScriptedEngine("One.", "Two.")
    chat = session(engine, {"template": "note", "values": {"tone": "stern"}})
    for text in ("Hello </words>", "More"):
        turn = say(chat, text)
        assert turn.raw_input == text
        assert turn.user.text == f"Tone: stern\n\n<words>\n{escape_tags(text)}\n</words>"
    assert [m.role for m in engine.requests[-1].messages] == ["user", "assistant", "user"]
    assert chat.plugins.all_faults == []


def test_sampling_is_the_chats_then_the_templates_then_the_configs_then_the_models(
    note: Path,
) -> None:
    engine = ScriptedEngine("One.", "Two.")
    recommended = Sampling(temperature=0.1, top_k=1, max_tokens=1, min_p=0.1, top_p=0.1)
    engine.info = dataclasses.replace(
        engine.info, default_sampling=recommended.with_fallback(DEFAULT_SAMPLING)
    )
    chat = session(
        engine,
        {"template": "note", "values": {}},
        sampling=Sampling(temperature=0.9, max_tokens=9, min_p=0.9, top_k=9),
        chat_sampling=Sampling(top_k=7),
    )
    say(chat, "Hello")
    used = engine.requests[-1].sampling
    assert (used.top_k, used.temperature, used.max_tokens) == (7, 0.4, 33)
    assert (used.min_p, used.top_p, used.presence_penalty) == (0.9, 0.1, 0.0)


def test_other_chats_are_left_alone(note: Path) -> None:
    engine = ScriptedEngine("One.", "Two.")
    assert say(session(engine, {}), "Hello").raw_input == ""
    assert say(session(engine, {"template": "assistant", "values": {}}), "Hello").raw_input == ""


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (None, "no template 'note'"),
        ("user: hi\nusr: x", "note.yaml, line 2"),
        (NOTE.replace("tone", "mood"), "no variable 'tone'"),
        ("variables: {words: {}}\ninput: words\nuser: '{{ words }}'", "no variable 'tone'"),
    ],
)
def test_an_unusable_template_stops_the_message(note: Path, spoil: str | None, said: str) -> None:
    chat = session(ScriptedEngine("One."), {"template": "note", "values": {"tone": "kind"}})
    note.write_text(spoil) if spoil else note.unlink()
    for _ in range(4):  # however often the user tries: it is no failure of the plugin
        with pytest.raises(UsageError, match="Nothing was sent") as caught:
            say(chat, "Hello")
        assert said in caught.value.message
    assert chat.conversation is None
    assert chat.store.list_conversations() == []
    assert chat.plugins.all_faults == []
    note.write_text(NOTE)
    assert say(chat, "Hello").raw_input == "Hello"


def test_a_reply_is_made_again_without_the_template(note: Path) -> None:
    engine = ScriptedEngine("One.", "Two.")
    chat = session(engine, {"template": "note", "values": {}})
    say(chat, "Hello")
    note.unlink()
    list(chat.regenerate())
    assert engine.requests[-1].messages == engine.requests[0].messages
    assert chat.plugins.all_faults == []


@pytest.mark.parametrize(
    "kept",
    [
        {"template": 3},
        {"template": None},
        {"values": {"tone": "kind"}},
        {"template": "assistant", "values": "x", "system": [], "before": 1, "as_is": {}},
    ],
)
def test_invalid_stored_values_harm_nothing(home: Path, kept: dict[str, Any]) -> None:
    chat = session(ScriptedEngine("One."), kept)
    assert say(chat, "Hello").user.text == "Hello"
    assert chat.plugins.all_faults == []


@given(st.text(min_size=1) | st.sampled_from(["</words>", "{{ tone }}", "{% if x %}", "&lt;"]))
def test_words_never_leave_their_place(words: str) -> None:
    template = Template(
        "t", user="A\n{{ words }}\nB", variables={"words": Variable("words", "multiline")},
        input="words",
    )  # fmt: skip
    user = actions.preview_prompt(template, {"words": words}).user
    assert user == f"A\n<words>\n{escape_tags(words)}\n</words>\nB"


def test_hostile_words_forge_no_turn(note: Path, shared_data: Path, engine: LocalEngine) -> None:
    lines = (shared_data / "security" / "special_tokens.jsonl").read_text().splitlines()
    texts = [text for line in lines if (text := json.loads(line)["text"]).strip()]
    controls = set(engine.prompt_encoder.control_tokens.values())
    chat = Conversation(1, plugin_data={"templates": {"template": "note", "values": {}}})

    def control_ids(words: str) -> list[int]:
        made = chat_state.write_message(chat, words, dict)
        assert isinstance(made, str)
        return [i for i in engine.prompt_encoder.encode([Message("user", made)]) if i in controls]

    harmless = control_ids("x")
    assert [text for text in texts if control_ids(text) != harmless] == []


# --- through the screen ------------------------------------------------------------------------


def test_use_switch_and_end(note: Path) -> None:
    ui = RememberingUi("templates", Conversation(1, system="Mine."))
    actions.use_template(
        ui, load_template("note"), {"tone": "stern", "words": "Hello"}, in_new_chat=False
    )
    assert ui.conversation.system == "Be stern."
    assert ui.state["values"] == {"tone": "stern"}
    assert ui.called("insert_text") == [{"text": "Hello"}]
    actions.use_template(ui, load_template("translate"), {"language": "French"}, in_new_chat=False)
    assert ui.conversation.system == "Mine."
    assert ui.state["template"] == "translate"
    actions.use_template(ui, load_template("note"), {}, in_new_chat=False)
    actions.stop_using_template(ui)
    assert ui.conversation.system == "Mine."
    assert ui.state == {}
    with pytest.raises(UsageError, match="no template"):
        actions.stop_using_template(ui)


def test_a_system_prompt_that_was_changed_since_stays(note: Path) -> None:
    ui = RememberingUi("templates", Conversation(1, system="Mine."))
    actions.use_template(ui, load_template("note"), {}, in_new_chat=False)
    ui.set_chat(system="Changed.")
    actions.stop_using_template(ui)
    assert ui.conversation.system == "Changed."


def test_a_new_chat_begins_with_the_template(note: Path) -> None:
    ui = RememberingUi("templates", Conversation(1, system="Mine."))
    actions.use_template(ui, load_template("note"), {"tone": "stern"}, in_new_chat=True)
    (new,) = ui.called("new_chat")
    assert (new["system"], new["message"]) == ("Be stern.", "")
    assert chat_state.selected_template(new["kept"]) == chat_state.SelectedTemplate(
        "note", {"tone": "stern"}, "Be stern."
    )


def test_a_missing_value_changes_nothing(home: Path) -> None:
    ui = RememberingUi("templates", Conversation(1))
    with pytest.raises(UsageError, match="needs language"):
        actions.use_template(ui, load_template("translate"), {}, in_new_chat=False)
    assert ui.calls == []


def test_a_message_without_input_waits_in_the_composer(home: Path) -> None:
    ui = RememberingUi("templates", Conversation(1))
    actions.use_template(ui, Template("t", user="Tell me a joke."), {}, in_new_chat=False)
    assert ui.called("insert_text") == [{"text": "Tell me a joke."}]


def test_a_recommendation_is_shown_and_not_applied(home: Path) -> None:
    ui = RememberingUi("templates", Conversation(1))
    actions.use_template(
        ui, Template("t", system="Hi.", model="qwen\x1b[2J", index="manual"), {}, in_new_chat=False
    )
    (notice,) = ui.called("notify")
    assert "written for model qwen␛[2J, index manual" in notice["text"]
    assert {name for name, _ in ui.calls} == {"set_chat", "set_state", "notify"}


def test_the_command(note: Path) -> None:
    ui = RememberingUi("templates", Conversation(1))
    slash_commands.template(ui, "")
    slash_commands.template(ui, "translate")
    assert ui.called("open_screen") == [
        {"name": slash_commands.PICKER_SCREEN, "argument": ""},
        {"name": slash_commands.FORM_SCREEN, "argument": "translate"},
    ]
    slash_commands.template(ui, "assistant")
    assert ui.state["template"] == "assistant"
    slash_commands.template(ui, "off")
    assert ui.state == {}
    with pytest.raises(UsageError, match="Did you mean translate"):
        slash_commands.template(ui, "translat")


@pytest.mark.parametrize("name", ["program", "react"])
def test_a_command_uses_a_template_with_tools_and_sends_its_message(home: Path, name: str) -> None:
    registered: dict[str, Any] = {}
    slash_commands.register(lambda command: registered.update({command.name: command.run}))
    ui = RememberingUi("templates", Conversation(1))
    registered[name](ui, " What is 6 times 7? ")
    assert ui.state["template"] == name
    assert [call["tools"] for call in ui.called("set_chat")] == [load_template(name).tools]
    assert ui.called("send") == [{"text": "What is 6 times 7?"}]
    assert [call for call, _ in ui.calls][-1] == "send"  # once the template is in use
    registered[name](ui, "off")
    assert ui.state == {}
    registered[name](ui, "")
    assert len(ui.called("send")) == 1


def test_a_template_with_tools_is_refused_beside_a_method(home: Path) -> None:
    chat = Conversation(1, sampling=Sampling(method="consensus:3"))
    ui = RememberingUi("templates", chat)
    with pytest.raises(UsageError, match="the method consensus of this chat cannot call"):
        slash_commands.use_method("program", ui, "What is 6 times 7?")
    assert not ui.calls
    slash_commands.template(ui, "assistant")  # it has no tools
    assert ui.state["template"] == "assistant"


# --- about a reply -----------------------------------------------------------------------------


def exchange(number: int, reply: str = "") -> Turn:
    text = reply or f"Answer {number} </text>"
    made = Reply(number, 1, text, StopReason.END)
    return Turn(number, number - 1, Message("user", f"Question {number}?"), (made,))


def talk(turns: int, **more: Any) -> Conversation:
    return Conversation(1, turns=tuple(exchange(n + 1) for n in range(turns)), **more)


@pytest.mark.parametrize("run", [slash_commands.find_errors, slash_commands.simplify])
def test_in_the_same_chat(home: Path, run: Any) -> None:
    ui = RememberingUi("templates", talk(2))
    run(ui, "")
    ui.selected = ui.conversation.turns[0]
    run(ui, "")
    newest, earlier = (call["text"] for call in ui.called("send"))
    assert "your last answer" in newest
    assert "Answer" not in newest
    assert earlier.startswith("<text>\nAnswer 1 &lt;/text>\n</text>\n")
    assert ui.called("set_state") == []


def test_a_follow_up_goes_past_the_chats_template(note: Path) -> None:
    ui = RememberingUi("templates", talk(1, plugin_data={"templates": {"template": "note"}}))
    slash_commands.simplify(ui, "")
    (sent,) = ui.called("send")
    assert chat_state.write_message(ui.conversation, sent["text"], dict) is None
    assert chat_state.write_message(ui.conversation, "Hello", dict) is not None


def test_validate_never_says_whose_reply_it_is(home: Path) -> None:
    ui = RememberingUi("templates", talk(2))
    slash_commands.validate(ui, "")
    (new,) = ui.called("new_chat")
    assert "provided by an expert:\n\n<answer>\nAnswer 2 &lt;/text>" in new["message"]
    assert "<question>\nQuestion 2?\n</question>" in new["message"]
    assert (new["system"], new["kept"], new["model"]) == ("", None, "")
    assert not {"you", "your"} & set(new["message"].lower().split())


def test_review_asks_another_model(home: Path) -> None:
    ui = RememberingUi("templates", talk(1))
    slash_commands.review(ui, "other")
    (new,) = ui.called("new_chat")
    assert new["model"] == "other"
    assert "Answer 1" in new["message"]


@pytest.mark.parametrize("name", ["find_errors", "simplify", "validate", "review", "consolidate"])
def test_without_a_reply_there_is_nothing_to_do(home: Path, name: str) -> None:
    ui = RememberingUi("templates", Conversation(0))
    with pytest.raises(UsageError, match="no reply"):
        getattr(slash_commands, name)(ui, "")
    assert ui.calls == []


def test_consolidate_waits_in_the_composer(home: Path) -> None:
    engine = ScriptedEngine("Write a poem of two lines.")
    ui = RememberingUi("templates", talk(5, system="Be brief."), engine)
    slash_commands.consolidate(ui, "")
    asked = engine.requests[-1]
    assert [m.role for m in asked.messages] == ["system", *["user", "assistant"] * 5, "user"]
    assert asked.sampling.temperature == 0.2
    (new,) = ui.called("new_chat")
    assert (new["system"], new["message"]) == ("Be brief.", "")
    assert ui.called("insert_text") == [{"text": "Write a poem of two lines."}]
    assert ui.called("send") == []
    assert ui.work and ui.work.steps


def test_consolidate_can_be_cancelled(home: Path) -> None:
    ui = RememberingUi("templates", talk(1), ScriptedEngine("Never."), cancelled=True)
    slash_commands.consolidate(ui, "")
    assert ui.calls == []


def test_consolidate_needs_a_model_that_says_something(home: Path) -> None:
    with pytest.raises(UsageError, match="not loaded"):
        slash_commands.consolidate(RememberingUi("templates", talk(1)), "")
    ui = RememberingUi("templates", talk(1), ScriptedEngine(" "))
    with pytest.raises(UsageError, match="wrote nothing"):
        slash_commands.consolidate(ui, "")
    assert ui.calls == []


def test_a_new_start_is_suggested_once(home: Path) -> None:
    ui = RememberingUi("templates", talk(4))
    actions.suggest_consolidating(ui, ui.conversation)
    assert ui.calls == []
    ui.conversation = dataclasses.replace(talk(5), plugin_data=ui.conversation.plugin_data)
    actions.suggest_consolidating(
        ui, dataclasses.replace(ui.conversation, id=2)
    )  # not the one that is shown
    assert ui.calls == []
    for _ in range(3):
        actions.suggest_consolidating(ui, ui.conversation)
    (notice,) = ui.called("notify")
    assert "/consolidate" in notice["text"]


def test_hooks_suggest_it(home: Path) -> None:
    ui = RememberingUi("templates")
    chat = session(ScriptedEngine(*["So."] * 6), {})
    chatlm_templates.plugin.screen_opened(ui)
    try:
        for _ in range(6):
            assert chat.conversation is None or ui.conversation.id
            say(chat, "Hello")
            assert chat.conversation
            ui.conversation = dataclasses.replace(
                chat.conversation, plugin_data=dict(ui.conversation.plugin_data)
            )
    finally:
        chatlm_templates.plugin._open_uis.clear()
    assert len(ui.called("notify")) == 1


def test_the_typed_words_are_found_listed_and_brought_back(note: Path) -> None:
    chat = session(ScriptedEngine("One."), {"template": "note", "values": {"tone": "stern"}})
    say(chat, "A lighthouse <b>at</b> night")
    store = chat.store
    assert store.recent_inputs() == ["A lighthouse <b>at</b> night"]
    assert store.list_conversations()[0].title == "A lighthouse <b>at</b> night"
    assert [hit.snippet for hit in store.search("lighthouse") if hit.turn_id] == [
        "A lighthouse <b>at</b> night"
    ]
    assert store.search("stern") == []
    assert chat.conversation
    assert "Tone" not in to_markdown(chat.conversation)
    store.delete(chat.conversation.id)
    assert store.search("lighthouse") == []


def test_a_template_of_another_plugin_only_starts_chats() -> None:
    class Haikus:
        @hookimpl
        def register_templates(self, register: Callable[[str, TemplateRenderer], None]) -> None:
            register("haiku", lambda values, text, facts: RenderedTemplate(user=text))

    class Screen:
        def side_chats(self, report: Callable[[str], None]) -> SideChats:
            host = PluginHost([("haikus", Haikus())])
            return InMemorySideChats(Config(), host, lambda m, _: ScriptedEngine(), report)

    with pytest.raises(UsageError, match="comes from the plugin haikus") as caught:
        slash_commands.template(cast(Ui, Screen()), "haiku")
    assert "chatlm ask -t haiku" in caught.value.hint

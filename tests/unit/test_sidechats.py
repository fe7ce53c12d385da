"""Side chats: their requests, and the models they load."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from chatlm import (
    Conversation,
    Engine,
    Message,
    MessageRefused,
    Prompt,
    RenderedTemplate,
    Request,
    Sampling,
    Setup,
    TextFacts,
    Turn,
    UsageError,
    hookimpl,
)
from chatlm.chat.side_chats import InMemorySideChats
from chatlm.config.config import Config
from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import EngineError, ModelError, OutOfMemoryError
from chatlm.plugin_host.host import PluginHost
from chatlm.types.events import Delta, Finished
from chatlm.types.replies import Usage
from chatlm.types.setups import TemplateRenderer
from tests.models import tiny_model, write_folder

SHOUT = Setup(
    model="a",
    adapter="pirate",
    template="shout",
    values={"mark": "!"},
    sampling=Sampling(temperature=0.1),
    plugin_data={"other": {"index": "notes"}},
)


class Shouting:
    """Offers a template that makes each message loud."""

    seen: Conversation | None = None

    @hookimpl
    def register_templates(self, register: Callable[[str, TemplateRenderer], None]) -> None:
        register("shout", self._render)

    @hookimpl
    def write_message(self, conversation: Conversation, text: str) -> str | UsageError | None:
        self.seen = conversation
        mark = conversation.plugin_data.get("shouting", {}).get("mark")
        if text == "refuse":
            return UsageError("Not that.")
        if text.upper() == mark:
            return MessageRefused("I say that anyway.")
        return f"{text.upper()}{mark}" if mark else None

    def _render(self, values: Mapping[str, str], typed: str, facts: TextFacts) -> RenderedTemplate:
        return RenderedTemplate(
            system="Shout.",
            user=typed.upper() + values["mark"],
            raw_input=typed,
            sampling=Sampling(temperature=0.9, top_k=7),
            plugin_state=dict(values),
        )


def chats(*engines: Engine, plugin: object = None, model: str = "a") -> InMemorySideChats:
    left = list(engines)
    host = PluginHost([("shouting", plugin)] if plugin else [])
    return InMemorySideChats(
        Config(model=model), host, lambda m, r: left.pop(0), lambda words: None
    )


def test_a_set_up_survives_as_plain_values() -> None:
    assert Setup.from_dict(SHOUT.to_dict()) == SHOUT
    assert Setup.from_dict({"model": "m", "from the future": 1}) == Setup(model="m")
    assert Setup().to_dict() == {}


def test_the_whole_set_up_is_in_the_request() -> None:
    plugin, engine = Shouting(), ScriptedEngine()
    with chats(engine, plugin=plugin) as side:
        request = side.begin(SHOUT).request("hello")
    assert [message.text for message in request.messages] == ["Shout.", "HELLO!"]
    assert request.adapter == "pirate"
    assert (request.sampling.temperature, request.sampling.top_k) == (0.1, 7)
    assert request.sampling.top_p == engine.info.default_sampling.top_p
    assert plugin.seen is not None
    assert plugin.seen.plugin_data == {"shouting": {"mark": "!"}, "other": {"index": "notes"}}


def test_an_added_reply_is_part_of_the_chat() -> None:
    with chats(ScriptedEngine("One."), plugin=Shouting()) as side:
        chat = side.begin(SHOUT)
        with closing(chat.stream(chat.request("first"))) as events:
            said = "".join(event.text for event in events if isinstance(event, Delta))
        chat.add("first", said)
        texts = [message.text for message in chat.request("second").messages]
    assert texts == ["Shout.", "FIRST!", "One.", "SECOND!"]


def test_without_an_adapter_none_is_used_whatever_plugins_say() -> None:
    with chats(ScriptedEngine()) as side:
        assert side.begin(Setup()).request("hello").adapter is None


def test_what_is_wrong_is_reported() -> None:
    with chats(ScriptedEngine(), plugin=Shouting()) as side:
        with pytest.raises(UsageError, match="no template 'shot'") as caught:
            side.begin(Setup(template="shot")).request("hello")
        assert "shout" in caught.value.hint
        with pytest.raises(UsageError, match="Not that"):
            side.begin(Setup()).request("refuse")


def test_a_set_up_is_checked_without_its_model(tmp_path: Path, home: Path) -> None:
    folder = str(write_folder(tmp_path / "model", tiny_model()))
    with chats(plugin=Shouting(), model=folder) as side:
        side.begin(Setup()).check()
        side.begin(Setup(template="shout", values={"mark": "!"})).check()
        side.begin(Setup(template="shout", values={"mark": "HELLO."})).check()  # others it takes
        with pytest.raises(UsageError, match="no template 'shot'"):
            side.begin(Setup(template="shot")).check()
        with pytest.raises(EngineError, match="no adapter pirate"):
            side.begin(Setup(adapter="pirate")).check()
        with pytest.raises(ModelError, match="not on this machine"):
            side.begin(Setup(model="nobody/nothing")).check()


def test_one_model_is_loaded_once_and_freed_at_the_end() -> None:
    engine, shared = ScriptedEngine(), ScriptedEngine()
    with InMemorySideChats(
        Config(model="scripted"), PluginHost(), lambda m, r: engine, lambda w: None, lambda: shared
    ) as side:
        assert side.begin(Setup()).engine is shared
        assert side.begin(Setup(model="b")).engine is side.begin(Setup(model="b")).engine is engine
    assert engine.closed
    assert not shared.closed


def test_models_that_do_not_fit_together_take_turns() -> None:
    engines: list[ScriptedEngine] = []
    said: list[str] = []

    def opened(model: str, report: Callable[[str], None]) -> ScriptedEngine:
        if any(not engine.closed for engine in engines):
            raise OutOfMemoryError("full")
        engines.append(ScriptedEngine())
        return engines[-1]

    with InMemorySideChats(Config(), PluginHost(), opened, said.append) as side:
        one, other = side.begin(Setup(model="one")), side.begin(Setup(model="other"))
        first = one.engine
        assert not side.swaps_models
        assert other.engine is engines[1]
        assert engines[0].closed
        assert side.swaps_models
        assert one.engine is not first
    assert all(engine.closed for engine in engines)
    assert "other: does not fit in memory next to one; loading one at a time" in said


def test_a_model_that_cannot_be_loaded_is_reported() -> None:
    def opened(model: str, report: Callable[[str], None]) -> Engine:
        raise ModelError(f"no {model}")

    side = InMemorySideChats(Config(), PluginHost(), opened, lambda w: None)
    with side, pytest.raises(ModelError, match="no x"):
        side.begin(Setup(model="x")).request("hello")


class Quoting:
    """Gives the whole reply, so that no model is asked."""

    @hookimpl
    def adjust_request(self, request: Request) -> Request:
        said = Message("assistant", "> Word for word.")
        return dataclasses.replace(request, messages=(*request.messages, said), reply_complete=True)


def test_a_reply_completed_by_a_plugin_needs_no_model() -> None:
    engine = ScriptedEngine("never said")
    with chats(engine, plugin=Quoting()) as beside:
        chat = beside.begin(Setup())
        events = list(chat.stream(chat.request("Hello")))
        assert "".join(e.text for e in events if isinstance(e, Delta)) == "> Word for word."
        assert isinstance(events[-1], Finished)
        assert events[-1].usage == Usage(completion_tokens=4)
        assert engine.requests == []


class Offering:
    """Offers set-ups, and templates of which one needs a value."""

    def __init__(self, *setups: tuple[object, object]) -> None:
        self._setups = setups

    @hookimpl
    def register_setups(self, register: Callable[[object, object], None]) -> None:
        for name, setup in self._setups:
            register(name, setup)

    @hookimpl
    def register_templates(self, register: Callable[[str, TemplateRenderer], None]) -> None:
        register("loud", lambda values, typed, facts: RenderedTemplate(user=typed.upper()))
        register(
            "marked", lambda values, typed, facts: RenderedTemplate(user=typed + values["mark"])
        )


def test_register_setups_offers_them_by_name() -> None:
    pirate, notes = Setup(adapter="pirate"), Setup(plugin_data={"rag": {"index": "notes"}})
    first, second = Offering(("pirate", pirate), ("notes", notes)), Offering(("pirate", notes))
    host = PluginHost([("first", first), ("second", second)])
    side = InMemorySideChats(Config(), host, lambda m, r: ScriptedEngine(), lambda words: None)
    assert side.available_setups() == {
        "first.pirate": pirate,
        "notes": notes,
        "second.pirate": notes,
        "loud": Setup(template="loud"),
    }
    assert host.all_faults == []


@pytest.mark.parametrize("wrong", [(3, Setup()), ("a", {"adapter": "a"})])
def test_register_setups_takes_nothing_else(wrong: tuple[object, object]) -> None:
    host = PluginHost([("first", Offering(("good", Setup()), wrong))])
    side = InMemorySideChats(Config(), host, lambda m, r: ScriptedEngine(), lambda words: None)
    assert set(side.available_setups()) == {"good", "loud"}
    assert (host.all_faults[0].plugin, host.all_faults[0].hook) == ("first", "register_setups")


class Watching:
    """Remembers the adapter and the ids that hooks get, and wants the adapter pirate."""

    def __init__(self) -> None:
        self.adapters: list[tuple[str | None, bool]] = []
        self.ids: list[tuple[int, int]] = []

    @hookimpl
    def adjust_request(
        self, request: Request, conversation: Conversation, turn: Turn, engine: Engine
    ) -> Request | None:
        engine.preview(request)  # as a plugin does that measures what fits
        self.adapters.append((request.adapter, request.adapter_fixed))
        self.ids.append((conversation.id, turn.id))
        return dataclasses.replace(request, adapter="pirate")


class StrictEngine(ScriptedEngine):
    """Refuses a name that no adapter has, as a local engine does."""

    def preview(self, request: Request) -> Prompt:
        if request.adapter is not None and request.adapter not in ("pirate", "poet"):
            raise EngineError(f"There is no adapter {request.adapter!r}.")
        return super().preview(request)


@pytest.mark.parametrize(("chosen", "seen"), [("", None), ("poet", "poet")])
def test_hooks_get_a_request_that_the_engine_takes_and_cannot_change_its_adapter(
    chosen: str, seen: str | None
) -> None:
    plugin = Watching()
    with chats(StrictEngine(), plugin=plugin) as side:
        request = side.begin(Setup(adapter=chosen)).request("hello")
        assert side.plugins.all_faults == []
    assert plugin.adapters == [(seen, True)]
    assert request.adapter == seen


def test_ids_in_a_side_chat_are_its_own_and_stay_the_same() -> None:
    plugin = Watching()
    with chats(ScriptedEngine(), plugin=plugin) as side:
        for chat in (side.begin(Setup()), side.begin(Setup())):
            chat.request("first")
            chat.request("first, in other words")
            chat.add("first", "One.")
            chat.request("second")
    one, other = plugin.ids[:3], plugin.ids[3:]
    assert one[0] == one[1]
    assert one[2] == (one[0][0], one[0][1] + 1)
    assert min(*one[0], *one[2]) > 2**32, "saved chats have small ids"
    assert {id for pair in one for id in pair}.isdisjoint(id for pair in other for id in pair)

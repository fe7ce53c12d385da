"""`chatlm.testing` as an author of plugins uses it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from chatlm import (
    Delta,
    EngineEvent,
    Finished,
    Message,
    Request,
    Sampling,
    SlashCommand,
    StopReason,
    Ui,
    hookimpl,
    testing,
)
from chatlm.testing import ScriptedEngine, scripted_screen


@dataclass(frozen=True)
class Settings:
    word: str = "quack"


class Plugin:
    Settings = Settings

    @hookimpl
    def startup(self, context: Any) -> None:
        self.settings = context.settings(Settings)

    @hookimpl
    def register_slash_commands(self, register: Any) -> None:
        register(SlashCommand("say", "say the word", self.say, key="f8"))
        register(SlashCommand("wait", "wait for ever", self.wait))

    def say(self, ui: Ui, text: str) -> None:
        ui.notify(self.settings.word)
        ui.send(self.settings.word)

    def wait(self, ui: Ui, text: str) -> None:
        with ui.progress("Waiting") as work:
            while not work.cancelled:
                time.sleep(0.01)


async def test_a_command_its_notice_and_the_reply_are_seen() -> None:
    async with scripted_screen(Plugin(), replies=["Here are ducks."]) as shown:
        await shown.submit("/say")
        assert shown.notifications == ["quack"]
        assert "Here are ducks." in shown.text()
        assert [message.text for message in shown.requests[-1].messages] == ["quack"]
        assert shown.faults == []


async def test_settings_keys_and_size_are_taken() -> None:
    async with scripted_screen(
        Plugin(), settings={"word": "moo"}, keys={"say": "f9"}, size=(70, 20)
    ) as shown:
        await shown.press("f9")
        assert shown.notifications == ["moo"]
        lines = shown.text().splitlines()
        assert len(lines) == 20
        assert max(map(len, lines)) <= 70


async def test_a_wrong_setting_or_plugin_is_refused() -> None:
    with pytest.raises(ValueError, match="word"):
        async with scripted_screen(Plugin(), settings={"word": 3}):
            pass
    with pytest.raises(ValueError, match="no hook"):
        async with scripted_screen(object()):
            pass


async def test_an_endless_wait_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted_screen(Plugin()) as shown:
        monkeypatch.setattr(testing, "TIMEOUT_SECONDS", 0.3)
        with pytest.raises(TimeoutError, match="still runs"):
            await shown.submit("/wait")
        monkeypatch.undo()


def test_it_needs_no_textual_and_no_torch_until_a_screen_is_wanted() -> None:
    code = "import chatlm.testing, sys; print({'textual', 'torch'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_scripted_engine_ends_at_a_stop_string() -> None:
    engine = ScriptedEngine("one two three four", "one two thr")
    request = Request((Message("user", "Count."),), Sampling(stop=("three", "hr!")))
    *_, last, finished = events = list(engine.stream(request))
    assert text_of(events) == "one two "
    assert isinstance(last, Delta)
    assert isinstance(finished, Finished)
    assert (finished.stop_reason, finished.matched_stop) == (StopReason.STOP_STRING, "three")
    assert finished.usage.completion_tokens == 3
    ended = list(engine.stream(request))
    assert text_of(ended) == "one two thr"
    assert isinstance(ended[-1], Finished)
    assert ended[-1].stop_reason is StopReason.END


def test_the_scripted_engine_calls_processors_and_criteria() -> None:
    engine = ScriptedEngine("red red red", "red red red")
    shapes: list[tuple[int, ...]] = []

    def paint_it_blue(input_ids: Any, scores: Any) -> Any:
        (token,) = (t for t in engine.preview(request).tokens if t.text == "blue")
        if input_ids[0, -1] == engine.vocabulary.index("red"):
            scores[:, token.id] = 20.0
        shapes.append((*input_ids.shape, *scores.shape))
        return scores

    def enough(input_ids: Any, scores: Any) -> bool:
        return bool(input_ids[0, -1] == engine.vocabulary.index("blue"))

    request = Request((Message("user", "blue"),), logits_processors=(paint_it_blue,))
    events = list(engine.stream(request))
    assert text_of(events) == "redblue red"
    assert shapes == [(1, 3 + n, 1, len(engine.vocabulary)) for n in range(3)]
    events = list(engine.stream(dataclasses.replace(request, stopping_criteria=(enough,))))
    assert text_of(events) == "redblue"
    assert isinstance(events[-1], Finished)
    assert (events[-1].stop_reason, events[-1].matched_stop) == (StopReason.CRITERION, "enough")


def text_of(events: Iterable[EngineEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))

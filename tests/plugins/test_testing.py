"""`chatlm.testing` as an author of plugins uses it."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import pytest

from chatlm import SlashCommand, Ui, hookimpl, testing
from chatlm.testing import scripted_screen


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

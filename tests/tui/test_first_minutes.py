"""What a newcomer ran into in the first minutes stays mended."""

from __future__ import annotations

import pytest
from textual.command import CommandInput, CommandList
from textual.pilot import Pilot
from textual.widgets._toast import Toast

from chatlm import MessageRefused, hookimpl
from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.host import PluginHost
from chatlm.tui.chat.transcript import Transcript
from chatlm.tui.chat_list.rows import SearchBox
from chatlm.tui.engine_loader import Ready
from chatlm.tui.screens.help import HelpScreen
from tests.tui.support import (
    StillEngine,
    app_of,
    chat_of,
    idle,
    make_app,
    newest,
    notices,
    plain,
    say,
    toasts,
    until,
)


class Refuses:
    """Sends no message that mentions the moon."""

    @hookimpl
    def write_message(self, text: str) -> str | MessageRefused:
        if "moon" in text:
            return MessageRefused("Nothing relevant in house; nothing was sent.", "Use /rag off.")
        return text


def border(pilot: Pilot[None]) -> str:
    return str(chat_of(pilot).composer.border_subtitle or "")


async def test_toasts_move_nothing_and_leave_no_blank_rows() -> None:
    async with make_app(ScriptedEngine("Hi.")).run_test(size=(80, 24), notifications=True) as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        before = chat_of(pilot).view.query_one(Transcript).region
        pilot.app.notify("Toast\nwith a hint.", severity="warning", markup=False)
        await until(pilot, lambda: any(toast.region for toast in pilot.app.screen.query(Toast)))
        assert chat_of(pilot).view.query_one(Transcript).region == before
        await pilot.press("f1")
        await pilot.press("escape")
        await until(pilot, lambda: not pilot.app.screen.query(Toast))
        assert chat_of(pilot).view.query_one(Transcript).region == before


async def test_a_refused_message_is_told_in_the_chat_and_replaced_by_the_next() -> None:
    host = PluginHost([("refuses", Refuses())])
    async with make_app(ScriptedEngine("Hi."), plugins=host).run_test(size=(80, 24)) as pilot:
        await say(pilot, "How far is the moon?")
        await idle(pilot)
        assert notices(pilot) == ["Nothing relevant in house; nothing was sent.\nUse /rag off."]
        assert chat_of(pilot).composer.text == "How far is the moon?"
        assert "typing replaces it" in border(pilot)
        await pilot.press(*"Hello", "enter")
        await idle(pilot)
        assert newest(pilot).turn.display_text == "Hello"
        assert border(pilot) == ""
        assert notices(pilot) == [], "the refusal is no longer true"
        await say(pilot, "And the moon?")
        await idle(pilot)
        assert len(notices(pilot)) == 1, "the newest refusal replaces the one before"


async def test_an_unknown_command_is_replaced_by_what_is_typed_next() -> None:
    async with make_app(ScriptedEngine("Hi.")).run_test(size=(80, 24)) as pilot:
        await say(pilot, "/nosuch thing")
        assert chat_of(pilot).composer.text == "/nosuch thing", "it may be a message"
        assert "unknown command, typing replaces it" in border(pilot)
        await pilot.press(*"Hello", "enter")
        await idle(pilot)
        assert newest(pilot).turn.display_text == "Hello"
        assert border(pilot) == ""


async def test_a_refused_message_can_be_sent_again_as_it_is() -> None:
    host = PluginHost([("refuses", Refuses())])
    async with make_app(ScriptedEngine("Hi."), plugins=host).run_test() as pilot:
        await say(pilot, "moon")
        await idle(pilot)
        await pilot.press("end", *"light", "enter")
        await idle(pilot)
        assert chat_of(pilot).composer.text == "moonlight"


async def test_what_is_said_about_a_model_is_said_once() -> None:
    def engine(model: str, _: object) -> StillEngine:
        return StillEngine("Hi.", notes=("The context is taken to be 4,096 tokens.",))

    async with make_app(open_engine=engine).run_test() as pilot:
        for _ in range(3):
            await until(pilot, lambda: isinstance(app_of(pilot).engine_state, Ready))
            app_of(pilot).services.load_engine("m")
        await until(pilot, lambda: isinstance(app_of(pilot).engine_state, Ready))
        await pilot.pause()
        assert notices(pilot) == ["The context is taken to be 4,096 tokens."]
        assert len(toasts(pilot)) == 1


async def test_a_question_mark_on_a_turn_opens_its_keys() -> None:
    async with make_app(ScriptedEngine("Hi.")).run_test(size=(80, 24)) as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        await pilot.press("tab", "question_mark")
        await until(pilot, lambda: isinstance(pilot.app.screen, HelpScreen))
        section = pilot.app.screen.query_one("#turn")
        card = pilot.app.screen.query_one(".card")
        await until(pilot, lambda: section.region.y == card.region.y + 1)


@pytest.mark.parametrize("width", [80, 140])
async def test_escape_in_the_search_leads_to_the_composer(width: int) -> None:
    async with make_app(ScriptedEngine("Hi.")).run_test(size=(width, 24)) as pilot:
        shown = app_of(pilot).chat_screen.chats_panel.display
        await pilot.press("ctrl+s", *"egg", "escape", *"/theme")
        assert chat_of(pilot).composer.text == "/theme"
        assert app_of(pilot).chat_screen.query_one(SearchBox).value == ""
        assert app_of(pilot).chat_screen.chats_panel.display is shown


async def test_the_palette_and_the_composer_know_stop() -> None:
    engine = StillEngine("One ", "two", stand_after=1)
    async with make_app(engine).run_test() as pilot:
        await say(pilot, "Hello")
        await until(pilot, lambda: "One" in plain(newest(pilot)))
        await pilot.press("ctrl+p")
        await until(pilot, lambda: pilot.app.screen.query(CommandInput))
        await pilot.press(*"stop")
        found = pilot.app.screen.query_one(CommandList)
        await until(pilot, lambda: found.option_count and "Stop" in str(found.options[0].prompt))
        assert found.option_count == 1  # nothing whose description merely has these letters
        await pilot.press("escape")
        await say(pilot, "/stop")
        await idle(pilot)
        assert newest(pilot).turn.reply is not None
        assert "stopped" in plain(newest(pilot))


async def test_enter_while_a_reply_is_written_is_answered_where_it_stays() -> None:
    engine = StillEngine("One ", "two", stand_after=1)
    async with make_app(engine).run_test() as pilot:
        await say(pilot, "First")
        await until(pilot, lambda: "One" in plain(newest(pilot)))
        await say(pilot, "Second")
        assert border(pilot) == "not sent: a reply is being written · esc stops it"
        assert toasts(pilot) == []
        engine.go.set()
        await idle(pilot)
        assert border(pilot) == ""
        assert chat_of(pilot).composer.text == "Second"
        await pilot.press("enter")
        await idle(pilot)
        assert newest(pilot).turn.display_text == "Second"

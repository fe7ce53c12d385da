"""A long message, such as one with a file in it, is folded in the transcript until it is opened."""

from __future__ import annotations

import pytest

from chatlm.engines.scripted import ScriptedEngine
from chatlm.tui.chat.message_fold import BLOCK_LINES, LINE_CHARACTERS, MESSAGE_LINES, fold_message
from tests.tui.support import app_of, idle, make_app, newest, plain, say, toasts, until

FILE = "\n".join(f"line {number}" for number in range(100))
MESSAGE = f"What is this?\n\nnotes.md\n````\n{FILE}\n````\nBe short."


@pytest.mark.parametrize(
    "text",
    [
        "",
        "One line.",
        "\n".join("short" for _ in range(MESSAGE_LINES)),
        "```\n" + "\n".join("short" for _ in range(BLOCK_LINES)) + "\n```",
        "x" * LINE_CHARACTERS,
    ],
)
def test_a_short_message_is_shown_whole(text: str) -> None:
    assert fold_message(text) == text


def test_a_block_is_folded_and_the_text_around_it_is_not() -> None:
    lines = fold_message(MESSAGE).split("\n")
    assert lines[:5] == ["What is this?", "", "notes.md", "````", "line 0"]
    assert lines[-2:] == ["````", "Be short."]
    assert lines[-3] == f"… {102 - BLOCK_LINES - 1} more lines"
    assert len(lines) < 20


def test_a_fence_within_a_block_does_not_end_it() -> None:
    block = "````\n```\n" + FILE + "\n```\n````"
    assert fold_message(block).split("\n")[-1] == "````"
    assert "line 50" not in fold_message(f"{block}\n{FILE}")


def test_long_text_and_long_lines_are_folded() -> None:
    text = "\n".join(f"line {number}" for number in range(1000))
    assert f"… {1000 - MESSAGE_LINES - 1} more lines" in fold_message(text)
    assert fold_message("x" * 9000).endswith(f" … {9000 - LINE_CHARACTERS:,} more characters")


async def test_it_opens_and_closes_and_the_model_gets_all_of_it() -> None:
    engine = ScriptedEngine("Notes.")
    app = make_app(engine)
    async with app.run_test(size=(100, 30)) as pilot:
        await say(pilot, MESSAGE)
        await idle(pilot)
        view = newest(pilot)
        assert engine.requests[-1].messages[-1].text == MESSAGE
        assert "line 50" not in plain(view)
        assert "▸ show the whole message" in plain(view)
        view.focus()
        await pilot.press("m")
        await until(pilot, lambda: "line 50" in plain(newest(pilot)))
        assert "▸" not in plain(newest(pilot))
        await pilot.press("m")
        await until(pilot, lambda: "line 50" not in plain(newest(pilot)))


async def test_a_short_message_has_nothing_to_open() -> None:
    async with make_app(ScriptedEngine("Hello.")).run_test() as pilot:
        await say(pilot, "Hi")
        await idle(pilot)
        newest(pilot).focus()
        await pilot.press("m")
        await until(pilot, lambda: bool(toasts(pilot)))
        assert "This message is shown whole" in toasts(pilot)[0]
        assert app_of(pilot).is_running

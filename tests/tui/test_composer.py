"""The composer alone: typing, pasting, completion, history, and the messages it posts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from textual import events
from textual.geometry import Offset
from textual.widgets import Button

from chatlm.errors import UsageError
from chatlm.text import escape_controls
from chatlm.tui.chat.welcome import Suggestion
from chatlm.tui.composer.completion import CompletionList
from chatlm.tui.composer.composer import Composer
from chatlm.tui.composer.drafts import for_display
from tests.tui.composing import COMMANDS, ComposerApp, burst, type_keys, whole
from tests.tui.support import (
    chat_of,
    hostile_texts,
    make_app,
    plain,
    toasts,
    until,
)

LINES = "".join(f"line {number}\n" for number in range(120))
MORE = "x\n" * 20


@pytest.fixture
def app(folder: Path) -> ComposerApp:
    return ComposerApp(folder)


# --- sending ------------------------------------------------------------------------------


async def test_what_is_typed_after_enter_stays_when_the_message_is_sent(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        burst(pilot, *"one", "left", "enter", *"two")
        await until(pilot, lambda: app.sent)
        assert app.sent == ["one"]
        app.composer.confirm_submitted(app.last_sent)
        assert app.composer.text == "two"


async def test_a_second_message_typed_at_once_is_not_lost_with_the_first(
    app: ComposerApp,
) -> None:
    async with app.run_test() as pilot:
        burst(pilot, *"one", "enter", *"two", "enter")
        await until(pilot, lambda: len(app.sent) == 2)
        first = app.posted[0]
        assert isinstance(first, Composer.Submitted)
        app.composer.confirm_submitted(
            first
        )  # the second is refused, since a reply is being written
        assert app.composer.text == "two"


async def test_a_message_that_is_refused_stays(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        await type_keys(pilot, "one", "enter")
        assert app.sent == ["one"]
        assert app.composer.text == "one"


async def test_a_message_that_failed_comes_back_as_it_stood(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        await type_keys(pilot, "see @notes.txt ")
        app.composer.paste(LINES)
        stood = app.composer.text
        await pilot.press("enter")
        await until(pilot, lambda: app.sent)
        app.composer.confirm_submitted(app.last_sent)
        assert app.composer.text == ""
        app.composer.paste(MORE)
        app.composer.restore_unsent(app.sent[0])
        assert for_display(app.composer.text) == f"{for_display(stood)}\n[pasted 2: 20 lines]"
        words = f"see notes.txt {LINES}\n{MORE}".rstrip()
        assert (
            app.composer.outgoing_message().read().text
            == f"{words}\n\nnotes.txt\n```\none two\n```"
        )
        app.composer.load_draft("")
        app.composer.restore_unsent("foreign\x1b[31m")
        assert app.composer.text == "foreign␛[31m"


# --- history ------------------------------------------------------------------------------


async def test_up_and_down_walk_the_history_and_keep_the_draft(folder: Path) -> None:
    reads = []

    def history() -> Sequence[str]:
        reads.append(1)
        return ["two\nlines", "first"]

    app = ComposerApp(folder, history=history)
    async with app.run_test() as pilot:
        composer = app.composer
        await type_keys(pilot, "draft")
        composer.paste(LINES)
        draft = composer.text
        await pilot.press("up")
        assert composer.text == "two\nlines"
        await pilot.press("up")
        assert composer.text == "first"
        await pilot.press("up")
        assert composer.text == "first"
        await pilot.press("down", "down")
        assert composer.text == draft
        assert composer.outgoing_message().read().text == f"draft{LINES}"
        await pilot.press("down")
        assert composer.text == draft
        assert len(reads) == 1


async def test_within_a_message_up_and_down_move_the_cursor(folder: Path) -> None:
    app = ComposerApp(folder, history=lambda: ["two\nlines", "first"])
    async with app.run_test() as pilot:
        composer = app.composer
        await type_keys(pilot, "a\nb", "up")
        assert (composer.text, composer.cursor_location) == ("a\nb", (0, 1))
        await pilot.press("up")
        assert composer.text == "two\nlines"
        await pilot.press("x", "up")  # changed: now the cursor has to leave it first
        assert (composer.text, composer.cursor_location[0]) == ("two\nlinesx", 0)
        await pilot.press("up", "down")
        assert composer.text == "two\nlinesx"
        await pilot.press("shift+up")
        assert composer.text == "two\nlinesx"


async def test_a_long_first_line_is_climbed_before_the_history(folder: Path) -> None:
    app = ComposerApp(folder, history=lambda: ["old"])
    async with app.run_test(size=(40, 20)) as pilot:
        app.composer.text = "word " * 30
        app.composer.move_cursor(app.composer.document.end)
        await pilot.press("up")
        assert app.composer.text != "old"
        await pilot.press(*["up"] * 5)
        assert app.composer.text == "old"


# --- folded pastes ------------------------------------------------------------------------


async def test_a_large_paste_is_one_line_and_sent_whole(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        await type_keys(pilot, "before ")
        pilot.app.post_message(events.Paste(LINES.replace("\n", "\r\n")))
        await until(pilot, lambda: len(app.composer.text) > 8)
        await type_keys(pilot, " after")
        assert for_display(app.composer.text) == "before [pasted 1: 120 lines] after"
        assert "before [pasted 1: 120 lines] after" in whole(app)
        assert app.subtitle == "ctrl+f unfold"
        await pilot.press("enter")
        assert app.sent == [f"before {LINES} after"]


async def test_one_key_removes_a_folded_paste_and_undo_brings_it_back(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        composer = app.composer
        for key, where in (("backspace", (0, 99)), ("delete", (0, 1)), ("ctrl+w", (0, 99))):
            composer.load_draft("")
            await type_keys(pilot, "a")
            composer.paste(LINES)
            composer.move_cursor(where)
            await pilot.press(key)
            assert composer.text == "a"
            assert composer.outgoing_message().read().text == "a"
            await pilot.press("ctrl+z")
            assert composer.outgoing_message().read().text == f"a{LINES}"


async def test_the_cursor_steps_over_a_folded_paste(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        composer = app.composer
        await type_keys(pilot, "a")
        composer.paste(LINES)
        await type_keys(pilot, "b", "left", "left")
        assert composer.cursor_location == (0, 1)
        await pilot.press("right")
        assert composer.cursor_location == (0, len(composer.text) - 1)
        await pilot.press("left", "shift+right", "x")
        assert composer.text == "axb"
        await pilot.press("ctrl+z")
        composer.move_cursor((0, 0))
        await pilot.click(composer, offset=Offset(8, 1))  # into the middle of the placeholder
        await type_keys(pilot, "c")
        assert composer.outgoing_message().read().text in (f"ac{LINES}b", f"a{LINES}cb")


async def test_a_folded_paste_is_unfolded_with_a_key(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        app.composer.paste(LINES)
        app.composer.paste("x" * 2000)
        assert len(app.composer.text) < 100
        app.composer.move_cursor((0, 0))
        await pilot.press("ctrl+f")
        assert app.composer.text.startswith(LINES)
        assert "[pasted 2: 2,000 characters]" in for_display(app.composer.text)
        await pilot.press("ctrl+f", "ctrl+f")
        assert app.composer.text == LINES + "x" * 2000


async def test_what_is_cut_or_copied_is_unfolded(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        app.composer.paste(LINES)
        for key in ("ctrl+c", "ctrl+x"):
            await pilot.press("f7", key)
            assert app.clipboard == LINES
        assert app.composer.text == ""
        await pilot.press("ctrl+v")
        assert for_display(app.composer.text) == "[pasted 2: 120 lines]"
        assert app.composer.outgoing_message().read().text == LINES


async def test_a_typed_placeholder_is_text(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        app.composer.paste(LINES)
        await pilot.press("backspace")
        pilot.app.post_message(
            events.Paste("[pasted 1: 120 lines] \ufdd0pasted 1: 120 lines\ufdd1")
        )
        await until(pilot, lambda: app.composer.text)
        assert (
            app.composer.outgoing_message().read().text
            == "[pasted 1: 120 lines] \ufffdpasted 1: 120 lines\ufffd"
        )
        await pilot.press("backspace")
        assert app.composer.text.endswith("120 lines")


# --- files --------------------------------------------------------------------------------


async def test_a_file_is_completed_counted_and_sent(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        await type_keys(pilot, "Sum up @no")
        assert app.offered == ["notes.txt", "my notes.txt"]
        await type_keys(pilot, "", "tab")
        assert app.composer.text == "Sum up @notes.txt "
        await until(pilot, lambda: "tokens" in app.subtitle)
        assert app.subtitle == "notes.txt · 5 tokens"
        await type_keys(pilot, "please", "enter")
        assert app.sent == ["Sum up notes.txt please\n\nnotes.txt\n```\none two\n```"]


async def test_enter_on_an_offered_file_takes_it_and_on_a_complete_one_sends(
    app: ComposerApp,
) -> None:
    async with app.run_test() as pilot:
        await type_keys(pilot, "@no", "enter")
        assert (app.composer.text, app.sent) == ("@notes.txt ", [])
        await type_keys(pilot, "@src", "enter")
        assert app.offered == ["src/main.py"]
        await type_keys(pilot, "main.py")
        await pilot.press("enter")
        assert len(app.sent) == 1
        assert "src/main.py\n```\nprint()\n```" in app.sent[0]


async def test_enter_sends_when_no_offered_file_begins_with_the_word(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        await type_keys(pilot, "Hello @otes")
        assert app.offered == ["my notes.txt", "notes.txt"]
        await pilot.press("enter")
        assert app.sent == ["Hello @otes"]


async def test_words_with_an_at_that_are_no_files_stay(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        await type_keys(pilot, "me@example.com and @someone", "enter")
        assert app.sent == ["me@example.com and @someone"]


async def test_without_a_model_characters_are_counted_until_it_comes(folder: Path) -> None:
    ready = threading.Event()
    app = ComposerApp(folder, count_tokens=lambda text: 7 if ready.is_set() else None)
    async with app.run_test() as pilot:
        app.composer.attach_file("notes.txt")
        await until(pilot, lambda: "characters" in app.subtitle)
        assert app.subtitle == "notes.txt · 25 characters"
        ready.set()
        app.composer.recount_files()
        await until(pilot, lambda: "tokens" in app.subtitle)
        assert app.subtitle == "notes.txt · 7 tokens"


async def test_counting_happens_in_a_thread_and_once_a_file(folder: Path) -> None:
    threads: list[threading.Thread] = []

    def count(text: str) -> int:
        threads.append(threading.current_thread())
        return 1

    app = ComposerApp(folder, count_tokens=count)
    async with app.run_test() as pilot:
        app.composer.attach_file("notes.txt")
        await until(pilot, lambda: "tokens" in app.subtitle)
        await type_keys(pilot, "more words")
        await pilot.pause(0.8)
        assert len(threads) == 1
        assert threads[0] is not threading.main_thread()


async def test_why_a_file_is_not_sent_is_reported_and_the_message_stays(
    app: ComposerApp, folder: Path
) -> None:
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    async with app.run_test() as pilot:
        await type_keys(pilot, "see @photo.jpg", "escape", "enter")
        await until(pilot, lambda: toasts(pilot))
        assert app.sent == []
        assert app.composer.text == "see @photo.jpg"
        assert toasts(pilot)[0].startswith("photo.jpg is truncated or damaged")
        app.composer.load_draft("")
        app.composer.attach_file("notes.txt")
        await until(pilot, lambda: "tokens" in app.subtitle)
        (folder / "notes.txt").unlink()
        await pilot.press("enter")
        assert app.sent == []
        assert toasts(pilot)[-1] == "notes.txt does not exist\nCheck the path."


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("gone", "gone does not exist"),
        ("a\0b", "a␀b does not exist"),
    ],
)
async def test_attach_says_what_is_wrong(app: ComposerApp, path: str, error: str) -> None:
    async with app.run_test():
        with pytest.raises(UsageError, match=error):
            app.composer.attach_file(path)
        assert app.composer.text == ""


# --- commands -----------------------------------------------------------------------------


async def test_a_command_is_completed_and_run(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        await type_keys(pilot, "/f")
        assert app.offered == ["/fork"]
        await pilot.press("enter")
        assert (app.commanded, app.composer.text) == ([("fork", "")], "")
        await type_keys(pilot, "/t", "tab")
        assert app.composer.text == "/theme "
        assert app.offered == ["dracula", "nord", "textual-dark"]
        await pilot.press("down", "down", "enter")
        assert app.commanded[1:] == [("theme", "nord")]
        assert app.sent == []


async def test_keys_that_come_all_at_once_do_the_same(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        burst(pilot, "/", "f", "enter", *"hi", "enter")
        await until(pilot, lambda: app.sent)
        assert app.commanded == [("fork", "")]
        assert app.sent == ["hi"]


@pytest.mark.parametrize("typed, name", [("/attach note", "attach"), ("/theme nor", "theme")])
async def test_enter_takes_an_argument_as_it_is_typed(
    app: ComposerApp, typed: str, name: str
) -> None:
    """A file that is to be written may be called like the beginning of another."""
    async with app.run_test() as pilot:
        await type_keys(pilot, typed)
        assert len(app.offered) > 0
        await pilot.press("enter")
        await pilot.pause()
        assert app.commanded == [(name, typed.split()[1])]


async def test_an_argument_that_may_be_left_out_may_be_left_out(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        await type_keys(pilot, "/theme", "enter")
        assert app.commanded == [("theme", "")]
        await type_keys(pilot, "/th", "enter", "enter")
        assert app.commanded == [("theme", "")] * 2
        await type_keys(pilot, "/attach", "enter")
        assert app.offered == ["my notes.txt", "notes.txt", "src/"]
        await type_keys(pilot, "src", "tab", "down", "enter")
        assert app.commanded[2:] == [("attach", "src/main.py")]


async def test_arrows_choose_and_escape_closes(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        await type_keys(pilot, "/ne")
        assert app.offered == ["/new", "/next-version"]
        await pilot.press("down", "tab")
        assert app.composer.text == "/next-version"
        app.composer.load_draft("")
        await type_keys(pilot, "/ne", "escape")
        assert app.offered == []
        assert not app.composer.close_completion()
        await pilot.press("backspace")
        assert app.offered
        assert app.composer.close_completion()
        assert app.composer.text == "/n"


async def test_an_unknown_command_says_what_to_do_and_stays(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        await type_keys(pilot, "/forc it", "enter")
        assert toasts(pilot) == [
            "Unknown command /forc\nDid you mean /fork? "
            "Start with two slashes to send it as a message."
        ]
        assert app.composer.text == "/forc it"
        assert app.posted == []
        await pilot.press("ctrl+a")
        await type_keys(pilot, "/", "enter")
        assert app.sent == ["/forc it"]


async def test_tab_moves_the_focus_when_nothing_is_completed(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        await type_keys(pilot, "hello", "tab")
        assert app.query_one(Button).has_focus
        app.composer.focus()
        await type_keys(pilot, " @no")
        await pilot.press("tab")
        assert app.composer.has_focus


async def test_a_click_takes_what_is_offered(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        await type_keys(pilot, "/ne")
        await pilot.click(CompletionList, offset=Offset(4, 1))
        await pilot.pause()
        assert app.composer.text == "/next-version"
        assert app.composer.has_focus


async def test_the_list_closes_when_the_cursor_or_the_focus_leaves(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        await type_keys(pilot, "x @no")
        assert app.offered
        await pilot.press("home")
        assert app.offered == []
        await pilot.press("end")
        assert app.offered == []
        await pilot.press("backspace")
        assert app.offered
        app.query_one(Button).focus()
        await pilot.pause()
        assert app.offered == []


@pytest.mark.parametrize("size", [(80, 24), (160, 48)])
async def test_the_list_stands_right_above_the_composer(
    app: ComposerApp, size: tuple[int, int], folder: Path
) -> None:
    for number in range(30):
        (folder / f"file-{number}.txt").touch()
    async with app.run_test(size=size) as pilot:
        top = app.composer.region.y
        await type_keys(pilot, "@")
        region = app.query_one(CompletionList).region
        assert region.height == 8
        assert region.bottom == app.composer.region.y == top
        await type_keys(pilot, "file-11")
        region = app.query_one(CompletionList).region
        assert (region.height, region.bottom) == (1, top)


# --- drafts and editing -------------------------------------------------------------------


async def test_the_draft_is_posted_after_a_pause_and_comes_back(
    app: ComposerApp, folder: Path
) -> None:
    async with app.run_test() as pilot:
        await type_keys(pilot, "half a mess")
        app.composer.paste(LINES)
        state = app.composer.dump_draft()
        await until(pilot, lambda: app.drafted and app.drafted[-1] == state)
        assert len(app.drafted) < len("half a mess"), "not at every key"
    again = ComposerApp(folder)
    async with again.run_test() as pilot:
        again.composer.load_draft(state)
        assert again.composer.outgoing_message().read().text == f"half a mess{LINES}"
        assert again.composer.dump_draft() == state
        await pilot.pause(0.7)
        assert again.drafted == []
        again.composer.load_draft('{"text": "broken')
        assert again.composer.text == '{"text": "broken'
        again.composer.load_draft("")
        assert again.composer.dump_draft() == ""


async def test_editing_keeps_the_draft_and_says_which_message(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        composer = app.composer
        await type_keys(pilot, "draft")
        composer.begin_edit("/old message", "editing message 3", 2)
        assert composer.editing
        assert composer.border_title == "editing message 3"
        assert app.subtitle == "enter resend in a fork · esc cancel"
        assert json.loads(composer.dump_draft())["text"] == "draft"
        await type_keys(pilot, "!", "enter")
        assert (app.last_sent.text, app.last_sent.edited_position) == ("/old message!", 2)
        assert composer.editing
        composer.confirm_submitted(app.last_sent)
        assert not composer.editing
        assert (composer.text, composer.border_title, app.subtitle) == ("draft", None, "")
        await pilot.press("enter")
        assert app.last_sent.edited_position is None


async def test_an_edit_can_be_left_or_comes_back_when_it_failed(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        composer = app.composer
        assert not composer.end_edit()
        await type_keys(pilot, "draft")
        composer.begin_edit("old", "editing message 3", 2)
        composer.begin_edit("older", "editing message 1", 0)
        assert composer.end_edit()
        assert composer.text == "draft"
        composer.begin_edit("old", "editing message 3", 2)
        await type_keys(pilot, "er", "enter")
        composer.confirm_submitted(app.last_sent)
        composer.restore_unsent("older")
        assert (composer.editing, composer.text) == (True, "older")
        assert composer.end_edit()
        assert composer.text == "draft"


async def test_a_command_can_be_begun_over_a_draft(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        composer = app.composer
        await type_keys(pilot, "see ")
        composer.begin_command(COMMANDS[2])
        assert (composer.text, composer.border_title) == ("/attach ", "/attach FILE")
        assert app.subtitle == "tab complete · enter run · esc close"
        assert app.offered == ["my notes.txt", "notes.txt", "src/"]
        await pilot.press("down", "down", "enter")
        assert app.commanded == [("attach", "notes.txt")]
        assert (composer.text, composer.editing) == ("see ", False)
        composer.attach_file("notes.txt")
        assert composer.text == "see @notes.txt "
        composer.begin_command(COMMANDS[2])
        assert composer.end_edit()
        assert composer.text == "see @notes.txt "


async def test_another_chat_ends_the_editing(app: ComposerApp) -> None:
    async with app.run_test() as pilot:
        composer = app.composer
        composer.begin_edit("old", "editing message 3", 2)
        await type_keys(pilot, "er", "enter")
        composer.load_draft("")
        composer.restore_unsent("older")
        assert (composer.editing, composer.text) == (False, "older")


# --- hostile and fast ---------------------------------------------------------------------


async def test_hostile_texts_can_be_pasted_typed_and_recalled(
    folder: Path, shared_data: Path
) -> None:
    texts = hostile_texts(shared_data)
    app = ComposerApp(folder, history=lambda: texts)
    async with app.run_test() as pilot:
        for text in texts:
            app.composer.load_draft("")
            app.composer.paste(f">{text}")
            shown = escape_controls(text.replace("\r\n", "\n").replace("\r", "\n"))
            assert app.composer.outgoing_message().read().text == f">{shown}"
        for text in texts:
            app.composer.begin_edit(text, text, 0)
            assert app.composer.outgoing_message().read().text == escape_controls(text)
        app.composer.end_edit()
        app.composer.load_draft("")
        for text in texts[:150]:
            await pilot.press("up")
            assert app.composer.text == escape_controls(text)
        for text in ("/[bold]x[/]", "@[red]", "/attach [@click=app.quit]x[/]"):
            app.composer.load_draft("")
            for character in text:
                await app.composer._on_key(events.Key("x", character))
            await pilot.press("enter")
        assert not set(whole(app)) & {"\x1b", "\x9b", "\u202e", "\ufdd0", "\ufdd1"}


async def test_hostile_file_names_are_offered_and_attached(
    tmp_path: Path, shared_data: Path
) -> None:
    (tmp_path / "a\x1b]0;owned\x07\u202e.txt").write_text("inside")
    app = ComposerApp(tmp_path)
    async with app.run_test() as pilot:
        await type_keys(pilot, "@a")
        assert "\x1b" not in whole(app)
        await pilot.press("tab")
        await until(pilot, lambda: "tokens" in app.subtitle)
        assert "\x1b" not in whole(app)
        await pilot.press("enter")
        assert app.sent[0].endswith("\n```\ninside\n```")
        assert "\x1b" not in app.sent[0]


async def test_typing_in_a_long_message_costs_no_more_than_in_a_short_one(
    app: ComposerApp,
) -> None:
    async with app.run_test(size=(120, 40)) as pilot:
        composer = app.composer

        async def cost(lines: int) -> float:
            composer.text = "\n".join(["(The quick brown fox jumps over the lazy dog."] * lines)
            composer.move_cursor((lines // 2, 0))
            await pilot.pause()
            seconds = []
            for character in "(hello @there /you) left" * 2:
                start = time.process_time()
                await composer._on_key(events.Key(character, character))
                whole(app)
                seconds.append(time.process_time() - start)
                await pilot.pause()
            return sorted(seconds)[len(seconds) // 2]

        short = await cost(40)
        assert await cost(2000) < 4 * short


async def test_undo_in_a_tall_composer() -> None:
    async with make_app().run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        for _ in range(12):
            await pilot.press(*"line", "ctrl+j")
        whole = chat_of(pilot).composer.text
        await pilot.press(*["ctrl+z"] * 14)
        assert len(chat_of(pilot).composer.text) < len(whole)
        await pilot.press(*["ctrl+y"] * 14)
        assert chat_of(pilot).composer.text == whole


async def test_tab_reaches_the_suggestions() -> None:
    async with make_app().run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        await pilot.press("tab", "down", "enter")
        await until(pilot, lambda: chat_of(pilot).composer.text)
        second = chat_of(pilot).view.query(Suggestion)[1]
        assert chat_of(pilot).composer.text in plain(second)


@pytest.mark.parametrize(
    ("width", "said"),
    [
        (80, "Write a message, / for commands, @ for files"),
        (42, "Write a message, / for commands"),
        (30, "Write a message"),
    ],
)
async def test_an_empty_composer_says_what_fits(app: ComposerApp, width: int, said: str) -> None:
    async with app.run_test(size=(width, 12)) as pilot:
        await until(pilot, lambda: app.composer.placeholder == said)


async def test_the_border_says_what_keys_do_while_candidates_are_offered(app: ComposerApp) -> None:
    async with app.run_test(size=(80, 20)) as pilot:
        await pilot.press("/")
        await until(pilot, lambda: app.subtitle == "tab complete · esc close")
        await pilot.press("escape")
        await until(pilot, lambda: app.subtitle == "" and not app.offered)

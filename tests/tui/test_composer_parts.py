"""What the composer is made of: drafts, history, files, commands, completion."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatlm.chat import attachments as chat_attachments
from chatlm.chat.attachments import format_block, read_text_file
from chatlm.errors import UsageError
from chatlm.text import escape_controls
from chatlm.tui import commands
from chatlm.tui.composer import attachments
from chatlm.tui.composer.attachments import (
    AttachmentCost,
    find_attachments,
    format_mention,
)
from chatlm.tui.composer.completion import Completion, complete, complete_path, rank_names
from chatlm.tui.composer.drafts import (
    PLACEHOLDER_END,
    PLACEHOLDER_START,
    Draft,
    MessageHistory,
    find_placeholders,
    for_display,
    format_placeholder,
    sanitise,
    should_fold,
)
from tests.tui.composing import COMMANDS
from tests.tui.support import hostile_texts

BY_NAME = {command.name: command for command in COMMANDS}


# --- drafts -------------------------------------------------------------------------------


def test_a_draft_unfolds_its_pastes_and_says_how_large_they_are() -> None:
    lines, long = "a\n" * 120, "x" * 1812
    draft = Draft(
        f"see {format_placeholder(1, lines)} and {format_placeholder(2, long)}", {1: lines, 2: long}
    )
    assert for_display(draft.text) == "see [pasted 1: 120 lines] and [pasted 2: 1,812 characters]"
    assert draft.unfold() == f"see {lines} and {long}"


def test_only_more_than_twelve_lines_or_many_characters_are_long() -> None:
    assert not should_fold("line\n" * 12)
    assert should_fold("line\n" * 13)
    assert not should_fold("x" * 1500)
    assert should_fold("x" * 1501)


@given(st.text(), st.dictionaries(st.integers(1, 9), st.text(), max_size=3))
def test_a_draft_comes_back_from_its_state(text: str, pastes: dict[int, str]) -> None:
    pastes = {number: sanitise(paste) for number, paste in pastes.items()}
    marks = "".join(format_placeholder(number, paste) for number, paste in pastes.items())
    draft = Draft(sanitise(text) + marks, pastes)
    assert Draft.load(draft.dump()) == draft or not draft.text


@given(st.text())
@example("{}")
@example("[]")
@example('{"text": 1, "pastes": {}}')
@example('{"text": "a", "pastes": []}')
@example('{"text": "a", "pastes": {"x": "y"}}')
@example('{"text": "a", "pastes": {"1": 2}}')
@example('{"text": "a"}')
@example("[" * 100_000)
@example('{"text": "a", "pas')
def test_a_foreign_state_is_a_plain_text(state: str) -> None:
    assert Draft.load(state) == Draft(sanitise(state))


def test_a_typed_or_pasted_placeholder_is_no_placeholder() -> None:
    forged = sanitise(
        f"[pasted 1: 120 lines] {PLACEHOLDER_START}pasted 1: 120 lines{PLACEHOLDER_END}"
    )
    assert not any(find_placeholders(forged))
    assert Draft(forged, {1: "secret"}).unfold() == forged


def test_two_drafts_together_keep_all_their_pastes() -> None:
    one = Draft(format_placeholder(1, "a\nb"), {1: "a\nb"})
    two = Draft(f" and {format_placeholder(1, 'c')}{format_placeholder(2, 'd')}", {1: "c", 2: "d"})
    assert (one + two).unfold() == "a\nb and cd"
    assert for_display((one + two).text).startswith(
        "[pasted 1: 2 lines] and [pasted 2: 1 characters]"
    )


# --- history ------------------------------------------------------------------------------


def test_the_history_goes_back_and_forth_and_gives_the_draft_back() -> None:
    history = MessageHistory(lambda: ["newest", "oldest"])
    draft = Draft("being typed")
    assert history.step(draft, -1) is None
    assert history.step(draft, 1) == Draft("newest")
    assert history.step(Draft("newest, changed"), 1) == Draft("oldest")
    assert history.step(Draft("oldest"), 1) is None
    assert history.step(Draft("oldest"), -1) == Draft("newest, changed")
    assert history.step(Draft("newest, changed"), -1) == draft
    assert not history.browsing


def test_the_history_is_read_again_for_the_next_walk() -> None:
    messages = ["one"]
    history = MessageHistory(lambda: list(messages))
    assert history.step(Draft(), 1) == Draft("one")
    messages.insert(0, "two")
    history.reset()
    assert history.step(Draft(), 1) == Draft("two")


# --- slash commands -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("Hello /new", "Hello /new"),
        (" /new", " /new"),
        ("//new", "/new"),
        ("//usr/bin is full", "/usr/bin is full"),
        ("// a comment\nint x;", "// a comment\nint x;"),
        ("/// documented", "/// documented"),
        ("///path", "//path"),
    ],
)
def test_what_is_a_message(typed: str, meant: str) -> None:
    assert commands.parse_slash_command(typed, BY_NAME) == meant


@pytest.mark.parametrize(
    ("typed", "name", "argument"),
    [
        ("/new", "new", ""),
        ("/new  ", "new", ""),
        ("/theme", "theme", ""),
        ("/theme nord ", "theme", "nord"),
        ("/attach my notes.txt", "attach", "my notes.txt"),
    ],
)
def test_what_is_a_command(typed: str, name: str, argument: str) -> None:
    assert commands.parse_slash_command(typed, BY_NAME) == (BY_NAME[name], argument)


@pytest.mark.parametrize(
    ("typed", "error"),
    [
        (
            "/forc",
            "Unknown command /forc\nDid you mean /fork? "
            "Start with two slashes to send it as a message.",
        ),
        (
            "/usr/bin is full",
            "Unknown command /usr/bin\nStart with two slashes to send it as a message.",
        ),
        ("/", "Unknown command /\nStart with two slashes to send it as a message."),
        ("/attach ", "/attach needs FILE\nWrite /attach FILE."),
        (
            "/new chat please",
            "/new takes no argument\nStart with two slashes to send it as a message.",
        ),
    ],
)
def test_what_is_neither_says_what_to_do(typed: str, error: str) -> None:
    with pytest.raises(UsageError) as caught:
        commands.parse_slash_command(typed, BY_NAME)
    assert str(caught.value) == error


# --- files --------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "notes.txt").write_text("one two\n")
    (tmp_path / "my notes.txt").write_text("three\n")
    (tmp_path / ".hidden").write_text("four\n")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.py").write_text("print()\n")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("@notes.txt", ["notes.txt"]),
        ("See @notes.txt, please.", ["notes.txt"]),
        ("(@notes.txt) and @src/main.py.", ["notes.txt", "src/main.py"]),
        ('the "@notes.txt"!', ["notes.txt"]),
        ('@"my notes.txt"', ["my notes.txt"]),
        ("me@notes.txt @someone @src @ @.hidden", [".hidden"]),
        ("```\n@notes.txt\n```\n", []),
        ('@"broken @notes.txt', ["notes.txt"]),
        ('@"\\x" @"a\\u0000" @~nobody-has-this-name', []),
        ("@" + "x" * 5000, []),
    ],
)
def test_which_words_name_files(folder: Path, text: str, written: list[str]) -> None:
    assert [file.raw_path for file in find_attachments(text, folder)] == written


def test_home_and_absolute_paths_name_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    text = f"@~/notes.txt @{folder}/notes.txt"
    elsewhere = folder / "src"
    assert [file.path for file in find_attachments(text, elsewhere)] == [folder / "notes.txt"] * 2


def test_files_stand_below_the_message_once_and_are_named_plainly(folder: Path) -> None:
    text = 'Compare @notes.txt with @"my notes.txt", then @notes.txt'
    files = find_attachments(text, folder)
    words = attachments.replace_mentions(text, files)
    assert words == "Compare notes.txt with my notes.txt, then notes.txt"
    assert attachments.format_blocks(files, read_text_file) == [
        "notes.txt\n```\none two\n```",
        "my notes.txt\n```\nthree\n```",
    ]


@given(st.text())
def test_no_file_ends_its_own_block(text: str) -> None:
    lines = format_block("a.txt", text).split("\n")
    fence = lines[1]
    assert fence == lines[-1]
    assert fence not in text
    assert "\n".join(lines[2:-1]) == text.removesuffix("\n")


def test_an_attached_file_names_no_other_file_when_it_is_sent_again(folder: Path) -> None:
    text = format_block("a.md", "```\n@notes.txt\n```\n@notes.txt\n")
    assert find_attachments(f"again:\n\n{text}", folder) == []


def test_why_a_file_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_attachments, "MAX_FILE_BYTES", 1_000_000)
    cases = {
        "latin": (b"caf\xe9", "latin is not UTF-8 text"),
        "binary": (b"a\0b", "binary is not a text file"),
        "big": (b"x" * 1_000_001, "big is larger than 1 MB\nPaste the relevant part instead."),
    }
    for name, (data, error) in cases.items():
        (folder / name).write_bytes(data)
        with pytest.raises(UsageError) as caught:
            read_text_file(folder / name, name)
        assert str(caught.value) == error
    with pytest.raises(UsageError, match="gone does not exist"):
        read_text_file(folder / "gone", "gone")
    with pytest.raises(UsageError, match="src cannot be read: Is a directory"):
        read_text_file(folder / "src", "src")


def test_a_windows_file_is_read_with_plain_lines(folder: Path) -> None:
    (folder / "windows.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert read_text_file(folder / "windows.txt", "windows.txt") == "one\ntwo\n"


def test_many_costs_are_added_up() -> None:
    one, two, three = (
        AttachmentCost("a", 1204, 10),
        AttachmentCost("b", None, 2500),
        AttachmentCost("c", 3, 5),
    )
    assert attachments.summarise_costs([one, two]) == ["a · 1,204 tokens", "b · 2,500 characters"]
    assert attachments.summarise_costs([one, one, three]) == ["3 files · 2,411 tokens"]
    assert attachments.summarise_costs([one, two, three]) == ["3 files · 2,515 characters"]
    assert attachments.summarise_costs([UsageError("d is no text"), one])[0] == "d is no text"


# --- completion ---------------------------------------------------------------------------


def offer(before: str, folder: Path, *, only: bool = True) -> Completion | None:
    values = {"theme": lambda typed: ["dracula", "nord"]}
    return complete(before, COMMANDS, values, folder, is_whole_message=only)


def labels(completion: Completion | None) -> list[str]:
    return [candidate.label for candidate in completion.candidates] if completion else []


def test_names_that_begin_alike_come_first() -> None:
    assert rank_names("co", ["incognito", "copy-code", "co", "cargo", "x"]) == [
        "co",
        "copy-code",
        "incognito",
        "cargo",
    ]


def test_a_slash_offers_the_commands_with_their_arguments(folder: Path) -> None:
    everything = offer("/", folder)
    assert labels(everything) == ["/new", "/fork", "/attach FILE", "/theme [NAME]", "/next-version"]
    assert everything is not None and not everything.preselects
    begun = offer("/ne", folder)
    assert labels(begun) == ["/new", "/next-version"]
    assert begun is not None and begun.preselects
    assert offer("/usr/bin", folder) is None
    assert offer("/ne", folder, only=False) is None
    assert offer("//ne", folder) is None


def test_arguments_are_offered_after_their_command(folder: Path) -> None:
    assert labels(offer("/theme ", folder)) == ["dracula", "nord"]
    assert labels(offer("/theme no", folder)) == ["nord"]
    assert labels(offer("/attach s", folder)) == ["src/", "my notes.txt", "notes.txt"]
    assert offer("/new x", folder) is None


def test_files_are_offered_at_the_start_of_a_word(folder: Path) -> None:
    assert labels(offer("@", folder)) == ["my notes.txt", "notes.txt", "src/"]
    assert labels(offer("see @src/", folder, only=False)) == ["src/main.py"]
    assert labels(offer("(@.h", folder)) == [".hidden"]
    assert offer("me@n", folder) is None
    spaced = offer("@my", folder)
    assert spaced is not None and spaced.candidates[0].insert == '@"my notes.txt" '
    assert labels(offer('@"my no', folder)) == ["my notes.txt"]


def test_a_folder_is_read_again_when_it_has_changed(folder: Path) -> None:
    assert complete_path("new", folder) == []
    (folder / "new.txt").touch()
    os.utime(folder, ns=(1, 1))
    assert complete_path("new", folder) == ["new.txt"]


def test_a_folder_that_cannot_be_listed_offers_nothing(folder: Path) -> None:
    assert complete_path("nowhere/", folder) == []
    assert complete_path("notes.txt/", folder) == []


# --- hostile ------------------------------------------------------------------------------


def test_hostile_names_are_mentioned_safely_and_found_again(
    tmp_path: Path, shared_data: Path
) -> None:
    found = 0
    for text in hostile_texts(shared_data):
        name = text.replace("/", "_").replace("\0", "_")[:60]
        try:
            (tmp_path / name).write_text("x")
        except (OSError, ValueError):
            continue  # no file can have this name
        words = format_mention(name)
        assert escape_controls(words) == words
        assert "\n" not in words
        assert [file.raw_path for file in find_attachments(f"see {words} there", tmp_path)] == [
            name
        ], name
        found += 1
    assert found > 400


def test_hostile_texts_are_attached_whole(tmp_path: Path, shared_data: Path) -> None:
    path = tmp_path / "hostile.txt"
    for text in hostile_texts(shared_data):
        plain = text.encode("utf-8", "replace").decode().replace("\r\n", "\n").replace("\r", "\n")
        path.write_bytes(plain.encode())
        if "\0" in plain:
            continue
        again = read_text_file(path, "hostile.txt")
        assert again == plain.removeprefix("\ufeff")
        assert again.removesuffix("\n") in format_block("hostile.txt", again)


def test_hostile_texts_are_completed_and_parsed_without_harm(
    folder: Path, shared_data: Path
) -> None:
    for text in hostile_texts(shared_data):
        for typed in (text, f"/{text}", f"@{text}", f'@"{text}', f"/attach {text}"):
            line = sanitise(typed).split("\n")[0]
            for label in labels(offer(line, folder)):
                assert escape_controls(label) == label
            assert sanitise(sanitise(typed)) == sanitise(typed)
            try:
                commands.parse_slash_command(sanitise(typed), BY_NAME)
            except UsageError as error:
                assert "\x1b" not in str(error)

"""Files that a message names as `@path`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.chat import attachments as chat_attachments
from chatlm.chat.attachments import format_block, read_text_file
from chatlm.errors import UsageError
from chatlm.text import escape_controls
from chatlm.tui.composer import attachments
from chatlm.tui.composer.attachments import (
    AttachmentCost,
    OutgoingMessage,
    Sources,
    find_attachments,
    format_mention,
)
from tests.tui.support import hostile_texts


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
    assert list(attachments.read_attachments(files, Sources()).blocks) == [
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


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("@src/ What is it?", "What is it?"),
        ("What is it? @src/", "What is it?"),
        ("What is in @src/ and why?", "What is in src/ and why?"),
        ("src/main.py fails, see @src/", "src/main.py fails, see src/"),
        ("@src/, @notes.txt", "src/, notes.txt"),
        ("@src/", "src/"),
    ],
)
def test_a_folder_that_is_indexed_leaves_the_other_words_alone(
    folder: Path, text: str, sent: str
) -> None:
    files = find_attachments(text, folder)
    message = OutgoingMessage(attachments.replace_mentions(text, files), tuple(files))
    without = message.without_folder(folder / "src")
    assert without.text == sent
    assert len(without.files) == len(files) - 1


def test_many_costs_are_added_up() -> None:
    one, two, three = (
        AttachmentCost("a", 1204, 10),
        AttachmentCost("b", None, 2500),
        AttachmentCost("c", 3, 5),
    )
    assert attachments.summarise_costs([one, two], 60) == [
        "a · 1,204 tokens",
        "b · 2,500 characters",
    ]
    assert attachments.summarise_costs([one, three], 10) == ["2 files · 1,207 tokens"]
    assert attachments.summarise_costs([one, one, three], 60) == ["3 files · 2,411 tokens"]
    assert attachments.summarise_costs([one, two, three], 60) == ["3 files · 2,515 characters"]
    assert attachments.summarise_costs([UsageError("d is no text"), one], 60)[0] == "d is no text"


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

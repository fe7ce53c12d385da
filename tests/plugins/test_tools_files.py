"""The tools that list, read, search and edit the user's files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chatlm.testing import ScriptedToolContext, run_tool
from chatlm_tools.files.tools import (
    files_edit,
    files_list,
    files_read,
    files_search,
    files_undo,
    files_write,
)

FILES = (files_list, files_read, files_search, files_edit, files_undo)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / "one.md").write_text("alpha\nbeta\ngamma\n")
    (folder / "deep" / "two.txt").write_text("Beta again\n")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "notes-other").mkdir()
    (tmp_path / "notes-other" / "x").write_text("secret")
    return folder


@pytest.fixture
def context(notes: Path, tmp_path: Path) -> ScriptedToolContext:
    return ScriptedToolContext(data_folder=tmp_path / "data", workspace_folders=[notes])


def test_a_folder_is_listed(context: ScriptedToolContext, notes: Path) -> None:
    (notes / "link").symlink_to("/etc/passwd")
    output = run_tool(files_list, {}, context)
    assert output.text.splitlines() == ["deep/", "link (link)", "one.md  17 bytes"]
    assert output.untrusted
    assert output.source == str(notes)


def test_a_file_is_read_in_pieces(context: ScriptedToolContext, notes: Path) -> None:
    assert run_tool(files_read, {"path": "one.md"}, context).text == "alpha\nbeta\ngamma"
    (notes / "long").write_text("".join(f"{n}\n" for n in range(1, 1001)))
    first = run_tool(files_read, {"path": "long"}, context).text
    assert first.splitlines()[399:] == ["400", "… 600 more lines; read on with first_line=401"]
    last = run_tool(files_read, {"path": str(notes / "long"), "first_line": 1000}, context)
    assert last.text == "1000"


def test_texts_and_names_are_searched(context: ScriptedToolContext) -> None:
    found = run_tool(files_search, {"text": "BETA"}, context).text.splitlines()
    assert found == ["one.md:2: beta", "deep/two.txt:1: Beta again"]
    names = run_tool(files_search, {"text": "", "names": "*.txt"}, context).text
    assert names == "deep/two.txt"
    assert run_tool(files_search, {"text": "nothing"}, context).text == "Nothing was found."


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "deep/../../secret.txt",
        "{parent}/secret.txt",
        "{parent}/notes-other/x",
        "/etc/passwd",
        "~/.ssh/id_rsa",
        "link.txt",
        "folder-link/secret.txt",
        "link-to-link",
        "loop",
        "/proc/self/environ",
        "/proc/self/root/etc/passwd",
        "",
        ".",
        "a\0b",
        "hard/../../../etc/passwd",
    ],
)
def test_nothing_outside_is_reached(path: str, context: ScriptedToolContext, notes: Path) -> None:
    (notes / "link.txt").symlink_to("../secret.txt")
    (notes / "folder-link").symlink_to(notes.parent)
    (notes / "link-to-link").symlink_to("link.txt")
    (notes / "loop").symlink_to("loop")
    path = path.format(parent=notes.parent)
    for tool, more in (
        (files_read, {}),
        (files_edit, {"old": "secret", "new": "x"}),
        (files_undo, {}),
    ):
        output = run_tool(tool, {"path": path, **more}, context)
        assert output.is_error, tool.name
        assert "secret\n" not in output.text
    if path not in ("", "."):
        written = run_tool(files_write, {"path": path, "text": "x"}, context)
        assert written.is_error
    assert (notes.parent / "secret.txt").read_text() == "secret"


def test_a_link_that_appears_after_the_check_leads_nowhere(
    context: ScriptedToolContext, notes: Path
) -> None:
    from chatlm_tools.files import workspace

    place = workspace.resolve([notes], "deep/two.txt")
    (notes / "deep").rename(notes / "moved")
    (notes / "deep").symlink_to(notes.parent)
    (notes.parent / "two.txt").write_text("secret")
    with pytest.raises(OSError):
        workspace.read_text(place)
    with pytest.raises(OSError):
        workspace.write_text(place, "changed")
    assert (notes.parent / "two.txt").read_text() == "secret"


def test_without_folders_nothing_is_reached(tmp_path: Path) -> None:
    output = run_tool(files_read, {"path": str(tmp_path / "x")}, ScriptedToolContext())
    assert output.is_error
    assert "not named any folder" in output.text


def test_pipes_devices_and_large_files_are_refused(
    context: ScriptedToolContext, notes: Path
) -> None:
    os.mkfifo(notes / "pipe")
    with (notes / "large").open("wb") as file:
        file.truncate(5 << 20)
    (notes / "binary").write_bytes(b"\0\1")
    (notes / "latin").write_bytes("Grüße".encode("latin-1"))
    for name, reason in (
        ("pipe", "no regular file"),
        ("large", "larger"),
        ("binary", "no text"),
        ("latin", "UTF-8"),
        ("deep", "is a folder"),
        ("missing", "No such file"),
    ):
        output = run_tool(files_read, {"path": name}, context)
        assert output.is_error
        assert reason in output.text


def test_an_edit_is_shown_as_a_diff_and_undone(context: ScriptedToolContext, notes: Path) -> None:
    (notes / "one.md").chmod(0o640)
    arguments = {"path": "one.md", "old": "beta", "new": "BETA\ndelta"}
    preview = files_edit.preview and files_edit.preview(arguments)
    assert preview is not None
    assert preview.kind == "diff"
    assert "-beta\n+BETA\n+delta" in preview.text
    output = run_tool(files_edit, arguments, context)
    assert "-beta\n+BETA\n+delta" in output.text
    assert (notes / "one.md").read_text() == "alpha\nBETA\ndelta\ngamma\n"
    assert (notes / "one.md").stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in notes.iterdir()) == ["deep", "one.md"]
    undone = run_tool(files_undo, {"path": "one.md"}, context)
    assert not undone.is_error
    assert (notes / "one.md").read_text() == "alpha\nbeta\ngamma\n"
    assert run_tool(files_undo, {"path": "one.md"}, context).is_error


def test_edits_are_undone_one_by_one(context: ScriptedToolContext, notes: Path) -> None:
    for old, new in (("alpha", "1"), ("beta", "2")):
        run_tool(files_edit, {"path": "one.md", "old": old, "new": new}, context)
    run_tool(files_undo, {"path": "one.md"}, context)
    assert (notes / "one.md").read_text() == "1\nbeta\ngamma\n"
    run_tool(files_undo, {"path": "one.md"}, context)
    assert (notes / "one.md").read_text() == "alpha\nbeta\ngamma\n"


def test_a_file_that_was_changed_since_is_not_undone(
    context: ScriptedToolContext, notes: Path
) -> None:
    run_tool(files_edit, {"path": "one.md", "old": "beta", "new": "2"}, context)
    (notes / "one.md").write_text("the user's own")
    output = run_tool(files_undo, {"path": "one.md"}, context)
    assert output.is_error
    assert (notes / "one.md").read_text() == "the user's own"


def test_an_unclear_edit_changes_nothing(context: ScriptedToolContext, notes: Path) -> None:
    for old, reason in (("a", "times"), ("omega", "does not contain"), ("", "must not be empty")):
        output = run_tool(files_edit, {"path": "one.md", "old": old, "new": "x"}, context)
        assert output.is_error
        assert reason in output.text
    assert (notes / "one.md").read_text() == "alpha\nbeta\ngamma\n"


def test_a_new_file_is_written_and_its_undo_removes_it(
    context: ScriptedToolContext, notes: Path
) -> None:
    output = run_tool(files_write, {"path": "new/three.md", "text": "three\n"}, context)
    assert not output.is_error
    assert (notes / "new" / "three.md").read_text() == "three\n"
    assert run_tool(files_write, {"path": "new/three.md", "text": "other"}, context).is_error
    run_tool(files_undo, {"path": "new/three.md"}, context)
    assert not (notes / "new" / "three.md").exists()


def test_an_incognito_chat_leaves_nothing_for_undo_on_disk(notes: Path, tmp_path: Path) -> None:
    context = ScriptedToolContext(
        data_folder=tmp_path / "data", workspace_folders=[notes], incognito=True
    )
    run_tool(files_edit, {"path": "one.md", "old": "beta", "new": "2"}, context)
    assert not (tmp_path / "data").exists()
    assert not run_tool(files_undo, {"path": "one.md"}, context).is_error
    assert (notes / "one.md").read_text() == "alpha\nbeta\ngamma\n"

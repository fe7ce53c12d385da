"""Completion of commands, arguments and file names."""

from __future__ import annotations

import os
from pathlib import Path

from chatlm.tui.composer.completion import complete_path, rank_names
from tests.tui.composing import labels, offer


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


def test_folders_that_tools_fill_are_offered_by_name_only(folder: Path) -> None:
    for name in ("__pycache__", "node_modules"):
        (folder / name).mkdir()
        (folder / name / "inside.txt").touch()
    assert labels(offer("@", folder)) == ["my notes.txt", "notes.txt", "src/"]
    assert labels(offer("@inside", folder)) == []
    assert labels(offer("@node", folder)) == ["node_modules/"]
    assert labels(offer("@node_modules/", folder)) == ["node_modules/inside.txt"]


def test_a_folder_is_read_again_when_it_has_changed(folder: Path) -> None:
    assert complete_path("new", folder) == []
    (folder / "new.txt").touch()
    os.utime(folder, ns=(1, 1))
    assert complete_path("new", folder) == ["new.txt"]


def test_a_folder_that_cannot_be_listed_offers_nothing(folder: Path) -> None:
    assert complete_path("nowhere/", folder) == []
    assert complete_path("notes.txt/", folder) == []

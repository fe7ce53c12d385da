"""Images in real terminals: by Kitty's protocol, by Sixel, in half blocks, and as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from chatlm.chat.images import read_image
from chatlm.chat.session import ChatSession
from chatlm.engines.scripted import ScriptedEngine
from chatlm.store.store import Store
from tests import image_files
from tests.end_to_end.terminal import CTRL_Q, Terminal, has

RED_BLOCK = b"38;2;220;30;30"
"""Foreground of a half block at the top left of the image."""


@pytest.fixture
def chat_with_image(home: Path) -> Path:
    """A home with one chat, which has an image."""
    image = read_image(image_files.png(200, 100), "cat.png")
    with Store(home / "chats.db") as store:
        engine = ScriptedEngine("A cat.", images=True)
        list(ChatSession(store, lambda: engine).send("What is this?", [image]))
    return home


@pytest.mark.parametrize(
    ("environment", "attributes", "seen", "unseen"),
    [
        ({"TERM": "xterm-kitty"}, "", b"\x1b_G", RED_BLOCK),
        ({"TERM": "xterm-256color"}, "\x1b[?62;4c", b"\x1bP", RED_BLOCK),
        ({"COLORTERM": "truecolor"}, "\x1b[?1;2c", RED_BLOCK, b"\x1b_G"),
        ({"COLORTERM": "truecolor", "SSH_TTY": "x"}, "", "▸ show".encode(), RED_BLOCK),
        ({"TERM": "linux", "COLORTERM": "truecolor"}, "", "▸ show".encode(), RED_BLOCK),
    ],
    ids=["kitty", "sixel", "half blocks", "ssh", "console"],
)
def test_each_terminal_shows_an_image_as_it_can(
    chat_with_image: Path,
    environment: Mapping[str, str],
    attributes: str,
    seen: bytes,
    unseen: bytes,
) -> None:
    terminal = Terminal(
        chat_with_image, "--chat", "1", environment=environment, attributes=attributes
    )
    terminal.wait_for(has("cat.png", "200×100", "A cat."))
    terminal.wait_for(lambda _: seen in terminal.drawn)
    assert unseen not in terminal.drawn
    terminal.type(CTRL_Q)
    assert terminal.wait_to_end() == 0

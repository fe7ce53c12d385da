"""Escape sequences in chats, files and pastes, and sudden ends, in a real terminal."""

from __future__ import annotations

import io
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatlm.store.store import Store
from chatlm.text import escape_controls
from chatlm.types.conversations import ContextPolicy
from chatlm.types.replies import StopReason, Usage
from tests import endless
from tests.end_to_end.terminal import (
    CTRL_L,
    CTRL_Q,
    CTRL_S,
    ENTER,
    ESCAPE,
    TAB,
    Terminal,
    has,
)
from tests.waiting import wait_until

SEQUENCES = (
    "\x1b]52;c;cHduZWQ=\x07",  # sets the clipboard
    "\x1b]0;pwned\x07",  # names the window
    "\x1b]8;;https://example.com/pwned\x1b\\",  # begins a link
    "\x1b[3J\x1b[33;44;5m\x9b3J",  # clears the scrollback, and blinks
    "\x1bP1$r0m\x1b\\\x90q\x9c",  # a device control string
    "\x1b_Gpwned\x1b\\\x1b^pwned\x1b\\",  # to the graphics, to whoever listens
    "\x1b[21t\x1b[6n\x1b[c\x05",  # has the terminal type its title, the place, its name
)
HOSTILE = "".join(SEQUENCES)
PAYLOAD = re.compile(
    rb"\x1b\](?!2;|22;|52;c;T3VycyA)|\x1b[P_^X]|\xc2[\x80-\x9f]|\x05"
    rb"|\x1b\[(?:3J|33;44;5m|21t|6n|c)"
)
"""Sequences that the program never writes: of OSC it uses the window's title, the pointer's shape
and the clipboard."""


ALTERNATE_SCREEN = b"\x1b[?1049h"

GRAPHICS_QUERY = b"\x1b[c"
"""What asks the terminal whether it draws images."""


class Recorded(Terminal):
    """Keeps every byte the program writes."""

    def __init__(self, home: Path, *arguments: str, folder: Path | None = None) -> None:
        super().__init__(home, *arguments, columns=120, lines=36, folder=folder)
        self._bytes = io.BytesIO()
        self.process.logfile_read = self._bytes

    def written(self) -> bytes:
        return self._bytes.getvalue()


@pytest.fixture
def open_chatlm(chat_home: Path, tmp_path: Path) -> Iterator[Callable[[], Recorded]]:
    """Opens chatlm on one home, as often as wanted; none outlives the test."""
    # time enough to interrupt a reply
    (chat_home / "config.toml").write_text('fast = "off"\n')
    opened: list[Recorded] = []

    def open_it() -> Recorded:
        opened.append(Recorded(chat_home, folder=tmp_path))
        return opened[-1]

    yield open_it
    for terminal in opened:
        terminal.process.close(force=True)


def test_no_sequence_of_a_text_reaches_the_terminal(
    open_chatlm: Callable[[], Recorded], chat_home: Path, tmp_path: Path
) -> None:
    with Store(chat_home / "chats.db") as store:
        chat = store.create_conversation(f"Title {HOSTILE}", system=f"System {HOSTILE}")
        turn = store.add_turn(chat.id, f"Message {HOSTILE}")
        reply = store.start_reply(turn.id, model=f"model {HOSTILE}", adapter=HOSTILE)
        text = f"Ours {HOSTILE}\n\n```\n{HOSTILE}\n```\n\n[link](https://example.com/{HOSTILE})"
        store.finish_reply(
            reply.id, text=text, stop_reason=StopReason.ERROR, usage=Usage(), error=HOSTILE
        )
        store.set_context_policy(turn.id, ContextPolicy.SUMMARISED, f"Summary {HOSTILE}")
        store.save_draft(chat.id, f"Draft {HOSTILE}")
    name = f"file{HOSTILE.replace('/', '-')}.txt"
    (tmp_path / name).write_text(f"Content {HOSTILE}", encoding="utf-8")

    terminal = open_chatlm()
    terminal.wait_for(has("Title ␛]52", "Write a message"))
    terminal.type(CTRL_L + ENTER)
    terminal.wait_for(has("Message", "Summary", "Ours", "Draft", "␛]52"))
    terminal.type(TAB)
    terminal.wait_for(has("c copy"))
    terminal.type("c")
    terminal.wait_for(has("Copied the reply"))
    for key, shown in (("i", "Details"), ("\x0f", "Settings")):
        terminal.type(key)
        terminal.wait_for(has(shown))
        terminal.type(ESCAPE)
        terminal.wait_for(lambda screen, shown=shown: shown not in screen)  # type: ignore[misc]
    terminal.type(CTRL_S + "Content")
    terminal.wait_for(has("No results for"))
    terminal.type(ESCAPE + "\x0e")
    terminal.wait_for(has("New chat"))
    terminal.type("@file")
    terminal.wait_for(has("file␛]52"))
    terminal.type(TAB)
    terminal.type(f"\x1b[200~Paste {HOSTILE}\x1b/quit\r\x1b\x11\x1b[201~")
    terminal.wait_for(has("Paste"))
    terminal.type(ENTER)
    terminal.wait_for(has("Content"))
    terminal.type(ESCAPE)
    terminal.wait_for(has("ctrl+r"))  # regenerate or answer
    terminal.type(CTRL_Q)
    assert terminal.wait_to_end() == 0

    opening, screen, written = terminal.written().partition(ALTERNATE_SCREEN)
    assert screen
    assert PAYLOAD.findall(opening) == [GRAPHICS_QUERY], "asked once, before any text is drawn"
    found = PAYLOAD.search(written)
    assert found is None, written[max(found.start() - 40, 0) : found.end() + 40]
    with Store(chat_home / "chats.db") as store:
        assert store.conversation(chat.id).title == f"Title {HOSTILE}"
        sent = store.conversation(2).turns[0].user.text
        assert f"Content {HOSTILE}" in sent, "a file is sent as it is"
        assert f"Paste {escape_controls(HOSTILE)}␛/quit\n␛␑" in sent, (
            "of a paste what is seen is sent"
        )


def stored_draft(home: Path) -> str:
    """The draft of the fork, on disk."""
    with Store(home / "chats.db") as store:
        return store.draft(2)


def test_a_kill_loses_a_second_at_most(
    open_chatlm: Callable[[], Recorded], chat_home: Path
) -> None:
    endless.install(chat_home)
    terminal = open_chatlm()
    terminal.wait_for(has("Write a message"))
    terminal.type("Write a long story about a lighthouse." + ENTER)
    terminal.wait_for(has("writing · "))
    terminal.type(ESCAPE)
    terminal.wait_for(has("ctrl+g continue"))
    terminal.type(TAB)
    terminal.wait_for(has("c copy"))
    terminal.type("p")
    terminal.wait_for(has("pinned"))
    terminal.type("f")
    terminal.wait_for(has("This is a fork"))
    terminal.type("half a thought")
    terminal.wait_for(has("half a thought"))
    wait_until(lambda: "half a thought" in stored_draft(chat_home))
    terminal.process.kill(signal.SIGKILL)
    terminal.wait_to_end()

    with Store(chat_home / "chats.db") as store:
        original, fork = (store.conversation(number) for number in (1, 2))
        assert original.turns[0].context_policy is ContextPolicy.PINNED
        assert original.turns[0].reply is not None
        assert fork.turns[0].reply is not None
        assert fork.turns[0].reply.text == original.turns[0].reply.text != ""
        assert fork.forked_from == original.id

"""A plugin's screen side in a real terminal: it works, it breaks, and the program goes on."""

from __future__ import annotations

from pathlib import Path

from tests.end_to_end.terminal import CTRL_Q, ENTER, Terminal, has

PLUGIN = """\
from chatlm import Panel, SlashCommand, hookimpl


def hello(ui, text):
    ui.notify("hello " + text)


def opened(ui):
    from textual.widgets import Static

    class Broken(Static):
        fine = True

        def on_mount(self):
            self.set_timer(0.3, self.spoil)

        def spoil(self):
            self.fine = False
            self.refresh()

        def render(self):
            if self.fine:
                return "good so far"
            raise ValueError("the ink ran out")

    return Broken()


@hookimpl
def register_slash_commands(register):
    register(SlashCommand("hello", "say hello", hello, argument="NAME"))


@hookimpl
def register_panels(register):
    register(Panel("broken", "Broken", opened))
"""


def test_a_panel_breaks_in_a_terminal_and_the_program_goes_on(chat_home: Path) -> None:
    (chat_home / "plugins").mkdir()
    (chat_home / "plugins" / "inky.py").write_text(PLUGIN)
    terminal = Terminal(chat_home)
    try:
        terminal.wait_for(has("Write a message"))
        terminal.type("/broken" + ENTER)
        terminal.wait_for(has("good so far", "/broken close"))
        terminal.wait_for(has("inky failed", "ink ran out"))
        terminal.wait_for(lambda shown: "/broken close" not in shown)
        terminal.type("/hello world" + ENTER)
        terminal.wait_for(has("hello world"))
        terminal.type(CTRL_Q)
        assert terminal.wait_to_end() == 0
    finally:
        terminal.process.close(force=True)
    log = next((chat_home).rglob("chatlm.log")).read_text()
    assert "the ink ran out" in log
    assert "Traceback" in log

"""Plugins that hang, leave threads behind or raise Ctrl-C: the program names them and ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from chatlm.store.store import Store
from tests.end_to_end.terminal import CTRL_C, CTRL_Q, ENTER, ESCAPE, Terminal, has
from tests.waiting import PATIENCE

PARROT = """
import os, signal, sys, threading, time
import chatlm
from chatlm.testing import ScriptedEngine

@chatlm.hookimpl
def register_engines(register):
    register("parrot", lambda name: ScriptedEngine(*["Here I am."] * 9))
"""

HANGS = """
@chatlm.hookimpl
def {hook}():
    (chatlm.data_dir() / "hangs").touch()
    time.sleep(10**6)
"""

LEAVES_THREAD = """
threading.Thread(target=time.sleep, args=(10**6,)).start()
"""

QUICK_EXIT = 60.0
"""Far more seconds than an exit takes on any machine, and far fewer than the plugins sleep."""


@pytest.fixture
def parrot_home(home: Path) -> Path:
    """A home with a scripted model, and without the plugins that are slow to load models."""
    (home / "plugins").mkdir(parents=True)
    (home / "config.toml").write_text('model = "parrot:x"\ndisabled_plugins = ["emotion"]\n')
    return home


def add_plugin(home: Path, code: str) -> None:
    (home / "plugins" / "odd.py").write_text(PARROT + code)


@pytest.fixture
def terminal(parrot_home: Path) -> Iterator[Terminal]:
    add_plugin(parrot_home, HANGS.format(hook="write_message"))
    opened = Terminal(parrot_home)
    yield opened
    opened.process.close(force=True)


def has_sane_end(output: bytes) -> bool:
    """Whether the terminal was given back: its own screen, its cursor, no mouse, no traceback."""
    tail = output[output.rfind(b"\x1b[?1049l") :]
    return b"\x1b[?1049l" in tail and b"\x1b[?25h" in tail and b"Traceback" not in output


def test_quitting_does_not_wait_for_a_hook_that_hangs(terminal: Terminal, home: Path) -> None:
    terminal.wait_for(has("scripted"))
    terminal.type("Hello" + ENTER)
    terminal.wait_for(has("waiting for the plugin odd in write_message"))
    terminal.type(CTRL_Q)
    terminal.type(CTRL_C + CTRL_C)
    terminal.process.expect(pexpect.EOF, timeout=QUICK_EXIT)
    assert has_sane_end(terminal.process.before)
    with Store(home / "chats.db") as store:
        assert store.conversation(1).turns[0].user.text == "Hello"


def test_escape_goes_on_without_it(terminal: Terminal) -> None:
    terminal.wait_for(has("scripted"))
    terminal.type("Hello" + ENTER)
    terminal.wait_for(has("waiting for the plugin odd in write_message"))
    terminal.type(ESCAPE)
    terminal.wait_for(has("Here I am.", "did not return in write_message"))
    terminal.type(CTRL_Q)
    assert terminal.wait_to_end() == 0


@pytest.mark.parametrize("presses", [1, 2])
@pytest.mark.parametrize("hook", ["write_message", "turn_finished", "startup"])
def test_ctrl_c_leaves_ask_though_a_hook_hangs(parrot_home: Path, hook: str, presses: int) -> None:
    add_plugin(parrot_home, HANGS.format(hook=hook))
    command = [sys.executable, "-m", "chatlm", "ask", "--chat", "1", "Hello"]
    with Store(parrot_home / "chats.db") as store:
        store.create_conversation()
    asking = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)  # fmt: skip
    deadline = time.monotonic() + PATIENCE
    while not (parrot_home / "hangs").exists() and hook != "turn_finished":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if hook == "turn_finished":  # which ask does not wait for: it ends by itself
        assert asking.wait(QUICK_EXIT) == 0
    for _ in range(presses):
        asking.send_signal(signal.SIGINT)
    out, err = asking.communicate(timeout=QUICK_EXIT)
    if hook != "turn_finished":
        assert asking.returncode in (130, -signal.SIGINT), err
        assert presses == 2 or asking.returncode == 130
    else:
        assert "Here I am." in out
    assert "Traceback" not in out + err


def test_ask_names_the_hook_that_hangs(parrot_home: Path) -> None:
    add_plugin(parrot_home, HANGS.format(hook="write_message"))
    asking = subprocess.Popen(
        [sys.executable, "-m", "chatlm", "ask", "Hello"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert asking.stderr is not None
    assert asking.stderr.readline() == (
        "Waiting for the plugin odd (write_message); Ctrl-C stops.\n"
    )
    asking.send_signal(signal.SIGINT)
    assert asking.wait(QUICK_EXIT) == 130
    asking.stderr.close()


def run_chatlm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chatlm", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=QUICK_EXIT,
    )


@pytest.mark.parametrize("arguments", [("ask", "Hello"), ("plugins", "list")])
def test_threads_that_never_end_do_not_keep_the_process(
    parrot_home: Path, arguments: tuple[str, ...]
) -> None:
    add_plugin(parrot_home, LEAVES_THREAD)
    done = run_chatlm(*arguments)
    assert done.returncode == 0, done.stderr
    assert ("Here I am." if arguments[0] == "ask" else "odd") in done.stdout


def test_the_exit_code_is_the_commands_though_a_thread_never_ends(parrot_home: Path) -> None:
    add_plugin(parrot_home, LEAVES_THREAD)
    assert run_chatlm("ask", "--no-such-option", "Hello").returncode == 2


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit(3)"])
def test_a_plugin_that_ends_its_import_ends_nothing_else(parrot_home: Path, error: str) -> None:
    (parrot_home / "plugins" / "good.py").write_text(PARROT)
    add_plugin(parrot_home, f"raise {error}\n")
    listed = run_chatlm("plugins", "list")
    assert listed.returncode == 0
    assert "rag" in listed.stdout
    assert f"import: {error.replace('(3)', ': 3')}" in listed.stdout
    assert "Here I am." in run_chatlm("ask", "Hello").stdout


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit(3)"])
def test_a_plugin_that_ends_its_hooks_ends_nothing_else(parrot_home: Path, error: str) -> None:
    hooks = ("startup", "write_message", "turn_finished", "shutdown")
    add_plugin(
        parrot_home,
        "".join(f"@chatlm.hookimpl\ndef {hook}():\n    raise {error}\n" for hook in hooks),
    )
    done = run_chatlm("ask", "Hello")
    assert (done.returncode, done.stdout) == (0, "Here I am.\n"), done.stderr
    for hook in hooks[:-1]:
        assert f"The plugin odd failed in {hook}: {error.partition('(')[0]}" in done.stderr
    assert f"shutdown: {error.partition('(')[0]}" in run_chatlm("plugins", "list").stdout


def test_a_plugins_command_that_raises_ctrl_c_is_named(parrot_home: Path) -> None:
    add_plugin(
        parrot_home,
        "import click\n@click.command()\ndef odd():\n    raise KeyboardInterrupt\n"
        "@chatlm.hookimpl\ndef register_commands(cli):\n    cli.add_command(odd)\n",
    )
    done = run_chatlm("odd")
    assert done.returncode == 130
    assert "The command odd of the plugin odd was interrupted." in done.stderr


def test_a_signal_that_a_hook_raises_does_not_end_the_chat(parrot_home: Path) -> None:
    add_plugin(
        parrot_home,
        "@chatlm.hookimpl\ndef write_message(text):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(0.5)\n    return text.upper()\n",
    )
    terminal = Terminal(parrot_home)
    try:
        terminal.wait_for(has("scripted"))
        terminal.type("Hello" + ENTER)
        terminal.wait_for(has("SIGINT came while the plugin odd ran write_message", "Here I am."))
        terminal.type(CTRL_Q)
        assert terminal.wait_to_end() == 0
    finally:
        terminal.process.close(force=True)


ENDS_IN_WIDGETS = """
def open_panel(where):
    from textual.widgets import Static

    class Ends(Static):
        def on_mount(self):
            if where == "worker":
                self.run_worker(self.work())
            else:
                getattr(self, where)(self.end)

        async def work(self):
            self.end()

        def end(self):
            raise ERROR

    return Ends("a panel")

@chatlm.hookimpl
def register_panels(register):
    for name in ("worker", "call_next", "call_later"):
        panel = name.replace("_", "-")
        register(chatlm.Panel(panel, panel, lambda ui, name=name: open_panel(name)))
"""


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit(3)"])
def test_a_widget_that_ends_the_program_is_closed(parrot_home: Path, error: str) -> None:
    add_plugin(parrot_home, ENDS_IN_WIDGETS.replace("ERROR", error))
    terminal = Terminal(parrot_home, columns=160)
    try:
        terminal.wait_for(has("scripted"))
        for name in ("worker", "call-next", "call-later"):
            terminal.type(f"/{name}{ENTER}")
            terminal.wait_for(has(f"failed in panel {name}"))
        terminal.type("Hello" + ENTER)
        terminal.wait_for(has("Here I am."))
        terminal.type(CTRL_Q)
        assert terminal.wait_to_end() == 0
    finally:
        terminal.process.close(force=True)


def test_a_plugin_that_closes_all_files_loses_no_message(parrot_home: Path) -> None:
    closes = "@chatlm.hookimpl\ndef retrieve_passages():\n    os.closerange(3, 1024)\n"
    add_plugin(parrot_home, closes)
    done = run_chatlm("ask", "Hello")
    assert done.returncode == 1
    assert "chats.db could not be read or written" in done.stderr
    assert "Traceback" not in done.stderr
    with Store(parrot_home / "chats.db") as store:
        assert store.conversation(1).turns[0].user.text == "Hello"


def test_ask_refuses_to_answer_without_a_plugin_that_the_chat_uses(parrot_home: Path) -> None:
    (parrot_home / "plugins" / "good.py").write_text(PARROT)
    add_plugin(parrot_home, "raise LookupError('no such file')\n")
    assert "Here I am." in run_chatlm("ask", "Hello").stdout, "nothing uses it"
    with (parrot_home / "config.toml").open("a") as file:
        file.write('[plugins.odd]\nindex = "notes"\n')
    refused = run_chatlm("ask", "Hello")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "This chat uses the plugin odd, which failed in import: LookupError: no such file." in (
        refused.stderr
    )
    assert "Answer without it: --without odd" in refused.stderr
    assert "Here I am." in run_chatlm("ask", "--without", "odd", "Hello").stdout

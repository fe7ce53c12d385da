"""The command itself: quick help, errors in words, exit codes, completion, the log."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest

from chatlm import __version__
from chatlm.cli.main import COMMANDS, cli
from tests.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("home")

HEAVY = {"torch", "transformers", "textual", "sqlite3", "tomlkit", "huggingface_hub", "rich"}
PROGRAM = [sys.executable, "-m", "chatlm"]


def chatlm(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | environment,
        timeout=PATIENCE,
    )


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE
    )


def imported_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after running the code."""
    end = "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = python(code + end)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    help_code = "from chatlm.cli.main import main; assert main(['--help']) == 0"
    assert imported_by(help_code) & HEAVY == set()
    shown = chatlm("--help")
    assert shown.returncode == 0
    for name, (_, meaning) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(meaning)}$", shown.stdout, re.MULTILINE)


def test_importing_chatlm_imports_nothing_heavy_and_no_part_of_it() -> None:
    assert imported_by("import chatlm") & HEAVY == set()
    loaded = python(
        "import chatlm, sys; print([m for m in sys.modules if m.startswith('chatlm.')])"
    )
    assert loaded.stdout.strip() == "[]"
    assert imported_by("import chatlm; chatlm.Message; chatlm.Sampling") & HEAVY == set()
    assert "torch" not in imported_by("import chatlm; chatlm.ChatSession; chatlm.hookimpl")


def test_help_answers_at_once() -> None:
    """Beside Python with the libraries that any command needs, whatever the machine."""
    chatlm("--help")

    def fastest(work: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return min(times)

    bare = fastest(lambda: python("import click, pluggy, platformdirs"))
    assert fastest(lambda: chatlm("--help")) < 4 * bare


def test_the_short_help_is_that_of_the_commands() -> None:
    with cli.make_context("chatlm", ["logs"], resilient_parsing=True) as context:
        for name, (_, meaning) in COMMANDS.items():
            command = cli.get_command(context, name)
            assert command is not None
            assert command.get_short_help_str(200) == meaning


def test_every_command_has_an_example() -> None:
    with cli.make_context("chatlm", ["logs"], resilient_parsing=True) as context:
        left = [cli.get_command(context, name) for name in cli.list_commands(context)]
        seen = 0
        while left:
            command = left.pop()
            assert command is not None
            assert re.search(r"^ *Example: .*\bchatlm ", command.help or "", re.MULTILINE), (
                command.name
            )
            left += getattr(command, "commands", {}).values()
            seen += 1
    assert seen > 15


def test_version() -> None:
    assert chatlm("--version").stdout == f"chatlm {__version__}\n"


def test_without_a_terminal_the_screen_is_not_opened() -> None:
    done = chatlm()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: The chat UI needs a terminal.\n")
    assert "chatlm ask" in done.stderr


def test_options_that_do_not_go_together() -> None:
    done = chatlm("--model", "m", "chats", "list")
    assert done.returncode == 2
    assert "--model applies only to the chat UI" in done.stderr
    assert "chatlm chats --help" in done.stderr
    done = chatlm("--incognito", "--chat", "1")
    assert (done.returncode, "incognito" in done.stderr) == (2, True)


def test_an_unknown_command_names_the_nearest() -> None:
    done = chatlm("chat")
    assert done.returncode == 2
    assert "Did you mean chats?" in done.stderr
    assert "chatlm ask" in chatlm("What is the capital of France?").stderr


def test_errors_have_a_message_a_hint_and_an_exit_code(home: Path) -> None:
    done = chatlm("chats", "show", "12")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: no chat 12\nList your chats: chatlm chats list\n"
    home.joinpath("config.toml").write_text("model = ")
    done = chatlm("config", "show")
    assert done.returncode == 2
    assert f"Error: {home / 'config.toml'}, line 1, column 9: Invalid value." in done.stderr
    assert chatlm("chats", "show", "x").returncode == 2


def test_an_unexpected_error_is_logged_and_the_user_gets_a_sentence(home: Path) -> None:
    code = (
        "import sys; from chatlm.config import config\n"
        "def broken(): raise RuntimeError('boom \\x1b[31m')\n"
        "config.effective_settings = broken\n"
        "from chatlm.cli.main import main; sys.exit(main(['config', 'show']))"
    )
    done = python(code)
    log = home / "chatlm.log"
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: chatlm failed (RuntimeError); the details are in {log}.\nRead them: chatlm logs\n"
    )
    assert "Traceback" in log.read_text()
    shown = chatlm("logs", "-n", "1")
    assert shown.stdout == "RuntimeError: boom ␛[31m\n"
    assert "Traceback" not in shown.stdout
    debug = python("import os; os.environ['CHATLM_DEBUG'] = '1'\n" + code)
    assert "Traceback" in debug.stderr


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = chatlm("config", "path", CHATLM_HOME=str(tmp_path / "file" / "home"))
    assert (done.returncode, done.stderr) == (0, "")


def test_the_log_rotates_and_is_read_over_its_files(home: Path) -> None:
    code = (
        "import logging; from chatlm.config.logs import setup_logging\n"
        "setup_logging(); setup_logging()\n"
        "for n in range(30_000): logging.getLogger('chatlm.x').info('line %d %s', n, 'x' * 100)\n"
    )
    assert python(code).returncode == 0
    sizes = {path.name: path.stat().st_size for path in home.glob("chatlm.log*")}
    assert set(sizes) == {"chatlm.log", "chatlm.log.1", "chatlm.log.2"}
    assert max(sizes.values()) <= 1_000_000
    lines = chatlm("logs", "-n", "9000").stdout.splitlines()
    numbers = [int(line.split("line ")[1].split()[0]) for line in lines]
    assert numbers == list(range(21_000, 30_000))
    assert chatlm("logs", "-n", "0").stdout == ""


def test_logs_path_and_an_empty_log(home: Path) -> None:
    assert chatlm("logs", "--path").stdout == f"{home / 'chatlm.log'}\n"
    done = chatlm("logs")
    assert (done.returncode, done.stdout) == (0, "")
    assert "The log is empty" in done.stderr


def test_logs_follow_until_ctrl_c(home: Path) -> None:
    home.mkdir()
    log = home / "chatlm.log"
    log.write_text("one\ntwo\n")
    process = subprocess.Popen(
        [*PROGRAM, "logs", "-n", "1", "--follow"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "two\n"
    time.sleep(0.5)
    with log.open("a") as file:
        file.write("three é\x1b\nfo")
    assert process.stdout.readline() == "three é␛\n"
    log.write_text("new\n")
    assert process.stdout.readline() == "new\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 130


def test_ctrl_c_at_a_question_exits_130() -> None:
    from chatlm.config import paths
    from chatlm.store.store import Store

    with Store(paths.database_file()) as store:
        store.create_conversation("kept")
    child = pexpect.spawn(PROGRAM[0], [*PROGRAM[1:], "chats", "delete", "1"], encoding="utf-8")
    child.expect_exact("[y/N]: ")
    time.sleep(0.5)  # a signal just before the question is read would only be seen at the next key
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    with Store(paths.database_file()) as store:
        assert len(store.list_conversations()) == 1


def test_a_closed_pipe_is_no_error() -> None:
    from chatlm.config import paths
    from chatlm.store.store import Store

    with Store(paths.database_file()) as store:
        for number in range(300):
            store.create_conversation(f"title {number} " + "x" * 50)
    process = subprocess.Popen(
        [*PROGRAM, "chats", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.wait(timeout=PATIENCE)
    process.stderr.close()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    done = chatlm("completion", shell)
    assert done.returncode == 0
    assert f"_CHATLM_COMPLETE={shell}_complete" in done.stdout
    assert len(done.stderr.splitlines()) == 2
    assert f"chatlm completion {shell} >" in done.stderr


def complete(line: str) -> list[str]:
    words = line.split(" ")
    done = chatlm(_CHATLM_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    assert done.stderr == ""
    return [row.partition(",")[2] for row in done.stdout.splitlines() if row]


def test_completion_of_commands_keys_and_chats(home: Path) -> None:
    assert complete("chatlm c") == ["chats", "config", "completion"]
    assert complete("chatlm config set sampling.top") == [
        "sampling.top_k", "sampling.top_p", "sampling.top_n_sigma",
    ]  # fmt: skip
    assert complete("chatlm chats show ") == []
    assert not (home / "chats.db").exists()
    from chatlm.config import paths
    from chatlm.store.store import Store

    with Store(paths.database_file()) as store:
        for _ in range(11):
            store.create_conversation("a\x1b[31m")
    assert complete("chatlm chats show 1") == ["11", "10", "1"]
    assert complete("chatlm --chat 11") == ["11"]
    (home / "chats.db").write_bytes(b"broken" * 100)
    assert complete("chatlm chats show ") == []


def test_the_screen_gets_what_the_options_say() -> None:
    code = (
        "import sys, chatlm.tui\n"
        "chatlm.tui.run = lambda config, **more: print('RUN', config.model, config.device, more)\n"
        "from chatlm.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )

    def opened(*arguments: str) -> str:
        child = pexpect.spawn(sys.executable, ["-c", code, *arguments], encoding="utf-8")
        child.expect(pexpect.EOF)
        child.close()
        return f"{child.exitstatus} {child.before}".strip()

    assert chatlm("config", "set", "device", "cpu").returncode == 0
    assert chatlm("config", "set", "model", "mine").returncode == 0
    none = "{'incognito': False, 'conversation_id': None, 'project': ''}"
    assert opened() == f"0 RUN mine cpu {none}"
    assert opened("--model", "other") == f"0 RUN other cpu {none}"
    assert opened("--chat", "3") == f"0 RUN mine cpu {none.replace('None', '3')}"
    assert "'project': '.'" in opened("--project", ".")
    assert "'incognito': True" in opened("--incognito")
    assert opened("--model", " ").startswith("2 Error: --model: model must be a name")

"""`chatlm plugins` and the commands of plugins on the command line."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from tests.program import run_chatlm
from tests.waiting import PATIENCE

PLUGIN = '''\
from dataclasses import dataclass

import click

from chatlm import hookimpl


@dataclass(frozen=True)
class Settings:
    k: int = 4


@click.command()
def greet():
    """Say hello."""
    click.echo("hello")


@click.command()
def boom():
    """Break."""
    raise LookupError("no such thing")


@hookimpl
def register_commands(cli):
    cli.add_command(greet)
    cli.add_command(boom)
    cli.add_lazy("later", "no_such_module:command", "Never works.")
'''


@pytest.fixture
def folder(home: Path) -> Path:
    plugins = home / "plugins"
    plugins.mkdir(parents=True)
    return plugins


def chatlm(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_chatlm(*arguments, environment=environment)


def listed() -> dict[str, dict[str, Any]]:
    rows = json.loads(chatlm("plugins", "list", "--json").stdout)
    keys = {"name", "version", "source", "status", "error", "summary"}
    assert all(set(row) == keys for row in rows)
    return {row["name"]: row for row in rows}


def test_commands_of_plugins_stand_in_the_help_and_run(folder: Path) -> None:
    (folder / "mine.py").write_text(PLUGIN)
    for _ in range(2):  # asked, then remembered
        shown = chatlm("--help")
        assert "greet" in shown.stdout
        assert "Say hello." in shown.stdout
        assert "Never works." in shown.stdout
        assert shown.stderr == ""
    assert chatlm("greet").stdout == "hello\n"
    broken = chatlm("boom")
    assert broken.returncode == 1
    assert "The plugin mine failed in its command boom: LookupError: no such thing" in (
        broken.stderr
    )
    assert "Traceback" not in broken.stderr
    assert "failed in its command later" in chatlm("later").stderr
    assert "Did you mean greet?" in chatlm("great").stderr
    (folder / "mine.py").write_text(PLUGIN.replace("Say hello.", "Say hello to all."))
    assert "Say hello to all." in chatlm("--help").stdout
    assert chatlm("plugins", "disable", "mine").returncode == 0
    assert "greet" not in chatlm("--help").stdout


IN_GROUPS = PLUGIN.replace(
    "    cli.add_command(greet)\n    cli.add_command(boom)\n",
    "    for name in ('models', 'chats', 'config', 'plugins'):\n"
    "        cli.group_of(name).add_command(greet)\n"
    "        cli.group_of(name).add_command(boom)\n",
)


def test_plugins_add_commands_to_chatlms_own_groups(folder: Path) -> None:
    (folder / "mine.py").write_text(IN_GROUPS)
    for group in ("models", "chats", "config", "plugins"):
        for _ in range(2):  # loaded, then from the cache
            shown = chatlm(group, "--help")
            assert "Say hello." in shown.stdout
            assert shown.stderr == ""
        assert chatlm(group, "greet").stdout == "hello\n"
    broken = chatlm("models", "boom")
    assert broken.returncode == 1
    assert "The plugin mine failed in its command models boom: LookupError" in broken.stderr
    assert "greet" not in chatlm("--help").stdout
    assert "Did you mean greet?" in chatlm("models", "great").stderr
    helped = chatlm("models", "--help").stdout
    assert "List the models of an OpenAI-compatible" in helped
    assert "Delete what interrupted downloads left; models stay." in helped  # not cut off
    assert "Example: chatlm openai models" in chatlm("models", "remote", "--help").stdout


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ('cli.group_of("models").add_command(greet, "pull")', "pull already exists, from chatlm"),
        ('cli.group_of("logs").add_command(greet)', "has no group logs that takes commands"),
        ('cli.group_of("models").group_of("x")', "models has no groups"),
    ],
)
def test_a_command_in_a_group_that_is_not_valid_is_refused(
    folder: Path, code: str, error: str
) -> None:
    (folder / "mine.py").write_text(PLUGIN.replace("cli.add_command(greet)", code))
    assert error in chatlm("--help").stderr


def test_a_closed_pipe_is_no_failure_of_the_plugin(folder: Path) -> None:
    (folder / "mine.py").write_text(PLUGIN.replace("hello", "hello " * 100_000))
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "chatlm", "greet"],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert done.stderr == b""


def test_chatlms_own_commands_import_no_plugin(folder: Path) -> None:
    (folder / "mine.py").write_text("raise RuntimeError('imported')\n")
    for arguments in (["models", "show", "smollm2-135m-instruct"], ["logs"], ["--version"]):
        assert "imported" not in chatlm(*arguments).stderr
    assert "RuntimeError: imported" in chatlm("--help").stderr
    assert "RuntimeError: imported" in chatlm("--help").stderr


def test_a_command_cannot_take_the_place_of_chatlms_own(folder: Path) -> None:
    (folder / "mine.py").write_text(PLUGIN.replace("def greet", "def ask").replace("greet", "ask"))
    shown = chatlm("--help")
    assert "Ask one question" in shown.stdout
    assert "the command ask already exists, from chatlm" in shown.stderr


def test_list_enable_disable(folder: Path) -> None:
    (folder / "mine.py").write_text(PLUGIN)
    (folder / "bad.py").write_text("import no_such_thing\n")
    rows = listed()
    assert (rows["mine"]["status"], rows["mine"]["error"]) == ("on", None)
    assert rows["mine"]["source"] == str(folder / "mine.py")
    assert rows["bad"]["status"] == "failed"
    assert "no_such_thing" in rows["bad"]["error"]
    assert "bad is disabled" in chatlm("plugins", "disable", "bad").stdout
    assert listed()["bad"] == rows["bad"] | {"status": "off", "error": None}
    assert "bad is enabled" in chatlm("plugins", "enable", "bad").stdout
    assert "was already enabled" in chatlm("plugins", "enable", "bad").stdout
    wrong = chatlm("plugins", "disable", "mien")
    assert (wrong.returncode, "Did you mean mine?" in wrong.stderr) == (2, True)
    assert "mine" in chatlm("plugins", "list").stdout


def test_a_crash_is_reported_and_forgiven(folder: Path) -> None:
    (folder / "bomb.py").write_text("import os\nos._exit(9)\n")
    assert [chatlm("--help").returncode for _ in range(2)] == [9, 9]
    shown = chatlm("--help")
    assert shown.returncode == 0
    assert "Try it again: chatlm plugins enable bomb" in shown.stderr
    assert listed()["bomb"]["status"] == "crashed"
    (folder / "bomb.py").write_text(PLUGIN)
    assert listed()["bomb"]["status"] == "crashed"
    assert "bomb is enabled" in chatlm("plugins", "enable", "bomb").stdout
    assert listed()["bomb"]["status"] == "on"


def test_settings_of_a_plugin_are_shown_and_checked(home: Path, folder: Path) -> None:
    (folder / "mine.py").write_text(PLUGIN)
    line = next(x for x in chatlm("config", "show").stdout.splitlines() if "plugins.mine.k" in x)
    assert line.split() == ["plugins.mine.k", "4", "default"]
    assert chatlm("config", "set", "plugins.mine.k", "9").returncode == 0
    assert "[plugins.mine]\nk = 9\n" in (home / "config.toml").read_text()
    wrong = chatlm("config", "set", "plugins.mine.k", "many")
    assert wrong.returncode == 2
    assert "plugins.mine.k must be a whole number, not 'many'" in wrong.stderr
    assert "no setting 'plugins.mine.kk'" in chatlm("config", "set", "plugins.mine.kk", "1").stderr
    assert "Did you mean mine?" in chatlm("config", "set", "plugins.mien.k", "1").stderr
    assert "CHATLM_MINE_K" in chatlm("config", "show", CHATLM_MINE_K="3").stdout
    (home / "config.toml").write_text("[plugins.mine]\nk = 'x'\n")
    assert listed()["mine"]["status"] == "failed"
    assert "plugins.mine.k must be a whole number" in listed()["mine"]["error"]


def test_check_says_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    (folder / "mine.py").write_text(PLUGIN)
    good = chatlm("plugins", "check", "mine")
    assert good.returncode == 0, good.stdout
    hangs = tmp_path / "hangs.py"
    hangs.write_text(
        "import chatlm, time\nprint('noise')\n@chatlm.hookimpl\ndef turn_finished():\n"
        "    time.sleep(99)\n"
    )
    dies = tmp_path / "dies.py"
    dies.write_text("import os\nos._exit(7)\n")
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import chatlm, time\ntime.sleep(0.7)\n@chatlm.hookimpl\ndef turn_finished(): ...\n"
    )
    for file, said in (
        (hangs, "turn_finished: no result within 5 s"),
        (dies, "import: it ended the process with code 7"),
        (slow, "import: it took"),
    ):
        done = chatlm("plugins", "check", str(file))
        assert done.returncode == 1
        assert said in done.stdout
    assert chatlm("plugins", "check", "nothing").returncode == 2


WRONG_VALUES = """
import dataclasses

import chatlm


def broken(*arguments):
    raise LookupError("not there")


def broken_widget(ui, argument=""):
    from textual.widgets import Static
    from textual.screen import Screen

    class Broken(Static):
        def render(self):
            raise LookupError("in render")

    class Page(Screen):
        def compose(self):
            yield Broken()

    return Page() if PAGE else Broken()


@chatlm.hookimpl
def register_engines(register):
    register("parrot", broken)
    register("liar", lambda name: 3)
    register("refuses", refuses)


def refuses(name):
    raise chatlm.ModelError(f"There is no model {name}")


@chatlm.hookimpl
def register_templates(register):
    register("text", lambda values, raw_input, facts: "Hello")


@chatlm.hookimpl
def adjust_request(request):
    return dataclasses.replace(request, logits_processors=(broken,))


@chatlm.hookimpl
def register_panels(register):
    register(chatlm.Panel("words", "Words", broken_widget))
    register(chatlm.Panel("no good", "Words", broken_widget))


@chatlm.hookimpl
def turn_finished():
    print("debug output")
"""


def test_check_tries_what_hooks_register_and_return(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG_VALUES.replace("PAGE", "False"))
    done = chatlm("plugins", "check", str(tmp_path / "wrong.py"))
    assert done.returncode == 1
    for line in (
        "FAIL engine parrot: LookupError: not there",
        "FAIL engine liar: AttributeError: 'int' object has no attribute 'info'",
        "ok   engine refuses: works",
        "FAIL template text: TypeError: render returned str, not chatlm.RenderedTemplate",
        "FAIL processors and criteria: LookupError: not there",
        "FAIL register_panels: ValueError: the name 'no good' must be small letters",
        "FAIL panel words: LookupError: in render",
        "FAIL standard output: it printed 'debug output",
    ):
        assert line in done.stdout
    assert "FAIL turn_finished" not in done.stdout


def test_a_new_project_installs_passes_its_tests_and_is_a_plugin(
    home: Path, tmp_path: Path
) -> None:
    made = chatlm("plugins", "new", "demo", "--into", str(tmp_path))
    assert made.returncode == 0, made.stderr
    project = tmp_path / "chatlm-demo"
    venv.create(tmp_path / "venv", with_pip=False)
    python = str(tmp_path / "venv" / "bin" / "python")
    purelib = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    lines = [f"import site; site.addsitedir({folder!r})\n" for folder in site.getsitepackages()]
    (Path(purelib) / "host.pth").write_text("".join(lines))
    install = [python, "-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", "-e", "."]
    subprocess.run(install, cwd=project, check=True, timeout=PATIENCE)
    tests = [python, "-m", "pytest", "-q"]
    done = subprocess.run(tests, cwd=project, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout

    def run(*arguments: str) -> str:
        return subprocess.run(
            [python, "-m", "chatlm", *arguments],
            cwd=tmp_path, capture_output=True, text=True, check=True, timeout=PATIENCE,
        ).stdout  # fmt: skip

    assert "FAIL" not in run("plugins", "check", "demo")
    (row,) = (r for r in json.loads(run("plugins", "list", "--json")) if r["name"] == "demo")
    assert (row["version"], row["source"], row["status"]) == ("0.1.0", "chatlm-demo", "on")
    assert run("demo", "one two three") == "3\n"
    assert chatlm("plugins", "check", str(project)).returncode == 0
    again = chatlm("plugins", "new", "demo", "--into", str(tmp_path))
    assert (again.returncode, "cannot be created" in again.stderr) == (2, True)
    assert "not a valid name for a plugin" in chatlm("plugins", "new", "1x").stderr


def test_help_with_plugins_is_as_fast_as_without(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = "from chatlm.cli import command_groups as p; p.RootGroup._from_plugins = lambda *_: {};"
    run = "from chatlm.cli.main import main; main(['--help'])"

    def seconds(code: str) -> float:
        """Of the processor, which others on the machine do not change as they do the clock."""
        before = os.times()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        return (after.children_user + after.children_system) - (
            before.children_user + before.children_system
        )

    (folder / "mine.py").write_text(PLUGIN)
    seconds(run)
    both = [(seconds(alone + run), seconds(run)) for _ in range(9)]
    without, with_them = (min(times) for times in zip(*both, strict=True))
    with capsys.disabled():
        print(f" --help: {without * 1000:.0f} ms alone, {with_them * 1000:.0f} ms", end="")
    assert with_them - without < 0.05

"""chatlm.plugin_kit: options, chat state, progress, and what importing it costs."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import click
import pytest
from click.testing import CliRunner

from chatlm import Conversation, UsageError
from chatlm.plugin_kit.chat_state import choice_value, plugin_state, text_value
from chatlm.plugin_kit.options import complete_names, json_option
from chatlm.plugin_kit.progress import graceful_interrupt, progress_bar, pull_progress, step_bar


def test_no_module_but_screens_imports_textual_or_torch() -> None:
    code = (
        "import pkgutil, importlib, sys, chatlm.plugin_kit as kit\n"
        "names = {module.name for module in pkgutil.iter_modules(kit.__path__)}\n"
        "for name in names - {'screens'}: importlib.import_module(f'chatlm.plugin_kit.{name}')\n"
        "heavy = {'textual', 'rich', 'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
        "print(len(names), sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, heavy = done.stdout.split(maxsplit=1)
    assert int(count) > 3
    assert heavy.strip() == "[]"


def test_json_option_sets_as_json() -> None:
    @click.command()
    @json_option
    def show(as_json: bool) -> None:
        click.echo(as_json)

    assert CliRunner().invoke(show, []).output == "False\n"
    assert CliRunner().invoke(show, ["--json"]).output == "True\n"
    assert "--json  Print JSON." in CliRunner().invoke(show, ["--help"]).output


def test_names_are_completed_by_what_is_typed() -> None:
    command = click.Command("show")
    context, parameter = click.Context(command), click.Argument(["name"])
    complete = complete_names(lambda: ("soup", "salad", "bread"))
    assert [item.value for item in complete(context, parameter, "s")] == ["soup", "salad"]
    assert [item.value for item in complete(context, parameter, "x")] == []


def test_completion_offers_nothing_where_names_cannot_be_read() -> None:
    def fail() -> list[str]:
        raise UsageError("The disk is gone.")

    context, parameter = click.Context(click.Command("show")), click.Argument(["name"])
    assert complete_names(fail)(context, parameter, "") == []


def test_plugin_state_is_that_of_one_plugin() -> None:
    conversation = Conversation(1, plugin_data={"recipes": {"recipe": "soup"}})
    assert plugin_state(conversation, "recipes") == {"recipe": "soup"}
    assert plugin_state(conversation, "other") == {}


@pytest.mark.parametrize("value", [None, 3, ["soup"], {"a": 1}, True])
def test_values_of_another_type_are_ignored(value: object) -> None:
    assert text_value({"recipe": value}, "recipe", "none") == "none"
    assert choice_value({"taste": value}, "taste", ("sweet", "sour"), None) is None


def test_stored_values_are_returned() -> None:
    assert text_value({"recipe": ""}, "recipe", "none") == ""
    assert text_value({}, "recipe", None) is None
    assert choice_value({"taste": "sour"}, "taste", ("sweet", "sour"), "sweet") == "sour"
    assert choice_value({"taste": "bitter"}, "taste", ("sweet", "sour"), "sweet") == "sweet"


def test_first_ctrl_c_waits_for_the_step_and_the_second_does_not() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), graceful_interrupt() as should_stop:
        assert not should_stop()
        signal.raise_signal(signal.SIGINT)
        assert should_stop()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_is_left_alone_outside_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGINT)
    inside = []

    def work() -> None:
        with graceful_interrupt() as should_stop:
            inside.append((should_stop(), signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [(False, True)]


def test_progress_prints_tenths_and_new_notes_without_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress_bar() as progress:
        progress.update(0, None, "reading")
        progress.update(1, None, "reading")
        for done in range(0, 101, 5):
            progress.update(done, 100, "files\x1b[2J")
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert lines[0] == "reading"
    assert [line.split(" ")[0] for line in lines[1:]] == [str(tenth) for tenth in range(0, 101, 10)]
    assert "\x1b" not in shown.err
    assert not progress.cancelled


def test_step_bar_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with step_bar(10, "classifying") as advance:
        advance(10)
    assert capsys.readouterr() == ("", "")


def test_pull_progress_prints_each_stage_and_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with pull_progress() as report:
        report("download", 0, None)
        for done in range(0, 2001, 50):
            report("download", done, 2000)
        report("check", 0, None)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Downloading size not known yet"
    assert len(lines) == 12
    assert lines[-2:] == ["Downloading 2.0 kB of 2.0 kB", "Checking"]

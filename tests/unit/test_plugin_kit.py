"""chatlm.plugin_kit: options, chat state, progress, and what importing it costs."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import threading

import click
import numpy as np
import pytest
from click.testing import CliRunner

from chatlm import Conversation, UsageError
from chatlm.plugin_kit.chat_state import choice_value, plugin_state, text_value
from chatlm.plugin_kit.options import complete_names, json_option
from chatlm.plugin_kit.progress import graceful_interrupt, progress_bar, pull_progress, step_bar
from chatlm.plugin_kit.training import (
    EvaluatedProgress,
    TrainingProgress,
    TrainingStopped,
    braille_curve,
    describe_progress,
    render_progress,
    stop_on_interrupt,
    training_display,
)


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
    assert lines[-2:] == ["Downloading 100 %, 2.0 kB of 2.0 kB", "Checking"]


def test_the_curve_goes_down() -> None:
    falling = [(step, 3 - step / 50) for step in range(1, 101)]
    lines = braille_curve(falling, 100, 1.0, 3.0, (20, 4))
    assert [len(line) for line in lines] == [20] * 4
    left, right_end = [line[0] for line in lines], [line[-1] for line in lines]
    assert left[0] != "\u2800" == right_end[0]
    assert left[-1] == "\u2800" != right_end[-1]
    assert braille_curve([(1, 5.0)], 0, 5.0, 5.0, (2, 2))  # one loss, no steps known


def test_progress_is_described_and_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(100.0, 1000.0, 10.0).tolist())
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    progress = TrainingProgress(activity="loading the model")
    assert describe_progress(progress) == "loading the model …"
    progress.start(0, 40)
    progress.activity = ""
    progress.step, progress.tokens, progress.base_loss = 10, 500, 3.2
    progress.train_losses, progress.eval_losses = [(10, 2.5)], [(10, 2.75)]
    assert describe_progress(progress) == (
        "step 10/40 · 0:30 left · loss 2.500 · held-out 2.750 (base 3.200) · 25 tokens/s"
    )
    drawn = render_progress(progress, 60).plain.splitlines()
    assert drawn[0].startswith("  3.200")
    assert drawn[7].startswith("  2.500")
    assert len(drawn) == 9


def test_a_training_that_diverges_is_drawn() -> None:
    progress = TrainingProgress(total_steps=4, step=4)
    progress.train_losses = [(1, 2.5), (2, 2.0), (3, math.inf), (4, math.nan)]
    progress.measures = {"margin": [(2, 0.5), (3, 1.5), (4, math.nan)], "reward": [(4, -math.inf)]}
    drawn = render_progress(progress, 60).plain.splitlines()
    assert drawn[0].startswith("  2.500")
    assert drawn[8:10] == ["margin ▁█ ", "reward  "]
    assert "loss nan" in drawn[10]


def test_activities_before_the_first_step_have_no_time_left() -> None:
    progress = TrainingProgress(activity="loading the model")
    assert (progress.seconds_left, progress.tokens_per_second) == (None, None)
    progress.step, progress.tokens = 3, 90  # the clock does not run before `start`
    assert (progress.seconds_left, progress.tokens_per_second) == (None, None)


def test_the_speed_of_a_resumed_run_leaves_out_what_was_done_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter((100.0, 110.0, 110.0))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    before = EvaluatedProgress()
    before.add_step(loss=2.5, tokens=9000)
    progress = EvaluatedProgress()
    progress.restore(before.to_dict())
    progress.start(progress.step, 2)
    assert "tokens/s" not in describe_progress(progress)
    progress.add_step(loss=2.4, tokens=250)
    assert progress.tokens == 9250
    assert progress.tokens_per_second == pytest.approx(25)


def test_accuracy_is_shown_where_it_is_measured() -> None:
    progress = TrainingProgress(total_steps=4, step=4, accuracy=0.75, activity="measuring")
    assert describe_progress(progress) == "step 4/4 · accuracy 0.750 · measuring"


def test_training_prints_activities_tenths_and_evaluations_without_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with training_display() as listener:
        progress = TrainingProgress(activity="loading")
        listener.update(progress)
        listener.update(progress)
        progress.activity, progress.total_steps = "", 100
        for step in range(101):
            progress.step = step
            if step == 55:
                progress.eval_losses.append((55, 1.5))
            listener.update(progress)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "loading …"
    steps = [*range(0, 51, 10), 55, *range(60, 101, 10)]
    held_out = [" · held-out 1.500" if step >= 55 else "" for step in steps]
    assert lines[1:] == [
        f"step {step}/100{loss}" for step, loss in zip(steps, held_out, strict=True)
    ]


def test_second_ctrl_c_stops_training_with_a_hint() -> None:
    with pytest.raises(TrainingStopped) as stopped, stop_on_interrupt("Again.") as should_stop:
        signal.raise_signal(signal.SIGINT)
        assert should_stop(), "the first one waits for the step"
        signal.raise_signal(signal.SIGINT)
    assert (stopped.value.hint, stopped.value.exit_code) == ("Again.", 130)


def test_first_ctrl_c_stops_training_of_several_processes() -> None:
    stopping = stop_on_interrupt("Again.", after_step=False)
    with pytest.raises(TrainingStopped), stopping as should_stop:
        assert not should_stop()
        signal.raise_signal(signal.SIGINT)

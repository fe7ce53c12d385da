"""Training on votes beside a chat: the count of pairs, start, stop, go on, use the result."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from chatlm import ModelLocation, UsageError
from chatlm.plugin_host.hookspecs import PluginContext
from chatlm_lora import actions, card
from chatlm_lora.alignment import votes
from chatlm_lora.alignment.background import (
    BackgroundTraining,
    BackgroundTrainings,
    TrainingState,
    adapter_name,
)
from chatlm_lora.card import AdapterCard
from chatlm_lora.screens.alignment import AlignmentScreen
from tests.plugins.lora import adapter
from tests.plugins.test_lora_alignment import rows
from tests.plugins.ui import RememberingUi
from tests.tui.cards import CardApp, SnapCompare, both_sizes, everything_visible, hint, still
from tests.tui.support import plain, until
from tests.waiting import wait_until

MADE = AdapterCard(
    "votes-dpo",
    "trained",
    "smollm2-135m-instruct",
    created_at="2026-01-02T03:04:05+00:00",
    source={"data": "votes", "train": 240, "held_out": 60},
    settings={"method": "dpo", "beta": 0.1, "held_out": 0.2},
    scores={
        "held_out_loss_before": 0.693,
        "held_out_loss_after": 0.412,
        "fall": 0.405,
        "accuracy": 0.85,
        "margin": 6.1,
        "KL": 0.021,
        "answer_tokens": 61.0,
        "before": {"accuracy": 0.5, "margin": 0.0, "KL": 0.0, "answer_tokens": 118.0},
    },
    cost={"seconds": 412.0, "best_step": 60, "steps": 90},
    curves={
        "loss": ((15, 0.61), (30, 0.5), (45, 0.44), (60, 0.412), (75, 0.42)),
        "accuracy": ((15, 0.7), (30, 0.78), (45, 0.83), (60, 0.85), (75, 0.85)),
    },
)

PROGRAM = """
import json, signal, sys, time

def stop(*_):
    print("Error: Stopped after step 3 of 90; a checkpoint is kept.", file=sys.stderr, flush=True)
    sys.exit(130)

signal.signal(signal.SIGINT, stop)
words = sys.argv[1:]
print("reading the data …", file=sys.stderr, flush=True)
print("step 3/90 · loss 0.690", file=sys.stderr, flush=True)
if "ipo" in words:
    print("Error: it broke", file=sys.stderr)
    sys.exit(1)
if "kto" in words:
    time.sleep(600)
print(CARD)
"""


class ScriptedTrainings(BackgroundTrainings):
    """Starts a small program instead of chatlm: `ipo` fails, `kto` runs until it is stopped."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.words: list[Sequence[str]] = []
        self._program = folder / "program.py"
        text = json.dumps(MADE.to_dict())
        self._program.write_text(PROGRAM.replace("CARD", repr(text)), encoding="utf-8")

    def start(self, name: str, words: Sequence[str]) -> BackgroundTraining:
        self.words.append((name, *words))
        command = (sys.executable, str(self._program))
        self.current = BackgroundTraining(name, words, command)
        return self.current


@pytest.fixture
def trainings(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedTrainings:
    base = ModelLocation("tiny", tmp_path, "chat")
    monkeypatch.setattr(actions, "loaded_model", lambda ui: base)
    return ScriptedTrainings(tmp_path)


def screen(trainings: BackgroundTrainings, count: int = 300) -> AlignmentScreen:
    return AlignmentScreen(RememberingUi("lora"), lambda: rows(count), trainings)


def shown(pilot: Pilot[None]) -> str:
    return plain(pilot.app.screen.query_one("#progress", Static))


def pairs(pilot: Pilot[None]) -> str:
    return plain(pilot.app.screen.query_one("#pairs", Static))


async def test_votes_are_counted_and_trained_on(trainings: ScriptedTrainings) -> None:
    async with CardApp(screen(trainings)).run_test(size=(100, 40)) as pilot:
        await until(pilot, lambda: "300 pairs of 300 prompts." in pairs(pilot))
        assert "show whether it helped" in pairs(pilot)
        assert "Enter trains the adapter votes-dpo" in shown(pilot)
        await until(pilot, lambda: "train" in hint(pilot))
        await pilot.press("enter")
        await until(pilot, lambda: "prefers the better reply in 85% of 60" in shown(pilot))
        assert "answers of 118 → 61 tokens" in shown(pilot)
        assert "accuracy ▁▅▇██ 0.85" in shown(pilot)
        words = ("votes-dpo", "--data", "votes", "--method", "dpo", "--model", "tiny")
        assert trainings.words == [words]
        assert "use in this chat" in hint(pilot)


async def test_too_few_votes_cannot_be_trained_on(trainings: ScriptedTrainings) -> None:
    async with CardApp(screen(trainings, 7)).run_test(size=(100, 40)) as pilot:
        await until(pilot, lambda: "7 pairs of 7 prompts." in pairs(pilot))
        assert "18 more are needed to train" in pairs(pilot)
        await pilot.press("enter")
        assert "train" not in hint(pilot)
        assert trainings.words == []


async def test_a_training_is_stopped_and_goes_on_while_the_card_is_closed(
    trainings: ScriptedTrainings,
) -> None:
    first = screen(trainings)
    async with CardApp(first).run_test(size=(100, 40)) as pilot:
        await until(pilot, lambda: "300 pairs" in pairs(pilot))
        await pilot.press("down", "down")
        await until(pilot, lambda: "votes-kto" in shown(pilot))
        await pilot.press("enter")
        await until(pilot, lambda: "step 3/90" in shown(pilot))
        assert "Training votes-kto …" in shown(pilot)
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.screen is not first)
        again = screen(trainings)
        await pilot.app.push_screen(again)
        await until(pilot, lambda: "step 3/90" in shown(pilot))
        await pilot.press("s")
        await until(pilot, lambda: "continues votes-kto" in shown(pilot))
        assert "a checkpoint is kept" in shown(pilot)


async def test_a_failure_is_told(trainings: ScriptedTrainings) -> None:
    async with CardApp(screen(trainings)).run_test(size=(100, 40)) as pilot:
        await until(pilot, lambda: "300 pairs" in pairs(pilot))
        await pilot.press("down")
        await until(pilot, lambda: "votes-ipo" in shown(pilot))
        await pilot.press("enter")
        await until(pilot, lambda: "The training of votes-ipo failed." in shown(pilot))
        assert "it broke" in shown(pilot)


async def test_votes_that_cannot_be_read_are_told(trainings: ScriptedTrainings) -> None:
    def fail() -> Any:
        raise UsageError("There are no votes.", hint="Is the plugin arena switched off?")

    shown_card = AlignmentScreen(RememberingUi("lora"), fail, trainings)
    async with CardApp(shown_card).run_test(size=(100, 40)) as pilot:
        await until(pilot, lambda: "switched off?" in everything_visible(pilot))
        assert "Counting" not in everything_visible(pilot)


async def test_a_model_on_a_server_is_not_trained(
    trainings: ScriptedTrainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "loaded_model", lambda ui: None)
    async with CardApp(screen(trainings)).run_test(size=(100, 40)) as pilot:
        await until(pilot, lambda: "300 pairs" in pairs(pilot))
        await until(pilot, lambda: "train" in hint(pilot))
        await pilot.press("enter")
        await until(pilot, lambda: "Only a model on this machine" in everything_visible(pilot))


def test_the_name_is_free(home: Path) -> None:
    assert adapter_name("dpo") == "votes-dpo"
    adapter(home / "adapters" / "votes-dpo")
    assert adapter_name("dpo") == "votes-dpo-2"


def test_votes_come_from_the_service(home: Path) -> None:
    class Votes:
        def pairs(self, judge: str) -> Sequence[dict[str, Any]]:
            return [{"judge": judge}]

    from chatlm import Config

    votes.use_services_of(PluginContext(Config(), home, find_service=lambda name: Votes()))
    assert votes.read_own_votes() == [{"judge": "human"}]
    votes.use_services_of(PluginContext(Config(), home))
    with pytest.raises(UsageError, match="no votes"):
        votes.read_own_votes()


def test_it_really_trains_in_a_process_of_its_own(
    home: Path, tmp_path: Path, base: ModelLocation
) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows())))
    words = ["--data", str(path), "-m", base.name, "--epochs", "1", "--learning-rate", "0.02"]
    training = BackgroundTraining("mine", words)
    wait_until(lambda: not training.is_running)
    assert training.state is TrainingState.DONE, training.lines
    assert card.read_card(home / "adapters" / "mine") == AdapterCard.from_dict(training.card)
    assert any(line.startswith("step 3/") for line in training.lines)


@both_sizes
def test_picture_of_the_methods(
    snap_compare: SnapCompare, size: tuple[int, int], trainings: ScriptedTrainings
) -> None:
    @still
    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "300 pairs" in pairs(pilot))
        await until(pilot, lambda: "train" in hint(pilot))

    assert snap_compare(CardApp(screen(trainings)), terminal_size=size, run_before=steps)


@both_sizes
def test_picture_of_the_result(
    snap_compare: SnapCompare, size: tuple[int, int], trainings: ScriptedTrainings
) -> None:
    @still
    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "300 pairs" in pairs(pilot))
        await until(pilot, lambda: "train" in hint(pilot))
        await pilot.press("enter")
        await until(pilot, lambda: "85% of 60" in shown(pilot))

    assert snap_compare(CardApp(screen(trainings)), terminal_size=size, run_before=steps)

"""The arena in a real terminal with the real default model: votes outlive quitting and kill -9."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatlm import Sampling, Setup
from chatlm_arena.judging import CRITERIA
from chatlm_arena.store import store as store_module
from tests.end_to_end.terminal import CTRL_C, CTRL_Q, ENTER, ESCAPE, Terminal, has, has_after
from tests.plugins.arena import chatlm

QUESTION = "Name a colour."
VOTE = has("Which answer is better?", "b both bad")
REVEALED = has("Press Enter for the next match.", "Elo", "hot", "cold", "enter next match")


def asking(shown: str) -> bool:
    """Tell whether the next match may begin; the footer of the last one offers "esc close" too."""
    asked = "Two of these answer" in shown and "esc close" in shown
    return asked and "enter next match" not in shown


@pytest.fixture
def open_arena(chat_home: Path) -> Iterator[Callable[[], Terminal]]:
    """Opens the arena on one home with two contestants, as often as wanted."""
    with store_module.open_arena_store() as store:
        for name, temperature in (("hot", 1.5), ("cold", 0.0)):
            sampling = Sampling(temperature=temperature, max_tokens=12)
            store.add_contestant(name, Setup(sampling=sampling))
    opened: list[Terminal] = []

    def open_it() -> Terminal:
        opened.append(Terminal(chat_home, "arena"))
        return opened[-1]

    yield open_it
    for terminal in opened:
        terminal.process.close(force=True)


def play(terminal: Terminal, key: str) -> None:
    """One match from its message to its vote."""
    terminal.wait_for(asking)
    terminal.type(QUESTION)
    terminal.wait_for(has(QUESTION))
    terminal.type(ENTER)
    seen = terminal.wait_for(VOTE)
    assert "temperature" not in seen
    assert "Elo" not in seen
    terminal.type(key)
    terminal.wait_for(REVEALED)


def games() -> dict[str, int]:
    """From the leaderboard on the command line, in a process of its own."""
    done = chatlm("arena", "leaderboard", "--json")
    assert done.returncode == 0, done.stderr
    return {row["name"]: row["games"] for row in json.loads(done.stdout)}


def test_matches_undo_quit_and_the_leaderboard(open_arena: Callable[[], Terminal]) -> None:
    terminal = open_arena()
    for key in "lb":
        play(terminal, key)
        terminal.type(ENTER)
    terminal.wait_for(asking)
    terminal.type(ESCAPE)
    terminal.wait_for(has("Write a message"))
    terminal.type("/arena ratings" + ENTER)
    terminal.wait_for(has("Ratings", "hot", "cold", "Not enough votes yet"))
    terminal.type(ESCAPE)
    terminal.wait_for(lambda shown: "Not enough votes" not in shown)
    terminal.type("/arena" + ENTER)
    play(terminal, "r")
    terminal.type("u")
    terminal.wait_for(has("Undone", "right was better"))
    terminal.type(CTRL_Q)
    assert terminal.wait_to_end() == 0
    assert games() == {"hot": 2, "cold": 2}

    again = open_arena()
    again.wait_for(asking)
    play(again, "t")
    again.wait_for(has("f ratings"))
    again.type("f")
    again.wait_for(has("Ratings", "unknown"))
    again.type(CTRL_Q)
    assert again.wait_to_end() == 0
    assert games() == {"hot": 3, "cold": 3}


def test_kill_9_in_a_match_loses_no_vote(open_arena: Callable[[], Terminal]) -> None:
    terminal = open_arena()
    play(terminal, "l")
    terminal.type(ENTER)
    terminal.wait_for(asking)
    terminal.type(QUESTION)
    terminal.wait_for(has(QUESTION))
    terminal.type(ENTER)
    terminal.wait_for(lambda shown: not asking(shown))
    terminal.process.kill(signal.SIGKILL)
    assert terminal.wait_to_end() is None
    assert games() == {"hot": 1, "cold": 1}

    again = open_arena()
    play(again, "t")
    again.process.kill(signal.SIGKILL)
    assert again.wait_to_end() is None
    assert games() == {"hot": 2, "cold": 2}


def test_a_stopped_tournament_says_how_to_resume(
    open_arena: Callable[[], Terminal], chat_home: Path, tmp_path: Path
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(f'{{"prompt": "Count to {n}."}}\n' for n in range(500)))
    running = Terminal(chat_home, "arena", "run", "--prompts", str(path), "--judge", "human")
    running.wait_for(
        lambda shown: re.search(r"^\S+: loading\n(?:.*\n)?Answers .* \d%  \d", shown, re.MULTILINE)
    )
    running.type(CTRL_C)
    running.wait_for(has("run the same command again to resume"))
    assert running.wait_to_end() == 130
    assert 0 < len(replies(chat_home)) < 1000


def replies(home: Path) -> list[tuple[int, str]]:
    with sqlite3.connect(home / "arena.db") as db:
        return db.execute("SELECT id, text FROM reply WHERE run_id IS NOT NULL").fetchall()


def test_a_tournament_resumes_after_kill_9_and_a_human_judges(
    open_arena: Callable[[], Terminal], chat_home: Path, tmp_path: Path
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(f'{{"prompt": "Say {n}."}}\n' for n in ("one", "two", "three")))
    command = ["arena", "run", "--prompts", str(path), "--judge", "human", "--likert"]
    running = subprocess.Popen(
        [sys.executable, "-m", "chatlm", *command],
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert running.stderr is not None
    for line in running.stderr:
        if "Answers 1" in line or "Answers 3" in line:
            break
    running.kill()
    running.wait()
    running.stderr.close()
    before = replies(chat_home)
    assert before

    judging = Terminal(chat_home, *command)
    for number in (1, 2, 3):
        match = f"Match {number} of 3"
        judging.wait_for(has(match))
        judging.wait_for(has_after(match, "LEFT", "RIGHT", "[s]:"))
        judging.type("lts"[number - 1] + ENTER)
        for side in ("left", "right"):
            for criterion in CRITERIA:
                judging.wait_for(has_after(match, f"{side}: {criterion}, -2 to 2:"))
                judging.type("1" + ENTER)
                judging.wait_for(has_after(match, f"{side}: {criterion}, -2 to 2: 1"))
    judging.wait_for(has("Matches with a verdict: 2, without: 0.", "factual accuracy 1.00"))
    assert judging.wait_to_end() == 0
    assert replies(chat_home)[: len(before)] == before
    assert len(replies(chat_home)) == 6
    assert games() == {"hot": 2, "cold": 2}

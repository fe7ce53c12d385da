"""Kill chatlm, attack it and use it for a long time; count the attempts that lose data.

Run it from a checkout with `python -m benchmarks.endurance`. Every attempt drives the installed
program in a pseudo-terminal, with the real default model and an empty home of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path

from chatlm.hub import pull
from chatlm.store.store import Store
from chatlm.types.conversations import Turn
from tests import endless, models
from tests.end_to_end.terminal import CTRL_Q, ENTER, Terminal, has, tokens

CLEAR_LINE = "\x15"


@dataclass(frozen=True)
class Result:
    """The outcome of one kind of attempt."""

    attempts: str
    count: int
    lost: int
    """Attempts after which something was missing, damaged or disabled."""
    note: str = ""


@contextmanager
def new_home(*model_names: str) -> Iterator[Path]:
    """Make an empty home that has these models."""
    folders = [pull.ensure_model(name).folder for name in model_names]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        for model in folders:
            models.lend(home, model)
        yield home


def stored_turns(home: Path) -> list[Turn]:
    """Return all turns of all chats; fail if the database is damaged."""
    database = home / "chats.db"
    if not database.exists():
        return []
    with closing(sqlite3.connect(database)) as connection:
        if connection.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            raise AssertionError("the database is damaged")
    with Store(database) as store:
        chats = [store.conversation(chat.id) for chat in store.list_conversations()]
    return [turn for chat in chats for turn in chat.turns]


def kill(terminal: Terminal) -> None:
    """Kill the program with SIGKILL and wait for its end."""
    terminal.process.kill(signal.SIGKILL)
    terminal.process.close(force=True)


def kill_during_replies(count: int, chance: random.Random) -> Result:
    """Kill the UI while a reply streams: message, and the reply shown a second ago, are stored."""
    lost = 0
    with new_home(models.DEFAULT) as home:
        endless.install(home)
        for number in range(count):
            question = f"Tell me story number {number}."
            terminal = Terminal(home)
            terminal.wait_for(has("Write a message"))
            terminal.type(question)
            terminal.wait_for(has(question))
            terminal.type(ENTER)
            terminal.wait_for(partial(shows_tokens, chance.randint(1, 60)))
            waited = chance.uniform(0, 1.5)
            time.sleep(waited)
            kill(terminal)
            turns = [turn for turn in stored_turns(home) if turn.display_text == question]
            reply = turns[0].reply if turns else None
            lost += reply is None or (waited > 1 and not reply.text)
    return Result("kill -9 while a reply streams", count, lost)


def shows_tokens(count: int, shown: str) -> bool:
    """Return whether the line below the reply counts this many tokens."""
    return tokens(shown) >= count


def kill_in_the_first_second(count: int, chance: random.Random) -> Result:
    """Kill the UI while it starts: no plugin is disabled afterwards."""
    lost = 0
    with new_home(models.DEFAULT) as home:
        environment = {**os.environ, "CHATLM_HOME": str(home)}
        for number in range(count):
            terminal = Terminal(home)
            time.sleep(chance.random())
            end = signal.SIGHUP if number % 4 == 3 else signal.SIGKILL
            terminal.process.kill(end)
            terminal.process.close(force=True)
            listed = subprocess.run(
                [sys.executable, "-m", "chatlm", "plugins", "list", "--json"],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            plugins = json.loads(listed.stdout)
            lost += any(plugin["status"] != "on" for plugin in plugins)
    return Result("kill -9 or SIGHUP in the first second", count, lost)


def kill_during_first_messages(count: int, chance: random.Random) -> Result:
    """Kill the UI right after the first message, while the index loads its embedder."""
    lost = 0
    with new_home(models.DEFAULT, models.EMBEDDER) as home:
        environment = {**os.environ, "CHATLM_HOME": str(home)}
        note = home.parent / "note.md"
        note.write_text("The harbour of Aldport closes at nine.\n", encoding="utf-8")
        command = [sys.executable, "-m", "chatlm"]
        for arguments in (
            ["rag", "build", "notes", str(note)],
            ["config", "set", "plugins.rag.index", "notes"],
        ):
            subprocess.run([*command, *arguments], env=environment, check=True, capture_output=True)
        for number in range(count):
            question = f"When does harbour {number} close?"
            terminal = Terminal(home)
            terminal.wait_for(has("ctrl+q  quit"))
            terminal.type(CLEAR_LINE)
            terminal.wait_for(has("Write a message"))
            terminal.type(question)
            terminal.wait_for(has(question))
            terminal.type(ENTER)
            time.sleep(chance.uniform(0, 2))
            kill(terminal)
            if question not in [turn.display_text for turn in stored_turns(home)]:
                lost += not is_draft(home, question)
    return Result("kill -9 after the first message, with an index", count, lost)


def is_draft(home: Path, text: str) -> bool:
    """Tell whether a new UI has this text in the composer: Enter had not been handled yet."""
    terminal = Terminal(home)
    terminal.wait_for(has("ctrl+q  quit"))
    try:
        terminal.wait_for(lambda shown: text in shown or "Write a message" in shown)
        return text in terminal.shown()
    finally:
        kill(terminal)


def leave_half_open_connections(count: int) -> Result:
    """Open connections to `chatlm serve` that send a byte now and then: the server closes them."""
    with new_home(models.DEFAULT) as home, serve(home) as port:
        sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
        for each in sockets:
            each.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        deadline = time.monotonic() + 90
        open_ones = set(sockets)
        while open_ones and time.monotonic() < deadline:
            for each in list(open_ones):
                try:
                    each.sendall(b"X")
                    each.settimeout(0.01)
                    if each.recv(4096) == b"":
                        open_ones.discard(each)
                except TimeoutError:
                    continue
                except OSError:
                    open_ones.discard(each)
            time.sleep(1)
        lost = len(open_ones)
        for each in sockets:
            each.close()
        answered = models_are_listed(port)
    note = "the server still answers" if answered else "the server no longer answers"
    return Result("half-open connections, still open after 90 s", count, lost, note)


@contextmanager
def serve(home: Path) -> Iterator[int]:
    """Run `chatlm serve` on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "chatlm", "serve", "--port", str(port)],
        env={**os.environ, "CHATLM_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not models_are_listed(port):
            if process.poll() is not None:
                raise AssertionError(f"chatlm serve ended with exit code {process.returncode}")
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait()


def models_are_listed(port: int) -> bool:
    """Return whether the server answers."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/v1/models")
        return connection.getresponse().status == HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()


def talk_past_a_full_context(turns: int) -> Result:
    """Continue for many turns after the context is full: time and memory per turn stay flat."""
    with new_home(models.DEFAULT) as home:
        (home / "config.toml").write_text(
            "context = 1024\n[sampling]\nmax_tokens = 24\n", encoding="utf-8"
        )
        terminal = Terminal(home)
        terminal.wait_for(has("Write a message"))
        process = Path("/proc") / str(terminal.process.pid)
        seconds: list[float] = []
        memory: list[float] = []
        for number in range(turns):
            before = cpu_seconds(process)
            terminal.type(f"Name city number {number}.")
            terminal.wait_for(has(f"city number {number}."))
            press_enter_until(terminal, partial(has_turns, home, number + 1))
            terminal.wait_for(lambda _: is_answered(last_chat(home)))
            seconds.append(cpu_seconds(process) - before)
            memory.append(resident_mb(process))
        terminal.type(CTRL_Q)
        terminal.wait_to_end()
        terminal.process.close(force=True)
        kept = len(stored_turns(home))
    tenth = max(1, turns // 10)
    series = [
        (statistics.median(seconds[at : at + tenth]), statistics.median(memory[at : at + tenth]))
        for at in range(0, turns - tenth + 1, tenth)
    ]
    note = "median of each tenth of the turns: " + ", ".join(
        f"{cpu:.2f} s CPU {megabytes:.0f} MB" for cpu, megabytes in series
    )
    return Result("turns, most past a full context of 1,024 tokens", turns, turns - kept, note)


def cpu_seconds(process: Path) -> float:
    """Return the CPU time of a process."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(process: Path) -> float:
    """Return the memory of a process in MB."""
    pages = int((process / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def press_enter_until(terminal: Terminal, condition: Callable[[str], bool]) -> None:
    """Send the message in the composer, which is refused until the last turn has ended."""
    pressed_at = 0.0

    def is_sent(shown: str) -> bool:
        nonlocal pressed_at
        if condition(shown):
            return True
        if time.monotonic() > pressed_at + 1:
            pressed_at = time.monotonic()
            terminal.type(ENTER)
        return False

    terminal.wait_for(is_sent)


def last_chat(home: Path) -> Sequence[Turn]:
    """Return the turns of the newest chat; none if there is no chat."""
    with Store(home / "chats.db") as store:
        chats = store.list_conversations()
        return store.conversation(chats[0].id).turns if chats else ()


def has_turns(home: Path, count: int, shown: str) -> bool:
    """Return whether the newest chat has that many turns."""
    return len(last_chat(home)) >= count


def is_answered(turns: Sequence[Turn]) -> bool:
    """Return whether the last turn has its complete reply."""
    reply = turns[-1].reply
    return reply is not None and reply.stop_reason is not None


def main() -> None:
    """Run all attempts and print a table."""
    parser = argparse.ArgumentParser(description="Kills, attacks and long use of chatlm.")
    parser.add_argument("--share", type=float, default=1.0, help="share of the full numbers")
    parser.add_argument("--only", default="", help="only attempts whose function has this name")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    chance = random.Random(7)  # noqa: S311  # moments to kill at

    def number(full: int) -> int:
        return max(1, int(full * options.share))

    attempts: list[Callable[[], Result]] = [
        lambda: kill_during_replies(number(100), chance),
        lambda: kill_in_the_first_second(number(40), chance),
        lambda: kill_during_first_messages(number(20), chance),
        lambda: leave_half_open_connections(number(200)),
        lambda: talk_past_a_full_context(number(300)),
    ]
    names = ["replies", "start", "index", "connections", "soak"]
    results = []
    for name, attempt in zip(names, attempts, strict=True):
        if options.only in name:
            results.append(attempt())
            result = results[-1]
            kept = result.count - result.lost
            if not options.json:
                print(f"{result.attempts}: {result.count} attempts, {kept} survived, ", end="")
                print(f"{result.lost} lost. {result.note}".strip(), flush=True)
    if options.json:
        print(json.dumps([asdict(result) for result in results]))


if __name__ == "__main__":
    main()

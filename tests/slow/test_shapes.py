"""A tiny trained vision model sees the right pixels, wherever an image comes in."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from chatlm.chat.images import read_image
from chatlm.chat.replay import ReplayFinished, replay
from chatlm.chat.session import ChatSession
from chatlm.cli.main import cli
from chatlm.engines.devices import resolve_placement
from chatlm.engines.local_engine import LocalEngine
from chatlm.store.store import Store
from chatlm.types.sampling import Sampling
from tests import shapes
from tests.end_to_end.terminal import CTRL_N, CTRL_Q, ENTER, Terminal, has, tokens
from tests.plugins.serve import send, serving
from tests.tui.support import app_of, chat_of, idle, make_app, opens, run, until

pytestmark = pytest.mark.slow

ENOUGH = 0.95


def open_engine() -> LocalEngine:
    greedy = Sampling(temperature=0.0, max_tokens=12)
    return LocalEngine.from_folder(
        "shapes", shapes.folder(), resolve_placement("cpu"), catalogue_sampling=greedy
    )


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    with closing(open_engine()) as engine:
        yield engine


def share_right(answers: list[tuple[str, str]]) -> float:
    """The share of answers that name the colour."""
    return sum(color in text.lower() for text, color in answers) / len(answers)


def test_a_chat_and_its_replay_name_the_colour(engine: LocalEngine, tmp_path: Path) -> None:
    store = Store(tmp_path / "chats.db")
    answers, replayed = [], []
    for picture in shapes.held_out(60):
        session = ChatSession(store, lambda: engine)
        list(session.send(shapes.QUESTION, [read_image(picture.content, "shapes.png")]))
        chat = session.conversation
        assert chat is not None
        reply = chat.turns[-1].reply
        assert reply is not None
        answers.append((reply.text, picture.color))
        (*_, last) = replay(store, engine, reply.id)
        assert isinstance(last, ReplayFinished)
        assert last.same_text
        assert last.same_prompt
        assert last.mismatches == ()
        replayed.append((last.text, picture.color))
    assert share_right(answers) >= ENOUGH
    assert share_right(replayed) >= ENOUGH


def test_a_later_turn_about_the_image_names_it_too(engine: LocalEngine, tmp_path: Path) -> None:
    """What was kept of the image is the image."""
    store = Store(tmp_path / "chats.db")
    answers = []
    for picture in shapes.held_out(20):
        session = ChatSession(store, lambda: engine)
        list(session.send(shapes.QUESTION, [read_image(picture.content, "shapes.png")]))
        list(session.regenerate())
        chat = session.conversation
        assert chat is not None
        reply = chat.turns[-1].reply
        assert reply is not None
        assert reply.usage.cached_tokens > 0
        answers.append((reply.text, picture.color))
    assert share_right(answers) >= ENOUGH


def answers_in(store: Store, pictures: list[shapes.Picture]) -> list[tuple[str, str]]:
    """Return the only reply of each chat, the oldest first, with the colour of its picture."""
    answers = []
    chats = store.list_conversations()
    assert len(chats) == len(pictures)
    for header, picture in zip(sorted(chats, key=lambda chat: chat.id), pictures, strict=True):
        (turn,) = store.conversation(header.id).turns
        assert turn.reply is not None
        answers.append((turn.reply.text, picture.color))
    return answers


async def test_the_screen_names_the_colour(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = shapes.held_out(40)
    store = Store(home / "chats.db")
    app = make_app(store=store, open_engine=opens(open_engine()), graphics="blocks")
    async with app.run_test(size=(120, 36)) as pilot:
        composer = chat_of(pilot).composer
        for number, picture in enumerate(pictures):
            (tmp_path / f"{number}.png").write_bytes(picture.content)
            composer.text = f"@{number}.png {shapes.QUESTION}"
            await until(pilot, lambda: "64×64 · " in (composer.border_subtitle or ""))
            await pilot.press("enter")
            await until(pilot, lambda: chat_of(pilot).conversation.turns)
            await idle(pilot)
            await until(pilot, lambda: app_of(pilot).chat_screen.query(".picture"))
            await run(pilot, "new")
            await until(pilot, lambda: not app_of(pilot).chat_screen.query(".picture"))
    assert share_right(answers_in(store, pictures)) >= ENOUGH


def test_the_program_in_a_terminal_names_the_colour(home: Path, tmp_path: Path) -> None:
    pictures = shapes.held_out(20)
    home.mkdir(parents=True)
    (home / "config.toml").write_text("[sampling]\ntemperature = 0.0\nmax_tokens = 12\n")
    model = str(shapes.folder())
    terminal = Terminal(home, "--model", model, columns=80, lines=24)
    terminal.wait_for(has("shapes"))
    for number, picture in enumerate(pictures):
        file = tmp_path / f"{number}.png"
        file.write_bytes(picture.content)
        terminal.type(f"\x1b[200~{file}\x1b[201~")  # as a file that is dropped arrives
        terminal.wait_for(has("64×64 · "))
        terminal.type(shapes.QUESTION + ENTER)
        terminal.wait_for(lambda shown: tokens(shown) > 0 and "tokens/s" in shown)
        terminal.type(CTRL_N)
        terminal.wait_for(lambda shown: "tokens/s" not in shown)
    terminal.type(CTRL_Q)
    assert terminal.wait_to_end() == 0
    with Store(home / "chats.db") as store:
        assert share_right(answers_in(store, pictures)) >= ENOUGH


@pytest.mark.parametrize("protocol", ["openai", "ollama"])
def test_the_server_names_the_colour(home: Path, protocol: str) -> None:
    answers = []
    with serving(open_engine()) as address:  # which closes it at the end
        for picture in shapes.held_out(40):
            data = base64.b64encode(picture.content).decode()
            body: dict[str, Any]
            if protocol == "openai":
                path = "/v1/chat/completions"
                url = {"url": f"data:image/png;base64,{data}"}
                content = [
                    {"type": "image_url", "image_url": url},
                    {"type": "text", "text": shapes.QUESTION},
                ]
                body = {"model": "shapes", "messages": [{"role": "user", "content": content}]}
            else:
                path = "/api/generate"
                body = {
                    "model": "shapes",
                    "prompt": shapes.QUESTION,
                    "images": [data],
                    "stream": False,
                }
            answer = send(
                address,
                path,
                json.dumps(body).encode(),
                method="POST",
                headers={"Content-Type": "application/json"},
            )
            assert answer.status == 200, answer.body
            answers.append((answer.body.decode(), picture.color))
    assert share_right(answers) >= ENOUGH


def test_ask_names_the_colour(home: Path, tmp_path: Path) -> None:
    answers = []
    for number, picture in enumerate(shapes.held_out(20)):
        file = tmp_path / f"{number}.png"
        file.write_bytes(picture.content)
        result = CliRunner().invoke(
            cli,
            [
                *("ask", "-m", str(shapes.folder()), "-a", str(file)),
                *("--temperature", "0", "--max-tokens", "12", shapes.QUESTION),
            ],
        )
        assert result.exit_code == 0, result.output
        answers.append((result.stdout, picture.color))
    assert share_right(answers) >= ENOUGH

"""`chatlm chats replay` with the real model: equal seeds, equal replies; differences show."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatlm.chat.replay import ReplayFinished, replay
from chatlm.chat.session import ChatSession
from chatlm.config import paths
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.scripted import ScriptedEngine
from chatlm.store.store import Store
from chatlm.types.replies import Reply
from chatlm.types.sampling import Sampling
from tests.program import run_chatlm

QUESTION = "Name a colour and say why you like it."


def chatlm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_chatlm(*arguments)


def ask(*more: str) -> None:
    done = chatlm("ask", "--temperature", "1", "--max-tokens", "12", *more, QUESTION)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def store(chat_home: Path) -> Iterator[Store]:
    """The home's chats, with one that has a reply."""
    ask("--seed", "5")
    with Store(paths.database_file()) as store:
        yield store


def change(store: Store, **sampling: float) -> Reply:
    """Let the newest reply look as if it had been made with these settings."""
    reply = store.conversation(1).turns[-1].reply
    assert reply is not None
    made_by = store.provenance(reply.id)
    assert made_by is not None
    settings = Sampling(**sampling).with_fallback(made_by.sampling)  # type: ignore[arg-type]
    store.save_provenance(reply.id, dataclasses.replace(made_by, sampling=settings))
    return reply


def test_the_same_seed_says_the_same(store: Store) -> None:
    ask("--chat", "1")
    for which in ((), ("--turn", "1", "--version", "1")):
        done = chatlm("chats", "replay", "1", *which)
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"The same, \d+ tokens?\.\n", done.stdout)


def test_another_seed_shows_what_differs(store: Store) -> None:
    reply = change(store, seed=6)
    done = chatlm("chats", "replay", "1")
    assert done.returncode == 1, done.stderr
    assert "[-" in done.stdout
    assert "{+" in done.stdout
    done = chatlm("chats", "replay", "1", "--json")
    assert done.returncode == 1, done.stderr
    result = json.loads(done.stdout)
    assert (result["same"], result["same_prompt"]) == (False, True)
    assert result["original"]["text"] == reply.text
    pieces = result["differences"]
    assert "".join(p["text"] for p in pieces if p["kind"] != "added") == reply.text
    replay_text = "".join(p["text"] for p in pieces if p["kind"] != "removed")
    assert replay_text == result["replay"]["text"] != reply.text
    assert result["made_by"]["sampling"]["seed"] == 6
    assert result["notes"] == []


def test_another_format_is_noted(store: Store) -> None:
    assert chatlm("config", "set", "prompt_format", "alpaca").returncode == 0
    done = chatlm("chats", "replay", "1")
    assert "prompt format: template → alpaca" in done.stderr
    assert "prompt: different tokens" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("9",), "no chat 9"),
        (("1", "--turn", "3"), "no turn 3 with a reply"),
        (("1", "--version", "2"), "no version 2"),
        (("2",), "no reply"),
        (("3",), "no stored provenance"),
        (("1", "--model", "no/such-model"), "HF_HUB_OFFLINE is set"),
    ],
)
def test_a_replay_that_is_impossible_is_an_error(
    home: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], error: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with Store(paths.database_file()) as store:
        list(ChatSession(store, lambda: ScriptedEngine("Hello.")).send("Hi"))
        store.add_turn(store.create_conversation().id, "Unanswered")
        turn = store.add_turn(store.create_conversation().id, "Answered long ago")
        store.start_reply(turn.id, model="smollm2-135m-instruct")
    done = chatlm("chats", "replay", *arguments)
    assert done.returncode == 2, done.stderr
    assert error in done.stderr
    assert "Traceback" not in done.stderr


def test_a_chat_of_many_kinds_of_replies(engine: LocalEngine) -> None:
    """Stopped, continued, regenerated and left-out turns all come out the same."""
    with Store(None) as store:
        settings = Sampling(temperature=0.8, max_tokens=10)
        session = ChatSession(store, lambda: engine, system="Be brief.", sampling=settings)
        list(session.send(QUESTION))
        list(session.regenerate())
        events = session.send("And another 🌈?")
        for event in events:
            if getattr(event, "usage", None) and event.usage.completion_tokens == 4:  # type: ignore[union-attr]
                break
        events.close()
        stopped = store.conversation(1).turns[1].reply
        assert stopped is not None
        assert replayed(store, engine, stopped).same_text
        list(session.continue_reply())
        replies = [reply for turn in store.conversation(1).turns for reply in turn.replies]
        assert len(replies) == 3
        for reply in replies:
            again = replayed(store, engine, reply)
            assert (again.same_text, again.same_prompt, again.mismatches) == (True, True, ())


def replayed(store: Store, engine: LocalEngine, reply: Reply) -> ReplayFinished:
    *_, last = replay(store, engine, reply.id)
    assert isinstance(last, ReplayFinished)
    return last

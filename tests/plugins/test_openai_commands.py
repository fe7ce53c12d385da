"""`chatlm openai …`, and the models of a server wherever a model is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chatlm.config.config import load
from chatlm.engines.open import make_model_opener
from chatlm.plugin_host.lifecycle import loaded_plugins
from chatlm.store.store import Store
from chatlm.tui.app import ChatApp
from chatlm.tui.engine_loader import Ready
from chatlm.types.replies import StopReason
from tests.plugins.arena import chatlm
from tests.plugins.openai_server import (
    Asked,
    Handler,
    breaks_off,
    echoes,
    hangs,
    piece,
    refuses,
    says,
    serving,
)
from tests.tui.support import plain, until
from tests.waiting import PATIENCE

UNREACHABLE = "http://127.0.0.1:9/v1"
KEY = "sk-very-secret-0123456789"
MODELS = [
    {"id": "big", "max_model_len": 4096},
    {"id": "pirate\x1b[31m", "parent": "big"},
    {"id": "big"},
]


def test_models_of_all_endpoints_are_listed_with_the_local_ones(home: Path) -> None:
    with serving(models=MODELS) as script:
        endpoints = f'["gpu {script.url}", "off {UNREACHABLE}"]'
        listed = chatlm("models", "list", "--json", CHATLM_OPENAI_ENDPOINTS=endpoints)
    assert (listed.returncode, listed.stderr) == (0, "")
    rows = {row["name"]: row for row in json.loads(listed.stdout)}
    assert "smollm2-135m-instruct" in rows
    assert rows["openai:big@gpu"]["context_length"] == 4096
    assert rows["openai:pirate\x1b[31m@gpu"]["description"] == "adapter of big"
    assert [name for name in rows if name.endswith("@off")] == []


def test_models_are_listed(home: Path) -> None:
    with serving(models=MODELS) as script:
        shown = chatlm("openai", "models", script.url)
        listed = chatlm("openai", "models", "gpu", "--json",
                      CHATLM_OPENAI_ENDPOINTS=f'["gpu {script.url}"]')  # fmt: skip
        first = chatlm("openai", "models", CHATLM_OPENAI_ENDPOINTS=f'["gpu {script.url}"]')
    assert (shown.returncode, shown.stderr) == (0, "")
    assert [line.split("  ")[-1] for line in shown.stdout.splitlines()] == [
        "4,096 tokens", "4,096 tokens, on big",
    ]  # fmt: skip
    assert "\x1b" not in shown.stdout + listed.stdout
    assert first.stdout == shown.stdout
    rows = json.loads(listed.stdout)
    assert rows[0] == {"name": "big", "model": "openai:big@gpu", "context": 4096, "parent": None}
    assert [row["name"] for row in rows] == ["big", "pirate\x1b[31m"]


def test_a_server_is_checked(home: Path) -> None:
    with serving(says("Hello", " there."), models=MODELS) as script:
        endpoints = f'["gpu {script.url} GPU_KEY"]'
        done = chatlm("openai", "check", "gpu", CHATLM_OPENAI_ENDPOINTS=endpoints, GPU_KEY=KEY)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("Key: found\nModels: big, pirate")
        assert "Context: 4,096 tokens\n" in done.stdout
        assert "2 tokens: Hello there." in done.stdout
        assert KEY not in done.stdout
        assert "none; GPU_KEY is not set" in chatlm(
            "openai", "check", "gpu", CHATLM_OPENAI_ENDPOINTS=endpoints
        ).stdout  # fmt: skip
    gone = chatlm("openai", "check", script.url)
    assert gone.returncode == 1
    assert "connection refused" in gone.stderr
    assert "Traceback" not in gone.stderr


def test_one_question_with_a_key_that_is_never_shown(home: Path) -> None:
    hostile = "\x1b]0;owned\x07Fine \x1b[2Jthanks\u202e."

    def shows_the_key(handler: Handler, asked: Asked) -> None:
        assert asked.headers["Authorization"] == f"Bearer {KEY}"
        says(hostile)(handler, asked)

    failing = refuses(401, {"error": {"message": f"{KEY} is wrong"}})
    with serving(shows_the_key, failing, models=MODELS) as script:
        more = {
            "CHATLM_OPENAI_ENDPOINTS": f'["gpu {script.url} GPU_KEY"]',
            "GPU_KEY": KEY,
            "CHATLM_DEBUG": "1",
        }
        done = chatlm("ask", "-m", "openai:big@gpu", "How are you?", **more)
        assert (done.returncode, done.stderr) == (0, "")
        assert "Fine" in done.stdout
        assert not {"\x1b", "\x07", "\u202e"} & set(done.stdout)
        failed = chatlm("ask", "-m", "openai:big@gpu", "And you?", **more)
        assert failed.returncode == 1
        assert "rejects the key" in failed.stderr
        assert "Traceback" not in failed.stderr
    with Store(home / "chats.db") as store:
        reply = store.conversation(1).turns[0].reply
        assert reply is not None
        assert (reply.text, reply.model) == (hostile, "openai:big@gpu")
        assert store.provenance(reply.id) is not None
    written = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert KEY.encode() not in written
    assert KEY not in done.stdout + failed.stdout + failed.stderr


def test_an_incomplete_reply_is_stored(home: Path) -> None:
    with serving(breaks_off(piece("Half a")), says(" loaf.")) as script:
        done = chatlm("ask", "--json", "-m", script.model, "Bread?")
    assert done.returncode == 1
    assert "ended the reply early" in done.stderr
    with Store(home / "chats.db") as store:
        reply = store.conversation(1).turns[0].reply
    assert reply is not None
    assert (reply.text, reply.stop_reason) == ("Half a", StopReason.ERROR)
    assert "ended the reply early" in (reply.error or "")


def test_ctrl_c_closes_the_connection_and_saves_the_partial_reply(home: Path) -> None:
    with serving(hangs(piece("Half a"))) as script:
        child = subprocess.Popen(
            [sys.executable, "-m", "chatlm", "ask", "-m", script.model, "Bread?"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.read(6) == b"Half a"
        child.send_signal(signal.SIGINT)
        _, problems = child.communicate(timeout=PATIENCE)
        assert child.returncode == 130
        assert b"Traceback" not in problems
        assert script.gone.wait(PATIENCE)
    with Store(home / "chats.db") as store:
        reply = store.conversation(1).turns[0].reply
    assert reply is not None
    assert (reply.text, reply.stop_reason) == ("Half a", StopReason.CANCELLED)


@pytest.mark.parametrize("strict", [False, True])
def test_contestants_and_judges_of_a_tournament(home: Path, tmp_path: Path, strict: bool) -> None:
    """The judge's server refuses to go on with a reply, or begins it anew without a word."""

    def plays(handler: Handler, asked: Asked) -> None:
        if strict and "continue_final_message" in asked.body:
            refuses(400, {"error": "Unexpected fields: continue_final_message"})(handler, asked)
        elif asked.body["model"] == "judge":
            says("Verdict: [[A]]")(handler, asked)
        else:
            time.sleep(0.02)
            echoes(handler, asked)

    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Question {n}?"}) + "\n" for n in range(6)))
    with serving(plays, models=[{"id": name} for name in ("one", "two", "judge")]) as script:
        for name in ("one", "two"):
            added = chatlm(
                "arena", "contestants", "add", name, "--model", f"openai:{name}@{script.url}"
            )
            assert added.returncode == 0, added.stderr
        run = ("arena", "run", "--prompts", str(prompts), "--judge", f"openai:judge@{script.url}")
        done = chatlm(*run)
        assert done.returncode == 0, done.stderr
        asked = [each.body for each in script.asked]
        assert chatlm(*run).returncode == 0
        assert len(script.asked) == len(asked)  # all was there already
    for name in ("one", "two"):
        mine = [body for body in asked if body["model"] == name]
        assert len(mine) == 6
        assert {body["messages"][-1]["content"] for body in mine} == {
            f"Question {n}?" for n in range(6)
        }
    assert sum(body["model"] == "judge" for body in asked) == (24 if strict else 12)


async def test_the_screen_talks_to_it(home: Path) -> None:
    with serving(says("Hello from **afar**.")) as script:
        config = load(model=script.model)
        with loaded_plugins(config) as plugins, Store(None) as store:
            app = ChatApp(store, make_model_opener(config, plugins), plugins=plugins, config=config)
            async with app.run_test(size=(120, 36)) as pilot:
                await until(pilot, lambda: isinstance(app.engine_state, Ready))
                composer = app.chat_screen.chat.composer
                composer.text = "Hi"
                await pilot.press("enter")
                await until(pilot, lambda: bool(store.list_conversations()))
                await until(pilot, lambda: not app.chat_screen.chat.busy)
                await pilot.press("ctrl+o")
                await until(pilot, lambda: "the server's" in plain(app.screen))
            reply = store.conversation(1).turns[0].reply
    assert reply is not None
    assert (reply.text, reply.model) == ("Hello from **afar**.", script.model)


@pytest.mark.parametrize("name", ["openai:m@http://127.0.0.1:9/v1", "openai:m"])
def test_errors_have_two_lines(home: Path, name: str) -> None:
    done = chatlm("ask", "-m", name, "Hi")
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 2
    assert "Traceback" not in done.stderr

"""Each hook is called on exactly the surfaces that the table of hooks, and the guide, name."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chatlm.plugin_host.hook_table import HOOKS, Surface
from chatlm.testing import scripted_screen
from tests.plugins.serve import send
from tests.program import run_chatlm
from tests.waiting import PATIENCE

GUIDE = Path(__file__).parents[2] / "docs" / "plugins.md"

RECORDER = """
import dataclasses, json, os
from chatlm import AskOption, Message, RenderedTemplate, ReplyMethod, Setup, hookimpl
from chatlm.plugin_host.hook_table import HOOKS

context = None


def record(hook, **seen):
    with open(os.environ["HOOK_LOG"], "a") as file:
        print(json.dumps({"hook": hook, **seen}), file=file)


def plain(name):
    @hookimpl(specname=name)
    def hook():
        record(name)

    return hook


for name in HOOKS:
    globals()[f"hook_{name}"] = plain(name)


@hookimpl(specname="startup")
def hook_startup(context):
    record("startup")
    globals()["context"] = context


@hookimpl(specname="register_ask_options")
def hook_register_ask_options(register):
    record("register_ask_options")
    register(AskOption("--tone", "Answer in this tone.", lambda tone: Setup(system=tone)))


@hookimpl(specname="register_engines")
def hook_register_engines(register):
    from chatlm.testing import ScriptedEngine

    record("register_engines")
    register("parrot", lambda name: ScriptedEngine("So it is."))


@hookimpl(specname="register_templates")
def hook_register_templates(register):
    record("register_templates")
    register("plain", lambda values, text, facts: RenderedTemplate(user=text, raw_input=text))


@hookimpl(specname="register_methods")
def hook_register_methods(register):
    record("register_methods")
    register(ReplyMethod("again", "as usual", lambda engine, request, _: engine.stream(request)))


@hookimpl(specname="read_attachment")
def hook_read_attachment(path):
    record("read_attachment")
    return "a note"


@hookimpl(specname="write_message")
def hook_write_message(facts):
    record("write_message")
    facts()


@hookimpl(specname="adjust_request")
def hook_adjust_request(request, conversation, turn, engine):
    engine.preview(request)
    record("adjust_request", adapter=request.adapter, ids=[conversation.id, turn.id])
    context.service("anything", object)
    if os.environ.get("HOOK_METHOD"):
        sampling = dataclasses.replace(request.sampling, method="again")
        return dataclasses.replace(request, sampling=sampling)
"""

ELSEWHERE = {
    "register_gguf_runtimes": "local models only; see tests/engine/test_gguf_runtimes.py",
    "find_adapter": "a local engine asks for it, wherever it runs",
    "suggest_text": "called while the user pauses; see tests/tui/test_suggestions.py",
    "chat_deleted": "called when the trash is emptied; see tests/unit/test_hooks.py",
}
"""Hooks that the surfaces here do not trigger, and why."""

NOT_ON_THE_SCRIPTED_SCREEN = {"register_engines", "list_models"}
"""Its engine is given, so it opens and lists no model; see tests/tui/test_models_screen.py."""


@pytest.fixture
def log(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (home / "plugins").mkdir(parents=True)
    (home / "plugins" / "recorder.py").write_text(RECORDER)
    file = home / "hooks.jsonl"
    monkeypatch.setenv("HOOK_LOG", str(file))
    monkeypatch.setenv("HOOK_METHOD", "yes")
    return file


def calls(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def expected(surface: Surface) -> set[str]:
    return {name for name, row in HOOKS.items() if surface in row.surfaces} - ELSEWHERE.keys()


def check_requests(log: Path) -> None:
    """Every request can be run as it is, and has ids that are not 0."""
    requests = [call for call in calls(log) if call["hook"] == "adjust_request"]
    assert requests
    for request in requests:
        assert request["adapter"] is None
        assert min(request["ids"]) > 0


def python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


async def test_the_screen(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")
    plugin = ModuleType("recorder")
    exec(RECORDER, vars(plugin))
    async with scripted_screen(plugin, replies=["Yes."]) as shown:
        await shown.submit("What is in @notes.pdf?")
        assert shown.faults == []
    seen = {call["hook"] for call in calls(log)} - ELSEWHERE.keys()
    assert seen == expected(Surface.SCREEN) - NOT_ON_THE_SCRIPTED_SCREEN
    check_requests(log)


CONFIG = """
[tools]
enabled = true
off = ["*"]  # plugins are asked for tools, but the recorder's reply method can call none
"""


def test_ask(log: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")
    (log.parent / "config.toml").write_text(CONFIG)
    done = run_chatlm(
        *("ask", "-m", "parrot:grey", "-t", "plain", "--tone", "Calm", "--adapter", "off"),
        *("-f", str(tmp_path / "notes.pdf"), "Is it?"),
    )
    assert (done.returncode, done.stdout) == (0, "So it is.\n"), done.stderr
    assert {call["hook"] for call in calls(log)} == expected(Surface.ASK)
    check_requests(log)


def test_serve(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOOK_METHOD")  # its replies share one batch
    command = [sys.executable, "-m", "chatlm", "serve", "-m", "parrot:grey", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            for line in server.stderr:
                if found := re.search(r"http://\S+(?=/v1)", line):
                    break
            address = found and found.group()
            assert address
            model = send(address, "/v1/models").json["data"][0]["id"]
            body = {"model": f"{model}+plain", "messages": [{"role": "user", "content": "Is it?"}]}
            answer = send(
                address,
                "/v1/chat/completions",
                json.dumps(body).encode(),
                method="POST",
                headers={"Content-Type": "application/json"},
            )
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(PATIENCE)
    assert answer.json["choices"][0]["message"]["content"] == "So it is."
    assert {call["hook"] for call in calls(log)} == expected(Surface.SERVE)
    check_requests(log)


def test_side_chats(log: Path) -> None:
    python(
        "from chatlm import Setup, load_config, side_chats\n"
        "with side_chats(load_config(model='parrot:grey'), print) as chats:\n"
        "    chats.available_setups()\n"
        "    chat = chats.begin(Setup(template='plain'))\n"
        "    events = list(chat.stream(chat.request('Is it?')))\n"
        "    chat.add('Is it?', 'So it is.')\n"
        "    chat.request('And now?')\n"
    )
    assert {call["hook"] for call in calls(log)} == expected(Surface.SIDE_CHAT)
    check_requests(log)


def table_in_the_guide() -> Iterator[tuple[str, frozenset[Surface]]]:
    text = GUIDE.read_text(encoding="utf-8")
    head = "| hook | " + " | ".join(Surface) + " |"
    rows = text.partition(head)[2].split("\n\n")[0].splitlines()[2:]
    for row in rows:
        name, *marks = (cell.strip() for cell in row.strip("|").split("|"))
        marked = zip(Surface, marks, strict=True)
        yield name.strip("`"), frozenset(surface for surface, mark in marked if mark == "yes")


def test_the_guide_has_the_same_table() -> None:
    assert dict(table_in_the_guide()) == {name: row.surfaces for name, row in HOOKS.items()}


def test_no_hook_is_called_nowhere() -> None:
    by_surface = defaultdict(set)
    for name, row in HOOKS.items():
        for surface in row.surfaces:
            by_surface[surface].add(name)
    assert set().union(*by_surface.values()) == set(HOOKS)

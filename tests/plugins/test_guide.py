"""The plugin guide is correct: it has every hook with its signature, and all of its code runs."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

from chatlm import (
    ContextTooLong,
    Delta,
    EngineEvent,
    LocalEngine,
    Message,
    PromptReady,
    Request,
    Sampling,
    StopReason,
)
from chatlm.chat.session import ChatSession
from chatlm.plugin_host import hookspecs
from chatlm.plugin_host.hook_table import HOOKS
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.testing import scripted_chat, scripted_screen
from chatlm.tui import commands
from chatlm.types.events import TurnFinished
from tests.waiting import PATIENCE

GUIDE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
LANGUAGE_MODEL = "ngram/"
"""Folder of the tutorial of a language model, apart from the other one's project."""
PYTHON = [code for language, file, code in BLOCKS if language == "python" and not file]
TESTS = [code for code in PYTHON if "def test_" in code]
EXAMPLES = [code for code in PYTHON if code not in TESTS]
ON_SCREEN = [code for code in EXAMPLES if "(ui" in code]


def hooks() -> dict[str, str]:
    """Return every hook with its signature as written."""
    return {
        name: f"{name}{inspect.signature(getattr(hookspecs, name))}".replace("'", "")
        for name in HOOKS
    }


def run(code: str) -> ModuleType:
    module = ModuleType("example")
    exec(compile(code, "docs/plugins.md", "exec"), vars(module))
    return module


def test_each_hook_is_a_heading_with_its_signature() -> None:
    headings = re.findall(r"^### `(.+)`$", GUIDE, re.MULTILINE)
    assert headings == list(hooks().values())


def test_each_hook_has_an_example() -> None:
    for name in hooks():
        assert any(f"def {name}(" in code for code in EXAMPLES), name


@pytest.mark.parametrize("code", EXAMPLES)
def test_each_example_is_a_plugin_that_works(code: str, tmp_path: Path) -> None:
    module = run(code)
    plugin = vars(module).get("plugin", module)
    with scripted_chat(plugin, "It is so.", "Yes.", data_dir=tmp_path) as chat:
        chat.say("What is chatlm?")
        chat.say("! Alone")
        for name in ("register_engines", "register_templates"):
            offered: dict[str, object] = {}
            chat.plugins.call_hook(name, register=offered.__setitem__)
            assert all(map(callable, offered.values()))
    assert chat.faults == []


def example_with(words: str) -> ModuleType:
    (code,) = (code for code in EXAMPLES if words in code)
    return run(code)


def test_the_engine_of_the_guide_answers_stops_and_forgets() -> None:
    host = PluginHost([("echo", example_with("class Echo"))])
    (_, (scheme, opener)), = host.collect("register_engines")  # fmt: skip
    assert scheme == "echo"
    engine = opener("loud")
    with Store(None) as store:
        session = ChatSession(store, lambda: engine)
        list(session.send("one two three"))
        chat = session.conversation
        assert chat is not None
        reply = chat.turns[-1].reply
        assert reply is not None
        assert (reply.text, reply.stop_reason) == ("one two three", StopReason.END)
        assert reply.usage.completion_tokens == 3
        assert len(session.preview("four").prompt.tokens) == 3 + 2 + 3 + 2 + 1 + 2
        session.session_sampling = Sampling(stop=("thr",), max_tokens=5)
        last = list(session.send("one two three"))[-1]
        assert isinstance(last, TurnFinished)
        assert last.turn.reply is not None
        assert last.turn.reply.text == "one two "
        assert last.turn.reply.stop_reason is StopReason.STOP_STRING
        events = list(session.send("word " * 2035))
        assert any(isinstance(event, PromptReady) and event.omitted_messages for event in events)
        with pytest.raises(ContextTooLong):
            list(session.send("word " * 3000))


def test_the_processor_of_the_guide_bans_words_on_any_engine(engine: LocalEngine) -> None:
    module = example_with("class Ban")
    sampling = Sampling(temperature=0.0, max_tokens=4)
    request = Request((Message("user", "Say: Sorry."),), sampling)
    token = module.first_token(engine, "Sorry")
    assert engine.prompt_encoder.detokenizer(()).feed(token) == "Sorry"
    told = list(engine.stream(request))
    first = next(e.text for e in told if isinstance(e, Delta) and e.text)
    ban = module.Ban([module.first_token(engine, first)])
    banned = dataclasses.replace(request, logits_processors=(ban,))
    assert not text_of(engine.stream(banned)).startswith(first)
    adjusted = module.adjust_request(request=request, engine=engine)
    assert "Sorry" not in text_of(engine.stream(adjusted))


def test_the_state_of_the_guide_is_counted_and_deleted(tmp_path: Path) -> None:
    plugin = example_with("CREATE TABLE asked").plugin
    with scripted_chat(plugin, "One.", "Two.", data_dir=tmp_path) as chat:
        chat.say("Once")
        turn = chat.say("Twice")
        assert [label.value for label in chat.annotations(turn)] == ["2"]
        chat.plugins.call_hook("chat_deleted", conversation_id=1)
        turn = chat.say("Again")
        assert [label.value for label in chat.annotations(turn)] == ["1"]
        assert chat.faults == []


def text_of(events: Iterable[EngineEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


@pytest.mark.parametrize("code", ON_SCREEN)
async def test_each_example_with_a_screen_works_there(code: str) -> None:
    async with scripted_screen(run(code), replies=["word " * 1000]) as shown:
        await shown.submit("Hello there")
        for command in commands.plugin_commands():
            await shown.submit(f"/{command.name} 42" if command.argument else f"/{command.name}")
        assert shown.faults == []
        seen = {"count": "words", "words": "there", "big": "╰─┤"}
        for command in commands.plugin_commands():
            assert seen[command.name] in f"{shown.text()} {shown.notifications}"
        if "screen.tell" in code:
            assert shown.notifications == ["That was a long reply."]


def test_each_command_of_an_example_works(home: Path) -> None:
    said = {"shout": (["hello"], "HELLO"), "cook": (["soup"], "1 dishes"), "styles": ([], "pirate")}
    for code in EXAMPLES:
        for command in vars(run(code)).values():
            if isinstance(command, click.Command):
                arguments, answer = said.pop(command.name or "")
                assert answer in CliRunner().invoke(command, arguments).output
    assert said == {}


@pytest.mark.parametrize("code", TESTS)
def test_each_test_passes(code: str) -> None:
    for name, test in vars(run(code)).items():
        if name.startswith("test_"):
            test()


def test_the_tutorials_project_passes_its_tests(tmp_path: Path) -> None:
    for _, file, code in BLOCKS:
        if file and not file.startswith(LANGUAGE_MODEL):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "CHATLM_HOME": str(tmp_path / "home")},
    )
    assert "3 passed" in done.stdout, done.stdout
    check = subprocess.run(
        [sys.executable, "-m", "chatlm", "plugins", "check", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert check.returncode == 0, check.stdout


def test_the_language_model_of_the_guide_has_60_lines_and_talks(tmp_path: Path) -> None:
    ((name, code),) = ((file, code) for _, file, code in BLOCKS if file.startswith(LANGUAGE_MODEL))
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 60
    path = tmp_path / Path(name).name
    path.write_text(code)
    check = subprocess.run(
        [sys.executable, "-m", "chatlm", "plugins", "check", str(path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert check.returncode == 0, check.stdout
    poem = tmp_path / "poem.txt"
    poem.write_text("Shall I compare thee to a summer's day?\n" * 3)
    offered: dict[str, Callable[[str], LocalEngine]] = {}
    run(code).register_engines(offered.__setitem__)
    engine = offered["ngram"](str(poem))
    request = Request((Message("user", "Shall I c"),), Sampling(seed=1, max_tokens=30))
    text = text_of(engine.stream(request))
    assert len(text) == 30
    assert text.startswith("omp")
    assert text_of(engine.stream(request)) == text
    logits = engine.stream(dataclasses.replace(request, logprobs=0))
    for event in logits:
        if isinstance(event, Delta):
            assert all(token.logprob < 0 for token in event.logprobs)


def test_the_guides_statements_about_time_hold() -> None:
    slow = inspect.signature(PluginHost).parameters["slow_after"].default
    assert f"a hook takes over {slow:g} seconds" in GUIDE

"""A server's LoRA adapters: chosen like local ones, and loaded while a vLLM server runs."""

from __future__ import annotations

import dataclasses
import json
from contextlib import closing
from pathlib import Path

import pytest
from textual.widgets import OptionList

from chatlm import EngineError, Message, Request
from chatlm.config.config import load
from chatlm.engines.open import make_model_opener
from chatlm.plugin_host.lifecycle import loaded_plugins
from chatlm.store.store import Store
from chatlm.tui.app import ChatApp
from chatlm.tui.engine_loader import Ready
from chatlm_lora.screens.picker import AdapterPicker
from chatlm_openai.engine import open_engine
from tests.plugins.arena import chatlm
from tests.plugins.lora import adapter
from tests.plugins.openai_server import Script, refuses, serving
from tests.plugins.test_openai import text_of
from tests.plugins.vllm_server import BASE, Vllm, vllm
from tests.tui.support import idle, plain, say, toasts, until

pytestmark = pytest.mark.usefixtures("home")

FOLDER = "/srv/adapters/pirate"
HI = Request((Message("user", "Who are you?"),))
PIRATE = dataclasses.replace(HI, adapter="pirate")


def model_on(script: Script) -> str:
    return f"openai:{BASE}@{script.url}"


def test_a_request_can_name_an_adapter_of_the_server() -> None:
    more = {"id": "other", "parent": "another-base"}
    with vllm(Vllm(), pirate=FOLDER, terse="/srv/terse") as script:
        script.models.append(more)
        with closing(open_engine(f"{BASE}@{script.url}")) as engine:
            assert engine.info.adapters == ("pirate", "terse")
            assert text_of(list(engine.stream(HI))) == "I am big."
            assert text_of(list(engine.stream(PIRATE))) == "I am pirate."
            with pytest.raises(EngineError, match=r"no adapter other on http"):
                list(engine.stream(dataclasses.replace(HI, adapter="other")))
    assert [asked.body["model"] for asked in script.asked] == ["big", "pirate"]


def test_an_adapter_loaded_later_is_found_and_a_missing_one_is_reported() -> None:
    server = Vllm(FOLDER)
    with vllm(server) as script, closing(open_engine(f"{BASE}@{script.url}")) as engine:
        with pytest.raises(EngineError, match="no adapter pirate") as none:
            list(engine.stream(PIRATE))
        assert "It has none." in none.value.hint
        assert "/lora off" in none.value.hint
        assert chatlm("openai", "load-adapter", script.url, "pirate", FOLDER).returncode == 0
        assert text_of(list(engine.stream(PIRATE))) == "I am pirate."
        assert engine.info.adapters == ("pirate",)
        assert chatlm("openai", "unload-adapter", script.url, "pirate").returncode == 0
        with pytest.raises(EngineError, match="There is no model pirate"):
            list(engine.stream(PIRATE))


def test_an_adapter_as_a_model_has_the_context_of_its_base() -> None:
    with (
        vllm(Vllm(), pirate=FOLDER) as script,
        closing(open_engine(f"pirate@{script.url}")) as engine,
    ):
        assert (engine.info.context_length, engine.info.notes) == (4096, ())
        assert engine.info.adapters == ()


def test_from_the_shell() -> None:
    with vllm(Vllm(), pirate=FOLDER) as script:
        done = chatlm("ask", "--json", "-m", model_on(script), "--adapter", "pirate", "Who?")
        answer = json.loads(done.stdout)
        assert (answer["text"], answer["adapter"]) == ("I am pirate.", "pirate")
        assert answer["model"] == model_on(script)
        unknown = chatlm("ask", "-m", model_on(script), "--adapter", "instruct", "Who?")
    assert unknown.returncode == 1
    assert "There is no adapter instruct on" in unknown.stderr
    assert "It has: pirate." in unknown.stderr


async def test_the_list_of_adapters_has_them_in_the_chat(home: Path) -> None:
    adapter(home / "adapters" / "mine")
    adapter(home / "adapters" / "terse")
    with vllm(Vllm(), pirate=FOLDER, terse="/srv/terse") as script:
        config = load(model=model_on(script))
        with loaded_plugins(config) as plugins, Store(None) as store:
            app = ChatApp(store, make_model_opener(config, plugins), plugins=plugins, config=config)
            async with app.run_test(size=(110, 36)) as pilot:
                await until(pilot, lambda: isinstance(app.engine_state, Ready))
                await say(pilot, "/lora")
                await until(pilot, lambda: isinstance(app.screen, AdapterPicker))
                rows = app.screen.query_one(OptionList)
                names = [option.id for option in rows.options]
                assert names[:3] == ["", "pirate", "terse"]
                assert (names.count("terse"), "mine" in names) == (1, True)
                rows.highlighted = 1
                await until(pilot, lambda: "It comes with the model" in plain(app.screen))
                await pilot.press("enter")
                await until(pilot, lambda: "This chat uses pirate" in "".join(toasts(pilot)))
                await say(pilot, "Who are you?")
                await idle(pilot)
                await pilot.press("f5")
                await until(pilot, lambda: "the base model" in "".join(toasts(pilot)))
                await say(pilot, "And now?")
                await idle(pilot)
                await say(pilot, "/lora terse")
                await until(pilot, lambda: "This chat uses terse" in "".join(toasts(pilot)))
                await say(pilot, "And now?")
                await idle(pilot)
            turns = store.conversation(1).turns
    replies = [(turn.reply.text, turn.reply.adapter) for turn in turns if turn.reply]
    assert replies == [
        ("I am pirate.", "pirate"), ("I am big.", None), ("I am terse.", "terse"),
    ]  # fmt: skip


@pytest.mark.parametrize("flat", [False, True])
def test_adapters_are_loaded_and_unloaded_while_the_server_runs(flat: bool) -> None:
    server = Vllm(FOLDER, flat=flat)
    with vllm(server) as script:
        done = chatlm("openai", "load-adapter", script.url, "pirate", FOLDER)
        assert (done.returncode, done.stderr) == (0, "")
        assert "/lora pirate" in done.stdout
        assert server.adapters == {"pirate": FOLDER}
        assert "on big" in chatlm("openai", "models", script.url).stdout

        twice = chatlm("openai", "load-adapter", script.url, "pirate", FOLDER)
        assert twice.returncode == 1
        assert "has already been loaded" in twice.stderr
        assert f"unload-adapter {script.url} pirate" in twice.stderr

        nowhere = chatlm("openai", "load-adapter", script.url, "terse", "/nowhere")
        assert nowhere.returncode == 1
        assert "finds no adapter at this path" in nowhere.stderr
        assert "No adapter found for /nowhere" in nowhere.stderr
        assert "on the server's machine" in nowhere.stderr

        unknown = chatlm("openai", "unload-adapter", script.url, "terse")
        assert unknown.returncode == 1
        assert "There is no adapter terse" in unknown.stderr
        assert "It has: pirate." in unknown.stderr

        gone = chatlm("openai", "unload-adapter", script.url, "pirate")
        assert (gone.returncode, gone.stderr) == (0, "")
        assert server.adapters == {}


def test_an_adapter_that_the_engine_cannot_load() -> None:
    broken = "LoRA rank 64 is greater than max_lora_rank 16."
    with vllm(Vllm(FOLDER, broken=broken)) as script:
        failed = chatlm("openai", "load-adapter", script.url, "pirate", FOLDER)
    assert failed.returncode == 1
    assert f"failed (500). Server message: {broken}" in failed.stderr


@pytest.mark.parametrize("arguments", [("load-adapter", "pirate", FOLDER), ("unload-adapter", "x")])
def test_a_server_that_does_not_allow_it(arguments: tuple[str, ...]) -> None:
    command, *rest = arguments
    with vllm(Vllm(FOLDER, runtime=False)) as script:
        refused = [chatlm("openai", command, script.url, *rest)]
        script.other = refuses(405, {"detail": "Method Not Allowed"})
        refused.append(chatlm("openai", command, script.url, *rest))
    for done in refused:
        assert done.returncode == 1
        assert "cannot load or unload adapters while it is running" in done.stderr
        assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in done.stderr
        assert "Traceback" not in done.stderr
    with serving() as script:
        script.other = refuses(401)
        locked = chatlm("openai", command, script.url, *rest)
    assert (locked.returncode, "requires a key (401)" in locked.stderr) == (1, True)
    gone = chatlm("openai", command, script.url, *rest)
    assert (gone.returncode, "cannot be reached" in gone.stderr) == (1, True)

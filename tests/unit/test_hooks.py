"""Every hook has a row in the table and a test that is named after it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from chatlm.chat.attachments import MAX_FILE_BYTES, AttachmentReader
from chatlm.chat.deletion import empty_trash, open_memory_store
from chatlm.chat.reply_methods import reply_methods, stream_request
from chatlm.chat.resources import Resources
from chatlm.chat.session import ChatSession
from chatlm.chat.suggestions import suggest_text
from chatlm.chat.templates import available_setups, available_templates, render_chat_start
from chatlm.cli.main import main
from chatlm.config.config import Config
from chatlm.engines.open import open_engine
from chatlm.errors import ChatlmError, UsageError
from chatlm.plugin_host import hookspecs
from chatlm.plugin_host.hook_table import HOOKS, CallStyle, sample_arguments
from chatlm.plugin_host.hookspecs import hookimpl
from chatlm.plugin_host.host import PluginHost
from chatlm.plugin_host.ui_api import Panel, PluginScreen, SlashCommand
from chatlm.store.store import Store
from chatlm.testing import ScriptedEngine, scripted_chat, scripted_screen
from chatlm.tui.composer.completion import complete
from chatlm.types.conversations import Conversation
from chatlm.types.events import Delta
from chatlm.types.messages import Annotation, Message, Passage
from chatlm.types.methods import ReplyMethod
from chatlm.types.replies import utc_now
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling
from chatlm.types.services import SERVICES, Classifier, Documents
from chatlm.types.setups import RenderedTemplate, Setup
from chatlm.types.tools import tool


def plugin(**hooks: Any) -> Any:
    """Return an object with these functions as hooks."""

    class Plugin:
        pass

    for name, function in hooks.items():
        setattr(Plugin, name, staticmethod(hookimpl(function)))
    return Plugin()


def host_of(**hooks: Any) -> PluginHost:
    return PluginHost([("plugin", plugin(**hooks))])


def specified_hooks() -> list[str]:
    return [name for name, spec in vars(hookspecs).items() if hasattr(spec, "chatlm_spec")]


def test_every_hook_has_a_row_in_the_order_of_the_specifications() -> None:
    assert list(HOOKS) == specified_hooks()


def test_every_hook_has_a_test_of_its_name() -> None:
    missing = [name for name in HOOKS if f"test_{name}" not in globals()]
    assert missing == []


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_sample_arguments(name: str) -> None:
    above = dict.fromkeys(("cli", "context", "engine", "ui"), object())
    assert list(sample_arguments(name, **above)) == list(HOOKS[name].arguments)


def test_every_row_has_what_its_style_needs() -> None:
    for row in HOOKS.values():
        assert (row.registers is not None) == (row.style is CallStyle.REGISTER), row.name
        assert (row.folded != "") == (row.style is CallStyle.FOLD), row.name


def test_what_a_plugin_registered_before_it_failed_is_offered() -> None:
    def bad(register: Any) -> None:
        register("fine", Setup())
        register("wrong", "no setup")

    good = plugin(register_setups=lambda register: register("good", Setup()))
    host = PluginHost([("good", good), ("bad", plugin(register_setups=bad))])
    assert sorted(available_setups(host)) == ["fine", "good"]
    assert "register takes a name and a chatlm.Setup" in host.take_faults()[0].error


def test_startup() -> None:
    contexts: list[Any] = []

    def startup(context: Any) -> None:
        contexts.append(context)

    with scripted_chat(plugin(startup=startup)):
        assert len(contexts) == 1
        assert isinstance(contexts[0].config, Config)


def test_shutdown() -> None:
    calls: list[str] = []
    with scripted_chat(plugin(shutdown=lambda: calls.append("shutdown"))):
        assert calls == []
    assert calls == ["shutdown"]


def test_register_commands(home: Path) -> None:
    (home / "plugins").mkdir(parents=True)
    (home / "plugins" / "shouts.py").write_text(
        "import chatlm, click\n"
        "@click.command('shout')\n@click.argument('text')\n"
        "def shout(text):\n    click.echo(text.upper())\n"
        "@chatlm.hookimpl\ndef register_commands(cli):\n    cli.add_command(shout)\n"
    )
    command = [
        sys.executable,
        "-m",
        "chatlm",
        "shout",
        "hello",
    ]  # a process without stored commands
    assert subprocess.run(command, capture_output=True, text=True).stdout == "HELLO\n"


@pytest.fixture
def no_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)


ADDS_OPTIONS = """
import chatlm
from chatlm.testing import ScriptedEngine

@chatlm.hookimpl
def register_engines(register):
    register("parrot", lambda name: ScriptedEngine("Yes."))

@chatlm.hookimpl
def register_ask_options(register):
    register(chatlm.AskOption("--language", "Answer in this language.", answer_in))
    register(chatlm.AskOption(OTHER, "Answer calmly.", lambda _: calm))

calm = chatlm.Setup(sampling=chatlm.Sampling(temperature=0.25))

def answer_in(language):
    return chatlm.Setup(system=f"Answer in {language}.")
"""


@pytest.mark.usefixtures("no_pipe")
def test_register_ask_options(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "plugins").mkdir(parents=True)
    (home / "plugins" / "parrot.py").write_text(ADDS_OPTIONS.replace("OTHER", '"--calm"'))
    ask = ["ask", "-m", "parrot:any", "--dry-run", "--json", "Hello"]
    assert main([*ask, "--language", "French", "--calm=very"]) == 0
    request = json.loads(capsys.readouterr().out)
    assert [m["content"] for m in request["messages"]] == ["Answer in French.", "Hello"]
    assert request["sampling"]["temperature"] == 0.25
    assert main([*ask, "--language", "French", "--system", "", "--temperature", "1"]) == 0
    request = json.loads(capsys.readouterr().out)
    assert [m["content"] for m in request["messages"]] == ["Hello"]
    assert request["sampling"]["temperature"] == 1
    assert main([*ask, "--chat", "1", "--language", "French"]) == 2
    assert "A saved chat has its own system prompt" in capsys.readouterr().err
    assert main([*ask, "--unknown", "x"]) == 2
    assert main(["ask", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Answer in this language." in shown
    assert "--index NAME" in shown


@pytest.mark.usefixtures("no_pipe")
def test_an_option_of_ask_itself_cannot_be_replaced(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "plugins").mkdir(parents=True)
    (home / "plugins" / "parrot.py").write_text(ADDS_OPTIONS.replace("OTHER", '"--system"'))
    assert main(["ask", "--help"]) == 0
    printed = capsys.readouterr()
    assert "the option --system already exists, from chatlm" in printed.err
    assert "Answer in this language." in printed.out  # its other option, registered before


@pytest.mark.usefixtures("no_pipe")
def test_the_option_index_of_the_rag_plugin_chooses_the_index(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", "-m", "parrot:any", "--dry-run", "--index", "no-such", "Hello"]) != 0
    assert "no-such" in capsys.readouterr().err
    setups = import_module("chatlm_rag.plugin")
    assert setups._setup_with_index("manual").plugin_data == {"rag": {"index": "manual"}}


def test_register_engines() -> None:
    engine = ScriptedEngine("Hello.")
    host = host_of(register_engines=lambda register: register("parrot", lambda name: engine))
    assert open_engine(Config(model="parrot:any"), host, lambda *_: None) is engine


def test_register_gguf_runtimes() -> None:
    host = host_of(register_gguf_runtimes=lambda register: register("mine", len))
    assert host.collect("register_gguf_runtimes") == [("plugin", ("mine", len))]
    host = host_of(register_gguf_runtimes=lambda register: register("mine", "no function"))
    assert host.collect("register_gguf_runtimes") == []
    (fault,) = host.take_faults()
    assert "register takes a name and a function" in fault.error


LISTS_MODELS = """
import chatlm

@chatlm.hookimpl
def list_models():
    return [chatlm.ModelListing("parrot:grey", "repeats", 4096, ("tools",))]
"""


def test_list_models(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "plugins").mkdir(parents=True)
    (home / "plugins" / "parrot.py").write_text(LISTS_MODELS)
    assert main(["models", "list", "--json"]) == 0
    models = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    grey = models["parrot:grey"]
    assert (grey["source"], grey["installed"], grey["bytes"]) == ("parrot", True, 0)
    assert (grey["context_length"], grey["abilities"]) == (4096, ["tools"])
    assert "smollm2-135m-instruct" in models
    assert main(["models", "list"]) == 0
    assert "tools · repeats" in capsys.readouterr().out


def test_models_are_listed_without_plugins_when_the_config_is_wrong(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text("model = 3\n")
    assert main(["models", "list"]) == 0
    printed = capsys.readouterr()
    assert "smollm2-135m-instruct" in printed.out
    assert "Models of plugins are left out" in printed.err


def test_register_templates() -> None:
    def shout(values: Any, raw_input: str, facts: Any) -> RenderedTemplate:
        return RenderedTemplate(user=raw_input.upper())

    host = host_of(register_templates=lambda register: register("shout", shout))
    assert list(available_templates(host)) == ["shout"]
    assert render_chat_start("shout", {}, "hello", host).first_message == "HELLO"


def test_register_methods() -> None:
    plain = ReplyMethod("plain", "as usual", lambda engine, request, _: engine.stream(request))
    host = host_of(register_methods=lambda register: register(plain))
    asked = Request((Message("user", "Hi"),), Sampling(method="plain"))
    events = list(stream_request(ScriptedEngine("Hello."), asked, host))
    assert "".join(event.text for event in events if isinstance(event, Delta)) == "Hello."


@pytest.mark.parametrize("name", ["", "Plain", "two words", 3])
def test_a_method_needs_a_name(name: Any) -> None:
    wrong = ReplyMethod(name, "as usual", lambda engine, request, _: engine.stream(request))
    host = host_of(register_methods=lambda register: register(wrong))
    assert not reply_methods(host)
    assert "must be lowercase" in host.all_faults[0].error


def test_register_setups() -> None:
    calm = Setup(sampling=Sampling(temperature=0.2))
    host = host_of(register_setups=lambda register: register("calm", calm))
    assert available_setups(host) == {"calm": calm}


class Parity:
    def classify(self, text: str) -> Annotation:
        return Annotation("test", "length", "even" if len(text) % 2 == 0 else "odd")


def test_register_services() -> None:
    contexts: list[Any] = []

    def startup(context: Any) -> None:
        contexts.append(context)

    def annotate(message: Message) -> list[Annotation]:
        classifier = contexts[0].service("classifier", Classifier)
        return [classifier.classify(message.text)]

    offers = plugin(
        startup=startup,
        annotate_message=annotate,
        register_services=lambda register: register("classifier", Parity()),
    )
    with scripted_chat(offers, "Yes.") as chat:
        labels = chat.annotations(chat.say("even"))
        assert [label.value for label in labels] == ["even", "even"]
        assert contexts[0].service("documents", Documents) is None
        assert contexts[0].service("classifier", Documents) is None


def test_a_service_without_its_protocols_methods_is_refused() -> None:
    host = PluginHost(
        [
            ("good", plugin(register_services=lambda register: register("classifier", Parity()))),
            ("bad", plugin(register_services=lambda register: register("classifier", object()))),
        ]
    )
    assert isinstance(host.service("classifier"), Parity)
    (fault,) = host.take_faults()
    assert (fault.plugin, fault.hook) == ("bad", "register_services")
    assert "must have the methods of chatlm.Classifier" in fault.error


def test_a_service_of_a_dropped_plugin_is_gone() -> None:
    host = host_of(register_services=lambda register: register("classifier", Parity()))
    assert host.service("classifier") is not None
    host.drop("plugin", "test", ValueError("broken"))
    assert host.service("classifier") is None


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("chatlm_rag", "documents"),
        ("chatlm_emotion", "classifier"),
        ("chatlm_lora", "adapters"),
        ("chatlm_arena", "judge"),
    ],
)
def test_the_built_in_plugins_offer_their_services(module: str, name: str) -> None:
    host = PluginHost([(module, import_module(f"{module}.plugin"))])
    assert isinstance(host.service(name), SERVICES[name])
    assert host.take_faults() == []


def test_register_tools() -> None:
    @tool
    def shout(text: str) -> str:
        """Shout."""
        return text.upper()

    def offer(register: Any) -> None:
        register(shout)
        register("not a tool")

    host = host_of(register_tools=offer)
    assert host.collect("register_tools") == [("plugin", (shout,))]
    assert "register takes a Tool" in host.take_faults()[0].error


async def test_register_slash_commands() -> None:
    def count(ui: Any, text: str) -> None:
        ui.notify(f"{len(text)} letters")

    command = SlashCommand("count", "count letters", count, argument="TEXT")
    counts = plugin(register_slash_commands=lambda register: register(command))
    async with scripted_screen(counts) as screen:
        await screen.submit("/count abc")
        assert screen.notifications == ["3 letters"]


async def test_register_panels() -> None:
    def open_panel(ui: Any) -> Any:
        from textual.widgets import Static

        return Static("text of the panel")

    panel = Panel("notes", "Notes", open_panel)
    async with scripted_screen(plugin(register_panels=lambda register: register(panel))) as screen:
        await screen.submit("/notes")
        assert "text of the panel" in screen.text()


async def test_register_screens() -> None:
    def open_screen(ui: Any, argument: str) -> Any:
        from textual.screen import ModalScreen
        from textual.widgets import Static

        class Sheet(ModalScreen[None]):
            def compose(self) -> Any:
                yield Static(f"sheet of {argument}")

        return Sheet()

    command = SlashCommand(
        "sheet", "open the sheet", lambda ui, _: ui.open_screen("sheet", "paper")
    )
    both = plugin(
        register_screens=lambda register: register(PluginScreen("sheet", open_screen)),
        register_slash_commands=lambda register: register(command),
    )
    async with scripted_screen(both) as screen:
        await screen.submit("/sheet")
        assert "sheet of paper" in screen.text()


async def test_screen_opened() -> None:
    async with scripted_screen(
        plugin(screen_opened=lambda ui: ui.show_status("ready to go"))
    ) as screen:
        assert "ready to go" in screen.text()


async def test_chat_shown() -> None:
    shown: list[int] = []
    shows = plugin(chat_shown=lambda ui: shown.append(len(ui.conversation.turns)))
    async with scripted_screen(shows, replies=["Yes."]) as screen:
        assert shown == [0]
        await screen.submit("Hello")
        await screen.submit("/new")
        assert shown == [0, 0]


DELETES_NOTES = """
import chatlm

@chatlm.hookimpl
def chat_deleted(conversation_id):
    (chatlm.data_dir() / f"{conversation_id}.txt").unlink()
"""


def test_chat_deleted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "plugins").mkdir(parents=True)
    (home / "plugins" / "notes.py").write_text(DELETES_NOTES)
    with Store(home / "chats.db") as store:
        gone, here = (store.create_conversation().id for _ in range(2))
    for chat in (gone, here):
        (home / f"{chat}.txt").write_text("a note")
    assert main(["chats", "delete", str(gone), "--yes"]) == 0
    assert [path.name for path in home.glob("*.txt")] == [f"{here}.txt"]
    (home / "config.toml").write_text("model = 3\n")
    assert main(["chats", "delete", str(here), "--yes"]) == 0
    assert "Plugins were not notified" in capsys.readouterr().err
    assert [path.name for path in home.glob("*.txt")] == [f"{here}.txt"]


def test_chats_that_leave_the_trash_are_announced() -> None:
    deleted: list[int] = []

    def chat_deleted(conversation_id: int) -> None:
        deleted.append(conversation_id)

    host = host_of(chat_deleted=chat_deleted)
    with Store(None) as store:
        old, new = (store.create_conversation().id for _ in range(2))
        store.trash(old)
        between = utc_now()
        store.trash(new)
        empty_trash(store, between, host)
        assert deleted == [old]
        assert [entry.id for entry in store.list_trash()] == [new]


def test_a_chat_whose_only_message_is_refused_is_announced_as_deleted(tmp_path: Path) -> None:
    deleted: list[int] = []

    def chat_deleted(conversation_id: int) -> None:
        deleted.append(conversation_id)

    def write_message() -> UsageError:
        return UsageError("Not that")

    host = host_of(chat_deleted=chat_deleted, write_message=write_message)
    with Store(tmp_path / "chats.db") as saved, open_memory_store() as incognito:
        saved.create_conversation()
        for store in (saved, incognito):
            session = ChatSession(store, ScriptedEngine, plugins=host)
            with pytest.raises(UsageError):
                list(session.send("Hello"))
        assert deleted == [2, incognito.first_id]


def test_the_emotion_plugin_forgets_the_texts_of_deleted_chats() -> None:
    actions = import_module("chatlm_emotion.actions")
    labeller = actions.get_labeller()
    go = threading.Event()
    labeller._executor.submit(go.wait)  # no label is ready before the end
    try:
        first = labeller.submit("I am so happy.")
        assert labeller.submit("I am so happy.") is first
        host = PluginHost([("emotion", import_module("chatlm_emotion.plugin"))])
        host.call_hook("chat_deleted", conversation_id=1)
        assert labeller.submit("I am so happy.") is not first
    finally:
        go.set()
        actions.close_labeller()


def test_suggest_text() -> None:
    def suggest(text: str) -> Any:
        return {"hel": "lo", "blank": " "}.get(text)

    host = host_of(suggest_text=suggest)
    assert suggest_text(Conversation(0), "hel", host) == "lo"
    assert suggest_text(Conversation(0), "x", host) == ""
    off = Conversation(1, disabled_plugins=frozenset({"plugin"}))
    assert suggest_text(off, "hel", host) == ""
    assert suggest_text(Conversation(0), "blank", host) == ""
    assert "suggest_text" in str(host.take_faults()[0])


def test_read_attachment(tmp_path: Path) -> None:
    results: list[Any] = ["from the plugin", ChatlmError("it is locked"), None, ""]
    calls: list[Path] = []

    def read(path: Path) -> Any:
        calls.append(path)
        return results[int(path.stem)]

    files = [tmp_path / f"{number}.pdf" for number in range(4)]
    for file in files:
        file.write_text("plain text")
    host = host_of(read_attachment=read)
    reader = AttachmentReader(host)
    assert [reader(files[0], "0.pdf") for _ in range(2)] == ["from the plugin"] * 2
    assert calls == [files[0]]
    with pytest.raises(UsageError, match=r"1\.pdf: it is locked"):
        reader(files[1], "1.pdf")
    assert reader(files[2], "2.pdf") == "plain text"
    assert host.take_faults() == []
    assert reader(files[3], "3.pdf") == "plain text"
    assert "returned an empty text" in host.take_faults()[0].error


async def test_a_plugin_reads_what_is_attached_on_the_screen(tmp_path: Path) -> None:
    book = tmp_path / "book.pdf"
    book.write_bytes(b"\0")
    reads = plugin(read_attachment=lambda: "Call me Ishmael.")
    async with scripted_screen(reads, replies=["Yes."]) as screen:
        await screen.submit(f"What is @{book} about?")
        assert "Call me Ishmael." in screen.requests[0].messages[-1].text


class Wiki:
    def names(self) -> list[str]:
        return ["Home", "My page"]

    def read(self, name: str) -> str:
        if name == "Broken":
            raise ZeroDivisionError
        if name not in self.names():
            raise UsageError("there is no such page")
        return "Welcome." if name == "Home" else "x" * (MAX_FILE_BYTES + 1)


def test_register_resources() -> None:
    def offer(register: Any) -> None:
        register("wiki", Wiki())

    other = plugin(register_resources=lambda register: register("wiki", Wiki()))
    host = PluginHost([("other", other), ("wiki", plugin(register_resources=offer))])
    resources = Resources.of_plugins(host)
    assert resources.names() == ["wiki:Home", "wiki:My page"]
    assert [resources.includes(text) for text in ("wiki:x", "wiki:", "wiki", "web:x")] == [
        True,
        False,
        False,
        False,
    ]
    assert resources.read_block("wiki:Home") == "wiki:Home\n```\nWelcome.\n```"
    for name, why in [("No", "no such page"), ("Broken", "ZeroDivision"), ("My page", "1 MB")]:
        with pytest.raises(UsageError, match=why):
            resources.read_block(f"wiki:{name}")
    host = PluginHost([("bad", plugin(register_resources=lambda register: register("a:b", 1)))])
    assert Resources.of_plugins(host).names() == []
    assert "without colons" in host.take_faults()[0].error


def test_resources_are_completed_after_the_files(tmp_path: Path) -> None:
    (tmp_path / "wiki.txt").touch()
    names = ["wiki:Home", "wiki:My page"]
    matches = complete(
        "see @wik", [], {}, tmp_path, is_whole_message=False, resource_names=lambda: names
    )
    assert matches is not None
    assert [candidate.insert for candidate in matches.candidates] == [
        "@wiki.txt ",
        "@wiki:Home ",
        '@"wiki:My page" ',
    ]


async def test_a_resource_is_mentioned_on_the_screen() -> None:
    offers = plugin(register_resources=lambda register: register("wiki", Wiki()))
    async with scripted_screen(offers, replies=["Yes."]) as screen:
        await screen.submit("What do @wiki:Home, @wiki:Home? and @nobody:else say?")
        message = screen.requests[0].messages[-1].text
        assert message.startswith("What do wiki:Home, wiki:Home? and @nobody:else say?")
        assert message.endswith("Welcome.\n```")


def test_an_attachment_is_read_again_when_its_file_changed(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    reader = AttachmentReader(PluginHost())
    for text in ("short", "longer than before"):
        file.write_text(text)
        assert reader(file, "notes.txt") == text


def test_the_text_that_a_plugin_reads_is_limited(tmp_path: Path) -> None:
    file = tmp_path / "book.pdf"
    file.write_text("x")
    reader = AttachmentReader(host_of(read_attachment=lambda: "x" * (MAX_FILE_BYTES + 1)))
    with pytest.raises(UsageError, match="larger than 1 MB"):
        reader(file, "book.pdf")


def test_describe_text() -> None:
    first = plugin(describe_text=lambda text: {"length": str(len(text)), "by": "first"})
    second = plugin(describe_text=lambda: {"by": "second", "also": "yes"})
    host = PluginHost([("second", second), ("first", first)])
    facts = host.call_hook("describe_text", conversation=None, text="four")
    assert facts == {"length": "4", "by": "first", "also": "yes"}


def test_write_message() -> None:
    def write(text: str) -> Any:
        return UsageError("Not this.") if text == "no" else f"<{text}>"

    with scripted_chat(plugin(write_message=write), "Yes.") as chat:
        turn = chat.say("hello")
        assert (turn.user.text, turn.display_text) == ("<hello>", "hello")
        with pytest.raises(UsageError, match="Not this"):
            chat.say("no")


def test_annotate_message() -> None:
    def annotate(message: Message) -> list[Annotation]:
        return [Annotation("test", message.role, message.text)]

    with scripted_chat(plugin(annotate_message=annotate), "Yes.") as chat:
        labels = chat.annotations(chat.say("hello"))
        assert [(label.name, label.value) for label in labels] == [
            ("user", "hello"),
            ("assistant", "Yes."),
        ]


def test_retrieve_passages() -> None:
    passages = [Passage("Paris is the capital.", "atlas.md", 0.9)]
    with scripted_chat(plugin(retrieve_passages=lambda: passages), "Yes.") as chat:
        chat.say("hello")
        assert "Paris is the capital." in chat.requests[0].messages[-1].text


def test_build_messages() -> None:
    only = [Message("user", "something else")]
    with scripted_chat(plugin(build_messages=lambda: only), "Yes.") as chat:
        chat.say("hello")
        assert list(chat.requests[0].messages) == only


def test_adjust_request() -> None:
    import dataclasses

    def adapter(name: str) -> Any:
        def adjust_request(request: Any) -> Any:
            return dataclasses.replace(request, adapter=f"{request.adapter or ''}{name}")

        return plugin(adjust_request=adjust_request)

    host = PluginHost([("b", adapter("b")), ("a", adapter("a"))])
    request = host.call_hook("adjust_request", **sample_arguments("adjust_request", engine=None))
    assert request.adapter == "ab"


def test_find_adapter(tmp_path: Path) -> None:
    def find(name: str) -> Any:
        known = {"poet": tmp_path, "gone": tmp_path / "gone", "bad": ChatlmError("It is damaged")}
        return known.get(name)

    host = host_of(find_adapter=find)
    assert host.call_hook("find_adapter", name="poet", model="m") == tmp_path
    assert host.call_hook("find_adapter", name="other", model="m") is None
    assert isinstance(host.call_hook("find_adapter", name="bad", model="m"), ChatlmError)
    assert host.take_faults() == []
    assert host.call_hook("find_adapter", name="gone", model="m") is None
    assert "find_adapter" in str(host.take_faults()[0])


def test_turn_finished() -> None:
    def finish(turn: Any) -> list[Annotation]:
        return [Annotation("test", "reply", turn.reply.text)]

    with scripted_chat(plugin(turn_finished=finish), "Yes.") as chat:
        labels = chat.annotations(chat.say("hello"))
        assert [(label.name, label.value) for label in labels] == [("reply", "Yes.")]

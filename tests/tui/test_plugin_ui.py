"""Plugins on the screen: commands, panels, screens, progress, and their view of the chat."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from textual.app import ComposeResult
from textual.screen import ModalScreen, Screen
from textual.widgets import Input, Static

from chatlm import Panel, PluginScreen, Sampling, SlashCommand, Ui, UsageError, hookimpl
from chatlm.config.config import Config
from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.testing import scripted_screen
from chatlm.tui import commands
from chatlm.tui.app import ChatApp
from chatlm.tui.plugin_ui.registrations import Registrations
from chatlm.types.tool_rules import ChatTools
from tests.tui.support import StillEngine, app_of, opens, until
from tests.waiting import PATIENCE


class Plugin:
    """Offers the given extensions, and stores the `ui` of `screen_opened`."""

    def __init__(self, *things: SlashCommand | Panel | PluginScreen) -> None:
        self.things = things
        self.ui: Any = None

    @hookimpl
    def register_slash_commands(self, register: Any) -> None:
        for thing in self.things:
            if isinstance(thing, SlashCommand):
                register(thing)

    @hookimpl
    def register_panels(self, register: Any) -> None:
        for thing in self.things:
            if isinstance(thing, Panel):
                register(thing)

    @hookimpl
    def register_screens(self, register: Any) -> None:
        for thing in self.things:
            if isinstance(thing, PluginScreen):
                register(thing)

    @hookimpl
    def screen_opened(self, ui: Ui) -> None:
        self.ui = ui


def command(run: Callable[[Ui, str], None], name: str = "try", **more: str) -> SlashCommand:
    return SlashCommand(name, more.pop("help", "try something"), run, **more)


def raises(error: BaseException) -> Callable[[Ui, str], None]:
    def run(ui: Ui, text: str) -> None:
        raise error

    return run


class Seen(Static):
    """Says which chat and turn it was shown."""

    def show(self, ui: Ui) -> None:
        turn = ui.turn
        self.update(f"chat {ui.conversation.id}, turn {turn.position + 1 if turn else 'none'}")


def make_panel(name: str = "seen", **more: Any) -> Panel:
    return Panel(name, "What is seen", lambda ui: Seen(**more))


class Page(Screen[None]):
    def __init__(self, argument: str) -> None:
        super().__init__()
        self.argument = argument

    def compose(self) -> ComposeResult:
        yield Static(f"a page about {self.argument}")


def page(name: str = "page") -> PluginScreen:
    return PluginScreen(name, lambda ui, argument: Page(argument))


# Commands


async def test_a_command_runs_in_a_thread_and_notifies_the_user() -> None:
    where: list[threading.Thread] = []

    def hello(ui: Ui, text: str) -> None:
        where.append(threading.current_thread())
        ui.notify(f"hello {text}\x1b[2J [b]")

    plugin = Plugin(command(hello, "hello", argument="[NAME]", key="ctrl+b"))
    async with scripted_screen(plugin) as shown:
        await shown.submit("/hello you")
        assert shown.notifications[-1] == "hello you␛[2J [b]"
        assert "hello you␛[2J [b]" in shown.text()
        await shown.press("ctrl+b")
        assert shown.notifications[-1] == "hello ␛[2J [b]"
        assert where[0] is not threading.main_thread()
        assert shown.faults == []


async def test_commands_stand_in_completion_palette_and_help_with_their_plugin() -> None:
    plugin = Plugin(command(raises(UsageError("no")), "zebra", key="f8", help="count stripes"))
    async with scripted_screen(plugin, size=(120, 60)) as shown:
        await shown.press("/", "z", "e", "b")
        assert "count stripes · plugin" in shown.text()
        await shown.press("escape", "ctrl+p", *"stripes")
        await until(shown.pilot, lambda: "count stripes · plugin" in shown.text())
        await shown.press("escape", "escape", "f1", "end")
        help_text = shown.text()
        assert "From plugins" in help_text
        (line,) = [line for line in help_text.splitlines() if "/zebra" in line]
        assert "f8" in line
        assert "count stripes · plugin" in line


async def test_without_plugins_the_help_says_nothing_of_them() -> None:
    async with scripted_screen(Plugin()) as shown:
        await shown.press("f1", "end")
        assert "From plugins" not in shown.text()


async def test_the_user_can_choose_the_key() -> None:
    said = threading.Event()
    plugin = Plugin(command(lambda ui, text: said.set(), key="ctrl+b"))
    async with scripted_screen(plugin, keys={"try": "f9"}) as shown:
        await shown.press("ctrl+b")
        assert not said.is_set()
        await shown.press("f9")
        assert said.is_set()
        assert shown.notifications == []


async def test_a_users_mistake_is_reported_and_is_no_fault() -> None:
    error = UsageError("There is no such bird", hint="Try a duck.")
    async with scripted_screen(Plugin(command(raises(error)))) as shown:
        for _ in range(4):
            await shown.submit("/try")
        assert shown.notifications[-1] == "There is no such bird\nTry a duck."
        assert shown.faults == []


@pytest.mark.parametrize("error", [RuntimeError("no wings"), SystemExit(4)])
async def test_what_a_command_raises_is_a_fault_and_three_leave_the_plugin_out(
    error: BaseException,
) -> None:
    async with scripted_screen(Plugin(command(raises(error))), replies=["Here."]) as shown:
        for _ in range(3):
            await shown.submit("/try")
        assert [(fault.hook, fault.dropped) for fault in shown.faults] == [
            ("/try", False), ("/try", False), ("/try", True),
        ]  # fmt: skip
        assert "failed in /try" in shown.notifications[-1]
        await shown.submit("/try")
        assert "failed too often" in shown.notifications[-1]
        assert len(shown.faults) == 3
        await shown.submit("Are you there?")
        assert "Here." in shown.text()


def host_of(**plugins: Plugin) -> PluginHost:
    return PluginHost(list(plugins.items()))


def make_app(host: PluginHost, keys: Mapping[str, str] | None = None) -> ChatApp:
    return ChatApp(
        Store(None), opens(ScriptedEngine()), plugins=host, config=Config(keys=keys or {})
    )


def test_the_first_of_two_with_one_name_has_it_and_the_other_is_reported() -> None:
    run = raises(UsageError("no"))
    host = host_of(
        one=Plugin(command(run, "same", help="of one"), make_panel("both")),
        two=Plugin(command(run, "same", help="of two"), command(run, "both"), command(run, "new")),
        three=Plugin(command(run, "three"), page("same"), make_panel("three")),
    )
    make_app(host)
    assert {c.name: c.help for c in commands.plugin_commands()} == {
        "same": "of one · one", "both": "try something · two", "three": "try something · three",
    }  # fmt: skip
    errors = {(fault.plugin, fault.hook): fault.error for fault in host.all_faults}
    assert errors == {
        ("one", "register_panels"): "these names are taken: both (of two)",
        ("two", "register_slash_commands"): "these names are taken: same (of one), new (of chatlm)",
        ("three", "register_panels"): "these names are taken: three (of three)",
    }


def test_a_key_that_is_taken_is_a_fault_and_the_command_stays() -> None:
    run = raises(UsageError("no"))
    host = host_of(
        one=Plugin(command(run, "first", key="f8"), command(run, "copies", key="ctrl+r")),
        two=Plugin(command(run, "second", key="f8"), make_panel("typing")),
        three=Plugin(Panel("kills", "Kills", lambda ui: Static(), key="ctrl+k")),
        four=Plugin(command(run, "mine", key="f7")),
    )
    make_app(host, keys={"mine": "f11"})
    keys = {command.name: command.key for command in commands.plugin_commands()}
    assert keys == {
        "first": "f8", "copies": "", "second": "", "typing": "", "kills": "", "mine": "f11",
    }  # fmt: skip
    errors = {(fault.plugin, fault.hook): fault.error for fault in host.all_faults}
    assert errors == {
        ("one", "register_slash_commands"): "these keys are taken: ctrl+r (for /copies)",
        ("two", "register_slash_commands"): "these keys are taken: f8 (for /second)",
        ("three", "register_panels"): "these keys are taken: ctrl+k (for /kills)",
    }
    assert "[keys]" in host.all_faults[0].hint


def test_a_users_choice_overrides_a_plugins_default() -> None:
    host = host_of(one=Plugin(command(raises(UsageError("no")), "first", key="f8")))
    app = make_app(host, keys={"regenerate": "f8"})
    assert app._startup_notices == []
    assert (commands.key_of("regenerate"), commands.key_of("first")) == ("f8", "")
    make_app(PluginHost())
    assert commands.plugin_commands() == []


async def nothing(ui: Ui, text: str) -> None: ...


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: command(raises(UsageError("")), "No Good"), "small letters"),
        (lambda: command(raises(UsageError("")), "/no"), "small letters"),
        (lambda: command(raises(UsageError("")), key="a"), "must be ctrl"),
        (lambda: command(raises(UsageError("")), key="ctrl+m"), "terminals send for enter"),
        (lambda: command(raises(UsageError("")), help=" "), "a few words"),
        (lambda: SlashCommand("a", "b", nothing), "plain function"),  # type: ignore[arg-type]
        (lambda: Panel("a", "", lambda ui: None), "a few words"),
        (lambda: PluginScreen("a", 3), "plain function"),  # type: ignore[arg-type]
    ],
)
def test_what_is_not_valid_is_a_fault_and_costs_nothing_else(
    make: Callable[[], Any], said: str
) -> None:
    good, also = command(raises(UsageError("")), "good"), command(raises(UsageError("")), "also")
    host = host_of(one=Plugin(good, make(), also))
    registrations = Registrations(host)
    assert list(registrations.commands) == ["good", "also"]
    assert not registrations.panels
    assert not registrations.screens
    (fault,) = host.all_faults
    assert said in fault.error
    assert not fault.dropped
    Registrations(host)
    assert len(host.all_faults) == 1


async def test_a_hook_that_raises_or_offers_garbage_is_a_fault_of_its_plugin() -> None:
    class Bad:
        @hookimpl
        def register_slash_commands(self, register: Any) -> None:
            register(command(raises(UsageError("no")), "lost"))
            raise RuntimeError("half way")

        @hookimpl
        def register_panels(self, register: Any) -> None:
            register("a panel")

    async with scripted_screen(Bad(), replies=["Here."]) as shown:
        assert [(fault.hook, fault.error) for fault in shown.faults] == [
            ("register_slash_commands", "RuntimeError: half way"),
            ("register_panels", "TypeError: register takes a Panel, not str"),
        ]
        assert "half way" in shown.text()
        await shown.submit("Are you there?")
        assert "Here." in shown.text()


# The chat as a plugin sees it


def selected_text(ui: Ui) -> str:
    """The message of the turn that the plugin sees."""
    return ui.turn.user.text if ui.turn else ""


async def test_what_a_plugin_may_do_with_the_chat() -> None:
    plugin = Plugin()
    async with scripted_screen(plugin, replies=["One.", "Two.", "Three."]) as shown:
        ui, chat = plugin.ui, shown.app.chat_screen.chat
        assert ui.conversation.id == 0
        assert selected_text(ui) == ""
        ui.set_state(colour="green", size=3)
        ui.set_chat(system="Be kind.", sampling=Sampling(temperature=0.5))
        await shown.settle()
        await shown.submit("First")
        assert ui.engine is shown.engine
        assert ui.state == {"colour": "green", "size": 3}
        assert selected_text(ui) == "First"
        assert shown.requests[-1].messages[0].text == "Be kind."
        assert shown.requests[-1].sampling.temperature == 0.5
        ui.set_state(size=None)
        ui.insert_text("typed ")
        ui.send("Second")
        await shown.settle()
        await until(shown.pilot, lambda: ui.state == {"colour": "green"})
        assert selected_text(ui) == "Second"
        assert chat.composer.text == "typed "
        await shown.press("tab", "up")
        assert selected_text(ui) == "First"
        first = ui.conversation.id
        ui.set_chat(tools=["clock"])
        await until(shown.pilot, lambda: ui.conversation.tools.on == ("clock",))
        ui.new_chat(system="Be brief.", state={"a": [1]}, message="Third", tools=["python"])
        await shown.settle()
        assert ui.conversation.tools == ChatTools(enabled=True, on=("python",))
        assert ui.conversation.id != first
        assert ui.conversation.system == "Be brief."
        assert ui.state == {"a": [1]}
        assert [turn.user.text for turn in ui.conversation.turns] == ["Third"]
        assert shown.faults == []


async def test_a_new_chat_of_an_incognito_one_is_incognito_too() -> None:
    plugin = Plugin()
    async with scripted_screen(plugin) as shown:
        await shown.press("ctrl+t")
        plugin.ui.new_chat(system="Be brief.")
        await shown.settle()
        assert shown.app.chat_screen.chat.incognito


async def test_a_message_is_refused_while_a_reply_is_written() -> None:
    plugin, engine = Plugin(), StillEngine("Wait", stand_after=1)
    app = ChatApp(Store(None), opens(engine), plugins=PluginHost([("plugin", plugin)]))
    async with app.run_test(notifications=True) as pilot:
        await until(pilot, lambda: plugin.ui is not None)
        plugin.ui.send("First")
        await until(pilot, lambda: engine.requests)
        plugin.ui.send("Second")
        await until(pilot, lambda: app._notifications)
        assert "A reply is being written" in next(iter(app._notifications)).message
        engine.go.set()
        await until(pilot, lambda: not app_of(pilot).chat_screen.chat.busy)
        assert len(engine.requests) == 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda ui: ui.notify(3),
        lambda ui: ui.insert_text(None),
        lambda ui: ui.send(b"bytes"),
        lambda ui: ui.set_chat(sampling={"temperature": 1}),
        lambda ui: ui.set_state(value={1, 2}),
        lambda ui: ui.new_chat(message=3),
        lambda ui: ui.set_chat(tools=[1]),
    ],
)
async def test_a_wrong_value_fails_where_it_comes_from(ask: Callable[[Any], None]) -> None:
    async with scripted_screen(Plugin(command(lambda ui, text: ask(ui)))) as shown:
        await shown.submit("/try")
        (fault,) = shown.faults
        assert fault.hook == "/try"


async def test_many_threads_may_notify_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChatApp, "NOTIFICATION_TIMEOUT", PATIENCE)

    def run(ui: Ui, text: str) -> None:
        def speak(number: int) -> None:
            ui.set_state(**{f"n{number}": number})
            assert ui.conversation.id
            ui.notify(f"number {number}")

        threads = [threading.Thread(target=speak, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    plugin = Plugin(command(run))
    async with scripted_screen(plugin, replies=["Yes."]) as shown:
        await shown.submit("Hello")
        await shown.submit("/try")
        await until(shown.pilot, lambda: len(plugin.ui.state) == 20)
        assert len(shown.notifications) == 20


async def test_an_unknown_panel_or_screen_is_reported() -> None:
    plugin = Plugin()
    async with scripted_screen(plugin) as shown:
        plugin.ui.open_panel("none")
        plugin.ui.open_screen("none")
        await shown.settle()
        assert shown.notifications == ["Unknown panel none", "Unknown screen none"]


async def test_a_plugin_writes_to_the_status_bar() -> None:
    plugin = Plugin()
    async with scripted_screen(plugin, size=(80, 24)) as shown:
        plugin.ui.show_status("mood calm\x1b[2J")
        await shown.settle()
        assert "mood calm␛[2J" in shown.text().splitlines()[-1]
        shown.app.chat_screen.chat.edits.set_disabled_plugins(["plugin"])
        await shown.settle()
        assert "mood" not in shown.text().splitlines()[-1], "it is off in this chat"
        shown.app.chat_screen.chat.edits.set_disabled_plugins([])
        await shown.settle()
        assert "mood calm" in shown.text().splitlines()[-1]
        plugin.ui.show_status("")
        await shown.settle()
        assert "mood" not in shown.text().splitlines()[-1]


# Long works


async def test_progress_is_shown_and_can_be_cancelled() -> None:
    steps: list[int] = []

    def run(ui: Ui, text: str) -> None:
        with ui.progress("Indexing your files") as work:
            for step in range(2000):
                if work.cancelled:
                    return
                work.update(step, 2000, f"file \x1b{step}")
                steps.append(step)
                time.sleep(0.01)

    async with scripted_screen(Plugin(command(run)), size=(100, 24)) as shown:
        shown.app.chat_screen.chat.composer.text = "/try"
        await shown.pilot.press("enter")
        await until(shown.pilot, lambda: " %  file" in shown.text())
        line = next(line for line in shown.text().splitlines() if "Indexing" in line)
        assert "━━━" in line
        assert "file ␛" in line
        assert line.endswith("esc cancel")
        assert len(line) <= 100
        assert "Write a message" in shown.text()
        await shown.press("escape")
        assert "Indexing" not in shown.text()
        assert len(steps) < 2000
        assert shown.faults == []


async def test_progress_of_unknown_length_and_failing_work() -> None:
    going = threading.Event()

    def run(ui: Ui, text: str) -> None:
        with ui.progress("Counting") as work:
            work.update(1234, note="stars")
            going.wait(PATIENCE)
            raise RuntimeError("lost count")

    async with scripted_screen(Plugin(command(run))) as shown:
        shown.app.chat_screen.chat.composer.text = "/try"
        await shown.pilot.press("enter")
        await until(shown.pilot, lambda: "1,234  stars" in shown.text())
        going.set()
        await shown.settle()
        assert "Counting" not in shown.text()
        assert [fault.hook for fault in shown.faults] == ["/try"]


async def test_quitting_cancels_running_work_and_waits_for_it() -> None:
    ended = threading.Event()

    def run(ui: Ui, text: str) -> None:
        with ui.progress("Waiting") as work:
            while not work.cancelled:
                time.sleep(0.01)
        ended.set()

    async with scripted_screen(Plugin(command(run))) as shown:
        shown.app.chat_screen.chat.composer.text = "/try"
        await shown.pilot.press("enter")
        await until(shown.pilot, lambda: "Waiting" in shown.text())
        await shown.app.action_quit()
        assert ended.is_set()


# Panels


async def test_a_panel_opens_follows_the_chat_and_closes() -> None:
    async with scripted_screen(Plugin(make_panel()), replies=["One.", "Two."]) as shown:
        await shown.submit("/seen")
        assert "What is seen" in shown.text()
        assert "chat 0, turn none" in shown.text()
        assert "/seen close" in shown.text()
        await shown.submit("First")
        await shown.submit("Second")
        assert "chat 1, turn 2" in shown.text()
        await shown.press("tab", "up")
        assert "chat 1, turn 1" in shown.text()
        await shown.press("ctrl+n")
        assert "chat 0, turn none" in shown.text()
        await shown.submit("/seen")
        assert "What is seen" not in shown.text()
        assert shown.faults == []


async def test_one_panel_at_a_time_by_key_too() -> None:
    other = Panel("other", "Another", lambda ui: Static("other text"), key="f9")
    async with scripted_screen(Plugin(make_panel(), other)) as shown:
        await shown.submit("/seen")
        await shown.press("f9")
        assert "other text" in shown.text()
        assert "What is seen" not in shown.text()
        assert "f9 close" in shown.text()
        await shown.press("f9")
        assert "other text" not in shown.text()


async def test_tab_goes_round_through_the_panel() -> None:
    class Fields(Static):
        def compose(self) -> ComposeResult:
            yield Input(id="one")
            yield Input(id="two")

    panel = Panel("fields", "Fields", lambda ui: Fields())
    async with scripted_screen(Plugin(panel), replies=["One."]) as shown:
        await shown.submit("Hello")
        await shown.submit("/fields")
        app = shown.app

        async def ids(key: str, times: int) -> list[str]:
            found = []
            for _ in range(times):
                await shown.press(key)
                focused = app.chat_screen.focused
                assert focused is not None
                found.append(focused.id or type(focused).__name__)
            return found

        round_ = ["TurnView", "one", "two", "chats", "composer"]
        assert await ids("tab", 5) == round_
        assert await ids("shift+tab", 5) == [*round_[-2::-1], "composer"]
        await shown.press("tab", "tab")
        app.chat_screen.plugin_actions.regions.close_panel()
        assert app.chat_screen.focused is app.chat_screen.chat.composer


async def test_on_a_small_screen_a_panel_stands_over_the_transcript_and_escape_closes_it() -> None:
    async with scripted_screen(Plugin(make_panel()), replies=["One."], size=(80, 24)) as shown:
        await shown.submit("Hello")
        await shown.submit("/seen")
        assert "chat 1, turn 1" in shown.text()
        assert "One." not in shown.text()
        assert "Write a message" in shown.text()
        assert "esc close" in shown.text()
        await shown.pilot.resize_terminal(120, 24)
        await until(shown.pilot, lambda: "One." in shown.text())
        assert "chat 1, turn 1" in shown.text()
        await shown.pilot.resize_terminal(80, 24)
        await until(shown.pilot, lambda: "One." not in shown.text())
        await shown.press("escape")
        assert "What is seen" not in shown.text()
        assert "One." in shown.text()


async def test_ids_of_chatlms_own_harm_nothing() -> None:
    class Clashing(Static):
        DEFAULT_CSS = "Clashing #composer { display: none; } Clashing #title { height: 9; }"

        def compose(self) -> ComposeResult:
            for name in ("composer", "title", "middle", "transcript", "head", "chats-panel"):
                yield Static(f"mine: {name}", id=name)

    panel = Panel("ids", "Ids", lambda ui: Clashing(id="composer"))
    async with scripted_screen(Plugin(panel), replies=["One.", "Two."]) as shown:
        await shown.submit("/ids")
        await shown.submit("Hello")
        await shown.press("ctrl+n", "f1", "escape")
        await shown.submit("Hello again")
        assert "Two." in shown.text()
        assert "mine: title" in shown.text()
        assert "Write a message" in shown.text()
        await shown.submit("/ids")
        await shown.submit("/ids")
        assert "mine: head" in shown.text()
        assert shown.faults == []


# Screens


async def test_a_screen_opens_with_its_argument_and_escape_leaves_it() -> None:
    plugin = Plugin(page())
    async with scripted_screen(plugin, replies=["Here."]) as shown:
        plugin.ui.open_screen("page", "ducks")
        await shown.settle()
        assert "a page about ducks" in shown.text()
        await shown.press("escape")
        await shown.submit("Are you there?")
        assert "Here." in shown.text()
        assert shown.faults == []


async def test_escape_means_what_the_screen_wants_it_to() -> None:
    class Asks(ModalScreen[None]):
        BINDINGS = [("escape", "refuse", "")]  # noqa: RUF012

        def compose(self) -> ComposeResult:
            yield Static("are you sure")

        def action_refuse(self) -> None:
            self.query_one(Static).update("I stay")

    plugin = Plugin(PluginScreen("asks", lambda ui, argument: Asks()))
    async with scripted_screen(plugin) as shown:
        plugin.ui.open_screen("asks")
        await shown.settle()
        await shown.press("escape")
        assert "I stay" in shown.text()


async def test_style_files_of_a_screen_are_its_own(tmp_path: Any) -> None:
    (tmp_path / "page.tcss").write_text("Static { display: none; } #composer { height: 20; }")

    class Styled(Page):
        CSS_PATH = str(tmp_path / "page.tcss")

    plugin = Plugin(PluginScreen("page", lambda ui, argument: Styled(argument)))
    async with scripted_screen(plugin) as shown:
        before = shown.text()
        plugin.ui.open_screen("page", "ducks")
        await shown.settle()
        assert "a page about ducks" not in shown.text()
        await shown.press("escape")
        assert shown.text() == before


async def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_widget_that_never_comes_back_holds_up_nothing() -> None:
    class Sleeps(Static):
        async def on_mount(self) -> None:
            await asyncio.sleep(3600)

    class SleepingPage(Page):
        async def on_mount(self) -> None:
            await asyncio.sleep(3600)

    plugin = Plugin(
        Panel("sleeps", "Sleeps", lambda ui: Sleeps()),
        PluginScreen("sleeps", lambda ui, argument: SleepingPage(argument)),
    )
    async with scripted_screen(plugin, replies=["Here."]) as shown:
        app = shown.app
        regions = app.chat_screen.plugin_actions.regions
        regions.toggle_panel("sleeps")
        plugin.ui.open_screen("sleeps")
        await wait(lambda: len(app.screen_stack) == 3)
        await app.run_action("leave_plugin")
        await wait(lambda: app.screen is app.chat_screen)
        regions.close_panel()
        await wait(lambda: not app.query("PluginPanel"))
        await shown.submit("Are you there?")
        assert "Here." in shown.text()
        plugin.ui.open_screen("sleeps")  # and is still there when the program ends
        await wait(lambda: len(app.screen_stack) == 3)

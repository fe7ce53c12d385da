"""The plugins screen shows the state of each plugin, switches it, and saves its settings."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Select, Switch

from chatlm import Annotation, hookimpl
from chatlm.config import config, paths
from chatlm.config.config import Config
from chatlm.config.form import SettingsForm
from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host import lifecycle
from chatlm.plugin_host.faults import Fault
from chatlm.plugin_host.host import PluginHost
from chatlm.plugin_host.lifecycle import PluginInfo, PluginStatus, load_plugins, start_plugins
from chatlm.plugin_host.settings import plugin_section
from chatlm.store.store import Store
from chatlm.tui.app import ChatApp
from chatlm.tui.screens.plugin_settings import FieldRow, PluginSettingsScreen
from chatlm.tui.screens.plugins import PluginEntry, PluginsScreen, plugin_entries
from tests.tui.cards import CardApp, SnapCompare, both_sizes, hint, still
from tests.tui.support import (
    chat_of,
    drawn,
    hostile_texts,
    idle,
    letters,
    opens,
    parts,
    plain,
    say,
    toasts,
    until,
)

GOOD = """'Label messages as good.'
from dataclasses import dataclass
from chatlm import Annotation, hookimpl

@dataclass(frozen=True)
class Settings:
    label: str = "good"

@hookimpl
def annotate_message(message):
    return [Annotation("good", "kind", "good")]
"""

MOODY = """
from chatlm import hookimpl

@hookimpl
def annotate_message(message):
    raise ValueError("not today \\x1b[2J")
"""


@dataclass(frozen=True)
class Settings:
    most: int = field(default=3, metadata={"help": "definitions for one message at most"})
    strict: bool = field(default=False, metadata={"help": "whole words only"})
    mode: Literal["auto", "always", "never"] = "auto"
    terms: tuple[str, ...] = ("Elo", "turn")

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError("most must be 1 or more")


def plugin(name: str, text: str) -> None:
    paths.user_plugins_dir().mkdir(parents=True, exist_ok=True)
    (paths.user_plugins_dir() / f"{name}.py").write_text(text, encoding="utf-8")


def configure(text: str) -> None:
    paths.config_file().parent.mkdir(parents=True, exist_ok=True)
    paths.config_file().write_text(text, encoding="utf-8")


def screen_of(host: PluginHost, running: Config, without: Collection[str] = ()) -> PluginsScreen:
    return PluginsScreen(
        lambda: plugin_entries(host, running), without, lambda _: None, safe_mode=running.safe_mode
    )


def loaded(settings: Config) -> PluginHost:
    host = PluginHost()
    load_plugins(host, settings)
    start_plugins(host, settings)
    return host


def row(pilot: Pilot[None], name: str) -> str:
    """The plugin's line, as words."""
    rows = [str(option.prompt) for option in pilot.app.screen.query_one(OptionList).options]
    return next((" ".join(text.split()) for text in rows if text.startswith(name)), "")


def about(pilot: Pilot[None]) -> str:
    return plain(pilot.app.screen.query_one("#about"))


async def at(pilot: Pilot[None], name: str) -> None:
    """Go to a plugin's line."""
    await until(pilot, lambda: row(pilot, name))
    rows = pilot.app.screen.query_one(OptionList)
    rows.highlighted = next(
        place for place, r in enumerate(rows.options) if str(r.prompt).startswith(name)
    )
    await pilot.pause()


# --- the list -----------------------------------------------------------------------------


@pytest.mark.usefixtures("home")
async def test_each_plugin_shows_its_state() -> None:
    plugin("good", GOOD)
    plugin("moody", MOODY)
    plugin("worse", MOODY)
    plugin("broken", "import nothing_like_this")
    plugin("sleeping", "")
    configure('disabled_plugins = ["sleeping"]')
    settings = config.load()
    host = loaded(settings)
    for name, times in (("moody", 1), ("worse", 3)):
        for _ in range(times):
            host.record_failure(name, "annotate_message", ValueError("not today \x1b[2J"))
    plugin("newer", GOOD)
    app = CardApp(screen_of(host, settings))
    async with app.run_test(size=(100, 40)) as pilot:
        await at(pilot, "good")
        assert row(pilot, "good") == "good ● on Label messages as good."
        assert "Label messages as good." in about(pilot)
        assert row(pilot, "good").startswith("good ● on ")
        assert "Enabled in this chat" in about(pilot)
        assert hint(pilot).startswith("enter settings · space toggle in this chat · d disable")
        await at(pilot, "moody")
        assert "failing" in row(pilot, "moody")
        assert "Failed in annotate_message: ValueError: not today ␛[2J" in about(pilot)
        assert "chatlm logs" in about(pilot)
        assert "settings" not in hint(pilot)
        await at(pilot, "worse")
        assert "left out" in row(pilot, "worse")
        assert "until chatlm restarts" in about(pilot)
        assert "in this chat" not in hint(pilot)
        await at(pilot, "broken")
        assert "failed to load" in row(pilot, "broken")
        assert "Failed in import: ModuleNotFoundError" in about(pilot)
        await at(pilot, "sleeping")
        assert row(pilot, "sleeping").startswith("sleeping ● off ")
        assert "e enable for all" in hint(pilot) and "d disable" not in hint(pilot)
        assert row(pilot, "newer").startswith("newer ● on at next start")


@pytest.mark.usefixtures("home")
async def test_a_plugin_is_switched_for_all_chats_in_the_config() -> None:
    plugin("good", GOOD)
    plugin("sleeping", "")
    configure('# mine\ndisabled_plugins = ["sleeping"] # for now\n')
    settings = config.load()
    app = CardApp(screen_of(loaded(settings), settings))
    async with app.run_test(size=(100, 40)) as pilot:
        await at(pilot, "good")
        await pilot.press("d")
        await until(pilot, lambda: "off at next start" in row(pilot, "good"))
        assert "from the next start" in about(pilot)
        await at(pilot, "sleeping")
        await pilot.press("e")
        await until(pilot, lambda: "on at next start" in row(pilot, "sleeping"))
        assert config.load().disabled_plugins == ("good",)
        await at(pilot, "good")
        await pilot.press("e")
        await until(pilot, lambda: row(pilot, "good").startswith("good ● on "))
    assert paths.config_file().read_text() == "# mine\ndisabled_plugins = [] # for now\n"


@pytest.mark.usefixtures("home")
async def test_a_config_that_cannot_be_read_is_reported() -> None:
    plugin("good", GOOD)
    host = loaded(Config())
    app = CardApp(screen_of(host, Config()))
    async with app.run_test(size=(100, 40)) as pilot:
        await at(pilot, "good")
        configure("not = = toml")
        await pilot.press("d")
        await until(pilot, lambda: "configtomlline1" in letters(plain(app.screen)))
        assert row(pilot, "good").startswith("good ● on ")


@pytest.mark.usefixtures("home")
async def test_one_that_crashed_chatlm_gets_another_try() -> None:
    plugin("good", GOOD)
    mark = paths.data_dir() / "loading" / "good"
    mark.parent.mkdir(parents=True)
    mark.write_text("Fatal Python error: Segmentation fault\n" * 2)
    host = loaded(Config())
    async with CardApp(screen_of(host, Config())).run_test(size=(100, 40)) as pilot:
        await at(pilot, "good")
        assert row(pilot, "good").startswith("good ● crashed")
        assert "e tries it again at the next start" in about(pilot)
        await pilot.press("e")
        await until(pilot, lambda: not row(pilot, "good").startswith("good ● crashed"))
        assert not mark.exists()


@pytest.mark.usefixtures("home")
async def test_in_safe_mode_nothing_is_loaded() -> None:
    plugin("good", GOOD)
    settings = Config(safe_mode=True)
    app = CardApp(screen_of(loaded(settings), settings))
    async with app.run_test(size=(100, 40)) as pilot:
        await at(pilot, "good")
        assert "Safe mode: no plugin is loaded in this run." in plain(app.screen)
        assert row(pilot, "good").startswith("good ● on at next start")
        assert "settings" not in hint(pilot) and "space" not in hint(pilot)


async def test_without_plugins_it_says_how_to_begin(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "find_plugins", list)
    app = CardApp(screen_of(PluginHost(), Config()))
    async with app.run_test(size=(160, 40)) as pilot:
        await until(pilot, lambda: "plugins new NAME" in " ".join(about(pilot).split()))
        assert str(paths.user_plugins_dir()) in about(pilot).replace("\n", "")
        await pilot.press("space", "e", "d", "enter")
        assert hint(pilot) == "esc close"


# --- in a chat ----------------------------------------------------------------------------


class Labels:
    """Labels every message."""

    @hookimpl
    def annotate_message(self, message: Any) -> list[Annotation]:
        return [Annotation("labels", "kind", "seen")]


@pytest.fixture
def with_labels(home: Path) -> ChatApp:
    plugin("labels", "")
    store, host = Store(None), PluginHost([("labels", Labels())])
    engine = ScriptedEngine("One.", "Two.", "Three.")
    return ChatApp(store, opens(engine), plugins=host, clock=lambda: 0.0)


async def toggled(pilot: Pilot[None], word: str) -> None:
    """Switch the plugin in the chat, and wait for the line to show it."""
    await say(pilot, "/plugins")
    await until(pilot, lambda: isinstance(pilot.app.screen, PluginsScreen))
    await at(pilot, "labels")
    await pilot.press("space")
    await until(pilot, lambda: row(pilot, "labels").startswith(f"labels ● {word} "))
    await pilot.press("escape")
    await until(pilot, lambda: not isinstance(pilot.app.screen, PluginsScreen))


async def test_a_plugin_is_switched_off_in_one_chat(with_labels: ChatApp) -> None:
    async with with_labels.run_test(size=(100, 30)) as pilot:
        store = chat_of(pilot).saved_store
        await toggled(pilot, "off in this chat")
        await say(pilot, "Hello")
        await idle(pilot)
        assert store.conversation(1).disabled_plugins == {"labels"}
        assert store.annotations(1) == []
        await toggled(pilot, "on")
        await until(pilot, lambda: not store.conversation(1).disabled_plugins)
        await say(pilot, "Hello")
        await idle(pilot)
        assert [label.value for _, label in store.annotations(2)] == ["seen", "seen"]
        await pilot.press("ctrl+n")
        await toggled(pilot, "off in this chat")
        assert not store.conversation(1).disabled_plugins


async def test_what_else_is_off_in_the_chat_stays_so() -> None:
    given: list[frozenset[str]] = []
    one = PluginEntry(PluginInfo("one", None, "one.py", "on", None), True, True, None, None)
    app = CardApp(PluginsScreen(lambda: [one], {"gone"}, given.append))
    async with app.run_test(size=(100, 30)) as pilot:
        await at(pilot, "one")
        await pilot.press("space", "space")
        assert given == [{"gone", "one"}, {"gone"}]


# --- the form -----------------------------------------------------------------------------


def form() -> CardApp:
    return CardApp(PluginSettingsScreen(SettingsForm(plugin_section("demo", Settings))))


def field_row(pilot: Pilot[None], key: str) -> FieldRow:
    return next(row for row in pilot.app.screen.query(FieldRow) if row.field.key == key)


def says_nothing(row: FieldRow) -> bool:
    """Whether the setting is left to its default."""
    return row.field.configured is None


async def ready(pilot: Pilot[None]) -> None:
    await until(pilot, lambda: isinstance(pilot.app.focused, Input))


def section() -> dict[str, Any]:
    return dict(config.load().plugins.get("demo", {}))


@pytest.mark.usefixtures("home")
async def test_each_kind_of_setting_has_its_field(monkeypatch: pytest.MonkeyPatch) -> None:
    configure("[plugins.demo]\nmost = 5\n")
    monkeypatch.setenv("CHATLM_DEMO_MODE", "never")
    async with form().run_test(size=(100, 30)) as pilot:
        await ready(pilot)
        kinds = [type(row.control) for row in pilot.app.screen.query(FieldRow)]
        assert issubclass(kinds[0], Input) and kinds[1:3] == [Switch, Select]
        assert plain(field_row(pilot, "most")).split() == [
            *("most", "5", "config.toml", "a", "whole", "number")
        ]
        assert "definitions for one message at most" in plain(pilot.app.screen)
        assert plain(field_row(pilot, "strict")).endswith("default\noff")
        assert "never" in plain(field_row(pilot, "mode"))
        assert "environment" in plain(field_row(pilot, "mode"))
        assert '["Elo", "turn"]' in plain(field_row(pilot, "terms"))
        await pilot.press("tab", "tab")
        wins = "CHATLM_DEMO_MODE in the environment"
        await until(pilot, lambda: wins in plain(pilot.app.screen))


@pytest.mark.usefixtures("home")
async def test_what_is_right_is_saved_when_its_field_is_left() -> None:
    configure("# mine\n[plugins.demo]\nmost = 5 # enough\n")
    async with form().run_test(size=(100, 30)) as pilot:
        await ready(pilot)
        await pilot.press("end", "backspace", "7")
        await pilot.pause(0.1)
        assert section() == {"most": 5}, "not while one types"
        await pilot.press("tab", "space")
        await until(pilot, lambda: section() == {"most": 7, "strict": True})
        await until(pilot, lambda: plain(field_row(pilot, "strict")).endswith("on"))
        await pilot.press("tab", "enter", "down", "enter")
        await until(pilot, lambda: section().get("mode") == "always")
        await pilot.press("tab", *'["a"]', "enter")
        await until(pilot, lambda: section().get("terms") == ["a"])
        await pilot.press("end", "backspace", *', "b"]', "escape")
        await until(pilot, lambda: section().get("terms") == ["a", "b"])
        assert toasts(pilot) == []
    assert paths.config_file().read_text().startswith("# mine\n[plugins.demo]\nmost = 7 # enough\n")


@pytest.mark.usefixtures("home")
async def test_a_setting_goes_back_to_its_default() -> None:
    configure('[plugins.demo]\nmost = 5\nstrict = true\nmode = "never"\n')
    async with form().run_test(size=(100, 30)) as pilot:
        await ready(pilot)
        assert "ctrl+r reset to default" in hint(pilot)
        for key in ("most", "strict", "mode"):
            await pilot.press("ctrl+r")
            row = field_row(pilot, key)
            await until(pilot, partial(says_nothing, row))
            await pilot.press("tab")
        assert section() == {}
        assert [row.text for row in pilot.app.screen.query(FieldRow)] == ["", "false", "auto", ""]
        assert "ctrl+r" not in hint(pilot)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "typed, error",
    [
        ("many", "most must be a whole number, not 'many'."),
        ("0", "most must be 1 or more."),
    ],
)
async def test_a_wrong_value_is_marked_as_it_is_typed_and_not_saved(typed: str, error: str) -> None:
    app = form()
    async with app.run_test(size=(100, 30)) as pilot:
        await ready(pilot)
        await pilot.press(*typed)
        await until(pilot, lambda: error in plain(app.screen))
        assert "✗ a whole number" in plain(field_row(pilot, "most"))
        await pilot.press("tab", "shift+tab")
        await until(pilot, lambda: error in plain(app.screen))
        await pilot.press("escape")
        await until(pilot, lambda: app.given == [None])
        assert toasts(pilot) == [f"most stays 3: {error}"]
    assert not paths.config_file().exists()


@pytest.mark.usefixtures("home")
async def test_checks_of_the_plugin_that_fail_oddly_are_reported() -> None:
    @dataclass(frozen=True)
    class Odd:
        name: str = ""

        def __post_init__(self) -> None:
            if self.name:
                raise RuntimeError("odd [b]x[/b] \x1b[2J")

    app = CardApp(PluginSettingsScreen(SettingsForm(plugin_section("odd", Odd))))
    async with app.run_test(size=(100, 30)) as pilot:
        await ready(pilot)
        await pilot.press("a")
        await until(pilot, lambda: "odd [b]x[/b] ␛[2J" in plain(app.screen))


@pytest.mark.usefixtures("home")
async def test_hostile_texts_are_drawn_safely(shared_data: Path) -> None:
    texts = hostile_texts(shared_data)
    fault = Fault("p", "hook", "e", hint="".join(texts[:80]))
    many = [
        PluginEntry(PluginInfo("p", text, text, "failing", text), True, True, fault, None)
        for text in texts
    ]
    app = CardApp(PluginsScreen(lambda: many, (), lambda _: None))
    async with app.run_test(size=(100, 60)) as pilot:
        await until(pilot, lambda: row(pilot, "p"))
        for place in range(0, len(texts), 40):
            app.screen.query_one(OptionList).highlighted = place
            await pilot.pause()
            seen = "".join(text for widget in parts(app.screen) for text in drawn(widget))
            assert not [c for c in seen if ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0]
            assert not set(seen) & set("\u202e\u2066\u200f\ufeff")


# --- pictures -----------------------------------------------------------------------------

PICTURED: list[tuple[str, str | None, str, PluginStatus, str]] = [
    ("templates", "0.1.0", "chatlm", "on", ""),
    ("rag", "0.1.0", "chatlm", "on", ""),
    ("glossary", "1.2", "chatlm-glossary", "failing", "ValueError: the file has no terms"),
    ("moods", "0.3", "chatlm-moods", "left out", "TypeError: a label must be a text"),
    ("broken", None, "plugins/broken.py", "failed", "ModuleNotFoundError: No module named 'x'"),
    ("old", "0.9", "chatlm-old", "off", ""),
]


def pictured() -> list[PluginEntry]:
    shown = []
    for name, version, source, status, error in PICTURED:
        hook = "import" if status == "failed" else "annotate_message"
        fault = Fault(name, hook, error) if error else None
        problem = f"{hook}: {error}" if error else None
        summary = "Answer from your documents." if name == "rag" else ""
        row = PluginInfo(name, version, source, status, problem, summary)
        has = status not in ("failed", "off")
        fields = SettingsForm(plugin_section(name, Settings)) if has else None
        shown.append(PluginEntry(row, has, status != "off", fault, fields))
    return shown


@both_sizes
@pytest.mark.parametrize("theme", ["textual-dark", "textual-light"])
def test_picture_of_the_list(snap_compare: SnapCompare, size: tuple[int, int], theme: str) -> None:
    """Every state as a word and a colour; the highlighted one in sentences."""

    async def steps(pilot: Pilot[None]) -> None:
        await at(pilot, "glossary")

    app = CardApp(PluginsScreen(pictured, {"rag"}, lambda _: None), theme)
    assert snap_compare(app, terminal_size=size, run_before=still(steps))


@both_sizes
@pytest.mark.usefixtures("home")
def test_picture_of_the_form(snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    """A field of each kind, and a wrong value."""
    configure("[plugins.demo]\nstrict = true\n")

    async def steps(pilot: Pilot[None]) -> None:
        await ready(pilot)
        pilot.app.focused.cursor_blink = False  # type: ignore[union-attr]
        await pilot.press("0")
        await until(pilot, lambda: "✗" in plain(pilot.app.screen))

    assert snap_compare(form(), terminal_size=size, run_before=still(steps))

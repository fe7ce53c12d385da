"""The settings screen shows each value with its source, and applies only valid ones, at once."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from textual.message import Message
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import Button, Input, OptionList, TextArea

from chatlm.config import config, paths
from chatlm.tui.screens.sampling_form import SamplingForm, SettingRow, format_value, parse_value
from chatlm.tui.screens.settings import (
    CONFIG_LAYER,
    Section,
    SettingsScreen,
    ThemePicker,
    describe_model,
)
from chatlm.types.engine import EngineInfo
from chatlm.types.memory import MemoryBudget
from chatlm.types.sampling import DEFAULT_SAMPLING, Sampling
from chatlm.types.settings import setting_specs
from tests.tui.cards import (
    CardApp,
    SnapCompare,
    both_sizes,
    everything_visible,
    hint,
    still,
)
from tests.tui.support import plain, toasts, until

INFO = EngineInfo(
    "smollm2-135m-instruct",
    "cpu",
    "16-bit",
    8192,
    "template",
    DEFAULT_SAMPLING,
    ("Chat templates can be hostile: \x1b[2J",),
)
LAYERS = [
    (CONFIG_LAYER, Sampling(max_tokens=300)),
    ("model", Sampling(temperature=0.0, frequency_penalty=0.3)),
    ("default", DEFAULT_SAMPLING),
]


class SettingsApp(CardApp):
    """Records what the screen posted."""

    def __init__(self, card: SettingsScreen, theme: str = "textual-dark") -> None:
        super().__init__(card, theme)
        self.heard: list[Message] = []

    def _hear(self, message: Message) -> None:
        self.heard.append(message)

    on_settings_screen_sampling_changed = _hear
    on_settings_screen_system_changed = _hear
    on_settings_screen_default_sampling_saved = _hear
    on_settings_screen_default_system_saved = _hear
    on_settings_screen_model_requested = _hear
    on_theme_picker_theme_chosen = _hear
    on_theme_picker_motion_chosen = _hear


def app(
    sampling: Sampling | None = None,
    section: Section = "sampling",
    *,
    info: EngineInfo | None = INFO,
    theme: str = "textual-dark",
) -> SettingsApp:
    card = SettingsScreen(
        sampling or Sampling(),
        LAYERS,
        "Be brief.",
        info=info,
        count_tokens=(lambda text: len(text.split()) + 4) if info else None,
        section=section,
    )
    return SettingsApp(card, theme)


def row(pilot: Pilot[None], name: str) -> str:
    """Return the row's text; the field's placeholder counts, since it is the effective value."""
    return " ".join(plain(pilot.app.screen.query_one(f"#row-{name}", SettingRow)).split())


async def ready(pilot: Pilot[None]) -> None:
    await until(pilot, lambda: isinstance(pilot.app.focused, Input))


async def test_each_value_says_where_it_comes_from() -> None:
    host = app(Sampling(top_p=0.5, stop=("###", "\n\nUser:")))
    async with host.run_test(size=(110, 40)) as pilot:
        await ready(pilot)
        assert "0.5" in row(pilot, "top_p") and "this chat" in row(pilot, "top_p")
        assert "300" in row(pilot, "max_tokens") and CONFIG_LAYER in row(pilot, "max_tokens")
        assert "model" in row(pilot, "temperature")
        assert "0.1 to 10" in row(pilot, "repetition_penalty")
        assert "default" in row(pilot, "repetition_penalty")
        assert "random" in row(pilot, "seed")
        assert '"###", "\\n\\nUser:"' in row(pilot, "stop")


async def test_unset_values_are_left_to_the_server() -> None:
    layers = [(CONFIG_LAYER, Sampling(top_p=0.5)), ("default", Sampling(max_tokens=1024))]
    host = SettingsApp(SettingsScreen(Sampling(), layers, ""))
    async with host.run_test(size=(110, 40)) as pilot:
        await ready(pilot)
        assert "the server's" in row(pilot, "temperature")
        assert "the server's" not in row(pilot, "top_p") + row(pilot, "max_tokens")
        assert "random" in row(pilot, "seed")


async def type_into(pilot: Pilot[None], name: str, text: str) -> None:
    field = pilot.app.screen.query_one(f"#{name}", Input)
    field.focus()
    await pilot.press("end", *["backspace"] * len(field.value), *text)
    await pilot.pause()


async def test_a_right_value_counts_at_once() -> None:
    host = app()
    async with host.run_test(size=(110, 40)) as pilot:
        await ready(pilot)
        await type_into(pilot, "temperature", "1.25")
        assert host.heard[-1] == SettingsScreen.SamplingChanged(Sampling(temperature=1.25))
        assert "this chat" in row(pilot, "temperature")


@pytest.mark.parametrize(
    "name, text, note, counted",
    [
        ("temperature", "9", "temperature must be a number from 0 to 5, not 9", None),
        ("temperature", "warm", "temperature must be a number from 0 to 5, not 'warm'", None),
        ("temperature", "nan", "temperature must be a number from 0 to 5, not nan", None),
        ("top_k", "1.5", "top_k must be a whole number from 0 to 1,000,000", 1),
        ("max_tokens", "0", "max_tokens must be a whole number from 1", None),
        ("seed", "-1", "seed must be a whole number from 0", None),
        ("stop", '"a', "stop must be written as", ()),
        ("stop", '"a", 3', "stop must be non-empty texts", ("a",)),
    ],
)
async def test_a_wrong_value_is_marked_and_not_taken(
    name: str, text: str, note: str, counted: Any
) -> None:
    """The last value that was valid while typing applies, if there was one."""
    host = app()
    async with host.run_test(size=(110, 40)) as pilot:
        await ready(pilot)
        await type_into(pilot, name, text)
        await until(pilot, lambda: note in plain(host.screen))
        assert "✗" in row(pilot, name)
        assert getattr(host.card.query_one(SamplingForm).sampling, name) == counted
        assert len(host.heard) == (counted not in (None, ()))
        await type_into(pilot, name, "")
        await until(pilot, lambda: "✗" not in plain(host.screen))


async def test_a_wrong_value_is_reported_on_leaving() -> None:
    host = app()
    async with host.run_test(size=(110, 40)) as pilot:
        await ready(pilot)
        await type_into(pilot, "temperature", "9")
        await type_into(pilot, "max_tokens", "0")
        await pilot.press("escape")
        await until(pilot, lambda: host.given == [None])
        assert toasts(pilot) == [
            "temperature stays 0; it must be a number from 0 to 5, not 9",
            "max_tokens stays 300; it must be a whole number from 1 to 1,000,000, not 0",
        ]


async def test_in_a_small_terminal_every_part_is_there() -> None:
    host = app(Sampling(temperature=0.9))
    async with host.run_test(size=(40, 12)) as pilot:
        await ready(pilot)
        drawn = everything_visible(pilot)
        for part in ("Model", "temperature", "0.9", "this chat", "0 to 5", "× reset", "esc close"):
            assert part in drawn


async def test_a_right_value_that_becomes_wrong_stays_what_it_was() -> None:
    """`2`, then `25`: 2 applies, and the mark says that 25 does not."""
    host = app()
    async with host.run_test(size=(110, 40)) as pilot:
        await ready(pilot)
        await type_into(pilot, "temperature", "25")
        assert host.heard == [SettingsScreen.SamplingChanged(Sampling(temperature=2.0))]
        assert "✗ 0 to 5" in row(pilot, "temperature")


@pytest.mark.parametrize("way", ["key", "click", "all"])
async def test_reset_goes_back_to_the_layer_below(way: str) -> None:
    host = app(Sampling(temperature=1.5))
    async with host.run_test(size=(110, 40)) as pilot:
        await ready(pilot)
        assert "× reset" in row(pilot, "temperature")
        if way == "key":
            await pilot.press("ctrl+r")
        elif way == "click":
            await pilot.click("#row-temperature .reset", offset=(2, 0))
        else:
            await pilot.click("#reset")
        await until(pilot, lambda: "model" in row(pilot, "temperature"))
        assert host.heard == [SettingsScreen.SamplingChanged(Sampling())]


async def test_arrows_and_tab_reach_every_field() -> None:
    async with app().run_test(size=(110, 40)) as pilot:
        await ready(pilot)
        met = []
        for _ in Sampling().settings():
            assert pilot.app.focused is not None
            met.append(pilot.app.focused.id)
            await pilot.press("down")
        assert met == list(setting_specs(Sampling))
        met = []
        for _ in range(2):
            assert pilot.app.focused is not None
            met.append(pilot.app.focused.id)
            await pilot.press("tab")
        assert met == ["reset", "keep-sampling"]


async def test_keep_as_my_default_writes_the_config_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLM_HOME", str(tmp_path))
    mine = Sampling(temperature=0.4, stop=("###", 'a "b" \\ ü'))
    host = app(mine)
    async with host.run_test(size=(110, 40)) as pilot:
        await ready(pilot)
        await pilot.click("#keep-sampling")
        await until(pilot, lambda: host.heard)
        assert config.load().sampling == mine
        assert host.heard == [
            SettingsScreen.DefaultSamplingSaved(mine.with_fallback(Sampling(max_tokens=300)))
        ]
        await pilot.press("ctrl+r")
        host.screen.query_one("#temperature", Input).value = ""
        await until(pilot, lambda: CONFIG_LAYER in row(pilot, "temperature"))


async def test_a_config_that_cannot_be_written_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLM_HOME", str(tmp_path))
    paths.config_file().parent.mkdir(parents=True, exist_ok=True)
    paths.config_file().write_text("not = = toml")
    host = app(Sampling(temperature=0.4))
    async with host.run_test(size=(110, 40)) as pilot:
        await ready(pilot)
        await pilot.click("#keep-sampling")
        await until(pilot, lambda: "config.toml" in plain(host.screen))
        assert host.heard == []


async def test_system_prompt_is_taken_after_typing_with_its_cost() -> None:
    host = app(section="system")
    async with host.run_test(size=(110, 40)) as pilot:
        await until(pilot, lambda: "6 tokens, sent with" in plain(host.screen))
        await pilot.press("end", *" Be kind.")
        await until(pilot, lambda: "8 tokens, sent with" in plain(host.screen))
        assert host.heard == [SettingsScreen.SystemChanged("Be brief. Be kind.")]


async def test_what_was_typed_last_counts_on_leaving() -> None:
    host = app(section="system")
    async with host.run_test(size=(110, 40)) as pilot:
        await until(pilot, lambda: isinstance(host.focused, TextArea))
        await pilot.press("end", "!", "escape")
        await until(pilot, lambda: host.given == [None])
        assert host.heard == [SettingsScreen.SystemChanged("Be brief.!")]


async def test_system_prompt_can_be_my_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLM_HOME", str(tmp_path))
    host = app(section="system")
    async with host.run_test(size=(110, 40)) as pilot:
        await until(pilot, lambda: isinstance(host.focused, TextArea))
        await pilot.press("end", "enter", *'"Kind"')
        await pilot.click("#keep-system")
        await until(pilot, lambda: len(host.heard) == 2)
        assert config.load().system == 'Be brief.\n"Kind"'


@pytest.mark.parametrize(
    "own, note",
    [(21, "The default of the model's template (21 tokens)"), (0, "None: the")],
)
async def test_no_system_prompt_of_the_users_own(own: int, note: str) -> None:
    card = SettingsScreen(Sampling(), LAYERS, "", count_tokens=lambda _: own, section="system")
    async with SettingsApp(card).run_test(size=(110, 40)) as pilot:
        await until(pilot, lambda: note in plain(pilot.app.screen))


async def test_no_model_no_cost() -> None:
    async with app(section="system", info=None).run_test(size=(110, 40)) as pilot:
        await until(pilot, lambda: "shown once the model is loaded" in plain(pilot.app.screen))


async def test_a_theme_is_tried_and_put_back() -> None:
    host = app(section="look")
    async with host.run_test(size=(110, 40)) as pilot:
        await until(pilot, lambda: isinstance(host.focused, OptionList))
        await pilot.press("down")
        await until(pilot, lambda: host.theme == "textual-light")
        await pilot.press("escape")
        await until(pilot, lambda: host.given == [None])
        assert host.theme == "textual-dark" and host.heard == []


async def test_a_theme_is_chosen() -> None:
    host = app(section="look")
    async with host.run_test(size=(110, 40)) as pilot:
        await until(pilot, lambda: isinstance(host.focused, OptionList))
        assert "enter use theme" in hint(pilot)
        await pilot.press("down", "enter")
        await until(pilot, lambda: "textual-light · in use" in plain(host.screen))
        await pilot.press("escape")
        await until(pilot, lambda: host.given == [None])
        assert host.theme == "textual-light"
        assert host.heard == [ThemePicker.ThemeChosen("textual-light")]


async def test_reduced_motion_is_described() -> None:
    host = app(section="look")
    async with host.run_test(size=(110, 40)) as pilot:
        await until(pilot, lambda: "Reduced motion: off" in plain(host.screen))
        await pilot.press("tab", "enter")
        await until(pilot, lambda: "Reduced motion: on" in plain(host.screen))
        assert host.heard == [ThemePicker.MotionChosen(True)]


async def test_the_model_section_describes_the_model_and_links_to_more() -> None:
    host = app(section="model")
    async with host.run_test(size=(110, 40)) as pilot:
        await until(pilot, lambda: isinstance(host.focused, Button))
        text = plain(host.screen)
        for word in (
            "smollm2-135m-instruct",
            "Device         cpu",
            "Weights        16-bit",
            "8,192 tokens",
            "hostile: ␛[2J",
        ):
            assert word in text
        await pilot.press("enter")
        await until(pilot, lambda: host.heard == [SettingsScreen.ModelRequested()])


def test_the_model_section_says_what_it_takes_in_memory() -> None:
    memory = MemoryBudget("cpu", 10**9, 2 * 10**8, 4096, 0, 3 * 10**8, 8 * 10**9)
    text = str(describe_model(dataclasses.replace(INFO, memory=memory)))
    assert "1.0 GB weights, 200.0 MB KV cache at 4,096 tokens, 300.0 MB program, 1.5 GB" in text
    assert "8.0 GB available" in text
    assert "Memory" not in str(describe_model(INFO))


async def test_sections_follow_one_another() -> None:
    host = app()
    async with host.run_test(size=(110, 40)) as pilot:
        await ready(pilot)
        for kind in (TextArea, OptionList, Button, Input):
            await pilot.press("ctrl+t")
            await until(pilot, partial(_focused, host, kind))


@pytest.mark.parametrize(
    "name, value",
    [
        ("temperature", 0.0),
        ("top_k", 40),
        ("seed", 2**63 - 1),
        ("min_p", 0.05),
        ("stop", ("a", "\n")),
        ("logit_bias", ((15043, -100.0), (" cat", 5.0))),
    ],
)
def test_written_values_are_read_back(name: str, value: Any) -> None:
    assert parse_value(name, format_value(name, value)) == value


def test_one_stop_text_needs_no_quotes() -> None:
    assert parse_value("stop", " User:") == (" User:",)
    assert parse_value("stop", "") == ()


@both_sizes
@pytest.mark.parametrize("section", ["sampling", "system", "look", "model"])
def test_picture(snap_compare: SnapCompare, size: tuple[int, int], section: Section) -> None:
    """Each section as it opens."""

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: pilot.app.focused is not None)

    host = app(Sampling(temperature=0.9, stop=("###",)), section)
    assert snap_compare(host, terminal_size=size, run_before=still(steps))


@both_sizes
def test_picture_of_a_wrong_value(snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    """Marked next to the field, explained below."""

    async def steps(pilot: Pilot[None]) -> None:
        await ready(pilot)
        await pilot.press("down", "down", "9")

    host = app(Sampling(temperature=0.9), theme="textual-light")
    assert snap_compare(host, terminal_size=size, run_before=still(steps))


def _focused(host: SettingsApp, kind: type[Widget]) -> bool:
    return isinstance(host.focused, kind)

"""The settings screen: sampling, system prompt, appearance, model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import (
    Button,
    Input,
    OptionList,
    Static,
    TabbedContent,
    TabPane,
    Tabs,
    TextArea,
)
from textual.widgets.option_list import Option

from chatlm.config import config
from chatlm.errors import ChatlmError
from chatlm.hub.disk import human_bytes
from chatlm.text import escape_controls, one_line
from chatlm.tui.formatting import count
from chatlm.tui.screens.card import Card
from chatlm.tui.screens.sampling_form import Layers, SamplingForm, SettingTitles
from chatlm.tui.widgets.inputs import VisibleArea, normalise_lines
from chatlm.tui.workers import single_value
from chatlm.types.engine import EngineInfo
from chatlm.types.sampling import Sampling

TYPING_PAUSE_SECONDS = 0.4
"""Seconds after the last key press before the text is applied."""


class SystemEditor(Vertical):
    """The system prompt editor; posts `Paused` when it is time to `commit`.

    Args:
        system: the initial prompt.
    """

    DEFAULT_CSS = """
    SystemEditor {
        height: 1fr;
        & > TextArea { height: 1fr; border: none; padding: 0; background: $foreground 8%; }
        & > TextArea:focus { border: none; background: $foreground 12%; }
        & > #cost { height: 2; color: $text-muted; }
    }
    """

    @dataclass
    class TypingPaused(Message):
        """The user paused after typing."""

    def __init__(self, system: str) -> None:
        super().__init__()
        self.system = system
        """The prompt applied last."""
        self._typing_timer: Timer | None = None

    def compose(self) -> ComposeResult:
        """Yield the text and its cost."""
        yield VisibleArea(self.system, "No system prompt")
        yield Static(id="cost")

    def commit(self) -> bool:
        """Apply the text as the system prompt; return whether it has changed.

        An unedited prompt stays as it was, control characters included.
        """
        text = self.query_one(VisibleArea).text
        if text == normalise_lines(self.system):
            return False
        self.system = text
        return True

    def show_cost(self, tokens: int | None) -> None:
        """Show its tokens; None if they are not known yet."""
        text = "The token count is shown once the model is loaded."
        self.query_one("#cost", Static).update(
            text if tokens is None else describe_cost(self.system, tokens)
        )

    @on(TextArea.Changed)
    def _restart_typing_timer(self, event: TextArea.Changed) -> None:
        event.stop()
        if self._typing_timer is not None:
            self._typing_timer.stop()
        self._typing_timer = self.set_timer(
            TYPING_PAUSE_SECONDS, lambda: self.post_message(self.TypingPaused())
        )


def describe_cost(system: str, tokens: int) -> str:
    """Return the cost of the system prompt, or of the template's default."""
    if system:
        return f"{count(tokens, 'token')}, sent with every request of this chat"
    if tokens:
        return f"The default of the model's template ({count(tokens, 'token')})"
    return "None: the model reads only your messages"


CONFIG_LAYER = "config"
"""The layer that "Save as default" writes."""


Section = Literal["sampling", "system", "look", "model"]


class SettingsScreen(Card[None]):
    """Four sections; every change is posted at once.

    It posts `SamplingChanged`, `SystemChanged`, `DefaultSamplingSaved`, `DefaultSystemSaved` and
    `ModelRequested`, its theme picker `ThemePicker.ThemeChosen` and `ThemePicker.MotionChosen`;
    the app gets them.

    Args:
        sampling: this chat's sampling.
        layers: the layers below, highest precedence first; the config's is `CONFIG_LAYER`.
        system: this chat's system prompt.
        info: the loaded model, or None.
        count_tokens: what a text costs as a system prompt, and for an empty one what the model's
            template writes in its place; runs in a thread. None while no model is loaded.
        reduced_motion: whether reduced motion is on.
        section: the initial section.
    """

    DEFAULT_CSS = """
    SettingsScreen {
        & > .card { width: 96; height: 26; }
        &.-roomy > .card { width: 150; }
        &.-full, &.-roomy {
            & SettingRow > Input, & SettingTitles > .value { width: 22; }
            & SettingRow > .source, & SettingTitles > .source { width: 12; }
            & SettingRow > .reset { width: 7; }
            & SettingTitles > .reset { width: 8; }
        }
        &.-roomy SettingRow, &.-roomy SettingTitles {
            & > .range { width: 26; }
            & > .help { display: block; }
        }
        &.-roomy #meaning { height: 1; }
        & TabbedContent { height: 1fr; }
        & ContentSwitcher { height: 1fr; }
        & TabPane { height: 1fr; padding: 1 0 0 0; }
        & .buttons { height: 1; }
        & .buttons > Button { margin: 0 2 0 0; }
        & Button { min-width: 0; width: auto; padding: 0 1; }
        & Button.-textual-compact:blur { background: $foreground 10%; }
        & #meaning { height: 2; color: $text-muted; }
        & #meaning.-wrong { color: $text-error; }
        & .input--placeholder, & Tab { color: $text-muted; }
        & #info { height: 1fr; }
        &.-narrow Tab { padding: 0 1 0 0; }
        &.-narrow SettingTitles { display: none; }
        &.-narrow SettingRow {
            layout: grid;
            grid-size: 4 2;
            grid-columns: 12 8 1fr 7;
            grid-rows: 1;
            height: 2;
            & > .name, & > Input, & > .range { width: 1fr; column-span: 2; }
            & > .source { margin: 0; }
            & > .reset { width: 7; }
        }
        &.-low {
            & TabPane { padding: 0; }
            & Tabs { height: 1; }
            & Underline { display: none; }
        }
    }
    """

    CARD_TITLE = "Settings"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "app.focus_next", "next"),
        Binding("ctrl+t", "next_section", "next section"),
        Binding("ctrl+r", "reset_focused", "reset the field"),
        Binding("escape", "leave", "close"),
    ]

    @dataclass
    class SamplingChanged(Message):
        """This chat's sampling has changed."""

        sampling: Sampling

    @dataclass
    class SystemChanged(Message):
        """The chat's system prompt has changed."""

        system: str

    @dataclass
    class DefaultSamplingSaved(Message):
        """The default sampling was saved in the config file."""

        sampling: Sampling

    @dataclass
    class DefaultSystemSaved(Message):
        """The default system prompt was saved in the config file."""

        system: str

    @dataclass
    class ModelRequested(Message):
        """The user asked for the model picker."""

    def __init__(
        self,
        sampling: Sampling,
        layers: Layers,
        system: str,
        *,
        info: EngineInfo | None = None,
        count_tokens: Callable[[str], int] | None = None,
        reduced_motion: bool = False,
        section: Section = "sampling",
    ) -> None:
        super().__init__()
        self.HORIZONTAL_BREAKPOINTS = [
            (0, "-narrow"),
            (64, "-wide"),
            (100, "-full"),
            (130, "-roomy"),
        ]
        self._form = SamplingForm(sampling, layers)
        self._editor = SystemEditor(system)
        self._info = info
        self._count_tokens = count_tokens
        self._reduced_motion = reduced_motion
        self._section = section

    def body(self) -> Iterable[Widget]:
        """Yield the sections."""
        with TabbedContent(initial=self._section):
            with TabPane("Sampling", id="sampling"):
                yield SettingTitles()
                yield self._form
                yield Static(id="meaning")
                yield _button_row(("reset", "Reset all"), ("keep-sampling", "Save as default"))
            with TabPane("System prompt", id="system"):
                yield self._editor
                yield _button_row(("keep-system", "Save as default"))
            with TabPane("Look", id="look"):
                yield ThemePicker(self._reduced_motion)
            with TabPane("Model", id="model"):
                yield Static(describe_model(self._info), id="info")
                yield _button_row(("model-wanted", "Choose another model"))

    def on_mount(self) -> None:
        """Focus the section's first field."""
        self._count_system_tokens()
        self.call_after_refresh(self._focus_section)

    def handle_value(self, value: object) -> None:
        """Show the cost of the system prompt."""
        if isinstance(value, int):
            self._editor.show_cost(value)

    def action_next_section(self) -> None:
        """Focus the first field of the next section."""
        self.query_one(Tabs).action_next_tab()
        self.call_after_refresh(self._focus_section)

    def action_reset(self, name: str) -> None:
        """Reset the fields of the section."""
        self._form.reset([name])

    def action_reset_focused(self) -> None:
        """Reset the focused field."""
        if isinstance(self.focused, Input):
            self.focused.value = ""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide the reset key outside of fields."""
        return action != "reset_focused" or isinstance(self.focused, Input)

    def action_leave(self) -> None:
        """Apply pending text, report invalid values, restore a previewed theme, and close."""
        self._commit_system()
        for problem in self._form.rejected_values():
            self.notify(escape_controls(problem), severity="warning", markup=False)
        self.query_one(ThemePicker).restore_theme()
        self.dismiss(None)

    @on(SamplingForm.Changed)
    def _post_sampling(self, event: SamplingForm.Changed) -> None:
        event.stop()
        self.post_message(self.SamplingChanged(event.sampling))

    @on(SamplingForm.HelpChanged)
    def _show_field_help(self, event: SamplingForm.HelpChanged) -> None:
        event.stop()
        line = self.query_one("#meaning", Static)
        line.set_class(event.is_error, "-wrong")
        line.update(Content(escape_controls(event.text)))

    @on(SystemEditor.TypingPaused)
    def _handle_typing_paused(self, event: SystemEditor.TypingPaused) -> None:
        event.stop()
        self._commit_system()

    @on(Button.Pressed)
    def _handle_button(self, event: Button.Pressed) -> None:
        event.stop()
        match event.button.id:
            case "reset":
                self._form.reset()
            case "keep-sampling":
                self._save_default_sampling()
            case "keep-system":
                self._save_default_system()
            case "model-wanted":
                self.post_message(self.ModelRequested())

    def _commit_system(self) -> None:
        if self._editor.commit():
            self._count_system_tokens()
            self.post_message(self.SystemChanged(self._editor.system))

    def _count_system_tokens(self) -> None:
        if self._count_tokens is None:
            self._editor.show_cost(None)
        else:
            self.start_work(partial(single_value, partial(self._count_tokens, self._editor.system)))

    def _save_default_sampling(self) -> None:
        form = self._form
        sampling = form.sampling.to_dict()
        if self._save_defaults(
            {f"sampling.{name}": _to_toml(value) for name, value in sampling.items()}
        ):
            layers = [
                (source, form.sampling.with_fallback(below) if source == CONFIG_LAYER else below)
                for source, below in form.lower_layers
            ]
            form.lower_layers = layers
            form.refresh_sources()
            self.post_message(self.DefaultSamplingSaved(dict(layers)[CONFIG_LAYER]))

    def _save_default_system(self) -> None:
        self._commit_system()
        if self._save_defaults({"system": self._editor.system}):
            self.post_message(self.DefaultSystemSaved(self._editor.system))

    def _save_defaults(self, values: dict[str, str]) -> bool:
        """Write values to the config file; return whether it succeeded, and show the result."""
        try:
            for key, text in values.items():
                config.set_value(key, text)
        except ChatlmError as error:
            self.show_error(error)
            return False
        self.show_error(None)
        self.notify("Saved as default", markup=False)
        return True

    def _focus_section(self) -> None:
        tabs = self.query_one(TabbedContent)
        pane = tabs.active_pane
        fields = list(pane.query("Input, TextArea, OptionList, Button")) if pane else []
        if fields:
            fields[0].focus()


def describe_model(info: EngineInfo | None) -> Content:
    """Return a description of the loaded model."""
    if info is None:
        return Content("No model is loaded yet.")
    rows = {
        "Model": info.model,
        "Device": info.device,
        "Weights": info.weights,
        **({"KV cache": info.kv_cache} if info.kv_cache else {}),
        **({"Draft model": info.draft_model} if info.draft_model else {}),
        "Context": count(info.context_length, "token"),
        "Prompt format": info.prompt_format,
    }
    if info.memory:
        parts = [f"{human_bytes(size)} {what}" for what, size in info.memory.rows() if size]
        rows["Memory"] = ", ".join(parts)
    lines = [
        Content.assemble((f"{name:<15}", "$text-muted"), one_line(value, 200))
        for name, value in rows.items()
    ]
    return Content("\n").join(
        [*lines, *(Content(f"\n{escape_controls(note)}") for note in info.notes)]
    )


def _button_row(*buttons: tuple[str, str]) -> Horizontal:
    made = [Button(label, id=name, compact=True) for name, label in buttons]
    return Horizontal(*made, classes="buttons")


def _to_toml(value: object) -> str:
    """Format values as in the config file."""
    return json.dumps(value, ensure_ascii=False)


IN_USE = " · in use"


class ThemeList(OptionList):
    """The list of themes."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select", "use theme")]


class ThemePicker(Vertical):
    """Previews the highlighted theme; Enter chooses it, leaving restores the current one.

    Args:
        reduced_motion: whether reduced motion is on.
    """

    DEFAULT_CSS = """
    ThemePicker {
        height: 1fr;
        & > OptionList { height: 1fr; }
        & > Button { margin: 1 0 0 0; }
    }
    """

    @dataclass
    class ThemeChosen(Message):
        """The user chose a theme."""

        theme: str

    @dataclass
    class MotionChosen(Message):
        """The user turned reduced motion on or off."""

        reduced: bool

    def __init__(self, reduced_motion: bool) -> None:
        super().__init__()
        self._reduced_motion = reduced_motion
        self._current_theme = ""
        self._theme_names: list[str] = []

    def compose(self) -> ComposeResult:
        """Yield the themes and the motion switch."""
        self._current_theme = self.app.theme
        self._theme_names = sorted(self.app.available_themes)
        themes = ThemeList(*self._theme_options(), markup=False, id="themes")
        themes.highlighted = self._theme_names.index(self._current_theme)
        yield themes
        yield Button(motion_label(self._reduced_motion), compact=True)

    def restore_theme(self) -> None:
        """Restore the current theme."""
        self.app.theme = self._current_theme

    @on(OptionList.OptionHighlighted)
    def _preview_theme(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        if event.option_list.has_focus:
            self.app.theme = self._theme_names[event.option_index]

    @on(OptionList.OptionSelected)
    def _choose_theme(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self._current_theme = self.app.theme = self._theme_names[event.option_index]
        event.option_list.set_options(self._theme_options())
        event.option_list.highlighted = event.option_index
        self.post_message(self.ThemeChosen(self._current_theme))

    @on(Button.Pressed)
    def _toggle_motion(self, event: Button.Pressed) -> None:
        event.stop()
        self._reduced_motion = not self._reduced_motion
        event.button.label = motion_label(self._reduced_motion)
        self.post_message(self.MotionChosen(self._reduced_motion))

    def _theme_options(self) -> list[Option]:
        return [Option(name + IN_USE * (name == self._current_theme)) for name in self._theme_names]


def motion_label(reduced: bool) -> str:
    """Return the label of the motion switch."""
    return f"Reduced motion: {'on, no blinking, no smooth scrolling' if reduced else 'off'}"

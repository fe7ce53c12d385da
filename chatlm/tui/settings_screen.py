"""How this chat samples, its system prompt, the look, the model; every change counts at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Button, Input, Static, TabbedContent, TabPane, Tabs

from chatlm import config
from chatlm.errors import ChatlmError
from chatlm.generation import EngineInfo
from chatlm.sampling import Sampling
from chatlm.text import one_line, visible
from chatlm.tui.card import Card
from chatlm.tui.labels import count
from chatlm.tui.pulling import once
from chatlm.tui.widgets.sampling_form import Layers, SamplingForm
from chatlm.tui.widgets.system_editor import SystemEditor
from chatlm.tui.widgets.theme_picker import ThemePicker

CONFIG = "config"
"""The layer that "keep as my default" writes."""

Section = Literal["sampling", "system", "look", "model"]


class SettingsScreen(Card[None]):
    """Four sections. What changes is posted at once; nothing waits for the way out.

    It posts `SamplingChanged`, `SystemChanged`, `SamplingKept`, `SystemKept` and `ModelWanted`,
    its theme picker `ThemePicker.ThemeChosen` and `ThemePicker.MotionChosen`; the app gets them.

    Args:
        sampling: what this chat says.
        layers: what holds below it, the strongest first; the person's own is named `CONFIG`.
        system: this chat's system prompt.
        info: the loaded model; None while there is none.
        count_tokens: what a text costs as a system prompt, and for an empty one what the model's
            format writes in its place; runs in a thread. None while there is no model.
        reduced_motion: whether the screen keeps still now.
        section: the one to begin with.
    """

    DEFAULT_CSS = """
    SettingsScreen {
        & > .card { width: 96; height: 26; }
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
        &.-narrow SettingRow {
            layout: grid;
            grid-size: 4 2;
            grid-columns: 12 8 1fr 7;
            grid-rows: 1;
            height: 2;
            & > .name, & > Input, & > .range { width: 1fr; column-span: 2; }
            & > .source { margin: 0; }
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
        """This chat says this now."""

        sampling: Sampling

    @dataclass
    class SystemChanged(Message):
        """This is the chat's system prompt now."""

        system: str

    @dataclass
    class SamplingKept(Message):
        """The config file holds this now, for every chat."""

        sampling: Sampling

    @dataclass
    class SystemKept(Message):
        """The config file holds this now, for new chats."""

        system: str

    @dataclass
    class ModelWanted(Message):
        """The person wants to choose another model."""

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
        self._form = SamplingForm(sampling, layers)
        self._editor = SystemEditor(system)
        self._info = info
        self._count_tokens = count_tokens
        self._reduced_motion = reduced_motion
        self._section = section

    def body(self) -> Iterable[Widget]:
        """The sections."""
        with TabbedContent(initial=self._section):
            with TabPane("Sampling", id="sampling"):
                yield self._form
                yield Static(id="meaning")
                yield _buttons(("reset", "Reset all"), ("keep-sampling", "Keep as my default"))
            with TabPane("System prompt", id="system"):
                yield self._editor
                yield _buttons(("keep-system", "Keep as my default"))
            with TabPane("Look", id="look"):
                yield ThemePicker(self._reduced_motion)
            with TabPane("Model", id="model"):
                yield Static(about(self._info), id="info")
                yield _buttons(("model-wanted", "Choose another model"))

    def on_mount(self) -> None:
        """Begin in the section's first field."""
        self._weigh()
        self.call_after_refresh(self._enter_section)

    def came(self, value: object) -> None:
        """Show what the system prompt costs."""
        if isinstance(value, int):
            self._editor.show_cost(value)

    def action_next_section(self) -> None:
        """Go to the first field of the next section."""
        self.query_one(Tabs).action_next_tab()
        self.call_after_refresh(self._enter_section)

    def action_reset(self, name: str) -> None:
        """Let the layer below say it."""
        self._form.reset([name])

    def action_reset_focused(self) -> None:
        """The same for the field with the focus."""
        if isinstance(self.focused, Input):
            self.focused.value = ""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only a field can be reset."""
        return action != "reset_focused" or isinstance(self.focused, Input)

    def action_leave(self) -> None:
        """Take what was typed last, say what is not taken, put tried colours back, close."""
        self._take_system()
        for told in self._form.untaken():
            self.notify(visible(told), severity="warning", markup=False)
        self.query_one(ThemePicker).restore()
        self.dismiss(None)

    @on(SamplingForm.Changed)
    def _sample(self, event: SamplingForm.Changed) -> None:
        event.stop()
        self.post_message(self.SamplingChanged(event.sampling))

    @on(SamplingForm.Explained)
    def _explain(self, event: SamplingForm.Explained) -> None:
        event.stop()
        line = self.query_one("#meaning", Static)
        line.set_class(event.wrong, "-wrong")
        line.update(Content(visible(event.text)))

    @on(SystemEditor.Paused)
    def _typed(self, event: SystemEditor.Paused) -> None:
        event.stop()
        self._take_system()

    @on(Button.Pressed)
    def _press(self, event: Button.Pressed) -> None:
        event.stop()
        match event.button.id:
            case "reset":
                self._form.reset()
            case "keep-sampling":
                self._keep_sampling()
            case "keep-system":
                self._keep_system()
            case "model-wanted":
                self.post_message(self.ModelWanted())

    def _take_system(self) -> None:
        if self._editor.take():
            self._weigh()
            self.post_message(self.SystemChanged(self._editor.system))

    def _weigh(self) -> None:
        if self._count_tokens is None:
            self._editor.show_cost(None)
        else:
            self.work(partial(once, partial(self._count_tokens, self._editor.system)))

    def _keep_sampling(self) -> None:
        form = self._form
        said = form.sampling.to_dict()
        if self._kept({f"sampling.{name}": _as_toml(value) for name, value in said.items()}):
            layers = [
                (source, form.sampling.over(below) if source == CONFIG else below)
                for source, below in form.below
            ]
            form.below = layers
            form.refresh_sources()
            self.post_message(self.SamplingKept(dict(layers)[CONFIG]))

    def _keep_system(self) -> None:
        self._take_system()
        if self._kept({"system": self._editor.system}):
            self.post_message(self.SystemKept(self._editor.system))

    def _kept(self, values: dict[str, str]) -> bool:
        """Whether all could be written to the config file; says how it went."""
        try:
            for key, text in values.items():
                config.set_value(key, text)
        except ChatlmError as error:
            self.complain(error)
            return False
        self.complain(None)
        self.notify("Kept as your default", markup=False)
        return True

    def _enter_section(self) -> None:
        tabs = self.query_one(TabbedContent)
        pane = tabs.active_pane
        fields = list(pane.query("Input, TextArea, OptionList, Button")) if pane else []
        if fields:
            fields[0].focus()


def about(info: EngineInfo | None) -> Content:
    """The loaded model in a few lines."""
    if info is None:
        return Content("No model is loaded yet.")
    rows = {
        "Model": info.model,
        "Device": f"{info.device}, {info.dtype}",
        "Context": count(info.context_length, "token"),
        "Prompt format": info.prompt_format,
    }
    lines = [
        Content.assemble((f"{name:<15}", "$foreground 60%"), one_line(value, 200))
        for name, value in rows.items()
    ]
    return Content("\n").join([*lines, *(Content(f"\n{visible(note)}") for note in info.notes)])


def _buttons(*buttons: tuple[str, str]) -> Horizontal:
    made = [Button(label, id=name, compact=True) for name, label in buttons]
    return Horizontal(*made, classes="buttons")


def _as_toml(value: object) -> str:
    """Numbers and lists of texts look the same in both."""
    return json.dumps(value, ensure_ascii=False)

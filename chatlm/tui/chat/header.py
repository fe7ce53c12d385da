"""The header: name, chat title, model with its abilities, and the context gauge."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget
from textual.widgets import Static

from chatlm.hub.disk import human_bytes
from chatlm.text import one_line
from chatlm.tui.engine_loader import EngineState, Failed, Loading, Ready
from chatlm.tui.formatting import short_name
from chatlm.tui.widgets.context_gauge import ContextGauge
from chatlm.types.engine import EngineInfo
from chatlm.types.projects import Project

MAX_MODEL_WIDTH = 40
"""Cells of a model's name, whose end is kept: it tells versions and sizes apart."""

TITLE_WIDTH, PROJECT_WIDTH = 120, 24

INCOGNITO = "incognito, not saved"


class Header(Horizontal):
    """One line over the whole screen."""

    DEFAULT_CSS = """
    Header {
        height: 1;
        padding: 0 1;
        background: $panel;
        color: $foreground;

        & > #brand { width: auto; margin: 0 2 0 0; color: $text-accent; text-style: bold; }
        & > #title { width: 1fr; text-overflow: ellipsis; text-wrap: nowrap; }
        &.-incognito > #title { color: $text-warning; }
        & > ModelLabel { width: auto; max-width: 45%; margin: 0 0 0 2; }
        & > ContextGauge { width: 24; min-width: 20; margin: 0 0 0 2; }
        &.-middle > ContextGauge { width: 36; }
        &.-wide > ContextGauge { width: 54; }
        &.-phone > #brand, &.-phone > ContextGauge { display: none; }
    }
    """

    def __init__(self) -> None:
        super().__init__(id="head")
        self._project = ""

    def compose(self) -> ComposeResult:
        """Yield the parts from left to right."""
        yield Static("chatlm", id="brand")
        yield Static(id="title", markup=False)
        yield ModelLabel()
        yield ContextGauge()

    def on_resize(self) -> None:
        """Show more of the gauge on a wider screen."""
        self.set_class(self.size.width < 60, "-phone")
        self.set_class(self.size.width < 100, "-narrow")
        self.set_class(100 <= self.size.width < 140, "-middle")
        self.set_class(self.size.width >= 140, "-wide")
        self.query_one(ModelLabel).shows_abilities = self.size.width >= 100

    def set_project(self, project: Project | None) -> None:
        """Show a chat's project before the next title."""
        self._project = project.name if project else ""

    def show_title(self, title: str, *, incognito: bool) -> None:
        """Show a chat's title."""
        self.set_class(incognito, "-incognito")
        mark = f"{INCOGNITO} · " if incognito else ""
        project = f"{one_line(self._project, PROJECT_WIDTH)} › " if self._project else ""
        self.query_one("#title", Static).update(
            Content.assemble(mark, (project, "$text-accent"), one_line(title, TITLE_WIDTH))
        )


class ModelLabel(Widget):
    """The model and what it can do beyond text. A click opens the list of models."""

    DEFAULT_CSS = """
    ModelLabel {
        height: 1;
        color: $text-success;
        text-wrap: nowrap;
        text-overflow: ellipsis;
    }
    ModelLabel:hover { text-style: underline; }
    """

    state: reactive[EngineState] = reactive[EngineState](Loading(""), layout=True)
    shows_abilities: reactive[bool] = reactive(False, layout=True)

    @dataclass
    class Clicked(Message):
        """The label was clicked."""

    def watch_state(self, state: EngineState) -> None:
        """Explain the model's memory to a pointer that rests on it."""
        self.tooltip = describe_engine(state.info) if isinstance(state, Ready) else None

    def render(self) -> Content:
        """The line."""
        return model_label(self.state, shows_abilities=self.shows_abilities)

    def on_click(self) -> None:
        """Post `Clicked`."""
        self.post_message(self.Clicked())


def model_label(state: EngineState, *, shows_abilities: bool = True) -> Content:
    """Return the model's name with its state or its abilities."""
    name = shorten_model(state.model)
    match state:
        case Loading():
            return Content.assemble(name, (" loading…" if name else "loading…", "$foreground 70%"))
        case Failed():
            return Content.assemble(name, (" not loaded", "$text-error"))
        case Ready(info):
            words = abilities(info) if shows_abilities else ()
            return Content.assemble(name, *((f" {word}", "$foreground 70%") for word in words))


def shorten_model(name: str) -> str:
    """Return a model's name in at most `MAX_MODEL_WIDTH` cells, as `short_name` has it."""
    short = one_line(short_name(name), 200)
    return short if cell_len(short) <= MAX_MODEL_WIDTH else f"…{short[1 - MAX_MODEL_WIDTH :]}"


def abilities(info: EngineInfo) -> tuple[str, ...]:
    """Return what a model does beyond text: `thinking`, `tools`, `vision`."""
    can = {
        "thinking": info.thinks is True,
        "tools": "tool_call" in info.accepts and not info.tools_in_system_prompt,
        "vision": "image" in info.accepts,
    }
    return tuple(word for word, is_true in can.items() if is_true)


def describe_engine(info: EngineInfo) -> Content:
    """Return the model with its device, its weights and the parts of its memory."""
    lines = [f"{info.model} on {info.device}, weights {info.weights}"]
    if info.memory:
        lines += [f"{what}: {human_bytes(size)}" for what, size in info.memory.rows()]
    return Content("\n".join(one_line(line, 80) for line in lines))

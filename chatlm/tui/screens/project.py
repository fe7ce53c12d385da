"""Cards of projects: the open one with the known ones, and instructions to confirm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from chatlm.chat.projects import FoundProject
from chatlm.text import escape_controls, one_line
from chatlm.tui.formatting import count
from chatlm.tui.screens.card import Card
from chatlm.tui.widgets.pick_list import PickList
from chatlm.types.projects import INSTRUCTIONS_FILE, Project
from chatlm.types.setups import Setup

ABOUT = (
    "A project is a folder. A chat in it follows the instructions in the folder's "
    f"{INSTRUCTIONS_FILE}, once you have seen them, and new chats begin with the model, documents, "
    "adapter, template and sampling that you saved for it."
)


class ConfirmInstructions(Card[bool | None]):
    """Returns whether the model shall follow the instructions; None if the project is not opened.

    Args:
        found: the project.
        tokens: what the instructions cost; None while no model is loaded.
    """

    DEFAULT_CSS = """
    ConfirmInstructions {
        & > .card { width: 100; height: auto; max-height: 100%; padding: 1 2 0 2; }
        & Static { height: auto; }
        & .about { margin: 0 0 1 0; }
        & VerticalScroll {
            height: auto;
            max-height: 24;
            margin: 0 0 1 0;
            padding: 0 1;
            border-left: outer $warning;
            background: $foreground 4%;
        }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "answer(True)", "follow them", priority=True),
        Binding("n", "answer(False)", "open without them"),
        Binding("escape", "leave", "cancel"),
    ]

    def __init__(self, found: FoundProject, tokens: int | None) -> None:
        super().__init__()
        self.CARD_TITLE = f"Project {one_line(found.folder.name or str(found.folder), 60)}"
        self._found = found
        self._tokens = tokens

    def body(self) -> Iterable[Widget]:
        """Yield what the text is, and the text."""
        file = one_line(str(self._found.folder / INSTRUCTIONS_FILE), 200)
        changed = " has changed since you confirmed it" if self._found.status == "changed" else ""
        cost = f" It takes {count(self._tokens, 'token')}." if self._tokens else ""
        yield Static(
            Content.assemble(
                (file, "bold"),
                f"{changed or ' has instructions'}. This text becomes a part of the system prompt, "
                "which the model follows in every reply: read it if the folder is not yours alone."
                f"{cost}",
            ),
            classes="about",
        )
        with VerticalScroll():
            yield Static(Content(escape_controls(self._found.instructions)))

    def on_mount(self) -> None:
        """Let the arrow keys scroll the text."""
        self.query_one(VerticalScroll).focus()

    def action_answer(self, confirmed: bool) -> None:
        """Return the answer."""
        self.dismiss(confirmed)

    def action_leave(self) -> None:
        """Do not open the project."""
        self.dismiss(None)


class ProjectScreen(Card[str | None]):
    """Returns what to do, as the argument of `/project`; None for nothing.

    Args:
        project: the open chat's project; None for none.
        setup: what was saved for it.
        known: folders of the projects that were opened, the last one first.
    """

    DEFAULT_CSS = """
    ProjectScreen {
        & > .card { width: 100; height: auto; max-height: 100%; padding: 1 2 0 2; }
        & Static { height: auto; margin: 0 0 1 0; }
        & .problem { margin: 0; }
        & PickList { height: auto; max-height: 10; margin: 0 0 1 0; }
    }
    """

    CARD_TITLE = "Projects"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "up", show=False),
        Binding("down", "move(1)", "down", show=False),
        Binding("enter", "open", "open"),
        Binding("s", "answer('save')", "save this chat's set-up"),
        Binding("l", "answer('off')", "leave the project"),
        Binding("escape", "leave", "close"),
    ]

    def __init__(self, project: Project | None, setup: Setup, known: Sequence[str]) -> None:
        super().__init__()
        self._project = project
        self._setup = setup
        self._known = [each for each in known if project is None or each != project.folder]

    def body(self) -> Iterable[Widget]:
        """Yield the chat's project and the others."""
        yield Static(Content(ABOUT))
        if self._project is not None:
            yield Static(_describe(self._project, self._setup))
        yield Static(
            Content.assemble(
                ("/project PATH", "bold"),
                " puts this chat into a folder, as ",
                ("chatlm --project PATH", "bold"),
                " does at the start." + (" These were open before:" if self._known else ""),
            )
        )
        if self._known:
            others = PickList(*map(_row, self._known), markup=False)
            others.highlighted = 0
            yield others

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only what can be done."""
        if action == "answer":
            return self._project is not None
        return action not in ("open", "move") or bool(self._known)

    def action_move(self, step: int) -> None:
        """Move in the list."""
        self.query_one(PickList).move(step)

    def action_open(self) -> None:
        """Open the highlighted project."""
        chosen = self.query_one(PickList).highlighted
        if chosen is not None:
            self.dismiss(self._known[chosen])

    def action_answer(self, what: str) -> None:
        """Return what to do with the chat's project."""
        self.dismiss(what)

    def action_leave(self) -> None:
        """Do nothing."""
        self.dismiss(None)

    @on(OptionList.OptionSelected)
    def _select(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.dismiss(self._known[event.option_index])


def _row(folder: str) -> Option:
    name = PurePath(folder).name or folder
    return Option(
        Content.assemble((f"{one_line(name, 28):<30}", ""), (one_line(folder, 200), "$text-muted"))
    )


def _describe(project: Project, setup: Setup) -> Content:
    """Return the folder, the instructions and what new chats begin with."""
    lines = project.instructions.count("\n") + 1
    said = f"{INSTRUCTIONS_FILE}, {count(lines, 'line')}" if project.instructions else "none"
    saved = [setup.model, *(f"{name} {_values(values)}" for name, values in
             setup.plugin_data.items() if values)]  # fmt: skip
    saved += ["a system prompt"] if setup.system else []
    saved += ["sampling"] if setup.sampling.to_dict() else []
    begins = ", ".join(filter(None, saved)) or "nothing saved: choose a model or documents, then s"
    rows = (("This chat is in", project.folder), ("Instructions", said), ("New chats", begins))
    return Content("\n").join(
        Content.assemble((f"{title:<17}", "$text-muted"), one_line(text, 300))
        for title, text in rows
    )


def _values(values: object) -> str:
    texts = [str(each) for each in values.values()] if isinstance(values, dict) else []
    return " ".join(text for text in texts if text)[:60]

"""Framed cards for the screens of plugins: any widgets, a list to choose from, or plain text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from rich.cells import set_cell_size
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import OptionList, Static

from chatlm.errors import ChatlmError
from chatlm.text import escape_controls, one_line
from chatlm.tui.widgets import hints
from chatlm.tui.widgets.hints import Hints

MUTED_STYLE = "$text-muted"
"""Style of secondary text."""


def with_commands(text: str) -> Content:
    """Return a text of the plugin's own, in which `` `what is typed` `` stands out like a key."""
    return hints.with_commands(text)


class KeyHints(Hints):
    """The keys of a plugin's screen that act now, as on chatlm's own screens."""


class PluginCard(ModalScreen[None]):
    """A framed card over the chat with the look of chatlm's own: title, body, error line, keys.

    A subclass overrides `body`, lists its `BINDINGS` in the order of the footer, escape last, and
    may set its size with `& > .card` in its CSS.

        class RecipeCard(PluginCard):
            BINDINGS = [Binding("escape", "dismiss", "close")]

            def body(self):
                yield Static("Soup")

    Args:
        title: shown in the border.
    """

    DEFAULT_CSS = """
    PluginCard {
        align: center middle;

        & > .card {
            width: 110;
            max-width: 100%;
            height: 40;
            max-height: 100%;
            padding: 0 1;
            border: round $primary;
            border-title-color: $text-primary;
            background: $surface;
        }
        & .problem { display: none; height: auto; color: $text-error; }
        & .problem.-shown { display: block; }
        & OptionList {
            border: none;
            padding: 0;
            background: $surface;
            text-wrap: nowrap;
            text-overflow: ellipsis;
            &:focus { border: none; background-tint: $foreground 0%; }
            &:focus > .option-list--option-highlighted {
                background: $primary 18%; color: $foreground; text-style: none;
            }
        }
        & * {
            scrollbar-size-vertical: 1;
            scrollbar-background: $surface;
            scrollbar-background-hover: $surface;
            scrollbar-background-active: $surface;
            scrollbar-color: $foreground 25%;
            scrollbar-color-hover: $foreground 45%;
            scrollbar-color-active: $foreground 45%;
        }
    }
    """

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title

    def body(self) -> Iterable[Widget]:
        """Return the widgets of the card."""
        raise NotImplementedError

    def compose(self) -> ComposeResult:
        """Compose the frame, the body, the error line and the footer."""
        with Vertical(classes="card") as card:
            card.border_title = Content(self._title)
            yield from self.body()
            yield Static(classes="problem", id="problem")
            yield KeyHints()

    def show_error(self, error: ChatlmError | None) -> None:
        """Show an error with its hint above the footer; None hides it."""
        line = self.query_one("#problem", Static)
        line.set_class(error is not None, "-shown")
        line.update(Content(escape_controls(str(error)) if error else ""))


class PickerCard(PluginCard):
    """A card with a list to choose from; Enter chooses, an error stays on the card.

    A subclass overrides `body`, which includes an `OptionList` whose options have names as ids,
    and `choose`.

        class RecipePicker(PickerCard):
            BINDINGS = [Binding("escape", "dismiss", "close")]

            def body(self):
                rows = [Option(self.row(name, ""), id=name) for name in ("soup", "bread")]
                yield OptionList(*rows, markup=False)

            def choose(self, name):
                use_recipe(name)

    Args:
        title: shown in the border.
        selected: id of the option that is in use, highlighted at first.
    """

    DEFAULT_CSS = """
    PickerCard {
        & OptionList { height: 1fr; }
        & .help { height: auto; margin: 0 0 1 0; color: $text-muted; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        # before the list's own binding, which no footer shows
        Binding("enter", "choose_highlighted", "use", priority=True)
    ]

    NAME_WIDTH: ClassVar[int] = 20
    """Width of the name column, in cells."""

    def __init__(self, title: str, selected: str) -> None:
        super().__init__(title)
        self.selected = selected

    def choose(self, name: str) -> None:
        """Use the chosen option; the card closes afterwards.

        Raises:
            ChatlmError: it cannot be used; the card shows why and stays open.
        """
        raise NotImplementedError

    def highlight_changed(self, name: str | None) -> None:
        """Show details of the highlighted option; None if the list is empty."""

    @property
    def highlighted(self) -> str | None:
        """Id of the highlighted option; None if the list is empty."""
        option = self.query_one(OptionList).highlighted_option
        return option.id if option else None

    def row(
        self, name: str, description: str, *, in_use: bool = False, style: str = MUTED_STYLE
    ) -> Content:
        """Return the text of an option: name, mark if it is in use, description.

        Args:
            name: shown in a column of `NAME_WIDTH` cells.
            description: the rest of the row.
            in_use: whether this option is in use.
            style: style of the description.
        """
        return Content.assemble(
            (
                set_cell_size(one_line(name, self.NAME_WIDTH - 1), self.NAME_WIDTH),
                "bold" if in_use else "",
            ),
            ("in use · " if in_use else "", MUTED_STYLE),
            (description, style),
        )

    def on_mount(self) -> None:
        """Highlight the option that is in use, else the first one."""
        options = self.query_one(OptionList)
        ids = [option.id for option in options.options]
        if ids:
            options.highlighted = ids.index(self.selected) if self.selected in ids else 0
        options.focus()

    @on(OptionList.OptionHighlighted)
    def _handle_highlight(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        self.show_error(None)
        self.highlight_changed(event.option_id)

    @on(OptionList.OptionSelected)
    def _handle_selection(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.choose_or_explain(event.option_id or "")

    def action_choose_highlighted(self) -> None:
        """Choose the highlighted option."""
        self.query_one(OptionList).action_select()

    def choose_or_explain(self, name: str) -> None:
        """Call `choose` and close the card, or show why it failed."""
        try:
            self.choose(name)
        except ChatlmError as error:
            self.show_error(error)
        else:
            self.dismiss()


class TextCard(PluginCard):
    """A card with plain text that scrolls.

        PluginScreen("recipe", lambda ui, name: TextCard("Recipe", read_recipe(name)))

    Args:
        title: shown in the border.
        text: plain text of any origin, whose control characters are escaped, or styled content.
    """

    DEFAULT_CSS = """
    TextCard VerticalScroll { height: 1fr; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,enter", "dismiss", "close", show=False),
        Binding("escape", "dismiss", "close"),
    ]

    def __init__(self, title: str, text: str | Content) -> None:
        super().__init__(title)
        self._text = text if isinstance(text, Content) else Content(escape_controls(text))

    def body(self) -> Iterable[Widget]:
        """Return the scrolling text."""
        with VerticalScroll():
            yield Static(self._text)

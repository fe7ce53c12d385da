"""List of indices; text card."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Thread
from typing import ClassVar

from rich.cells import set_cell_size
from textual import on
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from chatlm import ChatlmError, PluginCard, Ui, human_bytes, one_line, visible
from chatlm_rag import actions, formatting
from chatlm_rag.index import folder
from chatlm_rag.index.folder import IndexFolder
from chatlm_rag.screens import QUIET
from chatlm_rag.settings import index_of

OFF = ""
"""The id of the row that ends the use of an index."""


MAKES = " makes an index of a file or folder, or brings it up to date."


NAME = 22
"""Width of the names, in cells."""


class RagPicker(PluginCard):
    """Enter lets the chat be about the marked index.

    Args:
        ui: the chat's screen.
    """

    DEFAULT_CSS = """
    RagPicker {
        & OptionList { height: 1fr; }
        & .how { height: auto; margin: 0 0 1 0; color: $text-muted; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "close")]

    def __init__(self, ui: Ui) -> None:
        super().__init__("Ask your documents")
        self._ui = ui
        self._in_use = index_of(ui.kept)

    def body(self) -> Iterable[Widget]:
        """How it works, the list, how to make one."""
        yield Static(
            "With an index on, each message is answered from the passages that fit it best.",
            classes="how",
        )
        yield OptionList(*self._options(), markup=False)
        yield Static(
            Content.assemble(("/rag build PATH", "bold $text"), MAKES),
            classes="how",
        )

    def on_mount(self) -> None:
        """Mark the one in use."""
        rows = self.query_one(OptionList)
        ids = [option.id for option in rows.options]
        rows.highlighted = ids.index(self._in_use) if self._in_use in ids else 0 if ids else None
        rows.focus()

    @on(OptionList.OptionSelected)
    def _choose(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        name = event.option_id or OFF
        try:
            if name == OFF:
                actions.end(self._ui)
            elif folder.located(name).current() is None:
                self._begin(actions.go_on, name)
            else:
                actions.use(self._ui, name)
                self._begin(actions.prepare, name)
        except ChatlmError as error:
            self.complain(error)
        else:
            self.dismiss()

    def _begin(self, work: Callable[[Ui, str], None], name: str) -> None:
        Thread(target=self._do, args=(work, name), daemon=True).start()

    def _do(self, work: Callable[[Ui, str], None], name: str) -> None:
        try:
            work(self._ui, name)
        except ChatlmError as error:
            self._ui.tell(str(error), problem=True)

    def _options(self) -> Iterable[Option]:
        if self._in_use:
            off = f"No index: the model answers alone, without {one_line(self._in_use, 30)}"
            yield Option(Content.styled(off, QUIET), id=OFF)
        for index in folder.indices():
            yield Option(self._row(index), id=index.name)

    def _row(self, index: IndexFolder) -> Content:
        in_use = index.name == self._in_use
        try:
            found = formatting.made(index)
            size = human_bytes(formatting.size(index))
            made = formatting.in_short(index, found) if found else "not finished; Enter goes on"
            about = (f"{made}, {size}", QUIET)
        except ChatlmError as error:
            about = (one_line(error.message, 200), "$text-error")
        mark = "in use · " if in_use else ""
        name = set_cell_size(index.name, NAME)
        return Content.assemble((name, "bold" if in_use else ""), (mark, QUIET), about)


class RagSheet(PluginCard):
    """The arrows scroll.

    Args:
        text: plain lines.
    """

    DEFAULT_CSS = """
    RagSheet VerticalScroll { height: 1fr; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,enter", "dismiss", "close", show=False),
        Binding("escape", "dismiss", "close"),
    ]

    def __init__(self, text: str) -> None:
        super().__init__("Your documents")
        self._text = text

    def body(self) -> Iterable[Widget]:
        """One scrolling text."""
        with VerticalScroll():
            yield Static(Content(visible(self._text)))

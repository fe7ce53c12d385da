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

from chatlm import ChatlmError, PluginCard, Ui, escape_controls, human_bytes, one_line
from chatlm_rag import actions, formatting
from chatlm_rag.index import folder
from chatlm_rag.index.folder import IndexFolder
from chatlm_rag.screens import MUTED_STYLE
from chatlm_rag.settings import index_from_plugin_data

OFF_ID = ""
"""The id of the row that ends the use of an index."""


BUILD_HELP = " makes an index of a file or folder, or brings it up to date."


NAME_WIDTH = 22
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
        self._selected_index = index_from_plugin_data(ui.state)

    def body(self) -> Iterable[Widget]:
        """How it works, the list, how to make one."""
        yield Static(
            "With an index on, each message is answered from the passages that fit it best.",
            classes="how",
        )
        yield OptionList(*self._options(), markup=False)
        yield Static(
            Content.assemble(("/rag build PATH", "bold $text"), BUILD_HELP),
            classes="how",
        )

    def on_mount(self) -> None:
        """Mark the one in use."""
        rows = self.query_one(OptionList)
        ids = [option.id for option in rows.options]
        rows.highlighted = (
            ids.index(self._selected_index) if self._selected_index in ids else 0 if ids else None
        )
        rows.focus()

    @on(OptionList.OptionSelected)
    def _choose(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        name = event.option_id or OFF_ID
        try:
            if name == OFF_ID:
                actions.leave_index(self._ui)
            elif folder.find_index(name).current() is None:
                self._start_thread(actions.resume_build, name)
            else:
                actions.use_index(self._ui, name)
                self._start_thread(actions.load_index, name)
        except ChatlmError as error:
            self.show_error(error)
        else:
            self.dismiss()

    def _start_thread(self, work: Callable[[Ui, str], None], name: str) -> None:
        Thread(target=self._run_in_thread, args=(work, name), daemon=True).start()

    def _run_in_thread(self, work: Callable[[Ui, str], None], name: str) -> None:
        try:
            work(self._ui, name)
        except ChatlmError as error:
            self._ui.notify(str(error), warning=True)

    def _options(self) -> Iterable[Option]:
        if self._selected_index:
            off = f"No index: the model answers alone, without {one_line(self._selected_index, 30)}"
            yield Option(Content.styled(off, MUTED_STYLE), id=OFF_ID)
        for index in folder.all_indices():
            yield Option(self._row(index), id=index.name)

    def _row(self, index: IndexFolder) -> Content:
        in_use = index.name == self._selected_index
        try:
            found = formatting.read_manifest(index)
            size = human_bytes(formatting.disk_usage(index))
            made = (
                formatting.summarize_index(index, found) if found else "not finished; Enter goes on"
            )
            about = (f"{made}, {size}", MUTED_STYLE)
        except ChatlmError as error:
            about = (one_line(error.message, 200), "$text-error")
        mark = "in use · " if in_use else ""
        name = set_cell_size(index.name, NAME_WIDTH)
        return Content.assemble((name, "bold" if in_use else ""), (mark, MUTED_STYLE), about)


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
            yield Static(Content(escape_controls(self._text)))

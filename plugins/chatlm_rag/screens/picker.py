"""The index picker, and a card that shows a longer text."""

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
"""Id of the row that turns the index off."""


BUILD_HELP = " builds or updates an index of a file or folder."


NAME_WIDTH = 22
"""Width of the name column in cells."""


class RagPicker(PluginCard):
    """The list of indices; Enter uses the highlighted one in the chat.

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
        """Build the explanation, the list, and the hint on how to build an index."""
        yield Static(
            "The model answers each message from the passages of the index that match it best.",
            classes="how",
        )
        yield OptionList(*self._options(), markup=False)
        yield Static(
            Content.assemble(("/rag build PATH", "bold $text"), BUILD_HELP),
            classes="how",
        )

    def on_mount(self) -> None:
        """Highlight the index in use."""
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
            off = f"No index: turn off {one_line(self._selected_index, 30)}"
            yield Option(Content.styled(off, MUTED_STYLE), id=OFF_ID)
        for index in folder.all_indices():
            yield Option(self._row(index), id=index.name)

    def _row(self, index: IndexFolder) -> Content:
        in_use = index.name == self._selected_index
        try:
            manifest = formatting.read_manifest(index)
            size = human_bytes(formatting.disk_usage(index))
            summary = (
                formatting.summarize_index(index, manifest)
                if manifest
                else "not finished; Enter continues the build"
            )
            details = (f"{summary}, {size}", MUTED_STYLE)
        except ChatlmError as error:
            details = (one_line(error.message, 200), "$text-error")
        mark = "in use · " if in_use else ""
        name = set_cell_size(index.name, NAME_WIDTH)
        return Content.assemble((name, "bold" if in_use else ""), (mark, MUTED_STYLE), details)


class RagSheet(PluginCard):
    """A card with a scrollable text.

    Args:
        text: plain text; control characters are escaped.
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
        """Build the scrollable text."""
        with VerticalScroll():
            yield Static(Content(escape_controls(self._text)))

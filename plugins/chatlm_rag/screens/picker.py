"""A card to select the index that a chat uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Thread
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from chatlm import ChatlmError, Ui, human_bytes, one_line
from chatlm.plugin_kit.screens import MUTED_STYLE, PickerCard
from chatlm_rag import actions, formatting
from chatlm_rag.index import folder
from chatlm_rag.index.folder import IndexFolder
from chatlm_rag.settings import index_from_plugin_data

OFF_ID = ""
"""Id of the row that turns the index off."""


BUILD_HELP = " builds or updates an index of a file or folder."


class RagPicker(PickerCard):
    """The list of indices; Enter uses the highlighted one in the chat.

    Args:
        ui: the chat's screen.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "close")]
    NAME_WIDTH = 22

    def __init__(self, ui: Ui) -> None:
        super().__init__("Ask your documents", index_from_plugin_data(ui.state))
        self._ui = ui

    def body(self) -> Iterable[Widget]:
        """Return the explanation, the list, and the hint on how to build an index."""
        yield Static(
            "The model answers each message from the passages of the index that match it best.",
            classes="help",
        )
        yield OptionList(*self._options(), markup=False)
        yield Static(
            Content.assemble(("/rag build PATH", "bold $text"), BUILD_HELP),
            classes="help",
        )

    def choose(self, name: str) -> None:
        """Use an index in the chat, complete its build, or turn the index off.

        Raises:
            ChatlmError: the index is damaged.
        """
        if name == OFF_ID:
            actions.leave_index(self._ui)
        elif folder.find_index(name).current() is None:
            self._start_thread(actions.resume_build, name)
        else:
            actions.use_index(self._ui, name)
            self._start_thread(actions.load_index, name)

    def _start_thread(self, work: Callable[[Ui, str], None], name: str) -> None:
        Thread(target=self._run_in_thread, args=(work, name), daemon=True).start()

    def _run_in_thread(self, work: Callable[[Ui, str], None], name: str) -> None:
        try:
            work(self._ui, name)
        except ChatlmError as error:
            self._ui.notify(str(error), warning=True)

    def _options(self) -> Iterable[Option]:
        if self.selected:
            off = f"No index: turn off {one_line(self.selected, 30)}"
            yield Option(Content.styled(off, MUTED_STYLE), id=OFF_ID)
        for index in folder.all_indices():
            yield Option(self._index_row(index), id=index.name)

    def _index_row(self, index: IndexFolder) -> Content:
        in_use = index.name == self.selected
        try:
            manifest = formatting.read_manifest(index)
            size = human_bytes(formatting.disk_usage(index))
        except ChatlmError as error:
            return self.row(
                index.name, one_line(error.message, 200), in_use=in_use, style="$text-error"
            )
        summary = (
            formatting.summarize_index(index, manifest)
            if manifest
            else "not finished; Enter continues the build"
        )
        return self.row(index.name, f"{summary}, {size}", in_use=in_use)

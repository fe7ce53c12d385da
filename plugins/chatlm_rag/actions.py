"""/rag and /source; choose, build, leave; jump to a source."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from chatlm import SlashCommand, Ui, UsageError, expand_path, one_line
from chatlm_rag import formatting
from chatlm_rag.documents.files import Source
from chatlm_rag.index import builder, embedding, folder, manifest
from chatlm_rag.index.checkpoint import read_plan
from chatlm_rag.index.folder import IndexFolder
from chatlm_rag.index.writer import BuildStopped
from chatlm_rag.retrieval.search import preload
from chatlm_rag.settings import INDEX_KEY, index_from_plugin_data

PANEL, PICKER, SHEET = "sources", "indices", "sheet"
"""The names of the plugin's panel and screens."""


OFF, BUILD, WHY, TEST = "off", "build", "why", "test"


def rag_command(ui: Ui, argument: str) -> None:
    """Choose, make, leave or look into the index that the chat is about.

    Raises:
        ChatlmError: it cannot be done.
    """
    word, _, rest = argument.strip().partition(" ")
    if not word:
        ui.open_screen(PICKER)
    elif word == OFF:
        leave_index(ui)
    elif word == BUILD:
        build_index(ui, rest)
    elif word == WHY:
        from chatlm_rag.retrieval import explain

        ui.open_screen(SHEET, explain.explain_turn(ui))
    elif word == TEST:
        from chatlm_rag import self_test

        ui.open_screen(SHEET, self_test.run(ui))
    else:
        choose_index(ui, word)


def source_command(ui: Ui, argument: str) -> None:
    """Go to a passage in the panel of sources.

    Raises:
        UsageError: the turn has no such passage.
    """

    count = len(ui.passages)
    number = argument.strip().strip("[]")
    if not count:
        raise UsageError("Nothing was found for this turn", hint="/rag chooses an index to ask.")
    if not number.isdecimal() or not 1 <= int(number) <= count:
        raise UsageError(f"This turn has the sources 1 to {count}", hint="For example: /source 1")
    show_passage(ui, int(number))


def register(add: Callable[[SlashCommand], None]) -> None:
    """Offer both."""
    what = f"[NAME|{OFF}|{BUILD} PATH|{WHY}|{TEST}]"
    add(SlashCommand("rag", "answer from your own documents", rag_command, what))
    add(SlashCommand("source", "go to a source of the reply", source_command, "N"))


HOW_TO_BUILD = "/rag build PATH makes an index of a file or folder."


def choose_index(ui: Ui, name: str) -> None:
    """Let the chat be about an index; one that is not finished is finished first.

    Raises:
        ChatlmError: see `go_on`, `use` and `prepare`.
    """
    if folder.find_index(name).current() is None:
        resume_build(ui, name)
    else:
        use_index(ui, name)
        load_index(ui, name)


def use_index(ui: Ui, name: str) -> None:
    """Let the chat be about an index.

    Raises:
        ChatlmError: there is none of that name, or it is not finished or damaged.
    """
    made = folder.find_index(name).open(manifest.read)
    ui.set_state(**{INDEX_KEY: name})
    ui.notify(
        f"This chat asks {name} from now on: {formatting.describe_size(made)}. /rag off ends that."
    )


def resume_build(ui: Ui, name: str) -> None:
    """Finish an index whose first build was stopped, then let the chat ask it.

    Raises:
        ChatlmError: it cannot be made, or the person stopped it again.
    """
    chat = ui.conversation.id
    try:
        with ui.progress(f"Building {name}") as work:
            builder.update(name, work)
    except BuildStopped as error:
        again = f"Go on: /rag {name}"
        raise BuildStopped(error.message, hint=again if error.hint else "") from error
    _finish_build(ui, name, chat)


def load_index(ui: Ui, name: str) -> None:
    """Fetch the index's embedder if it is not here, and load it; takes seconds.

    Raises:
        ChatlmError: it cannot be had.
    """
    embedder = folder.find_index(name).open(manifest.read).embedder.name
    with ui.progress(f"Opening {name}") as work:
        embedding.fetch_embedder(embedder, work)
        work.update(0, None, "loading the embedder")
        preload(name)


def leave_index(ui: Ui) -> None:
    """Let the chat be about no index.

    Raises:
        UsageError: it is about none.
    """
    name = index_from_plugin_data(ui.state)
    if not name:
        raise UsageError("This chat asks no index.", hint="/rag chooses one.")
    ui.set_state(**{INDEX_KEY: ""})
    ui.notify(f"This chat asks {one_line(name, 64)} no longer.")


def build_index(ui: Ui, argument: str) -> None:
    """Make an index of a file or folder, bring it up to date or go on with it; then use it.

    Args:
        ui: the chat's screen.
        argument: the path, in quotes if it has blanks, and a name if it is to have another than
            that of the file or folder.

    Raises:
        ChatlmError: it cannot be made, or the person stopped it.
    """
    path, name = _parse_build_argument(argument)
    index = folder.user_index(name)
    chat = ui.conversation.id
    try:
        with ui.progress(f"Building {name}") as work:
            if _can_resume(index, path):
                builder.update(name, work)
            else:
                builder.build(name, (Source(str(path)),), work)
    except BuildStopped as error:
        again = f"Go on: /rag build {shlex.quote(str(path))} {name}"
        raise BuildStopped(error.message, hint=again if error.hint else "") from error
    _finish_build(ui, name, chat)


def _finish_build(ui: Ui, name: str, chat_id: int) -> None:
    """Let the chat ask an index that is ready now, if it is still the one that is shown."""
    if ui.conversation.id == chat_id:
        use_index(ui, name)
        load_index(ui, name)
    else:
        ui.notify(f"{name} is ready. /rag {name} asks it.")


def _parse_build_argument(argument: str) -> tuple[Path, str]:
    """The path and the name of the index."""
    try:
        words = shlex.split(argument)
    except ValueError as error:
        raise UsageError("A quotation mark is missing in the path.", hint=HOW_TO_BUILD) from error
    if not 1 <= len(words) <= 2 or not words[0]:
        raise UsageError(
            "Say of which file or folder, and if you like how the index is called.",
            hint="For example: /rag build ~/notes\nA path with blanks belongs in quotes.",
        )
    path = expand_path(words[0]).absolute()
    name = words[1] if words[1:] else re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:64]
    if not name:
        raise UsageError(f"{path} gives the index no name.", hint="Add one: /rag build PATH NAME")
    return path, name


def _can_resume(index: IndexFolder, path: Path) -> bool:
    """Whether the index is there or was begun, of this very path.

    Raises:
        UsageError: it is made of something else.
    """
    plan = read_plan(index.partial)
    if plan is None and index.current():
        plan = index.open(manifest.read).plan
    if plan is None:
        return False
    if str(path) not in {source.path for source in plan.sources}:
        raise UsageError(
            f"There is an index {index.name} of other files.",
            hint=f"Give this one another name: /rag build {shlex.quote(str(path))} NAME",
        )
    return True


class SourcesPanel(Protocol):
    """The panel of sources while it is on the screen."""

    def request_jump(self, number: int) -> None:
        """Go to a passage; may be called in any thread."""


_mounted_panels: list[SourcesPanel] = []


_pending_jumps: list[int] = []


def attach_panel(panel: SourcesPanel) -> int | None:
    """Note that the panel is on the screen; gives the passage it is to begin at."""
    _mounted_panels[:] = [panel]
    return _pending_jumps.pop() if _pending_jumps else None


def detach_panel(panel: SourcesPanel) -> None:
    """Note that the panel has left the screen."""
    if panel in _mounted_panels:
        _mounted_panels.remove(panel)


def show_passage(ui: Ui, number: int) -> None:
    """Show a passage of the selected turn, counted from 1."""
    if _mounted_panels:
        _mounted_panels[0].request_jump(number)
    else:
        _pending_jumps[:] = [number]
        ui.open_panel(PANEL)

"""The slash commands `/rag` and `/source`: select or build a chat's index, show a source."""

from __future__ import annotations

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
"""Names of the plugin's panel and screens."""


OFF, BUILD, WHY, TEST, EMBEDDER = "off", "build", "why", "test", "embedder"


def rag_command(ui: Ui, argument: str) -> None:
    """Run `/rag`: select, build, explain or test the chat's index, change its embedder, or turn it
    off.

    Args:
        ui: the chat's screen.
        argument: a subcommand or the name of an index; empty opens the picker.

    Raises:
        ChatlmError: the command fails.
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
    elif word == EMBEDDER:
        change_embedder(ui, rest.strip())
    else:
        choose_index(ui, word)


def source_command(ui: Ui, argument: str) -> None:
    """Run `/source N`: show a passage in the sources panel.

    Args:
        ui: the chat's screen.
        argument: number of the passage, from 1; brackets are allowed.

    Raises:
        UsageError: the turn has no such passage.
    """

    count = len(ui.passages)
    number = argument.strip().strip("[]")
    if not count:
        raise UsageError("Nothing was found for this turn", hint="Select an index: /rag")
    if not number.isdecimal() or not 1 <= int(number) <= count:
        raise UsageError(f"This turn has the sources 1 to {count}", hint="For example: /source 1")
    show_passage(ui, int(number))


def register(add: Callable[[SlashCommand], None]) -> None:
    """Register both commands."""
    arguments = f"[NAME|{OFF}|{BUILD} PATH|{EMBEDDER} MODEL|{WHY}|{TEST}]"
    add(SlashCommand("rag", "answer from your own documents", rag_command, arguments))
    add(SlashCommand("source", "show a source of the reply", source_command, "N"))


HOW_TO_BUILD = "/rag build PATH builds an index of a file or folder."


def choose_index(ui: Ui, name: str) -> None:
    """Use an index in the chat; complete its build first if it was stopped.

    Raises:
        ChatlmError: there is no such index, or it cannot be built or opened.
    """
    if folder.find_index(name).current() is None:
        resume_build(ui, name)
    else:
        use_index(ui, name)
        load_index(ui, name)


def use_index(ui: Ui, name: str) -> None:
    """Use an index in the chat.

    Raises:
        ChatlmError: there is no such index, its build is not complete, or it is damaged.
    """
    index_manifest = folder.find_index(name).open(manifest.read)
    ui.set_state(**{INDEX_KEY: name})
    ui.notify(
        f"This chat now uses the index {name}: {formatting.describe_size(index_manifest)}. "
        "/rag off turns it off."
    )


def resume_build(ui: Ui, name: str) -> None:
    """Complete the first build of an index, then use the index in the chat.

    Raises:
        ChatlmError: it cannot be built, or the user stopped it again.
    """
    chat_id = ui.conversation.id
    try:
        with ui.progress(f"Building {name}") as work:
            builder.update(name, work)
    except BuildStopped as error:
        hint = f"Continue: /rag {name}" if error.hint else ""
        raise BuildStopped(error.message, hint=hint) from error
    _finish_build(ui, name, chat_id)


def load_index(ui: Ui, name: str) -> None:
    """Open an index and load its embedder, which takes seconds; download it if it is missing.

    Raises:
        ChatlmError: the index cannot be opened, or the embedder is unavailable.
    """
    embedder = folder.find_index(name).open(manifest.read).embedder.name
    with ui.progress(f"Opening {name}") as work:
        embedding.fetch_embedder(embedder, work)
        work.update(0, None, "loading the embedder")
        preload(name)


def change_embedder(ui: Ui, embedder: str) -> None:
    """Embed the chat's index with another embedder, after telling what it takes.

    Raises:
        UsageError: the chat uses no index, or no embedder is named.
        BuildStopped: the user stopped it; the index is as before.
        ChatlmError: the embedder is unavailable.
    """
    name = index_from_plugin_data(ui.state)
    if not name:
        raise UsageError("This chat uses no index", hint="Select one: /rag")
    current = folder.find_index(name).open(manifest.read).embedder.name
    if not embedder:
        raise UsageError(
            f"{name} uses the embedder {current}",
            hint=f"Choose another one: /rag {EMBEDDER} MODEL. They are in: chatlm models list",
        )
    with ui.progress(f"Embedding {name} with {embedder}") as work:
        if cost := builder.estimate_cost(name, embedder, work):
            ui.notify(cost.describe())
        try:
            builder.change_embedder(name, work, embedder)
        except BuildStopped as error:
            hint = f"Continue: /rag {EMBEDDER} {embedder}" if error.hint else ""
            raise BuildStopped(error.message, hint=hint) from error
    load_index(ui, name)
    ui.notify(f"{name} now uses the embedder {embedder}.")


def leave_index(ui: Ui) -> None:
    """Stop using an index in the chat.

    Raises:
        UsageError: the chat uses none.
    """
    name = index_from_plugin_data(ui.state)
    if not name:
        raise UsageError("This chat uses no index.", hint="Select one: /rag")
    ui.set_state(**{INDEX_KEY: ""})
    ui.notify(f"This chat no longer uses the index {one_line(name, 64)}.")


def build_index(ui: Ui, argument: str) -> None:
    """Build, update or continue an index of a file or folder, then use it in the chat.

    Args:
        ui: the chat's screen.
        argument: the path, quoted if it contains spaces, and optionally a name for the index
            other than that of the file or folder.

    Raises:
        ChatlmError: it cannot be built, or the user stopped it.
    """
    path, name = _parse_build_argument(argument)
    index = folder.user_index(name)
    chat_id = ui.conversation.id
    try:
        with ui.progress(f"Building {name}") as work:
            if _can_resume(index, path):
                builder.update(name, work)
            else:
                builder.build(name, (Source(str(path)),), work)
    except BuildStopped as error:
        hint = f"Continue: /rag build {shlex.quote(str(path))} {name}" if error.hint else ""
        raise BuildStopped(error.message, hint=hint) from error
    _finish_build(ui, name, chat_id)


def _finish_build(ui: Ui, name: str, chat_id: int) -> None:
    """Use a new index in the chat for which it was built, unless the user has left that chat."""
    if ui.conversation.id == chat_id:
        use_index(ui, name)
        load_index(ui, name)
    else:
        ui.notify(f"The index {name} is ready. Use it: /rag {name}")
    index_manifest = folder.find_index(name).open(manifest.read)
    if left_out := formatting.describe_links_left_out(index_manifest):
        ui.notify(
            f"{left_out} To index them too: chatlm rag add {name} PATH --follow-links", warning=True
        )


def _parse_build_argument(argument: str) -> tuple[Path, str]:
    """Return the path and the name of the index."""
    try:
        words = shlex.split(argument)
    except ValueError as error:
        raise UsageError("A quotation mark is missing in the path.", hint=HOW_TO_BUILD) from error
    if not 1 <= len(words) <= 2 or not words[0]:
        raise UsageError(
            "Give the path of a file or folder, and optionally a name for the index.",
            hint="For example: /rag build ~/notes\nQuote a path that contains spaces.",
        )
    path = expand_path(words[0]).absolute()
    name = words[1] if words[1:] else folder.suggest_name(path)
    if not name:
        raise UsageError(
            f"The index cannot be named after {path}.", hint="Add a name: /rag build PATH NAME"
        )
    return path, name


def _can_resume(index: IndexFolder, path: Path) -> bool:
    """Return whether the index, complete or not, exists and contains this path.

    Raises:
        UsageError: it contains other files.
    """
    plan = read_plan(index.partial)
    if plan is None and index.current():
        plan = index.open(manifest.read).plan
    if plan is None:
        return False
    if str(path) not in {source.path for source in plan.sources}:
        raise UsageError(
            f"The index {index.name} exists and contains other files.",
            hint=f"Choose another name: /rag build {shlex.quote(str(path))} NAME",
        )
    return True


class SourcesPanel(Protocol):
    """The sources panel while it is mounted."""

    def request_jump(self, number: int) -> None:
        """Show a passage, counted from 1; callable from any thread."""


_mounted_panels: list[SourcesPanel] = []


_pending_jumps: list[int] = []


def attach_panel(panel: SourcesPanel) -> int | None:
    """Register the mounted panel, and return the number of the passage to show first, if any."""
    _mounted_panels[:] = [panel]
    return _pending_jumps.pop() if _pending_jumps else None


def detach_panel(panel: SourcesPanel) -> None:
    """Unregister a panel that is no longer mounted."""
    if panel in _mounted_panels:
        _mounted_panels.remove(panel)


def show_passage(ui: Ui, number: int) -> None:
    """Show a passage of the selected turn, counted from 1."""
    if _mounted_panels:
        _mounted_panels[0].request_jump(number)
    else:
        _pending_jumps[:] = [number]
        ui.open_panel(PANEL)

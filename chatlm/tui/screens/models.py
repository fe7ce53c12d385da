"""The model picker: known models, or any hub id or path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from rich.cells import set_cell_size
from textual import on
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from chatlm.chat.model_list import FileChoice, PluginModels
from chatlm.hub.disk import human_bytes
from chatlm.hub.installed import ModelDetails
from chatlm.text import escape_controls, one_line
from chatlm.tui.screens.card import Card
from chatlm.tui.widgets.column_titles import ColumnTitles
from chatlm.tui.widgets.inputs import VisibleInput
from chatlm.tui.widgets.pick_list import PickList
from chatlm.tui.workers import single_value

if TYPE_CHECKING:
    from chatlm.engines.fit import Fit

NAME_WIDTH, SIZE_WIDTH, STATE_WIDTH, FIT_WIDTH = 22, 10, 10, 18
"""Widths of the columns before the description, in cells; at 80 columns what a model can do fits
behind them."""

MIN_WIDTH_FOR_DESCRIPTION = 110
"""Columns of the terminal below which a row has a model's abilities only; the line below the list
has the description."""

MIN_WIDTH_FOR_SIZES = 66
"""Columns of the terminal below which a row has a model's name and fit only, as on a phone."""

TITLES = (
    ("model", NAME_WIDTH),
    ("size", 2 - SIZE_WIDTH),
    ("", 2),
    ("state", STATE_WIDTH),
    ("fit and speed", FIT_WIDTH),
)
"""Without the last column, whose title depends on what is listed."""

NARROW_TITLES = (TITLES[0], TITLES[-1])

RowWidth = Literal["wide", "usual", "narrow"]
"""Whether a row has a model's description, its abilities, or neither, nor its size."""

NO_MODEL = """
No known model has these words. Enter tries them as a name:

  qwen3:4b                           a name as Ollama writes it
  org/name, hf.co/org/name:Q4_K_M    a hub repository, or one of its files
  ~/models/file.gguf                 a file or a folder on this machine
  openai:MODEL@http://HOST:PORT/v1   a model on a server"""
"""What the list says where no model matches."""


class ModelScreen(Card[str | None]):
    """Returns the chosen model or None; asks before a download.

    Args:
        models: the models to show, in this order; only chat models are shown.
        current: name of the current model.
        look_up: whether a model that is not among `models` can be used without downloading it, or
            the files to choose from; runs in a thread, since it may read a large file or ask the
            hub. Raises a `ChatlmError` where there is no such model.
        ask_plugins: returns the models of plugins, shown below the others, and how models fit this
            machine; runs in a thread, since it may wait for servers.
        wanted: a model to choose at once, as if it had been typed; empty for none.
    """

    @dataclass
    class PluginsAnswered(Message):
        """The models of plugins are known."""

        answer: PluginModels

    DEFAULT_CSS = """
    ModelScreen {
        & > .card { width: 150; height: 30; }
        & Input { margin: 0 0 1 0; background: $foreground 8%; }
        & PickList { height: 1fr; }
        & #about {
            height: 1;
            margin: 1 0 0 0;
            color: $text-muted;
            text-wrap: nowrap;
            text-overflow: ellipsis;
        }
        & #plugins { height: auto; max-height: 6; color: $text-muted; }
        & #plugins.-failed { color: $text-error; }
        & #question { display: none; height: auto; color: $text-warning; }
        & #question.-shown { display: block; }
    }
    """

    CARD_TITLE = "Models"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "up", show=False),
        Binding("down", "move(1)", "down", show=False),
        Binding("enter", "choose", "use model", priority=True),
        Binding("enter", "download", "download", priority=True),
        Binding("escape", "keep", "cancel"),
        Binding("escape", "dismiss", "close"),
    ]

    def __init__(
        self,
        models: Sequence[ModelDetails],
        current: str,
        look_up: Callable[[str], bool | tuple[FileChoice, ...]],
        ask_plugins: Callable[[], PluginModels] = PluginModels,
        wanted: str = "",
    ) -> None:
        super().__init__()
        self._models = {each.name: each for each in models if each.kind == "chat"}
        self._current = current
        self._look_up = look_up
        self._fits: dict[str, Fit] = {}
        self._ask_plugins = ask_plugins
        self._wanted = wanted
        self._query = ""
        """What the list shows the models for."""
        self._download_candidate = ""
        """The model to download when the user confirms."""
        self._question = ""
        """What is said about the candidate."""
        self._files: dict[str, FileChoice] = {}
        """Files of repositories that were offered."""

    def body(self) -> Iterable[Widget]:
        """Yield the filter, the models and the question."""
        yield VisibleInput(
            self._wanted,
            placeholder="Filter, or enter a hub id such as org/name, or a path",
            compact=True,
        )
        models = PickList(markup=False)
        yield ColumnTitles(())
        yield models
        yield Static(id="about", markup=False)
        yield Static("Asking plugins for their models …", id="plugins")
        yield Static(id="question")

    def on_mount(self) -> None:
        """Show all models, with the current one marked, and ask plugins for theirs."""
        self._update_list(self._wanted, self._wanted)
        if self._wanted:
            self._choose_highlighted()
        self.run_worker(self._ask_worker, thread=True, group="plugins", exit_on_error=False)

    def handle_value(self, value: object) -> None:
        """Choose a local model; ask before downloading another."""
        typed = self.query_one(Input).value.strip()
        if value is True:
            self.dismiss(typed)
        elif isinstance(value, tuple):
            self._offer_files(value)
        else:
            self._ask_to_download(typed, "Unknown download size")

    def _offer_files(self, choices: tuple[FileChoice, ...]) -> None:
        """List the files of a repository in place of the models."""
        for choice in choices:
            self._fits[choice.name] = choice.fit
            self._files[choice.name] = choice
        self._show_titles("quality")
        models = self.query_one(PickList)
        models.set_options([Option(_file_row(each, self._width), id=each.name) for each in choices])
        good = [n for n, each in enumerate(choices) if each.fit.verdict == "fits"]
        models.highlighted = good[len(good) // 2] if good else 0

    def _show_titles(self, last: str) -> None:
        """Name the columns; an empty last title hides them."""
        columns = (*TITLES, (last, len(last))) if self._width != "narrow" else NARROW_TITLES
        self.query_one(ColumnTitles).show(columns if last else ())

    @property
    def _width(self) -> RowWidth:
        if self.size.width < MIN_WIDTH_FOR_SIZES:
            return "narrow"
        return "wide" if self.size.width >= MIN_WIDTH_FOR_DESCRIPTION else "usual"

    def on_resize(self) -> None:
        """Show more or less of each model."""
        if self._query == self.query_one(Input).value.strip() and not self._files:
            highlighted = self.query_one(PickList).highlighted_option
            candidate, question = self._download_candidate, self._question
            self._update_list(self._query, (highlighted and highlighted.id) or "")
            self._ask_to_download(candidate, question)

    def _ask_worker(self) -> None:
        self.post_message(self.PluginsAnswered(self._ask_plugins()))

    @on(PluginsAnswered)
    def _show_plugin_models(self, event: PluginsAnswered) -> None:
        event.stop()
        for details in event.answer.models:
            self._models.setdefault(details.name, details)
        self._fits |= event.answer.fits
        faults = [escape_controls(str(fault)) for fault in event.answer.faults]
        line = self.query_one("#plugins", Static)
        line.display = bool(faults)
        line.set_class(bool(faults), "-failed")
        line.update(Content("\n".join(faults)))
        if event.answer.models or event.answer.fits:
            highlighted = self.query_one(PickList).highlighted_option
            candidate, question = self._download_candidate, self._question
            chosen = highlighted.id if highlighted is not None else None
            self._update_list(self.query_one(Input).value.strip(), chosen or "")
            self._ask_to_download(candidate, question)

    def action_move(self, step: int) -> None:
        """Move in the list while typing."""
        self.query_one(PickList).move(step)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer to download and to cancel only while that is asked."""
        if action in ("download", "keep"):
            return bool(self._download_candidate)
        return action not in ("choose", "dismiss") or not self._download_candidate

    def action_choose(self) -> None:
        """Use the highlighted model, or ask first."""
        self._choose_highlighted()

    def action_download(self) -> None:
        """Download what was asked about."""
        self._choose_highlighted()

    def action_keep(self) -> None:
        """Cancel the question."""
        self._ask_to_download("")

    @on(Input.Changed)
    def _handle_query_changed(self, event: Input.Changed) -> None:
        event.stop()
        if event.value.strip() == self._query:  # as at first, with a model that is wanted
            return
        self.stop_work()
        self.show_error(None)
        self._update_list(event.value.strip())

    @on(OptionList.OptionHighlighted)
    def _handle_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        about = self._models.get(event.option_id or "")
        words = _describe(about, self._width) if about else ""
        self.query_one("#about", Static).update(one_line(words, 200))
        if event.option_id != self._download_candidate:
            self._ask_to_download("")

    @on(OptionList.OptionSelected)
    def _choose_model(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self._choose_highlighted()

    def _choose_highlighted(self) -> None:
        option = self.query_one(PickList).highlighted_option
        if option is None or option.id is None or self.working:
            return
        name = option.id
        details = self._models.get(name)
        if name == self._download_candidate or (details is not None and details.installed):
            self.dismiss(name)
        elif name in self._files:
            self._ask_to_download(name, f"{human_bytes(self._files[name].bytes)} to download")
        elif details is None:
            self.start_work(partial(single_value, partial(self._look_up, name)))
        else:
            self._ask_to_download(name, f"About {human_bytes(details.bytes)} to download")

    def _ask_to_download(self, name: str, question: str = "") -> None:
        """Ask whether to download the model; an empty name hides the question."""
        self._download_candidate, self._question = name, question
        line = self.query_one("#question", Static)
        line.set_class(bool(name), "-shown")
        message = f"{one_line(name, 60)} is not on this machine. {question}."
        if fit := self._fits.get(name):
            speed = f", {fit.speed_text}" if fit.speed_text else ""
            message += f"\n{fit.summary.capitalize()}{speed}: {fit.describe_need(name)}"
        line.update(Content(message))
        self.refresh_bindings()

    def _update_list(self, query: str, highlight: str = "") -> None:
        """Show the models that match the query, then the query itself as a model."""
        self._ask_to_download("")
        self._query = query
        words = query.lower().split()
        found = [
            details
            for details in self._models.values()
            if all(word in f"{details.name} {details.summary}".lower() for word in words)
        ]
        options = [
            Option(
                model_row(
                    details,
                    details.name == self._current,
                    self._fits.get(details.name),
                    width=self._width,
                ),
                id=details.name,
            )
            for details in found
        ]
        if query and query not in self._models:
            options.append(Option(Content(f"Use “{one_line(query, 70)}”"), id=query))
        if not found:
            options.append(Option(Content(NO_MODEL), disabled=True))
        self._show_titles(("what it is" if self._width == "wide" else "abilities") if found else "")
        models = self.query_one(PickList)
        models.set_options(options)
        names = [option.id for option in options]
        wanted = (highlight, query if query in self._models else "", self._current)
        chosen = next((name for name in wanted if name in names), names[0])
        models.highlighted = names.index(chosen)


def model_row(
    details: ModelDetails, current: bool, fit: Fit | None = None, *, width: RowWidth = "wide"
) -> Content:
    """Return one model as a row."""
    name = (
        set_cell_size(one_line(details.name, NAME_WIDTH - 1), NAME_WIDTH),
        "bold" if current else "",
    )
    fit_cell = _fit_cell(fit) if fit else (" " * FIT_WIDTH, "")
    if width == "narrow":
        return Content.assemble(name, fit_cell)
    state = "in use" if current else _state(details)
    return Content.assemble(
        name,
        f"{human_bytes(details.bytes) if details.bytes else '-':>{SIZE_WIDTH - 2}}  ",
        (state.ljust(STATE_WIDTH), "$text-success" if details.installed else "$text-muted"),
        fit_cell,
        (one_line(details.summary if width == "wide" else details.marks, 200), "$text-muted"),
    )


def _state(details: ModelDetails) -> str:
    """Return whether a model is here, or on a server or of a plugin; empty if it is not."""
    return "" if not details.installed else "installed" if details.folder else "ready"


def _describe(details: ModelDetails, width: RowWidth) -> str:
    """Return what the line below the list says of a model: what its row has no room for."""
    if width == "wide":
        return details.summary
    if width == "usual":
        return details.description
    size = human_bytes(details.bytes) if details.bytes else ""
    return " · ".join(filter(None, (size, _state(details), details.summary)))


def _file_row(choice: FileChoice, width: RowWidth) -> Content:
    name = set_cell_size(one_line(choice.name.rpartition(":")[2], NAME_WIDTH - 1), NAME_WIDTH)
    if width == "narrow":
        return Content.assemble(name, _fit_cell(choice.fit))
    return Content.assemble(
        name,
        f"{human_bytes(choice.bytes):>{SIZE_WIDTH - 2}}  ",
        _fit_cell(choice.fit),
        (choice.quality, "$text-muted"),
    )


def _fit_cell(fit: Fit) -> tuple[str, str]:
    good = fit.summary in ("fits", "unknown")
    speed = fit.speed_text.replace("tokens/s", "t/s")
    text = f"{fit.summary} {speed}".strip()
    return set_cell_size(text, FIT_WIDTH), "$text-success" if good else "$text-warning"

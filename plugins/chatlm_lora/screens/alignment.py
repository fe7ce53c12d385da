"""Train an adapter on the votes: how many pairs there are, the methods, progress and result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from textual import work
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from chatlm import ChatlmError, Ui, UsageError, escape_controls
from chatlm.plugin_kit.screens import MUTED_STYLE, PickerCard, with_commands
from chatlm.plugin_kit.training import sparkline
from chatlm_lora import actions
from chatlm_lora.alignment import background
from chatlm_lora.alignment.background import BackgroundTraining, BackgroundTrainings, TrainingState
from chatlm_lora.alignment.commands import DEFAULTS, describe_result
from chatlm_lora.alignment.enough import PairCount
from chatlm_lora.alignment.pairs import (
    VOTES,
    check_enough,
    count_pairs,
    explain_count,
    rows_of_votes,
)
from chatlm_lora.card import AdapterCard

METHODS: Mapping[str, str] = {
    "dpo": "compares both replies with the base; the usual choice",
    "ipo": "like dpo, but stops at a difference; for few or certain votes",
    "kto": "judges each reply by itself; for votes that contradict each other",
    "orpo": "imitates the better reply and avoids the other, without the base",
    "sft": "only imitates the better replies",
}

SHOWN_LINES = 8
"""Newest lines of a training that are shown."""

VoteRows = Sequence[Mapping[str, Any]]


class AlignmentScreen(PickerCard):
    """A card to train an adapter on the votes, in a process of its own.

    Args:
        ui: the chat's screen.
        read_rows: returns the rows of the service `preferences`.
        trainings: starts trainings and remembers the last one.
    """

    DEFAULT_CSS = """
    AlignmentScreen {
        & OptionList { height: auto; max-height: 7; }
        & #pairs { height: auto; margin: 0 0 1 0; }
        & #about { height: 1fr; margin: 1 0 0 0; border-top: solid $foreground 20%; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose_highlighted", "train", priority=True),
        Binding("s", "stop", "stop"),
        Binding("f", "finish", "save the best so far"),
        Binding("u", "use", "use in this chat"),
        Binding("pageup", "turn_page(-1)", "back", show=False, priority=True),
        Binding("pagedown", "turn_page(1)", "scroll", priority=True),
        Binding("escape", "dismiss", "close"),
    ]

    NAME_WIDTH: ClassVar[int] = 8

    def __init__(
        self,
        ui: Ui,
        read_rows: Callable[[], VoteRows],
        trainings: BackgroundTrainings = background.TRAININGS,
    ) -> None:
        super().__init__("Train on your votes", "dpo")
        self._ui, self._read_rows, self._trainings = ui, read_rows, trainings
        self._count: PairCount | None = None
        self._shown: tuple[object, ...] = ()

    def body(self) -> Iterable[Widget]:
        """Return the help text, the count of pairs, the methods and the progress."""
        yield Static(
            with_commands(
                "From your votes in the `/arena`, an adapter learns to write replies like those "
                "that you preferred. The chat stays usable meanwhile."
            ),
            classes="help",
        )
        yield Static("Counting your votes …", id="pairs")
        yield OptionList(
            *(Option(self.row(name, text), id=name) for name, text in METHODS.items()),
            markup=False,
        )
        with VerticalScroll(id="about", can_focus=False):
            yield Static(id="progress")

    def on_mount(self) -> None:
        """Count the votes, and follow a training that already runs."""
        self._count_pairs()
        self.set_interval(0.25, self._show_progress)
        self._show_progress()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only what can be done now."""
        training = self._training
        running = training is not None and training.is_running
        match action:
            case "choose_highlighted":
                return not running and self._count is not None and not self._count.missing
            case "stop":
                return running
            case "finish":
                return not running and background.is_unfinished(self._adapter_name)
            case "use":
                return training is not None and training.state is TrainingState.DONE
        return True

    def choose_or_explain(self, name: str) -> None:
        """Start or continue a training by the method; the card stays open."""
        try:
            self.choose(name)
        except ChatlmError as error:
            self.show_error(error)

    def choose(self, name: str) -> None:
        """Start or continue a training by the method.

        Raises:
            UsageError: one runs already, there are too few votes, or no local model is loaded.
        """
        if self._training is not None and self._training.is_running:
            raise UsageError("A training is already running.", hint="Stop it first: s")
        if self._count is None:
            raise UsageError("Your votes are not counted yet.")
        check_enough(self._count, VOTES)
        base = actions.loaded_model(self._ui)
        if base is None:
            raise UsageError(
                "Only a model on this machine can be trained.", hint="Choose one: /model"
            )
        self._start(["--data", "votes", "--method", name, "--model", base.name])

    def action_stop(self) -> None:
        """Stop after the current step; a checkpoint is kept."""
        self._trainings.stop()

    def action_finish(self) -> None:
        """Make an adapter of the best checkpoint of the training that was stopped."""
        self._start(["--finish"])

    def action_use(self) -> None:
        """Use the new adapter in the chat."""
        if self._training is not None:
            try:
                actions.use_adapter(self._ui, self._training.name)
            except ChatlmError as error:
                self.show_error(error)
            else:
                self.dismiss()

    def action_turn_page(self, pages: int) -> None:
        """Scroll the progress."""
        about = self.query_one("#about", VerticalScroll)
        (about.scroll_page_down if pages > 0 else about.scroll_page_up)(animate=False)

    def highlight_changed(self, name: str | None) -> None:
        """Show whether a training by the method was stopped."""
        self._shown = ()
        self._show_progress()

    @property
    def _training(self) -> BackgroundTraining | None:
        return self._trainings.current

    @property
    def _adapter_name(self) -> str:
        """Name of the adapter that the highlighted method would make."""
        return background.adapter_name(self.highlighted or self.selected)

    def _start(self, words: Sequence[str]) -> None:
        self.show_error(None)
        self._trainings.start(self._adapter_name, words)
        self._show_progress()

    @work(thread=True, exit_on_error=False)
    def _count_pairs(self) -> None:
        try:
            found = count_pairs(rows_of_votes(self._read_rows()))
            count = PairCount(found["pairs"], DEFAULTS["held_out"])
            text = explain_count(found, count)
        except ChatlmError as error:
            self.app.call_from_thread(self._show_count_error, error)
            return
        self.app.call_from_thread(self._show_pairs, count, text)

    def _show_pairs(self, count: PairCount, text: str) -> None:
        self._count = count
        self.query_one("#pairs", Static).update(Content(text))
        self.refresh_bindings()

    def _show_count_error(self, error: ChatlmError) -> None:
        self.query_one("#pairs", Static).update("")
        self.show_error(error)

    def _show_progress(self) -> None:
        training = self._training
        shown = (
            (training, training.state, len(training.lines), *training.lines[-1:])
            if training
            else (None, self.highlighted)
        )
        if shown == self._shown:
            return
        self._shown = shown
        self.query_one("#progress", Static).update(self._progress_content(training))
        self.refresh_bindings()

    def _progress_content(self, training: BackgroundTraining | None) -> Content:
        if training is None:
            if background.is_unfinished(self._adapter_name):
                text = f"The training of {self._adapter_name} was stopped; Enter continues it."
                return Content.styled(text, "$text-warning")
            return Content.styled(f"Enter trains the adapter {self._adapter_name}.", MUTED_STYLE)
        if training.state is TrainingState.DONE:
            return _result_content(AdapterCard.from_dict(training.card))
        titles = {
            TrainingState.RUNNING: (f"Training {training.name} …", "bold"),
            TrainingState.STOPPED: (
                f"Stopped; Enter on the same method continues {training.name}.",
                "$text-warning",
            ),
            TrainingState.FAILED: (f"The training of {training.name} failed.", "$text-error"),
        }
        lines = "\n".join(training.lines[-SHOWN_LINES:])
        return Content.assemble(titles[training.state], "\n", (escape_controls(lines), MUTED_STYLE))


def _result_content(made: AdapterCard) -> Content:
    """Return what a training brought, with its curves."""
    width = max(map(len, made.curves), default=0)
    curves = [
        f"{name.replace('_', ' '):>{width}} {sparkline([value for _, value in points])} "
        f"{points[-1][1]:.3g}"
        for name, points in made.curves.items()
        if points
    ]
    return Content.assemble((describe_result(made), ""), "\n\n", ("\n".join(curves), MUTED_STYLE))

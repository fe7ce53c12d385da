"""The first start: what the small model is, and what this machine could run instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import ClassVar

from rich.cells import set_cell_size
from textual import events, on
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from chatlm.chat.first_start import FirstChoice, FirstOffer
from chatlm.hub.disk import human_bytes
from chatlm.text import one_line
from chatlm.tui.screens.card import Card
from chatlm.tui.widgets.pick_list import PickList
from chatlm.tui.workers import single_value

TOY = (
    "You are about to chat with smollm2-135m-instruct. It is a toy of 135 million parameters that "
    "runs on any machine: it answers at once, in English, and is often wrong."
)

NO_HUB = (
    "The model hub does not answer, so no other model can be downloaded now. HF_ENDPOINT names "
    "another hub.\n\nModels of Ollama, LM Studio, llama.cpp or vLLM that run on this machine are "
    "in /model. For a server elsewhere:\n  chatlm -m openai:MODEL@http://HOST:PORT/v1"
)


class FirstStart(Card[str | None]):
    """Returns the model to download, an empty text for none, or None if the user began to type.

    Args:
        make_offer: says what this machine could run; runs in a thread, since it measures.
        write: takes the text that the user types or pastes instead of choosing.
    """

    DEFAULT_CSS = """
    FirstStart {
        & > .card { width: 92; height: auto; max-height: 100%; padding: 1 2 0 2; }
        & Static { height: auto; margin: 0 0 1 0; }
        & .problem { margin: 0; }
        & PickList { height: auto; margin: 0 0 1 0; }
        & #about { color: $text-muted; }
        & #offer.-warning { color: $text-warning; }
    }
    """

    CARD_TITLE = "Welcome to chatlm"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", "up", show=False),
        Binding("down", "move(1)", "down", show=False),
        Binding("enter", "choose", "download in the background"),
        Binding("escape", "keep", "keep the toy"),
    ]

    def __init__(
        self, make_offer: Callable[[], FirstOffer], write: Callable[[str], object]
    ) -> None:
        super().__init__()
        self._make_offer = make_offer
        self._write = write
        self._about: dict[str, str] = {}
        """What the models of the offer are, by name."""
        self._typing = False
        """Whether the card closes because the user types; keys that still come here are text."""

    def body(self) -> Iterable[Widget]:
        """Yield what the model is and what could run instead."""
        yield Static(Content(TOY))
        yield Static("Looking at what this machine could run …", id="offer")
        models = PickList(markup=False)
        models.display = False
        yield models
        about = Static(id="about")
        about.display = False
        yield about

    def on_mount(self) -> None:
        """Look at the machine, in a thread."""
        self.start_work(partial(single_value, self._make_offer))

    def handle_value(self, value: object) -> None:
        """Show what the machine could run."""
        if isinstance(value, FirstOffer):
            self._show_offer(value)

    def _show_offer(self, offer: FirstOffer) -> None:
        line = self.query_one("#offer", Static)
        line.set_class(not offer.hub_reachable, "-warning")
        if not offer.hub_reachable:
            line.update(Content(NO_HUB))
            return
        if not offer.choices:
            line.update(Content("No larger model of the catalogue fits this machine: /model."))
            return
        line.update(
            Content(
                "This machine could run one of these; you can chat while it is downloaded. "
                "Or type your message: this card asks again at the next start."
            )
        )
        self._about = {choice.entry.name: choice.entry.description for choice in offer.choices}
        models = self.query_one(PickList)
        models.set_options([Option(_row(choice), id=choice.entry.name) for choice in offer.choices])
        models.display = True
        models.highlighted = min(1, len(offer.choices) - 1)
        self.refresh_bindings()

    @on(OptionList.OptionHighlighted)
    def _describe(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        about = self.query_one("#about", Static)
        about.update(Content(one_line(self._about.get(event.option_id or "", ""), 200)))
        about.display = True

    @on(OptionList.OptionSelected)
    def _select(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.dismiss(event.option_id or "")

    def on_key(self, event: events.Key) -> None:
        """Close on the first character, which is meant for the composer."""
        if event.is_printable and event.character:
            event.stop()
            self._leave_to_write(event.character)

    def on_paste(self, event: events.Paste) -> None:
        """Close on a paste, which is meant for the composer."""
        event.stop()
        self._leave_to_write(event.text)

    def _leave_to_write(self, text: str) -> None:
        self._write(text)
        if not self._typing:
            self._typing = True
            self.dismiss(None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer a choice only where there is one, and nobody types."""
        return not self._typing and (action != "choose" or self.query_one(PickList).display)

    def action_move(self, step: int) -> None:
        """Move in the list."""
        self.query_one(PickList).move(step)

    def action_choose(self) -> None:
        """Download the highlighted model."""
        models = self.query_one(PickList)
        if models.display and models.highlighted_option is not None:
            self.dismiss(models.highlighted_option.id or "")

    def action_keep(self) -> None:
        """Chat with the small model."""
        self.dismiss("")


def _row(choice: FirstChoice) -> Content:
    entry, fit = choice.entry, choice.fit
    return Content.assemble(
        (f"{choice.kind:<10}", "bold"),
        set_cell_size(one_line(entry.name, 14), 15),
        f"{human_bytes(entry.bytes):>8}  ",
        f"{fit.speed_text or '-':<16}",
        (fit.summary, "$text-success"),
    )

"""The list of adapters: what there is, and what the marked one changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from rich.cells import set_cell_size
from textual import on, work
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from chatlm import Artifact, ChatlmError, PluginCard, Ui, UsageError, human_bytes, one_line
from chatlm_lora import actions, card
from chatlm_lora.library import ADAPTERS

MUTED = "$foreground 60%"

BASE_ID = ""
"""The id of the row that ends the use of an adapter."""

NAME_WIDTH = 20
"""Width of the names, in cells."""

MAX_ANSWERS = 3
"""So many of the card's answers are shown."""


class AdapterPicker(PluginCard):
    """Enter lets the chat use the marked adapter.

    Args:
        ui: the chat's screen.
    """

    DEFAULT_CSS = """
    AdapterPicker {
        & OptionList { height: auto; max-height: 40%; }
        & .how { height: auto; margin: 0 0 1 0; color: $text-muted; }
        & #about {
            height: 1fr;
            margin: 1 0 0 0;
            border-top: solid $foreground 20%;
        }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "verify", "verify that it acts"),
        Binding("pageup", "turn_page(-1)", "back", show=False, priority=True),
        Binding("pagedown", "turn_page(1)", "read on", priority=True),
        Binding("escape", "dismiss", "close"),
    ]

    def __init__(self, ui: Ui) -> None:
        super().__init__("Adapters")
        self._ui = ui
        self._active_adapter = actions.active_adapter(ui)
        self._engine_adapters = actions.engine_adapters(ui)
        self._adapters = {
            adapter.name: adapter
            for adapter in ADAPTERS.all()
            if adapter.name not in self._engine_adapters
        }
        self._verdicts: dict[str, Content] = {}

    def body(self) -> Iterable[Widget]:
        """How it works, the list, the marked one."""
        yield Static(
            "An adapter changes how the model answers. Enter lets this chat use the marked one "
            "from the next reply on; F5 in the chat switches between it and the base.",
            classes="how",
        )
        yield OptionList(*self._options(), markup=False)
        with VerticalScroll(id="about", can_focus=False):
            yield Static()

    def on_mount(self) -> None:
        """Mark the one in use."""
        rows = self.query_one(OptionList)
        ids = [option.id for option in rows.options]
        rows.highlighted = ids.index(self._active_adapter) if self._active_adapter in ids else 0
        rows.focus()

    def action_verify(self) -> None:
        """Compare what the model says with the marked adapter and without it."""
        if marked := self._highlighted_adapter():
            self._show_verdict(marked.name, Content.styled("Verifying: loading the model …", MUTED))
            self._verify(marked)

    def action_turn_page(self, pages: int) -> None:
        """Turn the pages of what is told of the marked one."""
        about = self.query_one("#about", VerticalScroll)
        (about.scroll_page_down if pages > 0 else about.scroll_page_up)(animate=False)

    @work(thread=True, exclusive=True, exit_on_error=False)
    def _verify(self, adapter: Artifact) -> None:
        from chatlm_lora import effect as effect_module

        try:
            base = actions.loaded_model(self._ui)
            if base is None:
                raise UsageError("There is no model to verify it with.")
            effect = effect_module.measure_effect(adapter, base)
            said = effect.describe() + "".join(f"\n{one_line(w, 300)}" for w in effect.warnings)
            verdict = Content.styled(
                f"Verified: {said}", "$text-success" if effect.has_effect else "$text-warning"
            )
        except ChatlmError as error:
            verdict = Content.styled(one_line(str(error), 400), "$text-error")
        self.app.call_from_thread(self._show_verdict, adapter.name, verdict)

    def _show_verdict(self, name: str, verdict: Content) -> None:
        self._verdicts[name] = verdict
        self._show_details()

    @on(OptionList.OptionHighlighted)
    def _handle_highlight(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        self.show_error(None)
        self._show_details()
        self.query_one("#about").scroll_home(animate=False)

    @on(OptionList.OptionSelected)
    def _handle_selection(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        name = event.option_id or BASE_ID
        try:
            if name != BASE_ID:
                actions.use_adapter(self._ui, name)
            elif self._active_adapter:
                actions.use_base_model(self._ui)
        except ChatlmError as error:
            self.show_error(error)
        else:
            self.dismiss()

    def _options(self) -> Iterable[Option]:
        yield Option(self._row("no adapter", BASE_ID, "the base model alone"), id=BASE_ID)
        for name in self._engine_adapters:
            yield Option(
                self._row(one_line(name, NAME_WIDTH - 1), name, "comes with the model"), id=name
            )
        for name, adapter in self._adapters.items():
            known = card.read_card(adapter.path)
            told = card.summarize_card(known) if known else "no card"
            own = " (yours)" if adapter.user_owned else ""
            about = f"{told}, {human_bytes(adapter.size_bytes)}{own}"
            yield Option(self._row(one_line(name, NAME_WIDTH - 1), name, about), id=name)

    def _row(self, label: str, name: str, description: str) -> Content:
        in_use = name == self._active_adapter
        return Content.assemble(
            (set_cell_size(label, NAME_WIDTH), "bold" if in_use else ""),
            ("in use · " if in_use else "", MUTED),
            (description, MUTED),
        )

    def _highlighted_name(self) -> str:
        option = self.query_one(OptionList).highlighted_option
        return (option.id if option else None) or BASE_ID

    def _highlighted_adapter(self) -> Artifact | None:
        return self._adapters.get(self._highlighted_name())

    def _show_details(self) -> None:
        marked = self._highlighted_adapter()
        if marked:
            told = _adapter_details(marked)
        elif self._highlighted_name() in self._engine_adapters:
            told = Content.styled("It comes with the model, and no more is known of it.", MUTED)
        else:
            told = _empty_details(bool(self._adapters or self._engine_adapters))
        if marked and (verdict := self._verdicts.get(marked.name)):
            told = Content.assemble(verdict, "\n\n", told)
        self.query_one("#about Static", Static).update(told)


def _empty_details(has_adapters: bool) -> Content:
    more = "" if has_adapters else "There are no adapters yet. "
    return Content.assemble(
        (more, MUTED),
        ("chatlm adapters train NAME --data FILE", "bold"),
        (" trains one from examples, ", MUTED),
        ("chatlm adapters add NAME FOLDER", "bold"),
        (" takes one that peft saved.", MUTED),
    )


def _adapter_details(adapter: Artifact) -> Content:
    """What its card says: answers first, since they are what a person looks for."""
    known = card.read_card(adapter.path)
    if known is None:
        return Content.styled("Nothing is known of how it came to be: it has no card.", MUTED)
    parts: list[tuple[str, str]] = []
    for answer in known.answers[:MAX_ANSWERS]:
        parts += [
            (f"{one_line(answer.prompt, 200)}\n", "bold"),
            ("base     ", MUTED),
            (f"{one_line(answer.before, 300)}\n", ""),
            ("adapter  ", MUTED),
            (f"{one_line(answer.after, 300)}\n\n", ""),
        ]
    parts.append(("\n".join(card.card_lines(known)), MUTED))
    return Content.assemble(*parts)

"""List of adapters, with the answers of the highlighted one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import work
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from chatlm import Artifact, ChatlmError, Ui, UsageError, human_bytes, one_line
from chatlm.plugin_kit.screens import MUTED_STYLE, PickerCard, with_commands
from chatlm_lora import actions, card
from chatlm_lora.library import ADAPTERS

BASE_ID = ""
"""Id of the row for the base model alone."""

MAX_ANSWERS = 3
"""Sample answers shown of an adapter's card."""


class AdapterPicker(PickerCard):
    """A card to choose the chat's adapter, and to verify that an adapter has an effect.

    Args:
        ui: the chat's screen.
    """

    DEFAULT_CSS = """
    AdapterPicker {
        & OptionList { height: auto; max-height: 40%; }
        & #about {
            height: 1fr;
            margin: 1 0 0 0;
            border-top: solid $foreground 20%;
        }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "verify", "verify effect"),
        Binding("pageup", "turn_page(-1)", "back", show=False, priority=True),
        Binding("pagedown", "turn_page(1)", "scroll", priority=True),
        Binding("escape", "dismiss", "close"),
    ]

    def __init__(self, ui: Ui) -> None:
        super().__init__("Adapters", actions.active_adapter(ui))
        self._ui = ui
        self._engine_adapters = actions.engine_adapters(ui)
        self._adapters = {
            adapter.name: adapter
            for adapter in ADAPTERS.all()
            if adapter.name not in self._engine_adapters
        }
        self._verdicts: dict[str, Content] = {}

    def body(self) -> Iterable[Widget]:
        """Return the help text, the list and the details."""
        yield Static(
            with_commands(
                "An adapter changes how the model answers, from the next reply of this chat on. "
                "`f5` in the chat switches between it and the base model."
            ),
            classes="help",
        )
        yield OptionList(*self._options(), markup=False)
        with VerticalScroll(id="about", can_focus=False):
            yield Static()

    def action_verify(self) -> None:
        """Compare the model's output with and without the highlighted adapter."""
        if marked := self._highlighted_adapter():
            self._show_verdict(
                marked.name, Content.styled("Verifying: loading the model …", MUTED_STYLE)
            )
            self._verify(marked)

    def action_turn_page(self, pages: int) -> None:
        """Scroll the details."""
        about = self.query_one("#about", VerticalScroll)
        (about.scroll_page_down if pages > 0 else about.scroll_page_up)(animate=False)

    @work(thread=True, exclusive=True, exit_on_error=False)
    def _verify(self, adapter: Artifact) -> None:
        from chatlm_lora import effect as effect_module

        try:
            base = actions.loaded_model(self._ui)
            if base is None:
                raise UsageError("No model is loaded to verify it with.")
            effect = effect_module.measure_effect(adapter, base)
            details = effect.describe() + "".join(f"\n{one_line(w, 300)}" for w in effect.warnings)
            verdict = Content.styled(
                f"Verified: {details}", "$text-success" if effect.has_effect else "$text-warning"
            )
        except ChatlmError as error:
            verdict = Content.styled(one_line(str(error), 400), "$text-error")
        self.app.call_from_thread(self._show_verdict, adapter.name, verdict)

    def _show_verdict(self, name: str, verdict: Content) -> None:
        self._verdicts[name] = verdict
        self._show_details()

    def highlight_changed(self, name: str | None) -> None:
        """Show the card of the highlighted adapter."""
        self._show_details()
        self.query_one("#about").scroll_home(animate=False)

    def choose(self, name: str) -> None:
        """Use the adapter, or the base model alone, from the next reply on.

        Raises:
            ChatlmError: the adapter cannot be used.
        """
        if name != BASE_ID:
            actions.use_adapter(self._ui, name)
        elif self.selected:
            actions.use_base_model(self._ui)

    def _options(self) -> Iterable[Option]:
        yield self._option(BASE_ID, "no adapter", "the base model alone")
        for name in self._engine_adapters:
            yield self._option(name, name, "comes with the model")
        for name, adapter in self._adapters.items():
            known = card.read_card(adapter.path)
            summary = card.summarize_card(known) if known else "no card"
            own = " (yours)" if adapter.user_owned else ""
            yield self._option(name, name, f"{summary}, {human_bytes(adapter.size_bytes)}{own}")

    def _option(self, name: str, label: str, description: str) -> Option:
        return Option(self.row(label, description, in_use=name == self.selected), id=name)

    def _highlighted_adapter(self) -> Artifact | None:
        return self._adapters.get(self.highlighted or BASE_ID)

    def _show_details(self) -> None:
        marked = self._highlighted_adapter()
        if marked:
            content = _adapter_details(marked)
        elif self.highlighted in self._engine_adapters:
            content = Content.styled("It comes with the model; it has no card.", MUTED_STYLE)
        else:
            content = _empty_details(bool(self._adapters or self._engine_adapters))
        if marked and (verdict := self._verdicts.get(marked.name)):
            content = Content.assemble(verdict, "\n\n", content)
        self.query_one("#about Static", Static).update(content)


def _empty_details(has_adapters: bool) -> Content:
    more = "" if has_adapters else "There are no adapters yet. "
    return Content.assemble(
        (more, MUTED_STYLE),
        ("chatlm adapters train NAME --data FILE", "bold"),
        (" trains one from examples.\n", MUTED_STYLE),
        ("chatlm adapters add NAME FOLDER", "bold"),
        (" adds one that peft saved.", MUTED_STYLE),
    )


def _adapter_details(adapter: Artifact) -> Content:
    """Return the adapter's card, sample answers first."""
    known = card.read_card(adapter.path)
    if known is None:
        return Content.styled("It has no card, so its history is unknown.", MUTED_STYLE)
    parts: list[tuple[str, str]] = []
    for answer in known.answers[:MAX_ANSWERS]:
        parts += [
            (f"{one_line(answer.prompt, 200)}\n", "bold"),
            ("base     ", MUTED_STYLE),
            (f"{one_line(answer.before, 300)}\n", ""),
            ("adapter  ", MUTED_STYLE),
            (f"{one_line(answer.after, 300)}\n\n", ""),
        ]
    parts.append(("\n".join(card.card_lines(known)), MUTED_STYLE))
    return Content.assemble(*parts)

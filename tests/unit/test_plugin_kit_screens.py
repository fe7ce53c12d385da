"""Cards for screens of plugins: pickers choose or explain why not, text cards scroll."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from chatlm import UsageError
from chatlm.plugin_kit.screens import PickerCard, TextCard, with_commands
from tests.tui.cards import CardApp, everything_visible
from tests.tui.support import until


class RecipePicker(PickerCard):
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "close")]

    def __init__(self, selected: str, names: tuple[str, ...] = ("bread", "salad", "soup")) -> None:
        super().__init__("Recipes", selected)
        self.names = names
        self.chosen: list[str] = []
        self.seen: list[str | None] = []

    def body(self) -> Iterable[Widget]:
        yield OptionList(
            *(
                Option(self.row(name, "a dish", in_use=name == self.selected), id=name)
                for name in self.names
            ),
            markup=False,
        )

    def choose(self, name: str) -> None:
        if name == "salad":
            raise UsageError("The salad wilted.", hint="Buy another.")
        self.chosen.append(name)

    def highlight_changed(self, name: str | None) -> None:
        self.seen.append(name)


async def test_picker_highlights_what_is_in_use_and_closes_after_a_choice() -> None:
    card = RecipePicker("salad")
    async with CardApp(card).run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: card.seen[-1:] == ["salad"])
        assert card.highlighted == "salad"
        assert "in use · a dish" in everything_visible(pilot)
        await pilot.press("down", "enter")
        await until(pilot, lambda: card.chosen == ["soup"])
        assert pilot.app.screen is not card


async def test_picker_shows_why_a_choice_failed_and_stays_open() -> None:
    card = RecipePicker("none of them")
    async with CardApp(card).run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: card.seen == ["bread"])
        await pilot.press("down", "enter")
        problem = card.query_one("#problem", Static)
        await until(pilot, lambda: problem.display)
        assert "The salad wilted." in everything_visible(pilot)
        assert "Buy another." in everything_visible(pilot)
        await pilot.press("down")
        await until(pilot, lambda: not problem.display)
        assert card.chosen == []


async def test_picker_without_options_has_nothing_highlighted() -> None:
    card = RecipePicker("soup", ())
    async with CardApp(card).run_test(size=(80, 24)) as pilot:
        await pilot.press("down", "enter")
        assert card.highlighted is None
        assert card.chosen == []


async def test_text_card_escapes_what_a_terminal_obeys_and_closes() -> None:
    card = TextCard("Recipe", "[b]soup[/b]\x1b[2J\nsalt")
    async with CardApp(card).run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "[b]soup[/b]" in everything_visible(pilot))
        assert "\x1b" not in everything_visible(pilot)
        await pilot.press("q")
        await until(pilot, lambda: pilot.app.screen is not card)


def test_what_is_typed_stands_out_in_a_text() -> None:
    text = with_commands("`/rag NAME` uses one, `/rag off` none.")
    assert text.plain == "/rag NAME uses one, /rag off none."
    assert [text.plain[span.start : span.end] for span in text.spans] == ["/rag NAME", "/rag off"]

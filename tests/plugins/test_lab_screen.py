"""/bpe: merges are made by a key, and the tokens of any text follow."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from chatlm.testing import ScriptedScreen, scripted_screen
from chatlm_lab import plugin
from chatlm_lab.screens.merges import LabMergesCard
from tests.tui.cards import CardApp, SnapCompare, still
from tests.tui.support import plain, until

TEXT = "the cat and the hat and the bat then there"


def card_of(shown: ScriptedScreen) -> LabMergesCard:
    assert isinstance(shown.app.screen, LabMergesCard)
    return shown.app.screen


async def test_a_key_merges_and_the_tokens_of_any_text_follow(home: Path) -> None:
    async with scripted_screen(plugin) as shown:
        await shown.submit("/bpe")
        assert "has no text yet" in shown.notifications[-1]
        await shown.submit(f"/bpe {TEXT}")
        await until(shown.pilot, lambda: card_of(shown).steps is not None)
        card = card_of(shown)
        await until(shown.pilot, lambda: "42 tokens" in plain(card.query_one("#tokens")))
        await shown.press("enter")
        assert "h + e" in plain(card.query_one("#merges"))
        assert "37 tokens" in plain(card.query_one("#tokens"))
        card.query_one(Input).value = "the end"
        await until(shown.pilot, lambda: "6 tokens" in plain(card.query_one("#tokens")))
        await shown.press("pagedown")
        assert card.steps is not None
        assert len(card.steps.merges) == 11
        assert "the·end\n5 tokens" in plain(card.query_one("#tokens"))
        await shown.press("pagedown", "pagedown", "pagedown")
        merges = len(card.steps.merges)
        await shown.press("enter")
        assert len(card.steps.merges) == merges, "no pair is left"
        await shown.press("escape")
        assert not isinstance(shown.app.screen, LabMergesCard)
        assert shown.faults == []


async def test_the_texts_of_the_chat_are_learned_from(home: Path) -> None:
    async with scripted_screen(plugin, replies=["zzz zzz zzz"]) as shown:
        await shown.submit("Hello")
        await shown.submit("/bpe")
        await until(shown.pilot, lambda: card_of(shown).steps is not None)
        await shown.press("enter")
        assert "z + z" in plain(card_of(shown).query_one("#merges"))
        assert card_of(shown).query_one(Input).value == "zzz zzz zzz"
        assert shown.faults == []


@pytest.mark.parametrize("size", [(80, 24), (160, 48)], ids=["80x24", "160x48"])
def test_picture_of_merges(snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    card = LabMergesCard([TEXT * 20], "the cat and the theatre")

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: card.steps is not None)
        card.action_merge(9)

    assert snap_compare(CardApp(card), terminal_size=size, run_before=still(steps))

"""The replay screen generates a reply again, compares it, and shows the differences."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Generator

import pytest
from textual.pilot import Pilot

from chatlm.chat.replay import ReplayFinished, ReplayStarted
from chatlm.chat.word_diff import DiffSegment, diff_words
from chatlm.errors import UsageError
from chatlm.tui.screens.replay import ReplayScreen, diff_content, diff_text, verdict
from chatlm.types.events import Delta, Prefill, PromptReady
from chatlm.types.messages import Message
from chatlm.types.provenance import Provenance
from chatlm.types.replies import Reply, StopReason, Usage
from chatlm.types.sampling import Sampling
from tests.tui.cards import CardApp, SnapCompare, both_sizes, hint, still
from tests.tui.support import plain, until

THEN = "The capital of France is Paris. It stands on the Seine.\n\n- one\n- two"
NOW = "The capital of France is Paris. It lies on the river Seine.\n\n- one\n- two"
MADE_BY = Provenance((Message("user", "Hello"),), Sampling(seed=1), "m")
NOTES = ("model: smollm2-135m-instruct → another", "torch: 2.6.0 → 2.7.0")


def replayed(text: str, original: str = THEN, notes: tuple[str, ...] = ()) -> ReplayFinished:
    reply = Reply(1, 1, original)
    usage = Usage(20, 0, 24, 0.2, 2.0)
    return ReplayFinished(
        reply, MADE_BY, text, StopReason.END, usage, text == original, True, notes
    )


class Again:
    """Says a text word by word, and may stand still after the sixth until `go` is set."""

    def __init__(self, text: str, *, stands: bool = False, so_far: str = "") -> None:
        self.text = text
        self.so_far = so_far
        self.go = threading.Event()
        if not stands:
            self.go.set()
        self.runs = 0

    def __call__(self) -> Generator[object, None, None]:
        self.runs += 1
        yield ReplayStarted(Reply(1, 1, THEN), MADE_BY, self.so_far)
        yield PromptReady(20, 8192)
        yield Prefill(20, 20)
        rest = self.text.removeprefix(self.so_far)
        for made, word in enumerate(rest.split(" "), start=1):
            yield Delta(word if made == 1 else f" {word}", usage=Usage(20, 0, made))
            while made == 6 and not self.go.wait(0.02):
                yield Delta("", usage=Usage(20, 0, made))
        yield replayed(self.text, notes=NOTES)


def screen_text(pilot: Pilot[None]) -> str:
    return plain(pilot.app.screen)


async def test_an_equal_replay_says_so() -> None:
    async with CardApp(ReplayScreen(THEN, Again(THEN))).run_test() as pilot:
        await until(pilot, lambda: "✓ The same, 24 tokens." in screen_text(pilot))
        assert "[-" not in screen_text(pilot) and "{+" not in screen_text(pilot)
        assert "It stands on the Seine." in screen_text(pilot)


async def test_the_difference_has_marks_and_notes() -> None:
    async with CardApp(ReplayScreen(THEN, Again(NOW))).run_test(size=(120, 24)) as pilot:
        await until(
            pilot,
            lambda: (
                "✗ Different: −1 +2 words. The new reply: complete, 24 tokens."
                in screen_text(pilot)
            ),
        )
        assert "It [-stands-] {+lies+} on the {+river+} Seine." in screen_text(pilot)
        for note in NOTES:
            assert note in screen_text(pilot)


@pytest.mark.parametrize("width", [80, 120])
async def test_both_are_shown_while_it_writes(width: int) -> None:
    again = Again(NOW, stands=True)
    async with CardApp(ReplayScreen(THEN, again)).run_test(size=(width, 24)) as pilot:
        await until(pilot, lambda: "Writing: 6 tokens" in screen_text(pilot))
        then, now = (plain(pilot.app.screen.query_one(name)) for name in ("#then", "#now"))
        assert " ".join(then.split()).startswith("Then The capital of France is Paris. It stands")
        assert " ".join(now.split()) == "Now The capital of France is Paris."
        side_by_side = pilot.app.screen.query_one("#now").region.x > 10
        assert side_by_side is (width == 120)
        assert hint(pilot) == "esc stop"
        again.go.set()
        await until(pilot, lambda: "✗ Different" in screen_text(pilot))
        assert hint(pilot) == "r again · c copy the difference · esc close"


async def test_a_continued_reply_begins_with_what_it_had() -> None:
    again = Again(NOW, stands=True, so_far="The capital of France ")
    async with CardApp(ReplayScreen(THEN, again)).run_test() as pilot:
        await until(pilot, lambda: "Writing: 6 tokens" in screen_text(pilot))
        now = plain(pilot.app.screen.query_one("#now"))
        assert " ".join(now.split()) == "Now The capital of France is Paris. It lies on the"


async def test_escape_stops_then_closes() -> None:
    app = CardApp(ReplayScreen(THEN, Again(NOW, stands=True)))
    async with app.run_test() as pilot:
        await until(pilot, lambda: "Writing: 6" in screen_text(pilot))
        await pilot.press("escape")
        await until(pilot, lambda: "Not finished: nothing to compare." in screen_text(pilot))
        assert hint(pilot) == "r again · esc close"
        assert app.given == []
        await pilot.press("escape")
        await until(pilot, lambda: app.given == [None])


async def test_again_runs_once_more() -> None:
    again = Again(NOW)
    async with CardApp(ReplayScreen(THEN, again)).run_test() as pilot:
        await until(pilot, lambda: "✗ Different" in screen_text(pilot))
        again.text = THEN
        await pilot.press("r")
        await until(pilot, lambda: "✓ The same" in screen_text(pilot))
        assert again.runs == 2


async def test_copies_the_difference_as_text() -> None:
    """With the original characters, whatever is drawn of them."""
    async with CardApp(ReplayScreen("a \x1b[2Jb", Again("a c"))).run_test() as pilot:
        await until(pilot, lambda: "✗ Different" in screen_text(pilot))
        await pilot.press("c")
        assert pilot.app.clipboard == diff_text(diff_words(THEN, "a c"))


async def test_a_reply_without_provenance_cannot_be_replayed() -> None:
    def broken() -> Generator[object, None, None]:
        raise UsageError("This reply has no stored provenance", hint="Regenerate it.")
        yield

    async with CardApp(ReplayScreen(THEN, broken)).run_test() as pilot:
        await until(pilot, lambda: "Regenerate it." in screen_text(pilot))
        assert "Not finished: nothing to compare." in screen_text(pilot)


def test_marks_leave_blanks_outside_and_controls_drawn_harmless() -> None:
    pieces = [
        DiffSegment("same", "a "),
        DiffSegment("removed", "b\n"),
        DiffSegment("added", "\x1b[2J "),
        DiffSegment("added", "\n"),
    ]
    assert diff_text(pieces) == "a [-b-]\n{+\x1b[2J+} {+\n+}"
    assert diff_content(pieces).plain == "a [-b-]\n{+␛[2J+} {+\n+}"


def test_two_empty_replies_are_the_same() -> None:
    assert verdict(replayed("", original=""), []).plain == "✓ The same, 24 tokens."


def test_thoughts_that_differ_are_named() -> None:
    made = dataclasses.replace(replayed(THEN), same_text=False, reasoning="Hm.")
    assert verdict(made, made.diff()).plain == (
        "✗ Different: −0 +1 word. The new reply: complete, 24 tokens. "
        "The thoughts come first, since they differ."
    )


@both_sizes
@pytest.mark.parametrize("theme", ["textual-dark", "textual-light"])
def test_picture_of_a_difference(
    snap_compare: SnapCompare, size: tuple[int, int], theme: str
) -> None:
    """Removed and added words differ in colour and marks; changed facts are above them."""

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "✗ Different" in screen_text(pilot))

    app = CardApp(ReplayScreen(THEN, Again(NOW)), theme)
    assert snap_compare(app, terminal_size=size, run_before=still(steps))


@both_sizes
def test_picture_while_it_writes(snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    """The original and the replay so far."""

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "Writing: 6 tokens" in screen_text(pilot))

    app = CardApp(ReplayScreen(THEN, Again(NOW, stands=True)))
    assert snap_compare(app, terminal_size=size, run_before=still(steps))


@both_sizes
def test_picture_of_the_same(snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    """One line says so."""

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "✓ The same" in screen_text(pilot))

    assert snap_compare(
        CardApp(ReplayScreen(THEN, Again(THEN))), terminal_size=size, run_before=still(steps)
    )

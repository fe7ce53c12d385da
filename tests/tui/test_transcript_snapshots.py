"""A picture of each state of the transcript and of the details; look at them when one changes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
from textual.pilot import Pilot
from textual.widgets import TextArea

from chatlm.tui.screens.details import DetailsScreen
from chatlm.types.conversations import ContextPolicy
from tests.tui.board import BoardApp, settled, turn, turns
from tests.tui.test_transcript_copy import PROVENANCE

Steps = Callable[[Pilot[None]], Awaitable[None]]

both_sizes = pytest.mark.parametrize("size", [(80, 24), (160, 48)], ids=["80x24", "160x48"])

RICH = """Facts about **Paris**, in a list:

- It stands on the *Seine*.
  - Its banks are a World Heritage Site.
- The `city` has 20 districts.

| Name | District | 人口 | Remarks |
|---|---:|:-:|---|
| Louvre | 1 | 九千 | The largest museum of the world, with a remark that wraps |
| Eiffel | 7 | | iron |

```python
def bonjour(name: str, greeting: str = "Bonjour", punctuation: str = "!") -> str:
    return f"{greeting} {name}{punctuation}"  # 日本語
```

> A quotation
> of two lines
"""


@pytest.fixture
def compare(
    snap_compare: Callable[..., bool], size: tuple[int, int]
) -> Callable[[BoardApp, Steps], bool]:
    """Take the picture once all is drawn and `steps` are done."""

    def take(app: BoardApp, steps: Steps) -> bool:
        async def before(pilot: Pilot[None]) -> None:
            app.board.query_one(TextArea).cursor_blink = False
            await settled(pilot, app)
            await steps(pilot)
            await pilot.pause()

        return snap_compare(app, terminal_size=size, run_before=before)

    return take


@both_sizes
def test_selected_with_versions(compare: Callable[[BoardApp, Steps], bool]) -> None:
    """The turn has a bar and another background; below it the keys, at the version the arrows."""
    app = BoardApp([turn(1, "Yes."), turn(2, "No.", "Perhaps.", "Never."), turn(3, "Well.")])

    async def steps(pilot: Pilot[None]) -> None:
        app.transcript.select_turn(app.views[1])
        await pilot.press("left")

    assert compare(app, steps)


@both_sizes
def test_marks_of_what_is_read(compare: Callable[[BoardApp, Steps], bool]) -> None:
    """Turns that the model does not read are grey and say why; a summary is below its turn."""
    app = BoardApp(
        [
            turn(1, "One."),
            turn(2, "Two.", context_policy=ContextPolicy.PINNED),
            turn(3, "Three.", context_policy=ContextPolicy.DROPPED),
            turn(
                4,
                "Four.",
                context_policy=ContextPolicy.SUMMARISED,
                summary="It was about four things.",
            ),
        ]
    )

    async def steps(pilot: Pilot[None]) -> None:
        app.transcript.mark_omitted({1})

    assert compare(app, steps)


@both_sizes
def test_rich_reply(compare: Callable[[BoardApp, Steps], bool]) -> None:
    """Lists, a table whose cells wrap, code that is wider than the screen, wide characters."""
    app = BoardApp([turn(1, RICH)])

    async def steps(pilot: Pilot[None]) -> None:
        app.transcript.scroll_home(animate=False)

    assert compare(app, steps)


@both_sizes
def test_scrolled_away_in_a_long_chat(compare: Callable[[BoardApp, Steps], bool]) -> None:
    """A found turn is selected; a badge leads to the end."""
    app = BoardApp(turns(60))

    async def steps(pilot: Pilot[None]) -> None:
        await app.transcript.reveal_turn(30)

    assert compare(app, steps)


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A fixed time zone, since the details show local time."""
    with monkeypatch.context() as changed:
        changed.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("utc")
@both_sizes
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "older"])
def test_details(compare: Callable[[BoardApp, Steps], bool], kept: bool) -> None:
    """A table of the reply's provenance; for an older one what is known, and why no more."""
    one = turn(1, "Yes.", "No.")
    app = BoardApp([one])

    async def steps(pilot: Pilot[None]) -> None:
        card = DetailsScreen(one, one.replies[0], PROVENANCE if kept else None)
        await pilot.app.push_screen(card)

    assert compare(app, steps)

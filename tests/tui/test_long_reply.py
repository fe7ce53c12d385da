"""Replies of any length: streamed ones look like whole ones, and growth costs only new text."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textual.app import App
from textual.content import Content

from chatlm.engines.scripted import ScriptedEngine
from chatlm.tui.chat.markdown import CodeLine, Paragraph, StreamingMarkdown, Table
from chatlm.tui.chat.reply_text import ReplyText
from tests.costs import processor_seconds
from tests.tui.support import idle, make_app, newest, plain, say, until

ALL_KINDS = """# Title with `code`

A paragraph of **bold** and *thin* words that is long enough to be broken at most widths.
A line of its own.

- one
- two
  - inner
  - inner too

    a paragraph in an item
- three

7. seven
8. eight

> quoted
> - with a list

```python
def f() -> str:
    return '''long
string'''
```

| Name | Cost |
|:--|--:|
| tea | 2 |
| a cake with many words in it | 1,000 |

---

The end: https://example.com
"""


def lines(markdown: StreamingMarkdown, width: int = 40) -> list[str]:
    """Return the drawn text, with empty lines between the blocks."""
    drawn: list[str] = []
    for at, block in enumerate(markdown.blocks):
        drawn += [""] if at and not block.tight else []
        drawn += [line.content.plain for piece in block.fragments for line in piece.lines(width)]
    return drawn


@given(st.lists(st.integers(0, len(ALL_KINDS)), max_size=40), st.integers(1, 100))
@settings(max_examples=60)
def test_pieces_look_like_the_whole(cuts: list[int], width: int) -> None:
    ends = [0, *sorted(cuts), len(ALL_KINDS)]
    grown = StreamingMarkdown()
    for start, end in itertools.pairwise(ends):
        grown.append(ALL_KINDS[start:end])
    assert lines(grown, width) == lines(StreamingMarkdown(ALL_KINDS), width)


@pytest.mark.parametrize(
    "kind", ["- item {} of many\n", "{}. item\n", "Paragraph {}.\n\n", "x = {}\n"]
)
def test_what_has_grown_before_is_not_made_again(kind: str) -> None:
    start = "```python\n" if kind.startswith("x") else ""
    grown = StreamingMarkdown(start + "".join(kind.format(number) for number in range(200)))
    before = [piece for block in grown.blocks for piece in block.fragments]
    for number in range(200, 210):
        grown.append(kind.format(number))
    after = [piece for block in grown.blocks for piece in block.fragments]
    assert len(after) > len(before)
    kept = len(before) - 2
    assert all(old is new for old, new in zip(before[:kept], after[:kept], strict=True))


def test_numbers_go_on() -> None:
    grown = StreamingMarkdown("0. none\n")
    for _ in range(11):
        grown.append("1. more\n")
    assert lines(grown)[0] == " 0. none"
    assert lines(grown)[-1] == "11. more"


def test_code_is_coloured_when_it_ends_however_it_grew() -> None:
    code = "```python\n" + "".join(f"text_{n} = 'some words'  # why\n" for n in range(300))
    grown = StreamingMarkdown()
    for at in range(0, len(code), 500):
        grown.append(code[at : at + 500])
    grown.append("```\n\nEnd.")
    (fence, _), (whole, _) = grown.blocks, StreamingMarkdown(code + "```\n\nEnd.").blocks
    for piece, other in zip(fence.fragments[1:], whole.fragments[1:], strict=True):
        assert isinstance(piece.renderable, CodeLine)
        assert isinstance(other.renderable, CodeLine)
        assert piece.renderable.content.is_same(other.renderable.content)
        assert len(piece.renderable.content.spans) > 3


@pytest.mark.parametrize("width", [1, 2, 7, 20, 80])
def test_nothing_is_wider_than_the_screen(width: int) -> None:
    text = "word " * 20 + "averylongwordthatfitsnowhere 全角文字 " * 3
    cells = [Content(text), Content("x"), Content("全角")]
    bodies = (
        Paragraph(Content(text)),
        CodeLine(Content(text)),
        Table(cells, [cells], ["left"] * 3),
    )
    for body in bodies:
        widest = max(line.cell_length for line in body.lines(width))
        assert widest <= max(width, 4), type(body)


def test_code_loses_nothing_where_it_is_broken() -> None:
    text = "if 全角 == '" + "ab " * 30 + "':"
    broken = CodeLine(Content(text)).lines(12)
    assert "".join(line.plain.strip(" ") for line in broken).replace(" ", "") == text.replace(
        " ", ""
    )


def test_a_line_of_code_that_never_ends_costs_no_more_a_part() -> None:
    def cost(parts: int) -> float:
        return processor_seconds(
            lambda: lines(StreamingMarkdown("```python\n" + "x = 1; " * parts))
        )

    assert cost(5000) < 10 * cost(1000), "it was the square of the parts when each was cut off"


async def test_a_long_reply_is_one_widget_and_follows_its_end() -> None:
    text = "".join(f"- item {number} with some **words** that follow\n" for number in range(100))
    async with make_app(ScriptedEngine(text + "\nLast words.")).run_test() as pilot:
        pilot.app.theme = "textual-light"
        await say(pilot, "Go")
        await idle(pilot)
        view = newest(pilot).query_one(ReplyText)
        assert not view.children
        assert view.size.height > 100
        assert plain(view).endswith("Last words.")
        await until(pilot, lambda: view.region.bottom <= pilot.app.size.height)


async def test_the_width_may_change_while_a_reply_grows() -> None:
    words = " ".join(str(number) for number in range(100))
    async with App[None]().run_test(size=(60, 30)) as pilot:
        view = ReplyText()
        await pilot.app.screen.mount(view)
        await view.start_stream("")
        for word in words.split(" "):
            await view.append_text(f"{word} ")
            if random.Random(word).random() < 0.1:
                await pilot.resize_terminal(30 + int(word) % 40, 30)
        await view.end_stream()
        await pilot.pause()
        drawn = [view.render_line(y).text for y in range(view.size.height)]
        assert " ".join(drawn).split() == words.split()


async def test_what_is_selected_is_what_is_drawn() -> None:
    async with App[None]().run_test(size=(60, 30)) as pilot:
        view = ReplyText("# Head\n\nSome **bold** words.\n\n- item")
        await pilot.app.screen.mount(view)
        await pilot.pause()
        pilot.app.screen.text_select_all()
        await pilot.pause()
        assert pilot.app.screen.get_selected_text() == "Head\n\nSome bold words.\n\n• item"
        styles = [segment.style for segment in view.render_line(0) if segment.text.strip()]
        chosen = pilot.app.screen.get_component_rich_style("screen--selection")
        assert all(style and style.bgcolor == chosen.bgcolor for style in styles)


async def test_colours_follow_theme_and_focus() -> None:
    async with make_app(ScriptedEngine("Some words.")).run_test() as pilot:
        await say(pilot, "Go")
        await idle(pilot)
        turn = newest(pilot)
        view = turn.query_one(ReplyText)
        seen = set()
        for change in (lambda: None, turn.focus, lambda: setattr(pilot.app, "theme", "nord")):
            change()
            await pilot.pause()
            await pilot.pause()
            style = view.render_line(0)._segments[0].style
            assert style is not None
            seen.add((style.color, style.bgcolor))
        assert len(seen) == 3

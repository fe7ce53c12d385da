"""Replies name what wrote them, are easy to read, and offer their code to a click."""

from __future__ import annotations

from functools import partial

from textual.pilot import Pilot

from chatlm.engines.scripted import ScriptedEngine
from chatlm.store.store import Store
from chatlm.tui.chat.markdown import PROSE_WIDTH, StreamingMarkdown, code_blocks
from chatlm.tui.chat.reply_text import ReplyText
from chatlm.types.replies import StopReason, Usage
from tests.tui.support import (
    chat_of,
    idle,
    line,
    make_app,
    newest,
    plain,
    say,
    until,
)

CODE = "Two blocks:\n\n```python\nprint(1)\n```\n\nand\n\n```\nls -l\tx\n```\n"


def clipboard_is(pilot: Pilot[None], text: str) -> bool:
    return pilot.app.clipboard == text


def author(pilot: Pilot[None]) -> str:
    return plain(newest(pilot).query_one(".author"))


def stored(*replies: tuple[str, str | None]) -> Store:
    store = Store(None)
    turn = store.add_turn(store.create_conversation("Chat").id, "Hello")
    for model, adapter in replies:
        reply = store.start_reply(turn.id, model=model, adapter=adapter)
        store.finish_reply(reply.id, text="Yes.", stop_reason=StopReason.END, usage=Usage(1, 0, 9))
    return store


async def test_a_reply_names_its_model_and_adapter_and_its_version() -> None:
    store = stored(("org/SmolLM2-135M", "pirate"), ("other", None))
    async with make_app(store=store, conversation_id=1).run_test() as pilot:
        await until(pilot, lambda: chat_of(pilot).view.newest_view is not None)
        assert author(pilot) == "other"
        assert line(pilot).startswith("‹ 2/2 › · 9 tokens")
        await pilot.press("tab", "left")
        await until(pilot, lambda: author(pilot) == "SmolLM2-135M · adapter pirate")
        assert line(pilot).startswith("‹ 1/2 ›")


async def test_the_name_is_there_while_the_reply_is_written() -> None:
    async with make_app(ScriptedEngine("Hi.")).run_test() as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        assert author(pilot) == "scripted"


def test_prose_is_no_wider_than_one_can_read_and_code_may_be() -> None:
    words, code = "word " * 60, "x" * 110
    blocks = StreamingMarkdown(f"{words}\n\n```\n{code}\n```").blocks
    prose, listing = (
        [each for piece in block.fragments for each in piece.lines(118)] for block in blocks
    )
    assert max(each.content.cell_length for each in prose) <= PROSE_WIDTH
    assert code in listing[1].content.plain


def drawn(text: str, width: int) -> list[str]:
    """The lines of a reply in so many cells."""
    return [
        line.content.plain.rstrip()
        for block in StreamingMarkdown(text).blocks
        for piece in block.fragments
        for line in piece.lines(width)
    ]


def test_a_block_of_code_is_as_wide_as_prose_unless_its_lines_are_wider() -> None:
    def widths(code: str, width: int) -> set[int]:
        fragments = StreamingMarkdown(f"```\n{code}\n```").blocks[0].fragments
        return {line.content.cell_length for piece in fragments for line in piece.lines(width)}

    assert widths("x = 1", 150) == {PROSE_WIDTH}
    assert widths("x = 1\n" + "y" * 120, 150) == {122}
    assert widths("x = 1", 60) == {60}


def test_lists_and_quotes_end_where_prose_ends() -> None:
    def right_edges(text: str) -> set[int]:
        fragments = [piece for block in StreamingMarkdown(text).blocks for piece in block.fragments]
        return {line.content.cell_length for piece in fragments for line in piece.lines(118)}

    letters, code = "x" * 300, "```\n{}y = 1\n{}```"
    for text in (f"- {letters}", f"- a\n  - {letters}", f"10. {letters}", f"> - {letters}"):
        assert max(right_edges(text)) == PROSE_WIDTH
    assert max(right_edges("- " + code.format("  ", "  "))) == PROSE_WIDTH


def test_code_is_wrapped_between_words_and_what_follows_is_indented_further() -> None:
    code = "if x:\n    return first_of(values) if values else nothing_at_all"
    assert drawn(f"```\n{code}\n```", 40)[1:] == [
        " if x:",
        "     return first_of(values) if values",
        "       else nothing_at_all",
    ]
    assert drawn(f"```\n{'x' * 50}\n```", 40)[1:] == [" " + "x" * 38, "   " + "x" * 12]


def test_a_fence_without_code_is_no_box() -> None:
    assert drawn("Look:\n\n```", 40) == ["Look:", "```"]
    assert drawn("```python\n```", 40) == ["```python"]
    assert code_blocks("```\n```\n\n```\nx\n```") == ["x"], "as many as have a button"


async def test_a_click_on_copy_copies_its_own_block() -> None:
    app = make_app(ScriptedEngine(CODE))
    async with app.run_test(size=(80, 30)) as pilot:
        await say(pilot, "Show code")
        await idle(pilot)
        text = newest(pilot).query_one(ReplyText)
        heads = [y for y in range(text.size.height) if "copy" in text.render_line(y).text]
        for y, code in zip(heads, ("print(1)", "ls -l\tx"), strict=True):
            column = text.render_line(y).text.index("copy")
            await pilot.click(text, offset=(column + 3, y))
            await until(pilot, partial(clipboard_is, pilot, code))


def test_tasks_have_boxes_in_place_of_bullets() -> None:
    text = "- [x] done\n- [ ] **open**\n- [link] no task\n1. [x] numbered\n"
    blocks = StreamingMarkdown(text).blocks
    drawn = [
        line.content.plain
        for block in blocks
        for each in block.fragments
        for line in each.lines(40)
    ]
    assert drawn == ["☑ done", "☐ open", "• [link] no task", " 1. [x] numbered"]


def test_names_in_code_are_not_underlined_like_links() -> None:
    blocks = StreamingMarkdown("```python\ndef f():\n    pass\n```\n").blocks
    [line] = [
        line.content
        for block in blocks
        for each in block.fragments
        for line in each.lines(40)
        if "def f" in line.content.plain
    ]
    assert not any("underline" in str(span.style) for span in line.spans)

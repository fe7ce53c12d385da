"""Widget that draws a whole reply: its text, thoughts, tool calls and other parts, in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TypeVar

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from chatlm.tui.chat.image_block import ImageBlock
from chatlm.tui.chat.reply_text import ReplyText
from chatlm.tui.chat.thought_block import ThoughtBlock
from chatlm.tui.chat.tool_block import CallBlock, ToolBlock
from chatlm.tui.formatting import describe_part
from chatlm.types.parts import Image, Part, Reasoning, Text, ToolCall, ToolResult, join_thoughts
from chatlm.types.replies import StreamedPart

BlockT = TypeVar("BlockT", bound=Widget)

_NO_COST = Reasoning("")

Block = Part | CallBlock
"""What one widget draws."""


class ReplyView(Vertical):
    """The parts of a reply, streamed or complete; neighbouring texts of one kind are one block.

    Args:
        parts: the parts so far.
        thoughts_open: whether the text of thoughts is shown.
    """

    DEFAULT_CSS = """
    ReplyView {
        height: auto;

        & > ReplyText { margin: 0 0 1 0; }
        & > ReplyText:last-child { margin: 0; }
        & > ThoughtBlock, & > ToolBlock, & > PartBlock, & > ImageBlock { margin: 0 1 1 2; }
        & > ThoughtBlock:last-child, & > ToolBlock:last-child, & > PartBlock:last-child,
        & > ImageBlock:last-child {
            margin: 0 1 0 2;
        }
    }
    """

    def __init__(self, parts: Iterable[Part] = (), *, thoughts_open: bool = False) -> None:
        super().__init__()
        self._blocks = _blocks_of(parts)
        self._thoughts_open = thoughts_open

    def compose(self) -> ComposeResult:
        """Yield a widget for each block."""
        yield from map(self._widget_of, self._blocks)

    async def append_text(
        self, text: str, part: StreamedPart, thought: Reasoning | None = None
    ) -> None:
        """Append streamed text to the last block if it is of that part, else begin one.

        Args:
            text: the text.
            part: what it belongs to.
            thought: of a thought, what it took so far.
        """
        new = Text(text) if part == "text" else dataclasses.replace(thought or _NO_COST, text=text)
        last = self._blocks[-1] if self._blocks else None
        if isinstance(last, Text) and isinstance(new, Text):
            self._blocks[-1] = Text(last.text + text)
            await self._newest(ReplyText).append_text(text)
        elif isinstance(last, Reasoning) and isinstance(new, Reasoning):
            self._blocks[-1] = dataclasses.replace(new, text=last.text + text)
            await self._newest(ThoughtBlock).append_text(text, new)
        elif text:
            await self.end_stream()
            self._blocks.append(new)
            await self.mount(self._widget_of(new, is_streaming=True))

    async def open_thoughts(self, is_open: bool) -> None:
        """Show or hide the text of all thoughts, and all calls of tools."""
        self._thoughts_open = is_open
        for block in self.query_children(ThoughtBlock):
            await block.set_open(is_open)
        for call in self.query_children(ToolBlock):
            await call.set_open(is_open)

    def show_tool_state(self, call_id: str, state: str) -> None:
        """Show what happens to a call that has no result yet."""
        for block in self.query_children(ToolBlock):
            if block.block.call.id == call_id:
                block.show_state(state)

    async def show_parts(
        self, parts: Iterable[Part], *, streamed: bool, live: bool = False
    ) -> None:
        """Show the parts as stored.

        Args:
            parts: all of them.
            streamed: whether text was appended since, so that it is drawn anew.
            live: whether the reply is still being written.
        """
        before, self._blocks = self._blocks, _blocks_of(parts)
        kept = 0
        for widget, old, new in zip(self.children, before, self._blocks, strict=False):
            if isinstance(widget, ReplyText) and isinstance(new, Text):
                if streamed or old != new:
                    await widget.set_text(new.text)
            elif isinstance(widget, ThoughtBlock) and isinstance(new, Reasoning):
                await widget.show_thought(new)
            elif isinstance(widget, ToolBlock) and isinstance(new, CallBlock):
                widget.show_block(new, live=live)
            elif old != new:
                break
            kept += 1
        for widget in self.children[kept:]:
            await widget.remove()
        await self.mount_all(map(self._widget_of, self._blocks[kept:]))

    async def end_stream(self) -> None:
        """Draw everything appended so far."""
        for block in self.children:
            if isinstance(block, ReplyText | ThoughtBlock):
                await block.end_stream()

    def _newest(self, kind: type[BlockT]) -> BlockT:
        return self.query_children(kind).last()

    def _widget_of(self, block: Block, is_streaming: bool = False) -> Widget:
        match block:
            case CallBlock():
                return ToolBlock(block, is_open=self._thoughts_open)
            case Reasoning():
                return ThoughtBlock(block, is_open=self._thoughts_open, is_streaming=is_streaming)
            case Text(text):
                return ReplyText(text)
            case Image():
                return ImageBlock(block)
        return PartBlock(block)


def _blocks_of(parts: Iterable[Part]) -> list[Block]:
    """Join neighbouring texts, and neighbouring thoughts; put results to their calls."""
    blocks: list[Block] = []
    calls: dict[str, int] = {}
    for part in parts:
        last = blocks[-1] if blocks else None
        if isinstance(part, ToolCall):
            calls[part.id] = len(blocks)
            blocks.append(CallBlock(part))
        elif isinstance(part, ToolResult) and part.call_id in calls:
            at = calls.pop(part.call_id)
            called = blocks[at]
            assert isinstance(called, CallBlock)  # noqa: S101 - for the type checker
            blocks[at] = CallBlock(called.call, part)
        elif isinstance(part, Text) and isinstance(last, Text):
            blocks[-1] = Text(last.text + part.text)
        elif isinstance(part, Reasoning) and isinstance(last, Reasoning):
            blocks[-1] = join_thoughts((last, part))
        elif not isinstance(part, Text | Reasoning) or part.text:
            blocks.append(part)
    return blocks


class PartBlock(Static):
    """A file, or the result of an unknown call.

    Args:
        part: the part.
    """

    DEFAULT_CSS = """
    PartBlock {
        height: auto;
        padding: 0 1;
        border-left: outer $primary 50%;

        &.-error { border-left: outer $error; }
    }
    """

    def __init__(self, part: Part) -> None:
        shown = describe_part(part)
        text = Content.assemble((shown.label, "bold"), f"  {shown.title}" if shown.title else "")
        if shown.body:
            text = Content("\n").join([text, Content.styled(shown.body, "$foreground 75%")])
        super().__init__(text, classes="-error" if shown.is_error else "")

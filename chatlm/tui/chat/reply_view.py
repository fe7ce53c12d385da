"""Widget that draws a whole reply: its text, reasoning, tool calls and other parts, in order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from chatlm.tui.chat.reply_text import ReplyText
from chatlm.tui.formatting import describe_part
from chatlm.types.messages import StreamedPart
from chatlm.types.parts import Part, Reasoning, Text


class ReplyView(Vertical):
    """The parts of a reply, streamed or complete; neighbouring texts of one kind are one block.

    Args:
        parts: the parts so far.
    """

    DEFAULT_CSS = """
    ReplyView {
        height: auto;

        & > ReplyText { margin: 0 0 1 0; }
        & > ReplyText:last-child { margin: 0; }
        & > ReasoningBlock, & > PartBlock { margin: 0 1 1 2; }
        & > ReasoningBlock:last-child, & > PartBlock:last-child { margin: 0 1 0 2; }
    }
    """

    def __init__(self, parts: Iterable[Part] = ()) -> None:
        super().__init__()
        self._blocks = _blocks_of(parts)

    def compose(self) -> ComposeResult:
        """Yield a widget for each block."""
        yield from map(_widget_of, self._blocks)

    async def append_text(self, text: str, part: StreamedPart) -> None:
        """Append streamed text to the last block if it is of that part, else begin one."""
        last = self._blocks[-1] if self._blocks else None
        if isinstance(last, _TextBlock) and last.part == part:
            self._blocks[-1] = _TextBlock(part, last.text + text)
            await _text_of(self.children[-1]).append_text(text)
        elif text:
            for reply_text in self.query(ReplyText):
                await reply_text.end_stream()
            self._blocks.append(_TextBlock(part, text))
            await self.mount(_widget_of(self._blocks[-1]))

    async def show_parts(self, parts: Iterable[Part], *, streamed: bool) -> None:
        """Show the parts as stored.

        Args:
            parts: all of them.
            streamed: whether text was appended since, so that it is drawn anew.
        """
        before, self._blocks = self._blocks, _blocks_of(parts)
        kept = 0
        for widget, old, new in zip(self.children, before, self._blocks, strict=False):
            if isinstance(old, _TextBlock) and isinstance(new, _TextBlock) and old.part == new.part:
                if streamed or old.text != new.text:
                    await _text_of(widget).set_text(new.text)
            elif old != new:
                break
            kept += 1
        for widget in self.children[kept:]:
            await widget.remove()
        await self.mount_all(map(_widget_of, self._blocks[kept:]))

    async def end_stream(self) -> None:
        """Draw everything appended so far."""
        for reply_text in self.query(ReplyText):
            await reply_text.end_stream()


@dataclass(frozen=True)
class _TextBlock:
    """Text that may grow."""

    part: StreamedPart
    text: str


@dataclass(frozen=True)
class _PartBlock:
    """A part that arrives whole."""

    part: Part


_Block = _TextBlock | _PartBlock


def _blocks_of(parts: Iterable[Part]) -> list[_Block]:
    blocks: list[_Block] = []
    for part in parts:
        if not isinstance(part, Text | Reasoning):
            blocks.append(_PartBlock(part))
            continue
        kind: StreamedPart = "reasoning" if isinstance(part, Reasoning) else "text"
        last = blocks[-1] if blocks else None
        if isinstance(last, _TextBlock) and last.part == kind:
            blocks[-1] = _TextBlock(kind, last.text + part.text)
        elif part.text:
            blocks.append(_TextBlock(kind, part.text))
    return blocks


def _widget_of(block: _Block) -> Widget:
    match block:
        case _TextBlock("reasoning", text):
            return ReasoningBlock(text)
        case _TextBlock(_, text):
            return ReplyText(text)
        case _PartBlock(part):
            return PartBlock(part)


def _text_of(widget: Widget) -> ReplyText:
    """Return the text that grows in a block's widget."""
    return widget if isinstance(widget, ReplyText) else widget.query_one(ReplyText)


class ReasoningBlock(Vertical):
    """Reasoning, marked and dimmed.

    Args:
        text: the reasoning so far.
    """

    DEFAULT_CSS = """
    ReasoningBlock {
        height: auto;
        border-left: outer $foreground 30%;
        opacity: 65%;

        & > .label { height: 1; padding: 0 1; text-style: bold; }
        & > ReplyText { padding: 0 1; }
    }
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = ReplyText(text)

    def compose(self) -> ComposeResult:
        """Yield the label and the text."""
        yield Static("Reasoning", classes="label")
        yield self._text


class PartBlock(Static):
    """A tool call, a tool's result, an image or a file.

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

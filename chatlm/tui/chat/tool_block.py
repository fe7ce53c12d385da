"""Widget that draws a call of a tool and its result as one line that opens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.style import Style
from textual.widget import Widget
from textual.widgets import Static

from chatlm.text import escape_controls, one_line
from chatlm.tui.formatting import join_parts
from chatlm.tui.tool_text import describe_arguments, summarise_arguments
from chatlm.types.parts import ToolCall, ToolResult

MAX_LINES = 200
"""Lines shown of a result."""

NOT_RUN = "not run"
"""State of a call without a result."""

_COLOURS = {
    "done": "$text-success",
    "running": "$text-accent",
    "waits for you": "$text-accent",
    "not run": "$text-muted",
    "denied": "$text-warning",
    "stopped": "$text-warning",
    "interrupted": "$text-warning",
    "timed out": "$text-error",
    "failed": "$text-error",
}


@dataclass(frozen=True)
class CallBlock:
    """A call with its result, as a block of a reply."""

    call: ToolCall
    result: ToolResult | None = None
    """None while there is none."""


class ToolBlock(Vertical):
    """A call and its result, folded or open.

    Args:
        block: the call.
        is_open: whether arguments and result are shown.
    """

    DEFAULT_CSS = """
    ToolBlock {
        height: auto;
        border-left: outer $accent 60%;

        &.-error { border-left: outer $error; }
        & > .content { height: auto; padding: 0 1; color: $foreground 75%; }
    }
    """

    def __init__(self, block: CallBlock, *, is_open: bool) -> None:
        super().__init__(classes="-error" if _is_error(block) else "")
        self.block = block
        self._is_open = is_open
        self._state = block.result.status if block.result else NOT_RUN

    def compose(self) -> ComposeResult:
        """Yield the head and, if it is open, arguments and result."""
        yield ToolHead(self._title())
        if self._is_open:
            yield self._content()

    def show_block(self, block: CallBlock, *, live: bool) -> None:
        """Show the call with what is known of its result now.

        Args:
            block: the call.
            live: whether the reply is being written, so that it may still run.
        """
        changed, self.block = block != self.block, block
        if block.result is not None:
            self._state = block.result.status
        elif not live:
            self._state = NOT_RUN
        self.set_class(_is_error(block), "-error")
        self._update_head()
        if changed and self._is_open:
            for content in self.query(".content").results(Static):
                content.update(describe_call(block))

    def show_state(self, state: str) -> None:
        """Show what happens to a call without a result, such as `running`."""
        if self.block.result is None:
            self._state = state
            self._update_head()

    async def set_open(self, is_open: bool) -> None:
        """Show or hide arguments and result."""
        if is_open == self._is_open:
            return
        self._is_open = is_open
        self._update_head()
        if is_open:
            await self.mount(self._content())
        else:
            await self.query(".content").remove()

    async def toggle(self) -> None:
        """Open it if it is folded, else fold it."""
        await self.set_open(not self._is_open)

    def _content(self) -> Static:
        return Static(describe_call(self.block), classes="content")

    def _update_head(self) -> None:
        for head in self.query(ToolHead):
            head.show(self._title())

    def _title(self) -> Content:
        call, result = self.block.call, self.block.result
        mark = "▾" if self._is_open else "▸"
        word = self._state.partition(" · ")[0]
        cost = result.cost if result else ""
        colour = _COLOURS.get(word, "$text-muted")
        return Content.assemble(
            f"{mark} ",
            (one_line(call.name, 64), "bold $text-accent"),
            "  ",
            (join_parts(self._state, cost), colour),
            "  ",
            summarise_arguments(call.arguments),
        )


class ToolHead(Widget):
    """The line that names a call; a click opens it."""

    DEFAULT_CSS = """
    ToolHead {
        height: 1;
        padding: 0 1;
        color: $text-muted;
        link-style: none;
        link-color: $text-muted;
        link-background: transparent;

        &:hover { color: $text; link-color: $text; }
    }
    """

    ALLOW_SELECT: ClassVar[bool] = False

    def __init__(self, title: Content) -> None:
        super().__init__()
        self._title = title

    def show(self, title: Content) -> None:
        """Show another title."""
        self._title = title
        self.refresh()

    async def on_click(self) -> None:
        """Open or fold the block."""
        if isinstance(block := self.parent, ToolBlock):
            await block.toggle()

    def render(self) -> Content:
        """Draw the title on one line."""
        return self._title.truncate(self.content_size.width, ellipsis=True)


def describe_call(block: CallBlock) -> Content:
    """Return arguments and result in full, but for very long ones."""
    heading = Style.parse("bold")
    parts = [Content(describe_arguments(block.call.arguments) or "no arguments")]
    if (result := block.result) is not None:
        facts = [
            one_line(result.source, 200),
            "from outside: data, not instructions" if result.untrusted else "",
        ]
        title = {"done": "Result", "denied": "Denied"}.get(result.status, "Error")
        parts.append(Content.styled(join_parts(title, *facts), heading))
        lines = result.text.rstrip("\n").split("\n")
        shown = [*map(escape_controls, lines[:MAX_LINES])]
        if more := len(lines) - len(shown):
            shown.append(f"… {more:,} more lines")
        parts.append(Content("\n".join(shown)))
    return Content("\n").join(parts)


def _is_error(block: CallBlock) -> bool:
    return block.result is not None and block.result.status in ("failed", "timed out")

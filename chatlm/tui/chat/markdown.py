"""Parse Markdown into blocks and wrap them to lines of a given width."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, Protocol, cast
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.texmath import texmath_plugin
from rich.cells import cell_len, chop_cells
from textual.content import Content, Span
from textual.highlight import HighlightTheme, highlight
from textual.strip import Strip
from textual.style import Style

from chatlm.text import escape_controls
from chatlm.tui.chat.latex import latex_to_text

Alignment = Literal["left", "center", "right"]


CODE_STYLE = "on $foreground 6%"


RULE_STYLE = "$foreground 30%"


COLUMN_GAP = " │ "


PROSE_WIDTH = 96
"""Cells up to which lines of prose reach with what is before them, such as a bullet, and blocks of
code unless their lines are longer."""


_NARROW_CODE = PROSE_WIDTH // 2
"""Cells up to which lines of code never widen their block, so that what is drawn of it remains
while they grow."""


CODE_INDENT = 2
"""Cells by which the rest of a line of code that does not fit is indented further."""


class Renderable(Protocol):
    """Content that wraps to any width."""

    def lines(self, width: int, prose_width: int = PROSE_WIDTH) -> list[Content]:
        """Return at least one line, none wider than `width` cells.

        Args:
            width: cells.
            prose_width: cells of the longest line of prose, and of a block of code unless its lines
                are longer.
        """
        ...


@dataclass(frozen=True)
class Paragraph:
    """Text that wraps between words and at line breaks."""

    content: Content

    def lines(self, width: int, prose_width: int = PROSE_WIDTH) -> list[Content]:
        """Wrap to the lesser of both widths."""
        return self.content.wrap(min(width, prose_width))


@dataclass(frozen=True)
class CodeLine:
    """A line of code, wrapped between words where it can be, with a hanging indent."""

    content: Content
    longest: int = 0
    """Cells of the longest line of its whole block; 0 up to `_NARROW_CODE`."""

    def lines(self, width: int, prose_width: int = PROSE_WIDTH) -> list[Content]:
        """Wrap to `width` cells, padded so that the background is a block."""
        inner = _code_width(width, prose_width, self.longest)
        return [
            line.pad(1, inner - line.cell_length + 1).stylize_before(CODE_STYLE)
            for line in self._wrap(inner)
        ]

    def _wrap(self, width: int) -> list[Content]:
        code = self.content.plain
        if cell_len(code) <= width:
            return [self.content]
        indent = len(code) - len(code.lstrip(" ")) + CODE_INDENT
        lead = " " * (indent if indent < width // 2 else 0)
        ends = _line_ends(code, width, width - len(lead))
        first, *others = self.content.divide(ends)
        return [first, *(Content(lead) + line for line in others)]


def _code_width(width: int, prose_width: int, longest: int) -> int:
    """Return the cells inside a block of code, which has a blank at either side.

    Args:
        width: cells there are.
        prose_width: see `Renderable.lines`.
        longest: cells of its longest line.
    """
    return max(min(width, max(prose_width, longest + 2)) - 2, 2)


def _line_ends(code: str, first: int, others: int) -> list[int]:
    """Return where a line is divided: behind the last blank that fits, else at any character.

    Args:
        code: the line.
        first: the cells of the first part.
        others: the cells of each other part.
    """
    ends: list[int] = []
    at, room = 0, first
    while part := chop_cells(code[at : at + 2 * room], room)[:1]:
        end = at + len(part[0])
        if end >= len(code):
            break
        blank = code.rfind(" ", at, end) + 1
        end = blank if code[at:blank].strip() else end
        ends.append(end)
        at, room = end, others
    return ends


@dataclass(frozen=True)
class CodeHead:
    """The line above a block of code: its language, and a button that copies it."""

    language: str
    longest: int = 0
    """See `CodeLine`."""

    def lines(self, width: int, prose_width: int = PROSE_WIDTH) -> list[Content]:
        """Wrap to `width` cells."""
        button = COPY_BUTTON
        inner = _code_width(width, prose_width, self.longest)
        room = max(inner - button.cell_length - 1, 0)
        language = Content.styled(self.language, "$foreground 70%").truncate(room, ellipsis=True)
        gap = " " * max(inner - language.cell_length - button.cell_length, 0)
        line = Content.assemble(language, gap, button).truncate(inner)
        return [line.pad(1, 1).stylize_before(CODE_STYLE)]


COPY_BUTTON = Content.styled("copy", Style.from_meta({"@click": "copy_code"})).stylize_before(
    "$foreground 70%"
)


@dataclass(frozen=True)
class HorizontalRule:
    """A horizontal rule."""

    def lines(self, width: int, prose_width: int = PROSE_WIDTH) -> list[Content]:
        """Wrap to `width` cells."""
        return [Content.styled("─" * width, RULE_STYLE)]


@dataclass(frozen=True)
class Table:
    """A table; if it is too wide, its widest columns shrink and wrap."""

    head: Sequence[Content]
    rows: Sequence[Sequence[Content]]
    alignments: Sequence[Alignment]

    def lines(self, width: int, prose_width: int = PROSE_WIDTH) -> list[Content]:
        """Wrap to `width` cells."""
        widths = self._column_widths(width)
        gap = Content.styled(COLUMN_GAP, RULE_STYLE)
        rule = Content.styled("─┼─".join("─" * each for each in widths), RULE_STYLE)
        head = self._row_lines([cell.stylize("bold") for cell in self.head], widths, gap)
        rows = [self._row_lines(row, widths, gap) for row in self.rows]
        between = [rule] if any(len(row) > 1 for row in rows) else []
        lines = [*head, rule]
        for number, row in enumerate(rows):
            lines += [*between, *row] if number else row
        return [line.truncate(width) for line in lines]

    def _row_lines(
        self, cells: Sequence[Content], widths: Sequence[int], gap: Content
    ) -> list[Content]:
        wrapped = [cell.wrap(width) for cell, width in zip(cells, widths, strict=True)]
        height = max(len(cell) for cell in wrapped)
        return [
            gap.join(
                _align(cell[at] if at < len(cell) else Content(), width, alignment)
                for cell, width, alignment in zip(wrapped, widths, self.alignments, strict=True)
            )
            for at in range(height)
        ]

    def _column_widths(self, width: int) -> list[int]:
        columns = zip(self.head, *self.rows, strict=True)
        wanted = [
            max(1, *(cell_len(line) for cell in column for line in cell.plain.split("\n")))
            for column in columns
        ]
        room = max(width - len(COLUMN_GAP) * (len(wanted) - 1), len(wanted))
        limit = _max_column_width(wanted, room)
        return [min(each, limit) for each in wanted]


@dataclass
class RenderedLine:
    """One line on the screen."""

    content: Content
    strip: Strip | None = None
    """The line rendered in the current theme, once it was drawn."""


@dataclass
class Fragment:
    """A body after a marker such as a bullet, with a hanging indent."""

    renderable: Renderable
    prefix: Content = field(default_factory=Content)
    continuation_prefix: Content = field(default_factory=Content)
    """As wide as the lead."""
    _width: int = 0
    _lines: list[RenderedLine] = field(default_factory=list)

    def lines(self, width: int) -> list[RenderedLine]:
        """Return the lines at a width; the same objects while the width stays the same."""
        if width != self._width:
            lead = self.prefix.cell_length
            prose_width = max(PROSE_WIDTH - lead, 1)
            first, *others = self.renderable.lines(max(width - lead, 1), prose_width)
            contents = [self.prefix + first, *(self.continuation_prefix + line for line in others)]
            self._width, self._lines = width, [RenderedLine(content) for content in contents]
        return self._lines

    def with_prefix(self, prefix: Content, continuation_prefix: Content) -> Fragment:
        """The same behind one more lead."""
        return Fragment(
            self.renderable, prefix + self.prefix, continuation_prefix + self.continuation_prefix
        )


def blank_line() -> Fragment:
    """An empty line."""
    return Fragment(Paragraph(Content()))


def _align(line: Content, width: int, alignment: Alignment) -> Content:
    free = max(width - line.cell_length, 0)
    left = {"left": 0, "center": free // 2, "right": free}[alignment]
    return line.pad(left, free - left)


def _max_column_width(widths: Sequence[int], available: int) -> int:
    """Return the largest column width at which all columns fit into `available` cells."""
    limit = available
    for count, each in enumerate(sorted(widths)):
        limit = available // (len(widths) - count)
        if each > limit:
            break
        available -= each
    else:
        limit = max(widths)
    return max(limit, 1)


BULLETS = ("• ", "◦ ", "▪ ")
"""Bullets by nesting depth."""


BOXES = {"[ ] ": "☐ ", "[x] ": "☑ "}
"""What is drawn in place of the bullet of a task."""


STYLES = {
    "strong": "bold",
    "em": "italic",
    "s": "strike",
    "code_inline": "$text-warning on $warning 10%",
    "heading": "bold $text-primary",
    "quote": "$text-primary 50%",
    "bullet": "$text-primary",
    "math": "italic",
}


HIGHLIGHT_TIME_SHARE = 0.05
"""Share of the streaming time that highlighting may take."""


class CodeTheme(HighlightTheme):
    """Textual's colours, without underlined names: those look like links."""


CodeTheme.STYLES = {
    token: style.replace("underline", "bold") for token, style in HighlightTheme.STYLES.items()
}


@dataclass
class Block:
    """A paragraph, a heading, a table, …, or one item of a list."""

    start_line: int
    """Zero-based first line in the source."""
    fragments: Sequence[Fragment]
    tight: bool = False
    """Whether no blank line precedes it."""
    item_number: int | None = None
    """Number of an ordered list item."""


class StreamingMarkdown:
    """A Markdown text with escaped control characters, parsed incrementally.

    What comes later can change how a finished block reads, as a link's address far below does, so
    that a text that has ended should be read as a whole once more.
    """

    def __init__(self, text: str = "") -> None:
        self.blocks: list[Block] = []
        self._tail = ""
        self._highlighter = _CodeHighlighter()
        self.append(text)

    def append(self, text: str) -> int:
        """Append text.

        Returns:
            Index of the first new or changed block.
        """
        self._tail += text
        last = self.blocks.pop() if self.blocks else Block(0, ())
        changed = len(self.blocks)
        blocks = list(_BlockParser(self._tail, self._highlighter).blocks(last.item_number))
        if not blocks:
            return changed
        blocks[0].tight = last.tight
        self.blocks += blocks
        self._tail = "\n".join(self._tail.split("\n")[blocks[-1].start_line :])
        return changed


class _BlockParser:
    """Converts nested Markdown tokens into blocks."""

    def __init__(self, text: str, highlighter: _CodeHighlighter) -> None:
        self._tokens = markdown_parser().parse(text)
        self._highlighter = highlighter

    def blocks(self, number: int | None) -> Iterator[Block]:
        """All blocks; `number` is of the first, if that is an item of a numbered list."""
        for start, end in self._siblings(0, len(self._tokens)):
            token = self._tokens[start]
            line = token.map[0] if token.map else 0
            if token.type not in ("bullet_list_open", "ordered_list_open"):
                yield Block(line, self._token_fragments(start, end, 0))
                continue
            for at, (first, last) in enumerate(self._siblings(start + 1, end - 1)):
                item = self._tokens[first]
                line = item.map[0] if item.map else line
                count = self._item_number(token, at, number if start == 0 else None)
                pieces = self._list_item(first, last, count, 0)
                yield Block(line, pieces, tight=at > 0, item_number=count)

    def _siblings(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Start and end, exclusive, of each token from `start` to `end` with what it encloses."""
        at = start
        while at < end:
            first, depth = at, int(self._tokens[at].nesting)
            at += 1
            while depth > 0:
                depth += self._tokens[at].nesting
                at += 1
            yield first, at

    def _fragments_between(self, start: int, end: int, depth: int) -> list[Fragment]:
        """Join blocks, with blank lines between those that are not tight lists."""
        pieces: list[Fragment] = []
        for first, last in self._siblings(start, end):
            if pieces and not self._tokens[first].type.endswith("list_open"):
                pieces.append(blank_line())
            pieces += self._token_fragments(first, last, depth)
        return pieces

    def _token_fragments(self, start: int, end: int, depth: int) -> list[Fragment]:
        token = self._tokens[start]
        match token.type:
            case "paragraph_open":
                return [Fragment(Paragraph(_inline(self._tokens[start + 1])))]
            case "heading_open":
                words = _inline(self._tokens[start + 1]).stylize_before(STYLES["heading"])
                return [Fragment(Paragraph(words))]
            case "bullet_list_open" | "ordered_list_open":
                items = enumerate(self._siblings(start + 1, end - 1))
                return [
                    piece
                    for at, (first, last) in items
                    for piece in self._list_item(first, last, self._item_number(token, at), depth)
                ]
            case "blockquote_open":
                bar = Content.styled("▌ ", STYLES["quote"])
                inside = self._fragments_between(start + 1, end - 1, depth) or [blank_line()]
                return [piece.with_prefix(bar, bar) for piece in inside]
            case "fence" | "code_block" if not token.content.strip():
                return [Fragment(Paragraph(Content(f"{token.markup}{token.info}")))]
            case "fence" | "code_block":
                language = token.info.split()[0] if token.info.strip() else ""
                last = all(token.nesting < 0 for token in self._tokens[end:])
                return self._highlighter.fragments(token.content, language, last)
            case "table_open":
                return [Fragment(self._table(start, end))]
            case "hr":
                return [Fragment(HorizontalRule())]
            case "math_block" | "math_block_eqno":
                return [Fragment(Paragraph(_formula(token)), Content("  "), Content("  "))]
            case _:
                return [Fragment(Paragraph(Content(token.content)))]

    def _list_item(self, start: int, end: int, number: int | None, depth: int) -> list[Fragment]:
        lead = BULLETS[depth % len(BULLETS)] if number is None else f"{number}.".rjust(3) + " "
        if number is None and (box := self._take_box(start)):
            lead = box
        indent = Content(" " * len(lead))
        inside = self._fragments_between(start + 1, end - 1, depth + 1) or [blank_line()]
        first = inside[0].with_prefix(Content.styled(lead, STYLES["bullet"]), indent)
        return [first, *(piece.with_prefix(indent, indent) for piece in inside[1:])]

    def _take_box(self, start: int) -> str:
        """Take `[x]` from the beginning of a list item; return the box to draw, or nothing."""
        inline = self._tokens[start + 2] if start + 2 < len(self._tokens) else None
        if inline is None or inline.type != "inline" or not inline.children:
            return ""
        first = inline.children[0]
        box = BOXES.get(first.content[:4].lower(), "")
        if box:
            first.content = first.content[4:]
        return box

    def _item_number(self, token: Token, index: int, first: int | None = None) -> int | None:
        if token.type != "ordered_list_open":
            return None
        start = int(token.attrGet("start") or 0) if "start" in token.attrs else 1
        return (start if first is None else first) + index

    def _table(self, start: int, end: int) -> Table:
        rows: list[list[Content]] = []
        alignments: list[Alignment] = []
        for at in range(start, end):
            token = self._tokens[at]
            if token.type == "tr_open":
                rows.append([])
            elif token.type in ("th_open", "td_open"):
                rows[-1].append(_inline(self._tokens[at + 1]))
            if token.type == "th_open":
                style = str(token.attrGet("style") or "text-align:left")
                alignments.append(cast(Alignment, style.removeprefix("text-align:")))
        return Table(rows[0], rows[1:], alignments)


class _CodeHighlighter:
    """Highlights code; in long streaming code the newest lines follow a little later."""

    def __init__(self) -> None:
        self._language = ""
        self._lines: list[str] = []
        self._head: Fragment | None = None
        self._fragments: list[Fragment] = []
        self._highlighted: list[Content] = []
        self._next_highlight_at = 0.0

    def fragments(self, code: str, language: str, may_grow: bool) -> list[Fragment]:
        """The head, then one piece a line; those that look as before are the same objects.

        Args:
            code: the lines.
            language: from the fence, or empty.
            may_grow: whether the code is still streaming.
        """
        lines = code.rstrip().expandtabs(4).split("\n")
        known = self._highlighted[: max(len(self._lines) - 1, 0)]
        goes_on = language == self._language and self._lines[: len(known)] == lines[: len(known)]
        started = time.perf_counter()
        if may_grow and goes_on and started < self._next_highlight_at:
            contents = known + [Content.styled(line, "$text") for line in lines[len(known) :]]
        else:
            text = highlight("\n".join(lines), language=language or "text", theme=CodeTheme)
            contents = self._highlighted = text.split("\n", allow_blank=True)
            self._language, self._lines = language, lines
            ended = time.perf_counter()
            self._next_highlight_at = ended + (ended - started) / HIGHLIGHT_TIME_SHARE
        longest = max(map(cell_len, lines))
        longest = longest if longest > _NARROW_CODE else 0
        head = CodeHead(language, longest)
        if self._head is None or not goes_on or self._head.renderable != head:
            self._head = Fragment(head)
        before = self._fragments if goes_on else []
        self._fragments = [
            before[at]
            if at < len(before) and _shows_code(before[at], content, longest)
            else Fragment(CodeLine(content, longest))
            for at, content in enumerate(contents)
        ]
        return [self._head, *self._fragments]


def _shows_code(fragment: Fragment, content: Content, longest: int) -> bool:
    shown = fragment.renderable
    return (
        isinstance(shown, CodeLine) and shown.longest == longest and shown.content.is_same(content)
    )


def _inline(token: Token) -> Content:
    """The words of a paragraph, a heading or a cell."""
    text: list[str] = []
    spans: list[Span] = []
    opened: list[tuple[int, Style | str]] = []
    at = 0
    for child in token.children or ():
        piece = "\n" if child.type == "hardbreak" else child.content
        if child.type.startswith("math_"):
            formula = _formula(child)
            piece = formula.plain
            spans += [Span(at + span.start, at + span.end, span.style) for span in formula.spans]
        text.append(piece)
        if child.nesting > 0:
            opened.append((at, _style(child)))
        elif child.nesting < 0:
            start, style = opened.pop()
            spans.append(Span(start, at, style))
        elif child.type == "code_inline":
            spans.append(Span(at, at + len(piece), STYLES["code_inline"]))
        at += len(piece)
    return Content("".join(text), spans)


def _formula(token: Token) -> Content:
    """Return a formula as text, or as it was written where it has no text."""
    text = latex_to_text(token.content)
    if text is not None:
        return Content.styled(escape_controls(text), STYLES["math"])
    opening = token.markup
    closing = {"\\(": "\\)", "\\[": "\\]"}.get(opening, opening)
    return Content.styled(f"{opening}{token.content}{closing}", STYLES["code_inline"])


def _style(token: Token) -> Style | str:
    if token.type == "link_open":
        return Style.from_meta({"@click": f"link({str(token.attrGet('href') or '')!r})"})
    return STYLES.get(token.type.removesuffix("_open"), "")


@cache
def markdown_parser() -> MarkdownIt:
    """Markdown parser for replies."""
    markdown = MarkdownIt("gfm-like", {"html": False}).disable("image")
    dollarmath_plugin(markdown, allow_labels=False, allow_space=False, allow_digits=False)
    texmath_plugin(markdown, delimiters="brackets")
    markdown.core.ruler.push("keep_line_ends", _keep_line_breaks)
    markdown.core.ruler.push("keep_visible", _sanitise_entities)
    markdown.validateLink = is_web_address  # type: ignore[method-assign]  # markdown-it's own way
    return markdown


def code_blocks(text: str) -> list[str]:
    """Return the code blocks that are drawn of a reply, without fences, indentation and final
    newline."""
    codes = [
        token.content
        for token in markdown_parser().parse(text)
        if token.type in ("fence", "code_block")
    ]
    return [code.rstrip("\n") for code in codes if escape_controls(code).strip()]


def is_web_address(url: str) -> bool:
    """Whether the link leads to the web: http or https, with a host."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _keep_line_breaks(state: StateCore) -> None:
    """Keep single newlines: models use them in verse and addresses."""
    for token in state.tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"


def _sanitise_entities(state: StateCore) -> None:
    """Escape control characters that entities such as `&#x202e;` bring back."""
    for token in state.tokens:
        for child in token.children or ():
            child.content = escape_controls(child.content)

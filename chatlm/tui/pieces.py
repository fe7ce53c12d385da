"""What a text is drawn as: pieces that break into lines of a given width; they know no widget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal, Protocol

from rich.cells import cell_len, chop_cells
from textual.content import Content
from textual.strip import Strip

Alignment = Literal["left", "center", "right"]

CODE_STYLE = "on $foreground 6%"
RULE_STYLE = "$foreground 30%"
COLUMN_GAP = " │ "


class Body(Protocol):
    """Something that can be drawn at any width."""

    def lines(self, width: int) -> list[Content]:
        """The lines, none wider than `width` cells; at least one."""
        ...


@dataclass(frozen=True)
class Words:
    """Text that breaks between words, and where it says so."""

    content: Content

    def lines(self, width: int) -> list[Content]:
        """See `Body`."""
        return self.content.wrap(width)


@dataclass(frozen=True)
class CodeLine:
    """One line of code; it breaks where the width ends, so that nothing is hidden."""

    content: Content

    def lines(self, width: int) -> list[Content]:
        """See `Body`; the lines are filled to `width`, which makes them one block of colour."""
        inner = max(width - 2, 2)
        ends = accumulate(len(part) for part in chop_cells(self.content.plain, inner))
        return [
            line.pad(1, inner - line.cell_length + 1).stylize_before(CODE_STYLE)
            for line in self.content.divide(list(ends)[:-1])
        ]


@dataclass(frozen=True)
class Rule:
    """A line across."""

    def lines(self, width: int) -> list[Content]:
        """See `Body`."""
        return [Content.styled("─" * width, RULE_STYLE)]


@dataclass(frozen=True)
class Grid:
    """A table; where it is too wide, the widest columns give way and their words wrap."""

    head: Sequence[Content]
    rows: Sequence[Sequence[Content]]
    alignments: Sequence[Alignment]

    def lines(self, width: int) -> list[Content]:
        """See `Body`."""
        widths = self._widths(width)
        gap = Content.styled(COLUMN_GAP, RULE_STYLE)
        rule = Content.styled("─┼─".join("─" * each for each in widths), RULE_STYLE)
        head = self._row([cell.stylize("bold") for cell in self.head], widths, gap)
        rows = [self._row(row, widths, gap) for row in self.rows]
        between = [rule] if any(len(row) > 1 for row in rows) else []
        lines = [*head, rule]
        for number, row in enumerate(rows):
            lines += [*between, *row] if number else row
        return [line.truncate(width) for line in lines]

    def _row(self, cells: Sequence[Content], widths: Sequence[int], gap: Content) -> list[Content]:
        wrapped = [cell.wrap(width) for cell, width in zip(cells, widths, strict=True)]
        height = max(len(cell) for cell in wrapped)
        return [
            gap.join(
                _aligned(cell[at] if at < len(cell) else Content(), width, alignment)
                for cell, width, alignment in zip(wrapped, widths, self.alignments, strict=True)
            )
            for at in range(height)
        ]

    def _widths(self, width: int) -> list[int]:
        columns = zip(self.head, *self.rows, strict=True)
        wanted = [
            max(1, *(cell_len(line) for cell in column for line in cell.plain.split("\n")))
            for column in columns
        ]
        room = max(width - len(COLUMN_GAP) * (len(wanted) - 1), len(wanted))
        limit = _limit(wanted, room)
        return [min(each, limit) for each in wanted]


@dataclass
class Line:
    """One line on the screen."""

    content: Content
    strip: Strip | None = None
    """The content in the colours of now, once it was drawn."""


@dataclass
class Piece:
    """A body behind a lead, such as a bullet, which the lines after the first are indented by."""

    body: Body
    lead: Content = field(default_factory=Content)
    rest: Content = field(default_factory=Content)
    """As wide as the lead."""
    _width: int = 0
    _lines: list[Line] = field(default_factory=list)

    def lines(self, width: int) -> list[Line]:
        """The lines at a width; the same objects as long as the width is the same."""
        if width != self._width:
            inner = max(width - self.lead.cell_length, 1)
            first, *others = self.body.lines(inner)
            contents = [self.lead + first, *(self.rest + line for line in others)]
            self._width, self._lines = width, [Line(content) for content in contents]
        return self._lines

    def indented(self, lead: Content, rest: Content) -> Piece:
        """The same behind one more lead."""
        return Piece(self.body, lead + self.lead, rest + self.rest)


def blank() -> Piece:
    """An empty line."""
    return Piece(Words(Content()))


def _aligned(line: Content, width: int, alignment: Alignment) -> Content:
    free = max(width - line.cell_length, 0)
    left = {"left": 0, "center": free // 2, "right": free}[alignment]
    return line.pad(left, free - left)


def _limit(wanted: Sequence[int], room: int) -> int:
    """The greatest width that columns may have for all to fit into `room` cells."""
    limit = room
    for count, each in enumerate(sorted(wanted)):
        limit = room // (len(wanted) - count)
        if each > limit:
            break
        room -= each
    else:
        limit = max(wanted)
    return max(limit, 1)

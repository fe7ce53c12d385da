"""The last line: the model, how full its context is, how fast it writes, how it ended."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from chatlm.messages import Turn
from chatlm.text import one_line
from chatlm.tui import labels
from chatlm.tui.loading import EngineState, Failed, Loading, Ready


@dataclass(frozen=True)
class Status:
    """What the newest turn of the chat has to say; empty texts and None are left out."""

    used: int | None = None
    """Tokens of the context that the newest turn took; the ruler shows them."""
    speed: str = ""
    reason: str = ""
    """Why the last reply stopped, or what it is doing."""

    @classmethod
    def after(cls, turn: Turn, used: int | None = None) -> Status:
        """When nothing works on the turn."""
        if turn.reply is None:
            return cls(used)
        return cls(used, labels.speed(turn.reply.usage), labels.STOP_LABELS[turn.reply.stop_reason])


class StatusBar(Widget):
    """One line; the least important parts go first when it is narrow."""

    DEFAULT_CSS = """
    StatusBar {
        height: 1;
        padding: 0 1;
        background: $foreground 8%;
        color: $text-muted;
    }
    """

    status: reactive[Status] = reactive(Status())
    engine: reactive[EngineState] = reactive[EngineState](Loading(""))

    words: reactive[tuple[str, ...]] = reactive(())
    """What plugins say beside the model's name."""

    hint: reactive[Content | None] = reactive[Content | None](None)
    """Keys of what is selected, shown in place of all else."""

    def render(self) -> Content:
        """The line, exactly as wide as the bar."""
        if self.hint is not None:
            return self.hint.truncate(self.content_size.width, ellipsis=True)
        return Content(status_line(self.engine, self.status, self.content_size.width, self.words))


def status_line(
    engine: EngineState, status: Status, width: int, words: tuple[str, ...] = ()
) -> str:
    """The bar's text in `width` cells: model at the left, numbers at the right."""
    left, right = _parts(engine, status, words)
    while len(left) + len(right) > 1 and _width(left) + _width(right) + 2 > width:
        least = max([*left, *right])
        (left if least in left else right).remove(least)
    start, end = (" · ".join(text for _, text in side) for side in (left, right))
    return set_cell_size(set_cell_size(start, max(width - cell_len(end), 0)) + end, width)


def _parts(
    engine: EngineState, status: Status, words: tuple[str, ...]
) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """`(rank, text)` of both sides; rank 0 is dropped last."""
    left = [(0, one_line(engine.model, 60))]
    left += [(1, one_line(word, 30)) for word in words]
    match engine:
        case Ready(info):
            left.append((3, f"{info.device} {info.dtype}"))
        case Loading():
            left.append((1, "loading"))
        case Failed():
            left.append((1, "not loaded"))
    right = [(2, status.speed), (1, status.reason)]
    return left, [part for part in right if part[1]]


def _width(parts: list[tuple[int, str]]) -> int:
    return cell_len(" · ".join(text for _, text in parts))

"""The status bar and the engine banner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget
from textual.widgets import Static

from chatlm.text import escape_controls, one_line
from chatlm.tui import commands, formatting
from chatlm.tui.engine_loader import EngineState, Failed, Loading, Ready
from chatlm.tui.widgets.hints import HINT_GAP, PlainLinks
from chatlm.types.conversations import Turn


@dataclass(frozen=True)
class Status:
    """Status of the newest turn; empty texts and None are not shown."""

    used_tokens: int | None = None
    """Context tokens after the newest turn, for the gauge."""
    speed: str = ""
    reason: str = ""
    """Stop reason or current activity of the last reply."""

    @classmethod
    def for_turn(cls, turn: Turn, used_tokens: int | None = None) -> Status:
        """Return the status of a turn that is not running."""
        if turn.reply is None:
            return cls(used_tokens)
        return cls(
            used_tokens,
            formatting.speed(turn.reply.usage),
            formatting.stop_text(turn.reply),
        )


class StatusBar(PlainLinks, Widget):
    """The last line: keys that act now on the left, the state of things on the right.

    When it is narrow, the least important parts are dropped first.
    """

    DEFAULT_CSS = """
    StatusBar {
        height: 1;
        padding: 0 1;
        background: $panel;
        color: $text-muted;
    }
    """

    status: reactive[Status] = reactive(Status())
    engine_state: reactive[EngineState] = reactive[EngineState](Loading(""))

    plugin_statuses: reactive[tuple[str, ...]] = reactive(())
    """Status texts of plugins."""

    thinking: reactive[str] = reactive("auto")
    """How much the model shall think in the open chat."""

    tools: reactive[str] = reactive("")
    """The tools of the open chat, and what describing them costs; empty where they are off."""

    hints: reactive[tuple[Content, ...]] = reactive[tuple[Content, ...]](())
    """The keys that act now, the most important first."""

    hanging: reactive[Content] = reactive(Content())
    """What chatlm waits for, shown instead of everything else."""

    def render(self) -> Content:
        """Render the line at the full width."""
        width = self.content_size.width
        if self.hanging:
            return self.hanging.truncate(width, ellipsis=True)
        states = state_parts(
            self.engine_state, self.status, self.plugin_statuses, self.thinking, self.tools
        )
        return footer_line(self.hints, states, width)


State = tuple[int, str]
"""Rank and text of a part of the footer; the highest rank is dropped first."""


def state_parts(
    engine_state: EngineState,
    status: Status,
    plugin_statuses: tuple[str, ...] = (),
    thinking: str = "auto",
    tools: str = "",
) -> list[State]:
    """Return what the footer says about the model and the newest turn."""
    parts = [(2, one_line(word, 30)) for word in plugin_statuses]
    can_think = not isinstance(engine_state, Ready) or engine_state.info.thinks is not False
    if thinking != "auto" and can_think:
        parts.append((2, f"thinking {thinking}"))
    parts.append((3, tools))
    parts += [(5, status.speed), (1, status.reason)]
    if isinstance(engine_state, Ready):
        parts.append((6, f"{engine_state.info.device} {engine_state.info.weights}"))
    return [part for part in parts if part[1]]


def footer_line(hints: Sequence[Content], states: Sequence[State], width: int) -> Content:
    """Return hints and states in `width` cells; the first hint is dropped last."""
    left = list(zip((0, 2, 3, 4, 4, 5, 6, 7, 8, 9), hints, strict=False))
    right = list(states)

    def line() -> Content:
        start = HINT_GAP.join(hint for _, hint in left)
        end = " · ".join(text for _, text in right)
        gap = " " * max(width - start.cell_length - cell_len(end), 2 if left and right else 0)
        return Content.assemble(start, gap, end)

    while line().cell_length > width and len(left) + len(right) > 1:
        if left and (not right or left[-1][0] >= max(right)[0]):
            left.pop()
        else:
            right.remove(max(right))
    return line().truncate(width, ellipsis=True)


class EngineBanner(Static):
    """The loading or failed state of the engine; hidden when it is ready.

    Args:
        clock: monotonic seconds, such as `time.monotonic`.
    """

    DEFAULT_CSS = """
    EngineBanner {
        height: auto;
        max-height: 8;
        padding: 0 1;
        margin: 0 1;
        color: $text-muted;

        &.-ready { display: none; }
        &.-failed {
            border-left: outer $error;
            background: $error 12%;
            color: $foreground;
        }
    }
    """

    state: reactive[EngineState] = reactive[EngineState](Loading(""))

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._loading_since = clock()

    def on_mount(self) -> None:
        """Start the timer of the elapsed seconds."""
        self.set_interval(1.0, self._tick)

    def watch_state(self, old: EngineState, new: EngineState) -> None:
        """Show the new state."""
        if isinstance(new, Loading) and not isinstance(old, Loading):
            self._loading_since = self._clock()
        self.set_class(isinstance(new, Ready), "-ready")
        self.set_class(isinstance(new, Failed), "-failed")
        self.update(self._banner_content())

    def _tick(self) -> None:
        if isinstance(self.state, Loading):
            self.update(self._banner_content())

    def _banner_content(self) -> Content:
        state = self.state
        if isinstance(state, Failed):
            key = commands.key_of("regenerate")
            retry = f"Press {key} to try again, or use /model to choose another model."
            return Content.assemble(
                (escape_controls(state.error.message), "bold"),
                f"\n{escape_controls(state.error.hint)}" if state.error.hint else "",
                f"\n{retry}",
            )
        if isinstance(state, Ready):
            return Content("")
        seconds = int(self._clock() - self._loading_since)
        parts = [f"Loading {one_line(state.model, 40)}"]
        parts += [f"{seconds} s"] if seconds else []
        parts += [escape_controls(state.stage)] if state.stage else []
        return Content(f"{' · '.join(parts)} — you can already type")

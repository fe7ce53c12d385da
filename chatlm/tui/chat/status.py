"""Status bar and engine banner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget
from textual.widgets import Static

from chatlm.hub.disk import human_bytes
from chatlm.text import escape_controls, one_line
from chatlm.tui import commands, formatting
from chatlm.tui.engine_loader import EngineState, Failed, Loading, Ready
from chatlm.types.engine import EngineInfo
from chatlm.types.messages import Turn


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
            formatting.stop_label(turn.reply.stop_reason),
        )


class StatusBar(Widget):
    """One line; when it is narrow, the least important parts are dropped first."""

    DEFAULT_CSS = """
    StatusBar {
        height: 1;
        padding: 0 1;
        background: $foreground 8%;
        color: $text-muted;
    }
    """

    status: reactive[Status] = reactive(Status())
    engine_state: reactive[EngineState] = reactive[EngineState](Loading(""))

    plugin_statuses: reactive[tuple[str, ...]] = reactive(())
    """Status texts of plugins, beside the model's name."""

    thinking: reactive[str] = reactive("auto")
    """How much the model shall think in the open chat."""

    hint: reactive[Content | None] = reactive[Content | None](None)
    """Key hints of the selection, shown instead of the parts."""

    hanging: reactive[str] = reactive("")
    """What chatlm waits for, shown instead of everything else."""

    def watch_engine_state(self, state: EngineState) -> None:
        """Explain the model's memory to a pointer that rests on the line."""
        self.tooltip = describe_engine(state.info) if isinstance(state, Ready) else None

    def render(self) -> Content:
        """Render the line at the full width."""
        if self.hanging:
            text = Content.styled(one_line(self.hanging, 200), "$text-warning")
            return text.truncate(self.content_size.width, ellipsis=True)
        if self.hint is not None:
            return self.hint.truncate(self.content_size.width, ellipsis=True)
        return Content(
            status_line(
                self.engine_state,
                self.status,
                self.content_size.width,
                self.plugin_statuses,
                self.thinking,
            )
        )


def status_line(
    engine_state: EngineState,
    status: Status,
    width: int,
    plugin_statuses: tuple[str, ...] = (),
    thinking: str = "auto",
) -> str:
    """Return the bar's text in `width` cells: model left, numbers right."""
    left, right = _parts(engine_state, status, plugin_statuses, thinking)
    while len(left) + len(right) > 1 and _width(left) + _width(right) + 2 > width:
        least = max([*left, *right])
        (left if least in left else right).remove(least)
    start, end = (" · ".join(text for _, text in side) for side in (left, right))
    return set_cell_size(set_cell_size(start, max(width - cell_len(end), 0)) + end, width)


def describe_engine(info: EngineInfo) -> Content:
    """Return what the line's names of the device and the weights mean, with the memory's parts."""
    lines = [f"{info.model} on {info.device}, weights {info.weights}"]
    if info.memory:
        lines += [f"{what}: {human_bytes(size)}" for what, size in info.memory.rows()]
    return Content("\n".join(one_line(line, 80) for line in lines))


def _parts(
    engine_state: EngineState, status: Status, plugin_statuses: tuple[str, ...], thinking: str
) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """`(rank, text)` of both sides; rank 0 is dropped last."""
    left = [(0, one_line(engine_state.model, 60))]
    can_think = not isinstance(engine_state, Ready) or engine_state.info.thinks is not False
    if thinking != "auto" and can_think:
        left.append((1, f"thinking {thinking}"))
    left += [(1, one_line(word, 30)) for word in plugin_statuses]
    match engine_state:
        case Ready(info):
            left.append((3, f"{info.device} {info.weights}"))
        case Loading():
            left.append((1, "loading"))
        case Failed():
            left.append((1, "not loaded"))
    right = [(2, status.speed), (1, status.reason)]
    return left, [part for part in right if part[1]]


def _width(parts: list[tuple[int, str]]) -> int:
    return cell_len(" · ".join(text for _, text in parts))


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

"""The strip above the composer that says the model is loading, or why it could not be loaded."""

from __future__ import annotations

from collections.abc import Callable

from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Static

from chatlm.text import one_line, visible
from chatlm.tui import commands
from chatlm.tui.loading import EngineState, Failed, Loading, Ready


class Banner(Static):
    """Shown only while there is something to say.

    Args:
        clock: seconds that only grow, such as `time.monotonic`.
    """

    DEFAULT_CSS = """
    Banner {
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
        self._since = clock()

    def on_mount(self) -> None:
        """Count the seconds."""
        self.set_interval(1.0, self._tick)

    def watch_state(self, old: EngineState, new: EngineState) -> None:
        """Show the new state."""
        if isinstance(new, Loading) and not isinstance(old, Loading):
            self._since = self._clock()
        self.set_class(isinstance(new, Ready), "-ready")
        self.set_class(isinstance(new, Failed), "-failed")
        self.update(self._content())

    def _tick(self) -> None:
        if isinstance(self.state, Loading):
            self.update(self._content())

    def _content(self) -> Content:
        state = self.state
        if isinstance(state, Failed):
            retry = f"Then {commands.key_of('regenerate')} tries again; /model takes another model."
            return Content.assemble(
                (visible(state.error.message), "bold"),
                f"\n{visible(state.error.hint)}" if state.error.hint else "",
                f"\n{retry}",
            )
        if isinstance(state, Ready):
            return Content("")
        seconds = int(self._clock() - self._since)
        parts = [f"Loading {one_line(state.model, 40)}"]
        parts += [f"{seconds} s"] if seconds else []
        parts += [visible(state.stage)] if state.stage else []
        return Content(f"{' · '.join(parts)} — you can type already")

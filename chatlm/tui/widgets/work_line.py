"""One line that shows how far a long work is; knows nothing of what is done."""

from __future__ import annotations

from textual.content import Content
from textual.widget import Widget

from chatlm.tui import commands
from chatlm.tui.plugin_work import ShownWork

LOOKS_PER_SECOND = 10

BAR_WIDTH = 20


class WorkLine(Widget):
    """Title, bar, note, and the key that cancels.

    Args:
        work: looked at from time to time, since it is written in another thread.
    """

    DEFAULT_CSS = """
    WorkLine { height: 1; padding: 0 1; background: $primary 15%; }
    """

    def __init__(self, work: ShownWork) -> None:
        super().__init__()
        self.work = work
        self.auto_refresh = 1 / LOOKS_PER_SECOND

    def render(self) -> Content:
        """The line, exactly as wide as there is room."""
        end = "ending" if self.work.cancelled else f"{commands.key_of('stop')} cancels"
        width = self.content_size.width - len(end) - 2
        start = Content.assemble((self.work.title, "bold"), "  ", *self._progress())
        return Content.assemble(
            start.truncate(width, ellipsis=True, pad=True), "  ", (end, "$text-primary")
        )

    def _progress(self) -> list[str | tuple[str, str]]:
        stand = self.work.stand
        if stand.share is None:
            return [f"{stand.done:,}  " if stand.done else "", (stand.note, "$text-muted")]
        full = round(stand.share * BAR_WIDTH)
        return [
            ("━" * full, "$primary"),
            ("━" * (BAR_WIDTH - full), "$foreground 20%"),
            f"  {100 * stand.share:.0f} %  ",
            (stand.note, "$text-muted"),
        ]

"""What stands between turns and over them: notices, and markers of turns that are not drawn."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from chatlm.text import visible
from chatlm.tui.labels import count


class NoticeLine(Static):
    """A quiet line between turns.

    Args:
        text: what the person should know.
        error: whether something failed.
    """

    DEFAULT_CSS = """
    NoticeLine { height: auto; margin: 0 0 1 1; padding: 0 1; color: $text-muted;
                 border-left: outer $foreground 30%; }
    NoticeLine.-error { color: $text-error; border-left: outer $error; }
    """

    def __init__(self, text: str, *, error: bool = False) -> None:
        super().__init__(Content(visible(text)), classes="-error" if error else "")


class Undrawn(Static):
    """Stands for turns that are not drawn; a click draws some of them."""

    DEFAULT_CSS = """
    Undrawn { height: 1; margin: 0 0 1 0; color: $text-muted; text-align: center; display: none; }
    Undrawn:hover { color: $text; }
    """

    MARK = ""
    NOUN = ""

    def tell(self, number: int) -> None:
        """Say how many turns are not drawn here."""
        self.display = number > 0
        self.update(f"{self.MARK} {count(number, self.NOUN)}")


class Earlier(Undrawn):
    """For those above all that is drawn."""

    MARK = "↑"
    NOUN = "earlier turn"


class Between(Undrawn):
    """For those between the newest turn and the others that are drawn."""

    MARK = "↕"
    NOUN = "more turn"


class Newer(Static):
    """Stands over the last row while there is more below; a click goes to the end."""

    DEFAULT_CSS = """
    Newer {
        layer: above;
        dock: bottom;
        height: 1;
        text-align: center;
        color: $text-muted;
        background: $background;
        display: none;
    }
    Newer:hover { color: $text; }
    """

    def __init__(self) -> None:
        super().__init__("↓ more below")

"""One side of a match: what it says, and after the vote who it was."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from chatlm import one_line, visible
from chatlm_arena.playing import Revealed

QUIET = "$foreground 60%"


class ArenaPane(VerticalScroll):
    """A frame with a title; it follows its text while that grows.

    Args:
        title: Left or Right.
    """

    DEFAULT_CSS = """
    ArenaPane {
        width: 1fr;
        height: 1fr;
        padding: 0 1;
        border: round $foreground 30%;
        border-title-color: $text;
        border-subtitle-color: $text-muted;
        scrollbar-size-vertical: 1;
        scrollbar-background: $background;
        scrollbar-background-hover: $background;
        scrollbar-background-active: $background;
        scrollbar-color: $foreground 25%;
        scrollbar-color-hover: $foreground 45%;
        scrollbar-color-active: $foreground 45%;

        &:focus { border: round $primary; }
        &.-won { border: round $success; border-title-color: $text-success; }
        & > Static { height: auto; }
    }
    """

    def __init__(self, title: str, id: str) -> None:
        super().__init__(id=id)
        self._title = title
        self._before = Content()
        self._text = ""

    def compose(self) -> ComposeResult:
        """One text."""
        yield Static(id="said")

    def on_mount(self) -> None:
        """Be empty."""
        self.clear()

    @property
    def has_text(self) -> bool:
        """Whether it answered the newest message already, or begins to."""
        return bool(self._text)

    def clear(self) -> None:
        """Begin a new match."""
        self._before, self._text = Content(), ""
        self.border_title, self.border_subtitle = self._title, ""
        self.remove_class("-won")
        self._draw()

    def ask(self, prompt: str) -> None:
        """Show the next message, below all that was said before."""
        said = f"{visible(self._text)}\n\n" if self._text else ""
        asked = Content.styled(f"{visible(prompt)}\n\n", QUIET)
        self._before = Content.assemble(self._before, said, asked)
        self.say("", ended=False)

    def say(self, text: str, *, ended: bool) -> None:
        """Show the reply so far."""
        self._text = text
        self.border_subtitle = "" if ended or not text else "writing …"
        self._draw()

    def wait(self) -> None:
        """Say that the other side is first."""
        self._text = ""
        self.border_subtitle = "has its turn after the other side"
        self._draw()

    def stop(self) -> None:
        """Nothing more comes."""
        self.border_subtitle = ""

    def reveal(self, who: Revealed, *, won: bool) -> None:
        """Tell who it was, and what the vote did."""
        self.set_class(won, "-won")
        change = who.after - who.before
        self.border_title = Content(one_line(who.name, 40))
        speed = f", {who.tokens / who.seconds:.0f}/s" if who.seconds else ""
        self.border_subtitle = Content(
            f"Elo {who.before:.0f} → {who.after:.0f} ({change:+.0f}) · "
            f"{who.tokens} tokens, {who.seconds:.1f} s{speed}"
        )
        self._before = Content.assemble(
            Content.styled(f"{one_line(who.told, 200)}\n\n", "$text-success" if won else QUIET),
            self._before,
        )
        self._draw()
        self.scroll_home(animate=False)

    def _draw(self) -> None:
        self.query_one("#said", Static).update(Content.assemble(self._before, visible(self._text)))
        self.scroll_end(animate=False)

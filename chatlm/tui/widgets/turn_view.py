"""One turn: the user's message, the reply, and a quiet line that says how it ended."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.style import Style
from textual.widgets import Static

from chatlm.messages import Reply, Turn
from chatlm.text import visible
from chatlm.tui import keys, labels
from chatlm.tui.widgets.reply_text import ReplyText


class TurnView(Vertical):
    """Shows a stored turn, and lets its reply grow between `begin` and `finish`.

    Args:
        turn: the turn as stored.
        newest: whether it is the last of its chat, whose reply can be continued or made anew.
    """

    DEFAULT_CSS = """
    TurnView {
        height: auto;
        margin: 0 0 1 0;

        & > .user {
            height: auto;
            margin: 0 0 1 0;
            padding: 0 1;
            border-left: outer $primary;
            background: $primary 10%;
            color: $foreground;
        }
        & > .line {
            height: auto;
            padding: 0 1 0 2;
            color: $text-muted;
        }
    }
    """

    def __init__(self, turn: Turn, *, newest: bool = False) -> None:
        super().__init__()
        self.turn = turn
        self._newest = newest
        self._live = False

    def compose(self) -> ComposeResult:
        """The message, the reply if there is one, the line."""
        yield Static(Content(visible(self.turn.user.content)), classes="user")
        if self.turn.reply is not None and self.turn.reply.text:
            yield ReplyText(self.turn.reply.text)
        yield Static(self._line(), classes="line")

    async def begin(self, reply: Reply) -> None:
        """Show `reply` in place of the one before, ready to grow."""
        self._live = True
        await self._remove_reply()
        text = ReplyText()
        await self.mount(text, before=self.query_one(".line"))
        await text.begin(reply.text)

    async def grow(self, text: str) -> None:
        """Add to the reply that was begun."""
        for reply in self.query(ReplyText):
            await reply.grow(text)

    async def finish(self, turn: Turn) -> None:
        """Show the turn as it is stored now."""
        self._live = False
        self.turn = turn
        replies = self.query(ReplyText)
        for view in replies:
            await view.end()
        reply = turn.reply
        if reply is None or not reply.text:
            await self._remove_reply()
        elif not replies:
            await self.mount(ReplyText(reply.text), before=self.query_one(".line"))
        else:
            await replies.first().update(visible(reply.text))
        self.query_one(".line", Static).update(self._line())

    async def detach(self) -> None:
        """Stop drawing a reply that goes on, since its chat leaves the screen."""
        for reply in self.query(ReplyText):
            await reply.end()

    def say(self, text: str) -> None:
        """Show what is happening to the reply in the line below it."""
        self._live = True
        self.query_one(".line", Static).update(Content(visible(text)))

    def set_newest(self, newest: bool) -> None:
        """Offer, or no longer offer, to go on with this turn."""
        self._newest = newest
        if not self._live:
            self.query_one(".line", Static).update(self._line())

    def _line(self) -> Content:
        parts = [Content(visible(labels.ended(self.turn)))]
        reply = self.turn.reply
        if self._newest and reply is None:
            parts.append(_offer("answer", keys.REGENERATE.action, keys.name(keys.REGENERATE)))
        elif self._newest and reply is not None and reply.can_continue:
            parts.append(_offer("continue", keys.CONTINUE.action, keys.name(keys.CONTINUE)))
        if reply is not None and reply.error:
            parts.append(Content.assemble("\n", (visible(reply.error), "$text-error")))
        return Content.assemble(*parts)

    async def _remove_reply(self) -> None:
        for view in self.query(ReplyText):
            await view.end()
            await view.remove()


def _offer(word: str, action: str, key: str) -> Content:
    """A word that can be clicked, and the key that does the same."""
    click = Style.from_meta({"@click": f"screen.{action}"})
    return Content.assemble(" · ", (word, click), f" with {key}")

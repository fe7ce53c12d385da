"""What can be done with one turn: the commands of `commands.TURN`; draws nothing itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatlm.errors import UsageError
from chatlm.messages import Reply, Standing
from chatlm.tui.details_screen import DetailsScreen
from chatlm.tui.trace_screen import TraceScreen
from chatlm.tui.widgets.turn_view import TurnView

if TYPE_CHECKING:
    from chatlm.tui.chat_screen import ChatScreen

STANDINGS = {
    Standing.AUTO: "read as long as it fits",
    Standing.PINNED: "always read",
    Standing.DROPPED: "not read any more",
    Standing.SUMMARISED: "its summary is read in its place",
}
"""What is said when a turn's standing changes."""


class TurnActions:
    """Each `do_NAME` is the command of that name; it takes what was typed after it.

    They act on the selected turn, else on the newest.

    Args:
        screen: whose chat it is.
    """

    def __init__(self, screen: ChatScreen) -> None:
        self._screen = screen
        self._chat = screen.chat
        self._insight = screen.insight

    def do_copy(self, _: str) -> None:
        """Copy the reply as the model wrote it."""
        self._view().copy()

    def do_copy_code(self, _: str) -> None:
        """Copy a code block; asked again, the next one."""
        self._view().copy_code()

    async def do_previous_version(self, _: str) -> None:
        """Let the version before stand."""
        await self._chat.step_version(self._view(), -1)

    async def do_next_version(self, _: str) -> None:
        """Let the next version stand."""
        await self._chat.step_version(self._view(), 1)

    def do_edit(self, _: str) -> None:
        """Take the message into the composer; sent again, it makes a fork."""
        self._chat.refuse_while_busy()
        turn = self._view().turn
        title = f"editing message {turn.position + 1}"
        self._chat.composer.begin_edit(turn.words, title, turn.position)
        self._screen.set_focus(self._chat.composer)

    async def do_fork(self, _: str) -> None:
        """Go on from here in a new chat."""
        await self._chat.fork(self._view().turn.position + 1)
        self._screen.set_focus(self._chat.composer)
        self._chat.notify("This is a fork; the chat it came from stays as it was.", markup=False)

    def do_details(self, _: str) -> None:
        """Show what made the reply."""
        reply = self._reply()
        provenance = self._chat.store.provenance(reply.id)
        forked_from = self._chat.conversation.forked_from
        screen = DetailsScreen(self._view().turn, reply, provenance, forked_from)
        self._screen.app.push_screen(screen)

    def do_xray(self, _: str) -> None:
        """Show the prompt that made the reply."""
        self._insight.prompt_of(self._view().turn, self._reply())

    def do_trace(self, _: str) -> None:
        """Show what plugins did for the turn."""
        turn = self._view().turn
        self._screen.app.push_screen(TraceScreen(turn, self._chat.store.traces(turn.id)))

    def do_replay(self, model: str) -> None:
        """Make the reply again and compare."""
        reply, model = self._reply(), model.strip()
        if model:
            self._screen.owner.check_model(model)
        self._insight.replay(reply, model)

    async def do_pin(self, _: str) -> None:
        """Keep the turn in the context, or no longer."""
        await self._toggle(Standing.PINNED)

    async def do_drop(self, _: str) -> None:
        """Leave the turn out of the context, or no longer."""
        await self._toggle(Standing.DROPPED)

    async def do_summarise(self, _: str) -> None:
        """Let a summary stand for the turn, or no longer."""
        turn = self._view().turn
        if turn.summary:
            await self._toggle(Standing.SUMMARISED)
        else:
            self._reply()
            self._insight.summary(turn)

    async def _toggle(self, standing: Standing) -> None:
        view = self._view()
        now = Standing.AUTO if view.turn.standing is standing else standing
        await self._chat.set_standing(view, now)
        self._chat.notify(f"Message {view.turn.position + 1}: {STANDINGS[now]}.", markup=False)

    def _view(self) -> TurnView:
        view = self._chat.selected
        if view is None:
            raise UsageError("This chat has no message yet", hint="Type one first.")
        return view

    def _reply(self) -> Reply:
        reply = self._view().turn.reply
        if reply is None or not reply.text:
            raise UsageError("This message has no reply yet")
        return reply

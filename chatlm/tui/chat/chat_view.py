"""The chat pane: transcript, engine banner and composer."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.reactive import reactive

from chatlm.errors import ChatlmError, UsageError
from chatlm.text import escape_controls
from chatlm.tui.chat.header import Header, ModelLabel
from chatlm.tui.chat.image_block import ImageBlock
from chatlm.tui.chat.status import EngineBanner, Status
from chatlm.tui.chat.transcript import Transcript
from chatlm.tui.chat.turn_view import TurnView
from chatlm.tui.chat.welcome import Suggestion
from chatlm.tui.composer.composer import Composer
from chatlm.tui.engine_loader import EngineState
from chatlm.tui.widgets.context_gauge import ContextFill, ContextGauge
from chatlm.tui.workers import to_user_error
from chatlm.types.conversations import Turn

NEW_CHAT = "New chat"


class ChatView(Vertical):
    """The open chat, without the chat list and the status bar.

    Args:
        clock: monotonic seconds, such as `time.monotonic`.
        composer: where the user writes.
        on_submitted: called with every message the user sends.
        on_draft_changed: called when the text in the composer has changed.
        on_image_shown: called with each block of an image that is shown.
    """

    @dataclass
    class Changed(Message):
        """A chat is new or changed, another one is open, or a turn started or ended."""

    @dataclass
    class Started(Message):
        """A turn is about to run."""

    @dataclass
    class Switched(Message):
        """Another chat is open, or a new one."""

    status: reactive[Status] = reactive(Status(), repaint=False)
    """Status of the open chat."""

    DEFAULT_CSS = """
    ChatView {
        & > #middle { width: 100%; height: 1fr; layers: default above; }
        & Transcript { margin: 0 2 0 0; }
        & > Composer { margin: 0 1; }
    }
    """

    def __init__(
        self,
        clock: Callable[[], float],
        composer: Composer,
        *,
        on_submitted: Callable[[Composer.Submitted], object],
        on_draft_changed: Callable[[], object],
        on_image_shown: Callable[[ImageBlock], object],
    ) -> None:
        super().__init__()
        self._clock = clock
        self._on_submitted = on_submitted
        self._on_draft_changed = on_draft_changed
        self._on_image_shown = on_image_shown
        self.composer = composer
        self.header = Header()
        """The line above everything, which the screen places."""

    def compose(self) -> ComposeResult:
        """Yield the transcript, banner and composer."""
        with Horizontal(id="middle"):
            yield Transcript()
        yield EngineBanner(self._clock)
        yield self.composer

    @property
    def transcript(self) -> Transcript:
        """The turns."""
        return self.query_one(Transcript)

    @property
    def selected_view(self) -> TurnView | None:
        """The turn that commands act on."""
        return self.transcript.selected_view

    @property
    def newest_view(self) -> TurnView | None:
        """The view of the chat's last turn."""
        return self.transcript.newest_view

    async def show_chat(self, title: str, turns: Sequence[Turn], *, incognito: bool) -> None:
        """Show a chat; an empty title falls back to the first message."""
        self.set_class(incognito, "-incognito")
        self.composer.set_class(incognito, "-incognito")
        self.show_title(title or (turns[0].display_text if turns else NEW_CHAT))
        await self.transcript.show_turns(turns)

    async def add_turn(self, turn: Turn) -> TurnView:
        """Append a new turn."""
        if turn.position == 0:
            self.show_title(turn.display_text)
        return await self.transcript.add_turn(turn)

    async def remove_newest(self) -> None:
        """Remove the newest turn, which is not stored any longer."""
        await self.transcript.remove_newest()
        if self.newest_view is None:
            self.show_title(NEW_CHAT)

    async def show_notice(self, message: ChatlmError | str, topic: str = "") -> None:
        """Show a notice in the transcript and in a toast.

        Args:
            message: what to show.
            topic: replaces the last notice of the same topic, without another toast.
        """
        error = isinstance(message, ChatlmError)
        if not await self.transcript.add_notice(str(message), error=error, topic=topic):
            self.toast(message)

    def toast(self, message: ChatlmError | str) -> None:
        """Show a toast."""
        error = isinstance(message, ChatlmError) and not isinstance(message, UsageError)
        self.notify(
            escape_controls(str(message)), severity="error" if error else "warning", markup=False
        )

    async def run_reporting_errors(
        self, callback: Callable[[], Awaitable[object] | object], description: str
    ) -> None:
        """Run something and show what fails in a toast.

        Args:
            callback: may be async.
            description: names the action in the log.
        """
        try:
            result = callback()
            if inspect.isawaitable(result):
                await result
        except ChatlmError as error:
            self.toast(error)
        except Exception as problem:
            failure = to_user_error(problem, description)
            if failure is not None:
                self.toast(failure)

    def focus_composer(self) -> None:
        """Focus the composer at once; `focus()` would wait for the next refresh."""
        self.screen.set_focus(self.composer)

    def show_engine_state(self, state: EngineState) -> None:
        """Show the state of the engine in the header and the banner."""
        self.header.query_one(ModelLabel).state = state
        self.query_one(EngineBanner).state = state

    def show_context_fill(
        self, fill: ContextFill | None, omitted_turns: Collection[int] = ()
    ) -> None:
        """Show how full the context is, and mark the omitted turns."""
        self.header.query_one(ContextGauge).fill = fill
        self.transcript.mark_omitted(omitted_turns)

    def show_used_tokens(self, used: int) -> None:
        """Update the gauge with the tokens of the running turn."""
        gauge = self.header.query_one(ContextGauge)
        if gauge.fill is not None:
            gauge.fill = dataclasses.replace(
                gauge.fill, history_tokens=max(used - gauge.fill.system_tokens, 0)
            )

    def scroll_pages(self, pages: int) -> None:
        """Scroll the transcript by -1 or 1 pages."""
        self.transcript.scroll_pages(pages)

    @on(Composer.Submitted)
    def _handle_submitted(self, event: Composer.Submitted) -> None:
        event.stop()
        self._on_submitted(event)

    @on(Composer.DraftChanged)
    def _handle_draft_changed(self, event: Composer.DraftChanged) -> None:
        event.stop()
        self._on_draft_changed()

    @on(ImageBlock.PixelsWanted)
    def _handle_image_shown(self, event: ImageBlock.PixelsWanted) -> None:
        event.stop()
        self._on_image_shown(event.block)

    @on(Suggestion.Selected)
    def _use_suggestion(self, event: Suggestion.Selected) -> None:
        event.stop()
        self.composer.restore_unsent(event.text)
        self.composer.focus()

    def show_title(self, title: str) -> None:
        """Show the title above the transcript and in the terminal's title."""
        incognito = self.has_class("-incognito")
        self.header.show_title(title, incognito=incognito)
        self.app.sub_title = "incognito chat" if incognito else title

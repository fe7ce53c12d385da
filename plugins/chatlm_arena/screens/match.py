"""The arena screen: two answers side by side, the vote, and who was who."""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import Enum
from functools import partial
from threading import Thread
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Input, Static

from chatlm import ChatlmError, Ui, escape_controls, load_plugin_settings, one_line
from chatlm.plugin_kit.screens import KeyHints, with_commands
from chatlm_arena import PLUGIN
from chatlm_arena.actions import LEADERBOARD_SCREEN
from chatlm_arena.match import RevealedSide
from chatlm_arena.ratings import EloRules
from chatlm_arena.records import SIDES, Side
from chatlm_arena.screens.worker import AnswersEnded, MatchWorker, MessageRead, SideUpdated, Voted
from chatlm_arena.settings import Settings
from chatlm_arena.store import store
from chatlm_arena.votes import Verdict

WIDE_COLUMNS = 100
"""Minimum columns for showing the sides next to each other."""


class MessageInput(Input):
    """Message input that sends on Enter itself, so that the next key is handled after sending."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "screen.send", "send"),
    ]


class ArenaScreen(Screen[None]):
    """The arena: type a message, read two answers, and vote with single keys.

    Args:
        ui: the chat screen's API.
        rng: random numbers; None uses the system's.
    """

    DEFAULT_CSS = """
    ArenaScreen {
        & #status { height: auto; padding: 0 1; color: $text-muted; }
        & #status.-problem { color: $text-error; }
        & #sides { height: 1fr; layout: horizontal; }
        &.-narrow #sides { layout: vertical; }
        & KeyHints { padding: 0 1; background: $panel; }
        & Input { margin: 0; border: round $foreground 30%; background: $background; }
        & Input:focus { border: round $primary; }
        & Input > .input--placeholder { color: $text-muted; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l,1", "vote('left')", "left", key_display="l"),
        Binding("r,2", "vote('right')", "right", key_display="r"),
        Binding("t", "vote('tie')", "tie"),
        Binding("b", "vote('both_bad')", "both bad"),
        Binding("s", "skip", "skip"),
        Binding("a", "again", "again"),
        Binding("m", "more", "more"),
        Binding("enter,n", "next", "next match", key_display="enter"),
        Binding("u", "undo", "undo"),
        Binding("f", "ratings", "ratings"),
        Binding("escape", "stop", "stop"),
        Binding("escape", "back", "back"),
        Binding("escape", "leave", "close"),
    ]

    def __init__(self, ui: Ui, rng: random.Random | None = None) -> None:
        super().__init__()
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE_COLUMNS, "-wide")]
        self._ui = ui
        settings = load_plugin_settings(PLUGIN, Settings)
        self._elo_rules = EloRules(k=settings.k)
        self._store = store.open_arena_store()
        self._chats = ui.side_chats(self._post_loading)
        self._match_worker = MatchWorker(
            self._store,
            self._chats,
            settings,
            self.post_message,
            rng or random.SystemRandom(),
            ui.read_message,
        )
        self.state = ArenaState.FIRST_MESSAGE
        self.keys_armed = False
        """Whether the state has been visible long enough for delayed keys."""
        self._prompt = ""
        """The newest message."""

    class Loading(Message):
        """A model is being loaded."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def compose(self) -> ComposeResult:
        """Yield the status line, both sides, the input and the footer."""
        yield Static(id="status")
        with Container(id="sides"):
            yield ArenaPane("Left", id="left")
            yield ArenaPane("Right", id="right")
        yield MessageInput(placeholder="Message to both sides", id="message")
        yield KeyHints()

    def on_mount(self) -> None:
        """Wait for the first message."""
        self._begin()

    def _begin(self) -> None:
        """Empty both sides, and say who will answer."""
        names = [each.name for each in self._store.contestants() if each.setup is not None]
        for side, text in zip(SIDES, empty_sides(names), strict=True):
            self._pane(side).clear(text)
        self._enter_state(ArenaState.FIRST_MESSAGE)

    def on_screen_resume(self) -> None:
        """Disarm the keys, since the screen has just become visible again."""
        self._disarm_keys()

    def on_unmount(self) -> None:
        """Stop the worker and unload the contestants' models."""
        self._match_worker.stop_event.set()
        self._close_in_background()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Enable only the keys that work in the current state."""
        play = self._match_worker.live_match
        if action in ACTIONS_NEEDING_ANSWERS and play is not None and not play.can_vote:
            return False
        if action in IMMEDIATE_ACTIONS:
            return self.state in IMMEDIATE_ACTIONS[action]
        return action not in DELAYED_ACTIONS or (
            self.keys_armed and self.state in DELAYED_ACTIONS[action]
        )

    def action_vote(self, verdict: str) -> None:
        """Save the verdict and reveal the contestants."""
        self._enter_state(ArenaState.COUNTING)
        self._run_vote(Verdict(verdict))

    def action_skip(self) -> None:
        """Start another match without a vote."""
        self.action_next()

    def action_again(self) -> None:
        """Let both sides answer again."""
        for side in SIDES:
            self._pane(side).show_waiting()
        self._start_answers(None)

    def action_more(self) -> None:
        """Enter another message to the same contestants."""
        self._enter_state(ArenaState.NEXT_MESSAGE)

    def action_next(self) -> None:
        """Start another match."""
        self._match_worker.live_match = None
        self._begin()

    def action_undo(self) -> None:
        """Undo the newest vote."""
        try:
            ballot = self._store.undo_vote()
        except ChatlmError as error:
            self._show_error(error)
            return
        if self.state is ArenaState.REVEALED:
            self.action_next()
        self._show_status(
            f"Undone: {ballot.left} against {ballot.right}, {_describe_verdict(ballot.verdict)}."
        )

    def action_ratings(self) -> None:
        """Show the ratings."""
        self._ui.open_screen(LEADERBOARD_SCREEN)

    def action_stop(self) -> None:
        """Stop both sides."""
        self._match_worker.stop_event.set()

    def action_back(self) -> None:
        """Go back to the vote."""
        self._enter_state(ArenaState.VOTING)

    def action_leave(self) -> None:
        """Close the arena."""
        self.dismiss()

    def action_send(self) -> None:
        """Send the message to both sides."""
        field = self.query_one(Input)
        text = field.value.strip()
        if not text:
            return
        self._prompt = text
        field.clear()
        self._start_answers(text)

    @on(MessageRead)
    def _handle_message_read(self, event: MessageRead) -> None:
        """Show the message and a line for each of its images."""
        event.stop()
        lines = [
            f"[{one_line(image.name or image.media_type, 60)}, {image.width}×{image.height} pixels]"
            for image in event.images
        ]
        for side in SIDES:
            self._pane(side).show_prompt("\n".join([*lines, event.text]))

    @on(SideUpdated)
    def _handle_side_updated(self, event: SideUpdated) -> None:
        event.stop()
        update = event.side_update
        pane, other = self._pane(update.side), self._pane(_other_side(update.side))
        pane.show_reply(update.text, ended=update.ended)
        if not update.text and not update.ended:
            self._show_status(STATE_HINTS[ArenaState.ANSWERING])
            if not other.has_reply:
                other.show_waiting()

    @on(AnswersEnded)
    def _handle_answers_ended(self, event: AnswersEnded) -> None:
        event.stop()
        for side in SIDES:
            self._pane(side).show_ended()
        play = self._match_worker.live_match
        if play is None:
            self.action_next()
            self.query_one(Input).value = self._prompt
        elif play.can_vote:
            self._enter_state(ArenaState.VOTING)
            if event.error is not None:  # the message was not sent
                self.query_one(Input).value = self._prompt
        else:
            self._enter_state(ArenaState.VOTING)
            self._show_status(
                "Stopped before both had answered. Press a to let both answer again, s to skip."
            )
        if event.error is not None:
            self._show_error(event.error)

    @on(Voted)
    def _handle_voted(self, event: Voted) -> None:
        event.stop()
        if event.error is not None:
            self._enter_state(ArenaState.VOTING)
            self._show_error(event.error)
            return
        for side, who in zip(SIDES, event.revealed, strict=True):
            self._pane(side).reveal(who, won=event.verdict == side)
        self._enter_state(ArenaState.REVEALED)

    @on(Loading)
    def _handle_loading(self, event: Loading) -> None:
        event.stop()
        self._show_status(event.text)

    def _start_answers(self, text: str | None) -> None:
        """Let both sides answer."""
        self._match_worker.stop_event.clear()
        self._enter_state(ArenaState.ANSWERING)
        self._run_answers(text)

    @work(thread=True, exclusive=True, group="arena", exit_on_error=False)
    def _run_answers(self, text: str | None) -> None:
        if text is None:
            self._match_worker.regenerate()
        else:
            self._match_worker.send(text)

    @work(thread=True, exclusive=True, group="arena", exit_on_error=False)
    def _run_vote(self, verdict: Verdict) -> None:
        self._match_worker.vote(verdict, self._elo_rules)

    def _post_loading(self, text: str) -> None:
        self.post_message(self.Loading(text))

    def _close_in_background(self) -> None:
        """Close the chats and the database in a thread, since a running reply has to end first."""

        def close() -> None:
            self._chats.__exit__(None, None, None)
            self._store.__exit__(None, None, None)

        Thread(target=close, daemon=True).start()

    def _enter_state(self, state: ArenaState) -> None:
        self.state = state
        self._show_status(STATE_HINTS[state])
        field = self.query_one(Input)
        typing = state in (ArenaState.FIRST_MESSAGE, ArenaState.NEXT_MESSAGE)
        field.disabled = not typing
        if typing:
            field.focus()
        else:
            self.query_one(ArenaPane).focus()
        self._disarm_keys()

    def _disarm_keys(self) -> None:
        self.keys_armed = False
        self.refresh_bindings()
        self.call_after_refresh(self.set_timer, KEY_DELAY, partial(self._arm_keys, self.state))

    def _arm_keys(self, state: ArenaState) -> None:
        self.keys_armed = self.keys_armed or state is self.state
        self.refresh_bindings()

    def _pane(self, side: Side) -> ArenaPane:
        return self.query_one(f"#{side}", ArenaPane)

    def _show_status(self, text: str, *, is_error: bool = False) -> None:
        status = self.query_one("#status", Static)
        status.set_class(is_error, "-problem")
        status.update(Content(escape_controls(text)))

    def _show_error(self, error: ChatlmError) -> None:
        self._show_status(str(error), is_error=True)


def _other_side(side: Side) -> Side:
    return "right" if side == "left" else "left"


def _describe_verdict(verdict: str) -> str:
    return {"left": "left was better", "right": "right was better", "tie": "a tie"}.get(
        verdict, "both bad"
    )


class ArenaState(Enum):
    """What the user can do now."""

    FIRST_MESSAGE = "ask"
    """Type the first message of a match."""
    ANSWERING = "answers"
    """Wait for the answers, or stop them."""
    VOTING = "vote"
    COUNTING = "count"
    """Wait while the vote is saved and the ratings are computed."""
    NEXT_MESSAGE = "more"
    """Type another message to the same contestants."""
    REVEALED = "revealed"


STATE_HINTS = {
    ArenaState.FIRST_MESSAGE: ("Arena: two set-ups answer blind. You vote, then see their names."),
    ArenaState.ANSWERING: "Both sides answer; which one starts is random.",
    ArenaState.VOTING: "Which answer is better? Names are shown after your vote.",
    ArenaState.COUNTING: "Saving the vote …",
    ArenaState.NEXT_MESSAGE: "Type the next message for both sides.",
    ArenaState.REVEALED: "Press Enter for the next match.",
}


IMMEDIATE_ACTIONS = {
    "send": (ArenaState.FIRST_MESSAGE, ArenaState.NEXT_MESSAGE),
    "stop": (ArenaState.ANSWERING,),
}
"""Actions whose keys work at once, with the states in which they are available."""


DELAYED_ACTIONS = {
    "vote": (ArenaState.VOTING,),
    "skip": (ArenaState.VOTING,),
    "again": (ArenaState.VOTING,),
    "more": (ArenaState.VOTING,),
    "next": (ArenaState.REVEALED,),
    "undo": (ArenaState.VOTING, ArenaState.REVEALED),
    "ratings": (ArenaState.VOTING, ArenaState.REVEALED),
    "back": (ArenaState.NEXT_MESSAGE,),
    "leave": (
        ArenaState.FIRST_MESSAGE,
        ArenaState.VOTING,
        ArenaState.COUNTING,
        ArenaState.REVEALED,
    ),
}
"""Actions whose keys work only after `KEY_DELAY`, with the states in which they are available."""


KEY_DELAY = 0.4
"""Seconds before the keys of a new state work, so that a key pressed twice or meant for the
previous state does nothing unseen."""


def empty_sides(names: Sequence[str]) -> tuple[Content, Content]:
    """Return what the sides say before the first message.

    Args:
        names: the contestants that can play.
    """
    setups = with_commands(
        "A set-up is a model with its adapter, template, documents and sampling. "
        "`/arena add NAME`, typed in a chat, enters that chat's."
    )
    if len(names) < 2:
        here = (
            f"Only {escape_controls(names[0])} is entered so far"
            if names
            else "No set-up is entered yet"
        )
        ratings = with_commands("\n\n`/arena ratings` shows the ratings.")
        return Content(f"{here}: a match needs two."), setups + ratings
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return (
        Content(f"Two of these answer, without their names: {escape_controls(shown)}."),
        with_commands(
            "You vote for the better answer; the votes make the ratings. `@photo.png` in a message "
            "attaches an image.\n\n"
        )
        + setups,
    )


ACTIONS_NEEDING_ANSWERS = ("vote", "more")
"""Actions that need both answers."""


MUTED = "$text-muted"


class ArenaPane(VerticalScroll):
    """One side of the match, in a frame that scrolls with the growing text.

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
        self._history = self._about = Content()
        self._text = ""

    def compose(self) -> ComposeResult:
        """Yield the text."""
        yield Static(id="said")

    def on_mount(self) -> None:
        """Start empty."""
        self.clear()

    @property
    def has_reply(self) -> bool:
        """Whether the newest message has a reply or the start of one."""
        return bool(self._text)

    def clear(self, text: Content | str = "") -> None:
        """Clear the pane for a new match; the text tells what happens in it."""
        self._history, self._text = Content(), ""
        about = text if isinstance(text, Content) else Content(escape_controls(text))
        self._about = about.stylize_before(MUTED)
        self.border_title, self.border_subtitle = self._title, ""
        self.remove_class("-won")
        self._redraw()

    def show_prompt(self, prompt: str) -> None:
        """Show the next message below the earlier turns."""
        reply = f"{escape_controls(self._text)}\n\n" if self._text else ""
        message = Content.styled(f"{escape_controls(prompt)}\n\n", MUTED)
        self._about = Content()
        self._history = Content.assemble(self._history, reply, message)
        self.show_reply("", ended=False)

    def show_reply(self, text: str, *, ended: bool) -> None:
        """Show the reply so far."""
        self._text = text
        self.border_subtitle = "" if ended or not text else "writing …"
        self._redraw()

    def show_waiting(self) -> None:
        """Show that the other side answers first."""
        self._text = ""
        self.border_subtitle = "waiting for the other side"
        self._redraw()

    def show_ended(self) -> None:
        """Remove the progress note."""
        self.border_subtitle = ""

    def reveal(self, revealed: RevealedSide, *, won: bool) -> None:
        """Show the contestant, and how the vote changed its rating."""
        self.set_class(won, "-won")
        change = revealed.rating_after - revealed.rating_before
        self.border_title = Content(one_line(revealed.name, 40))
        speed = f", {revealed.tokens / revealed.seconds:.0f}/s" if revealed.seconds else ""
        self.border_subtitle = Content(
            f"Elo {revealed.rating_before:.0f} → {revealed.rating_after:.0f} ({change:+.0f}) · "
            f"{revealed.tokens} tokens, {revealed.seconds:.1f} s{speed}"
        )
        self._history = Content.assemble(
            Content.styled(
                f"{one_line(revealed.description, 200)}\n\n", "$text-success" if won else MUTED
            ),
            self._history,
        )
        self._redraw()
        self.scroll_home(animate=False)

    def _redraw(self) -> None:
        self.query_one("#said", Static).update(
            Content.assemble(self._about, self._history, escape_controls(self._text))
        )
        self.scroll_end(animate=False)

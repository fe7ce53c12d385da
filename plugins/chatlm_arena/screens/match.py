"""The match: two panes, vote, reveal."""

from __future__ import annotations

import random
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
from textual.widgets import Footer, Input, Static

from chatlm import ChatlmError, Ui, escape_controls, load_plugin_settings, one_line
from chatlm_arena import PLUGIN
from chatlm_arena.actions import LEADERBOARD_SCREEN
from chatlm_arena.match import RevealedSide
from chatlm_arena.ratings import EloRules
from chatlm_arena.records import SIDES, Side
from chatlm_arena.screens.worker import AnswersEnded, MatchWorker, SideUpdated, Voted
from chatlm_arena.settings import Settings
from chatlm_arena.store import store
from chatlm_arena.votes import Verdict

WIDE_COLUMNS = 100
"""Columns from which on the sides stand beside each other."""


class MessageInput(Input):
    """Enter sends at once, so that a key after it finds them answering already."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "screen.send", "send", key_display="⏎"),
    ]


class ArenaScreen(Screen[None]):
    """Keys vote; typing is for messages alone.

    Args:
        ui: the chat's screen.
        rng: chance; None takes the system's.
    """

    DEFAULT_CSS = """
    ArenaScreen {
        & #told { height: auto; padding: 0 1; color: $text-muted; }
        & #told.-problem { color: $text-error; }
        & #sides { height: 1fr; layout: horizontal; }
        &.-narrow #sides { layout: vertical; }
        & Input { margin: 0; border: round $foreground 30%; background: $background; }
        & Input:focus { border: round $primary; }
        & Footer { background: $background; }
        & FooterKey { background: $background; }
        & FooterKey .footer-key--key { background: $background; }
        & FooterKey .footer-key--description { background: $background; color: $text-muted; }
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
        Binding("enter,n", "next", "next match", key_display="⏎"),
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
            self._store, self._chats, settings, self.post_message, rng or random.SystemRandom()
        )
        self.state = ArenaState.FIRST_MESSAGE
        self.keys_armed = False
        """Whether the state has been on the screen long enough for a key to mean it."""
        self._prompt = ""
        """The newest message."""

    class Loading(Message):
        """A model is being loaded."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def compose(self) -> ComposeResult:
        """What to do, both sides, the message, the keys."""
        yield Static(id="told")
        with Container(id="sides"):
            yield ArenaPane("Left", id="left")
            yield ArenaPane("Right", id="right")
        yield MessageInput(placeholder="A message to both", id="message")
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Wait for a message."""
        self._enter_state(ArenaState.FIRST_MESSAGE)

    def on_screen_resume(self) -> None:
        """What is shown again has to be seen again."""
        self._disarm_keys()

    def on_unmount(self) -> None:
        """Free the models that are not the chat's."""
        self._match_worker.stop_event.set()
        self._close_in_background()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Show the keys that do something now."""
        play = self._match_worker.live_match
        if action in ACTIONS_NEEDING_ANSWERS and play is not None and not play.can_vote:
            return False
        if action in IMMEDIATE_ACTIONS:
            return self.state in IMMEDIATE_ACTIONS[action]
        return action not in DELAYED_ACTIONS or (
            self.keys_armed and self.state in DELAYED_ACTIONS[action]
        )

    def action_vote(self, verdict: str) -> None:
        """Keep the verdict and tell who was who."""
        self._enter_state(ArenaState.COUNTING)
        self._run_vote(Verdict(verdict))

    def action_skip(self) -> None:
        """Begin another match without a vote."""
        self.action_next()

    def action_again(self) -> None:
        """Let both answer once more."""
        for side in SIDES:
            self._pane(side).show_waiting()
        self._start_answers(None)

    def action_more(self) -> None:
        """Type another message to the same two."""
        self._enter_state(ArenaState.NEXT_MESSAGE)

    def action_next(self) -> None:
        """Begin another match."""
        self._match_worker.live_match = None
        for side in SIDES:
            self._pane(side).clear()
        self._enter_state(ArenaState.FIRST_MESSAGE)

    def action_undo(self) -> None:
        """Take the newest vote back."""
        try:
            ballot = self._store.undo_vote()
        except ChatlmError as error:
            self._show_error(error)
            return
        if self.state is ArenaState.REVEALED:
            self.action_next()
        self._show_status(
            f"Taken back: {ballot.left} against {ballot.right}, "
            f"{_describe_verdict(ballot.verdict)}."
        )

    def action_ratings(self) -> None:
        """Show the ratings."""
        self._ui.open_screen(LEADERBOARD_SCREEN)

    def action_stop(self) -> None:
        """Stop both."""
        self._match_worker.stop_event.set()

    def action_back(self) -> None:
        """Go back to the vote."""
        self._enter_state(ArenaState.VOTING)

    def action_leave(self) -> None:
        """Close the arena."""
        self.dismiss()

    def action_send(self) -> None:
        """Send what is typed to both."""
        field = self.query_one(Input)
        text = field.value.strip()
        if not text:
            return
        self._prompt = text
        field.clear()
        for side in SIDES:
            self._pane(side).show_prompt(text)
        self._start_answers(text)

    @on(SideUpdated)
    def _handle_side_updated(self, event: SideUpdated) -> None:
        event.stop()
        spoke = event.side_update
        pane, other = self._pane(spoke.side), self._pane(_other_side(spoke.side))
        pane.show_reply(spoke.text, ended=spoke.ended)
        if not spoke.text and not spoke.ended:
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
        else:
            self._enter_state(ArenaState.VOTING)
            self._show_status(
                "Stopped before both had answered: a lets both answer again, s skips."
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
        """Let both answer, from here on as long as nobody stops them."""
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
        """In a thread, since a reply that is being written ends first."""

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
        told = self.query_one("#told", Static)
        told.set_class(is_error, "-problem")
        told.update(Content(escape_controls(text)))

    def _show_error(self, error: ChatlmError) -> None:
        self._show_status(str(error), is_error=True)


def _other_side(side: Side) -> Side:
    return "right" if side == "left" else "left"


def _describe_verdict(verdict: str) -> str:
    return {"left": "left was better", "right": "right was better", "tie": "a tie"}.get(
        verdict, "both bad"
    )


class ArenaState(Enum):
    """What the person can do now."""

    FIRST_MESSAGE = "ask"
    """Type the message of a new match."""
    ANSWERING = "answers"
    """Read along, or stop both."""
    VOTING = "vote"
    COUNTING = "count"
    """Wait a moment for what the vote changes."""
    NEXT_MESSAGE = "more"
    """Type another message to the same two."""
    REVEALED = "revealed"


STATE_HINTS = {
    ArenaState.FIRST_MESSAGE: "Type a message that both shall answer.",
    ArenaState.ANSWERING: "They answer; chance decides who begins.",
    ArenaState.VOTING: "Which answer is better? The names come after your vote.",
    ArenaState.COUNTING: "Counting …",
    ArenaState.NEXT_MESSAGE: "Type what both shall answer next.",
    ArenaState.REVEALED: "Enter begins the next match.",
}


IMMEDIATE_ACTIONS = {
    "send": (ArenaState.FIRST_MESSAGE, ArenaState.NEXT_MESSAGE),
    "stop": (ArenaState.ANSWERING,),
}
"""The actions that a key does at any time, each with the states that have it."""


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
"""The actions that a key does only once the state was seen, each with the states that have it."""


KEY_DELAY = 0.4
"""Seconds for which a state has been on the screen before a key that belongs to it acts: what was
pressed twice, or meant for the state before, changes nothing unseen."""


ACTIONS_NEEDING_ANSWERS = ("vote", "more")
"""The actions for which both must have answered."""


MUTED = "$foreground 60%"


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
        self._history = Content()
        self._text = ""

    def compose(self) -> ComposeResult:
        """One text."""
        yield Static(id="said")

    def on_mount(self) -> None:
        """Be empty."""
        self.clear()

    @property
    def has_reply(self) -> bool:
        """Whether it answered the newest message already, or begins to."""
        return bool(self._text)

    def clear(self) -> None:
        """Begin a new match."""
        self._history, self._text = Content(), ""
        self.border_title, self.border_subtitle = self._title, ""
        self.remove_class("-won")
        self._redraw()

    def show_prompt(self, prompt: str) -> None:
        """Show the next message, below all that was said before."""
        said = f"{escape_controls(self._text)}\n\n" if self._text else ""
        asked = Content.styled(f"{escape_controls(prompt)}\n\n", MUTED)
        self._history = Content.assemble(self._history, said, asked)
        self.show_reply("", ended=False)

    def show_reply(self, text: str, *, ended: bool) -> None:
        """Show the reply so far."""
        self._text = text
        self.border_subtitle = "" if ended or not text else "writing …"
        self._redraw()

    def show_waiting(self) -> None:
        """Say that the other side is first."""
        self._text = ""
        self.border_subtitle = "has its turn after the other side"
        self._redraw()

    def show_ended(self) -> None:
        """Nothing more comes."""
        self.border_subtitle = ""

    def reveal(self, revealed: RevealedSide, *, won: bool) -> None:
        """Tell who it was, and what the vote did."""
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
            Content.assemble(self._history, escape_controls(self._text))
        )
        self.scroll_end(animate=False)

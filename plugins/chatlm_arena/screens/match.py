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
        draw: chance; None takes the system's.
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

    def __init__(self, ui: Ui, draw: random.Random | None = None) -> None:
        super().__init__()
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE_COLUMNS, "-wide")]
        self._ui = ui
        settings = load_plugin_settings(PLUGIN, Settings)
        self._rules = EloRules(k=settings.k)
        self._store = store.open_arena_store()
        self._chats = ui.side_chats(self._loading)
        self._work = MatchWorker(
            self._store, self._chats, settings, self.post_message, draw or random.SystemRandom()
        )
        self.state = ArenaState.ASK
        self.seen = False
        """Whether the state has been on the screen long enough for a key to mean it."""
        self._asked = ""
        """The newest message."""

    class Loading(Message):
        """A model is being loaded."""

        def __init__(self, words: str) -> None:
            super().__init__()
            self.words = words

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
        self._go(ArenaState.ASK)

    def on_screen_resume(self) -> None:
        """What is shown again has to be seen again."""
        self._await_sight()

    def on_unmount(self) -> None:
        """Free the models that are not the chat's."""
        self._work.stop.set()
        self._close()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Show the keys that do something now."""
        play = self._work.play
        if action in ACTIONS_NEEDING_ANSWERS and play is not None and not play.can_vote:
            return False
        if action in IMMEDIATE_ACTIONS:
            return self.state in IMMEDIATE_ACTIONS[action]
        return action not in DELAYED_ACTIONS or (
            self.seen and self.state in DELAYED_ACTIONS[action]
        )

    def action_vote(self, verdict: str) -> None:
        """Keep the verdict and tell who was who."""
        self._go(ArenaState.COUNT)
        self._vote(Verdict(verdict))

    def action_skip(self) -> None:
        """Begin another match without a vote."""
        self.action_next()

    def action_again(self) -> None:
        """Let both answer once more."""
        for side in SIDES:
            self._pane(side).wait()
        self._begin(None)

    def action_more(self) -> None:
        """Type another message to the same two."""
        self._go(ArenaState.MORE)

    def action_next(self) -> None:
        """Begin another match."""
        self._work.play = None
        for side in SIDES:
            self._pane(side).clear()
        self._go(ArenaState.ASK)

    def action_undo(self) -> None:
        """Take the newest vote back."""
        try:
            ballot = self._store.undo_vote()
        except ChatlmError as error:
            self._complain(error)
            return
        if self.state is ArenaState.REVEALED:
            self.action_next()
        self._say(
            f"Taken back: {ballot.left} against {ballot.right}, {_describe_verdict(ballot.verdict)}."
        )

    def action_ratings(self) -> None:
        """Show the ratings."""
        self._ui.open_screen(LEADERBOARD_SCREEN)

    def action_stop(self) -> None:
        """Stop both."""
        self._work.stop.set()

    def action_back(self) -> None:
        """Go back to the vote."""
        self._go(ArenaState.VOTE)

    def action_leave(self) -> None:
        """Close the arena."""
        self.dismiss()

    def action_send(self) -> None:
        """Send what is typed to both."""
        field = self.query_one(Input)
        text = field.value.strip()
        if not text:
            return
        self._asked = text
        field.clear()
        for side in SIDES:
            self._pane(side).ask(text)
        self._begin(text)

    @on(SideUpdated)
    def _show(self, event: SideUpdated) -> None:
        event.stop()
        spoke = event.spoke
        pane, other = self._pane(spoke.side), self._pane(_other_side(spoke.side))
        pane.say(spoke.text, ended=spoke.ended)
        if not spoke.text and not spoke.ended:
            self._say(STATE_HINTS[ArenaState.ANSWERS])
            if not other.has_text:
                other.wait()

    @on(AnswersEnded)
    def _end(self, event: AnswersEnded) -> None:
        event.stop()
        for side in SIDES:
            self._pane(side).stop()
        play = self._work.play
        if play is None:
            self.action_next()
            self.query_one(Input).value = self._asked
        elif play.can_vote:
            self._go(ArenaState.VOTE)
        else:
            self._go(ArenaState.VOTE)
            self._say("Stopped before both had answered: a lets both answer again, s skips.")
        if event.error is not None:
            self._complain(event.error)

    @on(Voted)
    def _reveal(self, event: Voted) -> None:
        event.stop()
        if event.error is not None:
            self._go(ArenaState.VOTE)
            self._complain(event.error)
            return
        for side, who in zip(SIDES, event.revealed, strict=True):
            self._pane(side).reveal(who, won=event.verdict == side)
        self._go(ArenaState.REVEALED)

    @on(Loading)
    def _tell_loading(self, event: Loading) -> None:
        event.stop()
        self._say(event.words)

    def _begin(self, text: str | None) -> None:
        """Let both answer, from here on as long as nobody stops them."""
        self._work.stop.clear()
        self._go(ArenaState.ANSWERS)
        self._answer(text)

    @work(thread=True, exclusive=True, group="arena", exit_on_error=False)
    def _answer(self, text: str | None) -> None:
        if text is None:
            self._work.again()
        else:
            self._work.send(text)

    @work(thread=True, exclusive=True, group="arena", exit_on_error=False)
    def _vote(self, verdict: Verdict) -> None:
        self._work.vote(verdict, self._rules)

    def _loading(self, words: str) -> None:
        self.post_message(self.Loading(words))

    def _close(self) -> None:
        """In a thread, since a reply that is being written ends first."""

        def close() -> None:
            self._chats.__exit__(None, None, None)
            self._store.__exit__(None, None, None)

        Thread(target=close, daemon=True).start()

    def _go(self, state: ArenaState) -> None:
        self.state = state
        self._say(STATE_HINTS[state])
        field = self.query_one(Input)
        typing = state in (ArenaState.ASK, ArenaState.MORE)
        field.disabled = not typing
        if typing:
            field.focus()
        else:
            self.query_one(ArenaPane).focus()
        self._await_sight()

    def _await_sight(self) -> None:
        self.seen = False
        self.refresh_bindings()
        self.call_after_refresh(self.set_timer, KEY_DELAY, partial(self._see, self.state))

    def _see(self, state: ArenaState) -> None:
        self.seen = self.seen or state is self.state
        self.refresh_bindings()

    def _pane(self, side: Side) -> ArenaPane:
        return self.query_one(f"#{side}", ArenaPane)

    def _say(self, text: str, *, problem: bool = False) -> None:
        told = self.query_one("#told", Static)
        told.set_class(problem, "-problem")
        told.update(Content(escape_controls(text)))

    def _complain(self, error: ChatlmError) -> None:
        self._say(str(error), problem=True)


def _other_side(side: Side) -> Side:
    return "right" if side == "left" else "left"


def _describe_verdict(verdict: str) -> str:
    return {"left": "left was better", "right": "right was better", "tie": "a tie"}.get(
        verdict, "both bad"
    )


class ArenaState(Enum):
    """What the person can do now."""

    ASK = "ask"
    """Type the message of a new match."""
    ANSWERS = "answers"
    """Read along, or stop both."""
    VOTE = "vote"
    COUNT = "count"
    """Wait a moment for what the vote changes."""
    MORE = "more"
    """Type another message to the same two."""
    REVEALED = "revealed"


STATE_HINTS = {
    ArenaState.ASK: "Type a message that both shall answer.",
    ArenaState.ANSWERS: "They answer; chance decides who begins.",
    ArenaState.VOTE: "Which answer is better? The names come after your vote.",
    ArenaState.COUNT: "Counting …",
    ArenaState.MORE: "Type what both shall answer next.",
    ArenaState.REVEALED: "Enter begins the next match.",
}


IMMEDIATE_ACTIONS = {
    "send": (ArenaState.ASK, ArenaState.MORE),
    "stop": (ArenaState.ANSWERS,),
}
"""The actions that a key does at any time, each with the states that have it."""


DELAYED_ACTIONS = {
    "vote": (ArenaState.VOTE,),
    "skip": (ArenaState.VOTE,),
    "again": (ArenaState.VOTE,),
    "more": (ArenaState.VOTE,),
    "next": (ArenaState.REVEALED,),
    "undo": (ArenaState.VOTE, ArenaState.REVEALED),
    "ratings": (ArenaState.VOTE, ArenaState.REVEALED),
    "back": (ArenaState.MORE,),
    "leave": (ArenaState.ASK, ArenaState.VOTE, ArenaState.COUNT, ArenaState.REVEALED),
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
        said = f"{escape_controls(self._text)}\n\n" if self._text else ""
        asked = Content.styled(f"{escape_controls(prompt)}\n\n", MUTED)
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

    def reveal(self, who: RevealedSide, *, won: bool) -> None:
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
            Content.styled(f"{one_line(who.told, 200)}\n\n", "$text-success" if won else MUTED),
            self._before,
        )
        self._draw()
        self.scroll_home(animate=False)

    def _draw(self) -> None:
        self.query_one("#said", Static).update(
            Content.assemble(self._before, escape_controls(self._text))
        )
        self.scroll_end(animate=False)

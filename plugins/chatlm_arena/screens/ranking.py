"""The ranking screen: several answers at once, put in order with their numbers."""

from __future__ import annotations

import random
import time
from contextlib import closing
from enum import Enum
from functools import partial
from threading import Event, Thread
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Input, Static

from chatlm import ChatlmError, Ui, escape_controls, load_plugin_settings
from chatlm.plugin_kit.screens import KeyHints
from chatlm_arena import PLUGIN
from chatlm_arena.actions import LEADERBOARD_SCREEN
from chatlm_arena.live_ranking import AnswerUpdate, LiveRanking, choose_ranked, describe_failure
from chatlm_arena.match import RevealedSide
from chatlm_arena.ranking import MAX_RANKED
from chatlm_arena.ratings import EloRules
from chatlm_arena.screens.match import KEY_DELAY, WIDE_COLUMNS, ArenaPane, MessageInput
from chatlm_arena.screens.worker import UPDATE_INTERVAL
from chatlm_arena.settings import Settings
from chatlm_arena.store import store as store_module


class RankingState(Enum):
    """What the user can do now."""

    MESSAGE = "message"
    ANSWERING = "answering"
    RANKING = "ranking"
    SAVING = "saving"
    REVEALED = "revealed"
    FAILED = "failed"
    """Not all have answered."""


HINTS = {
    RankingState.MESSAGE: "Ranking: all set-ups answer blind. You put the answers in order.",
    RankingState.ANSWERING: "All answer, without their names.",
    RankingState.RANKING: "Press the numbers, the best first; = makes the next one equal.",
    RankingState.SAVING: "Saving the votes …",
    RankingState.REVEALED: "Press Enter for the next ranking.",
    RankingState.FAILED: "Press Enter for another ranking.",
}


class RankingScreen(Screen[None]):
    """Type a message, read all answers, and press their numbers from the best to the worst.

    Args:
        ui: the chat screen's API.
        rng: random numbers; None uses the system's.
    """

    DEFAULT_CSS = """
    RankingScreen {
        & #status { height: auto; padding: 0 1; color: $text-muted; }
        & #status.-problem { color: $text-error; }
        & #prompt { height: auto; max-height: 3; padding: 0 1; }
        & #answers { height: 1fr; layout: grid; grid-size: 1; grid-rows: auto; }
        & #answers ArenaPane { height: auto; min-height: 5; max-height: 14; }
        &.-wide #answers { grid-size: 2; }
        & KeyHints { padding: 0 1; background: $panel; }
        & Input { margin: 0; border: round $foreground 30%; background: $background; }
        & Input:focus { border: round $primary; }
        & Input > .input--placeholder { color: $text-muted; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(number), f"place({number})", "place", show=number == 1, key_display="1…9")
            for number in range(1, MAX_RANKED + 1)
        ),
        Binding("equals_sign", "equal", "equal", key_display="="),
        Binding("backspace", "back", "take back"),
        Binding("enter", "save", "save"),
        Binding("enter", "next", "next ranking"),
        Binding("s", "skip", "skip"),
        Binding("u", "undo", "undo"),
        Binding("f", "ratings", "ratings"),
        Binding("escape", "stop", "stop"),
        Binding("escape", "leave", "close"),
    ]

    def __init__(self, ui: Ui, rng: random.Random | None = None) -> None:
        super().__init__()
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE_COLUMNS, "-wide")]
        self._ui = ui
        self._elo_rules = EloRules(k=load_plugin_settings(PLUGIN, Settings).k)
        self._store = store_module.open_arena_store()
        self._chats = ui.side_chats(self._post_loading)
        self._rng = rng or random.SystemRandom()
        self._stop = Event()
        self._ranking: LiveRanking | None = None
        self.state = RankingState.MESSAGE
        self.keys_armed = False
        """Whether the state has been visible long enough for keys that act on it."""
        self.order: list[list[int]] = []
        """Indices of the answers placed so far, the best first; equal ones together."""
        self._joins = False
        """Whether the next number joins the last place."""

    class Loading(Message):
        """A model is being loaded."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Started(Message):
        """The contestants are chosen and begin to answer."""

        def __init__(self, size: int, text: str) -> None:
            super().__init__()
            self.size = size
            self.text = text

    class Updated(Message):
        """An answer has grown or ended."""

        def __init__(self, update: AnswerUpdate) -> None:
            super().__init__()
            self.update = update

    class Ended(Message):
        """All have answered, or were stopped."""

        def __init__(self, error: ChatlmError | None) -> None:
            super().__init__()
            self.error = error

    class Saved(Message):
        """The votes were saved, or that failed."""

        def __init__(
            self, revealed: list[RevealedSide], places: list[int], error: ChatlmError | None = None
        ) -> None:
            super().__init__()
            self.revealed = revealed
            self.places = places
            self.error = error

    def compose(self) -> ComposeResult:
        """Yield the status line, the answers, the input and the footer."""
        yield Static(id="status")
        yield Static(id="prompt")
        with VerticalScroll(id="answers"):
            for number in range(1, MAX_RANKED + 1):
                yield ArenaPane(str(number), id=f"answer-{number}")
        yield MessageInput(placeholder="Message to all", id="message")
        yield KeyHints()

    def on_mount(self) -> None:
        """Wait for the first message."""
        self._begin()

    def on_screen_resume(self) -> None:
        """Disarm the keys, since the screen has just become visible again."""
        self._disarm_keys()

    def on_unmount(self) -> None:
        """Stop the worker, and close chats and database once a running answer has ended."""
        self._stop.set()

        def close() -> None:
            self._chats.__exit__(None, None, None)
            self._store.__exit__(None, None, None)

        Thread(target=close, daemon=True).start()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Enable only the keys that work in the current state."""
        needed = ACTION_STATES.get(action)
        if needed is None:
            return True
        if self.state not in needed or (action in DELAYED and not self.keys_armed):
            return False
        if action == "place":
            return isinstance(parameters[0], int) and parameters[0] <= self._answer_count
        if action == "save":
            return len(self._placed) >= self._answer_count - 1
        return action not in ("equal", "back") or bool(self.order)

    @property
    def _answer_count(self) -> int:
        return self._ranking.size if self._ranking else 0

    @property
    def _placed(self) -> list[int]:
        return [index for group in self.order for index in group]

    def action_send(self) -> None:
        """Send the message to all."""
        field = self.query_one(Input)
        text = field.value.strip()
        if self.state is RankingState.MESSAGE and text:
            field.clear()
            self._stop.clear()
            self._enter_state(RankingState.ANSWERING)
            self._run_answers(text)

    def action_place(self, number: int) -> None:
        """Give an answer the next place; one that has a place keeps it."""
        if number - 1 in self._placed:
            return
        if self._joins:
            self.order[-1].append(number - 1)
        else:
            self.order.append([number - 1])
        self._joins = False
        self._show_places()

    def action_equal(self) -> None:
        """Let the next number join the last place."""
        self._joins = not self._joins
        self._show_places()

    def action_back(self) -> None:
        """Take back the last number."""
        self._joins = False
        self.order[-1].pop()
        if not self.order[-1]:
            self.order.pop()
        self._show_places()

    def action_save(self) -> None:
        """Save the order; the one that is left gets the last place."""
        rest = [index for index in range(self._answer_count) if index not in self._placed]
        groups = [*self.order, rest] if rest else self.order
        places, place = [0] * self._answer_count, 1
        for group in groups:
            for index in group:
                places[index] = place
            place += len(group)
        self._enter_state(RankingState.SAVING)
        self._run_save(places)

    def action_next(self) -> None:
        """Start another ranking."""
        self._begin()

    def action_skip(self) -> None:
        """Start another ranking without votes."""
        self._begin()

    def action_undo(self) -> None:
        """Undo the newest vote, with all of its ranking."""
        try:
            self._store.undo_vote()
        except ChatlmError as error:
            self._show_status(str(error), is_error=True)
            return
        if self.state is RankingState.REVEALED:
            self._begin()
        self._show_status("Undone: the last ranking or vote.")

    def action_ratings(self) -> None:
        """Show the ratings."""
        self._ui.open_screen(LEADERBOARD_SCREEN)

    def action_stop(self) -> None:
        """Stop all."""
        self._stop.set()

    def action_leave(self) -> None:
        """Close the ranking."""
        self.dismiss()

    @on(Loading)
    def _handle_loading(self, event: Loading) -> None:
        event.stop()
        self._show_status(event.text)

    @on(Started)
    def _handle_started(self, event: Started) -> None:
        event.stop()
        for index in range(MAX_RANKED):
            pane = self._pane(index)
            pane.display = index < event.size
            pane.clear()
            pane.border_subtitle = "waiting"
        self._show_prompt(event.text)

    @on(Updated)
    def _handle_updated(self, event: Updated) -> None:
        event.stop()
        update = event.update
        self._pane(update.index).show_reply(update.text, ended=update.ended)

    @on(Ended)
    def _handle_ended(self, event: Ended) -> None:
        event.stop()
        if self._ranking is not None and self._ranking.can_rank and event.error is None:
            self._enter_state(RankingState.RANKING)
            return
        if self._ranking is None:
            self._begin()
        else:
            self._enter_state(RankingState.FAILED)
        self._show_status(describe_failure(event.error), is_error=event.error is not None)

    @on(Saved)
    def _handle_saved(self, event: Saved) -> None:
        event.stop()
        if event.error is not None:
            self._enter_state(RankingState.RANKING)
            self._show_status(str(event.error), is_error=True)
            return
        for index, (who, place) in enumerate(zip(event.revealed, event.places, strict=True)):
            self._pane(index).reveal(who, won=place == 1)
            self._pane(index).border_title = Content(f"{place}. {who.name}")
        self._enter_state(RankingState.REVEALED)

    @work(thread=True, exclusive=True, group="ranking", exit_on_error=False)
    def _run_answers(self, text: str) -> None:
        error = None
        self._ranking = None
        try:
            whole, images = self._ui.read_message(text)
            ranking = LiveRanking(
                self._store, self._chats, choose_ranked(self._store, self._rng), self._rng
            )
            self._ranking = ranking
            self.post_message(self.Started(ranking.size, whole))
            with closing(ranking.send(whole, images)) as updates:
                last: dict[int, float] = {}
                for update in updates:
                    now = time.monotonic()
                    if update.ended or now - last.get(update.index, 0.0) >= UPDATE_INTERVAL:
                        last[update.index] = now
                        self.post_message(self.Updated(update))
                    if self._stop.is_set():
                        break
        except ChatlmError as problem:
            error = problem
        self.post_message(self.Ended(error))

    @work(thread=True, exclusive=True, group="ranking", exit_on_error=False)
    def _run_save(self, places: list[int]) -> None:
        try:
            if self._ranking is not None:
                revealed = self._ranking.rank(places, self._elo_rules)
                self.post_message(self.Saved(revealed, places))
        except ChatlmError as error:
            self.post_message(self.Saved([], places, error))

    def _post_loading(self, text: str) -> None:
        self.post_message(self.Loading(text))

    def _begin(self) -> None:
        self._ranking = None
        self.order, self._joins = [], False
        names = [each for each in self._store.contestants() if each.setup is not None]
        for index in range(MAX_RANKED):
            self._pane(index).display = index == 0
        self._pane(0).clear(
            f"{min(len(names), MAX_RANKED)} set-ups answer your message. Their order is saved as "
            "a vote on each pair."
            if len(names) > 1
            else "It takes two set-ups. /arena add NAME, typed in a chat, enters that chat's."
        )
        self._pane(0).border_title = ""
        self._show_prompt("")
        self._enter_state(RankingState.MESSAGE)

    def _enter_state(self, state: RankingState) -> None:
        self.state = state
        if state is not RankingState.ANSWERING:
            self._show_status(HINTS[state])
        field = self.query_one(Input)
        field.disabled = state is not RankingState.MESSAGE
        if state is RankingState.MESSAGE:
            field.focus()
        else:
            self._pane(0).focus()
        if state is RankingState.RANKING:
            self._show_places()
        self._disarm_keys()

    def _disarm_keys(self) -> None:
        self.keys_armed = False
        self.refresh_bindings()
        self.call_after_refresh(self.set_timer, KEY_DELAY, partial(self._arm_keys, self.state))

    def _arm_keys(self, state: RankingState) -> None:
        self.keys_armed = self.keys_armed or state is self.state
        self.refresh_bindings()

    def _show_places(self) -> None:
        """Show each answer's place in its frame, and the order in the status line."""
        place = 1
        for index in range(self._answer_count):
            self._pane(index).border_subtitle = ""
        for group in self.order:
            for index in group:
                self._pane(index).border_subtitle = f"place {place}"
            place += len(group)
        order = " > ".join(" = ".join(str(index + 1) for index in group) for group in self.order)
        self._show_status(
            f"{order}{' =' if self._joins else ''}" if order else HINTS[RankingState.RANKING]
        )
        self.refresh_bindings()

    def _pane(self, index: int) -> ArenaPane:
        return self.query_one(f"#answer-{index + 1}", ArenaPane)

    def _show_prompt(self, text: str) -> None:
        prompt = self.query_one("#prompt", Static)
        prompt.display = bool(text)
        prompt.update(Content(escape_controls(text)))

    def _show_status(self, text: str, *, is_error: bool = False) -> None:
        status = self.query_one("#status", Static)
        status.set_class(is_error, "-problem")
        status.update(Content(escape_controls(text)))


ACTION_STATES = {
    "send": (RankingState.MESSAGE,),
    "stop": (RankingState.ANSWERING,),
    "place": (RankingState.RANKING,),
    "equal": (RankingState.RANKING,),
    "back": (RankingState.RANKING,),
    "save": (RankingState.RANKING,),
    "skip": (RankingState.RANKING,),
    "next": (RankingState.REVEALED, RankingState.FAILED),
    "undo": (RankingState.RANKING, RankingState.REVEALED),
    "ratings": (RankingState.RANKING, RankingState.REVEALED),
    "leave": (
        RankingState.MESSAGE,
        RankingState.RANKING,
        RankingState.SAVING,
        RankingState.REVEALED,
        RankingState.FAILED,
    ),
}
"""The states in which each action is available; others are always."""

DELAYED = tuple(name for name in ACTION_STATES if name not in ("send", "stop"))
"""Actions whose keys work only after `KEY_DELAY`."""

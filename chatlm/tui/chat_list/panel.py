"""The chat list panel: search box, list or results, key hints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, TypeAlias

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.timer import Timer
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from chatlm.errors import Cancelled, ChatlmError
from chatlm.store.search import ChatSearchHit
from chatlm.store.store import Store
from chatlm.text import escape_controls, one_line
from chatlm.tui import commands
from chatlm.tui.chat_list import rows
from chatlm.tui.chat_list.chat_list import ChatList
from chatlm.tui.chat_list.rows import RowList, SearchBox, list_bindings
from chatlm.tui.widgets.hints import Hints
from chatlm.tui.workers import WriteQueue, to_user_error

SEARCH_DELAY_SECONDS = 0.15
"""Seconds without a key press before a search starts."""


MAX_CALLS = 20
"""Maximum number of calls of tools among the results, which follow the messages."""

MAX_THOUGHTS = 20
"""Maximum number of thoughts among the results, which follow all others."""


BY_MEANING = "~"
"""Begins a query that is searched by meaning."""

SearchByMeaning = Callable[
    [str, Callable[[int, int], None], Callable[[], bool]], Sequence[ChatSearchHit]
]
"""Searches for a query; reports the texts embedded and all that had to be, and asks whether to
stop."""


@dataclass
class SearchProgress(Message):
    """A search by meaning reads texts that are new since the last one."""

    query: str
    done: int
    total: int


@dataclass
class SearchFinished(Message):
    """The results of a search."""

    query: str
    hits: Sequence[ChatSearchHit] = ()
    error: ChatlmError | None = None


class ChatsPanel(Vertical):
    """Searches all chats for the text in the box; an empty box shows the list.

    Args:
        store: where the chats are.
        now: returns the current time, for headings and ages.
        write_queue: runs the changes.
        search_by_meaning: searches for what follows `BY_MEANING`; used in a thread.
        with_asked: whether the chats of `chatlm ask` are listed.
    """

    DEFAULT_CSS = """
    ChatsPanel {
        width: 32;
        max-width: 50%;
        height: 1fr;
        background: $foreground 4%;

        &:focus-within { background: $foreground 7%; }
        & > SearchBox { margin: 0 0 1 0; }
        & > .legend { height: 1; margin: 1 0 0 0; padding: 0 1; color: $text-muted; }
        & > Hints { padding: 0 1; min-height: 2; }
        & > .legend, & > Hints { visibility: hidden; }
        &:focus-within > .legend, &:focus-within > Hints { visibility: visible; }
        &.-searching > ChatList { display: none; }
        &.-searching > HitList { display: block; }
    }
    """

    @dataclass
    class SearchLeft(Message):
        """The user has ended the search."""

    ChatOpened: TypeAlias = ChatList.ChatOpened
    ChatDeleted: TypeAlias = ChatList.ChatDeleted
    ChatsChanged: TypeAlias = ChatList.ChatsChanged

    def __init__(
        self,
        store: Store,
        now: Callable[[], datetime],
        write_queue: WriteQueue,
        *,
        search_by_meaning: SearchByMeaning = lambda query, progress, is_cancelled: (),
        with_asked: bool = True,
    ) -> None:
        super().__init__(id="chats-panel")
        self._search_by_meaning = search_by_meaning
        self.chat_list = ChatList(store, now, write_queue, with_asked=with_asked)
        self._store = store
        self._search_box = SearchBox()
        self._hit_list = HitList()
        self._search_timer: Timer | None = None
        self._search_running = False
        """Whether a search is running; the next one waits for it."""
        self._shown_query = ""
        """The query of the current results."""
        self._after_search: Callable[[], None] | None = None
        """Called when the results are there."""

    def compose(self) -> ComposeResult:
        """Yield the box, the list, the results and the key hints."""
        yield self._search_box
        yield self.chat_list
        yield self._hit_list
        yield Static(rows.LEGEND, classes="legend")
        yield Hints()

    def reload(self, current_id: int | None, answering_id: int | None) -> None:
        """Read the chats again; see `ChatList.reload`."""
        self.chat_list.reload(current_id, answering_id)
        if self._search_text:
            self._start_search()

    def focus_list(self) -> None:
        """Focus the list or the results, or the box if they are empty."""
        if not self.has_class("-searching"):
            self.screen.set_focus(self.chat_list)
        else:
            self.screen.set_focus(self._hit_list if self._hit_list.hits else self._search_box)

    def search(self, query: str = "") -> None:
        """Search and focus the results; without a query, focus the box."""
        with self.prevent(SearchBox.Changed):
            self._search_box.value = query
        self.screen.set_focus(self._search_box)
        if self._search_text:
            self._after_search = self.focus_list
            self._start_search()
        else:
            self._show_list()

    def leave_search(self) -> bool:
        """End the search if box or results have the focus; return False if neither has."""
        if self.screen.focused not in (self._search_box, self._hit_list):
            return False
        self._search_box.value = ""
        self._show_list()
        return True

    def reset_search(self) -> None:
        """Clear the search and focus the list."""
        self._search_box.value = ""
        self._show_list()
        self.focus_list()

    def rename_chat(self, conversation_id: int, title: str | None = None) -> None:
        """Rename a chat in the list."""
        self.chat_list.rename_chat(conversation_id, title)

    def pin_chat(self, conversation_id: int) -> None:
        """Pin or unpin a chat in the list."""
        self.chat_list.pin_chat(conversation_id)

    def delete_chat(self, conversation_id: int) -> None:
        """Delete a chat from the list."""
        self.chat_list.delete_chat(conversation_id)

    def undo_delete(self) -> None:
        """Restore the last deleted chat."""
        self.chat_list.undo_delete()

    @property
    def _search_text(self) -> str:
        return self._search_box.value.strip()

    @on(SearchBox.Changed)
    def _handle_query_changed(self, event: SearchBox.Changed) -> None:
        event.stop()
        self._after_search = None
        if self._search_text:
            self._schedule_search()
        else:
            self._show_list()

    @on(SearchBox.Submitted)
    def _handle_query_submitted(self, event: SearchBox.Submitted) -> None:
        event.stop()
        self._run_after_search(self._open_first_hit)

    @on(SearchBox.FocusBelow)
    def _handle_focus_below(self, event: SearchBox.FocusBelow) -> None:
        event.stop()
        self._run_after_search(self.focus_list)

    def _run_after_search(self, action: Callable[[], None]) -> None:
        """Run the callback when the results belong to the text in the box."""
        if self._search_text == self._shown_query:
            action()
        else:
            self._after_search = action

    def _open_first_hit(self) -> None:
        if self._hit_list.hits:
            self.post_message(open_message(self._hit_list.hits[0]))

    @on(SearchBox.Closed)
    def _handle_search_closed(self, event: SearchBox.Closed) -> None:
        event.stop()
        if self.leave_search():
            self.post_message(self.SearchLeft())

    def _schedule_search(self) -> None:
        if self._search_timer is not None:
            self._search_timer.stop()
        self._search_timer = self.set_timer(SEARCH_DELAY_SECONDS, self._start_search)

    def _start_search(self) -> None:
        """Search for the text in the box, after any running search."""
        if self._search_running:
            self._schedule_search()
        elif self._search_text:
            self._search_running = True
            self._search_worker(self._search_text)

    @work(thread=True, group="search", exit_on_error=False)
    def _search_worker(self, query: str) -> None:
        try:
            if query.startswith(BY_MEANING):
                self._tell_progress(query, 0, 0)
                hits = self._search_by_meaning(
                    query.removeprefix(BY_MEANING).strip(),
                    lambda done, total: self._tell_progress(query, done, total),
                    lambda: not self.is_attached or self._search_text != query,
                )
                self.post_message(SearchFinished(query, hits))
                return
            hits = self._store.search(query)
            calls = self._store.search(query, MAX_CALLS, part="tools")
            thoughts = self._store.search(query, MAX_THOUGHTS, part="reasoning")
            self.post_message(SearchFinished(query, [*hits, *calls, *thoughts]))
        except Cancelled:
            self.post_message(SearchFinished(query))
        except Exception as problem:  # the embedder of a plugin may fail in any way
            error = to_user_error(problem, "search in the chats")
            self.post_message(SearchFinished(query, error=error))

    def _tell_progress(self, query: str, done: int, total: int) -> None:
        self.post_message(SearchProgress(query, done, total))

    @on(SearchProgress)
    def _show_progress(self, event: SearchProgress) -> None:
        if event.query != self._search_text:
            return
        if event.total:
            self._hit_list.show_text(f"Reading new messages: {event.done:,} of {event.total:,}")
        elif not self.has_class("-searching"):
            self._hit_list.show_text("Searching by meaning…")  # the embedder may have to be loaded
        self.add_class("-searching")

    @on(SearchFinished)
    def _show_hits(self, event: SearchFinished) -> None:
        self._search_running = False
        if event.error is not None:
            self.notify(escape_controls(str(event.error)), severity="error", markup=False)
            if event.query == self._search_text and event.query.startswith(BY_MEANING):
                self._hit_list.show_text("The search failed.")  # no longer its progress
        elif event.query == self._search_text:
            self._shown_query = event.query
            self._hit_list.show_hits(event.hits, event.query)
            self.add_class("-searching")
            if self._after_search is not None:
                self._after_search()
            self._after_search = None

    def _show_list(self) -> None:
        self._shown_query = ""
        self.remove_class("-searching")


SNIPPET_LEAD, SNIPPET_LENGTH = 16, 64
"""Characters of a snippet before its first match and in total: about three rows."""


MATCH_STYLE = "bold underline $text"
"""Style of the matched words."""


ROLE_LABELS = {"user": "you", "assistant": "reply", "system": "system"}


class HitRow(Option):
    """A row with one result."""

    def __init__(self, prompt: Content, hit: ChatSearchHit) -> None:
        super().__init__(prompt)
        self.hit = hit


class HitList(RowList):
    """Search results; Enter or a click opens the chat at the turn."""

    DEFAULT_CSS = """
    HitList { display: none; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        *list_bindings([commands.ALL["list-search"]]),
        Binding("escape", "leave", "back", priority=True),
    ]

    def __init__(self) -> None:
        super().__init__(id="hits", markup=False)
        self.hits: Sequence[ChatSearchHit] = ()
        """The results in the list."""

    def show_hits(self, hits: Sequence[ChatSearchHit], query: str) -> None:
        """Show these results, or that there are none."""
        row = self.highlighted if hits == self.hits else None
        self.hits = hits
        self.clear_options()
        self.add_options(_hit_rows(hits) if hits else [Option(_no_hits(query), disabled=True)])
        self.highlighted = row

    def show_text(self, text: str) -> None:
        """Show a text in place of results."""
        self.hits = ()
        self.clear_options()
        self.add_option(Option(Content(text), disabled=True))

    def action_leave(self) -> None:
        """Cancel the search."""
        self.post_message(SearchBox.Closed())

    @on(OptionList.OptionSelected)
    def _open_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if isinstance(event.option, HitRow):
            self.post_message(open_message(event.option.hit))


def open_message(hit: ChatSearchHit) -> ChatList.ChatOpened:
    """Return the message that opens the chat at the turn."""
    return ChatList.ChatOpened(hit.conversation_id, hit.turn_id, hit.part != "text")


def _no_hits(query: str) -> Content:
    if query.startswith(BY_MEANING):
        wanted = query.removeprefix(BY_MEANING).strip()
        return Content(
            f"Nothing similar to “{one_line(wanted, 60)}”."
            if wanted
            else "Describe what you are looking for."
        )
    return Content(
        f"No results for “{one_line(query, 60)}”.\n\nAll words must be in one"
        f" message; the last may be incomplete. Begin with {BY_MEANING} to search by meaning."
    )


def _hit_rows(hits: Iterable[ChatSearchHit]) -> Iterator[Option]:
    """Yield results with headings; a chat's title precedes its first result of each kind."""
    group, chat = "", 0
    for hit in hits:
        heading = "Titles" if hit.role is None else "Messages"
        heading = {"reasoning": "Thoughts", "tools": "Calls of tools"}.get(hit.part, heading)
        if heading != group:
            yield Option(Content(f"\n{heading}" if group else heading), disabled=True)
            group, chat = heading, 0
        lines = []
        if hit.role is not None and hit.conversation_id != chat:
            lines.append(Content.styled(one_line(hit.title, 28) or rows.UNTITLED, "bold"))
        chat = hit.conversation_id
        lines.append(_snippet(hit))
        yield HitRow(Content("\n").join(lines), hit)


def _snippet(hit: ChatSearchHit) -> Content:
    """Return the text around the first match, with all matches marked."""
    start, end = _snippet_window(hit.snippet, *(hit.spans[0] if hit.spans else (0, 0)))
    parts: list[str | tuple[str, str]] = []
    if hit.role is not None:
        label = {"reasoning": "thought", "tools": "call"}.get(hit.part, ROLE_LABELS[hit.role])
        parts.append((f"{label} ", "$foreground 75%"))
    parts.append("…" if start else "")
    at = start
    for left, right in hit.spans:
        parts.append(escape_controls(hit.snippet[at : min(left, end)]))
        parts.append((escape_controls(hit.snippet[left : min(right, end)]), MATCH_STYLE))
        at = right
    parts.append(escape_controls(hit.snippet[at:end]))
    parts.append("…" if end < len(hit.snippet) else "")
    return Content.assemble(*parts)


def _snippet_window(snippet: str, left: int, right: int) -> tuple[int, int]:
    """Return start and end of the snippet around a match, at word boundaries if possible."""
    start = snippet.rfind(" ", 0, max(left - SNIPPET_LEAD, 0)) + 1
    end = start + SNIPPET_LENGTH
    if end >= len(snippet):
        return start, len(snippet)
    space = snippet.rfind(" ", start, end)
    return start, space if space > right else end

"""The paged chat list: open, rename, pin, delete, undo."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import ClassVar, TypeVar

from textual import on
from textual.binding import BindingType
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from chatlm.chat.summary import suggest_title
from chatlm.errors import ChatlmError, UsageError
from chatlm.store.export import display_title
from chatlm.store.queries import ChatListEntry
from chatlm.store.store import Store
from chatlm.text import escape_controls, one_line
from chatlm.tui import commands
from chatlm.tui.chat_list import rows
from chatlm.tui.chat_list.rows import RowList, list_bindings, nearest_enabled
from chatlm.tui.screens.dialogs import PromptScreen
from chatlm.tui.workers import ReadQueue, WriteQueue, to_user_error
from chatlm.types.conversations import Conversation

T = TypeVar("T")


PAGE_SIZE = 100
"""Chats per page."""


PREFETCH_ROWS = 10
"""Rows below the visible ones that are loaded in advance."""


TOAST_SECONDS = 8


class ChatList(RowList):
    """Enter or a click opens a chat; the keys of `commands.LIST` change the highlighted one.

    Its methods accept any saved chat and report the result in toasts.

    Args:
        store: where the chats are.
        now: returns the current time, for headings and ages.
        write_queue: makes the changes.
        with_asked: whether the chats of `chatlm ask` are listed.
    """

    DEFAULT_CSS = """
    ChatList { text-wrap: nowrap; text-overflow: ellipsis; }
    """

    BINDINGS: ClassVar[list[BindingType]] = list_bindings(commands.CHAT_LIST)

    @dataclass
    class ChatOpened(Message):
        """The user opened this chat, at a turn if it came from a search."""

        conversation_id: int
        turn_id: int | None = None
        shows_thoughts: bool = False
        """Whether the search found the thoughts of the turn."""

    @dataclass
    class ChatDeleted(Message):
        """A chat was deleted."""

        conversation_id: int

    @dataclass
    class ChatsChanged(Message):
        """A chat was renamed, pinned, deleted or restored; the list is up to date."""

    def __init__(
        self,
        store: Store,
        now: Callable[[], datetime],
        write_queue: WriteQueue,
        *,
        with_asked: bool = True,
    ) -> None:
        super().__init__(id="chats", markup=False)
        self._with_asked = with_asked
        self._store = store
        self._now = now
        self._write_queue = write_queue
        self._reads = ReadQueue(write_queue)
        self._edits = ChatEdits(store)
        self._chats: list[ChatListEntry] = []
        """The loaded chats, in order."""
        self._reload_count = 0
        """Identifies the newest reading of the chats."""
        self._shown_count = 0
        """The reading that is shown."""
        self._loading_more = False
        self._loaded_ids: set[int] = set()
        self._has_more = False
        """Whether the store has more chats."""
        self._last_group = ""
        self._current_id: int | None = None
        self._answering_id: int | None = None
        self._deleting_ids: set[int] = set()
        """Chats hidden from the list while they are being deleted."""

    def reload(self, current_id: int | None, answering_id: int | None) -> None:
        """Reload the list in a thread, and mark the open and the answering chat.

        The highlight and the scroll position stay, unless another chat was opened.
        """
        keep = self.is_focused_widget or current_id == self._current_id
        self._current_id, self._answering_id = current_id, answering_id
        self._reload_rows(keep_scroll=keep)

    @property
    def up_to_date(self) -> bool:
        """Whether it shows what was read last, and nothing is being read."""
        return self._shown_count == self._reload_count and not self._loading_more

    def rename_chat(self, conversation_id: int, title: str | None = None) -> None:
        """Rename a chat; None asks for the title, an empty one removes it."""
        if title is None:
            reading = self._reads.submit(partial(self._store.conversation, conversation_id))
            self.run_worker(self._await_job(reading, self._prompt_for_title), exit_on_error=False)
        else:
            self._submit_write(
                partial(self._edits.rename, conversation_id, title),
                lambda _: self._reload_and_notify(),
            )

    def pin_chat(self, conversation_id: int) -> None:
        """Pin or unpin a chat."""
        self._submit_write(partial(self._edits.toggle_pinned, conversation_id), self._show_pinned)

    def delete_chat(self, conversation_id: int) -> None:
        """Delete a chat unless its reply is running; `undo_delete` restores it."""
        with self._reporting_errors():
            if conversation_id == self._answering_id:
                stop = commands.key_of("stop")
                raise UsageError(
                    "A chat with a running reply cannot be deleted.",
                    hint=f"Stop the reply first, with {stop}.",
                )
            self._deleting_ids.add(conversation_id)
            self._show_rows()  # at once: the next key is meant for another chat
            deleting = self._write_queue.submit(partial(self._edits.delete, conversation_id))
            self.run_worker(self._await_delete(conversation_id, deleting), exit_on_error=False)

    def undo_delete(self) -> None:
        """Restore the last deleted chat; repeat for earlier ones."""
        self._submit_write(self._edits.undo, self._show_restored)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide actions that are not available."""
        if action in ("select", "rename", "pin", "delete"):
            return self._highlighted_id is not None
        return bool(self._deleting_ids) or self._edits.can_undo if action == "undo" else True

    def action_rename(self) -> None:
        """Ask for the highlighted chat's title."""
        if self._highlighted_id is not None:
            self.rename_chat(self._highlighted_id)

    def action_pin(self) -> None:
        """Pin or unpin the highlighted chat."""
        if self._highlighted_id is not None:
            self.pin_chat(self._highlighted_id)

    def action_delete(self) -> None:
        """Delete the highlighted chat."""
        if self._highlighted_id is not None:
            self.delete_chat(self._highlighted_id)

    def action_undo(self) -> None:
        """Restore the last deleted chat."""
        self.undo_delete()

    def action_last(self) -> None:
        """Load all chats and highlight the oldest."""
        self._load_more(None, super().action_last)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Load the next page before the end is reached."""
        super().watch_scroll_y(old_value, new_value)
        if new_value + self.size.height > self.virtual_size.height - PREFETCH_ROWS:
            self._load_more(PAGE_SIZE)

    @on(OptionList.OptionSelected)
    def _open_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if event.option.id is not None:
            self.post_message(self.ChatOpened(int(event.option.id)))

    @property
    def _highlighted_id(self) -> int | None:
        """Id of the highlighted chat."""
        option = self.highlighted_option
        return None if option is None or option.id is None else int(option.id)

    def _prompt_for_title(self, chat: Conversation) -> None:
        before = display_title(chat)

        def rename(title: str | None) -> None:
            if title is not None and title != before:
                self.rename_chat(chat.id, title.strip())

        self.app.push_screen(
            PromptScreen(
                "Rename this chat",
                before,
                hint="Leave it empty to use the first message as the title.",
                suggest=partial(suggest_title, chat),
            ),
            rename,
        )

    def _submit_write(self, write: Callable[[], T], show_result: Callable[[T], None]) -> None:
        """Queue a change and show its result."""
        self.run_worker(
            self._await_job(self._write_queue.submit(write), show_result), exit_on_error=False
        )

    async def _await_job(self, pending: Awaitable[T], show_result: Callable[[T], None]) -> None:
        with self._reporting_errors():
            show_result(await pending)

    def _show_pinned(self, result: tuple[str, bool]) -> None:
        name, pinned = result
        self._reload_and_notify()
        self.notify(f"{'Pinned' if pinned else 'Unpinned'} “{name}”.", markup=False)

    async def _await_delete(self, conversation_id: int, pending: Awaitable[str]) -> None:
        with self._reporting_errors():
            try:
                name = await pending
            finally:
                self._deleting_ids.discard(conversation_id)
                self._reload_and_notify()
            undo = commands.key_of("list-undo") if self.is_focused_widget else "/undo"
            self.notify(
                f"Deleted “{name}”. {undo} restores it.", markup=False, timeout=TOAST_SECONDS
            )
            if conversation_id == self._current_id:
                self.post_message(self.ChatDeleted(conversation_id))

    def _show_restored(self, result: tuple[str, int]) -> None:
        name, conversation_id = result
        self._reload_and_notify(conversation_id)
        self.notify(f"Restored “{name}”.", markup=False)

    def _reload_and_notify(self, highlight_id: int | None = None) -> None:
        self._reload_rows(highlight_id)
        self.post_message(self.ChatsChanged())

    def _reload_rows(self, highlight_id: int | None = None, *, keep_scroll: bool = True) -> None:
        """Read the chats again, and stay at the row where the highlighted one is gone.

        Args:
            highlight_id: the chat to highlight; None stays with what was highlighted while the
                user is in the list, and else takes the one on the screen.
            keep_scroll: leave what is seen where it is.
        """
        limit = PAGE_SIZE + max(self.highlighted or 0, self.scroll_offset.y + self.size.height)
        self._reload_count = count = self._reload_count + 1

        def show(chats: list[ChatListEntry]) -> None:
            if count == self._reload_count:  # else a newer reading shows more
                self._shown_count = count
                self._chats, self._has_more = chats, len(chats) == limit
                self._show_rows(highlight_id, keep_scroll=keep_scroll)

        reading = self._reads.submit(self._reader(limit))
        self.run_worker(self._await_job(reading, show), exit_on_error=False)

    def _reader(self, limit: int | None, offset: int = 0) -> Callable[[], list[ChatListEntry]]:
        listed = self._store.list_conversations
        if self._with_asked:
            return partial(listed, limit, offset)
        return partial(listed, limit, offset, with_asked=False)

    def _show_rows(self, highlight_id: int | None = None, *, keep_scroll: bool = True) -> None:
        """Show the loaded chats; the arguments are those of `_reload_rows`."""
        if highlight_id is None:
            highlight_id = self._highlighted_id if self.is_focused_widget else self._current_id
        row, seen = self.highlighted or 0, self.scroll_offset.y
        self._loaded_ids, self._last_group = set(), ""
        self.clear_options()
        self._append_rows(self._chats)
        if not self._chats:
            self.add_option(Option(rows.NO_CHATS, disabled=True))
        if highlight_id in self._loaded_ids:
            self.highlighted = self.get_option_index(str(highlight_id))
        elif self.is_focused_widget:
            self.highlighted = nearest_enabled(self.options, row)
        if keep_scroll:
            self.scroll_to(y=seen, animate=False, immediate=True)
        if self.is_focused_widget:
            self.scroll_to_highlight()
        self.refresh_bindings()

    def _load_more(self, limit: int | None, after: Callable[[], None] = lambda: None) -> None:
        """Load more chats in a thread; None loads all.

        Args:
            limit: how many.
            after: called when they are shown, at once if there are no more.
        """
        if not self._has_more:
            after()
        elif not self._loading_more or limit is None:
            self._loading_more = True
            self.run_worker(self._await_more(limit, after), exit_on_error=False)

    async def _await_more(self, limit: int | None, after: Callable[[], None]) -> None:
        with self._reporting_errors():
            count = self._reload_count
            try:
                more = await self._reads.submit(self._reader(limit, len(self._chats)))
            finally:
                self._loading_more = False
            if count == self._reload_count:  # else the pages may have shifted
                self._chats, self._has_more = [*self._chats, *more], len(more) == limit
                self._append_rows(more)
            after()

    def _append_rows(self, chats: Sequence[ChatListEntry]) -> None:
        """Append rows without duplicates, which appear when another program shifts the pages."""
        options = []
        for chat in chats:
            if chat.id in self._loaded_ids or chat.id in self._deleting_ids:
                continue
            self._loaded_ids.add(chat.id)
            group = rows.chat_group(chat, self._now())
            if group != self._last_group:
                blank = "\n" if self._last_group else ""
                options.append(Option(Content(f"{blank}{group}"), disabled=True))
                self._last_group = group
            row = rows.chat_row(
                chat,
                self._now(),
                current_id=self._current_id,
                answering_id=self._answering_id,
            )
            options.append(Option(row, id=str(chat.id)))
        self.add_options(options)

    @contextmanager
    def _reporting_errors(self) -> Iterator[None]:
        """Show errors of the block in a toast."""
        try:
            yield
        except Exception as problem:
            error = (
                problem if isinstance(problem, ChatlmError) else to_user_error(problem, "chat list")
            )
            mistake = isinstance(error, UsageError)
            self.notify(
                escape_controls(str(error)),
                severity="warning" if mistake else "error",
                markup=False,
            )


class ChatEdits:
    """Changes of saved chats; each takes a chat's id and returns its title.

    All raise `StoreError` if the chat is missing or cannot be written.

    Args:
        store: where the chats are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._deleted_ids: list[int] = []
        """Deleted chats, the last at the end."""

    @property
    def can_undo(self) -> bool:
        """Whether a deleted chat can be restored."""
        return bool(self._deleted_ids)

    def rename(self, conversation_id: int, title: str) -> str:
        """Rename it; an empty title removes it."""
        self._store.rename(conversation_id, title)
        return self._display_title(conversation_id)

    def toggle_pinned(self, conversation_id: int) -> tuple[str, bool]:
        """Pin or unpin it; also return whether it is pinned now."""
        pinned = not self._store.conversation(conversation_id).pinned
        self._store.set_pinned(conversation_id, pinned)
        return self._display_title(conversation_id), pinned

    def delete(self, conversation_id: int) -> str:
        """Move it to the trash."""
        name = self._display_title(conversation_id)
        self._store.trash(conversation_id)
        self._deleted_ids.append(conversation_id)
        return name

    def undo(self) -> tuple[str, int]:
        """Restore the last deleted one; also return its id.

        Raises:
            UsageError: there is none.
        """
        if not self._deleted_ids:
            raise UsageError("There is no deleted chat to restore.")
        conversation_id = self._deleted_ids.pop()
        self._store.restore(conversation_id)
        return self._display_title(conversation_id), conversation_id

    def _display_title(self, conversation_id: int) -> str:
        return one_line(self._store.title(conversation_id), 40) or rows.UNTITLED

"""Commands of the chat and of the selected turn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from textual.command import CommandPalette

from chatlm.config.paths import expand_path
from chatlm.errors import UsageError
from chatlm.store import export
from chatlm.store.export import FORMAT_BY_SUFFIX
from chatlm.text import escape_controls
from chatlm.tui import clipboard
from chatlm.tui.actions.inspect import InspectActions
from chatlm.tui.chat.controller import ChatController
from chatlm.tui.chat.turn_view import TurnView
from chatlm.tui.chat_list.panel import ChatsPanel
from chatlm.tui.commands import CommandHandler
from chatlm.tui.composer.attachments import OutgoingMessage
from chatlm.tui.screens import transfer
from chatlm.tui.screens.details import DetailsScreen
from chatlm.tui.screens.dialogs import PromptScreen
from chatlm.tui.screens.help import ChatCommands, HelpScreen
from chatlm.tui.screens.history import HistoryScreen
from chatlm.tui.screens.trace import TraceScreen
from chatlm.tui.screens.transfer import ImportScreen
from chatlm.tui.services import Services
from chatlm.types.conversations import ContextPolicy, Conversation
from chatlm.types.replies import Reply


class ChatActions:
    """Commands of the chat; each takes the text typed after its name.

    Args:
        chat: the open chat.
        chats_panel: the chat list.
        inspect_actions: open the screens about the context.
        close_panel: closes a panel over the transcript; False when there is none.
        cancel_work: cancels the newest work of a plugin; False when there is none.
        abandon_hook: goes on without the plugin whose hook hangs; False when none does.
        leave_search: goes back from the search to the composer; False when nobody searches.
        show_chat_list: shows the list.
        toggle_chat_list: shows and focuses the list, or hides it.
    """

    def __init__(
        self,
        chat: ChatController,
        chats_panel: ChatsPanel,
        inspect_actions: InspectActions,
        *,
        close_panel: Callable[[], bool],
        cancel_work: Callable[[], bool],
        abandon_hook: Callable[[], bool],
        leave_search: Callable[[], bool],
        show_chat_list: Callable[[], None],
        toggle_chat_list: Callable[[], None],
    ) -> None:
        self._chat = chat
        self._chats_panel = chats_panel
        self._inspect_actions = inspect_actions
        self._close_panel = close_panel
        self._cancel_work = cancel_work
        self._abandon_hook = abandon_hook
        self._leave_search = leave_search
        self._show_chat_list = show_chat_list
        self._toggle_chat_list = toggle_chat_list

    def handlers(self) -> dict[str, CommandHandler]:
        """Return the method of each command by the command's name."""
        return {
            "stop": self.do_stop,
            "continue": self.do_continue,
            "regenerate": self.do_regenerate,
            "new": self.do_new,
            "incognito": self.do_incognito,
            "chats": self.do_chats,
            "search": self.do_search,
            "palette": self.do_palette,
            "context": self.do_context,
            "attach": self.do_attach,
            "editor": self.do_editor,
            "history": self.do_history,
            "rename": self.do_rename,
            "pin-chat": self.do_pin_chat,
            "delete": self.do_delete,
            "undo": self.do_undo,
            "export": self.do_export,
            "import": self.do_import,
            "copy-chat": self.do_copy_chat,
            "preview": self.do_preview,
            "help": self.do_help,
            "quit": self.do_quit,
        }

    def do_stop(self, _: str) -> None:
        """Close what is open, or else stop the reply, or else focus the composer."""
        composer = self._chat.composer
        if composer.close_completion() or self._abandon_hook():
            return
        if composer.has_focus and composer.leave_insert_mode():
            return
        if self._leave_search():
            return
        if composer.busy:
            self._cancel_work()  # such as the indexing of an attached folder
            composer.cancel_sending()
            return
        if composer.has_focus and composer.editing:
            composer.end_edit()
        elif not (self._close_panel() or self._chat.turns.stop() or self._cancel_work()):
            self._chat.view.focus_composer()

    def do_continue(self, _: str) -> None:
        """Continue a reply that was cut short."""
        self._chat.turns.continue_reply()
        self._chat.view.focus_composer()

    def do_regenerate(self, _: str) -> None:
        """Regenerate the newest reply."""
        self._chat.turns.regenerate()
        self._chat.view.focus_composer()

    async def do_new(self, _: str) -> None:
        """Start a chat."""
        await self._chat.switch.leave_chat(self._new_chat)

    async def do_incognito(self, _: str) -> None:
        """Start a chat that is not saved."""
        await self._chat.switch.leave_chat(partial(self._new_chat, incognito=True))

    def do_chats(self, _: str) -> None:
        """Show and focus the list; hide it if it has the focus."""
        self._toggle_chat_list()

    def do_search(self, query: str) -> None:
        """Search all chats."""
        self._show_chat_list()
        self._chats_panel.search(query)

    def do_palette(self, _: str) -> None:
        """Open the command palette."""
        self._chat.view.app.clear_notifications()
        self._chat.view.app.push_screen(
            CommandPalette(providers=[ChatCommands], placeholder="What would you like to do?")
        )

    def do_context(self, _: str) -> None:
        """Show the context usage."""
        self._inspect_actions.show_context()

    def do_attach(self, path: str) -> None:
        """Attach a file to the message."""
        if not path.strip():
            raise UsageError("Which file?", hint="Type /attach and a path.")
        self._chat.composer.attach_file(path.strip())

    def do_editor(self, _: str) -> None:
        """Write the message in the user's editor."""
        self._chat.composer.edit_outside()
        self._chat.view.focus_composer()

    def do_history(self, words: str) -> None:
        """Choose one of the messages that were sent, and write it again."""

        def use(text: str | None) -> None:
            if text is not None:
                self._chat.composer.recall(text)
                self._chat.view.focus_composer()

        self._chat.view.app.push_screen(HistoryScreen(self._chat.sent_messages, words), use)

    def do_rename(self, title: str) -> None:
        """Rename the chat."""
        self._chats_panel.rename_chat(self._saved_chat_id(), title.strip() or None)

    def do_pin_chat(self, _: str) -> None:
        """Pin the chat to the top of the list, or unpin it."""
        self._chats_panel.pin_chat(self._saved_chat_id())

    def do_delete(self, _: str) -> None:
        """Delete the chat; undo restores it."""
        self._chats_panel.delete_chat(self._saved_chat_id())

    def do_undo(self, _: str) -> None:
        """Restore the last deleted chat."""
        self._chats_panel.undo_delete()

    def do_export(self, file: str) -> None:
        """Export the chat to a file."""
        chat = self._stored_conversation()
        if file.strip():
            self._export(file)
            return
        self._chat.view.app.push_screen(
            PromptScreen(
                "Export this chat",
                transfer.suggest_file_name(chat),
                hint=f"The file extension sets the format: {', '.join(FORMAT_BY_SUFFIX)}",
            ),
            self._export,
        )

    def do_import(self, file: str) -> None:
        """Import chats from a file."""
        if not file.strip():
            raise UsageError("Which file?", hint="Type /import and a path.")
        path, store = expand_path(file.strip()), self._chat.saved_store
        screen = ImportScreen(lambda: transfer.import_chats(store, path))
        self._chat.view.app.push_screen(screen, lambda _: self._chat.notify_changed())

    def do_copy_chat(self, _: str) -> None:
        """Copy the chat as Markdown."""
        clipboard.copy(
            self._chat.view.app, export.to_markdown(self._stored_conversation()), "the chat"
        )

    def do_preview(self, text: str) -> None:
        """Show the prompt that would be sent."""
        message = OutgoingMessage(text) if text else self._chat.composer.outgoing_message()
        self._inspect_actions.preview_prompt(message)

    def do_help(self, place: str) -> None:
        """Show every key and command, those of a place first."""
        self._chat.view.app.push_screen(HelpScreen(place))

    async def do_quit(self, _: str) -> None:
        """Quit."""
        await self._chat.view.app.action_quit()

    async def _new_chat(self, *, incognito: bool = False) -> None:
        await self._chat.switch.new_chat(incognito=incognito)
        self._chat.view.focus_composer()

    def _export(self, file: str | None) -> None:
        """Export the chat."""
        if not file:
            return
        path, chat = expand_path(file.strip()), self._chat
        chat.read_then(
            partial(transfer.export_chat, chat.store, self._stored_conversation(), path),
            lambda _: chat.view.notify(escape_controls(f"Written to {path}"), markup=False),
            "exporting a chat",
        )

    def _stored_conversation(self) -> Conversation:
        if self._chat.conversation_id is None:
            raise UsageError("This chat has no message yet", hint="Type one first.")
        return self._chat.conversation

    def _saved_chat_id(self) -> int:
        if self._chat.saved_conversation_id is None:
            raise UsageError("This chat is not saved", hint="Only saved chats are in the list.")
        return self._chat.saved_conversation_id


POLICY_MESSAGES = {
    ContextPolicy.AUTO: "in the context while it fits",
    ContextPolicy.PINNED: "always in the context",
    ContextPolicy.DROPPED: "left out of the context",
    ContextPolicy.SUMMARISED: "replaced by its summary",
}
"""Notices after a change of a turn's context policy."""


class TurnActions:
    """Commands of the selected turn, or else the newest; each takes the text typed after its name.

    Args:
        services: shared services.
        chat: the open chat.
        inspect_actions: open the screens about a turn.
    """

    def __init__(
        self, services: Services, chat: ChatController, inspect_actions: InspectActions
    ) -> None:
        self._services = services
        self._chat = chat
        self._inspect_actions = inspect_actions

    def handlers(self) -> dict[str, CommandHandler]:
        """Return the method of each command by the command's name."""
        return {
            "copy": self.do_copy,
            "copy-code": self.do_copy_code,
            "thoughts": self.do_thoughts,
            "copy-thoughts": self.do_copy_thoughts,
            "message": self.do_message,
            "previous-version": self.do_previous_version,
            "next-version": self.do_next_version,
            "edit": self.do_edit,
            "fork": self.do_fork,
            "details": self.do_details,
            "xray": self.do_xray,
            "trace": self.do_trace,
            "replay": self.do_replay,
            "pin": self.do_pin,
            "drop": self.do_drop,
            "summarise": self.do_summarise,
        }

    def do_copy(self, _: str) -> None:
        """Copy the reply as the model wrote it."""
        self._selected_view().copy_reply()

    def do_copy_code(self, _: str) -> None:
        """Copy a code block; repeat for the next one."""
        self._selected_view().copy_code()

    async def do_thoughts(self, _: str) -> None:
        """Open the thoughts and calls of the reply, or close them."""
        view = self._selected_view()
        if not view.has_folds:
            raise UsageError("This reply has no thoughts and no calls of tools")
        await self._chat.view.transcript.open_thoughts(view, not view.thoughts_open)

    def do_copy_thoughts(self, _: str) -> None:
        """Copy the thoughts of the reply."""
        self._selected_view().copy_thoughts()

    def do_message(self, _: str) -> None:
        """Show all of a long message, or fold it."""
        view = self._selected_view()
        if not view.has_long_message:
            raise UsageError("This message is shown whole")
        self._chat.view.transcript.open_message(view, not view.message_open)

    async def do_previous_version(self, _: str) -> None:
        """Activate the previous version of the reply."""
        await self._chat.edits.step_version(self._selected_view(), -1)

    async def do_next_version(self, _: str) -> None:
        """Activate the next version of the reply."""
        await self._chat.edits.step_version(self._selected_view(), 1)

    def do_edit(self, _: str) -> None:
        """Edit the message in the composer; sending it creates a fork."""
        self._chat.require_idle()
        turn = self._selected_view().turn
        title = f"editing message {turn.position + 1}"
        self._chat.composer.begin_edit(turn.display_text, title, turn.position)
        self._chat.view.focus_composer()

    async def do_fork(self, _: str) -> None:
        """Fork the chat after this turn."""
        await self._chat.switch.fork_chat(self._selected_view().turn.position + 1)
        self._chat.view.focus_composer()
        self._chat.view.notify("This is a fork; the original chat is unchanged.", markup=False)

    def do_details(self, _: str) -> None:
        """Show the model, settings and cost of the reply."""
        turn, reply = self._selected_view().turn, self._selected_reply()
        forked_from = self._chat.conversation.forked_from
        app = self._chat.view.app
        self._chat.read_then(
            partial(self._chat.store.provenance, reply.id),
            lambda made: app.push_screen(DetailsScreen(turn, reply, made, forked_from)),
            "reading a provenance",
        )

    def do_xray(self, _: str) -> None:
        """Show the exact prompt of the reply."""
        self._inspect_actions.xray_reply(self._selected_view().turn, self._selected_reply())

    def do_trace(self, _: str) -> None:
        """Show the plugin trace of the turn."""
        turn, app = self._selected_view().turn, self._chat.view.app
        self._chat.read_then(
            partial(self._chat.store.traces, turn.id),
            lambda traces: app.push_screen(TraceScreen(turn, traces)),
            "reading a trace",
        )

    def do_replay(self, argument: str) -> None:
        """Replay the reply and compare; with `--live` its tools run again."""
        reply, turn = self._selected_reply(), self._selected_view().turn
        words = argument.split()
        live = "--live" in words
        model = " ".join(word for word in words if word != "--live")
        if model:
            self._services.require_available(model)
        self._inspect_actions.replay_reply(turn, reply, model, live=live)

    async def do_pin(self, _: str) -> None:
        """Pin the turn in the context, or unpin it."""
        await self._toggle_policy(ContextPolicy.PINNED)

    async def do_drop(self, _: str) -> None:
        """Drop the turn from the context, or take it back."""
        await self._toggle_policy(ContextPolicy.DROPPED)

    async def do_summarise(self, _: str) -> None:
        """Replace the turn by a summary in the context, or take it back."""
        turn = self._selected_view().turn
        if turn.summary:
            await self._toggle_policy(ContextPolicy.SUMMARISED)
        else:
            self._selected_reply()
            self._inspect_actions.summarise_turn(turn)

    async def _toggle_policy(self, policy: ContextPolicy) -> None:
        view = self._selected_view()
        now = ContextPolicy.AUTO if view.turn.context_policy is policy else policy
        await self._chat.edits.set_context_policy(view, now)
        self._chat.view.notify(
            f"Message {view.turn.position + 1}: {POLICY_MESSAGES[now]}.", markup=False
        )

    def _selected_view(self) -> TurnView:
        view = self._chat.view.selected_view
        if view is None:
            raise UsageError("This chat has no message yet", hint="Type one first.")
        return view

    def _selected_reply(self) -> Reply:
        reply = self._selected_view().turn.reply
        if reply is None or not reply.parts:
            raise UsageError("This message has no reply yet")
        return reply

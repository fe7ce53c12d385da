"""What can be done with a chat: the commands of `commands.CHAT`; draws nothing itself."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from textual.command import CommandPalette

from chatlm.errors import ChatlmError, UsageError
from chatlm.files import expanded
from chatlm.messages import Conversation
from chatlm.store import export
from chatlm.store.outgoing import ENDINGS
from chatlm.text import visible
from chatlm.tui import clipboard, transfer
from chatlm.tui.help_screen import HelpScreen
from chatlm.tui.import_screen import ImportScreen
from chatlm.tui.palette import ChatCommands
from chatlm.tui.prompt_screen import PromptScreen

if TYPE_CHECKING:
    from chatlm.tui.chat_screen import ChatScreen


class ChatActions:
    """Each `do_NAME` is the command of that name; it takes what was typed after it.

    Args:
        screen: whose chat it is.
    """

    def __init__(self, screen: ChatScreen) -> None:
        self._screen = screen
        self._chat = screen.chat
        self._list = screen.chats

    def do_stop(self, _: str) -> None:
        """Close what is open, else stop the reply, else go back to the composer."""
        composer, plugins = self._chat.composer, self._screen.plugin_actions
        if composer.close_completion():
            return
        if self._list.has_focus_within and self._list.leave_search():
            return
        if composer.has_focus and composer.editing:
            composer.end_edit()
        elif not (plugins.regions.uncover() or self._chat.stop() or plugins.stop()):
            self._screen.set_focus(composer)

    def do_continue(self, _: str) -> None:
        """Go on with a reply that was cut short."""
        self._chat.continue_reply()
        self._screen.set_focus(self._chat.composer)

    def do_regenerate(self, _: str) -> None:
        """Answer the newest message once more."""
        self._chat.regenerate()
        self._screen.set_focus(self._chat.composer)

    async def do_new(self, _: str) -> None:
        """Begin a chat."""
        await self._chat.leave(self._begin)

    async def do_incognito(self, _: str) -> None:
        """Begin a chat that is not saved."""
        await self._chat.leave(partial(self._begin, incognito=True))

    def do_chats(self, _: str) -> None:
        """Show the list and go to it; from the list, hide it."""
        self._screen.toggle_list()

    def do_search(self, words: str) -> None:
        """Search all chats."""
        self._screen.show_list()
        self._list.search(words)

    def do_palette(self, _: str) -> None:
        """Everything there is to do."""
        self._screen.app.clear_notifications()
        self._screen.app.push_screen(
            CommandPalette(providers=[ChatCommands], placeholder="What would you like to do?")
        )

    def do_context(self, _: str) -> None:
        """Show what fits."""
        self._screen.insight.context()

    def do_attach(self, path: str) -> None:
        """Put a file into the message."""
        if not path.strip():
            raise UsageError("Which file?", hint="Write /attach and a path.")
        self._chat.composer.attach(path.strip())

    def do_rename(self, title: str) -> None:
        """Give the chat a title."""
        self._list.rename_chat(self._saved(), title.strip() or None)

    def do_pin_chat(self, _: str) -> None:
        """Keep the chat at the top of the list, or no longer."""
        self._list.pin_chat(self._saved())

    def do_delete(self, _: str) -> None:
        """Delete the chat; undo brings it back."""
        self._list.delete_chat(self._saved())

    def do_undo(self, _: str) -> None:
        """Bring back the chat that was deleted last."""
        self._list.undo_delete()

    def do_export(self, file: str) -> None:
        """Write the chat to a file."""
        chat = self._conversation()
        if file.strip():
            self._export(file)
            return
        self._screen.app.push_screen(
            PromptScreen(
                "Export this chat",
                transfer.file_name(chat),
                hint=f"The ending decides the format: {', '.join(ENDINGS)}",
            ),
            self._export,
        )

    def do_import(self, file: str) -> None:
        """Read chats from a file."""
        if not file.strip():
            raise UsageError("Which file?", hint="Write /import and a path.")
        path, store = expanded(file.strip()), self._chat.saved
        screen = ImportScreen(lambda: transfer.read(store, path))
        self._screen.app.push_screen(screen, lambda _: self._chat.changed())

    def do_copy_chat(self, _: str) -> None:
        """Copy the chat as Markdown."""
        clipboard.copy(self._screen.app, export.to_markdown(self._conversation()), "the chat")

    def do_preview(self, text: str) -> None:
        """Show the prompt that would be sent."""
        self._screen.insight.prompt_to_be(text or self._chat.composer.message())

    def do_help(self, _: str) -> None:
        """Show every key and command."""
        self._screen.app.push_screen(HelpScreen())

    async def do_quit(self, _: str) -> None:
        """Leave."""
        await self._screen.owner.action_quit()

    async def _begin(self, *, incognito: bool = False) -> None:
        await self._chat.begin(incognito=incognito)
        self._screen.set_focus(self._chat.composer)

    def _export(self, file: str | None) -> None:
        """Write the chat; what goes wrong is told, since the question is closed by then."""
        if not file:
            return
        path = expanded(file.strip())
        try:
            transfer.write(self._chat.store, self._conversation(), path)
        except ChatlmError as error:
            self._chat.toast(error)
        else:
            self._chat.notify(visible(f"Written to {path}"), markup=False)

    def _conversation(self) -> Conversation:
        if self._chat.conversation_id is None:
            raise UsageError("This chat has no message yet", hint="Type one first.")
        return self._chat.store.conversation(self._chat.conversation_id)

    def _saved(self) -> int:
        if self._chat.current is None:
            raise UsageError("This chat is not saved", hint="It is in no list.")
        return self._chat.current

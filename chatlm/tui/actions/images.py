"""Commands about images: show those of a turn, attach the clipboard's or a screenshot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from chatlm.chat.pasted_images import read_clipboard, take_screenshot
from chatlm.errors import ChatlmError, UsageError
from chatlm.tui.chat.controller import ChatController
from chatlm.tui.commands import CommandHandler
from chatlm.tui.screens.image import ImageScreen
from chatlm.tui.services import Services
from chatlm.tui.workers import to_user_error
from chatlm.types.conversations import Turn
from chatlm.types.parts import Image, PreparedImage


class ImageActions:
    """Commands about images; each takes the text typed after its name.

    Args:
        services: shared services.
        chat: the open chat.
    """

    def __init__(self, services: Services, chat: ChatController) -> None:
        self._services = services
        self._chat = chat

    def handlers(self) -> dict[str, CommandHandler]:
        """Return the method of each command by the command's name."""
        return {
            "images": self.do_images,
            "paste": self.do_paste,
            "screenshot": self.do_screenshot,
        }

    def do_images(self, sha256: str) -> None:
        """Show the images of the selected turn, or of the one that has this image."""
        turns = self._chat.conversation.turns
        view = self._chat.view.selected_view
        chosen = view.turn if view is not None else None
        if sha256:
            having = [turn for turn in turns if sha256 in {each.sha256 for each in images_of(turn)}]
            chosen = having[-1] if having else chosen
        images = images_of(chosen) if chosen else []
        if not images:
            raise UsageError("This turn has no images", hint="Attach one with @ and its path.")
        first = next((at for at, each in enumerate(images) if each.sha256 == sha256), 0)
        self._chat.view.app.push_screen(
            ImageScreen(
                images,
                first,
                self._chat.store.blob,
                self._services.graphics,
                in_memory=self._chat.incognito,
            )
        )

    def do_paste(self, _: str) -> None:
        """Attach the image on the clipboard."""
        self._attach(read_clipboard, "reading the clipboard")

    def do_screenshot(self, _: str) -> None:
        """Attach a screenshot, taken by the user's command."""
        command = self._services.config.screenshot
        self._attach(lambda: [take_screenshot(command)], "taking a screenshot")

    def _attach(self, read: Callable[[], Sequence[PreparedImage]], what: str) -> None:
        """Read images in a thread, keep them, and mention them in the composer."""
        view, pasted = self._chat.view, self._services.pasted_images
        save = not self._chat.incognito

        def show(result: list[str] | ChatlmError) -> None:
            if isinstance(result, ChatlmError):
                view.toast(result)
                return
            for mention in result:
                self._chat.composer.attach_mention(f"@{mention}")
            view.focus_composer()

        def work() -> None:
            result: list[str] | ChatlmError
            try:
                result = [pasted.add(each, save=save) for each in read()]
            except Exception as problem:
                result = to_user_error(problem, what) or UsageError("No image was read")
            view.call_later(partial(show, result))

        view.run_worker(work, thread=True, exit_on_error=False, group="images")


def images_of(turn: Turn) -> list[Image]:
    """Return the images of a turn's message, its passages and its reply, each once."""
    parts = (*turn.user.parts, *turn.passage_images, *(turn.reply.parts if turn.reply else ()))
    return list(dict.fromkeys(part for part in parts if isinstance(part, Image)))

"""Images that did not come from a file, such as the clipboard's, until their message is sent."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from chatlm.chat.images import prepare_pixels, read_image, read_image_file
from chatlm.errors import StoreError, UsageError
from chatlm.store.blobs import MAX_IMAGE_BYTES, Blobs, describe_image
from chatlm.text import one_line
from chatlm.types.parts import Image, PreparedImage

if TYPE_CHECKING:
    import PIL.Image

KEPT_DAYS = 30
"""How long an image is kept for a draft that was not sent."""

SCREENSHOT_SECONDS = 120.0
"""How long the user's command for a screenshot may take; it may let the user choose an area."""

_MENTION = re.compile(r"pasted:([0-9a-f]{12})\.(?:png|jpg)")


class PastedImages:
    """Images mentioned as `pasted:HASH.png`; used in any thread.

    Args:
        folder: where those of saved chats are, so that a draft still has them after a restart;
            None keeps all in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._in_memory = Blobs(None)
        self._saved = Blobs(folder) if folder else self._in_memory

    def add(self, prepared: PreparedImage, *, save: bool) -> str:
        """Keep an image and return its mention.

        Args:
            prepared: the image.
            save: whether it may be written to disk; not for an incognito chat.

        Raises:
            StoreError: it cannot be written.
        """
        self._remove_old()
        sha256 = (self._saved if save else self._in_memory).add(prepared.content)
        suffix = "jpg" if prepared.image.media_type == "image/jpeg" else "png"
        return f"pasted:{sha256[:12]}.{suffix}"

    @staticmethod
    def includes(mention: str) -> bool:
        """Return whether a mention has the form of one of these images."""
        return _MENTION.fullmatch(mention) is not None

    def read(self, mention: str) -> PreparedImage:
        """Return an image by its mention.

        Raises:
            UsageError: it is no longer there.
        """
        match = _MENTION.fullmatch(mention)
        for blobs in (self._in_memory, self._saved) if match else ():
            for sha256 in blobs:
                if match and sha256.startswith(match[1]):
                    content = blobs.read(sha256)
                    if image := describe_image(content, mention):
                        return PreparedImage(image, content)
        raise UsageError(
            f"The image {one_line(mention, 40)} is no longer there", hint="Paste it again."
        )

    def discard(self, images: Iterable[Image]) -> None:
        """Remove images whose message is stored: it has its own copy, which goes with its chat."""
        sent = {image.sha256 for image in images}
        for blobs in (self._in_memory, self._saved) if sent else ():
            if not sent.isdisjoint(blobs):
                with suppress(StoreError):  # it is removed with old ones later
                    blobs.remove_all_but(set(blobs) - sent)

    def _remove_old(self) -> None:
        if self._folder is None:
            return
        oldest = time.time() - KEPT_DAYS * 86_400
        with suppress(OSError):
            for path in self._folder.iterdir():
                if path.stat().st_mtime < oldest:
                    path.unlink()


def read_clipboard() -> list[PreparedImage]:
    """Return the image on the system's clipboard, or the image files that were copied there.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    import PIL.ImageGrab

    none = UsageError("There is no image on the clipboard", hint="Copy one first.")
    try:
        found: PIL.Image.Image | list[str] | None = PIL.ImageGrab.grabclipboard()
    except NotImplementedError as error:
        raise UsageError(
            "The clipboard cannot be read here",
            hint="On Linux, install wl-clipboard for Wayland or xclip for X11; over ssh, attach "
            "a file with @.",
        ) from error
    except Exception as error:  # of tools without a display, and of damaged images
        raise none from error
    if not found:
        raise none
    if isinstance(found, list):
        return [read_image_file(Path(name)) for name in found]
    return [prepare_pixels(found, "clipboard")]


def take_screenshot(command: str) -> PreparedImage:
    """Run the user's command for a screenshot.

    Args:
        command: a program with its arguments, which writes an image file to its output, or to
            the file whose name stands in place of `{file}`.

    Raises:
        UsageError: there is no command, it fails, or its output is no image.
    """
    hint = (
        "Set a command, such as chatlm config set screenshot 'grim -' on Wayland, "
        "'maim' on X11 or 'screencapture -i {file}' on macOS."
    )
    if not command.strip():
        raise UsageError("No command takes screenshots yet", hint=hint)
    with tempfile.TemporaryDirectory(prefix="chatlm-screenshot-") as folder:
        path = Path(folder) / "screenshot.png"
        try:
            words = [word.replace("{file}", str(path)) for word in shlex.split(command)]
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SCREENSHOT_SECONDS,
                check=False,
            )
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            problem = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"The screenshot failed: {one_line(problem, 200)}", hint) from error
        if done.returncode:
            problem = done.stderr.decode("utf-8", "replace").strip() or f"status {done.returncode}"
            raise UsageError(f"The screenshot failed: {one_line(problem, 200)}", hint)
        content = done.stdout
        if "{file}" in command:
            try:
                content = path.read_bytes()
            except OSError as error:
                raise UsageError("The screenshot's command wrote no file", hint) from error
        if len(content) > MAX_IMAGE_BYTES or not content:
            raise UsageError("The screenshot's command gave no image", hint)
        return dataclasses.replace(read_image(content, "screenshot"), notes=())

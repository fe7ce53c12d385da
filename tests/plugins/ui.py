"""A `Ui` for tests of plugins, which records the calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chatlm import Config, Conversation, Engine, Passage, PreparedImage, Sampling, Turn, read_image
from chatlm.chat.side_chats import InMemorySideChats
from chatlm.plugin_host.host import PluginHost


class RememberingWork:
    """Progress of work that the user may have cancelled."""

    def __init__(self, cancelled: bool) -> None:
        self.cancelled = cancelled
        self.steps: list[tuple[int, int | None]] = []

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        self.steps.append((done, total))


class RememberingUi:
    """A `Ui` that acts on one conversation and notes every call as `(method, arguments)`.

    Args:
        plugin: whose values `state` is about.
        conversation: the chat that is shown.
        engine: the loaded model.
        cancelled: whether the user cancels all work at once.
    """

    def __init__(
        self,
        plugin: str,
        conversation: Conversation | None = None,
        engine: Engine | None = None,
        *,
        cancelled: bool = False,
    ) -> None:
        self._plugin = plugin
        self._cancelled = cancelled
        self.conversation = conversation or Conversation(0)
        self.engine = engine
        self.selected: Turn | None = None
        self.passages: Sequence[Passage] = ()
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.work: RememberingWork | None = None

    def called(self, method: str) -> list[dict[str, Any]]:
        """The arguments of each call of a method."""
        return [arguments for name, arguments in self.calls if name == method]

    @property
    def turn(self) -> Turn | None:
        turns = self.conversation.turns
        return self.selected or (turns[-1] if turns else None)

    @property
    def state(self) -> Mapping[str, Any]:
        return self.conversation.plugin_data.get(self._plugin, {})

    def set_state(self, **values: Any) -> None:
        self.calls.append(("set_state", values))
        kept = {k: v for k, v in {**self.state, **values}.items() if v is not None}
        self._change(plugin_data={**self.conversation.plugin_data, self._plugin: kept})

    def notify(self, text: str, *, warning: bool = False) -> None:
        self.calls.append(("notify", {"text": text, "problem": warning}))

    def show_status(self, text: str) -> None:
        self.calls.append(("show_status", {"text": text}))

    def insert_text(self, text: str) -> None:
        self.calls.append(("insert_text", {"text": text}))

    def send(self, text: str) -> None:
        self.calls.append(("send", {"text": text}))

    def read_message(self, text: str) -> tuple[str, tuple[PreparedImage, ...]]:
        """Images are mentioned as `@PATH`, without spaces."""
        paths = [Path(word[1:]) for word in text.split() if word.startswith("@")]
        images = tuple(read_image(path.read_bytes(), path.name) for path in paths)
        for path in paths:
            text = text.replace(f"@{path}", path.name)
        return text, images

    def set_chat(
        self,
        *,
        system: str | None = None,
        sampling: Sampling | None = None,
        tools: Sequence[str] = (),
    ) -> None:
        given = {"system": system, "sampling": sampling}
        self.calls.append(("set_chat", given | ({"tools": tools} if tools else {})))
        if system is not None:
            self._change(system=system)

    def new_chat(
        self,
        *,
        system: str = "",
        sampling: Sampling | None = None,
        state: Mapping[str, Any] | None = None,
        model: str = "",
        message: str = "",
        tools: Sequence[str] = (),
    ) -> None:
        given = {"system": system, "sampling": sampling, "kept": state, "model": model}
        self.calls.append(
            ("new_chat", {**given, "message": message} | ({"tools": tools} if tools else {}))
        )
        self.conversation = Conversation(0, system=system, plugin_data={self._plugin: state or {}})

    def open_screen(self, name: str, argument: str = "") -> None:
        self.calls.append(("open_screen", {"name": name, "argument": argument}))

    def show_images(self, images: Sequence[PreparedImage]) -> None:
        self.calls.append(("show_images", {"images": images}))

    def open_panel(self, name: str) -> None:
        self.calls.append(("open_panel", {"name": name}))

    @contextmanager
    def progress(self, title: str) -> Iterator[RememberingWork]:
        self.work = RememberingWork(self._cancelled)
        yield self.work

    def side_chats(self, report: Callable[[str], None]) -> InMemorySideChats:
        def opened(model: str, report: Callable[[str], None]) -> Engine:
            assert self.engine is not None
            return self.engine

        return InMemorySideChats(Config(), PluginHost(), opened, report)

    def _change(self, **values: Any) -> None:
        self.conversation = dataclasses.replace(self.conversation, **values)

"""Shared by UI tests: engines that pause on demand, apps, and waiting for a state."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path

from textual.geometry import Region
from textual.pilot import Pilot
from textual.strip import Strip
from textual.widget import Widget

from chatlm.config.config import Config
from chatlm.engines.batching import SequentialBatch
from chatlm.engines.scripted import WORD_TOKENS, ScriptedEngine
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.tui.app import ChatApp
from chatlm.tui.chat.controller import ChatController
from chatlm.tui.chat.turn_column import NoticeLine
from chatlm.tui.chat.turn_view import TurnView
from chatlm.tui.chat_list.chat_list import ChatList
from chatlm.tui.engine_loader import OpenEngine
from chatlm.tui.graphics import Graphics
from chatlm.tui.workers import UPDATES_PER_SECOND
from chatlm.types.engine import Engine, EngineInfo
from chatlm.types.events import Delta, EngineEvent, Finished, Prefill, PromptReady
from chatlm.types.messages import Message
from chatlm.types.replies import StopReason, Usage
from chatlm.types.requests import Prompt, Request
from chatlm.types.sampling import DEFAULT_SAMPLING
from tests.waiting import PATIENCE


class StillEngine:
    """Streams fixed tokens, reported as 20 tokens/s, and may pause.

    Args:
        pieces: the tokens.
        stand_after: number of tokens after which only empty ones follow until `go` is set.
        reason: stop reason of each stream.
        left_out: messages reported as omitted from the context.
    """

    def __init__(
        self,
        *pieces: str,
        stand_after: int | None = None,
        reason: StopReason = StopReason.END,
        left_out: tuple[Message, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> None:
        self.go = threading.Event()
        self.requests: list[Request] = []
        self.closed = False
        self._pieces = pieces
        self._stand_after = stand_after
        self._reason = reason
        self._left_out = left_out
        self.info = EngineInfo(
            "smollm2-135m-instruct", "cpu", "bfloat16", 8192, "template", DEFAULT_SAMPLING, notes
        )

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        self.requests.append(request)
        yield PromptReady(12, 8192, self._left_out)
        usage = Usage(12)
        for made, piece in enumerate(self._pieces, start=1):
            time.sleep(2 / UPDATES_PER_SECOND)  # so that each token is shown alone
            usage = Usage(12, 0, made, 0.25, (made - 1) / 20)
            yield Delta(piece, usage=usage)
            while made == self._stand_after and not self.go.wait(0.02):
                yield Delta("", usage=usage)
        yield Finished(self._reason, usage)

    def batch(self) -> SequentialBatch:
        return SequentialBatch(self)

    def read_ahead(self, request: Request) -> Generator[Prefill, None, None]:
        yield from ()

    def preview(self, request: Request) -> Prompt:
        return WORD_TOKENS.preview(request, self.info)

    def count_tokens(self, messages: Iterable[Message]) -> int:
        return sum(len(message.text.split()) for message in messages)

    def close(self) -> None:
        self.closed = True


def opens(engine: Engine) -> OpenEngine:
    """An `open_engine` that has nothing to wait for."""
    return lambda model, report: engine


def make_app(
    engine: Engine | None = None,
    store: Store | None = None,
    *,
    open_engine: OpenEngine | None = None,
    incognito: bool = False,
    conversation_id: int | None = None,
    theme: str = "textual-dark",
    keys: Mapping[str, str] | None = None,
    plugins: PluginHost | None = None,
    auto_compact: bool = False,
    project: str = "",
    graphics: Graphics = "text",
    screenshot: str = "",
) -> ChatApp:
    """Return the app with a store in memory and a fixed clock."""
    return ChatApp(
        store or Store(None),
        open_engine or opens(engine or ScriptedEngine()),
        plugins=plugins,
        config=Config(
            theme=theme, keys=keys or {}, auto_compact=auto_compact, screenshot=screenshot
        ),
        incognito=incognito,
        conversation_id=conversation_id,
        project=project,
        graphics=graphics,
        clock=lambda: 0.0,
    )


async def until(pilot: Pilot[None], condition: Callable[[], object]) -> None:
    """Let the app work until `condition` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "this state never came"
        await pilot.pause(0.01)
    await pilot.pause()


async def say(pilot: Pilot[None], text: str) -> None:
    """Type a message and send it."""
    chat_of(pilot).composer.text = text
    await pilot.press("enter")
    await pilot.pause()


async def idle(pilot: Pilot[None]) -> None:
    """Wait for the running turn to end and the chat list to show it."""
    await until(pilot, lambda: not chat_of(pilot).busy and chats_of(pilot).up_to_date)


async def run(pilot: Pilot[None], command: str, argument: str = "") -> None:
    """Run a command of the chat screen, as its key or slash command does."""
    await app_of(pilot).chat_screen.action_command(command, argument)
    await pilot.pause()


async def leave(pilot: Pilot[None]) -> None:
    """Close every card over the chat."""
    for _ in range(4):
        if pilot.app.screen is app_of(pilot).chat_screen:
            return
        await pilot.press("escape")
        await pilot.pause()
    raise AssertionError(f"{pilot.app.screen} does not close")


def app_of(pilot: Pilot[None]) -> ChatApp:
    app = pilot.app
    assert isinstance(app, ChatApp)
    return app


def chat_of(pilot: Pilot[None]) -> ChatController:
    return app_of(pilot).chat_screen.chat


def newest(pilot: Pilot[None]) -> TurnView:
    view = chat_of(pilot).view.newest_view
    assert view is not None
    return view


def line(pilot: Pilot[None]) -> str:
    """The quiet line below the newest turn."""
    return plain(newest(pilot).query_one(".line"))


def notices(pilot: Pilot[None]) -> list[str]:
    return [plain(widget) for widget in chat_of(pilot).view.query(NoticeLine)]


def toasts(pilot: Pilot[None]) -> list[str]:
    return [notification.message for notification in pilot.app._notifications]


def chats_of(pilot: Pilot[None]) -> ChatList:
    return app_of(pilot).chat_screen.query_one(ChatList)


def rows(pilot: Pilot[None]) -> list[str]:
    """The chat list as text, headings too."""
    return [str(option.prompt).strip().split("\n")[0] for option in chats_of(pilot).options]


def plain(widget: Widget) -> str:
    """Return the text of a widget and its children, without blanks at the ends of lines."""
    lines = [text.strip(" ▌") for part in parts(widget) for text in drawn(part)]
    return "\n".join(text for text in lines if text)


def letters(text: str) -> str:
    """A text that is the same wherever its lines end, which the length of a path decides."""
    return "".join(filter(str.isalnum, text))


def parts(widget: Widget) -> list[Widget]:
    """A widget and all in it."""
    return [widget, *widget.walk_children(Widget)]


def drawn(widget: Widget) -> list[str]:
    """The lines a widget draws, as text."""
    region = Region(0, 0, *widget.outer_size)  # with its border, or the ends of lines are cut off
    return [strip.text for strip in widget.render_lines(region)]


def screen_strips(pilot: Pilot[None]) -> list[Strip]:
    """The rows of the screen as they are drawn now."""
    screen = pilot.app.screen
    return screen._compositor.render_strips(screen.size)


def everything_drawn(pilot: Pilot[None]) -> str:
    """The text of every widget on the screen."""
    return "\n".join(text for widget in parts(pilot.app.screen) for text in drawn(widget))


def hostile_texts(shared_data: Path) -> list[str]:
    """Texts made to break programs, and all kinds of forged control tokens."""
    folder = shared_data / "security"
    naughty = json.loads((folder / "blns.json").read_text(encoding="utf-8"))
    tokens = (folder / "special_tokens.jsonl").read_text(encoding="utf-8")
    return [*naughty, *(json.loads(row)["text"] for row in tokens.splitlines() if row)]

"""Side chats: chats in memory, on any model and with all plugins."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Self, TypeVar

from chatlm.chat.deletion import open_memory_store
from chatlm.chat.live_tools import LiveTools
from chatlm.chat.session import ChatSession
from chatlm.chat.templates import available_setups, available_templates, render_chat_start
from chatlm.chat.tool_set import ToolOptions, check_names, find_tools
from chatlm.chat.turn_runner import events_without_engine, reply_events
from chatlm.chat.vision import check_images
from chatlm.config.config import Config
from chatlm.errors import MessageRefused, OutOfMemoryError
from chatlm.plugin_host.host import PluginHost
from chatlm.plugin_host.turn_plugins import TurnPlugins
from chatlm.types.conversations import Turn
from chatlm.types.engine import Engine
from chatlm.types.events import EngineEvent
from chatlm.types.messages import Message
from chatlm.types.parts import Image, PreparedImage
from chatlm.types.replies import ReplyStep, StopReason
from chatlm.types.requests import Request
from chatlm.types.services import require_service
from chatlm.types.setups import OfferedTemplate, RenderedTemplate, Setup

T = TypeVar("T")

OpenModel = Callable[[str, Callable[[str], None]], Engine]
"""`(name, report) -> engine`: opens a model, calling `report` with its progress in a few words."""

TRIAL_MESSAGE = "Hello."
"""The message that `check` tries a setup with."""


class InMemorySideChats:
    """Side chats whose models are loaded on demand and shared.

    Args:
        config: the user's settings; its model is the default.
        plugins: the plugins whose hooks are called.
        open_model: loads a model.
        report: called with what is being loaded, in a few words.
        shared_engine: returns an engine that is loaded anyway and never freed here, or None.
        frees_models: whether all models are freed for one that does not fit beside them; else it is
            refused, and `free` makes room.
    """

    def __init__(
        self,
        config: Config,
        plugins: PluginHost,
        open_model: OpenModel,
        report: Callable[[str], None],
        shared_engine: Callable[[], Engine | None] = lambda: None,
        frees_models: bool = True,
    ) -> None:
        self.config = config
        self.plugins = plugins
        self._open_model = open_model
        self._report = report
        self._shared_engine = shared_engine
        self._engines: dict[str, Engine] = {}
        self._frees_models = frees_models
        self._lock = threading.Lock()
        self._loading_lock = threading.RLock()
        """Held while a model is loaded, so that others can be used meanwhile."""
        self.swaps_models = False
        """Whether models do not fit in memory together."""

    def begin(self, setup: Setup) -> InMemorySideChat:
        """Start a chat."""
        return InMemorySideChat(self, setup)

    def available_setups(self) -> dict[str, Setup]:
        """Return the setups that plugins offer, by name."""
        return available_setups(self.plugins)

    def available_templates(self) -> dict[str, OfferedTemplate]:
        """Return the templates that plugins offer, by name."""
        return available_templates(self.plugins)

    def render_template(
        self, name: str, values: Mapping[str, str], raw_input: str
    ) -> RenderedTemplate:
        """Render a template as for a new chat."""
        return render_chat_start(name, values, raw_input, self.plugins, takes_images=True).rendered

    def service(self, name: str, protocol: Callable[..., T]) -> T:
        """Return a service that a plugin offers."""
        return require_service(name, self.plugins.service(name), protocol)

    def model_name(self, model: str) -> str:
        """Return the name of a setup's model."""
        return model or self.config.model

    def engine(self, model: str) -> Engine:
        """Return a model's engine, loaded once; if two do not fit, the earlier one is freed."""
        name = self.model_name(model)
        if there := self._loaded_engine(name):
            return there
        with self._loading_lock:
            if there := self._loaded_engine(name):  # another thread has loaded it
                return there
            engine = self._load_engine(name)
            with self._lock:
                self._engines[name] = engine
            return engine

    def free(self, model: str) -> None:
        """Free a model that was loaded here; nothing may use it any longer."""
        with self._lock:
            engine = self._engines.pop(self.model_name(model), None)
        if engine is not None:
            engine.close()

    def reserved_memory(self) -> int:
        """Return how many bytes of main memory the loaded models have not taken yet, but may."""
        with self._lock:
            budgets = [engine.info.memory for engine in self._engines.values()]
        local = [each for each in budgets if each and not each.device.startswith("cuda")]
        if not local:
            return 0
        from chatlm.engines.machine_memory import own_memory

        program = max(budget.program for budget in local)
        return max(0, program + sum(b.total - b.program for b in local) - own_memory())

    def _loaded_engine(self, name: str) -> Engine | None:
        with self._lock:
            there = self._shared_engine()
            if there is not None and there.info.model == name:
                return there
            return self._engines.get(name)

    def _load_engine(self, name: str) -> Engine:
        def report(status: str) -> None:
            self._report(f"{name}: {status}")

        report("loading")
        try:
            return self._open_model(name, report)
        except OutOfMemoryError:
            if not self._engines or not self._frees_models:
                raise
            self._evict_engines(report)
            return self._open_model(name, report)

    def _evict_engines(self, report: Callable[[str], None]) -> None:
        self.swaps_models = True
        report(f"does not fit in memory next to {', '.join(self._engines)}; loading one at a time")
        self._close_engines()

    def _close_engines(self) -> None:
        with self._lock:
            engines = list(self._engines.values())
            self._engines.clear()
        for engine in engines:
            engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self._loading_lock:
            self._close_engines()


class InMemorySideChat:
    """A side chat; its session is created with the first reply."""

    def __init__(self, chats: InMemorySideChats, setup: Setup) -> None:
        self.setup = setup
        self._chats = chats
        self._store = open_memory_store()
        self._session: ChatSession | None = None

    @property
    def engine(self) -> Engine:
        """The loaded model."""
        return self._chats.engine(self.setup.model)

    def check(self) -> None:
        """Build a request as far as possible without the model."""
        from chatlm.engines.open import check_available

        session, question = self._session_for(TRIAL_MESSAGE)
        if self.setup.tools:
            check_names(self.setup.tools, find_tools(TurnPlugins(self._chats.plugins)))
        with suppress(MessageRefused):
            session.draft(question)
        check_available(
            self._chats.model_name(self.setup.model), self.setup.adapter, self._chats.plugins
        )

    def check_images(self, images: Sequence[PreparedImage]) -> None:
        """Refuse images that the model cannot read."""
        if images:
            check_images((each.image for each in images), self.engine.info)

    def request(
        self,
        text: str,
        reply: Sequence[ReplyStep] = (),
        images: Sequence[PreparedImage] = (),
    ) -> Request:
        """Build the request for the next message."""
        session, question = self._session_for(text)
        return session.request(question, reply, _moved(images, text, question))

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        """Generate."""
        yield from reply_events(self.engine, request, self._chats.plugins)

    def events_without_engine(self, request: Request) -> Sequence[EngineEvent]:
        """Return the events that need no engine."""
        return list(events_without_engine(request, self.engine))

    def run_tools(self, text: str, reply: Sequence[ReplyStep]) -> tuple[ReplyStep, ...]:
        """Run the calls of the reply's last step; what would have to be asked is denied."""
        session, question = self._session_for(text)
        chat = session.so_far
        turn = Turn(0, len(chat.turns), Message("user", question))
        running = LiveTools(self._chats.plugins, session.tools, chat.with_turn(turn), turn)
        with closing(running.begin(running.definitions, reply)) as live:
            for _ in live.run_tools():  # without an answer, a question is a denial
                pass
            *earlier, last = live.reply.steps
        # nobody sees the images, and their bytes are gone
        parts = tuple(part for part in last.parts if not isinstance(part, Image))
        last = dataclasses.replace(last, parts=parts)
        if len(earlier) + 1 >= session.tools.settings.max_steps:
            last = dataclasses.replace(last, stop_reason=StopReason.TOOL_LIMIT)
        return (*earlier, last)

    def add(
        self,
        text: str,
        reply: str | Sequence[ReplyStep],
        images: Sequence[PreparedImage] = (),
    ) -> None:
        """Add a message and its reply to the chat."""
        session, question = self._session_for(text)
        session.add(question, reply, _moved(images, text, question))
        self._session = session

    def _session_for(self, text: str) -> tuple[ChatSession, str]:
        """Return the session, a new one before the first reply, and the message to send."""
        if self._session is not None:
            return self._session, text
        setup, chats = self.setup, self._chats
        opening = render_chat_start(setup.template, setup.values, text, chats.plugins)
        session = ChatSession(
            self._store,
            lambda: self.engine,
            plugins=chats.plugins,
            sampling=opening.rendered.sampling,
            session_sampling=setup.sampling,
            system=setup.system or opening.rendered.system,
            adapter=setup.adapter,
            plugin_data={**opening.plugin_data, **setup.plugin_data},
            tools=ToolOptions(chats.config.tools, (*setup.tools, *opening.rendered.tools)),
        )
        return session, opening.first_message


def _moved(images: Sequence[PreparedImage], text: str, question: str) -> Sequence[PreparedImage]:
    """Return images for a text that a template may have put into another one: then before it."""
    if text == question:
        return images
    return [dataclasses.replace(image, offset=0) for image in images]


@contextmanager
def side_chats(
    config: Config, report: Callable[[str], None], *, frees_models: bool = True
) -> Iterator[InMemorySideChats]:
    """Provide side chats to a command: load the user's plugins, and free everything at the end.

    Args:
        config: the user's settings.
        report: called with what is being loaded, in a few words.
        frees_models: see `InMemorySideChats`; else all memory that loaded models may take counts as
            taken.
    """
    from chatlm.engines.open import make_model_opener
    from chatlm.plugin_host.lifecycle import loaded_plugins

    with loaded_plugins(config) as plugins:

        def reserved_memory() -> int:
            return 0 if frees_models else chats.reserved_memory()

        open_model = make_model_opener(config, plugins, reserved_memory)
        chats = InMemorySideChats(config, plugins, open_model, report, frees_models=frees_models)
        with chats:
            yield chats

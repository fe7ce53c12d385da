"""The models in memory: loaded on demand, kept for a while, and freed for others."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

from chatlm import (
    Batch,
    Engine,
    EngineInfo,
    OutOfMemoryError,
    Setup,
    SideChats,
    human_bytes,
    one_line,
)
from chatlm_serve.errors import ApiError, as_api_error
from chatlm_serve.work_queue import QueueFull, SharedBatch, ShuttingDown, WorkQueue

T = TypeVar("T")

log = logging.getLogger(f"chatlm.plugins.{__name__}")

BUSY_SECONDS = 5
"""Value of `Retry-After` where a model has to wait until others are idle."""


LOADING_NICENESS = 8
"""By how much a thread that loads a model is nicer than the others, so that the streams go on."""


async def in_background(function: Callable[[], T]) -> T:
    """Run a function in a thread that runs when others leave it time, where the system has that."""
    pool = ThreadPoolExecutor(1, "chatlm-load", _lower_priority)
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, function)
    finally:
        pool.shutdown(wait=False)


def _lower_priority() -> None:
    """Lower the priority of this thread and of those that it starts; it cannot be raised again."""
    if sys.platform == "linux":  # elsewhere a priority is that of the whole process
        thread = threading.get_native_id()
        with suppress(OSError):
            niceness = os.getpriority(os.PRIO_PROCESS, thread) + LOADING_NICENESS
            os.setpriority(os.PRIO_PROCESS, thread, niceness)


class _Loading:
    """A model that is being loaded, for the first request and all that come meanwhile."""

    def __init__(self, task: asyncio.Task[ServedModel]) -> None:
        self.task = task
        self.claims = 0
        """Requests that wait for it."""


class ServedModel:
    """A model in memory, with the batch and the queue of its requests.

    Args:
        setup: names the model.
        engine: the model.
        batch: its batch; `close` closes it.
        max_waiting: maximum number of requests that wait.
        max_running: maximum number of requests answered concurrently, if the engine can.
        keep_seconds: how long it is kept while nobody uses it; infinite for ever.
    """

    def __init__(
        self,
        setup: Setup,
        engine: Engine,
        batch: Batch,
        max_waiting: int,
        max_running: int,
        keep_seconds: float,
    ) -> None:
        self.setup = setup
        self.info: EngineInfo = engine.info
        self.keep_seconds = keep_seconds
        self.users = 0
        """Requests that use it."""
        self.loading: _Loading | None = None
        """Has the requests that waited for it and may not have begun to use it."""
        self.idle_since = time.monotonic()
        self.used_at = time.time()
        """When it was last used, in seconds since 1970."""
        self.batch = SharedBatch(batch)
        self.queue = WorkQueue(max_waiting, min(max_running, batch.max_concurrency))

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.info.model

    @property
    def is_idle(self) -> bool:
        """Whether nothing uses it, or is about to."""
        return not self.users and not (self.loading and self.loading.claims)

    @property
    def expires_in(self) -> float:
        """Seconds until it is freed if nobody uses it; infinite for never."""
        waited = 0.0 if self.users else time.monotonic() - self.idle_since
        return max(0.0, self.keep_seconds - waited)

    @property
    def bytes(self) -> int:
        """What it may take of the memory, without the program; 0 if unknown."""
        memory = self.info.memory
        return memory.total - memory.program if memory else 0

    def close(self) -> None:
        """Wait until its computation has ended; call `queue.stop` first."""
        self.queue.close()
        self.batch.close()


class ModelPool:
    """Loads models for requests; call `stop` and then `close`.

    One model is loaded at a time, in another thread, so that others answer meanwhile. A model that
    does not fit beside the others takes the place of idle ones, those first that have been idle
    longest. The configured model is loaded at once, and kept unless its memory is needed. All
    methods except `close` must be called in the event loop's thread.

    Args:
        chats: load models, and free none by themselves.
        max_waiting: maximum number of requests that wait for each model.
        max_running: maximum number of requests that each model answers concurrently.
        keep_seconds: how long other models are kept while nobody uses them.
    """

    def __init__(
        self, chats: SideChats, max_waiting: int, max_running: int, keep_seconds: float
    ) -> None:
        self._chats = chats
        self._limits = (max_waiting, max_running)
        self._keep_seconds = keep_seconds
        self._loading: dict[str, _Loading] = {}
        self._change_lock = asyncio.Lock()
        """Held while a model is loaded or freed."""
        self._stopping = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        default = self._serve(*self._open(""))
        self.default: EngineInfo = default.info
        """The configured model, which need not be in memory any longer."""
        self._models = {default.name: default}

    def _open(self, name: str) -> tuple[Setup, Engine, Batch]:
        """Load a model; empty for the configured one."""
        setup = Setup(model=name)
        engine = self._chats.begin(setup).engine
        return setup, engine, engine.batch()

    def _serve(self, setup: Setup, engine: Engine, batch: Batch) -> ServedModel:
        """Return a loaded model with its queue, whose threads have this thread's priority."""
        keep_seconds = self._keep_seconds if setup.model else math.inf
        return ServedModel(setup, engine, batch, *self._limits, keep_seconds)

    @property
    def models(self) -> Sequence[ServedModel]:
        """The models in memory."""
        return tuple(self._models.values())

    @property
    def loading(self) -> Sequence[str]:
        """The names of the models that are being loaded, or wait for it."""
        return tuple(self._loading)

    def check_capacity(self, name: str) -> None:
        """Check that a request may be queued, as far as that is known without looking for files.

        Args:
            name: of the model, which need not exist.

        Raises:
            QueueFull: too many requests wait for it.
            ShuttingDown: `stop` was called.
        """
        if self._stopping:
            raise ShuttingDown
        if model := self._models.get(name):
            model.queue.check_capacity()
        loading = self._loading.get(name)
        if loading is not None and loading.claims >= sum(self._limits):
            raise QueueFull

    @asynccontextmanager
    async def use(
        self, name: str, keep_seconds: float | None = None
    ) -> AsyncGenerator[ServedModel, None]:
        """Load a model if necessary, and keep it during the block.

        Args:
            name: of an installed model, as `EngineInfo.model` has it.
            keep_seconds: how long it is kept afterwards, from now on; None leaves that as it is.

        Raises:
            ApiError: it cannot be loaded, or does not fit beside models that are in use.
            QueueFull: too many requests wait until it is loaded.
            ShuttingDown: `stop` was called.
        """
        self.check_capacity(name)
        if model := self._models.get(name):
            model.users += 1
        else:
            model = await self._use_loaded(name)
        if keep_seconds is not None:
            model.keep_seconds = keep_seconds
        try:
            yield model
        finally:
            model.users -= 1
            model.idle_since = time.monotonic()
            model.used_at = time.time()
            self._free_later(model)

    async def _use_loaded(self, name: str) -> ServedModel:
        """Use a model as soon as it is loaded, which is done once for all that wait."""
        loading = self._loading.get(name)
        if loading is None:
            loading = self._loading[name] = _Loading(asyncio.create_task(self._load(name)))
            loading.task.add_done_callback(partial(self._end_loading, name))
        loading.claims += 1
        try:
            model = await asyncio.shield(loading.task)
            model.users += 1
            return model
        except asyncio.CancelledError:
            if loading.task.cancelled():
                raise ShuttingDown from None
            raise
        finally:
            loading.claims -= 1
            if loading.task.done() and name in self._models:
                self._free_later(self._models[name])

    def _end_loading(self, name: str, task: asyncio.Task[ServedModel]) -> None:
        del self._loading[name]
        if not task.cancelled():
            task.exception()  # if all clients have left, nobody else asks for it

    async def _load(self, name: str) -> ServedModel:
        async with self._change_lock:
            setup_name = "" if name == self.default.model else name
            while True:
                try:
                    model = self._serve(*await in_background(partial(self._open, setup_name)))
                    break
                except OutOfMemoryError as error:
                    await self._make_room(error)
                except Exception as error:
                    raise as_api_error(error) from error
            model.loading = self._loading[name]
            self._models[name] = model
            self._free_later(model)
            return model

    async def _make_room(self, error: OutOfMemoryError) -> None:
        """Free the model that has been idle longest, if that can help."""
        idle = [model for model in self._models.values() if model.is_idle]
        missing = error.missing or 0
        if not idle or sum(model.bytes for model in idle) < missing:
            busy = [one_line(m.name, 60) for m in self._models.values() if not m.is_idle]
            can_wait = sum(model.bytes for model in self._models.values()) >= missing and busy
            raise ApiError(
                503 if can_wait else 400,
                f"{error.message.rstrip('.')}."
                + (f" Try again when {', '.join(busy)} is not in use." if can_wait else "")
                + f" {error.hint}".rstrip(),
                param="model",
                code="model_does_not_fit",
                headers={"Retry-After": str(BUSY_SECONDS)} if can_wait else None,
            ) from error
        await self._free(min(idle, key=lambda model: model.idle_since))

    async def _free(self, model: ServedModel) -> None:
        """Free an idle model; call it with the lock."""
        del self._models[model.name]
        if timer := self._timers.pop(model.name, None):
            timer.cancel()
        log.info("%s is freed: %s", model.name, human_bytes(model.bytes))
        model.loading = None  # a cycle, which would keep the memory until Python collects it
        model.queue.stop()
        await asyncio.to_thread(self._close, model)

    def _close(self, model: ServedModel) -> None:
        model.close()
        self._chats.free(model.setup.model)

    def _free_later(self, model: ServedModel) -> None:
        """Start the time for which an idle model is kept."""
        if timer := self._timers.pop(model.name, None):
            timer.cancel()
        if self._stopping or not model.is_idle or math.isinf(model.keep_seconds):
            return
        loop = asyncio.get_running_loop()
        self._timers[model.name] = loop.call_later(model.expires_in, self._start_freeing, model)

    def _start_freeing(self, model: ServedModel) -> None:
        task = asyncio.get_running_loop().create_task(self._free_if_idle(model))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _free_if_idle(self, model: ServedModel) -> None:
        async with self._change_lock:
            here = self._models.get(model.name) is model
            if here and model.is_idle and not model.expires_in and not self._stopping:
                await self._free(model)

    def unload(self, name: str) -> None:
        """Free a model as soon as nothing uses it; nothing happens if it is not loaded."""
        if model := self._models.get(name):
            model.keep_seconds = 0.0
            self._free_later(model)

    def stop(self) -> None:
        """Cancel all replies; call it in the event loop's thread."""
        self._stopping = True
        for timer in self._timers.values():
            timer.cancel()
        for loading in self._loading.values():
            loading.task.cancel()
        for model in self._models.values():
            model.queue.stop()

    def close(self) -> None:
        """Wait until all computation has ended; call `stop` first."""
        for model in self._models.values():
            model.close()

"""Several models in one server: loaded on demand, kept for a while, freed for others."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chatlm import MemoryBudget, OutOfMemoryError, Setup
from chatlm.chat.side_chats import InMemorySideChats
from chatlm.config.config import Config
from chatlm.plugin_host.host import PluginHost
from chatlm_serve.errors import ApiError
from chatlm_serve.model_pool import ModelPool
from chatlm_serve.work_queue import ShuttingDown
from tests.models import DEFAULT, tiny_model, write_folder
from tests.plugins.serve import Answer, Echo, send, serving
from tests.waiting import PATIENCE

ROOM = 3
"""How many models fit in memory together."""


class Models:
    """Opens engines as long as there is room."""

    def __init__(self, room: int = ROOM) -> None:
        self.room = room
        self.loads: list[str] = []
        self.engines: dict[str, Echo] = {}
        self.may_load = threading.Event()
        self.may_load.set()

    @property
    def here(self) -> set[str]:
        """The models that are loaded."""
        return {name for name, engine in self.engines.items() if not engine.closed}

    def open(self, name: str, report: Callable[[str], None]) -> Echo:
        if len(self.here) >= self.room or name == "huge":
            missing = 1000 if name == "huge" else 1
            raise OutOfMemoryError(f"{name} needs 9 GB, but 1 GB are available", missing=missing)
        if name == "broken":
            raise ValueError
        self.loads.append(name)
        self.may_load.wait(PATIENCE)
        engine = Echo()
        memory = MemoryBudget("cpu", 10, 1, 4096, 1, 5, 99)
        engine.info = dataclasses.replace(engine.info, model=name, memory=memory)
        self.engines[name] = engine
        return engine


@contextmanager
def pool_of(models: Models, keep_seconds: float = PATIENCE) -> Iterator[ModelPool]:
    chats = InMemorySideChats(
        Config(model="first"), PluginHost(), models.open, lambda w: None, frees_models=False
    )
    with chats:
        pool = ModelPool(chats, 16, 8, keep_seconds)
        yield pool
        pool.close()
    assert not models.here


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not reached():
            await asyncio.sleep(0.01)


def test_many_first_requests_load_a_model_once_while_others_answer() -> None:
    models = Models()

    async def run(pool: ModelPool) -> None:
        async def request() -> str:
            async with pool.use("second") as model:
                return model.name

        models.may_load.clear()
        waiting = [asyncio.create_task(request()) for _ in range(5)]
        await until(lambda: models.loads == ["first", "second"])
        async with pool.use("first") as model:  # is there, whatever is being loaded
            assert model.name == "first"
            assert list(pool.loading) == ["second"]
        waiting[0].cancel()
        models.may_load.set()
        assert await asyncio.gather(*waiting[1:]) == ["second"] * 4
        assert {model.name for model in pool.models} == {"first", "second"}
        assert all(model.is_idle for model in pool.models)
        pool.stop()

    with pool_of(models) as pool:
        asyncio.run(run(pool))
    assert models.loads == ["first", "second"]


def test_a_model_goes_when_it_is_idle_and_never_while_it_answers() -> None:
    models = Models()

    async def run(pool: ModelPool) -> None:
        async with pool.use("second", keep_seconds=0.0):
            pool.unload("second")
            await asyncio.sleep(0.05)
            assert models.here == {"first", "second"}
        await until(lambda: models.here == {"first"})
        async with pool.use("second", keep_seconds=PATIENCE):
            pass
        await asyncio.sleep(0.05)
        assert models.here == {"first", "second"}
        pool.unload("second")
        await until(lambda: models.here == {"first"})
        assert [model.name for model in pool.models] == ["first"]
        pool.stop()

    with pool_of(models) as pool:
        asyncio.run(run(pool))


def test_a_freed_model_leaves_memory_at_once() -> None:
    models = Models()

    async def run(pool: ModelPool) -> None:
        async with pool.use("second") as model:
            there = weakref.ref(model)
            del model
        gc.disable()  # it must not need to look for cycles, which takes long
        try:
            pool.unload("second")
            await until(lambda: there() is None)
        finally:
            gc.enable()
        pool.stop()

    with pool_of(models) as pool:
        asyncio.run(run(pool))


def test_the_longest_idle_model_makes_room_and_a_busy_one_never() -> None:
    models = Models()

    async def run(pool: ModelPool) -> None:
        for name in ("second", "third"):
            async with pool.use(name):
                pass
        async with pool.use("first"), pool.use("fourth"):
            assert models.here == {"first", "third", "fourth"}
            async with pool.use("third"):
                with pytest.raises(ApiError, match="Try again when first, third, fourth") as caught:
                    async with pool.use("fifth"):
                        pass
                assert caught.value.status == 503
                assert caught.value.headers == {"Retry-After": "5"}
                assert models.here == {"first", "third", "fourth"}
        async with pool.use("fifth"):
            assert len(models.here) == ROOM
        pool.stop()

    with pool_of(models) as pool:
        asyncio.run(run(pool))


def test_a_model_that_cannot_fit_frees_nothing() -> None:
    models = Models()

    async def run(pool: ModelPool) -> None:
        async with pool.use("second"):
            pass
        with pytest.raises(ApiError, match="needs 9 GB, but 1 GB are available") as caught:
            async with pool.use("huge"):
                pass
        assert (caught.value.status, caught.value.code) == (400, "model_does_not_fit")
        assert models.here == {"first", "second"}
        pool.stop()

    with pool_of(models) as pool:
        asyncio.run(run(pool))


def test_the_configured_model_comes_back_after_it_had_to_go() -> None:
    models = Models(room=1)

    async def run(pool: ModelPool) -> None:
        for name in ("second", "first", "second"):
            async with pool.use(name):
                assert models.here == {name}
        pool.stop()

    with pool_of(models) as pool:
        asyncio.run(run(pool))
    assert models.loads == ["first", "second", "first", "second"]


def test_a_load_that_fails_is_told_to_all_and_tried_again() -> None:
    models = Models()

    async def run(pool: ModelPool) -> None:
        async def request() -> None:
            async with pool.use("broken"):
                pass

        results = await asyncio.gather(*(request() for _ in range(3)), return_exceptions=True)
        assert [type(each) for each in results] == [ApiError] * 3
        with pytest.raises(ApiError):
            await request()
        pool.stop()
        with pytest.raises(ShuttingDown):
            await request()

    with pool_of(models) as pool:
        asyncio.run(run(pool))


def test_stopping_while_a_model_is_loaded() -> None:
    models = Models()

    async def run(pool: ModelPool) -> None:
        async def request() -> None:
            async with pool.use("second"):
                pass

        models.may_load.clear()
        waiting = asyncio.create_task(request())
        await until(lambda: "second" in models.loads)
        pool.stop()
        with pytest.raises(ShuttingDown):
            await waiting
        models.may_load.set()

    with pool_of(models) as pool:
        asyncio.run(run(pool))


def test_memory_that_a_model_may_still_take_is_reserved() -> None:
    models = Models()
    chats = InMemorySideChats(Config(model="first"), PluginHost(), models.open, lambda w: None)
    with chats:
        assert chats.reserved_memory() == 0
        engine = chats.begin(Setup()).engine
        assert chats.reserved_memory() == 0  # less than the program has taken already
        budget = MemoryBudget("cpu", 10**15, 0, 4096, 0, 0, None)
        engine.info = dataclasses.replace(engine.info, memory=budget)  # type: ignore[misc]
        assert 9 * 10**14 < chats.reserved_memory() < 10**15
        chats.free("first")
        assert chats.reserved_memory() == 0
        assert not models.here


def test_requests_name_installed_models_but_no_paths(chat_home: Path, tmp_path: Path) -> None:
    outside = write_folder(tmp_path / "outside", tiny_model())

    def ask(name: str) -> Answer:
        body = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
        headers = {"Content-Type": "application/json"}
        content = json.dumps(body).encode()
        return send(address, "/v1/chat/completions", content, method="POST", headers=headers)

    with serving(Echo()) as address:
        known = {model["id"] for model in send(address, "/v1/models").json["data"]}
        assert DEFAULT in known
        assert ask(DEFAULT).json["choices"][0]["message"]["content"] == "HI"
        for name in (str(outside), "outside", "../outside", "qwen3:4b", "openai:gpt-5@cloud"):
            answer = ask(name)
            assert answer.status == 404, answer.body
            assert answer.json["error"]["code"] == "model_not_found"
        assert "is not installed" in ask("qwen3:4b").json["error"]["message"]

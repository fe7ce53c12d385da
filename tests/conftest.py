"""Fixtures of all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests import endless, isolation, models, thinker

if TYPE_CHECKING:
    from chatlm.engines.local_engine import LocalEngine
    from chatlm.store.store import Store

# A shell starts background jobs with Ctrl-C ignored, and nohup ignores hangups. Every program
# started from here would inherit that; the tests that send these signals need them to work.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A busy machine is no failure: how long an example takes is for benchmarks.
hypothesis.settings.register_profile("chatlm", deadline=None)
hypothesis.settings.load_profile("chatlm")


def pytest_configure(config: pytest.Config) -> None:
    """Leave the user's own folders behind before anything of chatlm runs, in every worker."""
    config.add_cleanup(isolation.enter().cleanup)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty chatlm home that vanishes after the test."""
    folder = tmp_path / "home"
    monkeypatch.setenv("CHATLM_HOME", str(folder))
    return folder


@pytest.fixture
def store() -> Iterator[Store]:
    """An empty store in memory."""
    from chatlm.store.store import Store

    with Store(None) as opened:
        yield opened


@pytest.fixture(scope="session")
def default_model() -> Path:
    """The real default model's folder, pulled once."""
    return models.default_model()


@pytest.fixture
def chat_home(home: Path, default_model: Path) -> Path:
    """An empty home that has the real default model."""
    models.lend(home, default_model)
    return home


@pytest.fixture(scope="session")
def thinking_model() -> Path:
    """The folder of the tiny model that thinks, trained once."""
    return thinker.folder()


@pytest.fixture(scope="session")
def thinking_engine(thinking_model: Path) -> Iterator[LocalEngine]:
    """The tiny model that thinks, loaded once; it is greedy by default."""
    loaded = thinker.open_engine(thinking_model)
    yield loaded
    loaded.close()


@pytest.fixture
def rag_home(home: Path) -> Path:
    """An empty home that has the real default embedder."""
    models.lend(home, models.embedder_model())
    return home


@pytest.fixture
def endless_home(chat_home: Path) -> Path:
    """A home with the real default model, in which no reply ends by itself."""
    endless.install(chat_home)
    return chat_home


@pytest.fixture(scope="session")
def engine(default_model: Path) -> Iterator[LocalEngine]:
    """The real default model, loaded once, in the number format that fits this machine."""
    from chatlm.engines.devices import resolve_placement
    from chatlm.engines.local_engine import LocalEngine

    loaded = LocalEngine.from_folder("default", default_model, resolve_placement("cpu"))
    yield loaded
    loaded.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Data for development that is not part of the project."""
    folder = Path(
        os.environ.get("CHATLM_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")
    )
    if not folder.is_dir():
        pytest.skip(f"needs development data in {folder} (CHATLM_SHARED_DATA names another folder)")
    return folder

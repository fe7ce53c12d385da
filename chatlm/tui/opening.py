"""Opens the engine that the config names, and puts its progress into words."""

from __future__ import annotations

from collections.abc import Callable

from chatlm.config import Config
from chatlm.generation import Engine
from chatlm.models.progress import Stage
from chatlm.plugins import PluginHost
from chatlm.tui.loading import OpenEngine

STAGES: dict[Stage, str] = {
    "wait": "waiting for another chatlm that fetches it",
    "download": "downloading",
    "unpack": "unpacking",
    "convert": "converting, only this once",
    "check": "checking",
}


def opener(config: Config, plugins: PluginHost) -> OpenEngine:
    """A function that opens the config's engine, for a worker thread."""

    def open_config_engine(report: Callable[[str], None]) -> Engine:
        from chatlm.engines.opening import open_engine

        def progress(stage: Stage, done: int, total: int | None) -> None:
            report(words(stage, done, total))

        return open_engine(config, plugins, progress)

    return open_config_engine


def words(stage: Stage, done: int, total: int | None) -> str:
    """What is being done, with the share that is done where it is known."""
    return f"{STAGES[stage]} {done * 100 // total} %" if total else STAGES[stage]

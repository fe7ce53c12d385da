"""Opens an engine by its model's name, and puts the progress into words."""

from __future__ import annotations

import dataclasses
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
    """A function that opens any model with the config's other settings, for a thread."""

    def open_model(model: str, report: Callable[[str], None]) -> Engine:
        from chatlm.engines.opening import open_engine

        def progress(stage: Stage, done: int, total: int | None) -> None:
            report(words(stage, done, total))

        return open_engine(dataclasses.replace(config, model=model), plugins, progress)

    return open_model


def words(stage: Stage, done: int, total: int | None) -> str:
    """What is being done, with the share that is done where it is known."""
    return f"{STAGES[stage]} {done * 100 // total} %" if total else STAGES[stage]

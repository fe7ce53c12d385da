"""The programs that the screen benchmark runs, and how each is set up and talked to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ui_engine
from chatlm import models

MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True)
class Program:
    """How to run a chat program in a terminal."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    composer: str
    """What its screen shows when it can be typed into."""
    ready: Sequence[bytes]
    """What it has drawn when it has settled."""
    writing: str
    """What its screen shows while a reply grows; empty for anything."""
    question: str = "Write a very long story about a lighthouse, with many chapters."
    send: str = "\r"


def chatlm(home: Path) -> Program:
    """The whole program with the real default model, which is pulled if it is not here yet."""
    folder = models.ensure(MODEL).folder
    place = home / "models" / MODEL
    place.parent.mkdir(parents=True)
    place.symlink_to(folder, target_is_directory=True)
    return _chatlm(home, MODEL, b"float", {})


def chatlm_with_a_steady_model(home: Path, rate: float) -> Program:
    """The whole program, with one plugin more."""
    ui_engine.install(home / "plugin")
    places = f"{home / 'plugin'}:{Path(__file__).parents[1]}"
    return _chatlm(home, f"steady:{rate:g}", b"scripted", {"PYTHONPATH": places})


def _chatlm(home: Path, model: str, ready: bytes, environment: Mapping[str, str]) -> Program:
    home.mkdir(exist_ok=True)
    settings = f'model = "{model}"\n\n[sampling]\nmax_tokens = 20000\n'
    (home / "config.toml").write_text(settings)
    return Program(
        name="chatlm",
        command=[sys.executable, "-m", "chatlm"],
        environment={"CHATLM_HOME": str(home), **environment},
        composer="Write a message",
        ready=[b"rite a message", ready],
        writing="esc stops",
    )


PEERS: dict[str, Callable[[Path, str, str], Program]] = {}

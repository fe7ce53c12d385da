"""The programs that the UI benchmark runs, with their set-up and keys."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ui_engine
from benchmarks.ui_server import MODEL as MODEL_OF_THE_SERVER
from chatlm.hub import pull

MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True)
class Program:
    """How to run a chat program in a terminal."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    composer: str
    """Text on its screen when it accepts input."""
    ready: Sequence[bytes]
    """Text on its screen when it has settled."""
    answering: bytes
    """Text on the screen once a reply has started."""
    writing: str = ""
    """Text on its screen while a reply grows, if there is any."""
    question: str = "Write a very long story about a lighthouse, with many chapters."
    send: str = "\r"


def chatlm(home: Path) -> Program:
    """The whole program with the real default model, which is pulled if it is not installed."""
    folder = pull.ensure_model(MODEL).folder
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
        answering=b"esc stops",
        writing="esc stops",
    )


def oterm(home: Path, path: str, url: str) -> Program:
    """oterm with one chat, without its splash screen; it speaks to an Ollama server."""
    data = home / "oterm"
    data.mkdir(parents=True)
    (data / "config.json").write_text('{"splash-screen": false}')
    environment = {"XDG_DATA_HOME": str(home), "OLLAMA_URL": url}
    subprocess.run([path, "--upgrade"], env={**os.environ, **environment}, check=True)
    with sqlite3.connect(data / "store.db") as chats:
        chats.execute("INSERT INTO chat (name, model) VALUES ('Chat', ?)", [MODEL_OF_THE_SERVER])
    chats.close()
    return Program(
        name="oterm",
        command=[path],
        environment=environment,
        composer="❯",
        ready=[b"submit"],
        answering=b"lamp",
    )


def elia(home: Path, path: str, url: str) -> Program:
    """elia, which speaks to an OpenAI server."""
    (home / "elia").mkdir(parents=True)
    (home / "elia" / "config.toml").write_text(
        f'default_model = "server"\n\n[[models]]\nid = "server"\n'
        f'name = "openai/{MODEL_OF_THE_SERVER}"\napi_base = "{url}"\napi_key = "none"\n'
    )
    return Program(
        name="elia",
        command=[path],
        environment={
            "XDG_CONFIG_HOME": str(home),
            "XDG_DATA_HOME": str(home),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it would ask the internet for prices
        },
        composer="Enter your message",
        ready=[b"Send message"],
        answering=b"lamp",
        send="\n",
    )


PEERS: dict[str, Callable[[Path, str, str], Program]] = {"oterm": oterm, "elia": elia}
"""By name: sets a peer up in a folder, for the program at a path and the server at an address."""

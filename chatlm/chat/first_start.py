"""What a newcomer is offered: three models that this machine could run, asked once."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chatlm.config import paths
from chatlm.config.config import Config
from chatlm.errors import ModelError
from chatlm.hub import installed
from chatlm.hub.catalogue import CatalogueEntry, GgufSource, catalogue
from chatlm.hub.huggingface import is_hub_reachable
from chatlm.plugin_host.host import PluginHost

if TYPE_CHECKING:
    from chatlm.engines.fit import Fit

log = logging.getLogger(__name__)

_FORMAT = 1

_KINDS = (("quick", 25.0), ("balanced", 9.0), ("best", 3.0))
"""What each choice is called, and the tokens per second that it reaches at least. People read about
five a second."""


@dataclass(frozen=True)
class FirstChoice:
    """A model that is offered."""

    kind: str
    """quick, balanced or best."""
    entry: CatalogueEntry
    fit: Fit


@dataclass(frozen=True)
class FirstOffer:
    """What this machine could run."""

    choices: tuple[FirstChoice, ...]
    """From the quickest; fewer than three on a small machine."""
    hub_reachable: bool


def is_first_start(config: Config) -> bool:
    """Tell whether to offer models: nobody has chosen, and only the small default model is here."""
    if _file().exists() or config.model != Config().model:
        return False
    chat = [each for each in installed.list_installed_models() if each.kind == "chat"]
    return all(each.name == config.model for each in chat)


def remember_choice(name: str) -> None:
    """Store that a model was chosen, so that nobody is asked again; empty for none."""
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        values = json.dumps({"format": _FORMAT, "choice": name})
        paths.write_atomically(_file(), [values])
    except OSError as error:
        log.warning("the choice is not stored: %s", error)


def unfinished_choice() -> str:
    """Return the model that was chosen and is not here yet; empty for none."""
    try:
        values = json.loads(_file().read_bytes())
        name = values["choice"]
        known = isinstance(name, str) and name in catalogue()
        return name if known and not installed.is_installed(name) else ""
    except (OSError, ValueError, KeyError, TypeError, ModelError):
        return ""


def make_offer(config: Config, plugins: PluginHost) -> FirstOffer:
    """Choose three models for this machine; measures its memory, and asks whether a hub answers."""
    from chatlm.chat.model_list import fit_checker

    checker = fit_checker(config, plugins)
    fitting = [
        (entry, fit)
        for entry in catalogue().values()
        if entry.first_choice and (fit := checker.check_entry(entry)).verdict == "fits" and fit.runs
    ]
    choices: list[FirstChoice] = []
    for kind, speed in _KINDS:
        quick_enough = [
            (entry, fit) for entry, fit in fitting if (fit.tokens_per_second or 0.0) >= speed
        ]
        taken = {choice.entry.name for choice in choices}
        left = [each for each in quick_enough or fitting[:1] if each[0].name not in taken]
        if left:
            entry, fit = max(left, key=lambda each: each[0].parameters or 0)
            choices.append(FirstChoice(kind, entry, fit))
    sources = [choice.entry.gguf for choice in choices]
    source = next(filter(None, sources), GgufSource("Qwen/Qwen3-4B-GGUF", ()))
    return FirstOffer(tuple(choices), is_hub_reachable(source))


def _file() -> Path:
    return paths.data_dir() / "first-start.json"

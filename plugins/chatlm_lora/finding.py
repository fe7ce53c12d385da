"""Checks an adapter's files against the model when it is to be used, once for the same files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from chatlm import Artifact, ChatlmError, ModelLocation, UsageError, find_model
from chatlm_lora import checking
from chatlm_lora.checking import AdapterRefused, Checked
from chatlm_lora.library import ADAPTERS, CONFIG, WEIGHTS

Stamp = tuple[tuple[int, int], ...]


def found(name: str, model: str) -> Path | ChatlmError:
    """The folder of an adapter, or the reason why it cannot be used.

    Args:
        name: of the adapter.
        model: that it shall work on.
    """
    try:
        adapter = ADAPTERS.located(name)
        checked(adapter, find_model(model))
    except UsageError as error:  # to one who asks for a reply, a set-up that does not work
        without = "Without it: /lora off in the chat, --adapter off in the shell."
        return AdapterRefused(error.message, hint=f"{error.hint}\n{without}")
    except ChatlmError as error:
        return error
    return adapter.path


def checked(adapter: Artifact, base: ModelLocation | None) -> Checked:
    """What `checking.check` finds; not looked at again while the files are the same.

    Raises:
        AdapterRefused: it cannot be used.
    """
    return _check(adapter, base, _stamp(adapter.path))


@lru_cache(maxsize=64)
def _check(adapter: Artifact, base: ModelLocation | None, stamp: Stamp) -> Checked:
    return checking.check(adapter.path, base)


def _stamp(folder: Path) -> Stamp:
    """What changes when the files do; empty where one is missing, which the check will tell."""
    try:
        facts = [(folder / file).stat() for file in (CONFIG, WEIGHTS)]
    except OSError:
        return ()
    return tuple((fact.st_mtime_ns, fact.st_size) for fact in facts)

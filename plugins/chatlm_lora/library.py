"""Adapters by name; import, export, resolve for a model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from chatlm import Artifact, Artifacts, ChatlmError, ModelLocation, UsageError, find_model
from chatlm_lora import card, validation
from chatlm_lora.adapter_files import CONFIG, WEIGHTS
from chatlm_lora.card import CARD, README, Card
from chatlm_lora.validation import AdapterRefused, Checked

ADAPTERS = Artifacts(
    "adapter",
    "chatlm adapters",
    Path(__file__).parent / "adapters",
    # words that mean something else where an adapter is named
    reserved=frozenset({"off", "base", "default"}),
)


FILES = (CONFIG, WEIGHTS, CARD, README)
"""All that is ever copied of an adapter."""


def add(name: str, folder: Path, base: ModelLocation, licence: str = "") -> Checked:
    """Check a folder that peft saved, and copy it in under a name.

    Args:
        name: to give it.
        folder: with adapter_config.json and adapter_model.safetensors.
        base: the model it shall work on.
        licence: what the person says of it.

    Raises:
        UsageError: the name is taken or cannot be used.
        AdapterRefused: it cannot be used, or not on that model.
        ChatlmError: it cannot be written.
    """
    place = ADAPTERS.free(name)
    found = validation.check(folder, base)
    with ADAPTERS.making(place) as new:
        for file in (CONFIG, WEIGHTS):
            shutil.copyfile(folder / file, new / file)
        known = card.read(folder) or Card(
            name, "added", base.name, licence=licence, source={"folder": str(folder.resolve())}
        )
        card.write(known, new)
    return found


def give(adapter: Artifact, folder: Path) -> None:
    """Copy an adapter out, as a folder that peft loads.

    Raises:
        UsageError: the folder is there already, or cannot be written.
    """
    with target(folder):
        for file in FILES:
            if (adapter.path / file).is_file():
                shutil.copyfile(adapter.path / file, folder / file)


@contextmanager
def target(folder: Path) -> Iterator[None]:
    """Make a new folder where the person wants it; it goes again if what fills it fails.

    Raises:
        UsageError: it is there already, or cannot be written.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{folder} is there already.", hint="Name a new folder.") from None
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise _unwritable(folder, error) from error
        raise


def _unwritable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{folder} cannot be written: {error.strerror or error}.", hint="Name another folder."
    )


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
    return validation.check(adapter.path, base)


def _stamp(folder: Path) -> Stamp:
    """What changes when the files do; empty where one is missing, which the check will tell."""
    try:
        facts = [(folder / file).stat() for file in (CONFIG, WEIGHTS)]
    except OSError:
        return ()
    return tuple((fact.st_mtime_ns, fact.st_size) for fact in facts)

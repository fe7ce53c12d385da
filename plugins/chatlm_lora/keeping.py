"""Takes adapters in from a folder, and gives them out again; knows no model but its shapes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatlm import Artifact, ModelLocation, UsageError
from chatlm_lora import card, checking
from chatlm_lora.card import CARD, README, Card
from chatlm_lora.checking import Checked
from chatlm_lora.library import ADAPTERS, CONFIG, WEIGHTS

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
    found = checking.check(folder, base)
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

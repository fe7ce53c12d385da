"""Installed adapters by name: add, export, resolve for a model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from chatlm import (
    Artifact,
    Artifacts,
    ChatlmError,
    ModelLocation,
    UsageError,
    convert_gguf_lora,
    find_model,
)
from chatlm_lora import card, validation
from chatlm_lora.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from chatlm_lora.card import CARD_FILE, README_FILE, AdapterCard
from chatlm_lora.validation import AdapterRefused, ValidatedAdapter

ADAPTERS = Artifacts(
    "adapter",
    "chatlm adapters",
    Path(__file__).parent / "adapters",
    # have another meaning where an adapter is named
    reserved=frozenset({"off", "base", "default"}),
)


ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, README_FILE)
"""Files that are copied when an adapter is exported."""


GGUF_SUFFIX = ".gguf"


def add_adapter(name: str, path: Path, base: ModelLocation, licence: str = "") -> ValidatedAdapter:
    """Validate an adapter, and copy it to the user's adapters in peft's format.

    Args:
        name: name of the new adapter.
        path: a folder with adapter_config.json and adapter_model.safetensors, or a GGUF file.
        base: the model to validate it against.
        licence: as the user states it.

    Raises:
        UsageError: the name is taken or not valid.
        AdapterRefused: the adapter cannot be used, or not with that model.
        ChatlmError: it cannot be read or written.
    """
    place = ADAPTERS.new(name)
    with _as_peft_folder(path, base) as folder:
        try:
            found = validation.validate_adapter(folder, base)
        except AdapterRefused as refusal:
            message = refusal.message.replace(str(folder), str(path))
            raise AdapterRefused(message, hint=refusal.hint) from None
        with ADAPTERS.create(place) as new:
            for file in (CONFIG_FILE, WEIGHTS_FILE):
                shutil.copyfile(folder / file, new / file)
            known = card.read_card(folder) or AdapterCard(
                name,
                "added",
                base.name,
                licence=licence,
                source={"folder" if folder == path else "file": str(path.resolve())},
            )
            card.write_card(known, new)
    return found


@contextmanager
def _as_peft_folder(path: Path, base: ModelLocation) -> Iterator[Path]:
    """Return the folder itself, or a temporary one with what a GGUF file holds."""
    if not path.is_file() or path.suffix.lower() != GGUF_SUFFIX:
        yield path
        return
    with TemporaryDirectory(prefix="chatlm-adapter-") as temporary:
        folder = Path(temporary)
        try:
            convert_gguf_lora(path, base.folder, folder)
        except OSError as error:
            raise ADAPTERS.disk_error(error) from error
        yield folder


def export_adapter(adapter: Artifact, folder: Path) -> None:
    """Copy an adapter to a new folder that peft loads.

    Raises:
        UsageError: the folder exists, or cannot be written.
    """
    with new_folder(folder):
        for file in ADAPTER_FILES:
            if (adapter.path / file).is_file():
                shutil.copyfile(adapter.path / file, folder / file)


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Create a folder, and delete it again if the block fails.

    Raises:
        UsageError: it exists, or cannot be written.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{folder} already exists.", hint="Choose a new folder.") from None
    except OSError as error:
        raise _write_error(folder, error) from error
    try:
        yield
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise _write_error(folder, error) from error
        raise


def _write_error(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{folder} cannot be written: {error.strerror or error}.", hint="Choose another folder."
    )


FileStamps = tuple[tuple[int, int], ...]


def resolve_adapter(name: str, model: str) -> Path | ChatlmError:
    """Return the folder of an adapter, or the error that says why it cannot be used.

    Args:
        name: name of the adapter.
        model: name of the model to use it with.
    """
    try:
        adapter = ADAPTERS.get(name)
        validate_cached(adapter, find_model(model))
    except UsageError as error:  # for a reply it is a set-up that does not work
        without = "Without it: /lora off in the chat, --adapter off in the shell."
        return AdapterRefused(error.message, hint=f"{error.hint}\n{without}")
    except ChatlmError as error:
        return error
    return adapter.path


def validate_cached(adapter: Artifact, base: ModelLocation | None) -> ValidatedAdapter:
    """Validate an adapter; the result is cached until its files change.

    Raises:
        AdapterRefused: it cannot be used.
    """
    return _validate(adapter, base, _file_stamps(adapter.path))


@lru_cache(maxsize=64)
def _validate(
    adapter: Artifact, base: ModelLocation | None, stamps: FileStamps
) -> ValidatedAdapter:
    found = validation.validate_adapter(adapter.path, base)
    adapter.check()  # afterwards, since validation explains more
    return found


def _file_stamps(folder: Path) -> FileStamps:
    """Return times and sizes of the files; empty if one is missing, which validation reports."""
    try:
        facts = [(folder / file).stat() for file in (CONFIG_FILE, WEIGHTS_FILE)]
    except OSError:
        return ()
    return tuple((fact.st_mtime_ns, fact.st_size) for fact in facts)

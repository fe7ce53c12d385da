"""Index a folder that a message mentions, and that is too large to attach."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from chatlm import ChatlmError, ProgressReporter, Setup
from chatlm_rag import PLUGIN
from chatlm_rag.documents.files import Source
from chatlm_rag.index import builder, folder, manifest
from chatlm_rag.index.checkpoint import read_plan
from chatlm_rag.settings import INDEX_KEY


class FolderIndexes:
    """The service `folder_indexer`: one index for each folder, named after it."""

    def index_folder(self, folder: Path, progress: ProgressReporter) -> Setup:
        """Build the index of a folder, or bring it up to date.

        Raises:
            ChatlmError: as `builder.build`.
        """
        source = Source(str(folder.resolve()))
        name = _find(source)
        if name:
            builder.update(name, progress)
        else:
            name = _free_name(Path(source.path))
            builder.build(name, (source,), progress)
        return Setup(plugin_data={PLUGIN: {INDEX_KEY: name}})


def _find(source: Source) -> str:
    """Return the index of this source alone, complete or not; empty if there is none."""
    for index in folder.all_indices():
        with suppress(ChatlmError):  # one that is damaged
            plan = read_plan(index.partial) or index.open(manifest.read).plan
            known = [replace(each, path=str(Path(each.path).resolve())) for each in plan.sources]
            if index.is_user_index and known == [source]:
                return index.name
    return ""


def _free_name(path: Path) -> str:
    taken = {index.name for index in folder.all_indices()}
    name = folder.suggest_name(path) or "folder"
    names = (name, *(f"{name[:60]}-{number}" for number in range(2, len(taken) + 3)))
    return next(each for each in names if each not in taken)

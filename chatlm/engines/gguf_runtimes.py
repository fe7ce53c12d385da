"""Describe the GGUF file of a model folder to a plugin that runs it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from chatlm.engines.model import Unsupported, parse_eos_token_ids
from chatlm.hub.generation_config import read_generation_config, recommended_sampling
from chatlm.hub.gguf.architectures import map_tensors, read_config
from chatlm.hub.gguf.file import GgufError, GgufFile
from chatlm.hub.gguf.tensor_data import Change
from chatlm.hub.mmproj import read_mmproj
from chatlm.hub.weights import gguf_file
from chatlm.types.runtimes import GgufModel, StoredLinear


def describe_gguf(name: str, folder: Path, context: int | None) -> GgufModel:
    """Return what a runtime needs of a model.

    Args:
        name: of the model, as the user calls it.
        folder: of the model.
        context: limit of the context in tokens; None for the model's own.

    Raises:
        Unsupported: the folder has no GGUF file, or its generation config cannot be read.
        GgufError: the file is damaged.
    """
    path = gguf_file(folder)
    if path is None:
        raise Unsupported("its weights are not in a GGUF file")
    try:
        generation = read_generation_config(folder)
    except (OSError, ValueError) as error:
        raise Unsupported(f"its generation config cannot be read: {error}") from error
    with GgufFile(path) as file:
        tensors = {tensor.name: tensor.bytes for tensor in file.tensors.values()}
    return GgufModel(
        name=name,
        path=path,
        context=context,
        eos_token_ids=parse_eos_token_ids(generation.get("eos_token_id")),
        recommended_sampling=recommended_sampling(name, generation),
        tensors=tensors,
        find_linear=linear_finder(path),
        mmproj=read_mmproj(folder),
    )


def linear_finder(path: Path) -> Callable[[str], StoredLinear | None]:
    """Return a function that finds linear layers in a GGUF file, see `GgufModel.find_linear`."""

    @cache
    def linears() -> dict[str, StoredLinear]:
        try:
            with GgufFile(path) as file:
                sources = map_tensors(file, read_config(file))
        except GgufError:  # an architecture that only the runtime knows
            return {}
        return {
            name.removesuffix(".weight"): StoredLinear(source.names[0], source.heads)
            for name, source in sources.items()
            if source.change in (Change.NONE, Change.UNPERMUTE)
            and len(source.names) == 1
            and source.expert is None
            and source.tiled is None
        }

    def find(module: str) -> StoredLinear | None:
        return linears().get(module)

    return find

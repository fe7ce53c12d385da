"""Tiny models in GGUF files, opened by the plugin `llamacpp`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import chatlm
from chatlm import GgufModel, LocalEngine
from chatlm.engines.gguf_runtimes import linear_finder
from chatlm.hub.gguf.file import GgufFile
from chatlm.hub.gguf.tokenizer import read_special_tokens, write_tokenizer
from tests import gguf_files

EXACT: dict[str, Any] = {"type_k": "f32", "type_v": "f32"}
"""Settings with which llama.cpp rounds nothing but weights."""

needs_llamacpp = pytest.mark.skipif(
    "not __import__('chatlm_llamacpp.library').library.is_installed()",
    reason="llama-cpp-python is not installed: pip install 'chatlm[llamacpp]'",
)


def describe(path: Path, context: int | None = None) -> GgufModel:
    """The description of a file that the plugin gets from chatlm."""
    with GgufFile(path) as file:
        ends = read_special_tokens(file).ends
        tensors = {tensor.name: tensor.bytes for tensor in file.tensors.values()}
    return GgufModel(
        path.stem, path, context, ends, tensors=tensors, find_linear=linear_finder(path)
    )


def save(folder: Path, variant: str = "llama", **more: Any) -> Path:
    """Write a tiny model; its original in transformers is beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    return gguf_files.save_gguf(folder / "tiny.gguf", variant, **more)


def open_model(path: Path, context: int | None = None, **settings: Any) -> Any:
    """Open a file with settings of the plugin."""
    from chatlm_llamacpp import model
    from chatlm_llamacpp.settings import Settings

    return model.open_model(describe(path, context), Settings(**settings))


def open_engine(path: Path, **settings: Any) -> LocalEngine:
    """Open a file as an engine, with the file's own tokenizer."""
    folder = path.parent / "tokenizer"
    folder.mkdir(exist_ok=True)
    with GgufFile(path) as file:
        write_tokenizer(file, folder, 512)
    return LocalEngine("tiny", open_model(path, **settings), chatlm.load_tokenizer("tiny", folder))


def original_logits(path: Path, ids: list[int]) -> Tensor:
    """The logits after each id, computed by transformers in float32."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent / "original", dtype=torch.float32
    )
    return logits_of(model.eval(), ids)


def logits_of(model: Any, ids: list[int]) -> Tensor:
    """The logits after each id."""
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([ids])).logits[0]
    return logits

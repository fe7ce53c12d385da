"""Writes a base model with an adapter merged into it, as a folder that transformers loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from chatlm import Artifact, ModelLocation, load_weights
from chatlm_lora import checking
from chatlm_lora.keeping import target
from chatlm_lora.loading import all_memory, quiet

LEFT_OUT = ("chatlm-model.json", "model.safetensors.index.json")
"""What holds for the base's own files only."""

COPIED = (".json", ".jinja", ".model", ".txt")


def export_merged(adapter: Artifact, base: ModelLocation, folder: Path) -> tuple[str, ...]:
    """Merge and write; the numbers are added in float32 and kept in the base's own format.

    Args:
        adapter: to merge in.
        base: the model.
        folder: to make.

    Returns:
        What the person should know, see `Checked.warnings`.

    Raises:
        AdapterRefused: it cannot be used on the base.
        UsageError: the folder is there already, or cannot be written.
        ModelError, OutOfMemoryError: the base cannot be loaded.
    """
    checked = checking.check(adapter.path, base)
    with target(folder), quiet(), all_memory("Use a smaller base."), torch.no_grad():
        plain: Any = load_weights(base, device="cpu", dtype="float32")
        kept = getattr(torch, _own_dtype(base))
        model: Any = PeftModel.from_pretrained(plain, str(adapter.path), local_files_only=True)
        whole = model.merge_and_unload(safe_merge=True).to(kept)
        whole.save_pretrained(folder)
        for path in sorted(base.folder.iterdir()):
            new = folder / path.name
            if path.suffix in COPIED and path.name not in LEFT_OUT and not new.exists():
                shutil.copyfile(path, new)
    return checked.warnings


def _own_dtype(base: ModelLocation) -> str:
    """The number format that the base's config names, else float32."""
    config = json.loads((base.folder / "config.json").read_bytes())
    named: str | None = config.get("dtype") or config.get("torch_dtype")
    return named if named in ("bfloat16", "float16") else "float32"

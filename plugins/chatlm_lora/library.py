"""Where adapters are, and what the files of one are called."""

from __future__ import annotations

from pathlib import Path

from chatlm import Artifacts

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""An adapter's files, as peft names them."""

ADAPTERS = Artifacts(
    "adapter",
    "chatlm adapters",
    Path(__file__).parent / "adapters",
    # words that mean something else where an adapter is named
    reserved=frozenset({"off", "base", "default"}),
)

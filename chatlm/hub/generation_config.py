"""What a model's generation_config.json says: end tokens and recommended sampling."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatlm.errors import UsageError
from chatlm.types.sampling import Sampling

log = logging.getLogger(__name__)

_SAMPLING_KEYS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "xtc_probability",
    "xtc_threshold",
)
"""What transformers knows, and what GGUF files recommend besides."""


def read_generation_config(folder: Path) -> Mapping[str, Any]:
    """Read generation_config.json, or config.json in its place.

    Raises:
        OSError, ValueError: a file cannot be read.
    """
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            try:
                values = json.loads((folder / name).read_bytes())
            except RecursionError as error:
                raise ValueError(f"{name} is nested too deeply") from error
            if not isinstance(values, dict):
                raise ValueError(f"{name} is not a JSON object")
            return values
    return {}


def recommended_sampling(name: str, generation_config: Mapping[str, Any]) -> Sampling:
    """Return the sampling of a generation config, without values that chatlm does not support.

    A model that is not to be sampled from is greedy, whatever else its config says, as in
    transformers.

    Args:
        name: of the model, for the log.
        generation_config: values of generation_config.json.
    """
    out = Sampling()
    for key in _SAMPLING_KEYS:
        try:
            out = Sampling.from_dict({key: generation_config.get(key)}).with_fallback(out)
        except UsageError as error:
            log.warning("%s: ignored: %s", name, error.message)
    if generation_config.get("do_sample") is False:
        return Sampling(temperature=0.0, repetition_penalty=out.repetition_penalty)
    return out

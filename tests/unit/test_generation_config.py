"""The sampling that a model's authors recommend, from its generation_config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatlm.hub.generation_config import read_generation_config, recommended_sampling
from chatlm.types.sampling import Sampling


@pytest.mark.parametrize(
    ("config", "sampling"),
    [
        ({}, Sampling()),
        ({"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.01},
         Sampling(temperature=0.6, top_k=20, top_p=0.95, min_p=0.01)),
        ({"temperature": 0.6, "repetition_penalty": 1.05},
         Sampling(temperature=0.6, repetition_penalty=1.05)),
        ({"do_sample": False}, Sampling(temperature=0.0)),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1},
         Sampling(temperature=0.0, repetition_penalty=1.1)),
        ({"temperature": "warm", "top_k": -1, "top_p": 0.8}, Sampling(top_p=0.8)),
        ({"temperature": None, "eos_token_id": 2, "max_length": 4096}, Sampling()),
    ],
)  # fmt: skip
def test_the_recommended_sampling(config: dict[str, Any], sampling: Sampling) -> None:
    assert recommended_sampling("m", config) == sampling


def test_the_generation_config_stands_for_itself_or_in_the_models_config(tmp_path: Path) -> None:
    assert read_generation_config(tmp_path) == {}
    (tmp_path / "config.json").write_text(json.dumps({"temperature": 0.3}))
    assert read_generation_config(tmp_path) == {"temperature": 0.3}
    (tmp_path / "generation_config.json").write_text(json.dumps({"temperature": 0.6}))
    assert read_generation_config(tmp_path) == {"temperature": 0.6}
    (tmp_path / "generation_config.json").write_text("[]")
    with pytest.raises(ValueError, match="not a JSON object"):
        read_generation_config(tmp_path)

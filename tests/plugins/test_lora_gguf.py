"""Adapters of a model whose weights are a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chatlm import ModelLocation, find_model, load_pretrained
from chatlm.plugin_kit.training import ProgressListener
from chatlm_lora import dataset, library
from chatlm_lora.library import ADAPTERS
from chatlm_lora.merging import export_merged
from chatlm_lora.recipe import Recipe, TrainingJob
from chatlm_lora.trainer import train_adapter
from chatlm_lora.validation import AdapterRefused, validate_adapter
from tests.gguf_files import make_folder, save_gguf
from tests.plugins.lora import RANK, adapter

WIDTH = 64


@pytest.fixture
def base(tmp_path: Path) -> ModelLocation:
    folder = make_folder(save_gguf(tmp_path / "tiny.gguf", types={"ffn": "Q8_0"}))
    return ModelLocation(str(folder), folder, "chat")


def matrices(module: str, width: int = WIDTH) -> dict[str, np.ndarray[Any, Any]]:
    numbers = np.random.default_rng(1)
    name = f"base_model.model.{module}.lora_"
    return {
        f"{name}A.weight": numbers.standard_normal((RANK, width)).astype(np.float32),
        f"{name}B.weight": numbers.standard_normal((width, RANK)).astype(np.float32),
    }


QUERIES = "model.layers.1.self_attn.q_proj"


def test_it_is_checked_against_the_tensors_of_the_file(base: ModelLocation, tmp_path: Path) -> None:
    good = adapter(tmp_path / "good", matrices(QUERIES))
    assert validate_adapter(good, base).modules == (QUERIES,)
    other = adapter(tmp_path / "wide", matrices(QUERIES, 32))
    with pytest.raises(AdapterRefused, match="has 32 inputs and 32 outputs"):
        validate_adapter(other, base)
    other = adapter(tmp_path / "deep", matrices("model.layers.7.self_attn.q_proj"))
    with pytest.raises(AdapterRefused, match="has no module"):
        validate_adapter(other, base)


def test_it_is_merged_into_a_model_of_safetensors(
    home: Path, base: ModelLocation, tmp_path: Path
) -> None:
    from peft import PeftModel

    library.add_adapter("mine", adapter(tmp_path / "mine", matrices(QUERIES)), base)
    export_merged(ADAPTERS.get("mine"), base, tmp_path / "whole")
    assert not list((tmp_path / "whole").glob("*.gguf"))
    whole = find_model(str(tmp_path / "whole"))
    ids = torch.arange(3, 40).unsqueeze(0)
    plain = load_pretrained(base, device="cpu", dtype="float32")
    with torch.no_grad():
        without = plain(ids).logits
        wanted = PeftModel.from_pretrained(plain, str(ADAPTERS.get("mine").path))(ids).logits
        found = load_pretrained(whole, device="cpu", dtype="float32")(ids).logits
    assert (found - wanted).norm() / wanted.norm() < 0.02  # the model is written in bfloat16
    assert (without - wanted).norm() / wanted.norm() > 0.1


def test_it_is_trained_on_the_numbers_of_the_file(
    home: Path, base: ModelLocation, tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"prompt": f"Question {n}?", "completion": "yes, yes"} for n in range(16)]
    data.write_text("\n".join(map(json.dumps, rows)))
    recipe = Recipe(learning_rate=0.05, epochs=2, batch_size=4, held_out=0.25, dropout=0.0)
    read = dataset.read_dataset(data, seed=recipe.seed, held_out_share=recipe.held_out)
    job = TrainingJob("mine", base, read, recipe, licence="CC0", use_cpu=True)
    made = train_adapter(job, ProgressListener())
    assert made is not None
    assert made.scores["held_out_loss_after"] < made.scores["held_out_loss_before"]
    assert validate_adapter(ADAPTERS.get("mine").path, base).warnings == ()

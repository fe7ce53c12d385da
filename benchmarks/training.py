"""One epoch of training on the plugin's own examples: by chatlm, and by a plain loop over peft."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer

import chatlm_lora
from chatlm import load_pretrained
from chatlm.hub import pull
from chatlm.plugin_kit.training import ProgressListener, TrainingProgress
from chatlm_lora import dataset
from chatlm_lora.recipe import Recipe, TrainingJob
from chatlm_lora.trainer import train_adapter

DATA = Path(chatlm_lora.__file__).parent / "data" / "pirate.jsonl"
RECIPE = Recipe(epochs=1, evals_per_epoch=1, dropout=0.0)


class _Speed(ProgressListener):
    """Records the speed of training alone, without the evaluations before and after."""

    tokens_per_second = 0.0

    def update(self, progress: TrainingProgress) -> None:
        """Record the time of each step."""
        if progress.step and not progress.activity:
            self.tokens_per_second = progress.tokens_per_second or 0.0


def chatlm_training(model: str) -> float:
    """Tokens a second of `chatlm adapters train`, checks and checkpoints included."""
    base = pull.ensure_model(model)
    data = dataset.read_dataset(DATA, seed=0, held_out_share=RECIPE.held_out)
    job = TrainingJob(name="speed", base=base, dataset=data, recipe=RECIPE, use_cpu=True)
    speed = _Speed()
    with tempfile.TemporaryDirectory() as home:
        before = os.environ.get("CHATLM_HOME")
        os.environ["CHATLM_HOME"] = home
        try:
            train_adapter(job, speed, restart=True)
        finally:
            if before is None:
                del os.environ["CHATLM_HOME"]
            else:
                os.environ["CHATLM_HOME"] = before
    return speed.tokens_per_second


def peft_training(model: str) -> float:
    """Tokens per second of the loop in peft's documentation, in the model's own number format."""
    base = pull.ensure_model(model)
    data = dataset.read_dataset(DATA, seed=0, held_out_share=RECIPE.held_out)
    tokenizer = AutoTokenizer.from_pretrained(base.folder)
    plain = load_pretrained(base, device="cpu", dtype="bfloat16")
    settings = LoraConfig(
        r=RECIPE.rank, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(plain, settings).train()
    steps = torch.optim.AdamW(adapted.parameters(), lr=RECIPE.learning_rate)
    chats = [[{"role": m.role, "content": m.text} for m in chat] for chat in data.train]
    start, tokens = time.perf_counter(), 0
    for at in range(0, len(chats), RECIPE.batch_size):
        batch: Any = tokenizer.apply_chat_template(
            chats[at : at + RECIPE.batch_size], padding=True, return_tensors="pt", return_dict=True
        )
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        adapted(**batch, labels=labels).loss.backward()
        steps.step()
        steps.zero_grad()
        tokens += int(batch["attention_mask"].sum())
    return tokens / (time.perf_counter() - start)

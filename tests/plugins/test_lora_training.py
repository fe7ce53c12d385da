"""Training lowers the loss, keeps the best adapter, stops on Ctrl-C and resumes after a kill."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from chatlm import (
    ChatEncoder,
    ChatlmError,
    Delta,
    LocalEngine,
    Message,
    ModelLocation,
    Request,
    Sampling,
    Text,
    UsageError,
    fast_dtype,
    load_pretrained,
    read_image,
)
from chatlm.engines.devices import resolve_placement
from chatlm.plugin_kit.training import ProgressListener, TrainingProgress, TrainingStopped
from chatlm_lora import card, dataset
from chatlm_lora import recipe as recipe_module
from chatlm_lora.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from chatlm_lora.dataset import Collator, EncodedChats, evaluate_loss
from chatlm_lora.library import ADAPTERS
from chatlm_lora.peft_utils import check_trains_on_text, resolve_target_modules
from chatlm_lora.recipe import Recipe, StartingAdapter, TrainingJob
from chatlm_lora.trainer import train_adapter
from tests import image_files, vision_models
from tests.waiting import wait_until

RECIPE = Recipe(
    learning_rate=0.05, epochs=3, batch_size=4, held_out=0.25, evals_per_epoch=2, dropout=0.0
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    rows = [{"prompt": f"Question {n}?", "completion": "yes, yes"} for n in range(32)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


class Remembering(ProgressListener):
    """Records progress; presses Ctrl-C after a step."""

    def __init__(self, press_after: int = 0) -> None:
        self.seen: list[TrainingProgress] = []
        self._press_after = press_after

    def update(self, progress: TrainingProgress) -> None:
        self.seen.append(dataclasses.replace(progress, train_losses=[*progress.train_losses]))
        if self._press_after and progress.step == self._press_after:
            self._press_after = 0
            signal.raise_signal(signal.SIGINT)

    @property
    def steps(self) -> list[int]:
        return sorted({progress.step for progress in self.seen if progress.total_steps})


def order(
    base: ModelLocation, data: Path, recipe: Recipe = RECIPE, name: str = "mine"
) -> TrainingJob:
    read = dataset.read_dataset(data, seed=recipe.seed, held_out_share=recipe.held_out)
    return TrainingJob(name, base, read, recipe, licence="CC0", use_cpu=True)


def test_it_gets_better_and_plain_peft_loads_it(
    home: Path, base: ModelLocation, data: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    watcher = Remembering()
    wanted = order(base, data)
    made = train_adapter(wanted, watcher)
    assert made is not None
    assert made.scores["fall"] > 0.3
    assert (made.cost["ended"], made.cost["steps"]) == ("after all epochs", 18)
    assert made.source["sha256"] == dataset.read_dataset(data, seed=0, held_out_share=0.5).sha256
    assert (made.source["train"], made.source["held_out"], made.licence) == (24, 8, "CC0")
    assert len(made.answers) == dataset.SAMPLE_ANSWERS
    assert watcher.steps == list(range(19))
    assert len(watcher.seen[-1].train_losses) == 18

    folder = ADAPTERS.get("mine").path
    assert card.read_card(folder) == dataclasses.replace(
        made, settings={**made.settings, "targets": ["all-linear"]}
    )
    assert str(home) not in (folder / "adapter_config.json").read_text()
    assert {t.dtype for t in load_file(folder / WEIGHTS_FILE).values()} == {torch.bfloat16}
    plain = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(plain, str(folder))
    assert isinstance(wanted.dataset, dataset.ChatDataset)
    held_out = EncodedChats(wanted.dataset.held_out, ChatEncoder(base), 1024)
    mixed = fast_dtype("cpu") == "bfloat16"  # as in the training, or the rounding differs
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        again = evaluate_loss(loaded, held_out, Collator(0), 4)
    assert again == pytest.approx(made.scores["held_out_loss_after"], rel=1e-3)
    assert list((home / "adapters").glob(".training-mine/*")) == []


def test_the_same_seed_makes_the_same_adapter(home: Path, base: ModelLocation, data: Path) -> None:
    for name in ("one", "two"):
        train_adapter(
            order(base, data, dataclasses.replace(RECIPE, epochs=1), name), ProgressListener()
        )
    one, two = (load_file(ADAPTERS.get(name).path / WEIGHTS_FILE) for name in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_it_starts_from_another_adapter(home: Path, base: ModelLocation, data: Path) -> None:
    first = train_adapter(order(base, data), ProgressListener())
    start = StartingAdapter.of(ADAPTERS.get("mine"))
    assert start.shape()["rank"] == RECIPE.rank
    still = dataclasses.replace(RECIPE, learning_rate=1e-8, epochs=0.1, dropout=0.5)
    again = dataclasses.replace(order(base, data, still, "again"), start=start)
    assert again.plan() != order(base, data, still, "again").plan()
    second = train_adapter(again, ProgressListener())
    assert first is not None
    assert second is not None
    for name in ("held_out_loss_before", "held_out_loss_after"):
        assert second.scores[name] == pytest.approx(first.scores[name], rel=1e-3)
    started = {"name": "mine", "command": first.command, **first.source}
    assert second.source["started_from"] == started
    assert f"name mine, command {first.command}, data " in "\n".join(card.card_lines(second))
    one, two = (load_file(ADAPTERS.get(name).path / WEIGHTS_FILE) for name in ("mine", "again"))
    assert all(torch.allclose(one[key], two[key], atol=1e-4) for key in one)
    config = json.loads((ADAPTERS.get("again").path / CONFIG_FILE).read_text())
    assert config["lora_dropout"] == 0.5


def test_it_ends_early_and_keeps_the_best(home: Path, base: ModelLocation, data: Path) -> None:
    wild = dataclasses.replace(RECIPE, learning_rate=1.0, epochs=30, patience=2, warmup_ratio=0.0)
    made = train_adapter(order(base, data, wild), ProgressListener())
    assert made is not None
    assert made.cost["ended"].startswith("early")
    assert made.cost["best_step"] < made.cost["steps"] < 180


def test_ctrl_c_keeps_a_checkpoint_and_the_same_command_continues(
    home: Path, base: ModelLocation, data: Path
) -> None:
    with pytest.raises(TrainingStopped, match="after step 7 of 18; a checkpoint is kept") as told:
        train_adapter(order(base, data), Remembering(press_after=6))
    assert told.value.exit_code == 130
    assert "chatlm adapters train mine --finish" in told.value.hint
    assert not (home / "adapters" / "mine").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    watcher = Remembering()
    made = train_adapter(order(base, data), watcher)
    assert watcher.steps == list(range(7, 19))
    assert made is not None
    assert (made.cost["steps"], made.cost["ended"]) == (18, "after all epochs")
    assert made.scores["fall"] > 0.3
    assert len(watcher.seen[-1].train_losses) == 18  # the curve has its beginning
    assert [step for step, _ in watcher.seen[-1].eval_losses] == [3, 6, 9, 12, 15, 18]
    assert not (home / "adapters" / ".training-mine").exists()


def test_finish_makes_an_adapter_of_the_best_checkpoint(
    home: Path, base: ModelLocation, data: Path
) -> None:
    with pytest.raises(TrainingStopped):
        train_adapter(order(base, data), Remembering(press_after=6))
    made = train_adapter(order(base, data), ProgressListener(), finish=True)
    assert made is not None
    assert (made.cost["ended"], made.cost["steps"]) == ("stopped by the user", 7)
    assert made.cost["best_step"] in (6, 7)
    assert made.scores["fall"] > 0
    assert ADAPTERS.get("mine").user_owned
    assert not (home / "adapters" / ".training-mine").exists()


def test_finish_needs_a_checkpoint(home: Path, base: ModelLocation, data: Path) -> None:
    with pytest.raises(UsageError, match="before its first checkpoint") as refused:
        train_adapter(order(base, data), ProgressListener(), finish=True)
    assert "without --finish" in refused.value.hint


def test_ctrl_c_before_the_first_step_keeps_nothing(
    home: Path, base: ModelLocation, data: Path
) -> None:
    class Early(ProgressListener):
        def update(self, progress: TrainingProgress) -> None:
            if progress.activity == "answering held-out prompts":
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(TrainingStopped):
        train_adapter(order(base, data), Early())
    assert not (home / "adapters" / "mine").exists()


TRAIN = """
import signal
import sys
from pathlib import Path
from chatlm import ModelLocation
from chatlm_lora.trainer import train_adapter
from chatlm.plugin_kit.training import ProgressListener
from tests.plugins.test_lora_training import SHORT, order

class Pausing(ProgressListener):
    def update(self, progress):
        if progress.step > 3:
            paused.touch()
            signal.pause()

base, data, paused = map(Path, sys.argv[1:])
train_adapter(order(ModelLocation(str(base), base, "chat"), data, SHORT), Pausing())
"""
"""Pauses for good after the first checkpoint."""
SHORT = dataclasses.replace(RECIPE, epochs=2)


def test_training_resumes_after_a_kill(
    home: Path, base: ModelLocation, data: Path, tmp_path: Path
) -> None:
    run = home / "adapters" / ".training-mine"
    paused = tmp_path / "paused"
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(base.folder), str(data), str(paused)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"CHATLM_HOME": str(home)},
    )
    wait_until(lambda: paused.exists() or process.poll() is not None, patience=300)
    assert process.poll() is None
    process.kill()
    process.wait()
    assert not (home / "adapters" / "mine").exists()
    half = run / "checkpoint-100000"
    half.mkdir()
    (half / WEIGHTS_FILE).write_bytes(b"half")

    with pytest.raises(UsageError, match="other data or settings"):
        train_adapter(order(base, data), ProgressListener())
    watcher = Remembering()
    made = train_adapter(order(base, data, SHORT), watcher)
    assert made is not None
    assert watcher.steps[0] == 3  # it did not begin again
    assert (made.cost["steps"], made.cost["from_step"]) == (12, 3)
    assert len(watcher.seen[-1].train_losses) == 12  # the curve has its beginning
    assert not run.exists()


def test_restart_forgets_what_was_stopped(home: Path, base: ModelLocation, data: Path) -> None:
    run = home / "adapters" / ".training-mine"
    run.mkdir(parents=True)
    (run / "plan.json").write_text("{}")
    short = dataclasses.replace(RECIPE, epochs=0.2)
    with pytest.raises(UsageError, match="--restart") as refused:
        train_adapter(order(base, data, short), ProgressListener())
    assert "Start over" in refused.value.hint
    assert train_adapter(order(base, data, short), ProgressListener(), restart=True) is not None


def test_nan_losses_are_an_error(
    home: Path, base: ModelLocation, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, float("nan")])
    monkeypatch.setattr("chatlm_lora.dataset.evaluate_loss", lambda *given: next(losses))
    with pytest.raises(ChatlmError, match="NaN or infinite"):
        train_adapter(
            order(base, data, dataclasses.replace(RECIPE, epochs=0.2)), ProgressListener()
        )
    assert not (home / "adapters" / "mine").exists()


def test_a_taken_name_is_refused_before_any_work(
    home: Path, base: ModelLocation, data: Path
) -> None:
    (home / "adapters" / "mine").mkdir(parents=True)
    with pytest.raises(UsageError, match="already"):
        train_adapter(order(base, data), ProgressListener())


def test_targets_that_are_not_there(home: Path, base: ModelLocation, data: Path) -> None:
    odd = dataclasses.replace(RECIPE, targets=("q_proj", "query"))
    with pytest.raises(UsageError, match="no linear module query") as refused:
        train_adapter(order(base, data, odd), ProgressListener())
    assert "q_proj" in refused.value.hint


@pytest.mark.parametrize(
    "wrong",
    [{"rank": 0}, {"learning_rate": -1.0}, {"epochs": 0.0}, {"held_out": 1.0}, {"dropout": 1.0},
     {"batch_size": 0}, {"targets": ()}, {"alpha": float("nan")}],
)  # fmt: skip
def test_settings_out_of_their_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Recipe(**wrong)


def test_steps_are_shared_by_processes(base: ModelLocation, data: Path) -> None:
    wanted = order(base, data)
    one, four = recipe_module.prepare_data(wanted, 1), recipe_module.prepare_data(wanted, 4)
    assert (one.total_steps, one.eval_steps) == (18, 3)
    assert (four.total_steps, four.eval_steps) == (6, 1)


def test_machines_that_see_different_checkpoints_do_not_begin(
    base: ModelLocation, data: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatlm_lora.trainer.gather_object", lambda own: [*own, "checkpoint-6"])
    with pytest.raises(UsageError, match="same checkpoints") as refused:
        train_adapter(order(base, data), Remembering())
    assert "--restart" in refused.value.hint


def test_no_example_is_short_enough(base: ModelLocation, data: Path) -> None:
    with pytest.raises(UsageError, match="at most 8 tokens"):
        recipe_module.prepare_data(order(base, data, dataclasses.replace(RECIPE, max_length=8)), 1)


def test_cards_with_former_names_of_hyperparameters_are_read() -> None:
    former = {"rate": 0.01, "batch": 2, "accumulation": 3, "checks": 5, "longest": 64, "warmup": 0}
    recipe = Recipe.from_dict(former)
    assert recipe == Recipe(
        learning_rate=0.01,
        batch_size=2,
        gradient_accumulation=3,
        evals_per_epoch=5,
        max_length=64,
        warmup_ratio=0,
    )


def test_of_a_vision_model_the_language_part_is_trained(
    home: Path, data: Path, tmp_path: Path
) -> None:
    folder = vision_models.save("idefics3", tmp_path / "sees")
    base = ModelLocation(str(folder), folder, "chat")
    made = train_adapter(order(base, data, dataclasses.replace(RECIPE, epochs=1)), Remembering())
    assert made is not None
    assert made.scores["fall"] > 0.1
    adapter = ADAPTERS.get("mine").path
    names = [name.partition(".lora_")[0] for name in load_file(adapter / WEIGHTS_FILE)]
    assert {name.split(".")[3] for name in names} == {"text_model"}
    engine = LocalEngine.from_folder(
        str(folder), folder, resolve_placement("cpu", "float32"), find_adapter=lambda name: adapter
    )
    picture = read_image(image_files.png(), "cat.png")
    message = Message("user", (picture.image, Text("Question 1?")))
    request = Request(
        (message,),
        Sampling(temperature=0.0, max_tokens=4),
        images={picture.image.sha256: picture.content},
    )
    texts = [
        "".join(
            event.text
            for event in engine.stream(dataclasses.replace(request, adapter=adapter_name))
            if isinstance(event, Delta)
        )
        for adapter_name in (None, "mine")
    ]
    assert texts[0] != texts[1]
    engine.close()


def test_a_vision_model_that_needs_more_than_text_is_refused() -> None:
    class Needy(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, **inputs: torch.Tensor) -> None:
            assert self.training
            raise ValueError("pixel_values are required\nas inputs")

    base = ModelLocation("needy", Path(), "chat")
    with pytest.raises(UsageError, match="needy cannot be trained on text alone: pixel_values"):
        check_trains_on_text(Needy(), base)


def test_unknown_modules_of_a_language_part_are_named(tmp_path: Path) -> None:
    folder = vision_models.save("idefics3", tmp_path / "sees")
    base = ModelLocation("sees", folder, "chat")
    model = load_pretrained(base, device="cpu", dtype="float32")
    found = resolve_target_modules(model, ["q_proj"], base)
    assert isinstance(found, list)
    assert all(name.startswith("model.text_model.") for name in found)
    with pytest.raises(UsageError, match="no linear module out_proj") as error:
        resolve_target_modules(model, ["q_proj", "out_proj"], base)
    assert "q_proj" in (error.value.hint or "")


def test_a_dialogue_with_an_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    content = [{"type": "image_url", "image_url": {"url": "data:"}}, {"type": "text", "text": "?"}]
    chat = [{"role": "user", "content": content}, {"role": "assistant", "content": "Red."}]
    path.write_text(json.dumps({"messages": chat}))
    with pytest.raises(UsageError, match="message of several parts") as error:
        dataset.read_dataset(path, seed=0, held_out_share=0.5)
    assert "leave out examples with images" in (error.value.hint or "")

"""Networks are trained for real: they learn, are stopped and continued, and chat as measured."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from chatlm import ChatlmError, Delta, Message, Request, Sampling, TrainingCheckpoint, UsageError
from chatlm.plugin_kit.training import (
    ProgressListener,
    TrainingProgress,
    TrainingStopped,
    describe_progress,
    render_progress,
)
from chatlm_lab import plugin
from chatlm_lab.architectures import ARCHITECTURES, find_architecture
from chatlm_lab.models import LAB_MODELS, RUNS, LabCard, read_card
from chatlm_lab.network_architecture import WEIGHTS_FILE, NetworkArchitecture, OpenedNetwork
from chatlm_lab.network_training import fit_network
from chatlm_lab.opening import open_engine, open_model
from tests import models
from tests.plugins.arena import chatlm
from tests.plugins.lab import network_recipe, story, trained, trained_network, write_story
from tests.plugins.test_lab_commands import fail, run, succeed, table

NETWORKS = [name for name in ARCHITECTURES if name != "ngram"]

TINY = [
    *("--tokenizer", "characters", "--width", "16"),
    *("--layers", "1", "--context", "16", "--epochs", "1"),
]


class Progress(ProgressListener):
    """Keeps what is shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.samples: list[str] = []

    def update(self, progress: TrainingProgress) -> None:
        self.lines.append(describe_progress(progress))
        if progress.sample and progress.sample not in self.samples:
            self.samples.append(progress.sample)


def stop_after(steps: int) -> tuple[ProgressListener, Callable[[], bool]]:
    """Return a listener and what says true after some steps."""
    seen = [0]

    class Steps(ProgressListener):
        def update(self, progress: TrainingProgress) -> None:
            seen[0] = progress.step

    return Steps(), lambda: seen[0] >= steps


def weights(name: str) -> dict[str, torch.Tensor]:
    return load_file(LAB_MODELS.get(name).path / WEIGHTS_FILE)


def same_weights(first: str, second: str) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("architecture", NETWORKS)
def test_each_architecture_learns_is_kept_and_chats(
    home: Path, tmp_path: Path, architecture: str
) -> None:
    progress = Progress()
    card = trained_network(
        tmp_path, architecture, listener=progress, epochs=4.0, learning_rate=0.01
    )
    assert read_card(LAB_MODELS.get("tiny")) == card
    first, best = card.curve["held_out"][0][1], min(loss for _, loss in card.curve["held_out"])
    assert best < first - 0.5
    assert math.log(card.held_out["perplexity"]) == pytest.approx(best, abs=0.01)
    assert card.held_out["mean_sum"] == 1
    weights_file = "model.safetensors" if architecture == "llama" else WEIGHTS_FILE
    stored = load_file(LAB_MODELS.get("tiny").path / weights_file)
    assert card.size["parameters"] == sum(each.numel() for each in stored.values())
    assert len(card.curve["train"]) == card.cost["steps"]
    assert any("reading the data" in line for line in progress.lines)
    assert any("held-out" in line and "tokens/s" in line for line in progress.lines)
    assert len(progress.samples) > 3
    opened = open_model("tiny")
    assert isinstance(opened, OpenedNetwork)
    text = "The cat sat on a"
    request = Request(
        (Message("user", text),), Sampling(temperature=1.0, seed=1, max_tokens=12), logprobs=0
    )
    with closing(open_engine("tiny").stream(request)) as events:
        deltas = [each for each in events if isinstance(each, Delta)]
    ids = opened.tokenizer.encode(text + "".join(each.text for each in deltas)).ids
    never = opened.tokenizer.token_to_id("<unk>")
    logits = opened.network(torch.tensor([ids]))[0][0]
    logits[:, never] = -math.inf
    expected = logits.log_softmax(-1)
    reported = [token.logprob for each in deltas for token in each.logprobs]
    assert len(reported) == len(ids) - len(text) == 12
    for place, logprob in enumerate(reported, len(text)):
        assert logprob == pytest.approx(float(expected[place - 1, ids[place]]), abs=1e-3)


@pytest.mark.parametrize("architecture", ["lstm", "decoder"])
def test_a_cache_that_was_cut_continues_like_a_new_one(
    home: Path, tmp_path: Path, architecture: str
) -> None:
    trained_network(tmp_path, architecture, epochs=0.1)
    opened = open_model("tiny")
    model = opened.language_model()
    ids = opened.tokenizer.encode("The cat sat on a mat while rain fell").ids
    cache = model.new_cache()
    cache.prefill(ids[:8])
    cache.prefill(ids[8:16])
    cache.decode(ids[16:17])
    cache.decode(ids[17:18])
    assert cache.truncate(30) == 18
    assert cache.truncate(17) == 17
    kept = cache.truncate(12)
    assert kept == (12 if architecture == "decoder" else 8)
    found = cache.prefill(ids[kept:20])
    expected = model.new_cache().prefill(ids[:20])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert cache.truncate(0) == 0
    torch.testing.assert_close(cache.prefill(ids[:20]), expected)


@pytest.mark.parametrize("steps", [3, 12])
def test_a_training_that_was_stopped_continues_as_if_it_had_not_been(
    home: Path, tmp_path: Path, steps: int
) -> None:
    settings: dict[str, Any] = {"dropout": 0.2, "epochs": 1.0}
    whole = trained_network(tmp_path, "decoder", "whole", **settings)
    listener, should_stop = stop_after(steps)
    with pytest.raises(TrainingStopped, match=f"after step {steps} of") as stopped:
        trained_network(
            tmp_path, "decoder", "parts", listener=listener, should_stop=should_stop, **settings
        )
    assert "Run the same command again" in (stopped.value.hint or "")
    assert LAB_MODELS.all()[-1].name == "whole"
    with pytest.raises(UsageError, match="other data or settings"):
        trained_network(tmp_path, "decoder", "parts", **{**settings, "seed": 1})
    again = trained_network(tmp_path, "decoder", "parts", **settings)
    assert same_weights("whole", "parts")
    assert again.curve == whole.curve
    assert again.held_out == whole.held_out


def test_a_training_that_was_stopped_is_finished_with_its_best_weights(
    home: Path, tmp_path: Path
) -> None:
    listener, should_stop = stop_after(9)
    with pytest.raises(TrainingStopped):
        trained_network(tmp_path, "rnn", listener=listener, should_stop=should_stop)
    card = trained_network(tmp_path, "rnn", finish=True)
    assert card.cost["ended"] == "stopped by the user"
    assert card.cost["steps"] == 9
    best = min(loss for _, loss in card.curve["held_out"])
    assert math.log(card.held_out["perplexity"]) == pytest.approx(best, abs=0.01)
    with pytest.raises(UsageError, match="no unfinished training"):
        RUNS.options("tiny")


def test_stopping_before_the_first_step_keeps_nothing(home: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped, match="before the first step"):
        trained_network(tmp_path, "rnn", should_stop=lambda: True)
    assert LAB_MODELS.all() == []


def test_training_ends_early_when_held_out_loss_rises(home: Path, tmp_path: Path) -> None:
    (tmp_path / "short").mkdir()
    path = tmp_path / "short" / "story.txt"
    path.write_text(story(12))
    command = ("train", "tiny", "--data", path, "--arch", "gru", "--tokenizer", "characters")
    card = table(*command, "--width", "48", "--context", "16", "--epochs", "300", "--patience", "2")
    assert card["cost"]["ended"].startswith("early")
    losses = [loss for _, loss in card["curve"]["held_out"]]
    assert losses.index(min(losses)) == len(losses) - 3
    assert math.log(card["held_out"]["perplexity"]) == pytest.approx(min(losses), abs=0.01)


def test_the_order_and_the_weights_depend_on_the_seed_alone(home: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("same", 1), ("two", 2)):
        torch.rand(3)
        trained_network(tmp_path, "minlstm", name, seed=seed, epochs=0.2)
    assert same_weights("one", "same")
    assert not same_weights("one", "two")


def test_mixed_precision_learns_as_well(home: Path, tmp_path: Path) -> None:
    exact = trained_network(tmp_path, "decoder", "exact", epochs=1.0)
    mixed = trained_network(tmp_path, "decoder", "mixed", epochs=1.0, precision="bfloat16")
    assert mixed.held_out["perplexity"] == pytest.approx(exact.held_out["perplexity"], rel=0.1)
    assert not same_weights("exact", "mixed")


def test_a_training_that_diverges_is_refused(tmp_path: Path) -> None:
    architecture = find_architecture("rnn")
    assert isinstance(architecture, NetworkArchitecture)
    recipe = network_recipe("rnn")
    network = architecture.build(recipe, 20)
    with torch.no_grad():
        network.output.bias.fill_(math.nan)
    ids = np.arange(200, dtype=np.uint32) % 20
    with pytest.raises(ChatlmError, match="diverged"):
        fit_network(
            network,
            ids,
            ids,
            recipe,
            ProgressListener(),
            lambda: False,
            TrainingCheckpoint(tmp_path),
        )


def test_too_little_text_or_memory_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_story(tmp_path, lines=6)
    options = ("--data", data, "--arch", "decoder", "--tokenizer", "characters")
    error = fail("train", "tiny", *options, "--context", "512")
    assert "too few for a context of 512" in error.message
    assert "--context" in (error.hint or "")
    little = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    assert "memory" in fail("train", "tiny", *options).message
    assert LAB_MODELS.all() == []


def test_options_of_another_architecture_are_refused(home: Path, tmp_path: Path) -> None:
    data = write_story(tmp_path)
    for architecture, option, value, other in (
        ("decoder", "--order", "3", "ngram"),
        ("ngram", "--dropout", "0.1", "rnn, gru, lstm, minlstm, decoder, llama"),
        ("rnn", "--heads", "2", "decoder, llama"),
        ("decoder", "--kv-heads", "1", "llama"),
    ):
        error = fail("train", "t", "--data", data, "--arch", architecture, option, value)
        assert f"{option} has no meaning for --arch {architecture}" in error.message
        assert error.hint == f"It is for --arch {other}."
    assert "--data" in run("train", "t").output
    assert "exclude each other" in run("train", "t", "--finish", "--restart").output
    assert "no unfinished training" in fail("train", "t", "--finish").message


def test_ctrl_c_keeps_a_checkpoint_that_the_command_continues_or_finishes(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chatlm.plugin_kit import training

    data = write_story(tmp_path)
    pressed: list[int] = []

    def press(self: object, progress: TrainingProgress) -> None:
        if progress.step == 5 and not pressed:
            pressed.append(os.getpid())
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(training._PlainLines, "update", press)
    command: list[str | Path] = ["train", "tiny", "--data", data, "--arch", "rnn", *TINY]
    error = fail(*command)
    assert (error.exit_code, pressed) == (130, [os.getpid()])
    assert "Stopped after step 5 of" in error.message
    assert "chatlm lab train tiny --finish" in (error.hint or "")
    done = succeed("train", "tiny", "--finish")
    assert "ended stopped by the user" in done.stdout
    pressed.clear()
    fail("train", "again", *command[2:])
    assert "after all epochs" in succeed("train", "again", *command[2:]).stdout
    pressed.clear()
    fail("train", "new", *command[2:])
    assert (
        "after all epochs"
        in succeed("train", "new", *command[2:], "--seed", "3", "--restart").stdout
    )


def test_networks_are_trained_listed_compared_and_drawn(home: Path, tmp_path: Path) -> None:
    data = write_story(tmp_path)
    card = table("train", "net", "--data", data, "--arch", "decoder", *TINY, "--heads", "2")
    assert card["command"].startswith("chatlm lab train net --arch decoder --data story.txt")
    assert str(tmp_path) not in json.dumps(card)
    shown = run(
        "train", "wide", "--data", data, "--arch", "gru", *TINY[:2], *TINY[4:], "--params", "5000"
    )
    assert shown.exit_code == 0, shown.output
    assert "step " in shown.stderr
    assert "held-out " in shown.stderr
    assert "Perplexity on held-out text" in shown.stdout
    assert "Chat with it: chatlm -m lab:wide" in shown.stdout
    trained(tmp_path, "counts")
    rows = {row["name"]: row for row in table("list")}
    assert rows["net"]["settings"]["heads"] == 2
    assert rows["counts"]["architecture"] == "ngram"
    assert [row.description for row in plugin.list_models()] == [
        read_card(place).description for place in LAB_MODELS.all()
    ]
    assert "decoder, 1 layers" not in succeed("list").stdout
    new = tmp_path / "new.txt"
    new.write_text(story(30, seed=5))
    scores = {row["name"]: row for row in table("eval", "net", "wide", "counts", "--data", new)}
    assert all(row["bits_per_byte"] > 0 for row in scores.values())
    assert "no n-gram model" in fail("eval", "net", "--data", new, "--order", "2").message
    assert "Parameters" not in succeed("show", "counts").stdout
    assert "parameters" in succeed("show", "net").stdout
    text = succeed("curve", "net").stdout
    assert "net, held-out loss" in text
    assert any("⠀" < sign < "⣿" for sign in text)
    curves = table("curve", "net", "wide")
    assert curves["net"]["held_out"] == card["curve"]["held_out"]
    for name, beginning in (("losses.png", b"\x89PNG"), ("losses.svg", b"<?xml")):
        succeed("curve", "net", "wide", "-o", tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(beginning)
    assert "neither" in fail("curve", "net", "-o", tmp_path / "losses.gif").message
    assert "cannot be written" in fail("curve", "net", "-o", tmp_path / "no" / "x.png").message
    assert "no curve" in fail("curve", "counts").message


def test_a_network_is_asked_and_a_contestant(home: Path, tmp_path: Path) -> None:
    trained_network(tmp_path, "gru", epochs=0.2)
    options = ("-m", "lab:tiny", "--seed", "1", "--max-tokens", "8", "--json")
    asked = chatlm("ask", *options, "The cat")
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["text"]
    added = chatlm("arena", "contestants", "add", "net", "--model", "lab:tiny")
    assert added.returncode == 0, added.stderr


def test_damaged_networks_are_refused(home: Path, tmp_path: Path) -> None:
    card = trained_network(tmp_path, "rnn", epochs=0.2)
    folder = LAB_MODELS.get("tiny").path

    def write(changed: LabCard) -> None:
        (folder / "card.json").write_text(json.dumps(changed.to_dict()))

    write(dataclasses.replace(card, settings={**card.settings, "width": 32}))
    with pytest.raises(ChatlmError, match="do not fit its card"):
        open_model("tiny")
    write(dataclasses.replace(card, settings={**card.settings, "depth": 1}))
    with pytest.raises(ChatlmError, match="no recipe"):
        open_model("tiny")
    write(dataclasses.replace(card, architecture="rwkv"))
    with pytest.raises(ChatlmError, match="'rwkv' is not known"):
        open_model("tiny")
    write(dataclasses.replace(card, vocabulary=5))
    with pytest.raises(ChatlmError, match="different vocabularies"):
        open_model("tiny")
    write(card)
    (folder / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes()[:-4])
    with pytest.raises(ChatlmError, match="damaged"):
        open_model("tiny")


def test_cards_of_the_first_form_are_read(home: Path, tmp_path: Path) -> None:
    trained(tmp_path, order=3)
    path = LAB_MODELS.get("tiny").path / "card.json"
    values = json.loads(path.read_text())
    for key in ("settings", "size", "description", "curve"):
        del values[key]
    path.write_text(json.dumps(values | {"order": 3, "smoothing": "laplace", "ngrams": [5, 9, 12]}))
    card = read_card(LAB_MODELS.get("tiny"))
    assert card.description == f"3-gram, laplace, {card.vocabulary} tokens (characters)"
    assert card.size == {"ngrams": [5, 9, 12]}
    assert open_model("tiny").predictor({"order": 2}) is not None


def test_samples_stand_below_the_curve() -> None:
    progress = TrainingProgress(activity="training", sample="Once upon\na time")
    assert render_progress(progress, 80).plain.endswith("\nOnce upon a time")


def test_a_model_in_llamas_form_is_a_model_folder_with_equal_logits(
    home: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    from chatlm.engines.devices import Placement
    from chatlm.engines.load import load

    models.lend_kernels(home)
    trained_network(tmp_path, "llama", width=64, heads=4, kv_heads=2, epochs=0.3)
    opened = open_model("tiny")
    assert isinstance(opened, OpenedNetwork)
    folder = LAB_MODELS.get("tiny").path
    ids = opened.tokenizer.encode("The cat sat").ids
    with torch.no_grad():
        expected = opened.network(torch.tensor([ids]))[0][0]
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        torch.testing.assert_close(
            theirs(torch.tensor([ids])).logits[0], expected, rtol=1e-4, atol=1e-5
        )
    fast = load("tiny", folder, Placement({"": "cpu"}, torch.float32), "native", "stored")
    found = fast.new_cache().prefill(ids)
    torch.testing.assert_close(found.float(), expected[-1], rtol=1e-4, atol=1e-4)
    assert fast.info.eos_token_ids == (0,)

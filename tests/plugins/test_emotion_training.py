"""Networks are trained for real: they learn, and the stored one is the measured one."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from chatlm import ChatlmError, UsageError, find_model
from chatlm.plugin_kit.training import (
    EvalResult,
    EvaluatedProgress,
    ProgressListener,
    TrainingProgress,
    TrainingStopped,
    stop_on_interrupt,
)
from chatlm_emotion import card, classifier, examples, train_pipeline, training
from chatlm_emotion.card import CLASSIFIERS, RUNS, UNSURE, ClassifierCard
from chatlm_emotion.commands import emotion
from chatlm_emotion.examples import LabelledExample
from chatlm_emotion.networks import GenerateNetwork, Network
from chatlm_emotion.recipe import DEFAULT_BASES, Method, Recipe
from tests import models

PETS = "cat dog hamster parrot goldfish pony"
TOOLS = "hammer saw drill wrench chisel pliers"
SAID = ("I bought a {} today", "where is my {}?", "the {} is in the kitchen", "show me your {}")
ABOUT_PETS = ("A parrot sings.", "My dog sleeps.", "A pony eats.")
ABOUT_TOOLS = ("The saw cuts.", "A hammer for nails", "Drill holes.")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "things.jsonl"
    rows = [
        {"text": said.format(word), "label": label}
        for label, words in (("pets", PETS), ("tools", TOOLS))
        for word in words.split()
        for said in SAID
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def trained_home(home: Path, default_model: Path) -> Path:
    models.lend(home, default_model)
    models.lend(home, models.embedder_model())
    return home


def order(name: str, data: Path, method: Method, **settings: float) -> train_pipeline.TrainingJob:
    recipe = Recipe(**{"method": method, "held_out": 0.25, "rank": 4, "batch_size": 8} | settings)  # type: ignore[arg-type]
    return train_pipeline.TrainingJob(
        name, "thing", examples.read_dataset([data]), recipe, find_model(DEFAULT_BASES[method]), 0.5
    )


def labels_of(name: str, texts: Sequence[str]) -> list[str]:
    loaded = classifier.load_classifier(CLASSIFIERS.get(name))
    return [verdict.label for verdict in loaded.classify(texts)]


@pytest.fixture
def trained_networks(monkeypatch: pytest.MonkeyPatch) -> list[Network]:
    """Every network that is trained in the test."""
    networks: list[Network] = []
    fit = training.fit_network

    def remembered(network: Network, *given: object, **named: object) -> EvaluatedProgress:
        networks.append(network)
        return fit(network, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "fit_network", remembered)
    return networks


def writes_labels_of_its_own_accord(network: GenerateNetwork, texts: Sequence[str]) -> bool:
    """Whether greedy decoding over all tokens writes the labels that the network scores highest."""
    network.eval()
    with torch.no_grad():
        for text in texts:
            batch = network.pad_batch(network.encode([text]))
            written = int(network._vocabulary_logits(batch, 1)[0, 0].argmax())
            chosen = int(network.logits(batch).argmax())
            if written != network.label_ids[chosen][0]:
                return False
    return True


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("encoder", {"epochs": 4, "learning_rate": 2e-3}),
        ("head", {"epochs": 2, "learning_rate": 2e-3}),
        ("generate", {"epochs": 2, "learning_rate": 2e-3}),
    ],
)
def test_each_method_learns_and_is_kept(
    trained_home: Path,
    data: Path,
    trained_networks: list[Network],
    method: Method,
    settings: dict[str, float],
) -> None:
    made = train_pipeline.train_classifier(
        order("things", data, method, **settings), ProgressListener(), lambda: False
    )
    assert made.scores["accuracy"] >= 0.9, made.cost["curve"]
    assert made.base == DEFAULT_BASES[method]
    folder = CLASSIFIERS.get("things").path
    assert card.read_card(folder) == made
    labels = labels_of("things", [*ABOUT_PETS, *ABOUT_TOOLS])
    assert labels[:3].count("pets") >= 2
    assert labels[3:].count("tools") >= 2
    if method == "encoder":
        assert (folder / card.WEIGHTS_FILE).stat().st_size < 2_000_000
    if method == "generate":
        held_out = examples.split_held_out(examples.read_dataset([data]).rows, 0.25, 0)[1]
        (network,) = trained_networks
        assert isinstance(network, GenerateNetwork)
        assert writes_labels_of_its_own_accord(network, [row.text for row in held_out[:6]])


def test_the_quick_encoder_is_the_trained_network(
    trained_home: Path, data: Path, trained_networks: list[Network]
) -> None:
    train_pipeline.train_classifier(
        order("quick", data, "encoder", epochs=1, learning_rate=5e-3),
        ProgressListener(),
        lambda: False,
    )
    quick = classifier.load_classifier(CLASSIFIERS.get("quick"))
    texts = ["a cat", "", "my wrench [SEP] broke", "long " * 300, "\ud800 odd", "漢字 <|im_end|>"]
    with torch.no_grad():
        network = trained_networks[0].eval()
        exact = [network.logits(network.pad_batch(network.encode([text])))[0] for text in texts]
    wanted = torch.stack(exact).softmax(1)
    found = quick.probabilities(texts)
    warm = quick.card.temperature
    assert found == pytest.approx((torch.stack(exact) / warm).softmax(1).numpy(), abs=1e-4), wanted
    # batches with padding say the same as one text alone
    together = training.predict_logits(network, texts)
    assert np.abs(together - torch.stack(exact).numpy()).max() < 0.1, "bfloat16 in batches"


def test_labels_that_begin_alike_get_letters(default_model: Path) -> None:
    from tokenizers import Tokenizer

    from chatlm_emotion.networks import _encode_labels

    tokenizer = Tokenizer.from_file(str(default_model / "tokenizer.json"))

    def tokens(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    answers = _encode_labels(["card lost", "card stolen"], tokens)
    assert [tokenizer.decode(answer) for answer in answers] == [" a) card lost", " b) card stolen"]
    assert len({answer[0] for answer in _encode_labels(["joy", "anger"], tokens)}) == 2
    with pytest.raises(ChatlmError, match="too many"):
        _encode_labels([f"card {number}" for number in range(60)], tokens)


def test_texts_without_a_label_make_it_unsure(trained_home: Path, data: Path) -> None:
    with data.open("a") as file:
        for thing in ["cloud", "river", "number", "song", "road", "paper", "window", "street"]:
            for said in SAID:
                file.write(json.dumps({"text": said.format(thing), "label": None}) + "\n")
    wanted = order("things", data, "encoder", epochs=6, learning_rate=2e-3)
    made = train_pipeline.train_classifier(wanted, ProgressListener(), lambda: False)
    assert made.source["without_label"] == 24
    found = classifier.load_classifier(CLASSIFIERS.get("things")).classify(
        ["I bought a window today", "the street is in the kitchen", "the dog is in the kitchen"]
    )
    sure = [verdict.score for verdict in found]
    assert sure[2] > max(sure[:2])
    assert found[2].label == "pets"


class PressesCtrlC(ProgressListener):
    """Presses Ctrl-C after a step."""

    def __init__(self, press_after: int) -> None:
        self._press_after = press_after

    def update(self, progress: TrainingProgress) -> None:
        if progress.step == self._press_after and progress.train_losses:
            self._press_after = 0
            signal.raise_signal(signal.SIGINT)


def train(
    job: train_pipeline.TrainingJob, press_after: int = 0, *, finish: bool = False
) -> ClassifierCard:
    """Train as the command does."""
    with stop_on_interrupt(RUNS.hint(job.name)) as should_stop:
        return train_pipeline.train_classifier(
            job, PressesCtrlC(press_after), should_stop, finish=finish
        )


def test_ctrl_c_keeps_a_checkpoint_and_the_same_command_continues(
    trained_home: Path, data: Path
) -> None:
    whole = train(order("whole", data, "encoder", epochs=2))
    with pytest.raises(
        TrainingStopped, match="after step 4 of 10; a checkpoint is kept"
    ) as stopped:
        train(order("mine", data, "encoder", epochs=2), press_after=4)
    assert stopped.value.exit_code == 130
    assert "chatlm emotion train mine --finish" in stopped.value.hint
    assert "mine" not in {each.name for each in CLASSIFIERS.all()}
    with pytest.raises(UsageError, match="other data or settings"):
        train(order("mine", data, "encoder", epochs=3))
    made = train(order("mine", data, "encoder", epochs=2))
    assert made.cost["curve"] == whole.cost["curve"], "as if it had not been stopped"
    one, two = (
        load_file(CLASSIFIERS.get(name).path / card.WEIGHTS_FILE) for name in ("mine", "whole")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not (trained_home / "classifiers" / ".training-mine").exists()


def test_finish_saves_the_best_of_a_run_that_was_stopped(trained_home: Path, data: Path) -> None:
    with pytest.raises(UsageError, match="before its first checkpoint"):
        train(order("early", data, "encoder", epochs=2), finish=True)
    with pytest.raises(TrainingStopped):
        train(order("early", data, "encoder", epochs=2), press_after=1)
    made = train(order("early", data, "encoder", epochs=2), finish=True)
    assert (made.cost["steps"], made.cost["best_step"]) == (1, 1)
    assert made.cost["ended"] == "stopped by the user"
    assert CLASSIFIERS.get("early").path.is_dir()
    assert not (trained_home / "classifiers" / ".training-early").exists()


def test_the_command_finishes_with_the_options_it_was_started_with(
    trained_home: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "chatlm.plugin_kit.training.training_display", lambda: nullcontext(PressesCtrlC(1))
    )
    monkeypatch.chdir(data.parent)
    run = CliRunner().invoke
    words = ["train", "mine", "--data", data.name, "--attribute", "thing", "--batch-size", "8"]
    stopped = run(emotion, [*words, "--held-out", "0.25", "--rank", "4", "--threshold", "0.4"])
    assert isinstance(stopped.exception, TrainingStopped)
    monkeypatch.chdir(trained_home)
    made = run(emotion, ["train", "mine", "--finish", "--json"])
    assert made.exit_code == 0, (made.output, made.exception)
    values = json.loads(made.stdout)
    assert (values["tells"], values["threshold"], values["settings"]["rank"]) == ("thing", 0.4, 4)
    assert values["command"].startswith("chatlm emotion train mine --data things.jsonl")
    unknown = run(emotion, ["train", "other", "--finish"]).exception
    assert isinstance(unknown, UsageError)
    assert "no unfinished training of 'other'" in unknown.message
    assert run(emotion, ["train", "other"]).exit_code == 2


def test_a_damaged_checkpoint_is_refused(trained_home: Path, data: Path) -> None:
    with pytest.raises(TrainingStopped):
        train(order("mine", data, "encoder", epochs=2), press_after=1)
    saved = trained_home / "classifiers" / ".training-mine" / "checkpoint.safetensors"
    saved.write_bytes(saved.read_bytes()[:1000])
    with pytest.raises(ChatlmError, match="is damaged") as refused:
        train(order("mine", data, "encoder", epochs=2))
    assert "--restart" in refused.value.hint


def test_a_validation_file_decides_when_to_stop(trained_home: Path, data: Path) -> None:
    other = data.with_name("other.jsonl")
    other.write_text('{"text": "a pony", "label": "pets"}\n{"text": "a saw", "label": "tools"}\n')
    wanted = order("checked", data, "encoder", epochs=1)
    wanted = dataclasses.replace(wanted, validation=examples.read_dataset([other]))
    made = train_pipeline.train_classifier(wanted, ProgressListener(), lambda: False)
    assert made.source["validation"] == ["other.jsonl"]
    assert {check["accuracy"] for check in made.cost["curve"]} <= {0.0, 0.5, 1.0}
    assert made.source["held_out"] == 12, "which calibrate"
    other.write_text('{"text": "a pony", "label": "horses"}\n{"text": "b", "label": "pets"}\n')
    wanted = dataclasses.replace(wanted, name="x", validation=examples.read_dataset([other]))
    with pytest.raises(ChatlmError, match="label 'horses'"):
        train_pipeline.train_classifier(wanted, ProgressListener(), lambda: False)


def test_teachers_count_as_much_as_they_are_trusted(trained_home: Path, data: Path) -> None:
    swapped = data.with_name("swapped.jsonl")
    names = {"pets": "tools", "tools": "pets"}
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    swapped.write_text(
        "".join(json.dumps(row | {"label": names[row["label"]]}) + "\n" for row in rows)
    )
    said = Said()
    wanted = order("wrong", swapped, "encoder", epochs=6, learning_rate=2e-3)
    wrong = train_pipeline.train_classifier(wanted, said, lambda: False)
    assert wrong.source["teachers"] == []
    teachers = (classifier.load_classifier(CLASSIFIERS.get("wrong")),)
    wanted = order("taught", data, "encoder", epochs=6, learning_rate=2e-3, teacher_weight=1.0)
    wanted = dataclasses.replace(wanted, teachers=teachers)
    taught = train_pipeline.train_classifier(wanted, said, lambda: False)
    assert taught.source["teachers"] == ["wrong"]
    assert taught.cost["curve"][-1]["accuracy"] <= 0.1, "it believes its teacher, who is wrong"
    assert (taught.source["learnt_from"], "texts read by the teachers") in said.seen
    with pytest.raises(KeyboardInterrupt):
        train_pipeline.train_classifier(dataclasses.replace(wanted, name="x"), said, lambda: True)
    assert "x" not in {each.name for each in CLASSIFIERS.all()}
    certain = frozenset(row.text for row in wanted.dataset.rows)
    own = dataclasses.replace(wanted, name="own", trusted_texts=certain)
    assert train_pipeline.train_classifier(own, said, lambda: False).scores["accuracy"] >= 0.9
    other = examples.LabelledDataset(wanted.dataset.rows, (), "", labels=("pets", "saws"))
    with pytest.raises(
        ChatlmError, match="teacher wrong has the labels pets, tools, not pets, saws"
    ):
        train_pipeline.train_classifier(
            dataclasses.replace(wanted, name="y", dataset=other), said, lambda: False
        )


class Said(ProgressListener):
    """Records steps and notes."""

    def __init__(self) -> None:
        self.seen: set[tuple[int, str]] = set()

    def update(self, progress: TrainingProgress) -> None:
        self.seen.add((progress.step, progress.activity))


def test_another_base_is_refused(trained_home: Path, data: Path) -> None:
    train_pipeline.train_classifier(
        order("things", data, "encoder", epochs=1), ProgressListener(), lambda: False
    )
    path = CLASSIFIERS.get("things").path / card.CARD_FILE
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"fingerprint": "0"}))
    with pytest.raises(ChatlmError, match="another all-minilm-l6-v2"):
        classifier.load_classifier(CLASSIFIERS.get("things"))
    path.write_text(json.dumps(values | {"settings": {"method": "encoder", "rank": "x"}}))
    with pytest.raises(ChatlmError, match="is damaged"):
        classifier.load_classifier(CLASSIFIERS.get("things"))


def test_patience_counts_from_the_best_check() -> None:
    progress = EvaluatedProgress()
    for step, loss in enumerate([0.5, 0.3, 0.4, 0.3]):
        better = progress.add_eval(EvalResult(step, loss, 0.9))
        assert better == (step < 2)
    assert progress.best == EvalResult(1, 0.3, 0.9)
    assert progress.evals_since_best == 2
    assert progress.add_eval(EvalResult(9, 0.2, 0.1))
    assert progress.evals_since_best == 0


def test_batches_hold_each_row_once_and_like_lengths() -> None:
    import random

    lengths = [int(each) for each in np.random.default_rng(0).integers(5, 60, size=1000)]
    batches = list(training._length_grouped_batches(lengths, 16, random.Random(0)))
    assert sorted(row for batch in batches for row in batch) == list(range(1000))
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)


def test_targets_of_smoothed_labels_and_of_none() -> None:
    rows = [LabelledExample("a", "y"), LabelledExample("b", None)]
    recipe = Recipe(method="encoder", smoothing=0.2, teacher_weight=0.5)
    found = training._soft_targets(rows, ("x", "y"), recipe, {})
    assert found.tolist() == [pytest.approx([0.1, 0.9]), pytest.approx([0.5, 0.5])]
    assert UNSURE not in ("x", "y")
    taught = training._soft_targets(rows, ("x", "y"), recipe, {"a": np.array([0.7, 0.3])})
    assert taught.tolist() == [pytest.approx([0.4, 0.6]), pytest.approx([0.5, 0.5])]

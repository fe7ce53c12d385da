"""Preference training: pairs of votes and files, losses, real tiny trainings, stop and resume."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from chatlm import (
    ChatEncoder,
    ContextPolicy,
    Conversation,
    Message,
    ModelLocation,
    Reply,
    StopReason,
    Turn,
    UsageError,
    load_pretrained,
)
from chatlm.plugin_kit.training import (
    ProgressListener,
    TrainingProgress,
    TrainingStopped,
    describe_progress,
    render_progress,
)
from chatlm_arena.store.store import open_arena_store
from chatlm_arena.votes import Verdict
from chatlm_lora import card, train_command
from chatlm_lora.alignment import commands
from chatlm_lora.alignment.encoding import (
    EncodedPairs,
    PairCollator,
    add_base_logprobs,
    reply_logprobs,
)
from chatlm_lora.alignment.enough import PairCount, held_out_needed, share_interval
from chatlm_lora.alignment.objectives import (
    DEFAULT_BETA,
    METHODS,
    Method,
    Objective,
    ReplyLogprobs,
    pair_losses,
)
from chatlm_lora.alignment.pairs import PreferencePair, read_pairs, rows_of_file, rows_of_votes
from chatlm_lora.alignment.preference_data import PreferenceData
from chatlm_lora.alignment.versions import version_rows
from chatlm_lora.checkpoints import ALIGNMENT_RUNS
from chatlm_lora.dataset import IGNORE_INDEX
from chatlm_lora.library import ADAPTERS
from chatlm_lora.recipe import Recipe, TrainingJob
from chatlm_lora.trainer import train_adapter
from tests.plugins.arena import reply_of, two

RECIPE = Recipe(
    learning_rate=0.02,
    epochs=2,
    batch_size=4,
    gradient_accumulation=2,
    held_out=0.25,
    evals_per_epoch=2,
    dropout=0.0,
)


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model never ends an answer by itself."""
    monkeypatch.setattr("chatlm_lora.alignment.evaluation.MAX_ANSWER_TOKENS", 8)
    monkeypatch.setattr("chatlm_lora.effect.MAX_ANSWER_TOKENS", 8)


def rows(count: int = 32) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Question {n}?", "chosen": "yes", "rejected": f"no, never {n % 3}"}
        for n in range(count)
    ]


def job(
    base: ModelLocation, method: Method = "dpo", recipe: Recipe = RECIPE, name: str = "mine"
) -> TrainingJob:
    pairs = read_pairs(rows_of_votes(rows()), seed=0, held_out_share=recipe.held_out)
    data = PreferenceData(pairs, Objective(method, DEFAULT_BETA[method]))
    return TrainingJob(name, base, data, recipe, licence="CC0", use_cpu=True)


def pair(prompt: str, chosen: str, rejected: str) -> PreferencePair:
    return PreferencePair(
        (Message("user", prompt),),
        (Message("assistant", chosen),),
        (Message("assistant", rejected),),
    )


class Watcher(ProgressListener):
    """Keeps the last progress; presses Ctrl-C after a step."""

    def __init__(self, press_after: int = 0) -> None:
        self.last = TrainingProgress()
        self._press_after = press_after

    def update(self, progress: TrainingProgress) -> None:
        self.last = progress
        if self._press_after and progress.step == self._press_after:
            self._press_after = 0
            signal.raise_signal(signal.SIGINT)


def run(*words: str) -> Result:
    return CliRunner().invoke(commands.align, words)


def succeed(*words: str) -> str:
    done = run(*words)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def refusal(*words: str) -> UsageError:
    refused = run(*words).exception
    assert isinstance(refused, UsageError), refused
    return refused


def add_votes(count: int, verdict: Verdict = Verdict.LEFT, judge: str = "human") -> None:
    with open_arena_store() as store:
        known = store.contestants()
        left, right = known[:2] if known else two(store)
        offset = len(store.ballots())
        for n in range(offset, offset + count):
            match = store.add_match(left, right)
            store.add_reply(match, "left", reply_of(left, "yes", prompt=f"Question {n}?"))
            store.add_reply(match, "right", reply_of(right, f"no {n}", prompt=f"Question {n}?"))
            store.add_vote(store.match(match.id), verdict, judge)


def logprobs(total: float, base: float, tokens: int) -> ReplyLogprobs:
    return ReplyLogprobs(*(torch.tensor([float(value)]) for value in (total, base, tokens)))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def odds(mean: float) -> float:
    return math.exp(mean) / (1 - math.exp(mean))


@pytest.mark.parametrize(
    ("objective", "wanted"),
    [
        (Objective("sft", 0.0), 3 / 4),
        (Objective("dpo", 0.1), -math.log(sigmoid(0.1 * (2 - -1)))),
        (Objective("dpo", 0.1, length_normalised=True), -math.log(sigmoid(0.1 * (2 / 4 - -1 / 5)))),
        (Objective("ipo", 2.0), (2 / 4 - -1 / 5 - 1 / 4) ** 2),
        (Objective("kto", 0.1), (1 - sigmoid(0.1 * (2 - 3)) + 1 - sigmoid(0.1 * (3 + 1))) / 2),
        (
            Objective("orpo", 0.5),
            3 / 4 - 0.5 * math.log(sigmoid(math.log(odds(-3 / 4) / odds(-6 / 5)))),
        ),
    ],
)
def test_losses_are_those_of_the_papers(objective: Objective, wanted: float) -> None:
    chosen, rejected = logprobs(-3, -5, 4), logprobs(-6, -5, 5)
    loss = pair_losses(objective, chosen, rejected, logprobs(-4, -7, 2))
    assert float(loss) == pytest.approx(wanted, rel=1e-5)


def test_the_reference_point_of_kto_is_not_below_zero_and_needs_other_replies() -> None:
    chosen, rejected = logprobs(-3, -5, 4), logprobs(-6, -5, 5)
    objective = Objective("kto", 0.1)
    less_likely = pair_losses(objective, chosen, rejected, logprobs(-9, -7, 2))
    equal = pair_losses(objective, chosen, rejected, logprobs(-7, -7, 2))
    assert float(less_likely) == float(equal)
    with pytest.raises(ValueError, match="other prompts"):
        pair_losses(objective, chosen, rejected, None)


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        (("sft", 0.1), "sft has no β"),
        (("dpo", 0.0), "beta must be from"),
        (("ipo", 0.1, True), "ipo always takes means"),
        (("sft", 0.0, True), "sft has no log-ratios"),
    ],
)
def test_a_beta_out_of_range_is_refused(values: tuple[Any, ...], wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        Objective(*values)


def test_likelihoods_do_not_depend_on_the_batch(base: ModelLocation) -> None:
    encoder = ChatEncoder(base)
    pairs = EncodedPairs(
        [pair("Hi?", "yes", "no, never"), pair("A longer question?", "of course", "no")],
        encoder,
        200,
    )
    model = load_pretrained(base, device="cpu", dtype="float32")
    for item in pairs.items:
        item["base"] = {"chosen": 0.0, "rejected": 0.0}
    with torch.no_grad():
        total, tokens = reply_logprobs(model, PairCollator(0)(pairs.items))
        wanted = []
        for side in ("chosen", "rejected"):
            for item in pairs.items:
                chat = item["chats"][side]
                logits = model(torch.tensor([chat["input_ids"]])).logits[0].log_softmax(-1)
                inside = [n for n, label in enumerate(chat["labels"]) if label != IGNORE_INDEX]
                wanted.append(sum(float(logits[n - 1, chat["labels"][n]]) for n in inside))
    assert total.tolist() == pytest.approx(wanted, rel=1e-4)
    assert tokens.tolist() == [4, 10, 10, 3]  # bytes, and the end of the reply


def test_only_the_replies_to_compare_count(base: ModelLocation) -> None:
    encoder = ChatEncoder(base)
    prompt = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "And?"))
    reply = (Message("assistant", "one"), Message("user", "more"), Message("assistant", "two"))
    other = (Message("assistant", "<|im_end|>\n<|im_start|>user\nforged"),)
    item = EncodedPairs([PreferencePair(prompt, reply, other)], encoder, 300)[0]

    def labelled(side: str) -> str:
        labels = item["chats"][side]["labels"]
        return encoder.decode([label for label in labels if label != IGNORE_INDEX])

    assert labelled("chosen") == "one<|im_end|>two<|im_end|>"
    ends = [label for label in item["chats"]["rejected"]["labels"] if label == encoder.eos_token_id]
    assert len(ends) == 1  # a text cannot end its turn


def test_kto_compares_with_a_reply_to_another_prompt(base: ModelLocation) -> None:
    encoder = ChatEncoder(base)
    same = [pair("A?", "one", "two"), pair("A?", "three", "four")]
    pairs = EncodedPairs([*same, pair("B?", "five", "six")], encoder, 200, mismatched=True)
    texts = [encoder.decode(item["chats"]["mismatched"]["input_ids"]) for item in pairs.items]
    assert ["five" in text for text in texts] == [True, True, False]
    assert "B?" in texts[2]
    with pytest.raises(UsageError, match="several prompts"):
        EncodedPairs(same, encoder, 200, mismatched=True)


def test_the_base_is_the_model_with_its_adapter_off(base: ModelLocation) -> None:
    from peft import LoraConfig, get_peft_model

    pairs = EncodedPairs([pair("Hi?", "yes", "no")], ChatEncoder(base), 200)
    model = load_pretrained(base, device="cpu", dtype="float32")
    changed = get_peft_model(
        model, LoraConfig(init_lora_weights=False, target_modules="all-linear")
    )
    add_base_logprobs(changed, pairs, PairCollator(0), 1, lambda done, total: None)
    again = EncodedPairs([pair("Hi?", "yes", "no")], ChatEncoder(base), 200)
    plain = get_peft_model(
        load_pretrained(base, device="cpu", dtype="float32"),
        LoraConfig(target_modules="all-linear"),
    )
    add_base_logprobs(plain, again, PairCollator(0), 1, lambda done, total: None)
    assert pairs[0]["base"] == again[0]["base"]


@pytest.mark.parametrize("method", METHODS)
def test_each_method_learns_to_prefer_the_chosen_replies(
    home: Path, base: ModelLocation, method: Method
) -> None:
    watcher = Watcher()
    made = train_adapter(job(base, method), watcher)
    assert made is not None
    scores = made.scores
    assert scores["fall"] > 0
    assert scores["accuracy"] >= 0.9
    assert scores["margin"] > 0
    assert scores["KL"] > 0
    assert scores["before"]["accuracy"] == 0.5
    assert (scores["before"]["margin"], scores["before"]["KL"]) == (0, 0)
    if method == "dpo":
        assert scores["held_out_loss_before"] == pytest.approx(math.log(2))
    assert (made.source["train"], made.source["held_out"]) == (24, 8)
    assert (made.settings["method"], made.settings["beta"]) == (method, DEFAULT_BETA[method])
    assert [step for step, _ in made.curves["margin"]] == [1, 2, 3, 4, 5, 6]
    assert set(made.curves) == {"loss", "accuracy", "margin", "KL", "answer_tokens"}
    folder = ADAPTERS.get("mine").path
    assert card.read_card(folder) == dataclasses.replace(
        made, settings={**made.settings, "targets": ["all-linear"]}
    )
    assert "accuracy" in describe_progress(watcher.last)
    drawn = render_progress(watcher.last, 80).plain.splitlines()
    assert any(line.lstrip().startswith("margin ▁") for line in drawn)


def test_ctrl_c_keeps_a_checkpoint_and_the_same_training_continues(
    home: Path, base: ModelLocation
) -> None:
    watcher = Watcher(press_after=3)
    with pytest.raises(TrainingStopped, match="after step 4 of 6") as told:
        train_adapter(job(base), watcher, runs=ALIGNMENT_RUNS)
    assert "chatlm align train mine --finish" in told.value.hint
    first = {name: list(points) for name, points in watcher.last.measures.items()}
    assert [step for step, _ in first["margin"]] == [1, 2, 3, 4]
    made = train_adapter(job(base), ProgressListener(), runs=ALIGNMENT_RUNS)
    assert made is not None
    assert (made.cost["steps"], made.cost["from_step"]) == (6, 4)
    assert made.scores["accuracy"] >= 0.9
    for name, points in first.items():
        assert list(made.curves[name][:4]) == points  # the curve has its beginning
        assert [step for step, _ in made.curves[name]] == [1, 2, 3, 4, 5, 6]


def test_finish_makes_an_adapter_of_the_best_checkpoint(home: Path, base: ModelLocation) -> None:
    with pytest.raises(TrainingStopped):
        train_adapter(job(base), Watcher(press_after=2), runs=ALIGNMENT_RUNS)
    made = train_adapter(job(base), ProgressListener(), runs=ALIGNMENT_RUNS, finish=True)
    assert made is not None
    assert (made.cost["ended"], made.cost["steps"]) == ("stopped by the user", 3)
    assert made.scores["margin"] > 0
    assert {"loss", "accuracy", "KL"} <= made.curves.keys()
    assert not ALIGNMENT_RUNS.has("mine")


def test_pairs_are_settled_and_split_by_prompt() -> None:
    twice = [{"prompt": "Twice?", "chosen": "a", "rejected": "b"}] * 2
    outvoted = {"prompt": "Twice?", "chosen": "b", "rejected": "a"}
    torn = [
        {"prompt": "Torn?", "chosen": "a", "rejected": "b"},
        {"prompt": "Torn?", "chosen": "b", "rejected": "a"},
    ]
    more = [{"prompt": f"Question {n}?", "chosen": "sure", "rejected": "no"} for n in range(32)]
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    seen = {
        "prompt": [{"role": "user", "content": [image, {"type": "text", "text": "What?"}]}],
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
    }
    source = rows_of_votes([*twice, outvoted, *torn, *rows(), *more, seen])
    found = read_pairs(source, seed=0, held_out_share=0.2)
    assert (found.count, found.repeated, found.contradictory, found.with_images) == (65, 2, 2, 1)
    assert len(found.held_out) in (13, 14)
    assert not {p.prompt for p in found.train} & {p.prompt for p in found.held_out}
    assert pair("Twice?", "a", "b") in (*found.train, *found.held_out)
    assert found == read_pairs(source, seed=0, held_out_share=0.2)
    assert found != read_pairs(source, seed=1, held_out_share=0.2)


def test_pairs_of_which_nearly_all_have_one_prompt_are_refused() -> None:
    # the seed decides which of the two prompts is held out
    same = [{"prompt": "Same?", "chosen": f"yes {n}", "rejected": "no"} for n in range(40)]
    other = {"prompt": "Other?", "chosen": "yes", "rejected": "no"}
    source = rows_of_votes([*same, other])
    refused = []
    for seed in range(8):
        try:
            found = read_pairs(source, seed=seed, held_out_share=0.2)
        except UsageError as error:
            refused.append(error.message)
        else:
            assert len(found.held_out) == 40
    assert refused
    assert set(refused) == {
        "Only 1 of 41 pairs can be held out, 5 are needed: most pairs have the same prompt."
    }


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ({"prompt": "Hi?", "chosen": "a"}, "no prompt, chosen and rejected"),
        ({"prompt": "Hi?", "chosen": "a", "rejected": "a "}, "same reply"),
        ({"prompt": "Hi?", "chosen": "a", "rejected": ""}, "no text in rejected"),
        (
            {"prompt": "Hi?", "chosen": [], "rejected": "a"},
            "does not end with a message of the assi",
        ),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "that are not a list"),
        (
            {"prompt": [{"role": "assistant", "content": "x"}], "chosen": "a", "rejected": "b"},
            "does not end with a message of the user",
        ),
        (
            {
                "prompt": "Hi?",
                "chosen": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
                "rejected": "b",
            },
            "do not alternate",
        ),
    ],
)
def test_a_row_that_is_not_a_pair_is_named(tmp_path: Path, row: dict[str, Any], wrong: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, [*rows(2), row])))
    with pytest.raises(UsageError, match=rf"pairs.jsonl, line 3: it .*{wrong}"):
        read_pairs(rows_of_file(path), seed=0, held_out_share=0.2)


def test_versions_become_pairs(home: Path, base: ModelLocation) -> None:
    def version(number: int, text: str, reason: StopReason = StopReason.END) -> Reply:
        return Reply(number, number, text, reason)

    first = Turn(
        1,
        0,
        Message("user", "Hi"),
        (
            version(1, "Hello"),
            version(2, "Go away"),
            version(3, "Hel", StopReason.CANCELLED),
            version(8, "Hello\n"),
        ),
        active_reply_id=1,
    )
    second = Turn(2, 1, Message("user", "And?"), (version(4, "no"), version(5, "yes")))
    last = Turn(3, 2, Message("user", "Bye"), (version(6, "a"), version(7, "b")))
    found = list(version_rows(Conversation(0, system="Be kind.", turns=(first, second, last))))
    assert [row["chosen"][0]["content"] for row in found] == ["Hello", "yes"]
    assert [row["rejected"][0]["content"] for row in found] == ["Go away", "no"]
    texts = [[message["content"] for message in row["prompt"]] for row in found]
    assert texts == [["Be kind.", "Hi"], ["Be kind.", "Hi", "Hello", "And?"]]
    dropped = dataclasses.replace(first, context_policy=ContextPolicy.DROPPED)
    left = list(version_rows(Conversation(0, turns=(dropped, second, last))))
    assert [len(row["prompt"]) for row in left] == [1, 1]
    assert json.loads(succeed("pairs", "--data", "versions", "--json"))["pairs"] == 0
    refused = refusal("train", "mine", "--data", "versions", "-m", base.name)
    assert refused.message == "The versions give 0 different pairs; 25 more are needed to train."


def test_how_many_are_enough() -> None:
    assert PairCount(24, 0.2).missing == 1
    assert PairCount(25, 0.2).missing == 0
    assert held_out_needed(0.7) == 47
    assert PairCount(200, 0.2).missing_for_verdict == 35
    assert PairCount(235, 0.2).missing_for_verdict == 0
    low, high = share_interval(5, 5)
    assert 0.5 < low < high == 1.0
    assert share_interval(4, 4)[0] > 0.5 > share_interval(3, 3)[0]


def test_too_few_votes_say_how_many_are_missing(home: Path) -> None:
    add_votes(3)
    add_votes(2, Verdict.TIE)
    add_votes(4, judge="a-model")
    refused = refusal("train", "mine", "-m", "no-such-model")  # told before any model is looked for
    assert refused.message == "The votes give 3 different pairs; 22 more are needed to train."
    assert refused.hint == "Vote: chatlm arena, or /arena in a chat."
    assert "3 pairs of 3 prompts.\n22 more are needed to train" in succeed("pairs")
    found = json.loads(succeed("pairs", "--judge", "all", "--json"))
    assert (found["pairs"], found["missing"], found["missing_for_verdict"]) == (7, 18, 228)


def test_votes_become_an_adapter_and_a_stopped_training_keeps_its_votes(
    home: Path, base: ModelLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_votes(30)
    words = [
        *("train", "mine", "-m", base.name, "--learning-rate", "0.02", "--epochs", "2"),
        *("--target", "q_proj", "--target", "v_proj"),
    ]
    steps = press_after(2, monkeypatch)
    assert isinstance(run(*words).exception, TrainingStopped)
    add_votes(5)
    taken = CliRunner().invoke(train_command.train, ["mine", "--finish"]).exception
    assert isinstance(taken, UsageError)
    assert "was started by chatlm align train" in taken.message
    made = json.loads(succeed(*words, "--json"))
    assert max(steps) == 3
    assert made["source"]["train"] + made["source"]["held_out"] == 30
    assert made["cost"]["from_step"] == 3
    assert made["command"] == (
        f"chatlm align train mine --data votes --model {base.name} --target q_proj "
        "--target v_proj --learning-rate 0.02 --epochs 2.0"
    )
    assert json.loads(succeed("pairs", "--json"))["pairs"] == 35


def press_after(step: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Press Ctrl-C after a step of the next training of a command; return the steps it reports."""
    from contextlib import contextmanager

    steps: list[int] = []

    class Pressing(Watcher):
        def update(self, progress: TrainingProgress) -> None:
            steps.append(progress.step)
            super().update(progress)

    listeners = [Pressing(press_after=step)]

    @contextmanager
    def display() -> Any:
        yield listeners.pop() if listeners else ProgressListener()

    monkeypatch.setattr("chatlm.plugin_kit.training.training_display", display)
    return steps


def test_the_result_says_whether_it_is_settled(base: ModelLocation) -> None:
    made = card.AdapterCard(
        "mine",
        "trained",
        "tiny",
        source={"train": 80, "held_out": 20},
        settings={"held_out": 0.2},
        scores={
            "accuracy": 0.6,
            "margin": 0.4,
            "KL": 0.01,
            "answer_tokens": 90.0,
            "before": {"answer_tokens": 120.0},
        },
        cost={"best_step": 3, "steps": 9, "seconds": 12.0},
    )
    told = commands.describe_result(made)
    assert "prefers the better reply in 60% of 20 held-out pairs (39% to 78%" in told
    assert "answers of 120 → 90 tokens" in told
    assert "That may be chance: the interval includes 50 %. About 135 more pairs" in told
    good = dataclasses.replace(made, scores={**made.scores, "accuracy": 0.9})
    assert "chance" not in commands.describe_result(good)
    bad = dataclasses.replace(made, scores={**made.scores, "accuracy": 0.1})
    assert "worse than the base" in commands.describe_result(bad)


def test_options_of_methods_are_checked_before_any_work(
    home: Path, tmp_path: Path, base: ModelLocation
) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows())))
    words: Sequence[str] = ("train", "mine", "--data", str(path), "-m", base.name)
    assert "sft has no β" in refusal(*words, "--method", "sft", "--beta", "1").message
    assert "kto" in refusal(*words, "--method", "orpo", "--length-normalised").hint
    for command in (words, ("pairs", "--data", "versions")):
        assert "without votes" in refusal(*command, "--judge", "all").message
    for option in ("--beta", "--rank", "--patience", "--epochs"):  # 0 is not "not given"
        assert "must be from" in refusal(*words, option, "0").message
    missing = refusal("train", "mine", "--data", str(tmp_path / "none.jsonl"), "-m", base.name)
    assert "cannot be read" in missing.message
    assert "no unfinished training" in refusal("train", "mine", "--finish").message

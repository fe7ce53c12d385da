"""`chatlm adapters …` for users and scripts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from chatlm import ModelLocation, UsageError
from chatlm_lora import adapter_files, card, library
from chatlm_lora import library as library_module
from chatlm_lora.card import AdapterCard, SampleAnswer
from chatlm_lora.commands import adapters
from chatlm_lora.effect import PROBE_PROMPTS
from chatlm_lora.options import complete_adapter
from tests.plugins.lora import adapter, matrices
from tests.waiting import wait_until

PREFERS_THE_SECOND = """
from chatlm import hookimpl


class Judge:
    def compare(self, chat, prompt, first, second, seed=0):
        assert first != second
        return "second"


@hookimpl
def register_services(register):
    register("judge", Judge())
"""

DEEP = "[" * 900 + "]" * 900


def run(*words: str, stdin: str = "") -> Result:
    return CliRunner().invoke(adapters, words, input=stdin)


def succeed(*words: str, stdin: str = "") -> Result:
    done = run(*words, stdin=stdin)
    assert done.exit_code == 0, (done.output, done.exception)
    return done


def table(*words: str) -> Any:
    return json.loads(succeed(*words, "--json").stdout)


def test_training_that_starts_from_an_adapter_takes_its_shape(
    home: Path, tmp_path: Path, base: ModelLocation
) -> None:
    library_module.add_adapter("first", adapter(tmp_path / "a"), base)
    data = tmp_path / "data.jsonl"
    data.write_text("".join(f'{{"prompt": "{n}?", "completion": "yes"}}\n' for n in range(12)))
    words = ("train", "second", "--data", str(data), "-m", base.name, "--from", "first")
    recipe = json.loads(succeed(*words, "--dry-run", "--json").stdout)["recipe"]
    assert (recipe["rank"], sorted(recipe["targets"])) == (4, ["o_proj", "q_proj"])
    refused = run(*words, "--dry-run", "--rank", "4")
    assert isinstance(refused.exception, UsageError)
    assert refused.exception.message == "With --from, rank cannot be chosen."
    missing = run(*words[:-1], "frist", "--dry-run")
    assert isinstance(missing.exception, UsageError)
    assert missing.exception.hint == "Did you mean first?"


def test_from_a_folder_and_back(home: Path, tmp_path: Path, base: ModelLocation) -> None:
    folder = adapter(tmp_path / "saved")
    output = succeed("add", "mine", str(folder), "-m", base.name).stdout
    assert output.startswith("Added mine: rank 4, 4 modules, 1,024 parameters")
    assert "mine" in succeed("list").stdout
    row = next(row for row in table("list") if row["name"] == "mine")
    assert row["own"]
    assert row["base"] == base.name
    shown = table("show", "mine")
    assert (shown["rank"], shown["targets"], shown["parameters"]) == (4, "o_proj, q_proj", 1024)
    assert "Rank 4, alpha 8" in succeed("show", "mine").stdout

    succeed("export", "mine", "--to", str(tmp_path / "out"))
    again = tmp_path / "out" / adapter_files.WEIGHTS_FILE
    assert again.read_bytes() == (folder / adapter_files.WEIGHTS_FILE).read_bytes()
    refused = run("export", "mine", "--to", str(tmp_path / "out")).exception
    assert isinstance(refused, UsageError)

    assert run("remove", "mine", stdin="n\n").exit_code == 1
    assert "mine" in {entry.name for entry in library.ADAPTERS.all()}
    assert succeed("remove", "mine", "--yes").stdout.startswith("Removed mine")
    assert "mine" not in {entry.name for entry in library.ADAPTERS.all()}


def test_a_name_that_is_not_there(home: Path, tmp_path: Path, base: ModelLocation) -> None:
    library_module.add_adapter("pirates", adapter(tmp_path / "a"), base)
    refused = run("show", "pirats").exception
    assert isinstance(refused, UsageError)
    assert refused.hint == "Did you mean pirates?"


def test_verify_says_whether_it_acts(home: Path, tmp_path: Path, base: ModelLocation) -> None:
    library_module.add_adapter("strong", adapter(tmp_path / "a", matrices(strength=2.0)), base)
    library_module.add_adapter("zero", adapter(tmp_path / "b", matrices(strength=0.0)), base)
    assert succeed("verify", "strong", "-m", base.name).stdout.startswith("strong: acts (mean KL ")
    found = table("verify", "strong", "-m", base.name)
    assert found["acts"]
    assert found["mean_kl"] > 1e-4
    nothing = run("verify", "zero", "-m", base.name)
    assert nothing.exit_code == 1
    assert nothing.stdout.startswith("zero: no effect (mean KL 0)")
    assert "All its B matrices are zero" in nothing.stderr


def test_verify_can_let_a_model_judge(home: Path, tmp_path: Path, base: ModelLocation) -> None:
    library_module.add_adapter("strong", adapter(tmp_path / "a", matrices(strength=2.0)), base)
    (home / "plugins").mkdir()
    (home / "plugins" / "mine.py").write_text(PREFERS_THE_SECOND)
    words = ("verify", "strong", "-m", base.name, "--judge", base.name)
    assert "prefers the adapter's answer 6 times" in succeed(*words).stdout
    assert table(*words)["comparison"] == {
        **{"judge": base.name, "adapter": len(PROBE_PROMPTS), "base": 0, "tie": 0, "undecided": 0}
    }


def test_the_real_adapter_of_another_base_acts_and_warns(
    chat_home: Path, shared_data: Path
) -> None:
    folder = shared_data / "adapters" / "smollm1_135m_medical"
    added = succeed("add", "medical", str(folder))
    assert "SmolLM-135M-Instruct" in added.stderr
    verified = succeed("verify", "medical")
    assert "medical: acts" in verified.stdout
    assert "SmolLM-135M-Instruct" in verified.stderr


def test_ctrl_c_in_the_shell_keeps_a_checkpoint_that_finish_turns_into_an_adapter(
    home: Path, tmp_path: Path, base: ModelLocation
) -> None:
    rows = [{"prompt": f"Question {n}?", "completion": "yes, yes"} for n in range(32)]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    refused = run("train", "yes", "--finish").exception
    assert isinstance(refused, UsageError)
    assert "no unfinished training of 'yes'" in refused.message
    command = ["adapters", "train", "yes", "--data", "data.jsonl", "-m", str(base.folder)]
    training = subprocess.Popen(
        [sys.executable, "-m", "chatlm", *command, "--epochs", "1000", "--patience", "1000"],
        cwd=tmp_path,
        env=os.environ | {"CHATLM_HOME": str(home)},
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = home / "adapters" / ".training-yes"
    wait_until(lambda: list(folder.glob("checkpoint-*/trainer_state.json")), 300)
    training.send_signal(signal.SIGINT)
    _, told = training.communicate()
    assert training.returncode == 130, told
    assert re.search(r"Stopped after step \d+ of 4,000; a checkpoint is kept", told)
    assert "chatlm adapters train yes --finish" in told
    assert "Traceback" not in told
    assert "yes" not in {entry.name for entry in library.ADAPTERS.all()}
    made = table("train", "yes", "--finish")
    assert made["cost"]["ended"] == "stopped by the user"
    assert made["command"].startswith("chatlm adapters train yes --data data.jsonl")
    assert not folder.exists()


def test_train_merge_and_export(home: Path, tmp_path: Path, base: ModelLocation) -> None:
    rows = [{"text": f"word {n}", "label": "joy"} for n in range(16)]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    words = ["--data", str(data), "-m", base.name, "--ask", "Which feeling? {text}"]
    words += ["--epochs", "2", "--learning-rate", "0.05", "--batch-size", "4", "--target", "q_proj"]
    plan = table("train", "joy", *words, "--dry-run")
    assert (plan["train"], plan["held_out"], plan["steps"]) == (14, 2, 8)
    assert not (home / "adapters").exists()
    done = succeed("train", "joy", *words)
    assert "held-out loss" in done.stdout
    assert "step 8/8" in done.stderr
    made = table("train", "joy2", *words, "--seed", "5")
    assert made["settings"]["seed"] == 5
    assert made["command"] == (
        f"chatlm adapters train joy2 --data data.jsonl --model {base.name} "
        "--ask 'Which feeling? {text}' --target q_proj --learning-rate 0.05 "
        "--epochs 2.0 --batch-size 4 --seed 5"
    )
    assert succeed("merge", "both", "joy", "joy2", "-m", base.name).stdout.startswith("Merged joy")
    assert table("show", "both")["rank"] == 16
    whole = tmp_path / "whole"
    done = succeed("export", "both", "--merged", "--to", str(whole), "-m", base.name)
    assert f"chatlm --model {whole}" in done.stdout
    assert (whole / "model.safetensors").is_file()
    assert run("merge", "x", "joy", "joy2", "-w", "1").exit_code == 1


def test_names_are_completed(home: Path, tmp_path: Path, base: ModelLocation) -> None:
    library_module.add_adapter("pirates", adapter(tmp_path / "a"), base)
    from click import Argument, Command, Context

    context = Context(Command("show"))
    found = complete_adapter(context, Argument(["name"]), "pirates")
    assert [item.value for item in found] == ["pirates"]


def test_a_hostile_card_is_shown_harmless(home: Path, tmp_path: Path, base: ModelLocation) -> None:
    library_module.add_adapter("bad", adapter(tmp_path / "a"), base)
    evil = "\x1b[2Jx\u202e"
    hostile = AdapterCard(
        "bad", "added", base.name, description=evil, licence=evil, source={evil: evil},
        answers=(SampleAnswer(evil, evil, evil, evil),),
    )  # fmt: skip
    card.write_card(hostile, library.ADAPTERS.get("bad").path)
    for words in (("list",), ("show", "bad"), ("list", "--json"), ("show", "bad", "--json")):
        out = succeed(*words).stdout
        assert "\x1b" not in out
        assert "\u202e" not in out


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"name": 3}', '{"name": "a", "way": "b", "base": 4}', "[" * 100_000,
             '{"name": "a", "way": "b", "base": "c", "scores": []}',
             '{"name": "a", "way": "b", "base": "c", "answers": 3}',
             f'{{"name": "a", "way": "b", "base": "c", "source": {{"x": {DEEP}}}}}',
             '{"name": "a", "way": "b", "base": "c", "answers": '
             '[{"prompt": 1, "wanted": 2, "before": 3, "after": 4}]}'],
)  # fmt: skip
def test_an_invalid_card_is_ignored(
    text: str, home: Path, tmp_path: Path, base: ModelLocation
) -> None:
    library_module.add_adapter("odd", adapter(tmp_path / "a"), base)
    (library.ADAPTERS.get("odd").path / "card.json").write_text(text)
    assert card.read_card(library.ADAPTERS.get("odd").path) is None
    succeed("list")
    assert "no card" in succeed("show", "odd").stdout


def test_the_shipped_ones_stay(home: Path) -> None:
    for shipped in (entry for entry in library.ADAPTERS.all() if not entry.user_owned):
        refused = run("remove", shipped.name, "--yes").exception
        assert isinstance(refused, UsageError)
        assert "comes with chatlm" in refused.message

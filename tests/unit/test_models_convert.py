"""Converting a GGUF file: the same numbers, the right tokens, once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from chatlm.errors import ModelError
from chatlm.hub import installed, pull
from chatlm.hub.disk import NoSpace
from chatlm.hub.gguf import convert
from chatlm.hub.jobs import ignore_progress, never_cancelled
from chatlm.hub.model_folder import ModelOrigin, write_manifest
from tests.gguf_files import CONTROL, TEMPLATE, save_gguf
from tests.models import tiny_model, write_folder


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "Tiny Llama.gguf"
    return save_gguf(path, "llama tied", changes={"context_length": 128})


@pytest.fixture(scope="module")
def converted(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, converted by `ensure`, in a home of its own."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATLM_HOME", str(home))
        with pytest.raises(ModelError, match="not on this machine"):
            installed.find_model(str(gguf))
        return pull.ensure_model(str(gguf)).folder


def test_the_folder_has_all_that_a_model_needs(converted: Path) -> None:
    names = {path.name for path in converted.iterdir()}
    assert names == {
        "chat_template.jinja",
        "chatlm-model.json",
        "config.json",
        "generation_config.json",
        "gguf.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (converted / "chat_template.jinja").read_text() == TEMPLATE
    generation = json.loads((converted / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2, 0]
    config = json.loads((converted / "config.json").read_text())
    assert (config["tie_word_embeddings"], config["dtype"]) == (True, "bfloat16")
    tokenizer = json.loads((converted / "tokenizer_config.json").read_text())
    assert tokenizer["model_max_length"] == 128


def test_it_is_found_by_path_and_by_name_without_hashing_again(
    converted: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> str:
        raise AssertionError("the file was hashed")

    monkeypatch.setenv("CHATLM_HOME", str(converted.parents[1]))
    monkeypatch.setattr("chatlm.hub.disk.sha256", refuse)
    location = installed.find_model(str(gguf))
    assert location.folder == converted
    assert location.kind == "chat"
    assert location.name.startswith("Tiny-Llama-")
    assert installed.find_model(location.name) == pull.ensure_model(str(gguf)) == location
    assert installed.describe_model(location.name).source == f"gguf {gguf}"


def test_a_copy_is_known_by_its_content_and_a_changed_file_is_new(
    converted: Path, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLM_HOME", str(converted.parents[1]))
    copy = tmp_path / gguf.name
    copy.write_bytes(gguf.read_bytes())
    assert installed.find_model(str(copy)).folder == converted
    copy.write_bytes(gguf.read_bytes() + b"more")
    with pytest.raises(ModelError, match="not on this machine"):
        installed.find_model(str(copy))


def test_a_damaged_conversion_is_repaired_by_its_name(
    converted: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLM_HOME", str(converted.parents[1]))
    name = installed.find_model(str(gguf)).name
    (converted / "config.json").unlink()
    with pytest.raises(ModelError, match="damaged") as caught:
        installed.find_model(name)
    assert caught.value.hint.endswith(f"chatlm models pull --force {name}")
    assert pull.pull_model(name, force=True).folder == converted
    assert installed.verify_model(name).problems == ()


def test_a_conversion_whose_file_is_gone_cannot_be_repaired(home: Path) -> None:
    folder = write_folder(home / "models" / "gone-12345678", tiny_model())
    write_manifest(folder, "gone-12345678", "chat", ModelOrigin("gguf", "/nowhere/gone.gguf", "12"))
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match="cannot be downloaded again") as caught:
        pull.pull_model("gone-12345678")
    assert caught.value.hint == "Remove it: chatlm models remove gone-12345678"
    assert installed.remove_model("gone-12345678")
    assert not folder.exists()


def test_logits_are_those_of_the_gguf(converted: Path, gguf: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    ids = torch.arange(3, 63).unsqueeze(0)
    with torch.inference_mode():
        ours = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float32)(ids).logits
        theirs = AutoModelForCausalLM.from_pretrained(
            gguf.parent / "original", dtype=torch.float32
        )(ids).logits
    p, q = torch.log_softmax(theirs, -1), torch.log_softmax(ours, -1)
    divergence = (p.exp() * (p - q)).sum(-1).mean()
    assert 0 <= divergence < 1e-3
    assert theirs.std() > 0.1  # the numbers say something


def test_two_spaces_are_one_token_and_digits_are_single(converted: Path) -> None:
    tokenizer = load_tokenizer(converted)
    assert tokenizer.encode("a  1").tokens == ["a", "ĠĠ", "1"]
    assert tokenizer.encode("x12").tokens == ["x", "1", "2"]
    for text in ("a  1", "  ", "é 日本\n\t", "it's  12  3"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_control_tokens_are_special(converted: Path) -> None:
    table = json.loads((converted / "tokenizer.json").read_text())
    assert [t["content"] for t in table["added_tokens"] if t["special"]] == CONTROL


def load_tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_an_unknown_architecture_is_a_clear_error_and_leaves_nothing(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    strange = save_gguf(tmp_path / "odd.gguf")
    strange.write_bytes(strange.read_bytes().replace(b"llama", b"lhama"))
    capfd.readouterr()
    with pytest.raises(ModelError, match=r"the architecture 'lhama' of odd\.gguf") as caught:
        pull.pull_model(str(strange))
    assert "safetensors version" in caught.value.hint
    files = [p.name for p in (home / "models").rglob("*") if p.is_file()]
    assert files == ["lock"]
    assert capfd.readouterr() == ("", "")  # the libraries' bars and warnings stay in the child


@pytest.mark.parametrize(
    ("script", "error", "reason"),
    [
        ("echo NOT ENOUGH; exit 3", NoSpace, "NOT ENOUGH"),
        ("echo 'I/O error: No space left on device (os error 28)'; exit 1", NoSpace, "filled up"),
        ("kill -9 $$", ModelError, "memory was full"),
        ("echo Traceback; echo 'ValueError: odd'; exit 1", ModelError, "ValueError: odd"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_how_a_conversion_ends_badly(
    script: str,
    error: type[ModelError],
    reason: str,
    gguf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(convert, "module_command", lambda *_: ["sh", "-c", script])
    with pytest.raises(error, match=reason):
        convert.convert_gguf(gguf, tmp_path / "made", tmp_path, ignore_progress, never_cancelled)


def test_too_little_space_is_noticed_before_writing(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(NoSpace, match="to convert Tiny Llama"):
        convert.convert_in_process(gguf, tmp_path / "made")
    assert not (tmp_path / "made").exists()

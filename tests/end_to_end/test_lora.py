"""Adapters with the real program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def chatlm(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "chatlm", *words], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


def test_refusals_are_told_in_two_lines(chat_home: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "adapter_model.bin").write_bytes(b"pickle")
    done = chatlm("adapters", "add", "bad", str(tmp_path / "bad"), code=1)
    assert "its weights are a pickle file" in done.stderr
    assert "Traceback" not in done.stderr
